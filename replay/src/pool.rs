//! A pool's slots: which are free, where each area's search begins, how many are in use.
//!
//! The kernel keeps a number a slot, `list[]`: how long the free run is that starts there, cut at the segment's end
//! (SPEC 2.6, 3.7, 4). That number follows from which slots are free, so only this is kept: a 128-slot segment is one
//! `u128`, bit k set when slot k is free. [`SlotPool::list`] gives the kernel's numbers back for comparison.

mod cut;

use trace::pool::{Pool, SEGMENT_SLOTS, SLOT_BYTES};

use crate::bits::{self, Flags};
use crate::bounds::{Bound, Bounds, Wanted};

const SEG: u64 = SEGMENT_SLOTS as u64;

/// Where a pool is and how it is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Physical address of slot 0.
    pub start: u64,
    /// Slots; 0 when there is no pool.
    pub nslabs: u64,
    /// Areas, at least 1.
    pub areas: u32,
}

impl Geometry {
    /// Slots of an area. Slots beyond the last whole area are never used (SPEC 2.3).
    #[must_use]
    pub fn area_slots(&self) -> u64 {
        self.nslabs / u64::from(self.areas.max(1))
    }

    /// First address after the pool.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.nslabs.saturating_mul(SLOT_BYTES))
    }

    /// Whether it has memory in common with a recorded pool.
    pub(crate) fn overlaps(&self, pool: &Pool) -> bool {
        self.start < pool.end() && pool.start < self.end()
    }
}

/// An area's cursor and slots in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AreaState {
    /// Where the next search begins, counted from the area's first slot.
    pub index: u64,
    /// Slots in use.
    pub used: u64,
}

/// The slots of one pool.
///
/// Costs less than one byte a slot: a cache line a segment, and a bound of some bytes.
#[derive(Clone, Debug)]
pub struct SlotPool {
    geometry: Geometry,
    /// First address after the pool.
    end: u64,
    area_slots: u64,
    /// Bits to shift a slot number by to get its area, where areas are a power of two or there is but one.
    area_shift: Option<u32>,
    /// See [`SlotPool::has_small_areas`].
    small_areas: bool,
    areas: Vec<AreaState>,
    segments: Vec<Segment>,
    bounds: Bounds,
    /// Slots of a segment, where free runs end: 128 in every kernel, which is what all but `cut` is made for.
    segment_slots: u64,
}

/// The slots of a segment, one bit a slot: all that is known of them, in one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Segment {
    /// Free slots.
    free: u128,
    /// First slots of allocations; and the first slot behind the pool, in a segment it ends in. So an allocation ends
    /// where the next begins or a slot is free.
    starts: Flags,
    /// First data slots of allocations, behind their pads.
    data: Flags,
    /// What is known of its free runs.
    bound: Bound,
}

impl Segment {
    /// With all slots free.
    const EMPTY: Self = Self { free: u128::MAX, starts: Flags::NONE, data: Flags::NONE, bound: Bound::FULL };

    /// Slots of the allocation that begins in slot `at`.
    #[inline]
    fn length(&self, at: u32) -> u32 {
        bits::end(!(self.free | self.starts.bits()), at + 1) - at
    }

    /// Frees all slots of an allocation.
    #[inline]
    fn clear(&mut self, slots: u128) {
        self.free |= slots;
        self.starts.clear(slots);
        self.data.clear(slots);
    }

    /// Frees all slots of an allocation, `n` from slot `at` on, and remembers the free run they are part of now. The
    /// bounds are those of the pool, in which it is segment `number`.
    #[inline(always)]
    fn give_back(&mut self, number: usize, at: u32, n: u32, bounds: &mut Bounds) {
        self.clear(bits::run(at, n));
        if self.bound != Bound::FULL {
            let (from, to) = (bits::begin(self.free, at), bits::end(self.free, at + n));
            bounds.raise(number, &mut self.bound, from, to - from);
        }
    }

    /// The first slot of the allocation that covers slot `at`, if it begins in this segment (it does).
    #[inline]
    fn start(&self, at: u32) -> Option<u32> {
        bits::begin(!self.starts.bits(), at + 1).checked_sub(1)
    }
}

/// Slots taken by one allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First slot, padding included.
    pub first: u64,
    /// Slots.
    pub n: u64,
}

