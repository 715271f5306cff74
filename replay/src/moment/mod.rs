//! The state of a recorded machine at one moment: who holds which slots, what came of it so far, and how fast it goes.
//!
//! A [`Moment`] is fed with events, one after the other, whether they come from a file or from a kernel that is running.
//! It takes down what the kernel did; the models only say *why* (the reason of a bounce, the cause of a refusal). It is
//! cheap to clone, so that a long trace can keep one every so often and be at any time within a few events.
//!
//! ```
//! # use replay::moment::{Around, Moment};
//! # let (meta, devices, events): (trace::Meta, Vec<trace::Device>, Vec<trace::Event>) = Default::default();
//! let mut moment = Moment::new(Around::new(&meta, &[], &devices), &[]);
//! for event in &events {
//!     moment.apply(event);
//! }
//! assert_eq!(moment.totals().failures, 0);
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | [`around`] | [`Around`]: what does not change: devices, pools, the recorded kernel's rules |
//! | [`slots`] | [`Slots`], [`Holder`]: the pool's slots and who holds them |
//! | [`device`] | [`DeviceTally`]: what one device did |
//! | [`failure`] | [`Failure`]: a refused request, its cause and arithmetic |
//! | [`rates`] | [`Rates`], [`Second`]: how much in each of the last seconds |
//! | [`spread`] | [`Spread`]: a small histogram |
//! | [`rows`] | the same as rows of the field registry, for tables, JSON lines and filters |
//!
//! # Cost
//! Some 100 ns an event. A clone copies about a byte a slot, 80 bytes a held buffer and 3 KiB a device.

pub mod around;
pub mod device;
pub mod failure;
pub mod rates;
pub mod rows;
pub mod slots;
pub mod spread;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use trace::event::NO_DEVICE;
use trace::sums::Occupancy;
use trace::{Device, Event, Feed, Op, SnapshotSlot};

pub use around::Around;
pub use device::{DeviceTally, StackTally};
pub use failure::Failure;
pub use rates::{Rates, Second};
pub use rows::{AreaNow, DeviceNow, FailureRow, HeldRow, Now, PoolNow, RunsRow, SizesRow, StackRow};
pub use slots::{Holder, Slots};
pub use spread::Spread;

/// Failures kept with their arithmetic; older ones are counted only.
pub const FAILURES_KEPT: usize = 1000;
/// Devices told apart.
const DEVICES: usize = 4096;
/// A refused mapping this soon after its refused slots is the same refusal.
const SAME_REFUSAL_NS: u64 = 10_000_000;

/// What happened up to now, over all devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events taken in.
    pub events: u64,
    /// Streaming mappings made; a scatterlist counts once an element.
    pub maps: u64,
    /// Mappings that went through the pool.
    pub bounces: u64,
    /// Requests refused.
    pub failures: u64,
    /// Bytes copied to and from bounce buffers.
    pub bytes_copied: u64,
    /// Records lost, as far as the events say.
    pub lost: u64,
    /// Releases of slots nothing was known to hold.
    pub unknown_frees: u64,
    /// Releases the trace misses: their slots were given out again.
    pub missed_frees: u64,
}

/// The state of a recorded machine at one moment.
#[derive(Clone, Debug)]
pub struct Moment {
    around: Arc<Around>,
    snapshot: Arc<[SnapshotSlot]>,
    /// The snapshot has been taken in, or there is none.
    snapshot_past: bool,
    time_ns: u64,
    totals: Totals,
    slots: Slots,
    devices: BTreeMap<u32, DeviceTally>,
    /// Of events that belong to no device, or to one too many.
    nobody: DeviceTally,
    rates: Rates,
    failures: VecDeque<Arc<Failure>>,
    /// The last refused slots: device, thread, time. A mapping refused for their sake is no other refusal.
    refused: Option<(u32, u32, u64)>,
    /// The last refused mapping that was an element of a scatterlist: device, CPU, time.
    refused_list: Option<(u32, u32, u64)>,
    last_loss_ns: Option<u64>,
    /// Slots in use where they are looked at, at most, and at the last look.
    looked: Option<(u64, u64)>,
}

impl Moment {
    /// Before the first event. `snapshot` are the slots in use when recording began.
    #[must_use]
    pub fn new(around: Around, snapshot: &[SnapshotSlot]) -> Self {
        let mut moment = Self {
            snapshot: snapshot.into(),
            snapshot_past: false,
            time_ns: 0,
            totals: Totals::default(),
            slots: Slots::new(around.pools()),
            devices: BTreeMap::new(),
            nobody: DeviceTally::default(),
            rates: Rates::default(),
            failures: VecDeque::new(),
            refused: None,
            refused_list: None,
            last_loss_ns: None,
            looked: None,
            around: Arc::new(around),
        };
        if moment.around.snapshot_ns().is_none_or(|ns| ns == 0) {
            moment.pass_snapshot();
        }
        moment
    }

    /// What does not change.
    #[must_use]
    pub fn around(&self) -> &Around {
        &self.around
    }

