//! Recording on the very machine the tests run on, whatever it is: a build machine seldom has DMA, kprobes or fentry, and
//! typed tracepoints attach all the same.
//!
//! Where BPF is not permitted at all (no root, a container) each test says so and checks nothing else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use collector::{Options, Recorder};
use serde_json::Value as Json;
use trace::Trace;

const SWIOSCOPE: &str = env!("CARGO_BIN_EXE_swioscope");

/// Why nothing can be tried here.
fn not_here() -> Option<String> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF".to_owned());
    }
    match aya::programs::loaded_programs().next() {
        Some(Err(error)) => Some(format!("BPF is not permitted: {error}")),
        _ => None,
    }
}

/// Ends the test, with a word, where nothing can be tried.
macro_rules! or_skip {
    () => {
        if let Some(why) = not_here() {
            eprintln!("skipped: {why}");
            return;
        }
    };
}

/// Programs that are loaded now, anybody's.
fn loaded() -> BTreeSet<u32> {
    aya::programs::loaded_programs().map(|program| program.unwrap().id()).collect()
}

/// Programs a process holds.
fn programs_of(process: u32) -> BTreeSet<u32> {
    let files = fs::read_dir(format!("/proc/{process}/fdinfo")).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())).collect()
}

/// Waits for what holds sooner or later: the kernel frees programs when nobody can be running them any more.
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn all_gone(programs: &BTreeSet<u32>) {
    soon("no program is left behind", || loaded().is_disjoint(programs));
}

fn swioscope(arguments: &[&str]) -> Output {
    Command::new(SWIOSCOPE).args(arguments).output().unwrap()
}

