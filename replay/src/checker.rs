//! Judges one slot event after the other, and sets the model to what the kernel did.

mod order;

use std::collections::{HashMap, VecDeque};

use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};
use trace::{Event, Op};

use crate::allocator::Taken;
use crate::plan::{Limits, Plan, Request};
use crate::policy;
use crate::pool::{Geometry, Run, SlotPool};
use crate::rules::Generation;
use crate::snapshot;
use crate::verify::{Miss, MissExample, Start, Verdict};
use crate::walk::{Found, find};
use order::Waiting;
pub(crate) use order::placed;

/// Events before that are looked at for another order.
const BACK: usize = 256;
/// Misses kept with their circumstances, a kind.
const EXAMPLES: usize = 5;

/// A slot event.
#[derive(Clone, Copy, Debug)]
enum What {
    /// Slots were taken; where.
    Alloc(Request, Limits, u64),
    Failed(Request, Limits),
    /// Slots were given back: an address in the first data slot.
    Free(u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotEvent {
    time_ns: u64,
    /// Of an event whose record came late, the time of the event it belongs before.
    since_ns: Option<u64>,
    cpu: u32,
    tid: u32,
    device: u32,
    what: What,
}

/// How to take an event back.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Took { run: Run, index: u64 },
    Freed { run: Run, pad: u32 },
}

/// An event the model has taken in.
#[derive(Clone, Copy, Debug)]
struct Applied {
    event: SlotEvent,
    undo: Undo,
}

/// The model while it judges.
pub(crate) struct Checker {
    rules: &'static Generation,
    pool: SlotPool,
    /// Whether an area's index is known, from the snapshot or from an allocation seen.
    index_known: Vec<bool>,
    pub verdict: Verdict,
}

impl Checker {
    pub fn new(start: &Start<'_>, rules: &'static Generation) -> Self {
        let areas = if rules.areas { start.pool.nareas.max(1) } else { 1 };
        let geometry = Geometry { start: start.pool.start, nslabs: start.pool.nslabs, areas };
        // A pool no kernel has, out of a damaged trace, holds none of the events.
        let geometry =
            if policy::check(&geometry).is_ok() { geometry } else { Geometry { start: 0, nslabs: 0, areas: 1 } };
        let mut pool = SlotPool::new(geometry);
        let known = start.snapshot_ns.is_some();
        let mut verdict = Verdict { without_snapshot: !known, ..Verdict::default() };
        for held in snapshot::allocations(start.snapshot) {
            let run = Run { first: held.first, n: held.n };
            if known && fits_pool(&pool, &run) {
                pool.take(pool.area_of(held.first), run, held.pad);
            }
        }
        let mut index_known = vec![false; geometry.areas as usize];
        for (area, index_known) in index_known.iter_mut().enumerate() {
            let recorded = start.pool.areas.get(area).filter(|_| known);
            *index_known = recorded.is_some_and(|state| pool.set_index(area, state.index));
            verdict.snapshot_mismatches += u64::from(recorded.is_some_and(|s| s.used != pool.areas()[area].used));
            if !*index_known {
                pool.set_index(area, 0);
            }
        }
        Self { rules, pool, index_known, verdict }
    }

