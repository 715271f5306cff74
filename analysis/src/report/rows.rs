//! The report's tables: plain rows that every output shows and docs/schema/report.json describes.

trace::record! {
    /// The trace that is reported on.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct TraceRow {
        /// Folder name.
        name: String => Text,
        /// Host name.
        host: String => Text,
        /// Kernel release, as `uname -r`.
        release: String => Text,
        /// The version that decides how it allocates; Debian's release does not say it.
        kernel: String => Text,
        /// Xen's version, mode and role; absent elsewhere.
        xen: Option<String> => Text,
        /// Kernel command line.
        cmdline: String => Text,
        /// What ran meanwhile.
        workload: String => Text,
        /// How events were captured: full, bounces or aggregate.
        mode: String => Text,
        /// Nothing but the kernel's word that it is about to bounce was recorded: what was refused, and what did not bounce, is not known.
        bounces_alone: bool => Flag,
        /// CPUs that can exist.
        cpus: u32 => Count,
        /// Length of the recording.
        duration_ns: u64 => Duration,
        /// Time from the first event to the last: what rates are of.
        span_ns: u64 => Duration,
        /// Address of the default pool's first slot; absent when there is no pool, or it is unknown.
        pool_start: Option<u64> => Address,
        /// Why the recorder could not tell whether there is a pool, and where; absent when it could.
        pool_unknown: Option<String> => Text,
        /// Its slots.
        pool_slots: u64 => Slots,
        /// Its areas.
        areas: u32 => Count,
        /// Everything bounces.
        forced: bool => Flag,
        /// The kernel may add pools.
        can_grow: bool => Flag,
    }
}

trace::record! {
    /// The report in numbers: what `--fail-on` compares.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct SummaryRow {
        /// Events of the trace, or of its sums.
        events: u64 => Count,
        /// Records lost while recording.
        lost: u64 => Count,
        /// Streaming mappings made; absent where only bounces were recorded.
        maps: Option<u64> => Count,
        /// Bytes of them.
        bytes_mapped: Option<u64> => Bytes,
        /// Mappings that went through the pool.
        bounces: u64 => Count,
        /// Bytes of them.
        bytes_bounced: u64 => Bytes,
        /// Share of mapped bytes that bounced; absent where it cannot be told.
        bounce_share: Option<f64> => Ratio,
        /// Requests refused; a scatterlist counts once.
        failures: u64 => Count,
        /// Of these, requests no pool of any size serves.
        failures_any_size: u64 => Count,
        /// Bytes copied to and from bounce buffers, by the recorded kernel's rules.
        bytes_copied: u64 => Bytes,
        /// The same a second.
        copy_rate: u64 => Bytes,
        /// Time spent in slot allocations by the clock, the copy at map and what preempted them included; absent where no
        /// latency was recorded.
        pool_time_ns: Option<u64> => Duration,
        /// Share of one CPU's time they took, each taken to be as long as the median of its device: what preempted them is
        /// left out so.
        pool_time_share: Option<f64> => Ratio,
        /// Slots of the default pool.
        pool_slots: u64 => Slots,
        /// Most slots in use at once.
        peak_slots: u64 => Slots,
        /// The same as a share of the pool; absent without a pool.
        peak_share: Option<f64> => Ratio,
        /// Slots in use at the end.
        held_slots: u64 => Slots,
        /// Of these, taken in the first half of the trace or before it.
        standing_slots: u64 => Slots,
        /// Places in the kernel that leak slots.
        leaks: u64 => Count,
        /// Slots they had leaked by the end.
        leaked_slots: u64 => Slots,
        /// Bounced mappings alive for long and never synced.
        silent: u64 => Count,
        /// Slot allocations outside the area of the CPU that asked.
        steals: u64 => Count,
        /// The same as a share of slot allocations; absent when there are none.
        steal_share: Option<f64> => Ratio,
        /// Syncs, for the CPU or for the device.
        syncs: u64 => Count,
        /// Devices that do not reach the whole pool.
        unreachable: u64 => Count,
        /// Share of the kernel's slot choices its own policy predicts; absent when none was judged.
        predicted_share: Option<f64> => Ratio,
        /// Share of its bounce decisions the platform's rules predict; absent when none was judged.
        decided_share: Option<f64> => Ratio,
    }
}

