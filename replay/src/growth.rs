//! Pools that come and go: `CONFIG_SWIOTLB_DYNAMIC`, 6.6 and later (SPEC 5).
//!
//! When no pool has room, two things happen. A worker is woken, which adds a pool some time later; such pools stay.
//! And at once a *transient* pool is made for this one request, as large as the request; it goes when the mapping goes.
//! When the worker runs and which pages there are is not for the allocator to know: whoever drives it calls
//! [`Allocator::run_worker`], and the pages come from a [`PageSource`].

use std::collections::BTreeMap;

use crate::allocator::{Allocator, Stop, Taken};
use crate::pages::{MAX_ORDER, PageSource, Zone};
use crate::plan::{Limits, Plan, Request};
use crate::pool::{Geometry, Run, SlotPool};
use crate::refusal::{self, Cause, Growing, Refusal, area_order};
use crate::rules::{Dynamic, Generation, PoolWalk};
use crate::walk::{Found, find};
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

/// A pool the worker adds is not made smaller than this for want of memory (SPEC 2.1, `MIN_SLABS`).
const MIN_SLABS: u64 = 512;
/// Slots of the largest block of pages.
const MAX_BLOCK: u64 = 2 << MAX_ORDER;

/// What a replay assumes of pools that come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrowthSetup {
    /// Time from the worker being woken to its pool being there.
    pub worker_ns: u64,
    /// The last address the worker's pools may have (SPEC 5, `phys_limit`).
    pub phys_limit: u64,
}

/// What became of a request for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Given to the allocator.
    Given {
        /// Where.
        addr: u64,
        /// 2^order pages.
        order: u32,
    },
    /// There were none.
    None {
        /// 2^order pages.
        order: u32,
    },
    /// Given back by the allocator.
    Back {
        /// Where.
        addr: u64,
        /// 2^order pages.
        order: u32,
    },
}

/// What pools came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grown {
    /// Pools the worker added.
    pub pools: u64,
    /// Their slots.
    pub slots: u64,
    /// Runs of the worker that found no memory.
    pub worker_failures: u64,
    /// Transient pools that served a mapping.
    pub transient: u64,
    /// Transient pools there was memory for, but in which the request did not fit.
    pub transient_unfit: u64,
    /// Transient pools there was no memory for within the device's reach.
    pub transient_refused: u64,
    /// The most slots of transient pools at once.
    pub transient_peak_slots: u64,
}

/// How the last try at a transient pool ended, for a refusal's arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transient {
    /// No pages at or below the limit.
    Refused {
        /// The last address that would do.
        limit: u64,
    },
    /// Pages were there, but the request does not fit in them: it may not begin with their first slot.
    Unfit {
        /// Where they were.
        start: u64,
    },
}

/// A pool for one mapping.
#[derive(Clone, Debug)]
struct TransientPool {
    pool: SlotPool,
    order: u32,
}

/// The part of an allocator that grows.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    rules: Dynamic,
    source: Box<dyn PageSource>,
    /// The last address of the pools the worker adds (SPEC 5, `phys_limit`).
    phys_limit: u64,
    /// Added by the worker, with their ids, oldest first; the kernel goes through them newest first.
    added: Vec<(u32, SlotPool)>,
    /// By address of the first slot.
    transient: BTreeMap<u64, TransientPool>,
    transient_slots: u64,
    /// The worker was woken and has not run.
    scheduled: bool,
    /// The next pool's id; ids are not used again.
    next_id: u32,
    grown: Grown,
    last: Option<Transient>,
    /// Why the last request that was refused was.
    pub refused: Cause,
    /// What pages came and went since it was last asked; kept only for who asks.
    log: Option<Vec<Pages>>,
    /// The request against each pool, kept to be used again.
    plans: Vec<Plan>,
}

impl Growth {
    /// Takes 2^order pages that hold `bytes` at or below `limit`. What lies too high is given back, and lower zones are
    /// asked (SPEC 5).
    fn take(&mut self, bytes: u64, order: u32, limit: u64) -> Option<u64> {
        let mut zone = Zone::below(limit);
        loop {
            let addr = if order <= MAX_ORDER { self.source.take(order, zone) } else { None };
            self.note(addr.map_or(Pages::None { order }, |addr| Pages::Given { addr, order }));
            let addr = addr?;
            if addr.saturating_add(bytes - 1) <= limit {
                return Some(addr);
            }
            self.give(addr, order);
            zone = zone.lower()?;
        }
    }

