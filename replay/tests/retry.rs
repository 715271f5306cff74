//! Refused mappings tried again, case by case (docs/models.md, `--on-fail`).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::num::NonZeroU64;

use replay::{Base, Cause, Geometry, Load, Machine, OnFail, Options, Outcome, Platform, Policy, Surroundings, replay};
use trace::{Direction, Event, Op};

const LOW: u64 = 0x1000_0000;
const POOL: u64 = 0x7400_0000;
/// A whole segment.
const BIG: u64 = 256 << 10;

fn event(op: Op, time_ns: u64, dma_addr: u64, size: u64) -> Event {
    Event {
        orig_addr: matches!(op, Op::Map | Op::MapFailed).then_some(LOW),
        size: Some(size),
        dma_addr: (op != Op::MapFailed).then_some(dma_addr),
        direction: Some(Direction::Bidirectional),
        ..Event::new(op, time_ns, 0, 1, 0)
    }
}

fn map(time_ns: u64, dma_addr: u64, size: u64) -> Event {
    event(Op::Map, time_ns, dma_addr, size)
}

fn unmap(time_ns: u64, dma_addr: u64, size: u64) -> Event {
    event(Op::Unmap, time_ns, dma_addr, size)
}

fn element(i: u32, event: Event) -> Event {
    Event { sg_index: Some(i), ..event }
}

fn run(events: &[Event], nslabs: u64, after: u64) -> Outcome {
    run_with(events, nslabs, OnFail::Retry(NonZeroU64::new(after).unwrap()))
}

fn run_with(events: &[Event], nslabs: u64, on_fail: OnFail) -> Outcome {
    let load = Load::collect(events, &[], &Surroundings::default());
    let base = Base { pool: Geometry { start: POOL, nslabs, areas: 1 }, cpus: Some(1), force: true };
    let setup = Policy::parse("v6_10").unwrap().resolve(&base).unwrap();
    replay(&load, &mut Machine::new(&setup, Platform::native()), &Options { on_fail, ..Options::default() })
}

/// Retried, served by a retry, dropped.
fn books(out: &Outcome) -> (u64, u64, u64) {
    (out.retried, out.retried_ok, out.dropped)
}

/// The most slots in use in the nanosecond of each of these times.
fn used<const N: usize>(out: &Outcome, times: [u64; N]) -> [u64; N] {
    times.map(|time| out.occupancy.points(0).take_while(|p| p.0 <= time).last().unwrap().1)
}

#[test]
fn a_retry_is_served_once_there_is_room_and_undone_by_its_own_unmap() {
    let events =
        [map(1, LOW, BIG), map(2, 2 * LOW, BIG), unmap(10, LOW, BIG), unmap(20, 2 * LOW, BIG), map(25, LOW, 2048)];
    // Asked at 5, 8 and 11.
    let out = run(&events, 128, 3);
    assert_eq!(books(&out), (1, 1, 0));
    assert_eq!((out.requests, out.maps, out.total_bounces()), (3, 3, 3), "it is still one request");
    assert_eq!((out.failed(Cause::PoolFull), out.total_failures(), out.refusals.len()), (1, 1, 1));
    assert_eq!(used(&out, [9, 11, 19, 21, 25]), [128, 128, 128, 0, 1]);
    // A map's data is copied in when it is served; each that was served is copied out.
    assert_eq!((out.bytes_at_map, out.bytes_at_unmap), (2 * BIG + 2048, 2 * BIG));
    assert_eq!((out.devices[0].failures, out.devices[0].maps, out.devices[0].peak_slots), (1, 3, 128));
    // At 18: the place is empty until then.
    assert_eq!(used(&run(&events, 128, 16), [9, 12, 17, 18, 19, 21]), [128, 0, 0, 128, 128, 0]);
    // What is to be done at a time comes before what the trace has at that time: at 10 nothing is free yet.
    assert_eq!(used(&run(&events, 128, 8), [10, 12, 17, 18]), [128, 0, 0, 128]);
    let out = run_with(&events, 128, OnFail::Drop);
    assert_eq!((books(&out), used(&out, [12, 19])), ((0, 0, 1), [0, 0]));
}

