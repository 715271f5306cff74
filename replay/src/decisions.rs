//! The model as a checker of a recorded kernel's bounce decisions: for every mapping, whether it bounces and why by the
//! rules of its platform (SPEC 6.1, 10.1), beside what the kernel did.
//!
//! Each decision is judged alone: which slots are free plays no part in it. That a mapping bounced is told by the address
//! its device was given, which lies in the pool; behind an IOMMU, whose addresses tell nothing, by its slot allocation.

use std::collections::{HashMap, HashSet};

use trace::{Device, Direction, Event, Op, Pool};

use crate::beside::Beside;
use crate::machine::{Foreseen, Machine, Reason, Terms};
use crate::plan::{Limits, Request};
use crate::refusal::Refusal;
use crate::tie::unread;

/// How many misses of each kind are kept as examples.
const EXAMPLES: usize = 3;

trace::words! {
    /// What is wrong with a prediction.
    pub enum WrongDecision {
        /// The kernel bounced what the rules let through.
        Bounced = "bounced",
        /// The kernel let through what the rules bounce.
        Direct = "direct",
        /// Neither bounced it, but the kernel gave the device another address.
        Elsewhere = "elsewhere",
        /// The kernel refused what the rules let through without a bounce.
        Refused = "refused",
        /// The kernel served what the rules refuse.
        Served = "served",
    }
}

/// A wrong prediction of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionExample {
    /// What is wrong.
    pub wrong: WrongDecision,
    /// When, in the trace's nanoseconds.
    pub time_ns: u64,
    /// Key in the trace's device table.
    pub device: u32,
    /// Address of the buffer.
    pub orig_addr: u64,
    /// Bytes.
    pub size: u64,
    /// What the rules make of it.
    pub foreseen: Foreseen,
    /// The address the kernel gave the device; nothing when it refused.
    pub dma_addr: Option<u64>,
}

/// How well a platform's rules predict a recorded kernel's bounce decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Mappings judged, refused ones included.
    pub total: u64,
    /// Foreseen exactly: bounced or not, and if not, at that very address.
    pub exact: u64,
    /// Exact ones that bounced, by reason in the order of [`Reason::ALL`].
    pub bounced: [u64; Reason::ALL.len()],
    /// Exact ones that did not.
    pub direct: u64,
    /// Exact ones that were refused.
    pub refused: u64,
    /// Wrong ones, in the order of [`WrongDecision::ALL`].
    pub wrong: [u64; WrongDecision::ALL.len()],
    /// The first wrong ones of each kind.
    pub examples: Vec<DecisionExample>,
    /// Not judged: without a buffer's address or a direction, of an unknown device, elements of a refused scatterlist
    /// (which of them was to blame is not told), on frames that are not in the table, by a bus that sees memory nobody
    /// can read where, or behind an IOMMU: refused by it, or bounced, in a trace that does not tell.
    pub unjudged: u64,
}

impl Decisions {
    /// The share foreseen exactly; 1 when there was nothing to foresee.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.total == 0 { 1.0 } else { self.exact as f64 / self.total as f64 }
    }
}

/// Compares the decisions a machine would take with the recorded ones. The machine's pool must be the recorded default one; `pools`
/// are all that were found.
#[must_use]
pub fn decisions<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    devices: &[Device],
    pools: &[Pool],
    machine: &Machine,
) -> Decisions {
    let mut judge = Judge::new(devices, pools, machine.clone());
    for event in events {
        judge.push(event);
    }
    judge.finish()
}

/// The same as events are read, for who wants to know each decision.
#[derive(Clone, Debug)]
pub struct Judge {
    machine: Machine,
    beside: Beside,
    devices: HashMap<u32, (Limits, Terms)>,
    /// Devices whose ranges cannot be read.
    shifted: HashSet<u32>,
    /// Buffers with slots whose mapping is still to come, of devices behind an IOMMU: device and address.
    slots: HashSet<(u32, u64)>,
    /// The trace has slot allocations.
    has_slots: bool,
    told: Decisions,
}

/// A mapping, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether it bounced, by the address its device was given.
    pub bounced: bool,
    /// What the rules make of it; nothing when it cannot be judged.
    pub foreseen: Option<Foreseen>,
}

impl Judge {
    /// Of mappings of these devices on a machine, whose pool must be the recorded default one; `pools` are all that were found.
    #[must_use]
    pub fn new(devices: &[Device], pools: &[Pool], machine: Machine) -> Self {
        let (shifted, beside) = (unread(devices), Beside::new(pools, devices));
        let devices = devices.iter().map(|d| (d.id, (Limits::from(d), Terms::of_device(d)))).collect();
        let (slots, has_slots) = (HashSet::new(), false);
        Self { machine, beside, devices, shifted, slots, has_slots, told: Decisions::default() }
    }

