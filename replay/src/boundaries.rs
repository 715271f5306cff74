//! Where runs of slots may begin so that they cross none of a device's segment boundaries (SPEC 3, `span`).

use trace::pool::SEGMENT_SLOTS;

use crate::bits;
use crate::pool::SlotPool;

const SEG: u64 = SEGMENT_SLOTS as u64;

/// A device's segment boundaries in a pool (SPEC 3, `span`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boundaries {
    /// SPEC 3, `shift`.
    pub shift: u64,
    /// Slots between boundaries; 0 when the device's boundary mask is not one less than a power of two.
    pub max_slots: u64,
}

/// From which slots runs of some length cross none of a device's segment boundaries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    boundaries: Boundaries,
    n: u32,
    /// Allowed starts of any segment, unless boundaries lie further apart than that and inside the pool.
    everywhere: Option<u128>,
}

impl Boundaries {
    /// Whether a run of `n` slots from `slot` crosses one.
    #[inline]
    pub fn cross(&self, slot: u64, n: u64) -> bool {
        ((self.shift + slot) & self.max_slots.wrapping_sub(1)).saturating_add(n) > self.max_slots
    }

    /// Whether no run of `n` slots of a pool crosses one, as there is none inside the pool.
    #[inline(always)]
    pub fn are_outside(&self, n: u32, pool: &SlotPool) -> bool {
        let first = self.shift & self.max_slots.wrapping_sub(1);
        u64::from(n) <= self.max_slots && first + pool.geometry().nslabs <= self.max_slots
    }

    /// For runs of `n` slots of a pool.
    pub fn of_runs(self, n: u32, pool: &SlotPool) -> Allowed {
        let Self { shift, max_slots } = self;
        let first = shift & max_slots.wrapping_sub(1);
        let everywhere = if u64::from(n) > max_slots {
            Some(0)
        } else if self.are_outside(n, pool) {
            Some(u128::MAX)
        } else if max_slots <= SEG {
            // The first slots behind each boundary are allowed, up to the last from which a run reaches the next.
            let behind_boundary = bits::below(max_slots as u32 - n + 1);
            let period = bits::every(max_slots as u32, 0);
            Some(behind_boundary.wrapping_mul(period).rotate_left(first.wrapping_neg() as u32 & (SEG - 1) as u32))
        } else {
            None
        };
        Allowed { boundaries: self, n, everywhere }
    }
}

impl Allowed {
    /// Of the segment at pool slot `base`.
    #[inline]
    pub fn in_segment(&self, base: u64) -> u128 {
        if let Some(everywhere) = self.everywhere {
            return everywhere;
        }
        let to_boundary = (self.boundaries.shift + base).wrapping_neg() & (self.boundaries.max_slots - 1);
        if to_boundary >= SEG {
            return u128::MAX;
        }
        // Not from `n - 1` before the boundary to just before it.
        let before = to_boundary as u32;
        !bits::run((before + 1).saturating_sub(self.n), before.min(self.n - 1))
    }
}
