//! A pool's slots: which are free, where each area's search begins, how many are in use.
//!
//! The kernel keeps a number a slot, `list[]`: how long the free run is that starts there, cut at the segment's end
//! (SPEC 2.6, 3.7, 4). That number follows from which slots are free, so only this is kept: a 128-slot segment is one
//! `u128`, bit k set when slot k is free. [`SlotPool::list`] gives the kernel's numbers back for comparison.

use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

use crate::bits;

const SEG: u64 = SEGMENT_SLOTS as u64;
/// Segments a group of the upper summary stands for.
const GROUP: usize = 64;

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
#[derive(Clone, Debug)]
pub struct SlotPool {
    geometry: Geometry,
    area_slots: u64,
    areas: Vec<AreaState>,
    /// A segment's free slots.
    free: Vec<u128>,
    /// At least the longest free run of each segment; lowered when a search finds less.
    longest: Vec<u8>,
    /// At least the largest `longest` of each group of segments.
    longest_of_group: Vec<u8>,
    /// Length of the allocation that begins in a slot; 0 elsewhere.
    length: Vec<u8>,
    /// Padding slots in front of the allocation's first data slot.
    pad: Vec<u8>,
    used: u64,
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
        let mut pool = Self {
            geometry,
            area_slots: geometry.area_slots(),
            areas: vec![AreaState::default(); geometry.areas.max(1) as usize],
            free: vec![u128::MAX; segments],
            longest: vec![SEG as u8; segments],
            longest_of_group: vec![SEG as u8; segments.div_ceil(GROUP)],
            length: vec![0; n],
            pad: vec![0; n],
            used: 0,
        };
        // A last segment that is cut short ends its free runs there (SPEC 2.6, 6.6+; before, the kernel overruns).
        let rest = geometry.nslabs % SEG;
        if let (Some(last), true) = (pool.free.last_mut(), rest != 0) {
            *last = bits::below(rest as u32);
        }
        pool
    }

    /// Where the pool is.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Whether a bounce address lies in this pool.
    #[must_use]
    pub fn contains(&self, addr: u64) -> bool {
        (self.geometry.start..self.geometry.end()).contains(&addr)
    }

    /// Slots in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Cursor and use of every area.
    #[must_use]
    pub fn areas(&self) -> &[AreaState] {
        &self.areas
    }

    /// Slots of an area.
    #[must_use]
    pub fn area_slots(&self) -> u64 {
        self.area_slots
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
    pub(crate) fn area_of(&self, slot: u64) -> usize {
        usize::try_from(slot / self.area_slots.max(1)).unwrap_or(usize::MAX).min(self.areas.len() - 1)
    }

    /// Length of the free run from `slot` to the first busy slot or the end of the segment: the kernel's `list[slot]`.
    #[must_use]
    pub fn run_at(&self, slot: u64) -> u32 {
        match self.free.get((slot / SEG) as usize) {
            Some(free) => (free >> (slot % SEG)).trailing_ones(),
            None => 0,
        }
    }

    /// The kernel's `list[]`, for comparison with it.
    pub fn list(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.geometry.nslabs).map(|slot| self.run_at(slot))
    }

    /// The longest free run inside one segment, exactly.
    #[must_use]
    pub fn largest_run(&self) -> u32 {
        self.free.iter().map(|&f| bits::longest_run(f)).max().unwrap_or(0)
    }

    /// Free runs, as many as segments and busy slots cut the pool into.
    #[must_use]
    pub fn free_runs(&self) -> u64 {
        self.free.iter().map(|&f| u64::from((f & !(f << 1)).count_ones())).sum()
    }

    /// Free slots of a segment, as bits.
    pub(crate) fn segment(&self, segment: usize) -> u128 {
        self.free.get(segment).copied().unwrap_or(0)
    }

    /// The first segment in `from..to` that may have a run of `n` free slots.
    pub(crate) fn hopeful(&mut self, from: usize, to: usize, n: u8) -> Option<usize> {
        let mut seg = from;
        while seg < to {
            let group = seg / GROUP;
            let end = ((group + 1) * GROUP).min(to);
            if self.longest_of_group[group] >= n {
                if let Some(found) = self.longest[seg..end].iter().position(|&l| l >= n) {
                    return Some(seg + found);
                }
                if seg.is_multiple_of(GROUP) && end == ((group + 1) * GROUP).min(self.longest.len()) {
                    self.longest_of_group[group] = n - 1;
                }
            }
            seg = end;
        }
        None
    }

    /// Remembers that a segment has no run longer than `longest`.
    pub(crate) fn lower(&mut self, segment: usize, longest: u32) {
        self.longest[segment] = longest as u8;
    }

    /// Takes slots and moves the area's cursor behind them (SPEC 3.7). The slots must be free.
    pub(crate) fn take(&mut self, area: usize, run: Run, pad: u32) {
        let base = area as u64 * self.area_slots;
        let Run { first, n } = run;
        debug_assert!(n >= 1 && first % SEG + n <= SEG, "a run never leaves its segment (I1, I9)");
        let bits = bits::below(n as u32) << (first % SEG);
        let free = &mut self.free[(first / SEG) as usize];
        debug_assert_eq!(*free & bits, bits, "slots are taken once (I1)");
        *free &= !bits;
        self.length[first as usize] = n as u8;
        if pad > 0 {
            self.pad[first as usize + pad as usize] = pad as u8;
        }
        let area = &mut self.areas[area];
        area.used += n;
        let next = first - base + n;
        area.index = if next >= self.area_slots { 0 } else { next };
        self.used += n;
    }

    /// The allocation whose data begins in `slot` (SPEC 4: the pads in front of it belong to it).
    pub(crate) fn allocation_at(&self, slot: u64) -> Option<Run> {
        let pad = u64::from(*self.pad.get(usize::try_from(slot).ok()?)?);
        let first = slot.checked_sub(pad)?;
        match self.length[first as usize] {
            0 => None,
            n => Some(Run { first, n: u64::from(n) }),
        }
    }

    /// The allocation that covers `slot`, wherever it begins.
    pub(crate) fn allocation_over(&self, slot: u64) -> Option<Run> {
        let segment = slot - slot % SEG;
        let first = (segment..=slot).rev().find(|&s| self.length.get(s as usize).is_some_and(|&n| n != 0))?;
        let n = u64::from(self.length[first as usize]);
        (first + n > slot).then_some(Run { first, n })
    }

    /// Gives an allocation's slots back; the cursor stays (SPEC 4).
    pub(crate) fn release(&mut self, run: Run) {
        let Run { first, n } = run;
        let segment = (first / SEG) as usize;
        let free = &mut self.free[segment];
        *free |= bits::below(n as u32) << (first % SEG);
        let merged = bits::run_around(*free, (first % SEG) as u32) as u8;
        self.longest[segment] = self.longest[segment].max(merged);
        let group = &mut self.longest_of_group[segment / GROUP];
        *group = (*group).max(merged);
        self.length[first as usize] = 0;
        self.pad[first as usize..(first + n) as usize].fill(0);
        let area = self.area_of(first);
        self.areas[area].used -= n;
        self.used -= n;
    }
}
