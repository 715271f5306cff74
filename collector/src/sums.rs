//! The aggregate mode's sums, read out of the kernel.

use std::collections::BTreeMap;

use aya::maps::{MapData, PerCpuHashMap};
use probe::sums::{Cell, Key, LATENCY_BUCKETS, SIZE_BUCKETS};
use trace::Op;
use trace::sums::{Bucket, Occupancy, Reading, Sum};

use crate::decode::{self, Decoder};
use crate::kernel::{Kernel, clock};

/// [`Key`] and [`Cell`] as aya can read them.
type Map = PerCpuHashMap<MapData, [u64; size_of::<Key>() / 8], [u64; size_of::<Cell>() / 8]>;

/// Where the sums are, and the pool.
pub struct Sums {
    map: Map,
    kernel: Kernel,
    base_ns: u64,
}

impl Sums {
    /// Sums of the probe's map, in a recording that began at `base_ns`.
    #[must_use]
    pub fn new(map: Map, kernel: Kernel, base_ns: u64) -> Self {
        Self { map, kernel, base_ns }
    }

    /// The sums now. Those of devices that nobody introduced are left out; there is none.
    #[must_use]
    pub fn read(&self, decoder: &Decoder) -> Reading {
        let mut all: BTreeMap<(u32, Op), Cell> = BTreeMap::new();
        for (key, cpus) in self.map.iter().flatten() {
            let key: Key = bytemuck::cast(key);
            let kind = u8::try_from(key.kind).unwrap_or(0);
            let (Some(op), Some(device)) = (decode::op(kind, key.failed != 0), decoder.device_at(key.device)) else {
                continue;
            };
            let sum = all.entry((device, op)).or_insert_with(bytemuck::Zeroable::zeroed);
            cpus.iter().for_each(|cell| add(sum, &bytemuck::cast(*cell)));
        }
        let time_ns = clock(libc::CLOCK_MONOTONIC).saturating_sub(self.base_ns);
        let used = self.kernel.pool().ok().flatten().map(|pool| pool.areas.iter().map(|area| area.used).sum());
        Reading {
            sums: all.iter().map(|(key, cell)| sum(*key, cell)).collect(),
            histograms: all.iter().flat_map(|(key, cell)| buckets(*key, cell)).collect(),
            occupancy: used.map(|used| Occupancy { time_ns, used }).into_iter().collect(),
        }
    }
}

fn add(sum: &mut Cell, cell: &Cell) {
    sum.count += cell.count;
    sum.bytes += cell.bytes;
    sum.latency_ns += cell.latency_ns;
    sum.sizes.iter_mut().zip(cell.sizes).for_each(|(sum, n)| *sum += n);
    sum.latencies.iter_mut().zip(cell.latencies).for_each(|(sum, n)| *sum += n);
}

fn sum((device, op): (u32, Op), cell: &Cell) -> Sum {
    let timed = cell.latencies.iter().sum();
    Sum { device, op, count: cell.count, bytes: cell.bytes, timed, latency_ns: cell.latency_ns }
}

/// The buckets that have something.
fn buckets((device, op): (u32, Op), cell: &Cell) -> Vec<Bucket> {
    let plain = Bucket { device, op, size: None, latency_ns: None, count: 0 };
    let sizes = (0..SIZE_BUCKETS).map(|n| Bucket { size: Some(1 << n), count: cell.sizes[n], ..plain.clone() });
    let latency = |n: usize| Bucket { latency_ns: Some(1 << n), count: cell.latencies[n], ..plain.clone() };
    sizes.chain((0..LATENCY_BUCKETS).map(latency)).filter(|bucket| bucket.count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable as _;

    #[test]
    fn cells_of_all_cpus_become_a_row_and_its_buckets() {
        let mut cell = Cell::zeroed();
        (cell.count, cell.bytes, cell.latency_ns) = (3, 12288, 900);
        (cell.sizes[12], cell.latencies[8], cell.latencies[9]) = (3, 1, 1);
        let mut both = Cell::zeroed();
        add(&mut both, &cell);
        add(&mut both, &cell);
        let key = (0, Op::SlotAlloc);
        let row = Sum { device: 0, op: Op::SlotAlloc, count: 6, bytes: 24576, timed: 4, latency_ns: 1800 };
        assert_eq!(sum(key, &both), row);
        let found: Vec<_> = buckets(key, &both).iter().map(|b| (b.size, b.latency_ns, b.count)).collect();
        assert_eq!(found, [(Some(4096), None, 6), (None, Some(256), 2), (None, Some(512), 2)]);
    }
}
