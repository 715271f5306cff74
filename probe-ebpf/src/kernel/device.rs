//! Introduces a device before its first event, and again when its limits have changed.

use aya_ebpf::{EbpfContext, helpers::bpf_probe_read_kernel_str_bytes, macros::map, maps::HashMap};
use aya_log_ebpf::warn;
use probe::wire::{DRIVER_BYTES, Device, Limits, NAME_BYTES, kind};

use crate::recent::{self, RECHECK_NS};
use crate::{layout, read, ring};

/// A device as it was last told to user space.
#[repr(C)]
#[derive(Clone, Copy)]
struct Known {
    checked_ns: u64,
    limits: Limits,
}

/// Devices told to user space, by address.
#[map]
static DEVICES: HashMap<u64, Known> = HashMap::with_max_entries(4096, 0);

/// The device at `device` is known to user space when this returns true; otherwise there was no room to tell of it and
/// its event is counted as lost.
#[inline(always)]
pub fn introduce(ctx: &impl EbpfContext, device: u64) -> bool {
    ring::report_loss(ctx);
    let (now, recently) = recent::begin(device);
    if recently {
        return true;
    }
    if let Some(known) = DEVICES.get_ptr_mut(device) {
        // SAFETY: the map's own memory; two CPUs may write the same time.
        unsafe {
            let checked_ns = (*known).checked_ns;
            if now.wrapping_sub(checked_ns) < RECHECK_NS {
                recent::learn(device, checked_ns);
                return true;
            }
            (*known).checked_ns = now;
        }
        let limits = limits(device);
        // SAFETY: as above.
        if unsafe { (*known).limits } == limits {
            recent::learn(device, now);
            return true;
        }
        return tell(ctx, device, now, limits);
    }
    tell(ctx, device, now, limits(device))
}

/// Sends the record first: a device counts as known only when it really went out.
#[inline(never)]
fn tell_record(device: u64, now: u64, limits: &Limits) -> bool {
    let Some(mut entry) = ring::reserve::<Device>() else { return false };
    let record = entry.as_mut_ptr();
    let driver = read::<u64>(device, layout!(device_driver));
    let driver_name = read::<u64>(driver, layout!(driver_name));
    // SAFETY: the entry is memory of the right size, and every byte of it is written here.
    unsafe {
        (*record).kind = u64::from(kind::DEVICE);
        (*record).time_ns = now;
        (*record).device = device;
        (*record).limits = *limits;
        (*record).name = [0; NAME_BYTES];
        (*record).driver = [0; DRIVER_BYTES];
        let _ = bpf_probe_read_kernel_str_bytes(limits.name as *const u8, &mut (*record).name);
        let _ = bpf_probe_read_kernel_str_bytes(driver_name as *const u8, &mut (*record).driver);
    }
    ring::submit(entry);
    true
}

#[inline(always)]
fn tell(ctx: &impl EbpfContext, device: u64, now: u64, limits: Limits) -> bool {
    if !tell_record(device, now, &limits) {
        return false;
    }
    // When the table is full the device is told again with each event; user space knows it already.
    if DEVICES.insert(device, Known { checked_ns: now, limits }, 0).is_err() && ring::may_log() {
        warn!(ctx, "more than 4096 devices: the later ones are introduced with every event");
    }
    true
}

#[inline(always)]
fn limits(device: u64) -> Limits {
    let mask = read::<u64>(device, layout!(device_dma_mask));
    let parms = read::<u64>(device, layout!(device_dma_parms));
    Limits {
        name: read(device, layout!(device_name)),
        dma_mask: read(mask, 0),
        coherent_dma_mask: read(device, layout!(device_coherent_dma_mask)),
        bus_dma_limit: read(device, layout!(device_bus_dma_limit)),
        seg_boundary_mask: read(parms, layout!(parms_segment_boundary_mask)),
        max_segment_size: read(parms, layout!(parms_max_segment_size)),
        min_align_mask: read(parms, layout!(parms_min_align_mask)),
    }
}
