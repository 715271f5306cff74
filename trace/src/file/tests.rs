//! Whole traces: written, killed, damaged, read back.

mod documented;
mod refused;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tempfile::TempDir;

use super::open_segment::{Frame, HEADER_BYTES, OpenSegment, header};
use super::*;
use crate::{Device, Direction, Event, Meta, Op, P2mKind, P2mRun, SnapshotSlot, StackFrame, Task};

/// A folder to work in and the path of a trace in it.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.swio");
    (folder, path)
}

fn map(time_ns: u64) -> Event {
    let mut event = Event::new(Op::Map, time_ns, 1, 77, 0);
    event.orig_addr = Some(0x1000 * time_ns);
    event.size = Some(4096);
    event.dma_addr = Some(0xfff0_0000 + time_ns);
    event.direction = Some(Direction::ToDevice);
    event
}

fn device(id: u32) -> Device {
    Device {
        id,
        name: format!("0000:00:{id:02x}.0"),
        driver: Some("nvme".to_owned()),
        dma_mask: Some(u64::MAX),
        coherent_dma_mask: 0xffff_ffff,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: Some(65536),
        min_align_mask: 0xfff,
        ..Device::new(0, "")
    }
}

fn read(path: &Path) -> Vec<Event> {
    Trace::open(path).unwrap().events().collect::<Result<_, _>>().unwrap()
}

/// Writes a trace of the given events, closed.
fn written(path: &Path, events: &[Event]) {
    let mut writer = Writer::create(path, Meta::new()).unwrap();
    writer.extend(events).unwrap();
    writer.close(Meta::new()).unwrap();
}

#[test]
fn a_closed_trace_reads_back_whole() {
    let (_folder, path) = place();
    let mut writer = Writer::create(&path, Meta::new()).unwrap();
    writer.set_devices(vec![device(0)]);
    writer.device(device(1));
    writer.device(Device { driver: None, ..device(0) });
    let slots = vec![SnapshotSlot { slot: 9, orig_addr: u64::MAX, alloc_size: 1, pad_slots: 2, pool: None }];
    writer.set_snapshot(slots.clone());
    let runs = vec![P2mRun { pfn: 1, mfn: u64::MAX, count: 3, kind: P2mKind::Foreign }];
    writer.set_p2m(runs.clone());
    let tasks = vec![Task { tid: 77, since_ns: 2, pid: 70, comm: "fio".to_owned() }];
    writer.set_tasks(tasks.clone());
    let frame = StackFrame { stack: 5, frame: 0, address: 0xffff_ffff_8100_0000, symbol: None, offset: None };
    writer.set_stacks(vec![frame.clone()]);
    writer.push(&map(5)).unwrap();
    writer.flush().unwrap();
    writer.push(&map(3)).unwrap();
    let mut meta = Meta::new();
    meta.host.release = "6.12.117".to_owned();
    meta.losses.ring_full = 4;
    writer.close(meta.clone()).unwrap();

    let trace = Trace::open(&path).unwrap();
    assert_eq!(*trace.meta(), Meta { closed: true, ..meta });
    assert_eq!(trace.devices(), [Device { driver: None, ..device(0) }, device(1)]);
    assert_eq!((trace.snapshot(), trace.p2m()), (slots.as_slice(), runs.as_slice()));
    assert_eq!((trace.tasks(), trace.stacks()), (tasks.as_slice(), [frame].as_slice()));
    assert_eq!(trace.event_count(), 2);
    assert_eq!(trace.event_files(), [path.join("events-00000.parquet")]);
    assert_eq!((trace.has_open_segment(), trace.recovered()), (false, None));
    assert_eq!(read(&path), [map(3), map(5)]);
}

/// A disk that takes its time with a table: a pipe in the table's place, which nobody reads yet.
#[test]
fn events_do_not_wait_for_tables() {
    let (_folder, path) = place();
    let mut writer = Writer::create(&path, Meta::new()).unwrap();
    let pipe = path.join("devices.parquet.tmp");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    writer.set_devices(vec![device(0)]);
    for time in 1..4 {
        writer.push(&map(time)).unwrap();
        writer.flush_events().unwrap();
        assert_eq!(read(&path).len() as u64, time);
    }
    assert_eq!(Trace::open(&path).unwrap().devices(), []);
    // Read at last; what went into a pipe cannot be synced, which is told once, and saved again.
    let reader = std::thread::spawn(move || fs::read(pipe).unwrap());
    let error = writer.flush().unwrap_err();
    assert!(matches!(&error, TraceError::Io { path, .. } if path.ends_with("devices.parquet.tmp")), "{error:?}");
    assert!(!reader.join().unwrap().is_empty());
    assert_eq!(Trace::open(&path).unwrap().devices(), [device(0)]);
    writer.flush().unwrap();
    writer.close(Meta::new()).unwrap();
    assert_eq!((read(&path).len(), Trace::open(&path).unwrap().devices().len()), (3, 1));
}

