//! A snapshot's slots, put together into the allocations they belong to.

use trace::SnapshotSlot;
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

/// An allocation found in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// First slot, padding included.
    pub first: u64,
    /// Slots.
    pub n: u64,
    /// Padding slots in front of the data.
    pub pad: u32,
    /// Address of the buffer it stands for; nothing when the snapshot does not say.
    pub orig_addr: Option<u64>,
    /// Bytes from the data to the end.
    pub size: u64,
}

/// The allocations of a snapshot, by slot. A slot's `alloc_size` counts down by a slot from each slot of an allocation
/// to the next, also through padding and below zero (SPEC 3.7); where it does not, another allocation begins.
///
/// Of the pool at that place among the trace's.
pub(crate) fn allocations(snapshot: &[SnapshotSlot], pool: usize) -> Vec<Held> {
    let mut slots: Vec<_> = snapshot.iter().filter(|slot| slot.pool() == pool).collect();
    slots.sort_by_key(|s| s.slot);
    let goes_on = |a: &&SnapshotSlot, b: &&SnapshotSlot| {
        a.slot.checked_add(1) == Some(b.slot)
            && !b.slot.is_multiple_of(SEGMENT_SLOTS)
            && b.alloc_size == a.alloc_size.wrapping_sub(SLOT_BYTES)
    };
    let group = |group: &[&SnapshotSlot]| {
        let data = group.iter().position(|s| s.orig_addr != u64::MAX);
        let at = group[data.unwrap_or(0)];
        Held {
            first: u64::from(group[0].slot),
            n: group.len() as u64,
            pad: at.pad_slots.min(data.unwrap_or(0) as u32),
            orig_addr: data.map(|_| at.orig_addr),
            size: at.alloc_size.clamp(1, group.len() as u64 * SLOT_BYTES),
        }
    };
    slots.chunk_by(goes_on).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_told_apart_and_padding_is_joined() {
        let slot = |slot, orig_addr, alloc_size, pad_slots| SnapshotSlot {
            slot,
            orig_addr,
            alloc_size,
            pad_slots,
            pool: None,
        };
        let pad = u64::MAX;
        // Three slots of padding before 0x1a00 bytes in (SPEC 14, E8), then 4 KiB right behind, then one byte.
        let mut slots = vec![slot(9, 0x9000, 2048, 0), slot(8, 0x8800, 4096, 0), slot(20, 0x7000, 1, 0)];
        for k in 0..8 {
            let orig = if k < 3 { pad } else { 0x4000_1a00 };
            slots.push(slot(k, orig, 0x3e00 - u64::from(k) * 2048, if k == 3 { 3 } else { 0 }));
        }
        let held = allocations(&slots, 0);
        assert_eq!(held.iter().map(|h| (h.first, h.n, h.pad)).collect::<Vec<_>>(), [(0, 8, 3), (8, 2, 0), (20, 1, 0)]);
        assert_eq!(held[0].orig_addr, Some(0x4000_1a00));
        assert_eq!((held[1].size, held[2].size), (4096, 1));
    }
}
