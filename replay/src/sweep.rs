//! One load replayed on many machines: the load is read where it lies, by as many threads as there are processors.
//!
//! A configuration costs what replaying it alone costs: its machine is made by the thread that takes it up and is
//! dropped with it, so there are never more pools in memory than threads.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::load::Load;
use crate::machine::{Machine, Platform};
use crate::outcome::{Options, Outcome};
use crate::policy::Setup;
use crate::whatif::Replay;

/// A configuration to replay a load on.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// The policy's pools.
    pub setup: Setup,
    /// The platform; its frame table is copied when the job's turn comes.
    pub platform: &'a Platform,
    /// What to keep, and what to assume.
    pub options: Options,
}

/// How far a sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps replayed in all jobs together.
    pub steps: u64,
    /// Steps to replay: those of the load, a job.
    pub total_steps: u64,
    /// Jobs done.
    pub jobs: usize,
}

/// A job that was not finished because the sweep was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped before it was done")]
pub struct Stopped;

/// Replays a load on each job's machine; the outcomes are in the order of the jobs.
///
/// `threads` is how many replay at once, all processors when nothing is said; the calling one is among them. `progress`
/// is told every few milliseconds, by any of them. Setting `stop` ends the sweep as soon: what is done by then is
/// returned, the rest is [`Stopped`].
pub fn sweep(
    load: &Load,
    jobs: &[Job<'_>],
    threads: Option<NonZeroUsize>,
    stop: &AtomicBool,
    progress: impl Fn(Progress) + Sync,
) -> Vec<Result<Outcome, Stopped>> {
    let sweep = Sweep {
        load,
        jobs,
        stop,
        progress: &progress,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        steps: AtomicU64::new(0),
        outcomes: Mutex::new(vec![Err(Stopped); jobs.len()]),
    };
    let threads = threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 1..threads.min(jobs.len()) {
            // Where there are no more threads to be had, those there are do the work.
            let _ = thread::Builder::new().name("sweep".to_owned()).spawn_scoped(scope, || sweep.work());
        }
        sweep.work();
    });
    sweep.outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What the threads share.
struct Sweep<'a, P> {
    load: &'a Load,
    jobs: &'a [Job<'a>],
    stop: &'a AtomicBool,
    progress: &'a P,
    /// The first job nobody has taken up.
    next: AtomicUsize,
    done: AtomicUsize,
    steps: AtomicU64,
    outcomes: Mutex<Vec<Result<Outcome, Stopped>>>,
}

impl<P: Fn(Progress)> Sweep<'_, P> {
    /// Takes up jobs until there are none.
    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed)
            && let at = self.next.fetch_add(1, Ordering::Relaxed)
            && let Some(job) = self.jobs.get(at)
        {
            let Ok(outcome) = self.replay(job) else { return };
            self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)[at] = Ok(outcome);
            self.done.fetch_add(1, Ordering::Relaxed);
            self.tell(0);
        }
    }

    fn replay(&self, job: &Job<'_>) -> Result<Outcome, Stopped> {
        let mut machine = Machine::new(&job.setup, job.platform.clone());
        let mut replay = Replay::new(self.load, &mut machine, &job.options);
        let went = replay.run(|steps| {
            self.tell(steps as u64);
            if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if went.is_break() { Err(Stopped) } else { Ok(replay.finish()) }
    }

    fn tell(&self, steps: u64) {
        let steps = self.steps.fetch_add(steps, Ordering::Relaxed) + steps;
        let total_steps = (self.load.len() as u64).saturating_mul(self.jobs.len() as u64);
        (self.progress)(Progress { steps, total_steps, jobs: self.done.load(Ordering::Relaxed) });
    }
}
