//! Introduces a device before its first event, and again when its limits have changed.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel_str_bytes},
    macros::map,
    maps::HashMap,
};
use aya_log_ebpf::warn;
use probe::wire::{DRIVER_BYTES, Device, Limits, NAME_BYTES, NO_NUMBER, kind, marked};

use crate::{filter, layout, read, recent, ring, setting, sums};

/// A device as it was last told to user space.
#[repr(C)]
#[derive(Clone, Copy)]
struct Known {
    checked: u64,
    limits: Limits,
    /// Events of it are wanted, 1 or 0.
    kept: u64,
    /// As in the record.
    number: u64,
}

/// Devices told to user space, by address.
#[map]
static DEVICES: HashMap<u64, Known> = HashMap::with_max_entries(4096, 0);

/// When the event begins whose device is at `device`, which is known to user space by then; otherwise its event is counted:
/// as left out when the device is not wanted, as lost when there was no room to tell of it.
#[inline(always)]
pub fn introduce(ctx: &impl EbpfContext, device: u64) -> Option<u64> {
    // There are no places in the stream for gaps where there is no stream.
    if setting!(aggregate) == 0 {
        ring::report_loss();
    }
    let (now, recently) = recent::begin(device);
    if recently || check(ctx, device, now) { Some(now) } else { None }
}

/// Whether a device that is to be looked at is wanted and known.
#[inline(always)]
fn check(ctx: &impl EbpfContext, device: u64, now: u64) -> bool {
    let Some(known) = DEVICES.get_ptr_mut(device) else {
        return tell(ctx, device, now, limits(device), NO_NUMBER);
    };
    // Read member by member, because the whole would be too much for the stack of old kernels.
    // SAFETY: the map's own memory; two CPUs may write the same time.
    let (checked, kept, number) = unsafe { ((*known).checked, (*known).kept, (*known).number) };
    if recent::fresh(now, checked) {
        return wanted(device, number, checked, kept);
    }
    // SAFETY: as above.
    unsafe { (*known).checked = now };
    let limits = limits(device);
    // SAFETY: as above.
    let last = unsafe { &(*known).limits };
    if *last == limits {
        return wanted(device, number, now, kept);
    }
    // Another name: another device.
    let number = if last.name == limits.name { number } else { NO_NUMBER };
    tell(ctx, device, now, limits, number)
}

/// The same as [`introduce`] for a device of which the kernel tells the name, at that address, and the mask; `device` stands
/// for the name.
#[inline(always)]
pub fn introduce_named(ctx: &impl EbpfContext, device: u64, name: u64, dma_mask: u64) -> Option<u64> {
    if setting!(aggregate) == 0 {
        ring::report_loss();
    }
    let (now, _) = recent::begin(device);
    let limits = Limits {
        name: device,
        dma_mask,
        coherent_dma_mask: 0,
        bus_dma_limit: 0,
        seg_boundary_mask: 0,
        max_segment_size: 0,
        min_align_mask: 0,
    };
    let known = DEVICES.get_ptr(device);
    // SAFETY: the map's own memory.
    let known = known.map(|known| unsafe { ((*known).limits.dma_mask, (*known).kept, (*known).number) });
    let kept = match known {
        Some((mask, kept, number)) if mask == dma_mask => wanted(device, number, now, kept),
        _ => {
            let number = known.map_or(NO_NUMBER, |(_, _, number)| number);
            told(ctx, device, now, limits, number, tell_named(device, number, &limits, name))
        }
    };
    if kept { Some(now) } else { None }
}

/// The number of a device that was introduced; [`NO_NUMBER`] of one that has none.
#[inline(always)]
pub fn number(device: u64) -> u64 {
    // What is noted of the last device may be another's by now, whose number it is does not change.
    let number = recent::number();
    if sums::is_of(number, device) {
        return number;
    }
    // SAFETY: the map's own memory.
    DEVICES.get_ptr(device).map_or(NO_NUMBER, |known| unsafe { (*known).number })
}

/// Counts what is not wanted, and remembers what is, with the time its limits were looked at.
#[inline(always)]
fn wanted(device: u64, number: u64, checked: u64, kept: u64) -> bool {
    if kept == 0 {
        ring::count_filtered();
    } else {
        recent::learn(device, number, checked);
    }
    kept != 0
}

/// There was no room.
const NO_ROOM: u64 = 2;
/// Bits of what [`tell_record`] returns that are not the number.
const KEPT_BITS: u32 = 2;

/// Whether the device is wanted, or [`NO_ROOM`]; above, in aggregate mode, its number: one that is wanted and has none gets it.
/// Sends the record first: a device counts as known only when it really went out.
#[inline(never)]
fn tell_record(device: u64, number: u64, limits: &Limits) -> u64 {
    let driver = read::<u64>(device, layout!(device_driver));
    send(device, number, limits, limits.name, read::<u64>(driver, layout!(driver_name)))
}

/// The same of a device that is known by its name, at that address. Apart, because another argument would be too much for the
/// stack of old kernels.
#[inline(never)]
fn tell_named(device: u64, number: u64, limits: &Limits, name: u64) -> u64 {
    send(device, number, limits, name, 0)
}

#[inline(always)]
fn send(device: u64, number: u64, limits: &Limits, name: u64, driver_name: u64) -> u64 {
    let Some(mut entry) = ring::reserve::<Device>() else { return NO_ROOM };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is memory of the right size, and every byte of it is written here.
    unsafe {
        (*record).kind = marked(kind::DEVICE);
        (*record).time_ns = bpf_ktime_get_ns();
        (*record).device = device;
        (*record).limits = *limits;
        (*record).number = number;
        (*record).name = [0; NAME_BYTES];
        (*record).driver = [0; DRIVER_BYTES];
        let _ = bpf_probe_read_kernel_str_bytes(name as *const u8, &mut (*record).name);
        let _ = bpf_probe_read_kernel_str_bytes(driver_name as *const u8, &mut (*record).driver);
    }
    if !filter::keeps_device(record) {
        entry.discard(0);
        return NO_NUMBER << KEPT_BITS;
    }
    if setting!(aggregate) == 0 {
        ring::submit(entry);
        return 1;
    }
    let number = if number == NO_NUMBER { sums::number(device) } else { number };
    // SAFETY: as above.
    unsafe { (*record).number = number };
    ring::submit(entry);
    number << KEPT_BITS | 1
}

#[inline(always)]
fn tell(ctx: &impl EbpfContext, device: u64, now: u64, limits: Limits, number: u64) -> bool {
    told(ctx, device, now, limits, number, tell_record(device, number, &limits))
}

/// Remembers a device that was told of, when there was room for it.
#[inline(always)]
fn told(ctx: &impl EbpfContext, device: u64, now: u64, limits: Limits, number: u64, told: u64) -> bool {
    if told == NO_ROOM {
        return false;
    }
    let (kept, number) = if setting!(aggregate) == 0 { (told & 1, number) } else { (told & 1, told >> KEPT_BITS) };
    // When the table is full the device is told again with each event; user space knows it already.
    if DEVICES.insert(device, Known { checked: now, limits, kept, number }, 0).is_err() && ring::may_log() {
        warn!(ctx, "more than 4096 devices: the later ones are introduced with every event");
    }
    wanted(device, number, now, kept)
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
