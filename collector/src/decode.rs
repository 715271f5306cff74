//! Turns the probe's records into a trace's events and devices.

use std::collections::{BTreeMap, HashMap};

use bytemuck::Pod;
use probe::wire::{self, Limits, has, kind};
use trace::event::NO_DEVICE;
use trace::pool::{Pool, SLOT_BYTES};
use trace::{Device, Direction, Event, Op};

/// What the decoder could not do well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Records that could not be understood.
    pub undecoded: u64,
    /// Elements of scatterlists that the probe did not walk.
    pub sg_truncated: u64,
    /// Devices whose limits changed while they had mappings; they have a second row.
    pub changed_devices: Vec<String>,
    /// Records older by their time stamp than one before them in the ring buffer.
    pub late: u64,
    /// By how many nanoseconds at most.
    pub latest_ns: u64,
}

/// A device as the kernel addresses it.
#[derive(Debug)]
struct Known {
    id: u32,
    limits: Limits,
    /// An event other than a coherent allocation belongs to its row.
    used: bool,
    /// Its first row, when it has several: what was mapped before the first change is not in `since`.
    first: Option<u32>,
    /// What was mapped, or given slots (true), since the first change and still is: by address, its size and row.
    since: BTreeMap<(bool, u64), (u64, u32)>,
}

impl Known {
    /// The row an event belongs to: what ends or syncs a mapping has the mapping's, so that the two can be tied.
    fn row(&mut self, op: Op, target: Option<u64>, size: u64) -> u32 {
        let (Some(first), Some(target)) = (self.first, target) else { return self.id };
        let key = (matches!(op, Op::SlotAlloc | Op::SlotFree), target);
        match op {
            Op::Map | Op::Alloc | Op::SlotAlloc => {
                self.since.insert(key, (size, self.id));
                self.id
            }
            Op::Unmap | Op::Free | Op::SlotFree => self.since.remove(&key).map_or(first, |(_, id)| id),
            Op::SyncForCpu | Op::SyncForDevice => {
                // A sync may be of a part.
                let below = self.since.range(..=key).next_back();
                below.filter(|((_, start), (size, _))| target - start < *size).map_or(first, |(_, (_, id))| *id)
            }
            _ => self.id,
        }
    }
}

/// Decodes records in the order of the ring buffer.
#[derive(Debug)]
pub struct Decoder {
    /// CLOCK_MONOTONIC of the recording's start.
    base_ns: u64,
    pools: Vec<Pool>,
    /// Allocations may begin with padding slots (kernels with `pad_slots`).
    pads: bool,
    devices: Vec<Device>,
    by_address: HashMap<u64, Known>,
    /// Padding before live allocations that have any, by bounce address.
    padded: HashMap<u64, u32>,
    changed: bool,
    faults: Faults,
    /// The latest time stamp.
    latest_ns: u64,
    /// The earliest time the next event can have, but for a further element of a list.
    next_ns: u64,
    /// By CPU, the last scatterlists begun, an interrupted one included: their time stamp, and their time in the trace.
    lists: HashMap<u16, [(u64, u64); 4]>,
}

impl Decoder {
    /// A decoder for a recording that began at `base_ns` on a machine with these pools.
    #[must_use]
    pub fn new(base_ns: u64, pools: Vec<Pool>, pads: bool) -> Self {
        Self {
            base_ns,
            pools,
            pads,
            devices: Vec::new(),
            by_address: HashMap::new(),
            padded: HashMap::new(),
            changed: false,
            faults: Faults::default(),
            latest_ns: 0,
            next_ns: 0,
            lists: HashMap::new(),
        }
    }

    /// Notes the padding of an allocation that was there before the recording.
    pub fn padded(&mut self, slot: u32, pads: u32, orig_addr: u64) {
        if pads > 0
            && let Some(pool) = self.pools.first()
        {
            self.padded.insert(pool.start + u64::from(slot) * SLOT_BYTES + orig_addr % SLOT_BYTES, pads);
        }
    }

    /// The devices seen, when they have changed since the last call.
    pub fn take_devices(&mut self) -> Option<Vec<Device>> {
        std::mem::take(&mut self.changed).then(|| self.devices.clone())
    }