impl SlotPool {
    /// An empty pool.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        let n = usize::try_from(geometry.nslabs).unwrap_or(usize::MAX);
        let segments = n.div_ceil(SEG as usize);
        let area_slots = geometry.area_slots();
        let mut pool = Self {
            geometry,
            end: geometry.end(),
            area_slots,
            area_shift: match geometry.areas {
                0 | 1 => Some(u64::BITS - 1),
                _ => area_slots.is_power_of_two().then(|| area_slots.trailing_zeros()),
            },
            small_areas: area_slots.is_multiple_of(SEG) && Bounds::is_in_a_group((area_slots / SEG) as usize),
            areas: vec![AreaState::default(); geometry.areas.max(1) as usize],
            segments: vec![Segment::EMPTY; segments],
            bounds: Bounds::new(segments),
            segment_slots: SEG,
        };
        // A last segment that is cut short ends its free runs there (SPEC 2.6, 6.6+; before, the kernel overruns).
        let rest = (geometry.nslabs % SEG) as u32;
        if let (Some(last), true) = (pool.segments.last_mut(), rest != 0) {
            last.free = bits::below(rest);
            last.starts.set(rest);
        }
        pool
    }

    /// Where the pool is.
    #[must_use]
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Whether a bounce address lies in this pool.
    #[must_use]
    #[inline]
    pub fn contains(&self, addr: u64) -> bool {
        (self.geometry.start..self.end).contains(&addr)
    }

    /// Slots in use.
    #[must_use]
    #[inline]
    pub fn used(&self) -> u64 {
        self.areas.iter().map(|area| area.used).sum()
    }

    /// Cursor and use of every area.
    #[must_use]
    #[inline]
    pub fn areas(&self) -> &[AreaState] {
        &self.areas
    }

    /// Slots of an area.
    #[must_use]
    #[inline]
    pub fn area_slots(&self) -> u64 {
        self.area_slots
    }

    /// Whether the bounds of all segments of an area are in one group.
    #[inline]
    pub(crate) fn has_small_areas(&self) -> bool {
        self.small_areas
    }

    /// Slots of a segment, the most one mapping can have.
    #[must_use]
    #[inline]
    pub fn segment_slots(&self) -> u64 {
        self.segment_slots
    }

    /// Sets an area's cursor to what a snapshot says. An index outside the area is refused.
    pub(crate) fn set_index(&mut self, area: usize, index: u64) -> bool {
        match self.areas.get_mut(area) {
            Some(a) if index < self.area_slots => {
                a.index = index;
                true
            }
            _ => false,
        }
    }

    /// The area a slot belongs to.
    #[inline]
    pub(crate) fn area_of(&self, slot: u64) -> usize {
        let area = match self.area_shift {
            Some(shift) => slot >> shift,
            None => slot / self.area_slots.max(1),
        };
        (area as usize).min(self.areas.len() - 1)
    }

    /// Length of the free run from `slot` to the first busy slot or the end of the segment: the kernel's `list[slot]`.
    #[must_use]
    #[inline]
    pub fn run_at(&self, slot: u64) -> u32 {
        if self.segment_slots != SEG {
            return self.cut_run_at(slot);
        }
        let at = (slot % SEG) as u32;
        bits::end(self.segment((slot / SEG) as usize), at) - at
    }

    /// The kernel's `list[]`, for comparison with it.
    pub fn list(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.geometry.nslabs).map(|slot| self.run_at(slot))
    }

    /// The longest free run inside one segment, exactly.
    #[must_use]
    pub fn largest_run(&self) -> u32 {
        if self.segment_slots != SEG {
            return self.cut_runs().max().unwrap_or(0);
        }
        self.segments.iter().map(|s| bits::longest_run(s.free)).max().unwrap_or(0)
    }

    /// Free runs, as many as segments and busy slots cut the pool into.
    #[must_use]
    pub fn free_runs(&self) -> u64 {
        if self.segment_slots != SEG {
            return self.cut_runs().count() as u64;
        }
        self.segments.iter().map(|s| u64::from((s.free & !(s.free << 1)).count_ones())).sum()
    }

    /// Bytes the pool takes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.segments.capacity() * size_of::<Segment>()
            + self.areas.capacity() * size_of::<AreaState>()
            + self.bounds.heap_bytes()
    }

    /// Free slots of a segment, as bits.
    #[inline]
    pub(crate) fn segment(&self, segment: usize) -> u128 {
        self.segments.get(segment).map_or(0, |s| s.free)
    }

    /// The bounds on the segments' runs, which searches look through.
    #[inline]
    pub(crate) fn bounds_mut(&mut self) -> &mut Bounds {
        &mut self.bounds
    }

    /// Whether a run ends with the pool and inside a segment (SPEC 4).
    #[inline]
    pub(crate) fn has_ragged_end(&self, run: Run) -> bool {
        let end = self.geometry.nslabs;
        run.first + run.n == end && !end.is_multiple_of(self.segment_slots)
    }

    /// Remembers that a segment has no such run as was wanted.
    #[inline(never)]
    pub(crate) fn disappoint(&mut self, segment: usize, wanted: &Wanted) {
        let Some(Segment { free, bound, .. }) = self.segments.get_mut(segment) else { return };
        self.bounds.lower(segment, bound, wanted, bits::longest_run(*free));
    }

    /// Takes slots and moves the area's cursor behind them (SPEC 3.7). The slots must be free.
    #[inline(always)]
    pub(crate) fn take(&mut self, area: usize, run: Run, pad: u32) {
        let base = area as u64 * self.area_slots;
        let Run { first, n } = run;
        let at = (first % SEG) as u32;
        debug_assert!(
            n >= 1 && first % self.segment_slots + n <= self.segment_slots,
            "runs stay in a segment (I1, I9)"
        );
        debug_assert!(u64::from(pad) < n, "there is data behind the pads");
        if self.segment_slots == SEG {
            let slots = bits::run(at, n as u32);
            let segment = &mut self.segments[(first / SEG) as usize];
            debug_assert_eq!(segment.free & slots, slots, "slots are taken once (I1)");
            segment.free &= !slots;
            segment.starts.set(at);
            segment.data.set(at + pad);
        } else {
            let data = first + u64::from(pad);
            self.cut_change(run, |word, slots| word.free &= !slots);
            self.segments[(first / SEG) as usize].starts.set(at);
            self.segments[(data / SEG) as usize].data.set((data % SEG) as u32);
        }
        let area = &mut self.areas[area];
        area.used += n;
        let next = first - base + n;
        area.index = if next >= self.area_slots { 0 } else { next };
    }

    /// The allocation whose data begins in `slot` (SPEC 4: the pads in front of it belong to it).
    #[inline]
    pub(crate) fn allocation_at(&self, slot: u64) -> Option<Run> {
        let (segment, at) = (self.segments.get((slot / SEG) as usize)?, (slot % SEG) as u32);
        if !segment.data.has(at) {
            return None;
        }
        if self.segment_slots != SEG {
            return self.cut_allocation(slot);
        }
        let start = if segment.starts.has(at) { at } else { segment.start(at)? };
        Some(Run { first: slot - u64::from(at - start), n: segment.length(start).into() })
    }

    /// The allocation that covers `slot`, wherever it begins.
    pub(crate) fn allocation_over(&self, slot: u64) -> Option<Run> {
        let (segment, at) = (self.segments.get((slot / SEG) as usize)?, (slot % SEG) as u32);
        if slot >= self.geometry.nslabs || segment.free >> at & 1 == 1 {
            return None;
        }
        if self.segment_slots != SEG {
            return self.cut_allocation(slot);
        }
        let start = segment.start(at)?;
        Some(Run { first: slot - u64::from(at - start), n: segment.length(start).into() })
    }

    /// Gives back the allocation whose data begins in `slot`, if one does; the cursor stays (SPEC 4).
    #[inline(always)]
    pub(crate) fn release_at(&mut self, slot: u64) -> Option<Run> {
        if self.segment_slots != SEG {
            return self.cut_release_at(slot);
        }
        let (number, at) = ((slot / SEG) as usize, (slot % SEG) as u32);
        let segment = self.segments.get_mut(number)?;
        if !segment.data.has(at) {
            return None;
        }
        let start = if segment.starts.has(at) { at } else { segment.start(at)? };
        let n = segment.length(start);
        segment.give_back(number, start, n, &mut self.bounds);
        let run = Run { first: slot - u64::from(at - start), n: n.into() };
        self.count_back(run);
        Some(run)
    }

    #[cold]
    fn cut_release_at(&mut self, slot: u64) -> Option<Run> {
        let run = self.allocation_at(slot)?;
        self.release(run);
        Some(run)
    }

    /// Gives an allocation's slots back; the cursor stays (SPEC 4).
    #[inline(always)]
    pub(crate) fn release(&mut self, run: Run) {
        if self.segment_slots == SEG {
            let (number, at) = ((run.first / SEG) as usize, (run.first % SEG) as u32);
            self.segments[number].give_back(number, at, run.n as u32, &mut self.bounds);
        } else {
            self.cut_change(run, Segment::clear);
        }
        self.count_back(run);
    }

    #[inline]
    fn count_back(&mut self, run: Run) {
        let area = self.area_of(run.first);
        self.areas[area].used -= run.n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_a_byte_a_slot() {
        for nslabs in [512, 32768, 524_288] {
            let pool = SlotPool::new(Geometry { start: 1 << 30, nslabs, areas: 4 });
            assert!(pool.heap_bytes() as u64 <= nslabs + 1024, "{} bytes for {nslabs} slots", pool.heap_bytes());
        }
    }

    #[test]
    fn an_allocation_is_found_by_its_data_only_but_covers_all_its_slots() {
        // The pool ends inside its second segment.
        let mut pool = SlotPool::new(Geometry { start: 1 << 30, nslabs: 200, areas: 1 });
        let (padded, next, last) = (Run { first: 60, n: 8 }, Run { first: 68, n: 1 }, Run { first: 190, n: 10 });
        pool.take(0, padded, 5);
        pool.take(0, next, 0);
        pool.take(0, last, 0);
        assert_eq!([60, 64, 65, 66, 68, 190, 191, 200, 300].map(|slot| pool.allocation_at(slot)), {
            let (p, n, l) = (Some(padded), Some(next), Some(last));
            [None, None, p, None, n, l, None, None, None]
        });
        assert_eq!([59, 60, 67, 68, 69, 189, 190, 199, 200].map(|slot| pool.allocation_over(slot)), {
            let (p, n, l) = (Some(padded), Some(next), Some(last));
            [None, p, p, n, None, None, l, l, None]
        });
        for run in [next, last, padded] {
            pool.release(run);
        }
        assert_eq!((pool.used(), pool.largest_run(), pool.allocation_over(64)), (0, 128, None));
    }
}
