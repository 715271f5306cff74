//! Ties each unmap and sync of a trace to its map.

use std::collections::{BTreeMap, HashMap, HashSet};

use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};
use trace::{Device, Direction, Event, Op};

use crate::beside::Beside;
use crate::lifetimes::Lifetimes;
use crate::load::{LoadDevice, LoadNotes, Recorded, Surroundings};
use crate::machine::Terms;
use crate::plan::Limits;
use crate::ranges::Ranges;
use crate::snapshot;
use crate::step::{Class, Classes, Map, Step, What};

/// An unmap this soon after its buffer was given out again is late, not another one: the event is written after the
/// slots are free, and another CPU was quicker.
const LATE_NS: u64 = 1_000_000;
/// The number of a mapping nothing in the trace refers to again.
pub(crate) const UNTIED: u32 = u32::MAX;
/// Stands for the device in the keys of mappings held since before the recording, whose other half is the slot.
const HELD: u32 = u32::MAX;
/// Set in the device of the keys of coherent buffers, which are no mappings.
const COHERENT: u32 = 1 << 31;

/// The devices whose bus may see memory elsewhere than the CPU, but it cannot be read where.
pub(crate) fn unread(devices: &[Device]) -> HashSet<u32> {
    devices.iter().filter(|device| Ranges::of(device).is_none()).map(|device| device.id).collect()
}

/// A mapping that is alive while tying.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alive {
    key: (u32, u64),
    size: u64,
    since_ns: u64,
    /// The next mapping with the same key, younger.
    younger: u32,
    direction: Direction,
    bounced: bool,
    device: u32,
}

/// The state of tying.
pub(crate) struct Tie<'a> {
    around: Surroundings<'a>,
    pub devices: Vec<LoadDevice>,
    positions: HashMap<u32, u32>,
    beside: Beside,
    /// Devices whose ranges cannot be read, by key.
    shifted: HashSet<u32>,
    pub steps: Vec<Step>,
    pub classes: Classes,
    pub slab: Vec<Option<Alive>>,
    unused: Vec<u32>,
    /// Oldest mapping by device and DMA address.
    by_address: BTreeMap<(u32, u64), u32>,
    /// Bounce buffers in use by the address the CPU has for their DMA address.
    bounced: BTreeMap<u64, u32>,
    /// Buffers in use since before the recording, by slot.
    held: BTreeMap<u64, u32>,
    /// The snapshot lies behind: what is held is held from now on.
    snapshot_past: bool,
    /// Mappings given up as missed, in case their unmap is only late: when and what size.
    given_up: HashMap<(u32, u64), (u64, u64)>,
    pub lifetimes: Lifetimes,
    pub notes: LoadNotes,
    pub recorded: Recorded,
    /// Slot allocations.
    pub slot_allocs: u64,
    pub last_ns: u64,
    /// Device, time, CPU, kind and scatterlist position of the last map.
    last_map: Option<(u32, u64, u32, Op, u32)>,
}

impl<'a> Tie<'a> {
    pub fn new(devices: &[Device], around: &Surroundings<'a>) -> Self {
        let load_device = |d: &Device| LoadDevice {
            id: d.id,
            name: d.name.clone(),
            limits: Limits::from(d),
            terms: Terms::of_device(d),
        };
        let known: Vec<_> = devices.iter().map(load_device).collect();
        Self {
            around: *around,
            beside: Beside::new(around.pools, devices),
            shifted: unread(devices),
            positions: (0..).zip(&known).map(|(i, d)| (d.id, i)).collect(),
            devices: known,
            steps: Vec::new(),
            classes: Classes::default(),
            slab: Vec::new(),
            unused: Vec::new(),
            by_address: BTreeMap::new(),
            bounced: BTreeMap::new(),
            held: BTreeMap::new(),
            snapshot_past: false,
            given_up: HashMap::new(),
            lifetimes: Lifetimes::default(),
            notes: LoadNotes::default(),
            recorded: Recorded::default(),
            slot_allocs: 0,
            last_ns: 0,
            last_map: None,
        }
    }

