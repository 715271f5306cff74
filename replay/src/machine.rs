//! A machine to replay on: a policy's allocator on a platform.

use crate::allocator::{Allocator, Stop, Taken};
use crate::copies::Copies;
use crate::p2m::P2m;
use crate::param::Force;
use crate::plan::{Limits, Request};
use crate::policy::Setup;
use crate::pool::Geometry;
use crate::refusal::{Cause, Refusal};

const PAGE: u64 = 4096;

trace::words! {
    /// Why a mapping bounced. When several hold, the first of mask, foreign, straddle; `forced` only when nothing
    /// else would have made it bounce. `alignment`, `untrusted` and `kmalloc` belong to kernels and devices whose
    /// rules (SPEC 6.1) the platforms here do not have yet.
    pub enum Reason {
        /// The device does not reach the buffer.
        Mask = "mask",
        /// The buffer's machine frames do not follow one another (Xen PV).
        Straddle = "straddle",
        /// The buffer is not aligned as the device or the IOMMU needs it.
        Alignment = "alignment",
        /// The buffer's frames do not follow one another and some are another domain's (Xen PV).
        Foreign = "foreign",
        /// Everything bounces (`swiotlb=force`, encrypted guests).
        Forced = "forced",
        /// The device is not trusted with memory it shares a page with.
        Untrusted = "untrusted",
        /// A small kmalloc buffer that shares cache lines.
        Kmalloc = "kmalloc",
    }
}

trace::words! {
    /// How addresses become bus addresses.
    pub enum PlatformKind {
        /// Physical addresses are bus addresses (SPEC 6.1).
        Native = "native",
        /// A Xen PV guest: looked up frame by frame (SPEC 10.1).
        XenPv = "xen-pv",
    }
}

/// How addresses become bus addresses, with the tables it takes.
#[derive(Clone, Debug)]
pub enum Platform {
    /// Physical addresses are bus addresses.
    Native,
    /// A Xen PV guest.
    XenPv(P2m),
}

impl Platform {
    /// Which.
    #[must_use]
    pub fn kind(&self) -> PlatformKind {
        match self {
            Self::Native => PlatformKind::Native,
            Self::XenPv(_) => PlatformKind::XenPv,
        }
    }
}

/// What became of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// The device uses the buffer itself.
    Direct {
        /// Address given to the device.
        dma_addr: u64,
    },
    /// The device uses a bounce buffer.
    Bounced {
        /// Address given to the device.
        dma_addr: u64,
        /// The slots.
        taken: Taken,
        /// Why.
        reason: Reason,
    },
}

/// A refused map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why it was refused.
    pub cause: Cause,
    /// Why it would have bounced; nothing when it was refused before.
    pub reason: Option<Reason>,
}

/// A policy's allocator on a platform.
#[derive(Clone, Debug)]
pub struct Machine {
    allocator: Allocator,
    platform: Platform,
    force: Force,
    copies: &'static Copies,
    /// Machine address a pool is taken to begin at, for pools whose frames the table does not name.
    assumed: Vec<Option<u64>>,
    /// Translations that had to be assumed because the table does not name a frame.
    unknown_frames: u64,
}

impl Machine {
    /// Empty pools on a platform.
    ///
    /// On Xen PV a pool that is not the recorded one has no recorded frames. Xen's set-up makes each segment of it
    /// contiguous in machine memory, the ordinary pool's below 4 GiB (SPEC 9, 10.4); it is taken to lie at machine
    /// address 0, and `rfc64`'s second at 4 GiB.
    #[must_use]
    pub fn new(setup: &Setup, platform: Platform) -> Self {
        let known = |pool: &Geometry, p2m: &P2m| {
            let frames = (pool.nslabs / 2).max(1);
            pool.start >= setup.recorded.start
                && pool.end() <= setup.recorded.end()
                && (0..frames).step_by(64).all(|i| p2m.get(pool.start / PAGE + i).is_some())
        };
        let assumed = (0u64..).zip(&setup.pools).map(|(i, pool)| match &platform {
            Platform::XenPv(p2m) if !known(pool, p2m) => Some(i << 32),
            _ => None,
        });
        Self {
            assumed: assumed.collect(),
            allocator: Allocator::new(setup.rules, &setup.pools),
            platform,
            force: setup.force,
            copies: setup.copies,
            unknown_frames: 0,
        }
    }

    /// The allocator.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
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

    /// The frame table, to change entries as grants come and go.
    pub fn p2m_mut(&mut self) -> Option<&mut P2m> {
        match &mut self.platform {
            Platform::XenPv(p2m) => Some(p2m),
            Platform::Native => None,
        }
    }

    /// Translations that had to be assumed because a frame was not in the recorded table: the frame was then taken
    /// for its own machine frame.
    #[must_use]
    pub fn unknown_frames(&self) -> u64 {
        self.unknown_frames
    }

