//! One trace under several policies, as plain rows that every output can show.

use crate::DeviceRow;

trace::record! {
    /// What one policy would have done with the recorded mappings.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct PolicyRow {
        /// Policy id.
        policy: String => Text,
        /// Its parameters after rounding.
        parameters: String => Text,
        /// Address translation.
        platform: String => Text,
        /// Requests replayed; a scatterlist counts once.
        requests: u64 => Count,
        /// Mappings replayed; a scatterlist counts once an element.
        maps: u64 => Count,
        /// Mappings that needed a bounce buffer.
        bounces: u64 => Count,
        /// Bounced because the device cannot reach the buffer.
        bounced_mask: u64 => Count,
        /// Bounced because the buffer's machine frames are not consecutive (Xen PV).
        bounced_straddle: u64 => Count,
        /// Bounced for the sake of alignment.
        bounced_alignment: u64 => Count,
        /// Bounced because the buffer is another domain's.
        bounced_foreign: u64 => Count,
        /// Bounced because everything is (swiotlb=force, memory encryption).
        bounced_forced: u64 => Count,
        /// Bounced because the device is not trusted.
        bounced_untrusted: u64 => Count,
        /// Bounced because a small kmalloc buffer shares its cache line.
        bounced_kmalloc: u64 => Count,
        /// Requests refused.
        failures: u64 => Count,
        /// Refused: a mapping of no bytes.
        failed_empty: u64 => Count,
        /// Refused: no pool at all.
        failed_no_pool: u64 => Count,
        /// Refused: out of the device's reach and not to be bounced.
        failed_not_addressable: u64 => Count,
        /// Refused: it would have to bounce, and its attributes forbid a copy.
        failed_forbidden: u64 => Count,
        /// Refused: longer than a 128-slot segment.
        failed_too_large: u64 => Count,
        /// Refused: longer than a segment once its offset is added.
        failed_too_large_with_offset: u64 => Count,
        /// Refused: no area has that many free slots.
        failed_pool_full: u64 => Count,
        /// Refused: the CPU's area has not that many free slots, and the others fail otherwise.
        failed_area_full: u64 => Count,
        /// Refused: the search never ends.
        failed_never_ending_search: u64 => Count,
        /// Refused: longer than the distance of two segment boundaries of the device.
        failed_boundary_impossible: u64 => Count,
        /// Refused: every run that is long enough crosses the device's segment boundary.
        failed_boundary: u64 => Count,
        /// Refused: no slot would do even if the pool were empty.
        failed_alignment_impossible: u64 => Count,
        /// Refused: every run that is long enough begins at the wrong address.
        failed_alignment: u64 => Count,
        /// Refused: a fitting run exists, but the search steps over it.
        failed_stride: u64 => Count,
        /// Refused: enough free slots, but no run is long enough.
        failed_fragmented: u64 => Count,
        /// Refused: slots were found, but the device does not reach them.
        failed_pool_above_mask: u64 => Count,
        /// Refused: no pool had room, and the one the growth worker was to add came too late.
        failed_grow_pending: u64 => Count,
        /// Refused: no pool had room, and no pages within the device's reach to make one of its own.
        failed_transient_refused: u64 => Count,
        /// Slots of the pool (LO for rfc64).
        pool_slots: u64 => Slots,
        /// Most slots in use at once (LO for rfc64).
        peak_slots: u64 => Slots,
        /// Slots of the 64-bit pool.
        pool_slots_hi: Option<u64> => Slots,
        /// Most slots of the 64-bit pool in use at once.
        peak_slots_hi: Option<u64> => Slots,
        /// Bytes copied to or from bounce buffers.
        bytes_copied: u64 => Bytes,
    }
}

trace::record! {
    /// A refused mapping, with the arithmetic that a person can check.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct RefusalRow {
        /// When.
        time_ns: u64 => Time,
        /// Device that asked.
        device: String => Text,
        /// Bytes it asked for.
        size: u64 => Bytes,
        /// The cause, as a word.
        cause: String => Text,
        /// The cause, with its numbers.
        explanation: String => Text,
    }
}

trace::record! {
    /// A device's share of a policy's result.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PolicyDeviceRow {
        /// The kernel's name for the device.
        device: String => Text,
        /// Highest address it reaches.
        reach: u64 => Mask,
        /// Mappings replayed.
        maps: u64 => Count,
        /// Mappings that needed a bounce buffer.
        bounces: u64 => Count,
        /// Requests refused; a scatterlist counts once.
        failures: u64 => Count,
        /// Pool that served it.
        pool: String => Text,
        /// Most slots it held at once.
        peak_slots: u64 => Slots,
    }
}

/// Slots in use over time, in one pool of one policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The pool: `pool`, or `LO` and `HI` for rfc64.
    pub pool: String,
    /// Slots it has.
    pub slots: u64,
    /// Time in nanoseconds, and the most slots in use from then to the next point.
    pub points: Vec<(u64, u64)>,
}

/// What stands behind a [`PolicyRow`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyDetail {
    /// Occupancy, one curve a pool.
    pub curves: Vec<Curve>,
    /// The first refusals.
    pub refusals: Vec<RefusalRow>,
    /// Devices, the one with most mappings first.
    pub devices: Vec<PolicyDeviceRow>,
    /// What had to be assumed, one sentence each.
    pub assumptions: Vec<String>,
}

/// What a reader must know of the trace to judge the figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceFacts {
    /// Folder name.
    pub name: String,
    /// Kernel release, and Xen where there is one.
    pub host: String,
    /// Kernel command line.
    pub cmdline: String,
    /// What was running.
    pub workload: String,
    /// Length of the recording in nanoseconds.
    pub duration_ns: u64,
    /// Events in it.
    pub events: u64,
    /// Records lost while recording.
    pub lost: u64,
    /// Mappings the recorded kernel was asked for.
    pub really_mapped: u64,
    /// Mappings the recorded kernel bounced.
    pub really_bounced: u64,
    /// Mappings the recorded kernel refused.
    pub really_failed: u64,
    /// Slot allocations of the recorded kernel, and how many of them its own policy predicts exactly; absent when the
    /// trace has none.
    pub predicted: Option<(u64, u64)>,
    /// Anything that weakens the figures, one sentence each.
    pub caveats: Vec<String>,
}

/// One trace under several policies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// The trace.
    pub facts: TraceFacts,
    /// What the figures say, the most important sentence first.
    pub verdict: Vec<String>,
    /// One row a policy, in the order asked for.
    pub rows: Vec<PolicyRow>,
    /// One a row.
    pub details: Vec<PolicyDetail>,
    /// Devices as recorded.
    pub devices: Vec<DeviceRow>,
}
