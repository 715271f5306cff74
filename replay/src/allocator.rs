//! A generation's allocator over its pools: which pool, which area, which slots.

use crate::growth::Growth;
use crate::plan::{Limits, Ordinary, PROFILES, Plan, Profile, Request};
use crate::pool::{Geometry, Run, SlotPool};
use crate::refusal::{self, Cause, Refusal};
use crate::rules::{Generation, Search};
use crate::view::View;
use crate::walk::{Before, Found, area_that_may, find_in_named, find_on};
use trace::pool::SLOT_BYTES;

/// Slots taken for a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Physical address of the bounce buffer, offset included.
    pub tlb_addr: u64,
    /// First slot taken, padding included, counted from the pool's start.
    pub first_slot: u32,
    /// Slots taken.
    pub nslots: u32,
    /// Which pool: 0 is the boot pool, 1 `rfc64`'s second or a restricted one; what comes after may go away again (SPEC 5), and its number
    /// is not used twice.
    pub pool: u32,
}

/// Why a request was not served, as far as that is known without looking further; for [`Allocator::cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing fits.
    Refused,
    /// Nothing fits, and the kernel would search for ever (SPEC 3.4).
    Livelock,
    /// Slots were found, but the device does not reach them.
    AboveMask,
}

/// A device against the pool that all its requests go to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    profile: Profile,
    pool: usize,
}

/// The allocator of one generation.
#[derive(Clone, Debug)]
pub struct Allocator {
    pub(crate) rules: &'static Generation,
    pub(crate) pools: Vec<SlotPool>,
    pub(crate) used: u64,
    pub(crate) high_water: u64,
    hi_threshold: u64,
    /// The pool all requests go to for the moment.
    sent_to: Option<usize>,
    /// Where pools are taken to lie, if not where they are; mostly empty.
    pub(crate) views: Vec<Option<View>>,
    /// Devices met against their pools, by a hash: those after one another are often the same few.
    profiles: [Option<Profile>; PROFILES],
    /// The place of the one met last, which is mostly the next.
    latest: usize,
    /// SPEC 4.
    pub(crate) unspecified_tails: u64,
    /// Those that come and go, where they can.
    pub(crate) growth: Option<Box<Growth>>,
}

impl Allocator {
    /// An allocator with empty pools. Only `rfc64` looks at a second one.
    #[must_use]
    pub fn new(rules: &'static Generation, pools: &[Geometry]) -> Self {
        Self {
            rules,
            pools: pools.iter().map(|&g| SlotPool::new(g)).collect(),
            used: 0,
            high_water: 0,
            hi_threshold: u64::MAX,
            sent_to: None,
            views: Vec::new(),
            profiles: [None; PROFILES],
            latest: 0,
            unspecified_tails: 0,
            growth: None,
        }
    }