    /// Takes note of devices found while recording goes on. Rows keep their ids.
    pub fn set_devices(&mut self, devices: &[Device]) {
        Arc::make_mut(&mut self.around).set_devices(devices);
    }

    /// Takes in what a recorder at work tells, as far as it is of any matter to a moment.
    pub fn follow(&mut self, told: &Feed) {
        match told {
            Feed::Events(events) => events.iter().for_each(|event| self.apply(event)),
            Feed::Devices(devices) => self.set_devices(devices),
            Feed::P2m(p2m) => Arc::make_mut(&mut self.around).set_p2m(p2m),
            Feed::Looks(looks) => looks.iter().for_each(|look| self.look(look)),
            Feed::Time(time_ns) => self.advance(*time_ns),
            Feed::Tasks(_) | Feed::Stacks(_) | Feed::Meta(_) | Feed::Ended(_) => {}
        }
    }

    /// When it is, in nanoseconds since the recording began.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// Everything so far.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The slots and who holds them.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// How much in each of the last seconds.
    #[must_use]
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// What each device did, by its id in the trace; those that did nothing may be missing.
    pub fn devices(&self) -> impl Iterator<Item = (u32, &DeviceTally)> {
        self.devices.iter().map(|(&id, tally)| (id, tally)).filter(|(_, tally)| !tally.is_idle())
    }

    /// What one device did.
    #[must_use]
    pub fn device(&self, id: u32) -> Option<&DeviceTally> {
        self.devices.get(&id).filter(|tally| !tally.is_idle())
    }

    /// The last refusals, at most [`FAILURES_KEPT`], oldest first.
    #[must_use]
    pub fn failures(&self) -> &VecDeque<Arc<Failure>> {
        &self.failures
    }

    /// When records were last lost.
    #[must_use]
    pub fn last_loss_ns(&self) -> Option<u64> {
        self.last_loss_ns
    }

    /// Whether the slots are known well: a snapshot was taken in (or the pool was seen from its first slot on) and no
    /// record was lost since.
    #[must_use]
    pub fn exact(&self) -> bool {
        self.snapshot_past && self.around.has_snapshot() && self.totals.lost == 0
    }

