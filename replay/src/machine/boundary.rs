//! Segment boundaries under Xen PV (SPEC 10.2): the allocator counts them in guest addresses, the device sees machine
//! addresses. Both views are held against each other, and what differs is counted.

use super::Machine;
use super::platform::{BoundaryBase, Frames};
use crate::allocator::Taken;
use crate::plan::{Limits, Plan, Request};
use crate::view::View;
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

/// Bounce buffers whose two views differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FalseBoundaries {
    /// Buffers given out that cross one of the device's boundaries in machine memory.
    pub accepts: u64,
    /// Requests refused although a free run would have done: it crosses a boundary in the allocator's view only.
    pub rejects: u64,
}

impl Machine {
    /// Has the allocator count boundaries from where the platform says (SPEC 11, `bbase`).
    pub(super) fn set_boundary_base(&mut self) {
        let bbase = self.platform.spec().bbase;
        if !matches!(self.platform.frames, Frames::Pv(_)) || bbase == BoundaryBase::Pseudo {
            return;
        }
        for pool in 0..self.allocator.pools().len() {
            let geometry = *self.allocator.pools()[pool].geometry();
            let segment_bytes = u64::from(SEGMENT_SLOTS) * SLOT_BYTES;
            let segments = geometry.nslabs.div_ceil(SEGMENT_SLOTS.into());
            let machine = |segment: u64| self.frame_of_pool(pool, geometry.start + segment * segment_bytes);
            let view = match bbase {
                BoundaryBase::MachinePerSlot => View::Segments((0..segments).map(machine).collect()),
                BoundaryBase::Pseudo | BoundaryBase::MachineStart => View::From(machine(0)),
            };
            self.allocator.set_view(pool, view);
        }
    }

    /// Whether the two views can differ for a device.
    fn two_views(&self, limits: &Limits) -> bool {
        matches!(self.platform.frames, Frames::Pv(_)) && limits.boundary != u64::MAX
    }

    /// Counts a bounce buffer that crosses a boundary after all. `dma_addr` is its machine address; a segment is one
    /// machine extent (SPEC 10.4).
    pub(super) fn check_accepted(&mut self, taken: &Taken, dma_addr: u64, limits: &Limits) {
        if !self.two_views(limits) {
            return;
        }
        let pool = self.allocator.pools().get(taken.pool as usize);
        let start = pool.map_or(0, |pool| pool.geometry().start) + u64::from(taken.first_slot) * SLOT_BYTES;
        let first = dma_addr.wrapping_sub(taken.tlb_addr - start);
        self.false_boundaries.accepts += u64::from(crosses(first, u64::from(taken.nslots), limits));
    }

    /// Counts a refusal for a boundary that is none. Looks at the slots in front of the pool's boundaries only.
    pub(super) fn check_refused(&mut self, request: &Request, limits: &Limits) {
        let per_slot = self.platform.spec().bbase == BoundaryBase::MachinePerSlot;
        if !self.two_views(limits) || per_slot {
            return;
        }
        let id = self.allocator.pool_for(limits);
        let Some(pool) = self.allocator.pools().get(id) else { return };
        let plan = Plan::new(self.allocator.rules(), self.allocator.seen_start(id), request, limits);
        let (nslabs, start) = (pool.geometry().nslabs, pool.geometry().start);
        if plan.n == 0 || plan.n > plan.boundaries.max_slots {
            return;
        }
        let serves = |slot: u64| {
            let free = u64::from(pool.run_at(slot)) >= plan.n && plan.matches(slot) && plan.spans(slot);
            free && !crosses(self.bus_of_pool(id, start + slot * SLOT_BYTES, limits), plan.n, limits)
        };
        let mut boundary = plan.boundaries.shift.wrapping_neg() & (plan.boundaries.max_slots - 1);
        while boundary < nslabs + plan.n {
            if (boundary.saturating_sub(plan.n - 1)..boundary.min(nslabs)).any(serves) {
                self.false_boundaries.rejects += 1;
                return;
            }
            boundary += plan.boundaries.max_slots;
        }
    }

    /// Bounce buffers whose boundaries differ between the allocator's view and the machine's.
    #[must_use]
    pub fn false_boundaries(&self) -> FalseBoundaries {
        self.false_boundaries
    }
}

/// Whether that many slots from a machine address on cross one of the device's boundaries.
fn crosses(machine: u64, slots: u64, limits: &Limits) -> bool {
    (machine & limits.boundary).saturating_add(slots * SLOT_BYTES - 1) > limits.boundary
}