    /// Takes one more event; nothing comes of events that are no mappings.
    pub fn push(&mut self, event: &Event) -> Option<Judged> {
        self.beside.see(event);
        if event.op == Op::SlotAlloc {
            self.has_slots = true;
            if let Some(orig_addr) = event.orig_addr.filter(|_| self.behind_iommu(event.device)) {
                self.slots.insert((event.device, orig_addr));
            }
        }
        if !matches!(event.op, Op::Map | Op::MapFailed) {
            return None;
        }
        let bounced = self.bounced(event);
        let asked = read(event, &self.devices).filter(|_| !self.shifted.contains(&event.device));
        let foreseen = asked.and_then(|(request, limits, terms)| {
            let foreseen = self.foresee(event.device, &request, &limits, &terms)?;
            let mut address = event.dma_addr.filter(|_| event.op == Op::Map);
            if self.machine.granule(&terms).is_some() {
                match (foreseen, address) {
                    // What the IOMMU itself refused, or merged with what came before, is not the rules' to say.
                    (Foreseen::Direct(_), None) => return None,
                    // Whether it bounced no event tells.
                    (Foreseen::Bounced(_), Some(_)) if !bounced && !self.has_slots => return None,
                    // The address is the IOMMU's to choose.
                    (Foreseen::Direct(at), Some(_)) if !bounced => address = Some(at),
                    _ => {}
                }
            }
            judge(event, &request, foreseen, bounced, address, &mut self.told);
            Some(foreseen)
        });
        self.told.unjudged += u64::from(foreseen.is_none());
        Some(Judged { bounced, foreseen })
    }

    /// What the rules make of a request: of a device with a pool of its own, that it bounces (SPEC 2.7).
    fn foresee(&self, device: u32, request: &Request, limits: &Limits, terms: &Terms) -> Option<Foreseen> {
        if self.beside.forces(device) && request.size > 0 && self.machine.granule(terms).is_none() {
            return Some(Foreseen::Bounced(Reason::Forced));
        }
        self.machine.foresee(request, limits, terms)
    }

    fn behind_iommu(&self, device: u32) -> bool {
        self.devices.get(&device).is_some_and(|(_, terms)| self.machine.granule(terms).is_some())
    }

    /// Whether a mapping bounced: by its address, or behind an IOMMU by its slots.
    fn bounced(&mut self, event: &Event) -> bool {
        let dma_addr = event.dma_addr.filter(|_| event.op == Op::Map);
        if !self.behind_iommu(event.device) {
            return dma_addr.is_some_and(|addr| self.tlb_addr_of(event.device, addr).is_some());
        }
        let has_slots = event.orig_addr.is_some_and(|orig_addr| self.slots.remove(&(event.device, orig_addr)));
        dma_addr.is_some() && (has_slots || event.tlb_addr.is_some())
    }

    /// Why what an event asks for has to bounce, by the rules; nothing when it need not, or cannot be judged.
    #[must_use]
    pub fn reason(&self, event: &Event) -> Option<Reason> {
        let (request, limits, terms) = read(event, &self.devices)?;
        match self.foresee(event.device, &request, &limits, &terms)? {
            Foreseen::Bounced(reason) => Some(reason),
            Foreseen::Direct(_) | Foreseen::Refused => None,
        }
    }

    /// Why a mapping is refused before slots are sought, with its arithmetic; nothing when it is not, or cannot be judged.
    pub fn refusal(&mut self, event: &Event) -> Option<Refusal> {
        let (request, limits, terms) = read(event, &self.devices)?;
        if self.machine.foresee(&request, &limits, &terms)? != Foreseen::Refused {
            return None;
        }
        // Nothing is taken on the way to such a refusal.
        let refused = self.machine.map_on(&request, &limits, &terms).err()?;
        Some(self.machine.explain(&request, &limits, &refused))
    }

    /// The address in the pool that stands behind an address given to a device whose bus sees memory where the CPU does;
    /// nothing for a buffer of its own.
    #[must_use]
    pub fn tlb_addr(&self, dma_addr: u64) -> Option<u64> {
        self.machine.tlb_addr(dma_addr, &Limits::NONE)
    }

