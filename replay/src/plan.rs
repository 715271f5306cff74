//! A request turned into numbers the search needs, by the generation's rules (SPEC 3, "Derived").

use trace::Device;
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

use crate::boundaries::Boundaries;
use crate::pool::SlotPool;
use crate::ranges::Ranges;
use crate::rules::{AlignMask, Generation, Search, SizeRule};
use crate::walk::{Before, both_sweeps, first_around};

const SLOT_MASK: u64 = SLOT_BYTES - 1;
const PAGE: u64 = 4096;
/// Profiles worth remembering.
pub(crate) const PROFILES: usize = 8;

/// What of a device matters to the models, ready for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Highest bus address the device reaches: the smaller non-zero of mask and bus limit.
    pub reach: u64,
    /// Low address bits a bounce buffer must share with the original.
    pub min_align_mask: u64,
    /// A mapping must not cross a multiple of this plus one; all ones for no limit.
    pub boundary: u64,
    /// Where its bus sees memory.
    pub ranges: Ranges,
}

impl Limits {
    /// A device that reaches everything and asks for nothing.
    pub const NONE: Self = Self { reach: u64::MAX, min_align_mask: 0, boundary: u64::MAX, ranges: Ranges::NONE };

    /// The bus address of a physical one; all ones (`DMA_MAPPING_ERROR`) where the bus does not see it (SPEC 6.1,
    /// `phys_to_dma`).
    #[must_use]
    #[inline(always)]
    pub fn bus(&self, phys: u64) -> u64 {
        self.ranges.to_bus(phys).unwrap_or(u64::MAX)
    }

    /// A device whose last reachable byte is known: `size` bytes at `dma_addr` are within it (SPEC 6.1, `capable`).
    /// The sum wraps, as in the kernel.
    #[must_use]
    #[inline]
    pub fn capable(&self, dma_addr: u64, size: u64) -> bool {
        dma_addr != u64::MAX && dma_addr.wrapping_add(size).wrapping_sub(1) <= self.reach
    }
}

impl From<&Device> for Limits {
    fn from(device: &Device) -> Self {
        // A device without a mask could not have mapped anything: its mask was not readable, and nothing is assumed.
        let reach = if device.dma_mask.is_none() && device.bus_dma_limit == 0 { u64::MAX } else { device.reach() };
        // Ranges that cannot be read are taken for none; who ties a trace counts them.
        let ranges = Ranges::of(device).unwrap_or(Ranges::NONE);
        Self { reach, min_align_mask: device.min_align_mask, boundary: device.boundary(), ranges }
    }
}

/// A request for slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Physical address of the caller's buffer.
    pub orig_addr: u64,
    /// Bytes to map.
    pub size: u64,
    /// The caller's alignment mask (an IOMMU granule minus one); 0 for ordinary maps.
    pub align_mask: u64,
    /// CPU the request runs on: chooses the area.
    pub cpu: u32,
}

/// What a search asks of a slot's address, and how far it steps (SPEC 3.1–3.6).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How far the walk goes after a slot that matches but is not free.
    pub stride: u64,
    /// Slot s matches when `(first + s) & mask` is what the request wants.
    pub mask: u64,
    /// The bits of the buffer's slot number that say what is wanted.
    like: u64,
    /// What a cursor is rounded up by before the search: to the stride in searches A and B, not at all in C and D.
    round: u64,
    /// Distance of the matching slots the walk looks at, when it is the same power of two all along and fits a segment.
    pub step: Option<u32>,
    /// Whether a second sweep, from the area's first slot up, ends before the cursor and goes on looking at slots `step` apart
    /// from those of the first.
    pub comes_round: bool,
}

/// A device against a pool: what of a [`Plan`] does not depend on the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    rules: &'static Generation,
    start: u64,
    boundary: u64,
    min_align_mask: u64,
    ranges: Ranges,
    /// The device's min_align_mask, as far as the generation obeys it.
    ma: u64,
    /// See [`Plan`].
    never: bool,
    /// See [`Plan`].
    first: u64,
    boundaries: Boundaries,
    /// For ordinary requests, below a page and from a page up.
    shapes: [Shape; 2],
    /// Whether matching slots come at one distance, in ordinary requests.
    regular: bool,
}

/// A request against one pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Slots to take, offset and padding included.
    pub n: u64,
    /// Slots the data alone would need.
    pub n_bare: u64,
    /// Bytes in front of the data, padding included.
    pub offset: u64,
    /// How the walk goes.
    pub shape: Shape,
    /// What the slot numbers must show under the shape's mask.
    pub value: u64,
    /// No slot matches: the pool starts inside a slot.
    pub never: bool,
    /// The pool's first slot number as the device's boundary mask shows it.
    pub first: u64,
    /// The device's segment boundaries.
    pub boundaries: Boundaries,
}

