//! Event scripts and their answers: the text formats in which real kernels' answers are kept, so that anybody can
//! compare byte for byte. A script is a list of requests; [`Script::answers`] writes what a policy says to each.
//!
//! Plain sets (`map`, `smap`, `unmap`) ask the slot allocator, Xen sets (`xmap`, `xunmap`) the whole decision of a
//! guest of Xen. Dynamic sets (`region`, `work`) also say where new pools' pages come from and when the growth worker
//! runs; `dynamic.rs` says what a policy without pools that grow makes of them.

mod dynamic;
mod platform;
mod play;
mod read;

use std::fmt::{self, Write};
use std::time::Duration;

use crate::allocator::{Allocator, Stop};
use crate::machine::{FrameTable, Machine, Mapped, Platform, PlatformKind, PlatformSpec};
use crate::pages::Buddy;
use crate::param;
use crate::plan::Limits;
use crate::policy::{Base, Policy, PolicyError};
use crate::pool::Geometry;
use platform::Told;
use play::{Answer, Play};
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
    /// The policy gives a pool of its own to devices by their names.
    #[error(
        "a file of allocator requests has no device names to hold restricted_dev={devices} against; leave that out, and all its requests go to the restricted pool"
    )]
    RestrictedDevices {
        /// Which devices.
        devices: String,
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
    /// It has maps or unmaps, whose kind settles that; else the asked platform may (README, "Xen sets").
    settled: bool,
    platform: PlatformSpec,
    told: Told,
    /// Where pages for new pools come from.
    region: Buddy,
    steps: Vec<Step>,
    /// What is asked for, of each map in order.
    asks: Vec<Ask>,
    /// What the script calls the mapping of each map and unmap, in order.
    names: Vec<u64>,
    /// Who asks, by the number used in `steps`.
    askers: Vec<Asker>,
    /// Changes of frame tables, by the number used in `steps`.
    changes: Vec<Change>,
    /// Mappings alive at once, at most.
    alive: usize,
}

/// A line that asks or changes something; 8 bytes, as a replay reads millions of them and hardly anything else that is not in a
/// cache. What more a map says are its [`Ask`].
#[derive(Clone, Copy, Debug)]
enum Step {
    /// `place` is the mapping's number among those alive; a number is used again once it has been undone.
    Map {
        kind: Kind,
        place: u32,
    },
    /// Undoes what was mapped last at `place`.
    Unmap {
        kind: Kind,
        place: u32,
    },
    /// Undoes what has been undone before or was never made, which is nothing.
    UnmapNothing(Kind),
    Change(u32),
    /// The growth worker may run.
    Work,
    Mark,
}

const _: () = assert!(size_of::<Step>() == 8);

/// What a map asks for, and who asks.
#[derive(Clone, Copy, Debug)]
struct Ask {
    orig_addr: u64,
    size: u64,
    asker: u32,
    cpu: u32,
}

/// A device, and the alignment mask its requests come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asker {
    limits: Limits,
    align_mask: u64,
}