    pub fn event(&mut self, event: &Event) {
        if self.around.snapshot_ns.is_none_or(|ns| event.time_ns >= ns) {
            self.pass_snapshot();
        }
        self.beside.see(event);
        match event.op {
            Op::Map | Op::MapFailed => self.map(event),
            Op::Unmap => self.unmap(event),
            Op::SyncForCpu | Op::SyncForDevice => self.sync(event),
            Op::Lost => self.notes.lost += event.count.unwrap_or(0),
            Op::SlotAlloc => self.slot_allocs += 1,
            Op::Alloc => self.alloc(event),
            Op::Free => self.free(event),
            // Slot events are else for verifying; what a coherent buffer would have been is not known.
            Op::SlotFailed | Op::SlotFree | Op::Bounce | Op::AllocFailed | Op::PoolAdded => {}
        }
    }

    fn device(&mut self, id: u32) -> u32 {
        if let Some(&at) = self.positions.get(&id) {
            return at;
        }
        let at = self.devices.len() as u32;
        let name = format!("device {id}");
        self.devices.push(LoadDevice { id, name, limits: Limits::NONE, terms: Terms::PLAIN });
        self.positions.insert(id, at);
        at
    }

    fn map(&mut self, event: &Event) {
        let (Some(orig_addr), Some(size)) = (event.orig_addr, event.size) else {
            self.notes.incomplete += 1;
            return;
        };
        if !self.positions.contains_key(&event.device) {
            self.notes.unknown_devices += 1;
        }
        let device = self.device(event.device);
        let of_device = self.devices[device as usize].terms;
        self.notes.behind_iommu += u64::from(of_device.iommu);
        self.notes.own_pools += u64::from(self.beside.owns(event.device));
        self.notes.shifted += u64::from(self.shifted.contains(&event.device));
        let refused = event.op == Op::MapFailed;
        self.recorded.maps += 1;
        self.recorded.failures += u64::from(refused);
        self.notes.merged += u64::from(!refused && event.dma_addr.is_none());
        self.join_scatterlist(event);
        let direction = event.direction.unwrap_or(Direction::Bidirectional);
        let mut id = UNTIED;
        if let (Some(dma_addr), false) = (event.dma_addr, refused) {
            // An IOMMU's address says nothing about the pool, though it may be a number that lies in it.
            let bounced = !of_device.iommu && (event.tlb_addr.is_some() || self.in_pool(device, dma_addr));
            self.recorded.bounces += u64::from(bounced || event.tlb_addr.is_some());
            if bounced {
                self.give_up_overlapped(self.cpu_addr(device, dma_addr), size, event.time_ns);
            }
            let key = (device, dma_addr);
            let alive = Alive { key, size, since_ns: event.time_ns, younger: UNTIED, direction, bounced, device };
            id = self.insert(alive);
        }
        let what = What::Map(Map {
            align_mask: event.align_mask.unwrap_or(0),
            cpu: event.cpu,
            terms: Terms { direction, attrs: event.attrs.unwrap_or(0), ..of_device },
            more: false,
            refused,
            held: false,
        });
        self.step(event.time_ns, id, orig_addr, size, Class { device, what });
    }

    fn step(&mut self, time_ns: u64, id: u32, addr: u64, size: u64, class: Class) {
        let class = self.classes.position(class);
        self.steps.push(Step { time_ns, addr, size, id, class });
    }

    /// Marks the step before as part of the scatterlist this event goes on with.
    fn join_scatterlist(&mut self, event: &Event) {
        let now = event.sg_index.map(|i| (event.device, event.time_ns, event.cpu, event.op, i));
        if let (Some(last), Some(now)) = (self.last_map, now)
            && (last.0, last.1, last.2, last.3, last.4.wrapping_add(1)) == now
            && let Some(step) = self.steps.last_mut()
            && let Class { device, what: What::Map(map) } = *self.classes.get(step.class)
        {
            step.class = self.classes.position(Class { device, what: What::Map(Map { more: true, ..map }) });
        }
        self.last_map = now;
    }