    /// What went wrong so far.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Decodes one record; `None` for devices and for what cannot be understood (which is counted).
    pub fn record(&mut self, bytes: &[u8]) -> Option<Event> {
        let event = match bytes.first() {
            Some(&kind::DEVICE) => {
                match view::<wire::Device>(bytes) {
                    Some(device) => self.device(&device),
                    None => self.faults.undecoded += 1,
                }
                return None;
            }
            _ => view::<wire::Event>(bytes).and_then(|event| self.event(&event)),
        };
        self.faults.undecoded += u64::from(event.is_none());
        event
    }

    /// Registers a device. When its limits changed before it had any streaming mapping its row is corrected, otherwise
    /// it gets a second row, to which its later mappings belong.
    fn device(&mut self, record: &wire::Device) {
        if self.by_address.get(&record.device).is_some_and(|k| k.limits == record.limits) {
            return;
        }
        // Another name is another device in the place of one that is gone.
        let known = self.by_address.remove(&record.device).filter(|k| k.limits.name == record.limits.name);
        let limits = record.limits;
        let correct = known.as_ref().filter(|k| !k.used).map(|k| k.id);
        let id = correct.unwrap_or(u32::try_from(self.devices.len()).unwrap_or(NO_DEVICE));
        let driver = text(&record.driver);
        let device = Device {
            id,
            name: text(&record.name),
            driver: (!driver.is_empty()).then_some(driver),
            dma_mask: (limits.dma_mask != 0).then_some(limits.dma_mask),
            coherent_dma_mask: limits.coherent_dma_mask,
            bus_dma_limit: limits.bus_dma_limit,
            seg_boundary_mask: (limits.seg_boundary_mask != 0).then_some(limits.seg_boundary_mask),
            max_segment_size: (limits.max_segment_size != 0).then_some(limits.max_segment_size),
            min_align_mask: u64::from(limits.min_align_mask),
            untrusted: None,
        };
        if known.is_some() && correct.is_none() {
            self.faults.changed_devices.push(device.name.clone());
        }
        match self.devices.get_mut(id as usize) {
            Some(row) => *row = device,
            None => self.devices.push(device),
        }
        let (first, since) = match known {
            Some(k) if k.id != id => (k.first.or(Some(k.id)), k.since),
            Some(k) => (k.first, k.since),
            None => (None, BTreeMap::new()),
        };
        self.by_address.insert(record.device, Known { id, limits, used: false, first, since });
        self.changed = true;
    }

    /// An event's time. All elements of a scatterlist have that of the first, and whatever other CPUs, or interrupts,
    /// wrote after it has a later one: sorted by time the elements stand together.
    fn time(&mut self, wire: &wire::Event) -> u64 {
        let element = wire.has & has::SG != 0;
        if element
            && wire.sg_index > 0
            && let Some(lists) = self.lists.get(&wire.cpu)
            && let Some(&(_, time)) = lists.iter().find(|(began, _)| *began == wire.time_ns)
        {
            return time;
        }
        let time = self.in_order(wire.time_ns.saturating_sub(self.base_ns));
        // Not only the element 0: that one can be lost.
        if element {
            self.next_ns = time.saturating_add(1);
            let lists = self.lists.entry(wire.cpu).or_default();
            lists.rotate_right(1);
            lists[0] = (wire.time_ns, time);
        }
        time
    }

    /// A time for what was stamped `stamp`, never before that of the event ahead of it in the ring buffer.
    ///
    /// The one ring buffer orders the events of all CPUs; their clocks do not: those of a PV guest's CPUs can be
    /// milliseconds apart (docs/lab/2026-11-22-slot-choices.md), and a trace sorted by them shows slots given out before they were
    /// given back.
    fn in_order(&mut self, stamp: u64) -> u64 {
        let behind = self.latest_ns.saturating_sub(stamp);
        self.faults.late += u64::from(behind > 0);
        self.faults.latest_ns = self.faults.latest_ns.max(behind);
        self.latest_ns = self.latest_ns.max(stamp);
        self.next_ns = self.next_ns.max(stamp);
        self.next_ns
    }

