//! Judges one slot event after the other, and sets the model to what the kernel did.

mod event;
mod order;

use std::collections::{BTreeMap, HashMap, VecDeque};

use trace::pool::{Pool, PoolKind, SEGMENT_SLOTS, SLOT_BYTES};
use trace::{Event, Op};

use crate::allocator::Taken;
use crate::plan::{Limits, Plan, Request};
use crate::policy;
use crate::pool::{Geometry, Run, SlotPool};
use crate::rules::{Generation, PoolWalk};
use crate::snapshot::{self, Held};
use crate::verify::{Miss, MissExample, Start, Verdict};
use crate::walk::{Found, find};
use event::{SlotEvent, What};
use order::Waiting;
pub(crate) use order::placed;

/// Events before that are looked at for another order.
const BACK: usize = 256;
/// Misses kept with their circumstances, a kind.
pub(crate) const EXAMPLES: usize = 5;
/// Pools looked at: more than fit below 4 GiB.
pub(crate) const MOST_POOLS: usize = 4096;

/// How to take an event back.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Took { pool: usize, run: Run, index: u64 },
    Freed { pool: usize, run: Run, pad: u32 },
}

/// An event the model has taken in.
#[derive(Clone, Copy, Debug)]
struct Applied {
    event: SlotEvent,
    undo: Undo,
}

/// A pool, and whether each area's index is known, from the snapshot or from an allocation seen.
struct Known {
    pool: SlotPool,
    index_known: Vec<bool>,
}

/// The model of one allocator while it judges: the default one with what is added to it, or a device's own.
pub(crate) struct Checker {
    rules: &'static Generation,
    /// The oldest first; the kernel searches the newest first (SPEC 5).
    pools: Vec<Known>,
    /// How many of them there are by now.
    present: usize,
    /// Pools for one mapping, by where they begin, with their slots.
    alone: BTreeMap<u64, u64>,
    pub verdict: Verdict,
}

impl Checker {
    /// The pools at those places of the start.
    pub fn new(start: &Start<'_>, places: &[usize], rules: &'static Generation) -> Self {
        let known = start.snapshot_ns.is_some();
        let verdict = Verdict { without_snapshot: !known, ..Verdict::default() };
        let mut checker = Self { rules, pools: Vec::new(), present: 0, alone: BTreeMap::new(), verdict };
        for (place, pool) in places.iter().filter_map(|&place| Some((place, start.pools.get(place)?))) {
            match pool.kind {
                PoolKind::Transient => checker.add_alone(pool),
                PoolKind::Default | PoolKind::Added | PoolKind::Own => {
                    let held = if known { snapshot::allocations(start.snapshot, place) } else { Vec::new() };
                    checker.add(pool, &held, known);
                }
            }
        }
        checker.present = checker.pools.len();
        checker
    }

    /// Has a pool, as it was found.
    fn add(&mut self, found: &Pool, held: &[Held], known: bool) {
        let areas = if self.rules.areas { found.nareas.max(1) } else { 1 };
        let geometry = Geometry { start: found.start, nslabs: found.nslabs, areas };
        // A pool no kernel has, out of a damaged trace, holds none of the events.
        let geometry =
            if policy::check(&geometry).is_ok() { geometry } else { Geometry { start: 0, nslabs: 0, areas: 1 } };
        let mut pool = SlotPool::new(geometry);
        for held in held {
            let run = Run { first: held.first, n: held.n };
            if fits_pool(&pool, &run) {
                pool.take(pool.area_of(held.first), run, held.pad);
            }
        }
        let mut index_known = vec![false; geometry.areas as usize];
        for (area, index_known) in index_known.iter_mut().enumerate() {
            let recorded = found.areas.get(area).filter(|_| known);
            *index_known = recorded.is_some_and(|state| pool.set_index(area, state.index));
            let mismatch = recorded.is_some_and(|s| s.used != pool.areas()[area].used);
            self.verdict.snapshot_mismatches += u64::from(mismatch);
            if !*index_known {
                pool.set_index(area, 0);
            }
        }
        self.pools.push(Known { pool, index_known });
    }