    fn unmap(&mut self, event: &Event) {
        let Some(dma_addr) = event.dma_addr else {
            self.notes.incomplete += 1;
            return;
        };
        let device = self.device(event.device);
        if let Some((when, size)) = self.given_up.remove(&(device, dma_addr))
            && event.time_ns.saturating_sub(when) <= LATE_NS
            && event.size.is_none_or(|s| s == size)
        {
            self.notes.late_unmaps += 1;
            self.notes.missed_unmaps -= 1;
            return;
        }
        let Some(id) = self.choose(device, dma_addr, event.size).or_else(|| self.take_held(device, dma_addr)) else {
            self.notes.unmatched_unmaps += 1;
            return;
        };
        let skips = event.attrs.unwrap_or(0) & Terms::SKIP_CPU_SYNC != 0;
        if let Some(alive) = self.remove(id) {
            // How long before the recording a held one was mapped is not known.
            if alive.key.0 != HELD {
                self.lifetimes.add(alive.device, alive.size, event.time_ns.saturating_sub(alive.since_ns));
            }
            let direction = event.direction.unwrap_or(alive.direction);
            let copies = !skips && matches!(direction, Direction::FromDevice | Direction::Bidirectional);
            self.step(event.time_ns, id, 0, alive.size, Class { device, what: What::Unmap { copies } });
        }
    }

    fn sync(&mut self, event: &Event) {
        let Some(dma_addr) = event.dma_addr else {
            self.notes.incomplete += 1;
            return;
        };
        let device = self.device(event.device);
        // A part of a mapping may be handed over: the mapping begins at or before it.
        let range = (device, 0)..=(device, dma_addr);
        let found = self.by_address.range(range).next_back().and_then(|(&(_, start), &id)| {
            let alive = self.slab.get(id as usize).copied().flatten()?;
            (dma_addr - start < alive.size.max(1)).then_some((id, dma_addr - start, alive))
        });
        let Some((id, offset, alive)) = found else {
            self.notes.unmatched_syncs += 1;
            return;
        };
        let for_cpu = event.op == Op::SyncForCpu;
        let direction = event.direction.unwrap_or(alive.direction);
        let copies = match direction {
            Direction::Bidirectional => true,
            Direction::ToDevice => !for_cpu,
            Direction::FromDevice => for_cpu,
            Direction::None => false,
        };
        if copies {
            let left = alive.size.saturating_sub(offset);
            let size = event.size.unwrap_or(left);
            self.step(event.time_ns, id, offset, size, Class { device, what: What::Sync });
        }
    }

    /// Coherent memory does not come from the pool, unless it is a device's own (SPEC 2.7). What was refused, or has no
    /// size, cannot be followed.
    fn alloc(&mut self, event: &Event) {
        let (Some(dma_addr), Some(size)) = (event.dma_addr, event.size) else { return };
        let device = self.device(event.device);
        let direction = Direction::Bidirectional;
        let key = (device | COHERENT, dma_addr);
        let alive = Alive { key, size, since_ns: event.time_ns, younger: UNTIED, direction, bounced: false, device };
        let id = self.insert(alive);
        let class = self.classes.position(Class { device, what: What::Alloc });
        self.steps.push(Step { time_ns: event.time_ns, addr: 0, size, id, class });
    }

    fn free(&mut self, event: &Event) {
        let Some(dma_addr) = event.dma_addr else { return };
        let device = self.device(event.device);
        let id = self.by_address.get(&(device | COHERENT, dma_addr)).copied();
        let Some(alive) = id.and_then(|id| self.remove(id)) else {
            self.notes.unmatched_frees += 1;
            return;
        };
        let class = self.classes.position(Class { device, what: What::Free });
        let id = id.unwrap_or(UNTIED);
        self.steps.push(Step { time_ns: event.time_ns, addr: 0, size: alive.size, id, class });
    }

