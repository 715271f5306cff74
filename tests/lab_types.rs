//! What is seen without the kernel's types: the classic tracepoint and debugfs, on real kernels, in the lab.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value as Json;
use trace::sums::Occupancy;
use trace::{Event, Op, Trace};
use xtask::lab::{Guest, Kernel, Load};

const SWIOSCOPE: &str = env!("CARGO_BIN_EXE_swioscope");

/// Forced families beside all the rest, then a kernel that shows no BTF.
const JOB: &str = "
mount -t debugfs debugfs /sys/kernel/debug; mount -t tracefs tracefs /sys/kernel/tracing
load='lab-load --device /dev/load/nvme --threads 16 --ops 1200'
swioscope record -q --backend tracepoint -o /out/classic.swio -- $load || exit 3
swioscope record -q --backend debugfs -o /out/looked.swio -- $load || exit 4
mount -t tmpfs none /sys/kernel/btf
swioscope doctor --json >/out/doctor.json || exit 5
swioscope record -q -o /out/bare.swio -- $load || exit 6
swioscope record -q --device 'nobody*' -o /out/nobody.swio -- $load || exit 7
swioscope record -q --mode aggregate -o /out/sums.swio -- $load || exit 8
";

fn events(trace: &Trace) -> Vec<Event> {
    trace.events().collect::<Result<_, _>>().unwrap()
}

fn backend<'a>(trace: &'a Trace, event: &str) -> Option<&'a str> {
    trace.meta().capture.backends.get(event).map(String::as_str)
}

fn of_op(events: &[Event], op: Op) -> impl Iterator<Item = &Event> {
    events.iter().filter(move |event| event.op == op)
}

/// Slots in use after each event that changes them.
fn counted(events: &[Event], before: u64) -> Vec<(u64, u64)> {
    let (mut used, mut held) = (before, BTreeMap::new());
    let mut counted = vec![(0, before)];
    for event in events {
        match event.op {
            Op::SlotAlloc => {
                // No padding and no alignment below a slot: the load's buffers are pages.
                let slots = event.size.unwrap().div_ceil(2048);
                held.insert(event.tlb_addr, slots);
                used += slots;
            }
            Op::SlotFree => used -= held.remove(&event.tlb_addr).unwrap_or(0).min(used),
            _ => continue,
        }
        counted.push((event.time_ns, used));
    }
    counted
}

/// The kernel's word that it bounces comes before each request for slots, whoever tells it.
fn bounces_are_told_by_name(path: &Path) {
    let trace = Trace::open(path).unwrap();
    assert_eq!(backend(&trace, "bounce"), Some("tracepoint swiotlb:swiotlb_bounced"));
    assert!(backend(&trace, "slot_alloc").is_some_and(|backend| !backend.starts_with("tracepoint")));
    let events = events(&trace);
    let asked = of_op(&events, Op::SlotAlloc).count() + of_op(&events, Op::SlotFailed).count();
    let told = of_op(&events, Op::Bounce).count();
    // A mapping may have begun before the recording, or not be through at its end.
    assert!(told > 1000 && told.abs_diff(asked) <= 4, "{told} bounces, {asked} requests for slots");
    // One device, known by its address to the others, is one row.
    assert_eq!(trace.devices().len(), 1, "{:?}", trace.devices());
    assert!(trace.devices()[0].driver.is_some());
    assert!(of_op(&events, Op::Bounce).all(|event| event.device == 0 && event.size.is_some_and(|size| size > 0)));
}

/// What debugfs shows lies among what the events of that moment come to.
fn looks_agree_with_events(path: &Path) {
    let trace = Trace::open(path).unwrap();
    assert_eq!(backend(&trace, "pool_use"), Some("debugfs io_tlb_used"));
    let looks = trace.sums().unwrap().occupancy;
    let before = trace.meta().pools[0].areas.iter().map(|area| area.used).sum();
    let counted = counted(&events(&trace), before);
    assert!(looks.len() > 3, "{looks:?}");
    // Whoever looks can be held up between the clock and the file, and an event is told before it is done, or after.
    let agree = |within_ns: u64| {
        let agrees = |look: &&Occupancy| {
            let near =
                |pair: &&[(u64, u64)]| pair[1].0 + within_ns >= look.time_ns && pair[0].0 <= look.time_ns + within_ns;
            let used = counted.windows(2).filter(near).flatten().map(|(_, used)| *used);
            let (least, most) = used.fold((u64::MAX, 0), |(least, most), used| (least.min(used), most.max(used)));
            let last = counted.last().unwrap();
            (least..=most).contains(&look.used) || look.time_ns > last.0 && look.used == last.1
        };
        looks.iter().filter(agrees).count()
    };
    // An emulated CPU that its host takes away between an event's program and what it tells of was late by more than 30 ms once.
    let (counts, all) = ([2, 30].map(|ms| agree(ms * 1_000_000)), looks.len());
    assert!(counts[0] * 4 >= all * 3 && counts[1] * 10 >= all * 9, "{counts:?} of {all}: {looks:?}");
}

