//! `swiotlb:swiotlb_bounced` as a classic tracepoint: a record of plain members, whose places tracefs tells, for kernels without
//! BTF. It names its device instead of pointing to it, so the device is known by its name and its mask, and by nothing else.
//!
//! # Minimum kernel version
//!
//! 5.8, for the ring buffer; tracepoints take programs from 4.7 on, and this one has the members looked for from 3.15 on.
//!
//! # Cost
//!
//! A microsecond or so: the name is read and hashed with each event.

use aya_ebpf::{
    EbpfContext as _,
    helpers::bpf_probe_read_kernel_str_bytes,
    macros::{map, tracepoint},
    maps::PerCpuArray,
    programs::TracePointContext,
};
use probe::wire::{BY_NAME, NAME_BYTES, has, kind};

use crate::{device, layout, read, ring};

/// The name being hashed. Programs of this kind do not nest on a CPU: the kernel skips the inner one.
#[map]
static NAME: PerCpuArray<[u8; NAME_BYTES]> = PerCpuArray::with_max_entries(1, 0);

/// The part of a `__data_loc` that is the string's place in the record; its length stands above.
const PLACE: u32 = 0xffff;

#[tracepoint]
fn swiotlb_bounced_classic(ctx: TracePointContext) -> u32 {
    let record = ctx.as_ptr() as u64;
    let name = record + u64::from(read::<u32>(record, layout!(bounced_dev_name)) & PLACE);
    let mask = read(record, layout!(bounced_dma_mask));
    if let Some(device) = key(name)
        && let Some(now) = device::introduce_named(&ctx, device, name, mask)
    {
        let mut event = ring::event(&ctx, kind::BOUNCE, device, now);
        event.has = has::TARGET;
        event.target = read(record, layout!(bounced_dev_addr));
        event.size = read(record, layout!(bounced_size));
        ring::write(event);
    }
    0
}

/// What stands for a device of that name: FNV-1a, among the numbers that are no address of a device.
#[inline(always)]
fn key(name: u64) -> Option<u64> {
    let buffer = NAME.get_ptr_mut(0)?;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    // SAFETY: the map's own memory, of this CPU; the helper checks the address it reads from.
    unsafe {
        let _ = bpf_probe_read_kernel_str_bytes(name as *const u8, &mut *buffer);
        for at in 0..NAME_BYTES {
            let byte = core::ptr::read_volatile(buffer.cast::<u8>().add(at));
            if byte == 0 {
                break;
            }
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    Some(hash | BY_NAME)
}
