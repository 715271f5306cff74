//! The pool as the recorded kernel had it: the model follows what was recorded, event by event, and predicts nothing.
//!
//! What it is good for: how full, how broken up and whose the pool was at any time, and the arithmetic of a refusal the
//! kernel really made. Events of different CPUs are not always written in the order of the lock (SPEC 8), so the state
//! may be off by what was under way at that moment.

use std::collections::{HashMap, HashSet};

use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};
use trace::{Device, Event, Op, Pool};

use crate::allocator::Taken;
use crate::plan::{Limits, Plan, Request};
use crate::policy;
use crate::pool::{Geometry, Run, SlotPool};
use crate::refusal::{self, Cause, Refusal, area_order};
use crate::rules::Generation;
use crate::snapshot;
use crate::verify::Start;
use crate::walk::{Found, find};

/// Slots that stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// The first, padding included, counted from the pool's start.
    pub first: u64,
    /// How many.
    pub n: u64,
}

/// What an event did to the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Nothing: not a slot event of this pool, or not one that can be followed.
    Nothing,
    /// Slots were taken.
    Took {
        /// Which.
        slots: Slots,
        /// The area they lie in.
        area: u32,
        /// The area of the CPU that asked, which is tried first.
        home: u32,
        /// First slots of allocations that were still thought in use there: their release is missing.
        missed: Vec<u64>,
    },
    /// Slots were given back.
    Gave(Slots),
    /// Slots were asked for and not to be had; [`Follower::refusal`] says why.
    Refused,
}

/// What could not be followed. All zero is the good case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FollowNotes {
    /// Allocations whose release is not in the trace: their slots were taken again.
    pub missed_frees: u64,
    /// Releases of slots nothing was known to hold.
    pub unknown_frees: u64,
    /// Slot events outside the pool: in one that was added later, or a device's own.
    pub other_pools: u64,
    /// Slot events without an address or a size.
    pub incomplete: u64,
    /// Allocations whose place is not what the generation's rules say; taken as they are written down.
    pub odd: u64,
    /// Slot events older than the snapshot, which has them already.
    pub before_snapshot: u64,
}

/// An allocation found in the pool when the recording began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBefore {
    /// Its slots.
    pub slots: Slots,
    /// The buffer it stands for; nothing when the snapshot does not say.
    pub orig_addr: Option<u64>,
    /// Bytes.
    pub size: u64,
}

/// The model while it follows.
#[derive(Clone, Debug)]
pub struct Follower {
    rules: &'static Generation,
    pool: SlotPool,
    limits: HashMap<u32, Limits>,
    /// Devices with pools of their own.
    elsewhere: HashSet<u32>,
    snapshot_ns: Option<u64>,
    held: Vec<HeldBefore>,
    /// Whole segments that are free from end to end.
    free_segments: u64,
    notes: FollowNotes,
}

impl Follower {
    /// Begins with the pool as the snapshot found it; empty when there is none.
    #[must_use]
    pub fn new(start: &Start<'_>, devices: &[Device], rules: &'static Generation) -> Self {
        let none = Pool::default();
        let found = start.pool().unwrap_or(&none);
        let areas = if rules.areas { found.nareas.max(1) } else { 1 };
        let geometry = Geometry { start: found.start, nslabs: found.nslabs, areas };
        // A pool no kernel has, out of a damaged trace, holds none of the events.
        let geometry =
            if policy::check(&geometry).is_ok() { geometry } else { Geometry { start: 0, nslabs: 0, areas: 1 } };
        let mut pool = SlotPool::new(geometry);
        let mut held = Vec::new();
        for held_before in snapshot::allocations(start.snapshot, 0) {
            let run = Run { first: held_before.first, n: held_before.n };
            if start.snapshot_ns.is_some() && is_free(&pool, &run) {
                pool.take(pool.area_of(run.first), run, held_before.pad);
                let slots = Slots { first: run.first, n: run.n };
                held.push(HeldBefore { slots, orig_addr: held_before.orig_addr, size: held_before.size });
            }
        }
        for area in 0..geometry.areas as usize {
            let index = found.areas.get(area).map_or(0, |state| state.index);
            if !pool.set_index(area, index) {
                pool.set_index(area, 0);
            }
        }
        let segments = (geometry.nslabs / u64::from(SEGMENT_SLOTS)) as usize;
        let free_segments = (0..segments).filter(|&segment| pool.segment(segment) == u128::MAX).count() as u64;
        let limits = devices.iter().map(|d| (d.id, Limits::from(d))).collect();
        let notes = FollowNotes::default();
        let elsewhere = devices.iter().filter(|device| device.own_pool().is_some()).map(|device| device.id).collect();
        Self { rules, pool, limits, elsewhere, snapshot_ns: start.snapshot_ns, held, free_segments, notes }
    }

