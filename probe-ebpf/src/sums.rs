//! What the aggregate mode keeps in place of records: a [`Cell`] for each device, operation and CPU, in the map `SUMS`.
//!
//! A device gets a number when it is introduced; its cells stand side by side, so that an event needs no search.

use crate::wire::kind;

/// Buckets of a size: the first has everything without one, as releases, the last everything from 8 MiB.
pub const SIZE_BUCKETS: usize = 25;
/// Buckets of a latency: the last has everything from 2 s.
pub const LATENCY_BUCKETS: usize = 32;

/// Cells of a device.
pub const CELLS: u32 = 16;

/// What is counted in each cell of a device: one of [`kind`], and whether it was refused. The kinds stand in the order of their
/// numbers.
pub const OPERATIONS: [(u8, bool); 12] = [
    (kind::MAP, false),
    (kind::MAP_FAILED, true),
    (kind::UNMAP, false),
    (kind::SYNC_FOR_CPU, false),
    (kind::SYNC_FOR_DEVICE, false),
    (kind::ALLOC, false),
    (kind::FREE, false),
    (kind::SLOT_ALLOC, false),
    (kind::SLOT_FREE, false),
    (kind::BOUNCE, false),
    (kind::ALLOC, true),
    (kind::SLOT_ALLOC, true),
];

/// The cell in which an event of a device is counted.
#[inline(always)]
#[must_use]
pub const fn cell(kind: u8, failed: bool) -> u32 {
    match (kind, failed) {
        (kind::MAP, true) => 1,
        (kind::ALLOC, true) => 10,
        (kind::SLOT_ALLOC, true) => 11,
        // Hidden behind a mask from nobody but the verifier: no kind is as large.
        _ => (kind.wrapping_sub(kind::MAP) & 15) as u32,
    }
}

/// The sums of one operation of a device on one CPU. Bucket `n` of latencies counts values from 2^n to below 2^(n+1), the first
/// 0 too; of sizes the first counts those that are none, and bucket `n + 1` those from 2^n.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Cell {
    /// Bytes of all.
    pub bytes: u64,
    /// Nanoseconds of those whose latency is known.
    pub latency_ns: u64,
    /// By size; together they are the events.
    pub sizes: [u64; SIZE_BUCKETS],
    /// By latency, those of which it is known.
    pub latencies: [u64; LATENCY_BUCKETS],
}

/// The histogram bucket of a size.
#[inline(always)]
#[must_use]
pub fn size_bucket(size: u64) -> usize {
    if size == 0 { 0 } else { within(size.ilog2() as usize + 1, SIZE_BUCKETS) }
}

/// The histogram bucket of a latency.
#[inline(always)]
#[must_use]
pub fn latency_bucket(latency_ns: u64) -> usize {
    within((latency_ns | 1).ilog2() as usize, LATENCY_BUCKETS)
}

#[inline(always)]
fn within(log: usize, buckets: usize) -> usize {
    // Hidden from the compiler, which would leave out a comparison that the verifier needs.
    let log = core::hint::black_box(log);
    if log < buckets { log } else { buckets - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two_and_the_last_takes_the_rest() {
        assert_eq!([0, 1, 2, 3, 4, 4095, 4096].map(latency_bucket), [0, 0, 1, 1, 2, 11, 12]);
        assert_eq!([0, 1, 2, 3, 4, 4095, 4096].map(size_bucket), [0, 1, 2, 2, 3, 12, 13]);
        assert_eq!([1 << 23, u64::MAX].map(size_bucket), [24, 24]);
        assert_eq!([1 << 31, u64::MAX].map(latency_bucket), [31, 31]);
    }

    #[test]
    fn each_operation_has_its_cell() {
        for (index, (kind, failed)) in (0..).zip(OPERATIONS) {
            assert_eq!(cell(kind, failed), index);
        }
        assert_eq!(cell(kind::MAP, true), cell(kind::MAP_FAILED, true));
        assert!(OPERATIONS.len() <= CELLS as usize);
    }
}
