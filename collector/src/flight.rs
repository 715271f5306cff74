//! The flight recorder: events stay in memory, and are written when something has happened.
//!
//! | module | what lives there |
//! |---|---|
//! | [`window`] | the last events, and the pool as it was before them |
//! | [`trigger`] | [`Trigger`]: when to write |
//! | [`retention`] | [`Keep`]: which of the earlier dumps stay |
//! | `dump` | a window as a trace |
//! | `writing` | the thread that writes it, and what became of it |

pub(crate) mod dump;
pub mod retention;
pub mod trigger;
pub mod window;
mod writing;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use trace::{Meta, SnapshotSlot};

pub use retention::Keep;
pub use trigger::{BadTrigger, Trigger};

use crate::kernel::clock;
use crate::recorder::around::Around;
use crate::recorder::drain::Batch;
use crate::recorder::shared::Shared;
use trigger::Watch;
use window::{Tally, Window};
use writing::Dumps;

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

impl Flight {
    /// What keeps triggers from doing what they say on this machine, in words.
    #[must_use]
    pub fn doubts(&self, meta: &Meta) -> Vec<String> {
        self.triggers.iter().filter_map(|trigger| trigger.doubt(meta)).collect()
    }
}

/// After a dump that was not asked for by hand, this long no other: a pool that stays full refuses mappings without end,
/// and writing them all down would only add to its load.
const PAUSE: Duration = Duration::from_secs(10);
/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_millis(50);
/// How often new p2m entries and stacks are read.
const CATCH_UP: Duration = Duration::from_millis(200);
/// How often losses are read that no event tells of: a dump counts those of its window and of up to so long before it.
const MARK: Duration = Duration::from_secs(1);

/// What a flight recorder has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flown {
    /// The dumps written, those removed since included.
    pub dumps: Vec<PathBuf>,
    /// Triggers in the pause after a dump, which wrote nothing.
    pub passed_over: u64,
    /// Dumps that could not be written, those that were made good by a later one included.
    pub failed: u64,
    /// Why the last of these was not written.
    pub last_failure: Option<String>,
    /// What triggered the last dump, when that failed: what led to it is in none.
    pub unwritten: Option<String>,
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
    flight: Flight,
    meta: Meta,
    window: Window,
    watch: Watch,
    pending: Option<Pending>,
    /// Before this no trigger but a signal counts.
    paused_until: Instant,
    dumps: Dumps,
}

impl Keeper {
    /// A flight recorder whose dumps are named after `path`.
    pub(crate) fn new(path: PathBuf, flight: Flight, meta: Meta, snapshot: &[SnapshotSlot]) -> Self {
        // The notes tell it at the end, which may be weeks away.
        flight.doubts(&meta).iter().for_each(|doubt| tracing::warn!("{doubt}"));
        let window = Window::new(flight.window_bytes, &meta, snapshot);
        let watch = Watch::new(&flight.triggers, window.before());
        let paused_until = Instant::now();
        Self { flight, meta, window, watch, pending: None, paused_until, dumps: Dumps::new(path) }
    }

    /// Runs until the drainer ends; a trigger that still waits then is written without what follows. A dump that fails ends
    /// nothing: what it should have held is in memory and tried again.
    pub(crate) fn run(mut self, batches: &Receiver<Batch>, shared: &Shared, mut around: Around) -> Flown {
        let mut caught_up = Instant::now();
        let mut marked = caught_up;
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
            self.dumps.look();
            if shared.dump.swap(false, Ordering::Relaxed) {
                self.fire("signal".to_owned(), true);
            }
            if caught_up.elapsed() >= CATCH_UP {
                around.catch_up();
                caught_up = Instant::now();
            }
            if marked.elapsed() >= MARK {
                let lost = Tally::of(&self.meta_now(shared, &around).losses);
                // Read after the losses: they all came before it.
                let now = clock(libc::CLOCK_MONOTONIC).saturating_sub(self.meta.clock.monotonic_ns);
                self.window.mark(now, lost);
                marked = Instant::now();
            }
            if self.pending.as_ref().is_some_and(|pending| Instant::now() >= pending.due) {
                self.write(shared, &mut around);
            }
        }
        self.dumps.wait();
        if self.pending.is_none() {
            // Whatever was in the way of the last dump may be gone.
            let again = self.dumps.flown.unwritten.clone();
            self.pending = again.map(|reason| Pending { reason, due: Instant::now() });
        }
        self.write(shared, &mut around);
        self.dumps.wait();
        Flown { devices: around.devices.0.len(), ..self.dumps.flown }
    }

    /// Takes note of a trigger; `asked` by hand. Further ones before the dump is written are part of it.
    fn fire(&mut self, reason: String, asked: bool) {
        if self.pending.is_some() {
            return;
        }
        let now = Instant::now();
        let paused_until = if asked { now } else { self.paused_until };
        match due(now, self.flight.after, paused_until, self.dumps.flown.unwritten.is_some()) {
            Some(due) => self.pending = Some(Pending { reason, due }),
            None => self.dumps.flown.passed_over += 1,
        }
    }

    /// The metadata with the losses up to now.
    fn meta_now(&self, shared: &Shared, around: &Around) -> Meta {
        let mut meta = shared.meta(&self.meta, around);
        meta.losses.stacks_missed += around.stacks.unread();
        meta
    }

    /// Has the window written, if a trigger asks for it.
    fn write(&mut self, shared: &Shared, around: &mut Around) {
        let Some(Pending { reason, .. }) = self.pending.take() else { return };
        around.catch_up();
        around.stacks.catch_up();
        let mut meta = self.meta_now(shared, around);
        meta.capture.trigger = Some(reason.clone());
        let dump = dump::Dump {
            window: self.window.clone(),
            meta,
            devices: around.devices.0.clone(),
            tasks: around.tasks.0.clone(),
            frames: around.stacks.frames().to_vec(),
            p2m: around.runs(),
        };
        let (base, keep) = (self.dumps.base().to_owned(), self.flight.keep);
        self.dumps.start(reason, move || {
            let path = dump.write(&base)?;
            retention::clear(&path, &keep);
            Ok(path)
        });
        self.paused_until = Instant::now() + PAUSE;
    }
}

/// When a trigger's dump is due; nothing when it is passed over because one was written a moment ago. With `unwritten`, what
/// that should have held is not on disk, and this one waits for the end of the pause.
fn due(now: Instant, after: Duration, paused_until: Instant, unwritten: bool) -> Option<Instant> {
    match now < paused_until {
        false => Some(now + after),
        true if unwritten => Some(paused_until.max(now + after)),
        true => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_in_the_pause_are_passed_over_unless_the_last_dump_failed() {
        let now = Instant::now();
        let [second, minute] = [1, 60].map(Duration::from_secs);
        assert_eq!(due(now, second, now, false), Some(now + second));
        assert_eq!(due(now, second, now + PAUSE, false), None);
        assert_eq!(due(now, second, now + PAUSE, true), Some(now + PAUSE));
        assert_eq!(due(now, minute, now + PAUSE, true), Some(now + minute));
    }
}
