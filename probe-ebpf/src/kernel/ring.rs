//! The ring buffer. One for all CPUs; everything goes through [`reserve`], so that one a CPU would be a change here only.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::map,
    maps::{PerCpuArray, RingBuf, ring_buf::RingBufEntry},
};
use probe::wire::{CpuLoss, Event, kind};

use crate::recent;

/// User space chooses the size before loading and polls: no wake-ups, which would cost more than the record.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 24, 0);

/// What each CPU could not write.
#[map]
static LOSSES: PerCpuArray<CpuLoss> = PerCpuArray::with_max_entries(1, 0);

/// Space for a record, or `None` after counting the loss.
#[inline(always)]
pub fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    let entry = EVENTS.reserve::<T>(0);
    if entry.is_none() {
        count_loss();
    }
    entry
}

/// Hands a record over.
#[inline(always)]
pub fn submit<T: 'static>(entry: RingBufEntry<T>) {
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// An event with what all events have, time and place included; after [`introduce`](crate::device::introduce), which asks
/// for the time.
#[inline(always)]
pub fn event(ctx: &impl EbpfContext, kind: u8, device: u64) -> Event {
    Event {
        kind,
        direction: 0,
        // SAFETY: the helper takes no arguments and cannot fail.
        cpu: unsafe { bpf_get_smp_processor_id() } as u16,
        tid: ctx.pid(),
        time_ns: recent::now(),
        device,
        orig_addr: 0,
        target: 0,
        size: 0,
        attrs: 0,
        align_mask: 0,
        sg_index: 0,
        has: 0,
        sg_excess: 0,
    }
}

/// Writes an event.
#[inline(always)]
pub fn write(event: Event) {
    if let Some(mut entry) = reserve::<Event>() {
        entry.write(event);
        submit(entry);
    }
}

/// Counts one record that did not fit.
#[inline(always)]
pub fn count_loss() {
    let Some(loss) = LOSSES.get_ptr_mut(0) else { return };
    // SAFETY: the map's own memory, of this CPU; an interrupt between the steps can cost the count of one record.
    unsafe {
        let now = bpf_ktime_get_ns();
        if (*loss).lost == (*loss).reported {
            (*loss).since_ns = now;
        }
        (*loss).lost += 1;
        (*loss).last_ns = now;
    }
}

/// Tells of earlier losses once there is room again, so that the gap stands at its place in the stream.
#[inline(always)]
pub fn report_loss(ctx: &impl EbpfContext) {
    let Some(loss) = LOSSES.get_ptr_mut(0) else { return };
    // SAFETY: as in `count_loss`.
    let CpuLoss { lost, reported, since_ns, last_ns } = unsafe { *loss };
    if lost == reported {
        return;
    }
    // Claimed first, so that an interrupt on top of this program does not tell of the same gap.
    // SAFETY: as in `count_loss`.
    unsafe { (*loss).reported = lost };
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        // SAFETY: as in `count_loss`.
        unsafe { (*loss).reported -= lost - reported };
        return;
    };
    entry.write(Event { time_ns: last_ns, orig_addr: since_ns, size: lost - reported, ..event(ctx, kind::LOST, 0) });
    submit(entry);
}

/// When each CPU last logged.
#[map]
static LOGGED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Whether a diagnostic may be logged now: at most one a second and CPU, so that a sick load is not made slower.
#[inline(always)]
pub fn may_log() -> bool {
    // SAFETY: the map's own memory, of this CPU.
    unsafe {
        let now = bpf_ktime_get_ns();
        LOGGED.get_ptr_mut(0).is_some_and(|last| {
            let due = now.wrapping_sub(*last) > 1_000_000_000;
            if due {
                *last = now;
            }
            due
        })
    }
}
