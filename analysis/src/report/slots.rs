//! Who holds slots, since when and for how long: allocations as they come and go in the recorded pool.

use std::collections::HashMap;

use replay::{Followed, Follower};
use trace::{Direction, Event};

use super::names::{Devices, NOWHERE, Sites};
use super::rows::{AreaRow, HolderRow};
use super::spread::Spread;
use super::timeline::Timeline;

/// Stands for the device of what was held before the recording.
const UNKNOWN: u32 = u32::MAX;
/// Allocations that must have stayed in a stretch before it counts for a leak.
const FEW: u64 = 3;

/// An allocation that is held.
#[derive(Clone, Copy, Debug)]
struct Holding {
    device: u32,
    site: u32,
    since_ns: u64,
    before: bool,
    slots: u32,
    size: u64,
    syncs: u32,
    copies_back: bool,
    reason: u8,
}

/// Those of one device and site that were given back.
#[derive(Clone, Debug, Default)]
struct Returned {
    count: u64,
    /// Lifetimes by powers of two.
    lives: [u64; 32],
}

impl Returned {
    fn add(&mut self, life_ns: u64) {
        self.count += 1;
        // By 16 ns and doublings: up to half a minute, and what is above.
        self.lives[(life_ns >> 4).max(1).ilog2().min(31) as usize] += 1;
    }

    /// What 99 of 100 do not exceed, at most twice too much.
    fn p99_ns(&self) -> Option<u64> {
        let mut left = self.count - self.count / 100;
        (self.count > 0).then(|| {
            for (i, n) in self.lives.iter().enumerate() {
                left = left.saturating_sub(*n);
                if left == 0 {
                    return 32 << i;
                }
            }
            u64::MAX
        })
    }
}

/// What a device holds and held.
#[derive(Clone, Debug, Default)]
pub(super) struct DeviceSlots {
    pub held: u64,
    pub peak: u64,
    pub standing: u64,
    pub allocations: u64,
    pub bytes: u64,
    pub slots: u64,
    pub copied_back: u64,
    pub syncs: u64,
    pub lives: Spread,
}

/// A place that leaks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leak {
    pub device: u32,
    pub site: u32,
    pub slots: u64,
    pub mappings: u64,
    pub slots_a_second: f64,
    pub oldest_ns: u64,
}

/// Bounced mappings that live long and were never synced.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Silent {
    pub device: u32,
    pub mappings: u64,
    pub bytes: u64,
    pub oldest_ns: u64,
    /// Positions in [`replay::Reason::ALL`], and how many each.
    pub reasons: Vec<(u8, u64)>,
}

/// The pool and its holders.
#[derive(Debug)]
pub(super) struct PoolUse {
    pub follower: Follower,
    by_first: HashMap<u64, Holding>,
    returned: HashMap<(u32, u32), Returned>,
    pub devices: Vec<DeviceSlots>,
    pub areas: Vec<AreaRow>,
    area_used: Vec<u64>,
    timeline: Option<Timeline>,
    pub peak: u64,
    pub peak_ns: u64,
    pub steals: u64,
    pub lives: Spread,
    /// Records that were lost, each of which may be a release.
    pub doubt: u64,
    first_ns: u64,
    /// When slots first took more than nine tenths of the pool.
    pub nearly_full_ns: Option<u64>,
}

/// An allocation as it was made, for what the follower does not keep.
pub(super) struct Made {
    pub device: u32,
    pub site: u32,
    pub reason: u8,
}

impl PoolUse {
    pub fn new(follower: Follower) -> Self {
        let pool = follower.pool();
        let (areas, area_slots) = (pool.areas().len() as u32, pool.area_slots());
        let areas = (0..areas).map(|area| AreaRow { area, slots: area_slots, ..AreaRow::default() });
        let areas: Vec<_> = areas.collect();
        let area_used = pool.areas().iter().map(|area| area.used).collect();
        let held = |held: &replay::HeldBefore| {
            let holding = Holding {
                device: UNKNOWN,
                site: NOWHERE,
                since_ns: 0,
                before: true,
                slots: held.slots.n as u32,
                size: held.size,
                syncs: 0,
                copies_back: false,
                reason: u8::MAX,
            };
            (held.slots.first, holding)
        };
        Self {
            by_first: follower.held_before().iter().map(held).collect(),
            peak: pool.used(),
            returned: HashMap::new(),
            devices: Vec::new(),
            areas,
            area_used,
            timeline: None,
            peak_ns: 0,
            steals: 0,
            lives: Spread::default(),
            doubt: 0,
            first_ns: 0,
            nearly_full_ns: None,
            follower,
        }
    }

