//! One page about one trace: is swiotlb the problem, whose is it, and what is to be done.
//!
//! | module | what lives there |
//! |---|---|
//! | [`rows`] | the tables, as plain rows |
//! | [`findings`] | the verdict: classes of cause, each with its evidence and the next step |
//! | [`html`] | the page for a browser |
//! | `scan` | the one pass over the events |
//! | `slots`, `timeline` | who holds slots, and the pool over time |
//! | `spread`, `names`, `reach` | percentiles, what keys stand for, who reaches the pool |
//! | `build`, `sums` | the tables out of the pass, or out of an aggregate recording |
//! | `advice` | the size that would do, by replay, where size is the question and the trace not too large |
//!
//! The trace is read once, segment by segment: memory does not grow with it, but for half a million slot events that are
//! kept to be verified.

mod advice;
mod build;
pub mod findings;
pub mod html;
mod names;
mod notes;
mod reach;
pub mod rows;
mod scan;
mod slots;
mod spread;
mod sums;
mod timeline;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use schemars::JsonSchema;
use serde::Serialize;
use trace::{Event, Trace, TraceError};

pub use findings::{Class, Finding, Severity};
use rows::{
    AreaRow, BarRow, DeviceUseRow, FailureRow, FidelityRow, HolderRow, LatencyRow, OccupancyRow, ReachRow, ReasonRow,
    SizesRow, SummaryRow, TraceRow,
};
use scan::Scan;

use crate::{AnalysisError, Stage};

/// Version of the report's JSON. It is raised when a key changes its meaning or goes away; new keys may come at any time.
pub const VERSION: u32 = 1;

/// The report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[schemars(title = "swioscope report")]
pub struct Report {
    /// Version of this document.
    pub version: u32,
    /// The verdict, the most important finding first.
    pub verdict: Vec<Finding>,
    /// The report in numbers: what `--fail-on` compares.
    pub summary: SummaryRow,
    /// The trace.
    pub trace: TraceRow,
    /// Why mappings bounced, the commonest first.
    pub reasons: Vec<ReasonRow>,
    /// Devices, the one with most mappings first.
    pub devices: Vec<DeviceUseRow>,
    /// Refused requests by device and cause, the commonest first.
    pub failures: Vec<FailureRow>,
    /// Who held slots at the first refusal that the pool's state explains, and at the end.
    pub holders: Vec<HolderRow>,
    /// The pool over time.
    pub occupancy: Vec<OccupancyRow>,
    /// The pool's areas; empty when there is one.
    pub areas: Vec<AreaRow>,
    /// How long calls took.
    pub latencies: Vec<LatencyRow>,
    /// How large mappings were.
    pub sizes: Vec<SizesRow>,
    /// Histograms, a row a bar.
    pub histograms: Vec<BarRow>,
    /// Whether devices reach the pool.
    pub reach: Vec<ReachRow>,
    /// How far all this may be trusted.
    pub fidelity: FidelityRow,
    /// What weakens the figures, one sentence each.
    pub notes: Vec<String>,
    /// The trace's folder, as it was given.
    #[serde(skip)]
    pub(crate) path: String,
    /// Slots the kernel command line asks for, and what that kernel makes of them; nothing when it does not say.
    #[serde(skip)]
    pub(crate) asked: Option<(u64, u64)>,
}

impl Report {
    /// Whether the pool was looked at from time to time, and its slots not followed one by one.
    #[must_use]
    pub fn looked(&self) -> bool {
        self.occupancy.first().is_some_and(|row| row.free_segments.is_none())
    }

    /// The JSON schema of this document; docs/schema/report.json is it.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Report).to_value()
    }

    /// The verdict's first sentence.
    #[must_use]
    pub fn headline(&self) -> &str {
        self.verdict.first().map_or("", |finding| finding.title.as_str())
    }
}

/// Events handed from the reading thread to the counting one at a time.
const BATCH: usize = 8192;

/// Reports on a trace. `progress` is told every few milliseconds. Setting `stop` ends it soon, with what was read by then;
/// a note says so.
///
/// # Errors
/// When the trace cannot be read.
pub fn report(trace: &Trace, stop: &AtomicBool, progress: impl Fn(Stage) + Sync) -> Result<Report, AnalysisError> {
    let mut scan = Scan::new(trace);
    let read = read(trace, stop, |batch| {
        batch.iter().for_each(|event| scan.push(event));
        progress(Stage::Reading(scan.ops.iter().sum(), trace.event_count()));
    })?;
    let mut report = build::report(trace, scan)?;
    if read < trace.event_count() {
        report.notes.insert(
            0,
            format!(
                "stopped after {} of {} events: the figures are of those",
                trace::field::count(read),
                trace::field::count(trace.event_count())
            ),
        );
    }
    report.verdict = findings::verdict(&report);
    advice::add(&mut report, trace, stop, &progress)?;
    Ok(report)
}

/// Decodes the events in one thread and hands them to another, this one.
fn read(trace: &Trace, stop: &AtomicBool, mut take: impl FnMut(&[Event])) -> Result<u64, TraceError> {
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Result<Vec<Event>, TraceError>>(4);
        scope.spawn(move || {
            let mut events = trace.events();
            loop {
                let batch: Result<Vec<Event>, TraceError> = events.by_ref().take(BATCH).collect();
                let last = batch.as_ref().map_or(true, Vec::is_empty);
                // The other side has stopped listening when it was asked to.
                if sender.send(batch).is_err() || last {
                    break;
                }
            }
        });
        let mut read = 0;
        for batch in receiver {
            let batch = batch?;
            read += batch.len() as u64;
            take(&batch);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(read)
    })
}
