//! Event scripts and their answers: the text formats in which real kernels' answers are kept, so that anybody can
//! compare byte for byte. A script is a list of requests; [`Script::answers`] writes what a policy says to each.
//!
//! Plain sets (`map`, `smap`, `unmap`) ask the slot allocator, Xen sets (`xmap`, `xunmap`) the whole decision of a
//! guest of Xen. Dynamic sets (`region`, `work`) also say where new pools' pages come from and when the growth worker
//! runs; see [`dynamic`] for what a policy without pools that grow makes of them.

mod dynamic;
mod platform;
mod read;

use std::fmt::{self, Write};

use crate::allocator::Allocator;
use crate::machine::{FrameTable, Machine, Mapped, PlatformKind, PlatformSpec, Reason};
use crate::pages::Buddy;
use crate::param;
use crate::plan::{Limits, Request};
use crate::policy::{Base, Policy, PolicyError};
use crate::pool::Geometry;
use crate::refusal::Cause;
use platform::{Told, change};
use read::{Fields, Reader};
use trace::pool::P2mKind;

/// A script that cannot be read, or not be played to this policy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// A line that is none of the format's.
    #[error("line {line}: {what}; the format is described beside the vectors, in their README")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The script is for another kind of platform.
    #[error("these requests are for platform {told}, not for {asked}; leave --platform out")]
    Platform {
        /// What was asked for.
        asked: PlatformSpec,
        /// What the script's lines are for.
        told: PlatformKind,
    },
    /// There is no `pool` line.
    #[error("the script has no `pool` line; it must say where the pool is before the first map")]
    NoPool,
    /// The policy does not fit.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The answers could not be written.
    #[error("the answers could not be written")]
    Write(#[from] fmt::Error),
}

/// A script in memory.
#[derive(Clone, Debug)]
pub struct Script {
    pool: Geometry,
    /// `opt,force,1`.
    force: bool,
    /// A Xen set: other header, other lines.
    xen: bool,
    platform: PlatformSpec,
    told: Told,
    /// Where pages for new pools come from.
    region: Buddy,
    steps: Vec<Step>,
    /// The names the script gives its mappings, by the dense number used in `steps`.
    ids: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map { kind: Kind, id: u32, request: Request, limits: Limits },
    Unmap { kind: Kind, id: u32 },
    P2m { pfn: u64, mfn: u64, count: u64, kind: P2mKind },
    M2p { mfn: u64, pfn: u64, count: u64 },
    P2mSize(u64),
    Work,
    Mark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Map,
    Smap,
    Xmap,
}