fn doctor() -> Json {
    let output = swioscope(&["doctor", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The events and the back-end of each.
fn events(doctor: &Json) -> Vec<(String, Option<String>)> {
    let events = doctor["events"].as_array().unwrap().iter();
    events.map(|e| (e["event"].as_str().unwrap().to_owned(), e["backend"].as_str().map(str::to_owned))).collect()
}

/// A recording without end, once its programs are in place: the process, and what it has loaded.
fn recording(trace: &Path) -> (Child, BTreeSet<u32>) {
    let mut recorder = Command::new(SWIOSCOPE)
        .args(["record", "--quiet", "--output"])
        .arg(trace)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    soon("the trace is begun", || {
        let ended = recorder.try_wait().unwrap();
        assert!(ended.is_none(), "{}", String::from_utf8_lossy(&recorder_words(&mut recorder)));
        trace.join("meta.json").exists()
    });
    let programs = programs_of(recorder.id());
    assert!(!programs.is_empty(), "it holds no programs");
    assert!(programs.is_subset(&loaded()));
    (recorder, programs)
}

fn recorder_words(recorder: &mut Child) -> Vec<u8> {
    use std::io::Read as _;
    let mut words = Vec::new();
    recorder.stderr.as_mut().unwrap().read_to_end(&mut words).unwrap();
    words
}

/// What the kernel's types promise is what attaches.
#[test]
fn doctor_attaches_what_this_kernel_has() {
    or_skip!();
    let before = loaded();
    let events = events(&doctor());
    let types = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    let has = |name: &str| {
        let name = format!("\0btf_trace_{name}\0").into_bytes();
        types.windows(name.len()).any(|bytes| bytes == name)
    };
    let backend = |event: &str| events.iter().find(|(name, _)| name == event).unwrap().1.clone();
    for (event, names) in [
        ("map", ["dma_map_phys", "dma_map_page"]),
        ("unmap", ["dma_unmap_phys", "dma_unmap_page"]),
        ("map_sg", ["dma_map_sg", ""]),
        ("free", ["dma_free", ""]),
    ] {
        let Some(name) = names.iter().find(|name| has(name)) else {
            eprintln!("not checked: this kernel has no tracepoint for {event}");
            continue;
        };
        assert!(backend(event).is_some_and(|taken| taken.starts_with(&format!("tp_btf dma:{name}"))));
    }
    if has("swiotlb_bounced") {
        assert!(backend("bounce").is_some());
    }
    // Others may load programs meanwhile, but none of ours stays.
    soon("doctor leaves nothing", || {
        let ours = |id: &u32| !before.contains(id) && named_as_ours(*id);
        !loaded().iter().any(ours)
    });
}

/// Whether a program has the name of one of ours, as the kernel cuts it.
fn named_as_ours(id: u32) -> bool {
    aya::programs::loaded_programs().filter_map(Result::ok).any(|program| {
        program.id() == id && program.name_as_str().is_some_and(|name| ["dma_map", "dma_unmap"].contains(&name))
    })
}

#[test]
fn a_second_is_recorded_and_what_is_missing_is_said() {
    or_skip!();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.swio");
    let output = swioscope(&["record", "--output", path.to_str().unwrap(), "--duration", "1s"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let trace = Trace::open(&path).unwrap();
    let meta = trace.meta();
    assert!(meta.closed && !trace.has_open_segment());
    assert!(meta.clock.duration_ns >= 1_000_000_000);
    assert_eq!(trace.events().filter(|event| event.is_err()).count(), 0);
    for (event, backend) in events(&doctor()) {
        match backend {
            Some(backend) => assert_eq!(meta.capture.backends.get(&event), Some(&backend)),
            None => {
                let told = format!("{event} is not recorded");
                assert!(said.contains(&told), "{told}: {said}");
                assert!(meta.losses.notes.iter().any(|note| note.starts_with(&told)), "{:?}", meta.losses.notes);
            }
        }
    }
}

/// Programs go however the recorder ends; those of a signal that can be caught leave a closed trace.
#[test]
fn nothing_stays_loaded_whatever_ends_a_recording() {
    or_skip!();
    let folder = tempfile::tempdir().unwrap();
    for (signal, closes) in [("TERM", true), ("HUP", true), ("INT", true), ("KILL", false)] {
        let path = folder.path().join(format!("{signal}.swio"));
        let (mut recorder, programs) = recording(&path);
        let sent = Command::new("kill").args([&format!("-{signal}"), &recorder.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let words = recorder_words(&mut recorder);
        assert_eq!(recorder.wait().unwrap().success(), closes, "{signal}: {}", String::from_utf8_lossy(&words));
        all_gone(&programs);
        assert_eq!(Trace::open(&path).unwrap().meta().closed, closes, "{signal}");
    }
}

#[test]
fn a_second_recorder_does_not_touch_the_first() {
    or_skip!();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.swio");
    let (mut first, programs) = recording(&path);
    let same = swioscope(&["record", "--output", path.to_str().unwrap(), "--duration", "1s"]);
    let said = String::from_utf8_lossy(&same.stderr);
    assert!(!same.status.success() && said.contains("exists already"), "{said}");
    let other = folder.path().join("other.swio");
    let beside = swioscope(&["record", "--output", other.to_str().unwrap(), "--duration", "300ms"]);
    assert!(beside.status.success(), "{}", String::from_utf8_lossy(&beside.stderr));
    assert!(programs.is_subset(&loaded()), "the first has lost its programs");
    Command::new("kill").args(["-TERM", &first.id().to_string()]).status().unwrap();
    assert!(first.wait().unwrap().success());
    assert!(Trace::open(&path).unwrap().meta().closed && Trace::open(&other).unwrap().meta().closed);
    all_gone(&programs);
}

/// A trace that is removed while it is written ends the recording, in words.
#[test]
fn a_removed_folder_ends_the_recording() {
    or_skip!();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.swio");
    let (mut recorder, programs) = recording(&path);
    fs::remove_dir_all(&path).unwrap();
    let said = String::from_utf8(recorder_words(&mut recorder)).unwrap();
    assert_eq!(recorder.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("was removed while it was being written"), "{said}");
    assert!(!path.exists(), "it is made again");
    all_gone(&programs);
}

/// Started by [`nothing_stays_loaded_after_a_panic`] in a process of its own.
#[test]
#[ignore = "ends the process by a panic"]
fn panics_while_recording() {
    let Ok(path) = std::env::var("SWIOSCOPE_TEST_PANIC") else { return };
    let _recorder = Recorder::start(&Options::new(path, "a panic")).unwrap();
    println!("programs: {:?}", programs_of(std::process::id()));
    panic!("as a bug would");
}

#[test]
fn nothing_stays_loaded_after_a_panic() {
    or_skip!();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.swio");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "panics_while_recording"])
        .env("SWIOSCOPE_TEST_PANIC", &path)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("as a bug would"));
    let list = said.lines().find_map(|line| line.split_once("programs: {")?.1.strip_suffix('}'));
    let programs: BTreeSet<u32> = list.unwrap().split(", ").map(|id| id.parse().unwrap()).collect();
    assert!(!programs.is_empty());
    all_gone(&programs);
    Trace::open(&path).unwrap();
}

/// Started by [`a_trace_opens_whenever_its_recorder_is_killed`] in a process of its own: records system calls, as the bench
/// does, which any machine has.
#[test]
#[ignore = "goes on until it is killed"]
fn records_until_killed() {
    let Ok(path) = std::env::var("SWIOSCOPE_TEST_KILLED") else { return };
    // In a thread of its own, which gives up its capabilities; this one needs them.
    let start = thread::spawn(|| Recorder::start(&Options::new(path, "system calls")).unwrap());
    let mut recorder = start.join().unwrap();
    let types = aya::Btf::from_sys_fs().unwrap();
    let program = recorder.ebpf_mut().program_mut("bench_events").unwrap();
    let program: &mut aya::programs::BtfTracePoint = program.try_into().unwrap();
    program.load("sys_enter", &types).unwrap();
    program.attach().unwrap();
    loop {
        for _ in 0..20 {
            let _ = std::os::unix::process::parent_id();
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The events' clock, in seconds.
fn monotonic() -> f64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    uptime.split(' ').next().unwrap().parse().unwrap()
}

/// Fifty recorders, a few at a time: each is killed at any moment, from its start to two seconds into the recording.
#[test]
fn a_trace_opens_whenever_its_recorder_is_killed() {
    or_skip!();
    const KILLED: usize = 50;
    const AT_ONCE: usize = 3;
    // In memory: a disk that others keep busy holds the recorder up by seconds when it syncs its tables.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let victim = |number: usize| {
        let path = folder.path().join(format!("{number}.swio"));
        let mut recorder = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "records_until_killed"])
            .env("SWIOSCOPE_TEST_KILLED", &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moment = |most_ms: u64| Duration::from_millis(random() % most_ms);
        if number % 5 == 0 {
            // While it is starting, mostly.
            thread::sleep(moment(1000));
        } else {
            soon("the trace is begun", || path.exists());
            thread::sleep(Duration::from_millis(500) + moment(1500));
        }
        let killed = monotonic();
        recorder.kill().unwrap();
        recorder.wait().unwrap();
        if !path.exists() {
            return (number, None);
        }
        let trace = Trace::open(&path).unwrap_or_else(|error| panic!("{number}: {error}"));
        assert!(!trace.meta().closed, "{number}");
        let last = trace.events().map(Result::unwrap).last();
        let since = trace.meta().clock.monotonic_ns + last.as_ref().map_or(0, |event| event.time_ns);
        (number, Some((killed - since as f64 / 1e9, last.is_some())))
    };
    let numbers = std::sync::atomic::AtomicUsize::new(0);
    let next = || Some(numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).filter(|number| *number < KILLED);
    let killed: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..AT_ONCE).map(|_| scope.spawn(|| std::iter::from_fn(next).map(victim).collect::<Vec<_>>())).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let traces: Vec<_> = killed.iter().filter_map(|(number, trace)| Some((number, (*trace)?))).collect();
    for (number, (lacking, _)) in &traces {
        assert!(*lacking <= 1.0, "{number}: the last {lacking:.3} s are missing");
    }
    let with_events = traces.iter().filter(|(_, (_, events))| *events).count();
    assert!(with_events >= KILLED * 3 / 5, "only {with_events} were killed while they recorded");
    let most = traces.iter().map(|(_, (lacking, _))| *lacking).fold(0.0, f64::max);
    println!("{KILLED} killed, {} traces, {with_events} with events; at most {most:.3} s missing", traces.len());
}

/// Any number; the moments need not be the same each time.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}
