//! What `cargo xtask bench capture` attaches, and nobody else: a tracepoint that a process passes when it likes stands for
//! maps and unmaps in turns, so that the cost of an event can be measured on a machine without DMA. The events take the way of
//! all others.
//!
//! # Minimum kernel version
//!
//! 5.5, for typed tracepoints.

use aya_ebpf::{
    EbpfContext, Global,
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use probe::wire::{has, kind};

use crate::{device, ring};

/// The process whose calls count, set by user space before loading.
#[unsafe(no_mangle)]
static BENCH_PROCESS: Global<u32> = Global::new(0);

/// Whether the next is an unmap.
#[map]
static TURN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// A device of no machine. Its limits are read as zeroes.
const DEVICE: u64 = 0x1000;

#[inline(always)]
fn is_ours(ctx: &BtfTracePointContext) -> bool {
    ctx.tgid() == BENCH_PROCESS.load()
}

/// Does nothing but look whose call it is: the twin, without an event. (task, name)
#[btf_tracepoint]
fn bench_filter(ctx: BtfTracePointContext) -> i32 {
    i32::from(is_ours(&ctx))
}

/// (task, name)
#[btf_tracepoint]
fn bench_events(ctx: BtfTracePointContext) -> i32 {
    if is_ours(&ctx)
        && let Some(turn) = TURN.get_ptr_mut(0)
    {
        // SAFETY: the map's own memory, of this CPU.
        let unmap = unsafe { core::mem::replace(&mut *turn, 1 - (*turn & 1)) != 0 };
        if unmap {
            write(&ctx, kind::UNMAP, has::TARGET);
        } else {
            write(&ctx, kind::MAP, has::ORIG | has::TARGET);
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
