//! A load replayed on a machine: what would have happened.
//!
//! Open-loop: the load stays as recorded, the answers change (the rules are in docs/models.md). A map refused here but
//! served in reality has its unmap and syncs passed over. A map served here that nothing in the trace undoes (refused in
//! reality, or merged by an IOMMU) is released after the typical lifetime of its device and size. A scatterlist is served whole or not at all.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use trace::Direction;
use trace::pool::SLOT_BYTES;

use crate::allocator::Taken;
use crate::lifetimes::{Assumed, class};
use crate::load::{Load, Map, Step, What};
use crate::machine::{Machine, Mapped, Reason};
use crate::occupancy::Occupancy;
use crate::plan::Limits;
use crate::refusal::{Cause, Refusal};
use crate::tie::UNTIED;

/// What to keep of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Refusals kept with their arithmetic.
    pub refusals: usize,
    /// Points of the occupancy curves.
    pub buckets: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { refusals: 20, buckets: 1000 }
    }
}

/// A refusal and its circumstances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedMap {
    /// When, in the trace's nanoseconds.
    pub time_ns: u64,
    /// Device, by position in [`Load::devices`].
    pub device: u32,
    /// Why.
    pub refusal: Refusal,
}

/// A device's share of an outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOutcome {
    /// Mappings asked for; a scatterlist counts once an element.
    pub maps: u64,
    /// Mappings that needed a bounce buffer, whether or not they got one.
    pub bounces: u64,
    /// Requests refused; a scatterlist counts once.
    pub failures: u64,
    /// Slots held at the end.
    pub slots: u64,
    /// Most slots held at once.
    pub peak_slots: u64,
    /// The pool its bounces go to.
    pub pool: u8,
}

/// What would have happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Requests; a scatterlist counts once.
    pub requests: u64,
    /// Mappings asked for; a scatterlist counts once an element. Elements behind a refused one are not asked for.
    pub maps: u64,
    /// Mappings that needed a bounce buffer, by reason, in the order of [`Reason::ALL`]; whether or not they got one.
    pub bounces: [u64; Reason::ALL.len()],
    /// Requests refused, by cause, in the order of [`Cause::ALL`]; a scatterlist counts once.
    pub failures: [u64; Cause::ALL.len()],
    /// The first refusals, with their arithmetic.
    pub refusals: Vec<RefusedMap>,
    /// Bytes copied into bounce buffers by maps.
    pub bytes_at_map: u64,
    /// Bytes copied either way by syncs.
    pub bytes_at_sync: u64,
    /// Bytes copied back by unmaps.
    pub bytes_at_unmap: u64,
    /// Bytes a sync should have copied and this kernel would not: they lie in front of a later slot's offset (SPEC 6.3).
    pub bytes_dropped: u64,
    /// Most slots in use at once, a pool.
    pub peak_slots: Vec<u64>,
    /// Slots in use at the end, a pool.
    pub final_slots: Vec<u64>,
    /// Slots in use over time, a pool.
    pub occupancy: Occupancy,
    /// By device, in the order of [`Load::devices`].
    pub devices: Vec<DeviceOutcome>,
    /// Lifetimes given to mappings nothing in the trace undoes: refused in reality, or merged by an IOMMU.
    pub assumed: Vec<Assumed>,
    /// Mappings refused here and served in reality; the driver is taken to go without.
    pub dropped: u64,
    /// Mappings held since before the recording that find no room here. They are neither requests nor failures.
    pub held_refused: u64,
    /// Translations that had to be assumed because the trace does not name a frame (Xen PV).
    pub unknown_frames: u64,
}

impl Outcome {
    /// Mappings that needed a bounce buffer.
    #[must_use]
    pub fn total_bounces(&self) -> u64 {
        self.bounces.iter().sum()
    }

    /// Requests refused.
    #[must_use]
    pub fn total_failures(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Bytes copied to and from bounce buffers.
    #[must_use]
    pub fn bytes_copied(&self) -> u64 {
        self.bytes_at_map + self.bytes_at_sync + self.bytes_at_unmap
    }

    /// Requests refused for one cause.
    #[must_use]
    pub fn failed(&self, cause: Cause) -> u64 {
        self.failures[cause as usize]
    }

    /// Mappings that needed a bounce buffer for one reason.
    #[must_use]
    pub fn bounced(&self, reason: Reason) -> u64 {
        self.bounces[reason as usize]
    }
}

/// Replays a load on a machine.
#[must_use]
pub fn replay(load: &Load, machine: &mut Machine, options: &Options) -> Outcome {
    Replay::new(load, machine, options).run()
}

/// A mapping in the replay.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Not mapped: never, no more, or refused.
    Gone,
    /// The device uses the buffer itself.
    Direct,
    Bounced(Bounce),
}

#[derive(Clone, Copy, Debug)]
struct Bounce {
    taken: Taken,
    size: u64,
    device: u32,
    /// Offset of the data in its slot as the release computes it.
    lo: u64,
}

/// Slots to be released at a time, because nothing in the trace does; the count breaks ties by age.
type Due = Reverse<(u64, u64)>;