fn is_seen_without_types(kernel: Kernel) {
    let swiotlb = if kernel == Kernel::V5_10 { "8192,force" } else { "8192,1,force" };
    let lab_load = Path::new(SWIOSCOPE).with_file_name("lab-load");
    assert!(lab_load.exists(), "{} is missing: run `cargo xtask test`", lab_load.display());
    let guest = Guest::new(kernel).swiotlb(swiotlb).load(Load::Nvme { queues: 2 }).timeout(Duration::from_secs(600));
    // So that slots are held for long enough to be looked at, and somebody is there to look.
    let guest = guest.disk_iops(400).cpus(2);
    let outcome = guest.file(SWIOSCOPE, "/bin/swioscope").file(lab_load, "/bin/lab-load").run(&[JOB]).unwrap();
    assert_eq!(outcome.status, 0, "{}\nconsole: {}", outcome.output, outcome.console.display());
    let out = &outcome.out_dir;
    bounces_are_told_by_name(&out.join("classic.swio"));
    looks_agree_with_events(&out.join("looked.swio"));

    let doctor: Json = serde_json::from_slice(&std::fs::read(out.join("doctor.json")).unwrap()).unwrap();
    let has = |event: &str| {
        let all = doctor["events"].as_array().unwrap();
        all.iter().find(|choice| choice["event"] == event).unwrap()["backend"].as_str()
    };
    assert_eq!(["map", "slot_alloc"].map(has), [None; 2]);
    assert_eq!(has("bounce"), Some("tracepoint swiotlb:swiotlb_bounced"));
    assert_eq!(has("pool_use"), Some("debugfs io_tlb_used"));

    let bare = Trace::open(out.join("bare.swio")).unwrap();
    let told = events(&bare);
    assert!(told.len() > 1000 && told.iter().all(|event| event.op == Op::Bounce), "{}", told.len());
    assert_eq!((bare.devices().len(), bare.devices()[0].driver.as_deref()), (1, None));
    assert_eq!(bare.meta().losses.events(), 0);
    let most = bare.sums().unwrap().occupancy.iter().map(|look| look.used).max().unwrap();
    assert!(most > 0);
    let json = out.join("report.json");
    let mut report = Command::new(SWIOSCOPE);
    assert!(report.arg("report").arg(out.join("bare.swio")).arg("-o").arg(&json).status().unwrap().success());
    let report: Json = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let summary = &report["summary"];
    assert_eq!(summary["bounces"].as_u64(), Some(told.len() as u64));
    assert_eq!((summary["peak_slots"].as_u64(), &summary["maps"]), (Some(most), &Json::Null));

    let nobody = Trace::open(out.join("nobody.swio")).unwrap();
    let filtered: u64 = nobody.meta().losses.by_cpu.iter().map(|cpu| cpu.filtered).sum();
    assert!(events(&nobody).is_empty() && nobody.devices().is_empty() && filtered > 1000, "{filtered}");

    let sums = Trace::open(out.join("sums.swio")).unwrap().sums().unwrap();
    assert_eq!(sums.sums.iter().map(|sum| sum.op).collect::<Vec<_>>(), [Op::Bounce]);
    assert!(sums.events() > 1000 && !sums.occupancy.is_empty());
}

#[test]
fn bounces_and_the_pools_use_are_seen_without_types_on_5_10() {
    is_seen_without_types(Kernel::V5_10);
}

#[test]
fn bounces_and_the_pools_use_are_seen_without_types_on_6_12() {
    is_seen_without_types(Kernel::V6_12);
}