    /// The recording's first event was at this time.
    pub fn begin(&mut self, first_ns: u64) {
        self.first_ns = first_ns;
        let pool = self.follower.pool();
        self.timeline = Some(Timeline::new(first_ns, pool.used(), self.follower.free_segments(), pool.largest_run()));
        self.peak_ns = first_ns;
    }

    fn device(&mut self, position: u32) -> &mut DeviceSlots {
        let at = position as usize;
        if at >= self.devices.len() {
            self.devices.resize_with(at + 1, DeviceSlots::default);
        }
        &mut self.devices[at]
    }

    /// Takes a slot event; `made` is asked of allocations only. True when it was one that counts.
    pub fn push(&mut self, event: &Event, made: impl FnOnce() -> Made) -> Followed {
        let followed = self.follower.push(event);
        match &followed {
            Followed::Took { slots, area, home, missed } => {
                for first in missed {
                    self.forget(*first);
                }
                let Made { device, site, reason } = made();
                let direction = event.direction.unwrap_or(Direction::Bidirectional);
                let size = event.size.unwrap_or(0);
                let holding = Holding {
                    device,
                    site,
                    since_ns: event.time_ns,
                    before: false,
                    slots: slots.n as u32,
                    size,
                    syncs: 0,
                    copies_back: matches!(direction, Direction::FromDevice | Direction::Bidirectional),
                    reason,
                };
                self.by_first.insert(slots.first, holding);
                let of = self.device(device);
                of.allocations += 1;
                of.bytes = of.bytes.saturating_add(size);
                of.slots += slots.n;
                of.held += slots.n;
                of.peak = of.peak.max(of.held);
                let (own, now) = (*area as usize, &mut self.area_used);
                let used = now.get_mut(own).map_or(0, |used| {
                    *used += slots.n;
                    *used
                });
                if let Some(row) = self.areas.get_mut(own) {
                    row.allocations += 1;
                    row.stolen += u64::from(area != home);
                    row.peak_slots = row.peak_slots.max(used);
                }
                if area != home {
                    self.steals += 1;
                    if let Some(row) = self.areas.get_mut(*home as usize) {
                        row.sent_away += 1;
                    }
                }
                self.look(event.time_ns);
            }
            Followed::Gave(slots) => {
                if let Some(holding) = self.forget(slots.first) {
                    let life = event.time_ns.saturating_sub(holding.since_ns);
                    if !holding.before {
                        self.lives.add(life);
                        self.returned.entry((holding.device, holding.site)).or_default().add(life);
                        let of = self.device(holding.device);
                        of.lives.add(life);
                        of.copied_back =
                            of.copied_back.saturating_add(if holding.copies_back { holding.size } else { 0 });
                    }
                }
                self.look(event.time_ns);
            }
            Followed::Refused => {
                let home = event.cpu as usize & self.areas.len().wrapping_sub(1);
                if let Some(row) = self.areas.get_mut(home) {
                    row.failures += 1;
                }
            }
            Followed::Nothing => {}
        }
        followed
    }

    /// Takes an allocation from its holder.
    fn forget(&mut self, first: u64) -> Option<Holding> {
        let holding = self.by_first.remove(&first)?;
        if holding.device != UNKNOWN {
            let of = self.device(holding.device);
            of.held = of.held.saturating_sub(holding.slots.into());
        }
        let area_slots = self.follower.pool().area_slots().max(1);
        if let Some(used) = self.area_used.get_mut((first / area_slots) as usize) {
            *used = used.saturating_sub(holding.slots.into());
        }
        Some(holding)
    }