    /// The generation's rules.
    #[must_use]
    pub fn rules(&self) -> &'static Generation {
        self.rules
    }

    /// The pools there are from the start, `rfc64`'s high or the restricted one last.
    #[must_use]
    pub fn pools(&self) -> &[SlotPool] {
        &self.pools
    }

    /// Slots in use in all pools, those that came later included (`total_used`).
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The most slots that were in use at once (`io_tlb_used_hiwater`).
    #[must_use]
    pub fn high_water(&self) -> u64 {
        self.high_water
    }

    /// The pool a device's requests go to. `rfc64` sends devices that reach all 64 bits to the second pool, with no
    /// fallback either way (SPEC 9); everybody else has one.
    #[must_use]
    #[inline]
    pub fn pool_for(&self, limits: &Limits) -> usize {
        let high = || self.rules.has_high_pool() && self.pools.len() > 1 && limits.reach >= self.hi_threshold;
        self.sent_to.unwrap_or_else(|| usize::from(high()))
    }

    /// Has devices that reach this address use the second pool ([`Dispatch::hi_threshold`]).
    pub fn set_hi_threshold(&mut self, hi_threshold: u64) {
        self.hi_threshold = hi_threshold;
    }

    /// Has all requests go to one pool, until told otherwise.
    pub(crate) fn send_to(&mut self, pool: Option<usize>) {
        self.sent_to = pool;
    }

    /// Takes slots for a request, as `swiotlb_tbl_map_single()` does.
    ///
    /// # Errors
    /// The cause, when no area can serve it. The state is then as before; [`Allocator::explain`] has the arithmetic.
    pub fn map(&mut self, request: &Request, limits: &Limits) -> Result<Taken, Cause> {
        self.take(request, limits).map_err(|stop| self.cause(request, limits, stop))
    }

    /// As [`Allocator::map`], but does not find out why a request is refused, which can cost more than serving it.
    ///
    /// # Errors
    /// What the search came to; [`Allocator::cause`] says why.
    #[inline(always)]
    pub fn take(&mut self, request: &Request, limits: &Limits) -> Result<Taken, Stop> {
        if self.growth.is_some() && self.sent_to.is_none() {
            return self.take_growing(request, limits);
        }
        let pool_id = self.pool_for(limits);
        if !self.views.is_empty() {
            return self.take_viewed(pool_id, request, limits);
        }
        let Some(pool) = self.pools.get(pool_id) else { return Err(Stop::Refused) };
        let start = pool.geometry().start;
        if !self.profiles[self.latest % PROFILES].as_ref().is_some_and(|profile| profile.is_of(start, limits)) {
            self.latest = remember(&mut self.profiles, self.rules, start, limits);
        }
        let Some(profile) = &self.profiles[self.latest % PROFILES] else { return Err(Stop::Refused) };
        let pool = &mut self.pools[pool_id];
        let taken = take_from(pool, pool_id, profile, request)?;
        self.count(taken.nslots);
        Ok(taken)
    }

    /// A device's profile, and its pool, for [`Allocator::take_known`]; nothing where more is to be asked than the one
    /// pool a device has.
    pub(crate) fn know(&self, limits: &Limits) -> Option<Known> {
        let pool = self.pool_for(limits);
        let start = self.pools.get(pool)?.geometry().start;
        let plain = self.growth.is_none() && self.sent_to.is_none() && self.views.is_empty();
        let known = plain && start.is_multiple_of(SLOT_BYTES);
        known.then(|| Known { profile: Profile::new(self.rules, start, limits), pool })
    }

    /// As [`Allocator::take`], for a device that is known.
    ///
    /// # Errors
    /// As [`Allocator::take`].
    #[inline(always)]
    pub(crate) fn take_known(&mut self, known: &Known, request: &Request) -> Result<Taken, Stop> {
        let taken = take_from(&mut self.pools[known.pool], known.pool, &known.profile, request)?;
        self.count(taken.nslots);
        Ok(taken)
    }

    /// Gives back what a known device was given.
    #[inline(always)]
    pub(crate) fn release_known(&mut self, pool: usize, run: Run) {
        let pool = &mut self.pools[pool];
        pool.release(run);
        self.unspecified_tails += u64::from(pool.has_ragged_end(run));
        self.used -= run.n;
    }

    /// Counts slots that were taken.
    #[inline(always)]
    fn count(&mut self, slots: u32) {
        self.used += u64::from(slots);
        self.high_water = self.high_water.max(self.used);
    }

    /// Whether a device's bus does not see where a pool begins, so that search D finds no slot whose address is right: the
    /// masks are no reason for that.
    fn is_unseen(&self, pool: usize, limits: &Limits) -> bool {
        let start = || limits.bus(self.seen_start(pool));
        self.rules.search == Search::D
            && !limits.ranges.is_none()
            && self.pools.get(pool).is_some_and(|pool| pool.geometry().nslabs > 0)
            && start() == u64::MAX
    }

    /// Why a request was not served, just after [`Allocator::take`]; nothing may have changed in between.
    pub fn cause(&mut self, request: &Request, limits: &Limits, stop: Stop) -> Cause {
        if stop == Stop::AboveMask {
            return Cause::PoolAboveMask;
        }
        if let (Some(growth), None) = (&self.growth, self.sent_to) {
            return growth.refused;
        }
        if request.size == 0 {
            return Cause::Empty;
        }
        let pool_id = self.pool_for(limits);
        if self.is_unseen(pool_id, limits) {
            return Cause::PoolAboveMask;
        }
        if !self.views.is_empty() {
            return self.cause_viewed(pool_id, request, limits, stop);
        }
        let Some(pool) = self.pools.get_mut(pool_id) else { return Cause::NoPool };
        let start = pool.geometry().start;
        let plan = Plan::new(self.rules, start, request, limits);
        refusal::cause(pool, &plan, request.cpu, stop == Stop::Livelock)
    }

    /// The arithmetic behind a refusal [`Allocator::map`] has just given; nothing may have changed in between.
    pub fn explain(&mut self, request: &Request, limits: &Limits, cause: Cause) -> Refusal {
        let rules = self.rules;
        let pool_id = self.pool_for(limits);
        let mut none = SlotPool::new(Geometry { start: 0, nslabs: 0, areas: 1 });
        let plan = Plan::new(rules, self.seen_start(pool_id), request, limits);
        let pool = self.pools.get_mut(pool_id).unwrap_or(&mut none);
        let mut refusal = refusal::explain(pool, &plan, request.cpu, request.size, rules.search, cause);
        self.explain_viewed(&mut refusal, &plan, pool_id, limits);
        if self.sent_to.is_none() {
            self.explain_growth(&mut refusal);
        }
        refusal
    }

    /// Gives back what was taken at a bounce address (SPEC 4); the number of slots, or nothing when no allocation
    /// begins there, as after a change of the device's min_align_mask between map and unmap.
    #[inline(always)]
    pub fn unmap(&mut self, tlb_addr: u64, limits: &Limits) -> Option<u32> {
        let n = match self.pools.iter_mut().find(|p| p.contains(tlb_addr)) {
            Some(pool) => {
                let run = Self::release_at(self.rules, pool, tlb_addr, limits)?;
                self.unspecified_tails += u64::from(pool.has_ragged_end(run));
                u32::try_from(run.n).ok()?
            }
            None => self.unmap_grown(tlb_addr, limits)?,
        };
        self.used -= u64::from(n);
        Some(n)
    }

    /// Releases the allocation whose data begins at a bounce address of `pool`.
    #[inline(always)]
    pub(crate) fn release_at(rules: &Generation, pool: &mut SlotPool, tlb_addr: u64, limits: &Limits) -> Option<Run> {
        let lo = if rules.min_align { tlb_addr & limits.min_align_mask & (SLOT_BYTES - 1) } else { 0 };
        let slot = (tlb_addr - lo).checked_sub(pool.geometry().start)? / SLOT_BYTES;
        pool.release_at(slot)
    }

    /// Gives slots back within the call that took them; only a mark the kernel keeps itself has seen them.
    pub(crate) fn undo(&mut self, taken: &Taken, limits: &Limits, high_water: u64) {
        self.unmap(taken.tlb_addr, limits);
        if !self.rules.keeps_high_water {
            self.high_water = high_water;
        }
    }
}

