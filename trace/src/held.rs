//! Which slots of the default pool are held, followed from event to event, so that a part of a recording can be a trace of its
//! own that begins with a snapshot of what was held before its first event. No allocator: it takes down what the kernel chose.

use std::collections::{BTreeMap, HashMap};

use crate::pool::{Area, Pool, PoolKind, SEGMENT_SLOTS, SLOT_BYTES, SnapshotSlot};
use crate::{Event, Meta, Op};

/// The default pool at one point of the events.
#[derive(Clone, Debug)]
pub struct Held {
    pool: Option<Pool>,
    slots: BTreeMap<u32, SnapshotSlot>,
    /// How many slots an allocation has, by its first.
    runs: HashMap<u32, u32>,
    /// Slots in use.
    used: u64,
    /// Events older than this are in the snapshot already.
    since_ns: u64,
    exact: bool,
    /// Pools that were added meanwhile.
    added: Vec<Pool>,
}

impl Held {
    /// The pool as the recording found it.
    #[must_use]
    pub fn new(meta: &Meta, snapshot: &[SnapshotSlot]) -> Self {
        let here = |slot: &&SnapshotSlot| meta.pool().is_some() && slot.pool() == 0;
        let mut model = Self {
            pool: meta.pool().cloned(),
            slots: snapshot.iter().filter(here).map(|slot| (slot.slot, slot.clone())).collect(),
            runs: HashMap::new(),
            used: 0,
            since_ns: meta.snapshot_ns.unwrap_or(0),
            exact: meta.snapshot_exact,
            added: Vec::new(),
        };
        model.used = model.slots.len() as u64;
        // A slot's size counts down by a slot from each slot of an allocation to the next; where it does not, another
        // one begins.
        let mut first = 0;
        for slot in model.slots.values() {
            let before = slot.slot.checked_sub(1).and_then(|before| model.slots.get(&before));
            let goes_on = before.is_some_and(|before| slot.alloc_size == before.alloc_size.wrapping_sub(SLOT_BYTES))
                && !slot.slot.is_multiple_of(SEGMENT_SLOTS);
            if !goes_on {
                first = slot.slot;
            }
            *model.runs.entry(first).or_default() += 1;
        }
        model
    }

