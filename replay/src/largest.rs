//! The largest mapping a kernel promises its drivers, and where it says nothing (SPEC 6.4, 10.6).
//!
//! Block layers split their requests at what the kernel promises. A promise too large, or none, ends in refusals that no
//! pool size cures: [`Cause::TooLarge`](crate::Cause::TooLarge), [`Cause::TooLargeWithOffset`](crate::Cause).

use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

use crate::kernel::{Fact, KernelVersion};
use crate::param::Force;

/// Bytes of a segment, which no mapping exceeds.
pub const SEGMENT_BYTES: u64 = SEGMENT_SLOTS as u64 * SLOT_BYTES;

const PAGE: u64 = 4096;

/// Bytes `swiotlb_max_mapping_size()` promises a device with that min_align_mask: a segment, from 5.19 on less the whole
/// slots its offset can take (SPEC 6.4).
#[must_use]
pub fn max_mapping_size(kernel: KernelVersion, min_align_mask: u64) -> u64 {
    max_mapping_size_of(kernel, min_align_mask, SEGMENT_BYTES)
}

/// The same with segments of another size.
pub(crate) fn max_mapping_size_of(kernel: KernelVersion, min_align_mask: u64, segment_bytes: u64) -> u64 {
    if !kernel.has(Fact::KeepsForAlignment) {
        return segment_bytes;
    }
    segment_bytes.saturating_sub(min_align_mask.checked_next_multiple_of(SLOT_BYTES).unwrap_or(u64::MAX))
}

/// What decides whether the direct mapping promises anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectDevice {
    /// Low address bits a bounce buffer must share with the original.
    pub min_align_mask: u64,
    /// Highest address it reaches: the smaller non-zero of mask and bus limit.
    pub reach: u64,
    /// Its range map leaves some RAM out ([`Ranges::cover`](crate::Ranges::cover)).
    pub leaves_ram_out: bool,
}

impl DirectDevice {
    /// Whether a device may need to bounce, on a machine whose RAM ends at `ram_end` (SPEC 6.4, "addressing limited").
    #[must_use]
    pub fn is_limited(&self, kernel: KernelVersion, ram_end: u64) -> bool {
        self.reach < required_mask(ram_end) || (self.leaves_ram_out && kernel.has(Fact::RangeMapLimits))
    }

    /// Bytes `dma_direct_max_mapping_size()` promises; nothing where it promises any size (SPEC 6.4). `pool` says
    /// whether there is one.
    #[must_use]
    pub fn max_mapping_size(&self, kernel: KernelVersion, ram_end: u64, pool: bool, force: Force) -> Option<u64> {
        let may_bounce = pool && (force == Force::Always || self.is_limited(kernel, ram_end));
        may_bounce.then(|| max_mapping_size(kernel, self.min_align_mask))
    }

    /// The same under Xen PV, whose operations say nothing at all up to 6.5 (SPEC 10.6).
    #[must_use]
    pub fn xen_max_mapping_size(&self, kernel: KernelVersion) -> Option<u64> {
        kernel.has(Fact::XenLimits).then(|| max_mapping_size(kernel, self.min_align_mask))
    }
}

/// The mask that reaches all RAM: all ones up to the highest bit of its last byte.
#[must_use]
pub fn required_mask(ram_end: u64) -> u64 {
    let last = ram_end.saturating_sub(1);
    u64::MAX.checked_shr(last.leading_zeros()).unwrap_or(0)
}

