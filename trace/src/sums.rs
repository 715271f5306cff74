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

/// What an aggregate recording came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// By device and operation.
    pub sums: Vec<Sum>,
    /// Their histograms.
    pub histograms: Vec<Bucket>,
    /// The pool, at every look so far.
    pub occupancy: Vec<Occupancy>,
}

impl Reading {
    /// All events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.sums.iter().map(|sum| sum.count).sum()
    }

    /// A later reading, with what this one knows of the past.
    #[must_use]
    pub fn followed_by(mut self, later: Self) -> Self {
        self.occupancy.extend(later.occupancy);
        Self { occupancy: self.occupancy, ..later }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_reading_keeps_the_pools_past() {
        let look = |time_ns, used| Occupancy { time_ns, used };
        let reading = |time_ns, used| Reading { occupancy: vec![look(time_ns, used)], ..Reading::default() };
        let both = reading(1, 10).followed_by(reading(2, 7));
        assert_eq!(both.occupancy, [look(1, 10), look(2, 7)]);
    }
}
