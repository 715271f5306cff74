//! One row a thing that happened.

crate::words! {
    /// What happened.
    pub enum Op {
        /// A streaming DMA mapping was made (one row an element for scatterlists).
        Map = "map",
        /// A streaming DMA mapping was undone.
        Unmap = "unmap",
        /// A streaming DMA mapping was asked for and refused.
        MapFailed = "map_failed",
        /// A mapping was handed to the CPU for reading.
        SyncForCpu = "sync_for_cpu",
        /// A mapping was handed back to the device.
        SyncForDevice = "sync_for_device",
        /// A coherent buffer was allocated.
        Alloc = "alloc",
        /// A coherent buffer was freed.
        Free = "free",
        /// Bounce slots were taken.
        SlotAlloc = "slot_alloc",
        /// Bounce slots were asked for and not to be had.
        SlotFailed = "slot_failed",
        /// Bounce slots were given back.
        SlotFree = "slot_free",
        /// The kernel decided to bounce (the tracepoint; it fires before slots are sought).
        Bounce = "bounce",
        /// Records were lost between two times on one CPU.
        Lost = "lost",
        /// A coherent buffer was asked for and refused.
        AllocFailed = "alloc_failed",
        /// The kernel made a pool (SPEC 5): beside the default one, searched before those there were; or, of a device, for one
        /// mapping alone, with whose slots it goes.
        PoolAdded = "pool_added",
    }
}

crate::words! {
    /// Which way data moves (`enum dma_data_direction`).
    pub enum Direction {
        /// Both ways.
        Bidirectional = "bidirectional",
        /// Memory to device.
        ToDevice = "to_device",
        /// Device to memory.
        FromDevice = "from_device",
        /// Not for transfer (a bug when mapped).
        None = "none",
    }
}

impl Direction {
    /// From the kernel's number (0 to 3).
    #[must_use]
    pub fn from_kernel(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value)).copied()
    }
}

/// The device of rows that belong to none (`lost`).
pub const NO_DEVICE: u32 = u32::MAX;

crate::record! {
    /// One event of a trace. Fields an operation does not have are absent; what can be derived from the matching
    /// map is not stored again.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Event {
        /// Nanoseconds since the recording began (the clock base is in meta.json).
        time_ns: u64 => Time,
        /// CPU the event happened on.
        cpu: u32 => Index,
        /// Thread that was running, whose process and name are in tasks.parquet; 0 for the idle task, so also most interrupts.
        tid: u32 => Id,
        /// Key into devices.parquet; 4294967295 when the event belongs to no device.
        device: u32 => Id,
        /// What happened.
        op: Op => Text,
        /// CPU-physical (under Xen PV pseudo-physical) address of the caller's buffer.
        orig_addr: Option<u64> => Address,
        /// Bytes asked for; those of a pool.
        size: Option<u64> => Bytes,
        /// Address given to the device.
        dma_addr: Option<u64> => Address,
        /// CPU-physical address inside the bounce pool; where a pool begins (`pool_added`).
        tlb_addr: Option<u64> => Address,
        /// First slot taken, padding slots included, counted from the pool's start.
        first_slot: Option<u32> => Index,
        /// Which way data moves.
        direction: Option<Direction> => Text,
        /// DMA_ATTR_* bits as the kernel has them.
        attrs: Option<u64> => Mask,
        /// alloc_align_mask of a slot allocation.
        align_mask: Option<u64> => Mask,
        /// Position in the scatterlist the row belongs to; absent for single buffers. A scatterlist's rows stand together.
        sg_index: Option<u32> => Index,
        /// How long the call took, of a scatterlist in its first row; absent where only one of its ends is seen.
        latency_ns: Option<u64> => Duration,
        /// Key into stacks.parquet: the kernel's calls that led here; absent when it was not asked for or not to be had.
        stack: Option<u32> => Id,
        /// Slots in use by the kernel's own count when it refused (only `slot_failed`; absent of a device with its own pool).
        used: Option<u64> => Slots,
        /// How many records were lost (`lost`), how many areas a pool has (`pool_added`).
        count: Option<u64> => Count,
        /// Start of the gap that ends at time_ns (`lost`); of another event, whose record came late, the time of the first event of
        /// its CPU that it came before.
        since_ns: Option<u64> => Time,
    }
}

impl Event {
    /// An event with nothing but the fields every event has.
    #[must_use]
    pub const fn new(op: Op, time_ns: u64, cpu: u32, tid: u32, device: u32) -> Self {
        Self {
            time_ns,
            cpu,
            tid,
            device,
            op,
            orig_addr: None,
            size: None,
            dma_addr: None,
            tlb_addr: None,
            first_slot: None,
            direction: None,
            attrs: None,
            align_mask: None,
            sg_index: None,
            latency_ns: None,
            stack: None,
            used: None,
            count: None,
            since_ns: None,
        }
    }
}
