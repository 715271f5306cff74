//! The checker against a made-up kernel: the model itself, on several CPUs, with what recording does to the order and
//! completeness of its events.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use replay::follow::{Followed, Follower};
use replay::{Allocator, Buddy, Generation, Geometry, Limits, Miss, Request, Start, Verdict, verify};
use trace::event::NO_DEVICE;
use trace::{Area, Device, Event, Op, Pool, PoolKind, SnapshotSlot};

const START: u64 = 0x7400_0000;

fn devices() -> Vec<Device> {
    let device = |id, min_align_mask| Device {
        id,
        name: format!("dev{id}"),
        driver: None,
        dma_mask: Some(u64::MAX),
        coherent_dma_mask: u64::MAX,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: None,
        min_align_mask,
        ..Device::new(0, "")
    };
    vec![device(0, 0), device(1, 0xfff)]
}

/// A kernel that records what it does.
struct Kernel {
    allocator: Allocator,
    alive: Vec<(u64, u32, Request)>,
    events: Vec<Event>,
    random: u64,
}

impl Kernel {
    fn new(id: &str) -> Self {
        let rules = Generation::by_id(id).unwrap();
        let areas = if rules.areas { 4 } else { 1 };
        let allocator = Allocator::new(rules, &[Geometry { start: START, nslabs: 2048, areas }]);
        Self { allocator, alive: Vec::new(), events: Vec::new(), random: 0x9e37_79b9_7f4a_7c15 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below
    }

    fn event(&mut self, op: Op, cpu: u32, device: u32) -> Event {
        Event::new(op, self.events.len() as u64 * 1000, cpu, 1, device)
    }

    fn map(&mut self) {
        let device = self.random(2) as u32;
        let low = if self.random(3) == 0 { 0xa00 } else { 0 };
        let orig_addr = 0x1_0000_0000 + (self.random(1 << 20) << 12) + low;
        let size = [2048, 4096, 16384, 65536, 1000, 200_000][self.random(6) as usize];
        let request = Request { orig_addr, size, align_mask: 0, cpu: self.random(4) as u32 };
        let limits = Limits::from(&devices()[device as usize]);
        let taken = self.allocator.map(&request, &limits).ok();
        let op = if taken.is_some() { Op::SlotAlloc } else { Op::SlotFailed };
        let event = self.event(op, request.cpu, device);
        self.events.push(Event {
            orig_addr: Some(orig_addr),
            size: Some(size),
            align_mask: Some(0),
            tlb_addr: taken.map(|t| t.tlb_addr),
            ..event
        });
        if let Some(taken) = taken {
            self.alive.push((taken.tlb_addr, device, request));
        }
    }

    fn unmap(&mut self) {
        if !self.alive.is_empty() {
            let which = self.random(self.alive.len() as u64) as usize;
            let (tlb_addr, device, request) = self.alive.swap_remove(which);
            self.allocator.unmap(tlb_addr, &Limits::from(&devices()[device as usize])).unwrap();
            let event = self.event(Op::SlotFree, request.cpu, device);
            self.events.push(Event { tlb_addr: Some(tlb_addr), ..event });
        }
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.random(100) < 52 { self.map() } else { self.unmap() }
        }
    }

    /// What a recorder would read out of the pool now.
    fn snapshot(&self) -> (Pool, Vec<SnapshotSlot>) {
        let pool = &self.allocator.pools()[0];
        let areas = pool.areas().iter().map(|a| Area { index: a.index, used: a.used }).collect();
        let mut slots = Vec::new();
        for &(tlb_addr, device, request) in &self.alive {
            let offset = tlb_addr & devices()[device as usize].min_align_mask & 2047;
            let first = (tlb_addr - START) / 2048;
            let asize = request.size + offset;
            for k in 0..asize.div_ceil(2048) {
                let alloc_size = asize.wrapping_sub(offset + k * 2048);
                let orig_addr = request.orig_addr + k * 2048;
                slots.push(SnapshotSlot { slot: (first + k) as u32, orig_addr, alloc_size, pad_slots: 0, pool: None });
            }
        }
        let Geometry { start, nslabs, areas: nareas } = *pool.geometry();
        (Pool { start, nslabs, nareas, force_bounce: true, areas, ..Pool::default() }, slots)
    }
}

