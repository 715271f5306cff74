//! The aggregate mode's sums, read out of the kernel.

use std::collections::{BTreeMap, HashMap};

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
    /// What was in them before, while programs were attached one after the other: cells by their place, CPU by CPU.
    before: HashMap<u32, Vec<Cell>>,
}

/// Numbers of devices that the probe may skip when several CPUs give some out at once.
const SKIPPED: u64 = 4;

impl Sums {
    /// Sums of the probe's map, in a recording that begins now, at `base_ns`, when about so many devices have a number; the pool is
    /// looked at in the kernel's memory, or by the other.
    #[must_use]
    pub fn new(map: Map, numbers: u64, base_ns: u64, pool: impl FnOnce() -> (Kernel, Option<Usage>)) -> Self {
        let cells = u32::try_from(numbers + SKIPPED).unwrap_or(0).saturating_mul(CELLS).min(map.len());
        let before = |at| Some((at, cells_at(&map, at).filter(|cells| cells.iter().any(|cell| count(cell) > 0))?));
        let before = (0..cells).filter_map(before).collect();
        // Which takes a while.
        let (kernel, usage) = pool();
        Self { map, kernel, usage, base_ns, before }
    }

    /// The sums now, and the events in them by CPU.
    #[must_use]
    pub fn read(&self, decoder: &Decoder) -> (Reading, Vec<u64>) {
        let mut all: BTreeMap<(u32, Op), Cell> = BTreeMap::new();
        let mut by_cpu = Vec::new();
        for (number, device) in decoder.numbered() {
            for (at, (kind, failed)) in (0..).zip(OPERATIONS) {
                let place = number * CELLS + at;
                let (Some(mut cells), Some(op)) = (cells_at(&self.map, place), decode::op(kind, failed)) else {
                    continue;
                };
                let before = self.before.get(&place).map_or(&[][..], Vec::as_slice);
                cells.iter_mut().zip(before).for_each(|(cell, before)| subtract(cell, before));
                by_cpu.resize(by_cpu.len().max(cells.len()), 0);
                for (seen, cell) in by_cpu.iter_mut().zip(cells) {
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

/// A cell on every CPU; nothing beyond the last.
fn cells_at(map: &Map, place: u32) -> Option<Vec<Cell>> {
    map.get(&place, 0).ok().map(|cpus| cpus.iter().map(|words| bytemuck::cast(*words)).collect())
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

fn subtract(cell: &mut Cell, before: &Cell) {
    cell.bytes = cell.bytes.wrapping_sub(before.bytes);
    cell.latency_ns = cell.latency_ns.wrapping_sub(before.latency_ns);
    cell.sizes.iter_mut().zip(before.sizes).for_each(|(now, n)| *now = now.wrapping_sub(n));
    cell.latencies.iter_mut().zip(before.latencies).for_each(|(now, n)| *now = now.wrapping_sub(n));
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
        // What was there before is none of it.
        let mut twice = both;
        add(&mut twice, &cell);
        subtract(&mut twice, &cell);
        assert_eq!(bytemuck::bytes_of(&twice), bytemuck::bytes_of(&both));
        let key = (0, Op::SlotAlloc);
        let row = Sum { device: 0, op: Op::SlotAlloc, count: 8, bytes: 24576, timed: 4, latency_ns: 1800 };
        assert_eq!(sum(key, &both), row);
        let found: Vec<_> = buckets(key, &both).iter().map(|b| (b.size, b.latency_ns, b.count)).collect();
        assert_eq!(found, [(Some(4096), None, 6), (None, Some(256), 2), (None, Some(512), 2)]);
    }
}
