//! `swioscope record`: from the kernel to a folder.

use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use collector::{Options, Recorder, Stats, Summary};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use trace::{Trace, Writer, field};

use crate::cli::RecordArgs;

/// How often the live counters move.
const TICK: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &RecordArgs) -> anyhow::Result<ExitCode> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("could not catch Ctrl-C")?;
    }

    Writer::check(&args.output)?;
    let recorder = Recorder::start(&Options { ring_bytes: args.ring, ..Options::new(&args.output, describe(args)) })?;
    let mut child = match spawn(&args.workload) {
        Ok(child) => child,
        Err(error) => {
            // Nothing was recorded that anybody asked for; an empty trace would only be in the way of the next try.
            recorder.abort();
            return Err(error);
        }
    };

    let bar = live_bar(args.quiet);
    let started = Instant::now();
    let mut rate = Rate::default();
    let status = loop {
        std::thread::sleep(TICK);
        let stats = recorder.stats();
        bar.set_message(live_line(stats, rate.of(stats.events, started.elapsed())));
        bar.tick();
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
    eprint!("{}", summary_text(&summary)?);
    Ok(match status {
        Some(status) if !status.success() => {
            eprintln!("the command ended with {status}; the trace is kept");
            ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
        }
        _ => ExitCode::SUCCESS,
    })
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

fn summary_text(summary: &Summary) -> anyhow::Result<String> {
    use std::fmt::Write as _;
    let losses = &summary.meta.losses;
    let seconds = summary.meta.clock.duration_ns as f64 / 1e9;
    let mut text = format!(
        "{}: {} events in {seconds:.2} s ({:.0} events/s), {} lost, {} on disk, {} device(s)\n",
        summary.path.display(),
        field::count(summary.events),
        if seconds > 0.0 { summary.events as f64 / seconds } else { 0.0 },
        field::count(losses.ring_full),
        field::bytes(Trace::open(&summary.path)?.size_on_disk()?),
        summary.devices,
    );
    for (what, n) in losses.by_cause().filter(|&(_, n)| n > 0) {
        writeln!(text, "  {what}: {}", field::count(n))?;
    }
    for note in &losses.notes {
        writeln!(text, "  note: {note}")?;
    }
    Ok(text)
}