fn judge(events: &[Event], policy: &str, state: &(Pool, Vec<SnapshotSlot>), snapshot_ns: Option<u64>) -> Verdict {
    let start = Start { pools: std::slice::from_ref(&state.0), snapshot: &state.1, snapshot_ns };
    verify(events, &devices(), &start, Generation::by_id(policy).unwrap())
}

#[test]
fn a_whole_recording_is_predicted_whole() {
    for policy in ["legacy", "v6_1y", "v6_3", "v6_10"] {
        let mut kernel = Kernel::new(policy);
        let empty = kernel.snapshot();
        kernel.run(20_000);
        let verdict = judge(&kernel.events, policy, &empty, Some(0));
        assert!(verdict.total > 10_000 && kernel.events.iter().any(|e| e.op == Op::SlotFailed), "{policy}");
        assert_eq!((verdict.exact, verdict.missed()), (verdict.total, 0), "{policy}: {verdict:?}");
        assert_eq!((verdict.missed_frees, verdict.unknown_frees, verdict.snapshot_mismatches), (0, 0, 0));
    }
}

#[test]
fn a_recording_that_begins_in_the_middle_needs_the_snapshot() {
    let mut kernel = Kernel::new("v6_10");
    kernel.run(5000);
    let state = kernel.snapshot();
    let now = kernel.events.len() as u64 * 1000;
    kernel.run(5000);
    let verdict = judge(&kernel.events, "v6_10", &state, Some(now));
    assert_eq!(verdict.exact, verdict.total, "{verdict:?}");
    assert!(verdict.before_snapshot > 4000 && verdict.snapshot_mismatches == 0);
    let later: Vec<_> = kernel.events.iter().filter(|e| e.time_ns >= now).cloned().collect();
    let blind = judge(&later, "v6_10", &(Pool { areas: vec![], ..state.0 }, vec![]), None);
    assert!(blind.without_snapshot && blind.missed() > 0 && blind.unknown_frees > 0);
    let explained = blind.misses[Miss::IndexUnknown as usize] + blind.misses[Miss::StateUnknown as usize];
    let refused = blind.misses[Miss::RefusedByKernel as usize];
    assert_eq!(explained + refused, blind.missed(), "{blind:?}");
}

#[test]
fn another_policy_is_found_out() {
    let mut kernel = Kernel::new("v6_10");
    let empty = kernel.snapshot();
    kernel.run(5000);
    let verdict = judge(&kernel.events, "v6_3", &empty, Some(0));
    assert!(verdict.share() < 0.9, "{verdict:?}");
    assert!(!verdict.examples.is_empty());
}

#[test]
fn neighbours_in_the_wrong_order_are_not_misses() {
    let mut kernel = Kernel::new("v6_10");
    let empty = kernel.snapshot();
    kernel.run(10_000);
    let mut swapped = 0;
    let mut at = 40;
    while at + 1 < kernel.events.len() {
        // Where the order is truly told apart: both in one area, or a release among them.
        let (a, b) = (&kernel.events[at], &kernel.events[at + 1]);
        if a.op == Op::SlotAlloc && b.op == Op::SlotAlloc && a.cpu == b.cpu {
            let (time_a, time_b) = (a.time_ns, b.time_ns);
            kernel.events.swap(at, at + 1);
            kernel.events[at].time_ns = time_a;
            kernel.events[at + 1].time_ns = time_b;
            swapped += 1;
        }
        at += 50;
    }
    let verdict = judge(&kernel.events, "v6_10", &empty, Some(0));
    assert!(swapped > 10 && verdict.after_swap >= swapped / 2, "{swapped} {verdict:?}");
    assert_eq!(verdict.exact + verdict.after_swap, verdict.total, "{verdict:?}");
}

