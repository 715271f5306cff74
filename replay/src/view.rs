//! Pools the allocator takes to lie elsewhere than they do (SPEC 10.2, 11, `bbase`): alignment and segment boundaries are
//! then judged by other addresses than the slots' own.
//!
//! Rare and not fast: where each segment lies by itself, or has another length than a kernel's, slots are visited one by
//! one, as SPEC 3 writes it.

use crate::allocator::{Allocator, Stop, Taken};
use crate::plan::{Limits, Plan, Request, align, slots};
use crate::pool::{Run, SlotPool};
use crate::refusal::{self, Cause, Refusal, area_order};
use crate::rules::Search;
use crate::walk::{Found, find};
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

const SEG: u64 = SEGMENT_SLOTS as u64;

/// Where a pool is taken to lie.
#[derive(Clone, Debug)]
pub(crate) enum View {
    /// In one piece from this address on.
    From(u64),
    /// The same, its slots looked at one by one: its segments have another length than a kernel's.
    Cut(u64),
    /// Each 128 slots at an address of their own.
    Segments(Vec<u64>),
}

impl View {
    /// Where it begins.
    fn start(&self) -> u64 {
        match self {
            Self::From(start) | Self::Cut(start) => *start,
            Self::Segments(segments) => segments.first().copied().unwrap_or(0),
        }
    }

    /// Whether slots are to be looked at one by one.
    fn is_by_slot(&self) -> bool {
        !matches!(self, Self::From(_))
    }
}

/// A plan against slots that are looked at one by one.
struct BySlot<'a> {
    pool: &'a SlotPool,
    plan: &'a Plan,
    search: Search,
    limits: &'a Limits,
    view: &'a View,
}

impl BySlot<'_> {
    /// The bus address of a slot, under the device's boundary mask (SPEC 3, `tbl + slot*2048`).
    fn address(&self, slot: u64) -> u64 {
        match self.view {
            View::Segments(segments) => {
                let segment = segments.get((slot / SEG) as usize).copied().unwrap_or(0);
                self.limits.bus(segment).wrapping_add(slot % SEG * SLOT_BYTES) & self.limits.boundary
            }
            View::From(start) | View::Cut(start) => {
                (self.limits.bus(*start) & self.limits.boundary).wrapping_add(slot * SLOT_BYTES)
            }
        }
    }

    fn matches(&self, slot: u64) -> bool {
        let address = self.address(slot);
        let inside = self.search == Search::D && !address.is_multiple_of(SLOT_BYTES);
        !inside && (address / SLOT_BYTES) & self.plan.shape.mask == self.plan.value
    }

    fn spans(&self, slot: u64) -> bool {
        let most = self.plan.boundaries.max_slots;
        (slots(self.address(slot)) & most.wrapping_sub(1)).saturating_add(self.plan.n) > most
    }

    fn fits(&self, slot: u64) -> bool {
        u64::from(self.pool.run_at(slot)) >= self.plan.n && !self.spans(slot)
    }

    /// The searches of SPEC 3.1 to 3.6, slot by slot.
    fn find(&self, area: usize) -> Found {
        let (len, stride) = (self.pool.area_slots(), self.plan.shape.stride);
        let state = self.pool.areas()[area];
        if self.plan.n == 0 || self.plan.n > len.wrapping_sub(state.used) {
            return Found::Nothing;
        }
        let base = area as u64 * len;
        let wrap = |i: u64| if i >= len { 0 } else { i };
        let counted = matches!(self.search, Search::C | Search::D);
        let begin = if counted { state.index } else { wrap(align(state.index, stride)) };
        // More steps than two rounds means that the walk repeats itself (SPEC 3.4).
        let most = len.saturating_mul(2).saturating_add(stride);
        let (mut i, mut steps, mut passed) = (begin, 0, 0u64);
        while steps <= most {
            let step = if self.search == Search::A || self.matches(base + i) {
                if self.fits(base + i) {
                    return Found::Slot(base + i);
                }
                stride
            } else {
                1
            };
            i = wrap(i.saturating_add(step));
            passed = passed.saturating_add(step);
            steps += 1;
            if if counted { passed >= len } else { i == begin } {
                return Found::Nothing;
            }
        }
        if self.search == Search::A { Found::Nothing } else { Found::Livelock }
    }

    /// Why an area could not serve, as [`refusal::area_cause`] says it of a pool in one piece (SPEC 7).
    fn area_cause(&self, area: usize) -> Cause {
        let (len, n) = (self.pool.area_slots(), self.plan.n);
        if n > len.wrapping_sub(self.pool.areas()[area].used) {
            return Cause::AreaFull;
        }
        if n > self.plan.boundaries.max_slots {
            return Cause::BoundaryImpossible;
        }
        let area = area as u64 * len..(area as u64 + 1) * len;
        let runs = |slot: &u64| u64::from(self.pool.run_at(*slot)) >= n;
        let (matching, within) = (|s: &u64| self.matches(*s), |s: &u64| !self.spans(*s));
        let segment = self.pool.segment_slots();
        let empty = |slot: &u64| segment - slot % segment >= n;
        if area.clone().filter(runs).filter(matching).any(|s| within(&s)) {
            Cause::Stride
        } else if area.clone().filter(runs).any(|s| matching(&s)) {
            Cause::Boundary
        } else if area.clone().filter(runs).any(|s| within(&s)) {
            let possible = area.filter(empty).filter(matching).any(|s| within(&s));
            if possible { Cause::Alignment } else { Cause::AlignmentImpossible }
        } else if area.clone().any(|s| runs(&s)) {
            Cause::Boundary
        } else {
            Cause::Fragmented
        }
    }
}