#[test]
fn a_trace_appears_under_its_name_when_it_can_be_opened() {
    let (folder, path) = place();
    let names = || {
        let entries = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        entries.collect::<Vec<_>>()
    };
    let mut writer = Writer::create(&path, Meta::new()).unwrap();
    assert_eq!(names(), ["t.swio"]);
    Trace::open(&path).unwrap();
    writer.push(&map(5)).unwrap();
    writer.close(Meta::new()).unwrap();
    assert_eq!(read(&path), [map(5)]);
    // Another takes the name between the check and the end of making: it keeps it, and nothing of ours stays.
    let other = folder.path().join("o.swio");
    let late = Writer::create_then(&other, Meta::new(), || written(&other, &[map(7)]));
    assert!(matches!(late, Err(TraceError::Exists { .. })), "{late:?}");
    assert_eq!(read(&other), [map(7)]);
    assert_eq!(names().len(), 2, "{:?}", names());
}

#[test]
fn writing_ends_when_the_folder_is_removed() {
    let (_folder, path) = place();
    let mut writer = Writer::create(&path, Meta::new()).unwrap();
    writer.push(&map(5)).unwrap();
    writer.flush().unwrap();
    fs::remove_dir_all(&path).unwrap();
    writer.push(&map(6)).unwrap();
    let error = writer.flush().unwrap_err();
    assert!(matches!(error, TraceError::Removed { .. }), "{error}");
    let error = writer.close(Meta::new()).unwrap_err();
    assert!(error.to_string().contains("was removed while it was being written"), "{error}");
    assert!(!path.exists());
}

/// Any event at all, most fields as extreme as they come.
fn any_event() -> impl Strategy<Value = Event> {
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), Just(1 << 63), any::<u64>()]
    }
    fn maybe() -> impl Strategy<Value = Option<u64>> {
        proptest::option::of(number())
    }
    let fixed = (number(), any::<u32>(), any::<u32>(), any::<u32>(), proptest::sample::select(Op::ALL));
    let direction = proptest::option::of(proptest::sample::select(Direction::ALL));
    let addresses = (maybe(), maybe(), maybe(), maybe());
    let rest = (maybe(), maybe(), maybe(), maybe(), maybe());
    let small = [(); 3].map(|()| proptest::option::of(any::<u32>()));
    (fixed, direction, addresses, rest, small).prop_map(
        |((time_ns, cpu, tid, device, op), direction, addresses, rest, [first_slot, sg_index, stack])| {
            let (orig_addr, size, dma_addr, tlb_addr) = addresses;
            let (attrs, align_mask, count, since_ns, latency_ns) = rest;
            let optional = Event { orig_addr, size, dma_addr, tlb_addr, attrs, align_mask, count, since_ns, ..map(0) };
            let fixed = Event { time_ns, cpu, tid, device, op, direction, ..optional };
            Event { first_slot, sg_index, latency_ns, stack, ..fixed }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_events_survive_sealing(mut events in proptest::collection::vec(any_event(), 0..40), size in 1_u64..50) {
        let (_folder, path) = place();
        let mut writer = Writer::create(&path, Meta::new()).unwrap();
        writer.segment_events = size;
        for event in &events {
            writer.push(event).unwrap();
            writer.flush().unwrap();
        }
        writer.close(Meta::new()).unwrap();
        events.sort_by_key(|e| e.time_ns);
        prop_assert_eq!(read(&path), events);
    }

    #[test]
    fn any_events_survive_a_recorder_that_dies(mut events in proptest::collection::vec(any_event(), 0..40)) {
        let (_folder, path) = place();
        let mut writer = Writer::create(&path, Meta::new()).unwrap();
        writer.extend(&events).unwrap();
        drop(writer);
        events.sort_by_key(|e| e.time_ns);
        prop_assert_eq!(read(&path), events);
    }

    #[test]
    fn any_bytes_are_an_open_segment_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (folder, _) = place();
        let path = folder.path().join(OPEN);
        fs::write(&path, [header(0).as_slice(), &bytes].concat()).unwrap();
        prop_assert!(OpenSegment::read(&path).unwrap().bytes_dropped() <= bytes.len() as u64);
    }
}

