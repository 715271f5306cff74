//! What a trace counts against what the lab's module did, to one: `xtask/lab-module` maps, syncs, leaks and is refused on
//! command, and keeps its own books.
//!
//! Each test boots one guest; all that is done in it is one recording.
#![allow(clippy::print_stdout, reason = "the table of counts is what docs/lab shows")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value as Json;
use trace::held::Held;
use trace::{Event, Op, Trace};
use xtask::lab::{Guest, Kernel, Load, MODULE, Xen};

/// `DMA_ATTR_MMIO`: what is mapped is no memory.
const MMIO: u64 = 1 << 10;
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
sg n=20 elements=200 size=512 sync=1 dir=both
sg n=3 elements=300 size=512
sg n=10 elements=4 size=300k
resource n=20 size=4k
coherent n=40 size=8k window=4
coherent n=20 size=12k
coherent n=3 size=64m
leak n=5 size=4k
leak n=3 size=64k dir=from
exhaust n=20000 size=64k
time n=2000 size=4k
map n=400 size=4k spread=8k window=4 cpu=all
";

/// The script's long scatterlists: how many, of how many elements of 512 bytes, and whether they are synced both ways.
const LONG: [(u64, u64, bool); 2] = [(20, 200, true), (3, 300, false)];

/// Longest scatterlist a back-end walks; it counts the elements past it (`SG_MAX`, and `SG_BOUNDED` without `bpf_loop`).
fn walked(backend: &str) -> u64 {
    if backend.contains("bounded") { 128 } else { 256 }
}

/// Of a 32-bit device: buffers in and out of its reach.
const IN_PART_OUT_OF_REACH: &str = "\
map n=500 size=4k spread=60000 offset=512 window=4 buffers=8 dir=both
map n=200 size=4k spread=8k buffers=8 zone=dma32
sg n=20 elements=20 size=4k spread=4k
map n=20 size=300k
leak n=4 size=16k
";

/// Another domain's pages as well, one by one and several in a row, whose frames part.
const FOREIGN: &str = "\
map n=300 size=4k spread=60000 offset=512 window=4 buffers=8 dir=both
leak n=6 size=2k offset=1k foreign=1
leak n=6 size=12k foreign=1
leak n=6 size=6k offset=2k foreign=1
";

/// The counts that take each source of events; without it they are not in the trace.
const SOURCES: [(&str, &[&str]); 10] = [
    ("map", &["maps", "map_bytes", "maps_failed", "resource_maps", "resource_bytes", "resource_failed"]),
    ("unmap", &["unmaps", "unmap_bytes"]),
    ("map_sg", &["sg_maps", "sg_elements", "sg_bytes", "sg_failed"]),
    ("unmap_sg", &["sg_unmaps", "sg_unmapped_elements"]),
    ("sync", &["syncs_for_cpu", "sync_for_cpu_bytes", "syncs_for_device", "sync_for_device_bytes"]),
    ("sync_sg", &["sg_syncs_for_cpu", "sg_syncs_for_device"]),
    ("alloc", &["allocs", "alloc_bytes", "allocs_failed"]),
    ("free", &["frees"]),
    ("slot_alloc", &["slots_taken", "slots_refused"]),
    ("slot_free", &["slots_given_back"]),
];

/// The module's own counts.
type Counts = BTreeMap<String, u64>;

/// A trace and the module's own counts of what was done in it.
struct Recording {
    trace: Trace,
    module: Counts,
    path: PathBuf,
}

