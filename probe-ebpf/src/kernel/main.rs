//! The eBPF programs. Each turns one kernel event into [`probe::wire`] records in the ring buffer.
//!
//! | module | programs |
//! |---|---|
//! | `dma` | the `dma:*` tracepoints: every mapping, bounced or not |
//! | `sg` | the same for scatterlists, a record an element |
//! | `slots` | the bounce allocator itself |
//! | `device` | introduces a device before its first event |
//! | `ring` | the ring buffer, and the count of what did not fit |
//!
//! Built for `bpfel-unknown-none` by the collector's build script.

#![no_std]
#![no_main]

mod device;
mod dma;
mod ring;
mod sg;
mod slots;

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};
use probe::{Layout, layout::ABSENT};

/// Overridden by user space before loading.
#[unsafe(no_mangle)]
static LAYOUT: Global<Layout> = Global::new(Layout::EMPTY);

/// One member of [`LAYOUT`]; a constant to the verifier, so what an absent member would have been used for is dead code.
macro_rules! layout {
    ($member:ident) => {
        // SAFETY: a plain read of a read-only global, volatile so that the compiler does not fold its initial value.
        unsafe { core::ptr::read_volatile(&raw const (*(&raw const crate::LAYOUT).cast::<probe::Layout>()).$member) }
    };
}
pub(crate) use layout;

/// Reads a `T` at `base + offset` of kernel memory; `None` when the member is absent or the address is bad.
#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    if offset == ABSENT || base == 0 {
        return None;
    }
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// What the kernel accepts for the helpers used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
