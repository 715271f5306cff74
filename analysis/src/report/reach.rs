//! Whether devices reach the pool they bounce through (USERS: "MASK").

use replay::largest::{DirectDevice, max_mapping_size};
use replay::{KernelVersion, PlatformKind};
use trace::Trace;
use trace::pool::SLOT_BYTES;

use super::rows::ReachRow;

/// The lowest and the highest bus address of the default pool, as its devices see it; nothing without a pool, or when the
/// frame table does not name its frames (Xen PV).
pub(super) fn pool_range(trace: &Trace) -> Option<(u64, u64)> {
    let meta = trace.meta();
    let pool = meta.pool().filter(|pool| pool.nslabs > 0)?;
    let end = pool.start.saturating_add(pool.nslabs.saturating_mul(SLOT_BYTES));
    if meta.xen.as_ref().is_none_or(|xen| xen.mode != "pv") {
        return Some((pool.start, end - 1));
    }
    let (first, last) = (pool.start >> 12, (end - 1) >> 12);
    let frames =
        trace.p2m().iter().filter(|run| run.count > 0 && run.pfn <= last && run.pfn.saturating_add(run.count) > first);
    let parts = frames.map(|run| {
        let from = first.max(run.pfn) - run.pfn;
        let to = last.min(run.pfn.saturating_add(run.count - 1)) - run.pfn;
        (run.mfn.saturating_add(from) << 12, (run.mfn.saturating_add(to) << 12) | 0xfff)
    });
    parts.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// Bytes `dma_max_mapping_size()` tells a driver that asks, where mappings of the device may bounce; Xen PV says nothing up to
/// 6.5 (SPEC 6.4, 10.6).
fn promised(meta: &trace::Meta, kernel: KernelVersion, device: &trace::Device, reach: u64) -> Option<u64> {
    let min_align_mask = device.min_align_mask;
    match PlatformKind::of_recorded(meta) {
        PlatformKind::XenPv => {
            DirectDevice { min_align_mask, reach, leaves_ram_out: false }.xen_max_mapping_size(kernel)
        }
        _ => Some(max_mapping_size(kernel, min_align_mask)),
    }
}

/// A row a device that the trace describes; `largest` says how large its largest mapping was, by position.
pub(super) fn rows(trace: &Trace, largest: impl Fn(usize) -> u64) -> Vec<ReachRow> {
    let Some((from, to)) = pool_range(trace) else { return Vec::new() };
    let kernel = KernelVersion::parse(trace.meta().host.kernel_version());
    let row = |(at, device): (usize, &trace::Device)| {
        // A device without a mask could not have mapped anything: it was not readable.
        let reach = if device.dma_mask.is_none() && device.bus_dma_limit == 0 { u64::MAX } else { device.reach() };
        // Where its bus sees the pool. One that does not see all of it reaches it in part at most, wherever that is.
        let limits = replay::Limits::from(device);
        let whole = limits.ranges.cover(from, to);
        let seen = limits.ranges.to_bus(from).into_iter().chain(limits.ranges.to_bus(to));
        let ends = seen.fold(None, |ends: Option<(u64, u64)>, at| {
            Some(ends.map_or((at, at), |(least, most)| (least.min(at), most.max(at))))
        });
        let (from, to) = ends.filter(|_| whole).unwrap_or((from, to));
        ReachRow {
            device: device.name.clone(),
            driver: device.driver.clone(),
            reach,
            min_align_mask: device.min_align_mask,
            untrusted: device.untrusted.unwrap_or(false),
            pool_from: from,
            pool_to: to,
            reaches: if whole && reach >= to {
                "all"
            } else if ends.is_some_and(|(least, _)| reach >= least) {
                "part"
            } else {
                "none"
            }
            .to_owned(),
            largest_map: largest(at),
            largest_promised: kernel.and_then(|kernel| promised(trace.meta(), kernel, device, reach)).unwrap_or(0),
        }
    };
    trace.devices().iter().enumerate().map(row).collect()
}
