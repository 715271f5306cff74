//! Single mappings of a replay, and the recorded kernel's pool.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use replay::{Answer, Cause, GENERATIONS, Generation, Machine, Options, Platform, Policy, RecordedPool, Start};
use support::*;
use trace::{Event, Op, Pool, SnapshotSlot};

#[test]
fn every_mapping_has_an_answer_and_they_add_up() {
    let big = 256 << 10;
    let element = |i: u32, dma, size| Event { sg_index: Some(i), ..map(5, dma, size) };
    let mut events = vec![map(1, LOW, big), map(2, 2 * LOW, 4096), map(3, 3 * LOW, big)];
    events.extend([unmap(4, LOW, big), element(0, 4 * LOW, 4096), element(1, 5 * LOW, 2 * big)]);
    events.extend([element(2, 6 * LOW, 4096), map(6, 7 * LOW, 4096)]);
    let load = load(&events);
    for rules in GENERATIONS {
        let (out, answers) = replay::answers(&load, &mut machine(rules.id, 256), &Options::default());
        assert_eq!(answers.len(), load.maps().count(), "{}", rules.id);
        let count = |is: fn(&Answer) -> bool| answers.iter().filter(|a| is(a)).count() as u64;
        assert_eq!(count(|a| matches!(a, Answer::Refused { .. })), out.total_failures(), "{}", rules.id);
        assert_eq!(count(|a| a.reason().is_some()), out.total_bounces(), "{}", rules.id);
        assert_eq!(count(|a| *a != Answer::NotAsked), out.maps, "{}", rules.id);
        // Element 1 is too large for a segment, so element 2 is not asked for.
        assert!(matches!(answers[4], Answer::Refused { cause: Cause::TooLarge, .. }), "{}: {answers:?}", rules.id);
        assert_eq!(answers[5], Answer::NotAsked, "{}", rules.id);
    }
}

#[test]
fn a_moment_is_the_pool_as_the_mapping_met_it() {
    let big = 256 << 10;
    let events = [map(1, LOW, big), map(2, 2 * LOW, 8192), map(3, 3 * LOW, big), unmap(4, LOW, big), map(5, LOW, big)];
    let load = load(&events);
    let at = |number| replay::moment(&load, &mut machine("v6_10", 256), &Options::default(), number);
    let refused = at(2).unwrap();
    assert_eq!(refused.answer, Answer::Refused { cause: Cause::PoolFull, reason: Some(replay::Reason::Forced) });
    let pool = &refused.pools[refused.pool];
    assert_eq!((pool.used, pool.free(), pool.largest_run(), pool.runs.as_slice()), (132, 124, 124, &[(124, 1)][..]));
    let held: Vec<_> = refused.holders.iter().map(|h| (h.number, h.since_ns, h.taken.nslots)).collect();
    assert_eq!(held, [(Some(0), Some(1), 128), (Some(1), Some(2), 4)]);
    assert!(refused.refusal.unwrap().to_string().starts_with("needs 128 slots: 256 KiB; 124 of 256 are free"));
    let served = at(3).unwrap();
    assert!(served.answer.is_served() && served.refusal.is_none());
    assert_eq!(served.holders.len(), 1);
    assert_eq!(at(4), None, "there are four");
}

#[test]
fn the_recorded_pool_is_where_the_kernel_put_things() {
    let pool = Pool { start: 1 << 30, nslabs: 256, nareas: 1, force_bounce: true, ..Pool::default() };
    let snapshot = [SnapshotSlot { slot: 200, orig_addr: LOW, alloc_size: 2048, pad_slots: 0, pool: None }];
    let start = Start { pools: std::slice::from_ref(&pool), snapshot: &snapshot, snapshot_ns: Some(0) };
    let mut recorded = RecordedPool::new(&start, &[], Generation::by_id("v6_10").unwrap());
    let slots = |op, time, slot: u64, size| Event {
        orig_addr: Some(LOW),
        size: Some(size),
        tlb_addr: Some((1 << 30) + slot * 2048),
        ..Event::new(op, time, 0, 0, 0)
    };
    recorded.push(0, &slots(Op::SlotAlloc, 1, 0, 256 << 10));
    recorded.push(1, &slots(Op::SlotAlloc, 2, 128, 8192));
    let failed = Event { tlb_addr: None, ..slots(Op::SlotFailed, 3, 0, 256 << 10) };
    let moment = recorded.moment(&failed).unwrap();
    assert_eq!(moment.answer, Answer::Refused { cause: Cause::PoolFull, reason: None });
    assert_eq!(moment.holders.iter().map(|h| h.number).collect::<Vec<_>>(), [Some(0), Some(1), None]);
    assert_eq!((moment.pools[0].used, moment.pools[0].largest_run()), (133, 68));
    // A release is missing: what is taken again has gone.
    recorded.push(2, &slots(Op::SlotAlloc, 4, 64, 4096));
    recorded.push(3, &slots(Op::SlotFree, 5, 128, 8192));
    let moment = recorded.moment(&failed).unwrap();
    assert_eq!(moment.holders.iter().map(|h| h.number).collect::<Vec<_>>(), [Some(2), None]);
}

fn machine(policy: &str, nslabs: u64) -> Machine {
    Machine::new(&Policy::parse(policy).unwrap().resolve(&base(nslabs)).unwrap(), Platform::native())
}
