//! The aggregate mode's sums, read out of the kernel.

use std::collections::BTreeMap;

use aya::maps::{MapData, PerCpuArray};
use probe::sums::{CELLS, Cell, LATENCY_BUCKETS, OPERATIONS, SIZE_BUCKETS};
use trace::Op;
use trace::sums::{Bucket, Occupancy, Reading, Sum};

use crate::decode::{self, Decoder};
use crate::kernel::{Kernel, clock};
use crate::usage::Usage;

/// [`Cell`] as aya can read it.
type Map = PerCpuArray<MapData, [u64; size_of::<Cell>() / 8]>;

/// Where the sums are, and the pool.
pub struct Sums {
    map: Map,
    kernel: Kernel,
    /// In place of the kernel's memory.
    usage: Option<Usage>,
    base_ns: u64,
}

impl Sums {
    /// Sums of the probe's map, in a recording that began at `base_ns`; the pool is looked at in the kernel's memory, or by
    /// `usage`.
    #[must_use]
    pub fn new(map: Map, kernel: Kernel, usage: Option<Usage>, base_ns: u64) -> Self {
        Self { map, kernel, usage, base_ns }
    }

    /// The sums now, and the events in them by CPU.
    #[must_use]
    pub fn read(&self, decoder: &Decoder) -> (Reading, Vec<u64>) {
        let mut all: BTreeMap<(u32, Op), Cell> = BTreeMap::new();
        let mut by_cpu = Vec::new();
        for (number, device) in decoder.numbered() {
            for (at, (kind, failed)) in (0..).zip(OPERATIONS) {
                let (Ok(cpus), Some(op)) = (self.map.get(&(number * CELLS + at), 0), decode::op(kind, failed)) else {
                    continue;
                };
                by_cpu.resize(by_cpu.len().max(cpus.len()), 0);
                for (seen, words) in by_cpu.iter_mut().zip(cpus.iter()) {
                    let cell: Cell = bytemuck::cast(*words);
                    let count = count(&cell);
                    if count > 0 {
                        *seen += count;
                        add(all.entry((device, op)).or_insert_with(bytemuck::Zeroable::zeroed), &cell);
                    }
                }
            }
        }
        let read = || {
            let time_ns = clock(libc::CLOCK_MONOTONIC).saturating_sub(self.base_ns);
            let pool = self.kernel.pool().ok().flatten()?;
            Some(Occupancy { time_ns, used: pool.areas.iter().map(|area| area.used).sum() })
        };
        let look = self.usage.as_ref().map_or_else(read, Usage::now);
        let reading = Reading {
            sums: all.iter().map(|(key, cell)| sum(*key, cell)).collect(),
            histograms: all.iter().flat_map(|(key, cell)| buckets(*key, cell)).collect(),
            occupancy: look.into_iter().collect(),
        };
        (reading, by_cpu)
    }
}

/// Its events: each is in one bucket of sizes.
fn count(cell: &Cell) -> u64 {
    cell.sizes.iter().sum()
}

fn add(sum: &mut Cell, cell: &Cell) {
    sum.bytes += cell.bytes;
    sum.latency_ns += cell.latency_ns;
    sum.sizes.iter_mut().zip(cell.sizes).for_each(|(sum, n)| *sum += n);
    sum.latencies.iter_mut().zip(cell.latencies).for_each(|(sum, n)| *sum += n);
}

fn sum((device, op): (u32, Op), cell: &Cell) -> Sum {
    let timed = cell.latencies.iter().sum();
    Sum { device, op, count: count(cell), bytes: cell.bytes, timed, latency_ns: cell.latency_ns }
}

/// The buckets that have something, those of events without a size left out.
fn buckets((device, op): (u32, Op), cell: &Cell) -> Vec<Bucket> {
    let plain = Bucket { device, op, size: None, latency_ns: None, count: 0 };
    let sizes = (0..SIZE_BUCKETS - 1).map(|n| Bucket { size: Some(1 << n), count: cell.sizes[n + 1], ..plain.clone() });
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
        (cell.bytes, cell.latency_ns) = (12288, 900);
        // One of them without a size.
        (cell.sizes[0], cell.sizes[13], cell.latencies[8], cell.latencies[9]) = (1, 3, 1, 1);
        let mut both = Cell::zeroed();
        add(&mut both, &cell);
        add(&mut both, &cell);
        let key = (0, Op::SlotAlloc);
        let row = Sum { device: 0, op: Op::SlotAlloc, count: 8, bytes: 24576, timed: 4, latency_ns: 1800 };
        assert_eq!(sum(key, &both), row);
        let found: Vec<_> = buckets(key, &both).iter().map(|b| (b.size, b.latency_ns, b.count)).collect();
        assert_eq!(found, [(Some(4096), None, 6), (None, Some(256), 2), (None, Some(512), 2)]);
    }
}
