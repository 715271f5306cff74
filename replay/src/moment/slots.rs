//! The slots of the pools and who holds them, as the recorded kernel chose.

use std::collections::BTreeMap;

use trace::pool::{PoolKind, SEGMENT_SLOTS, SLOT_BYTES};
use trace::{Direction, Event, Pool, SnapshotSlot, event::NO_DEVICE};

use crate::bits;
use crate::checker::MOST_POOLS;
use crate::machine::Terms;
use crate::plan::{Plan, Request};
use crate::policy;
use crate::pool::{Geometry, Run, SlotPool};
use crate::refusal::{self, Cause};
use crate::snapshot;
use crate::walk::{Found, find};

use super::Around;

const SEG: u64 = SEGMENT_SLOTS as u64;

/// Upper ends of the classes free runs are counted in; the last is a whole segment.
pub const RUN_CLASSES: [u32; 9] = [1, 2, 4, 8, 16, 32, 64, 127, 128];

/// A buffer that holds slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Device it was mapped for; [`NO_DEVICE`] for what was held when recording began.
    pub device: u32,
    /// Thread that was running.
    pub tid: u32,
    /// CPU it was mapped on.
    pub cpu: u32,
    /// Since when; absent for what was held when recording began.
    pub since_ns: Option<u64>,
    /// First slot, padding included, counted from the pool's start.
    pub first_slot: u32,
    /// Slots, padding included.
    pub slots: u32,
    /// Address of the data inside the pool.
    pub tlb_addr: u64,
    /// The caller's buffer.
    pub orig_addr: Option<u64>,
    /// Bytes asked for.
    pub size: u64,
    /// Which way data moves.
    pub direction: Option<Direction>,
    /// DMA_ATTR_* bits.
    pub attrs: u64,
    /// The kernel's calls that led there.
    pub stack: Option<u32>,
}

impl Holder {
    /// Whether undoing it copies the data back.
    #[must_use]
    pub fn copies_at_unmap(&self) -> bool {
        self.attrs & Terms::SKIP_CPU_SYNC == 0
            && matches!(self.direction, Some(Direction::FromDevice | Direction::Bidirectional))
    }

    /// Whether handing it over copies.
    #[must_use]
    pub fn copies_at_sync(&self, for_cpu: bool) -> bool {
        match self.direction {
            Some(Direction::Bidirectional) => true,
            Some(Direction::ToDevice) => !for_cpu,
            Some(Direction::FromDevice) => for_cpu,
            Some(Direction::None) | None => false,
        }
    }
}

/// One pool.
#[derive(Clone, Debug)]
pub struct PoolSlots {
    pool: SlotPool,
    /// By first slot.
    holders: BTreeMap<u32, Holder>,
    high_water: u64,
    area_high_water: Vec<u64>,
}

impl PoolSlots {
    fn new(pool: &Pool) -> Self {
        let geometry = Geometry { start: pool.start, nslabs: pool.nslabs, areas: pool.nareas.max(1) };
        // A pool no kernel has, out of a damaged trace, holds none of the events.
        let geometry =
            if policy::check(&geometry).is_ok() { geometry } else { Geometry { start: 0, nslabs: 0, areas: 1 } };
        Self {
            pool: SlotPool::new(geometry),
            holders: BTreeMap::new(),
            high_water: 0,
            area_high_water: vec![0; geometry.areas.max(1) as usize],
        }
    }

