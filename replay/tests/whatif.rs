//! The rules of a what-if, case by case (docs/models.md).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::num::NonZeroU64;

use proptest::prelude::*;
use replay::{
    Cause, GENERATIONS, Load, Machine, OnFail, Options, P2m, PLATFORMS, Platform, Policy, Reason, Script, Surroundings,
    replay,
};
use support::*;
use trace::pool::P2mKind;
use trace::{Direction, Event, Op};

#[test]
fn direct_in_reality_and_bounced_in_the_replay() {
    let load = load(&[map(1, LOW, 4096), unmap(9, LOW, 4096)]);
    assert_eq!((load.recorded().maps, load.recorded().bounces), (1, 0));
    let out = run(&load, "v6_10", 512);
    assert_eq!((out.bounced(Reason::Forced), out.peak_slots[0], out.final_slots[0]), (1, 2, 0));
    let out = run(&load, "v6_10:force=off", 512);
    assert_eq!((out.total_bounces(), out.peak_slots[0]), (0, 0));
}

#[test]
fn refused_in_the_replay_its_syncs_are_passed_over() {
    let big = 256 << 10;
    let sync = |time| event(Op::SyncForDevice, time, 0, 2 * LOW, 512);
    let events = [map(1, LOW, big), map(2, 2 * LOW, big), sync(3), unmap(4, 2 * LOW, big), sync(5)];
    let load = load(&events);
    assert_eq!(load.notes().unmatched_syncs, 1, "the one behind the unmap");
    for (nslabs, bytes) in [(128, 0), (256, 512)] {
        let out = run(&load, "v6_10", nslabs);
        assert_eq!((out.bytes_at_sync, out.bytes_at_map), (bytes, big * nslabs / 128), "{nslabs}");
    }
}

#[test]
fn refused_in_the_replay_its_unmap_is_passed_over() {
    let big = 256 << 10;
    let events = [map(1, LOW, big), map(2, 2 * LOW, big), unmap(3, 2 * LOW, big), unmap(4, LOW, big), map(5, LOW, big)];
    let out = run(&load(&events), "v6_10", 128);
    assert_eq!((out.failed(Cause::PoolFull), out.dropped, out.total_failures()), (1, 1, 1));
    assert_eq!((out.peak_slots[0], out.final_slots[0]), (128, 128));
    let refused = &out.refusals[0];
    assert_eq!(
        (refused.time_ns, refused.refusal.to_string()),
        (2, "needs 128 slots: 256 KiB; 0 of 128 are free".to_owned())
    );
    assert_eq!(run(&load(&events), "v6_10", 256).total_failures(), 0);
}

#[test]
fn served_though_refused_in_reality_it_lives_as_long_as_its_like() {
    let mut events = Vec::new();
    for k in 0..10 {
        events.push(map(1000 * k, LOW, 4096));
        events.push(unmap(1000 * k + 512, LOW, 4096));
    }
    events.push(event(Op::MapFailed, 20_000, 0, 0, 4096));
    events.push(map(20_100, LOW, 2048));
    events.push(map(20_600, 2 * LOW, 2048));
    let load = load(&events);
    assert_eq!(load.recorded().failures, 1);
    let out = run(&load, "v6_10", 512);
    let assumed = out.assumed[0];
    assert_eq!((assumed.count, assumed.size_from, assumed.lifetime_ns, out.assumed.len()), (1, 4096, 512, 1));
    assert_eq!((out.total_failures(), out.maps, out.dropped), (0, 13, 0));
    // Two slots until 20,512 together with one that came at 20,100; then one more.
    assert_eq!((out.peak_slots[0], out.final_slots[0]), (3, 2));
}

