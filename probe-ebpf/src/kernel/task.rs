//! Introduces a thread before its first event, and again when its name has changed (it began another program).

use aya_ebpf::{
    helpers::bpf_get_current_comm,
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use probe::wire::{COMM_BYTES, Task, kind, marked};

use crate::ring;

/// How long a name is taken as unchanged while one thread goes on on a CPU.
const RECHECK_NS: u64 = 1_000_000;

/// The thread whose event this CPU saw last: most events follow one of their own thread.
#[repr(C)]
struct Last {
    tid: u64,
    checked_ns: u64,
}

/// A thread as it was last told to user space.
#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct Known {
    pid: u32,
    comm: [u8; COMM_BYTES],
}

#[map]
static LAST_TASK: PerCpuArray<Last> = PerCpuArray::with_max_entries(1, 0);

/// Threads told to user space. One that falls out is told again, which user space notices.
#[map]
static TASKS: LruHashMap<u32, Known> = LruHashMap::with_max_entries(4096, 0);

/// Tells user space of the running thread unless it knows it. Nothing is lost when there is no room: the next event tries
/// again.
#[inline(always)]
pub fn introduce(pid_tgid: u64, now: u64) {
    let tid = pid_tgid & 0xffff_ffff;
    let Some(last) = LAST_TASK.get_ptr_mut(0) else { return };
    // SAFETY: the map's own memory, of this CPU; an interrupt that changes it between makes one more look-up.
    let known = unsafe { (*last).tid == tid && now.wrapping_sub((*last).checked_ns) < RECHECK_NS };
    // The idle tasks share the number 0 and differ in name.
    if tid != 0 && !known && tell(pid_tgid, now) {
        // SAFETY: as above.
        unsafe { *last = Last { tid, checked_ns: now } };
    }
}

/// False when there was no room for it.
#[inline(never)]
fn tell(pid_tgid: u64, now: u64) -> bool {
    let tid = pid_tgid as u32;
    let known = Known { pid: (pid_tgid >> 32) as u32, comm: bpf_get_current_comm().unwrap_or_default() };
    // SAFETY: the map's own memory, copied out at once.
    if unsafe { TASKS.get(tid).copied() } == Some(known) {
        return true;
    }
    let Some(mut entry) = ring::room::<Task>() else { return false };
    let Known { pid, comm } = known;
    entry.write(Task { kind: marked(kind::TASK), time_ns: now, tid, pid, comm });
    ring::submit(entry);
    // When it does not fit the thread is told again.
    let _ = TASKS.insert(tid, known, 0);
    true
}
