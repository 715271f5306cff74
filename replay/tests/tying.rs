//! Which unmap undoes which map, and what the trace's gaps come to, case by case (docs/models.md).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use replay::{Base, Geometry, Load, Machine, Options, Platform, Policy, Surroundings, replay};
use support::*;
use trace::{Event, Op, SnapshotSlot};

#[test]
fn an_unmap_is_its_own_devices() {
    // Both disks have a page at the same DMA address, as with an IOMMU.
    let of = |device, e: Event| Event { device, ..e };
    let events = [map(1, LOW, 4096), of(1, map(2, LOW, 4096)), of(1, unmap(3, LOW, 4096)), of(1, unmap(4, LOW, 4096))];
    let load = load(&events);
    assert_eq!((load.notes().unmatched_unmaps, load.recorded().maps), (1, 2));
    let out = run(&load, "v6_10", 512);
    assert_eq!(out.devices.iter().map(|d| (d.slots, d.peak_slots)).collect::<Vec<_>>(), [(2, 2), (0, 2)]);
}

#[test]
fn a_lifetime_is_that_of_the_device_and_the_size() {
    let mut events = Vec::new();
    for (device, size, lifetime) in [(0, 4096, 1 << 9), (0, 65536, 1 << 12), (1, 4096, 1 << 15)] {
        let time = device as u64 * 100_000 + size;
        events.push(Event { device, ..map(time, size * LOW, size) });
        events.push(Event { device, ..unmap(time + lifetime, size * LOW, size) });
    }
    events.sort_by_key(|e| e.time_ns);
    events
        .extend([(0, 5000), (0, 70_000), (1, 4096), (1, 70_000)].map(|(d, s)| event(Op::MapFailed, 300_000, d, 0, s)));
    events.push(map(400_000, LOW, 2048));
    let out = run(&load(&events), "v6_10", 512);
    let assumed: Vec<_> = out.assumed.iter().map(|a| (a.device, a.size_from, a.lifetime_ns, a.count)).collect();
    // What the device has no like of lives as long as its other mappings.
    assert_eq!(assumed, [(0, 4096, 512, 1), (0, 65536, 4096, 1), (1, 4096, 32768, 1), (1, 65536, 32768, 1)]);
    assert_eq!((out.total_failures(), out.final_slots[0]), (0, 1));
}

#[test]
fn of_two_alike_the_oldest_is_undone_first() {
    let twice = [map(0, LOW, 4096), map(2000, LOW, 4096), unmap(2064, LOW, 4096), unmap(6000, LOW, 4096)];
    // They have lived 2,064 and 4,000 ns; the other way round it would be 64 and 6,000.
    let events = [&twice[..], &[event(Op::MapFailed, 10_000, 0, 0, 4096), map(20_000, LOW, 1)]].concat();
    let out = run(&load(&events), "v6_10", 512);
    assert_eq!(out.assumed[0].lifetime_ns, 2048);
    // And it is the oldest one's slots that are free again: the second's are in the other area.
    let on = |cpu, e: Event| Event { cpu, ..e };
    let big = 256 << 10;
    let events = [map(1, LOW, 2048), on(1, map(2, LOW, 2048)), unmap(3, LOW, 2048), map(4, 9 * LOW, big)];
    let base = Base { pool: Geometry { start: POOL, nslabs: 256, areas: 2 }, cpus: Some(2), force: true };
    let setup = Policy::parse("v6_10").unwrap().resolve(&base).unwrap();
    let mut machine = Machine::new(&setup, Platform::native());
    let out = replay(&load(&events), &mut machine, &Options::default());
    assert_eq!(out.total_failures(), 0);
    assert_eq!(machine.allocator().pools()[0].areas().iter().map(|a| a.used).collect::<Vec<_>>(), [128, 1]);
}

#[test]
fn one_page_mapped_twice_is_two_mappings() {
    let events = [
        map(1, LOW, 2048),
        map(2, LOW, 65536),
        unmap(3, LOW, 65536),
        map(4, LOW, 4096),
        map(5, LOW, 4096),
        unmap(6, LOW, 4096),
        unmap(7, LOW, 2048),
        unmap(8, LOW, 4096),
    ];
    let load = load(&events);
    assert_eq!((load.notes().unmatched_unmaps, load.notes().size_mismatches), (0, 0));
    let out = run(&load, "v6_10", 512);
    let after = |time| out.occupancy.points(0).take_while(|p| p.0 <= time).last().unwrap().1;
    assert_eq!([1, 2, 3, 4, 5, 6, 7, 8].map(after), [1, 33, 33, 3, 5, 5, 3, 2], "the most in each nanosecond");
    assert_eq!(out.final_slots[0], 0);
}

#[test]
fn an_unmap_of_another_size_takes_the_oldest() {
    let load = load(&[map(1, LOW, 2048), map(2, LOW, 4096), unmap(3, LOW, 100)]);
    assert_eq!(load.notes().size_mismatches, 1);
    assert_eq!(run(&load, "v6_10", 512).final_slots[0], 2);
}