    /// Where the CPU has what a device has at a DMA address. What no bus of its could see stands for itself.
    fn cpu_addr(&self, device: u32, dma_addr: u64) -> u64 {
        self.devices[device as usize].limits.ranges.to_cpu(dma_addr).unwrap_or(dma_addr)
    }

    /// Whether a device's DMA address lies in a recorded pool.
    fn in_pool(&self, device: u32, dma_addr: u64) -> bool {
        let beside = || self.phys(device, dma_addr).is_some_and(|phys| self.beside.holds(phys));
        self.pool_slot(device, dma_addr).is_some() || beside()
    }

    /// The slot of the recorded pool at a device's DMA address.
    fn pool_slot(&self, device: u32, dma_addr: u64) -> Option<u64> {
        let (pool, phys) = (self.around.pool?, self.phys(device, dma_addr)?);
        let slot = phys.checked_sub(pool.start)? / SLOT_BYTES;
        (slot < pool.nslabs).then_some(slot)
    }

    /// The (pseudo-)physical address at a device's DMA address.
    fn phys(&self, device: u32, dma_addr: u64) -> Option<u64> {
        let dma_addr = self.devices[device as usize].limits.ranges.to_cpu(dma_addr)?;
        match self.around.p2m {
            Some(p2m) => Some(p2m.local_pfn(dma_addr >> 12)? << 12 | dma_addr & 0xfff),
            None => Some(dma_addr),
        }
    }