    /// Slots in use: counted one by one, or as they were at the last look where they are not seen.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.looked.map_or_else(|| self.slots.used(), |(_, last)| last)
    }

    /// Where the pool is looked at from time to time: slots in use at most, and at the last look.
    #[must_use]
    pub fn looked(&self) -> Option<(u64, u64)> {
        self.looked
    }

    /// Takes in a look at the pool, if there is nothing better.
    fn look(&mut self, look: &Occupancy) {
        if !self.around.counts_slots() {
            let most = self.looked.map_or(0, |(most, _)| most).max(look.used);
            self.advance(look.time_ns);
            self.looked = Some((most, look.used));
            self.rates.count(|second| second.peak_slots = second.peak_slots.max(look.used));
        }
    }

    /// Lets time pass without an event.
    pub fn advance(&mut self, time_ns: u64) {
        if time_ns > self.time_ns {
            self.time_ns = time_ns;
            self.rates.advance(time_ns, self.used());
        }
    }

    /// Takes in one event. They come in order of time.
    pub fn apply(&mut self, event: &Event) {
        if !self.snapshot_past && self.around.snapshot_ns().is_some_and(|ns| event.time_ns >= ns) {
            self.pass_snapshot();
        }
        self.advance(event.time_ns);
        self.totals.events += 1;
        match event.op {
            Op::Map => self.map(event),
            Op::MapFailed => self.map_failed(event),
            Op::SyncForCpu | Op::SyncForDevice => self.sync(event),
            Op::SlotAlloc => self.slot_alloc(event),
            Op::SlotFailed => self.slot_failed(event),
            Op::SlotFree => self.slot_free(event),
            Op::Lost => {
                let lost = event.count.unwrap_or(1);
                self.totals.lost += lost;
                self.rates.count(|second| second.lost += lost);
                self.last_loss_ns = Some(event.time_ns);
            }
            Op::Bounce if self.around.has_bounces_alone() => self.told_bounce(event),
            Op::PoolAdded => self.slots.add(event),
            Op::Unmap | Op::Alloc | Op::AllocFailed | Op::Free | Op::Bounce => {}
        }
    }

    fn pass_snapshot(&mut self) {
        self.snapshot_past = true;
        if self.around.has_snapshot() {
            let snapshot = Arc::clone(&self.snapshot);
            let mut freed = Vec::new();
            self.slots.reconcile(&snapshot, &self.around, &mut freed);
            self.let_go(&freed);
        }
    }

    /// The tally of a device, made when it is new.
    fn tally(&mut self, device: u32) -> &mut DeviceTally {
        // A damaged trace may name any number of devices; they must not cost memory.
        if device == NO_DEVICE || (self.devices.len() >= DEVICES && !self.devices.contains_key(&device)) {
            return &mut self.nobody;
        }
        self.devices.entry(device).or_default()
    }

    fn map(&mut self, event: &Event) {
        let size = event.size.unwrap_or(0);
        self.totals.maps += 1;
        self.rates.count(|second| second.maps += 1);
        let time_ns = self.time_ns;
        let tally = self.tally(event.device);
        tally.map(time_ns, size, event.stack);
        // Without slot events the address given to the device is what tells.
        let in_pool = |addr| self.around.pool_address(event.device, addr).is_some();
        if !self.around.has_slot_events() && event.dma_addr.is_some_and(in_pool) {
            self.bounce(event, size);
        }
    }

    /// Counts a mapping that went through the pool, and the copy it begins with.
    fn bounce(&mut self, event: &Event, size: u64) {
        let time_ns = self.time_ns;
        let reason = self.around.reason(event);
        let copied = if self.around.copies_at_map(event) { size } else { 0 };
        self.totals.bounces += 1;
        self.rates.count(|second| second.bounces += 1);
        self.tally(event.device).bounce(time_ns, size, reason, event.latency_ns, event.stack);
        self.copied(event.device, copied);
    }

    /// Counts a bounce that the kernel is about to make. Which way the data go, and so what is copied, it does not say.
    fn told_bounce(&mut self, event: &Event) {
        let (time_ns, size) = (self.time_ns, event.size.unwrap_or(0));
        self.totals.bounces += 1;
        self.rates.count(|second| second.bounces += 1);
        self.tally(event.device).bounce(time_ns, size, None, None, None);
    }

    fn copied(&mut self, device: u32, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let time_ns = self.time_ns;
        self.totals.bytes_copied = self.totals.bytes_copied.saturating_add(bytes);
        self.rates.count(|second| second.bytes_copied = second.bytes_copied.saturating_add(bytes));
        self.tally(device).copied(time_ns, bytes);
    }

    fn sync(&mut self, event: &Event) {
        let for_cpu = event.op == Op::SyncForCpu;
        let found = event.dma_addr.and_then(|addr| self.around.address(event.device, addr)).and_then(|addr| {
            let (at, holder) = self.slots.over(addr)?;
            Some((holder.copies_at_sync(for_cpu), holder.size.saturating_sub(addr.saturating_sub(at))))
        });
        self.tally(event.device).syncs += 1;
        if let Some((true, left)) = found {
            self.copied(event.device, event.size.unwrap_or(left).min(left));
        }
    }

    fn slot_alloc(&mut self, event: &Event) {
        self.bounce(event, event.size.unwrap_or(0));
        let mut freed = Vec::new();
        let slots = self.slots.take(event, &self.around, &mut freed);
        self.totals.missed_frees += freed.len() as u64;
        self.let_go(&freed);
        self.tally(event.device).hold(slots, event.stack);
        let used = self.slots.used();
        self.rates.count(|second| second.peak_slots = second.peak_slots.max(used));
    }

    /// Takes slots from the devices that held them.
    fn let_go(&mut self, freed: &[Holder]) {
        for holder in freed {
            self.tally(holder.device).let_go(holder.slots, holder.stack);
        }
    }

    fn slot_free(&mut self, event: &Event) {
        let Some(holder) = event.tlb_addr.and_then(|tlb| self.slots.release(tlb)) else {
            self.totals.unknown_frees += 1;
            return;
        };
        let copied =
            if holder.copies_at_unmap() { holder.size.saturating_mul(self.around.copies().at_unmap) } else { 0 };
        self.copied(holder.device, copied);
        self.let_go(&[holder]);
    }

    fn slot_failed(&mut self, event: &Event) {
        self.refused = Some((event.device, event.tid, event.time_ns));
        let failure = self.slots.refusal(event, &self.around, self.snapshot_past);
        self.fail(event, failure);
    }

    fn map_failed(&mut self, event: &Event) {
        let list = event.sg_index.map(|_| (event.device, event.cpu, event.time_ns));
        let told = list.is_some() && list == self.refused_list;
        self.refused_list = list;
        let same = self.refused.is_some_and(|(device, tid, time)| {
            (device, tid) == (event.device, event.tid) && event.time_ns.saturating_sub(time) <= SAME_REFUSAL_NS
        });
        if same {
            self.refused = None;
        }
        if !told && !same {
            let failure = self.around.refusal(event);
            self.fail(event, failure);
        }
    }

    fn fail(&mut self, event: &Event, (cause, explanation): (Option<crate::Cause>, String)) {
        self.totals.failures += 1;
        let failure = Failure {
            number: self.totals.failures,
            time_ns: event.time_ns,
            cpu: event.cpu,
            tid: event.tid,
            device: event.device,
            orig_addr: event.orig_addr,
            size: event.size.unwrap_or(0),
            direction: event.direction,
            stack: event.stack,
            used: self.slots.used(),
            cause,
            explanation,
        };
        self.rates.count(|second| second.failures += 1);
        let time_ns = self.time_ns;
        self.tally(event.device).fail(time_ns, cause, event.stack);
        if self.failures.len() == FAILURES_KEPT {
            self.failures.pop_front();
        }
        self.failures.push_back(Arc::new(failure));
    }
}

#[cfg(test)]
mod tests;
