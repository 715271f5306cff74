//! What a trace counts against what the lab's module did, to one: `xtask/lab-module` maps, syncs, leaks and is refused on
//! command, and keeps its own books.
//!
//! Each test boots one guest; all that is done in it is one recording.
#![allow(clippy::print_stdout, reason = "the table of counts is what docs/lab shows")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use trace::{Event, Op, Trace};
use xtask::lab::{Guest, Kernel, Load, MODULE};

const SWIOSCOPE: &str = env!("CARGO_BIN_EXE_swioscope");
const DEBUGFS: &str = "/sys/kernel/debug/swio_lab";

/// Everything the module can do, refusals and leaks included, on a pool of 8192 slots into which all is forced. What stays
/// mapped at the end is the leaks.
const SCRIPT: &str = "\
map n=1000 size=4k dir=to
map n=500 size=512 spread=60000 offset=512 window=16 buffers=4 dir=both
map n=200 size=4k dir=from sync=1
map n=100 size=2k offset=3k dir=to skip_sync=1
map n=50 size=300k
map n=300 size=4k window=8 dir=both cpu=0
sync n=100 size=64k dir=both
sync n=100 size=64k dir=from part_offset=4100 part_size=1000
sync n=100 size=64k dir=to part_offset=4100 part_size=1000
sg n=50 elements=1
sg n=100 elements=7 size=4k spread=8k dir=from
sg n=20 elements=300 size=512 sync=1 dir=both
sg n=10 elements=4 size=300k
resource n=20 size=4k
coherent n=40 size=8k window=4
coherent n=20 size=12k
leak n=5 size=4k
leak n=3 size=64k dir=from
exhaust n=20000 size=64k
time n=2000 size=4k
map n=400 size=4k spread=8k window=4 cpu=all
";

/// The module's own counts.
type Counts = BTreeMap<String, u64>;

/// Runs the script in a guest while it is recorded.
fn record(guest: Guest, script: &str, parameters: &str) -> (Trace, Counts, PathBuf) {
    let dir = tempfile();
    let file = dir.join("script");
    fs::write(&file, script).unwrap();
    let job = format!(
        "insmod {MODULE} {parameters} && swioscope record -q --ring 64 -o /out/t.swio -- \
         sh -c 'cat /root/script >{DEBUGFS}/run && cat {DEBUGFS}/stats >/out/stats'"
    );
    let guest = guest.load(Load::Edu).file(SWIOSCOPE, "/bin/swioscope").file(&file, "/root/script");
    let outcome = guest.run(&[job]).unwrap();
    fs::remove_dir_all(dir).unwrap();
    assert_eq!(outcome.status, 0, "{}\nconsole: {}", outcome.output, outcome.console.display());
    let stats = fs::read_to_string(outcome.out_dir.join("stats")).unwrap();
    let counts = stats.lines().map(|line| {
        let (name, number) = line.split_once(' ').unwrap();
        (name.to_owned(), number.parse().unwrap())
    });
    let path = outcome.out_dir.join("t.swio");
    let trace = Trace::open(&path).unwrap();
    assert!(trace.meta().closed);
    (trace, counts.collect(), path)
}