trace::record! {
    /// Why a device's mappings bounced.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct ReasonRow {
        /// The kernel's name for the device.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// Why: a word of `swioscope policies`, or unexplained.
        reason: String => Text,
        /// Mappings that bounced for it.
        bounces: u64 => Count,
        /// Bytes of them.
        bytes: u64 => Bytes,
        /// Share of all bounces.
        share: f64 => Ratio,
    }
}

trace::record! {
    /// What a device did.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct DeviceUseRow {
        /// The kernel's name for the device.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// Streaming mappings made.
        maps: u64 => Count,
        /// Bytes of them.
        bytes_mapped: u64 => Bytes,
        /// Mappings that went through the pool.
        bounces: u64 => Count,
        /// Bytes of them.
        bytes_bounced: u64 => Bytes,
        /// Share of its mapped bytes that bounced; absent where it cannot be told.
        bounce_share: Option<f64> => Ratio,
        /// Requests refused.
        failures: u64 => Count,
        /// Syncs, of any mapping.
        syncs: u64 => Count,
        /// Syncs a bounced mapping; absent when none bounced.
        syncs_per_bounce: Option<f64> => Count,
        /// Most slots it held at once.
        peak_slots: u64 => Slots,
        /// Slots it held at the end.
        held_slots: u64 => Slots,
        /// Of these, taken in the first half of the trace or before it.
        standing_slots: u64 => Slots,
        /// Bytes copied for it.
        bytes_copied: u64 => Bytes,
        /// Bytes copied a byte bounced.
        copy_amplification: Option<f64> => Count,
        /// Bytes of slots taken a byte bounced: what rounding to slots, offsets and padding cost.
        slot_rounding: Option<f64> => Count,
        /// Half of its bounce buffers lived no longer.
        life_p50_ns: Option<u64> => Duration,
        /// 99 of 100 lived no longer.
        life_p99_ns: Option<u64> => Duration,
    }
}

trace::record! {
    /// Refused requests of one device that have one cause.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct FailureRow {
        /// The kernel's name for the device.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// The cause, as a word of docs/models.md; unknown when the trace does not tell.
        cause: String => Text,
        /// Why the request had to bounce at all; absent when it need not, or it cannot be told.
        reason: Option<String> => Text,
        /// Requests refused for it.
        failures: u64 => Count,
        /// The largest of them.
        largest: u64 => Bytes,
        /// No pool of any size serves them.
        any_size: bool => Flag,
        /// When the first was.
        first_ns: u64 => Time,
        /// The first, with its arithmetic.
        explanation: String => Text,
        /// The kernel's calls that led to it, innermost first; absent when no stack was recorded.
        stack: Option<String> => Text,
    }
}

trace::record! {
    /// Who holds slots: one row a device and kernel stack.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct HolderRow {
        /// At which moment: first_refusal, or end.
        at: String => Text,
        /// The kernel's name for the device; unknown for what was held before the recording and never touched in it.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// leak, standing or transient.
        kind: String => Text,
        /// Slots.
        slots: u64 => Slots,
        /// Mappings.
        mappings: u64 => Count,
        /// Of the slots, taken in the first half of the trace so far or before it.
        standing_slots: u64 => Slots,
        /// Age of the oldest mapping, from the beginning of the recording at most.
        oldest_ns: u64 => Duration,
        /// Age of the youngest.
        youngest_ns: u64 => Duration,
        /// Mappings never synced, where syncs were recorded.
        unsynced: Option<u64> => Count,
        /// Mappings from the same place given back in the trace.
        given_back: u64 => Count,
        /// How long 99 of 100 of these lived; absent when there are none.
        life_p99_ns: Option<u64> => Duration,
        /// The kernel's calls that took them, innermost first; absent when no stack was recorded.
        stack: Option<String> => Text,
    }
}

trace::record! {
    /// The pool in a stretch of time.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct OccupancyRow {
        /// When the stretch begins; it lasts until the next row's.
        time_ns: u64 => Time,
        /// Most slots in use.
        used: u64 => Slots,
        /// Fewest whole segments of 128 slots that were free; absent where it cannot be told.
        free_segments: Option<u64> => Count,
        /// The longest free run at its end.
        largest_run: Option<u32> => Slots,
    }
}

