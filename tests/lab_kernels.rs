//! Dom0s of kernels without the `dma:*` tracepoints: every mapping is recorded through the functions, every slot choice
//! predicted. And 6.12 under the newer Xen, and 7.2, which preempts tasks inside the probe. (Plain guests of the others are in
//! lab_counts.rs, 6.12 in lab.rs.)

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;
use trace::{Event, Op, Trace};
use xtask::lab::{Guest, Kernel, Load, Xen};

const SWIOSCOPE: &str = env!("CARGO_BIN_EXE_swioscope");

/// Records random requests in a guest and returns the trace; `strict` fails when anything was lost.
fn record(guest: Guest, strict: &str) -> PathBuf {
    let lab_load = Path::new(SWIOSCOPE).with_file_name("lab-load");
    assert!(lab_load.exists(), "{} is missing: run `cargo xtask test`", lab_load.display());
    let job = format!(
        "swioscope record -q {strict} --ring 64 -o /out/t.swio -- \
         lab-load --device /dev/load/nvme --threads 4 --min 4k --max 200k --ops 1000"
    );
    let guest = guest.load(Load::Nvme { queues: 2 });
    let outcome = guest.file(SWIOSCOPE, "/bin/swioscope").file(lab_load, "/bin/lab-load").run(&[job]).unwrap();
    assert_eq!(outcome.status, 0, "{}\nconsole: {}", outcome.output, outcome.console.display());
    outcome.out_dir.join("t.swio")
}

/// Every slot choice, and every decision to bounce, is the one of the policy, which was not named.
fn is_predicted_whole(path: &Path, policy: &str) {
    let mut verify = Command::new(SWIOSCOPE);
    let output = verify.arg("verify").arg(path).args(["--format", "json", "--at-least", "100"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let verdict: Json = serde_json::from_str(&text).unwrap();
    assert!(verdict["total"].as_u64().unwrap() > 1000, "{verdict:#}");
    assert_eq!(verdict["policy"], policy, "{verdict:#}");
    assert_eq!(verdict["decisions"]["total"], verdict["decisions"]["exact"], "{verdict:#}");
}

/// All bounces, so that a mapping without slots, or slots without a mapping, is an event that was not seen. Mappings are told
/// by this back-end.
fn every_mapping_has_its_slots(path: &Path, backend: &str) {
    let trace = Trace::open(path).unwrap();
    let meta = trace.meta();
    assert!(meta.closed && meta.snapshot_exact, "{:?}", meta.losses.notes);
    assert_eq!(meta.losses.events(), 0, "{:?}", meta.losses);
    assert_eq!(meta.capture.backends["map"], backend);
    let events: Vec<Event> = trace.events().collect::<Result<_, _>>().unwrap();
    let count = |op| events.iter().filter(|event| event.op == op).count();
    assert_eq!(count(Op::Map), count(Op::SlotAlloc));
    assert_eq!(count(Op::Unmap), count(Op::SlotFree));
    let mapped = |event: &&Event| event.op == Op::Map;
    assert!(events.iter().filter(mapped).all(|event| event.orig_addr.is_some() && event.dma_addr.is_some()));
}

/// The trace knows which hypervisor it was.
fn is_a_dom0_under(path: &Path, version: Xen) {
    let trace = Trace::open(path).unwrap();
    let xen = trace.meta().xen.as_ref().unwrap();
    assert!(xen.mode == "pv" && xen.dom0 && xen.version.starts_with(&format!("{version}.")), "{xen:?}");
}

#[test]
fn a_dom0_of_5_10_is_recorded_whole() {
    // Its `swiotlb=` knows no areas: with a second number the `force` would be lost.
    let path = record(Guest::new(Kernel::V5_10).xen(true).swiotlb("8192,force"), "--strict");
    is_a_dom0_under(&path, Xen::V4_17);
    is_predicted_whole(&path, "v5_12");
    every_mapping_has_its_slots(&path, "fexit dma_map_page_attrs");
}

#[test]
fn a_dom0_of_6_1_is_recorded_whole() {
    let path = record(Guest::new(Kernel::V6_1).xen(true).swiotlb("8192,1,force"), "--strict");
    is_predicted_whole(&path, "v6_1y");
    every_mapping_has_its_slots(&path, "fexit dma_map_page_attrs");
}

#[test]
fn a_dom0_under_xen_4_20_is_recorded_whole() {
    let path = record(Guest::new(Kernel::V6_12).xen_version(Xen::V4_20).swiotlb("8192,1,force"), "--strict");
    is_a_dom0_under(&path, Xen::V4_20);
    is_predicted_whole(&path, "v6_10");
    every_mapping_has_its_slots(&path, "tp_btf dma:dma_map_page, timed by fentry");
}

/// Its tasks are preempted inside the probe, whose copies tell then of what others do meanwhile; without them some 0.4 % of the
/// choices are not predicted, and one event in twenty is missing.
#[test]
fn what_7_2_skips_is_told_by_copies() {
    let path = record(Guest::new(Kernel::V7_2).swiotlb("8192,1,force"), "");
    let output = Command::new(SWIOSCOPE).arg("verify").arg(&path).args(["--format", "json"]).output().unwrap();
    let verdict: Json = serde_json::from_slice(&output.stdout).unwrap();
    println!("{verdict}");
    let number = |name: &str| verdict[name].as_u64().unwrap();
    let (total, predicted) = (number("total"), number("exact") + number("after_swap"));
    // An emulated CPU is in the probe most of the time: a hit that finds all copies taken cannot be ruled out.
    assert!(total > 1000 && (total - predicted) * 1000 <= total, "{verdict:#}");
    assert!(number("unknown_frees") * 500 <= total && number("missed_frees") == 0, "{verdict:#}");
    let losses = Trace::open(&path).unwrap().meta().losses.clone();
    assert!(losses.ring_full == 0 && losses.probe_missed * 50 <= total, "{losses:?}");
}
