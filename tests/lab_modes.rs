//! Modes, filters, stacks and the flight recorder on a real kernel. Each test boots one guest and records several times.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;
use trace::sums::Reading;
use trace::{Op, Trace};
use xtask::lab::{Guest, Kernel, Load};

const SWIOSCOPE: &str = env!("CARGO_BIN_EXE_swioscope");

/// Runs `job` in the guest, with the tool and the load generator in place, and returns the folder of what it left.
fn run(guest: Guest, job: &str) -> PathBuf {
    // Another package's program: built beside ours whenever the whole workspace is tested.
    let lab_load = Path::new(SWIOSCOPE).with_file_name("lab-load");
    assert!(lab_load.exists(), "{} is missing: run `cargo xtask test`", lab_load.display());
    let outcome = guest.file(SWIOSCOPE, "/bin/swioscope").file(lab_load, "/bin/lab-load").run(&[job]).unwrap();
    assert_eq!(outcome.status, 0, "{}\nconsole: {}", outcome.output, outcome.console.display());
    outcome.out_dir
}

fn verdict(trace: &Path) -> Json {
    let output = Command::new(SWIOSCOPE).arg("verify").arg(trace).args(["--format", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn open(path: &Path) -> Trace {
    let trace = Trace::open(path).unwrap();
    assert!(trace.meta().closed);
    assert_eq!(trace.meta().losses.events(), 0, "{:?}", trace.meta().losses);
    trace
}

fn ops(trace: &Trace, op: Op) -> u64 {
    trace.events().filter(|event| event.as_ref().unwrap().op == op).count() as u64
}

/// The flight recorder's dumps, by name and so by number.
fn dumps(folder: &Path, stem: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let ours = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{stem}-"));
    let mut found: Vec<_> = entries.filter(ours).collect();
    found.sort();
    found
}

#[test]
fn stacks_threads_and_filters() {
    let guest = Guest::new(Kernel::V6_12).swiotlb("8192,1,force").load(Load::Nvme { queues: 2 }).load(Load::Ahci);
    let load = "lab-load --device /dev/load/nvme --device /dev/load/ahci --threads 4 --min 4k --max 64k --ops 600";
    let out = run(
        guest,
        &format!(
            "set -e; swioscope record -q --strict --stacks --ring 64 -o /out/stacks.swio -- {load}; \
             swioscope record -q --strict --driver 'nv?e' --dir to --min-size 8K --ring 64 -o /out/some.swio -- {load}; \
             swioscope record -q --strict --device '*.nothing' --ring 64 -o /out/none.swio -- {load}; \
             swioscope record -q --strict --mode bounces --ring 64 -o /out/bounces.swio -- {load}"
        ),
    );

    let trace = open(&out.join("stacks.swio"));
    assert_eq!(verdict(&out.join("stacks.swio"))["share"], 1.0);
    let events: Vec<_> = trace.events().map(Result::unwrap).collect();
    let taken: Vec<_> = events.iter().filter(|e| e.op == Op::SlotAlloc).collect();
    assert!(taken.len() > 600);
    // Two stacks that hash alike cost one of them its place, which is counted.
    let with_stack = taken.iter().filter(|e| e.stack.is_some()).count() as u64;
    assert!(with_stack + trace.meta().losses.stacks_missed >= taken.len() as u64);
    let symbols: Vec<_> = trace.stacks().iter().filter_map(|frame| frame.symbol.as_deref()).collect();
    assert!(symbols.iter().any(|name| name.starts_with("nvme_")), "{symbols:?}");
    assert!(symbols.len() * 10 > trace.stacks().len() * 9, "nine of ten calls have a name");
    // One CPU: a task that keeps it from entry to return has a latency.
    let timed = taken.iter().filter(|e| e.latency_ns.is_some_and(|ns| ns > 0)).count();
    assert!(timed * 10 > taken.len() * 9, "{timed} of {}", taken.len());
    assert!(trace.tasks().iter().any(|task| task.comm == "lab-load" && task.pid != 0));
    let cpu = trace.meta().losses.by_cpu[0];
    assert_eq!((cpu.seen, cpu.lost, cpu.filtered), (cpu.stored, 0, 0));
    assert_eq!(cpu.stored, events.len() as u64);

    let trace = open(&out.join("some.swio"));
    assert!(ops(&trace, Op::Map) > 50);
    for event in trace.events().map(Result::unwrap) {
        assert!(event.size.is_none_or(|size| size >= 8192), "{event:?}");
        assert!(event.direction.is_none_or(|d| d == trace::Direction::ToDevice), "{event:?}");
    }
    assert_eq!(trace.devices().len(), 1);
    assert_eq!(trace.devices()[0].driver.as_deref(), Some("nvme"));
    assert_eq!(ops(&trace, Op::SlotAlloc), ops(&trace, Op::SlotFree));
    let cpu = trace.meta().losses.by_cpu[0];
    assert!(cpu.filtered > cpu.stored);
    assert_eq!(cpu.seen, cpu.stored + cpu.filtered);
    assert_eq!(trace.meta().capture.filters["min_size"], "8192");

    let trace = open(&out.join("none.swio"));
    assert_eq!((trace.event_count(), trace.devices().len()), (0, 0));

    let path = out.join("bounces.swio");
    let trace = open(&path);
    assert_eq!((ops(&trace, Op::Map), ops(&trace, Op::SlotAlloc)), (0, ops(&trace, Op::SlotFree)));
    assert_eq!(ops(&trace, Op::Bounce), ops(&trace, Op::SlotAlloc));
    assert_eq!(verdict(&path)["share"], 1.0);
}

/// What the kernel sums up is what it tells event by event.
#[test]
fn sums_are_those_of_the_events() {
    let guest = Guest::new(Kernel::V6_12).swiotlb("8192,1,force").load(Load::Nvme { queues: 2 });
    let load = "lab-load --device /dev/load/nvme --threads 1 --seed 7 --min 4k --max 64k --ops 500";
    let out = run(
        guest,
        &format!(
            "set -e; swioscope record -q --strict --ring 64 -o /out/events.swio -- {load}; \
             swioscope record -q --strict --mode aggregate -o /out/sums.swio -- {load}"
        ),
    );
    let trace = open(&out.join("sums.swio"));
    assert_eq!(trace.event_count(), 0);
    let Reading { sums, histograms, occupancy } = trace.sums().unwrap();
    let nvme = trace.devices().iter().find(|d| d.driver.as_deref() == Some("nvme")).unwrap().id;
    let of = |op| sums.iter().find(|sum| (sum.device, sum.op) == (nvme, op)).unwrap();
    let (taken, given) = (of(Op::SlotAlloc), of(Op::SlotFree));
    assert_eq!(taken.count, given.count, "nothing is left");
    for sum in sums.iter().filter(|sum| sum.op != Op::SlotFree) {
        let sizes = histograms.iter().filter(|b| (b.device, b.op) == (sum.device, sum.op) && b.size.is_some());
        assert_eq!(sizes.map(|b| b.count).sum::<u64>(), sum.count);
    }
    assert!(taken.timed * 10 > taken.count * 9 && taken.latency_ns > 0);
    assert!(!occupancy.is_empty());
    // The same load, recorded event by event, moves the same bytes; in how many pieces depends on how memory lies.
    let events = open(&out.join("events.swio"));
    let nvme = events.devices().iter().find(|d| d.driver.as_deref() == Some("nvme")).unwrap().id;
    let taken_then = events.events().map(Result::unwrap).filter(|e| e.op == Op::SlotAlloc && e.device == nvme);
    let bytes: u64 = taken_then.filter_map(|event| event.size).sum();
    assert!(taken.bytes.abs_diff(bytes) * 100 < bytes, "{} against {bytes}", taken.bytes);
}

/// Waits for `condition`, or fails when the job that runs in the background as `$recorder` has ended.
fn until(condition: &str) -> String {
    format!("while ! {condition}; do usleep 100000; kill -0 $recorder || exit 9; done")
}

/// A recorder that stands still while the load runs loses records, knows how many, and says so.
#[test]
fn what_is_lost_is_counted() {
    let guest = Guest::new(Kernel::V6_12).swiotlb("8192,1,force").load(Load::Nvme { queues: 2 });
    let load = "lab-load --device /dev/load/nvme --threads 4 --min 4k --max 64k --ops";
    let out = run(
        guest,
        &format!(
            "swioscope record -q --strict --ring 1M -o /out/lost.swio & recorder=$!; {}; \
             kill -STOP $recorder; {load} 1500; kill -CONT $recorder; sleep 1; {load} 50; kill $recorder; wait $recorder; \
             echo $? >/out/status",
            until("[ -e /out/lost.swio/events.open ]")
        ),
    );
    assert_eq!(std::fs::read_to_string(out.join("status")).unwrap().trim(), "3");
    let trace = Trace::open(out.join("lost.swio")).unwrap();
    let losses = &trace.meta().losses;
    let cpu = losses.by_cpu[0];
    assert!(cpu.lost > 0 && cpu.lost == losses.ring_full, "{losses:?}");
    assert_eq!(cpu.seen, cpu.stored + cpu.lost, "nothing is unaccounted for");
    let gaps = trace.events().map(Result::unwrap).filter(|event| event.op == Op::Lost);
    let told: Vec<_> = gaps.map(|gap| (gap.count.unwrap(), gap.since_ns.unwrap() <= gap.time_ns)).collect();
    assert_eq!(told.iter().map(|(count, _)| count).sum::<u64>(), cpu.lost);
    assert!(told.iter().all(|(_, forward)| *forward));
}

/// A pool of 1 MiB refuses a part of the load: a dump for it, and two by hand, each a trace that can be verified.
#[test]
fn a_flight_recorder_writes_what_led_to_it() {
    let guest = Guest::new(Kernel::V6_12).swiotlb("512,1,force").load(Load::Nvme { queues: 2 }).disk_iops(100);
    let small = "lab-load --device /dev/load/nvme --threads 2 --min 4k --max 16k --ops";
    let large = "lab-load --device /dev/load/nvme --threads 60 --min 128k --max 250k --ops 300";
    let ready = until("grep -q waiting /out/log");
    let out = run(
        guest,
        &format!(
            "swioscope record --ring 1M --trigger failure -o /out/f.swio 2>/out/log & recorder=$!; {ready}; \
             {small} 300; {large}; sleep 3; kill $recorder; wait $recorder || exit 8; \
             rm /out/log; \
             swioscope record --ring 1M --trigger signal --keep 1 -o /out/s.swio 2>/out/log & recorder=$!; {ready}; \
             {small} 400; kill -USR1 $recorder; sleep 4; {small} 100; kill -USR1 $recorder; sleep 4; \
             kill $recorder; wait $recorder"
        ),
    );
    let found = dumps(&out, "f");
    assert!(!found.is_empty());
    let trace = Trace::open(&found[0]).unwrap();
    let trigger = trace.meta().capture.trigger.clone().unwrap();
    assert!(trigger.starts_with("failure: "), "{trigger}");
    assert!(ops(&trace, Op::SlotFailed) > 0);
    let failed = trace.events().map(Result::unwrap).find(|event| event.op == Op::SlotFailed).unwrap();
    assert!(failed.stack.is_some(), "a failure has a stack without --stacks");
    // The second dump made the first one go.
    let found = [found, dumps(&out, "s")].concat();
    assert!(found.last().unwrap().to_string_lossy().contains("s-0002-"), "{found:?}");
    assert_eq!(dumps(&out, "s").len(), 1);
    for path in &found {
        assert_eq!(verdict(path)["share"], 1.0, "{}", path.display());
        assert!(Trace::open(path).unwrap().meta().snapshot_exact);
    }
}