/// Bytes `swiotlb_max_segment()` tells the drivers that ask (SPEC 6.4): 0 without a pool, 1 when everything bounces
/// (up to 5.18), else the pool. Nothing from 6.3 on, where it is gone.
#[must_use]
pub fn max_segment(kernel: KernelVersion, pool_bytes: u64, force: Force, xen: bool) -> Option<u64> {
    let old = !kernel.has(Fact::XenGeneric);
    match () {
        () if kernel.has(Fact::NoSegmentQuery) => None,
        () if pool_bytes == 0 => Some(0),
        () if old && xen => Some(PAGE),
        () if old && force == Force::Always => Some(1),
        () => Some(pool_bytes - pool_bytes % PAGE),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{Limits, Request};
    use crate::pool::Geometry;
    use crate::rules::Search;
    use crate::{Allocator, Cause, GENERATIONS, Generation};

    fn kernel(text: &str) -> KernelVersion {
        KernelVersion::parse(text).unwrap()
    }

    #[test]
    fn the_promise_by_version() {
        for release in ["5.10.7", "5.10.89", "5.11", "5.12.9", "5.15.16", "5.17-rc5", "5.18.12", "rfc64"] {
            assert_eq!(max_mapping_size(kernel(release), 0xfff), 262_144, "{release}");
        }
        for release in ["5.10.198", "5.15.100", "5.19", "6.0.1", "6.6.17", "6.12", "7.2.13"] {
            assert_eq!(max_mapping_size(kernel(release), 0xfff), 258_048, "{release}");
            assert_eq!(max_mapping_size(kernel(release), 0), 262_144, "{release}");
            assert_eq!(max_mapping_size(kernel(release), 1), 260_096, "{release}");
            assert_eq!(max_mapping_size(kernel(release), u64::MAX), 0, "{release}");
        }
    }

    #[test]
    fn only_devices_that_may_bounce_are_promised_anything() {
        let device = DirectDevice { min_align_mask: 0, reach: 0xffff_ffff, leaves_ram_out: false };
        let wide = DirectDevice { reach: u64::MAX, ..device };
        let told = |d: DirectDevice, release, pool, force| d.max_mapping_size(kernel(release), 33 << 30, pool, force);
        assert_eq!(told(device, "6.12", true, Force::Normal), Some(262_144));
        let just = DirectDevice { reach: required_mask(33 << 30), ..device };
        assert_eq!(told(just, "6.12", true, Force::Normal), None, "it reaches all RAM");
        assert_eq!(told(device, "6.12", false, Force::Always), None, "no pool");
        assert_eq!(told(wide, "6.12", true, Force::Normal), None);
        assert_eq!(told(wide, "6.12", true, Force::Always), Some(262_144));
        let ranged = DirectDevice { leaves_ram_out: true, ..wide };
        assert_eq!(told(ranged, "6.6.17", true, Force::Normal), None);
        assert_eq!(told(ranged, "6.7", true, Force::Normal), Some(262_144));
        assert_eq!(device.xen_max_mapping_size(kernel("6.5")), None);
        for release in ["5.15.148", "6.1.192", "6.6.17", "6.12"] {
            assert_eq!(device.xen_max_mapping_size(kernel(release)), Some(262_144), "{release}");
        }
    }

    #[test]
    fn the_mask_that_reaches_all_ram() {
        assert_eq!(required_mask(0x1_0000_0000), 0xffff_ffff);
        assert_eq!(required_mask(0x1_0000_0001), 0x1_ffff_ffff);
        assert_eq!((required_mask(1), required_mask(0), required_mask(u64::MAX)), (0, 0, u64::MAX));
    }

    #[test]
    fn segments_by_version() {
        let of = |release, bytes, force, xen| max_segment(kernel(release), bytes, force, xen);
        assert_eq!(of("5.10.7", 0, Force::Normal, false), Some(0));
        assert_eq!(of("5.10.7", 2048, Force::Normal, false), Some(0), "one slot is less than a page");
        assert_eq!(of("5.18.12", 1 << 26, Force::Always, false), Some(1));
        assert_eq!(of("5.18.12", 1 << 26, Force::Normal, true), Some(4096));
        assert_eq!(of("5.19", 1 << 26, Force::Always, true), Some(1 << 26));
        assert_eq!(of("6.2.1", (1 << 20) + 2048, Force::Normal, false), Some(1 << 20));
        assert_eq!(of("6.3", 1 << 26, Force::Normal, false), None);
    }

    /// SPEC 14, E9: what was promised fits an empty pool wherever the buffer lies; one slot more need not.
    #[test]
    fn e9_a_promise_that_is_kept() {
        let limits = Limits { min_align_mask: 0xfff, ..Limits::NONE };
        let map = |orig_addr, size| {
            let pool = Geometry { start: 0x1000_0000, nslabs: 256, areas: 1 };
            let mut allocator = Allocator::new(Generation::by_id("v6_10").unwrap(), &[pool]);
            allocator
                .map(&Request { orig_addr, size, align_mask: 0, cpu: 0 }, &limits)
                .map(|t| (t.first_slot, t.nslots))
        };
        let promise = max_mapping_size(kernel("6.12"), 0xfff);
        assert_eq!(map(0x2000_0a00, promise), Ok((1, 127)));
        assert_eq!(map(0x2000_0a00, promise + 2048), Err(Cause::AlignmentImpossible));
        assert_eq!(map(0x2000_0a00, max_mapping_size(kernel("5.18"), 0xfff)), Err(Cause::TooLargeWithOffset));
    }

    /// Search C compares the page bits with the buffer's (SPEC 3.5), so from 6.3 to 6.8 a whole segment for a buffer in
    /// the upper half of a page must begin at an odd slot, and cannot.
    #[test]
    fn a_promise_that_is_broken() {
        let map = |id, orig_addr| {
            let pool = Geometry { start: 0x1000_0000, nslabs: 256, areas: 1 };
            let request = Request { orig_addr, size: SEGMENT_BYTES, align_mask: 0, cpu: 0 };
            Allocator::new(Generation::by_id(id).unwrap(), &[pool]).map(&request, &Limits::NONE).map(|t| t.first_slot)
        };
        assert_eq!(map("v6_3", 0x2000_0000), Ok(0));
        assert_eq!(map("v6_3", 0x2000_0800), Err(Cause::AlignmentImpossible));
        assert_eq!(map("v6_9", 0x2000_0800), Ok(0));
    }

    proptest! {
        /// Whoever leaves room for the offset keeps the promise, but for the case above.
        #[test]
        fn the_promise_is_kept_in_an_empty_pool(offset in 0u64..0x1_0000, bits in 0u32..16) {
            let limits = Limits { min_align_mask: (1 << bits) - 1, ..Limits::NONE };
            for rules in GENERATIONS.iter().filter(|g| KernelVersion::of_generation(g).has(Fact::KeepsForAlignment)) {
                if rules.search == Search::C && bits < 12 && offset & 0x800 != 0 {
                    continue;
                }
                let size = max_mapping_size(KernelVersion::of_generation(rules), limits.min_align_mask);
                let mut allocator = Allocator::new(rules, &[Geometry { start: 0x1000_0000, nslabs: 256, areas: 1 }]);
                let request = Request { orig_addr: 0x2000_0000 + offset, size, align_mask: 0, cpu: 0 };
                prop_assert!(allocator.map(&request, &limits).is_ok(), "{} refuses {size}", rules.id);
            }
        }
    }
}
