//! The whole path on real kernels: recorded in a guest, brought back, verified and replayed here.
//!
//! Each test boots one guest (fifteen to forty seconds under emulation); the lab makes them take turns. Load, kernel and
//! recorder share an emulated CPU, so the ring buffer has room for more than its default 16 MiB.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;
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

/// What our own binary prints as JSON about a trace.
fn json(arguments: &[&str], trace: &Path) -> Json {
    let output = Command::new(SWIOSCOPE).args(arguments).arg(trace).args(["--format", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn replay(trace: &Path, policies: &[&str]) -> Json {
    let mut arguments = vec!["replay"];
    arguments.extend(policies.iter().flat_map(|policy| ["--policy", policy]));
    json(&arguments, trace)
}

/// A trace with nothing lost, whose slot choices the recorded kernel's own policy predicts, all of them.
fn predicted_whole(path: &Path) -> Trace {
    let trace = Trace::open(path).unwrap();
    assert!(trace.meta().closed);
    assert_eq!(trace.meta().losses.events(), 0, "{:?}", trace.meta().losses);
    let verdict = json(&["verify"], path);
    assert!(verdict["total"].as_u64().unwrap() > 1000, "{verdict:#}");
    assert_eq!(verdict["share"], 1.0, "{verdict:#}");
    trace
}

fn ops(trace: &Trace, op: Op) -> u64 {
    trace.events().filter(|event| event.as_ref().unwrap().op == op).count() as u64
}

/// Every mapping of the trace bounced in reality; the same policy on the same pool must bounce them all and refuse none.
fn replays_as_recorded(path: &Path) -> Json {
    let comparison = replay(path, &["v6_10"]);
    let (recorded, replayed) = (&comparison["trace"], &comparison["policies"][0]);
    assert_eq!(replayed["maps"], recorded["maps"], "{comparison:#}");
    assert_eq!(replayed["bounces"], recorded["bounces"], "{comparison:#}");
    assert_eq!(replayed["failures"], 0, "{comparison:#}");
    comparison
}

/// One request at a time: no map and unmap overlap, so the replay must peak exactly where the kernel's own mark is. (Under
/// load a map is written down after its slots are taken and a release before they are free, and the mark is at times a few
/// slots above what any order of the records gives: 386, 384 by the slots' own events and 381 by the mappings' were seen.)
fn peaks_where_the_kernel_did(out: &Path) {
    let comparison = replays_as_recorded(&out.join("one.swio"));
    assert_eq!(comparison["policies"][0]["peak_slots"], high_water(out), "{comparison:#}");
}

/// Records one request after another, with the kernel's high water mark set back before.
const ONE_BY_ONE: &str = "echo 0 >/sys/kernel/debug/swiotlb/io_tlb_used_hiwater; swioscope record --ring 64 -o /out/one.swio -- \
     lab-load --device /dev/load/nvme --threads 1 --min 4k --max 200k --ops 300 && \
     cat /sys/kernel/debug/swiotlb/io_tlb_used_hiwater >/out/high-water";

fn high_water(out: &Path) -> u64 {
    std::fs::read_to_string(out.join("high-water")).unwrap().trim().parse().unwrap()
}

#[test]
fn v6_12_is_recorded_whole_and_every_slot_choice_predicted() {
    let guest = Guest::new(Kernel::V6_12).swiotlb("8192,1,force").load(Load::Nvme { queues: 2 });
    let out = run(
        guest,
        &format!(
            "swioscope record --ring 64 -o /out/t.swio -- \
             lab-load --device /dev/load/nvme --threads 6 --min 4k --max 200k --ops 3000 && {ONE_BY_ONE}"
        ),
    );
    let path = out.join("t.swio");
    let trace = predicted_whole(&path);
    assert_eq!(trace.meta().pools[0].nslabs, 8192);
    assert_eq!(ops(&trace, Op::SlotAlloc), ops(&trace, Op::SlotFree));
    assert_eq!(ops(&trace, Op::Map), ops(&trace, Op::SlotAlloc), "everything bounces");
    let nvme = trace.devices().iter().find(|device| device.driver.as_deref() == Some("nvme")).unwrap();
    assert_eq!((nvme.dma_mask, nvme.min_align_mask), (Some(u64::MAX), 0xfff));
    replays_as_recorded(&path);
    peaks_where_the_kernel_did(&out);
}

#[test]
fn a_dom0_is_recorded_whole_with_its_frames() {
    let guest = Guest::new(Kernel::V6_12).xen(true).swiotlb("8192,1,force").load(Load::Nvme { queues: 2 });
    let out = run(
        guest,
        &format!(
            "swioscope record --ring 64 -o /out/t.swio -- \
             lab-load --device /dev/load/nvme --threads 6 --min 4k --max 200k --ops 2000 && {ONE_BY_ONE}"
        ),
    );
    let path = out.join("t.swio");
    let trace = predicted_whole(&path);
    let xen = trace.meta().xen.as_ref().unwrap();
    assert!(xen.mode == "pv" && xen.dom0);
    assert!(!trace.p2m().is_empty());
    replays_as_recorded(&path);
    peaks_where_the_kernel_did(&out);
}

#[test]
fn two_cpus_are_predicted_but_for_explained_misses() {
    let guest = Guest::new(Kernel::V6_12).cpus(2).swiotlb("8192,2,force").load(Load::Nvme { queues: 4 });
    let out = run(
        guest,
        "swioscope record --ring 64 -o /out/t.swio -- lab-load --device /dev/load/nvme --threads 8 --min 4k --max 200k --ops 3000",
    );
    let verdict = json(&["verify"], &out.join("t.swio"));
    assert!(verdict["share"].as_f64().unwrap() > 0.999, "{verdict:#}");
    let unexplained = verdict["misses"].as_array().unwrap().iter().find(|miss| miss["kind"] == "unexplained");
    assert_eq!(unexplained, None);
}

/// RFC-64BIT's scenario, scaled to two vCPUs: a 64-bit NVMe with several queues and a 32-bit disk in a forced dom0. One
/// small pool refuses part of the load; with the second, 64-bit pool the NVMe leaves it to the 32-bit disk.
#[test]
fn the_64_bit_nvme_leaves_lo_and_fills_hi() {
    let guest = Guest::new(Kernel::V6_12)
        .xen(true)
        .cpus(2)
        .swiotlb("32768,1,force")
        .load(Load::Nvme { queues: 4 })
        .load(Load::Ide)
        .disk_iops(25);
    let out = run(
        guest,
        "swioscope record --ring 64 -o /out/t.swio -- lab-load --device /dev/load/nvme --device /dev/load/ide \
         --threads 64 --min 4k --max 200k --ops 1600",
    );
    let comparison = replay(&out.join("t.swio"), &["legacy:swiotlb=1024,force", "rfc64:swiotlb=1024,32768,force"]);
    let (one, two) = (&comparison["policies"][0], &comparison["policies"][1]);
    assert!(one["failures"].as_u64() > Some(0), "{comparison:#}");
    assert_eq!(two["failures"], 0, "{comparison:#}");
    assert!(two["peak_slots_hi"].as_u64() > two["peak_slots"].as_u64(), "{comparison:#}");
    for device in two["devices"].as_array().unwrap() {
        let pool = if device["reach"] == u64::MAX { "HI" } else { "LO" };
        assert_eq!(device["pool"], pool, "{device:#}");
        assert!(device["peak_slots"].as_u64() > Some(0), "{device:#}");
    }
}

#[test]
fn a_killed_recorder_leaves_a_trace_that_opens() {
    let guest = Guest::new(Kernel::V6_12).swiotlb("8192,1,force").load(Load::Nvme { queues: 2 });
    let out = run(
        guest,
        "swioscope record -q --ring 64 -o /out/t.swio & recorder=$!; while [ ! -e /out/t.swio/events.open ]; do usleep 100000; done; \
         sleep 1; lab-load --device /dev/load/nvme --threads 4 --ops 2000; sleep 2; kill -9 $recorder; wait; true",
    );
    let path = out.join("t.swio");
    let trace = Trace::open(&path).unwrap();
    assert!(!trace.meta().closed && trace.has_open_segment());
    assert!(ops(&trace, Op::Map) >= 2000);
    assert_eq!(json(&["verify"], &path)["share"], 1.0);
}
