//! A moment as rows of the field registry: what tables, screens, JSON lines and filters are made of.

use trace::Direction;

use crate::machine::Reason;

use super::slots::{PoolSlots, RUN_CLASSES};
use super::{Around, DeviceTally, Failure, Holder, Moment, Second};

trace::record! {
    /// The whole machine at one moment; rates are of the second before it.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Now {
        /// When it is.
        time_ns: u64 => Time,
        /// Streaming mappings a second.
        maps_per_s: u64 => Count,
        /// Mappings through the pool a second.
        bounces_per_s: u64 => Count,
        /// Bytes copied to and from bounce buffers a second.
        bytes_copied_per_s: u64 => Bytes,
        /// Requests refused a second.
        failures_per_s: u64 => Count,
        /// Slots in use.
        used_slots: u64 => Slots,
        /// Most slots in use at once.
        peak_slots: u64 => Slots,
        /// Slots of the pools.
        pool_slots: u64 => Slots,
        /// The longest free run in one segment, in any pool.
        longest_run: u32 => Slots,
        /// Streaming mappings made so far; a scatterlist counts once an element.
        maps: u64 => Count,
        /// Of them, through the pool.
        bounces: u64 => Count,
        /// Requests refused so far.
        failures: u64 => Count,
        /// Bytes copied so far.
        bytes_copied: u64 => Bytes,
        /// Records lost so far.
        lost: u64 => Count,
        /// Events so far.
        events: u64 => Count,
    }
}

trace::record! {
    /// One pool at one moment.
    #[derive(Clone, Debug, PartialEq)]
    pub struct PoolNow {
        /// Which, the default one being 0.
        pool: u32 => Index,
        /// Address of its first slot.
        start: u64 => Address,
        /// Slots it has.
        pool_slots: u64 => Slots,
        /// Slots in use.
        used_slots: u64 => Slots,
        /// Most slots in use at once.
        peak_slots: u64 => Slots,
        /// Areas it is divided into.
        areas: u32 => Count,
        /// The longest free run in one segment.
        longest_run: u32 => Slots,
        /// Buffers that hold slots.
        buffers: u64 => Count,
    }
}

trace::record! {
    /// One area of a pool at one moment.
    #[derive(Clone, Debug, PartialEq)]
    pub struct AreaNow {
        /// The pool.
        pool: u32 => Index,
        /// The area.
        area: u32 => Index,
        /// Slots it has.
        area_slots: u64 => Slots,
        /// Slots in use.
        used_slots: u64 => Slots,
        /// Most slots in use at once.
        peak_slots: u64 => Slots,
    }
}

trace::record! {
    /// One device at one moment; rates are of the second before it.
    #[derive(Clone, Debug, PartialEq)]
    pub struct DeviceNow {
        /// The kernel's name for the device.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// Streaming mappings a second.
        maps_per_s: u64 => Count,
        /// Bytes copied a second.
        bytes_copied_per_s: u64 => Bytes,
        /// Streaming mappings made; a scatterlist counts once an element.
        maps: u64 => Count,
        /// Bytes mapped.
        bytes_mapped: u64 => Bytes,
        /// Mappings that went through the pool.
        bounces: u64 => Count,
        /// Their share of all mappings; absent when no mapping was recorded.
        bounce_share: Option<f64> => Ratio,
        /// Why most of them bounced, by the recorded kernel's rules.
        reason: Option<Reason> => Text,
        /// Bytes copied to and from bounce buffers.
        bytes_copied: u64 => Bytes,
        /// Slots held now.
        slots: u64 => Slots,
        /// Most slots held at once.
        peak_slots: u64 => Slots,
        /// Requests refused.
        failures: u64 => Count,
        /// Why most of them were.
        cause: Option<crate::Cause> => Text,
        /// Half of its bounces took no longer than this to get their slots and the copy.
        latency_p50_ns: Option<u64> => Duration,
        /// 99 of 100 took no longer than this.
        latency_p99_ns: Option<u64> => Duration,
        /// Syncs, for the CPU or for the device.
        syncs: u64 => Count,
        /// Highest address it reaches: the smaller non-zero of DMA mask and bus limit.
        reach: u64 => Mask,
        /// Low address bits a bounce buffer must share with the original.
        min_align_mask: u64 => Mask,
        /// Key of the device in the trace.
        id: u32 => Id,
    }
}

