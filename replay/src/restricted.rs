//! Restricted pools: a device's own pool, given by the device tree (5.15+, SPEC 2.7).
//!
//! One region, one area, as many slots as it has room for; all that the device maps goes through it, and its coherent
//! memory is taken from it too. It never grows. Beside the ordinary pool it is the allocator's second.

use crate::allocator::{Allocator, Taken};
use crate::plan::{Limits, Plan, Request};
use crate::refusal::Cause;
use crate::rules::Coherent;
use trace::pool::SLOT_BYTES;

/// The restricted pool's place among the allocator's.
pub(crate) const POOL: usize = 1;

const PAGE: u64 = 4096;

/// Which devices have the restricted pool, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restricted {
    pub(crate) devices: glob::Pattern,
}

impl Restricted {
    /// Whether a device of that name has it.
    #[must_use]
    pub fn is_of(&self, device: &str) -> bool {
        self.devices.matches(device)
    }

    /// Whether every device has it, whatever its name.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        self.devices.as_str() == "*"
    }
}

impl Allocator {
    /// Takes slots for coherent memory from the restricted pool, as `swiotlb_alloc()` does (SPEC 2.7): whole pages, with
    /// no buffer to be like. How they are aligned is the generation's [`Coherent`] rule.
    ///
    /// # Errors
    /// The cause. The state is then as before.
    pub fn alloc_coherent(&mut self, size: u64, cpu: u32, limits: &Limits) -> Result<Taken, Cause> {
        let rules = self.rules;
        let Some(rule) = rules.restricted.filter(|_| self.pools.len() > POOL) else { return Err(Cause::NoPool) };
        let Some(size) = size.checked_next_multiple_of(PAGE).filter(|&size| size > 0) else { return Err(Cause::Empty) };
        let by_order = size.checked_next_power_of_two().map_or(u64::MAX, |bytes| bytes - 1);
        let align_mask = if rule == Coherent::Unaligned { 0 } else { by_order };
        let request = Request { orig_addr: 0, size, align_mask, cpu };
        let mut plan = Plan::new(rules, self.seen_start(POOL), &request, limits);
        // The mask aligns the buffer; it does not make it longer, as it does for an IOMMU's granules.
        plan.n = size.div_ceil(SLOT_BYTES);
        let taken = self.take_planned(POOL, &plan, cpu, limits);
        taken.map_err(|stop| self.cause_planned(POOL, &plan, cpu, limits, stop))
    }

    /// Releases that read one entry past the end of the kernel's table, because they end with a pool that ends inside a
    /// segment (SPEC 4). What stands there is not known; it is taken to be 0.
    #[must_use]
    pub fn unspecified_tails(&self) -> u64 {
        self.unspecified_tails
    }
}
