//! Bad input: sensible words, no NaN, no panic.

use analysis::Report;
use analysis::report::html;
use trace::event::NO_DEVICE;
use trace::sums::Occupancy;
use trace::{Direction, Event, Meta, Op, Writer};

use crate::build::{Build, MILLI, POOL, SECOND};
use crate::{classes, report};

/// Every output of a report, in one text; none has anything that is no number.
fn whole(report: &Report) -> String {
    let all = format!("{}{}", serde_json::to_string(report).unwrap(), html::page(report).unwrap());
    assert!(!all.contains("NaN") && !all.contains(">inf<") && !all.contains(":inf"), "{all}");
    all
}

#[test]
fn an_empty_trace_says_so() {
    let report = report(&Build::new("6.12.1", 512).finish());
    assert_eq!(classes(&report), ["EMPTY"]);
    assert_eq!(report.headline(), "Nothing can be judged: the trace holds no mapping.");
    assert_eq!((report.summary.bounce_share, report.summary.peak_share), (None, Some(0.0)));
    whole(&report);
}

#[test]
fn a_trace_of_nothing_at_all_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bare.swio");
    Writer::create(&path, Meta::new()).unwrap().close(Meta::new()).unwrap();
    let trace = trace::Trace::open(&path).unwrap();
    let report = analysis::report(&trace, &std::sync::atomic::AtomicBool::new(false), |_| ()).unwrap();
    assert_eq!(classes(&report), ["EMPTY"]);
    assert!(report.notes.iter().any(|note| note.contains("no policy is known for kernel ``")), "{:?}", report.notes);
    whole(&report);
}

#[test]
fn only_losses_are_no_exoneration() {
    let mut b = Build::new("6.12.1", 512);
    b.lost(1234);
    let report = report(&b.finish());
    assert_eq!(classes(&report), ["EMPTY", "LOSS"]);
    assert_eq!(report.headline(), "Nothing can be judged: the trace holds no mapping, only 1,234 lost records.");
    assert_eq!(report.summary.lost, 1234);
    whole(&report);
}

#[test]
fn releases_that_may_have_been_lost_accuse_nobody_of_a_leak() {
    let mut b = Build::new("6.12.1", 2048);
    let wifi = b.device("0000:04:00.0", "rtl8192ee", 0xffff_ffff);
    for i in 0..400u64 {
        let made = b.map(wifi, (1 << 33) + (i << 12), 3776);
        if i % 4 != 0 {
            b.unmap(made);
        }
        b.wait(20 * MILLI);
    }
    b.lost(150);
    let report = report(&b.finish());
    assert_eq!((report.summary.leaks, report.summary.silent, report.summary.held_slots), (0, 0, 200));
    assert!(classes(&report).iter().all(|class| !["LEAK", "SILENT"].contains(class)), "{:?}", classes(&report));
    assert!(report.notes.iter().any(|note| note.ends_with("whether they leak cannot be told")), "{:?}", report.notes);
    whole(&report);
}

#[test]
fn one_device_and_one_event() {
    let mut b = Build::new("6.12.1", 512);
    let disk = b.device("0000:00:04.0", "nvme", u64::MAX);
    b.map(disk, 1 << 33, 4096);
    let report = report(&b.finish());
    assert!(report.headline().starts_with("swiotlb is not your problem: nothing bounced, of 1 mappings"));
    assert_eq!((report.summary.copy_rate, report.trace.span_ns), (0, 0));
    whole(&report);
}

#[test]
fn a_clock_that_goes_backwards_is_sorted_and_does_not_make_ages_negative() {
    let mut b = Build::new("6.12.1", 512).forced();
    let disk = b.device("0000:00:04.0", "nvme", u64::MAX);
    for i in 0..20 {
        let made = b.map(disk, (1 << 33) + (i << 12), 4096);
        b.unmap(made);
        b.now = b.now.saturating_sub(3_500);
    }
    let report = report(&b.finish());
    assert_eq!(report.summary.bounces, 20);
    assert!(report.summary.peak_slots <= 512);
    whole(&report);
}

