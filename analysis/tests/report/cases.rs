//! The classes of docs/report.md, each by a trace that has it. Numbers in brackets are the cases of the users' threads.

use analysis::report::{Class, Severity};
use trace::Direction;

use crate::build::{Build, MILLI, POOL, SECOND, held};
use crate::{classes, found, report, said, says};

/// Beyond 4 GiB.
const HIGH: u64 = 1 << 33;
const MASK_32: u64 = 0xffff_ffff;

/// [1, 3, 4, 11, 12] A graphics driver maps 2 MiB at once; the pool is empty.
#[test]
fn big_no_pool_serves_more_than_a_segment() {
    let mut b = Build::new("6.12.1", 32_768);
    let gpu = b.device("0000:03:00.0", "amdgpu", MASK_32);
    b.stack(&["swiotlb_map", "dma_map_sgtable", "amdgpu_ttm_tt_pin_userptr", "amdgpu_bo_move"]);
    assert!(b.try_map(gpu, HIGH, 2 << 20).is_none());
    let report = report(&b.finish());
    assert_eq!(classes(&report), ["BIG", "BIG"]);
    assert_eq!(
        report.headline(),
        "swiotlb is your problem, its size is not: 1 request was refused, and no pool of any size serves it."
    );
    says(
        found(&report, Class::Big),
        &[
            "up to 2 MiB = 1,024 slots, and one mapping can have 128 (256 KiB)",
            "0000:03:00.0 (amdgpu): 1 × too large",
            "needs 1024 slots: 2048 KiB; a segment has 128",
            "the device does not reach the buffer",
            "Asked for by amdgpu_ttm_tt_pin_userptr < amdgpu_bo_move",
            "Raising swiotlb= changes nothing",
            "the driver must map at most 256 KiB at once",
            "v6_10:segment=1024",
        ],
    );
    assert_eq!((report.summary.failures, report.summary.failures_any_size), (1, 1));
    assert_eq!(report.summary.predicted_share, Some(1.0));
}

/// [5] Too big and full at once: two findings.
#[test]
fn big_does_not_hide_full() {
    let mut b = Build::new("6.12.1", 512).forced();
    let disk = b.device("0000:00:04.0", "virtio-pci", u64::MAX);
    assert!(b.try_map(disk, HIGH, 2 << 20).is_none());
    for i in 0..4 {
        b.map(disk, HIGH + (i << 18), 256 << 10);
    }
    for _ in 0..3 {
        assert!(b.try_map(disk, HIGH, 4096).is_none());
    }
    let report = report(&b.finish());
    assert_eq!(classes(&report), ["FULL", "FULL", "BIG"]);
    assert!(
        report
            .headline()
            .starts_with("swiotlb is your problem: 4 requests were refused, most of them because the pool was full.")
    );
    says(
        found(&report, Class::Full),
        &[
            "for 3 requests of up to 4 KiB there were not slots enough in a pool of 512 slots (1 MiB)",
            "needs 2 slots: 4 KiB; 0 of 512 are free",
            "swioscope plan ",
            "--kernel 6.12.1",
            "refuses only the 1 that no pool serves",
            "write swiotlb=1024 on the kernel's command line",
        ],
    );
    says(found(&report, Class::Big), &["1 request was up to 2 MiB"]);
    assert_eq!((report.summary.peak_slots, report.summary.peak_share), (512, Some(1.0)));
}

/// [14] 256 KiB would fit a segment, but not with the offset that min_align_mask keeps.
#[test]
fn big_off_is_told_from_big_by_its_arithmetic() {
    let mut b = Build::new("6.12.1", 32_768).forced();
    let disk = b.device("0000:00:02.0", "nvme", u64::MAX);
    b.devices[0].min_align_mask = 0xfff;
    assert!(b.try_map(disk, HIGH + 0xa00, 256 << 10).is_none());
    let report = report(&b.finish());
    assert_eq!(classes(&report), ["BIG-OFF", "BIG-OFF"]);
    says(
        found(&report, Class::BigOff),
        &[
            "1 request of up to 256 KiB is within 256 KiB",
            "needs 129 slots: 256 KiB + 512 B offset; a segment has 128",
            "an empty pool refuses them too",
            "at most 252 KiB at once",
        ],
    );
    assert_eq!(report.reach[0].largest_promised, 252 << 10);
}