trace::record! {
    /// A buffer that holds slots.
    #[derive(Clone, Debug, PartialEq)]
    pub struct HeldRow {
        /// Device it was mapped for.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// First slot, padding included.
        first_slot: u32 => Index,
        /// Slots held.
        slots: u32 => Slots,
        /// Bytes asked for.
        size: u64 => Bytes,
        /// For how long; absent for what was held when recording began.
        age_ns: Option<u64> => Duration,
        /// Which way data moves.
        direction: Option<Direction> => Text,
        /// The caller's buffer.
        orig_addr: Option<u64> => Address,
        /// CPU it was mapped on.
        cpu: u32 => Index,
        /// Thread that was running.
        tid: u32 => Id,
        /// Key of the kernel's calls that led there.
        stack: Option<u32> => Id,
    }
}

trace::record! {
    /// A refused request.
    #[derive(Clone, Debug, PartialEq)]
    pub struct FailureRow {
        /// When.
        time_ns: u64 => Time,
        /// Device that asked.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// Bytes asked for.
        size: u64 => Bytes,
        /// Why, as a word.
        cause: String => Text,
        /// Why, with its numbers.
        explanation: String => Text,
        /// Slots in use then.
        used_slots: u64 => Slots,
        /// CPU it was asked on.
        cpu: u32 => Index,
        /// Thread that was running.
        tid: u32 => Id,
        /// The buffer's address.
        orig_addr: Option<u64> => Address,
        /// Which way data was to move.
        direction: Option<Direction> => Text,
        /// Key of the kernel's calls that led there.
        stack: Option<u32> => Id,
    }
}

trace::record! {
    /// Free runs of like length in one pool.
    #[derive(Clone, Debug, PartialEq)]
    pub struct RunsRow {
        /// Shortest of them.
        from_slots: u32 => Slots,
        /// Longest of them.
        to_slots: u32 => Slots,
        /// How many there are.
        runs: u64 => Count,
    }
}

trace::record! {
    /// Mappings of one device of like size: from this one to below twice as much.
    #[derive(Clone, Debug, PartialEq)]
    pub struct SizesRow {
        /// Smallest size among them.
        size: u64 => Bytes,
        /// How many were mapped.
        maps: u64 => Count,
        /// How many of them went through the pool.
        bounces: u64 => Count,
    }
}

trace::record! {
    /// What came through one kernel stack of a device.
    #[derive(Clone, Debug, PartialEq)]
    pub struct StackRow {
        /// Key of the stack.
        stack: u32 => Id,
        /// Mappings made.
        maps: u64 => Count,
        /// Of them, through the pool.
        bounces: u64 => Count,
        /// Bytes mapped.
        bytes_mapped: u64 => Bytes,
        /// Slots held now.
        slots: u64 => Slots,
        /// Requests refused.
        failures: u64 => Count,
    }
}

fn driver(around: &Around, device: u32) -> Option<String> {
    around.device(device).and_then(|device| device.driver.clone())
}

impl Moment {
    /// The whole machine.
    #[must_use]
    pub fn now(&self) -> Now {
        let Second { maps, bounces, bytes_copied, failures, .. } = self.rates().now();
        let totals = self.totals();
        let pools = self.slots().pools();
        Now {
            time_ns: self.time_ns(),
            maps_per_s: maps,
            bounces_per_s: bounces,
            bytes_copied_per_s: bytes_copied,
            failures_per_s: failures,
            used_slots: self.used(),
            peak_slots: self.looked.map_or_else(|| pools.iter().map(PoolSlots::high_water).sum(), |(most, _)| most),
            pool_slots: pools.iter().map(|pool| pool.geometry().nslabs).sum(),
            longest_run: pools.iter().map(PoolSlots::longest_run).max().unwrap_or(0),
            maps: totals.maps,
            bounces: totals.bounces,
            failures: totals.failures,
            bytes_copied: totals.bytes_copied,
            lost: totals.lost,
            events: totals.events,
        }
    }

    /// Its pools.
    #[must_use]
    pub fn pool_rows(&self) -> Vec<PoolNow> {
        let row = |(number, pool): (u32, &PoolSlots)| PoolNow {
            pool: number,
            start: pool.geometry().start,
            pool_slots: pool.geometry().nslabs,
            used_slots: pool.used(),
            peak_slots: pool.high_water(),
            areas: pool.geometry().areas,
            longest_run: pool.longest_run(),
            buffers: pool.holders().len() as u64,
        };
        (0..).zip(self.slots().pools()).map(row).collect()
    }

    /// The areas of its pools.
    #[must_use]
    pub fn area_rows(&self) -> Vec<AreaNow> {
        let of_pool = |(number, pool): (u32, &PoolSlots)| {
            let slots = pool.geometry().area_slots();
            let row = |(area, (used, peak))| AreaNow {
                pool: number,
                area,
                area_slots: slots,
                used_slots: used,
                peak_slots: peak,
            };
            (0..).zip(pool.areas()).map(row).collect::<Vec<_>>()
        };
        (0..).zip(self.slots().pools()).flat_map(of_pool).collect()
    }

