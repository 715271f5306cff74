//! A request turned into numbers the search needs, by the generation's rules (SPEC 3, "Derived").

use trace::Device;
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

use crate::rules::{AlignMask, Generation, Search, SizeRule};

const SLOT_MASK: u64 = SLOT_BYTES - 1;
const PAGE: u64 = 4096;

/// What of a device matters to the models, ready for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Highest bus address the device reaches: the smaller non-zero of mask and bus limit.
    pub reach: u64,
    /// Low address bits a bounce buffer must share with the original.
    pub min_align_mask: u64,
    /// A mapping must not cross a multiple of this plus one; all ones for no limit.
    pub boundary: u64,
}

impl Limits {
    /// A device that reaches everything and asks for nothing.
    pub const NONE: Self = Self { reach: u64::MAX, min_align_mask: 0, boundary: u64::MAX };

    /// A device whose last reachable byte is known: `size` bytes at `dma_addr` are within it (SPEC 6.1, `capable`).
    /// The sum wraps, as in the kernel.
    #[must_use]
    pub fn capable(&self, dma_addr: u64, size: u64) -> bool {
        dma_addr != u64::MAX && dma_addr.wrapping_add(size).wrapping_sub(1) <= self.reach
    }
}

impl From<&Device> for Limits {
    fn from(device: &Device) -> Self {
        // A device without a mask could not have mapped anything: its mask was not readable, and nothing is assumed.
        let reach = if device.dma_mask.is_none() && device.bus_dma_limit == 0 { u64::MAX } else { device.reach() };
        Self { reach, min_align_mask: device.min_align_mask, boundary: device.boundary() }
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

/// A request against one pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Slots to take, offset and padding included.
    pub n: u64,
    /// Slots the data alone would need.
    pub n_bare: u64,
    /// Bytes in front of the data, padding included.
    pub offset: u64,
    /// Padding slots in front of the data.
    pub pad: u32,
    /// Offset of the data in its first slot.
    pub lo: u64,
    /// How far the walk goes after a slot that matches but is not free.
    pub stride: u64,
    /// Slot s matches when `(first + s) & mask == value`.
    pub mask: u64,
    /// See `mask`.
    pub value: u64,
    /// No slot matches: the pool starts inside a slot.
    pub never: bool,
    /// The pool's first slot number as the device's boundary mask shows it.
    pub first: u64,
    /// Distance of the matching slots the walk looks at, when it is the same power of two all along and fits a segment.
    pub step: Option<u32>,
    /// SPEC 3, `shift`.
    pub shift: u64,
    /// Slots between segment boundaries; 0 when the device's boundary mask is not one less than a power of two.
    pub max_slots: u64,
}

/// Bitwise round-up, also for `to` that is not a power of two (SPEC 2.1).
pub(crate) const fn align(x: u64, to: u64) -> u64 {
    x.wrapping_add(to.wrapping_sub(1)) & !to.wrapping_sub(1)
}

/// Slots that hold `bytes`.
pub(crate) const fn slots(bytes: u64) -> u64 {
    bytes.div_ceil(SLOT_BYTES)
}

impl Plan {
    pub fn new(rules: &Generation, start: u64, request: &Request, limits: &Limits) -> Self {
        let &Request { orig_addr: orig, size, align_mask: am, .. } = request;
        let ma = if rules.min_align { limits.min_align_mask } else { 0 };
        let offset = orig & ma & if rules.pads { am | SLOT_MASK } else { SLOT_MASK };
        // What a caller of the older functions passes as alloc_size: its granule-rounded size.
        let alloc = if am == 0 { size } else { align(size, am.wrapping_add(1)) };
        let asize = match rules.size {
            SizeRule::Alloc => alloc,
            SizeRule::AllocPlusOffset => alloc.saturating_add(offset),
            SizeRule::PaddedTogether => align(size.saturating_add(offset), am.wrapping_add(1)),
        };
        let tbl = start & limits.boundary;
        let (stride, mask, value) = matching(rules, orig, asize, ma, am);
        let (mask, value) = (mask >> 11, value >> 11);
        // The walk meets matching slots `stride` apart, rounded up to where the next match lies.
        let step = stride.checked_add(mask).map(|s| s & !mask).unwrap_or(0);
        let regular = (mask + 1).is_power_of_two() && step.is_power_of_two() && step <= u64::from(SEGMENT_SLOTS);
        let max_slots = match limits.boundary {
            u64::MAX => 1 << 53,
            bd if (bd + 1).is_power_of_two() => slots(bd + 1),
            _ => 0,
        };
        Self {
            n: slots(asize),
            n_bare: slots(match rules.size {
                SizeRule::PaddedTogether => align(size, am.wrapping_add(1)),
                _ => alloc,
            }),
            offset,
            pad: u32::try_from(offset >> 11).unwrap_or(u32::MAX),
            lo: offset & SLOT_MASK,
            stride,
            mask,
            value,
            never: rules.search == Search::D && tbl & SLOT_MASK != 0,
            first: tbl >> 11,
            step: if regular { u32::try_from(step).ok() } else { None },
            shift: slots(tbl),
            max_slots,
        }
    }

    /// Whether a run of `n` slots from `slot` crosses one of the device's segment boundaries (SPEC 3, `span`).
    pub fn spans(&self, slot: u64) -> bool {
        ((self.shift + slot) & (self.max_slots.wrapping_sub(1))).saturating_add(self.n) > self.max_slots
    }

    /// Whether the address of `slot` is one the walk may take.
    pub fn matches(&self, slot: u64) -> bool {
        !self.never && (self.first + slot) & self.mask == self.value
    }
}

/// Stride, and the address bits that must have a value: `(stride, mask, value)` (SPEC 3.1–3.6).
fn matching(rules: &Generation, orig: u64, asize: u64, ma: u64, am: u64) -> (u64, u64, u64) {
    let compares = !rules.zero_orig_escapes || orig != 0;
    match rules.search {
        Search::A => (if asize >= PAGE { PAGE / SLOT_BYTES } else { 1 }, 0, 0),
        Search::B | Search::BSplit => {
            let am = if rules.align_mask == AlignMask::Used { am } else { 0 };
            let im = match rules.search {
                Search::BSplit => ma & !(am | SLOT_MASK),
                _ => ma & !SLOT_MASK,
            };
            let mut stride = (im >> 11) + 1;
            if asize >= PAGE {
                stride <<= 1;
            }
            let stride = stride.max((am >> 11) + 1);
            if compares { (stride, im, orig & im) } else { (stride, 0, 0) }
        }
        Search::C => {
            let im = (ma | am | if asize >= PAGE { PAGE - 1 } else { 0 }) & !SLOT_MASK;
            if compares { ((im >> 11) + 1, im, orig & im) } else { ((im >> 11) + 1, 0, 0) }
        }
        Search::D => {
            let a = if am == 0 && ma == 0 && asize >= PAGE { PAGE - 1 } else { am } | SLOT_MASK;
            let im = ma & !a;
            let stride = (a.max(im) >> 11) + 1;
            if compares { (stride, a | im, orig & im) } else { (stride, a, 0) }
        }
    }
}
