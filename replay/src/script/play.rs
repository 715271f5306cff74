//! A script played to a machine, step by step.

use super::{Ask, Asker, Kind, Script, ScriptError, Step};
use crate::allocator::{Known, Stop, Taken};
use crate::machine::{Machine, Mapped, Reason};
use crate::plan::{Limits, Request};
use crate::policy::Policy;
use crate::pool::Run;
use crate::refusal::Cause;

/// A script being played to a machine.
pub(super) struct Play<'a> {
    script: &'a Script,
    pub machine: Machine,
    /// The devices and masks that ask, by number, side by side; none where the allocator has more to ask of each request.
    known: Vec<(Known, u64)>,
    live: Vec<Live>,
    /// Bus addresses by place; Xen sets only, elsewhere it is the bounce buffer's own.
    dma_addrs: Vec<u64>,
    /// Bounce buffers by place, where those who ask are not known.
    buffers: Vec<Buffer>,
    /// Maps played so far.
    asked: usize,
    /// Maps that were refused.
    pub refused: u64,
}

/// A bounce buffer and whose it is.
#[derive(Clone, Copy, Debug, Default)]
struct Buffer {
    tlb_addr: u64,
    asker: u32,
}

/// What is mapped at a place: which slots if those who ask are known, else whether it has a bounce buffer. Half a word,
/// since a replay waits for these more than for anything else once the mappings alive do not fit the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Live(u32);

impl Live {
    // These would be 128 slots that do not begin a segment.
    const NOTHING: Self = Self(u32::MAX);
    const DIRECT: Self = Self(u32::MAX - 1);
    const BOUNCED: Self = Self(u32::MAX - 2);
    /// Slots a pool may have: 32 GiB.
    const MOST: u64 = 1 << 24;

    /// Up to 128 slots of one of two pools.
    #[inline]
    fn slots(taken: &Taken) -> Self {
        Self(taken.first_slot | taken.pool << 24 | taken.nslots.wrapping_sub(1) << 25)
    }

    /// The pool, and which of its slots.
    #[inline]
    fn run(self) -> (usize, Run) {
        let first = u64::from(self.0) % Self::MOST;
        ((self.0 >> 24 & 1) as usize, Run { first, n: u64::from(self.0 >> 25) + 1 })
    }
}

/// What a step is answered.
pub(super) enum Answer {
    Map(Result<Mapped, Stop>),
    Unmapped,
    /// Whether the worker was woken and ran.
    Work(bool),
    /// A change of frame tables that the kernel refuses.
    Exists,
    /// Nothing was there to be undone, or nothing was asked.
    Nothing,
}

impl<'a> Play<'a> {
    pub fn new(script: &'a Script, policy: &Policy) -> Result<Self, ScriptError> {
        let machine = script.machine(policy)?;
        let pools = machine.allocator().pools();
        let packed = !script.xen && pools.len() <= 2 && pools.iter().all(|pool| pool.geometry().nslabs <= Live::MOST);
        let known = |asker: &Asker| Some((machine.know(&asker.limits)?, asker.align_mask));
        let known = if packed { script.askers.iter().map(known).collect() } else { None };
        let known: Vec<_> = known.unwrap_or_default();
        Ok(Self {
            script,
            buffers: vec![Buffer::default(); if known.is_empty() { script.alive } else { 0 }],
            known,
            machine,
            live: vec![Live::NOTHING; script.alive],
            dma_addrs: vec![0; if script.xen { script.alive } else { 0 }],
            asked: 0,
            refused: 0,
        })
    }