#[test]
fn releases_written_down_before_an_allocation_that_did_not_see_them() {
    let mut kernel = Kernel::new("v6_10");
    let empty = kernel.snapshot();
    kernel.run(20_000);
    let mut moved = 0;
    for at in (40..kernel.events.len() - 1).step_by(20) {
        if kernel.events[at].op == Op::SlotAlloc
            && kernel.events[at + 1].op == Op::SlotFree
            && kernel.events[at].tlb_addr != kernel.events[at + 1].tlb_addr
        {
            kernel.events.swap(at, at + 1);
            moved += 1;
        }
    }
    let verdict = judge(&kernel.events, "v6_10", &empty, Some(0));
    assert!(moved > 50 && verdict.after_swap > 0, "{verdict:?}");
    assert_eq!(verdict.exact + verdict.after_swap, verdict.total, "{verdict:?}");
}

#[test]
fn tasks_that_were_preempted_before_their_records() {
    let mut kernel = Kernel::new("v6_10");
    let empty = kernel.snapshot();
    kernel.run(20_000);
    let mut away = 0;
    for at in (100..kernel.events.len() - 400).step_by(600) {
        // Three tasks one after the other take slots and are away, while the others go on; they come back in another order.
        for (tid, late) in [(91, 250), (92, 120), (93, 180)] {
            let Some(next) = (at..at + 50).find(|&i| kernel.events[i].op == Op::SlotAlloc && kernel.events[i].tid < 90)
            else {
                continue;
            };
            let event = kernel.events.remove(next);
            let freed = kernel.events[next..].iter().position(|e| e.op == Op::SlotFree && e.tlb_addr == event.tlb_addr);
            kernel.events.insert(next + freed.unwrap_or(late).min(late), Event { tid, ..event });
            away += 1;
        }
    }
    let verdict = judge(&kernel.events, "v6_10", &empty, Some(0));
    assert!(away > 60, "{away}");
    // On four CPUs with a pool that refuses now and then not every order can be told from what is left.
    assert!(verdict.total - verdict.exact - verdict.after_swap <= 20 && verdict.missed_frees <= 1, "{verdict:?}");
    let wrong = judge(&kernel.events, "v6_3", &empty, Some(0));
    assert!(wrong.share() < 0.95, "{wrong:?}");
}

#[test]
fn records_that_say_where_they_belong() {
    let mut kernel = Kernel::new("v6_10");
    let empty = kernel.snapshot();
    kernel.run(20_000);
    let mut moved = 0;
    for at in (100..kernel.events.len() - 400).step_by(300) {
        let event = kernel.events[at].clone();
        let freed = kernel.events[at..].iter().position(|e| e.op == Op::SlotFree && e.tlb_addr == event.tlb_addr);
        let late = freed.map_or(290, |n| n - 1).min(290);
        if event.op == Op::SlotAlloc && late > 0 {
            kernel.events.remove(at);
            let since_ns = Some(kernel.events[at].time_ns);
            let time_ns = kernel.events[at + late - 1].time_ns;
            kernel.events.insert(at + late, Event { time_ns, since_ns, ..event });
            moved += 1;
        }
    }
    let verdict = judge(&kernel.events, "v6_10", &empty, Some(0));
    assert!(moved > 15, "{moved}");
    assert_eq!((verdict.exact, verdict.after_swap), (verdict.total, 0), "{verdict:?}");
}

#[test]
fn records_written_long_after_the_lock() {
    let mut kernel = Kernel::new("v6_10");
    let empty = kernel.snapshot();
    kernel.run(20_000);
    let mut moved = 0;
    for at in (100..kernel.events.len() - 400).step_by(500) {
        let event = kernel.events[at].clone();
        let freed = kernel.events[at..].iter().position(|e| e.op == Op::SlotFree && e.tlb_addr == event.tlb_addr);
        if event.op == Op::SlotAlloc {
            // Interrupted for as long as three hundred events, or until its buffer is given back.
            let late = freed.map_or(300, |n| n - 1).min(300);
            kernel.events.remove(at);
            kernel.events.insert(at + late, Event { tid: 99, ..event });
            moved += u64::from(late > 0);
        }
    }
    let verdict = judge(&kernel.events, "v6_10", &empty, Some(0));
    assert!(moved > 15 && verdict.after_swap > moved / 2, "{moved} {verdict:?}");
    assert_eq!((verdict.exact + verdict.after_swap, verdict.missed_frees), (verdict.total, 0), "{verdict:?}");
    // Another order does not make a wrong policy right.
    let wrong = judge(&kernel.events, "v6_3", &empty, Some(0));
    assert!(wrong.share() < 0.95, "{wrong:?}");
}