/// Takes slots of one pool for a request of a device whose profile is at hand.
#[inline(always)]
fn take_from(pool: &mut SlotPool, pool_id: usize, profile: &Profile, request: &Request) -> Result<Taken, Stop> {
    let own = request.cpu as usize & (pool.areas().len() - 1);
    match profile.first_sweep(pool, own, request) {
        Ok(Ordinary { slot, n, lo }) => {
            pool.take(own, Run { first: slot, n }, 0);
            let tlb_addr = pool.geometry().start + slot * SLOT_BYTES + lo;
            Ok(Taken { tlb_addr, first_slot: slot as u32, nslots: n as u32, pool: pool_id as u32 })
        }
        Err(swept) => walk(pool, pool_id, profile, request, swept),
    }
}

/// As [`take_from`], for requests the first sweep of the CPU's area does not serve, or was not made (`swept`).
#[inline(never)]
fn walk(pool: &mut SlotPool, pool_id: usize, profile: &Profile, request: &Request, swept: bool) -> Result<Taken, Stop> {
    if request.size == 0 {
        return Err(Stop::Refused);
    }
    let (plan, search) = (profile.plan(request), profile.search());
    let areas = pool.areas().len();
    let own = request.cpu as usize & (areas - 1);
    let (mut swept, first) = match if swept { profile.done(pool) } else { Before::Nothing } {
        Before::Swept => (Some((own, Before::Swept)), own),
        Before::Searched => (None, own + 1),
        _ => (None, own),
    };
    // From the CPU's area to the last, then from the first (SPEC 3.8).
    for (mut next, end) in [(first, areas), (0, own)] {
        while let Some((area, before)) = swept.take().or_else(|| area_that_may(pool, next..end, &plan, search)) {
            let found = match before {
                Before::Named => find_in_named(pool, area, &plan, search),
                _ => find_on(pool, area, &plan, search, before),
            };
            match found {
                Found::Slot(first) => {
                    pool.take(area, Run { first, n: plan.n }, plan.pad());
                    return Ok(Taken::at(pool.geometry(), pool_id as u32, first, &plan));
                }
                Found::Nothing => {}
                Found::Livelock => return Err(Stop::Livelock),
            }
            next = area + 1;
        }
    }
    Err(Stop::Refused)
}

/// Where among those remembered a device's profile is, which is made when it is new.
#[inline(never)]
fn remember(
    profiles: &mut [Option<Profile>; PROFILES],
    rules: &'static Generation,
    start: u64,
    limits: &Limits,
) -> usize {
    let place = Profile::place(limits);
    if !profiles[place].as_ref().is_some_and(|profile| profile.is_of(start, limits)) {
        profiles[place] = Some(Profile::new(rules, start, limits));
    }
    place
}

impl Taken {
    /// What taking `first` for a plan comes to.
    #[inline]
    pub(crate) fn at(pool: &Geometry, pool_id: u32, first: u64, plan: &Plan) -> Self {
        Self {
            tlb_addr: pool.start + (first + u64::from(plan.pad())) * SLOT_BYTES + plan.lo(),
            first_slot: first as u32,
            nslots: plan.n as u32,
            pool: pool_id,
        }
    }
}