impl Allocator {
    /// Has a pool taken to lie elsewhere.
    pub(crate) fn set_view(&mut self, pool: usize, view: View) {
        self.views.resize_with(self.views.len().max(pool + 1), || None);
        self.views[pool] = Some(view);
    }

    /// Cuts all pools, still empty, into segments of so many slots (a power of two) instead of 128, as no kernel does
    /// (SPEC 11). They are searched slot by slot from then on: a request costs up to two looks at each slot.
    pub fn cut_into(&mut self, segment_slots: u64) {
        if segment_slots == SEG {
            return;
        }
        for id in 0..self.pools.len() {
            self.pools[id].cut_into(segment_slots);
            if !matches!(self.views.get(id), Some(Some(View::Segments(_)))) {
                self.set_view(id, View::Cut(self.seen_start(id)));
            }
        }
    }

    /// Where a pool is taken to begin.
    pub(crate) fn seen_start(&self, pool: usize) -> u64 {
        match self.views.get(pool) {
            Some(Some(view)) => view.start(),
            _ => self.pools().get(pool).map_or(0, |p| p.geometry().start),
        }
    }

    /// As [`Allocator::take`], in a pool that is taken to lie elsewhere.
    #[cold]
    pub(crate) fn take_viewed(&mut self, pool_id: usize, request: &Request, limits: &Limits) -> Result<Taken, Stop> {
        let plan = Plan::new(self.rules(), self.seen_start(pool_id), request, limits);
        if request.size == 0 {
            return Err(Stop::Refused);
        }
        self.take_planned(pool_id, &plan, request.cpu, limits)
    }

    /// Takes slots for a plan made of where the pool is taken to begin.
    pub(crate) fn take_planned(
        &mut self,
        pool_id: usize,
        plan: &Plan,
        cpu: u32,
        limits: &Limits,
    ) -> Result<Taken, Stop> {
        let search = self.rules().search;
        let view = self.views.get(pool_id).and_then(Option::as_ref);
        let Some(pool) = self.pools.get_mut(pool_id) else { return Err(Stop::Refused) };
        for area in area_order(pool.areas().len(), cpu) {
            let found = match view {
                Some(view) if view.is_by_slot() => BySlot { pool, plan, search, limits, view }.find(area),
                _ => find(pool, area, plan, search),
            };
            match found {
                Found::Slot(first) => {
                    pool.take(area, Run { first, n: plan.n }, plan.pad());
                    self.used += plan.n;
                    self.high_water = self.high_water.max(self.used);
                    return Ok(Taken::at(pool.geometry(), pool_id as u32, first, plan));
                }
                Found::Nothing => {}
                Found::Livelock => return Err(Stop::Livelock),
            }
        }
        Err(Stop::Refused)
    }

    /// As [`Allocator::cause`], in a pool that is taken to lie elsewhere.
    pub(crate) fn cause_viewed(&mut self, pool_id: usize, request: &Request, limits: &Limits, stop: Stop) -> Cause {
        let plan = Plan::new(self.rules(), self.seen_start(pool_id), request, limits);
        self.cause_planned(pool_id, &plan, request.cpu, limits, stop)
    }