#[test]
fn a_missed_map_is_an_unknown_unmap() {
    let load = load(&[unmap(1, LOW, 4096), event(Op::SyncForCpu, 2, 0, LOW, 64), map(3, LOW, 4096)]);
    assert_eq!((load.notes().unmatched_unmaps, load.notes().unmatched_syncs), (1, 1));
    assert_eq!(run(&load, "v6_10", 512).final_slots[0], 2);
}

#[test]
fn a_missed_unmap_is_repaired_where_its_slots_are_taken_again() {
    let recorded = pool(512);
    let around = Surroundings { pool: Some(&recorded), ..Surroundings::default() };
    let events = [map(1, POOL, 4096), map(2, POOL + 2048, 2048), unmap(10_000_000, POOL + 2048, 2048)];
    let load = Load::collect(&events, &devices(), &around);
    assert_eq!((load.notes().missed_unmaps, load.notes().unmatched_unmaps), (1, 0));
    assert_eq!(load.recorded().bounces, 2);
    let out = run(&load, "v6_10", 512);
    assert_eq!((out.peak_slots[0], out.final_slots[0]), (2, 0));
    // The same, but the unmap comes a moment later: it was only written down late.
    let events = [map(1, POOL, 4096), map(2, POOL, 4096), unmap(500, POOL, 4096), unmap(5_000_000, POOL, 4096)];
    let load = Load::collect(&events, &devices(), &around);
    assert_eq!((load.notes().missed_unmaps, load.notes().late_unmaps, load.notes().unmatched_unmaps), (0, 1, 0));
    assert_eq!(run(&load, "v6_10", 512).final_slots[0], 0);
}

#[test]
fn what_was_held_before_the_recording_counts() {
    let recorded = pool(512);
    let held = |slot, alloc_size| SnapshotSlot { slot, orig_addr: LOW, alloc_size, pad_slots: 0, pool: None };
    let snapshot = [held(4, 4096), held(5, 2048), held(6, 1000)];
    let around = Surroundings { pool: Some(&recorded), snapshot: &snapshot, ..Surroundings::default() };
    let events = [map(50, POOL, 2048), unmap(60, POOL + 4 * 2048, 4096)];
    let load = Load::collect(&events, &devices(), &around);
    assert_eq!((load.notes().held, load.notes().unmatched_unmaps), (2, 0));
    let out = run(&load, "v6_10", 512);
    assert_eq!((out.peak_slots[0], out.final_slots[0]), (4, 2));
    // Nobody asked for them while recording.
    for policy in ["v6_10", "v6_0"] {
        let out = run(&load, policy, 512);
        assert_eq!((out.requests, out.maps, out.total_bounces(), out.bytes_at_map), (1, 1, 1, 2048), "{policy}");
        assert_eq!(out.devices.iter().map(|d| (d.maps, d.bounces)).collect::<Vec<_>>(), [(1, 1), (0, 0), (0, 0)]);
    }
    let out = run(&load, "v6_10", 1);
    assert_eq!((out.total_failures(), out.refusals.len(), out.dropped, out.held_refused), (1, 1, 1, 1));
}

#[test]
fn what_was_mapped_before_the_snapshot_counts_once() {
    let recorded = pool(512);
    let held = |slot, alloc_size| SnapshotSlot { slot, orig_addr: LOW, alloc_size, pad_slots: 0, pool: None };
    let snapshot = [held(4, 4096), held(5, 2048), held(8, 2048)];
    let slot = |n: u64| POOL + n * 2048;
    let events = [
        map(10, slot(4), 4096),
        map(11, slot(8), 2048),
        unmap(12, slot(8), 2048),
        // Gone by the time of the snapshot, so it is not the one found there.
        unmap(13, slot(8), 2048),
        unmap(60, slot(4), 4096),
        unmap(70, slot(8), 2048),
    ];
    let around = |snapshot_ns| Surroundings {
        pool: Some(&recorded),
        snapshot: &snapshot,
        snapshot_ns,
        ..Surroundings::default()
    };
    let load = Load::collect(&events, &devices(), &around(Some(20)));
    assert_eq!((load.notes().held, load.notes().unmatched_unmaps), (1, 1));
    let out = run(&load, "v6_10", 512);
    assert_eq!((out.requests, out.peak_slots[0], out.final_slots[0]), (2, 4, 0));
    // The snapshot may come last of all; and it may come first.
    let load = Load::collect(&events[..1], &devices(), &around(Some(20)));
    assert_eq!((load.notes().held, run(&load, "v6_10", 512).final_slots[0]), (1, 3));
    let load = Load::collect(&events[..1], &devices(), &around(Some(0)));
    assert_eq!((load.notes().held, run(&load, "v6_10", 512).final_slots[0]), (2, 5));
}
