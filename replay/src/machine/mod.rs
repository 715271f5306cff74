//! A machine to replay on: a policy's allocator on a platform.

mod boundary;
mod decide;
mod platform;
mod restricted;
mod terms;

use crate::allocator::{Allocator, Known, Stop, Taken};
use crate::copies::Copies;
use crate::dispatch::Fallback;
use crate::eras::{Era, IommuRule};
use crate::p2m::P2m;
use crate::pages::Zones;
use crate::param::Force;
use crate::plan::{Limits, Request};
use crate::policy::Setup;
use crate::pool::{Geometry, Run};
use crate::refusal::{Cause, Refusal};
use crate::restricted::Restricted;
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

pub use boundary::FalseBoundaries;
use decide::Decision;
use platform::Frames;
pub use platform::{
    BoundaryBase, FrameTable, Ops, PLATFORM_PARAMETERS, PLATFORMS, Platform, PlatformError, PlatformKind,
    PlatformParameter, PlatformRow, PlatformSpec,
};
use terms::PAGE;
pub use terms::{Forbidden, Foreseen, Mapped, Reason, Refused, Terms};

/// A segment, which Xen's set-up makes contiguous in machine memory (SPEC 10.4).
const SEGMENT_BYTES: u64 = SEGMENT_SLOTS as u64 * SLOT_BYTES;

/// A policy's allocator on a platform.
#[derive(Clone, Debug)]
pub struct Machine {
    allocator: Allocator,
    platform: Platform,
    row: &'static PlatformRow,
    era: &'static Era,
    fallback: Fallback,
    force: Force,
    copies: &'static Copies,
    /// Devices with a pool of their own.
    restricted: Option<Restricted>,
    /// Time from the growth worker being woken to its pool being there, in nanoseconds.
    worker_ns: Option<u64>,
    /// Machine address a pool is taken to begin at, for pools whose frames the table does not name.
    assumed: Vec<Option<u64>>,
    /// Translations that had to be assumed because the table does not name a frame.
    unknown_frames: u64,
    false_boundaries: FalseBoundaries,
    parted: u64,
}

impl Machine {
    /// Empty pools on a platform.
    ///
    /// On Xen PV a pool that is not the recorded one has no recorded frames. Xen's set-up makes each segment of it
    /// contiguous in machine memory, the ordinary pool's below 4 GiB (SPEC 9, 10.4); it is taken to lie at machine
    /// address 0, `rfc64`'s second at 4 GiB, and a device's own right behind the first. So is a recorded one that the table
    /// does not name, unless that is a whole table, in which such frames are invalid.
    #[must_use]
    pub fn new(setup: &Setup, platform: Platform) -> Self {
        let known = |pool: &Geometry, p2m: &P2m| {
            let frames = (pool.nslabs / 2).max(1);
            pool.start >= setup.recorded.start
                && pool.end() <= setup.recorded.end()
                && (p2m.is_whole() || (0..frames).step_by(64).all(|i| p2m.get(pool.start / PAGE + i).is_some()))
        };
        let first = setup.pools.first().map_or(0, |pool| pool.nslabs * SLOT_BYTES).next_multiple_of(SEGMENT_BYTES);
        let base = |i| if setup.restricted.is_some() && i > 0 { first } else { i << 32 };
        let assumed = (0u64..).zip(&setup.pools).map(|(i, pool)| match &platform.frames {
            Frames::Pv(p2m) if !known(pool, p2m) => Some(base(i)),
            _ => None,
        });
        let mut machine = Self {
            assumed: assumed.collect(),
            allocator: Allocator::new(setup.rules, &setup.pools),
            row: platform.spec().row(),
            platform,
            era: setup.era,
            fallback: setup.dispatch.fallback,
            force: setup.force,
            copies: setup.copies,
            restricted: setup.restricted.clone(),
            worker_ns: None,
            unknown_frames: 0,
            false_boundaries: FalseBoundaries::default(),
            parted: 0,
        };
        machine.allocator.set_hi_threshold(setup.dispatch.hi_threshold);
        machine.set_boundary_base();
        machine.allocator.cut_into(setup.segment.into());
        // A pool made through Xen's hook never grows (SPEC 5, 10.4).
        if let (Some(growth), false) = (setup.growth, matches!(machine.platform.frames, Frames::Pv(_))) {
            let mut taken: Vec<_> = setup.pools.iter().map(|pool| (pool.start, pool.end())).collect();
            taken.sort_unstable();
            machine.worker_ns = Some(growth.worker_ns);
            machine.allocator.grow_from(Box::new(Zones::around(&taken)), growth.phys_limit);
        }
        machine
    }