    /// Why [`Allocator::take_planned`] has just failed.
    pub(crate) fn cause_planned(
        &mut self,
        pool_id: usize,
        plan: &Plan,
        cpu: u32,
        limits: &Limits,
        stop: Stop,
    ) -> Cause {
        let search = self.rules().search;
        let Some(pool) = self.pools.get_mut(pool_id) else { return Cause::NoPool };
        let cause = refusal::cause(pool, plan, cpu, stop == Stop::Livelock);
        let Some(Some(view)) = self.views.get(pool_id) else { return cause };
        let settled = [Cause::NoPool, Cause::Empty, Cause::TooLarge, Cause::TooLargeWithOffset, Cause::PoolFull];
        if settled.contains(&cause) || cause == Cause::Livelock || !view.is_by_slot() {
            return cause;
        }
        let first = area_order(pool.areas().len(), cpu).next().unwrap_or(0);
        BySlot { pool, plan, search, limits, view }.area_cause(first)
    }

    /// Puts right what a refusal says of areas whose slots are looked at one by one.
    pub(crate) fn explain_viewed(&self, refusal: &mut Refusal, plan: &Plan, pool_id: usize, limits: &Limits) {
        let (Some(Some(view)), Some(pool)) = (self.views.get(pool_id), self.pools().get(pool_id)) else { return };
        if !view.is_by_slot() {
            return;
        }
        let search = self.rules().search;
        let slots = BySlot { pool, plan, search, limits, view };
        for area in &mut refusal.areas {
            area.cause = match slots.find(area.area as usize) {
                Found::Livelock => Cause::Livelock,
                Found::Nothing | Found::Slot(_) => slots.area_cause(area.area as usize),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pool::Geometry;
    use crate::rules::GENERATIONS;

    fn requests() -> impl Strategy<Value = Vec<(u64, u64, u64, usize, bool)>> {
        let size = prop_oneof![1u64..9000, 1u64..300_000];
        let am = prop_oneof![3 => Just(0u64), 1 => Just(0xfff), 1 => Just(0x3fff)];
        prop::collection::vec((0u64..0x8_0000, size, am, 0usize..64, any::<bool>()), 1..120)
    }

    proptest! {
        /// Segments that follow one another are a pool in one piece: the slow walk is the fast one.
        #[test]
        fn segments_in_a_row_are_one_piece(
            requests in requests(), generation in 0..GENERATIONS.len(), areas in prop::sample::select(vec![1u32, 2]),
            start in prop::sample::select(vec![0x1000_0000u64, 0x1_0010_1000]),
            ma in prop::sample::select(vec![0u64, 0xfff, 0xffff]),
            boundary in prop::sample::select(vec![u64::MAX, 0xffff_ffff, 0xf_ffff, 0xffff]),
        ) {
            let rules = &GENERATIONS[generation];
            let limits = Limits { reach: 0xffff_ffff, min_align_mask: ma, boundary, ..Limits::NONE };
            let geometry = Geometry { start, nslabs: 512, areas: if rules.areas { areas } else { 1 } };
            let mut plain = Allocator::new(rules, &[geometry]);
            let mut viewed = plain.clone();
            viewed.set_view(0, View::Segments((0..4).map(|i| start + (i << 18)).collect()));
            let mut live = Vec::new();
            for (orig_addr, size, align_mask, pick, free) in requests {
                if free && !live.is_empty() {
                    let taken: Taken = live.swap_remove(pick % live.len());
                    plain.unmap(taken.tlb_addr, &limits);
                    viewed.unmap(taken.tlb_addr, &limits);
                }
                let request = Request { orig_addr, size, align_mask, cpu: pick as u32 };
                let (a, b) = (plain.map(&request, &limits), viewed.map(&request, &limits));
                prop_assert_eq!(a, b, "{}", rules.id);
                match a {
                    Ok(taken) => live.push(taken),
                    Err(cause) => prop_assert_eq!(
                        plain.explain(&request, &limits, cause), viewed.explain(&request, &limits, cause)
                    ),
                }
            }
            prop_assert!(plain.pools()[0].list().eq(viewed.pools()[0].list()));
        }
    }
}
