//! The `dma:*` tracepoints for scatterlists: one record an element, all with the same time.
//!
//! # Minimum kernel version
//!
//! 6.12.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::warn;
use probe::wire::{Event, SG_MAX, has, kind};

use crate::{device, layout, read, ring};

/// `page_link`: the entry is a pointer to the next part of the list.
const SG_CHAIN: u64 = 1;
/// `page_link`: the entry is the last one.
const SG_END: u64 = 2;

/// What all elements of a list have in common.
struct List {
    /// First entry.
    first: u64,
    /// Elements mapped.
    nents: u32,
    /// Elements after mapping; fewer than `nents` when an IOMMU merged some, and then they do not pair up.
    ents: u32,
}

#[inline(always)]
fn walk(ctx: &BtfTracePointContext, kind: u8, list: &List, direction: u8, attrs: u32) -> i32 {
    let device = ctx.arg::<u64>(0);
    if !device::introduce(ctx, device) {
        return 0;
    }
    let vmemmap = read::<u64>(layout!(vmemmap_base), 0).unwrap_or(0);
    let mut event = Event { direction, attrs, ..ring::event(ctx, kind, device) };
    event.sg_excess = list.nents.saturating_sub(SG_MAX);
    if event.sg_excess > 0 && ring::may_log() {
        warn!(ctx, "a scatterlist of {} elements was cut to {}", list.nents, SG_MAX);
    }
    let mut entry = list.first;
    for index in 0..SG_MAX {
        if index >= list.nents {
            break;
        }
        let Some(link) = read::<u64>(entry, layout!(sg_page_link)) else { break };
        event.has = has::SG;
        event.sg_index = index as u16;
        let page = link & !(SG_CHAIN | SG_END);
        if vmemmap != 0 && layout!(page_size) != 0 {
            let frame = page.wrapping_sub(vmemmap) / u64::from(layout!(page_size));
            event.orig_addr = (frame << 12) + u64::from(read::<u32>(entry, layout!(sg_offset)).unwrap_or(0));
            event.has |= has::ORIG;
        }
        event.size = u64::from(read::<u32>(entry, layout!(sg_length)).unwrap_or(0));
        if list.ents == list.nents
            && let Some(address) = read::<u64>(entry, layout!(sg_dma_address))
        {
            event.target = address;
            event.has |= has::TARGET;
        }
        ring::write(event);
        event.sg_excess = 0;
        if link & SG_END != 0 {
            break;
        }
        entry += u64::from(layout!(sg_size));
        if let Some(next) = read::<u64>(entry, layout!(sg_page_link))
            && next & SG_CHAIN != 0
        {
            entry = next & !(SG_CHAIN | SG_END);
        }
    }
    0
}

/// (dev, sgl, nents, ents, dir, attrs)
#[btf_tracepoint]
fn dma_map_sg(ctx: BtfTracePointContext) -> i32 {
    let list = List { first: ctx.arg(1), nents: ctx.arg(2), ents: ctx.arg(3) };
    walk(&ctx, kind::MAP, &list, ctx.arg(4), ctx.arg(5))
}

/// (dev, sgl, nents, err, dir, attrs)
#[btf_tracepoint]
fn dma_map_sg_err(ctx: BtfTracePointContext) -> i32 {
    let list = List { first: ctx.arg(1), nents: ctx.arg(2), ents: 0 };
    walk(&ctx, kind::MAP_FAILED, &list, ctx.arg(4), ctx.arg(5))
}

/// (dev, sgl, nents, dir, attrs)
#[btf_tracepoint]
fn dma_unmap_sg(ctx: BtfTracePointContext) -> i32 {
    let nents = ctx.arg(2);
    let list = List { first: ctx.arg(1), nents, ents: nents };
    walk(&ctx, kind::UNMAP, &list, ctx.arg(3), ctx.arg(4))
}

/// (dev, sgl, nents, dir)
#[btf_tracepoint]
fn dma_sync_sg_for_cpu(ctx: BtfTracePointContext) -> i32 {
    let nents = ctx.arg(2);
    let list = List { first: ctx.arg(1), nents, ents: nents };
    walk(&ctx, kind::SYNC_FOR_CPU, &list, ctx.arg(3), 0)
}

/// (dev, sgl, nents, dir)
#[btf_tracepoint]
fn dma_sync_sg_for_device(ctx: BtfTracePointContext) -> i32 {
    let nents = ctx.arg(2);
    let list = List { first: ctx.arg(1), nents, ents: nents };
    walk(&ctx, kind::SYNC_FOR_DEVICE, &list, ctx.arg(3), 0)
}