    /// The allocator.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// The allocator, to run its worker or to give it other pages.
    pub fn allocator_mut(&mut self) -> &mut Allocator {
        &mut self.allocator
    }

    /// Time from the growth worker being woken to its pool being there, in nanoseconds; nothing where pools do not grow.
    #[must_use]
    pub fn worker_ns(&self) -> Option<u64> {
        self.worker_ns
    }

    /// When and from where it copies.
    #[must_use]
    pub fn copies(&self) -> &'static Copies {
        self.copies
    }

    /// The platform.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The platform, to change its frame table as grants come and go.
    pub fn platform_mut(&mut self) -> &mut Platform {
        &mut self.platform
    }

    /// Translations that had to be assumed because a frame was not in the recorded table: the frame was then taken
    /// for its own machine frame.
    #[must_use]
    pub fn unknown_frames(&self) -> u64 {
        self.unknown_frames
    }

    /// Buffers given to their device as one range although their bus frames part: it would use somebody else's memory.
    /// Only a design that does not ask lets them through.
    #[must_use]
    pub fn parted(&self) -> u64 {
        self.parted
    }

    /// Maps a plain buffer: decides whether it bounces, and takes slots if so.
    ///
    /// # Errors
    /// As [`Machine::map_on`].
    pub fn map(&mut self, request: &Request, limits: &Limits) -> Result<Mapped, Refused> {
        self.map_on(request, limits, &Terms::PLAIN)
    }

    /// Maps a buffer on the given terms: decides whether it bounces, and takes slots if so.
    ///
    /// # Errors
    /// Why it was refused. Slots and counters are as before, but a map refused for [`Cause::PoolAboveMask`] has moved
    /// the search index, as in the kernel (SPEC 6.2).
    pub fn map_on(&mut self, request: &Request, limits: &Limits, terms: &Terms) -> Result<Mapped, Refused> {
        let seen = self.look_up(request, limits);
        let memory = !terms.has(Terms::MMIO);
        self.unknown_frames += u64::from(memory && seen.unknown);
        let granule = self.granule(terms);
        match self.decide(&seen, request, limits, terms) {
            Decision::Direct(dma_addr) => {
                self.parted += u64::from(memory && seen.parts.is_some());
                Ok(Mapped::Direct { dma_addr })
            }
            Decision::Bounce(reason) => {
                let request = self.aligned(request, granule);
                self.bounce_behind(&request, limits, reason, granule.is_some()).map_err(|stop| {
                    let cause = self.allocator.cause(&request, limits, stop);
                    Refused { cause, reason: Some(reason), forbidden: None, granule }
                })
            }
            Decision::Refuse(refused) => Err(Refused { granule, ..refused }),
        }
    }

    /// What becomes of a mapping by the platform's rules, slots left out of it; nothing when a frame it takes is not in the
    /// recorded table.
    #[must_use]
    pub fn foresee(&self, request: &Request, limits: &Limits, terms: &Terms) -> Option<Foreseen> {
        let seen = self.look_up(request, limits);
        if seen.unknown && !terms.has(Terms::MMIO) {
            return None;
        }
        Some(match self.decide(&seen, request, limits, terms) {
            Decision::Direct(dma_addr) => Foreseen::Direct(dma_addr),
            Decision::Bounce(reason) => Foreseen::Bounced(reason),
            Decision::Refuse(_) => Foreseen::Refused,
        })
    }

    /// Whether the kernel finds a bus address to lie in a pool, for a device whose bus sees memory where the CPU does.
    #[must_use]
    pub fn is_pool(&self, dma_addr: u64) -> bool {
        self.tlb_addr(dma_addr, &Limits::NONE).is_some()
    }

    /// The physical address in a pool that a device's bus address stands for; nothing when it lies in none.
    #[must_use]
    pub fn tlb_addr(&self, dma_addr: u64, limits: &Limits) -> Option<u64> {
        self.pool_address(dma_addr, limits)
    }

    /// A request as it reaches the allocator: behind an IOMMU it is for whole granules (SPEC 8, end), and where the
    /// caller passes the mask it begins on one (SPEC 6.1).
    fn aligned(&self, request: &Request, granule: Option<u64>) -> Request {
        let Some(granule) = granule else { return *request };
        match self.era.iommu {
            IommuRule::Nothing => *request,
            IommuRule::Unaligned => {
                Request { size: request.size.checked_next_multiple_of(granule).unwrap_or(request.size), ..*request }
            }
            IommuRule::Granules => Request { align_mask: request.align_mask | (granule - 1), ..*request },
        }
    }

    /// Takes slots, as `swiotlb_tbl_map_single()` does: whether the device reaches them is not asked.
    ///
    /// # Errors
    /// That there were none; [`Allocator::cause`] says why.
    #[inline(always)]
    pub fn allocate(&mut self, request: &Request, limits: &Limits) -> Result<Taken, Stop> {
        match self.allocator.take(request, limits) {
            Err(stop) if self.fallback != Fallback::None => self.fall_back(request, limits, stop),
            answer => answer,
        }
    }

    /// Who asks through [`Machine::allocate_known`], if requests need no more thought than that.
    pub(crate) fn know(&self, limits: &Limits) -> Option<Known> {
        if self.fallback == Fallback::None { self.allocator.know(limits) } else { None }
    }

    /// As [`Machine::allocate`], for a device that is known.
    ///
    /// # Errors
    /// As [`Machine::allocate`].
    #[inline(always)]
    pub(crate) fn allocate_known(&mut self, known: &Known, request: &Request) -> Result<Taken, Stop> {
        self.allocator.take_known(known, request)
    }

    /// Gives back what a known device was given.
    #[inline(always)]
    pub(crate) fn release_known(&mut self, pool: usize, run: Run) {
        self.allocator.release_known(pool, run);
    }

    /// Asks the other pool, if the request may go there. What is told of a refusal is the device's own pool's.
    fn fall_back(&mut self, request: &Request, limits: &Limits, stop: Stop) -> Result<Taken, Stop> {
        let Some(other) = self.other_pool(limits) else { return Err(stop) };
        self.allocator.send_to(Some(other));
        let answer = self.allocator.take(request, limits);
        self.allocator.send_to(None);
        answer.map_err(|_| stop)
    }

    /// The pool a request falls back to, if any (SPEC 11, what-if).
    fn other_pool(&self, limits: &Limits) -> Option<usize> {
        let high = self.allocator.pools().get(1)?.geometry();
        let last = high.start + (high.nslabs * SLOT_BYTES).saturating_sub(1);
        match (self.allocator.pool_for(limits), self.fallback) {
            (1, Fallback::HiLo | Fallback::Both) => Some(0),
            (0, Fallback::LoHi | Fallback::Both) => {
                Some(1).filter(|_| limits.capable(self.bus_of_pool(1, last, limits), 1))
            }
            _ => None,
        }
    }

    /// Maps through the pool whatever the device reaches of the buffer, as `swiotlb_map()` does (SPEC 6.2).
    ///
    /// # Errors
    /// That it was refused; [`Allocator::cause`] says why.
    pub fn bounce(&mut self, request: &Request, limits: &Limits, reason: Reason) -> Result<Mapped, Stop> {
        self.bounce_behind(request, limits, reason, self.platform.spec().iommu.is_some())
    }

    /// As [`Machine::bounce`]; an IOMMU maps the bounce buffer to where the device reaches it.
    #[inline]
    fn bounce_behind(
        &mut self,
        request: &Request,
        limits: &Limits,
        reason: Reason,
        iommu: bool,
    ) -> Result<Mapped, Stop> {
        let high_water = self.allocator.high_water();
        let taken = match self.allocate(request, limits) {
            Ok(taken) => taken,
            Err(stop) => {
                self.check_refused(request, limits);
                return Err(stop);
            }
        };
        let dma_addr = match iommu {
            true => self.frame_of_pool(taken.pool as usize, taken.tlb_addr),
            false => self.bus_of_pool(taken.pool as usize, taken.tlb_addr, limits),
        };
        if !iommu && !limits.capable(dma_addr, request.size) {
            self.allocator.undo(&taken, limits, high_water);
            return Err(Stop::AboveMask);
        }
        self.check_accepted(&taken, dma_addr, limits);
        Ok(Mapped::Bounced { dma_addr, taken, reason })
    }

    /// Gives a bounce buffer back; `false` when no allocation begins there.
    pub fn unmap(&mut self, taken: &Taken, limits: &Limits) -> bool {
        self.unmap_at(taken.tlb_addr, limits)
    }

    /// Gives back the bounce buffer at an address; `false` when no allocation begins there.
    #[inline(always)]
    pub fn unmap_at(&mut self, tlb_addr: u64, limits: &Limits) -> bool {
        self.allocator.unmap(tlb_addr, limits).is_some()
    }

    /// Undoes a mapping as Xen's operations do: they know the bus address only, and go back from it (SPEC 10.3, 10.8).
    /// A frame that has changed hands is not found, and its slots stay taken. `tlb_addr` is the bounce buffer if there
    /// is one; it serves where the pool's frames are assumed, which are in no table.
    pub fn unmap_from_bus(&mut self, dma_addr: u64, tlb_addr: Option<u64>, limits: &Limits) -> bool {
        let assumed = |tlb_addr: &u64| {
            let pool = self.allocator.pools().iter().position(|pool| pool.contains(*tlb_addr));
            pool.is_some_and(|pool| self.assumed_base(pool).is_some())
        };
        let found = tlb_addr.filter(assumed).or_else(|| self.pool_address(dma_addr, limits));
        found.is_some_and(|tlb_addr| self.unmap_at(tlb_addr, limits))
    }

    fn assumed_base(&self, pool: usize) -> Option<u64> {
        self.assumed.get(pool).copied().flatten()
    }

    /// The bus address of an address in a pool, as a device's bus sees it; all ones where it does not.
    fn bus_of_pool(&self, pool: usize, tlb_addr: u64, limits: &Limits) -> u64 {
        limits.bus(self.frame_of_pool(pool, tlb_addr))
    }

    /// The machine address of an address in a pool.
    fn frame_of_pool(&self, pool: usize, tlb_addr: u64) -> u64 {
        let frame = match (&self.platform.frames, self.assumed_base(pool)) {
            (Frames::Identity, _) => return tlb_addr,
            (_, Some(base)) => return base + (tlb_addr - self.allocator.pools()[pool].geometry().start),
            (Frames::Pv(p2m), None) => p2m.span(tlb_addr / PAGE, 1).mfn,
            (Frames::Arm(tree), None) => tree.bfn(tlb_addr / PAGE),
        };
        (frame << 12) | (tlb_addr % PAGE)
    }

    /// The physical address of a device's bus address that the kernel finds to lie in a pool (SPEC 10.3, 10.8).
    pub(crate) fn pool_address(&self, dma_addr: u64, limits: &Limits) -> Option<u64> {
        self.phys(dma_addr, limits).filter(|&phys| self.allocator.pool_at(phys).is_some())
    }

    /// The (pseudo-)physical address of a device's bus address, as the kernel looks it up.
    pub(crate) fn phys(&self, dma_addr: u64, limits: &Limits) -> Option<u64> {
        let dma_addr = limits.ranges.to_cpu(dma_addr)?;
        let frame = dma_addr / PAGE;
        let pfn = match &self.platform.frames {
            Frames::Identity => Some(frame),
            Frames::Pv(p2m) => p2m.local_pfn(frame),
            Frames::Arm(tree) => Some(frame).filter(|&pfn| tree.is_valid(pfn)),
        };
        Some(pfn?.wrapping_mul(PAGE) | (dma_addr % PAGE))
    }

    /// The arithmetic behind a refusal just given; nothing may have changed in between.
    pub fn explain(&mut self, request: &Request, limits: &Limits, refused: &Refused) -> Refusal {
        let mut refusal = self.allocator.explain(&self.aligned(request, refused.granule), limits, refused.cause);
        let last = request.size.wrapping_sub(1);
        // What was asked for, not the whole granules that are sought.
        refusal.size = request.size;
        refusal.forbidden = refused.forbidden;
        refusal.out_of_reach = match refused.cause {
            Cause::NotAddressable => {
                let first = self.look_up(request, limits).dma_addr;
                Some((if first == u64::MAX { first } else { first.wrapping_add(last) }, limits.reach))
            }
            Cause::PoolAboveMask => {
                let pool = self.allocator.pool_for(limits);
                let end = self.allocator.pools().get(pool).map_or(0, |p| p.geometry().end());
                Some((limits.bus(end.wrapping_sub(1)), limits.reach))
            }
            _ => None,
        };
        refusal
    }
}