    /// Maps a buffer: decides whether it bounces, and takes slots if so.
    ///
    /// # Errors
    /// Why it was refused. Slots and counters are as before, but a map refused for [`Cause::PoolAboveMask`] has moved
    /// the search index, as in the kernel (SPEC 6.2).
    pub fn map(&mut self, request: &Request, limits: &Limits) -> Result<Mapped, Refused> {
        let (dma_addr, reason) = self.decide(request, limits);
        let Some(reason) = reason else { return Ok(Mapped::Direct { dma_addr }) };
        if reason == Reason::Mask && self.force == Force::Never {
            return Err(Refused { cause: Cause::NotAddressable, reason: None });
        }
        self.bounce(request, limits, reason).map_err(|stop| {
            let cause = self.allocator.cause(request, limits, stop);
            Refused { cause, reason: Some(reason) }
        })
    }

    /// Takes slots, as `swiotlb_tbl_map_single()` does: whether the device reaches them is not asked.
    ///
    /// # Errors
    /// That there were none; [`Allocator::cause`] says why.
    #[inline]
    pub fn allocate(&mut self, request: &Request, limits: &Limits) -> Result<Taken, Stop> {
        self.allocator.take(request, limits)
    }

    /// Maps through the pool whatever the device reaches of the buffer, as `swiotlb_map()` does (SPEC 6.2).
    ///
    /// # Errors
    /// That it was refused; [`Allocator::cause`] says why.
    pub fn bounce(&mut self, request: &Request, limits: &Limits, reason: Reason) -> Result<Mapped, Stop> {
        let high_water = self.allocator.high_water();
        let taken = self.allocator.take(request, limits)?;
        let dma_addr = self.bus_of_pool(&taken);
        if !limits.capable(dma_addr, request.size) {
            self.allocator.undo(&taken, limits, high_water);
            return Err(Stop::AboveMask);
        }
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

    /// The bus address of the buffer itself and why it bounces, if it does (SPEC 6.1, 10.1).
    fn decide(&mut self, request: &Request, limits: &Limits) -> (u64, Option<Reason>) {
        let &Request { orig_addr: phys, size, .. } = request;
        let mut dma_addr = phys;
        let mut natural = None;
        if let Platform::XenPv(p2m) = &self.platform {
            let pages = (phys % PAGE).saturating_add(size).div_ceil(PAGE).max(1);
            let span = p2m.span(phys / PAGE, pages);
            if span.unknown && !p2m.is_whole() {
                self.unknown_frames += 1;
            } else {
                dma_addr = (span.mfn << 12) | (phys % PAGE);
                natural = match (span.straddles, span.foreign) {
                    (false, _) => None,
                    (true, false) => Some(Reason::Straddle),
                    (true, true) => Some(Reason::Foreign),
                };
            }
        }
        if !limits.capable(dma_addr, size) {
            natural = Some(Reason::Mask);
        }
        (dma_addr, natural.or((self.force == Force::Always).then_some(Reason::Forced)))
    }

    fn bus_of_pool(&self, taken: &Taken) -> u64 {
        let tlb = taken.tlb_addr;
        let pool = usize::from(taken.pool);
        match (&self.platform, self.assumed.get(pool).copied().flatten()) {
            (Platform::Native, _) => tlb,
            (Platform::XenPv(_), Some(base)) => base + (tlb - self.allocator.pools()[pool].geometry().start),
            (Platform::XenPv(p2m), None) => (p2m.span(tlb / PAGE, 1).mfn << 12) | (tlb % PAGE),
        }
    }

    /// Whether the kernel, given back a bus address, finds that it lies in a pool (SPEC 10.3).
    #[must_use]
    pub fn finds_pool(&self, dma_addr: u64) -> bool {
        let phys = match &self.platform {
            Platform::Native => Some(dma_addr),
            Platform::XenPv(p2m) => p2m.local_pfn(dma_addr / PAGE).map(|pfn| pfn.wrapping_mul(PAGE)),
        };
        phys.is_some_and(|phys| self.allocator.pools().iter().any(|pool| pool.contains(phys)))
    }

    /// The arithmetic behind a refusal just given; nothing may have changed in between.
    pub fn explain(&mut self, request: &Request, limits: &Limits, refused: &Refused) -> Refusal {
        let mut refusal = self.allocator.explain(request, limits, refused.cause);
        let last = request.size.wrapping_sub(1);
        refusal.out_of_reach = match refused.cause {
            Cause::NotAddressable => Some((self.decide(request, limits).0.wrapping_add(last), limits.reach)),
            Cause::PoolAboveMask => {
                let pool = self.allocator.pool_for(limits);
                let end = self.allocator.pools().get(pool).map_or(0, |p| p.geometry().end());
                Some((end.wrapping_sub(1), limits.reach))
            }
            _ => None,
        };
        refusal
    }
}
