//! Who maps, and how much of it bounced: one row a device, from the recorded events alone.

use polars::prelude::*;
use trace::{Device, Op, Trace};

use crate::{AnalysisError, frames};

trace::record! {
    /// What a device did while the trace was recorded.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct DeviceRow {
        /// The kernel's name for the device.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// Highest address it reaches: the smaller non-zero of DMA mask and bus limit.
        reach: u64 => Mask,
        /// Low address bits a bounce buffer must share with the original.
        min_align_mask: u64 => Mask,
        /// Streaming mappings made.
        maps: u64 => Count,
        /// Streaming mappings refused by the kernel.
        maps_failed: u64 => Count,
        /// Bytes mapped.
        bytes_mapped: u64 => Bytes,
        /// Longest mapping.
        largest_map: u64 => Bytes,
        /// Slot allocations, which is how many mappings really bounced.
        bounced: u64 => Count,
        /// Slot allocations the kernel could not make.
        bounces_failed: u64 => Count,
        /// Syncs, for the CPU or for the device.
        syncs: u64 => Count,
    }
}

/// One row a device that did anything, the one with most mappings first.
///
/// # Errors
/// When the trace cannot be read.
pub fn devices(trace: &Trace) -> Result<Vec<DeviceRow>, AnalysisError> {
    let is = |op: Op| col("op").eq(lit(op.name()));
    let count = |condition: Expr, name: &str| condition.cast(DataType::UInt64).sum().alias(name);
    let mapped = || col("size").filter(is(Op::Map));
    let table = frames::events(trace)?
        .group_by([col("device")])
        .agg([
            count(is(Op::Map), "maps"),
            count(is(Op::MapFailed), "maps_failed"),
            mapped().sum().alias("bytes_mapped"),
            mapped().max().alias("largest_map"),
            count(is(Op::SlotAlloc), "bounced"),
            count(is(Op::SlotFailed), "bounces_failed"),
            count(is(Op::SyncForCpu).or(is(Op::SyncForDevice)), "syncs"),
        ])
        .sort(["maps", "bounced"], SortMultipleOptions::default().with_order_descending(true))
        .collect()?;

    let known = trace.devices();
    let ids = table.column("device")?.u32()?;
    let number =
        |name: &str, row: usize| -> Result<u64, AnalysisError> { Ok(table.column(name)?.u64()?.get(row).unwrap_or(0)) };
    (0..table.height())
        .filter_map(|row| Some((row, known.iter().find(|device| Some(device.id) == ids.get(row))?)))
        .map(|(row, device): (usize, &Device)| {
            Ok(DeviceRow {
                device: device.name.clone(),
                driver: device.driver.clone(),
                reach: device.reach(),
                min_align_mask: device.min_align_mask,
                maps: number("maps", row)?,
                maps_failed: number("maps_failed", row)?,
                bytes_mapped: number("bytes_mapped", row)?,
                largest_map: number("largest_map", row)?,
                bounced: number("bounced", row)?,
                bounces_failed: number("bounces_failed", row)?,
                syncs: number("syncs", row)?,
            })
        })
        .collect()
}
