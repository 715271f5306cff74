//! Loads the object and attaches what this kernel takes.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use aya::programs::{Program as AyaProgram, ProgramError};
use aya::{Ebpf, EbpfLoader};
use flate2::read::GzDecoder;
use serde::Serialize;

use crate::backends::{Backend, Family, Hook, POOL_ADDED, POOL_USE, SOURCES, Source, Types};
use crate::error::chain;
use crate::host;
use crate::options::Mode;

/// The object built by build.rs, packed.
static OBJECT: &[u8] = include_bytes!(env!("SWIOSCOPE_PROBE_OBJECT"));

/// The object as it was before build.rs packed it, in words: ELF is read in place and must be aligned.
fn object() -> std::io::Result<Vec<u64>> {
    let mut bytes = Vec::new();
    GzDecoder::new(OBJECT).read_to_end(&mut bytes)?;
    // What is behind the end is no part of any section.
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

/// How an event is captured, and why not better.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// The event.
    pub event: &'static str,
    /// The back-end taken.
    pub backend: Option<&'static str>,
    /// What the back-end taken cannot see.
    pub caveat: Option<&'static str>,
    /// Better ones, and why each was not taken.
    pub rejected: Vec<Rejected>,
    /// What a trace lacks without the event; told when no back-end was taken.
    pub without: &'static str,
}

/// A back-end that was not taken.
#[derive(Clone, Debug, Serialize)]
pub struct Rejected {
    /// Its name.
    pub backend: &'static str,
    /// Why.
    pub why: String,
}

/// The loaded object with its programs in place.
pub struct Attached {
    /// Maps and programs.
    pub ebpf: Ebpf,
    /// How each event is captured.
    pub choices: Vec<Choice>,
}

/// What the object is told before it is loaded, and how large its maps are.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What to do.
    pub settings: probe::Settings,
    /// Names to choose devices by.
    pub globs: Box<probe::settings::Globs>,
    /// Size of the ring buffer.
    pub ring_bytes: u32,
}

/// What the names of a program's copies end with; see the probe's `again`.
const COPIES: [&str; 2] = ["_2", "_3"];
/// The program that has its copy on every kernel.
const RELEASES: &str = "release_fentry";
/// Programs whose misses are not to be counted for them: those that only note when a call begins, without which an event lacks
/// its latency; and the kprobe pair, which counts itself the calls of which it saw one end (`unpaired`), and is asked for apart.
const UNCOUNTED: [&str; 8] = [
    "alloc_pool_kprobe",
    "tbl_map_fentry",
    "map_page_fentry",
    "map_phys_fentry",
    "map_sg_fentry",
    "map_sgtable_fentry",
    "tbl_map_kprobe",
    PAIR,
];
/// The end of the kprobe pair.
const PAIR: &str = "tbl_map_kretprobe";

impl Setup {
    /// Everything, through a ring buffer of this size.
    #[must_use]
    pub fn new(ring_bytes: u32) -> Self {
        let globs = Box::new(probe::settings::Globs::EMPTY);
        Self { settings: probe::Settings::FULL, globs, ring_bytes }
    }

    /// Places for kernel stacks, a KiB of the kernel's memory each.
    fn stacks(&self) -> u32 {
        match self.settings.stacks {
            probe::settings::STACKS_ALL => 16384,
            probe::settings::STACKS_FAILURES => 1024,
            _ => 1,
        }
    }
}

