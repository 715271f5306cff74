//! A sweep's outcomes are those of single replays, in the order asked, whatever the threads do.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use replay::{Base, GENERATIONS, Geometry, Job, Machine, Options, P2m, Platform, Policy, Stopped, replay, sweep};

mod support;
use support::churn as load;

fn jobs<'a>(platforms: &'a [Platform]) -> Vec<Job<'a>> {
    let base = Base { pool: Geometry { start: 0x7400_0000, nslabs: 4096, areas: 4 }, cpus: Some(4), force: true };
    let job = |(i, rules): (usize, &replay::Generation)| {
        let policy = Policy::parse(&format!("{}:nslabs={}", rules.id, 512 << (i % 4))).unwrap();
        let options = Options { refusals: i % 3, buckets: 10, ..Options::default() };
        Job { setup: policy.resolve(&base).unwrap(), platform: &platforms[i % platforms.len()], options }
    };
    GENERATIONS.iter().enumerate().map(job).collect()
}

#[test]
fn outcomes_are_those_of_single_replays() {
    let load = load(20_000);
    let platforms = [Platform::native(), Platform::xen_pv(P2m::new())];
    let jobs = jobs(&platforms);
    let single: Vec<_> = jobs
        .iter()
        .map(|job| replay(&load, &mut Machine::new(&job.setup, job.platform.clone()), &job.options))
        .collect();
    assert!(single.iter().any(|o| o.total_failures() > 0) && single.windows(2).any(|w| w[0] != w[1]));
    for threads in [None, NonZeroUsize::new(1), NonZeroUsize::new(3), NonZeroUsize::new(1000)] {
        let told = Mutex::new(Vec::new());
        let swept = sweep(&load, &jobs, threads, &AtomicBool::new(false), |p| told.lock().unwrap().push(p));
        assert!(swept.into_iter().map(Result::unwrap).eq(single.iter().cloned()), "{threads:?}");
        let told = told.into_inner().unwrap();
        let total = (load.len() * jobs.len()) as u64;
        assert!(told.iter().all(|p| p.total_steps == total && p.steps <= total && p.jobs <= jobs.len()));
        assert!(told.iter().any(|p| p.steps == total) && told.iter().any(|p| p.jobs == jobs.len()));
    }
    assert!(sweep(&load, &[], None, &AtomicBool::new(false), |_| {}).is_empty());
}

#[test]
fn what_is_done_when_a_sweep_is_stopped_is_kept() {
    let load = load(300_000);
    let platforms = [Platform::native()];
    let jobs = jobs(&platforms);
    let stop = AtomicBool::new(false);
    // In the midst of the third.
    let swept = sweep(&load, &jobs, NonZeroUsize::new(1), &stop, |progress| {
        stop.store(progress.steps > 2 * load.len() as u64, Ordering::Relaxed);
    });
    assert_eq!(swept.iter().map(Result::is_ok).collect::<Vec<_>>()[..4], [true, true, false, false]);
    assert_eq!(swept[12].as_ref().err(), Some(&Stopped));
    assert_eq!(swept.len(), jobs.len());
    stop.store(true, Ordering::Relaxed);
    assert!(sweep(&load, &jobs, None, &stop, |_| {}).iter().all(Result::is_err));
}