#[test]
fn a_task_that_moved_is_told_from_a_wrong_model() {
    let mut kernel = Kernel::new("v6_10");
    let empty = kernel.snapshot();
    kernel.run(2000);
    let moved = kernel.events.iter().position(|e| e.time_ns > 500_000 && e.op == Op::SlotAlloc).unwrap();
    kernel.events[moved].cpu ^= 1;
    let verdict = judge(&kernel.events, "v6_10", &empty, Some(0));
    assert_eq!(verdict.misses[Miss::CpuDiffers as usize], 1, "{verdict:?}");
    assert_eq!(verdict.missed(), 1, "the miss does not drag others behind it");
    assert_eq!(verdict.examples[0].miss, Miss::CpuDiffers);
}

#[test]
fn what_the_recorder_missed_is_repaired_and_counted() {
    let mut kernel = Kernel::new("v6_10");
    let empty = kernel.snapshot();
    kernel.run(20_000);
    let (mut frees, mut allocs) = (0, 0);
    let mut at = 0;
    kernel.events.retain(|e| {
        at += 1;
        let drop = at % 400 == 0;
        frees += u64::from(drop && e.op == Op::SlotFree);
        allocs += u64::from(drop && e.op == Op::SlotAlloc);
        !drop
    });
    let verdict = judge(&kernel.events, "v6_10", &empty, Some(0));
    assert!(frees > 5 && allocs > 5);
    assert!(verdict.missed_frees >= frees / 2 && verdict.unknown_frees >= allocs / 2, "{verdict:?}");
    assert!(verdict.share() > 0.9, "{verdict:?}");
}

