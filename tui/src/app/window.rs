//! The last part of a live recording as a trace, so that what can be asked of a trace can be asked of what happens now:
//! what another kernel, or another size, would be doing.

use std::collections::VecDeque;
use std::sync::Arc;

use tempfile::TempDir;
use trace::held::Held;
use trace::{Device, Event, Meta, P2mRun, SnapshotSlot, Trace, TraceError, Writer};

/// Events kept at most: some 60 MB.
const EVENTS: usize = 400_000;
/// And the time they span.
const SPAN_NS: u64 = 60_000_000_000;

/// The last events, and the pool before them.
#[derive(Clone)]
pub(crate) struct Window {
    before: Held,
    /// When the last of what came before was.
    before_ns: Option<u64>,
    events: VecDeque<Event>,
}

/// A trace in a folder of its own, which goes when the trace does.
pub(crate) struct Excerpt {
    /// The trace.
    pub(crate) trace: Arc<Trace>,
    _folder: Option<TempDir>,
}

impl Excerpt {
    /// All of a trace that is kept elsewhere.
    pub(crate) fn whole(trace: Arc<Trace>) -> Self {
        Self { trace, _folder: None }
    }
}

/// An excerpt yet to be made.
pub(crate) type Making = Box<dyn FnOnce() -> Result<Excerpt, TraceError> + Send>;

impl Window {
    /// Nothing yet, on a machine with these slots in use.
    pub(crate) fn new(meta: &Meta, snapshot: &[SnapshotSlot]) -> Self {
        Self { before: Held::new(meta, snapshot), before_ns: None, events: VecDeque::new() }
    }

    /// Takes in what happened next. What is too old goes into the moment before.
    pub(crate) fn push(&mut self, events: &[Event]) {
        self.events.extend(events.iter().cloned());
        let last = self.events.back().map_or(0, |event| event.time_ns);
        while let Some(first) = self.events.front()
            && (self.events.len() > EVENTS || last.saturating_sub(first.time_ns) > SPAN_NS)
        {
            self.before.apply(first);
            self.before_ns = Some(first.time_ns);
            self.events.pop_front();
        }
    }

    /// Writes it down. Cost: about a second for all of it.
    ///
    /// # Errors
    /// When there is no room for temporary files.
    pub(crate) fn excerpt(&self, meta: &Meta, devices: Vec<Device>, p2m: Vec<P2mRun>) -> Result<Excerpt, TraceError> {
        let mut meta = meta.clone();
        let first_ns = self.before_ns.unwrap_or(0);
        let last_ns = self.events.back().map_or(first_ns, |event| event.time_ns);
        meta.clock.monotonic_ns += first_ns;
        meta.clock.realtime_ns += first_ns;
        meta.clock.duration_ns = last_ns.saturating_sub(first_ns);
        meta.losses.ring_full = self.events.iter().filter_map(|event| event.count).sum();
        meta.closed = true;
        if self.before_ns.is_some() {
            meta.snapshot_ns = meta.snapshot_ns.map(|_| 0);
            self.before.begin(&mut meta);
        }
        let io = |source| TraceError::Io { doing: "make a folder in", path: std::env::temp_dir(), source };
        let folder = tempfile::Builder::new().prefix("swioscope-live-").tempdir().map_err(io)?;
        let path = folder.path().join("live.swio");
        let mut writer = Writer::create(&path, meta.clone())?;
        writer.set_devices(devices);
        writer.set_p2m(p2m);
        if meta.snapshot_ns.is_some() {
            writer.set_snapshot(self.before.snapshot());
        }
        for event in &self.events {
            writer.push(&Event {
                time_ns: event.time_ns.saturating_sub(first_ns),
                since_ns: event.since_ns.map(|since| since.saturating_sub(first_ns)),
                ..event.clone()
            })?;
        }
        writer.close(meta)?;
        Ok(Excerpt { trace: Arc::new(Trace::open(&path)?), _folder: Some(folder) })
    }
}