/// [19, 22] A network card's rings stand in the pool; the second one finds no room.
#[test]
fn full_of_what_stands_names_who_stands() {
    let mut b = Build::new("6.12.1", 512);
    let (first, second) = (b.device("0000:01:00.0", "stmmac", MASK_32), b.device("0000:02:00.0", "stmmac", MASK_32));
    for i in 0..255 {
        b.map(first, HIGH + (i << 12), 4096);
    }
    b.wait(5 * SECOND);
    assert!(b.try_map(second, HIGH, 8192).is_none());
    let report = report(&b.finish());
    assert_eq!(classes(&report)[..2], ["FULL", "FULL"]);
    says(
        found(&report, Class::Full),
        &[
            "0000:02:00.0 (stmmac): 1 × pool full",
            "needs 4 slots: 8 KiB; 2 of 512 are free",
            "At the first refusal 510 slots were held; 510 of them stand",
            "0000:01:00.0 (stmmac) held most, 510",
        ],
    );
    let then = report.holders.iter().find(|row| row.at == "first_refusal").unwrap();
    assert_eq!((then.kind.as_str(), then.slots, then.standing_slots), ("standing", 510, 510));
}

/// [22] The same with rings that were there before the recording: nobody knows whose, until they are touched.
#[test]
fn what_was_held_before_the_recording_stands_and_is_named_once_it_is_synced() {
    let mut b = Build::new("6.12.1", 512);
    let card = b.device("0000:01:00.0", "r8169", MASK_32);
    b.snapshot = (0..64).flat_map(|i| held(i * 4, 4, 0x2_0000_0000 + u64::from(i) * 0x10000)).collect();
    b.events.push(trace::Event {
        dma_addr: Some(POOL),
        size: Some(64),
        direction: Some(Direction::FromDevice),
        ..trace::Event::new(trace::Op::SyncForCpu, MILLI, 0, 1, card)
    });
    b.wait(SECOND);
    let report = report(&b.finish());
    let rows: Vec<_> = report.holders.iter().map(|row| (row.device.as_str(), row.slots, row.kind.as_str())).collect();
    assert_eq!(rows, [("unknown", 252, "standing"), ("0000:01:00.0", 4, "standing")]);
    assert_eq!((report.summary.held_slots, report.summary.standing_slots), (256, 256));
}

/// [17, 18] A driver takes buffers all day and gives some of them back.
#[test]
fn leak_names_the_function_and_the_rate() {
    let mut b = Build::new("6.1.20", 2048);
    let wifi = b.device("0000:04:00.0", "rtl8192ee", MASK_32);
    for i in 0..400u64 {
        b.stack(&["swiotlb_map", "dma_map_page_attrs", "rtl_pci_init_one_rxdesc", "rtl_pci_interrupt"]);
        let made = b.map(wifi, HIGH + (i << 12), 3776);
        b.wait(5 * MILLI);
        // One in four stays.
        if i % 4 != 0 {
            b.unmap(made);
        }
        b.wait(20 * MILLI);
    }
    let report = report(&b.finish());
    assert_eq!(classes(&report)[..2], ["LEAK", "LEAK"]);
    assert!(
        report
            .headline()
            .starts_with("swiotlb is about to be your problem: nothing was refused yet, but 200 slots leaked."),
        "{}",
        report.headline()
    );
    says(
        found(&report, Class::Leak),
        &[
            "0000:04:00.0 (rtl8192ee) took 200 slots in 100 mappings, all from rtl_pci_init_one_rxdesc < rtl_pci_interrupt",
            "20.0 slots a second",
            "At that rate the 1,848 free ones last 92.",
            "No size of pool helps for long",
        ],
    );
    assert_eq!((report.summary.leaks, report.summary.leaked_slots), (1, 200));
    assert_eq!(report.holders[0].kind, "leak");
}

