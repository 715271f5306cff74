//! Whether devices reach the pool they bounce through (USERS: "MASK").

use replay::KernelVersion;
use replay::largest::max_mapping_size;
use trace::Trace;
use trace::pool::SLOT_BYTES;

use super::rows::ReachRow;

/// The lowest and the highest bus address of the default pool, as its devices see it; nothing without a pool, or when the
/// frame table does not name its frames (Xen PV).
pub(super) fn pool_range(trace: &Trace) -> Option<(u64, u64)> {
    let meta = trace.meta();
    let pool = meta.pools.first().filter(|pool| pool.nslabs > 0)?;
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

/// A row a device that the trace describes; `largest` says how large its largest mapping was, by position.
pub(super) fn rows(trace: &Trace, largest: impl Fn(usize) -> u64) -> Vec<ReachRow> {
    let Some((from, to)) = pool_range(trace) else { return Vec::new() };
    let kernel = KernelVersion::parse(trace.meta().host.kernel_version());
    let row = |(at, device): (usize, &trace::Device)| {
        // A device without a mask could not have mapped anything: it was not readable.
        let reach = if device.dma_mask.is_none() && device.bus_dma_limit == 0 { u64::MAX } else { device.reach() };
        ReachRow {
            device: device.name.clone(),
            driver: device.driver.clone(),
            reach,
            min_align_mask: device.min_align_mask,
            untrusted: device.untrusted.unwrap_or(false),
            pool_from: from,
            pool_to: to,
            reaches: if reach >= to {
                "all"
            } else if reach >= from {
                "part"
            } else {
                "none"
            }
            .to_owned(),
            largest_map: largest(at),
            largest_promised: kernel.map_or(0, |kernel| max_mapping_size(kernel, device.min_align_mask)),
        }
    };
    trace.devices().iter().enumerate().map(row).collect()
}
