//! What capturing an event costs: measured in this process, with a tracepoint that it passes when it likes.
//!
//! `cargo xtask bench capture` runs it, here or in a guest. The load runs on the last CPU, the recorder on the others.
//! Everything is compared with its twin of the same minute: figures of different runs do not compare.
#![allow(clippy::print_stdout, reason = "figures are what this program is for")]

mod load;
mod rivals;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::BtfTracePoint;
use collector::{Mode, Options, Recorder};

use load::{Cpus, median};

/// Repetitions of which the median is told.
pub(crate) const ROUNDS: usize = 9;
/// Room for the events of a round, whatever the recorder is at.
const ROOMY: u32 = 64 << 20;
/// What users get.
const DEFAULT_RING: u32 = 16 << 20;
/// How long a rate is kept up.
const KEPT_UP: Duration = Duration::from_secs(5);
/// Events a second that are tried.
const RATES: [f64; 5] = [0.25e6, 0.5e6, 1e6, 1.5e6, 2e6];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let first = arguments.first().map(String::as_str);
    if let (Some("rate"), [_, rate, folder]) = (first, &arguments[..]) {
        return at_rate(rate.parse()?, Path::new(folder));
    }
    // Emulated machines are tens of times slower: fewer calls there.
    let pairs = first.map_or(Ok(100_000), str::parse)?;
    let folder = std::env::temp_dir().join(format!("capture-cost-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let cpus = Cpus::of_this_machine();
    cpus.pin_load();
    println!("{} · {} CPU(s) · load on CPU {}", collector::host::host().release, cpus.count(), cpus.last());
    let done =
        [Mode::Full, Mode::Aggregate].iter().try_for_each(|&mode| added(&cpus, &folder, pairs, mode)).and_then(|()| {
            if pairs >= 100_000 {
                rates(&folder)?;
                rivals::all(pairs, &folder);
            }
            Ok(())
        });
    std::fs::remove_dir_all(&folder)?;
    done
}

/// A recorder on the other CPUs. A thread of its own starts it, which gives up its capabilities afterwards; this one needs
/// them on.
fn start(cpus: &Cpus, path: PathBuf, ring_bytes: u32, mode: Mode) -> Result<Recorder> {
    thread::scope(|scope| {
        let starting = scope.spawn(|| {
            cpus.pin_rest();
            Recorder::start(&Options { ring_bytes, mode, ..Options::new(path, "the bench") })
        });
        Ok(starting.join().map_err(|_| "starting the recorder panicked")??)
    })
}

fn program<'a>(recorder: &'a mut Recorder, name: &str) -> Result<&'a mut BtfTracePoint> {
    let program = recorder.ebpf_mut().program_mut(name).ok_or_else(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// The pair alone, with a program that only looks, and with one that writes: in turns.
fn added(cpus: &Cpus, folder: &Path, pairs: u32, mode: Mode) -> Result<()> {
    let path = folder.join(format!("{mode}.swio"));
    let mut recorder = start(cpus, path.clone(), ROOMY, mode)?;
    let types = aya::Btf::from_sys_fs()?;
    for name in ["bench_filter", "bench_events"] {
        program(&mut recorder, name)?.load("task_rename", &types)?;
    }
    let mut bare = Vec::new();
    let mut filtered = Vec::new();
    let mut recorded = Vec::new();
    for _ in 0..ROUNDS {
        bare.push(load::ns_a_pair(pairs));
        for (name, figures) in [("bench_filter", &mut filtered), ("bench_events", &mut recorded)] {
            let link = program(&mut recorder, name)?.attach()?;
            figures.push(load::ns_a_pair(pairs));
            program(&mut recorder, name)?.detach(link)?;
        }
        // So that a round finds the ring empty.
        drained(&recorder);
    }
    let (bare, filtered, recorded) = (median(bare), median(filtered), median(recorded));
    let summary = recorder.finish()?;
    println!("\n{mode}: a pair of calls, ns of CPU time (median of {ROUNDS} × {pairs}):");
    println!("  bare                       {bare:7.0}");
    println!("  tp_btf that only looks     {filtered:7.0}   +{:.0}", filtered - bare);
    println!("  tp_btf with the events     {recorded:7.0}   +{:.0}   × {:.2}", recorded - bare, recorded / bare);
    println!(
        "  the two events by themselves        +{:.0}, {:.0} each",
        recorded - filtered,
        (recorded - filtered) / 2.0
    );
    let expected = ROUNDS as u64 * u64::from(pairs) * 2;
    // The program looks at this process only, but the recorder's threads are named too when they start.
    let load = load::thread_id();
    let mut others = 0;
    for event in trace::Trace::open(&path)?.events() {
        others += u64::from(event?.tid != load);
    }
    println!(
        "  {} events of {expected} stored, {} lost; {others} of the recorder's threads beside",
        summary.events - others,
        summary.meta.losses.ring_full
    );
    Ok(())
}

/// Waits until no more events come.
fn drained(recorder: &Recorder) {
    let mut seen = recorder.stats().events;
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = recorder.stats().events;
        if now == seen {
            return;
        }
        seen = now;
    }
}

