//! The words of a mapping's decision: on what terms it is asked for, why it bounces, what became of it.

use crate::allocator::Taken;
use crate::refusal::Cause;
use trace::{Device, Direction};

pub(super) const PAGE: u64 = 4096;

trace::words! {
    /// Why a mapping bounced. When several hold, the first of mask, foreign, straddle, untrusted, kmalloc; `forced` only
    /// when nothing else would have made it bounce.
    pub enum Reason {
        /// The device does not reach the buffer.
        Mask = "mask",
        /// The buffer's bus frames do not follow one another (Xen).
        Straddle = "straddle",
        /// The buffer is not aligned as the device or the IOMMU needs it. No rule of SPEC 6.1 bounces for that alone:
        /// behind an IOMMU it takes an untrusted device or a small kmalloc buffer too, and then those words stand.
        Alignment = "alignment",
        /// The buffer's frames do not follow one another and some are another domain's (Xen); on ARM also: its first is,
        /// the device does not see the CPU's caches, and Xen cannot flush them.
        Foreign = "foreign",
        /// Everything bounces (`swiotlb=force`, encrypted guests).
        Forced = "forced",
        /// The device is not trusted with memory it shares a page with.
        Untrusted = "untrusted",
        /// A small kmalloc buffer that shares cache lines.
        Kmalloc = "kmalloc",
    }
}

/// On what terms a buffer is mapped: what decides whether it may bounce, but not which slots it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Which way data moves.
    pub direction: Direction,
    /// DMA_ATTR_* bits as the kernel has them.
    pub attrs: u64,
    /// A PCI device behind a port that users can plug into.
    pub untrusted: bool,
    /// The buffer is another PCI device's memory. No trace says so.
    pub p2p: bool,
    /// An IOMMU translates the device's addresses (SPEC 6.1, dma-iommu).
    pub iommu: bool,
    /// Whether the device sees the CPU's caches; nothing where that is for the platform to say.
    pub coherent: Option<bool>,
}

impl Terms {
    /// `DMA_ATTR_SKIP_CPU_SYNC`.
    pub const SKIP_CPU_SYNC: u64 = 1 << 5;
    /// `DMA_ATTR_MMIO` (6.18): the address is no RAM.
    pub const MMIO: u64 = 1 << 10;
    /// `DMA_ATTR_REQUIRE_COHERENT` (7.1): no copy may stand in.
    pub const REQUIRE_COHERENT: u64 = 1 << 12;
    /// `DMA_ATTR_CC_SHARED` (7.1): the memory is shared with the host of an encrypted guest already.
    pub const CC_SHARED: u64 = 1 << 13;

    /// A plain buffer both ways.
    pub const PLAIN: Self = Self {
        direction: Direction::Bidirectional,
        attrs: 0,
        untrusted: false,
        p2p: false,
        iommu: false,
        coherent: None,
    };

    /// A plain buffer both ways, of a device as a trace has it; what it does not say of the device is not so.
    #[must_use]
    pub fn of_device(device: &Device) -> Self {
        Self {
            untrusted: device.untrusted.unwrap_or(false),
            iommu: device.iommu.unwrap_or(false),
            coherent: device.coherent,
            ..Self::PLAIN
        }
    }

    /// Whether an attribute is set.
    #[must_use]
    pub const fn has(&self, attr: u64) -> bool {
        self.attrs & attr != 0
    }
}

/// What the rules make of a map, before slots are sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreseen {
    /// The device uses the buffer itself, at that bus address.
    Direct(u64),
    /// It bounces, if there are slots, and why.
    Bounced(Reason),
    /// It is refused.
    Refused,
}

/// What became of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// The device uses the buffer itself.
    Direct {
        /// Address given to the device.
        dma_addr: u64,
    },
    /// The device uses a bounce buffer.
    Bounced {
        /// Address given to the device.
        dma_addr: u64,
        /// The slots.
        taken: Taken,
        /// Why.
        reason: Reason,
    },
}

/// A refused map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why it was refused.
    pub cause: Cause,
    /// Why it would have bounced; nothing when it was refused before.
    pub reason: Option<Reason>,
    /// What forbids a copy ([`Cause::Forbidden`], and [`Cause::NotAddressable`] when it is that and no switch).
    pub forbidden: Option<Forbidden>,
    /// Granule of the IOMMU the device is behind, of which whole ones were sought.
    pub granule: Option<u64>,
}

trace::words! {
    /// What about a mapping forbids that it bounces (SPEC 6.1).
    pub enum Forbidden {
        /// It is another PCI device's memory.
        Peer = "peer",
        /// It is device memory, and everything must bounce.
        Mmio = "mmio",
        /// It is device memory, and the platform's operations map none (Xen's before 6.17).
        NoResource = "no_resource",
        /// It must be coherent, and the device is not.
        Incoherent = "incoherent",
        /// It must be coherent, so no copy can stand in.
        Coherent = "coherent",
        /// It is shared with the host of an encrypted guest, and this is none.
        Shared = "shared",
    }
}

impl Forbidden {
    /// Why there is no copy of a buffer that is out of reach.
    #[must_use]
    pub const fn in_short(self) -> &'static str {
        match self {
            Self::Peer => "a peer's memory is never copied",
            Self::Mmio | Self::NoResource => "device memory is never copied",
            Self::Incoherent | Self::Coherent => "coherence is required",
            Self::Shared => "memory that is shared already is never copied",
        }
    }

    /// The sentence a refusal says.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Peer => "the buffer is another PCI device's memory, which is never copied",
            Self::Mmio => "the buffer is device memory, which is never copied, and everything must bounce",
            Self::NoResource => "the buffer is device memory, which Xen's operations of this kernel do not map",
            Self::Incoherent => "the mapping requires coherence, and the device is not coherent",
            Self::Coherent => "the mapping requires coherence, so no copy can stand in for the buffer",
            Self::Shared => "the mapping is for memory shared with a host, and devices here need none",
        }
    }
}
