//! What the kernel's DMA code knows of a device.

use crate::Pool;

crate::record! {
    /// A device seen while recording: the limits that decide whether it bounces and which slots fit it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Device {
        /// Key that events refer to, from 0.
        id: u32 => Id,
        /// The kernel's name for it, such as 0000:00:04.0.
        name: String => Text,
        /// Name of its driver when it was first seen.
        driver: Option<String> => Text,
        /// Streaming DMA mask; absent when the device has none.
        dma_mask: Option<u64> => Mask,
        /// Mask for coherent buffers.
        coherent_dma_mask: u64 => Mask,
        /// Highest address the bus can carry; 0 means no limit.
        bus_dma_limit: u64 => Address,
        /// A mapping must not cross a multiple of this mask plus one; absent when the driver set none.
        seg_boundary_mask: Option<u64> => Mask,
        /// Longest segment the device takes; not used by the allocator.
        max_segment_size: Option<u32> => Bytes,
        /// Low address bits a bounce buffer must share with the original; 0 when none.
        min_align_mask: u64 => Mask,
        /// A PCI device behind a port that users can plug into.
        untrusted: Option<bool> => Flag,
        /// Its DMA sees what the CPU's caches hold; absent where that is so for all, as on x86.
        coherent: Option<bool> => Flag,
        /// An IOMMU translates its addresses: what it maps does not go through the direct path.
        iommu: Option<bool> => Flag,
        /// The kernel's table of DMA functions for it, by its symbol; `direct` when it has none of its own.
        dma_ops: Option<String> => Text,
        /// Where the bus sees memory elsewhere than the CPU, as CPU address, bus address and size; empty when nowhere.
        dma_ranges: Option<String> => Text,
        /// Its bounce pool: `default`, or the address of the one it has for itself.
        pool: Option<String> => Text,
    }
}

impl Device {
    /// A device with nothing but its key and name: 64 bits, no limits, nothing else known.
    #[must_use]
    pub fn new(id: u32, name: impl Into<String>) -> Self {
        Self {
            id,
            name: name.into(),
            driver: None,
            dma_mask: Some(u64::MAX),
            coherent_dma_mask: u64::MAX,
            bus_dma_limit: 0,
            seg_boundary_mask: None,
            max_segment_size: None,
            min_align_mask: 0,
            untrusted: None,
            coherent: None,
            iommu: None,
            dma_ops: None,
            dma_ranges: None,
            pool: None,
        }
    }

    /// The highest address the device reaches: the smaller non-zero of mask and bus limit (SPEC 6.1).
    #[must_use]
    pub fn reach(&self) -> u64 {
        match (self.dma_mask.unwrap_or(0), self.bus_dma_limit) {
            (0, limit) => limit,
            (mask, 0) => mask,
            (mask, limit) => mask.min(limit),
        }
    }

    /// The name of the bounce pool it has for itself; nothing when it uses the default one, as all do of which it is not known.
    #[must_use]
    pub fn own_pool(&self) -> Option<&str> {
        self.pool.as_deref().filter(|name| *name != Pool::DEFAULT)
    }

    /// The segment boundary mask the allocator applies: all ones when the driver set none or zero (SPEC 3).
    #[must_use]
    pub fn boundary(&self) -> u64 {
        self.seg_boundary_mask.filter(|&m| m != 0).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_pool_than_the_default_one_is_its_own() {
        let device = |pool: Option<&str>| Device { pool: pool.map(str::to_owned), ..Device::new(0, "x") };
        assert_eq!(device(Some("0x77")).own_pool(), Some("0x77"));
        assert_eq!((device(None).own_pool(), device(Some(Pool::DEFAULT)).own_pool()), (None, None));
    }
}
