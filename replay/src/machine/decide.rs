//! What becomes of a mapping: direct, through the pool, or refused (SPEC 6.1, 10.1, 10.8, 11).

use super::Machine;
use super::platform::{FrameTable, Frames, Ops};
use super::terms::{Forbidden, PAGE, Reason, Refused, Terms};
use crate::eras::{AttrRules, IommuRule, WhenOff, kmalloc_shares_lines};
use crate::p2m::Span;
use crate::param::Force;
use crate::plan::{Limits, Request};
use crate::refusal::Cause;
use trace::Direction;

/// What is to be done with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The device uses the buffer at that bus address.
    Direct(u64),
    Bounce(Reason),
    Refuse(Refused),
}

/// A buffer as the bus sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub dma_addr: u64,
    /// Its bus frames part, with the word for it.
    pub parts: Option<Reason>,
    /// Its first frame is another domain's (ARM; SPEC 10.8 compares 32 bits).
    pub foreign: bool,
    /// Some frame is not in the recorded table; it was taken for its own bus frame.
    pub unknown: bool,
}

impl Machine {
    /// Looks a buffer's frames up, and where the device's bus sees the first.
    pub(super) fn look_up(&self, request: &Request, limits: &Limits) -> Seen {
        let &Request { orig_addr: phys, size, .. } = request;
        let pages = || (phys % PAGE).saturating_add(size).div_ceil(PAGE).max(1);
        let (span, whole) = match &self.platform.frames {
            Frames::Identity => {
                return Seen { dma_addr: limits.bus(phys), parts: None, foreign: false, unknown: false };
            }
            Frames::Pv(p2m) => (p2m.span(phys / PAGE, pages()), p2m.is_whole()),
            Frames::Arm(tree) => (tree.span(phys / PAGE, pages()), true),
        };
        if span.unknown && !whole {
            return Seen { dma_addr: limits.bus(phys), parts: None, foreign: false, unknown: true };
        }
        let Span { mfn, straddles, foreign, .. } = span;
        Seen {
            dma_addr: limits.bus((mfn << 12) | (phys % PAGE)),
            parts: straddles.then_some(if foreign { Reason::Foreign } else { Reason::Straddle }),
            foreign: mfn as u32 != (phys / PAGE) as u32,
            unknown: false,
        }
    }

    /// Decides as the platform's operations do.
    pub(super) fn decide(&self, seen: &Seen, request: &Request, limits: &Limits, terms: &Terms) -> Decision {
        match (self.row.ops, self.granule(terms)) {
            (Ops::Xen, _) => self.decide_xen(seen, request, limits, terms),
            (Ops::Direct, None) => self.decide_direct(seen, request, limits, terms),
            (Ops::Direct, Some(granule)) => self.decide_iommu(granule, request, terms),
        }
    }

    /// Granule of the IOMMU a device is behind: the one the platform puts all behind, else the smallest there is, for
    /// devices recorded behind one. Where frames are looked up in a table they are behind none of the guest's.
    pub(crate) fn granule(&self, terms: &Terms) -> Option<u64> {
        let spec = self.platform.spec();
        let recorded = terms.iommu && !spec.no_iommu() && self.row.frames == FrameTable::Identity;
        spec.iommu.or(recorded.then_some(PAGE))
    }

    /// Whether a device sees the CPU's caches: as the platform was said to be, else as was recorded.
    fn is_coherent(&self, terms: &Terms) -> bool {
        let spec = self.platform.spec();
        spec.said_coherent().or(terms.coherent).unwrap_or_else(|| spec.is_coherent())
    }

    /// Xen's operations (SPEC 10.1, 10.8): they know no `noforce`, and refuse nothing but what finds no slots.
    fn decide_xen(&self, seen: &Seen, request: &Request, limits: &Limits, terms: &Terms) -> Decision {
        if terms.has(Terms::MMIO) {
            // Before 6.17 they have none for device memory, and the kernel refuses it (SPEC 10.6).
            let none = self.era.from < (6, 17);
            return if none { forbidden(Forbidden::NoResource) } else { unmoved(request, limits) };
        }
        let reason =
            self.reason(seen, request, limits, terms).or_else(|| self.kmalloc(self.era.xen_kmalloc, request, terms));
        match reason {
            Some(reason) => Decision::Bounce(reason),
            None if self.force == Force::Always => Decision::Bounce(Reason::Forced),
            None => Decision::Direct(seen.dma_addr),
        }
    }

