use trace::pool::{Area, SLOT_BYTES};
use trace::{Direction, Meta, Pool};

use super::*;
use crate::Cause;

const START: u64 = 0x1000_0000;
const SECOND: u64 = 1_000_000_000;

fn meta(nslabs: u64, nareas: u32) -> Meta {
    let areas = vec![Area { index: 0, used: 0 }; nareas as usize];
    let pool = Pool { start: START, nslabs, nareas, force_bounce: true, areas, ..Pool::default() };
    let mut meta = Meta { pools: vec![pool], snapshot_ns: Some(0), snapshot_exact: true, ..Meta::new() };
    meta.host.release = "6.12.1".to_owned();
    meta.host.possible_cpus = nareas;
    meta
}

fn device(id: u32, min_align_mask: u64) -> Device {
    Device {
        id,
        name: format!("0000:00:0{id}.0"),
        driver: Some("nvme".to_owned()),
        dma_mask: Some(u64::MAX),
        coherent_dma_mask: u64::MAX,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: None,
        min_align_mask,
        ..Device::new(0, "")
    }
}

fn moment(nslabs: u64, nareas: u32) -> Moment {
    Moment::new(Around::new(&meta(nslabs, nareas), &[], &[device(0, 0), device(1, 0xfff)]), &[])
}

fn request(op: Op, time_ns: u64, device: u32, size: u64) -> Event {
    Event {
        orig_addr: Some(0x8000_0000),
        size: Some(size),
        direction: Some(Direction::FromDevice),
        attrs: Some(0),
        ..Event::new(op, time_ns, 0, 7, device)
    }
}

fn alloc(time_ns: u64, device: u32, first: u64, slots: u64) -> Event {
    Event {
        tlb_addr: Some(START + first * SLOT_BYTES),
        first_slot: Some(first as u32),
        latency_ns: Some(1000),
        stack: Some(3),
        ..request(Op::SlotAlloc, time_ns, device, slots * SLOT_BYTES)
    }
}

fn free(time_ns: u64, device: u32, first: u64) -> Event {
    Event { tlb_addr: Some(START + first * SLOT_BYTES), ..Event::new(Op::SlotFree, time_ns, 0, 7, device) }
}

#[test]
fn slots_have_holders_and_areas_their_high_water() {
    let mut moment = moment(512, 2);
    for event in [alloc(1, 0, 0, 3), alloc(2, 1, 256, 128), alloc(3, 1, 384, 128), free(4, 1, 384), alloc(5, 0, 3, 2)] {
        moment.apply(&event);
    }
    let pool = &moment.slots().pools()[0];
    assert_eq!((pool.used(), pool.high_water(), moment.slots().used()), (133, 259, 133));
    assert_eq!(pool.areas().collect::<Vec<_>>(), [(5, 5), (128, 256)]);
    let owner = |slot| pool.holder_at(slot).map(|holder| (holder.device, holder.first_slot, holder.since_ns));
    assert_eq!(
        [2, 4, 5, 300, 384].map(owner),
        [Some((0, 0, Some(1))), Some((0, 3, Some(5))), None, Some((1, 256, Some(2))), None]
    );
    assert_eq!((pool.free_run(5), pool.free_run(130), pool.free_run(4)), (Some((5, 123)), Some((128, 128)), None));
    assert_eq!(
        pool.run_rows().iter().map(|row| (row.from_slots, row.to_slots, row.runs)).skip(7).collect::<Vec<_>>(),
        [(65, 127, 1), (128, 128, 2)]
    );
    assert_eq!(pool.holders_in(4, 257).map(|holder| holder.first_slot).collect::<Vec<_>>(), [3, 256]);
    let rows = moment.device_rows();
    assert_eq!(
        rows.iter().map(|row| (row.id, row.slots, row.peak_slots, row.bounces)).collect::<Vec<_>>(),
        [(0, 5, 5, 2), (1, 128, 256, 2)]
    );
    assert_eq!(moment.device(1).unwrap().stacks()[&3].slots, 128);
}

#[test]
fn bounces_have_reasons_copies_and_latencies() {
    let mut moment = moment(512, 1);
    moment.apply(&alloc(1, 0, 0, 4));
    moment.apply(&Event { dma_addr: Some(START), ..request(Op::Map, 2, 0, 8192) });
    moment.apply(&Event { dma_addr: Some(START + 2048), size: Some(100), ..Event::new(Op::SyncForCpu, 3, 0, 7, 0) });
    moment.apply(&free(4, 0, 0));
    let row = &moment.device_rows()[0];
    // Copied in (so that nothing leaks), a part synced, copied back.
    assert_eq!((row.maps, row.bounces, row.bytes_copied), (1, 1, 8192 + 100 + 8192));
    assert_eq!((row.reason, row.bounce_share), (Some(crate::Reason::Forced), Some(1.0)));
    assert_eq!((row.latency_p50_ns, row.slots, row.syncs), (Some(1000), 0, 1));
    assert_eq!(moment.now().bytes_copied_per_s, 16_484);
    moment.advance(5 * SECOND);
    assert_eq!((moment.now().bytes_copied_per_s, moment.device_rows()[0].maps_per_s), (0, 0));
}