    /// A slot event out of an event, if it is one that can be judged.
    pub fn read(&mut self, event: &Event, start: &Start<'_>, limits: &HashMap<u32, Limits>) -> Option<SlotEvent> {
        if !matches!(event.op, Op::SlotAlloc | Op::SlotFailed | Op::SlotFree) {
            return None;
        }
        if start.snapshot_ns.is_some_and(|ns| event.time_ns < ns) {
            self.verdict.before_snapshot += 1;
            return None;
        }
        let limits = *limits.get(&event.device).unwrap_or(&Limits::NONE);
        let request = event.orig_addr.zip(event.size).map(|(orig_addr, size)| Request {
            orig_addr,
            size,
            align_mask: event.align_mask.unwrap_or(0),
            cpu: event.cpu,
        });
        let what = match (event.op, request, event.tlb_addr) {
            (Op::SlotAlloc, Some(request), Some(tlb)) => What::Alloc(request, limits, tlb),
            (Op::SlotFailed, Some(request), _) => What::Failed(request, limits),
            (Op::SlotFree, _, Some(tlb)) => What::Free(tlb),
            _ => {
                self.verdict.incomplete += 1;
                return None;
            }
        };
        if let What::Alloc(_, _, tlb) | What::Free(tlb) = what
            && !self.pool.contains(tlb)
        {
            self.verdict.other_pools += 1;
            return None;
        }
        let &Event { time_ns, since_ns, cpu, tid, device, .. } = event;
        Some(SlotEvent { time_ns, since_ns, cpu, tid, device, what })
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
                What::Alloc(request, limits, _) | What::Failed(request, limits) => {
                    self.verdict.total += 1;
                    let area = self.area_of_cpu(request.cpu);
                    let predicted = self.predict(area, &request, &limits);
                    if self.agrees(event, predicted) {
                        self.verdict.exact += 1;
                    } else if self.explained_by_release(event, &recent) {
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

    fn area_of_cpu(&self, cpu: u32) -> usize {
        cpu as usize & (self.pool.areas().len() - 1)
    }

    /// Where a request of a CPU with that first area would go.
    fn predict(&mut self, first: usize, request: &Request, limits: &Limits) -> Option<Taken> {
        let plan = Plan::new(self.rules, self.pool.geometry().start, request, limits);
        let areas = self.pool.areas().len();
        for area in (first..areas).chain(0..first.min(areas)) {
            match find(&mut self.pool, area, &plan, self.rules.search) {
                Found::Slot(slot) => return Some(Taken::at(self.pool.geometry(), 0, slot, &plan)),
                Found::Nothing => {}
                Found::Livelock => return None,
            }
        }
        None
    }

    /// Whether a prediction is what the event says.
    fn agrees(&self, event: &SlotEvent, predicted: Option<Taken>) -> bool {
        match event.what {
            What::Alloc(_, _, tlb) => predicted.is_some_and(|p| p.tlb_addr == tlb),
            What::Failed(..) => predicted.is_none(),
            What::Free(_) => true,
        }
    }

    fn predicts(&mut self, event: &SlotEvent) -> bool {
        self.predicts_on(event, event.cpu)
    }

    /// The same, had the request been made on that CPU.
    fn predicts_on(&mut self, event: &SlotEvent, cpu: u32) -> bool {
        match event.what {
            What::Alloc(request, limits, _) | What::Failed(request, limits) => {
                let predicted = self.predict(self.area_of_cpu(cpu), &request, &limits);
                self.agrees(event, predicted)
            }
            What::Free(_) => true,
        }
    }

    /// Neither order explains the event. Slots taken twice mean a release is missing; else it is a miss.
    fn repair_or_miss(&mut self, event: &SlotEvent, request: &Request, limits: &Limits, predicted: Option<Taken>) {
        if let What::Alloc(..) = event.what
            && let Some(run) = self.run_of(event)
            && self.clear(&run) > 0
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
        let What::Alloc(..) = event.what else { return Miss::RefusedByKernel };
        let Some(run) = self.run_of(event) else { return Miss::Impossible };
        let (area, own) = (self.pool.area_of(run.first), self.area_of_cpu(request.cpu));
        if !self.index_known[area] || !self.index_known[own] {
            return Miss::IndexUnknown;
        }
        if self.verdict.without_snapshot {
            return Miss::StateUnknown;
        }
        let elsewhere = if area == own { predicted } else { self.predict(area, request, limits) };
        if self.agrees(event, elsewhere) {
            Miss::CpuDiffers
        } else if predicted.is_none() {
            Miss::RefusedByModel
        } else {
            Miss::Unexplained
        }
    }

    /// The slots an allocation took, by the policy's rules and the kernel's address; nothing when these do not agree.
    fn run_of(&self, event: &SlotEvent) -> Option<Run> {
        let What::Alloc(request, limits, tlb) = event.what else { return None };
        let plan = Plan::new(self.rules, self.pool.geometry().start, &request, &limits);
        let data = tlb.checked_sub(self.pool.geometry().start)?;
        if data % SLOT_BYTES != plan.lo() {
            return None;
        }
        let run = Run { first: (data / SLOT_BYTES).checked_sub(u64::from(plan.pad()))?, n: plan.n };
        let inside = run.n > 0
            && run.first % u64::from(SEGMENT_SLOTS) + run.n <= u64::from(SEGMENT_SLOTS)
            && run.first + run.n <= self.pool.geometry().nslabs;
        inside.then_some(run)
    }

    /// Sets the model to what an event says happened.
    fn apply(&mut self, event: &SlotEvent) -> Option<Undo> {
        match event.what {
            What::Alloc(..) => {
                let run = self.run_of(event)?;
                self.clear(&run);
            }
            What::Free(_) | What::Failed(..) => {}
        }
        let undo = self.try_apply(event)?;
        if let Undo::Took { run, .. } = undo {
            self.index_known[self.pool.area_of(run.first)] = true;
        }
        Some(undo)
    }

    fn could_apply(&self, event: &SlotEvent) -> bool {
        match event.what {
            What::Alloc(..) => self.run_of(event).is_some_and(|run| self.is_free(&run)),
            What::Free(_) | What::Failed(..) => true,
        }
    }

    /// As [`Checker::apply`], where nothing has to be repaired for it.
    fn try_apply(&mut self, event: &SlotEvent) -> Option<Undo> {
        match event.what {
            What::Alloc(request, limits, _) => {
                let run = self.run_of(event).filter(|run| self.is_free(run))?;
                let plan = Plan::new(self.rules, self.pool.geometry().start, &request, &limits);
                let area = self.pool.area_of(run.first);
                let index = self.pool.areas()[area].index;
                self.pool.take(area, run, plan.pad());
                Some(Undo::Took { run, index })
            }
            What::Free(tlb) => self.free(tlb),
            What::Failed(..) => None,
        }
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Took { run, index } => {
                self.pool.release(run);
                self.pool.set_index(self.pool.area_of(run.first), index);
            }
            Undo::Freed { run, pad } => {
                let area = self.pool.area_of(run.first);
                let index = self.pool.areas()[area].index;
                self.pool.take(area, run, pad);
                self.pool.set_index(area, index);
            }
        }
    }

    fn free(&mut self, tlb: u64) -> Option<Undo> {
        let slot = tlb.checked_sub(self.pool.geometry().start)? / SLOT_BYTES;
        let run = self.pool.allocation_at(slot)?;
        let pad = (slot - run.first) as u32;
        self.pool.release(run);
        Some(Undo::Freed { run, pad })
    }

    /// Releases whatever the model thinks is in those slots; how many allocations that were.
    fn clear(&mut self, run: &Run) -> u64 {
        let mut cleared = 0;
        for slot in run.first..run.first + run.n {
            if self.pool.run_at(slot) == 0
                && let Some(over) = self.pool.allocation_over(slot)
            {
                self.pool.release(over);
                cleared += 1;
            }
        }
        self.verdict.missed_frees += cleared;
        cleared
    }

    fn is_free(&self, run: &Run) -> bool {
        u64::from(self.pool.run_at(run.first)) >= run.n
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