#[test]
fn attempts_stand_a_fixed_time_apart() {
    let half = BIG / 2;
    let events = [
        map(1, LOW, half),
        map(1, 2 * LOW, half),
        map(2, 3 * LOW, BIG),
        unmap(7, LOW, half),
        unmap(12, 2 * LOW, half),
        map(30, 4 * LOW, 1),
    ];
    // At 6, at 10 (half is free), at 14.
    let out = run(&events, 128, 4);
    assert_eq!((books(&out), used(&out, [9, 13, 14])), ((2, 1, 1), [64, 0, 128]), "the last waits at the end");
}

#[test]
fn a_release_comes_before_a_retry_of_the_same_time() {
    // What was refused in reality lives the 20 ns of its like, until 50; the retry falls on 50 and 60.
    let events = [
        map(1, LOW, BIG),
        unmap(21, LOW, BIG),
        event(Op::MapFailed, 30, 0, BIG),
        map(40, 2 * LOW, BIG),
        map(70, 3 * LOW, 1),
    ];
    let out = run(&events, 128, 10);
    assert_eq!((books(&out), used(&out, [49, 50, 51])), ((2, 1, 1), [128, 128, 128]));
    assert_eq!(out.occupancy.bucket_ns(), 1);
}

#[test]
fn a_retry_gives_up_at_its_own_unmap() {
    let events = [map(1, LOW, BIG), map(2, 2 * LOW, BIG), unmap(6, 2 * LOW, BIG), unmap(10, LOW, BIG), map(20, LOW, 1)];
    let out = run(&events, 128, 3);
    assert_eq!((books(&out), out.final_slots[0]), ((1, 0, 1), 1));
    assert_eq!(used(&out, [9, 12, 19]), [128, 0, 0]);
    // The number of a mapping is used again; the next one to have it is another.
    let events = [&events[..3], &[map(7, 2 * LOW, 2048), unmap(9, 2 * LOW, 2048)], &events[3..]].concat();
    let out = run(&events, 128, 100);
    assert_eq!((books(&out), out.total_failures()), ((2, 0, 2), 2));
}

#[test]
fn a_retry_that_waits_at_the_end_is_dropped() {
    let events = [map(1, LOW, BIG), map(2, 2 * LOW, BIG), map(3, 3 * LOW, BIG), unmap(50, LOW, BIG), map(52, LOW, 1)];
    // One of the two that wait gets the room at 51; the older.
    let out = run(&events, 128, 7);
    assert_eq!((books(&out), out.total_failures(), out.final_slots[0]), ((3, 1, 2), 3, 128));
}

#[test]
fn what_reality_refused_too_is_not_retried() {
    let events = [map(1, LOW, BIG), event(Op::MapFailed, 2, 0, BIG), unmap(10, LOW, BIG), map(30, LOW, 2048)];
    let out = run(&events, 128, 3);
    assert_eq!((books(&out), out.total_failures(), out.final_slots[0]), ((0, 0, 0), 1, 1));
}

