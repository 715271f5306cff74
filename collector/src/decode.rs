//! Turns the probe's records into a trace's events and devices.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytemuck::Pod;
use probe::wire::{self, has, kind};
use trace::event::NO_DEVICE;
use trace::pool::Pool;
use trace::{Device, Direction, Event, Op, SnapshotSlot, Task};

mod known;
mod slots;

use known::Known;
use slots::Slots;

use crate::device::Devices;
use crate::tasks::Tasks;

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
    /// Threads whose names were given up for later ones.
    pub tasks_forgotten: u64,
    /// Allocations outside the pools the recording began with.
    pub other_pools: u64,
    /// Looks at the pool that came to nothing.
    pub unlooked: u64,
    /// Devices that came when all places for sums were taken: by address, their names.
    pub without_sums: BTreeMap<u64, String>,
}

/// What became of one CPU's records on this side of the ring buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Events.
    pub stored: u64,
    /// Releases of what a filter had left out.
    pub filtered: u64,
    /// Events from before everything was attached or after something was detached, which are no part of the recording.
    pub outside: u64,
}

/// When and where an event was stamped; nothing for a record that is none, or tells of a loss.
pub(crate) fn stamp(bytes: &[u8]) -> Option<wire::Event> {
    match bytes.first() {
        Some(&(kind::DEVICE | kind::TASK | kind::LOST)) => None,
        _ => view::<wire::Event>(bytes),
    }
}

/// Decodes records in the order of the ring buffer.
#[derive(Debug)]
pub struct Decoder {
    /// CLOCK_MONOTONIC of the recording's start.
    base_ns: u64,
    slots: Slots,
    devices: Vec<Device>,
    /// Reads what records do not say of devices.
    state: Option<Devices>,
    by_address: HashMap<u64, Known>,
    /// Keys of the devices that have sums, by their number there.
    numbered: BTreeMap<u32, u32>,
    tasks: Tasks,
    told: Vec<Told>,
    /// Records lost before the beginning that the kernel has not told of yet, by CPU.
    lost_before: Vec<u64>,
    /// Bounce addresses given out and not back, when a filter leaves out some: a release does not say whose it is.
    own: Option<HashSet<u64>>,
    changed: bool,
    faults: Faults,
    /// The latest time stamp.
    latest_ns: u64,
    /// The earliest time the next event can have, but for a further element of a list.
    next_ns: u64,
    /// By CPU, the last scatterlists begun, an interrupted one included: their time stamp, and their time in the trace.
    lists: HashMap<u16, [(u64, u64); 4]>,
    /// By CPU, the last events that did not come late: their time stamps, in order, and their times in the trace.
    stamps: Vec<VecDeque<(u64, u64)>>,
}

/// Events of a CPU that one that comes late can be told to belong before: at 100,000 a second those of 80 ms.
const STAMPS: usize = 8192;

impl Decoder {
    /// A decoder for a recording that began at `base_ns` on a machine with these pools.
    #[must_use]
    pub fn new(base_ns: u64, pools: Vec<Pool>, pads: bool) -> Self {
        Self {
            base_ns,
            slots: Slots::new(pools, pads),
            devices: Vec::new(),
            state: None,
            by_address: HashMap::new(),
            numbered: BTreeMap::new(),
            tasks: Tasks::default(),
            told: Vec::new(),
            lost_before: Vec::new(),
            own: None,
            changed: false,
            faults: Faults::default(),
            latest_ns: 0,
            next_ns: 0,
            lists: HashMap::new(),
            stamps: Vec::new(),
        }
    }

    /// Notes the padding of an allocation that was there before the recording.
    pub fn padded(&mut self, slot: &SnapshotSlot) {
        self.slots.held(slot);
    }

    /// Looks into the kernel's memory for what records do not say of devices.
    pub fn look_with(&mut self, state: Devices) {
        self.state = Some(state);
    }