    fn give(&mut self, addr: u64, order: u32) {
        self.source.give(addr, order);
        self.note(Pages::Back { addr, order });
    }

    fn note(&mut self, pages: Pages) {
        if let Some(log) = &mut self.log {
            log.push(pages);
        }
    }

    /// Pools of several mappings, in the kernel's order: newest first, the boot pool last.
    fn pools<'a>(&'a mut self, boot: &'a mut SlotPool) -> impl Iterator<Item = (u32, &'a mut SlotPool)> {
        self.added.iter_mut().rev().map(|(id, pool)| (*id, pool)).chain(std::iter::once((0, boot)))
    }

    fn new_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        id
    }
}

/// 2^order pages hold that many slots.
fn order(slots: u64) -> u32 {
    slots.div_ceil(2).max(1).next_power_of_two().ilog2()
}

/// As many areas as there are segments for, at most (SPEC 2.3).
fn limit_areas(areas: u32, slots: u64) -> u32 {
    let segments = slots / u64::from(SEGMENT_SLOTS);
    u32::try_from(segments).map_or(areas, |segments| areas.min(segments)).max(1)
}

impl Allocator {
    /// Lets the allocator grow, where its generation can: pools come from `source`, the worker's at or below
    /// `phys_limit`.
    pub fn grow_from(&mut self, source: Box<dyn PageSource>, phys_limit: u64) {
        self.growth = self.rules.dynamic.map(|rules| {
            Box::new(Growth {
                rules,
                source,
                phys_limit,
                added: Vec::new(),
                transient: BTreeMap::new(),
                transient_slots: 0,
                scheduled: false,
                next_id: self.pools.len() as u32,
                grown: Grown::default(),
                last: None,
                refused: Cause::NoPool,
                log: None,
                plans: Vec::new(),
            })
        });
    }

    /// Has the memory of pools to come from elsewhere. Only before the first has come.
    pub(crate) fn take_pages_from(&mut self, source: Box<dyn PageSource>) {
        if let Some(growth) = &mut self.growth {
            growth.source = source;
        }
    }

