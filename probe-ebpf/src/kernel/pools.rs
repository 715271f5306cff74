//! Pools that the kernel makes while it runs, because those it has are full (CONFIG_SWIOTLB_DYNAMIC, SPEC 5).
//!
//! # Minimum kernel version
//!
//! 6.6, which made pools first; the helper that says what a function returned is older (5.17).
//!
//! # Cost
//!
//! None to mappings: one program for each pool made.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_ktime_get_ns, generated::bpf_get_func_ret},
    macros::{fexit, kprobe, kretprobe, map},
    maps::HashMap,
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use probe::wire::{Event, has, kind};

use crate::{arch, device, layout, read, ring};

/// Bytes in a slot, as a shift.
const SLOT_SHIFT: u32 = 11;
/// Returned addresses from here on are errors.
const ERRORS: u64 = -4095_i64 as u64;

/// Tells of the pool that `swiotlb_alloc_pool(dev, …)` returned, and which nobody uses yet. It is for all devices, and made by a
/// worker, where `dev` is 0; for one mapping otherwise.
#[inline(always)]
fn made(ctx: &impl EbpfContext, device: u64, pool: u64) {
    if pool == 0 || pool >= ERRORS {
        return;
    }
    let now = if device == 0 {
        ring::report_loss();
        // SAFETY: the helper takes no arguments.
        unsafe { bpf_ktime_get_ns() }
    } else {
        match device::introduce(ctx, device) {
            Some(now) => now,
            None => return,
        }
    };
    ring::tell(Event {
        has: has::TARGET,
        target: read(pool, layout!(pool_start)),
        size: read::<u64>(pool, layout!(pool_nslabs)) << SLOT_SHIFT,
        more: read(pool, layout!(pool_nareas)),
        ..ring::event(ctx, kind::POOL_ADDED, device, now)
    });
}

#[fexit]
fn alloc_pool_fexit(ctx: FExitContext) -> i32 {
    let mut pool = 0_u64;
    // By its place among the arguments it could not be had: there are 6 or 7.
    // SAFETY: the helper writes to `pool` or fails.
    if unsafe { bpf_get_func_ret(ctx.as_ptr(), &raw mut pool) } == 0 {
        made(&ctx, ctx.arg(0), pool);
    }
    0
}

/// For whom pools are being made between the two probes of the pair, by the stack as for requests.
#[map]
static ASKED: HashMap<u64, u64> = HashMap::with_max_entries(1024, 0);

#[kprobe]
fn alloc_pool_kprobe(ctx: ProbeContext) -> u32 {
    // Should there be no room its return finds nothing, and counts it.
    let _ = ASKED.insert(arch::stack_after(&ctx), arch::argument(&ctx, 0), 0);
    0
}

#[kretprobe]
fn alloc_pool_kretprobe(ctx: RetProbeContext) -> u32 {
    let stack = arch::stack(&ctx);
    // SAFETY: the map's own memory, copied out at once.
    let Some(device) = (unsafe { ASKED.get(stack).copied() }) else {
        ring::count_unpaired();
        return 0;
    };
    let _ = ASKED.remove(stack);
    made(&ctx, device, ctx.ret());
    0
}