#[test]
fn a_scatterlist_is_retried_whole() {
    let list = |op: fn(u64, u64, u64) -> Event, time| {
        [(0, LOW, 4096), (1, 2 * LOW, BIG), (2, 3 * LOW, 4096)].map(|(i, dma, size)| element(i, op(time, dma, size)))
    };
    let first = [map(1, 9 * LOW, BIG), map(1, 10 * LOW, 2048)];
    let frees = [unmap(10, 9 * LOW, BIG), unmap(14, 10 * LOW, 2048)];
    let mut events = [&first[..], &list(map, 2), &frees].concat();
    events.extend(list(unmap, 30));
    events.push(map(40, LOW, 1));
    // At 6 and 10 nothing has changed; at 14 there is room for all.
    let out = run(&events, 256, 4);
    assert_eq!((books(&out), out.total_failures()), ((1, 1, 0), 1));
    assert_eq!((out.requests, out.maps, out.total_bounces()), (4, 6, 6), "an element counts once, asked for or not");
    assert_eq!(used(&out, [2, 8, 11, 14, 29, 31]), [131, 129, 1, 133, 132, 0]);
    assert_eq!(out.final_slots[0], 1);
    // Refused at its first element, then at its second, then served: each still counts once.
    let fills = [map(1, 9 * LOW, BIG), map(1, 10 * LOW, BIG)];
    let frees = [unmap(5, 9 * LOW, BIG), unmap(9, 10 * LOW, BIG)];
    let pair = [element(0, map(2, LOW, BIG)), element(1, map(2, 2 * LOW, BIG))];
    let more = [map(20, 3 * LOW, 1)];
    let out = run(&[&fills[..], &pair, &frees, &more].concat(), 256, 4);
    assert_eq!((books(&out), out.maps, out.total_bounces()), ((2, 1, 1), 5, 5));
    assert_eq!((out.total_failures(), used(&out, [6, 8, 9, 10])), (2, [256, 128, 128, 256]));
    // It waits until the first of its unmaps.
    let mut events = [&first[..], &list(map, 2), &list(unmap, 7)[..1], &frees].concat();
    events.extend(list(unmap, 30)[1..].iter().cloned());
    events.push(map(40, LOW, 1));
    let out = run(&events, 256, 4);
    assert_eq!((books(&out), used(&out, [16, 29])), ((1, 0, 1), [0, 0]));
}

#[test]
fn an_element_an_iommu_merged_is_retried_with_its_list_and_lives_on() {
    // Mappings of that size live 20 ns.
    let like = [map(1, 5 * LOW, 4096), unmap(21, 5 * LOW, 4096)];
    let full = [map(30, 9 * LOW, BIG), unmap(41, 9 * LOW, BIG)];
    let merged = |time| Event { dma_addr: None, ..map(time, 0, 4096) };
    let list = [element(0, map(32, LOW, 4096)), element(1, merged(32))];
    let events = [&like[..], &full[..1], &list, &full[1..], &[unmap(60, LOW, 4096), map(70, LOW, 1)]].concat();
    let out = run(&events, 128, 10);
    assert_eq!((books(&out), out.assumed.len(), out.assumed[0].count), ((1, 1, 0), 1, 1));
    // Asked at 42; the merged one is released at 52, as if it had been served in time.
    assert_eq!(used(&out, [41, 42, 51, 53, 59, 61]), [128, 4, 4, 2, 2, 0]);
    // Without an unmap at all it is given up when it would have been released.
    let events = [&like[..], &full[..1], &[merged(32)], &[unmap(55, 9 * LOW, BIG), map(70, LOW, 1)]].concat();
    assert_eq!(books(&run(&events, 128, 10)), (1, 0, 1));
    let events = [&like[..], &full[..1], &[merged(32)], &[unmap(35, 9 * LOW, BIG), map(70, LOW, 1)]].concat();
    assert_eq!(books(&run(&events, 128, 10)), (1, 1, 0));
}

#[test]
fn a_short_time_between_attempts_costs_no_more_than_what_changes() {
    let hour = 3_600_000_000_000;
    let mut events = vec![map(1, LOW, BIG)];
    events.extend((2..50).map(|i| map(2, i * LOW, BIG)));
    // Lists too, whose first elements come and go at each attempt.
    for time in [3, 4] {
        let at = time * 60 * LOW;
        events.extend([element(0, map(time, at, 1)), element(1, map(time, at + LOW, BIG))]);
    }
    events.extend([unmap(hour, LOW, BIG), map(hour + 10, LOW, 1)]);
    // Room for two segments, and four slots for the lists' first elements and the last map.
    let out = run(&events, 260, 1);
    assert_eq!((out.total_failures(), books(&out), out.final_slots[0]), (49, (49, 1, 48), 257));
    assert_eq!(run(&events, 260, hour * 2).retried_ok, 0);
    // Times at the very end of what can be counted.
    let events = [map(u64::MAX - 2, LOW, BIG), map(u64::MAX - 1, 2 * LOW, BIG), map(u64::MAX, 3 * LOW, BIG)];
    for after in [1, 2, u64::MAX] {
        assert_eq!(books(&run(&events, 128, after)), (2, 0, 2));
    }
}
