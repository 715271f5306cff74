//! What differs between architectures: where a call's arguments are.
//!
//! | | in registers | the next on the stack, from | the stack pointer at the return |
//! |---|---|---|---|
//! | x86_64 | 6 | 8 above the stack pointer, which points to the return address | 8 higher than at the entry |
//! | s390x | 5 | 160 above it, behind the space where the callee saves registers | the same |

use aya_ebpf::{
    bindings::pt_regs,
    programs::{ProbeContext, RetProbeContext},
};

use crate::read;

#[cfg(not(any(bpf_target_arch = "x86_64", bpf_target_arch = "s390x")))]
compile_error!("this architecture's calls are not known: say in probe-ebpf/src/kernel/arch.rs where arguments are");

/// Arguments in registers.
#[cfg(bpf_target_arch = "x86_64")]
const REGISTERS: usize = 6;
#[cfg(bpf_target_arch = "s390x")]
const REGISTERS: usize = 5;

/// From the stack pointer at the entry to the first argument on the stack.
#[cfg(bpf_target_arch = "x86_64")]
const STACKED: u64 = 8;
#[cfg(bpf_target_arch = "s390x")]
const STACKED: u64 = 160;

/// From the stack pointer at the entry to that at the return.
#[cfg(bpf_target_arch = "x86_64")]
const POPPED: u64 = 8;
#[cfg(bpf_target_arch = "s390x")]
const POPPED: u64 = 0;

#[inline(always)]
fn stack_pointer(regs: *mut pt_regs) -> u64 {
    // SAFETY: the context is the saved registers; the value is copied out at once.
    unsafe {
        #[cfg(bpf_target_arch = "x86_64")]
        return (*regs).rsp;
        #[cfg(bpf_target_arch = "s390x")]
        return (*regs).gprs[15];
    }
}

/// The caller's stack pointer once the call that is being entered has returned.
#[inline(always)]
pub fn stack_after(ctx: &ProbeContext) -> u64 {
    stack_pointer(ctx.regs) + POPPED
}

/// The stack pointer at a call's return.
#[inline(always)]
pub fn stack(ctx: &RetProbeContext) -> u64 {
    stack_pointer(ctx.regs)
}

/// Argument `n`, from 0, of the call that is being entered.
#[inline(always)]
pub fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    match n.checked_sub(REGISTERS) {
        None => ctx.arg(n).unwrap_or(0),
        Some(n) => read(stack_pointer(ctx.regs), (STACKED + 8 * n as u64) as u32),
    }
}