#[test]
fn segments_that_overlap_are_merged_and_ties_keep_their_order() {
    let (_folder, path) = place();
    let mut writer = Writer::create(&path, Meta::new()).unwrap();
    writer.segment_events = 4;
    let times = [1, 9, 3, 5, 4, 2, 9, 5, 11, 12, 13, 0, 5];
    let events: Vec<_> = times.iter().zip(0..).map(|(&t, tid)| Event { tid, ..map(t) }).collect();
    for event in &events {
        writer.push(event).unwrap();
        writer.flush().unwrap();
        // Without this the sealer may lag and the number of segments would depend on the weather.
        writer.finish_sealer().unwrap();
    }
    assert_eq!(Trace::open(&path).unwrap().event_files().len(), 3, "while recording");
    assert_eq!(Trace::open(&path).unwrap().recovered(), Some(Recovered { events: 1, bytes_dropped: 0 }));
    writer.close(Meta::new()).unwrap();
    let mut sorted = events;
    sorted.sort_by_key(|e| e.time_ns);
    assert_eq!(read(&path), sorted);
    assert_eq!(Trace::open(&path).unwrap().event_files().len(), 4);
}

#[test]
fn every_place_can_be_come_back_to() {
    let (_folder, path) = place();
    let mut writer = Writer::create(&path, Meta::new()).unwrap();
    writer.segment_events = 7;
    // Neighbouring segments overlap; the last one stays open.
    let times: Vec<u64> = (0..60).map(|i| i / 7 * 70 + i % 7 * 13).collect();
    for &time in &times {
        writer.push(&map(time)).unwrap();
        writer.flush().unwrap();
    }
    drop(writer);
    let trace = Trace::open(&path).unwrap();
    let all: Vec<_> = trace.events().map(Result::unwrap).collect();
    assert_eq!((all.len(), trace.span_ns()), (60, Some((0, *times.iter().max().unwrap()))));
    let mut events = trace.events();
    for passed in 0..=all.len() {
        let rest = trace.events_from(&events.place()).unwrap();
        let rest: Vec<_> = rest.map(Result::unwrap).collect();
        assert_eq!(rest, all[passed..], "after {passed}");
        events.next();
    }
}

/// An open segment of three frames of two events, and where each frame ends.
fn three_frames() -> (Vec<u8>, [usize; 3]) {
    let mut bytes = header(0).to_vec();
    let ends = [0, 2, 4].map(|time| {
        let mut frame = Frame::default();
        frame.push(&map(time));
        frame.push(&Event::new(Op::Lost, time + 1, 0, 0, crate::event::NO_DEVICE));
        bytes.extend_from_slice(frame.finish());
        bytes.len()
    });
    (bytes, ends)
}

#[test]
fn an_open_segment_cut_at_any_byte_yields_its_whole_frames() {
    let (folder, _) = place();
    let path = folder.path().join(OPEN);
    let (bytes, ends) = three_frames();
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let segment = OpenSegment::read(&path).unwrap();
        let whole = ends.iter().filter(|&&end| end <= cut).count();
        assert_eq!(segment.len(), whole * 2, "cut at {cut}");
        let used = if cut < HEADER_BYTES { 0 } else { whole.checked_sub(1).map_or(HEADER_BYTES, |i| ends[i]) };
        assert_eq!(segment.bytes_dropped(), (cut - used) as u64, "cut at {cut}");
    }
}

#[test]
fn an_open_segment_with_any_byte_changed_yields_the_frames_before() {
    let (folder, _) = place();
    let path = folder.path().join(OPEN);
    let (bytes, ends) = three_frames();
    for at in HEADER_BYTES..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        fs::write(&path, &damaged).unwrap();
        let before = ends.iter().filter(|&&end| end <= at).count();
        assert_eq!(OpenSegment::read(&path).unwrap().len(), before * 2, "changed at {at}");
    }
    // What a file system leaves behind a file it had no time to fill.
    fs::write(&path, [bytes.as_slice(), &[0; 64]].concat()).unwrap();
    let segment = OpenSegment::read(&path).unwrap();
    assert_eq!((segment.len(), segment.bytes_dropped()), (6, 64));
}

#[test]
fn a_broken_open_segment_is_a_fact_and_not_an_error() {
    let (_folder, path) = place();
    drop(Writer::create(&path, Meta::new()).unwrap());
    let (bytes, _) = three_frames();
    fs::write(path.join(OPEN), &bytes[..bytes.len() - 1]).unwrap();
    let trace = Trace::open(&path).unwrap();
    assert!(!trace.meta().closed && trace.has_open_segment());
    let recovered = trace.recovered().unwrap();
    assert_eq!((recovered.events, trace.event_count(), read(&path).len()), (4, 4, 4));
    assert!(recovered.bytes_dropped > 0);

    fs::write(path.join(OPEN), "time,cpu\n1,2\n").unwrap();
    let recovered = Trace::open(&path).unwrap().recovered();
    assert_eq!(recovered, Some(Recovered { events: 0, bytes_dropped: 13 }));
}

