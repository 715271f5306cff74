//! What recording does when things go wrong, and how little it needs: on real kernels, in the lab.
//!
//! Each test boots one guest, in which several things go wrong one after the other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use trace::{Event, Op, Trace};
use xtask::lab::{Guest, Kernel, Load, Outcome};
use xtask::package;

const SWIOSCOPE: &str = env!("CARGO_BIN_EXE_swioscope");

/// Runs `job` in the guest with the load generator in place; it must end well.
fn run(guest: Guest, job: &str) -> Outcome {
    // Another package's program: built beside ours whenever the whole workspace is tested.
    let lab_load = Path::new(SWIOSCOPE).with_file_name("lab-load");
    assert!(lab_load.exists(), "{} is missing: run `cargo xtask test`", lab_load.display());
    let outcome = guest.file(lab_load, "/bin/lab-load").run(&[job]).unwrap();
    assert_eq!(outcome.status, 0, "{}\nconsole: {}", outcome.output, outcome.console.display());
    outcome
}

fn guest(kernel: Kernel) -> Guest {
    // One area: the second number came with 6.0, and 5.10 takes it for nothing.
    let swiotlb = if kernel == Kernel::V5_10 { "8192,force" } else { "8192,1,force" };
    Guest::new(kernel).swiotlb(swiotlb).load(Load::Nvme { queues: 2 })
}

fn events(trace: &Trace) -> Vec<Event> {
    trace.events().collect::<Result<_, _>>().unwrap()
}

fn count(events: &[Event], op: Op, device: u32) -> usize {
    events.iter().filter(|event| event.op == op && event.device == device).count()
}

