//! Reads a whole trace once, in the background, and keeps what makes every later moment near: a checkpoint of the state
//! every [`EVERY`] events, and the [`Timeline`].
//!
//! ```text
//! events     0          25,000      50,000      75,000 …
//! segment    ├── events-00000.parquet ──────────────┤├── events-00001 …
//! checkpoint ●           ●           ●           ●
//!            └ place in the segments, and a clone of the moment there
//! ```
//!
//! To be at any moment is then: take the checkpoint before it, open its segment, skip to its row, and take in at most
//! [`EVERY`] events. docs/lab/2026-11-26-view.md has what that costs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use replay::moment::Moment;
use trace::Trace;
use trace::file::Place;

use super::timeline::{FAILURES, Mark, Timeline};

/// Events between two checkpoints.
pub(crate) const EVERY: u64 = 25_000;
/// Checkpoints kept; when there are more every other one goes, and those after come half as often.
const MOST: usize = 512;

/// A state to begin from.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// Where the next event is.
    pub(crate) place: Place,
    /// The state before it.
    pub(crate) moment: Arc<Moment>,
}

/// What has been read so far; shared with the thread that reads.
#[derive(Debug, Default)]
pub(crate) struct Index {
    checkpoints: Vec<Checkpoint>,
    timeline: Arc<Timeline>,
    /// Raised whenever something was added.
    version: u64,
}

/// An index that one thread fills and another looks into.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Index>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Index> {
        // What a panicked reader left is whole: it is changed in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The timeline, if it is newer than `version`.
    pub(crate) fn news(&self, version: &mut u64) -> Option<Arc<Timeline>> {
        let index = self.lock();
        let newer = index.version != *version;
        *version = index.version;
        newer.then(|| Arc::clone(&index.timeline))
    }

    /// The last checkpoint for which `before` holds.
    pub(crate) fn checkpoint(&self, before: impl Fn(&Moment) -> bool) -> Option<Checkpoint> {
        let index = self.lock();
        let at = index.checkpoints.partition_point(|checkpoint| before(&checkpoint.moment));
        index.checkpoints.get(at.checked_sub(1)?).cloned()
    }

    fn publish(&self, checkpoint: Option<Checkpoint>, timeline: &Timeline) {
        let timeline = Arc::new(timeline.clone());
        let mut index = self.lock();
        index.checkpoints.extend(checkpoint);
        if index.checkpoints.len() > MOST {
            let mut keep = false;
            index.checkpoints.retain(|_| {
                keep = !keep;
                keep
            });
        }
        index.timeline = timeline;
        index.version += 1;
    }
}

/// Reads the trace through, until done or told to stop. `start` is the moment before the first event.
pub(crate) fn read(trace: &Trace, start: Moment, shared: &Shared, stop: &AtomicBool) {
    let span = trace.span_ns().unwrap_or((0, 0));
    let mut timeline = Timeline::new(span, trace.event_count());
    if let Err(error) = read_into(trace, start, shared, stop, &mut timeline) {
        timeline.error = Some(error.to_string());
        shared.publish(None, &timeline);
    }
}

fn read_into(
    trace: &Trace,
    mut moment: Moment,
    shared: &Shared,
    stop: &AtomicBool,
    timeline: &mut Timeline,
) -> Result<(), trace::TraceError> {
    let mut events = trace.events();
    let mut failures = Vec::new();
    let mut every = EVERY;
    let mut kept = 0;
    let mut reached = 0;
    loop {
        let number = moment.totals().events;
        if number.is_multiple_of(every) {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let checkpoint = Checkpoint { place: events.place(), moment: Arc::new(moment.clone()) };
            timeline.read.0 = number;
            timeline.end = Some(Arc::clone(&checkpoint.moment));
            timeline.failures = Arc::new(failures.clone());
            shared.publish(Some(checkpoint), timeline);
            kept += 1;
            if kept >= MOST {
                kept /= 2;
                every *= 2;
            }
        }
        let Some(event) = events.next().transpose()? else { break };
        let before = *moment.totals();
        let at = timeline.bin(event.time_ns);
        // Until something happens as many slots are in use as before.
        let used = moment.slots().used();
        for bin in timeline.bins.get_mut(reached + 1..=at).into_iter().flatten() {
            bin.peak_slots = used;
        }
        reached = reached.max(at);
        moment.apply(&event);
        let now = moment.totals();
        let used = moment.slots().used();
        if let (Some(bin), Some(head)) = (timeline.bins.get_mut(at), timeline.heads.get_mut(at)) {
            bin.maps += now.maps - before.maps;
            bin.bounces += now.bounces - before.bounces;
            bin.bytes_copied += now.bytes_copied.saturating_sub(before.bytes_copied);
            bin.failures += now.failures - before.failures;
            bin.lost += now.lost.saturating_sub(before.lost);
            if used > head.0 {
                bin.peak_slots = bin.peak_slots.max(used);
                *head = (used, Mark { event: now.events, time_ns: event.time_ns });
            }
        }
        if now.failures > before.failures && failures.len() < FAILURES {
            let mark = Mark { event: now.events, time_ns: event.time_ns };
            failures.extend(moment.failures().back().map(|failure| (mark, Arc::clone(failure))));
        }
    }
    timeline.read.0 = moment.totals().events;
    timeline.read.1 = timeline.read.0;
    timeline.end = Some(Arc::new(moment));
    timeline.failures = Arc::new(failures);
    shared.publish(None, timeline);
    Ok(())
}