    /// Whether a bounce address lies in one of its pools.
    pub fn holds(&self, tlb: u64) -> bool {
        self.pool_of(tlb).is_some() || self.alone_at(tlb).is_some()
    }

    fn pool_of(&self, tlb: u64) -> Option<usize> {
        self.pools.iter().position(|known| known.pool.contains(tlb))
    }

    /// Where the pool begins that was made for the mapping at this address, and its slots.
    fn alone_at(&self, tlb: u64) -> Option<(u64, u64)> {
        let (&start, &nslabs) = self.alone.range(..=tlb).next_back()?;
        ((tlb - start) / SLOT_BYTES < nslabs).then_some((start, nslabs))
    }

    /// Takes note of a pool that the kernel made.
    pub fn added(&mut self, event: &Event) -> Option<SlotEvent> {
        let pool = Pool::added(event)?;
        if pool.kind == PoolKind::Transient {
            self.add_alone(&pool);
            return None;
        }
        // One that is there already, or more than there can be: a damaged trace.
        let there = self.pools.iter().any(|known| known.pool.geometry().overlaps(&pool));
        if there || self.pools.len() >= MOST_POOLS {
            return None;
        }
        self.add(&pool, &[], true);
        Some(SlotEvent::new(event, What::Added(self.pools.len())))
    }

    /// Has a pool for one mapping; whatever was at its place is gone.
    fn add_alone(&mut self, pool: &Pool) {
        let geometry = Geometry { start: pool.start, nslabs: pool.nslabs, areas: 1 };
        if policy::check(&geometry).is_ok() {
            self.alone.retain(|&start, &mut nslabs| !Geometry { start, nslabs, areas: 1 }.overlaps(pool));
            self.alone.insert(pool.start, pool.nslabs);
        }
    }

    /// A slot event out of an event of this allocator, if it is one that can be judged.
    pub fn read(&mut self, event: &Event, limits: &HashMap<u32, Limits>) -> Option<SlotEvent> {
        let limits = *limits.get(&event.device).unwrap_or(&Limits::NONE);
        let request = event.orig_addr.zip(event.size).map(|(orig_addr, size)| Request {
            orig_addr,
            size,
            align_mask: event.align_mask.unwrap_or(0),
            cpu: event.cpu,
        });
        let alone = event.tlb_addr.and_then(|tlb| self.alone_at(tlb));
        let what = match (event.op, request, event.tlb_addr, alone) {
            (Op::SlotAlloc, Some(request), Some(tlb), Some(pool)) => {
                What::Alone(request, limits, self.is_first_choice(pool, &request, &limits, tlb))
            }
            (Op::SlotAlloc, Some(request), Some(tlb), None) => What::Alloc(request, limits, tlb),
            (Op::SlotFailed, Some(request), ..) => What::Failed(request, limits),
            (Op::SlotFree, _, Some(_), Some((start, _))) => {
                self.alone.remove(&start);
                return None;
            }
            (Op::SlotFree, _, Some(tlb), None) => What::Free(tlb),
            _ => {
                self.verdict.incomplete += 1;
                return None;
            }
        };
        Some(SlotEvent::new(event, what))
    }

    /// Whether an address is what the rules choose in a pool that has nothing else.
    fn is_first_choice(&self, (start, nslabs): (u64, u64), request: &Request, limits: &Limits, tlb: u64) -> bool {
        let geometry = Geometry { start, nslabs, areas: 1 };
        let mut pool = SlotPool::new(geometry);
        let plan = Plan::new(self.rules, start, request, limits);
        matches!(find(&mut pool, 0, &plan, self.rules.search), Found::Slot(slot) if Taken::at(&geometry, 0, slot, &plan).tlb_addr == tlb)
    }