/// [17] Once it has filled the pool, requests are refused because of it.
#[test]
fn full_by_a_leak_is_called_a_leak() {
    let mut b = Build::new("6.12.1", 512);
    let wifi = b.device("0000:04:00.0", "rtl8192ee", MASK_32);
    let mut refused = 0;
    for i in 0..600u64 {
        match b.try_map(wifi, HIGH + (i << 12), 2048) {
            Some(made) if i % 10 == 0 => b.unmap(made),
            Some(_) => {}
            None => refused += 1,
        }
        b.wait(10 * MILLI);
    }
    let report = report(&b.finish());
    assert_eq!(report.summary.failures, refused);
    assert_eq!(classes(&report), ["LEAK", "LEAK", "FULL"]);
    assert!(report.headline().contains("because slots are taken and never given back"));
    says(found(&report, Class::Leak), &["record with --stacks"]);
}

/// [20] Much at once, all of it young: a burst, and no leak.
#[test]
fn a_burst_and_a_ring_are_no_leaks() {
    let mut b = Build::new("6.12.1", 512);
    let (ring, disk) = (b.device("0000:01:00.0", "r8169", MASK_32), b.device("0000:02:00.0", "sdhci", MASK_32));
    for i in 0..64 {
        b.map(ring, HIGH + (i << 12), 2048);
    }
    for round in 0..200u64 {
        let made = b.map(disk, HIGH + (round << 16), 65_536);
        b.wait(10 * MILLI);
        b.unmap(made);
    }
    for i in 0..14 {
        b.map(disk, HIGH + (i << 16), 65_536);
    }
    assert!(b.try_map(disk, HIGH, 65_536).is_none());
    let report = report(&b.finish());
    assert_eq!((report.summary.leaks, classes(&report)[0]), (0, "FULL"));
    let kinds: Vec<_> =
        report.holders.iter().filter(|row| row.at == "end").map(|row| (row.kind.as_str(), row.slots)).collect();
    assert_eq!(kinds, [("transient", 448), ("standing", 64)]);
    says(found(&report, Class::Full), &["64 of them stand, the rest comes and goes"]);
}

/// [7, 8] Plenty of slots are free, but no whole segment.
#[test]
fn frag_counts_free_segments_beside_free_slots() {
    let mut b = Build::new("6.12.1", 512).forced();
    let disk = b.device("0000:00:04.0", "virtio-pci", u64::MAX);
    let all: Vec<_> = (0..8).map(|i| b.map(disk, HIGH + (i << 17), 128 << 10)).collect();
    all.iter().step_by(2).for_each(|made| b.unmap(*made));
    assert!(b.try_map(disk, HIGH, 256 << 10).is_none());
    let report = report(&b.finish());
    assert_eq!(classes(&report)[..2], ["FRAG", "FRAG"]);
    assert!(report.headline().ends_with("because the pool was fragmented."));
    says(
        found(&report, Class::Frag),
        &[
            "although slots enough were free",
            "needs 128 slots: 256 KiB; 256 of 512 are free, the longest of 4 runs has 64",
        ],
    );
    let end = report.occupancy.last().unwrap();
    assert_eq!((end.free_segments, end.largest_run), (Some(0), Some(64)));
}

