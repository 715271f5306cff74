//! The kernels' direct mapping, era by era: which mappings bounce, which are refused (SPEC 6.1, 10.1).
//!
//! These rules change with the kernel's version, finer than the allocator's generations do: a policy has its kernel's
//! ([`crate::Policy::era`]).

use crate::kernel::KernelVersion;

/// What becomes of a buffer out of reach when bouncing is off (SPEC 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenOff {
    /// Refused only under `noforce`; without a pool the allocator is asked all the same, and panics up to 6.0.
    ByMode,
    /// Refused when there is no pool.
    ByPool,
}

/// What attributes of a mapping say about bouncing (SPEC 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttrRules {
    /// Device memory has a function of its own, which never bounces and does not look at force.
    Resource,
    /// MMIO is an attribute; where everything must bounce it is refused.
    Mmio,
    /// Also REQUIRE_COHERENT and CC_SHARED, which forbid a copy.
    Coherent,
}

/// What bounces behind an IOMMU (SPEC 6.1, dma-iommu).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IommuRule {
    /// Not read.
    Nothing,
    /// What is not whole granules, of untrusted devices; the copy takes whole ones (SPEC 8, end) and begins anywhere.
    Unaligned,
    /// The same; the copy begins on a granule.
    Granules,
}

/// The bounce rules of a span of kernels.
#[derive(Debug, PartialEq, Eq)]
pub struct Era {
    /// First kernel it stands for.
    pub from: (u32, u32),
    /// Kernels it stands for, in words.
    pub kernels: &'static str,
    /// What sets it apart from the row above, in a phrase.
    pub doc: &'static str,
    /// What switches bouncing off.
    pub when_off: WhenOff,
    /// Another PCI device's memory is refused rather than bounced.
    pub refuses_p2p: bool,
    /// Small kmalloc buffers bounce, where the architecture chose it.
    pub kmalloc: bool,
    /// They do in Xen's operations too (SPEC 10.1).
    pub xen_kmalloc: bool,
    /// Which attributes count.
    pub attrs: AttrRules,
    /// Behind an IOMMU.
    pub iommu: IommuRule,
}

/// Every era, oldest first.
#[rustfmt::skip]
pub static ERAS: &[Era] = {
    use AttrRules::{Coherent, Mmio, Resource};
    use IommuRule::{Granules, Nothing, Unaligned};
    use WhenOff::{ByMode, ByPool};
    &[
        era((0, 0),  "up to 5.14",   "force and noforce are modes of the kernel",              ByMode, false, false, false, Resource, Nothing),
        era((5, 15), "early 5.15.y", "force belongs to the pool",                              ByMode, false, false, false, Resource, Unaligned),
        era((5, 16), "5.16 to 5.18", "behind an IOMMU copies begin on a granule",              ByMode, false, false, false, Resource, Granules),
        era((5, 19), "5.19",         "out of reach without a pool is refused",                 ByPool, false, false, false, Resource, Granules),
        era((6, 0),  "6.0 to 6.4",   "PCI peers' memory never bounces",                        ByPool, true,  false, false, Resource, Granules),
        era((6, 5),  "6.5 to 6.11",  "small kmalloc buffers bounce, not in Xen's operations",  ByPool, true,  true,  false, Resource, Granules),
        era((6, 12), "6.12",         "in Xen's operations too",                                ByPool, true,  true,  true,  Resource, Granules),
        era((6, 13), "6.13 to 6.16", "not in Xen's operations",                                ByPool, true,  true,  false, Resource, Granules),
        era((6, 17), "6.17",         "in Xen's operations again",                              ByPool, true,  true,  true,  Resource, Granules),
        era((6, 18), "6.18 to 7.0",  "MMIO is an attribute, refused under force",              ByPool, true,  true,  true,  Mmio,     Granules),
        era((7, 1),  "7.1, 7.2",     "REQUIRE_COHERENT and CC_SHARED forbid a copy",           ByPool, true,  true,  true,  Coherent, Granules),
    ]
};

#[allow(clippy::too_many_arguments, reason = "a table row: one argument a column, named in the struct")]
const fn era(
    from: (u32, u32),
    kernels: &'static str,
    doc: &'static str,
    when_off: WhenOff,
    refuses_p2p: bool,
    kmalloc: bool,
    xen_kmalloc: bool,
    attrs: AttrRules,
    iommu: IommuRule,
) -> Era {
    Era { from, kernels, doc, when_off, refuses_p2p, kmalloc, xen_kmalloc, attrs, iommu }
}

impl Era {
    /// The era of a kernel.
    #[must_use]
    pub fn of_kernel(kernel: KernelVersion) -> &'static Self {
        // The late 5.15.y have 5.16's alignment; from which patch on is not known (SPEC 6.1, 15.3).
        let version = if kernel.in_stable(5, 15, 100) { (5, 16) } else { kernel.branch() };
        ERAS.iter().rfind(|era| era.from <= version).unwrap_or(&ERAS[0])
    }
}

/// Whether a kmalloc buffer of that size may share a cache line with another (SPEC 6.1, `kmalloc_needs_bounce`): only
/// the size is looked at. `align` is the CPU's cache alignment.
#[must_use]
pub(crate) fn kmalloc_shares_lines(size: u64, align: u64) -> bool {
    // Above twice ARCH_DMA_MINALIGN every bucket is a multiple of it. On the architectures with smaller values the
    // buckets in between are too, so one constant serves all.
    let min_align = align.max(128);
    if size >= 2 * min_align {
        return false;
    }
    // kmalloc's buckets: the powers of two from 8 on, and 96 and 192.
    let bucket = match size {
        65..=96 => 96,
        129..=192 => 192,
        _ => size.max(8).next_power_of_two(),
    };
    !bucket.is_multiple_of(align)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::GENERATIONS;

    fn of(release: &str) -> &'static str {
        Era::of_kernel(KernelVersion::parse(release).unwrap()).kernels
    }

    #[test]
    fn kernels_fall_into_their_era() {
        assert_eq!((of("5.10.198"), of("rfc64")), ("up to 5.14", "up to 5.14"));
        assert_eq!((of("5.15.16"), of("5.15.148"), of("5.15")), ("early 5.15.y", "5.16 to 5.18", "5.16 to 5.18"));
        assert_eq!((of("6.1.192"), of("6.12.9-amd64"), of("6.14")), ("6.0 to 6.4", "6.12", "6.13 to 6.16"));
        assert_eq!((of("7.0"), of("9.9")), ("6.18 to 7.0", "7.1, 7.2"));
    }

    #[test]
    fn eras_are_in_order_and_the_generations_follow_them() {
        assert!(ERAS.is_sorted_by(|a, b| a.from < b.from));
        let eras = GENERATIONS.iter().map(|g| Era::of_kernel(KernelVersion::of_generation(g)).from);
        assert!(eras.is_sorted());
    }

    #[test]
    fn small_buckets_share_cache_lines() {
        let shares = |align: u64| (0..=600).filter(|&n| kmalloc_shares_lines(n, align)).collect::<Vec<_>>();
        assert_eq!(shares(8), [0u64; 0]);
        assert_eq!(shares(64), (0..=32).chain(65..=96).collect::<Vec<_>>());
        assert_eq!(shares(128), (0..=64).chain(65..=96).chain(129..=192).collect::<Vec<_>>());
    }
}
