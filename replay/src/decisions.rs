//! The model as a checker of a recorded kernel's bounce decisions: for every mapping, whether it bounces and why by the
//! rules of its platform (SPEC 6.1, 10.1), beside what the kernel did.
//!
//! Each decision is judged alone: which slots are free plays no part in it. That a mapping bounced is told by the address
//! its device was given, which lies in the pool.

use std::collections::HashMap;

use trace::{Device, Direction, Event, Op};

use crate::machine::{Foreseen, Machine, Reason, Terms};
use crate::plan::{Limits, Request};
use crate::refusal::Refusal;

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
    /// (which of them was to blame is not told), or on frames that are not in the table.
    pub unjudged: u64,
}

impl Decisions {
    /// The share foreseen exactly; 1 when there was nothing to foresee.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.total == 0 { 1.0 } else { self.exact as f64 / self.total as f64 }
    }
}

/// Compares the decisions a machine would take with the recorded ones. The machine's pools must be the recorded ones.
#[must_use]
pub fn decisions<'a>(events: impl IntoIterator<Item = &'a Event>, devices: &[Device], machine: &Machine) -> Decisions {
    let mut judge = Judge::new(devices, machine.clone());
    for event in events {
        judge.push(event);
    }
    judge.finish()
}

/// The same as events are read, for who wants to know each decision.
#[derive(Clone, Debug)]
pub struct Judge {
    machine: Machine,
    devices: HashMap<u32, (Limits, bool)>,
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
    /// Of mappings of these devices on a machine, whose pools must be the recorded ones.
    #[must_use]
    pub fn new(devices: &[Device], machine: Machine) -> Self {
        let devices = devices.iter().map(|d| (d.id, (Limits::from(d), d.untrusted.unwrap_or(false)))).collect();
        Self { machine, devices, told: Decisions::default() }
    }

    /// Takes one more event; nothing comes of events that are no mappings.
    pub fn push(&mut self, event: &Event) -> Option<Judged> {
        if !matches!(event.op, Op::Map | Op::MapFailed) {
            return None;
        }
        let foreseen = read(event, &self.devices).and_then(|(request, limits, terms)| {
            let foreseen = self.machine.foresee(&request, &limits, &terms)?;
            judge(event, &request, foreseen, &self.machine, &mut self.told);
            Some(foreseen)
        });
        self.told.unjudged += u64::from(foreseen.is_none());
        let bounced = event.op == Op::Map && event.dma_addr.is_some_and(|addr| self.machine.is_pool(addr));
        Some(Judged { bounced, foreseen })
    }

    /// Why what an event asks for has to bounce, by the rules; nothing when it need not, or cannot be judged.
    #[must_use]
    pub fn reason(&self, event: &Event) -> Option<Reason> {
        let (request, limits, terms) = read(event, &self.devices)?;
        match self.machine.foresee(&request, &limits, &terms)? {
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

    /// The address in the pool that stands behind an address given to a device; nothing for a buffer of its own.
    #[must_use]
    pub fn tlb_addr(&self, dma_addr: u64) -> Option<u64> {
        self.machine.tlb_addr(dma_addr)
    }

    /// How well the rules did.
    #[must_use]
    pub fn finish(self) -> Decisions {
        self.told
    }
}

/// What the kernel was asked, as the models take it.
fn read(event: &Event, devices: &HashMap<u32, (Limits, bool)>) -> Option<(Request, Limits, Terms)> {
    if event.op == Op::MapFailed && event.sg_index.is_some() {
        return None;
    }
    let &(limits, untrusted) = devices.get(&event.device)?;
    let direction = event.direction.filter(|direction| *direction != Direction::None)?;
    let request = Request { orig_addr: event.orig_addr?, size: event.size?, align_mask: 0, cpu: event.cpu };
    Some((request, limits, Terms { direction, attrs: event.attrs.unwrap_or(0), untrusted, p2p: false }))
}

fn judge(event: &Event, request: &Request, foreseen: Foreseen, machine: &Machine, told: &mut Decisions) {
    let dma_addr = event.dma_addr.filter(|_| event.op == Op::Map);
    let bounced = dma_addr.is_some_and(|dma_addr| machine.is_pool(dma_addr));
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
        let told = decisions(&events, &[device()], &machine(false, Platform::native()));
        assert_eq!((told.total, told.exact, told.unjudged), (7, 3, 2));
        assert_eq!((told.direct, told.refused, told.bounced[Reason::Mask as usize]), (1, 1, 1));
        assert_eq!(told.wrong, [1, 1, 1, 1, 0]);
        let kinds: Vec<_> = told.examples.iter().map(|example| example.wrong).collect();
        assert_eq!(
            kinds,
            [WrongDecision::Bounced, WrongDecision::Direct, WrongDecision::Elsewhere, WrongDecision::Refused]
        );
        let forced = decisions(&events[..1], &[device()], &machine(true, Platform::native()));
        assert_eq!((forced.exact, forced.wrong[WrongDecision::Direct as usize]), (0, 1));
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
        let told = decisions(&events, &[device()], &machine(false, Platform::recorded(spec, &runs)));
        assert_eq!((told.total, told.exact, told.unjudged), (3, 2, 1));
        assert_eq!((told.direct, told.bounced[Reason::Foreign as usize]), (1, 1));
        assert_eq!(told.wrong[WrongDecision::Direct as usize], 1);
    }
}