#[test]
fn devices_the_trace_does_not_describe_have_a_name() {
    let mut b = Build::new("6.12.1", 512).forced();
    b.device("0000:00:04.0", "nvme", u64::MAX);
    let event = |op, time| Event {
        orig_addr: Some(1 << 33),
        size: Some(4096),
        tlb_addr: (op == Op::SlotAlloc).then_some(crate::build::POOL),
        ..Event::new(op, time, 0, 1, 77)
    };
    b.events = vec![event(Op::SlotAlloc, MILLI), event(Op::Map, 2 * MILLI), event(Op::SlotFailed, 3 * MILLI)];
    let report = report(&b.finish());
    assert!(report.devices.iter().any(|row| row.device == "device 77" && row.failures == 1), "{:?}", report.devices);
    assert_eq!(report.fidelity.unknown_devices, 3);
    assert!(report.notes.iter().any(|note| note.contains("does not describe") && note.ends_with(": 3")));
    whole(&report);
}

#[test]
fn no_maps_but_slots_is_what_mode_bounces_gives() {
    let mut b = Build::new("6.12.1", 512);
    let disk = b.device("0000:00:04.0", "ahci", 0xffff_ffff);
    for i in 0..10 {
        let made = b.map(disk, (1 << 33) + (i << 12), 4096);
        b.unmap(made);
    }
    b.events.retain(|event| matches!(event.op, Op::SlotAlloc | Op::SlotFree | Op::SlotFailed));
    b.meta.capture.mode = "bounces".to_owned();
    b.meta.capture.backends.retain(|kind, _| kind.starts_with("slot"));
    let report = report(&b.finish());
    assert_eq!((report.summary.maps, report.summary.bounce_share, report.summary.bounces), (None, None, 10));
    assert_eq!((report.reasons[0].reason.as_str(), report.reasons[0].bounces), ("mask", 10));
    let all = whole(&report);
    assert!(all.contains("what other policies would have bounced is not known from such a trace"));
    assert!(all.contains("what share of all DMA that is cannot be said"));
}

#[test]
fn a_damaged_pool_and_absurd_numbers_are_survived() {
    let mut b = Build::new("6.12.1", 512).forced();
    let disk = b.device("0000:00:04.0", "nvme", u64::MAX);
    let odd = |op, tlb, size, time| Event {
        orig_addr: Some(u64::MAX - 5),
        size: Some(size),
        dma_addr: Some(u64::MAX - 1),
        tlb_addr: Some(tlb),
        latency_ns: Some(u64::MAX),
        ..Event::new(op, time, u32::MAX, u32::MAX, disk)
    };
    b.events = vec![
        odd(Op::SlotAlloc, crate::build::POOL + 7, u64::MAX, 1),
        odd(Op::SlotAlloc, u64::MAX, 0, 2),
        odd(Op::Map, 0, u64::MAX, 3),
        odd(Op::SlotFailed, 0, 0, 4),
        odd(Op::MapFailed, 0, u64::MAX, 5),
        odd(Op::SyncForCpu, 0, u64::MAX, 6),
        odd(Op::SlotFree, crate::build::POOL + 7, 0, u64::MAX - SECOND),
        odd(Op::Unmap, 0, u64::MAX, u64::MAX),
    ];
    for (nslabs, nareas) in [(512, 3), (u64::MAX, 1), (1, u32::MAX), (3, 2)] {
        let events = b.events.clone();
        let mut b = Build::new("6.12.1", 512).forced();
        b.device("0000:00:04.0", "nvme", u64::MAX);
        b.events = events;
        (b.meta.pools[0].nslabs, b.meta.pools[0].nareas) = (nslabs, nareas);
        whole(&report(&b.finish()));
    }
}