struct Replay<'a> {
    load: &'a Load,
    machine: &'a mut Machine,
    options: &'a Options,
    states: Vec<State>,
    due: BinaryHeap<Due>,
    due_states: BTreeMap<u64, Bounce>,
    next_due: u64,
    assumed: BTreeMap<(u32, u32), Assumed>,
    limits: Vec<Limits>,
    used: Vec<u64>,
    out: Outcome,
}

impl<'a> Replay<'a> {
    fn new(load: &'a Load, machine: &'a mut Machine, options: &'a Options) -> Self {
        let pools = machine.allocator().pools().len();
        let limits: Vec<_> = load.devices().iter().map(|d| d.limits).collect();
        let pool_for = |limits: &Limits| machine.allocator().pool_for(limits) as u8;
        let devices = limits.iter().map(|l| DeviceOutcome { pool: pool_for(l), ..DeviceOutcome::default() }).collect();
        let out = Outcome {
            requests: 0,
            maps: 0,
            bounces: [0; Reason::ALL.len()],
            failures: [0; Cause::ALL.len()],
            refusals: Vec::new(),
            bytes_at_map: 0,
            bytes_at_sync: 0,
            bytes_at_unmap: 0,
            bytes_dropped: 0,
            peak_slots: vec![0; pools],
            final_slots: Vec::new(),
            occupancy: Occupancy::new(load.span_ns(), options.buckets, pools),
            devices,
            assumed: Vec::new(),
            dropped: 0,
            held_refused: 0,
            unknown_frames: 0,
        };
        Self {
            load,
            machine,
            options,
            states: vec![State::Gone; load.alive],
            due: BinaryHeap::new(),
            due_states: BTreeMap::new(),
            next_due: 0,
            assumed: BTreeMap::new(),
            limits,
            used: vec![0; pools],
            out,
        }
    }

    fn run(mut self) -> Outcome {
        let load = self.load;
        let mut at = 0;
        while let Some(step) = load.steps.get(at) {
            self.release_due(step.time_ns);
            at += match step.what {
                What::Map(map) if map.held => {
                    self.hold(step, &map);
                    1
                }
                What::Map(_) => self.request(&load.steps[at..]),
                What::Unmap { copies } => {
                    self.unmap(step, copies);
                    1
                }
                What::Sync { offset, size, .. } => {
                    if let State::Bounced(bounce) = self.states[step.id as usize] {
                        self.sync(&bounce, offset, size);
                    }
                    1
                }
            };
        }
        self.out.final_slots = self.used;
        self.out.assumed = self.assumed.into_values().collect();
        self.out.unknown_frames = self.machine.unknown_frames();
        self.out
    }

    /// Maps a buffer or a whole scatterlist, which begins `steps`; the number of steps it had. Between its elements may
    /// stand unmaps that were missed, found where an element took their slots.
    fn request(&mut self, steps: &[Step]) -> usize {
        self.out.requests += 1;
        let first_due = self.next_due;
        let mut refused = false;
        for (done, step) in steps.iter().enumerate() {
            match step.what {
                What::Map(map) => {
                    if !refused && !self.element(step, &map) {
                        refused = true;
                        self.undo(&steps[..done], first_due);
                    }
                    if !map.more {
                        return done + 1;
                    }
                }
                What::Unmap { copies } => self.unmap(step, copies),
                // None stands inside a scatterlist, whose rows stand together.
                What::Sync { .. } => return done,
            }
        }
        steps.len()
    }

    /// Maps a buffer that was mapped before the recording: only its slots count.
    fn hold(&mut self, step: &Step, map: &Map) {
        let state = match self.machine.map(&map.request, &self.limits[map.device as usize]) {
            Ok(Mapped::Direct { .. }) => State::Direct,
            Ok(Mapped::Bounced { taken, .. }) => State::Bounced(self.took(step.time_ns, map, taken)),
            Err(_) => {
                self.out.held_refused += 1;
                State::Gone
            }
        };
        self.states[step.id as usize] = state;
    }

    /// Maps one buffer; `false` when it is refused.
    fn element(&mut self, step: &Step, map: &Map) -> bool {
        let device = map.device as usize;
        let limits = self.limits[device];
        self.out.maps += 1;
        self.out.devices[device].maps += 1;
        let state = match self.machine.map(&map.request, &limits) {
            Ok(Mapped::Direct { .. }) => State::Direct,
            Ok(Mapped::Bounced { taken, reason, .. }) => {
                self.out.bounces[reason as usize] += 1;
                self.out.devices[device].bounces += 1;
                // SPEC 6.3.
                let to_device = matches!(map.direction, Direction::ToDevice | Direction::Bidirectional);
                if self.machine.allocator().rules().copies.map_always || (to_device && !map.skips_sync) {
                    self.out.bytes_at_map += map.request.size;
                }
                State::Bounced(self.took(step.time_ns, map, taken))
            }
            Err(refused) => {
                self.out.failures[refused.cause as usize] += 1;
                self.out.devices[device].failures += 1;
                if let Some(reason) = refused.reason {
                    self.out.bounces[reason as usize] += 1;
                    self.out.devices[device].bounces += 1;
                }
                self.out.dropped += u64::from(!map.refused);
                if self.out.refusals.len() < self.options.refusals {
                    let refusal = self.machine.explain(&map.request, &limits, &refused);
                    self.out.refusals.push(RefusedMap { time_ns: step.time_ns, device: map.device, refusal });
                }
                return false;
            }
        };
        if step.id != UNTIED {
            self.states[step.id as usize] = state;
        } else if let State::Bounced(bounce) = state {
            self.schedule(step.time_ns, map, bounce);
        }
        true
    }

