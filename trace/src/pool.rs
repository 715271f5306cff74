//! The memory around the events: pools, the slots in use at the start, and Xen's frame table.

use serde::{Deserialize, Serialize};

use crate::event::{Event, NO_DEVICE, Op};

/// Bytes in a slot.
pub const SLOT_BYTES: u64 = 2048;
/// More slots than a block of the page allocator has, whatever the size of its pages.
const MADE_SLABS: u64 = 1 << 20;
/// Slots in a segment, the longest run one mapping can have.
pub const SEGMENT_SLOTS: u32 = 128;

crate::words! {
    /// What a pool is for.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum PoolKind {
        /// The one made at boot, which all devices use that have none of their own.
        #[default]
        Default = "default",
        /// Made later beside the default one, when that was full (SPEC 5, CONFIG_SWIOTLB_DYNAMIC).
        Added = "added",
        /// Made for one mapping, because nothing else had room, and gone with it (SPEC 5).
        Transient = "transient",
        /// A device's own (SPEC 2.7).
        Own = "own",
    }
}

/// A bounce pool as the kernel had it when recording began, or when the recorder met its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What it is for.
    #[serde(default)]
    pub kind: PoolKind,
    /// Whose it is: as a device's `pool` names it. The default pool and those added to it are `default`.
    #[serde(default = "Pool::default_name")]
    pub name: String,
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

impl SnapshotSlot {
    /// Its pool's place among [`Meta::pools`](crate::Meta::pools).
    #[must_use]
    pub fn pool(&self) -> usize {
        self.pool.map_or(0, |pool| usize::try_from(pool).unwrap_or(usize::MAX))
    }

    /// The bounce address of what the slot holds, should its data begin there; nothing when its pool is none of these.
    #[must_use]
    pub fn tlb_addr(&self, pools: &[Pool]) -> Option<u64> {
        let pool = pools.get(self.pool())?;
        Some(pool.start + u64::from(self.slot) * SLOT_BYTES + self.orig_addr % SLOT_BYTES)
    }
}

impl Pool {
    /// What a device's `pool` says when it uses the default pool.
    pub const DEFAULT: &str = "default";

    /// Traces before format 1.5 know no other.
    fn default_name() -> String {
        Self::DEFAULT.to_owned()
    }

    /// The pool that a `pool_added` tells of, as it was before its first slot was taken; nothing of another event, nor of a pool
    /// that no kernel makes: they come from the page allocator, in one block (SPEC 5).
    #[must_use]
    pub fn added(event: &Event) -> Option<Self> {
        let (Op::PoolAdded, Some(start), Some(bytes)) = (event.op, event.tlb_addr, event.size) else { return None };
        let nslabs = bytes / SLOT_BYTES;
        let nareas = event.count.and_then(|count| u32::try_from(count).ok())?;
        if !(1..=MADE_SLABS).contains(&nslabs) || nareas == 0 || u64::from(nareas) > nslabs {
            return None;
        }
        start.checked_add(bytes)?;
        Some(Self {
            kind: if event.device == NO_DEVICE { PoolKind::Added } else { PoolKind::Transient },
            start,
            nslabs,
            nareas,
            areas: vec![Area { index: 0, used: 0 }; nareas as usize],
            ..Self::default()
        })
    }

    /// Where it ends; at the last address of all when it would lie beyond.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.nslabs.saturating_mul(SLOT_BYTES))
    }

    /// Whether it has memory in common with another.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Whether a bounce address lies in it.
    #[must_use]
    pub fn contains(&self, tlb_addr: u64) -> bool {
        tlb_addr.checked_sub(self.start).is_some_and(|offset| offset / SLOT_BYTES < self.nslabs)
    }
}

impl Default for Pool {
    /// A default pool of no slots.
    fn default() -> Self {
        Self {
            kind: PoolKind::Default,
            name: Self::default_name(),
            start: 0,
            nslabs: 0,
            nareas: 1,
            force_bounce: false,
            can_grow: false,
            areas: Vec::new(),
        }
    }
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
        /// Which pool, by its place among meta.json's `pools`; absent before format 1.5, when it was always the first.
        pool: Option<u32> => Index,
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