    /// Plays steps and drops the answers. Not generic, so that all of it is compiled together, here.
    pub fn run(&mut self, steps: &[Step]) {
        if self.known.is_empty() {
            for step in steps {
                self.step(step);
            }
            return;
        }
        let asks = &self.script.asks;
        let mut rest = &asks[self.asked..];
        for step in steps {
            // Nearly all steps of nearly all scripts, without the making of answers.
            match (*step, rest) {
                (Step::Unmap { kind: Kind::Map, place }, _) => {
                    self.release(place);
                }
                (Step::Map { kind: Kind::Map, place }, [Ask { orig_addr, size, asker, cpu }, others @ ..]) => {
                    rest = others;
                    let (&orig_addr, &size, &cpu, asker) = (orig_addr, size, cpu, *asker as usize);
                    let (known, align_mask) = &self.known[asker];
                    let request = Request { orig_addr, size, align_mask: *align_mask, cpu };
                    let taken = self.machine.allocate_known(known, &request);
                    self.refused += u64::from(taken.is_err());
                    self.live[place as usize] = taken.map_or(Live::NOTHING, |taken| Live::slots(&taken));
                }
                _ => {
                    self.asked = asks.len() - rest.len();
                    self.step(step);
                    rest = &asks[self.asked..];
                }
            }
        }
        self.asked = asks.len() - rest.len();
    }

    /// What the next map asks for.
    fn ask(&mut self) -> Ask {
        let ask = self.script.asks[self.asked];
        self.asked += 1;
        ask
    }

    /// Gives back what a known device has at a place; `false` when that is nothing.
    #[inline(always)]
    fn release(&mut self, place: u32) -> bool {
        let live = std::mem::replace(&mut self.live[place as usize], Live::NOTHING);
        if live == Live::NOTHING {
            return false;
        }
        let (pool, run) = live.run();
        self.machine.release_known(pool, run);
        true
    }

    pub fn step(&mut self, step: &Step) -> Answer {
        match *step {
            Step::Map { kind, place } => {
                let Ask { orig_addr, size, asker, cpu } = self.ask();
                let Asker { ref limits, align_mask } = self.script.askers[asker as usize];
                let mapped = self.map(kind, &Request { orig_addr, size, align_mask, cpu }, asker, limits);
                if let Some(buffer) = self.buffers.get_mut(place as usize) {
                    buffer.asker = asker;
                }
                self.live[place as usize] = match mapped {
                    Ok(Mapped::Bounced { taken, dma_addr, .. }) => {
                        self.remember(place, dma_addr);
                        match self.buffers.get_mut(place as usize) {
                            Some(buffer) => {
                                buffer.tlb_addr = taken.tlb_addr;
                                Live::BOUNCED
                            }
                            None => Live::slots(&taken),
                        }
                    }
                    Ok(Mapped::Direct { dma_addr }) => {
                        self.remember(place, dma_addr);
                        Live::DIRECT
                    }
                    Err(_) => {
                        self.refused += 1;
                        Live::NOTHING
                    }
                };
                return Answer::Map(mapped);
            }
            Step::Unmap { place, .. } if !self.known.is_empty() => {
                return if self.release(place) { Answer::Unmapped } else { Answer::Nothing };
            }
            Step::Unmap { kind, place } => {
                let Buffer { tlb_addr, asker } = self.buffers[place as usize];
                let limits = &self.script.askers[asker as usize].limits;
                let tlb_addr = match std::mem::replace(&mut self.live[place as usize], Live::NOTHING) {
                    Live::NOTHING => return Answer::Nothing,
                    Live::DIRECT => None,
                    _ => Some(tlb_addr),
                };
                if kind == Kind::Xmap {
                    self.machine.unmap_from_bus(self.dma_addrs[place as usize], tlb_addr, limits);
                } else if let Some(tlb_addr) = tlb_addr {
                    self.machine.unmap_at(tlb_addr, limits);
                }
                return Answer::Unmapped;
            }
            Step::Change(number) => {
                if !self.script.changes[number as usize].apply(self.machine.platform_mut()) {
                    return Answer::Exists;
                }
            }
            Step::Work => return Answer::Work(self.machine.allocator_mut().run_worker()),
            Step::UnmapNothing(_) | Step::Mark => {}
        }
        Answer::Nothing
    }

    fn remember(&mut self, place: u32, dma_addr: u64) {
        if let Some(known) = self.dma_addrs.get_mut(place as usize) {
            *known = dma_addr;
        }
    }

