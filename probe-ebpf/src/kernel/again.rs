//! Hits that the kernel skips, told by a copy of the program.
//!
//! The kernel does not run a program while the same program runs on that CPU. Where tasks can be preempted (7.2, or
//! `preempt=full`), one that is preempted inside a program makes the kernel skip everybody else's hits there until it goes on:
//! 5 % of a loaded guest's. Elsewhere it is interrupts that do so, and what they do most is give slots back. So each program, or
//! that of releases alone, has a copy behind it, another program to the kernel. The first notes which hit
//! it has told of; the copy tells of those that are not noted.
//!
//! A hit is still lost when its copies are taken too. Of all hits that the first ones were skipped for, those are lost that no
//! copy counted in `recovered`.
//!
//! # Cost
//!
//! An entry and two look-ups an event, where tasks can be preempted; elsewhere of releases only, and this is dead code for others.

use core::ptr;

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::PerCpuArray};

use crate::{ring, setting};

/// Places of the kernel at which a program and its copy stand.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Hook {
    Map,
    MapResource,
    Unmap,
    UnmapResource,
    SyncForCpu,
    SyncForDevice,
    Alloc,
    AllocPages,
    Free,
    FreePages,
    Bounce,
    MapSg,
    MapSgErr,
    MapSgRefused,
    MapSgtableRefused,
    UnmapSg,
    SyncSgForCpu,
    SyncSgForDevice,
    SlotAlloc,
    SlotFree,
}

/// Threads and addresses told apart by the notes of a place and CPU: no hits of others, nor an interrupt's, are to overwrite the
/// note of a thread that is preempted before its copies have seen it.
const THREADS: u32 = 16;
const ADDRESSES: u32 = 16;
const NOTES: u32 = THREADS * ADDRESSES;

/// By place and hit: the last one that was told of and whose copies have not all seen that.
#[map]
static TOLD: PerCpuArray<u64> = PerCpuArray::with_max_entries((Hook::SlotFree as u32 + 1) * NOTES, 0);

/// A hit at one place: what tells it from the others there, which is the address that the call is about.
#[derive(Clone, Copy)]
pub struct Hit(pub Hook, pub u64);

impl Hit {
    #[inline(always)]
    fn note(self) -> Option<*mut u64> {
        let thread = bpf_get_current_pid_tgid() as u32 % THREADS;
        // Of addresses of slots, pages and lists these bits differ most.
        let address = (self.1 >> 11) as u32 % ADDRESSES;
        TOLD.get_ptr_mut(self.0 as u32 * NOTES + thread * ADDRESSES + address)
    }

    #[inline(always)]
    fn is_told(self) -> bool {
        // SAFETY: the map's own memory, of this CPU.
        self.note().is_some_and(|note| unsafe { ptr::read_volatile(note) == self.1 })
    }

    #[inline(always)]
    fn set(self, address: u64) {
        if let Some(note) = self.note() {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(note, address) };
        }
    }

    /// A copy that has another one behind it.
    #[inline(always)]
    pub fn between(self, body: impl FnOnce() -> i32) -> i32 {
        if self.is_told() {
            return 0;
        }
        ring::count_recovered();
        let result = body();
        self.set(self.1);
        result
    }

    /// The last copy: the address may come again.
    #[inline(always)]
    pub fn last(self, body: impl FnOnce() -> i32) -> i32 {
        if self.is_told() {
            self.set(0);
            return 0;
        }
        ring::count_recovered();
        body()
    }
}

/// The program itself; `address` as in a [`Hit`].
#[inline(always)]
pub fn first(hook: Hook, address: impl FnOnce() -> u64, body: impl FnOnce() -> i32) -> i32 {
    let result = body();
    if setting!(copies) != 0 || matches!(hook, Hook::SlotFree) {
        let address = address();
        Hit(hook, address).set(address);
    }
    result
}
