//! The DMA API by its functions, for kernels without the `dma:*` tracepoints: the same events, told when a call returns.
//!
//! # Minimum kernel version
//!
//! 5.5, which has fexit; tried from 5.10 on. The forms of the functions are those of 5.10 to 6.11.
//!
//! # Cost
//!
//! About 50 ns a call beside the record, twice that for a map, whose entry is watched too for its latency.

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use probe::wire::{Event, has, kind};

use crate::again::{self, Hit, Hook};
use crate::dma::{MMIO, direct_map};
use crate::{device, latency, layout, read, ring, sg, stack};

/// An argument as a plain number: as a typed pointer the verifier would let nobody compute with it.
#[inline(always)]
fn number(ctx: &impl EbpfContext, n: u32) -> u64 {
    read(ctx.as_ptr() as u64, 8 * n)
}

/// Where a buffer given by page and offset begins.
#[inline(always)]
fn buffer(ctx: &impl EbpfContext, page: u32, offset: u64) -> Option<u64> {
    let start = sg::page_phys(number(ctx, page), read(layout!(vmemmap_base), 0))?;
    Some(start.wrapping_add(offset))
}

/// Writes the event that `fill` completes, after introducing its device.
#[inline(always)]
fn tell(ctx: &FExitContext, kind: u8, fill: impl FnOnce(&mut Event)) -> i32 {
    let device = ctx.arg::<u64>(0);
    if let Some(now) = device::introduce(ctx, device) {
        let mut event = ring::event(ctx, kind, device, now);
        fill(&mut event);
        let event = if kind == kind::MAP { latency::took(latency::MAP, event) } else { event };
        ring::write(stack::add(ctx, event));
    }
    0
}

#[inline(always)]
fn origin(event: &mut Event, phys: Option<u64>) {
    if let Some(phys) = phys {
        event.has |= has::ORIG;
        event.orig_addr = phys;
    }
}

/// Before `dma_map_page_attrs(dev, page, offset, size, dir, attrs)`.
#[fentry]
fn map_page_fentry(ctx: FEntryContext) -> i32 {
    latency::begin(latency::MAP, buffer(&ctx, 1, ctx.arg(2)).unwrap_or(0));
    0
}

/// Before `dma_map_phys(dev, phys, size, dir, attrs)`, which 6.18 and newer have.
#[fentry]
fn map_phys_fentry(ctx: FEntryContext) -> i32 {
    latency::begin(latency::MAP, ctx.arg(1));
    0
}

/// Before `dma_map_sg_attrs(dev, sgl, nents, dir, attrs)`.
#[fentry]
fn map_sg_fentry(ctx: FEntryContext) -> i32 {
    latency::begin(latency::LIST, number(&ctx, 1));
    0
}

/// Before `dma_map_sgtable(dev, sgt, dir, attrs)`.
#[fentry]
fn map_sgtable_fentry(ctx: FEntryContext) -> i32 {
    latency::begin(latency::LIST, read(number(&ctx, 1), layout!(sgt_sgl)));
    0
}

/// (dev, page, offset, size, dir, attrs) → dma_addr
#[inline(always)]
fn map_page(ctx: &FExitContext) -> i32 {
    tell(ctx, kind::MAP, |event| {
        event.has = has::TARGET;
        origin(event, buffer(ctx, 1, ctx.arg(2)));
        event.size = ctx.arg(3);
        event.direction = ctx.arg(4);
        event.attrs = ctx.arg(5);
        event.target = ctx.arg(6);
    })
}

/// (dev, phys, size, dir, attrs) → dma_addr
#[inline(always)]
fn map_resource(ctx: &FExitContext) -> i32 {
    tell(ctx, kind::MAP, |event| {
        event.has = has::ORIG | has::TARGET;
        event.orig_addr = ctx.arg(1);
        event.size = ctx.arg(2);
        event.direction = ctx.arg(3);
        event.attrs = ctx.arg::<u32>(4) | MMIO;
        event.target = ctx.arg(5);
    })
}

/// (dev, dma_addr, size, dir, attrs)
#[inline(always)]
fn unmap(ctx: &FExitContext) -> i32 {
    tell(ctx, kind::UNMAP, |event| {
        event.has = has::TARGET;
        event.target = ctx.arg(1);
        event.size = ctx.arg(2);
        event.direction = ctx.arg(3);
        event.attrs = ctx.arg(4);
    })
}

/// (dev, dma_addr, size, dir)
#[inline(always)]
fn sync(ctx: &FExitContext, kind: u8) -> i32 {
    tell(ctx, kind, |event| {
        event.has = has::TARGET;
        event.target = ctx.arg(1);
        event.size = ctx.arg(2);
        event.direction = ctx.arg(3);
    })
}

/// What was allocated at `virt`, or not: its DMA address stands where the caller's third argument says.
#[inline(always)]
fn allocated(ctx: &FExitContext, got: bool) -> u64 {
    if got { read(number(ctx, 2), 0) } else { u64::MAX }
}

/// (dev, size, &dma_addr, gfp, attrs) → virt
#[inline(always)]
fn alloc(ctx: &FExitContext) -> i32 {
    tell(ctx, kind::ALLOC, |event| {
        let virt = number(ctx, 5);
        event.has = has::TARGET;
        origin(event, direct_map(virt));
        event.target = allocated(ctx, virt != 0);
        event.size = ctx.arg(1);
        event.attrs = ctx.arg(4);
    })
}

/// (dev, size, &dma_addr, dir, gfp) → page
#[inline(always)]
fn alloc_pages(ctx: &FExitContext) -> i32 {
    tell(ctx, kind::ALLOC, |event| {
        event.has = has::TARGET;
        origin(event, buffer(ctx, 5, 0));
        event.target = allocated(ctx, number(ctx, 5) != 0);
        event.size = ctx.arg(1);
        event.direction = ctx.arg(3);
    })
}

