//! Reads one pool, and the list of those added to the default one.

use trace::pool::{Area, Pool, SnapshotSlot};

use super::{Found, PoolError, PoolLayout};
use crate::kcore::{Kcore, word};

/// More areas than any machine has CPUs.
const MOST_AREAS: u64 = 1 << 16;
/// Entries of a list that are looked at: more than there can be, for it may change meanwhile.
const LONGEST: usize = 1 << 16;

/// The pool at `base`, geometry and areas, of the `io_tlb_mem` at `mem`; `None` when it has no slots.
pub(super) fn pool(layout: &PoolLayout, memory: &Kcore, base: u64, mem: u64) -> Result<Option<Found>, PoolError> {
    let at = |offset: u32| memory.u64(base + u64::from(offset));
    let flag = |offset: Option<u32>| offset.map_or(Ok(false), |offset| memory.flag(mem + u64::from(offset)));
    let nslabs = at(layout.nslabs)?;
    if nslabs == 0 {
        return Ok(None);
    }
    let nareas = layout.nareas.map_or(Ok(1), |offset| memory.u32(base + u64::from(offset)))?;
    if nareas == 0 || nareas > nslabs || nareas > MOST_AREAS || nslabs > 1 << 32 {
        return Err(PoolError::Implausible { nslabs, nareas });
    }
    let mut areas = Vec::new();
    if let (Some((size, used, index)), Some(list)) = (layout.area, layout.areas) {
        let list = at(list)?;
        for area in 0..nareas {
            let area = list + area * u64::from(size);
            let (index, used) = (memory.u32(area + u64::from(index))?, memory.u64(area + u64::from(used))?);
            areas.push(Area { index, used });
        }
    } else if let Some((used, index)) = layout.single {
        areas.push(Area { index: memory.u32(base + u64::from(index))?, used: at(used)? });
    }
    let slots = base + u64::from(layout.slots);
    let found = Pool {
        start: at(layout.start)?,
        nslabs,
        nareas: u32::try_from(nareas).unwrap_or(u32::MAX),
        force_bounce: flag(layout.force_bounce)?,
        can_grow: flag(layout.can_grow)?,
        areas,
        ..Pool::default()
    };
    Ok(Some(Found { pool: found, slots: if layout.slots_inline { slots } else { memory.u64(slots)? } }))
}

/// The pools that were added to that of an `io_tlb_mem`, the oldest first: the kernel has the newest first (SPEC 5).
pub(super) fn added(layout: &PoolLayout, memory: &Kcore, mem: u64) -> Result<Vec<u64>, PoolError> {
    let Some((head, node)) = layout.list else { return Ok(Vec::new()) };
    let first = layout.default_pool(mem);
    let mut all: Vec<_> =
        list(memory, mem + u64::from(head), node)?.into_iter().filter(|pool| *pool != first).collect();
    all.reverse();
    Ok(all)
}

/// What hangs on a kernel's list, by the place of its entry in each.
pub(super) fn list(memory: &Kcore, head: u64, node: u32) -> Result<Vec<u64>, crate::kcore::KcoreError> {
    let mut all = Vec::new();
    let mut next = memory.u64(head)?;
    // One that was never begun is all zeros.
    while next != head && next != 0 && all.len() < LONGEST {
        all.push(next - u64::from(node));
        next = memory.u64(next)?;
    }
    Ok(all)
}

/// The slots in use of a pool whose entries are at `address`.
pub(super) fn slots(
    layout: &PoolLayout,
    memory: &Kcore,
    address: u64,
    pool: &Pool,
) -> Result<Vec<SnapshotSlot>, PoolError> {
    let size = layout.slot_size as usize;
    let mut used = Vec::new();
    // In pieces, because a pool of 2 GiB has 24 MiB of slots.
    const PIECE: u64 = 16384;
    let mut bytes = Vec::new();
    for first in (0..pool.nslabs).step_by(PIECE as usize) {
        let count = PIECE.min(pool.nslabs - first);
        bytes.resize(count as usize * size, 0);
        memory.read(address + first * size as u64, &mut bytes)?;
        for (slot, entry) in (first..).zip(bytes.chunks_exact(size)) {
            // A free run of no slots: taken (SPEC 12, I2).
            if list_of(layout, entry) == 0 {
                used.push(SnapshotSlot {
                    slot: u32::try_from(slot).unwrap_or(u32::MAX),
                    orig_addr: word(entry, layout.slot_orig as usize),
                    alloc_size: layout.slot_alloc.map_or(0, |at| word(entry, at as usize)),
                    pad_slots: layout.pads.map_or(0, |at| short(entry, at)),
                    pool: Some(0),
                });
            }
        }
    }
    Ok(used)
}

fn short(entry: &[u8], at: u32) -> u32 {
    match entry.get(at as usize..) {
        Some(&[a, b, ..]) => u16::from_ne_bytes([a, b]).into(),
        _ => 0,
    }
}

/// `list` is an `unsigned int` up to 6.8 and a `short` since.
fn list_of(layout: &PoolLayout, entry: &[u8]) -> u32 {
    match (layout.slot_list_wide, entry.get(layout.slot_list as usize..)) {
        (true, Some(&[a, b, c, d, ..])) => u32::from_ne_bytes([a, b, c, d]),
        _ => short(entry, layout.slot_list),
    }
}