    fn look(&mut self, time_ns: u64) {
        let (used, free) = (self.follower.pool().used(), self.follower.free_segments());
        if used > self.peak {
            (self.peak, self.peak_ns) = (used, time_ns);
        }
        if self.nearly_full_ns.is_none() && used * 10 > self.follower.pool().geometry().nslabs * 9 {
            self.nearly_full_ns = Some(time_ns);
        }
        if let Some(timeline) = &mut self.timeline {
            let pool = self.follower.pool();
            timeline.set(time_ns, used, free, || pool.largest_run());
        }
    }

    /// A device synced an address in the pool.
    pub fn synced(&mut self, tlb_addr: u64, device: u32) {
        let first = self.follower.slot_of(tlb_addr).and_then(|slot| self.follower.first_over(slot));
        if let Some(holding) = first.and_then(|first| self.by_first.get_mut(&first)) {
            holding.syncs = holding.syncs.saturating_add(1);
            if holding.device == UNKNOWN {
                holding.device = device;
                let slots = u64::from(holding.slots);
                self.device(device).held += slots;
            }
        }
        self.device(device).syncs += 1;
    }

    /// Whether it was taken in the first half of the trace so far, or before it.
    fn stands(&self, holding: &Holding, now_ns: u64) -> bool {
        holding.before || holding.since_ns <= middle(self.first_ns, now_ns)
    }

    /// The holders at a time, the one with most slots first.
    pub fn holders(&self, at: &str, now_ns: u64, devices: &Devices<'_>, sites: &Sites, syncs: bool) -> Vec<HolderRow> {
        let mut groups: HashMap<(u32, u32), HolderRow> = HashMap::new();
        for holding in self.by_first.values() {
            let age = now_ns.saturating_sub(if holding.before { 0 } else { holding.since_ns });
            let row = groups.entry((holding.device, holding.site)).or_insert_with(|| HolderRow {
                at: at.to_owned(),
                youngest_ns: u64::MAX,
                unsynced: syncs.then_some(0),
                ..HolderRow::default()
            });
            row.slots += u64::from(holding.slots);
            row.mappings += 1;
            row.oldest_ns = row.oldest_ns.max(age);
            row.youngest_ns = row.youngest_ns.min(age);
            if self.stands(holding, now_ns) {
                row.standing_slots += u64::from(holding.slots);
            }
            if let (Some(unsynced), 0) = (&mut row.unsynced, holding.syncs) {
                *unsynced += 1;
            }
        }
        let leaks = self.leaks(now_ns);
        let mut rows: Vec<_> = groups
            .into_iter()
            .map(|((device, site), mut row)| {
                let leaks = leaks.iter().any(|leak| (leak.device, leak.site) == (device, site));
                let stands = row.standing_slots * 2 >= row.slots;
                row.kind = if leaks {
                    "leak"
                } else if stands {
                    "standing"
                } else {
                    "transient"
                }
                .to_owned();
                row.device = if device == UNKNOWN { "unknown".to_owned() } else { devices.name(device) };
                row.driver = devices.driver(device);
                row.stack = sites.text(site);
                if let Some(returned) = self.returned.get(&(device, site)) {
                    (row.given_back, row.life_p99_ns) = (returned.count, returned.p99_ns());
                }
                row
            })
            .collect();
        rows.sort_by(|a, b| (b.slots, &a.device, &a.stack).cmp(&(a.slots, &b.device, &b.stack)));
        rows
    }

    /// Allocations whose release may be among what was lost: no more of them prove anything.
    fn unproven(&self) -> u64 {
        self.doubt.max(self.follower.notes().missed_frees)
    }

    /// Whether something would leak if every release had been recorded.
    pub fn leaks_unproven(&self, now_ns: u64) -> bool {
        self.staying(now_ns).len() > self.leaks(now_ns).len()
    }

    /// Places that leak: more than what was lost can explain.
    pub fn leaks(&self, now_ns: u64) -> Vec<Leak> {
        let unproven = self.unproven();
        self.staying(now_ns).into_iter().filter(|leak| leak.mappings > unproven).collect()
    }