/// Bitwise round-up, also for `to` that is not a power of two (SPEC 2.1).
#[inline]
pub(crate) const fn align(x: u64, to: u64) -> u64 {
    x.wrapping_add(to.wrapping_sub(1)) & !to.wrapping_sub(1)
}

/// Slots that hold `bytes`.
#[inline]
pub(crate) const fn slots(bytes: u64) -> u64 {
    bytes.div_ceil(SLOT_BYTES)
}

impl Profile {
    /// Of a device against the pool at `start`.
    pub fn new(rules: &'static Generation, start: u64, limits: &Limits) -> Self {
        let ma = if rules.min_align { limits.min_align_mask } else { 0 };
        let max_slots = match limits.boundary {
            u64::MAX => 1 << 53,
            bd if (bd + 1).is_power_of_two() => slots(bd + 1),
            _ => 0,
        };
        let shape = |paged| Shape::new(rules, ma, 0, paged, true);
        let shapes = [shape(false), shape(true)];
        let tbl = limits.bus(start) & limits.boundary;
        let never = rules.search == Search::D && tbl & SLOT_MASK != 0;
        let regular = !never && shapes.iter().all(|shape| shape.step.is_some());
        let boundaries = Boundaries { shift: slots(tbl), max_slots };
        let Limits { min_align_mask, boundary, ranges, .. } = *limits;
        Self {
            rules,
            start,
            boundary,
            min_align_mask,
            ranges,
            ma,
            first: tbl >> 11,
            boundaries,
            never,
            shapes,
            regular,
        }
    }

    /// Which of [`PROFILES`] places to remember a device's at; others may have the same.
    #[inline]
    pub fn place(limits: &Limits) -> usize {
        let Limits { reach, min_align_mask, boundary, .. } = *limits;
        let mixed = reach ^ min_align_mask.rotate_left(20) ^ boundary.rotate_left(40);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as usize
    }

    /// Whether it is this device's against the pool at `start`.
    #[inline]
    pub fn is_of(&self, start: u64, limits: &Limits) -> bool {
        // How far the device reaches plays no part in the search.
        let Limits { min_align_mask, boundary, ranges, .. } = *limits;
        self.start == start
            && self.min_align_mask == min_align_mask
            && self.boundary == boundary
            && self.ranges == ranges
    }

    /// How the generation searches.
    #[inline]
    pub fn search(&self) -> Search {
        self.rules.search
    }

    /// What a request comes to.
    #[inline]
    pub fn plan(&self, request: &Request) -> Plan {
        let &Request { orig_addr: orig, size, align_mask: am, .. } = request;
        let rules = self.rules;
        let offset = orig & self.ma & if rules.pads { am | SLOT_MASK } else { SLOT_MASK };
        // What a caller of the older functions passes as alloc_size: its granule-rounded size.
        let granules = |bytes: u64| if am == 0 { bytes } else { align(bytes, am.wrapping_add(1)) };
        let asize = match rules.size {
            SizeRule::Alloc => granules(size),
            SizeRule::AllocPlusOffset => granules(size).saturating_add(offset),
            SizeRule::PaddedTogether => granules(size.saturating_add(offset)),
        };
        let paged = asize >= PAGE;
        let compares = orig != 0 || !rules.zero_orig_escapes;
        let shape = if am == 0 && compares {
            self.shapes[usize::from(paged)]
        } else {
            Shape::new(rules, self.ma, am, paged, compares)
        };
        Plan {
            // Where the sum has wrapped there may be less than the pads; nothing is asked for then.
            n: if asize > offset { slots(asize) } else { 0 },
            n_bare: slots(granules(size)),
            offset,
            shape,
            value: (orig >> 11) & shape.like,
            never: self.never,
            first: self.first,
            boundaries: self.boundaries,
        }
    }

    /// What [`Profile::first_sweep`] has done once it was in vain.
    pub fn done(&self, pool: &SlotPool) -> Before {
        if both_sweeps(pool, &self.shapes[0]) { Before::Searched } else { Before::Swept }
    }

