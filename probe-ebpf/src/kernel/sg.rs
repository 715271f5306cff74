//! Scatterlists: one record an element, all with the same time; and the `dma:*` tracepoints for them.
//!
//! # Minimum kernel version
//!
//! 6.12 (the tracepoints; `bpf_loop` came with 5.17). [`walk_list`] can do without, for `calls`.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    helpers::bpf_loop,
    macros::btf_tracepoint,
    programs::{BtfTracePointContext, FExitContext, tracing::StackIdContext},
};
use aya_log_ebpf::warn;
use probe::wire::{Event, SG_BOUNDED, SG_MAX, has, kind};

use crate::{
    again::{self, Hit, Hook},
    device,
    dma::programs,
    latency, layout, read, ring, setting, stack,
};

/// `page_link`: the entry is a pointer to the next part of the list.
const SG_CHAIN: u64 = 1;
/// `page_link`: the entry is the last one.
const SG_END: u64 = 2;

/// A walk through a list.
struct Walk {
    /// Elements to go through.
    nents: u32,
    /// Whether the elements still pair up after mapping: not when an IOMMU merged some.
    paired: bool,
    /// The entry to look at next.
    entry: u64,
    /// Where the array of `struct page` begins; 0 when unknown.
    vmemmap: u64,
    /// What the records of all elements have in common. Never changed: what a step changes must be little, or the
    /// verifier does not see that all steps are alike.
    event: Event,
}

/// A list, and how many of its elements are left after mapping.
pub struct List {
    pub sgl: u64,
    pub nents: u32,
    pub ents: u32,
}

/// The walk of a list whose device is known by now; the rest of one longer than `most` is counted in its first record. `timed`
/// is for walks whose every step the verifier does not go through, for it would for each way to a latency.
#[inline(always)]
fn begin(ctx: &impl StackIdContext, list: &List, most: u32, timed: bool, event: Event) -> Walk {
    let List { sgl, nents, ents } = *list;
    let excess = nents.saturating_sub(most);
    if excess > 0 && ring::may_log() {
        warn!(ctx, "a scatterlist of {} elements was cut to {}", nents, most);
    }
    let event = Event { more: excess, ..event };
    let mapped = matches!(event.kind, kind::MAP | kind::MAP_FAILED);
    let timed = timed && mapped && setting!(aggregate) == 0;
    let event = if timed { latency::took_for(latency::LIST, sgl, event) } else { event };
    Walk {
        nents: nents.min(most),
        paired: ents == nents,
        entry: sgl,
        vmemmap: read(layout!(vmemmap_base), 0),
        event: stack::add(ctx, event),
    }
}

/// (dev, sgl, nents, …): `ents` are left after mapping.
#[inline(always)]
fn walk(ctx: &BtfTracePointContext, kind: u8, ents: u32, direction: u8, attrs: u32) -> i32 {
    let device = ctx.arg::<u64>(0);
    let Some(now) = device::introduce(ctx, device) else { return 0 };
    // Read from memory, not as an argument: as a typed pointer it would be something new to the verifier after each
    // step, and it would follow all of them.
    let list = List { sgl: read(ctx.as_ptr() as u64, 8), nents: ctx.arg(2), ents };
    let mut walk = begin(ctx, &list, SG_MAX, true, Event { direction, attrs, ..ring::event(ctx, kind, device, now) });
    // SAFETY: the callback has the helper's signature, and `walk` outlives the call.
    unsafe { bpf_loop(walk.nents, element as *mut c_void, (&raw mut walk).cast(), 0) };
    0
}

/// The same for a list given to a function. `BOUNDED` is for kernels without `bpf_loop`: the verifier goes round that loop
/// step by step, so it is shorter, and takes seconds to load on a slow machine.
#[inline(always)]
pub fn walk_list<const BOUNDED: bool>(ctx: &FExitContext, kind: u8, list: &List, direction: u8, attrs: u32) -> i32 {
    let device = ctx.arg::<u64>(0);
    let Some(now) = device::introduce(ctx, device) else { return 0 };
    let most = if BOUNDED { SG_BOUNDED } else { SG_MAX };
    let mut walk = begin(ctx, list, most, !BOUNDED, Event { direction, attrs, ..ring::event(ctx, kind, device, now) });
    if BOUNDED {
        for index in 0..SG_BOUNDED {
            // SAFETY: `walk` is good for the call.
            if index >= walk.nents || unsafe { element(index, &raw mut walk) } != 0 {
                break;
            }
        }
    } else {
        // SAFETY: as in `walk`.
        unsafe { bpf_loop(walk.nents, element as *mut c_void, (&raw mut walk).cast(), 0) };
    }
    0
}

/// The CPU-physical address of a page given by its `struct page`; `vmemmap` is where their array begins.
#[inline(always)]
pub fn page_phys(page: u64, vmemmap: u64) -> Option<u64> {
    if vmemmap == 0 {
        return None;
    }
    // Checked, because the panic of a division by zero would be code without an end.
    Some(page.wrapping_sub(vmemmap).checked_div(u64::from(layout!(page_size)))? << 12)
}

/// One step of [`walk`]; a callback there, because the verifier then looks at it once and not once an element.
#[inline(never)]
unsafe extern "C" fn element(index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: the helper hands on the address that `walk` gave it.
    let walk = unsafe { &mut *walk };
    let link = read::<u64>(walk.entry, layout!(sg_page_link));
    if link == 0 {
        return 1;
    }
    let mut event = walk.event;
    event.has |= has::SG;
    event.sg_index = index as u16;
    if let Some(start) = page_phys(link & !(SG_CHAIN | SG_END), walk.vmemmap) {
        event.orig_addr = start + u64::from(read::<u32>(walk.entry, layout!(sg_offset)));
        event.has |= has::ORIG;
    }
    event.size = u64::from(read::<u32>(walk.entry, layout!(sg_length)));
    if walk.paired {
        event.target = read(walk.entry, layout!(sg_dma_address));
        event.has |= has::TARGET;
    }
    if index > 0 {
        event.more = 0;
        event.has &= !has::LATENCY;
    }
    ring::write(event);
    if link & SG_END != 0 {
        return 1;
    }
    walk.entry += u64::from(layout!(sg_size));
    let next = read::<u64>(walk.entry, layout!(sg_page_link));
    if next & SG_CHAIN != 0 {
        walk.entry = next & !(SG_CHAIN | SG_END);
    }
    0
}

programs! {
    // (dev, sgl, nents, ents, dir, attrs)
    dma_map_sg dma_map_sg_2 MapSg => |ctx| walk(ctx, kind::MAP, ctx.arg(3), ctx.arg(4), ctx.arg(5));
    // (dev, sgl, nents, err, dir, attrs)
    dma_map_sg_err dma_map_sg_err_2 MapSgErr => |ctx| walk(ctx, kind::MAP_FAILED, 0, ctx.arg(4), ctx.arg(5));
    // (dev, sgl, nents, dir, attrs)
    dma_unmap_sg dma_unmap_sg_2 UnmapSg => |ctx| walk(ctx, kind::UNMAP, ctx.arg(2), ctx.arg(3), ctx.arg(4));
    // (dev, sgl, nents, dir)
    dma_sync_sg_for_cpu dma_sync_sg_for_cpu_2 SyncSgForCpu => |ctx| walk(ctx, kind::SYNC_FOR_CPU, ctx.arg(2), ctx.arg(3), 0);
    dma_sync_sg_for_device dma_sync_sg_for_device_2 SyncSgForDevice => |ctx| walk(ctx, kind::SYNC_FOR_DEVICE, ctx.arg(2), ctx.arg(3), 0);
}