#[test]
fn a_scatterlist_is_served_whole_or_not_at_all() {
    let element = |i: u32, dma_addr, size| Event { sg_index: Some(i), ..map(7, dma_addr, size) };
    let part = |i: u32, dma_addr, size| Event { sg_index: Some(i), ..unmap(9, dma_addr, size) };
    let events = [
        element(0, LOW, 4096),
        element(1, 2 * LOW, 250 << 10),
        element(2, 3 * LOW, 8192),
        part(0, LOW, 4096),
        part(1, 2 * LOW, 250 << 10),
        part(2, 3 * LOW, 8192),
        element(0, LOW, 2048),
    ];
    let out = run(&load(&events), "v6_10", 128);
    assert_eq!((out.requests, out.maps, out.total_failures(), out.dropped), (2, 4, 1, 1));
    assert_eq!((out.peak_slots[0], out.final_slots[0]), (127, 1));
    let out = run(&load(&events), "v6_10", 512);
    assert_eq!((out.requests, out.maps, out.total_failures(), out.final_slots[0]), (2, 4, 0, 1));
    // Refused in reality and here: what was given out for the first element does not stay.
    let refused = |i| Event { sg_index: Some(i), ..event(Op::MapFailed, 7, 0, 0, 200 << 10) };
    let out = run(&load(&[refused(0), refused(1)]), "v6_10", 128);
    assert_eq!((out.requests, out.total_failures(), out.dropped, out.final_slots[0]), (1, 1, 0, 0));
    assert!(out.peak_slots[0] == 100);
}

#[test]
fn a_merged_element_is_served() {
    // An IOMMU put the second element's bytes behind the first's: it has no address of its own.
    let element = |i: u32, dma_addr| Event { sg_index: Some(i), dma_addr, ..map(7, 0, 4096) };
    let load = load(&[element(0, Some(LOW)), element(1, None), unmap(9, LOW, 4096)]);
    assert_eq!((load.recorded().maps, load.recorded().failures, load.recorded().bounces), (2, 0, 0));
    let out = run(&load, "v6_10", 512);
    assert_eq!((out.requests, out.maps, out.dropped, out.peak_slots[0], out.final_slots[0]), (1, 2, 0, 4, 0));
    assert_eq!((load.notes().merged, out.assumed[0].count, out.assumed[0].lifetime_ns), (1, 1, 2));
    // Too small for both: the two were served in reality.
    let out = run(&load, "v6_10", 2);
    assert_eq!((out.dropped, out.total_failures(), out.final_slots[0]), (1, 1, 0));
}

#[test]
fn undoing_a_refused_scatterlist_leaves_others_alone() {
    let high = 0x1_0000_0000;
    let refused = |time, i, orig_addr, size| Event {
        sg_index: i,
        orig_addr: Some(orig_addr),
        ..event(Op::MapFailed, time, 1, 0, size)
    };
    // The list's first element needs no slots.
    let direct = [refused(7, Some(0), LOW, 4096), refused(7, Some(1), high, 300 << 10)];
    let out = run(&load(&direct), "v6_10:force=off", 512);
    assert_eq!((out.requests, out.total_failures(), out.final_slots[0]), (1, 1, 0));
    let other = refused(1, None, high, 4096);
    let out = run(&load(&[std::slice::from_ref(&other), &direct[..]].concat()), "v6_10:force=off", 512);
    assert_eq!((out.total_failures(), out.final_slots[0], out.assumed[0].count), (1, 2, 1));
    // The list's first element had slots and lives no more; nor does it count.
    let bounced = [other, refused(7, Some(0), high, 4096), refused(7, Some(1), high, 300 << 10)];
    let out = run(&load(&bounced), "v6_10:force=off", 512);
    assert_eq!((out.total_failures(), out.peak_slots[0], out.final_slots[0]), (1, 4, 2));
    assert_eq!((out.assumed.len(), out.assumed[0].count), (1, 1));
    assert!(run(&load(&bounced[1..]), "v6_10:force=off", 512).assumed.is_empty());
}

