//! The lab itself: guests boot, do what they were asked, and what they say comes back.
//!
//! Each test boots at least one guest, ten to forty seconds under emulation; the lab's lock makes them take turns.
//! They need what `cargo xtask setup` installs, and fail, saying so, where it is missing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::time::Duration;

use xtask::lab::{Guest, Kernel, Load, MODULE, Outcome};

const LAB_LOAD: &str = env!("CARGO_BIN_EXE_lab-load");
const COUNTERS: &str = "/sys/kernel/debug/swiotlb";
const EVENTS: &str = "/sys/kernel/tracing/events";

/// What the guest left in `/out/NAME`, as a number.
fn number(outcome: &Outcome, name: &str) -> u64 {
    let text = fs::read_to_string(outcome.out_dir.join(name)).unwrap();
    text.trim().parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}"))
}

/// Boots a kernel with everything bounced through a pool of 8192 slots, loads its NVMe disk and checks that the kernel
/// is the one asked for, that the pool is, and that the load went through it.
fn bounces(kernel: Kernel, xen: bool) {
    let outcome = Guest::new(kernel)
        .xen(xen)
        // One area: the second number came with 6.0, and 5.10 takes it for nothing.
        .swiotlb(if kernel == Kernel::V5_10 { "8192,force" } else { "8192,1,force" })
        .load(Load::Nvme { queues: 2 })
        .file(LAB_LOAD, "/bin/lab-load")
        .run(&[format!(
            "uname -r; ls /proc/xen/capabilities; cat {COUNTERS}/io_tlb_nslabs >/out/nslabs; \
             echo 1 >{EVENTS}/swiotlb/enable; \
             lab-load --device /dev/load/nvme --ops 1500 || exit 1; \
             grep -c swiotlb_bounced {EVENTS}/../trace >/out/bounced; cat {COUNTERS}/io_tlb_used >/out/used"
        )])
        .unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    let release = outcome.output.lines().next().unwrap_or_default();
    let series = if kernel == Kernel::V7_2 { "7." } else { kernel.name() };
    assert!(release.starts_with(series), "asked for {kernel}, got {release}");
    assert_eq!(outcome.output.contains("/proc/xen/capabilities: No such file"), !xen, "{}", outcome.output);
    assert!(outcome.output.contains("1500 ops (") && outcome.output.contains(", 0 errors"), "{}", outcome.output);
    assert_eq!(number(&outcome, "nslabs"), 8192);
    // Every request bounces, most in several pieces; the oldest may have left the kernel's buffer.
    assert!(number(&outcome, "bounced") > 1500, "the load did not bounce");
    assert_eq!(number(&outcome, "used"), 0, "an idle pool is empty");
}

#[test]
fn v5_10_bounces() {
    bounces(Kernel::V5_10, false);
}

#[test]
fn v5_10_bounces_as_dom0() {
    bounces(Kernel::V5_10, true);
}

#[test]
fn v6_1_bounces() {
    bounces(Kernel::V6_1, false);
}

#[test]
fn v6_1_bounces_as_dom0() {
    bounces(Kernel::V6_1, true);
}

#[test]
fn v6_12_bounces() {
    bounces(Kernel::V6_12, false);
}

#[test]
fn v6_12_bounces_as_dom0() {
    bounces(Kernel::V6_12, true);
}

#[test]
fn v7_2_bounces() {
    bounces(Kernel::V7_2, false);
}

#[test]
fn v7_2_bounces_as_dom0() {
    bounces(Kernel::V7_2, true);
}

/// The status, the output, files both ways, and what tracing needs, in one boot.
#[test]
fn a_job_runs_as_on_any_machine() {
    let dir = tempfile::tempdir().unwrap();
    let given = dir.path().join("given");
    fs::write(&given, "from the host").unwrap();
    let out = dir.path().join("out");
    let outcome = Guest::new(Kernel::V6_12)
        .file(&given, "/root/given")
        .out(&out)
        .run(&["echo to stdout; echo to stderr >&2; mkdir /out/sub; cat given >/out/sub/back; id -u; \
                ls /sys/kernel/btf/vmlinux /sys/kernel/tracing/events/dma/dma_map_sg/id; test -t 1; exit 42"])
        .unwrap();
    assert_eq!(outcome.status, 42);
    assert_eq!(
        outcome.output,
        "to stdout\nto stderr\n0\n/sys/kernel/btf/vmlinux\n/sys/kernel/tracing/events/dma/dma_map_sg/id\n"
    );
    assert_eq!(fs::read_to_string(out.join("sub/back")).unwrap(), "from the host");
    assert!(fs::read_to_string(&outcome.console).unwrap().contains("the job ended with status 42"));
}