    fn map(&mut self, kind: Kind, request: &Request, asker: u32, limits: &Limits) -> Result<Mapped, Stop> {
        match kind {
            Kind::Map => {
                let taken = match self.known.get(asker as usize) {
                    Some((known, _)) => self.machine.allocate_known(known, request),
                    None => self.machine.allocate(request, limits),
                }?;
                Ok(Mapped::Bounced { dma_addr: taken.tlb_addr, taken, reason: Reason::Forced })
            }
            Kind::Smap => self.machine.bounce(request, limits, Reason::Forced),
            Kind::Xmap => self.machine.map(request, limits).map_err(|refused| match refused.cause {
                Cause::Livelock => Stop::Livelock,
                _ => Stop::Refused,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::GENERATIONS;

    /// A script of a pool mostly full, with devices of several masks.
    fn busy(seed: u64, areas: u32) -> String {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut text = format!("pool,40000000,1024,{areas}\n");
        for (number, (reach, mask, boundary)) in
            [("ffffffff", 0, 0), ("ffffffffffffffff", 0xfff, 0xf_ffff), ("ffffffff", 0x3fff, 0xffff)]
                .into_iter()
                .enumerate()
        {
            text += &format!("dev,{number},{reach},{mask:x},{boundary:x},10000\n");
        }
        let mut alive = Vec::new();
        for id in 0..3000 {
            while rng.usize(0..120) < alive.len() {
                text += &format!("unmap,{}\n", alive.swap_remove(rng.usize(0..alive.len())));
            }
            let (device, cpu, page) = (rng.u32(0..3), rng.u32(0..8), rng.u64(1..1 << 20));
            let (low, most) = (rng.u64(0..8) * 512, 512 << rng.u32(0..9));
            let size = rng.u64(1..most);
            let mask = if rng.u8(0..10) == 0 { 0x3fff } else { 0 };
            let map = if rng.u8(0..5) == 0 { "smap" } else { "map" };
            let mask = if map == "map" { format!("{mask:x},") } else { String::new() };
            text += &format!("{map},{id},{cpu},{:x},{size},{mask}{device}\n", (page << 12) + low);
            alive.push(id);
        }
        text
    }

    /// What is timed is what is answered, and who is known is served as anybody.
    #[test]
    fn all_ways_through_a_script_are_one() {
        for (seed, areas) in [(1, 1), (2, 4), (3, 1), (4, 8)] {
            let script = Script::parse(&busy(seed, areas)).unwrap();
            let policies = GENERATIONS.iter().map(|rules| rules.id.to_owned());
            let more = ["rfc64:swiotlb=1024,1024", "v6_10+dynamic", "v6_10:segment=64", "v6_10:restricted=512"]
                .map(str::to_owned);
            for id in policies.chain(more) {
                let policy = Policy::parse(&id).unwrap();
                let mut plays = [(); 3].map(|()| Play::new(&script, &policy).unwrap());
                plays[2].known.clear();
                plays[2].buffers = vec![Buffer::default(); script.alive];
                for step in &script.steps {
                    let [timed, answered, unknown] = &mut plays;
                    timed.run(std::slice::from_ref(step));
                    let (answer, other) = (answered.step(step), unknown.step(step));
                    match (answer, other) {
                        (Answer::Map(a), Answer::Map(b)) => assert_eq!(a, b, "{id}"),
                        (a, b) => assert_eq!(std::mem::discriminant(&a), std::mem::discriminant(&b), "{id}"),
                    }
                    assert_eq!((timed.refused, &timed.live), (answered.refused, &answered.live), "{id}");
                    let allocators = [timed, answered, unknown].map(|play| play.machine.allocator());
                    for allocator in &allocators[1..] {
                        assert_eq!(
                            (allocator.used(), allocator.high_water()),
                            (allocators[0].used(), allocators[0].high_water())
                        );
                        for (a, b) in allocator.pools().iter().zip(allocators[0].pools()) {
                            assert_eq!(a.areas(), b.areas(), "{id}");
                        }
                    }
                }
                for play in &plays[1..] {
                    for (a, b) in play.machine.allocator().pools().iter().zip(plays[0].machine.allocator().pools()) {
                        assert!(a.list().eq(b.list()), "{id}");
                    }
                }
            }
        }
    }
}