#[test]
fn a_missed_unmap_is_repaired_in_the_midst_of_a_scatterlist() {
    let recorded = pool(512);
    let around = Surroundings { pool: Some(&recorded), ..Surroundings::default() };
    let element = |i: u32, dma_addr, size| Event { sg_index: Some(i), ..map(7, dma_addr, size) };
    let part = |i: u32, dma_addr, size| Event { sg_index: Some(i), ..unmap(10_000_000, dma_addr, size) };
    let events = [
        map(1, POOL + 8192, 4096),
        element(0, POOL, 4096),
        element(1, POOL + 8192, 4096),
        element(2, POOL + 16384, 240 << 10),
        part(0, POOL, 4096),
        part(1, POOL + 8192, 4096),
        part(2, POOL + 16384, 240 << 10),
    ];
    let load = Load::collect(&events, &devices(), &around);
    assert_eq!(load.notes().missed_unmaps, 1);
    let out = run(&load, "v6_10", 512);
    assert_eq!((out.requests, out.maps, out.peak_slots[0], out.final_slots[0]), (2, 4, 124, 0));
    // Refused before the repair or behind it, the list goes as a whole, and the repair is made all the same.
    for nslabs in [3, 123] {
        let out = run(&load, "v6_10", nslabs);
        assert_eq!((out.requests, out.total_failures(), out.final_slots[0]), (2, 1, 0), "{nslabs}");
    }
}

#[test]
fn bounces_are_those_that_took_slots() {
    // Under Xen PV without the frame table the DMA address tells nothing.
    let slots = |time| Event { tlb_addr: Some(POOL), ..event(Op::SlotAlloc, time, 0, 0, 4096) };
    let events = [map(1, LOW, 4096), slots(2), map(2, 2 * LOW, 4096), slots(3), map(3, 3 * LOW, 4096)];
    let recorded = pool(512);
    let around = Surroundings { pool: Some(&recorded), ..Surroundings::default() };
    assert_eq!(Load::collect(&events, &devices(), &around).recorded().bounces, 2);
    // They are not counted twice where it does tell.
    let events = [slots(2), map(2, POOL, 4096)];
    assert_eq!(Load::collect(&events, &devices(), &around).recorded().bounces, 1);
}

#[test]
fn bytes_are_copied_as_each_generation_does() {
    let way = |direction, e: Event| Event { direction: Some(direction), ..e };
    let both = Direction::Bidirectional;
    let events = [
        way(both, map(1, LOW, 4096)),
        way(both, event(Op::SyncForCpu, 2, 0, LOW + 1024, 512)),
        way(both, event(Op::SyncForDevice, 3, 0, LOW + 4000, 512)),
        way(both, unmap(4, LOW, 4096)),
        way(Direction::FromDevice, map(5, LOW, 100)),
        way(Direction::FromDevice, event(Op::SyncForDevice, 6, 0, LOW, 100)),
        Event { attrs: Some(1 << 5), ..way(Direction::FromDevice, unmap(7, LOW, 100)) },
    ];
    let load = load(&events);
    let bytes = |policy| {
        let out = run(&load, policy, 512);
        (out.bytes_at_map, out.bytes_at_sync, out.bytes_at_unmap)
    };
    assert_eq!(bytes("v6_10"), (4196, 512 + 96, 4096));
    assert_eq!(bytes("legacy"), (4096, 512 + 512, 8192), "nothing cuts a sync at the mapping's end");
    assert_eq!(bytes("legacy:copies=5.10.198"), (4196, 512 + 512, 4096));
    assert_eq!(bytes("5.10.198"), bytes("legacy:copies=5.10.198"));
}

#[test]
fn syncs_that_do_harm_are_counted() {
    let mut nvme = device(0, u64::MAX);
    nvme.min_align_mask = 0xfff;
    // It begins 0x200 bytes into its slot; the sync, 0x100 bytes into the next.
    let mapped = Event { orig_addr: Some(LOW + 0xa00), ..map(1, LOW + 0xa00, 4096) };
    let events = [mapped, event(Op::SyncForDevice, 2, 0, LOW + 0xa00 + 0x700, 0x400), unmap(3, LOW + 0xa00, 4096)];
    let load = Load::collect(&events, &[nvme], &Surroundings::default());
    let bytes = |policy| {
        let out = run(&load, policy, 512);
        (out.bytes_at_sync, out.bytes_wrong_source, out.bytes_dropped)
    };
    assert_eq!(bytes("v6_10"), (0x400, 0, 0));
    assert_eq!(bytes("v6_8"), (0, 0, 0x400));
    assert_eq!(bytes("6.6.87"), (0, 0, 0x400));
    assert_eq!(bytes("v5_12"), (0x400, 0, 0), "5.10.198's");
    assert_eq!(bytes("5.12.9"), (0x400, 0x400, 0));
    assert_eq!(bytes("v5_12:copies=5.14-rc5"), (0x400, 0, 0));
    assert_eq!(bytes("5.15.16"), (0, 0, 0x400));
    assert_eq!(bytes("legacy"), (0x400, 0, 0), "its slots keep no offset");
}

