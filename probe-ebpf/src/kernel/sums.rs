//! The aggregate mode: counters and histograms by device and operation, a set a CPU, and nothing in the ring buffer but
//! the devices' names.
//!
//! # Cost
//!
//! A hash look-up and six additions an event.

use aya_ebpf::{
    macros::map,
    maps::{PerCpuArray, PerCpuHashMap},
};
use probe::{
    sums::{Cell, KEYS, Key, LATENCY_BUCKETS, SIZE_BUCKETS, bucket},
    wire::{Event, has},
};

use crate::{filter, ring};

/// User space makes it small when it is not used.
#[map]
static SUMS: PerCpuHashMap<Key, Cell> = PerCpuHashMap::with_max_entries(KEYS, 0);

/// Never written: what a new cell begins as, too large for the stack.
#[map]
static NOTHING: PerCpuArray<Cell> = PerCpuArray::with_max_entries(1, 0);

/// Adds an event to the sums of its kind; counts it as lost, and says false, when there is no room for more of them.
#[inline(never)]
pub fn add(event: &Event) -> bool {
    let key = Key { device: event.device, kind: u32::from(event.kind), failed: u32::from(filter::failed(event)) };
    let mut found = SUMS.get_ptr_mut(key);
    if found.is_none() {
        let Some(nothing) = NOTHING.get(0) else { return false };
        // Another CPU may have been quicker.
        let _ = SUMS.insert(key, nothing, BPF_NOEXIST);
        found = SUMS.get_ptr_mut(key);
    }
    let Some(cell) = found else {
        ring::count_loss();
        return false;
    };
    // SAFETY: the map's own memory, of this CPU; the buckets are within the arrays.
    unsafe {
        ring::increase(&raw mut (*cell).count, 1);
        ring::increase(&raw mut (*cell).bytes, event.size);
        // A release has none.
        if event.size != 0 {
            let sizes = (&raw mut (*cell).sizes).cast::<u64>();
            ring::increase(sizes.add(bucket(event.size, SIZE_BUCKETS)), 1);
        }
        if event.has & has::LATENCY != 0 {
            ring::increase(&raw mut (*cell).latency_ns, u64::from(event.latency_ns));
            let latencies = (&raw mut (*cell).latencies).cast::<u64>();
            ring::increase(latencies.add(bucket(u64::from(event.latency_ns), LATENCY_BUCKETS)), 1);
        }
    }
    true
}

/// Only where there is none yet.
const BPF_NOEXIST: u64 = 1;
