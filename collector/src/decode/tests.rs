//! Records as bytes, events as they come out.

use super::*;
use bytemuck::{Zeroable, bytes_of};
use probe::wire::Limits;

const ADDRESS: u64 = 0xffff_8880_0000_1000;

fn pool() -> Pool {
    Pool { start: 0x1000_0000, nslabs: 1024, nareas: 1, force_bounce: true, ..Pool::default() }
}

fn device(min_align_mask: u32) -> wire::Device {
    let mut record = wire::Device::zeroed();
    record.kind = wire::marked(kind::DEVICE);
    record.device = ADDRESS;
    record.limits = Limits { name: 7, dma_mask: u64::MAX, min_align_mask, ..Limits::zeroed() };
    record.name[..5].copy_from_slice(b"nvme0");
    record
}

fn event(kind: u8, target: u64) -> wire::Event {
    wire::Event {
        kind,
        direction: 1,
        cpu: 3,
        tid: 42,
        time_ns: 1_500,
        device: ADDRESS,
        orig_addr: 0x4000_1a00,
        target,
        size: 0x400,
        attrs: 2,
        align_mask: 0x3fff,
        sg_index: 0,
        has: has::ORIG | has::TARGET,
        more: 0,
        latency_ns: 0,
        stack: 0,
    }
}

#[test]
fn the_first_slot_stands_before_the_padding_at_both_ends() {
    // SPEC 14, E8: the data begin three padding slots after the first slot taken.
    let mut decoder = Decoder::new(1_000, vec![pool()], true);
    assert_eq!(decoder.record(bytes_of(&device(0xffff))), None);
    let alloc = decoder.record(bytes_of(&event(kind::SLOT_ALLOC, 0x1000_1a00))).unwrap();
    assert_eq!((alloc.op, alloc.first_slot, alloc.tlb_addr), (Op::SlotAlloc, Some(0), Some(0x1000_1a00)));
    assert_eq!((alloc.time_ns, alloc.cpu, alloc.align_mask), (500, 3, Some(0x3fff)));
    let free = decoder.record(bytes_of(&event(kind::SLOT_FREE, 0x1000_1a00))).unwrap();
    assert_eq!((free.op, free.first_slot, free.size), (Op::SlotFree, Some(0), None));
    // The padding is forgotten with its allocation.
    let again = decoder.record(bytes_of(&event(kind::SLOT_FREE, 0x1000_1a00))).unwrap();
    assert_eq!(again.first_slot, Some(3));
}

#[test]
fn slots_of_pools_that_came_later_stand_by_address_and_are_counted() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.record(bytes_of(&device(0)));
    // The first address behind the pool, and its last.
    let behind = decoder.record(bytes_of(&event(kind::SLOT_ALLOC, 0x1020_0000))).unwrap();
    assert_eq!((behind.tlb_addr, behind.first_slot), (Some(0x1020_0000), None));
    let last = decoder.record(bytes_of(&event(kind::SLOT_ALLOC, 0x101f_ffff))).unwrap();
    assert_eq!(last.first_slot, Some(1023));
    decoder.record(bytes_of(&event(kind::SLOT_FREE, 0x1020_0000))).unwrap();
    // A refusal lies nowhere.
    let refused = decoder.record(bytes_of(&event(kind::SLOT_ALLOC, u64::MAX))).unwrap();
    assert_eq!((refused.op, decoder.faults().other_pools), (Op::SlotFailed, 1));
    // Where the pool is not known nothing can be said.
    let mut blind = Decoder::new(0, Vec::new(), false);
    blind.record(bytes_of(&device(0)));
    blind.record(bytes_of(&event(kind::SLOT_ALLOC, 0x1020_0000))).unwrap();
    assert_eq!(blind.faults().other_pools, 0);
}