    /// The direct mapping, in the order of SPEC 6.1's rows.
    fn decide_direct(&self, seen: &Seen, request: &Request, limits: &Limits, terms: &Terms) -> Decision {
        let newest = self.era.attrs == AttrRules::Coherent;
        let coherent_only = newest && terms.has(Terms::REQUIRE_COHERENT);
        let shared = newest && terms.has(Terms::CC_SHARED);
        let peer = self.era.refuses_p2p && terms.p2p;
        let mmio = terms.has(Terms::MMIO);
        let forced = self.force == Force::Always;
        if coherent_only && !self.is_coherent(terms) {
            return forbidden(Forbidden::Incoherent);
        }
        if shared && !forced {
            return forbidden(Forbidden::Shared);
        }
        if forced && !shared {
            if mmio && self.era.attrs != AttrRules::Resource {
                return forbidden(Forbidden::Mmio);
            }
            if coherent_only {
                return forbidden(Forbidden::Coherent);
            }
            if peer {
                return forbidden(Forbidden::Peer);
            }
        }
        if mmio {
            return unmoved(request, limits);
        }
        if shared {
            return if limits.capable(seen.dma_addr, request.size) {
                Decision::Direct(seen.dma_addr)
            } else {
                out_of_reach(Forbidden::Shared)
            };
        }
        let reason =
            self.reason(seen, request, limits, terms).or_else(|| self.kmalloc(self.era.kmalloc, request, terms));
        let Some(reason) = reason else {
            return if forced { Decision::Bounce(Reason::Forced) } else { Decision::Direct(seen.dma_addr) };
        };
        if forced {
            Decision::Bounce(reason)
        } else if coherent_only {
            forbidden(Forbidden::Coherent)
        } else if peer {
            forbidden(Forbidden::Peer)
        } else if self.can_bounce() {
            Decision::Bounce(reason)
        } else {
            refuse(if reason == Reason::Mask { Cause::NotAddressable } else { Cause::NoPool })
        }
    }

    /// Behind an IOMMU every buffer is in reach; what shares a granule with other data must not be shown to a device
    /// that is not trusted (SPEC 6.1, dma-iommu). The bus address is the IOMMU's to choose: the buffer's stands for it.
    fn decide_iommu(&self, granule: u64, request: &Request, terms: &Terms) -> Decision {
        let aligned = (request.orig_addr | request.size) & (granule - 1) == 0;
        if self.era.iommu == IommuRule::Nothing || aligned || terms.has(Terms::MMIO) {
            return Decision::Direct(request.orig_addr);
        }
        let reason =
            if terms.untrusted { Some(Reason::Untrusted) } else { self.kmalloc(self.era.kmalloc, request, terms) };
        match reason {
            Some(_) if !self.has_pool() => refuse(Cause::NoPool),
            Some(reason) => Decision::Bounce(reason),
            None => Decision::Direct(request.orig_addr),
        }
    }

    /// Why a buffer bounces on this platform whatever the kernel: out of reach, frames that part, or, on ARM, caches
    /// that nobody can flush (SPEC 10.8, `arch_need`).
    fn reason(&self, seen: &Seen, request: &Request, limits: &Limits, terms: &Terms) -> Option<Reason> {
        let flushes = self.platform.spec().flush;
        let arch_need =
            || matches!(self.platform.frames, Frames::Arm(_)) && !flushes && seen.foreign && !self.is_coherent(terms);
        if !limits.capable(seen.dma_addr, request.size) {
            Some(Reason::Mask)
        } else if self.row.straddles && seen.parts.is_some() {
            seen.parts
        } else if arch_need() {
            Some(Reason::Foreign)
        } else {
            None
        }
    }

    /// Whether it is a small kmalloc buffer that must bounce (SPEC 6.1, `kmalloc_needs_bounce`).
    fn kmalloc(&self, rule: bool, request: &Request, terms: &Terms) -> Option<Reason> {
        let rule = rule && !self.is_coherent(terms) && terms.direction != Direction::ToDevice;
        let align = self.platform.spec().kmalloc.filter(|_| rule)?;
        kmalloc_shares_lines(request.size, align).then_some(Reason::Kmalloc)
    }

    fn has_pool(&self) -> bool {
        self.allocator.pools().first().is_some_and(|pool| pool.geometry().nslabs > 0)
    }

    fn can_bounce(&self) -> bool {
        self.force != Force::Never && (self.era.when_off == WhenOff::ByMode || self.has_pool())
    }
}

/// Device memory: its address is the bus address, and it never bounces (SPEC 6.1).
fn unmoved(request: &Request, limits: &Limits) -> Decision {
    if limits.capable(request.orig_addr, request.size) {
        Decision::Direct(request.orig_addr)
    } else {
        out_of_reach(Forbidden::Mmio)
    }
}

/// Out of reach, and no copy can help.
fn out_of_reach(why: Forbidden) -> Decision {
    Decision::Refuse(Refused { cause: Cause::NotAddressable, reason: None, forbidden: Some(why), granule: None })
}

fn refuse(cause: Cause) -> Decision {
    Decision::Refuse(Refused { cause, reason: None, forbidden: None, granule: None })
}

fn forbidden(why: Forbidden) -> Decision {
    Decision::Refuse(Refused { cause: Cause::Forbidden, reason: None, forbidden: Some(why), granule: None })
}