/// (dev, size, virt, dma_addr, attrs)
#[inline(always)]
fn free(ctx: &FExitContext) -> i32 {
    tell(ctx, kind::FREE, |event| {
        event.has = has::TARGET;
        origin(event, direct_map(number(ctx, 2)));
        event.target = ctx.arg(3);
        event.size = ctx.arg(1);
        event.attrs = ctx.arg(4);
    })
}

/// (dev, size, page, dma_addr, dir)
#[inline(always)]
fn free_pages(ctx: &FExitContext) -> i32 {
    tell(ctx, kind::FREE, |event| {
        event.has = has::TARGET;
        origin(event, buffer(ctx, 2, 0));
        event.target = ctx.arg(3);
        event.size = ctx.arg(1);
        event.direction = ctx.arg(4);
    })
}

/// Of `ents` elements left after mapping; of none, it was refused.
#[inline(always)]
fn mapped(ents: u32) -> u8 {
    if ents == 0 { kind::MAP_FAILED } else { kind::MAP }
}

/// (dev, sgl, nents, dir, attrs) → ents
#[inline(always)]
fn map_sg<const BOUNDED: bool>(ctx: &FExitContext) -> i32 {
    let list = sg::List { sgl: number(ctx, 1), nents: ctx.arg(2), ents: ctx.arg(5) };
    sg::walk_list::<BOUNDED>(ctx, mapped(list.ents), &list, ctx.arg(3), ctx.arg(4))
}

/// (dev, sgt, dir, attrs) → error; from 5.15 on it does not go through `dma_map_sg_attrs`.
#[inline(always)]
fn map_sgtable<const BOUNDED: bool>(ctx: &FExitContext) -> i32 {
    let table = number(ctx, 1);
    let ents = if ctx.arg::<u32>(4) == 0 { read(table, layout!(sgt_nents)) } else { 0 };
    let list = sg::List { sgl: read(table, layout!(sgt_sgl)), nents: read(table, layout!(sgt_orig_nents)), ents };
    sg::walk_list::<BOUNDED>(ctx, mapped(ents), &list, ctx.arg(2), ctx.arg(3))
}

/// A list when it was refused: for kernels whose tracepoint `dma_map_sg_err` is silent of those that find no slots
/// (6.12 and 7.2; docs/lab/2026-11-26-exact-counts.md), and whose `dma_map_sg` tells of the others.
#[inline(always)]
fn refused_list(ctx: &FExitContext) -> i32 {
    if ctx.arg::<u32>(5) == 0 { map_sg::<false>(ctx) } else { 0 }
}

/// The same for a table.
#[inline(always)]
fn refused_table(ctx: &FExitContext) -> i32 {
    if ctx.arg::<u32>(4) != 0 { map_sgtable::<false>(ctx) } else { 0 }
}

/// (dev, sgl, nents, dir, …)
#[inline(always)]
fn of_list<const BOUNDED: bool>(ctx: &FExitContext, kind: u8, attrs: u32) -> i32 {
    let nents = ctx.arg(2);
    let list = sg::List { sgl: number(ctx, 1), nents, ents: nents };
    sg::walk_list::<BOUNDED>(ctx, kind, &list, ctx.arg(3), attrs)
}

/// One program a function: a program can be attached to one place only.
macro_rules! programs {
    ($($name:ident => $body:expr;)*) => {$(
        #[fexit]
        fn $name(ctx: FExitContext) -> i32 {
            let body: fn(&FExitContext) -> i32 = $body;
            body(&ctx)
        }
    )*};
}

programs! {
    map_page_fexit => map_page;
    map_resource_fexit => map_resource;
    unmap_page_fexit => unmap;
    unmap_resource_fexit => unmap;
    map_sg_fexit => map_sg::<false>;
    map_sgtable_fexit => map_sgtable::<false>;
    unmap_sg_fexit => |ctx| of_list::<false>(ctx, kind::UNMAP, ctx.arg(4));
    sync_sg_for_cpu_fexit => |ctx| of_list::<false>(ctx, kind::SYNC_FOR_CPU, 0);
    sync_sg_for_device_fexit => |ctx| of_list::<false>(ctx, kind::SYNC_FOR_DEVICE, 0);
    map_sg_refused => |ctx| again::first(Hook::MapSgRefused, || number(ctx, 1), || refused_list(ctx));
    map_sg_refused_2 => |ctx| Hit(Hook::MapSgRefused, number(ctx, 1)).last(|| refused_list(ctx));
    map_sgtable_refused => |ctx| again::first(Hook::MapSgtableRefused, || number(ctx, 1), || refused_table(ctx));
    map_sgtable_refused_2 => |ctx| Hit(Hook::MapSgtableRefused, number(ctx, 1)).last(|| refused_table(ctx));
    map_sg_bounded => map_sg::<true>;
    map_sgtable_bounded => map_sgtable::<true>;
    unmap_sg_bounded => |ctx| of_list::<true>(ctx, kind::UNMAP, ctx.arg(4));
    sync_sg_for_cpu_bounded => |ctx| of_list::<true>(ctx, kind::SYNC_FOR_CPU, 0);
    sync_sg_for_device_bounded => |ctx| of_list::<true>(ctx, kind::SYNC_FOR_DEVICE, 0);
    sync_single_for_cpu_fexit => |ctx| sync(ctx, kind::SYNC_FOR_CPU);
    sync_single_for_device_fexit => |ctx| sync(ctx, kind::SYNC_FOR_DEVICE);
    alloc_fexit => alloc;
    alloc_pages_fexit => alloc_pages;
    free_fexit => free;
    free_pages_fexit => free_pages;
}
