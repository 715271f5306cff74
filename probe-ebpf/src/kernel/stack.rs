//! Kernel stacks of mappings, interned by the kernel: an event carries the key.

use aya_ebpf::{macros::map, maps::StackTrace, programs::tracing::StackIdContext};
use probe::{
    settings::{STACKS_ALL, STACKS_NONE},
    wire::{Event, has, kind},
};

use crate::{filter, ring, setting};

/// Stacks by a hash of themselves; user space sets the size. Two that fall on one place are one stack missed.
#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(1024, 0);

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
    match ctx.get_stackid(&STACKS, 0) {
        Ok(stack) => Event { stack: stack as u32, has: event.has | has::STACK, ..event },
        Err(_) => {
            ring::count_stack_missed();
            event
        }
    }
}
