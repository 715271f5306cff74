//! Whole traces: written, killed, damaged, read back.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::open_segment::{HEADER_BYTES, OpenSegment};
use super::table::{read_table, write_table};
use super::*;
use crate::{Device, Direction, Event, Meta, Op, P2mKind, P2mRun, SnapshotSlot};

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
        untrusted: None,
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
    let slots = vec![SnapshotSlot { slot: 9, orig_addr: u64::MAX, alloc_size: 1, pad_slots: 2 }];
    writer.set_snapshot(slots.clone());
    let runs = vec![P2mRun { pfn: 1, mfn: u64::MAX, count: 3, kind: P2mKind::Foreign }];
    writer.set_p2m(runs.clone());
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
    assert_eq!(trace.event_count(), 2);
    assert_eq!(trace.event_files(), [path.join("events-00000.parquet")]);
    assert_eq!((trace.has_open_segment(), trace.recovered()), (false, None));
    assert_eq!(read(&path), [map(3), map(5)]);
}