/// SPEC 6.1: without slot events the address given to the device tells, as its bus has it.
#[test]
fn a_bus_that_sees_memory_elsewhere() {
    let mut meta = meta(512, 1);
    meta.capture.backends.insert("map".to_owned(), "tracepoint".to_owned());
    let shifted =
        |id, ranges: &str| Device { dma_ranges: Some(ranges.to_owned()), dma_mask: Some(0xffff_ffff), ..device(id, 0) };
    let devices = [shifted(0, "0x0=0xc0000000+0x40000000"), shifted(1, "0x80000000=0x0+0x40000000")];
    let mut moment = Moment::new(Around::new(&meta, &[], &devices), &[]);
    let map = |time_ns, dma_addr| Event { dma_addr: Some(dma_addr), ..request(Op::Map, time_ns, 0, 8192) };
    moment.apply(&map(1, START));
    assert_eq!(moment.device_rows()[0].bounces, 0);
    moment.apply(&map(2, 0xc000_0000 + START));
    let row = &moment.device_rows()[0];
    assert_eq!((row.bounces, row.reason), (1, Some(crate::Reason::Mask)));
    // Device 1 does not see the pool.
    moment.apply(&Event { orig_addr: Some(0x1000), ..request(Op::MapFailed, 3, 1, 4096) });
    let failed = &moment.failure_rows()[0];
    assert_eq!(failed.cause, Cause::PoolAboveMask.name());
    assert_eq!(failed.explanation, "the device's bus does not see where the pool ends, at 0x100fffff");
}

#[test]
fn a_refusal_is_told_once_with_its_arithmetic() {
    let mut moment = moment(128, 1);
    for first in 0..16 {
        moment.apply(&alloc(first, 0, first * 8, 8));
    }
    for first in [2, 6, 10] {
        moment.apply(&free(20 + first, 0, first * 8));
    }
    moment.apply(&request(Op::SlotFailed, 40, 1, 16 * SLOT_BYTES));
    moment.apply(&request(Op::MapFailed, 41, 1, 16 * SLOT_BYTES));
    moment.apply(&request(Op::SlotFailed, 50, 1, 300 * 1024));
    let rows = moment.failure_rows();
    assert_eq!((rows.len(), moment.totals().failures), (2, 2));
    assert_eq!(rows[1].cause, Cause::Fragmented.name());
    assert_eq!(rows[1].explanation, "needs 16 slots: 32 KiB; 24 of 128 are free, the longest of 3 runs has 8");
    assert_eq!(rows[0].cause, Cause::TooLarge.name());
    assert_eq!(moment.device_rows()[1].failures, 2);
    // What the rules would have served has no cause.
    moment.apply(&request(Op::SlotFailed, 60, 1, 2048));
    assert_eq!(moment.failure_rows()[0].cause, "unexplained");
}

#[test]
fn a_scatterlist_is_refused_once() {
    let mut moment = moment(128, 1);
    for element in 0..3 {
        moment.apply(&Event { sg_index: Some(element), size: Some(0), ..request(Op::MapFailed, 5, 1, 0) });
    }
    assert_eq!(moment.totals().failures, 1);
}

#[test]
fn gaps_are_made_good_and_counted() {
    let mut moment = moment(512, 1);
    moment.apply(&alloc(1, 0, 0, 4));
    moment.apply(&alloc(2, 1, 2, 4));
    assert_eq!((moment.slots().used(), moment.totals().missed_frees), (4, 1));
    assert_eq!(moment.device(0).unwrap().slots, 0);
    moment.apply(&free(3, 0, 0));
    assert_eq!(moment.totals().unknown_frees, 1);
    assert!(moment.exact());
    moment.apply(&Event { count: Some(9), ..Event::new(Op::Lost, 4, 0, 0, NO_DEVICE) });
    assert_eq!((moment.totals().lost, moment.exact(), moment.last_loss_ns()), (9, false, Some(4)));
}

#[test]
fn a_snapshot_corrects_what_was_seen_before_it() {
    let slot = |slot, alloc_size| SnapshotSlot { slot, orig_addr: 0x8000_0000, alloc_size, pad_slots: 0, pool: None };
    let meta = Meta { snapshot_ns: Some(10), ..meta(512, 1) };
    let held = [slot(0, 4096), slot(1, 2048), slot(9, 2048)];
    let mut moment = Moment::new(Around::new(&meta, &[], &[device(0, 0)]), &held);
    moment.apply(&alloc(1, 0, 0, 2));
    moment.apply(&alloc(2, 0, 4, 2));
    assert_eq!((moment.slots().used(), moment.exact()), (4, false));
    moment.apply(&free(11, 0, 9));
    let pool = &moment.slots().pools()[0];
    assert_eq!(pool.holders().map(|holder| (holder.first_slot, holder.since_ns)).collect::<Vec<_>>(), [(0, Some(1))]);
    assert_eq!((moment.device(0).unwrap().slots, moment.exact()), (2, true));
}

#[test]
fn nonsense_does_no_harm() {
    let mut damaged = meta(512, 3);
    damaged.pools.push(Pool { start: u64::MAX, nslabs: u64::MAX, nareas: 0, ..damaged.pools[0].clone() });
    let mut moment = Moment::new(Around::new(&damaged, &[], &[]), &[]);
    for op in Op::ALL {
        for value in [0, 1, START, u64::MAX] {
            let event = Event {
                orig_addr: Some(value),
                size: Some(value),
                dma_addr: Some(value),
                tlb_addr: Some(value),
                align_mask: Some(value),
                ..Event::new(*op, 5, u32::MAX, 0, 5000)
            };
            moment.apply(&event);
        }
    }
    let _ = (moment.now(), moment.device_rows(), moment.area_rows(), moment.failure_rows());
}