/// A folder of this process's own.
fn tempfile() -> PathBuf {
    let name = std::thread::current().name().unwrap_or_default().replace(':', "-");
    let dir = std::env::temp_dir().join(format!("lab-counts-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// The module's device's events.
fn events(trace: &Trace) -> Vec<Event> {
    let rows = trace.devices().iter().filter(|device| device.driver.as_deref() == Some("swio_lab"));
    let ids: HashSet<u32> = rows.map(|device| device.id).collect();
    assert!(!ids.is_empty(), "the module's device is not in the trace");
    trace.events().map(|event| event.unwrap()).filter(|event| ids.contains(&event.device)).collect()
}

/// The trace's counts, under the names the module has for its own. Registers are mapped as single buffers are, and the
/// trace does not tell them apart: they are counted together, here and of the module.
fn counted(events: &[Event]) -> Counts {
    let mut counts = Counts::new();
    let mut live: HashMap<(Option<u64>, Option<u64>), i64> = HashMap::new();
    for event in events {
        let size = event.size.unwrap_or(0);
        let mut add = |name: &str, number: u64| *counts.entry(name.to_owned()).or_default() += number;
        match (event.op, event.sg_index) {
            (Op::Map, None) => {
                add("maps", 1);
                add("map_bytes", size);
                *live.entry((event.dma_addr, event.size)).or_default() += 1;
            }
            (Op::Unmap, None) => {
                add("unmaps", 1);
                add("unmap_bytes", size);
                *live.entry((event.dma_addr, event.size)).or_default() -= 1;
            }
            (Op::MapFailed, None) => add("maps_failed", 1),
            (Op::Map, Some(index)) => {
                add("sg_maps", u64::from(index == 0));
                add("sg_elements", 1);
                add("sg_bytes", size);
            }
            (Op::Unmap, Some(index)) => {
                add("sg_unmaps", u64::from(index == 0));
                add("sg_unmapped_elements", 1);
            }
            (Op::MapFailed, Some(index)) => add("sg_failed", u64::from(index == 0)),
            (Op::SyncForCpu, None) => {
                add("syncs_for_cpu", 1);
                add("sync_for_cpu_bytes", size);
            }
            (Op::SyncForDevice, None) => {
                add("syncs_for_device", 1);
                add("sync_for_device_bytes", size);
            }
            (Op::SyncForCpu, Some(index)) => add("sg_syncs_for_cpu", u64::from(index == 0)),
            (Op::SyncForDevice, Some(index)) => add("sg_syncs_for_device", u64::from(index == 0)),
            (Op::Alloc, _) => {
                add("allocs", 1);
                add("alloc_bytes", size);
            }
            (Op::Free, _) => add("frees", 1),
            (Op::SlotAlloc, _) => add("slots_taken", 1),
            (Op::SlotFree, _) => add("slots_given_back", 1),
            (Op::SlotFailed, _) => add("slots_refused", 1),
            (Op::Bounce, _) => add("bounces", 1),
            (Op::Lost, _) => add("lost", event.count.unwrap_or(0)),
        }
    }
    counts.insert("live_maps".to_owned(), live.values().sum::<i64>().try_into().unwrap());
    counts
}

/// The module's counts as the trace can tell them.
fn expected(module: &Counts) -> Counts {
    let of = |name: &str| module[name];
    let same = [
        "sg_maps",
        "sg_elements",
        "sg_bytes",
        "sg_failed",
        "sg_unmaps",
        "sg_unmapped_elements",
        "syncs_for_cpu",
        "sync_for_cpu_bytes",
        "syncs_for_device",
        "sync_for_device_bytes",
        "sg_syncs_for_cpu",
        "sg_syncs_for_device",
        "allocs",
        "alloc_bytes",
        "frees",
        "live_maps",
    ];
    let mut counts: Counts = same.iter().map(|name| ((*name).to_owned(), of(name))).collect();
    for (name, number) in [
        ("maps", of("maps") + of("resource_maps")),
        ("map_bytes", of("map_bytes") + of("resource_bytes")),
        ("maps_failed", of("maps_failed") + of("resource_failed")),
        ("unmaps", of("unmaps") + of("resource_unmaps")),
        ("unmap_bytes", of("unmap_bytes") + of("resource_bytes")),
    ] {
        counts.insert(name.to_owned(), number);
    }
    counts
}

/// Prints the two side by side and returns what differs, as `name: module M, trace T`.
fn differences(what: &str, module: &Counts, trace: &Counts) -> Vec<String> {
    println!("{what:<14} {:<24}{:>12}{:>12}", "count", "module", "trace");
    let mut differences = Vec::new();
    for (name, done) in module {
        let seen = trace.get(name).copied().unwrap_or(0);
        println!("{what:<14} {name:<24}{done:>12}{seen:>12}{}", if *done == seen { "" } else { "  differs" });
        if *done != seen {
            differences.push(format!("{name}: module {done}, trace {seen}"));
        }
    }
    for name in ["slots_taken", "slots_given_back", "slots_refused", "bounces"] {
        println!("{what:<14} {name:<24}{:>12}{:>12}", "", trace.get(name).copied().unwrap_or(0));
    }
    differences
}

/// Runs the script, everything forced into the pool, and holds the trace against it.
fn counts_are_exact(kernel: Kernel, xen: bool, cpus: u32) {
    // One area for each CPU from 6.0 on; 5.10 takes the second number for nothing.
    let swiotlb = if kernel == Kernel::V5_10 { "8192,force".to_owned() } else { format!("8192,{cpus},force") };
    let guest = Guest::new(kernel).xen(xen).cpus(cpus).swiotlb(swiotlb);
    let (trace, module, _) = record(guest, SCRIPT, "mask=64");
    let losses = trace.meta().losses.clone();
    assert_eq!(losses.events(), 0, "{losses:?}");
    let counts = counted(&events(&trace));
    let what = format!("{kernel}{}", if xen { " dom0" } else { "" });
    let differences = differences(&what, &expected(&module), &counts);
    assert_eq!(differences, Vec::<String>::new(), "{what}, recorded with {:?}", trace.meta().capture.backends);
    // Everything the module maps goes through slots: those of what it leaks are the ones that are left.
    assert_eq!(counts["slots_taken"] - counts["slots_given_back"], module["live_maps"], "{what}");
    assert!(module["maps_failed"] > 50 && module["sg_failed"] == 10 && module["live_maps"] == 8, "{module:?}");
}

#[test]
fn v6_12_counts_what_was_done() {
    counts_are_exact(Kernel::V6_12, false, 2);
}

#[test]
fn v6_12_counts_what_was_done_as_dom0() {
    counts_are_exact(Kernel::V6_12, true, 1);
}

#[test]
fn v7_2_counts_what_was_done() {
    counts_are_exact(Kernel::V7_2, false, 1);
}