    /// Whether pools come and go.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.growth.is_some()
    }

    /// Whether the worker was woken and has not run yet.
    #[must_use]
    pub fn worker_scheduled(&self) -> bool {
        self.growth.as_ref().is_some_and(|g| g.scheduled)
    }

    /// What pools came and went; nothing when none can.
    #[must_use]
    pub fn grown(&self) -> Option<Grown> {
        self.growth.as_ref().map(|g| g.grown)
    }

    /// Slots of transient pools (`io_tlb_transient_nslabs`, 6.9+; SPEC 6.7).
    #[must_use]
    pub fn transient_slots(&self) -> Option<u64> {
        self.growth.as_ref().filter(|g| g.rules.counts_transient).map(|g| g.transient_slots)
    }

    /// The pools the worker has added, oldest first.
    pub fn added_pools(&self) -> impl Iterator<Item = &SlotPool> {
        self.growth.iter().flat_map(|g| g.added.iter().map(|(_, pool)| pool))
    }

    /// The transient pools, by address.
    pub fn transient_pools(&self) -> impl Iterator<Item = &SlotPool> {
        self.growth.iter().flat_map(|g| g.transient.values().map(|t| &t.pool))
    }

    /// The pool a bounce address lies in.
    #[must_use]
    pub fn pool_at(&self, tlb_addr: u64) -> Option<&SlotPool> {
        let mut staying = self.pools.iter().chain(self.added_pools());
        staying.find(|pool| pool.contains(tlb_addr)).or_else(|| {
            let (_, transient) = self.growth.as_ref()?.transient.range(..=tlb_addr).next_back()?;
            Some(&transient.pool).filter(|pool| pool.contains(tlb_addr))
        })
    }

    /// Keeps a log of pages from now on.
    pub(crate) fn log_pages(&mut self) {
        if let Some(growth) = &mut self.growth {
            growth.log = Some(Vec::new());
        }
    }

    /// What pages came and went since this was last asked.
    pub(crate) fn drain_pages(&mut self) -> impl Iterator<Item = Pages> {
        self.growth.iter_mut().flat_map(|g| g.log.iter_mut()).flat_map(|log| log.drain(..))
    }

    /// Runs the worker if it was woken, as the kernel does some time later: it adds a pool of the boot pool's size, or
    /// of as much of that as one block of pages holds. `false` when it was not woken. (SPEC 5)
    pub fn run_worker(&mut self) -> bool {
        let (Some(growth), Some(boot)) = (&mut self.growth, self.pools.first()) else { return false };
        if !std::mem::take(&mut growth.scheduled) {
            return false;
        }
        let Geometry { nslabs, areas, .. } = *boot.geometry();
        let mut wanted = nslabs.min(MAX_BLOCK);
        loop {
            if let Some(start) = growth.take(wanted * SLOT_BYTES, order(wanted), growth.phys_limit) {
                let geometry = Geometry { start, nslabs: wanted, areas: limit_areas(areas, wanted) };
                let id = growth.new_id();
                growth.added.push((id, SlotPool::new(geometry)));
                growth.grown.pools += 1;
                growth.grown.slots += wanted;
                return true;
            }
            if wanted <= MIN_SLABS {
                growth.grown.worker_failures += 1;
                return true;
            }
            wanted = (wanted / 2).next_multiple_of(u64::from(SEGMENT_SLOTS));
        }
    }

    /// [`Allocator::take`] where pools come and go.
    #[cold]
    pub(crate) fn take_growing(&mut self, request: &Request, limits: &Limits) -> Result<Taken, Stop> {
        self.map_growing(request, limits).map_err(|cause| {
            if let Some(growth) = &mut self.growth {
                growth.refused = cause;
            }
            Stop::Refused
        })
    }

    /// Takes slots from a pool that is there, or from one made for the request (SPEC 3.8, 5).
    fn map_growing(&mut self, request: &Request, limits: &Limits) -> Result<Taken, Cause> {
        let rules = self.rules;
        let (Some(growth), Some(boot)) = (&mut self.growth, self.pools.first_mut()) else { return Err(Cause::NoPool) };
        if request.size == 0 {
            return Err(Cause::Empty);
        }
        let plan = Plan::new(rules, boot.geometry().start, request, limits);
        if boot.area_slots() == 0 {
            return Err(Cause::NoPool);
        }
        match refusal::size_cause(&plan, SEGMENT_SLOTS.into()) {
            Some(cause) if cause == Cause::Empty || growth.rules.refuses_oversize => return Err(cause),
            _ => {}
        }
        let taken = match growth.rules.walk {
            PoolWalk::PoolFirst => growth.pool_first(boot, request, limits, rules),
            PoolWalk::AreaFirst => growth.area_first(boot, request, limits, rules),
        };
        let taken = match taken {
            Some(taken) => taken,
            None => {
                growth.scheduled = true;
                growth.transient(boot, &plan, request, limits, rules)?
            }
        };
        self.used += u64::from(taken.nslots);
        self.high_water = self.high_water.max(self.used);
        Ok(taken)
    }

    /// Adds to a refusal what the pools that came later have free, and what came of growing.
    pub(crate) fn explain_growth(&self, refusal: &mut Refusal) {
        let (Some(growth), Some(boot)) = (&self.growth, self.pools.first()) else { return };
        for (_, pool) in &growth.added {
            refusal.nslabs += pool.geometry().nslabs;
            refusal.free += pool.geometry().nslabs - pool.used();
            refusal.largest_run = refusal.largest_run.max(pool.largest_run());
        }
        if matches!(refusal.cause, Cause::GrowPending | Cause::TransientRefused) {
            let worker_slots = boot.geometry().nslabs.min(MAX_BLOCK);
            refusal.growing = growth.last.map(|transient| Growing { worker_slots, transient });
        }
    }

    /// [`Allocator::unmap`] in pools that came later. A transient pool goes with its mapping (SPEC 5).
    #[cold]
    pub(crate) fn unmap_grown(&mut self, tlb_addr: u64, limits: &Limits) -> Option<u32> {
        let growth = self.growth.as_mut()?;
        let rules = self.rules;
        let n = if let Some((_, pool)) = growth.added.iter_mut().rev().find(|(_, p)| p.contains(tlb_addr)) {
            Self::release_at(rules, pool, tlb_addr, limits)?.n
        } else {
            let (&start, transient) = growth.transient.range_mut(..=tlb_addr).next_back()?;
            if !transient.pool.contains(tlb_addr) {
                return None;
            }
            let n = Self::release_at(rules, &mut transient.pool, tlb_addr, limits)?.n;
            let order = transient.order;
            growth.transient_slots -= transient.pool.geometry().nslabs;
            growth.transient.remove(&start);
            growth.give(start, order);
            n
        };
        u32::try_from(n).ok()
    }
}