trace::record! {
    /// One area of the pool.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct AreaRow {
        /// Number.
        area: u32 => Index,
        /// Its slots.
        slots: u64 => Slots,
        /// Most of them in use at once.
        peak_slots: u64 => Slots,
        /// Slots in use at the end.
        held_slots: u64 => Slots,
        /// Allocations made in it.
        allocations: u64 => Count,
        /// Of these, for CPUs whose own area is another: slots stolen from it.
        stolen: u64 => Count,
        /// Requests of its own CPUs that went to another area.
        sent_away: u64 => Count,
        /// Requests of its own CPUs that were refused.
        failures: u64 => Count,
    }
}

trace::record! {
    /// How long calls took.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct LatencyRow {
        /// The call, as an event's op.
        op: String => Text,
        /// The kernel's name for the device.
        device: String => Text,
        /// Calls that were timed.
        timed: u64 => Count,
        /// Half of them took no longer.
        p50_ns: u64 => Duration,
        /// 90 of 100.
        p90_ns: u64 => Duration,
        /// 99 of 100.
        p99_ns: u64 => Duration,
        /// 999 of 1,000.
        p999_ns: u64 => Duration,
        /// The longest.
        max_ns: u64 => Duration,
        /// All together.
        sum_ns: u64 => Duration,
    }
}

trace::record! {
    /// How large mappings were.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct SizesRow {
        /// The kernel's name for the device.
        device: String => Text,
        /// Of which: mapped, bounced or refused.
        what: String => Text,
        /// How many; a scatterlist counts once an element.
        count: u64 => Count,
        /// Half of them were no larger.
        p50: u64 => Bytes,
        /// 90 of 100.
        p90: u64 => Bytes,
        /// 99 of 100.
        p99: u64 => Bytes,
        /// The largest.
        largest: u64 => Bytes,
    }
}

trace::record! {
    /// A bar of a histogram: values from this one to below twice as much; the first bar has 0 too.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct BarRow {
        /// Of what: bounced_size, mapped_size, slot_alloc_latency_ns or bounce_life_ns.
        of: String => Text,
        /// Smallest value in it.
        from: u64 => Index,
        /// How many.
        count: u64 => Count,
    }
}

trace::record! {
    /// Whether a device reaches the pool it bounces through.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct ReachRow {
        /// The kernel's name for the device.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// Highest bus address it reaches.
        reach: u64 => Mask,
        /// Low address bits a bounce buffer must share with the original.
        min_align_mask: u64 => Mask,
        /// Not trusted with memory.
        untrusted: bool => Flag,
        /// Lowest bus address of the pool.
        pool_from: u64 => Address,
        /// Highest bus address of the pool.
        pool_to: u64 => Address,
        /// How much of the pool it reaches: all, part or none.
        reaches: String => Text,
        /// Its largest mapping.
        largest_map: u64 => Bytes,
        /// The largest this kernel promises it through the pool; 0 where it promises nothing (Xen up to 6.5) or is not known.
        largest_promised: u64 => Bytes,
    }
}

trace::record! {
    /// How far the trace, and the models with it, may be trusted.
    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
    pub struct FidelityRow {
        /// Recording ended as it should.
        closed: bool => Flag,
        /// Events that happened and are not in the trace.
        lost: u64 => Count,
        /// Of these, dropped because a ring buffer was full.
        ring_full: u64 => Count,
        /// Probe hits the kernel skipped.
        probe_missed: u64 => Count,
        /// The policy the recorded kernel is taken for; absent when none is known.
        policy: Option<String> => Text,
        /// Slot choices of the kernel that were compared with that policy's.
        predicted_of: u64 => Count,
        /// Of these, the same.
        predicted: u64 => Count,
        /// Bounce decisions compared with the platform's rules.
        decided_of: u64 => Count,
        /// Of these, the same.
        decided: u64 => Count,
        /// Allocations whose release is missing; their slots were taken again.
        missed_frees: u64 => Count,
        /// Releases of slots nothing was known to hold.
        unknown_frees: u64 => Count,
        /// Slot events in pools other than the default one, which are in none of the figures of the pool.
        other_pools: u64 => Count,
        /// Events of devices the trace does not describe.
        unknown_devices: u64 => Count,
        /// Events with an earlier time than one before them.
        backwards: u64 => Count,
    }
}