/// Loads the object.
///
/// # Errors
/// When the kernel takes none of it.
pub fn load(layout: &probe::Layout, setup: &Setup) -> Result<Ebpf, String> {
    // Before 5.11 maps are charged to this limit, and the default of 64 KiB holds no ring buffer.
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is good for the call. A refusal does not matter on newer kernels, and loading tells on older.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
    let words: [u64; LAYOUT_WORDS] = bytemuck::cast(*layout);
    let settings: [u64; SETTINGS_WORDS] = bytemuck::cast(setup.settings);
    let globs: &[u64] = bytemuck::cast_slice(std::slice::from_ref(&*setup.globs));
    // Diagnostics nobody reads cost nothing: the level is a constant to the verifier, which drops the dead code.
    let level = log::max_level() as u8;
    let object = object().map_err(|error| chain(&error))?;
    if setup.settings.aggregate != 0 {
        let (devices, cpus) = (setup.settings.devices, host::host().possible_cpus);
        let bytes = trace::field::bytes(host::sums_bytes(devices, cpus));
        tracing::info!("sums of {devices} devices at most, for {cpus} CPUs: {bytes} of the kernel's memory");
    }
    EbpfLoader::new()
        .override_global("LAYOUT", &words[..], true)
        .override_global("AYA_LOG_LEVEL", &level, true)
        .override_global("SETTINGS", &settings[..], true)
        .override_global("GLOBS", globs, true)
        .map_max_entries("EVENTS", setup.ring_bytes)
        .map_max_entries("STACKS", setup.stacks())
        .map_max_entries("SUMS", probe::sums::CELLS * setup.settings.devices.max(1))
        .map_max_entries("OWNERS", setup.settings.devices.max(1))
        // Read only by the programs of the bench, which nobody else attaches.
        .override_global("BENCH_PROCESS", &std::process::id(), true)
        .load(bytemuck::cast_slice(&object))
        .map_err(|error| chain(&error))
}

const LAYOUT_WORDS: usize = size_of::<probe::Layout>() / 8;
const SETTINGS_WORDS: usize = size_of::<probe::Settings>() / 8;

/// Attaches, for every event of the mode, the best back-end that this kernel takes; with `family`, of that family where
/// an event has any. With `copies`, which the object's settings must say as well, the copies of all programs beside them.
pub fn attach(mut ebpf: Ebpf, types: &Types<'_>, mode: Mode, family: Option<Family>, copies: bool) -> Attached {
    let mut take = |backend: &Backend| match backend.times_tracepoints() && mode == Mode::Aggregate {
        true => Err("a second program for each mapping is too dear for this mode".to_owned()),
        false => take(&mut ebpf, types, copies, backend),
    };
    let (use_of_pool, others): (Vec<&Source>, Vec<&Source>) =
        SOURCES.iter().partition(|source| source.event == POOL_USE);
    let wanted = |source: &&Source| {
        mode.attaches(source.event) && (source.event != POOL_ADDED || types.grows() && mode != Mode::Aggregate)
    };
    let attached = others.into_iter().filter(wanted);
    let mut choices = choose(attached, family, &mut take);
    if family == Some(Family::Debugfs) || !sees_slots(&choices) {
        choices.extend(choose(use_of_pool.into_iter(), family, &mut take));
    }
    Attached { ebpf, choices }
}

/// Whether all slots taken and given back are seen, so that those in use can be counted.
#[must_use]
pub fn sees_slots(choices: &[Choice]) -> bool {
    let has = |event| choices.iter().any(|choice| choice.event == event && choice.backend.is_some());
    has("slot_alloc") && has("slot_free")
}

fn choose<'a>(
    sources: impl Iterator<Item = &'a Source>,
    family: Option<Family>,
    mut take: impl FnMut(&Backend) -> Result<(), String>,
) -> Vec<Choice> {
    let of_source = |source: &Source| {
        let forced = family.filter(|&family| source.has(family));
        first_taken(source, |backend| match forced {
            Some(family) if backend.family() != Some(family) => Err(format!("--backend {family} leaves it out")),
            _ => take(backend),
        })
    };
    sources.map(of_source).collect()
}

/// The first back-end that can be taken, and why each before it could not.
fn first_taken(source: &Source, mut take: impl FnMut(&Backend) -> Result<(), String>) -> Choice {
    let mut rejected = Vec::new();
    let mut taken: Option<&Backend> = None;
    for backend in source.backends {
        match take(backend) {
            Ok(()) => {
                taken = Some(backend);
                break;
            }
            Err(why) => rejected.push(Rejected { backend: backend.name, why }),
        }
    }
    Choice {
        event: source.event,
        backend: taken.map(|b| b.name),
        caveat: taken.and_then(|b| b.caveat),
        rejected,
        without: source.without,
    }
}

