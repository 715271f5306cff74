//! The ring buffer. One for all CPUs; everything goes through [`reserve`], so that one a CPU would be a change here only.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::map,
    maps::{PerCpuArray, RingBuf, ring_buf::RingBufEntry},
};
use probe::wire::{CpuLoss, Event, kind};

use crate::{filter, setting, sums, task};

/// User space chooses the size before loading and polls: no wake-ups, which would cost more than the record.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 24, 0);

/// What became of each CPU's records.
#[map]
static LOSSES: PerCpuArray<CpuLoss> = PerCpuArray::with_max_entries(1, 0);

/// Space for a record, or `None` after counting the loss.
#[inline(always)]
pub fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    let entry = room::<T>();
    if entry.is_none() {
        count_loss();
    }
    entry
}

/// Space for a record whose absence is not a loss.
#[inline(always)]
pub fn room<T: 'static>() -> Option<RingBufEntry<T>> {
    EVENTS.reserve::<T>(0)
}

/// Hands a record over.
#[inline(always)]
pub fn submit<T: 'static>(entry: RingBufEntry<T>) {
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// An event with what all events have, place included, after introducing its thread; `now` is what
/// [`introduce`](crate::device::introduce) says.
#[inline(always)]
pub fn event(_: &impl EbpfContext, kind: u8, device: u64, now: u64) -> Event {
    let event = blank(kind, device, now);
    // Sums are not kept by thread.
    if setting!(aggregate) == 0 {
        task::introduce(bpf_get_current_pid_tgid(), event.time_ns);
    }
    event
}

#[inline(always)]
fn blank(kind: u8, device: u64, time_ns: u64) -> Event {
    // Sums need to know neither.
    let (cpu, tid) = if setting!(aggregate) == 0 {
        // SAFETY: the helper takes no arguments and cannot fail.
        (unsafe { bpf_get_smp_processor_id() }, bpf_get_current_pid_tgid())
    } else {
        (0, 0)
    };
    Event {
        kind,
        direction: 0,
        cpu: cpu as u16,
        tid: tid as u32,
        time_ns,
        device,
        orig_addr: 0,
        target: 0,
        size: 0,
        attrs: 0,
        align_mask: 0,
        sg_index: 0,
        has: 0,
        more: 0,
        latency_ns: 0,
        stack: 0,
    }
}

/// Writes an event, or adds it to the sums, unless it is not wanted.
#[inline(always)]
pub fn write(event: Event) {
    if !filter::keeps(&event) {
        return count_filtered();
    }
    if setting!(aggregate) != 0 {
        // The sums themselves say how many there were.
        sums::add(&event);
        return;
    }
    tell(event);
}

/// Writes an event, wanted or not.
#[inline(always)]
pub fn tell(event: Event) {
    if let Some(mut entry) = reserve::<Event>() {
        entry.write(event);
        submit(entry);
        count_seen();
    }
}

/// Adds to a number of this CPU's, in one step: an interrupt's own count on top of this one would be lost between two.
/// `core` has no atomic types for this target, hence the instruction itself.
///
/// # Safety
/// `number` is a number in a map.
#[inline(always)]
pub unsafe fn increase(number: *mut u64, by: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("lock *(u64 *)({number} + 0) += {by}", number = in(reg) number, by = in(reg) by, options(nostack)) };
}

/// One of this CPU's counters.
macro_rules! count {
    ($($function:ident: $($counter:ident)*, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[inline(always)]
        pub fn $function() {
            let Some(counters) = LOSSES.get_ptr_mut(0) else { return };
            // SAFETY: the map's own memory.
            $(unsafe { increase(&raw mut (*counters).$counter, 1) };)*
        }
    )*};
}

count! {
    count_seen: seen, "Counts one event that there was to tell of.";
    count_filtered: seen filtered, "Counts one that is not wanted.";
    count_recovered: recovered, "Counts a hit that only a copy of its program saw.";
    count_unpaired: unpaired, "Counts a call of which only one end was seen.";
    count_stack_missed: stacks_missed, "Counts a stack that found no place.";
}

/// Counts one record that did not fit.
#[inline(always)]
pub fn count_loss() {
    let Some(loss) = LOSSES.get_ptr_mut(0) else { return };
    // SAFETY: the map's own memory, of this CPU; an interrupt between the steps can move a time, no count.
    unsafe {
        let now = bpf_ktime_get_ns();
        if (*loss).lost == (*loss).reported {
            (*loss).since_ns = now;
        }
        increase(&raw mut (*loss).lost, 1);
        increase(&raw mut (*loss).seen, 1);
        (*loss).last_ns = now;
    }
}

/// Tells of earlier losses once there is room again, so that the gap stands at its place in the stream.
#[inline(always)]
pub fn report_loss() {
    let Some(loss) = LOSSES.get_ptr_mut(0) else { return };
    // SAFETY: as in `count_loss`.
    let (lost, reported) = unsafe { ((*loss).lost, (*loss).reported) };
    if lost <= reported {
        return;
    }
    // Claimed before it is told. Where an interrupt on top of this program has told of the gap meanwhile, the claim is
    // taken back.
    // SAFETY: as in `count_loss`.
    let (claimed, since_ns, last_ns) = unsafe {
        increase(&raw mut (*loss).reported, lost - reported);
        (core::ptr::read_volatile(&raw const (*loss).reported), (*loss).since_ns, (*loss).last_ns)
    };
    if claimed != lost {
        // SAFETY: as in `count_loss`.
        unsafe { increase(&raw mut (*loss).reported, reported.wrapping_sub(lost)) };
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        // SAFETY: as in `count_loss`.
        unsafe { increase(&raw mut (*loss).reported, reported.wrapping_sub(lost)) };
        return;
    };
    entry.write(Event { orig_addr: since_ns, size: lost - reported, ..blank(kind::LOST, 0, last_ns) });
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
