//! What the aggregate mode keeps in place of records: a [`Cell`] for each [`Key`] and CPU, in the map `SUMS`.

/// Buckets of a size: the last has everything from 8 MiB.
pub const SIZE_BUCKETS: usize = 24;
/// Buckets of a latency: the last has everything from 2 s.
pub const LATENCY_BUCKETS: usize = 32;
/// Keys at most: eleven operations of some ninety devices.
pub const KEYS: u32 = 1024;

/// What is summed up together.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Key {
    /// Address of the `struct device`.
    pub device: u64,
    /// One of [`kind`](crate::wire::kind).
    pub kind: u32,
    /// 1: refused.
    pub failed: u32,
}

/// The sums of one key on one CPU. Bucket `n` of a histogram counts values from 2^n to below 2^(n+1); of
/// latencies the first has 0 too.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Cell {
    /// Events.
    pub count: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Nanoseconds of those whose latency is known.
    pub latency_ns: u64,
    /// By size, those that have one.
    pub sizes: [u64; SIZE_BUCKETS],
    /// By latency, those of which it is known.
    pub latencies: [u64; LATENCY_BUCKETS],
}

/// The histogram bucket of a value, for `buckets` of them.
#[inline(always)]
#[must_use]
pub fn bucket(value: u64, buckets: usize) -> usize {
    let log = (value | 1).ilog2() as usize;
    // Hidden from the compiler, which would leave out a comparison that the verifier needs.
    let log = core::hint::black_box(log);
    if log < buckets { log } else { buckets - 1 }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_are_powers_of_two_and_the_last_takes_the_rest() {
        assert_eq!([0, 1, 2, 3, 4, 4095, 4096].map(|v| bucket(v, 24)), [0, 0, 1, 1, 2, 11, 12]);
        assert_eq!([1 << 23, u64::MAX].map(|v| bucket(v, 24)), [23, 23]);
    }
}