    /// Takes one more event; they come in the order of the trace. Well below a microsecond.
    pub fn push(&mut self, event: &Event) -> Followed {
        if !matches!(event.op, Op::SlotAlloc | Op::SlotFailed | Op::SlotFree) {
            return Followed::Nothing;
        }
        if self.snapshot_ns.is_some_and(|ns| event.time_ns < ns) {
            self.notes.before_snapshot += 1;
            return Followed::Nothing;
        }
        match event.op {
            // By a pool that is not this one.
            Op::SlotFailed if self.elsewhere.contains(&event.device) => {
                self.notes.other_pools += 1;
                Followed::Nothing
            }
            Op::SlotFailed => Followed::Refused,
            Op::SlotAlloc => self.took(event),
            _ => self.gave(event),
        }
    }

    fn took(&mut self, event: &Event) -> Followed {
        let (Some((request, limits)), Some(tlb)) = (self.request(event), event.tlb_addr) else {
            self.notes.incomplete += 1;
            return Followed::Nothing;
        };
        let start = self.pool.geometry().start;
        if !self.pool.contains(tlb) {
            self.notes.other_pools += 1;
            return Followed::Nothing;
        }
        let plan = Plan::new(self.rules, start, &request, &limits);
        let data = tlb - start;
        let by_rule = (data / SLOT_BYTES).checked_sub(plan.pad().into()).map(|first| Run { first, n: plan.n });
        let mut pad = plan.pad();
        let run = match by_rule.filter(|run| data % SLOT_BYTES == plan.lo() && self.holds(run)) {
            Some(run) => run,
            None => {
                // The slots the data lies in, cut at the segment's end.
                self.notes.odd += 1;
                pad = 0;
                let (first, seg) = (data / SLOT_BYTES, u64::from(SEGMENT_SLOTS));
                let n = data.checked_rem(SLOT_BYTES).unwrap_or(0).saturating_add(request.size).div_ceil(SLOT_BYTES);
                let run = Run { first, n: n.clamp(1, seg - first % seg) };
                if !self.holds(&run) {
                    return Followed::Nothing;
                }
                run
            }
        };
        let segment = (run.first / u64::from(SEGMENT_SLOTS)) as usize;
        let was_free = self.is_whole(segment);
        let mut missed = Vec::new();
        for slot in run.first..run.first + run.n {
            if self.pool.run_at(slot) == 0
                && let Some(over) = self.pool.allocation_over(slot)
            {
                self.pool.release(over);
                missed.push(over.first);
            }
        }
        self.notes.missed_frees += missed.len() as u64;
        let area = self.pool.area_of(run.first);
        self.pool.take(area, run, pad);
        self.free_segments -= u64::from(was_free);
        let home = request.cpu as usize & (self.pool.areas().len() - 1);
        let slots = Slots { first: run.first, n: run.n };
        Followed::Took { slots, area: area as u32, home: home as u32, missed }
    }

    fn gave(&mut self, event: &Event) -> Followed {
        let Some(tlb) = event.tlb_addr else {
            self.notes.incomplete += 1;
            return Followed::Nothing;
        };
        if !self.pool.contains(tlb) {
            self.notes.other_pools += 1;
            return Followed::Nothing;
        }
        let Some(run) = self.pool.allocation_at((tlb - self.pool.geometry().start) / SLOT_BYTES) else {
            self.notes.unknown_frees += 1;
            return Followed::Nothing;
        };
        self.pool.release(run);
        self.free_segments += u64::from(self.is_whole((run.first / u64::from(SEGMENT_SLOTS)) as usize));
        Followed::Gave(Slots { first: run.first, n: run.n })
    }