    /// Slots the pool has.
    #[must_use]
    pub fn nslabs(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| pool.nslabs)
    }

    /// Slots in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Whether nothing has happened that makes the state doubtful: an inexact snapshot, or lost records.
    #[must_use]
    pub fn exact(&self) -> bool {
        self.exact
    }

    /// Has a trace begin at this point: its pools are those of now. Of others than the default one it is not known then who holds
    /// what, so that nothing can be predicted to the slot from there.
    pub fn begin(&self, meta: &mut Meta) {
        let pools = &mut meta.pools;
        pools.retain(|pool| pool.kind != PoolKind::Transient);
        let place = pools.partition_point(|pool| matches!(pool.kind, PoolKind::Default | PoolKind::Added));
        let new = |added: &&Pool| !pools.iter().any(|pool| pool.overlaps(added));
        let mut new: Vec<_> = self.added.iter().filter(new).cloned().collect();
        new.dedup_by(|later, earlier| later.overlaps(earlier));
        pools.splice(place..place, new);
        for pool in &mut *pools {
            match (&self.pool, pool.kind) {
                (Some(now), PoolKind::Default) => *pool = now.clone(),
                _ => pool.areas.clear(),
            }
        }
        meta.snapshot_exact &= self.exact && pools.iter().all(|pool| pool.kind == PoolKind::Default);
    }

    /// The slots in use.
    #[must_use]
    pub fn snapshot(&self) -> Vec<SnapshotSlot> {
        self.slots.values().cloned().collect()
    }

    /// Follows one event.
    pub fn apply(&mut self, event: &Event) {
        if event.op == Op::PoolAdded {
            self.added.extend(Pool::added(event).filter(|pool| pool.kind == PoolKind::Added));
            return;
        }
        if event.time_ns < self.since_ns {
            return;
        }
        // Slots of other pools have numbers of their own.
        let here = |tlb| self.pool.as_ref().is_some_and(|pool| pool.contains(tlb));
        if event.tlb_addr.is_some_and(|tlb| !here(tlb)) {
            return;
        }
        match event.op {
            Op::SlotAlloc => self.take(event),
            Op::SlotFree => {
                if let Some(first) = event.first_slot {
                    self.release(first);
                }
            }
            Op::Lost => self.exact = false,
            _ => {}
        }
    }

    fn take(&mut self, event: &Event) {
        let (Some(first), Some(tlb), Some(size)) = (event.first_slot, event.tlb_addr, event.size) else { return };
        let Some(start) = self.pool.as_ref().map(|pool| pool.start) else { return };
        let Some(offset) = tlb.checked_sub(start + u64::from(first) * SLOT_BYTES) else { return };
        let pads = u32::try_from(offset / SLOT_BYTES).unwrap_or(0);
        // With an alignment asked for, the kernels that pad round the whole up to it (SPEC 3); those that do not were
        // given a rounded size.
        let align = event.align_mask.unwrap_or(0);
        let bytes = size.saturating_add(offset);
        let whole = if pads > 0 { bytes.checked_add(align).map_or(bytes, |sum| sum & !align) } else { bytes };
        let Ok(n @ 1..=SEGMENT_SLOTS) = u32::try_from(whole.div_ceil(SLOT_BYTES)) else { return };
        // What was held there has been given back unseen.
        let held = self.slots.range(first..first + n).map(|(slot, _)| *slot).collect::<Vec<_>>();
        held.into_iter().for_each(|slot| self.forget(slot));
        let lo = offset % SLOT_BYTES;
        for k in 0..n {
            let behind = u64::from(k.saturating_sub(pads)) * SLOT_BYTES;
            self.slots.insert(
                first + k,
                SnapshotSlot {
                    slot: first + k,
                    orig_addr: if k < pads { u64::MAX } else { event.orig_addr.map_or(u64::MAX, |orig| orig + behind) },
                    alloc_size: whole.wrapping_sub(lo + u64::from(k) * SLOT_BYTES),
                    pad_slots: if k == pads { pads } else { 0 },
                    pool: Some(0),
                },
            );
        }
        self.runs.insert(first, n);
        self.used += u64::from(n);
        self.area(first, |area, offset, slots| {
            area.used += u64::from(n);
            let next = offset + u64::from(n);
            // SPEC 3.7: the next search begins behind, or at the area's start again.
            area.index = if next >= slots { 0 } else { next };
        });
    }

    fn release(&mut self, first: u32) {
        let Some(n) = self.runs.remove(&first) else { return };
        (first..first + n).for_each(|slot| {
            self.slots.remove(&slot);
        });
        self.used = self.used.saturating_sub(u64::from(n));
        self.area(first, |area, _, _| area.used = area.used.saturating_sub(u64::from(n)));
    }

    /// Releases the allocation that a slot belongs to.
    fn forget(&mut self, slot: u32) {
        let holds = |first: &u32| self.runs.get(first).is_some_and(|n| slot - first < *n);
        if let Some(first) = (slot.saturating_sub(SEGMENT_SLOTS - 1)..=slot).rev().find(holds) {
            self.release(first);
        }
    }

    /// The area of a slot, with the slot's offset in it and its size; nothing when the areas are not known.
    fn area(&mut self, slot: u32, change: impl FnOnce(&mut Area, u64, u64)) {
        let Some(pool) = &mut self.pool else { return };
        let slots = pool.nslabs / u64::from(pool.nareas.max(1));
        let number = u64::from(slot).checked_div(slots).and_then(|number| usize::try_from(number).ok());
        if let Some(area) = number.and_then(|number| pool.areas.get_mut(number)) {
            change(area, u64::from(slot) % slots, slots);
        }
    }
}

/// Events for tests, here and wherever parts of recordings are made.
#[doc(hidden)]
#[allow(missing_docs, reason = "for tests")]
pub mod samples {
    use super::*;

    pub const START: u64 = 0x1000_0000;

    /// A machine with a pool of so many slots and areas, empty.
    #[must_use]
    pub fn meta(nslabs: u64, nareas: u32) -> Meta {
        let areas = vec![Area { index: 0, used: 0 }; nareas as usize];
        let pool = Pool { start: START, nslabs, nareas, force_bounce: true, areas, ..Pool::default() };
        Meta { pools: vec![pool], snapshot_ns: Some(0), snapshot_exact: true, ..Meta::new() }
    }

    #[must_use]
    pub fn alloc(time_ns: u64, first: u32, n: u64) -> Event {
        Event {
            orig_addr: Some(0x8000_0000),
            size: Some(n * SLOT_BYTES),
            tlb_addr: Some(START + u64::from(first) * SLOT_BYTES),
            first_slot: Some(first),
            align_mask: Some(0),
            ..Event::new(Op::SlotAlloc, time_ns, 0, 1, 0)
        }
    }