/// Attaches all of a back-end's programs or none.
fn take(ebpf: &mut Ebpf, types: &Types<'_>, copies: bool, backend: &Backend) -> Result<(), String> {
    for program in backend.programs {
        program.hook.check(types)?;
    }
    let mut tried = Vec::new();
    for program in backend.programs {
        let mut names = vec![program.name.to_owned()];
        if copies || program.name == RELEASES {
            let copies = COPIES.iter().map(|copy| format!("{}{copy}", program.name));
            names.extend(copies.filter(|name| ebpf.program(name).is_some()));
        }
        // Of those at a function's ends the kernel runs first what came last.
        if !matches!(program.hook, Hook::Tracepoint { .. }) {
            names.reverse();
        }
        for name in names {
            let began = Instant::now();
            let started = start(ebpf, types.kernel, &name, program.hook);
            tracing::debug!(
                program = name,
                verified_instructions = ebpf.program(&name).and_then(|p| information(p.fd().ok()?, "verified_insns")),
                milliseconds = began.elapsed().as_millis(),
                ok = started.is_ok(),
            );
            tried.push(name);
            if let Err(why) = started {
                for name in &tried {
                    if let Some(program) = ebpf.program_mut(name) {
                        unload(program);
                    }
                }
                return Err(why);
            }
        }
    }
    Ok(())
}

fn start(ebpf: &mut Ebpf, kernel: Option<&aya::Btf>, program: &str, hook: Hook) -> Result<(), String> {
    if matches!(hook, Hook::Debugfs { .. }) {
        return Ok(());
    }
    let types = || kernel.ok_or("the kernel's BTF cannot be read");
    let found = ebpf.program_mut(program).ok_or_else(|| format!("the object has no program {program}"))?;
    match (hook, found) {
        (Hook::Tracepoint { name, .. }, AyaProgram::BtfTracePoint(p)) => {
            p.load(name, types()?).and_then(|()| p.attach().map(drop))
        }
        (Hook::Classic { group, name }, AyaProgram::TracePoint(p)) => {
            p.load().and_then(|()| p.attach(group, name).map(drop))
        }
        (Hook::Fentry { function }, AyaProgram::FEntry(p)) => {
            p.load(function, types()?).and_then(|()| p.attach().map(drop))
        }
        (Hook::Fexit { function }, AyaProgram::FExit(p)) => {
            p.load(function, types()?).and_then(|()| p.attach().map(drop))
        }
        (Hook::Kprobe { function } | Hook::Kretprobe { function }, AyaProgram::KProbe(p)) => {
            p.load().and_then(|()| p.attach(function, 0).map(drop))
        }
        (hook, _) => return Err(format!("program {program} is of another kind than {hook:?}")),
    }
    .map_err(|error| explain(&error))
}

/// How the lines begin that end a verifier's log and do not say what is wrong.
const STATISTICS: [&str; 4] = ["processed ", "verification time ", "stack depth ", "subprog "];

/// Says in a line why the kernel refused a program; of a verifier's log the last lines.
fn explain(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        let lines: Vec<&str> =
            log.lines().filter(|l| !STATISTICS.iter().any(|s| l.starts_with(s)) && !l.is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(4)..].join(" | ");
        return if tail.is_empty() {
            format!("the kernel refused to load it: {io_error}")
        } else {
            format!("the verifier refused it: {io_error}: {tail}")
        };
    }
    chain(error)
}

/// Takes a program out of the kernel, its links first.
fn unload(program: &mut AyaProgram) {
    // Not being loaded is not an error here: it is what is wanted.
    let _ = match program {
        AyaProgram::BtfTracePoint(p) => p.unload(),
        AyaProgram::TracePoint(p) => p.unload(),
        AyaProgram::FEntry(p) => p.unload(),
        AyaProgram::FExit(p) => p.unload(),
        AyaProgram::KProbe(p) => p.unload(),
        _ => Ok(()),
    };
}

/// Takes all programs out of the kernel; the maps stay.
pub fn detach(ebpf: &mut Ebpf) {
    ebpf.programs_mut().for_each(|(_, program)| unload(program));
}