#[test]
fn a_pool_that_cannot_be_holds_nothing() {
    let mut kernel = Kernel::new("v6_10");
    let (pool, slots) = kernel.snapshot();
    kernel.run(10);
    for (nslabs, nareas) in [(u64::MAX, 4), (2048, u32::MAX), (0, 1)] {
        let pool = Pool { nslabs, nareas, ..pool.clone() };
        let verdict = judge(&kernel.events, "v6_10", &(pool, slots.clone()), Some(0));
        assert_eq!((verdict.exact, verdict.other_pools > 0), (0, true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Nonsense may be judged, but must not break anything.
    #[test]
    fn any_events_at_all(events in prop::collection::vec(
        (0usize..12, 0u32..9, 0u32..3, any::<Option<u64>>(), 0u64..300_000, -5000i64..5_000_000, any::<u64>()), 0..200,
    ), slots in prop::collection::vec((0u32..2100, any::<u64>(), any::<u64>(), 0u32..9), 0..50), policy in 0usize..13) {
        let events: Vec<_> = events.into_iter().map(|(op, cpu, device, orig_addr, size, tlb, align)| Event {
            orig_addr,
            size: Some(size),
            tlb_addr: Some(START.wrapping_add_signed(tlb)),
            align_mask: (align % 3 == 0).then_some(align),
            ..Event::new(Op::ALL[op], 5, cpu, 1, device)
        }).collect();
        let slots = slots.into_iter()
            .map(|(slot, orig_addr, alloc_size, pad_slots)| SnapshotSlot { slot, orig_addr, alloc_size, pad_slots, pool: None })
            .collect();
        let areas = vec![Area { index: 99_999, used: 3 }];
        let pool = Pool { start: START, nslabs: 2048, nareas: 4, force_bounce: false, areas, ..Pool::default() };
        let verdict = judge(&events, replay::GENERATIONS[policy].id, &(pool, slots), Some(0));
        prop_assert_eq!(verdict.exact + verdict.after_swap + verdict.missed(), verdict.total);
    }
}

/// A kernel whose pools come and go (SPEC 5), in a pool that is soon too small.
fn growing(id: &str) -> Kernel {
    let rules = Generation::by_id(id).unwrap();
    let mut allocator = Allocator::new(rules, &[Geometry { start: START, nslabs: 1024, areas: 4 }]);
    let mut pages = Buddy::default();
    pages.add(0x1000_0000, 16 << 20);
    allocator.grow_from(Box::new(pages), u64::MAX);
    Kernel { allocator, alive: Vec::new(), events: Vec::new(), random: 0x9e37_79b9_7f4a_7c15 }
}

impl Kernel {
    fn tell_pool(&mut self, at: usize, geometry: Geometry, device: u32) {
        let told = Event {
            tlb_addr: Some(geometry.start),
            size: Some(geometry.nslabs * 2048),
            count: Some(u64::from(geometry.areas)),
            ..self.event(Op::PoolAdded, 0, device)
        };
        self.events.insert(at, told);
    }

    /// One step, with the pools that it made, and now and then the worker's turn.
    fn grow(&mut self) {
        let before: Vec<_> = self.allocator.transient_pools().map(|pool| *pool.geometry()).collect();
        let at = self.events.len();
        if self.random(100) < 55 {
            self.map()
        } else {
            self.unmap()
        }
        let made: Vec<_> = self.allocator.transient_pools().map(|pool| *pool.geometry()).collect();
        if let Some(&made) = made.iter().find(|made| !before.contains(made)) {
            let device = self.events[at].device;
            self.tell_pool(at, made, device);
        }
        if self.random(500) == 0 {
            let added = self.allocator.added_pools().count();
            self.allocator.run_worker();
            let pool = self.allocator.added_pools().nth(added).map(|pool| *pool.geometry());
            if let Some(pool) = pool {
                let end = self.events.len();
                self.tell_pool(end, pool, NO_DEVICE);
            }
        }
    }
}

#[test]
fn choices_in_pools_that_come_and_go_are_predicted() {
    for policy in ["v6_6", "v6_8", "v6_10"] {
        let mut kernel = growing(policy);
        let empty = kernel.snapshot();
        (0..6000).for_each(|_| kernel.grow());
        let of = |alone: bool| {
            kernel.events.iter().filter(move |e| e.op == Op::PoolAdded && (e.device != NO_DEVICE) == alone)
        };
        assert!(of(false).count() > 2 && of(true).count() > 50, "{policy}: {} {}", of(false).count(), of(true).count());
        let verdict = judge(&kernel.events, policy, &empty, Some(0));
        assert_eq!(
            (verdict.exact, verdict.missed(), verdict.other_pools),
            (verdict.total, 0, 0),
            "{policy}: {verdict:?}"
        );
        assert_eq!((verdict.missed_frees, verdict.unknown_frees), (0, 0), "{policy}");
        // The kernel may begin to search a pool a little after it was told of.
        let mut early = kernel.events.clone();
        for at in 1..early.len() {
            if early[at].op == Op::PoolAdded && early[at].device == NO_DEVICE && at > 3 {
                early[at - 3..=at].rotate_right(1);
            }
        }
        (0..).zip(&mut early).for_each(|(n, event)| event.time_ns = n * 1000);
        let verdict = judge(&early, policy, &empty, Some(0));
        assert_eq!((verdict.exact + verdict.after_swap, verdict.missed()), (verdict.total, 0), "{policy}: {verdict:?}");
        // Without the events of pools nothing can be said of what lies in them, and it is counted.
        let events: Vec<_> = kernel.events.into_iter().filter(|event| event.op != Op::PoolAdded).collect();
        let verdict = judge(&events, policy, &empty, Some(0));
        assert!(verdict.other_pools > 100, "{policy}: {verdict:?}");
    }
}

#[test]
fn a_devices_own_pool_is_judged_by_itself() {
    let (mut shared, mut own) = (Kernel::new("v6_10"), Kernel::new("v6_10"));
    own.allocator =
        Allocator::new(Generation::by_id("v6_10").unwrap(), &[Geometry { start: 1 << 30, nslabs: 256, areas: 1 }]);
    shared.run(2000);
    own.run(2000);
    let mut events = shared.events.clone();
    // The other's devices are 2 and 3.
    events.extend(own.events.iter().map(|event| Event { device: event.device + 2, ..event.clone() }));
    events.sort_by_key(|event| event.time_ns);
    let refused = own.events.iter().filter(|event| event.op == Op::SlotFailed).count();
    assert!(refused > 20, "{refused}");
    let mut all = devices();
    all.extend(devices().into_iter().map(|device| Device {
        id: device.id + 2,
        pool: Some("0x77".to_owned()),
        ..device
    }));
    let empty = |kernel: &str, start, nslabs, nareas| Pool {
        kind: if kernel == Pool::DEFAULT { PoolKind::Default } else { PoolKind::Own },
        name: kernel.to_owned(),
        start,
        nslabs,
        nareas,
        areas: vec![Area { index: 0, used: 0 }; nareas as usize],
        ..Pool::default()
    };
    let pools = [empty("default", START, 2048, 4), empty("0x77", 1 << 30, 256, 1)];
    let rules = Generation::by_id("v6_10").unwrap();
    let start = Start { pools: &pools, snapshot: &[], snapshot_ns: Some(0) };
    let verdict = verify(&events, &all, &start, rules);
    assert_eq!((verdict.exact, verdict.other_pools), (verdict.total, 0), "{verdict:?}");
    // What the trace does not know is not judged.
    let verdict = verify(&events, &devices(), &Start { pools: &pools[..1], ..start }, rules);
    assert!(verdict.other_pools > 500 && verdict.missed() > 0, "{verdict:?}");
}

#[test]
fn what_is_not_asked_of_a_known_pool_is_not_judged() {
    let mut kernel = Kernel::new("v6_10");
    let empty = kernel.snapshot();
    kernel.map();
    let served = kernel.events[0].clone();
    let refused = Event { tlb_addr: None, op: Op::SlotFailed, device: 9, ..served.clone() };
    let mut all = devices();
    all.push(Device { pool: Some("0x77".to_owned()), ..Device::new(9, "own") });
    let rules = Generation::by_id("v6_10").unwrap();
    let start = Start { pools: std::slice::from_ref(&empty.0), snapshot: &[], snapshot_ns: Some(0) };
    // Its pool was not there when the recording began.
    let verdict = verify(&[served.clone(), refused.clone()], &all, &start, rules);
    assert_eq!((verdict.total, verdict.exact, verdict.other_pools), (1, 1, 1));
    let mut follower = Follower::new(&start, &all, rules);
    assert_eq!(follower.push(&refused), Followed::Nothing);
    assert_eq!(follower.notes().other_pools, 1);
    // A pool that came while the snapshot was read is in no snapshot; one that was there stays what it was.
    let made = |start, time_ns| Event {
        tlb_addr: Some(start),
        size: Some(256 * 2048),
        count: Some(1),
        ..Event::new(Op::PoolAdded, time_ns, 0, 0, NO_DEVICE)
    };
    let later = Event { time_ns: 1_000, tlb_addr: Some(1 << 30), ..served };
    let start = Start { snapshot_ns: Some(500), ..start };
    let verdict = verify(&[made(1 << 30, 100), made(START, 200), later], &all, &start, rules);
    assert_eq!((verdict.total, verdict.exact, verdict.other_pools), (1, 1, 0), "{verdict:?}");
}

#[test]
fn pools_that_cannot_be_are_passed_over() {
    let kernel = Kernel::new("v6_10");
    let (pool, _) = kernel.snapshot();
    let alone = |start, nslabs| Pool { kind: PoolKind::Transient, start, nslabs, ..Pool::default() };
    let pools = [pool, alone(0, 1 << 60), alone(1 << 62, 1 << 55), Pool { kind: PoolKind::Own, ..alone(7, u64::MAX) }];
    let start = Start { pools: &pools, snapshot: &[], snapshot_ns: Some(0) };
    let event = |op, tlb: u64, size: u64| Event {
        orig_addr: Some(1 << 33),
        tlb_addr: Some(tlb),
        size: Some(size),
        count: Some(u64::from(u32::MAX)),
        ..Event::new(op, 1, 0, 0, 1)
    };
    let events =
        [event(Op::PoolAdded, 0, 1 << 63), event(Op::SlotAlloc, 1 << 62, 4096), event(Op::SlotFree, 1 << 62, 0)];
    let verdict = verify(&events, &devices(), &start, Generation::by_id("v6_10").unwrap());
    assert_eq!((verdict.total, verdict.other_pools), (0, 2));
}