    /// Why the pool, as it is now, cannot serve what an event asks for; nothing when it can, which happens where events
    /// were written down in another order than the lock's, when the event does not say what was asked, or it was asked of another pool.
    pub fn cause(&mut self, event: &Event) -> Option<Cause> {
        let (request, limits) = self.asked_here(event)?;
        let plan = Plan::new(self.rules, self.pool.geometry().start, &request, &limits);
        let mut livelock = false;
        if self.pool.area_slots() > 0 && request.size > 0 {
            for area in area_order(self.pool.areas().len(), request.cpu) {
                match find(&mut self.pool, area, &plan, self.rules.search) {
                    Found::Slot(_) => return None,
                    Found::Nothing => {}
                    Found::Livelock => {
                        livelock = true;
                        break;
                    }
                }
            }
        }
        Some(match request.size {
            0 => Cause::Empty,
            _ => refusal::cause(&mut self.pool, &plan, request.cpu, livelock),
        })
    }

    /// The same with its arithmetic. Cost: linear in the pool's slots.
    pub fn refusal(&mut self, event: &Event) -> Option<Refusal> {
        let cause = self.cause(event)?;
        let (request, limits) = self.request(event)?;
        let plan = Plan::new(self.rules, self.pool.geometry().start, &request, &limits);
        Some(refusal::explain(&mut self.pool, &plan, request.cpu, request.size, self.rules.search, cause))
    }

    /// Where the rules would put what an event asks for, in the pool as it is now; nothing when it is refused.
    pub fn place(&mut self, event: &Event) -> Option<Taken> {
        let (request, limits) = self.asked_here(event).filter(|(request, _)| request.size > 0)?;
        let plan = Plan::new(self.rules, self.pool.geometry().start, &request, &limits);
        for area in area_order(self.pool.areas().len(), request.cpu) {
            match find(&mut self.pool, area, &plan, self.rules.search) {
                Found::Slot(slot) => return Some(Taken::at(self.pool.geometry(), 0, slot, &plan)),
                Found::Nothing => {}
                Found::Livelock => return None,
            }
        }
        None
    }

    /// What an event asks of this pool; nothing of a device with a pool of its own.
    fn asked_here(&self, event: &Event) -> Option<(Request, Limits)> {
        self.request(event).filter(|_| !self.elsewhere.contains(&event.device))
    }

    /// What an event asks for, and of which device.
    pub(crate) fn request(&self, event: &Event) -> Option<(Request, Limits)> {
        let limits = *self.limits.get(&event.device).unwrap_or(&Limits::NONE);
        let (orig_addr, size) = event.orig_addr.zip(event.size)?;
        Some((Request { orig_addr, size, align_mask: event.align_mask.unwrap_or(0), cpu: event.cpu }, limits))
    }

    /// Whether slots lie in the pool and in one segment.
    fn holds(&self, run: &Run) -> bool {
        let seg = u64::from(SEGMENT_SLOTS);
        run.n > 0 && run.first % seg + run.n <= seg && run.first + run.n <= self.pool.geometry().nslabs
    }

    fn is_whole(&self, segment: usize) -> bool {
        self.pool.segment(segment) == u128::MAX
    }

    /// The pool as it is now.
    #[must_use]
    pub fn pool(&self) -> &SlotPool {
        &self.pool
    }

    /// Slots of an address in the pool; nothing for another address.
    #[must_use]
    pub fn slot_of(&self, tlb_addr: u64) -> Option<u64> {
        self.pool.contains(tlb_addr).then(|| (tlb_addr - self.pool.geometry().start) / SLOT_BYTES)
    }

    /// The first slot of the allocation that covers a slot.
    #[must_use]
    pub fn first_over(&self, slot: u64) -> Option<u64> {
        self.pool.allocation_over(slot).map(|run| run.first)
    }

    /// Segments that are free from end to end: what a request for a whole one needs.
    #[must_use]
    pub fn free_segments(&self) -> u64 {
        self.free_segments
    }

