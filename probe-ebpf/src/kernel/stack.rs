//! Kernel stacks of mappings, interned by the kernel: an event carries the key.

use aya_ebpf::{macros::map, maps::StackTrace, programs::tracing::StackIdContext};
use probe::{
    settings::{STACKS_ALL, STACKS_NONE},
    wire::{Event, has, kind},
};

use crate::{filter, ring, setting};

/// Stacks by a hash of themselves; user space sets the size. One that falls on another's place is kept without its innermost
/// call, which is nearly always the same; when that has no place either it is missed.
#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(1024, 0);

/// Calls to leave out.
const SKIP_ONE: u64 = 1;

/// The event with the stack that led to it, when it is one to have a stack.
///
/// # Cost
///
/// Half a microsecond to one, for walking the stack.
#[inline(always)]
pub fn add(ctx: &impl StackIdContext, event: Event) -> Event {
    let all = setting!(stacks) == STACKS_ALL && matches!(event.kind, kind::MAP | kind::SLOT_ALLOC);
    if setting!(stacks) == STACKS_NONE || !(all || filter::failed(&event)) {
        return event;
    }
    match ctx.get_stackid(&STACKS, 0).or_else(|_| ctx.get_stackid(&STACKS, SKIP_ONE)) {
        Ok(stack) => Event { stack: stack as u32, has: event.has | has::STACK, ..event },
        Err(_) => {
            ring::count_stack_missed();
            event
        }
    }
}