    pub fn run(&mut self, events: &[SlotEvent]) {
        let mut done = vec![false; events.len()];
        // What was applied lately, youngest last: a later allocation may not have seen it yet.
        let mut recent = VecDeque::new();
        let mut waiting = Waiting::new(events);
        for at in 0..events.len() {
            if done[at] {
                continue;
            }
            let event = &events[at];
            match event.what {
                What::Free(tlb) => match self.free(tlb) {
                    Some(undo) => remember(&mut recent, Applied { event: *event, undo }),
                    None => self.verdict.unknown_frees += 1,
                },
                What::Added(pools) => self.present = self.present.max(pools),
                What::Alloc(request, limits, _) | What::Alone(request, limits, _) | What::Failed(request, limits) => {
                    self.verdict.total += 1;
                    let predicted = self.predict(request.cpu, &request, &limits);
                    if self.agrees(event, predicted) {
                        self.verdict.exact += 1;
                    } else if self.explained_without_newest(event) || self.explained_by_release(event, &recent) {
                        self.verdict.after_swap += 1;
                    } else if self.explained_before(event, &mut recent) {
                        self.verdict.after_swap += 1;
                        continue;
                    } else if self.explained_by_later(events, at, &mut done, &mut recent)
                        || self.explained_by_waiting(events, at, &mut done, &mut waiting, &mut recent)
                    {
                        self.verdict.after_swap += 1;
                    } else {
                        self.repair_or_miss(event, &request, &limits, predicted);
                        // What was set right by force cannot be taken back step by step.
                        recent.clear();
                        self.apply(event);
                        continue;
                    }
                    if let Some(undo) = self.apply(event) {
                        remember(&mut recent, Applied { event: *event, undo });
                    }
                }
            }
        }
    }

    /// Where a request of that CPU would go (SPEC 3.8, 5).
    fn predict(&mut self, cpu: u32, request: &Request, limits: &Limits) -> Option<Taken> {
        let areas = |this: &Self, at: usize| this.pools[at].pool.areas().len();
        let newest_first = (0..self.present).rev();
        // With one pool both walks are the same.
        if self.rules.dynamic.is_none_or(|dynamic| dynamic.walk == PoolWalk::PoolFirst) {
            for at in newest_first {
                for offset in 0..areas(self, at) {
                    if let Some(end) = self.search(at, cpu as usize + offset, request, limits) {
                        return end;
                    }
                }
            }
        } else if self.present > 0 {
            for offset in 0..areas(self, 0) {
                for at in newest_first.clone() {
                    if offset < areas(self, at)
                        && let Some(end) = self.search(at, cpu as usize + offset, request, limits)
                    {
                        return end;
                    }
                }
            }
        }
        None
    }

    /// How the search of an area, by its number or one beyond the last, ends it all; nothing when the next is to be searched.
    fn search(&mut self, at: usize, area: usize, request: &Request, limits: &Limits) -> Option<Option<Taken>> {
        let pool = &mut self.pools[at].pool;
        let plan = Plan::new(self.rules, pool.geometry().start, request, limits);
        let area = area & (pool.areas().len() - 1);
        match find(pool, area, &plan, self.rules.search) {
            Found::Slot(slot) => Some(Some(Taken::at(pool.geometry(), at as u32, slot, &plan))),
            Found::Nothing => None,
            Found::Livelock => Some(None),
        }
    }

    /// Whether the event is as predicted without the newest pool, which nobody has used: it is told of when it is made, and not
    /// when the kernel begins to search it.
    fn explained_without_newest(&mut self, event: &SlotEvent) -> bool {
        let unused = |known: &Known| known.pool.used() == 0 && known.pool.areas().iter().all(|area| area.index == 0);
        if self.present < 2 || !unused(&self.pools[self.present - 1]) {
            return false;
        }
        self.present -= 1;
        let predicts = self.predicts(event);
        self.present += 1;
        predicts
    }