    fn event(&mut self, wire: &wire::Event) -> Option<Event> {
        self.faults.sg_truncated += u64::from(wire.sg_excess);
        let time = self.time(wire);
        let (cpu, tid) = (u32::from(wire.cpu), wire.tid);
        if wire.kind == kind::LOST {
            return Some(Event {
                count: Some(wire.size),
                since_ns: Some(wire.orig_addr.saturating_sub(self.base_ns)),
                ..Event::new(Op::Lost, time, cpu, 0, NO_DEVICE)
            });
        }
        let failed = wire.has & has::TARGET != 0 && wire.target == u64::MAX;
        let op = match (wire.kind, failed) {
            (kind::MAP, false) => Op::Map,
            (kind::MAP, true) | (kind::MAP_FAILED, _) => Op::MapFailed,
            (kind::UNMAP, _) => Op::Unmap,
            (kind::SYNC_FOR_CPU, _) => Op::SyncForCpu,
            (kind::SYNC_FOR_DEVICE, _) => Op::SyncForDevice,
            (kind::ALLOC, _) => Op::Alloc,
            (kind::FREE, _) => Op::Free,
            (kind::SLOT_ALLOC, false) => Op::SlotAlloc,
            (kind::SLOT_ALLOC, true) => Op::SlotFailed,
            (kind::SLOT_FREE, _) => Op::SlotFree,
            (kind::BOUNCE, _) => Op::Bounce,
            _ => return None,
        };
        let device = self.by_address.get_mut(&wire.device)?;
        let target = (wire.has & has::TARGET != 0 && !failed).then_some(wire.target);
        let id = device.row(op, target, wire.size);
        device.used |= id == device.id && !matches!(op, Op::Alloc | Op::Free);
        let min_align = u64::from(device.limits.min_align_mask);

        let mut event = Event {
            orig_addr: (wire.has & has::ORIG != 0).then_some(wire.orig_addr),
            sg_index: (wire.has & has::SG != 0).then_some(u32::from(wire.sg_index)),
            ..Event::new(op, time, cpu, tid, id)
        };
        match op {
            Op::SlotAlloc | Op::SlotFailed => {
                event.tlb_addr = target;
                event.align_mask = Some(u64::from(wire.align_mask));
                let pad = if self.pads {
                    let mask = u64::from(wire.align_mask) | (SLOT_BYTES - 1);
                    // A request of one page at most fits u32: masks of devices are 32-bit.
                    u32::try_from((wire.orig_addr & min_align & mask) / SLOT_BYTES).unwrap_or(0)
                } else {
                    0
                };
                event.first_slot = target.and_then(|tlb| self.slot(tlb)).map(|slot| slot.saturating_sub(pad));
                if let Some(tlb) = target.filter(|_| pad > 0) {
                    self.padded.insert(tlb, pad);
                }
            }
            Op::SlotFree => {
                event.tlb_addr = target;
                let pad = self.padded.remove(&wire.target).unwrap_or(0);
                event.first_slot = self.slot(wire.target).map(|slot| slot.saturating_sub(pad));
                return Some(event);
            }
            _ => event.dma_addr = target,
        }
        event.size = Some(wire.size);
        if op != Op::Bounce {
            event.direction = Direction::from_kernel(wire.direction);
            event.attrs = Some(u64::from(wire.attrs));
        }
        if matches!(op, Op::SyncForCpu | Op::SyncForDevice) {
            // Syncs have no attributes.
            event.attrs = None;
        }
        Some(event)
    }

    /// The slot a bounce address lies in; `None` outside the pools known (those that were added later).
    fn slot(&self, tlb_addr: u64) -> Option<u32> {
        let inside =
            |pool: &&Pool| tlb_addr.checked_sub(pool.start).is_some_and(|offset| offset / SLOT_BYTES < pool.nslabs);
        let pool = self.pools.iter().find(inside)?;
        u32::try_from((tlb_addr - pool.start) / SLOT_BYTES).ok()
    }
}

/// A record's bytes as what they are; `None` when the size is wrong.
fn view<T: Pod>(bytes: &[u8]) -> Option<T> {
    bytemuck::try_pod_read_unaligned(bytes).ok()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::{Zeroable, bytes_of};

    const ADDRESS: u64 = 0xffff_8880_0000_1000;

    fn pool() -> Pool {
        Pool { start: 0x1000_0000, nslabs: 1024, nareas: 1, force_bounce: true, can_grow: false, areas: Vec::new() }
    }

    fn device(min_align_mask: u32) -> wire::Device {
        let mut record = wire::Device::zeroed();
        record.kind = u64::from(kind::DEVICE);
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
            sg_excess: 0,
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
}