/// Loads the module and has each script recorded, its leaks released and the module taken out before the next.
fn record(guest: Guest, scripts: &[(&str, &str)]) -> Vec<Recording> {
    let dir = tempfile();
    let mut guest = guest.load(Load::Edu).file(SWIOSCOPE, "/bin/swioscope");
    let mut job = "set -e; ".to_owned();
    for (number, (parameters, script)) in scripts.iter().enumerate() {
        let file = dir.join(format!("script-{number}"));
        fs::write(&file, script).unwrap();
        guest = guest.file(&file, format!("/root/script-{number}"));
        // Frames are read within a second of a page's first event, and foreign pages go with their leak.
        job.push_str(&format!(
            "insmod {MODULE} {parameters}; swioscope record -q --ring 64 -o /out/{number}.swio -- \
             sh -ec 'cat /root/script-{number} >{DEBUGFS}/run; cat {DEBUGFS}/stats >/out/stats-{number}; sleep 2'; \
             rmmod swio_lab; "
        ));
    }
    let outcome = guest.run(&[job]).unwrap();
    fs::remove_dir_all(dir).unwrap();
    assert_eq!(outcome.status, 0, "{}\nconsole: {}", outcome.output, outcome.console.display());
    let recording = |number: usize| {
        let stats = fs::read_to_string(outcome.out_dir.join(format!("stats-{number}"))).unwrap();
        let counts = stats.lines().map(|line| {
            let (name, number) = line.split_once(' ').unwrap();
            (name.to_owned(), number.parse().unwrap())
        });
        let path = outcome.out_dir.join(format!("{number}.swio"));
        let trace = Trace::open(&path).unwrap();
        assert!(trace.meta().closed);
        Recording { trace, module: counts.collect(), path }
    };
    (0..scripts.len()).map(recording).collect()
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

/// The trace's counts, under the names the module has for its own. Undoing a mapping of registers is not told from undoing
/// one of memory.
fn counted(events: &[Event]) -> Counts {
    let mut counts = Counts::new();
    let mut live: HashMap<(Option<u64>, Option<u64>), i64> = HashMap::new();
    for event in events {
        let size = event.size.unwrap_or(0);
        let mut add = |name: &str, number: u64| *counts.entry(name.to_owned()).or_default() += number;
        let registers = event.attrs.unwrap_or(0) & MMIO != 0;
        match (event.op, event.sg_index) {
            (Op::Map, None) if registers => {
                add("resource_maps", 1);
                add("resource_bytes", size);
                *live.entry((event.dma_addr, event.size)).or_default() += 1;
            }
            (Op::MapFailed, None) if registers => add("resource_failed", 1),
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
            (Op::AllocFailed, _) => add("allocs_failed", 1),
            (Op::Free, _) => add("frees", 1),
            (Op::PoolAdded, _) => add("pools", 1),
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

/// The module's counts as the trace tells them, with `unwalked` elements past the longest scatterlist that is walked. What
/// went through slots is known only where all did.
fn expected(module: &Counts, unwalked: &dyn Fn(&str) -> u64, all_bounced: bool) -> Counts {
    let of = |name: &str| module[name];
    let told = SOURCES.iter().flat_map(|(_, names)| names.iter().copied()).filter(|name| !name.starts_with("slots_"));
    let mut counts: Counts = told.chain(["live_maps"]).map(|name| (name.to_owned(), of(name))).collect();
    let mut set = |name: &str, number: u64| counts.insert(name.to_owned(), number);
    set("unmaps", of("unmaps") + of("resource_unmaps"));
    set("unmap_bytes", of("unmap_bytes") + of("resource_bytes"));
    set("sg_elements", of("sg_elements") - unwalked("map_sg"));
    set("sg_unmapped_elements", of("sg_unmapped_elements") - unwalked("unmap_sg"));
    set("sg_bytes", of("sg_bytes") - unwalked("map_sg") * 512);
    if all_bounced {
        set("slots_taken", of("maps") + of("sg_elements"));
        set("slots_given_back", of("unmaps") + of("sg_unmapped_elements"));
        // The first element of a refused scatterlist is the one that does not fit.
        set("slots_refused", of("maps_failed") + of("sg_failed"));
    }
    counts
}

/// Holds a trace against the module's counts: what its kernel tells is exact, what it does not is not there at all.
fn is_exact(what: &str, recording: &Recording, all_bounced: bool) {
    let (trace, backends) = (&recording.trace, &recording.trace.meta().capture.backends);
    let losses = &trace.meta().losses;
    // By source, the elements it does not walk: the script that bounces everything has long lists.
    let unwalked = |source: &str| {
        let most = backends.get(source).map_or(u64::MAX, |backend| walked(backend));
        let lists = LONG.iter().filter(|(.., synced)| all_bounced && (*synced || source != "sync_sg"));
        lists.map(|(lists, elements, _)| lists * elements.saturating_sub(most)).sum::<u64>()
    };
    let cut = unwalked("map_sg") + unwalked("unmap_sg") + 2 * unwalked("sync_sg");
    assert_eq!((losses.events(), losses.sg_truncated), (cut, cut), "{what}: {losses:?}");
    let told = |source: &str| backends.contains_key(source);
    let missing = |name: &str| {
        let source = SOURCES.iter().find(|(_, names)| names.contains(&name)).map(|(source, _)| *source);
        !source.map_or(told("map") && told("unmap"), told)
    };
    let counts = counted(&events(trace));
    let mut differences = Vec::new();
    println!("{what:<14} {:<24}{:>12}{:>12}", "count", "module", "trace");
    for (name, &done) in &expected(&recording.module, &unwalked, all_bounced) {
        let seen = counts.get(name).copied().unwrap_or(0);
        let remark = if missing(name) { "  not told" } else { "" };
        println!("{what:<14} {name:<24}{done:>12}{seen:>12}{remark}");
        if seen != if missing(name) { 0 } else { done } {
            differences.push(format!("{name}: module {done}, trace {seen}{remark}"));
        }
    }
    assert_eq!(differences, Vec::<String>::new(), "{what}, recorded with {backends:?}");
}

/// Runs the script with everything forced into the pool, and holds the trace against it.
fn counts_are_exact(kernel: Kernel, xen: bool, cpus: u32) {
    // One area for each CPU from 6.0 on; 5.10 takes the second number for nothing.
    let swiotlb = if kernel == Kernel::V5_10 { "8192,force".to_owned() } else { format!("8192,{cpus},force") };
    let guest = Guest::new(kernel).xen(xen).cpus(cpus).swiotlb(swiotlb);
    let recording = record(guest, &[("mask=64", SCRIPT)]).remove(0);
    is_exact(&format!("{kernel}{}", if xen { " dom0" } else { "" }), &recording, true);
    let module = &recording.module;
    assert!(module["maps_failed"] > 50 && module["sg_failed"] == 10 && module["live_maps"] == 8, "{module:?}");
    if cpus == 1 {
        used_slots_agree(&recording);
    }
    // But for those whose thread changed its CPU meanwhile.
    let events = events(&recording.trace);
    let single = |event: &&Event| event.op == Op::Map && event.sg_index.is_none();
    let maps = events.iter().filter(single).filter(|event| event.attrs.unwrap_or(0) & MMIO == 0);
    let timed = maps.clone().filter(|event| event.latency_ns.is_some()).count();
    assert!(timed as f64 > 0.99 * maps.count() as f64, "{timed} mappings have a latency");
    if matches!(kernel, Kernel::V6_12 | Kernel::V7_2) {
        let told = &recording.trace.meta().capture.backends;
        assert!(SOURCES.iter().all(|(source, _)| told.contains_key(*source)), "{told:?}");
        all_decisions_foreseen(&recording);
    }
}

/// How many slots were in use when it refused, by the kernel's own count, and by what the trace says was taken and given back
/// until then; on one CPU, where nothing comes between.
fn used_slots_agree(recording: &Recording) {
    let trace = &recording.trace;
    let mut held = Held::new(trace.meta(), trace.snapshot());
    let mut refused = Vec::new();
    for event in trace.events().map(|event| event.unwrap()) {
        if event.op == Op::SlotFailed {
            refused.push((event.used.expect("a refusal without the kernel's count"), held.used()));
        }
        held.apply(&event);
    }
    println!("slots in use at {} refusals, kernel and trace: {:?}", refused.len(), refused.first());
    assert!(refused.len() > 50);
    assert!(refused.iter().all(|(kernel, trace)| kernel == trace), "{refused:?}");
}

/// What `verify` says of which mappings bounced: all as the rules have it.
fn all_decisions_foreseen(recording: &Recording) -> Json {
    let output =
        Command::new(SWIOSCOPE).arg("verify").arg(&recording.path).args(["--format", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let verdict: Json = serde_json::from_slice(&output.stdout).unwrap();
    let decisions = &verdict["decisions"];
    println!("decisions: {decisions}");
    assert_eq!(decisions["exact"], decisions["total"], "{verdict:#}");
    assert_eq!(verdict["share"], 1.0, "{verdict:#}");
    let module = &recording.module;
    let mapped = ["maps", "maps_failed", "resource_maps", "resource_failed", "sg_elements"];
    let mapped = mapped.map(|name| module[name]).iter().sum::<u64>();
    // All but the elements that were not walked.
    assert!(
        (mapped - recording.trace.meta().losses.sg_truncated..=mapped).contains(&decisions["total"].as_u64().unwrap())
    );
    decisions.clone()
}

/// Nothing is forced in a machine with memory above 4 GiB: a 32-bit device bounces what it does not reach.
fn natural_bounces_are_foreseen(kernel: Kernel, xen: Option<Xen>) -> Vec<Json> {
    let mut guest = Guest::new(kernel).memory(4608);
    if let Some(xen) = xen {
        guest = guest.xen_version(xen);
    }
    let scripts = [("mask=32", IN_PART_OUT_OF_REACH), ("mask=64", FOREIGN)];
    let recordings = record(guest, &scripts[..if xen.is_some() { 2 } else { 1 }]);
    let what = format!("{kernel}{} natural", xen.map(|xen| format!(" dom0 {xen}")).unwrap_or_default());
    let judge = |recording: &Recording| {
        let told = recording.trace.meta().xen.as_ref().map(|xen| xen.version.as_str());
        assert!(xen.is_none_or(|xen| told.unwrap_or("").starts_with(&format!("{xen}."))), "{told:?}");
        is_exact(&what, recording, false);
        all_decisions_foreseen(recording)
    };
    recordings.iter().map(judge).collect()
}

#[test]
fn v5_10_counts_what_was_done() {
    counts_are_exact(Kernel::V5_10, false, 1);
}

#[test]
fn v6_1_counts_what_was_done() {
    counts_are_exact(Kernel::V6_1, false, 1);
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

#[test]
fn v5_10_counts_what_was_done_as_dom0() {
    counts_are_exact(Kernel::V5_10, true, 1);
}

#[test]
fn v6_1_counts_what_was_done_as_dom0() {
    counts_are_exact(Kernel::V6_1, true, 1);
}

#[test]
fn v7_2_counts_what_was_done_as_dom0() {
    counts_are_exact(Kernel::V7_2, true, 1);
}

#[test]
fn a_32_bit_device_bounces_what_it_does_not_reach() {
    let decisions = natural_bounces_are_foreseen(Kernel::V6_12, None).remove(0);
    assert!(decisions["direct"].as_u64() > Some(100) && decisions["bounced"].as_u64() > Some(100), "{decisions:#}");
}

/// Which frames a dom0 has is up to its Xen.
fn a_dom0_bounces_by_its_frames(xen: Xen) {
    let decisions = natural_bounces_are_foreseen(Kernel::V6_12, Some(xen));
    assert!(decisions[0]["bounced"].as_u64() > Some(100), "{decisions:#?}");
    // Of the foreign buffers those of one page are in reach, those of several part.
    assert!(decisions[1]["reasons"].as_str().unwrap().contains("foreign=12"), "{decisions:#?}");
}

#[test]
fn a_dom0_bounces_by_the_frames_of_xen_4_17() {
    a_dom0_bounces_by_its_frames(Xen::V4_17);
}

#[test]
fn a_dom0_bounces_by_the_frames_of_xen_4_20() {
    a_dom0_bounces_by_its_frames(Xen::V4_20);
}
