//! What `cargo xtask bench capture` attaches, and nobody else: two system calls that stand for a map and an unmap, so that
//! the cost of an event can be measured on a machine without DMA. The events take the way of all others.
//!
//! # Minimum kernel version
//!
//! 5.5, for typed tracepoints.

use aya_ebpf::{EbpfContext, Global, macros::btf_tracepoint, programs::BtfTracePointContext};
use probe::wire::{has, kind};

use crate::{device, ring};

/// The process whose calls count, set by user space before loading.
#[unsafe(no_mangle)]
static BENCH_PROCESS: Global<u32> = Global::new(0);

/// A device of no machine. Its limits are read as zeroes.
const DEVICE: u64 = 0x1000;
/// getppid on x86-64: a map.
const MAP: u64 = 110;
/// getuid on x86-64: an unmap.
const UNMAP: u64 = 102;

#[inline(always)]
fn is_ours(ctx: &BtfTracePointContext) -> bool {
    ctx.tgid() == BENCH_PROCESS.load()
}

/// Does nothing but look whose call it is: the twin, without an event. (regs, id)
#[btf_tracepoint]
fn bench_filter(ctx: BtfTracePointContext) -> i32 {
    i32::from(is_ours(&ctx) && ctx.arg::<u64>(1) == u64::MAX)
}

/// (regs, id)
#[btf_tracepoint]
fn bench_events(ctx: BtfTracePointContext) -> i32 {
    if is_ours(&ctx) {
        match ctx.arg::<u64>(1) {
            MAP => write(&ctx, kind::MAP, has::ORIG | has::TARGET),
            UNMAP => write(&ctx, kind::UNMAP, has::TARGET),
            _ => {}
        }
    }
    0
}

#[inline(always)]
fn write(ctx: &BtfTracePointContext, kind: u8, has: u16) {
    if let Some(now) = device::introduce(ctx, DEVICE) {
        let mut event = ring::event(ctx, kind, DEVICE, now);
        // Pages as any, so that they do not compress better than a real load's.
        let page = event.time_ns.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 << 12;
        event.has = has;
        event.orig_addr = page;
        event.target = page;
        event.size = 4096;
        event.direction = 1;
        ring::write(event);
    }
}
