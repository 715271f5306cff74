//! `swioscope record`: from the kernel to a folder.

mod summary;

pub(super) use summary::text as summary;

use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use collector::flight::{Keep, Trigger};
use collector::{Filters, Flight, Mode, Only, Options, Recorder, Stats};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use trace::{Writer, field};

use super::Usage;
use crate::cli::{FilterArgs, RecordArgs};

/// How often the live counters move.
const TICK: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &RecordArgs) -> anyhow::Result<ExitCode> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("could not catch Ctrl-C")?;
    }

    let options = options(args)?;
    let dump = Arc::new(AtomicBool::new(false));
    if args.flight.triggers.contains(&Trigger::Signal) {
        signal_hook::flag::register(SIGUSR1, Arc::clone(&dump)).context("could not catch SIGUSR1")?;
    }

    Writer::check(&args.output)?;
    let recorder = Recorder::start(&options)?;
    let mut child = match spawn(&args.workload) {
        Ok(child) => child,
        Err(error) => {
            // Nothing was recorded that anybody asked for; an empty trace would only be in the way of the next try.
            recorder.abort();
            return Err(error);
        }
    };

    if let (Some(flight), false) = (&options.flight, args.quiet) {
        let triggers: Vec<_> = flight.triggers.iter().map(ToString::to_string).collect();
        let memory = field::bytes(flight.window_bytes as u64);
        eprintln!(
            "recording into {memory} of memory, waiting for {} (process {})",
            triggers.join(", "),
            std::process::id()
        );
    }
    let bar = live_bar(args.quiet);
    let started = Instant::now();
    let mut rate = Rate::default();
    let status = loop {
        std::thread::sleep(TICK);
        let stats = recorder.stats();
        bar.set_message(live_line(stats, rate.of(stats.events, started.elapsed())));
        bar.tick();
        if dump.swap(false, Ordering::Relaxed) {
            recorder.dump();
        }
        if let Some(child) = &mut child
            && let Some(status) = child.try_wait().context("could not wait for the command")?
        {
            break Some(status);
        }
        let asked_to_stop = interrupted.load(Ordering::Relaxed) || recorder.failed();
        if asked_to_stop || args.duration.is_some_and(|limit| started.elapsed() >= limit) {
            break None;
        }
    };
    bar.finish_and_clear();
    if let (None, Some(child)) = (status, &mut child)
        && child.try_wait().is_ok_and(|ended| ended.is_none())
    {
        // A terminal's Ctrl-C reaches the command by itself; a signal to us alone does not, and it is not ours to kill.
        eprintln!(
            "the recording ends here; the command (process {}) goes on if it was not interrupted too",
            child.id()
        );
    }

    let summary = recorder.finish()?;
    eprint!("{}", summary::text(&summary)?);
    let losses = &summary.meta.losses;
    Ok(match status {
        Some(status) if !status.success() => {
            eprintln!("the command ended with {status}; the trace is kept");
            ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
        // Said by the summary; a script has to learn of it too.
        _ if summary.flown.as_ref().is_some_and(|flown| flown.failed > 0) => ExitCode::FAILURE,
        _ if args.strict && losses.events() + losses.stacks_missed > 0 => ExitCode::from(LOST),
        _ => ExitCode::SUCCESS,
    })
}

/// The exit code of `--strict` when anything was lost.
const LOST: u8 = 3;

/// The largest ring buffer that is asked of the kernel.
const LARGEST_RING: u64 = 1 << 30;

fn options(args: &RecordArgs) -> anyhow::Result<Options> {
    let usage = |text: &str| Err(Usage(text.to_owned()).into());
    let flight = &args.flight;
    let flying = !flight.triggers.is_empty();
    if args.mode == Mode::Aggregate && (args.stacks || flying || args.filters.only != Only::Everything) {
        return usage("--mode aggregate keeps no events: --stacks, --trigger and --only do not go with it");
    }
    // The ring buffer bridges the moments in which the memory is written out or the CPU is taken.
    // Of sums only the devices come through it.
    let ring = match (flying, args.mode) {
        (true, _) => (args.ring / 4).next_power_of_two().clamp(16 << 20, 64 << 20),
        (false, Mode::Aggregate) => args.ring.min(1 << 18),
        (false, _) => args.ring,
    };
    let ring_bytes = ring_bytes(ring)?;
    let flight = if flying {
        Some(Flight {
            window_bytes: usize::try_from(args.ring).map_err(|_| Usage("--ring is too large".to_owned()))?,
            triggers: flight.triggers.clone(),
            after: flight.after,
            keep: Keep { count: flight.keep, bytes: flight.max_size, age: flight.max_age },
        })
    } else {
        None
    };
    let filters = filters(&args.filters)?;
    let options = Options::new(&args.output, describe(args));
    let options =
        Options { ring_bytes, mode: args.mode, filters, stacks: args.stacks, flight, backend: args.backend, ..options };
    options.check().map_err(|error| Usage(error.to_string()))?;
    Ok(options)
}

/// The size of a ring buffer, if the kernel takes it.
pub(super) fn ring_bytes(ring: u64) -> Result<u32, Usage> {
    match u32::try_from(ring) {
        Ok(bytes) if ring <= LARGEST_RING && ring.is_power_of_two() => Ok(bytes),
        _ => Err(Usage("a ring buffer has 1, 2, 4, … or 1024 MiB".to_owned())),
    }
}

/// The filters, before the kernel is troubled with them.
pub(super) fn filters(args: &FilterArgs) -> Result<Filters, Usage> {
    let filters = Filters {
        devices: args.devices.clone(),
        drivers: args.drivers.clone(),
        directions: args.directions.clone(),
        min_size: args.min_size,
        only: args.only,
    };
    filters.globs().map_err(|error| Usage(format!("--device or --driver: {error}")))?;
    Ok(filters)
}

fn describe(args: &RecordArgs) -> String {
    match (args.workload.is_empty(), args.duration) {
        (false, _) => args.workload.join(" "),
        (true, Some(limit)) => format!("whatever ran for {}", humantime::format_duration(limit)),
        (true, None) => "whatever ran until interrupted".to_owned(),
    }
}

fn spawn(workload: &[String]) -> anyhow::Result<Option<Child>> {
    let Some((program, arguments)) = workload.split_first() else { return Ok(None) };
    let child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("could not start `{program}`; check the command after `--`"))?;
    Ok(Some(child))
}

fn live_bar(quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} recording {elapsed_precise}  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    )
}

fn live_line(stats: Stats, per_second: f64) -> String {
    format!(
        "{} events  {per_second:.0} events/s  {} lost  {}",
        field::count(stats.events),
        field::count(stats.lost),
        field::bytes(stats.bytes)
    )
}

/// Events a second between two looks.
#[derive(Default)]
struct Rate {
    events: u64,
    at: Duration,
}

impl Rate {
    fn of(&mut self, events: u64, now: Duration) -> f64 {
        let span = now.saturating_sub(self.at).as_secs_f64();
        let gained = events.saturating_sub(self.events);
        (self.events, self.at) = (events, now);
        // A rate for people; the counts stay integers.
        if span > 0.0 { gained as f64 / span } else { 0.0 }
    }
}
