//! `swioscope top`: what happens now, on screens or line by line. All of it comes from the [`Moment`] that the recorder's
//! [`Feed`] makes; this build without screens writes lines only.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use collector::{Options, Recorder};
use replay::moment::{Around, FailureRow, Moment};
use serde_json::{Value as Json, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use trace::meta::Losses;
use trace::{Feed, Writer, field};

use super::{Usage, record};
use crate::cli::{TopArgs, TopFormat};
use crate::output::{json_row, json_rows, line, some_columns};

/// Messages that wait for the screen at most; the recorder then waits, and what the ring buffer cannot hold is counted.
const QUEUE: usize = 1024;
/// What newer kernels follow.
#[cfg(feature = "answers")]
const NEWEST: &str = "v6_10";
/// How long a signal may go unheard.
const PATIENCE: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    if args.interval.is_zero() {
        return Err(Usage("--interval must be longer than nothing".to_owned()).into());
    }
    let (sender, feed) = sync_channel(QUEUE);
    let path = args.output.clone().unwrap_or_else(|| "live".into());
    let options = Options {
        ring_bytes: record::ring_bytes(args.ring)?,
        filters: record::filters(&args.filters)?,
        stacks: args.stacks,
        backend: args.backend,
        feed: Some(sender),
        store: args.output.is_some(),
        ..Options::new(path, "whatever ran while top was open")
    };
    if let Some(output) = &args.output {
        Writer::check(output)?;
    }
    let format = match args.format {
        Some(format) => Some(format),
        None if cfg!(feature = "answers") && io::stdout().is_terminal() && io::stdin().is_terminal() => None,
        None => Some(TopFormat::Text),
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    if format.is_some() {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("could not catch Ctrl-C")?;
        }
    }
    let recorder = Recorder::start(&options)?;
    // The recorder has its own: with ours gone, the feed ends when it does.
    drop(options);
    let shown = match format {
        Some(format) => lines(args, format, &recorder, feed, &interrupted),
        None => screens(args, &recorder, feed),
    };
    // Whatever became of the screen, a trace beside it is closed properly.
    let summary = recorder.finish()?;
    shown?;
    if args.output.is_some() {
        eprint!("{}", record::summary(&summary)?);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "answers")]
fn screens(args: &TopArgs, recorder: &Recorder, feed: Receiver<Feed>) -> anyhow::Result<()> {
    let meta = recorder.meta().clone();
    let mut policies: Vec<_> = args.policies.iter().map(|policy| policy.text().to_owned()).collect();
    if policies.is_empty() {
        let own = replay::Generation::of_recorded(&meta).map(|(rules, _)| rules.id);
        policies.extend(own.filter(|id| *id != NEWEST).into_iter().chain([NEWEST]).map(str::to_owned));
    }
    let start = tui::LiveStart {
        name: meta.host.name.clone(),
        policies,
        snapshot: recorder.snapshot().to_vec(),
        meta,
        p2m: Vec::new(),
        devices: Vec::new(),
        tasks: Vec::new(),
        stacks: Vec::new(),
    };
    Ok(tui::top(start, feed)?)
}

#[cfg(not(feature = "answers"))]
fn screens(_: &TopArgs, _: &Recorder, _: Receiver<Feed>) -> anyhow::Result<()> {
    Err(Usage("this build has no screens; give --format text or jsonl".to_owned()).into())
}

