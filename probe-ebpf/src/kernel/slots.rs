//! The bounce allocator itself: which slots it gave and took back.
//!
//! # Minimum kernel version
//!
//! fentry/fexit 5.5 with `swiotlb_tbl_map_single` of at most six parameters (6.10); the kprobe pair everywhere.
//!
//! # Cost
//!
//! fexit about 50 ns a call, the kprobe pair two to three times that, and kprobes can be skipped by the kernel.

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_ktime_get_ns,
    macros::{fentry, fexit, kprobe, kretprobe, map},
    maps::HashMap,
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext, tracing::StackIdContext},
};
use probe::{
    layout::{TBL_MAP_ALIGN, TBL_MAP_ALIGN_AT, TBL_MAP_ALLOC, TBL_MAP_ALLOC_ALIGN},
    wire::{Event, has, kind},
};

use crate::{
    BPF_NOEXIST,
    again::{self, Hit, Hook},
    arch, device, latency, layout, read, ring, setting, stack,
};

/// The arguments of `swiotlb_tbl_map_single`, whatever its form.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    device: u64,
    orig_addr: u64,
    size: u64,
    align_mask: u32,
    direction: u32,
    attrs: u64,
    /// When it was made, for the kprobe pair.
    began_ns: u64,
}

#[inline(always)]
fn slot_alloc(ctx: &impl StackIdContext, request: &Request, tlb_addr: u64) {
    if let Some(now) = device::introduce(ctx, request.device) {
        let event = Event {
            direction: request.direction as u8,
            orig_addr: request.orig_addr,
            target: tlb_addr,
            size: request.size,
            attrs: request.attrs as u32,
            align_mask: request.align_mask,
            has: has::ORIG | has::TARGET,
            ..ring::event(ctx, kind::SLOT_ALLOC, request.device, now)
        };
        let event = if request.began_ns == 0 {
            latency::took(latency::SLOTS, event)
        } else {
            latency::took_since(request.began_ns, event)
        };
        let refused = tlb_addr == u64::MAX && setting!(aggregate) == 0;
        let event = match if refused { used() } else { None } {
            Some(used) => Event { more: used as u32, has: event.has | has::USED, ..event },
            None => event,
        };
        ring::write(stack::add(ctx, event));
    }
}

/// Slots in use now, as the kernel counts them: a little later than when it refused. `None` where its counts are not known,
/// or too many to be added up.
#[inline(always)]
fn used() -> Option<u64> {
    if layout!(areas) == 0 {
        return if layout!(used) != 0 { Some(read(layout!(used), 0)) } else { None };
    }
    let (areas, nareas) = (read::<u64>(layout!(areas), 0), read::<u32>(layout!(nareas), 0));
    if nareas > AREAS {
        return None;
    }
    let mut used = 0;
    for area in 0..AREAS {
        if area >= nareas {
            break;
        }
        used += read::<u64>(areas + u64::from(area * layout!(area_size)), layout!(area_used));
    }
    Some(used)
}

/// Areas looked at, for the verifier goes through the loop; a machine with more CPUs has no counts with its refusals.
const AREAS: u32 = 256;

#[inline(always)]
fn slot_free(ctx: &impl EbpfContext, device: u64, tlb_addr: u64) {
    if let Some(now) = device::introduce(ctx, device) {
        ring::write(Event { target: tlb_addr, has: has::TARGET, ..ring::event(ctx, kind::SLOT_FREE, device, now) });
    }
}

/// Before `swiotlb_tbl_map_single`, for its latency.
#[fentry]
fn tbl_map_fentry(ctx: FEntryContext) -> i32 {
    latency::begin(latency::SLOTS, ctx.arg(1));
    0
}