/// [13, 25] CPU 0's area is full; the other one has slots, but not side by side.
#[test]
fn area_full_while_the_pool_is_not() {
    let mut b = Build::new("6.12.1", 256).forced().cpus(2);
    let disk = b.device("0000:00:04.0", "storvsc", u64::MAX);
    b.map(disk, HIGH, 256 << 10);
    b.cpu = 1;
    let all: Vec<_> = (0..64).map(|i| b.map(disk, HIGH + (i << 12), 4096)).collect();
    all.iter().step_by(2).for_each(|made| b.unmap(*made));
    b.cpu = 0;
    assert!(b.try_map(disk, HIGH, 8192).is_none());
    let report = report(&b.finish());
    assert_eq!(classes(&report)[..2], ["AREA", "AREA"]);
    says(
        found(&report, Class::Area),
        &["the CPU's own area was full", "area 0 has 0 free, 64 of 256 are free in all", "swiotlb=256,1", "--areas 1"],
    );
    assert_eq!((report.areas.len(), report.areas[0].failures), (2, 1));
}

/// [25] Nothing is refused, but one CPU lives on the other's area.
#[test]
fn area_too_small_for_its_cpu_is_a_warning() {
    let mut b = Build::new("6.12.1", 512).forced().cpus(2);
    let disk = b.device("0000:00:04.0", "nvme", u64::MAX);
    for i in 0..192 {
        b.map(disk, HIGH + (i << 12), 4096);
    }
    let report = report(&b.finish());
    assert_eq!((report.summary.failures, report.summary.steals), (0, 64));
    let area = found(&report, Class::Area);
    assert_eq!(area.severity, Severity::Warning);
    says(
        area,
        &["33.3 % of slot allocations (64) went to another CPU's area", "Area 0 has 256 slots and peaks at 256"],
    );
    assert_eq!((report.areas[0].sent_away, report.areas[1].stolen), (64, 64));
}

/// [21] The pool lies above what the device reaches.
#[test]
fn mask_the_pool_itself_is_out_of_reach() {
    let mut b = Build::new("6.12.1", 512);
    let coral = b.device("0000:01:00.0", "gasket", 0xff_ffff);
    assert!(b.try_map(coral, HIGH, 4096).is_none());
    b.events.retain(|event| event.op != trace::Op::SlotFailed);
    let report = report(&b.finish());
    assert_eq!(classes(&report)[..2], ["MASK", "MASK"]);
    assert!(report.headline().contains("the device does not reach the pool"), "{}", report.headline());
    let all: String = report.verdict.iter().map(said).collect();
    assert!(all.contains("reach 0xffffff") && all.contains("the pool lies from 0x1000000 to 0x10fffff"), "{all}");
    assert_eq!((report.reach[0].reaches.as_str(), report.summary.unreachable), ("none", 1));
}

/// [1, 2] Xen PV: a buffer bounces because its machine frames part, though the device reaches everything.
#[test]
fn pv_straddling_is_told_from_a_mask() {
    let pool = (POOL >> 12, 0x800, 256);
    let mut b = Build::new("6.12.1", 512).xen(&[
        pool,
        (0x20_0000, 0x9_0000, 1),
        (0x20_0001, 0x5_0000, 1),
        (0x30_0000, 0x6_0000, 4),
    ]);
    let gpu = b.device("0000:03:00.0", "nouveau", u64::MAX);
    for _ in 0..3 {
        let made = b.map(gpu, 0x2_0000_0000, 8192);
        b.unmap(made);
    }
    let straight = b.map(gpu, 0x3_0000_0000, 16_384);
    b.unmap(straight);
    let report = report(&b.finish());
    assert_eq!(report.summary.bounces, 3);
    says(
        found(&report, Class::Pv),
        &[
            "3 mappings (24 KiB) bounced because their machine frames",
            "0000:03:00.0 (nouveau): 3 by straddle",
            "single pages",
        ],
    );
    assert_eq!((report.reasons.len(), report.reasons[0].reason.as_str()), (1, "straddle"));
}

