//! The memory around the events: pools, the slots in use at the start, and Xen's frame table.

use serde::{Deserialize, Serialize};

/// Bytes in a slot.
pub const SLOT_BYTES: u64 = 2048;
/// Slots in a segment, the longest run one mapping can have.
pub const SEGMENT_SLOTS: u32 = 128;

/// A bounce pool as the kernel had it when recording began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// CPU-physical address of slot 0 (pseudo-physical under Xen PV).
    pub start: u64,
    /// Slots in the pool.
    pub nslabs: u64,
    /// Per-CPU areas it is divided into; 1 before kernel 6.0.
    pub nareas: u32,
    /// Every mapping goes through it.
    pub force_bounce: bool,
    /// The kernel may add pools (CONFIG_SWIOTLB_DYNAMIC).
    pub can_grow: bool,
    /// Each area's search index and slots in use when the snapshot was taken; empty when it could not be read.
    pub areas: Vec<Area>,
}

/// An area's state in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// Where the next search begins, counted from the area's first slot.
    pub index: u64,
    /// Slots in use.
    pub used: u64,
}

crate::record! {
    /// A slot in use when recording began.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SnapshotSlot {
        /// Slot, counted from the start of the pool.
        slot: u32 => Index,
        /// What the kernel remembers as the slot's original address; all ones for padding.
        orig_addr: u64 => Address,
        /// What the kernel remembers as bytes from this slot to the end of its allocation.
        alloc_size: u64 => Bytes,
        /// Padding slots before this one (kernel 6.9 and newer).
        pad_slots: u32 => Slots,
    }
}

crate::words! {
    /// Whose frame a p2m entry names (SPEC 10).
    pub enum P2mKind {
        /// The domain's own frame.
        Own = "own",
        /// Another domain's frame (FOREIGN bit).
        Foreign = "foreign",
        /// Frame number equals guest frame number (IDENTITY bit).
        Identity = "identity",
        /// No frame.
        Invalid = "invalid",
    }
}

crate::record! {
    /// A run of consecutive guest frames that map to consecutive machine frames (Xen PV).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct P2mRun {
        /// First guest (pseudo-physical) frame.
        pfn: u64 => Frame,
        /// Machine frame of the first; the rest follow.
        mfn: u64 => Frame,
        /// Frames in the run.
        count: u64 => Count,
        /// Whose frames.
        kind: P2mKind => Text,
    }
}