    /// The same for any device, by its key in the trace.
    #[must_use]
    pub fn tlb_addr_of(&self, device: u32, dma_addr: u64) -> Option<u64> {
        let limits = self.devices.get(&device).map_or(Limits::NONE, |&(limits, _)| limits);
        let beside = || self.machine.phys(dma_addr, &limits).filter(|&addr| self.beside.holds(addr));
        self.machine.tlb_addr(dma_addr, &limits).or_else(beside)
    }

    /// How well the rules did.
    #[must_use]
    pub fn finish(self) -> Decisions {
        self.told
    }
}

/// What the kernel was asked, as the models take it.
fn read(event: &Event, devices: &HashMap<u32, (Limits, Terms)>) -> Option<(Request, Limits, Terms)> {
    if event.op == Op::MapFailed && event.sg_index.is_some() {
        return None;
    }
    let &(limits, of_device) = devices.get(&event.device)?;
    let direction = event.direction.filter(|direction| *direction != Direction::None)?;
    let request = Request { orig_addr: event.orig_addr?, size: event.size?, align_mask: 0, cpu: event.cpu };
    Some((request, limits, Terms { direction, attrs: event.attrs.unwrap_or(0), ..of_device }))
}

/// `dma_addr` is the address given to the device, if it was served.
fn judge(
    event: &Event,
    request: &Request,
    foreseen: Foreseen,
    bounced: bool,
    dma_addr: Option<u64>,
    told: &mut Decisions,
) {
    told.total += 1;
    let wrong = match (foreseen, dma_addr) {
        (Foreseen::Bounced(reason), Some(_)) if bounced => {
            told.bounced[reason as usize] += 1;
            None
        }
        // A bounce for which there were no slots: whether there are is the allocator's to say.
        (Foreseen::Bounced(_) | Foreseen::Refused, None) => {
            told.refused += 1;
            None
        }
        (Foreseen::Direct(at), Some(dma_addr)) if at == dma_addr => {
            told.direct += 1;
            None
        }
        (Foreseen::Bounced(_), Some(_)) => Some(WrongDecision::Direct),
        (Foreseen::Direct(_), None) => Some(WrongDecision::Refused),
        (Foreseen::Direct(_), Some(_)) if bounced => Some(WrongDecision::Bounced),
        (Foreseen::Direct(_), Some(_)) => Some(WrongDecision::Elsewhere),
        (Foreseen::Refused, Some(_)) => Some(WrongDecision::Served),
    };
    let Some(wrong) = wrong else {
        told.exact += 1;
        return;
    };
    told.wrong[wrong as usize] += 1;
    if told.wrong[wrong as usize] <= EXAMPLES as u64 {
        let &Request { orig_addr, size, .. } = request;
        let &Event { time_ns, device, .. } = event;
        told.examples.push(DecisionExample { wrong, time_ns, device, orig_addr, size, foreseen, dma_addr });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Base, Policy};
    use crate::pool::Geometry;
    use crate::{Platform, PlatformSpec};
    use trace::pool::{P2mKind, P2mRun};

    const POOL: Geometry = Geometry { start: 0x100_0000, nslabs: 128, areas: 1 };

    fn machine(force: bool, platform: Platform) -> Machine {
        let base = Base { pool: POOL, cpus: Some(1), force };
        Machine::new(&Policy::parse("6.12").unwrap().resolve(&base).unwrap(), platform)
    }

    fn device() -> Device {
        Device {
            id: 0,
            name: "0000:00:02.0".into(),
            driver: None,
            dma_mask: Some(u64::from(u32::MAX)),
            coherent_dma_mask: u64::MAX,
            bus_dma_limit: 0,
            seg_boundary_mask: None,
            max_segment_size: None,
            min_align_mask: 0,
            ..Device::new(0, "")
        }
    }

    fn map(orig_addr: u64, dma_addr: u64) -> Event {
        let op = if dma_addr == u64::MAX { Op::MapFailed } else { Op::Map };
        Event {
            orig_addr: Some(orig_addr),
            size: Some(8192),
            dma_addr: Some(dma_addr).filter(|_| op == Op::Map),
            direction: Some(Direction::ToDevice),
            ..Event::new(op, 1, 0, 1, 0)
        }
    }

    #[test]
    fn decisions_are_right_or_named() {
        let high = 0x1_0000_0000;
        let events = [
            map(0x5000, 0x5000),     // in reach
            map(high, POOL.start),   // out of reach: bounced
            map(high, u64::MAX),     // out of reach, and no slots
            map(0x5000, POOL.start), // bounced for nothing
            map(high, high),         // not bounced
            map(0x5000, 0x6000),     // another address
            map(0x5000, u64::MAX),   // refused for nothing
            Event { sg_index: Some(0), ..map(high, u64::MAX) },
            Event { orig_addr: None, ..map(high, high) },
        ];
        let told = decisions(&events, &[device()], &[], &machine(false, Platform::native()));
        assert_eq!((told.total, told.exact, told.unjudged), (7, 3, 2));
        assert_eq!((told.direct, told.refused, told.bounced[Reason::Mask as usize]), (1, 1, 1));
        assert_eq!(told.wrong, [1, 1, 1, 1, 0]);
        let kinds: Vec<_> = told.examples.iter().map(|example| example.wrong).collect();
        assert_eq!(
            kinds,
            [WrongDecision::Bounced, WrongDecision::Direct, WrongDecision::Elsewhere, WrongDecision::Refused]
        );
        let forced = decisions(&events[..1], &[device()], &[], &machine(true, Platform::native()));
        assert_eq!((forced.exact, forced.wrong[WrongDecision::Direct as usize]), (0, 1));
    }

    /// SPEC 6.1, dma-iommu: nothing is out of reach, and the address is the IOMMU's, which may look like one in the pool.
    #[test]
    fn behind_an_iommu_its_rule_decides() {
        let high = 0x1_0000_0000;
        let behind = |id, untrusted| Device { id, iommu: Some(true), untrusted: Some(untrusted), ..device() };
        let devices = [
            behind(0, false),
            behind(1, true),
            Device { dma_ranges: Some("0x0=0xc0000000".into()), ..behind(2, true) },
        ];
        let of = |device, orig_addr, dma_addr| Event { device, ..map(orig_addr, dma_addr) };
        let slots = |orig_addr| Event { op: Op::SlotAlloc, ..of(1, orig_addr, POOL.start) };
        let told = |events: &[Event]| decisions(events, &devices, &[], &machine(true, Platform::native()));
        let good = [
            of(0, high, 0xffff_e000),    // out of reach of the mask
            of(0, high + 1, POOL.start), // not in the pool
            of(1, high, 0xffff_c000),    // whole granules
            slots(high + 64),
            of(1, high + 64, 0xffff_a000),
            of(1, high + 64, u64::MAX), // there were no slots
        ];
        let right = told(&good);
        assert_eq!((right.total, right.exact, right.direct, right.refused), (5, 5, 3, 1), "{right:?}");
        assert_eq!(right.bounced[Reason::Untrusted as usize], 1);
        // Without slot events it is not told what bounced; what the IOMMU refuses, and what a bus nobody can read sees, is
        // not judged either.
        let dark = [of(1, high + 64, 0xffff_a000), of(0, high, u64::MAX), of(2, high, high)];
        assert_eq!((told(&dark).total, told(&dark).unjudged), (0, 3));
        let wrong = told(&[slots(high), of(1, high, 0xffff_c000), of(1, high + 64, 0xffff_a000)]);
        assert_eq!((wrong.exact, wrong.wrong), (0, [1, 1, 0, 0, 0]), "{wrong:?}");
        let direct = machine(false, Platform::new(PlatformSpec::parse("native:iommu=off").unwrap()));
        assert_eq!(
            decisions(&good[..1], &devices, &[], &direct).wrong[WrongDecision::Direct as usize],
            1,
            "as if it had none"
        );
    }

    #[test]
    fn on_xen_the_frames_decide() {
        let run = |pfn, count, mfn, kind| P2mRun { pfn, mfn, count, kind };
        let pool = POOL.start >> 12;
        let runs = [
            run(pool, 64, 0x800, P2mKind::Own),
            run(0x10, 2, 0x90, P2mKind::Own),
            run(0x20, 1, 0xa0, P2mKind::Own),
            run(0x21, 1, 0xb0, P2mKind::Foreign),
        ];
        let spec = PlatformSpec::parse("xen-pv").unwrap();
        let events = [
            map(0x10_000, 0x90_000),  // frames in a row
            map(0x20_000, 0x80_0000), // frames that part, one of them foreign: bounced
            map(0x20_000, 0xa0_000),  // should have bounced
            map(0x30_000, 0x30_000),  // frames nobody knows
        ];
        let told = decisions(&events, &[device()], &[], &machine(false, Platform::recorded(spec, &runs)));
        assert_eq!((told.total, told.exact, told.unjudged), (3, 2, 1));
        assert_eq!((told.direct, told.bounced[Reason::Foreign as usize]), (1, 1));
        assert_eq!(told.wrong[WrongDecision::Direct as usize], 1);
    }
}