    /// What was in use when the recording began.
    #[must_use]
    pub fn held_before(&self) -> &[HeldBefore] {
        &self.held
    }

    /// What could not be followed.
    #[must_use]
    pub fn notes(&self) -> &FollowNotes {
        &self.notes
    }
}

fn is_free(pool: &SlotPool, run: &Run) -> bool {
    run.first < pool.geometry().nslabs && u64::from(pool.run_at(run.first)) >= run.n
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace::{Pool, SnapshotSlot};

    const START: u64 = 0x100_0000;

    fn follower(nslabs: u64, nareas: u32, snapshot: &[SnapshotSlot]) -> Follower {
        let pool = Pool { start: START, nslabs, nareas, force_bounce: true, ..Pool::default() };
        let start = Start { pools: std::slice::from_ref(&pool), snapshot, snapshot_ns: Some(0) };
        Follower::new(&start, &[], Generation::by_id("v6_10").unwrap())
    }

    fn event(op: Op, cpu: u32, slot: u64, size: u64) -> Event {
        let tlb_addr = (op != Op::SlotFailed).then_some(START + slot * SLOT_BYTES);
        let (orig_addr, size) = (Some(0x4000_0000), Some(size).filter(|_| op != Op::SlotFree));
        Event { tlb_addr, orig_addr, size, ..Event::new(op, 1, cpu, 1, 0) }
    }

    #[test]
    fn slots_come_and_go_and_whole_segments_are_counted() {
        let mut follower = follower(512, 2, &[]);
        assert_eq!(follower.free_segments(), 4);
        let took = follower.push(&event(Op::SlotAlloc, 1, 0, 8192));
        assert_eq!(took, Followed::Took { slots: Slots { first: 0, n: 4 }, area: 0, home: 1, missed: vec![] });
        assert_eq!((follower.free_segments(), follower.pool().used()), (3, 4));
        assert_eq!(follower.push(&event(Op::SlotFree, 0, 0, 0)), Followed::Gave(Slots { first: 0, n: 4 }));
        assert_eq!((follower.free_segments(), follower.pool().used()), (4, 0));
        assert_eq!(follower.push(&event(Op::SlotFree, 0, 0, 0)), Followed::Nothing);
        assert_eq!(follower.push(&event(Op::SlotAlloc, 0, 9999, 2048)), Followed::Nothing);
        assert_eq!((follower.notes().unknown_frees, follower.notes().other_pools), (1, 1));
    }

    #[test]
    fn slots_taken_twice_mean_a_missed_release() {
        let mut follower = follower(128, 1, &[]);
        follower.push(&event(Op::SlotAlloc, 0, 4, 4096));
        let again = follower.push(&event(Op::SlotAlloc, 0, 5, 2048));
        assert_eq!(again, Followed::Took { slots: Slots { first: 5, n: 1 }, area: 0, home: 0, missed: vec![4] });
        assert_eq!((follower.notes().missed_frees, follower.pool().used()), (1, 1));
    }

    #[test]
    fn a_refusal_has_its_arithmetic_and_what_could_be_served_has_none() {
        let slot = |slot| SnapshotSlot { slot, orig_addr: 0x5000, alloc_size: 2048, pad_slots: 0, pool: None };
        let every_second: Vec<_> = (0..64).map(|i| slot(2 * i)).collect();
        let mut follower = follower(128, 1, &every_second);
        assert_eq!((follower.held_before().len(), follower.pool().used()), (64, 64));
        let failed = event(Op::SlotFailed, 0, 0, 4096);
        assert_eq!(follower.push(&failed), Followed::Refused);
        let refusal = follower.refusal(&failed).unwrap();
        assert_eq!((refusal.cause, refusal.free, refusal.largest_run), (Cause::Fragmented, 64, 1));
        let big = event(Op::SlotFailed, 0, 0, 2 << 20);
        assert_eq!(follower.refusal(&big).unwrap().to_string(), "needs 1024 slots: 2048 KiB; a segment has 128");
        assert_eq!(follower.cause(&event(Op::SlotFailed, 0, 0, 2048)), None);
    }
}