/// What a job noted under a name.
fn note(out: &Path, name: &str) -> String {
    fs::read_to_string(out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")).trim().to_owned()
}

/// The program as it is handed out, in a guest that has busybox and no library.
fn packaged(kernel: Kernel) {
    const JOB: &str = "ls -d /lib/* /lib64/* 2>/dev/null >/out/libraries; swioscope doctor >/out/doctor || exit 3; \
         swioscope record -q -o /out/t.swio -- dd if=/dev/load/nvme of=/dev/null bs=64k count=500 && swioscope verify /out/t.swio";
    let outcome = guest(kernel).file(package::program().unwrap(), "/bin/swioscope").run(&[JOB]).unwrap();
    assert_eq!(outcome.status, 0, "{}\nconsole: {}", outcome.output, outcome.console.display());
    assert_eq!(note(&outcome.out_dir, "libraries"), "/lib/modules");
    let trace = Trace::open(outcome.out_dir.join("t.swio")).unwrap();
    assert!(trace.meta().closed);
    let slots = events(&trace).iter().filter(|event| event.op == Op::SlotAlloc).count();
    assert!(slots > 100, "{slots} slot allocations");
}

#[test]
fn the_packaged_program_records_in_a_bare_6_12() {
    packaged(Kernel::V6_12);
}

#[test]
fn the_packaged_program_records_in_a_bare_5_10() {
    packaged(Kernel::V5_10);
}

/// How many recorders are killed here; tests/host.rs kills fifty, without the guest.
const KILLED: usize = 8;

/// Recorders of one load, one after the other: every other one is killed at any moment after its start, the others while
/// they record. Uptime is the events' clock, in hundredths of a second.
const KILL: &str = r#"
lab-load --device /dev/load/nvme --threads 4 --seconds 900 >/dev/null 2>&1 & load=$!
for n in 1 2 3 4 5 6 7 8; do
    swioscope record -q -o /out/$n.swio & recorder=$!
    if [ $((n % 2)) = 0 ]; then
        until [ -e /out/$n.swio/meta.json ]; do usleep 20000; done
        usleep $((1000000 + RANDOM * 60))
    else
        usleep $((RANDOM * 200))
    fi
    [ -e /out/$n.swio/meta.json ] && echo yes >/out/$n.begun
    cut -d ' ' -f 1 /proc/uptime >/out/$n.killed
    kill -9 $recorder
    wait $recorder
done
kill $load
"#;

#[test]
fn a_trace_opens_whenever_its_recorder_is_killed_and_lacks_a_second_at_most() {
    let outcome = run(guest(Kernel::V6_12).file(SWIOSCOPE, "/bin/swioscope").timeout(Duration::from_secs(600)), KILL);
    let mut with_events = 0;
    for victim in 1..=KILLED {
        let path = outcome.out_dir.join(format!("{victim}.swio"));
        if !path.exists() {
            // Killed before there was anything to lose.
            assert!(victim % 2 == 1 && !outcome.out_dir.join(format!("{victim}.begun")).exists(), "{victim}");
            continue;
        }
        let trace = Trace::open(&path).unwrap_or_else(|error| panic!("{victim}: {error}"));
        assert!(!trace.meta().closed, "{victim}");
        let events = events(&trace);
        let killed: f64 = note(&outcome.out_dir, &format!("{victim}.killed")).parse().unwrap();
        let last = events.last().map_or(0, |event| event.time_ns);
        let last = (trace.meta().clock.monotonic_ns + last) as f64 / 1e9;
        assert!(killed - last <= 1.0, "{victim}: killed at {killed} s, the last event is of {last:.3} s");
        with_events += usize::from(!events.is_empty());
    }
    assert!(with_events >= KILLED / 2, "only {with_events} were killed while they recorded");
}

/// The disk fills, the folder goes, a device goes.
const TROUBLE: &str = r#"
load() { lab-load --device /dev/load/$1 --threads 4 --seconds $2 >/dev/null 2>&1; }

mkdir /small && mount -t tmpfs -o size=3m small /small
load nvme 120 & load=$!
swioscope record -q -o /small/full.swio 2>/out/full.said; echo $? >/out/full.status
cp -r /small/full.swio /out/full.swio

swioscope record -q -o /root/gone.swio 2>/out/gone.said & recorder=$!
until [ -e /root/gone.swio/meta.json ]; do usleep 20000; done
sleep 1; rm -r /root/gone.swio
wait $recorder; echo $? >/out/gone.status
ls /root >/out/gone.left
kill $load; killall lab-load; wait $load

swioscope record -q --ring 64 -o /out/device.swio 2>/out/device.said & recorder=$!
until [ -e /out/device.swio/meta.json ]; do usleep 20000; done
load nvme 12 & nvme=$!
load ahci 12 & ahci=$!
sleep 4
cut -d ' ' -f 1 /proc/uptime >/out/device.removed
echo 1 >$(readlink -f /sys/class/nvme/nvme0/device)/remove
wait $nvme $ahci
kill $recorder; wait $recorder; echo $? >/out/device.status
"#;

#[test]
fn trouble_is_told_in_words_and_what_was_stored_stays() {
    let guest = guest(Kernel::V6_12).load(Load::Ahci).file(SWIOSCOPE, "/bin/swioscope");
    let out = run(guest, TROUBLE).out_dir;

    let said = note(&out, "full.said");
    assert_eq!(note(&out, "full.status"), "1", "{said}");
    assert!(said.contains("cannot write") && said.contains("No space left on device"), "{said}");
    let full = Trace::open(out.join("full.swio")).unwrap();
    assert!(!full.meta().closed && full.has_open_segment());
    // The tables take a few kilobytes; an event in an open segment fewer than a hundred bytes.
    assert!(events(&full).len() > 25_000, "{} events are left", events(&full).len());

    let said = note(&out, "gone.said");
    assert_eq!(note(&out, "gone.status"), "1", "{said}");
    assert!(said.contains("was removed while it was being written"), "{said}");
    assert!(!note(&out, "gone.left").contains("gone"));

    let said = note(&out, "device.said");
    assert_eq!(note(&out, "device.status"), "0", "{said}");
    let trace = Trace::open(out.join("device.swio")).unwrap();
    assert!(trace.meta().closed);
    assert_eq!((trace.meta().losses.events(), trace.meta().losses.undecoded), (0, 0), "{said}");
    let of = |driver: &str| trace.devices().iter().find(|d| d.driver.as_deref() == Some(driver)).unwrap().id;
    let (nvme, ahci) = (of("nvme"), of("ahci"));
    let removed: f64 = note(&out, "device.removed").parse().unwrap();
    let removed = (removed * 1e9) as u64 - trace.meta().clock.monotonic_ns;
    let events = events(&trace);
    assert!(count(&events, Op::Map, nvme) > 1000);
    assert_eq!(count(&events, Op::Map, nvme), count(&events, Op::Unmap, nvme), "what it had is unmapped, and seen");
    assert_eq!(count(&events, Op::SlotAlloc, nvme), count(&events, Op::SlotFree, nvme));
    let later: Vec<_> = events.into_iter().filter(|event| event.time_ns > removed + 2_000_000_000).collect();
    assert_eq!(count(&later, Op::Map, nvme), 0);
    assert!(count(&later, Op::Map, ahci) > 1000, "the other device is recorded on");
}

/// As a user with some capabilities, and as root, with a look at what each thread keeps.
const RIGHTS: &str = r#"
lab-load --device /dev/load/nvme --threads 2 --seconds 300 >/dev/null 2>&1 & load=$!
mkdir -m 777 /out/user; chmod 755 /out /root
# Loading all programs takes a guest under load most of a minute, so all are asked for only where that is the question.
as_user() { # NAME CAPABILITIES
    mode=bounces
    case $1 in two | most) mode=$all ;; esac
    with="--bounding-set=+all"
    [ -n "$2" ] && with="--inh-caps=$2 --ambient-caps=$2"
    /root/setpriv --reuid 1000 --regid 1000 --clear-groups $with \
        swioscope record -q --mode $mode -o /out/user/$1.swio --duration 2s 2>/out/$1.said
    echo $? >/out/$1.status
}
as_user none ""
as_user one +bpf
as_user two +bpf,+perfmon
as_user most +bpf,+perfmon,+syslog,+sys_rawio,+dac_read_search,+sys_nice
as_user old +sys_admin