/// That bounces whose driver is not known are left out by a filter for drivers.
pub(crate) fn without_drivers(choices: &[Choice], filtered: bool) -> Option<String> {
    let named = |choice: &Choice| choice.backend.is_some_and(|backend| backend.starts_with(Family::Classic.name()));
    let bounce = choices.iter().find(|choice| choice.event == "bounce").filter(|choice| named(choice));
    bounce.filter(|_| filtered).map(|_| {
        "--driver leaves out all bounces: the tracepoint that tells of them does not say whose driver it is".to_owned()
    })
}

/// Hits the kernel skipped because the same program was already running on that CPU, over all [`programs`] (5.12 and newer).
#[must_use]
pub fn recursion_misses(programs: &[OwnedFd]) -> u64 {
    programs.iter().filter_map(|program| information(program, "recursion_misses")).sum()
}

/// The programs that are loaded, to ask for their counters from any thread, and after [`detach`]. Not their copies: what one
/// of those is skipped for was told by the first program, or is counted as skipped there. Nor those whose misses are not to
/// be counted (`UNCOUNTED`).
#[must_use]
pub fn programs(ebpf: &Ebpf) -> Vec<OwnedFd> {
    let tell = |name: &str| !COPIES.iter().any(|copy| name.ends_with(copy)) && !UNCOUNTED.contains(&name);
    let loaded = ebpf.programs().filter(|(name, _)| tell(name)).filter_map(|(_, program)| program.fd().ok());
    loaded.filter_map(|fd| fd.as_fd().try_clone_to_owned().ok()).collect()
}

/// The end of the kprobe pair, where it is loaded: of the calls it was skipped for, those of which the entry was seen are counted
/// as `unpaired` too.
#[must_use]
pub fn pair(ebpf: &Ebpf) -> Option<OwnedFd> {
    let (_, program) = ebpf.programs().find(|(name, _)| *name == PAIR)?;
    program.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// What the kernel says of a loaded program.
fn information(program: &impl AsFd, what: &str) -> Option<u64> {
    let fd = program.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    info.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source with several back-ends, as most have on some kernel.
    fn source() -> &'static Source {
        SOURCES.iter().find(|source| source.backends.len() > 2).unwrap()
    }

    #[test]
    fn a_refused_backend_gives_way_to_the_next_and_is_remembered_with_its_reason() {
        let source = source();
        let mut tried = Vec::new();
        let choice = first_taken(source, |backend| {
            tried.push(backend.name);
            if tried.len() < 3 { Err(format!("the verifier refused it: {}", tried.len())) } else { Ok(()) }
        });
        assert_eq!(tried, source.backends[..3].iter().map(|b| b.name).collect::<Vec<_>>());
        assert_eq!((choice.backend, choice.caveat), (Some(source.backends[2].name), source.backends[2].caveat));
        let why: Vec<_> = choice.rejected.iter().map(|r| (r.backend, r.why.as_str())).collect();
        assert_eq!(why, [(tried[0], "the verifier refused it: 1"), (tried[1], "the verifier refused it: 2")]);
    }

    #[test]
    fn an_event_whose_backends_are_all_refused_is_missing_and_says_what_follows() {
        let choice = first_taken(source(), |_| Err("refused".to_owned()));
        assert_eq!((choice.backend, choice.caveat), (None, None));
        assert_eq!(choice.rejected.len(), source().backends.len());
        assert!(!choice.without.is_empty());
    }
    #[test]
    fn a_family_is_forced_where_there_is_one() {
        let choices = choose(SOURCES.iter(), Some(Family::Kprobe), |_| Ok(()));
        assert!(sees_slots(&choices) && !sees_slots(&choices[..1]));
        let of = |event: &str| choices.iter().find(|choice| choice.event == event).unwrap();
        assert!(of("slot_alloc").backend.unwrap().starts_with("kprobe"));
        assert!(of("slot_alloc").rejected[0].why.contains("--backend kprobe"));
        // There is no other way to see a bounce.
        assert_eq!((of("bounce").backend, of("bounce").rejected.len()), (Some("tp_btf swiotlb:swiotlb_bounced"), 0));
        let choices = choose(SOURCES.iter(), Some(Family::Classic), |_| Ok(()));
        let bounce = choices.iter().find(|choice| choice.event == "bounce").unwrap();
        assert_eq!(bounce.backend, Some("tracepoint swiotlb:swiotlb_bounced"));
    }
}
