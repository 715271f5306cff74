//! The `dma:*` tracepoints for single buffers and coherent memory, and `swiotlb:swiotlb_bounced`.
//!
//! # Minimum kernel version
//!
//! 6.12 for `dma:*`; the bounce tracepoint is older. The map and unmap tracepoints fire after the operation.

use aya_ebpf::{EbpfContext as _, macros::btf_tracepoint, programs::BtfTracePointContext};
use probe::layout::DIRECT_MAP;
use probe::wire::{Event, has, kind};

use crate::{
    again::{self, Hit, Hook},
    device, latency, layout, read, ring, setting, stack,
};

/// Writes the event that `fill` completes, after introducing its device.
#[inline(always)]
fn trace(ctx: &BtfTracePointContext, kind: u8, fill: impl FnOnce(&mut Event)) -> i32 {
    let device = ctx.arg::<u64>(0);
    if let Some(now) = device::introduce(ctx, device) {
        let mut event = ring::event(ctx, kind, device, now);
        fill(&mut event);
        let event =
            if kind == kind::MAP && setting!(aggregate) == 0 { latency::took(latency::MAP, event) } else { event };
        ring::write(stack::add(ctx, event));
    }
    0
}

/// `DMA_ATTR_MMIO`, by which kernels from 6.18 on tell a device's registers from memory.
pub const MMIO: u32 = 1 << 10;

/// (dev, phys_addr, dma_addr, size, dir, attrs); `more` is what the tracepoint's own name says of the attributes.
#[inline(always)]
fn map(ctx: &BtfTracePointContext, more: u32) -> i32 {
    trace(ctx, kind::MAP, |event| {
        event.has = has::ORIG | has::TARGET;
        event.orig_addr = ctx.arg(1);
        event.target = ctx.arg(2);
        event.size = ctx.arg(3);
        event.direction = ctx.arg(4);
        event.attrs = ctx.arg::<u32>(5) | more;
    })
}

/// (dev, dma_addr, size, dir, attrs)
#[inline(always)]
fn unmap(ctx: &BtfTracePointContext) -> i32 {
    trace(ctx, kind::UNMAP, |event| {
        event.has = has::TARGET;
        event.target = ctx.arg(1);
        event.size = ctx.arg(2);
        event.direction = ctx.arg(3);
        event.attrs = ctx.arg(4);
    })
}

/// (dev, dma_addr, size, dir)
#[inline(always)]
fn sync(ctx: &BtfTracePointContext, kind: u8) -> i32 {
    trace(ctx, kind, |event| {
        event.has = has::TARGET;
        event.target = ctx.arg(1);
        event.size = ctx.arg(2);
        event.direction = ctx.arg(3);
    })
}

/// The CPU-physical address of a kernel virtual one, when it lies where all memory is mapped.
#[inline(always)]
pub fn direct_map(virt: u64) -> Option<u64> {
    let base = read::<u64>(layout!(page_offset_base), 0);
    let bytes = if layout!(page_offset_bytes) == 0 { DIRECT_MAP } else { read(layout!(page_offset_bytes), 0) };
    let phys = virt.wrapping_sub(base);
    // Base 0 is a base like any other.
    (layout!(page_offset_base) != 0 && virt != 0 && phys < bytes).then_some(phys)
}

/// (dev, virt, dma_addr, size, dir, gfp, attrs); a refusal has no `virt`, and whatever stood where its `dma_addr` should.
#[inline(always)]
fn alloc(ctx: &BtfTracePointContext) -> i32 {
    trace(ctx, kind::ALLOC, |event| {
        let virt = ctx.arg::<u64>(1);
        event.has = has::TARGET;
        if let Some(phys) = direct_map(virt) {
            event.has |= has::ORIG;
            event.orig_addr = phys;
        }
        event.target = if virt == 0 { u64::MAX } else { ctx.arg(2) };
        event.size = ctx.arg(3);
        event.direction = ctx.arg(4);
        event.attrs = ctx.arg(6);
    })
}

/// (dev, virt, dma_addr, size, dir, attrs)
#[inline(always)]
fn free(ctx: &BtfTracePointContext) -> i32 {
    trace(ctx, kind::FREE, |event| {
        event.has = has::TARGET;
        if let Some(phys) = direct_map(ctx.arg(1)) {
            event.has |= has::ORIG;
            event.orig_addr = phys;
        }
        event.target = ctx.arg(2);
        event.size = ctx.arg(3);
        event.direction = ctx.arg(4);
        event.attrs = ctx.arg(5);
    })
}

/// (dev, dev_addr, size, …)
#[inline(always)]
fn bounce(ctx: &BtfTracePointContext) -> i32 {
    trace(ctx, kind::BOUNCE, |event| {
        event.has = has::TARGET;
        event.target = ctx.arg(1);
        event.size = ctx.arg(2);
    })
}

/// One program a tracepoint, and its copy: a program can be attached to one place only.
macro_rules! programs {
    ($($name:ident $copy:ident $hook:ident => $body:expr;)*) => {$(
        #[btf_tracepoint]
        fn $name(ctx: BtfTracePointContext) -> i32 {
            let body: fn(&BtfTracePointContext) -> i32 = $body;
            again::first(Hook::$hook, || read(ctx.as_ptr() as u64, 8), || body(&ctx))
        }

        #[btf_tracepoint]
        fn $copy(ctx: BtfTracePointContext) -> i32 {
            let body: fn(&BtfTracePointContext) -> i32 = $body;
            Hit(Hook::$hook, read(ctx.as_ptr() as u64, 8)).last(|| body(&ctx))
        }
    )*};
}
pub(crate) use programs;

programs! {
    dma_map dma_map_2 Map => |ctx| map(ctx, 0);
    dma_map_resource dma_map_resource_2 MapResource => |ctx| map(ctx, MMIO);
    dma_unmap dma_unmap_2 Unmap => unmap;
    dma_unmap_resource dma_unmap_resource_2 UnmapResource => unmap;
    dma_sync_single_for_cpu dma_sync_single_for_cpu_2 SyncForCpu => |ctx| sync(ctx, kind::SYNC_FOR_CPU);
    dma_sync_single_for_device dma_sync_single_for_device_2 SyncForDevice => |ctx| sync(ctx, kind::SYNC_FOR_DEVICE);
    dma_alloc dma_alloc_2 Alloc => alloc;
    dma_alloc_pages dma_alloc_pages_2 AllocPages => alloc;
    dma_free dma_free_2 Free => free;
    dma_free_pages dma_free_pages_2 FreePages => free;
    swiotlb_bounced swiotlb_bounced_2 Bounce => bounce;
}