    fn unmap(&mut self, step: &Step, copies: bool) {
        let state = std::mem::replace(&mut self.states[step.id as usize], State::Gone);
        if let State::Bounced(bounce) = state {
            if copies {
                self.out.bytes_at_unmap += bounce.size * self.machine.allocator().rules().copies.at_unmap;
            }
            self.release(&bounce, step.time_ns);
        }
    }

    /// Undoes the elements mapped before one was refused, without copying (SPEC 6.1). Those to be released at a time are
    /// numbered from `first_due` on.
    fn undo(&mut self, steps: &[Step], first_due: u64) {
        for step in steps.iter().filter(|s| s.id != UNTIED && matches!(s.what, What::Map(_))) {
            self.unmap(step, false);
        }
        let undue = self.due_states.split_off(&first_due);
        if undue.is_empty() {
            return;
        }
        self.due.retain(|&Reverse((_, number))| number < first_due);
        // All elements of a scatterlist are of one time.
        let time_ns = steps.last().map_or(0, |s| s.time_ns);
        for bounce in undue.into_values() {
            self.release(&bounce, time_ns);
            if let Some(assumed) = self.assumed.get_mut(&(bounce.device, class(bounce.size))) {
                assumed.count -= 1;
            }
        }
        self.assumed.retain(|_, assumed| assumed.count > 0);
    }

    /// Counts slots taken by a map.
    fn took(&mut self, time_ns: u64, map: &Map, taken: Taken) -> Bounce {
        let (pool, slots) = (usize::from(taken.pool), u64::from(taken.nslots));
        self.used[pool] += slots;
        self.out.peak_slots[pool] = self.out.peak_slots[pool].max(self.used[pool]);
        self.out.occupancy.set(time_ns, pool, self.used[pool]);
        let device = &mut self.out.devices[map.device as usize];
        device.slots += slots;
        device.peak_slots = device.peak_slots.max(device.slots);
        let min_align = self.machine.allocator().rules().min_align;
        let min_align_mask = self.limits[map.device as usize].min_align_mask;
        let lo = if min_align { taken.tlb_addr & min_align_mask & (SLOT_BYTES - 1) } else { 0 };
        Bounce { taken, size: map.request.size, device: map.device, lo }
    }

    fn release(&mut self, bounce: &Bounce, time_ns: u64) {
        let limits = self.limits[bounce.device as usize];
        self.machine.unmap(bounce.taken.tlb_addr, &limits);
        let (pool, slots) = (usize::from(bounce.taken.pool), u64::from(bounce.taken.nslots));
        self.used[pool] -= slots;
        self.out.occupancy.set(time_ns, pool, self.used[pool]);
        self.out.devices[bounce.device as usize].slots -= slots;
    }

    fn sync(&mut self, bounce: &Bounce, offset: u64, size: u64) {
        let bytes = size.min(bounce.size.saturating_sub(offset));
        let slots_in = ((bounce.taken.tlb_addr & (SLOT_BYTES - 1)) + offset) / SLOT_BYTES;
        let in_slot = (bounce.taken.tlb_addr.wrapping_add(offset)) & (SLOT_BYTES - 1);
        if self.machine.allocator().rules().copies.drops_early_sync && slots_in > 0 && in_slot < bounce.lo {
            self.out.bytes_dropped += bytes;
        } else {
            self.out.bytes_at_sync += bytes;
        }
    }

    /// Has slots released that nothing in the trace releases, because no unmap is tied to their map.
    fn schedule(&mut self, time_ns: u64, map: &Map, bounce: Bounce) {
        let size = map.request.size;
        let lifetime_ns = self.load.lifetimes.typical(map.device, size);
        self.due.push(Reverse((time_ns.saturating_add(lifetime_ns), self.next_due)));
        self.due_states.insert(self.next_due, bounce);
        self.next_due += 1;
        let assumed = Assumed { device: map.device, size_from: 1 << class(size), lifetime_ns, count: 0 };
        self.assumed.entry((map.device, class(size))).or_insert(assumed).count += 1;
    }

    fn release_due(&mut self, now_ns: u64) {
        while let Some(&Reverse((time_ns, number))) = self.due.peek() {
            if time_ns > now_ns {
                break;
            }
            self.due.pop();
            if let Some(bounce) = self.due_states.remove(&number) {
                self.release(&bounce, time_ns);
            }
        }
    }
}