    #[must_use]
    pub fn free(time_ns: u64, first: u32) -> Event {
        let tlb_addr = Some(START + u64::from(first) * SLOT_BYTES);
        Event { tlb_addr, first_slot: Some(first), ..Event::new(Op::SlotFree, time_ns, 0, 1, 0) }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{START, alloc, free, meta};
    use super::*;
    use crate::event::NO_DEVICE;

    #[test]
    fn slots_and_areas_follow_the_events() {
        let mut model = Held::new(&meta(512, 2), &[]);
        [alloc(1, 0, 3), alloc(2, 256, 128), alloc(3, 384, 128), free(4, 0), alloc(5, 3, 2)]
            .iter()
            .for_each(|event| model.apply(event));
        assert_eq!(model.used(), 258);
        let areas: Vec<_> = model.pool.as_ref().unwrap().areas.iter().map(|a| (a.index, a.used)).collect();
        assert_eq!(areas, [(5, 2), (0, 256)]);
        let slots = model.snapshot();
        assert_eq!((slots.len(), slots[0].slot, slots[0].alloc_size, slots[1].alloc_size), (258, 3, 4096, 2048));
        assert_eq!(slots[1].orig_addr, 0x8000_0800);
        // What a snapshot says is understood again.
        let mut again = Held::new(&Meta { pools: vec![model.pool.as_ref().unwrap().clone()], ..meta(0, 1) }, &slots);
        again.apply(&free(6, 256));
        again.apply(&free(7, 3));
        assert_eq!((again.used(), again.runs.len()), (128, 1));
    }

    #[test]
    fn padding_is_part_of_an_allocation() {
        // SPEC 14, E8: the data begin three slots and 0x200 bytes behind the first slot.
        let mut model = Held::new(&meta(512, 1), &[]);
        let event = Event {
            orig_addr: Some(0x4000_1a00),
            size: Some(0x400),
            tlb_addr: Some(START + 0x1a00),
            align_mask: Some(0x3fff),
            ..alloc(1, 0, 1)
        };
        model.apply(&event);
        let slots = model.snapshot();
        assert_eq!((model.used(), slots[0].orig_addr, slots[3].orig_addr), (8, u64::MAX, 0x4000_1a00));
        assert_eq!((slots[3].pad_slots, slots[2].pad_slots), (3, 0));
        assert_eq!((slots[0].alloc_size, slots[7].alloc_size), (0x3e00, 0x600));
    }

    #[test]
    fn a_release_that_was_missed_is_made_good_and_a_loss_remembered() {
        let mut model = Held::new(&meta(512, 1), &[]);
        [alloc(1, 0, 4), alloc(2, 2, 4)].iter().for_each(|event| model.apply(event));
        assert_eq!((model.used(), model.runs.len(), model.exact()), (4, 1, true));
        model.apply(&Event::new(Op::Lost, 3, 0, 0, 0));
        assert!(!model.exact());
    }

    #[test]
    fn a_trace_that_begins_later_has_the_pools_of_then_and_does_not_know_what_is_in_them() {
        let own = Pool {
            kind: PoolKind::Own,
            start: 0x10,
            nslabs: 2,
            areas: vec![Area { index: 1, used: 1 }],
            ..Pool::default()
        };
        let mut meta = meta(512, 1);
        meta.pools.push(own);
        meta.pools.push(Pool { kind: PoolKind::Transient, start: 0x8000, nslabs: 2, ..Pool::default() });
        let mut model = Held::new(&meta, &[]);
        let made = |start, device| Event {
            tlb_addr: Some(start),
            size: Some(512 * SLOT_BYTES),
            count: Some(1),
            ..Event::new(Op::PoolAdded, 1, 0, 0, device)
        };
        [alloc(1, 0, 3), made(0x4000_0000, NO_DEVICE), made(0x5000_0000, 0), made(0x4000_0000, NO_DEVICE)]
            .iter()
            .for_each(|event| model.apply(event));
        assert_eq!(model.used(), 3);
        model.begin(&mut meta);
        let pools: Vec<_> = meta.pools.iter().map(|pool| (pool.kind, pool.start, pool.areas.len())).collect();
        let all = [(PoolKind::Default, START, 1), (PoolKind::Added, 0x4000_0000, 0), (PoolKind::Own, 0x10, 0)];
        assert_eq!((pools.as_slice(), meta.pools[0].areas[0].used, meta.snapshot_exact), (&all[..], 3, false));
    }

    #[test]
    fn a_pool_that_no_kernel_makes_is_none() {
        let event = |start, size, count| Event {
            tlb_addr: Some(start),
            size: Some(size),
            count: Some(count),
            ..Event::new(Op::PoolAdded, 1, 0, 0, NO_DEVICE)
        };
        for bad in [
            event(0, 4096, u64::MAX),
            event(0, 4096, 3),
            event(0, 0, 1),
            event(0, 1 << 60, 1),
            event(u64::MAX, 4096, 1),
        ] {
            assert_eq!(Pool::added(&bad), None, "{bad:?}");
        }
        assert!(Pool::added(&event(0x1000, 4096, 2)).is_some());
    }

    #[test]
    fn what_is_older_than_the_snapshot_is_in_it() {
        let mut model = Held::new(&Meta { snapshot_ns: Some(10), ..meta(512, 1) }, &[]);
        model.apply(&alloc(9, 0, 4));
        model.apply(&alloc(10, 4, 4));
        assert_eq!(model.used(), 4);
    }
}