/// What a kernel without BTF lets be seen: neither refusals, nor what was copied, nor where the pool is.
#[test]
fn bounces_alone_exonerate_nobody() {
    let mut b = Build::new("6.12.1", 0);
    b.meta.host.cmdline = "swiotlb=8192,1,force".to_owned();
    b.meta.pool_unknown = Some("it takes BTF; debugfs says that it has 8,192 slots".to_owned());
    b.meta.capture.backends = ["bounce", "pool_use"].map(|event| (event.to_owned(), "test".to_owned())).into();
    let disk = b.device("0000:00:02.0", "", u64::MAX);
    for at in 0..10 {
        let bounce = Event { size: Some(8192), dma_addr: Some(at << 13), ..Event::new(Op::Bounce, at, 0, 7, disk) };
        b.events.push(bounce);
    }
    b.looks = [(1, 0), (2, 168), (3, 40)].map(|(time_ns, used)| Occupancy { time_ns, used }).into();
    let report = report(&b.finish());
    assert_eq!(report.headline(), "10 mappings went to the bounce pool; whether any was refused was not recorded.");
    assert_eq!((report.summary.bounces, report.summary.bytes_bounced, report.summary.maps), (10, 81_920, None));
    assert_eq!((report.summary.peak_slots, report.summary.held_slots, report.summary.bytes_copied), (168, 40, 0));
    assert_eq!(classes(&report), ["EMPTY", "LOSS"]);
    let all = whole(&report);
    assert!(
        all.contains("how much was copied, was not recorded") && all.contains("debugfs says that it has 8,192 slots")
    );
    assert!(all.contains("at most 168 slots were in use, looked at ten times a second, 40 at the end"), "{all}");
    assert!(!all.contains("not your problem") && !all.contains("smaller than asked"), "{all}");
}

/// A pool that the kernel added (SPEC 5): what lies there has bounced and is predicted, but is none of the default pool's slots.
#[test]
fn a_pool_that_was_added_counts_as_one() {
    let mut b = Build::new("6.12.1", 128).forced();
    let (disk, high) = (b.device("0000:00:04.0", "virtio-pci", u64::MAX), 1 << 33);
    b.map(disk, high, 256 << 10);
    let (start, tick) = (POOL << 4, |b: &mut Build| {
        b.now += 1000;
        b.now
    });
    let event = |op, now, device| Event { tlb_addr: Some(start), ..Event::new(op, now, 0, 1, device) };
    let now = tick(&mut b);
    b.events.push(Event { size: Some(1 << 20), count: Some(1), ..event(Op::PoolAdded, now, NO_DEVICE) });
    let asked = |op, now| Event {
        orig_addr: Some(high + (1 << 20)),
        size: Some(4096),
        direction: Some(Direction::ToDevice),
        attrs: Some(0),
        ..event(op, now, disk)
    };
    let now = tick(&mut b);
    b.events.push(Event { align_mask: Some(0), first_slot: Some(0), ..asked(Op::SlotAlloc, now) });
    let now = tick(&mut b);
    b.events.push(Event { dma_addr: Some(start), tlb_addr: None, ..asked(Op::Map, now) });
    let report = report(&b.finish());
    assert_eq!((report.summary.maps, report.summary.bounces), (Some(2), 2));
    assert_eq!((report.fidelity.predicted, report.fidelity.predicted_of), (2, 2));
    assert_eq!((report.fidelity.decided, report.fidelity.decided_of), (2, 2));
    assert_eq!(report.fidelity.other_pools, 1);
}

/// What a device's own pool (SPEC 2.7) refuses is not explained by the default one, full or not.
#[test]
fn a_refusal_of_another_pool_is_not_explained_by_the_default_one() {
    for full in [false, true] {
        let mut b = Build::new("6.12.1", 128).forced();
        let disk = b.device("0000:00:04.0", "virtio-pci", u64::MAX);
        let own = b.device("0000:00:05.0", "swio_lab", u64::MAX);
        b.devices[own as usize].pool = Some("0x77".to_owned());
        if full {
            b.map(disk, 1 << 33, 256 << 10);
        }
        b.now += 1000;
        let refused = Event {
            orig_addr: Some(1 << 33),
            size: Some(4096),
            align_mask: Some(0),
            direction: Some(Direction::ToDevice),
            ..Event::new(Op::SlotFailed, b.now, 0, 1, own)
        };
        b.events.push(refused);
        let report = report(&b.finish());
        assert_eq!((report.summary.failures, report.fidelity.other_pools), (1, 1));
        assert!(whole(&report).contains("a bounce pool of the device's own"), "{full}");
        assert!(
            !whole(&report).contains("another CPU") && !classes(&report).contains(&"FULL"),
            "{full}: {:?}",
            classes(&report)
        );
    }
}