    /// Places whose allocations stay, again and again, all through the trace: those that outlive by far what is given
    /// back, counted by the quarter of the trace they were made in. A ring that is filled once has them in one quarter,
    /// work under way in the last.
    fn staying(&self, now_ns: u64) -> Vec<Leak> {
        struct Stayed {
            quarters: [u64; 4],
            slots: u64,
            oldest_ns: u64,
        }
        let span = now_ns.saturating_sub(self.first_ns);
        let mut groups: HashMap<(u32, u32), Stayed> = HashMap::new();
        for holding in self.by_first.values().filter(|holding| !holding.before) {
            let key = (holding.device, holding.site);
            let age = now_ns.saturating_sub(holding.since_ns);
            let usual = self.returned.get(&key).and_then(Returned::p99_ns).unwrap_or(0);
            if age <= usual.saturating_mul(2) {
                continue;
            }
            let at = holding.since_ns.saturating_sub(self.first_ns).saturating_mul(4) / span.max(1);
            let stayed = groups.entry(key).or_insert(Stayed { quarters: [0; 4], slots: 0, oldest_ns: 0 });
            stayed.quarters[at.min(3) as usize] += 1;
            stayed.slots += u64::from(holding.slots);
            stayed.oldest_ns = stayed.oldest_ns.max(age);
        }
        let steady = |stayed: &Stayed| {
            let later = &stayed.quarters[1..3];
            let (least, most) = (later.iter().min(), stayed.quarters[1..].iter().max());
            least.zip(most).is_some_and(|(&least, &most)| least >= FEW && least * 4 >= most)
        };
        let mut leaks: Vec<_> = groups
            .into_iter()
            .filter(|(_, stayed)| steady(stayed))
            .map(|((device, site), stayed)| Leak {
                device,
                site,
                slots: stayed.slots,
                mappings: stayed.quarters.iter().sum(),
                slots_a_second: stayed.slots as f64 * 1e9 / span.max(1) as f64,
                oldest_ns: stayed.oldest_ns,
            })
            .collect();
        leaks.sort_by_key(|leak| (std::cmp::Reverse(leak.slots), leak.device, leak.site));
        leaks
    }

    /// Bounced mappings at the end that have lived for at least `least_ns` and were never synced, by device.
    pub fn silent(&self, now_ns: u64, least_ns: u64) -> Vec<Silent> {
        let mut by_device: HashMap<u32, Silent> = HashMap::new();
        for holding in self.by_first.values().filter(|holding| holding.syncs == 0 && holding.device != UNKNOWN) {
            let age = now_ns.saturating_sub(holding.since_ns);
            if age < least_ns {
                continue;
            }
            let device = holding.device;
            let silent = by_device.entry(device).or_insert(Silent {
                device,
                mappings: 0,
                bytes: 0,
                oldest_ns: 0,
                reasons: Vec::new(),
            });
            silent.mappings += 1;
            silent.bytes = silent.bytes.saturating_add(holding.size);
            silent.oldest_ns = silent.oldest_ns.max(age);
            match silent.reasons.iter_mut().find(|(reason, _)| *reason == holding.reason) {
                Some((_, n)) => *n += 1,
                None => silent.reasons.push((holding.reason, 1)),
            }
        }
        let unproven = self.unproven();
        let mut all: Vec<_> = by_device.into_values().filter(|silent| silent.mappings > unproven).collect();
        all.sort_by_key(|silent| (std::cmp::Reverse(silent.mappings), silent.device));
        all.iter_mut().for_each(|silent| silent.reasons.sort_unstable_by_key(|&(reason, n)| (u64::MAX - n, reason)));
        all
    }

    /// Slots that stand at the end, in all and by device.
    pub fn count_standing(&mut self, now_ns: u64) -> u64 {
        let standing: Vec<_> = self.by_first.values().filter(|holding| self.stands(holding, now_ns)).copied().collect();
        for holding in &standing {
            if holding.device != UNKNOWN {
                self.device(holding.device).standing += u64::from(holding.slots);
            }
        }
        for (row, used) in self.areas.iter_mut().zip(&self.area_used) {
            row.held_slots = *used;
        }
        standing.iter().map(|holding| u64::from(holding.slots)).sum()
    }

    /// The pool over time.
    pub fn take_timeline(&mut self, end_ns: u64) -> Vec<super::rows::OccupancyRow> {
        let largest = self.follower.pool().largest_run();
        self.timeline.take().map_or_else(Vec::new, |timeline| timeline.rows(end_ns, largest))
    }
}

/// The middle of two times.
fn middle(from: u64, to: u64) -> u64 {
    from + to.saturating_sub(from) / 2
}