#[test]
fn rfc64_separates_the_devices() {
    let to = |device, e: Event| Event { device, ..e };
    let events = [map(1, LOW, 4096), to(1, map(2, 2 * LOW, 8192)), unmap(3, LOW, 4096)];
    let out = run(&load(&events), "rfc64:swiotlb=1024,2048,force", 512);
    assert_eq!((out.peak_slots, out.final_slots), (vec![4, 2], vec![4, 0]));
    assert_eq!(out.devices.iter().map(|d| (d.pool, d.peak_slots)).collect::<Vec<_>>(), [(1, 2), (0, 4)]);
}

#[test]
fn xen_bounces_what_straddles_or_lies_too_high() {
    let mut p2m = P2m::new();
    p2m.set(LOW >> 12, 0x1000, 1, P2mKind::Own);
    p2m.set((LOW >> 12) + 1, 0x2000, 1, P2mKind::Own);
    p2m.set((LOW >> 12) + 2, 0x50_0000, 2, P2mKind::Own);
    p2m.set((LOW >> 12) + 4, 0x60_0000, 1, P2mKind::Foreign);
    p2m.set(POOL >> 12, 0x8000, 256, P2mKind::Own);
    let at = |device, orig_addr, size| Event {
        device,
        orig_addr: Some(orig_addr),
        ..map(1, 0xdead_0000 + orig_addr + u64::from(device), size)
    };
    let events = [
        at(0, LOW, 4096),
        at(0, LOW, 4097),
        at(0, LOW + 0x2000, 8192),
        at(1, LOW + 0x2000, 8192),
        at(0, LOW + 0x3000, 8192),
        at(0, 9 * LOW, 8192),
    ];
    let load = Load::collect(&events, &devices(), &Surroundings::default());
    let setup = Policy::parse("v6_10:force=off").unwrap().resolve(&base(512)).unwrap();
    let mut machine = Machine::new(&setup, Platform::xen_pv(p2m.clone()));
    let out = replay(&load, &mut machine, &Options::default());
    assert_eq!(out.bounced(Reason::Straddle), 1);
    assert_eq!(out.bounced(Reason::Mask), 1);
    assert_eq!(out.bounced(Reason::Foreign), 1);
    assert_eq!((out.total_bounces(), out.total_failures(), out.unknown_frames), (3, 0, 1));
    // A larger pool has no recorded frames: it is taken to lie low, as Xen's set-up sees to.
    let setup = Policy::parse("v6_10:nslabs=4096").unwrap().resolve(&base(512)).unwrap();
    let out = replay(&load, &mut Machine::new(&setup, Platform::xen_pv(p2m)), &Options::default());
    assert_eq!((out.total_failures(), out.total_bounces()), (0, 6));
}

#[test]
fn nothing_at_all_is_no_failure() {
    let load = load(&[]);
    let out = run(&load, "v6_10", 512);
    assert_eq!((out.maps, out.total_failures(), out.occupancy.points(0).count()), (0, 0, 1));
    let odd = [
        Event { size: None, ..map(1, LOW, 1) },
        Event { size: Some(0), ..map(2, LOW, 1) },
        Event { orig_addr: Some(u64::MAX), size: Some(u64::MAX), ..map(3, u64::MAX, 1) },
        Event { device: 77, ..map(4, LOW, 64) },
        Event { dma_addr: None, ..unmap(5, LOW, 64) },
        Event { count: Some(5), ..Event::new(Op::Lost, 6, 0, 0, trace::event::NO_DEVICE) },
    ];
    let load = self::load(&odd);
    assert_eq!((load.notes().incomplete, load.notes().unknown_devices, load.notes().lost), (2, 1, 5));
    for policy in ["legacy", "v6_0", "v6_1y", "v6_3", "v6_10"] {
        let out = run(&load, policy, 512);
        assert_eq!((out.failed(Cause::Empty), out.failed(Cause::TooLarge)), (1, 1), "{policy}");
    }
}