#[test]
fn pools_come_for_all_and_for_one_mapping() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    // A release of what was never seen taken is left out, also where a pool begins.
    decoder.only_own([]);
    decoder.record(bytes_of(&device(0)));
    let made = |device, target, slots: u64| wire::Event {
        device,
        size: slots * 2048,
        more: 1,
        has: has::TARGET,
        ..event(kind::POOL_ADDED, target)
    };
    let all = decoder.record(bytes_of(&made(0, 0x2000_0000, 512))).unwrap();
    assert_eq!((all.op, all.device, all.tlb_addr), (Op::PoolAdded, NO_DEVICE, Some(0x2000_0000)));
    assert_eq!((all.size, all.count, all.first_slot), (Some(1 << 20), Some(1), None));
    let one = decoder.record(bytes_of(&made(ADDRESS, 0x3000_0000, 10))).unwrap();
    assert_eq!((one.op, one.device), (Op::PoolAdded, 0));
    assert_eq!(decoder.record(bytes_of(&event(kind::SLOT_FREE, 0x2000_0000))), None);
    for (target, slot) in [(0x2000_0800, 1), (0x3000_1000, 2)] {
        let taken = decoder.record(bytes_of(&event(kind::SLOT_ALLOC, target))).unwrap();
        let given = decoder.record(bytes_of(&event(kind::SLOT_FREE, target))).unwrap();
        assert_eq!((taken.first_slot, given.first_slot), (Some(slot), Some(slot)));
    }
    assert_eq!(decoder.faults().other_pools, 0);
    // The one has gone with its mapping, the other stays.
    for (target, slot) in [(0x2000_0000, Some(0)), (0x3000_0000, None)] {
        assert_eq!(decoder.record(bytes_of(&event(kind::SLOT_ALLOC, target))).unwrap().first_slot, slot);
    }
    assert_eq!(decoder.faults().other_pools, 1);
    // One of a device that nobody knows cannot be told from one for all.
    assert_eq!(decoder.record(bytes_of(&made(ADDRESS + 8, 0x4000_0000, 10))), None);
    assert_eq!(decoder.faults().undecoded, 1);
}

#[test]
fn events_stand_in_the_order_of_the_ring_buffer_whatever_the_clocks_say() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.record(bytes_of(&device(0)));
    let at = |time_ns| wire::Event { time_ns, ..event(kind::UNMAP, 0x5000) };
    let times = [1_000, 900, 1_100].map(|ns| decoder.record(bytes_of(&at(ns))).unwrap().time_ns);
    assert_eq!(times, [1_000, 1_000, 1_100]);
    assert_eq!((decoder.faults().late, decoder.faults().latest_ns), (1, 100));
}

#[test]
fn the_elements_of_a_list_have_one_time() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.record(bytes_of(&device(0)));
    let element = |sg_index| wire::Event { sg_index, time_ns: 100, has: has::SG, ..event(kind::MAP, 0) };
    let other = wire::Event { cpu: 1, time_ns: 150, ..event(kind::UNMAP, 0x5000) };
    let later = wire::Event { time_ns: 170, ..other };
    let records = [other, element(0), element(1), other, later, element(2), other];
    let mut events = records.map(|r| decoder.record(bytes_of(&r)).unwrap());
    assert_eq!(events.each_ref().map(|e| e.time_ns), [150, 150, 150, 151, 170, 150, 170]);
    // The elements' clock is 50 ns behind; of the others only the last came late, by 20 ns.
    assert_eq!((decoder.faults().late, decoder.faults().latest_ns), (2, 50));
    // As a reader sees them.
    events.sort_by_key(|e| e.time_ns);
    assert_eq!(events.map(|e| e.sg_index), [None, Some(0), Some(1), Some(2), None, None, None]);
}

#[test]
fn a_list_whose_beginning_was_lost_stands_together_too() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.record(bytes_of(&device(0)));
    let element = |cpu, sg_index| wire::Event { cpu, sg_index, has: has::SG, ..event(kind::MAP, 0) };
    // Two CPUs' lists with one time stamp, one without its first element.
    let records = [element(0, 3), element(1, 0), element(0, 4), element(1, 1)];
    let times = records.map(|r| decoder.record(bytes_of(&r)).unwrap().time_ns);
    assert_eq!(times, [1_500, 1_501, 1_500, 1_501]);
}

