//! Which slots bounce addresses stand for, in all pools that are known.

use std::collections::HashMap;

use probe::wire;
use trace::pool::{Pool, PoolKind, SLOT_BYTES};
use trace::{Event, SnapshotSlot};

/// The pools, and what of an allocation only its beginning says.
#[derive(Debug)]
pub(super) struct Slots {
    pools: Vec<Pool>,
    /// Allocations may begin with padding slots (kernels with `pad_slots`).
    pads: bool,
    /// Padding before live allocations that have any, by bounce address.
    padded: HashMap<u64, u32>,
}

impl Slots {
    pub(super) fn new(pools: Vec<Pool>, pads: bool) -> Self {
        Self { pools, pads, padded: HashMap::new() }
    }

    /// Whether any pool is known.
    pub(super) fn are_known(&self) -> bool {
        !self.pools.is_empty()
    }

    /// Notes the padding of an allocation that was there before the recording.
    pub(super) fn held(&mut self, slot: &SnapshotSlot) {
        if let Some(tlb) = slot.tlb_addr(&self.pools).filter(|_| slot.pad_slots > 0) {
            self.padded.insert(tlb, slot.pad_slots);
        }
    }

    /// A pool was made; whatever was known at its place is gone.
    pub(super) fn added(&mut self, event: &Event) {
        let Some(added) = Pool::added(event) else { return };
        self.pools.retain(|pool| !pool.overlaps(&added));
        self.pools.push(added);
    }

    /// Slots were taken by that request, of a device with that min_align_mask: the first, padding included. Nothing outside the
    /// pools.
    pub(super) fn took(&mut self, tlb: u64, request: &wire::Event, min_align_mask: u64) -> Option<u32> {
        let mut pad = 0;
        if self.pads {
            let mask = u64::from(request.align_mask) | (SLOT_BYTES - 1);
            // A request of one page at most fits u32: masks of devices are 32-bit.
            pad = u32::try_from((request.orig_addr & min_align_mask & mask) / SLOT_BYTES).unwrap_or(0);
        }
        if pad > 0 {
            self.padded.insert(tlb, pad);
        }
        Some(self.slot(tlb)?.saturating_sub(pad))
    }

    /// The slots whose data begin there were given back: the first of them.
    pub(super) fn gave(&mut self, tlb: u64) -> Option<u32> {
        let pad = self.padded.remove(&tlb).unwrap_or(0);
        let (place, slot) = self.pools.iter().position(|pool| pool.contains(tlb)).zip(self.slot(tlb))?;
        // It goes with its only mapping.
        if self.pools[place].kind == PoolKind::Transient {
            self.pools.remove(place);
        }
        Some(slot.saturating_sub(pad))
    }

    fn slot(&self, tlb: u64) -> Option<u32> {
        let pool = self.pools.iter().find(|pool| pool.contains(tlb))?;
        u32::try_from((tlb - pool.start) / SLOT_BYTES).ok()
    }
}