/// After `swiotlb_tbl_map_single`, in its six-parameter forms; the seventh argument of the tracing context is the result.
#[inline(always)]
fn tbl_map(ctx: &FExitContext) -> i32 {
    // Both loaded before the choice: the compiler would else load from a chosen address, which the verifier forbids.
    let (second, third) = (black_box(ctx.arg::<u64>(2)), black_box(ctx.arg::<u64>(3)));
    let (align_mask, size) = match layout!(tbl_map_form) {
        TBL_MAP_ALIGN | TBL_MAP_ALIGN_AT => (third as u32, second),
        _ => (0, third),
    };
    let attrs = black_box(ctx.arg::<u64>(5));
    let request = Request {
        device: ctx.arg(0),
        orig_addr: ctx.arg(1),
        size,
        align_mask,
        direction: ctx.arg(4),
        attrs: if layout!(tbl_map_form) == TBL_MAP_ALIGN_AT { read(attrs, 0) } else { attrs },
        began_ns: 0,
    };
    slot_alloc(ctx, &request, ctx.arg(6));
    0
}

#[fexit]
fn tbl_map_fexit(ctx: FExitContext) -> i32 {
    again::first(Hook::SlotAlloc, || ctx.arg(6), || tbl_map(&ctx))
}

#[fexit]
fn tbl_map_fexit_2(ctx: FExitContext) -> i32 {
    Hit(Hook::SlotAlloc, ctx.arg(6)).between(|| tbl_map(&ctx))
}

#[fexit]
fn tbl_map_fexit_3(ctx: FExitContext) -> i32 {
    Hit(Hook::SlotAlloc, ctx.arg(6)).last(|| tbl_map(&ctx))
}

/// Before `swiotlb_release_slots(dev, tlb_addr, …)`, or before an unmap function that begins with the same arguments.
#[inline(always)]
fn release(ctx: &FEntryContext) -> i32 {
    slot_free(ctx, ctx.arg(0), ctx.arg(1));
    0
}

#[fentry]
fn release_fentry(ctx: FEntryContext) -> i32 {
    again::first(Hook::SlotFree, || ctx.arg(1), || release(&ctx))
}

#[fentry]
fn release_fentry_2(ctx: FEntryContext) -> i32 {
    Hit(Hook::SlotFree, ctx.arg(1)).last(|| release(&ctx))
}

/// Requests between the two probes of a kprobe pair, by the stack pointer their caller has before and after the call:
/// unlike thread or CPU it is the same at both ends and differs between a task and an interrupt on top of it.
#[map]
static REQUESTS: HashMap<u64, Request> = HashMap::with_max_entries(4096, 0);

#[kprobe]
fn tbl_map_kprobe(ctx: ProbeContext) -> u32 {
    let arg = |n| arch::argument(&ctx, n);
    let stack = arch::stack_after(&ctx);
    let (align_mask, size, direction, attrs) = match layout!(tbl_map_form) {
        TBL_MAP_ALIGN => (arg(3), arg(2), arg(4), arg(5)),
        TBL_MAP_ALLOC => (0, arg(3), arg(4), arg(5)),
        TBL_MAP_ALIGN_AT => (arg(3), arg(2), arg(4), read(arg(5), 0)),
        TBL_MAP_ALLOC_ALIGN => (arg(4), arg(3), arg(5), arg(6)),
        _ => return 0,
    };
    let request = Request {
        device: arg(0),
        orig_addr: arg(1),
        size,
        align_mask: align_mask as u32,
        direction: direction as u32,
        attrs,
        // SAFETY: the helper takes no arguments.
        began_ns: unsafe { bpf_ktime_get_ns() },
    };
    // Still there: its return was missed. Or there are too many, and its return will find none.
    if REQUESTS.insert(stack, request, BPF_NOEXIST).is_err() {
        let overwritten = REQUESTS.insert(stack, request, 0).is_ok();
        if overwritten {
            ring::count_unpaired();
        }
    }
    0
}

#[kretprobe]
fn tbl_map_kretprobe(ctx: RetProbeContext) -> u32 {
    let stack = arch::stack(&ctx);
    // SAFETY: the map's own memory, copied out at once.
    let Some(request) = (unsafe { REQUESTS.get(stack).copied() }) else {
        ring::count_unpaired();
        return 0;
    };
    let _ = REQUESTS.remove(stack);
    slot_alloc(&ctx, &request, ctx.ret());
    0
}

#[kprobe]
fn release_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(device), Some(tlb_addr)) = (ctx.arg(0), ctx.arg(1)) {
        slot_free(&ctx, device, tlb_addr);
    }
    0
}