    /// Its devices, those with most mappings first.
    #[must_use]
    pub fn device_rows(&self) -> Vec<DeviceNow> {
        let mut rows: Vec<_> = self.devices().map(|(id, tally)| self.device_row(id, tally)).collect();
        rows.sort_by(|a, b| (b.maps, b.bounces).cmp(&(a.maps, a.bounces)).then(a.id.cmp(&b.id)));
        rows
    }

    fn device_row(&self, id: u32, tally: &DeviceTally) -> DeviceNow {
        let around = self.around();
        let rate = tally.rate(self.time_ns());
        DeviceNow {
            device: around.device_name(id),
            driver: driver(around, id),
            maps_per_s: rate.maps,
            bytes_copied_per_s: rate.bytes_copied,
            maps: tally.maps,
            bytes_mapped: tally.bytes_mapped,
            bounces: tally.bounces,
            bounce_share: (tally.maps > 0).then(|| (tally.bounces as f64 / tally.maps as f64).min(1.0)),
            reason: tally.reason(),
            bytes_copied: tally.bytes_copied,
            slots: tally.slots,
            peak_slots: tally.peak_slots,
            failures: tally.failures,
            cause: tally.cause(),
            latency_p50_ns: tally.latency.quantile(0.5),
            latency_p99_ns: tally.latency.quantile(0.99),
            syncs: tally.syncs,
            reach: around.device(id).map_or(u64::MAX, trace::Device::reach),
            min_align_mask: around.device(id).map_or(0, |device| device.min_align_mask),
            id,
        }
    }

    /// The last refusals, newest first.
    #[must_use]
    pub fn failure_rows(&self) -> Vec<FailureRow> {
        self.failures().iter().rev().map(|failure| FailureRow::new(failure, self.around())).collect()
    }

    /// A buffer that holds slots.
    #[must_use]
    pub fn held_row(&self, holder: &Holder) -> HeldRow {
        let &Holder { first_slot, slots, size, direction, orig_addr, cpu, tid, stack, .. } = holder;
        HeldRow {
            device: self.around().device_name(holder.device),
            driver: driver(self.around(), holder.device),
            first_slot,
            slots,
            size,
            age_ns: holder.since_ns.map(|since| self.time_ns().saturating_sub(since)),
            direction,
            orig_addr,
            cpu,
            tid,
            stack,
        }
    }
}

impl FailureRow {
    /// A refusal with its device's name.
    #[must_use]
    pub fn new(failure: &Failure, around: &Around) -> Self {
        let &Failure { time_ns, cpu, tid, orig_addr, size, direction, stack, used, .. } = failure;
        Self {
            time_ns,
            device: around.device_name(failure.device),
            driver: driver(around, failure.device),
            size,
            cause: failure.cause_name().to_owned(),
            explanation: failure.explanation.clone(),
            used_slots: used,
            cpu,
            tid,
            orig_addr,
            direction,
            stack,
        }
    }
}

impl PoolSlots {
    /// Its free runs, the shortest first.
    #[must_use]
    pub fn run_rows(&self) -> Vec<RunsRow> {
        let from = std::iter::once(1).chain(RUN_CLASSES.iter().map(|most| most + 1));
        let row = |((from_slots, &to_slots), runs)| RunsRow { from_slots, to_slots, runs };
        from.zip(&RUN_CLASSES).zip(self.runs()).map(row).collect()
    }
}

impl DeviceTally {
    /// Its mappings by size, those there are.
    #[must_use]
    pub fn size_rows(&self) -> Vec<SizesRow> {
        let sizes = self.sizes.iter().zip(&self.bounced_sizes).enumerate();
        let some = sizes.filter(|(_, (maps, bounces))| **maps + **bounces > 0);
        some.map(|(power, (&maps, &bounces))| SizesRow { size: 1 << power, maps, bounces }).collect()
    }

    /// Its stacks, those with most slots first, then with most mappings.
    #[must_use]
    pub fn stack_rows(&self) -> Vec<StackRow> {
        let row = |(&stack, tally): (&u32, &super::StackTally)| StackRow {
            stack,
            maps: tally.maps,
            bounces: tally.bounces,
            bytes_mapped: tally.bytes,
            slots: tally.slots,
            failures: tally.failures,
        };
        let mut rows: Vec<_> = self.stacks().iter().map(row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.slots, row.failures, row.bounces, row.maps)));
        rows
    }
}
