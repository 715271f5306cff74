//! The eBPF programs. Each turns one kernel event into [`probe::wire`] records in the ring buffer.
//!
//! | module | programs |
//! |---|---|
//! | `dma` | the `dma:*` tracepoints: every mapping, bounced or not |
//! | `sg` | the same for scatterlists, a record an element |
//! | `calls` | both by functions, where there are no tracepoints |
//! | `classic` | the kernel's word that it bounces, where there is no BTF |
//! | `slots` | the bounce allocator itself |
//! | `pools` | pools it makes while it runs |
//! | `device` | introduces a device before its first event |
//! | `task` | introduces a thread before its first event |
//! | `filter` | what is left out |
//! | `stack` | kernel stacks |
//! | `again` | copies of programs, for hits that the kernel skips |
//! | `latency` | how long a call took |
//! | `sums` | the aggregate mode |
//! | `recent` | what each CPU saw last, which makes the next event cheap |
//! | `arch` | where arguments are |
//! | `ring` | the ring buffer, and the count of what did not fit |
//! | `bench` | system calls as events, for the bench alone |
//!
//! Built for `bpfel-unknown-none`, or `bpfeb-unknown-none`, by the collector's build script.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // one instruction, see `ring::increase`

mod again;
mod arch;
mod bench;
mod calls;
mod classic;
mod device;
mod dma;
mod filter;
mod latency;
mod pools;
mod recent;
mod ring;
mod sg;
mod slots;
mod stack;
mod sums;
mod task;

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
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
pub(crate) use filter::setting;
pub(crate) use layout;

/// Reads a `T` at `base + offset` of kernel memory; zeroes when the member is absent or the address is bad.
///
/// Without a branch on success, because the helper zeroes what it cannot read: with one, the verifier would follow two
/// ways from every read (6.12 gives up on that after a million instructions).
#[inline(always)]
fn read<T: Number>(base: u64, offset: u32) -> T {
    if offset == ABSENT {
        return T::default();
    }
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all bytes of `value`, checks the address and fails instead of faulting.
    unsafe {
        let address = (base + u64::from(offset)) as *const c_void;
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address);
        value.assume_init()
    }
}

/// Of a map: only where there is none yet.
const BPF_NOEXIST: u64 = 1;

/// What [`read`] can read: types for which any bytes will do.
trait Number: Default {}
impl Number for u32 {}
impl Number for u64 {}

/// What the kernel accepts for the helpers used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