    /// Where it is, and how it is divided.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        self.pool.geometry()
    }

    /// Slots in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.pool.used()
    }

    /// Most slots in use at once, since recording began.
    #[must_use]
    pub fn high_water(&self) -> u64 {
        self.high_water
    }

    /// Of each area: slots in use, and the most at once.
    pub fn areas(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.pool.areas().iter().zip(&self.area_high_water).map(|(area, &high)| (area.used, high))
    }

    /// The buffers that hold slots, by first slot.
    pub fn holders(&self) -> impl ExactSizeIterator<Item = &Holder> {
        self.holders.values()
    }

    /// Who holds a slot.
    #[must_use]
    pub fn holder_at(&self, slot: u64) -> Option<&Holder> {
        let slot = u32::try_from(slot).ok()?;
        let (&first, holder) = self.holders.range(..=slot).next_back()?;
        (slot - first < holder.slots).then_some(holder)
    }

    /// The holders that have slots from `from` to before `to`, by first slot.
    pub fn holders_in(&self, from: u64, to: u64) -> impl Iterator<Item = &Holder> {
        let at = |slot: u64| u32::try_from(slot).unwrap_or(u32::MAX);
        let first = self.holder_at(from).map_or(at(from), |holder| holder.first_slot);
        self.holders.range(first..at(to).max(first)).map(|(_, holder)| holder)
    }

    /// The free run around a slot: its first slot and how many there are; nothing when the slot is held. Runs end where
    /// segments do.
    #[must_use]
    pub fn free_run(&self, slot: u64) -> Option<(u64, u32)> {
        if slot >= self.geometry().nslabs {
            return None;
        }
        let (free, at) = (self.pool.segment((slot / SEG) as usize), (slot % SEG) as u32);
        if free >> at & 1 == 0 {
            return None;
        }
        let begin = bits::begin(free, at);
        Some((slot - u64::from(at - begin), bits::end(free, at) - begin))
    }

    /// Free runs by length, in the classes of [`RUN_CLASSES`]. A microsecond a segment.
    #[must_use]
    pub fn runs(&self) -> [u64; RUN_CLASSES.len()] {
        let mut counts = [0; RUN_CLASSES.len()];
        for segment in 0..self.geometry().nslabs.div_ceil(SEG) as usize {
            let mut free = self.pool.segment(segment);
            while free != 0 {
                let at = free.trailing_zeros();
                let end = bits::end(free, at);
                let class = RUN_CLASSES.iter().position(|&most| end - at <= most);
                counts[class.unwrap_or(RUN_CLASSES.len() - 1)] += 1;
                free = if end >= 128 { 0 } else { free & !bits::below(end) };
            }
        }
        counts
    }

    /// The longest free run in one segment.
    #[must_use]
    pub fn longest_run(&self) -> u32 {
        self.pool.largest_run()
    }

    fn put(&mut self, run: Run, pad: u32, holder: Holder) {
        let area = self.pool.area_of(run.first);
        self.pool.take(area, run, pad);
        self.holders.insert(holder.first_slot, holder);
        self.high_water = self.high_water.max(self.pool.used());
        self.area_high_water[area] = self.area_high_water[area].max(self.pool.areas()[area].used);
    }

    /// Releases whatever is thought to be in those slots.
    fn clear(&mut self, run: &Run, freed: &mut Vec<Holder>) {
        for slot in run.first..run.first + run.n {
            if self.pool.run_at(slot) == 0
                && let Some(over) = self.pool.allocation_over(slot)
            {
                self.pool.release(over);
                freed.extend(self.holders.remove(&(over.first as u32)));
            }
        }
    }

    /// The slots an allocation took: by the kernel's rules, and where these do not agree with its address (or are not
    /// known), from the address alone.
    fn run_of(&self, event: &Event, tlb_addr: u64, around: &Around) -> Option<(Run, u32)> {
        let geometry = self.geometry();
        let size = event.size?;
        let data = tlb_addr.checked_sub(geometry.start)?;
        let fits = |run: &Run| run.n > 0 && run.first % SEG + run.n <= SEG && run.first + run.n <= geometry.nslabs;
        let by_rules = around.rules().zip(event.orig_addr).and_then(|(rules, orig_addr)| {
            let request = Request { orig_addr, size, align_mask: event.align_mask.unwrap_or(0), cpu: event.cpu };
            let plan = Plan::new(rules, geometry.start, &request, &around.limits(event.device));
            let first = (data / SLOT_BYTES).checked_sub(u64::from(plan.pad()))?;
            (data % SLOT_BYTES == plan.lo()).then_some((Run { first, n: plan.n }, plan.pad()))
        });
        by_rules.filter(|(run, pad)| fits(run) && u64::from(*pad) < run.n).or_else(|| {
            let n = (data % SLOT_BYTES).checked_add(size.max(1))?.div_ceil(SLOT_BYTES);
            let run = Run { first: data / SLOT_BYTES, n };
            fits(&run).then_some((run, 0))
        })
    }

    /// Makes it what was found. Who holds slots taken before is remembered where it was seen.
    fn reconcile(&mut self, snapshot: &[snapshot::Held], recorded: &Pool, freed: &mut Vec<Holder>) {
        let mut seen = std::mem::take(&mut self.holders);
        self.pool = SlotPool::new(*self.geometry());
        let start = self.geometry().start;
        for held in snapshot {
            let run = Run { first: held.first, n: held.n };
            if run.first >= self.geometry().nslabs || u64::from(self.pool.run_at(run.first)) < run.n {
                continue;
            }
            let first_slot = run.first as u32;
            let known = seen.remove(&first_slot).filter(|holder| u64::from(holder.slots) == run.n);
            let holder = known.unwrap_or(Holder {
                device: NO_DEVICE,
                tid: 0,
                cpu: 0,
                since_ns: None,
                first_slot,
                slots: run.n as u32,
                tlb_addr: start + (run.first + u64::from(held.pad)) * SLOT_BYTES,
                orig_addr: held.orig_addr,
                size: held.size,
                direction: None,
                attrs: 0,
                stack: None,
            });
            self.put(run, held.pad, holder);
        }
        for (area, state) in recorded.areas.iter().enumerate().take(self.pool.areas().len()) {
            self.pool.set_index(area, state.index);
        }
        freed.extend(seen.into_values());
    }
}