/// A change of the frame tables.
#[derive(Clone, Copy, Debug)]
enum Change {
    P2m { pfn: u64, mfn: u64, count: u64, kind: P2mKind },
    M2p { mfn: u64, pfn: u64, count: u64 },
    P2mSize(u64),
    M2pSize(u64),
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
        let Reader { pool, force, xen, told, steps, asks, names, askers, changes, places, region, .. } = reader;
        let pool = pool.ok_or(ScriptError::NoPool)?;
        let settled = xen.is_some();
        let xen = xen.unwrap_or(told.is_of_xen() || !changes.is_empty());
        let platform = if xen { told.xen() } else { PlatformSpec::new(PlatformKind::Native) };
        let alive = places as usize;
        Ok(Self { pool, force, xen, settled, platform, told, steps, asks, names, askers, changes, alive, region })
    }

    /// Whether the script asks for the whole decision of a guest of Xen.
    #[must_use]
    pub fn is_xen(&self) -> bool {
        self.xen
    }

    /// Maps and unmaps in the script.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the script asks nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The machine a policy makes of the script's pool. The script says what was asked of the kernel at boot, so
    /// each policy rounds it its own way. A restricted pool serves all requests: scripts name no devices (SPEC 2.7).
    ///
    /// # Errors
    /// When the pools cannot be simulated, or only some devices have the restricted one.
    pub fn machine(&self, policy: &Policy) -> Result<Machine, ScriptError> {
        let (nslabs, areas) = param::round(policy.rules(), policy.boot_slabs(Some(self.pool.nslabs)), self.pool.areas);
        let pool = Geometry { nslabs, areas, ..self.pool };
        let setup = policy.resolve(&Base { pool, cpus: Some(self.pool.areas), force: self.force })?;
        let mut machine = Machine::new(&setup, self.initial_platform());
        machine.allocator_mut().take_pages_from(Box::new(self.region.clone()));
        match &setup.restricted {
            Some(restricted) if restricted.is_of_all() => machine.restrict_all(),
            Some(restricted) => {
                return Err(ScriptError::RestrictedDevices { devices: restricted.devices.as_str().to_owned() });
            }
            None => {}
        }
        Ok(machine)
    }

    /// Replays the script and writes the answers, header line included.
    ///
    /// # Errors
    /// When the policy does not fit or the answers cannot be written.
    pub fn answers(&self, policy: &Policy, out: &mut impl Write) -> Result<(), ScriptError> {
        let mut play = Play::new(self, policy)?;
        play.machine.allocator_mut().log_pages();
        self.header(policy, &play.machine, out)?;
        let mut names = self.names.iter();
        for step in &self.steps {
            let answer = play.step(step);
            dynamic::write_pages(&mut play.machine, out)?;
            let allocator = play.machine.allocator();
            let used = allocator.used();
            match (step, answer) {
                (&Step::Map { kind, .. }, Answer::Map(mapped)) => {
                    write_map(out, kind, *names.next().unwrap_or(&0), mapped, allocator)?;
                }
                (&(Step::Unmap { kind, .. } | Step::UnmapNothing(kind)), answer) => {
                    let (name, blanks) = (kind.words().1, if kind == Kind::Xmap { ",," } else { "," });
                    let skip = if matches!(answer, Answer::Nothing) { "SKIP" } else { "" };
                    writeln!(out, "{name},{},{skip}{blanks},{used}", names.next().unwrap_or(&0))?;
                }
                (_, Answer::Work(ran)) => writeln!(out, "work,{}", u8::from(ran))?,
                (_, Answer::Exists) => writeln!(out, "p2m,EEXIST")?,
                _ => {}
            }
        }
        write!(out, "end,{}", play.machine.allocator().used())?;
        if !self.xen {
            write!(out, ",{}", play.machine.allocator().high_water())?;
        }
        writeln!(out)?;
        Ok(())
    }

    /// Replays the script without writing answers, and times it on the caller's `clock`: from the `mark` line, or from
    /// the start when there is none, to the end.
    ///
    /// # Errors
    /// When the policy does not fit.
    pub fn time(&self, policy: &Policy, mut clock: impl FnMut() -> Duration) -> Result<Timing, ScriptError> {
        let mut play = Play::new(self, policy)?;
        let mark = self.steps.iter().rposition(|step| matches!(step, Step::Mark)).unwrap_or(0);
        let (before, timed) = self.steps.split_at(mark);
        play.run(before);
        let count = |which: fn(&Step) -> bool| timed.iter().filter(|step| which(step)).count() as u64;
        let maps = count(|step| matches!(step, Step::Map { .. }));
        let unmaps = count(|step| matches!(step, Step::Unmap { .. } | Step::UnmapNothing(_)));
        play.refused = 0;
        let begin = clock();
        play.run(timed);
        let elapsed = clock().saturating_sub(begin);
        Ok(Timing { maps, refused: play.refused, unmaps, elapsed })
    }

    fn header(&self, policy: &Policy, machine: &Machine, out: &mut impl Write) -> fmt::Result {
        let id = policy.rules().id;
        let pools = machine.allocator().pools();
        let Some(pool) = pools.first() else { return Ok(()) };
        let Geometry { start, nslabs, areas } = *pool.geometry();
        if self.xen {
            let force = u8::from(self.force);
            let arch = if self.platform.row().frames == FrameTable::Arm { "arm" } else { "x86-pv" };
            write!(
                out,
                "# xen swiotlb answers v1 kernel={id} arch={arch} base={start:x} nslabs={nslabs} nareas={areas} force={force}"
            )?;
        } else {
            let area = pool.area_slots();
            write!(
                out,
                "# swiotlb answers v1 kernel={id} base={start:x} nslabs={nslabs} nareas={areas} area_nslabs={area} dynamic={}",
                u8::from(machine.allocator().grows())
            )?;
        }
        if let Some(second) = pools.get(1) {
            let kind = if machine.has_restricted() { "restricted" } else { "hi" };
            let Geometry { start, nslabs, .. } = *second.geometry();
            write!(out, " {kind}_base={start:x} {kind}_nslabs={nslabs}")?;
        }
        writeln!(out)
    }
}

/// What a timed replay came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Maps behind the mark.
    pub maps: u64,
    /// Maps of these that were refused.
    pub refused: u64,
    /// Unmaps behind the mark, those of refused maps included.
    pub unmaps: u64,
    /// Time from the mark to the end.
    pub elapsed: Duration,
}

impl Timing {
    /// Nanoseconds a pair of a map and an unmap, or of any two requests; nothing when there were none.
    #[must_use]
    pub fn ns_per_pair(&self) -> Option<f64> {
        let requests = self.maps + self.unmaps;
        (requests > 0).then(|| self.elapsed.as_nanos() as f64 * 2.0 / requests as f64)
    }
}

impl Change {
    /// Enters a change into the frame table; `false` when the kernel refuses it.
    fn apply(self, platform: &mut Platform) -> bool {
        if let (Some(tree), Self::P2m { pfn, mfn, count, .. }) = (platform.tree_mut(), self) {
            return tree.insert(pfn, mfn, count);
        }
        if let Some(p2m) = platform.p2m_mut() {
            match self {
                Self::P2m { pfn, mfn, count, kind } => p2m.set(pfn, mfn, count, kind),
                Self::M2p { mfn, pfn, count } => p2m.set_m2p(mfn, pfn, count),
                Self::P2mSize(size) => p2m.set_size(size),
                Self::M2pSize(size) => p2m.set_m2p_size(size),
            }
        }
        true
    }
}

fn write_map(
    out: &mut impl Write,
    kind: Kind,
    id: u64,
    answer: Result<Mapped, Stop>,
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
        (_, Err(stop)) => {
            let refused = if stop == Stop::Livelock { "HANG" } else { "FAIL" };
            let blanks = if kind == Kind::Xmap { ",,," } else { ",," };
            writeln!(out, "{word},{id},{refused}{blanks}{used}")
        }
    }
}
