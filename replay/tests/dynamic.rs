//! Pools that come and go (SPEC 5) beside a literal model of them, on random loads: same addresses, same pages asked for
//! in the same order, same counters, and the invariants of SPEC 12 in every pool after every step.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "reference/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod literal;

use std::sync::{Arc, Mutex};

use literal::{Answer, Reference};
use proptest::prelude::*;
use replay::{Allocator, Buddy, GENERATIONS, Generation, Geometry, Limits, PageSource, Request, SlotPool, Zone};
use replay::{Base, Cause, Load, Machine, Options, Outcome, Platform, Policy, Surroundings, replay};

use trace::{Device, Direction, Event, Op};

/// What was asked of a source of pages, and what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Take(u32, Option<u64>),
    Give(u64, u32),
}

/// A [`Buddy`] whose answers are noted.
#[derive(Clone, Debug)]
struct Noted(Buddy, Arc<Mutex<Vec<Asked>>>);

impl PageSource for Noted {
    fn take(&mut self, order: u32, zone: Zone) -> Option<u64> {
        let addr = self.0.take(order, zone);
        self.1.lock().unwrap().push(Asked::Take(order, addr));
        addr
    }

    fn give(&mut self, addr: u64, order: u32) {
        self.1.lock().unwrap().push(Asked::Give(addr, order));
        self.0.give(addr, order);
    }

    fn boxed(&self) -> Box<dyn PageSource> {
        Box::new(self.clone())
    }
}

/// SPEC 5, word for word.
struct Literal {
    rules: &'static Generation,
    /// In the kernel's order: newest first, the boot pool last.
    pools: Vec<Reference>,
    transient: Vec<(Reference, u32)>,
    boot: Geometry,
    used: u64,
    high_water: u64,
    scheduled: bool,
    /// A page a `bool`, from `base` on.
    free: Vec<bool>,
    base: u64,
    asked: Vec<Asked>,
}

impl Literal {
    fn new(rules: &'static Generation, boot: Geometry, base: u64, pages: usize) -> Self {
        let (pools, free) = (vec![Reference::new(rules, boot)], vec![true; pages]);
        let (transient, asked) = (Vec::new(), Vec::new());
        Self { rules, pools, transient, boot, used: 0, high_water: 0, scheduled: false, free, base, asked }
    }

    /// The lowest naturally aligned free block.
    fn take(&mut self, order: u32) -> Option<u64> {
        let (size, first) = (1u64 << order, self.base >> 12);
        let found = (first..first + self.free.len() as u64).find(|page| {
            let range = (page - first) as usize..(page - first + size) as usize;
            page % size == 0 && self.free.get(range).is_some_and(|free| free.iter().all(|&f| f))
        });
        self.asked.push(Asked::Take(order, found.map(|page| page << 12)));
        let page = found?;
        self.free[(page - first) as usize..(page - first + size) as usize].fill(false);
        Some(page << 12)
    }

    fn give(&mut self, addr: u64, order: u32) {
        self.asked.push(Asked::Give(addr, order));
        let at = ((addr - self.base) >> 12) as usize;
        self.free[at..at + (1 << order)].fill(true);
    }

    /// Pages at or below a limit: the limit's zone is asked, and every lower one when they lie too high.
    fn take_below(&mut self, slots: u64, limit: u64) -> Option<(u64, u32)> {
        let pages = slots.div_ceil(2);
        let order = (0..).find(|&order| 1 << order >= pages).unwrap();
        let zones = if limit < 1 << 24 {
            1
        } else if limit < 1 << 32 {
            2
        } else {
            3
        };
        for _ in 0..zones {
            let addr = self.take(order)?;
            if addr + slots * 2048 - 1 <= limit {
                return Some((addr, order));
            }
            self.give(addr, order);
        }
        None
    }

