//! What a looker-on is told while a recording goes on.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use trace::{Feed, Meta};

use super::around::Around;
use super::drain::Batch;
use super::shared::Shared;
use crate::kernel::clock;

/// How often it is told how late it is, and what belongs to the events.
const TICK: Duration = Duration::from_millis(200);
/// How often it is told of losses and of Xen's frames, which takes reading them all.
const SLOW: Duration = Duration::from_secs(1);

/// Tells one looker-on.
pub(super) struct Feeder {
    /// Until it goes away.
    to: Option<SyncSender<Feed>>,
    base_ns: u64,
    slow_at: Instant,
    /// Which telling of threads, and how many stack frames, were passed on.
    told: (u64, usize),
    /// Runs and pages of the frame table told last.
    frames: (usize, u64),
}

impl Feeder {
    pub(super) fn new(to: SyncSender<Feed>, base_ns: u64) -> Self {
        Self { to: Some(to), base_ns, slow_at: Instant::now(), told: (0, 0), frames: (0, 0) }
    }

    fn send(&mut self, what: Feed) {
        if self.to.as_ref().is_some_and(|to| to.send(what).is_err()) {
            self.to = None;
        }
    }

    /// Tells of a batch that `around` has seen.
    pub(super) fn tell(&mut self, batch: &Batch, around: &Around) {
        if self.to.is_none() {
            return;
        }
        if around.devices.1 {
            self.send(Feed::Devices(around.devices.0.clone()));
        }
        if !batch.looks.is_empty() {
            self.send(Feed::Looks(batch.looks.clone()));
        }
        if !batch.events.is_empty() {
            self.send(Feed::Events(batch.events.clone()));
        }
    }

    /// Tells of what has come to be known beside the events, and how late it is.
    pub(super) fn keep_up(&mut self, shared: &Shared, meta: &Meta, around: &mut Around) {
        if self.to.is_none() {
            return;
        }
        around.stacks.catch_up();
        let (tasks, frames) = (around.tasks_told, around.stacks.frames().len());
        if tasks != self.told.0 {
            self.send(Feed::Tasks(around.tasks.0.clone()));
        }
        if frames != self.told.1 {
            self.send(Feed::Stacks(around.stacks.frames().to_vec()));
        }
        self.told = (tasks, frames);
        if self.slow_at.elapsed() >= SLOW {
            self.slow_at = Instant::now();
            if let Some(runs) = around.runs() {
                let size = (runs.len(), runs.iter().map(|run| run.count).sum());
                if std::mem::replace(&mut self.frames, size) != size {
                    self.send(Feed::P2m(runs));
                }
            }
            self.send(Feed::Meta(Box::new(shared.meta(meta, around))));
        }
        self.send(Feed::Time(clock(libc::CLOCK_MONOTONIC).saturating_sub(self.base_ns)));
    }

    /// Does nothing else, until the drainer ends.
    pub(super) fn run(mut self, batches: &Receiver<Batch>, shared: &Shared, meta: &Meta, mut around: Around) -> Around {
        let mut kept_up = Instant::now();
        loop {
            match batches.recv_timeout(TICK) {
                Ok(mut batch) => {
                    around.see(&mut batch);
                    self.tell(&batch, &around);
                    around.devices.1 = false;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if kept_up.elapsed() >= TICK {
                kept_up = Instant::now();
                around.catch_up();
                self.keep_up(shared, meta, &mut around);
            }
        }
        self.keep_up(shared, meta, &mut around);
        around
    }
}