#[test]
fn all_ones_is_a_refusal() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.record(bytes_of(&device(0)));
    let map = decoder.record(bytes_of(&event(kind::MAP, u64::MAX))).unwrap();
    assert_eq!((map.op, map.dma_addr, map.size), (Op::MapFailed, None, Some(0x400)));
    let slot = decoder.record(bytes_of(&event(kind::SLOT_ALLOC, u64::MAX))).unwrap();
    assert_eq!((slot.op, slot.tlb_addr, slot.first_slot), (Op::SlotFailed, None, None));
    let outside = decoder.record(bytes_of(&event(kind::SLOT_ALLOC, 0x9000_0000))).unwrap();
    assert_eq!((outside.tlb_addr, outside.first_slot), (Some(0x9000_0000), None));
}

#[test]
fn a_device_is_corrected_until_it_is_used_and_doubled_after() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.record(bytes_of(&device(0)));
    decoder.record(bytes_of(&event(kind::ALLOC, 0x5000)));
    decoder.record(bytes_of(&device(0xfff)));
    let devices = decoder.take_devices().unwrap();
    assert_eq!((devices.len(), devices[0].min_align_mask, devices[0].name.as_str()), (1, 0xfff, "nvme0"));
    decoder.record(bytes_of(&event(kind::MAP, 0x5000)));
    assert_eq!(decoder.take_devices(), None);
    decoder.record(bytes_of(&device(0x1fff)));
    let devices = decoder.take_devices().unwrap();
    assert_eq!((devices.len(), devices[0].min_align_mask, devices[1].min_align_mask), (2, 0xfff, 0x1fff));
    assert_eq!(decoder.record(bytes_of(&event(kind::MAP, 0x6000))).unwrap().device, 1);
    assert_eq!(decoder.faults().changed_devices, ["nvme0"]);
}

#[test]
fn what_ends_a_mapping_belongs_to_the_row_it_was_mapped_under() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.record(bytes_of(&device(0)));
    let mut row = |kind, target| decoder.record(bytes_of(&event(kind, target))).unwrap().device;
    assert_eq!([row(kind::SLOT_ALLOC, 0x1000_0000), row(kind::MAP, 0x5000), row(kind::MAP, 0x6000)], [0; 3]);
    decoder.record(bytes_of(&device(0xfff)));
    let mut row = |kind, target| decoder.record(bytes_of(&event(kind, target))).unwrap().device;
    assert_eq!([row(kind::SLOT_ALLOC, 0x1000_0800), row(kind::MAP, 0x7000)], [1; 2]);
    assert_eq!([row(kind::SYNC_FOR_CPU, 0x5100), row(kind::UNMAP, 0x5000)], [0; 2]);
    assert_eq!([row(kind::SLOT_FREE, 0x1000_0000), row(kind::SLOT_FREE, 0x1000_0800)], [0, 1]);
    // The address again, now of a mapping made since.
    assert_eq!([row(kind::MAP, 0x5000), row(kind::UNMAP, 0x5000)], [1; 2]);
    decoder.record(bytes_of(&device(0x1fff)));
    let mut row = |kind, target| decoder.record(bytes_of(&event(kind, target))).unwrap().device;
    assert_eq!([row(kind::MAP, 0x8000), row(kind::SYNC_FOR_CPU, 0x8300)], [2; 2]);
    assert_eq!([row(kind::SYNC_FOR_CPU, 0x7300), row(kind::UNMAP, 0x7000), row(kind::UNMAP, 0x6000)], [1, 1, 0]);
}

#[test]
fn what_cannot_be_understood_is_counted() {
    let mut decoder = Decoder::new(0, Vec::new(), false);
    assert_eq!(decoder.record(&[]), None);
    assert_eq!(decoder.record(&[kind::DEVICE, 0, 0]), None);
    assert_eq!(decoder.record(bytes_of(&event(200, 0))), None);
    // A device nobody introduced.
    assert_eq!(decoder.record(bytes_of(&event(kind::MAP, 0))), None);
    assert_eq!(decoder.faults().undecoded, 4);
}

#[test]
fn a_gap_says_who_lost_how_many_between_when() {
    let mut decoder = Decoder::new(1_000, Vec::new(), false);
    let lost = wire::Event { orig_addr: 1_200, size: 17, ..event(kind::LOST, 0) };
    let lost = decoder.record(bytes_of(&lost)).unwrap();
    assert_eq!((lost.op, lost.cpu, lost.device), (Op::Lost, 3, NO_DEVICE));
    assert_eq!((lost.count, lost.since_ns, lost.time_ns), (Some(17), Some(200), 500));
}

