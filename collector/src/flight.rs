//! The flight recorder: events stay in memory, and are written when something has happened.
//!
//! | module | what lives there |
//! |---|---|
//! | [`window`] | the last events, and the pool as it was before them |
//! | [`trigger`] | [`Trigger`]: when to write |
//! | [`retention`] | [`Keep`]: which of the earlier dumps stay |
//! | `dump` | a window as a trace |

pub(crate) mod dump;
pub mod retention;
pub mod trigger;
pub mod window;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use trace::{Meta, SnapshotSlot, TraceError};

pub use retention::Keep;
pub use trigger::{BadTrigger, Trigger};

use crate::recorder::around::Around;
use crate::recorder::drain::Batch;
use crate::recorder::shared::Shared;
use trigger::Watch;
use window::Window;

/// What a flight recorder does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Bytes of events kept in memory, 55 to 80 an event; while a dump is written as many again at most.
    pub window_bytes: usize,
    /// When to write.
    pub triggers: Vec<Trigger>,
    /// How long to go on after a trigger, so that the dump shows what followed.
    pub after: Duration,
    /// Which dumps stay.
    pub keep: Keep,
}

/// After a dump that was not asked for by hand, this long no other: a pool that stays full refuses mappings without end,
/// and writing them all down would only add to its load.
const PAUSE: Duration = Duration::from_secs(10);
/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_millis(50);
/// How often new p2m entries and stacks are read.
const CATCH_UP: Duration = Duration::from_millis(200);

/// What a flight recorder has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flown {
    /// The dumps written, those removed since included.
    pub dumps: Vec<PathBuf>,
    /// Triggers in the pause after a dump, which wrote nothing.
    pub passed_over: u64,
    /// Devices seen.
    pub devices: usize,
}

/// A trigger that waits for what follows it.
struct Pending {
    reason: String,
    due: Instant,
}

/// The thread's state.
pub(crate) struct Keeper {
    path: PathBuf,
    flight: Flight,
    meta: Meta,
    window: Window,
    watch: Watch,
    pending: Option<Pending>,
    /// Before this no trigger but a signal counts.
    paused_until: Instant,
    writing: Option<JoinHandle<Result<PathBuf, TraceError>>>,
    flown: Flown,
}

impl Keeper {
    /// A flight recorder whose dumps are named after `path`.
    pub(crate) fn new(path: PathBuf, flight: Flight, meta: Meta, snapshot: &[SnapshotSlot]) -> Self {
        let window = Window::new(flight.window_bytes, &meta, snapshot);
        let watch = Watch::new(&flight.triggers, window.before());
        let paused_until = Instant::now();
        let flown = Flown::default();
        Self { path, flight, meta, window, watch, pending: None, paused_until, writing: None, flown }
    }

    /// Runs until the drainer ends; a trigger that still waits then is written without what follows.
    pub(crate) fn run(
        mut self,
        batches: &Receiver<Batch>,
        shared: &Shared,
        mut around: Around,
    ) -> Result<Flown, TraceError> {
        let mut caught_up = Instant::now();
        loop {
            match batches.recv_timeout(TICK) {
                Ok(mut batch) => {
                    around.see(&mut batch);
                    for event in &batch.events {
                        if let Some(reason) = self.watch.see(event) {
                            self.fire(reason, false);
                        }
                        self.window.push(event);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            shared.bytes.store(self.window.bytes() as u64, Ordering::Relaxed);
            if shared.dump.swap(false, Ordering::Relaxed) {
                self.fire("signal".to_owned(), true);
            }
            if caught_up.elapsed() >= CATCH_UP {
                around.catch_up();
                caught_up = Instant::now();
            }
            if self.pending.as_ref().is_some_and(|pending| Instant::now() >= pending.due) {
                self.write(shared, &mut around)?;
            }
        }
        if self.pending.is_some() {
            self.write(shared, &mut around)?;
        }
        self.finish_writing()?;
        self.flown.devices = around.devices.0.len();
        Ok(self.flown)
    }

    /// Takes note of a trigger; `asked` by hand. Further ones before the dump is written are part of it.
    fn fire(&mut self, reason: String, asked: bool) {
        if self.pending.is_some() {
            return;
        }
        if !asked && Instant::now() < self.paused_until {
            self.flown.passed_over += 1;
            return;
        }
        self.pending = Some(Pending { reason, due: Instant::now() + self.flight.after });
    }

    /// Writes the window in a thread of its own, so that events are taken meanwhile.
    fn write(&mut self, shared: &Shared, around: &mut Around) -> Result<(), TraceError> {
        // One at a time: two would compete for the disk, and for the memory of one window each.
        self.finish_writing()?;
        let Some(Pending { reason, .. }) = self.pending.take() else { return Ok(()) };
        around.catch_up();
        around.stacks.catch_up();
        let mut meta = shared.meta(&self.meta, around);
        meta.losses.stacks_missed += around.stacks.unread();
        meta.capture.trigger = Some(reason);
        let dump = dump::Dump {
            window: self.window.clone(),
            meta,
            devices: around.devices.0.clone(),
            tasks: around.tasks.0.clone(),
            frames: around.stacks.frames().to_vec(),
            p2m: around.runs(),
        };
        let (path, keep) = (self.path.clone(), self.flight.keep);
        let work = move || {
            let path = dump.write(&path)?;
            retention::clear(&path, &keep);
            Ok(path)
        };
        let thread = thread::Builder::new().name("dump".to_owned()).spawn(work);
        let started = thread.map_err(|source| TraceError::Io {
            doing: "start a thread to write",
            path: self.path.clone(),
            source,
        })?;
        self.writing = Some(started);
        self.paused_until = Instant::now() + PAUSE;
        Ok(())
    }

    fn finish_writing(&mut self) -> Result<(), TraceError> {
        if let Some(writing) = self.writing.take() {
            let written = writing.join().unwrap_or_else(|_| Err(TraceError::Sealer { path: self.path.clone() }))?;
            self.flown.dumps.push(written);
        }
        Ok(())
    }
}