    /// Whether a prediction is what the event says.
    fn agrees(&self, event: &SlotEvent, predicted: Option<Taken>) -> bool {
        match event.what {
            What::Alloc(_, _, tlb) => predicted.is_some_and(|p| p.tlb_addr == tlb),
            What::Alone(_, _, first_choice) => predicted.is_none() && first_choice,
            What::Failed(..) => predicted.is_none(),
            What::Free(_) | What::Added(_) => true,
        }
    }

    fn predicts(&mut self, event: &SlotEvent) -> bool {
        self.predicts_on(event, event.cpu)
    }

    /// The same, had the request been made on that CPU.
    fn predicts_on(&mut self, event: &SlotEvent, cpu: u32) -> bool {
        match event.what {
            What::Alloc(request, limits, _) | What::Alone(request, limits, _) | What::Failed(request, limits) => {
                let predicted = self.predict(cpu, &request, &limits);
                self.agrees(event, predicted)
            }
            What::Free(_) | What::Added(_) => true,
        }
    }

    /// Neither order explains the event. Slots taken twice mean a release is missing; else it is a miss.
    fn repair_or_miss(&mut self, event: &SlotEvent, request: &Request, limits: &Limits, predicted: Option<Taken>) {
        if let What::Alloc(..) = event.what
            && let Some((pool, run)) = self.run_of(event)
            && self.clear(pool, &run) > 0
            && self.predicts(event)
        {
            self.verdict.exact += 1;
            return;
        }
        let miss = self.classify(event, request, limits, predicted);
        self.verdict.misses[miss as usize] += 1;
        if self.verdict.examples.iter().filter(|e| e.miss == miss).count() < EXAMPLES {
            let recorded = match event.what {
                What::Alloc(_, _, tlb) => Some(tlb),
                _ => None,
            };
            self.verdict.examples.push(MissExample {
                miss,
                time_ns: event.time_ns,
                cpu: event.cpu,
                device: event.device,
                orig_addr: request.orig_addr,
                size: request.size,
                predicted: predicted.map(|p| p.tlb_addr),
                recorded,
            });
        }
    }

    fn classify(&mut self, event: &SlotEvent, request: &Request, limits: &Limits, predicted: Option<Taken>) -> Miss {
        if let What::Alone(..) = event.what {
            // The pools there are had no room.
            return if predicted.is_some() { Miss::RefusedByKernel } else { Miss::Impossible };
        }
        let What::Alloc(..) = event.what else { return Miss::RefusedByKernel };
        let Some((at, run)) = self.run_of(event) else { return Miss::Impossible };
        let known = &self.pools[at];
        let area = known.pool.area_of(run.first);
        let own = request.cpu as usize & (known.pool.areas().len() - 1);
        if !known.index_known[area] || !known.index_known[own] {
            return Miss::IndexUnknown;
        }
        if self.verdict.without_snapshot {
            return Miss::StateUnknown;
        }
        let elsewhere = if area == own { predicted } else { self.predict(area as u32, request, limits) };
        if self.agrees(event, elsewhere) {
            Miss::CpuDiffers
        } else if predicted.is_none() {
            Miss::RefusedByModel
        } else {
            Miss::Unexplained
        }
    }

    /// The slots an allocation took, and in which pool, by the policy's rules and the kernel's address; nothing when these do not
    /// agree.
    fn run_of(&self, event: &SlotEvent) -> Option<(usize, Run)> {
        let What::Alloc(request, limits, tlb) = event.what else { return None };
        let at = self.pool_of(tlb)?;
        let geometry = self.pools[at].pool.geometry();
        let plan = Plan::new(self.rules, geometry.start, &request, &limits);
        let data = tlb.checked_sub(geometry.start)?;
        if data % SLOT_BYTES != plan.lo() {
            return None;
        }
        let run = Run { first: (data / SLOT_BYTES).checked_sub(u64::from(plan.pad()))?, n: plan.n };
        let inside = run.n > 0
            && run.first % u64::from(SEGMENT_SLOTS) + run.n <= u64::from(SEGMENT_SLOTS)
            && run.first + run.n <= geometry.nslabs;
        inside.then_some((at, run))
    }