keeps() { cat /proc/$1/task/*/status | grep -E 'Cap(Prm|Eff)' | sort -u; }
swioscope record -q --mode bounces -o /out/root.swio 2>/out/root.said & recorder=$!
until [ -e /out/root.swio/meta.json ]; do usleep 20000; done
sleep 1; keeps $recorder >/out/root.keeps
kill $recorder; wait $recorder; echo $? >/out/root.status

# A folder that root may write to only because nobody can forbid it.
mkdir -m 700 /out/theirs; chown 1000:1000 /out/theirs
swioscope record -q --mode bounces -o /out/theirs/t.swio -- sh -c 'sleep 2; grep CapEff /proc/self/status >/out/workload.has'
echo $? >/out/theirs.status
kill $load
"#;

fn rights(kernel: Kernel) {
    // 5.10's verifier takes seconds here for each program that walks lists in a bounded loop, and there are many starts.
    let mode = if kernel == Kernel::V5_10 { "bounces" } else { "full" };
    let guest = guest(kernel).file(SWIOSCOPE, "/bin/swioscope").file("/usr/bin/setpriv", "/root/setpriv");
    let out = run(guest, &format!("all={mode}{RIGHTS}"));
    let out = out.out_dir;
    let recorded = |name: &str| -> Trace {
        assert_eq!(note(&out, &format!("{name}.status")), "0", "{name}: {}", note(&out, &format!("{name}.said")));
        let trace = Trace::open(out.join("user").join(format!("{name}.swio"))).unwrap();
        assert!(events(&trace).len() > 100, "{name}");
        trace
    };
    for (name, lacking) in [("none", &["CAP_BPF", "CAP_PERFMON"][..]), ("one", &["CAP_PERFMON"])] {
        let said = note(&out, &format!("{name}.said"));
        assert_eq!(note(&out, &format!("{name}.status")), "1", "{said}");
        assert!(lacking.iter().all(|capability| said.contains(&format!("{capability} (to "))), "{said}");
        assert!(!out.join("user").join(format!("{name}.swio")).exists());
    }
    let two = recorded("two");
    assert!(two.meta().losses.notes.iter().any(|note| note.starts_with("no snapshot of the pool")));
    // Nobody takes a pool that could not be looked at for one that is not there.
    assert!(two.meta().pools.is_empty() && two.meta().pool_unknown.is_some(), "{:?}", two.meta());
    for command in ["verify", "replay", "plan"] {
        let output = Command::new(SWIOSCOPE).arg(command).arg(out.join("user/two.swio")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("record again as root"), "{command}: {said}");
    }
    recorded("old");
    let most = recorded("most");
    assert!(most.meta().snapshot_ns.is_some(), "{:?}", most.meta().losses.notes);
    assert_eq!(most.meta().capture.backends, two.meta().capture.backends);

    const CAP_SYSLOG: u64 = 1 << 34;
    const CAP_BPF: u64 = 1 << 39;
    assert_eq!(note(&out, "root.status"), "0", "{}", note(&out, "root.said"));
    for line in note(&out, "root.keeps").lines() {
        let (_, set) = line.split_once(':').unwrap();
        assert_eq!(u64::from_str_radix(set.trim(), 16).unwrap(), CAP_BPF | CAP_SYSLOG, "{line}");
    }
    assert_eq!(note(&out, "theirs.status"), "0");
    assert!(Trace::open(out.join("theirs/t.swio")).unwrap().meta().closed);
    let workload = note(&out, "workload.has");
    let workload = u64::from_str_radix(workload.rsplit('\t').next().unwrap(), 16).unwrap();
    assert!(workload.count_ones() > 30, "a command of root's has root's rights: {workload:x}");
}

#[test]
fn two_capabilities_are_enough_and_the_rest_is_given_up() {
    rights(Kernel::V6_12);
}

#[test]
fn two_capabilities_are_enough_on_5_10_too() {
    rights(Kernel::V5_10);
}