impl Kind {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Map => ("map", "unmap"),
            Self::Smap => ("smap", "unmap"),
            Self::Xmap => ("xmap", "xunmap"),
        }
    }
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// [`ScriptError`] with the line's number.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let mut reader = Reader::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                reader.line(&mut Fields { line: number + 1, fields: line.split(',') })?;
            }
        }
        let Reader { pool, force, xen, told, region, steps, ids, .. } = reader;
        let pool = pool.ok_or(ScriptError::NoPool)?;
        let xen = xen.unwrap_or(false);
        let platform = if xen { told.xen() } else { PlatformSpec::new(PlatformKind::Native) };
        Ok(Self { pool, force, xen, platform, told, region, steps, ids })
    }

    /// Whether the script asks for the whole decision of a guest of Xen.
    #[must_use]
    pub fn is_xen(&self) -> bool {
        self.xen
    }

    /// Maps and unmaps in the script.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.iter().filter(|s| matches!(s, Step::Map { .. } | Step::Unmap { .. })).count()
    }

    /// Whether the script asks nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The machine a policy makes of the script's pool. The script says what was asked of the kernel at boot, so
    /// each policy rounds it its own way.
    ///
    /// # Errors
    /// When the pools cannot be simulated.
    pub fn machine(&self, policy: &Policy) -> Result<Machine, ScriptError> {
        let (nslabs, areas) = param::round(policy.rules(), self.pool.nslabs, self.pool.areas);
        let pool = Geometry { nslabs, areas, ..self.pool };
        let setup = policy.resolve(&Base { pool, cpus: Some(self.pool.areas), force: self.force })?;
        let mut machine = Machine::new(&setup, self.initial_platform());
        dynamic::prepare(&mut machine, &self.region);
        Ok(machine)
    }

    /// Replays the script and writes the answers, header line included.
    ///
    /// # Errors
    /// When the policy does not fit or the answers cannot be written.
    pub fn answers(&self, policy: &Policy, out: &mut impl Write) -> Result<(), ScriptError> {
        let mut machine = self.machine(policy)?;
        self.header(policy, &machine, out)?;
        let mut live: Vec<Option<Live>> = vec![None; self.ids.len()];
        for step in &self.steps {
            match *step {
                Step::Map { kind, id, request, limits } => {
                    let answer = map(&mut machine, kind, &request, &limits);
                    dynamic::write_pages(&mut machine, out)?;
                    write_map(out, kind, self.ids[id as usize], answer, machine.allocator())?;
                    live[id as usize] = answer.ok().map(|mapped| Live { mapped, limits });
                }
                Step::Unmap { kind, id } => {
                    let (name, blanks) = (kind.words().1, if kind == Kind::Xmap { ",," } else { "," });
                    let skip = match live[id as usize].take() {
                        Some(live) => {
                            unmap(&mut machine, kind, live);
                            ""
                        }
                        None => "SKIP",
                    };
                    dynamic::write_pages(&mut machine, out)?;
                    writeln!(out, "{name},{},{skip}{blanks},{}", self.ids[id as usize], machine.allocator().used())?;
                }
                Step::Work => dynamic::work(&mut machine, out)?,
                Step::Mark => {}
                ref table => {
                    if !change(machine.platform_mut(), table) {
                        writeln!(out, "p2m,EEXIST")?;
                    }
                }
            }
        }
        write!(out, "end,{}", machine.allocator().used())?;
        if !self.xen {
            write!(out, ",{}", machine.allocator().high_water())?;
        }
        writeln!(out)?;
        Ok(())
    }

    fn header(&self, policy: &Policy, machine: &Machine, out: &mut impl Write) -> fmt::Result {
        let id = policy.rules().id;
        let pools = machine.allocator().pools();
        let Some(pool) = pools.first() else { return Ok(()) };
        let Geometry { start, nslabs, areas } = *pool.geometry();
        if self.xen {
            let force = u8::from(self.force);
            let arch = if self.platform.row().frames == FrameTable::Arm { "arm" } else { "x86-pv" };
            return writeln!(
                out,
                "# xen swiotlb answers v1 kernel={id} arch={arch} base={start:x} nslabs={nslabs} nareas={areas} force={force}"
            );
        }
        let area = pool.area_slots();
        write!(
            out,
            "# swiotlb answers v1 kernel={id} base={start:x} nslabs={nslabs} nareas={areas} area_nslabs={area} dynamic={}",
            u8::from(machine.allocator().grows())
        )?;
        if let Some(high) = pools.get(1) {
            let Geometry { start, nslabs, .. } = *high.geometry();
            write!(out, " hi_base={start:x} hi_nslabs={nslabs}")?;
        }
        writeln!(out)
    }
}

#[derive(Clone, Copy, Debug)]
struct Live {
    mapped: Mapped,
    limits: Limits,
}

fn map(machine: &mut Machine, kind: Kind, request: &Request, limits: &Limits) -> Result<Mapped, Cause> {
    match kind {
        Kind::Map => {
            let taken = machine.allocate(request, limits)?;
            Ok(Mapped::Bounced { dma_addr: taken.tlb_addr, taken, reason: Reason::Forced })
        }
        Kind::Smap => machine.bounce(request, limits, Reason::Forced),
        Kind::Xmap => machine.map(request, limits).map_err(|refused| refused.cause),
    }
}

fn unmap(machine: &mut Machine, kind: Kind, live: Live) {
    match (kind, live.mapped) {
        (Kind::Xmap, mapped) => {
            machine.unmap_from_bus(&mapped, &live.limits);
        }
        (_, Mapped::Bounced { taken, .. }) => {
            machine.unmap(&taken, &live.limits);
        }
        (_, Mapped::Direct { .. }) => {}
    }
}

fn write_map(
    out: &mut impl Write,
    kind: Kind,
    id: u64,
    answer: Result<Mapped, Cause>,
    allocator: &Allocator,
) -> fmt::Result {
    let (word, used) = (kind.words().0, allocator.used());
    match (kind, answer) {
        (Kind::Xmap, Ok(Mapped::Direct { dma_addr })) => writeln!(out, "{word},{id},DIRECT,{dma_addr:x},,{used}"),
        (Kind::Xmap, Ok(Mapped::Bounced { dma_addr, taken, .. })) => {
            writeln!(out, "{word},{id},BOUNCE,{dma_addr:x},{:x},{used}", taken.tlb_addr)
        }
        (_, Ok(Mapped::Bounced { taken, .. })) => {
            write!(out, "{word},{id},{:x},{},{used}", taken.tlb_addr, taken.first_slot)?;
            dynamic::write_pool(&taken, allocator, out)?;
            writeln!(out)
        }
        (_, Ok(Mapped::Direct { dma_addr })) => writeln!(out, "{word},{id},{dma_addr:x},,{used}"),
        (_, Err(cause)) => {
            let refused = if cause == Cause::Livelock { "HANG" } else { "FAIL" };
            let blanks = if kind == Kind::Xmap { ",,," } else { ",," };
            writeln!(out, "{word},{id},{refused}{blanks}{used}")
        }
    }
}
