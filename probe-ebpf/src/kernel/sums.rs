//! The aggregate mode: counters and histograms by device and operation, a set a CPU, and nothing in the ring buffer but
//! the devices' names.
//!
//! # Cost
//!
//! A look-up in an array and two additions an event, two more where the latency is known.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use probe::{
    sums::{CELLS, Cell, cell, latency_bucket, size_bucket},
    wire::{Event, NO_NUMBER, has},
};

use crate::{BPF_NOEXIST, device, filter, ring, setting};

/// User space gives it the cells of as many devices as there may be.
#[map]
static SUMS: PerCpuArray<Cell> = PerCpuArray::with_max_entries(CELLS, 0);

/// About how many numbers were given out.
#[map]
static NUMBERS: Array<u64> = Array::with_max_entries(1, 0);

/// Numbers given out. Entered one by one, because kernels before 5.12 add to a number without telling what it was.
#[map]
static NUMBERED: HashMap<u64, u64> = HashMap::with_max_entries(4096, 0);

/// Whose they are; user space sets the size.
#[map]
static OWNERS: Array<u64> = Array::with_max_entries(1, 0);

/// A number for a new device, [`NO_NUMBER`] when they are used up.
#[inline(always)]
pub fn number(device: u64) -> u64 {
    let Some(next) = NUMBERS.get_ptr_mut(0) else { return NO_NUMBER };
    // SAFETY: the map's own memory.
    let from = unsafe { core::ptr::read_volatile(next) };
    // Other CPUs may be as far as this one, but not many.
    for ahead in 0..4 {
        let number = from + ahead;
        if number >= u64::from(setting!(devices)) {
            break;
        }
        if NUMBERED.insert(number, device, BPF_NOEXIST).is_ok() {
            // SAFETY: as above.
            unsafe { ring::increase(next, 1) };
            let _ = OWNERS.set(number as u32, device, 0);
            return number;
        }
    }
    NO_NUMBER
}

/// Whether it is this device's number.
#[inline(always)]
pub fn is_of(number: u64, device: u64) -> bool {
    OWNERS.get(number as u32).is_some_and(|owner| *owner == device)
}

/// Adds an event to the sums of its kind; counts it as lost when its device has none.
#[inline(always)]
pub fn add(event: &Event) {
    let number = device::number(event.device) as u32;
    let Some(cell) = SUMS.get_ptr_mut(number * CELLS + cell(event.kind, filter::failed(event))) else {
        return ring::count_loss();
    };
    // SAFETY: the map's own memory, of this CPU; the buckets are within the arrays.
    unsafe {
        let sizes = (&raw mut (*cell).sizes).cast::<u64>();
        ring::increase(sizes.add(size_bucket(event.size)), 1);
        if event.size != 0 {
            ring::increase(&raw mut (*cell).bytes, event.size);
        }
        if event.has & has::LATENCY != 0 {
            ring::increase(&raw mut (*cell).latency_ns, u64::from(event.latency_ns));
            let latencies = (&raw mut (*cell).latencies).cast::<u64>();
            ring::increase(latencies.add(latency_bucket(u64::from(event.latency_ns))), 1);
        }
    }
}