/// A 32-bit disk bounces by itself in a machine with memory above 4 GiB; nothing is forced.
#[test]
fn a_32_bit_disk_bounces_unforced_above_4_gib() {
    let outcome = Guest::new(Kernel::V6_12)
        .memory(4608)
        .load(Load::Ide)
        .file(LAB_LOAD, "/bin/lab-load")
        .run(&[format!(
            "lab-load --device /dev/load/ide --ops 300 --max 64k && cat {COUNTERS}/io_tlb_used_hiwater >/out/hiwater"
        )])
        .unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    assert!(number(&outcome, "hiwater") > 0);
}

/// All kinds of disks at once are told apart, and each is there.
#[test]
fn disks_have_their_names() {
    let disks = [Load::Nvme { queues: 1 }, Load::Ahci, Load::Ide, Load::Virtio];
    let guest = disks.into_iter().fold(Guest::new(Kernel::V6_12), Guest::load);
    let outcome = guest.run(&["for d in /dev/load/*; do echo ${d##*/} $(blockdev --getsz $d); done"]).unwrap();
    let expected = "ahci 2097152\nide 2097152\nnvme 2097152\nresult 16777216\nvirtio 2097152\n";
    assert_eq!((outcome.status, outcome.output.as_str()), (0, expected));
}

/// Both network cards come up and bounce.
#[test]
fn network_cards_bounce() {
    for card in [Load::E1000, Load::E1000e] {
        let outcome = Guest::new(Kernel::V6_12)
            .swiotlb("8192,1,force")
            .load(card)
            .run(&[format!("ping -c 3 10.0.2.2 >/dev/null; cat {COUNTERS}/io_tlb_used_hiwater >/out/hiwater")])
            .unwrap();
        assert!(number(&outcome, "hiwater") > 0, "{card}");
    }
}

/// The lab's module tells the quickest of its batches, which cannot be slower than all of them, and none where none is whole.
#[test]
fn the_module_times_batches() {
    let outcome = Guest::new(Kernel::V6_12)
        .swiotlb("8192,1,force")
        .load(Load::Edu)
        .run(&[format!(
            "insmod {MODULE}; cd /sys/kernel/debug/swio_lab; of() {{ sed -n \"s/^$1 //p\" stats; }}; \
             echo 'time n=1000 batch=10 cpu=0' >run; of ns_per_pair >/out/mean; of least_ns_per_pair >/out/least; \
             echo 'time n=9 batch=10' >run; of least_ns_per_pair >/out/none; echo 'time batch=0' >run && exit 1; true"
        )])
        .unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    let (mean, least) = (number(&outcome, "mean"), number(&outcome, "least"));
    assert!(0 < least && least <= mean, "the quickest batch took {least} ns a pair, all of them {mean}");
    assert_eq!(number(&outcome, "none"), 0);
}

/// A guest that dies is an error that shows its last words; so is one that never ends.
#[test]
fn lost_guests_are_errors_with_the_console() {
    let died = Guest::new(Kernel::V6_12).run(&["echo c >/proc/sysrq-trigger; sleep 60"]).unwrap_err().to_string();
    assert!(died.contains("died before") && died.contains("sysrq triggered crash"), "{died}");
    let hung = Guest::new(Kernel::V6_12).timeout(Duration::from_secs(15)).run(&["sleep 1000"]).unwrap_err().to_string();
    assert!(hung.contains("did not end within 15 s"), "{hung}");
}

/// A disk smaller than its requests, or no disk at all, is a usage error of the load and not a quiet success.
#[test]
fn the_load_refuses_what_it_cannot_do() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    fs::write(&small, [0; 4096]).unwrap();
    let run = |args: &[&str]| {
        let output = std::process::Command::new(LAB_LOAD).args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for args in [
        ["--device", small.to_str().unwrap(), "--ops", "1"],
        ["--device", "/nonexistent", "--ops", "1"],
        ["--device", small.to_str().unwrap(), "--min", "5"],
    ] {
        let (status, said) = run(&args);
        assert_eq!(status, Some(2), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