#[test]
fn latencies_and_stacks_are_there_when_they_are_known() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.record(bytes_of(&device(0)));
    let plain = event(kind::SLOT_ALLOC, 0x1000_0000);
    let bare = decoder.record(bytes_of(&plain)).unwrap();
    assert_eq!((bare.latency_ns, bare.stack), (None, None));
    let both = plain.has | has::LATENCY | has::STACK;
    let full = wire::Event { has: both, latency_ns: 750, stack: 9, ..plain };
    let full = decoder.record(bytes_of(&full)).unwrap();
    assert_eq!((full.latency_ns, full.stack), (Some(750), Some(9)));
    assert_eq!(plain.took(plain.time_ns, 500).latency_ns, 1_000);
    assert_eq!(plain.took(5_000_000_000, 500).latency_ns, u32::MAX);
}

#[test]
fn a_thread_is_no_event() {
    let mut decoder = Decoder::new(1_000, Vec::new(), false);
    let mut task = wire::Task { kind: wire::marked(kind::TASK), time_ns: 1_700, tid: 42, pid: 40, comm: [0; 16] };
    task.comm[..3].copy_from_slice(b"fio");
    assert_eq!(decoder.record(bytes_of(&task)), None);
    let row = trace::Task { tid: 42, since_ns: 700, pid: 40, comm: "fio".to_owned() };
    assert_eq!((decoder.take_tasks(), decoder.faults().undecoded), (Some(vec![row]), 0));
}

#[test]
fn behind_a_filter_only_what_was_seen_taken_is_seen_given_back() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.only_own([0x1000_4000]);
    decoder.record(bytes_of(&device(0)));
    let mut op = |kind, target| decoder.record(bytes_of(&event(kind, target))).map(|e| e.op);
    assert_eq!(op(kind::SLOT_ALLOC, 0x1000_0000), Some(Op::SlotAlloc));
    assert_eq!(op(kind::SLOT_FREE, 0x1000_0000), Some(Op::SlotFree));
    assert_eq!(op(kind::SLOT_FREE, 0x1000_0000), None);
    // Held since before the recording.
    assert_eq!(op(kind::SLOT_FREE, 0x1000_4000), Some(Op::SlotFree));
    assert_eq!(decoder.by_cpu().collect::<Vec<_>>()[3], Told { stored: 3, filtered: 1, outside: 0 });
    assert_eq!(decoder.faults().undecoded, 0);
}

#[test]
fn what_comes_late_on_its_own_cpu_says_before_what_it_belongs() {
    let mut decoder = Decoder::new(0, vec![pool()], false);
    decoder.record(bytes_of(&device(0)));
    let at = |time_ns, cpu, kind| wire::Event { time_ns, cpu, ..event(kind, 0x1000_0000) };
    // A task took slots at 150 and was preempted; another CPU's clock is ahead.
    let records = [(100, 0), (900, 1), (200, 0), (300, 0), (150, 0)].map(|(ns, cpu)| at(ns, cpu, kind::SLOT_ALLOC));
    let events = records.map(|record| decoder.record(bytes_of(&record)).unwrap());
    assert_eq!(events.each_ref().map(|e| e.time_ns), [100, 900, 900, 900, 900]);
    assert_eq!(events.map(|e| e.since_ns), [None, None, None, None, Some(900)]);
    // A release is told before it is done: it has not happened any earlier.
    assert_eq!(decoder.record(bytes_of(&at(120, 0, kind::SLOT_FREE))).unwrap().since_ns, None);
    // What is much older belongs before the oldest that is remembered.
    for ns in 0..2 * STAMPS as u64 {
        decoder.record(bytes_of(&at(1_000 + ns, 0, kind::MAP)));
    }
    let old = decoder.record(bytes_of(&at(950, 0, kind::MAP))).unwrap();
    assert_eq!(old.since_ns, Some(1_000 + STAMPS as u64));
}