impl Growth {
    fn pool_first(
        &mut self,
        boot: &mut SlotPool,
        request: &Request,
        limits: &Limits,
        rules: &'static Generation,
    ) -> Option<Taken> {
        for (id, pool) in self.pools(boot) {
            let plan = Plan::new(rules, pool.geometry().start, request, limits);
            for area in area_order(pool.areas().len(), request.cpu) {
                if let Some(taken) = take(pool, area, &plan, id, rules) {
                    return Some(taken);
                }
            }
        }
        None
    }

    fn area_first(
        &mut self,
        boot: &mut SlotPool,
        request: &Request,
        limits: &Limits,
        rules: &'static Generation,
    ) -> Option<Taken> {
        let areas = boot.areas().len();
        let mut plans = std::mem::take(&mut self.plans);
        plans.clear();
        let mut found = None;
        // The boot pool's number of areas is gone through, also in pools that have fewer (SPEC 3.8).
        'areas: for offset in 0..areas {
            for (at, (id, pool)) in self.pools(boot).enumerate() {
                if offset == 0 {
                    plans.push(Plan::new(rules, pool.geometry().start, request, limits));
                }
                let own = pool.areas().len();
                if offset < own {
                    let area = request.cpu.wrapping_add(offset as u32) as usize & (own - 1);
                    found = take(pool, area, &plans[at], id, rules);
                    if found.is_some() {
                        break 'areas;
                    }
                }
            }
        }
        self.plans = plans;
        found
    }

    /// Makes a pool for one request and takes its slots (SPEC 5).
    fn transient(
        &mut self,
        boot: &mut SlotPool,
        boot_plan: &Plan,
        request: &Request,
        limits: &Limits,
        rules: &'static Generation,
    ) -> Result<Taken, Cause> {
        let nslabs = boot_plan.n;
        let order = order(nslabs);
        let Some(start) = self.take(nslabs * SLOT_BYTES, order, limits.reach) else {
            self.grown.transient_refused += 1;
            self.last = Some(Transient::Refused { limit: limits.reach });
            return Err(refusal::impossible(boot, boot_plan).unwrap_or(Cause::TransientRefused));
        };
        let mut pool = SlotPool::new(Geometry { start, nslabs, areas: 1 });
        let plan = Plan::new(rules, start, request, limits);
        let Some(taken) = take(&mut pool, 0, &plan, self.next_id, rules) else {
            self.give(start, order);
            self.grown.transient_unfit += 1;
            self.last = Some(Transient::Unfit { start });
            return Err(refusal::impossible(boot, boot_plan).unwrap_or(Cause::GrowPending));
        };
        self.new_id();
        self.transient.insert(start, TransientPool { pool, order });
        self.transient_slots += nslabs;
        self.grown.transient += 1;
        self.grown.transient_peak_slots = self.grown.transient_peak_slots.max(self.transient_slots);
        Ok(taken)
    }
}

/// Searches an area and takes what it finds.
fn take(pool: &mut SlotPool, area: usize, plan: &Plan, id: u32, rules: &'static Generation) -> Option<Taken> {
    let Found::Slot(first) = find(pool, area, plan, rules.search) else { return None };
    pool.take(area, Run { first, n: plan.n }, plan.pad());
    Some(Taken::at(pool.geometry(), id, first, plan))
}