#[test]
fn a_segment_sealed_but_not_yet_removed_counts_once() {
    let (_folder, path) = place();
    let mut writer = Writer::create(&path, Meta::new()).unwrap();
    writer.push(&map(1)).unwrap();
    writer.flush().unwrap();
    let frames = fs::read(path.join(OPEN)).unwrap();
    writer.close(Meta::new()).unwrap();
    fs::write(path.join(OPEN), frames).unwrap();
    assert_eq!(Trace::open(&path).unwrap().event_count(), 1);
}

#[test]
fn a_trace_can_be_read_while_it_is_written() {
    let (_folder, path) = place();
    let mut writer = Writer::create(&path, Meta::new()).unwrap();
    writer.segment_events = 50;
    let recorder = std::thread::spawn(move || {
        for time in 0..3_000 {
            writer.push(&map(time)).unwrap();
            if time % 7 == 0 {
                writer.device(device(time as u32));
                writer.flush().unwrap();
            }
        }
        writer.close(Meta::new()).unwrap();
    });
    let mut last = 0;
    while !recorder.is_finished() {
        let trace = Trace::open(&path).unwrap();
        let count = trace.event_count();
        assert!(count >= last, "{count} events after {last}");
        // By now segments may have been put aside and sealed; what was opened stays as it was.
        assert_eq!(trace.events().map(Result::unwrap).count() as u64, count);
        last = count;
    }
    recorder.join().unwrap();
    assert_eq!(read(&path).len(), 3_000);
}

/// The recorder that [`a_killed_recorder_loses_nothing_it_had_flushed`] kills: not a test by itself.
#[test]
#[ignore = "is started by another test"]
fn victim() {
    let Ok(path) = std::env::var("SWIOSCOPE_TEST_VICTIM") else { return };
    let mut writer = Writer::create(path, Meta::new()).unwrap();
    writer.segment_events = 3_000;
    for burst in 0_u32.. {
        writer.device(device(burst / 100));
        writer.extend((0..100).map(|i| map(u64::from(burst) * 100 + i)).collect::<Vec<_>>().iter()).unwrap();
        writer.flush().unwrap();
        println!("\nflushed {}", (burst + 1) * 100);
    }
}

#[test]
fn a_killed_recorder_loses_nothing_it_had_flushed() {
    let (_folder, path) = place();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "file::tests::victim", "--ignored", "--nocapture"])
        .env("SWIOSCOPE_TEST_VICTIM", &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // Sealing goes on beside writing: killed once there are both, a sealed segment and later ones.
    let sealed = path.join(sealed_name(0));
    let mut flushed = lines.filter_map(|l| l.strip_prefix("flushed ")?.parse::<u64>().ok());
    let flushed = flushed.find(|&n| n >= 20_000 && sealed.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let trace = Trace::open(&path).unwrap();
    assert!(!trace.meta().closed);
    assert!(!trace.event_files().is_empty());
    assert!(trace.event_count() >= flushed.unwrap());
    assert!(trace.devices().len() >= 2);
    let times: Vec<_> = read(&path).iter().map(|e| e.time_ns).collect();
    assert_eq!(times, (0..trace.event_count()).collect::<Vec<_>>());
}

#[test]
fn a_path_that_is_taken_is_refused_and_left_alone() {
    let (folder, path) = place();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("mine"), "x").unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "y").unwrap();
    for taken in [&path, &file] {
        let error = Writer::create(taken, Meta::new()).unwrap_err();
        assert!(matches!(error, TraceError::Exists { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    let error = Writer::create(folder.path().join("no/where.swio"), Meta::new()).unwrap_err();
    assert!(matches!(error, TraceError::NoParent { .. }), "{error}");
    assert!(!folder.path().join("no").exists());
}

#[test]
fn a_full_disk_is_called_by_its_name() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let path = Path::new("x.parquet");
    let mut table = table::TableWriter::<Event, _>::new(full, path).unwrap();
    let error = table.write(&[map(1)]).and_then(|()| table.finish()).unwrap_err();
    let TraceError::Io { doing: "write", source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn what_fails_or_is_aborted_leaves_nothing_behind() {
    let (folder, path) = place();
    // A folder that goes away before the first file is made.
    let error = Writer::begin(&path.join("gone"), true, Meta::new()).unwrap_err();
    assert!(matches!(error, TraceError::Io { .. }), "{error}");

    for made_before in [true, false] {
        let path = folder.path().join(format!("{made_before}.swio"));
        if made_before {
            fs::create_dir(&path).unwrap();
        }
        let mut writer = Writer::create(&path, Meta::new()).unwrap();
        writer.segment_events = 1;
        for time in 0..5 {
            writer.push(&map(time)).unwrap();
            writer.flush().unwrap();
        }
        writer.set_p2m(Vec::new());
        writer.flush().unwrap();
        writer.abort();
        assert_eq!(path.exists(), made_before);
        assert!(!made_before || fs::read_dir(&path).unwrap().next().is_none());
    }
}
