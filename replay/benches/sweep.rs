//! What a sweep costs beside single replays: `cargo bench -p replay --bench sweep -- [EVENTS]`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may panic, and prints its figures")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use replay::{Base, Geometry, Job, Load, Machine, Options, Platform, Policy, Surroundings, replay, sweep};
use trace::{Device, Direction, Event, Op};

const JOBS: usize = 64;

fn main() {
    let events = std::env::args().skip(1).find_map(|arg| arg.replace('_', "").parse().ok()).unwrap_or(1_000_000);
    let empty = resident();
    let (load, tied) = timed(|| synthetic_load(events));
    println!("load: {} steps of {events} events, tied in {:.0} ns an event", load.len(), per(tied, events));
    println!("memory: {} MB for the load, {} MB at most while tying", resident() - empty, peak() - empty);

    let base = Base { pool: Geometry { start: 0x7400_0000, nslabs: 32_768, areas: 8 }, cpus: Some(8), force: true };
    let platform = Platform::native();
    // From 1.5 MiB, which refuses most, to 256 MiB, which refuses nothing.
    let jobs: Vec<_> = (0..JOBS)
        .map(|i| {
            let policy =
                Policy::parse(&format!("v6_10:nslabs={},areas={}", 2048 << (i % 7), 1 << (i / 7 % 4))).unwrap();
            Job { setup: policy.resolve(&base).unwrap(), platform: &platform, options: Options::default() }
        })
        .collect();

    // No bounces at all: what is left is the replay's own loop.
    let direct = Policy::parse("v6_10:force=off").unwrap().resolve(&base).unwrap();
    let before = cpu_time();
    for _ in 0..JOBS {
        black_box(replay(&load, &mut Machine::new(&direct, platform.clone()), &Options::default()));
    }
    let took = (cpu_time() - before) * 1e9 / (JOBS * load.len().max(1)) as f64;
    println!("the loop with two mappings of three direct: {took:.1} ns of processor time a step");

    let before = cpu_time();
    let mut single = Duration::ZERO;
    let (mut shortest, mut longest) = (Duration::MAX, Duration::ZERO);
    let mut failures = Vec::new();
    for job in &jobs {
        let (outcome, took) = timed(|| replay(&load, &mut Machine::new(&job.setup, platform.clone()), &job.options));
        failures.push(outcome.total_failures());
        single += took;
        (shortest, longest) = (shortest.min(took), longest.max(took));
    }
    let one = single / JOBS as u32;
    let cpu_of_singles = cpu_time() - before;
    println!(
        "one replay: {:.0} ms, {:.1} ns of processor time a step; of {JOBS}, the shortest {:.0} ms, the longest {:.0} ms",
        ms(one),
        cpu_of_singles * 1e9 / (JOBS * load.len().max(1)) as f64,
        ms(shortest),
        ms(longest)
    );
    println!("refused: {} of the tightest, {} of the widest", failures.iter().max().unwrap(), failures[6]);

    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    for threads in if cores == 1 { vec![1] } else { vec![1, cores] } {
        let stop = AtomicBool::new(false);
        let before = cpu_time();
        let (outcomes, took) = timed(|| sweep(&load, &jobs, NonZeroUsize::new(threads), &stop, |_| {}));
        let same = outcomes.iter().zip(&failures).all(|(o, f)| o.as_ref().is_ok_and(|o| o.total_failures() == *f));
        assert!(same, "a sweep's outcomes are those of single replays");
        let share = JOBS as f64 / threads as f64;
        println!(
            "sweep of {JOBS} on {threads} of {cores} threads: {:.2} s, {:.2} of {share:.0} replays; {:.2} of their processor time",
            took.as_secs_f64(),
            took.as_secs_f64() / (one.as_secs_f64() * share),
            (cpu_time() - before) / cpu_of_singles
        );
        black_box(outcomes);
    }
}

/// Three devices at work: an NVMe with a min_align_mask, a network card, an old 32-bit disk; a thousand buffers in flight.
fn synthetic_load(events: usize) -> Load {
    let mut random = fastrand::Rng::with_seed(1);
    let device = |id, name: &str, min_align_mask, reach| Device {
        id,
        name: name.to_owned(),
        driver: None,
        dma_mask: Some(reach),
        coherent_dma_mask: reach,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: None,
        min_align_mask,
        ..Device::new(0, "")
    };
    let devices = [device(0, "nvme", 0xfff, u64::MAX), device(1, "net", 0, u64::MAX), device(2, "ide", 0, 0xffff_ffff)];
    let mut builder = Load::builder(&devices, &Surroundings::default());
    let mut alive: Vec<Event> = Vec::new();
    for i in 0..events as u64 {
        let time_ns = i * 500;
        let event = |op, like: &Event| Event {
            size: like.size,
            dma_addr: like.dma_addr,
            direction: like.direction,
            ..Event::new(op, time_ns, like.cpu, 1, like.device)
        };
        if random.u32(0..2048) as usize >= alive.len() {
            let device = random.u32(0..3);
            let size = match device {
                0 => 4096 << random.u32(0..6),
                1 => random.u64(64..2048),
                _ => 512 * random.u64(1..128),
            };
            let address = 0x1_0000_0000 + (i << 18) + if device == 0 { 0 } else { random.u64(0..2048) };
            let map = Event {
                orig_addr: Some(address),
                size: Some(size),
                dma_addr: Some(address),
                direction: Some(if i % 2 == 0 { Direction::ToDevice } else { Direction::FromDevice }),
                ..Event::new(Op::Map, time_ns, random.u32(0..8), 1, device)
            };
            builder.push(&map);
            alive.push(map);
        } else if random.u32(0..8) == 0 {
            builder.push(&event(Op::SyncForCpu, random.choice(&alive).unwrap()));
        } else {
            let at = random.usize(0..alive.len());
            builder.push(&event(Op::Unmap, &alive.swap_remove(at)));
        }
    }
    builder.finish()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed())
}

/// Processor time of all threads in seconds, which others on the machine do not lengthen as they do the time on the clock;
/// the kernel tells it in hundredths.
fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn per(time: Duration, things: usize) -> f64 {
    time.as_nanos() as f64 / things.max(1) as f64
}

/// Memory in use now, in MB; 0 where it cannot be told.
fn resident() -> u64 {
    status("VmRSS:")
}

/// The most memory used so far, in MB.
fn peak() -> u64 {
    status("VmHWM:")
}

fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
