//! How long a call took whose two ends are seen by programs that share no context.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::PerCpuArray,
};
use probe::wire::Event;

use crate::setting;

/// A call that has begun on this CPU.
#[repr(C)]
#[derive(Clone, Copy)]
struct Begun {
    tid: u64,
    subject: u64,
    time_ns: u64,
}

/// Calls in flight a CPU at most, by thread: a place that is taken again costs the earlier call its latency, no more.
const PLACES: u32 = 16;
/// The allocator's own call, and the mapping around it.
pub const SLOTS: u32 = 0;
pub const MAP: u32 = 1;
/// The mapping of a list, which has no one address.
pub const LIST: u32 = 2;

#[map]
static BEGUN: PerCpuArray<Begun> = PerCpuArray::with_max_entries(3 * PLACES, 0);

/// At the entry of a call of that level for `subject`, the buffer's address or the list's.
#[inline(always)]
pub fn begin(level: u32, subject: u64) {
    let tid = bpf_get_current_pid_tgid() & 0xffff_ffff;
    let Some(begun) = BEGUN.get_ptr_mut(level * PLACES + tid as u32 % PLACES) else { return };
    // SAFETY: the map's own memory, of this CPU; the helper takes no arguments.
    unsafe { *begun = Begun { tid, subject, time_ns: bpf_ktime_get_ns() } };
}

/// At the return of the call, with its event: unknown when the thread has changed its CPU meanwhile, or another call took
/// the place.
#[inline(always)]
pub fn took(level: u32, event: Event) -> Event {
    took_for(level, event.orig_addr, event)
}

/// The same of a call for another subject than the event's address.
#[inline(always)]
pub fn took_for(level: u32, subject: u64, event: Event) -> Event {
    // Of sums the event does not say.
    let this = if setting!(aggregate) == 0 { event.tid } else { bpf_get_current_pid_tgid() as u32 };
    let Some(begun) = BEGUN.get_ptr_mut(level * PLACES + this % PLACES) else { return event };
    // SAFETY: the map's own memory, of this CPU.
    let Begun { tid, subject: begun_for, time_ns } = unsafe { *begun };
    if time_ns == 0 || tid != u64::from(this) || begun_for != subject {
        return event;
    }
    // SAFETY: as above. Taken, so that a later return without its entry does not find it.
    unsafe { (*begun).time_ns = 0 };
    took_since(time_ns, event)
}

/// The same of a call whose beginning is known.
#[inline(always)]
pub fn took_since(began_ns: u64, event: Event) -> Event {
    // SAFETY: the helper takes no arguments.
    let now = if setting!(aggregate) == 0 { event.time_ns } else { unsafe { bpf_ktime_get_ns() } };
    event.took(now, began_ns)
}