    fn map(&mut self, request: &Request, limits: &Limits) -> Option<(u64, u64, u64)> {
        let dynamic = self.rules.dynamic.unwrap();
        let slots = literal::slots(self.rules, request, limits);
        if dynamic.refuses_oversize && slots > 128 {
            return None;
        }
        let cpu = request.cpu as usize;
        let areas = |pool: &Reference| pool.index.len();
        let mut order = Vec::new();
        if self.rules.id.starts_with("v6_6") {
            for (at, pool) in self.pools.iter().enumerate() {
                order.extend((0..areas(pool)).map(|o| (at, (cpu + o) % areas(pool))));
            }
        } else {
            for o in 0..self.boot.areas as usize {
                let fits = self.pools.iter().enumerate().filter(|(_, pool)| o < areas(pool));
                order.extend(fits.map(|(at, pool)| (at, (cpu + o) & (areas(pool) - 1))));
            }
        }
        for (pool, area) in order {
            if let Answer::Taken { tlb_addr, first, n } = self.pools[pool].search(area, request, limits) {
                return Some(self.count(tlb_addr, first, n));
            }
        }
        self.scheduled = true;
        let (start, order) = self.take_below(slots, limits.reach)?;
        let mut pool = Reference::new(self.rules, Geometry { start, nslabs: slots, areas: 1 });
        let Answer::Taken { tlb_addr, first, n } = pool.search(0, request, limits) else {
            self.give(start, order);
            return None;
        };
        self.transient.push((pool, order));
        Some(self.count(tlb_addr, first, n))
    }

    fn count(&mut self, tlb_addr: u64, first: u64, n: u64) -> (u64, u64, u64) {
        self.used += n;
        self.high_water = self.high_water.max(self.used);
        (tlb_addr, first, n)
    }

    fn unmap(&mut self, tlb_addr: u64, limits: &Limits) {
        let inside =
            |pool: &Reference| (pool.pool.start..pool.pool.start + 2048 * pool.list.len() as u64).contains(&tlb_addr);
        if let Some(at) = self.transient.iter().position(|(pool, _)| inside(pool)) {
            let (pool, order) = self.transient.remove(at);
            self.used -= pool.list.len() as u64;
            self.give(pool.pool.start, order);
            return;
        }
        let pool = self.pools.iter_mut().find(|pool| inside(pool)).unwrap();
        let before: u64 = pool.used.iter().sum();
        pool.unmap(tlb_addr, limits);
        self.used -= before - pool.used.iter().sum::<u64>();
    }