#[test]
fn devices_that_came_when_the_places_for_sums_were_taken_are_told() {
    let numbered = |at: u64, number: u64| wire::Device { device: ADDRESS + at, number, ..device(0) };
    let mut decoder = Decoder::new(0, vec![pool()], false);
    // Where there are no sums nobody has a number.
    decoder.record(bytes_of(&numbered(0, wire::NO_NUMBER)));
    assert!(decoder.faults().without_sums.is_empty());
    decoder.record(bytes_of(&numbered(0x1000, 0)));
    let mut late = numbered(0x2000, wire::NO_NUMBER);
    decoder.record(bytes_of(&late));
    // Told again, with other limits: still one device.
    late.limits.min_align_mask = 0xfff;
    decoder.record(bytes_of(&late));
    let told: Vec<_> = decoder.faults().without_sums.clone().into_iter().collect();
    assert_eq!(told, [(ADDRESS + 0x2000, "nvme0".to_owned())]);
}

#[test]
fn a_device_known_by_its_name_and_by_its_address_is_one() {
    let mut named = device(0);
    (named.device, named.limits) = (0x1235, Limits { name: 0x1235, dma_mask: u64::MAX, ..Limits::zeroed() });
    let bounce = wire::Event { device: 0x1235, ..event(kind::BOUNCE, 0x4000_1a00) };
    // Whichever comes first.
    for by_name_first in [true, false] {
        let mut decoder = Decoder::new(0, vec![pool()], false);
        let order = if by_name_first { [&named, &device(0xfff)] } else { [&device(0xfff), &named] };
        for record in order {
            decoder.record(bytes_of(record));
        }
        let rows = decoder.take_devices().unwrap();
        assert_eq!((rows.len(), rows[0].name.as_str(), rows[0].min_align_mask), (1, "nvme0", 0xfff));
        let bounced = decoder.record(bytes_of(&bounce)).unwrap();
        let mapped = decoder.record(bytes_of(&event(kind::MAP, 0x4000_1a00))).unwrap();
        assert_eq!((bounced.op, bounced.device, mapped.device), (Op::Bounce, 0, 0));
    }
}

#[test]
fn losses_from_before_the_beginning_are_none_of_the_recording() {
    let mut decoder = Decoder::new(1_000, Vec::new(), false);
    decoder.leave_out_losses([0, 0, 0, 20]);
    let lost = |size| wire::Event { orig_addr: 1_200, size, ..event(kind::LOST, 0) };
    assert_eq!(decoder.record(bytes_of(&lost(17))), None);
    let counts = [5, 4].map(|size| decoder.record(bytes_of(&lost(size))).unwrap().count);
    assert_eq!(counts, [Some(2), Some(4)]);
    assert_eq!(decoder.faults().undecoded, 0);
}

#[test]
fn every_place_for_sums_of_a_device_is_known() {
    let numbered = |number, device: wire::Device| wire::Device { number, ..device };
    let mut named = device(0);
    (named.device, named.limits) = (0x1235, Limits { name: 0x1235, ..Limits::zeroed() });
    for by_name_first in [true, false] {
        let mut decoder = Decoder::new(0, Vec::new(), false);
        // The last: another CPU met it at the same time.
        let (first, second) = if by_name_first { (named, device(0)) } else { (device(0), named) };
        for record in [numbered(0, first), numbered(1, second), numbered(2, second)] {
            decoder.record(bytes_of(&record));
        }
        assert_eq!(decoder.numbered().collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0)]);
    }
}

#[test]
fn a_device_that_came_in_the_place_of_another_has_a_row_of_its_own() {
    let mut named = device(0);
    (named.device, named.limits) = (0x1235, Limits { name: 0x1235, ..Limits::zeroed() });
    let later = wire::Device { device: ADDRESS + 0x1000, ..device(0xfff) };
    let mut decoder = Decoder::new(0, Vec::new(), false);
    for record in [device(0), named, later] {
        decoder.record(bytes_of(&record));
    }
    let rows = decoder.take_devices().unwrap();
    assert_eq!(rows.iter().map(|row| row.min_align_mask).collect::<Vec<_>>(), [0, 0xfff]);
}