/// Events at given rates, each in a process of its own: its memory is then that of a recorder.
fn rates(folder: &Path) -> Result<()> {
    println!("\nevents at a rate for {} s, ring of {} MiB, CPU time a second:", KEPT_UP.as_secs(), DEFAULT_RING >> 20);
    println!("  asked/s  made/s      lost   drainer  writer  all threads   memory peak   bytes/event");
    for rate in RATES {
        let mut one = Command::new(std::env::current_exe()?);
        if !one.arg("rate").arg(rate.to_string()).arg(folder).status()?.success() {
            return Err(format!("{rate} events a second could not be measured").into());
        }
    }
    Ok(())
}

/// With the recorder as users have it.
fn at_rate(rate: f64, folder: &Path) -> Result<()> {
    let cpus = Cpus::of_this_machine();
    cpus.pin_load();
    let path = folder.join("rate.swio");
    let mut recorder = start(&cpus, path.clone(), DEFAULT_RING, Mode::Full)?;
    let types = aya::Btf::from_sys_fs()?;
    let events = program(&mut recorder, "bench_events")?;
    events.load("task_rename", &types)?;
    drop(types);
    events.attach()?;
    cpus.hurry();
    load::forget();
    let watched = Arc::new(AtomicBool::new(true));
    let watch = thread::spawn({
        let watched = Arc::clone(&watched);
        // Its CPU is this thread's, and its turns are short.
        move || {
            let mut most = 0.0_f64;
            while watched.load(Ordering::Relaxed) {
                most = most.max(load::memory_mib());
                thread::sleep(Duration::from_millis(20));
            }
            most
        }
    });
    let (used, own) = (load::cpu_of_process(), load::cpu_of_thread());
    let began = Instant::now();
    let made = 2 * load::pairs_at(rate / 2.0, KEPT_UP);
    let took = began.elapsed().as_secs_f64();
    let threads = ["drainer", "writer"].map(|name| load::cpu_of_named(name).as_secs_f64() / took * 100.0);
    let own = load::cpu_of_thread() - own;
    // What is still queued or being sealed is work of these seconds too.
    let summary = recorder.finish()?;
    watched.store(false, Ordering::Relaxed);
    let memory = watch.join().map_err(|_| "watching memory panicked")?;
    let rest = (load::cpu_of_process() - used).saturating_sub(own).as_secs_f64() / took * 100.0;
    let size = trace::Trace::open(&path)?.size_on_disk()?;
    println!(
        "  {:5.2} M {:6.2} M {:9} {:7.0} % {:5.0} % {:10.0} % {:9.0} MiB {:12.2}",
        rate / 1e6,
        made as f64 / took / 1e6,
        summary.meta.losses.ring_full,
        threads[0],
        threads[1],
        rest,
        memory,
        size as f64 / summary.events as f64,
    );
    Ok(std::fs::remove_dir_all(&path)?)
}