    fn work(&mut self) -> bool {
        if !std::mem::take(&mut self.scheduled) {
            return false;
        }
        let mut slots = self.boot.nslabs.min(2048);
        loop {
            if let Some((start, _)) = self.take_below(slots, 0xffff_ffff) {
                let areas = self.boot.areas.min((slots / 128) as u32);
                self.pools.insert(0, Reference::new(self.rules, Geometry { start, nslabs: slots, areas }));
                return true;
            }
            if slots <= 512 {
                return true;
            }
            slots /= 2;
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Map { request: Request, device: usize },
    Unmap(usize),
    Work,
}

#[derive(Clone, Debug)]
struct Case {
    rules: &'static Generation,
    boot: Geometry,
    region: (u64, usize),
    devices: Vec<Limits>,
    steps: Vec<Step>,
}

fn devices() -> impl Strategy<Value = Limits> {
    let reaches = prop::sample::select(vec![u64::MAX, u64::MAX, 0xffff_ffff, 0x1_ffff_ffff, 0x3fff_ffff, 0xff_ffff]);
    let masks = prop::sample::select(vec![0, 0, 0x7ff, 0xfff, 0xfff, 0xffff]);
    let boundaries = prop::sample::select(vec![u64::MAX, 0xffff_ffff, 0xffff, 0x1_ffff]);
    (reaches, masks, boundaries).prop_map(|(reach, min_align_mask, boundary)| Limits {
        reach,
        min_align_mask,
        boundary,
        ..Limits::NONE
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let low = prop::sample::select(vec![0, 0, 0x800, 0xa00, 0xa34, 1]);
    let sizes = prop_oneof![
        4 => 1u64..9000,
        6 => prop::sample::select(vec![4096, 16384, 32768, 65536, 131_072, 262_144]),
        2 => 100_000u64..280_000,
    ];
    let masks = prop::sample::select(vec![0, 0, 0, 0xfff, 0x3fff]);
    let maps = (0x10_0000u64..0x20_0000, low, sizes, masks, 0u32..9, 0usize..4);
    prop_oneof![
        8 => maps.prop_map(|(page, low, size, align_mask, cpu, device)| {
            Step::Map { request: Request { orig_addr: page << 12 | low, size, align_mask, cpu }, device }
        }),
        4 => any::<usize>().prop_map(Step::Unmap),
        1 => Just(Step::Work),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let rules: Vec<_> = GENERATIONS.iter().filter(|g| g.dynamic.is_some()).collect();
    let pools = (prop::sample::select(vec![1u32, 2, 4, 16]), prop::sample::select(vec![128u64, 512, 1024, 4096]));
    let bases = prop::sample::select(vec![0x80_0000, 0x4000_0000, 0x4010_3000, 0xfff0_0000, 0x1_4000_0000]);
    let steps = prop::collection::vec(steps(), 1..400);
    let devices = prop::collection::vec(devices(), 4);
    (prop::sample::select(rules), pools, bases, 1usize..3000, devices, steps).prop_map(
        |(rules, (areas, nslabs), base, pages, devices, steps)| {
            let boot = Geometry { start: 0x7400_0000, nslabs: nslabs.max(128 * u64::from(areas)), areas };
            Case { rules, boot, region: (base, pages), devices, steps }
        },
    )
}

fn compare(case: &Case) -> Result<(), TestCaseError> {
    let (base, pages) = case.region;
    let mut buddy = Buddy::default();
    buddy.add(base, (pages as u64) << 12);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut fast = Allocator::new(case.rules, &[case.boot]);
    fast.grow_from(Box::new(Noted(buddy, asked.clone())), 0xffff_ffff);
    let mut slow = Literal::new(case.rules, case.boot, base, pages);
    let mut alive: Vec<(u64, u64, usize)> = Vec::new();
    for step in &case.steps {
        match *step {
            Step::Map { request, device } => {
                let limits = &case.devices[device];
                let expected = slow.map(&request, limits);
                let got = fast.map(&request, limits);
                let place = got.map(|t| (t.tlb_addr, u64::from(t.first_slot), u64::from(t.nslots)));
                prop_assert_eq!(place.ok(), expected, "{:?} for {:?}: {:?}", request, limits, got);
                match got {
                    Ok(taken) => alive.push((taken.tlb_addr, u64::from(taken.nslots), device)),
                    Err(cause) => {
                        let refusal = fast.explain(&request, limits, cause);
                        prop_assert_eq!(refusal.cause, cause);
                        prop_assert!(!refusal.to_string().is_empty());
                    }
                }
            }
            Step::Unmap(_) if alive.is_empty() => {}
            Step::Unmap(which) => {
                let (tlb_addr, n, device) = alive.swap_remove(which % alive.len());
                slow.unmap(tlb_addr, &case.devices[device]);
                prop_assert_eq!(fast.unmap(tlb_addr, &case.devices[device]), Some(n as u32));
            }
            Step::Work => prop_assert_eq!(fast.run_worker(), slow.work()),
        }
        prop_assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), std::mem::take(&mut slow.asked), "the pages");
        same_state(&fast, &slow, &alive)?;
    }
    Ok(())
}

/// I1 to I5, I12 and I13, and equality of every pool.
fn same_state(fast: &Allocator, slow: &Literal, alive: &[(u64, u64, usize)]) -> Result<(), TestCaseError> {
    let staying: Vec<&SlotPool> = fast.pools().iter().chain(fast.added_pools()).collect();
    prop_assert_eq!(staying.len(), slow.pools.len());
    for (pool, slow) in staying.iter().zip(slow.pools.iter().rev()) {
        prop_assert!(pool.list().eq(slow.list.iter().copied()), "list[] differs");
        for (area, state) in pool.areas().iter().enumerate() {
            prop_assert_eq!((state.index, state.used), (slow.index[area], slow.used[area]), "area {}", area);
            prop_assert!(state.index < pool.area_slots(), "I5");
        }
    }
    let mut transient = 0;
    for pool in fast.transient_pools() {
        let (start, nslabs) = (pool.geometry().start, pool.geometry().nslabs);
        let inside = alive.iter().filter(|(addr, _, _)| pool.contains(*addr)).collect::<Vec<_>>();
        prop_assert_eq!(inside.len(), 1, "I12: the pool at {:#x}", start);
        prop_assert_eq!(inside[0].1, nslabs);
        transient += nslabs;
    }
    prop_assert_eq!(fast.transient_pools().count(), slow.transient.len());
    if let Some(counted) = fast.transient_slots() {
        prop_assert_eq!(counted, transient);
    }
    let total: u64 = alive.iter().map(|&(_, n, _)| n).sum();
    prop_assert_eq!((fast.used(), slow.used), (total, total), "I4");
    prop_assert_eq!(fast.high_water(), slow.high_water, "I13");
    prop_assert!(fast.high_water() >= total, "I13");
    let mut addresses: Vec<_> = alive.iter().map(|&(addr, _, _)| addr).collect();
    addresses.sort_unstable();
    prop_assert!(addresses.windows(2).all(|pair| pair[0] < pair[1]), "I1");
    Ok(())
}

proptest! {
    #[test]
    fn pools_come_and_go_as_in_the_literal_model(case in cases()) {
        compare(&case)?;
    }
}

/// A map every 100 us of 256 KiB, so 128 slots, and none undone.
fn growing(policy: &str, dma_mask: u64, maps: u64) -> Outcome {
    let device = Device {
        id: 0,
        name: "dev0".to_owned(),
        driver: None,
        dma_mask: Some(dma_mask),
        coherent_dma_mask: dma_mask,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: None,
        min_align_mask: 0,
        ..Device::new(0, "")
    };
    let map = |i: u64| Event {
        orig_addr: Some(0x20_0000),
        size: Some(262_144),
        dma_addr: Some(i << 20),
        direction: Some(Direction::ToDevice),
        ..Event::new(Op::Map, i * 100_000, 0, 1, 0)
    };
    let events: Vec<_> = (1..=maps).map(map).collect();
    let load = Load::collect(&events, &[device], &Surroundings::default());
    let pool = Geometry { start: 0x74_0000, nslabs: 512, areas: 1 };
    let setup = Policy::parse(policy).unwrap().resolve(&Base { pool, cpus: Some(1), force: true }).unwrap();
    replay(&load, &mut Machine::new(&setup, Platform::native()), &Options::default())
}

#[test]
fn a_what_if_grows_when_its_worker_has_run() {
    // Four fit. The fifth, at 500 us, wakes the worker and has a pool of its own; so have those until the worker's is there.
    let out = growing("v6_10+dynamic:worker=250us", u64::MAX, 20);
    let grown = out.grown.unwrap();
    // Pools for four maps each come at 750 and 1,450 us, three transient ones before each, two after.
    assert_eq!((out.total_failures(), out.peak_slots[0], out.final_slots[0]), (0, 20 * 128, 20 * 128));
    assert_eq!((grown.pools, grown.slots, grown.transient, grown.transient_peak_slots), (2, 1024, 8, 1024));
    let slow = growing("v6_10+dynamic:worker=1s", u64::MAX, 20).grown.unwrap();
    assert_eq!((slow.pools, slow.transient), (0, 16));
    assert_eq!(growing("v6_10", u64::MAX, 20).failed(Cause::PoolFull), 16);
    assert_eq!(growing("v6_10", u64::MAX, 20).grown, None);
}

#[test]
fn a_request_may_not_fit_in_a_pool_of_its_own() {
    let boot = Geometry { start: 0x7400_0000, nslabs: 128, areas: 1 };
    let mut allocator = Allocator::new(Generation::by_id("v6_10").unwrap(), &[boot]);
    let mut buddy = Buddy::default();
    buddy.add(0x4000_0000, 4 << 20);
    allocator.grow_from(Box::new(buddy), 0xffff_ffff);
    let nvme = Limits { min_align_mask: 0xfff, ..Limits::NONE };
    let request = |orig_addr, size| Request { orig_addr, size, align_mask: 0, cpu: 0 };
    allocator.map(&request(0x1000, 258_048), &nvme).unwrap();
    // Two slots of which the first must be odd; the pool made for them has two.
    let late = request(0x1800, 4096);
    let cause = allocator.map(&late, &nvme).unwrap_err();
    assert_eq!(cause, Cause::GrowPending);
    assert_eq!(
        allocator.explain(&late, &nvme, cause).to_string(),
        "needs 2 slots: 4 KiB; no pool had room, and in one of its own at 0x40000000 it would begin at an address the \
         masks do not allow; a pool of 128 was on its way"
    );
    assert!(allocator.worker_scheduled() && allocator.run_worker());
    assert_eq!(allocator.map(&late, &nvme).unwrap().tlb_addr, 0x4000_0800);
    // No pool would ever do for these.
    assert_eq!(allocator.map(&request(0x1800, 260_096 + 2048), &nvme), Err(Cause::AlignmentImpossible));
    assert_eq!(allocator.map(&request(0x1a00, 262_144), &nvme), Err(Cause::TooLargeWithOffset));
}

#[test]
fn a_what_if_says_why_no_pool_came_in_time() {
    // 15 MiB of memory below 16 MiB, less the pool's one, hold a few dozen buffers of 256 KiB.
    let out = growing("v6_10+dynamic:worker=1s", 0xff_ffff, 70);
    assert_eq!(out.failed(Cause::TransientRefused), out.total_failures());
    assert_eq!(out.total_failures(), 70 - 4 - 56, "14 MiB in blocks of 256 KiB are 56");
    let said = out.refusals[0].refusal.to_string();
    assert_eq!(
        said,
        "needs 128 slots: 256 KiB; no pool had room, and there were no pages at or below 0xffffff for one of its own; \
         a pool of 512 was on its way"
    );
}