/// [26] Long-lived bounced mappings that are never synced: no error, a corrupt display.
#[test]
fn silent_bounces_that_nobody_syncs_are_found() {
    let pool = (POOL >> 12, 0x800, 256);
    let mut b = Build::new("6.12.1", 512).xen(&[pool, (0x20_0000, 0x9_0000, 1), (0x20_0001, 0x5_0000, 1)]);
    let (gpu, card) = (b.device("0000:00:02.0", "xe", u64::MAX), b.device("0000:01:00.0", "r8169", u64::MAX));
    for _ in 0..5 {
        b.map(gpu, 0x2_0000_0000, 8192);
    }
    let synced = b.map(card, 0x2_0000_0000, 8192);
    for _ in 0..10 {
        b.wait(SECOND);
        b.sync(synced);
    }
    let report = report(&b.finish());
    assert_eq!((report.summary.failures, report.summary.silent), (0, 5));
    assert_eq!(classes(&report)[..2], ["SILENT", "SILENT"]);
    says(
        found(&report, Class::Silent),
        &[
            "0000:00:02.0 (xe) has 5 bounced mappings (40 KiB)",
            "the oldest is 10.00 s old",
            "Why they bounced: 5 straddle",
            "corrupt displays",
        ],
    );
    let card = report.devices.iter().find(|row| row.device == "0000:01:00.0").unwrap();
    assert_eq!((card.syncs, card.syncs_per_bounce), (10, Some(10.0)));
}

/// [10, 15] Something had to bounce, and there is no pool.
#[test]
fn size_without_a_pool() {
    let mut b = Build::new("6.12.1", 0);
    let disk = b.device("0000:00:04.0", "megaraid_sas", MASK_32);
    assert!(b.try_map(disk, HIGH, 4096).is_none());
    let report = report(&b.finish());
    assert_eq!(classes(&report), ["SIZE", "SIZE"]);
    says(found(&report, Class::Size), &["1 request had to bounce and there is no bounce pool", "swioscope param"]);
}

/// [6, 9] What was asked for is not what there is.
#[test]
fn size_asked_for_and_got() {
    let mut b = Build::new("6.12.1", 131_072).forced();
    b.meta.host.cmdline = "quiet swiotlb=524288,1,force".to_owned();
    let disk = b.device("0000:00:04.0", "nvme", u64::MAX);
    let made = b.map(disk, HIGH, 4096);
    b.unmap(made);
    let smaller = report(&b.finish());
    says(
        found(&smaller, Class::Size),
        &[
            "swiotlb=524288,1,force makes 524,288 slots (1 GiB), and there are 131,072 slots (256 MiB)",
            "swioscope param swiotlb=524288,1,force --kernel 6.12.1",
        ],
    );

    let mut b = Build::new("6.12.1", 1024).forced().cpus(8);
    b.meta.host.cmdline = "swiotlb=128,force".to_owned();
    let disk = b.device("0000:00:04.0", "nvme", u64::MAX);
    b.map(disk, HIGH, 4096);
    says(found(&report(&b.finish()), Class::Size), &["swiotlb=128,force became 1,024 slots (2 MiB)"]);
}

/// [9, 10] 64 MiB, of which four slots are used.
#[test]
fn waste_says_how_much_is_free_and_how_to_find_the_size() {
    let mut b = Build::new("6.12.1", 32_768);
    let emmc = b.device("emmc2", "sdhci", MASK_32);
    for i in 0..50 {
        let made = b.map(emmc, HIGH + (i << 13), 8192);
        b.unmap(made);
    }
    let report = report(&b.finish());
    assert_eq!(classes(&report)[0], "CLEAR");
    says(
        found(&report, Class::Waste),
        &[
            "4 of 32,768 slots (below 0.1 %) at the peak",
            "MiB were free even then",
            "a pool of 128 slots (256 KiB) refuses nothing, by a model that predicts 100.0 %",
            "write swiotlb=128 on",
            "swioscope plan ",
        ],
    );
}