/// The slots of all pools and who holds them.
#[derive(Clone, Debug)]
pub struct Slots {
    pools: Vec<PoolSlots>,
    /// Buffers in pools made for one mapping, and in such as are not known, by address.
    elsewhere: BTreeMap<u64, Holder>,
    elsewhere_used: u64,
}

impl Slots {
    pub(super) fn new(pools: &[Pool]) -> Self {
        Self {
            pools: pools.iter().take(MOST_POOLS).map(PoolSlots::new).collect(),
            elsewhere: BTreeMap::new(),
            elsewhere_used: 0,
        }
    }

    /// The pools, the default one first.
    #[must_use]
    pub fn pools(&self) -> &[PoolSlots] {
        &self.pools
    }

    /// Slots in use in all pools, those added later included.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.pools.iter().map(PoolSlots::used).sum::<u64>() + self.elsewhere_used
    }

    /// Slots in use in pools made for one mapping, and in such as are not known.
    #[must_use]
    pub fn used_elsewhere(&self) -> u64 {
        self.elsewhere_used
    }

    /// The buffer that covers an address inside a pool, and where its data begins.
    pub(super) fn over(&self, addr: u64) -> Option<(u64, &Holder)> {
        if let Some(pool) = self.pools.iter().find(|pool| pool.pool.contains(addr)) {
            let holder = pool.holder_at((addr - pool.geometry().start) / SLOT_BYTES)?;
            return Some((holder.tlb_addr, holder));
        }
        let (&at, holder) = self.elsewhere.range(..=addr).next_back()?;
        (addr - at < holder.size.max(1)).then_some((at, holder))
    }

    /// Takes down an allocation; returns its slots. What was thought to be there has been given back unseen, and is put
    /// into `freed`.
    pub(super) fn take(&mut self, event: &Event, around: &Around, freed: &mut Vec<Holder>) -> u32 {
        let Some(tlb_addr) = event.tlb_addr else { return 0 };
        let holder = |first_slot, slots| Holder {
            device: event.device,
            tid: event.tid,
            cpu: event.cpu,
            since_ns: Some(event.time_ns),
            first_slot,
            slots,
            tlb_addr,
            orig_addr: event.orig_addr,
            size: event.size.unwrap_or(0),
            direction: event.direction,
            attrs: event.attrs.unwrap_or(0),
            stack: event.stack,
        };
        let Some(pool) = self.pools.iter_mut().find(|pool| pool.pool.contains(tlb_addr)) else {
            let slots = u32::try_from(event.size.unwrap_or(1).div_ceil(SLOT_BYTES)).unwrap_or(SEGMENT_SLOTS);
            if let Some(old) = self.elsewhere.insert(tlb_addr, holder(0, slots)) {
                self.elsewhere_used -= u64::from(old.slots);
                freed.push(old);
            }
            self.elsewhere_used += u64::from(slots);
            return slots;
        };
        let Some((run, pad)) = pool.run_of(event, tlb_addr, around) else { return 0 };
        pool.clear(&run, freed);
        let slots = run.n as u32;
        pool.put(run, pad, holder(run.first as u32, slots));
        slots
    }

    /// Takes down a release; returns who held the slots.
    pub(super) fn release(&mut self, tlb_addr: u64) -> Option<Holder> {
        let Some(pool) = self.pools.iter_mut().find(|pool| pool.pool.contains(tlb_addr)) else {
            let holder = self.elsewhere.remove(&tlb_addr)?;
            self.elsewhere_used -= u64::from(holder.slots);
            return Some(holder);
        };
        let run = pool.pool.allocation_at((tlb_addr - pool.geometry().start) / SLOT_BYTES)?;
        pool.pool.release(run);
        pool.holders.remove(&(run.first as u32))
    }

    /// A pool was made. One that goes with its only mapping has no slots to show.
    pub(super) fn add(&mut self, event: &Event) {
        let there = |added: &Pool| {
            self.pools.len() >= MOST_POOLS || self.pools.iter().any(|pool| pool.geometry().overlaps(added))
        };
        let added = Pool::added(event).filter(|pool| pool.kind == PoolKind::Added && !there(pool));
        self.pools.extend(added.as_ref().map(PoolSlots::new));
    }

    /// Makes the pools what the snapshot says.
    pub(super) fn reconcile(&mut self, snapshot: &[SnapshotSlot], around: &Around, freed: &mut Vec<Holder>) {
        for ((at, pool), recorded) in self.pools.iter_mut().enumerate().zip(around.pools()) {
            pool.reconcile(&snapshot::allocations(snapshot, at), recorded, freed);
        }
    }

    /// Why slots were refused, by the recorded kernel's rules on the slots as they are; without a cause when the rules
    /// would have served it. `known`: what is in use is known.
    pub(super) fn refusal(&mut self, event: &Event, around: &Around, known: bool) -> (Option<Cause>, String) {
        let at = around.pool_of(event.device);
        let Some(pool) = at.and_then(|at| self.pools.get_mut(at)) else {
            return match around.device(event.device).is_some_and(|device| device.own_pool().is_some()) {
                true => (None, "it has a bounce pool of its own, of which nothing is known".to_owned()),
                false => (Some(Cause::NoPool), "there is no bounce pool".to_owned()),
            };
        };
        let (Some(rules), Some(orig_addr), Some(size)) = (around.rules(), event.orig_addr, event.size) else {
            return (None, "the record has no address or size to judge by".to_owned());
        };
        let request = Request { orig_addr, size, align_mask: event.align_mask.unwrap_or(0), cpu: event.cpu };
        let pool = &mut pool.pool;
        let plan = Plan::new(rules, pool.geometry().start, &request, &around.limits(event.device));
        let mut livelock = false;
        if refusal::size_cause(&plan, pool.segment_slots()).is_none() && pool.area_slots() > 0 {
            for area in refusal::area_order(pool.areas().len(), event.cpu) {
                match find(pool, area, &plan, rules.search) {
                    Found::Slot(_) if known => {
                        let text = format!(
                            "needs {} slots, and by the recorded slots there was room: {} of {} were free",
                            plan.n,
                            pool.geometry().nslabs - pool.used(),
                            pool.geometry().nslabs
                        );
                        return (None, text);
                    }
                    Found::Slot(_) => {
                        let text = "no snapshot of the pool had been taken yet: what was in use is not known";
                        return (None, format!("needs {} slots; {text}", plan.n));
                    }
                    Found::Livelock => livelock = true,
                    Found::Nothing => {}
                }
            }
        }
        let cause = refusal::cause(pool, &plan, event.cpu, livelock);
        let explained = refusal::explain(pool, &plan, event.cpu, size, rules.search, cause);
        (Some(cause), explained.to_string())
    }
}