/// Writes a report each interval, until it is enough.
fn lines(
    args: &TopArgs,
    format: TopFormat,
    recorder: &Recorder,
    feed: Receiver<Feed>,
    interrupted: &AtomicBool,
) -> anyhow::Result<()> {
    let mut moment = Moment::new(Around::new(recorder.meta(), &[], &[]), recorder.snapshot());
    let mut losses = recorder.meta().losses.clone();
    let mut told_failures = 0;
    let mut out = io::stdout();
    let mut due = Instant::now() + args.interval;
    let mut reports = 0;
    if format == TopFormat::Text {
        line(&mut out, capture(recorder))?;
    }
    while args.count.is_none_or(|count| reports < count) && !interrupted.load(Ordering::Relaxed) {
        let left = due.saturating_duration_since(Instant::now());
        match feed.recv_timeout(left.min(PATIENCE)) {
            Ok(Feed::Meta(meta)) => losses = meta.losses,
            Ok(told) => moment.follow(&told),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if Instant::now() < due {
            continue;
        }
        // Reports that could not be made in time are not made up for.
        due = due.max(Instant::now()) + args.interval;
        reports += 1;
        let failures = new_failures(&moment, told_failures);
        told_failures = moment.totals().failures;
        match format {
            TopFormat::Jsonl => line(&mut out, report_json(&moment, &failures, &losses))?,
            TopFormat::Text => line(&mut out, report_text(&moment, &failures, &losses))?,
        }
    }
    Ok(())
}

/// Which back-ends are in use, and what is not seen.
fn capture(recorder: &Recorder) -> String {
    let meta = recorder.meta();
    let backends = meta.capture.backends.iter().map(|(event, backend)| format!("{event} by {backend}"));
    let mut text =
        format!("{}, Linux {}: {}", meta.host.name, meta.host.release, backends.collect::<Vec<_>>().join(", "));
    for note in &meta.losses.notes {
        text.push_str("\nnote: ");
        text.push_str(note);
    }
    text
}

/// The refusals since the report before, oldest first; of a flood those kept.
fn new_failures(moment: &Moment, told: u64) -> Vec<FailureRow> {
    let new = moment.failures().iter().filter(|failure| failure.number > told);
    new.map(|failure| FailureRow::new(failure, moment.around())).collect()
}

fn report_json(moment: &Moment, failures: &[FailureRow], losses: &Losses) -> Json {
    let runs: Vec<_> = moment.slots().pools().iter().map(|pool| json_rows(&pool.run_rows())).collect();
    json!({
        "now": json_row(&moment.now()),
        "pools": json_rows(&moment.pool_rows()),
        "areas": json_rows(&moment.area_rows()),
        "free_runs": runs,
        "devices": json_rows(&moment.device_rows()),
        "failures": json_rows(failures),
        "losses": losses,
        "exact": moment.exact(),
    })
}

/// Columns of the first line; the totals are in the devices' table.
const NOW: [&str; 10] = [
    "time_ns",
    "maps_per_s",
    "bounces_per_s",
    "bytes_copied_per_s",
    "failures_per_s",
    "used_slots",
    "peak_slots",
    "pool_slots",
    "longest_run",
    "lost",
];
const DEVICES: [&str; 12] = [
    "device",
    "driver",
    "maps_per_s",
    "bytes_copied_per_s",
    "maps",
    "bounces",
    "bounce_share",
    "reason",
    "bytes_copied",
    "slots",
    "failures",
    "latency_p99_ns",
];
/// Refusals written out in one report.
const FAILURES: usize = 5;

fn report_text(moment: &Moment, failures: &[FailureRow], losses: &Losses) -> String {
    let mut text = some_columns(&[moment.now()], &NOW);
    let devices = moment.device_rows();
    if !devices.is_empty() {
        text.push_str("\n\n");
        text.push_str(&some_columns(&devices, &DEVICES));
    }
    text.push('\n');
    for FailureRow { time_ns, device, size, cause, explanation, .. } in failures.iter().take(FAILURES) {
        let (when, size) = (field::duration(*time_ns), field::bytes(*size));
        text.push_str(&format!("refused at {when}: {device}, {size}: {cause}: {explanation}\n"));
    }
    if failures.len() > FAILURES {
        text.push_str(&format!("and {} more\n", field::count((failures.len() - FAILURES) as u64)));
    }
    if losses.events() > 0 {
        let lost = field::count(losses.events());
        text.push_str(&format!("{lost} records lost up to now: counts are too low, and slots may be shown wrongly\n"));
    }
    text
}