    fn insert(&mut self, alive: Alive) -> u32 {
        let id = self.unused.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.slab.len() as u32 - 1
        });
        if alive.bounced {
            self.bounced.insert(self.cpu_addr(alive.device, alive.key.1), id);
        }
        let mut last = *self.by_address.entry(alive.key).or_insert(id);
        self.slab[id as usize] = Some(alive);
        while last != id {
            let Some(older) = self.slab[last as usize].as_mut() else { break };
            if older.younger == UNTIED {
                older.younger = id;
            }
            last = older.younger;
        }
        id
    }

    /// The oldest mapping at that address with that size; failing that, the oldest.
    fn choose(&mut self, device: u32, dma_addr: u64, size: Option<u64>) -> Option<u32> {
        let oldest = *self.by_address.get(&(device, dma_addr))?;
        let mut id = oldest;
        while id != UNTIED {
            let alive = self.slab[id as usize].as_ref()?;
            if size.is_none_or(|s| s == alive.size) {
                return Some(id);
            }
            id = alive.younger;
        }
        self.notes.size_mismatches += 1;
        Some(oldest)
    }

    fn remove(&mut self, id: u32) -> Option<Alive> {
        let alive = self.slab[id as usize].take()?;
        self.unused.push(id);
        if alive.bounced {
            let at = self.cpu_addr(alive.device, alive.key.1);
            if self.bounced.get(&at) == Some(&id) {
                self.bounced.remove(&at);
            }
        }
        match self.by_address.get(&alive.key).copied() {
            Some(oldest) if oldest == id => {
                if alive.younger == UNTIED {
                    self.by_address.remove(&alive.key);
                } else {
                    self.by_address.insert(alive.key, alive.younger);
                }
            }
            Some(mut older) => {
                while let Some(at) = self.slab[older as usize].as_mut() {
                    if at.younger == id {
                        at.younger = alive.younger;
                        break;
                    }
                    older = at.younger;
                    if older == UNTIED {
                        break;
                    }
                }
            }
            None => {}
        }
        Some(alive)
    }

    /// Releases mappings whose bounce buffer the kernel has just given out again: their unmap is missing.
    fn give_up_overlapped(&mut self, at: u64, size: u64, time_ns: u64) {
        let end = at.saturating_add(size);
        while let Some((&start, &id)) = self.bounced.range(..end).next_back() {
            let Some(alive) = self.slab[id as usize] else { break };
            if start.saturating_add(alive.size) <= at {
                break;
            }
            self.remove(id);
            self.notes.missed_unmaps += 1;
            self.given_up.insert(alive.key, (time_ns, alive.size));
            let what = What::Unmap { copies: false };
            self.step(time_ns, id, 0, alive.size, Class { device: alive.device, what });
        }
    }

    /// Maps what was in use when the recording began. Whose it is shows when it is given back.
    pub fn hold_snapshot(&mut self) {
        let Some(pool) = self.around.pool else { return };
        let area_slots = (pool.nslabs / u64::from(pool.nareas.max(1))).max(1);
        for held in snapshot::allocations(self.around.snapshot, 0) {
            let Some(orig_addr) = held.orig_addr else { continue };
            let slot = held.first + u64::from(held.pad);
            let size = held.size;
            let unknown = Limits { reach: 0xffff_ffff, ..Limits::NONE };
            let device = match self.positions.get(&trace::event::NO_DEVICE) {
                Some(&at) => at,
                None => {
                    let at = self.device(trace::event::NO_DEVICE);
                    let device = &mut self.devices[at as usize];
                    (device.name, device.limits) = ("before the recording".to_owned(), unknown);
                    at
                }
            };
            let alive = Alive {
                key: (HELD, slot),
                size,
                since_ns: 0,
                younger: UNTIED,
                direction: Direction::Bidirectional,
                bounced: false,
                device,
            };
            let id = self.insert(alive);
            self.held.insert(slot, id);
            self.notes.held += 1;
            let cpu = u32::try_from(slot / area_slots).unwrap_or(0);
            let what = What::Map(Map {
                align_mask: 0,
                cpu,
                terms: Terms { attrs: Terms::SKIP_CPU_SYNC, ..Terms::PLAIN },
                more: false,
                refused: false,
                held: true,
            });
            self.step(0, id, orig_addr, size, Class { device, what });
        }
    }

    /// Drops what the snapshot holds and the recording has too: mapped between the recording's start and the snapshot.
    pub fn pass_snapshot(&mut self) {
        if std::mem::replace(&mut self.snapshot_past, true) || self.held.is_empty() {
            return;
        }
        let mut recorded = BTreeMap::new();
        for alive in self.slab.iter().flatten().filter(|alive| alive.bounced) {
            let Some(first) = self.pool_slot(alive.device, alive.key.1) else { continue };
            let end = self.cpu_addr(alive.device, alive.key.1) % SLOT_BYTES
                + alive.size.clamp(1, u64::from(SEGMENT_SLOTS) * SLOT_BYTES);
            let slots = first..first + end.div_ceil(SLOT_BYTES);
            recorded.extend(self.held.range(slots).map(|(&slot, &id)| (slot, id)));
        }
        let held = self.notes.held as usize;
        let mut twice = HashSet::new();
        for (slot, id) in recorded {
            self.held.remove(&slot);
            self.remove(id);
            twice.insert(id);
        }
        // The steps of what is held come first; nothing has been made of them before the snapshot.
        let mut at = 0;
        self.steps.retain(|step| {
            at += 1;
            at > held || !twice.contains(&step.id)
        });
        self.notes.held -= twice.len() as u64;
    }

    /// The mapping held since before the recording at that address; from now on it is that device's.
    fn take_held(&mut self, device: u32, dma_addr: u64) -> Option<u32> {
        if !self.snapshot_past || self.held.is_empty() || self.devices[device as usize].terms.iommu {
            return None;
        }
        let id = self.held.remove(&self.pool_slot(device, dma_addr)?)?;
        // They were the first to be numbered, so their steps are in the order of their numbers.
        let held = &mut self.steps[..self.notes.held as usize];
        if let Ok(at) = held.binary_search_by_key(&id, |step| step.id) {
            let class = Class { device, ..*self.classes.get(held[at].class) };
            held[at].class = self.classes.position(class);
        }
        Some(id)
    }
}