/// [24] Everything is copied, and it takes its time.
#[test]
fn perf_counts_bytes_time_and_copies() {
    let mut b = Build::new("6.12.1", 2048).forced();
    b.latency = Some(40_000);
    let disk = b.device("0000:00:04.0", "virtio-pci", u64::MAX);
    for i in 0..2000 {
        let made = b.map(disk, HIGH + (i << 16), 65_536);
        b.wait(96_000);
        b.unmap(made);
    }
    let report = report(&b.finish());
    assert_eq!(classes(&report)[0], "PERF");
    let answer = &report.verdict[0];
    assert_eq!(answer.severity, Severity::Warning);
    says(
        answer,
        &[
            "swiotlb refuses nothing, but it costs: it copies 1.2 GiB/s, and allocating slots takes 39.9 % of one CPU",
            "half of 2,000 slot allocations took no longer than 39.",
            "2.00 bytes a byte bounced",
            "swiotlb=force",
        ],
    );
    assert!((0.39..0.41).contains(&report.summary.pool_time_share.unwrap()));
}

/// [25] A clear no.
#[test]
fn clear_when_little_bounces_and_nothing_is_refused() {
    let mut b = Build::new("6.12.1", 32_768);
    let (disk, sound) =
        (b.device("0000:00:04.0", "nvme", u64::MAX), b.device("0000:00:1b.0", "snd_hda_intel", MASK_32));
    for i in 0..100 {
        let made = b.map(disk, HIGH + (i << 17), 131_072);
        b.wait(MILLI);
        b.unmap(made);
    }
    for _ in 0..10 {
        let made = b.map(sound, HIGH, 4096);
        b.unmap(made);
    }
    let report = report(&b.finish());
    assert_eq!(report.headline(), "swiotlb is not your problem: 0.3 % of DMA bytes bounced, and nothing was refused.");
    assert_eq!(report.verdict[0].severity, Severity::Clear);
    says(
        &report.verdict[0],
        &["10 of 110 mappings bounced, 40 KiB of 12.5 MiB (0.3 %)", "predicts 10 of 10 slot choices"],
    );
}

/// [23] A device behind a port that users can plug into, behind an IOMMU: the addresses it is given lie in no pool.
#[test]
fn untrusted_devices_are_named() {
    let mut b = Build::new("6.12.1", 512);
    let card = b.device("0000:06:00.0", "tenstorrent", u64::MAX);
    b.devices[0].untrusted = Some(true);
    for i in 0..3 {
        b.bounce_at(card, HIGH + (i << 12), 2048, i, 0xffff_0000 + (i << 12));
    }
    let report = report(&b.finish());
    assert_eq!((report.summary.bounces, report.reasons[0].reason.as_str()), (3, "untrusted"));
    says(
        found(&report, Class::Untrusted),
        &["3 mappings bounced because their device can be plugged in by anybody", "0000:06:00.0 (tenstorrent): 3"],
    );
    assert!(report.reach[0].untrusted);
}

/// 6.1.y really searches for ever when a device has a min_align_mask and nothing fits.
#[test]
fn spin_is_a_verdict_of_its_own() {
    let mut b = Build::new("6.1.192", 128).forced();
    let disk = b.device("0000:00:02.0", "nvme", u64::MAX);
    b.devices[0].min_align_mask = 0xfff;
    let at = |i: u64| HIGH + (i << 12) + 0xa00;
    let all: Vec<_> = (0..32).map(|i| b.map(disk, at(i), 4096)).collect();
    b.unmap(all[0]);
    b.map(disk, at(0), 4096);
    assert!(b.try_map(disk, at(40), 4096).is_none());
    let report = report(&b.finish());
    assert_eq!(classes(&report)[..2], ["SPIN", "SPIN"]);
    says(found(&report, Class::Spin), &["its search for slots never ends", "it ends only on slot 4", "6.3 or newer"]);
}