    /// Leaves out releases of what was not seen taken, but for addresses `held` since before the recording.
    pub fn only_own(&mut self, held: impl IntoIterator<Item = u64>) {
        self.own = Some(held.into_iter().collect());
    }

    /// Takes note of how many looks at the pool came to nothing.
    pub(crate) fn unlooked(&mut self, looks: u64) {
        self.faults.unlooked = looks;
    }

    /// The threads seen, when there are more since the last call.
    pub fn take_tasks(&mut self) -> Option<Vec<Task>> {
        self.tasks.take()
    }

    /// What became of each CPU's records, from CPU 0.
    pub fn by_cpu(&self) -> impl Iterator<Item = Told> {
        self.told.iter().copied()
    }

    /// The devices that have sums: their number there, and their key.
    pub fn numbered(&self) -> impl Iterator<Item = (u32, u32)> {
        self.numbered.iter().map(|(&number, &id)| (number, id))
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

    /// Counts events of a CPU that are no part of the recording.
    pub fn leave_out(&mut self, cpu: usize, events: u64) {
        self.told(cpu).outside += events;
    }

    /// Leaves out so many of each CPU's lost records, the first: those from before everything was attached.
    pub fn leave_out_losses(&mut self, lost: impl IntoIterator<Item = u64>) {
        self.lost_before = lost.into_iter().collect();
    }

    fn told(&mut self, cpu: usize) -> &mut Told {
        if self.told.len() <= cpu {
            self.told.resize(cpu + 1, Told::default());
        }
        &mut self.told[cpu]
    }

    /// Decodes one record; `None` for devices and for what cannot be understood (which is counted).
    pub fn record(&mut self, bytes: &[u8]) -> Option<Event> {
        let mut wire = match bytes.first() {
            Some(&kind::DEVICE) => {
                match view::<wire::Device>(bytes) {
                    Some(device) => self.device(&device),
                    None => self.faults.undecoded += 1,
                }
                return None;
            }
            Some(&kind::TASK) => {
                match view::<wire::Task>(bytes) {
                    Some(task) => self.task(&task),
                    None => self.faults.undecoded += 1,
                }
                return None;
            }
            _ => view::<wire::Event>(bytes),
        };
        if let Some(lost) = wire.as_mut().filter(|wire| wire.kind == kind::LOST)
            && !self.lost_since(lost)
        {
            return None;
        }
        let Some((wire, event)) = wire.and_then(|wire| Some((wire, self.event(&wire)?))) else {
            self.faults.undecoded += 1;
            return None;
        };
        let foreign = self.foreign(&event);
        let told = self.told(usize::from(wire.cpu));
        if foreign {
            told.filtered += 1;
            return None;
        }
        told.stored += u64::from(event.op != Op::Lost);
        Some(event)
    }

    /// Whether some of the records that this one tells of were lost after the beginning; only those it tells of then.
    fn lost_since(&mut self, lost: &mut wire::Event) -> bool {
        if let Some(before) = self.lost_before.get_mut(usize::from(lost.cpu)) {
            let out = lost.size.min(*before);
            *before -= out;
            lost.size -= out;
        }
        lost.size > 0
    }

    /// Whether this is the release of what a filter left out.
    fn foreign(&mut self, event: &Event) -> bool {
        let (Some(own), Some(tlb)) = (&mut self.own, event.tlb_addr) else { return false };
        match event.op {
            Op::SlotFree => !own.remove(&tlb),
            Op::PoolAdded => false,
            _ => {
                own.insert(tlb);
                false
            }
        }
    }

    fn task(&mut self, record: &wire::Task) {
        let since_ns = record.time_ns.saturating_sub(self.base_ns);
        self.tasks.add(Task { tid: record.tid, since_ns, pid: record.pid, comm: text(&record.comm) });
        self.faults.tasks_forgotten = self.tasks.forgotten();
    }

    /// Registers a device. When its limits changed before it had any streaming mapping its row is corrected, otherwise
    /// it gets a second row, to which its later mappings belong.
    fn device(&mut self, record: &wire::Device) {
        if let Some(same) = self.by_address.get(&record.device).filter(|k| k.limits == record.limits) {
            // Two CPUs may have met it at once, and given it two places for sums.
            self.number(record, same.id);
            return;
        }
        // Another name is another device in the place of one that is gone.
        let known = self.by_address.remove(&record.device).filter(|k| k.limits.name == record.limits.name);
        let limits = record.limits;
        let by_name = record.device & wire::BY_NAME != 0;
        // What another tracepoint knows by its address, or by its name only.
        let name = text(&record.name);
        let of_name = |id: &u32| self.devices.get(*id as usize).is_some_and(|row| row.name == name);
        let rows = |named: bool| {
            let all = self.by_address.iter().filter(move |(address, _)| (**address & wire::BY_NAME != 0) == named);
            all.map(|(_, k)| k.id).filter(of_name)
        };
        // A row that has an address already is another device's, which is gone.
        let twin =
            if by_name { rows(false).max() } else { rows(true).find(|id| !rows(false).any(|other| other == *id)) };
        if let (true, Some(id)) = (by_name, twin) {
            self.number(record, id);
            let known = Known { id, limits, used: true, first: None, since: BTreeMap::new() };
            self.by_address.insert(record.device, known);
            return;
        }
        let correct = known.as_ref().map_or(twin, |k| (!k.used).then_some(k.id));
        let id = correct.unwrap_or(u32::try_from(self.devices.len()).unwrap_or(NO_DEVICE));
        let driver = text(&record.driver);
        let mut device = Device {
            id,
            name,
            driver: (!driver.is_empty()).then_some(driver),
            dma_mask: (limits.dma_mask != 0).then_some(limits.dma_mask),
            coherent_dma_mask: limits.coherent_dma_mask,
            bus_dma_limit: limits.bus_dma_limit,
            seg_boundary_mask: (limits.seg_boundary_mask != 0).then_some(limits.seg_boundary_mask),
            max_segment_size: (limits.max_segment_size != 0).then_some(limits.max_segment_size),
            min_align_mask: u64::from(limits.min_align_mask),
            ..Device::new(0, "")
        };
        if let Some(state) = self.state.as_ref().filter(|_| !by_name) {
            state.look(record.device, &mut device);
        }
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
        self.number(record, id);
        self.by_address.insert(record.device, Known { id, limits, used: false, first, since });
        self.changed = true;
    }

    /// Notes under which number a device has sums, or that it has none.
    fn number(&mut self, record: &wire::Device, id: u32) {
        if record.number < wire::NO_NUMBER {
            self.numbered.insert(record.number as u32, id);
        } else if !self.numbered.is_empty() {
            // Where nobody has a number there are no sums.
            self.faults.without_sums.insert(record.device, text(&record.name));
        }
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

    /// Of an event that stands behind later ones of its own CPU, where clocks do not differ: the time of the first of them. An
    /// interrupt or another task came between its time stamp and its place in the ring buffer.
    fn since(&mut self, wire: &wire::Event, time: u64) -> Option<u64> {
        let cpu = usize::from(wire.cpu);
        if self.stamps.len() <= cpu {
            self.stamps.resize(cpu + 1, VecDeque::new());
        }
        let stamps = &mut self.stamps[cpu];
        if stamps.back().is_none_or(|(last, _)| *last <= wire.time_ns) {
            if stamps.len() == STAMPS {
                stamps.pop_front();
            }
            stamps.push_back((wire.time_ns, time));
            return None;
        }
        let first = stamps.partition_point(|(stamp, _)| *stamp <= wire.time_ns);
        // These are told before they are done.
        let ahead = matches!(wire.kind, kind::SLOT_FREE | kind::BOUNCE);
        stamps.get(first).filter(|_| !ahead).map(|(_, time)| *time)
    }

    fn event(&mut self, wire: &wire::Event) -> Option<Event> {
        if wire.has & has::SG != 0 {
            self.faults.sg_truncated += u64::from(wire.more);
        }
        let time = self.time(wire);
        let (cpu, tid) = (u32::from(wire.cpu), wire.tid);
        if wire.kind == kind::LOST {
            return Some(Event {
                count: Some(wire.size),
                since_ns: Some(wire.orig_addr.saturating_sub(self.base_ns)),
                ..Event::new(Op::Lost, time, cpu, 0, NO_DEVICE)
            });
        }
        let since_ns = self.since(wire, time);
        if wire.kind == kind::POOL_ADDED {
            return Some(Event { since_ns, ..self.pool_added(wire, time)? });
        }
        let failed = wire.has & has::TARGET != 0 && wire.target == u64::MAX;
        let op = op(wire.kind, failed)?;
        let device = self.by_address.get_mut(&wire.device)?;
        let target = (wire.has & has::TARGET != 0 && !failed).then_some(wire.target);
        let id = device.row(op, target, wire.size);
        device.used |= id == device.id && !matches!(op, Op::Alloc | Op::AllocFailed | Op::Free);
        let min_align = u64::from(device.limits.min_align_mask);

        let mut event = Event {
            orig_addr: (wire.has & has::ORIG != 0).then_some(wire.orig_addr),
            sg_index: (wire.has & has::SG != 0).then_some(u32::from(wire.sg_index)),
            latency_ns: (wire.has & has::LATENCY != 0).then_some(u64::from(wire.latency_ns)),
            stack: (wire.has & has::STACK != 0).then_some(wire.stack),
            since_ns,
            ..Event::new(op, time, cpu, tid, id)
        };
        match op {
            Op::SlotAlloc | Op::SlotFailed => {
                // What the kernel counts is the default pool's.
                let own = self.devices.get(id as usize).is_some_and(|device| device.own_pool().is_some());
                event.used = (wire.has & has::USED != 0 && !own).then_some(u64::from(wire.more));
                event.tlb_addr = target;
                event.align_mask = Some(u64::from(wire.align_mask));
                if let Some(tlb) = target {
                    event.first_slot = self.slots.took(tlb, wire, min_align);
                    self.faults.other_pools += u64::from(event.first_slot.is_none() && self.slots.are_known());
                }
            }
            Op::SlotFree => {
                event.tlb_addr = target;
                event.first_slot = self.slots.gave(wire.target);
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

    /// A pool that the kernel has made: for all, or for one mapping of a device, which has been introduced.
    fn pool_added(&mut self, wire: &wire::Event, time: u64) -> Option<Event> {
        let owner = match wire.device {
            0 => NO_DEVICE,
            device => self.by_address.get(&device)?.id,
        };
        let event = Event {
            tlb_addr: Some(wire.target),
            size: Some(wire.size),
            count: Some(u64::from(wire.more)),
            ..Event::new(Op::PoolAdded, time, u32::from(wire.cpu), wire.tid, owner)
        };
        self.slots.added(&event);
        Some(event)
    }
}

/// What a record of this kind tells; `failed`: of a refusal.
pub(crate) fn op(kind: u8, failed: bool) -> Option<Op> {
    Some(match (kind, failed) {
        (kind::MAP, false) => Op::Map,
        (kind::MAP, true) | (kind::MAP_FAILED, _) => Op::MapFailed,
        (kind::UNMAP, _) => Op::Unmap,
        (kind::SYNC_FOR_CPU, _) => Op::SyncForCpu,
        (kind::SYNC_FOR_DEVICE, _) => Op::SyncForDevice,
        (kind::ALLOC, false) => Op::Alloc,
        (kind::ALLOC, true) => Op::AllocFailed,
        (kind::FREE, _) => Op::Free,
        (kind::SLOT_ALLOC, false) => Op::SlotAlloc,
        (kind::SLOT_ALLOC, true) => Op::SlotFailed,
        (kind::SLOT_FREE, _) => Op::SlotFree,
        (kind::BOUNCE, _) => Op::Bounce,
        _ => return None,
    })
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
mod tests;