/// An event with numbers of all kinds: mostly plausible, some absurd.
fn any_event() -> impl Strategy<Value = Event> {
    let address = || prop_oneof![8 => (0u64..40).prop_map(|i| LOW + i * 2048), 4 => (0u64..40).prop_map(|i| POOL + i * 512), 1 => any::<u64>()];
    let size = prop_oneof![8 => 1u64..20_000, 2 => 200_000u64..300_000, 1 => any::<u64>()];
    let sg = prop_oneof![3 => Just(None), 2 => (0u32..3).prop_map(Some)];
    (0usize..Op::ALL.len(), 0u32..4, address(), size, address(), sg, 0usize..4, 0u64..4_000_000, any::<Option<u64>>())
        .prop_map(|(op, device, orig_addr, size, dma_addr, sg_index, direction, time_ns, align)| Event {
            orig_addr: Some(orig_addr),
            size: Some(size),
            dma_addr: Some(dma_addr),
            sg_index,
            direction: Some(Direction::ALL[direction]),
            align_mask: align.filter(|a| a % 5 == 0),
            attrs: align,
            ..Event::new(Op::ALL[op], if sg_index.is_some() { 7 } else { time_ns }, time_ns as u32 % 9, 1, device)
        })
}

proptest! {
    /// Nonsense may be replayed, but the books must balance.
    #[test]
    fn any_events_at_all(events in prop::collection::vec(any_event(), 0..300), policy in 0usize..GENERATIONS.len(), platform in 0usize..PLATFORMS.len(), after in 0u64..2_000_000) {
        let recorded = pool(512);
        let around = Surroundings { pool: Some(&recorded), ..Surroundings::default() };
        let load = Load::collect(&events, &devices(), &around);
        let setup = Policy::parse(&format!("{}:nslabs=256", GENERATIONS[policy].id)).unwrap().resolve(&base(512)).unwrap();
        let mut machine = Machine::new(&setup, Platform::new(PLATFORMS[platform].kind.into()));
        let on_fail = NonZeroU64::new(after).filter(|_| after % 4 != 0).map_or(OnFail::Drop, OnFail::Retry);
        let out = replay(&load, &mut machine, &Options { refusals: 1000, buckets: 50, on_fail });
        let used: Vec<u64> = machine.allocator().pools().iter().map(|p| p.used()).collect();
        prop_assert_eq!(&out.final_slots, &used);
        prop_assert_eq!(out.devices.iter().map(|d| d.slots).sum::<u64>(), used.iter().sum::<u64>());
        prop_assert_eq!(out.devices.iter().map(|d| d.failures).sum::<u64>(), out.total_failures());
        prop_assert_eq!(out.devices.iter().map(|d| d.bounces).sum::<u64>(), out.total_bounces());
        prop_assert_eq!(out.refusals.len() as u64, out.total_failures());
        prop_assert!(out.refusals.iter().all(|r| !r.refusal.to_string().is_empty()));
        prop_assert!(out.retried_ok <= out.retried && out.dropped + out.retried_ok <= out.total_failures());
        prop_assert!(on_fail == OnFail::Drop || out.dropped + out.retried_ok == out.retried);
        prop_assert!(out.requests <= out.maps && out.total_failures() <= out.requests);
        prop_assert!(out.occupancy.points(0).count() <= 51);
        prop_assert_eq!(out.occupancy.points(0).map(|p| p.1).max().unwrap_or(0), out.peak_slots[0]);
    }

    #[test]
    fn any_text_as_script_or_policy(text in "(pool|map|unmap|dev|opt|p2m|,|[0-9a-f]{1,3}|\n|force){0,40}", policy in ".{0,40}") {
        let _ = Policy::parse(&policy);
        let _ = Policy::parse(&format!("rfc64:{policy}"));
        if let Ok(script) = Script::parse(&text) {
            let mut out = String::new();
            let _ = script.answers(&Policy::parse("v6_10").unwrap(), &mut out);
        }
    }
}