    /// What the first sweep of an ordinary request finds in its CPU's area. It is what [`find`](crate::walk::find) would
    /// find, with less ado: nearly all requests end here.
    ///
    /// # Errors
    /// Whether that was done in vain; else the request takes more thought.
    #[inline(always)]
    pub fn first_sweep(&self, pool: &mut SlotPool, area: usize, request: &Request) -> Result<Ordinary, bool> {
        let &Request { orig_addr: orig, size, align_mask, .. } = request;
        if align_mask != 0 || orig == 0 || size.wrapping_sub(1) >= 1 << 17 || !self.regular {
            return Err(false);
        }
        let lo = orig & self.ma & SLOT_MASK;
        let n = (size + lo + SLOT_MASK) / SLOT_BYTES;
        let shape = &self.shapes[usize::from(size + lo >= PAGE)];
        let Some(state) = pool.areas().get(area) else { return Err(false) };
        let len = pool.area_slots();
        let begin = shape.begin(state.index, len);
        let base = area as u64 * len;
        let at = begin + (((orig >> 11) & shape.like).wrapping_sub(self.first + base + begin) & shape.mask);
        if at >= len || n > len.wrapping_sub(state.used) {
            return Err(false);
        }
        // The first slot looked at is the one right behind the last allocation, or near it: where much is free it will
        // do. Where it is as likely not to, asking costs more than it saves.
        let slot = base + at;
        let roomy = state.used < len / 2;
        if roomy && u64::from(pool.run_at(slot)) >= n && !self.boundaries.cross(slot, n) {
            return Ok(Ordinary { slot, n, lo });
        }
        let slot = first_around(pool, area, shape, slot, n as u32, &self.boundaries).ok_or(true)?;
        Ok(Ordinary { slot, n, lo })
    }
}

/// Where an ordinary request goes: one without padding.
pub(crate) struct Ordinary {
    /// First slot, and the data's.
    pub slot: u64,
    /// Slots.
    pub n: u64,
    /// Offset of the data in its slot.
    pub lo: u64,
}

impl Plan {
    /// As [`Profile::plan`], for a device met once.
    pub fn new(rules: &'static Generation, start: u64, request: &Request, limits: &Limits) -> Self {
        Profile::new(rules, start, limits).plan(request)
    }

    /// Padding slots in front of the data.
    #[inline]
    pub fn pad(&self) -> u32 {
        u32::try_from(self.offset >> 11).unwrap_or(u32::MAX)
    }

    /// Offset of the data in its first slot.
    #[inline]
    pub fn lo(&self) -> u64 {
        self.offset & SLOT_MASK
    }

    /// Whether a run of `n` slots from `slot` crosses one of the device's segment boundaries.
    #[inline]
    pub fn spans(&self, slot: u64) -> bool {
        self.boundaries.cross(slot, self.n)
    }

    /// Whether the address of `slot` is one the walk may take.
    #[inline]
    pub fn matches(&self, slot: u64) -> bool {
        !self.never && (self.first + slot) & self.shape.mask == self.value
    }
}

impl Shape {
    /// Where a search of an area of `len` slots begins. The rounding is bitwise also to what is not a power of two
    /// (SPEC 2.1).
    #[inline]
    pub fn begin(&self, index: u64, len: u64) -> u64 {
        let rounded = index.wrapping_add(self.round) & !self.round;
        if rounded >= len { 0 } else { rounded }
    }

    /// For a device's mask `ma`, a caller's mask `am`, a request of a page or more or of less, and whether the slots'
    /// addresses are compared with the buffer's at all.
    fn new(rules: &Generation, ma: u64, am: u64, paged: bool, compares: bool) -> Self {
        let page = if paged { PAGE - 1 } else { 0 };
        // The bits that are looked at, and those of them that must be as in the buffer; the rest must be zero.
        let (stride, looked, like) = match rules.search {
            Search::A => (if paged { PAGE / SLOT_BYTES } else { 1 }, 0, 0),
            Search::B | Search::BSplit => {
                let am = if rules.align_mask == AlignMask::Used { am } else { 0 };
                let im = match rules.search {
                    Search::BSplit => ma & !(am | SLOT_MASK),
                    _ => ma & !SLOT_MASK,
                };
                let stride = ((im >> 11) + 1) << u32::from(paged);
                (stride.max((am >> 11) + 1), im, im)
            }
            Search::C => {
                let im = (ma | am | page) & !SLOT_MASK;
                ((im >> 11) + 1, im, im)
            }
            Search::D => {
                let a = if am == 0 && ma == 0 { page } else { am } | SLOT_MASK;
                let im = ma & !a;
                ((a.max(im) >> 11) + 1, a | im, im)
            }
        };
        let (looked, like) = if compares { (looked, like) } else { (looked & !like, 0) };
        let mask = looked >> 11;
        // The walk meets matching slots `stride` apart, rounded up to where the next match lies.
        let step = stride.checked_add(mask).map(|s| s & !mask).unwrap_or(0);
        let regular = (mask + 1).is_power_of_two() && step.is_power_of_two() && step <= u64::from(SEGMENT_SLOTS);
        let step = if regular { u32::try_from(step).ok() } else { None };
        let round = match rules.search {
            Search::A | Search::B | Search::BSplit => stride.wrapping_sub(1),
            Search::C | Search::D => 0,
        };
        let comes_round = step.is_some_and(|step| match rules.search {
            // Both begin at a multiple of the stride, so a walk comes to where it began unless addresses are compared.
            Search::A => true,
            Search::B | Search::BSplit => mask == 0,
            Search::C | Search::D => mask + 1 == u64::from(step),
        });
        Self { stride, mask, like: like >> 11, round, step, comes_round }
    }
}