    /// Sets the model to what an event says happened.
    fn apply(&mut self, event: &SlotEvent) -> Option<Undo> {
        if let What::Alloc(..) = event.what {
            let (pool, run) = self.run_of(event)?;
            self.clear(pool, &run);
        }
        let undo = self.try_apply(event)?;
        if let Undo::Took { pool, run, .. } = undo {
            let Known { pool, index_known } = &mut self.pools[pool];
            index_known[pool.area_of(run.first)] = true;
        }
        Some(undo)
    }

    fn could_apply(&self, event: &SlotEvent) -> bool {
        match event.what {
            What::Alloc(..) => self.run_of(event).is_some_and(|(pool, run)| self.is_free(pool, &run)),
            What::Alone(..) | What::Free(_) | What::Failed(..) | What::Added(_) => true,
        }
    }

    /// As [`Checker::apply`], where nothing has to be repaired for it.
    fn try_apply(&mut self, event: &SlotEvent) -> Option<Undo> {
        match event.what {
            What::Alloc(request, limits, _) => {
                let (at, run) = self.run_of(event).filter(|(pool, run)| self.is_free(*pool, run))?;
                let pool = &mut self.pools[at].pool;
                let plan = Plan::new(self.rules, pool.geometry().start, &request, &limits);
                let area = pool.area_of(run.first);
                let index = pool.areas()[area].index;
                pool.take(area, run, plan.pad());
                Some(Undo::Took { pool: at, run, index })
            }
            What::Free(tlb) => self.free(tlb),
            What::Alone(..) | What::Failed(..) | What::Added(_) => None,
        }
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Took { pool, run, index } => {
                let pool = &mut self.pools[pool].pool;
                pool.release(run);
                pool.set_index(pool.area_of(run.first), index);
            }
            Undo::Freed { pool, run, pad } => self.take_again(pool, run, pad),
        }
    }

    /// Takes back a release.
    fn take_again(&mut self, pool: usize, run: Run, pad: u32) {
        let pool = &mut self.pools[pool].pool;
        let area = pool.area_of(run.first);
        let index = pool.areas()[area].index;
        pool.take(area, run, pad);
        pool.set_index(area, index);
    }

    fn free(&mut self, tlb: u64) -> Option<Undo> {
        let at = self.pool_of(tlb)?;
        let pool = &mut self.pools[at].pool;
        let slot = (tlb - pool.geometry().start) / SLOT_BYTES;
        let run = pool.allocation_at(slot)?;
        let pad = (slot - run.first) as u32;
        pool.release(run);
        Some(Undo::Freed { pool: at, run, pad })
    }

    /// Releases whatever the model thinks is in those slots; how many allocations that were.
    fn clear(&mut self, pool: usize, run: &Run) -> u64 {
        let pool = &mut self.pools[pool].pool;
        let mut cleared = 0;
        for slot in run.first..run.first + run.n {
            if pool.run_at(slot) == 0
                && let Some(over) = pool.allocation_over(slot)
            {
                pool.release(over);
                cleared += 1;
            }
        }
        self.verdict.missed_frees += cleared;
        cleared
    }

    fn is_free(&self, pool: usize, run: &Run) -> bool {
        u64::from(self.pools[pool].pool.run_at(run.first)) >= run.n
    }
}

fn fits_pool(pool: &SlotPool, run: &Run) -> bool {
    run.first < pool.geometry().nslabs && u64::from(pool.run_at(run.first)) >= run.n
}

fn remember(recent: &mut VecDeque<Applied>, applied: Applied) {
    if recent.len() == BACK {
        recent.pop_front();
    }
    recent.push_back(applied);
}
