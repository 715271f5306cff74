//! Event scripts and their answers: the text formats in which real kernels' answers are kept, so that anybody can
//! compare byte for byte. A script is a list of requests; [`Script::answers`] writes what a policy says to each.
//!
//! Plain sets (`map`, `smap`, `unmap`) ask the slot allocator, Xen sets (`xmap`, `xunmap`) the whole decision of a
//! PV guest.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::str::FromStr;

use crate::machine::{Machine, Mapped, Platform, Reason};
use crate::p2m::P2m;
use crate::param;
use crate::plan::{Limits, Request};
use crate::policy::{Base, Policy, PolicyError};
use crate::pool::Geometry;
use crate::refusal::Cause;
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
    /// A kind of script that is not modelled.
    #[error("line {line}: {what}; only scripts for one fixed pool and for Xen PV (x86) can be replayed")]
    Unsupported {
        /// Line number, from 1.
        line: usize,
        /// What it would take.
        what: &'static str,
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
        let Reader { pool, force, xen, steps, ids, .. } = reader;
        let pool = pool.ok_or(ScriptError::NoPool)?;
        Ok(Self { pool, force, xen: xen.unwrap_or(false), steps, ids })
    }

    /// Whether the script asks for a PV guest's whole decision.
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
        let platform = if self.xen { Platform::XenPv(self.initial_p2m()) } else { Platform::Native };
        Ok(Machine::new(&setup, platform))
    }

    /// The frame table as it stands before the first map.
    fn initial_p2m(&self) -> P2m {
        let mut p2m = P2m::new();
        for step in self.steps.iter().take_while(|s| !matches!(s, Step::Map { .. })) {
            change(&mut p2m, step);
        }
        p2m
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
                    write_map(out, kind, self.ids[id as usize], answer, machine.allocator().used())?;
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
                    writeln!(out, "{name},{},{skip}{blanks},{}", self.ids[id as usize], machine.allocator().used())?;
                }
                Step::Mark => {}
                ref table => {
                    if let Some(p2m) = machine.p2m_mut() {
                        change(p2m, table);
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
            return writeln!(
                out,
                "# xen swiotlb answers v1 kernel={id} arch=x86-pv base={start:x} nslabs={nslabs} nareas={areas} force={force}"
            );
        }
        let area = pool.area_slots();
        write!(
            out,
            "# swiotlb answers v1 kernel={id} base={start:x} nslabs={nslabs} nareas={areas} area_nslabs={area} dynamic=0"
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
    match live.mapped {
        Mapped::Bounced { dma_addr, taken, .. } => {
            // The kernel goes back from the bus address, so a frame that has changed hands is not found (SPEC 10.3).
            let found = kind != Kind::Xmap || machine.finds_pool(dma_addr);
            if found {
                machine.unmap(&taken, &live.limits);
            }
        }
        Mapped::Direct { .. } => {}
    }
}

fn write_map(out: &mut impl Write, kind: Kind, id: u64, answer: Result<Mapped, Cause>, used: u64) -> fmt::Result {
    let word = kind.words().0;
    match (kind, answer) {
        (Kind::Xmap, Ok(Mapped::Direct { dma_addr })) => writeln!(out, "{word},{id},DIRECT,{dma_addr:x},,{used}"),
        (Kind::Xmap, Ok(Mapped::Bounced { dma_addr, taken, .. })) => {
            writeln!(out, "{word},{id},BOUNCE,{dma_addr:x},{:x},{used}", taken.tlb_addr)
        }
        (_, Ok(Mapped::Bounced { taken, .. })) => {
            writeln!(out, "{word},{id},{:x},{},{used}", taken.tlb_addr, taken.first_slot)
        }
        (_, Ok(Mapped::Direct { dma_addr })) => writeln!(out, "{word},{id},{dma_addr:x},,{used}"),
        (_, Err(cause)) => {
            let refused = if cause == Cause::Livelock { "HANG" } else { "FAIL" };
            let blanks = if kind == Kind::Xmap { ",,," } else { ",," };
            writeln!(out, "{word},{id},{refused}{blanks}{used}")
        }
    }
}

fn change(p2m: &mut P2m, step: &Step) {
    match *step {
        Step::P2m { pfn, mfn, count, kind } => p2m.set(pfn, mfn, count, kind),
        Step::M2p { mfn, pfn, count } => p2m.set_m2p(mfn, pfn, count),
        Step::P2mSize(size) => p2m.set_size(size),
        _ => {}
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    pool: Option<Geometry>,
    force: bool,
    xen: Option<bool>,
    devices: HashMap<u64, Limits>,
    steps: Vec<Step>,
    ids: Vec<u64>,
    numbers: HashMap<u64, u32>,
}

impl Reader {
    fn line(&mut self, f: &mut Fields<'_>) -> Result<(), ScriptError> {
        match f.fields.next().unwrap_or("") {
            "pool" => {
                let (start, nslabs, areas) = (f.hex("base")?, f.dec("slots")?, f.dec("areas")?);
                self.pool = Some(Geometry { start, nslabs, areas });
            }
            "dev" => {
                let number = f.dec("device")?;
                let (reach, min_align_mask) = (f.hex("dma_mask")?, f.hex("min_align_mask")?);
                // 0 is the kernel's default, not "none" (that is all ones).
                let boundary = match f.hex("seg_boundary_mask")? {
                    0 => 0xffff_ffff,
                    mask => mask,
                };
                f.hex::<u64>("max_seg_size")?;
                self.devices.insert(number, Limits { reach, min_align_mask, boundary });
            }
            "map" => self.map(f, Kind::Map)?,
            "smap" => self.map(f, Kind::Smap)?,
            "xmap" => self.map(f, Kind::Xmap)?,
            "unmap" => self.unmap(f, Kind::Map)?,
            "xunmap" => self.unmap(f, Kind::Xmap)?,
            "mark" => self.steps.push(Step::Mark),
            "opt" => self.option(f)?,
            "p2m" => self.frames(f, P2mKind::Own)?,
            "foreign" => self.frames(f, P2mKind::Foreign)?,
            "ident" => {
                let (pfn, count) = (f.hex("pfn")?, f.dec("count")?);
                self.steps.push(Step::P2m { pfn, mfn: pfn, count, kind: P2mKind::Identity });
            }
            "m2p" => {
                let (mfn, pfn, count) = (f.hex("mfn")?, f.hex("pfn")?, f.dec("count")?);
                self.steps.push(Step::M2p { mfn, pfn, count });
            }
            "region" | "work" => return Err(f.unsupported("pools that grow are not modelled")),
            other => return Err(f.wrong(format!("`{other}` is not a kind of line"))),
        }
        f.end()
    }

    fn map(&mut self, f: &mut Fields<'_>, kind: Kind) -> Result<(), ScriptError> {
        self.is_of(f, kind == Kind::Xmap)?;
        let id = self.number(f)?;
        let (cpu, orig_addr, size) = (f.dec("cpu")?, f.hex("address")?, f.dec("size")?);
        let align_mask = if kind == Kind::Map { f.hex("alignment mask")? } else { 0 };
        let device = f.dec("device")?;
        let Some(&limits) = self.devices.get(&device) else {
            return Err(f.wrong(format!("device {device} has no `dev` line before this one")));
        };
        if self.pool.is_none() {
            return Err(ScriptError::NoPool);
        }
        let request = Request { orig_addr, size, align_mask, cpu };
        self.steps.push(Step::Map { kind, id, request, limits });
        Ok(())
    }

    fn unmap(&mut self, f: &mut Fields<'_>, kind: Kind) -> Result<(), ScriptError> {
        self.is_of(f, kind == Kind::Xmap)?;
        let known = self.ids.len();
        let id = self.number(f)?;
        if id as usize == known {
            return Err(f.wrong(format!("mapping {} is undone, but was never made", self.ids[known])));
        }
        self.steps.push(Step::Unmap { kind, id });
        Ok(())
    }

    fn frames(&mut self, f: &mut Fields<'_>, kind: P2mKind) -> Result<(), ScriptError> {
        let (pfn, mfn, count) = (f.hex("pfn")?, f.hex("mfn")?, f.dec("count")?);
        self.steps.push(Step::P2m { pfn, mfn, count, kind });
        Ok(())
    }

    fn option(&mut self, f: &mut Fields<'_>) -> Result<(), ScriptError> {
        let name = f.fields.next().unwrap_or("");
        match name {
            "force" => self.force = f.hex::<u64>("force")? != 0,
            "p2msize" => {
                let size = f.hex("size")?;
                self.steps.push(Step::P2mSize(size));
            }
            // How far the tables go; no decision depends on it.
            "maxpfn" | "m2psize" => {
                f.hex::<u64>("size")?;
            }
            "coherent" | "cacheflush" => return Err(f.unsupported("Xen on ARM is not modelled")),
            other => return Err(f.wrong(format!("`{other}` is not an option"))),
        }
        Ok(())
    }

    /// The dense number of the mapping named in the next field.
    fn number(&mut self, f: &mut Fields<'_>) -> Result<u32, ScriptError> {
        let id = f.dec("id")?;
        let next = u32::try_from(self.ids.len()).map_err(|_| f.wrong("too many mappings".to_owned()))?;
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next {
            self.ids.push(id);
        }
        Ok(number)
    }

    fn is_of(&mut self, f: &Fields<'_>, xen: bool) -> Result<(), ScriptError> {
        if *self.xen.get_or_insert(xen) == xen {
            Ok(())
        } else {
            Err(f.wrong("Xen maps (`xmap`) and plain ones do not mix in one script".to_owned()))
        }
    }
}

/// The fields of a line.
struct Fields<'a> {
    line: usize,
    fields: std::str::Split<'a, char>,
}

impl Fields<'_> {
    fn wrong(&self, what: String) -> ScriptError {
        ScriptError::Line { line: self.line, what }
    }

    fn unsupported(&self, what: &'static str) -> ScriptError {
        ScriptError::Unsupported { line: self.line, what }
    }

    fn dec<T: FromStr>(&mut self, name: &str) -> Result<T, ScriptError> {
        self.field(name, "a number", |text| text.parse().ok())
    }

    fn hex<T: TryFrom<u64>>(&mut self, name: &str) -> Result<T, ScriptError> {
        self.field(name, "a hexadecimal number", |text| {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            u64::from_str_radix(digits, 16).ok().and_then(|n| n.try_into().ok())
        })
    }

    fn field<T>(&mut self, name: &str, kind: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, ScriptError> {
        let Some(text) = self.fields.next() else { return Err(self.wrong(format!("the {name} is missing"))) };
        read(text.trim()).ok_or_else(|| self.wrong(format!("the {name} `{text}` is not {kind}")))
    }

    fn end(&mut self) -> Result<(), ScriptError> {
        match self.fields.next() {
            None => Ok(()),
            Some(rest) => Err(self.wrong(format!("`{rest}` is one field too many"))),
        }
    }
}
