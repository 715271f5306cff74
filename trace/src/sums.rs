//! What the aggregate mode keeps in place of events.

use crate::Op;

crate::record! {
    /// The events of one kind of one device, summed up.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Sum {
        /// Key into devices.parquet.
        device: u32 => Id,
        /// What happened.
        op: Op => Text,
        /// How often.
        count: u64 => Count,
        /// Bytes of all of them.
        bytes: u64 => Bytes,
        /// How many of them have a known latency.
        timed: u64 => Count,
        /// The sum of their latencies.
        latency_ns: u64 => Duration,
    }
}

crate::record! {
    /// One bucket of a histogram: values from this one to below twice as much, or above in the last.
    /// The first bucket of latencies has 0 too.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Bucket {
        /// Key into devices.parquet.
        device: u32 => Id,
        /// What happened.
        op: Op => Text,
        /// Smallest size in the bucket; absent in histograms of latencies.
        size: Option<u64> => Bytes,
        /// Shortest latency in the bucket; absent in histograms of sizes.
        latency_ns: Option<u64> => Duration,
        /// How many.
        count: u64 => Count,
    }
}

crate::record! {
    /// A look at the default pool.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Occupancy {
        /// When.
        time_ns: u64 => Time,
        /// Slots in use then, by the kernel's own count.
        used: u64 => Slots,
    }
}
