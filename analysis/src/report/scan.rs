//! One pass over a trace's events: everything the report counts is counted here.

use std::collections::HashMap;

use replay::{Base, Copies, Followed, Follower, Foreseen, Generation, Judge, KernelVersion, Limits, Machine};
use replay::{Cause, Platform, PlatformKind, Policy, Reason, Start};
use trace::{Event, Op, Trace};

use super::names::{Devices, NOWHERE, Sites};
use super::rows::HolderRow;
use super::slots::{Made, PoolUse};
use super::spread::Spread;

/// Slot events kept for verification: a million take some 300 MiB, and the share of a part is as good.
const JUDGED: usize = 1 << 19;
/// A reason there is none for.
pub(super) const UNEXPLAINED: u8 = u8::MAX;

/// What one device did, beside its slots.
#[derive(Clone, Debug, Default)]
pub(super) struct DeviceCount {
    pub maps: u64,
    pub bytes_mapped: u64,
    pub bounced_maps: u64,
    pub bounced_map_bytes: u64,
    pub failures: u64,
    pub syncs: u64,
    pub copied: u64,
    pub copied_at_unmap: u64,
    /// Bounces and their bytes by reason, in the order of [`Reason::ALL`]; what is not explained comes last.
    pub reasons: [(u64, u64); Reason::ALL.len() + 1],
    /// The same by slot allocations, for what mappings do not tell: behind an IOMMU their addresses lie in no pool.
    pub slot_reasons: [(u64, u64); Reason::ALL.len() + 1],
    pub mapped: Spread,
    pub bounced: Spread,
    pub refused: Spread,
}

/// Refused requests of one device and cause.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub device: u32,
    pub cause: Option<Cause>,
    pub reason: Option<Reason>,
    pub count: u64,
    pub largest: u64,
    pub first_ns: u64,
    pub explanation: String,
    pub site: u32,
}

/// The counts.
pub(super) struct Scan<'a> {
    trace: &'a Trace,
    pub devices: Devices<'a>,
    pub sites: Sites,
    pub rules: &'static Generation,
    copies: &'static Copies,
    pub pool: Option<PoolUse>,
    pub judge: Option<Judge>,
    pub counts: Vec<DeviceCount>,
    pub ops: [u64; Op::ALL.len()],
    pub failed: Vec<Failed>,
    pub latencies: HashMap<(Op, u32), Spread>,
    pub slot_events: Vec<Event>,
    pub first_ns: Option<u64>,
    pub last_ns: u64,
    pub lost: u64,
    pub backwards: u64,
    pub unknown_devices: u64,
    pub at_first_refusal: Vec<HolderRow>,
    /// Slot refusals seen on a CPU whose mapping has not been seen to fail yet: device by CPU.
    pending: HashMap<u32, u32>,
    maps_recorded: bool,
    syncs_recorded: bool,
    slots_recorded: bool,
}

impl DeviceCount {
    /// Whether its mappings say which of them bounced. Then the bounced are a part of the mapped, whatever was lost of
    /// either; else the slots say it.
    pub fn by_maps(&self) -> bool {
        self.bounced_maps > 0
    }
}

impl<'a> Scan<'a> {
    pub fn new(trace: &'a Trace) -> Self {
        let meta = trace.meta();
        let rules = Generation::of_recorded(meta).map(|(rules, _)| rules);
        let rules = rules.or_else(|| Generation::by_id("v6_10")).unwrap_or(&replay::GENERATIONS[0]);
        let version = KernelVersion::parse(meta.host.kernel_version());
        let copies = version.map_or_else(|| Copies::of_generation(rules), Copies::of_kernel);
        let pool = meta.pool().filter(|pool| pool.nslabs > 0).map(|_| {
            let start = Start::new(meta, trace.snapshot());
            PoolUse::new(Follower::new(&start, trace.devices(), rules))
        });
        Self {
            trace,
            devices: Devices::new(trace.devices()),
            sites: Sites::new(trace),
            rules,
            copies,
            pool,
            judge: judge(trace, rules),
            counts: vec![DeviceCount::default(); trace.devices().len()],
            ops: [0; Op::ALL.len()],
            failed: Vec::new(),
            latencies: HashMap::new(),
            slot_events: Vec::new(),
            first_ns: None,
            last_ns: 0,
            lost: 0,
            backwards: 0,
            unknown_devices: 0,
            at_first_refusal: Vec::new(),
            pending: HashMap::new(),
            maps_recorded: maps_recorded(&meta.capture),
            syncs_recorded: meta.capture.backends.contains_key("sync"),
            slots_recorded: meta.capture.sees_slots(),
        }
    }

    pub fn count(&self, op: Op) -> u64 {
        self.ops[op as usize]
    }

    /// Whether mappings that do not bounce would be in the trace.
    pub fn sees_maps(&self) -> bool {
        self.maps_recorded
    }

    /// Whether slots taken would be in the trace.
    pub fn sees_slots(&self) -> bool {
        self.slots_recorded
    }

    /// Whether syncs would be in the trace, if there were any.
    pub fn sees_syncs(&self) -> bool {
        self.syncs_recorded || self.count(Op::SyncForCpu) + self.count(Op::SyncForDevice) > 0
    }

    /// Takes the next event.
    pub fn push(&mut self, event: &Event) {
        self.ops[event.op as usize] += 1;
        if self.first_ns.is_none() {
            self.first_ns = Some(event.time_ns);
            if let Some(pool) = &mut self.pool {
                pool.begin(event.time_ns);
            }
        }
        self.backwards += u64::from(event.time_ns < self.last_ns);
        self.last_ns = self.last_ns.max(event.time_ns);
        if event.op == Op::Lost {
            self.lost += event.count.unwrap_or(0);
            return;
        }
        let device = self.devices.position(event.device);
        if device as usize >= self.counts.len() {
            self.counts.resize_with(device as usize + 1, DeviceCount::default);
        }
        self.unknown_devices += u64::from(self.devices.get(device).is_none());
        if let Some(latency) = event.latency_ns {
            self.latencies.entry((event.op, device)).or_default().add(latency);
        }
        match event.op {
            Op::Map => self.map(event, device),
            Op::MapFailed => self.map_failed(event, device),
            Op::Unmap => self.unmap(event, device),
            Op::SyncForCpu | Op::SyncForDevice => self.sync(event, device),
            Op::SlotAlloc | Op::SlotFailed | Op::SlotFree => self.slot(event, device),
            // Its word before slots are sought: it counts where there is nothing better.
            Op::Bounce if !self.trace.meta().capture.sees_requests() => {
                let count = &mut self.counts[device as usize];
                count.bounced.add(event.size.unwrap_or(0));
            }
            Op::PoolAdded => self.take_note(event),
            Op::Alloc | Op::AllocFailed | Op::Free | Op::Bounce | Op::Lost => {}
        }
    }

    fn has_own_pool(&self, device: u32) -> bool {
        self.devices.get(device).is_some_and(|device| device.own_pool().is_some())
    }

    /// Whether a bounce the rules do not explain is explained by this: how an IOMMU would have mapped it is in no trace.
    fn untrusted(&self, device: u32) -> bool {
        self.devices.get(device).is_some_and(|device| device.untrusted == Some(true))
    }

    fn map(&mut self, event: &Event, device: u32) {
        let judged = self.judge.as_mut().and_then(|judge| judge.push(event));
        let size = event.size.unwrap_or(0);
        let untrusted = self.untrusted(device);
        let count = &mut self.counts[device as usize];
        count.maps += 1;
        count.bytes_mapped = count.bytes_mapped.saturating_add(size);
        count.mapped.add(size);
        if let Some(judged) = judged.filter(|judged| judged.bounced) {
            count.bounced_maps += 1;
            count.bounced_map_bytes = count.bounced_map_bytes.saturating_add(size);
            let reason = match judged.foreseen {
                Some(Foreseen::Bounced(reason)) => Some(reason),
                _ => untrusted.then_some(Reason::Untrusted),
            };
            let at = reason.map_or(Reason::ALL.len(), |reason| reason as usize);
            count.reasons[at].0 += 1;
            count.reasons[at].1 = count.reasons[at].1.saturating_add(size);
        }
    }

    fn unmap(&mut self, event: &Event, device: u32) {
        let Some(judge) = &self.judge else { return };
        let skips = event.attrs.unwrap_or(0) & replay::Terms::SKIP_CPU_SYNC != 0;
        let back =
            matches!(event.direction, None | Some(trace::Direction::FromDevice | trace::Direction::Bidirectional));
        if back && !skips && event.dma_addr.is_some_and(|addr| judge.tlb_addr_of(event.device, addr).is_some()) {
            let size = event.size.unwrap_or(0).saturating_mul(self.copies.at_unmap);
            let copied = &mut self.counts[device as usize].copied_at_unmap;
            *copied = copied.saturating_add(size);
        }
    }

    fn sync(&mut self, event: &Event, device: u32) {
        self.counts[device as usize].syncs += 1;
        let judged = self.judge.as_ref().zip(event.dma_addr);
        let tlb_addr = judged.and_then(|(judge, addr)| judge.tlb_addr_of(event.device, addr));
        if let (Some(pool), Some(tlb_addr)) = (&mut self.pool, tlb_addr) {
            pool.synced(tlb_addr, device);
            let copies = match event.direction {
                Some(trace::Direction::ToDevice) => event.op == Op::SyncForDevice,
                Some(trace::Direction::FromDevice) => event.op == Op::SyncForCpu,
                Some(trace::Direction::None) => false,
                Some(trace::Direction::Bidirectional) | None => true,
            };
            if copies {
                let copied = &mut self.counts[device as usize].copied;
                *copied = copied.saturating_add(event.size.unwrap_or(0));
            }
        }
    }

    /// Keeps an event that choices are judged by, and has decisions judged with it: behind an IOMMU slots tell which mappings
    /// bounced, and what lies in a pool that was added has.
    fn take_note(&mut self, event: &Event) {
        if self.slot_events.len() < JUDGED {
            self.slot_events.push(event.clone());
        }
        if let Some(judge) = &mut self.judge {
            judge.push(event);
        }
    }

    fn slot(&mut self, event: &Event, device: u32) {
        self.take_note(event);
        let size = event.size.unwrap_or(0);
        let reason = match (&self.judge, event.op) {
            (Some(judge), Op::SlotAlloc | Op::SlotFailed) => judge.reason(event),
            _ => None,
        };
        let reason = reason.or_else(|| self.untrusted(device).then_some(Reason::Untrusted));
        if event.op == Op::SlotAlloc {
            let direction = event.direction.unwrap_or(trace::Direction::Bidirectional);
            let skips = event.attrs.unwrap_or(0) & replay::Terms::SKIP_CPU_SYNC != 0;
            let copied = if self.copies.copies_at_map(direction, skips) { size } else { 0 };
            let count = &mut self.counts[device as usize];
            count.copied = count.copied.saturating_add(copied);
            count.bounced.add(size);
            let at = reason.map_or(Reason::ALL.len(), |reason| reason as usize);
            count.slot_reasons[at].0 += 1;
            count.slot_reasons[at].1 = count.slot_reasons[at].1.saturating_add(size);
        }
        let site = self.sites.of(event.stack);
        let made = || Made { device, site, reason: reason.map_or(UNEXPLAINED, |reason| reason as u8) };
        let followed = self.pool.as_mut().map(|pool| pool.push(event, made));
        if event.op == Op::SlotFailed {
            self.pending.insert(event.cpu, device);
            let cause = self.pool.as_mut().filter(|_| followed == Some(Followed::Refused));
            let cause = cause.and_then(|pool| pool.follower.cause(event));
            self.refused(event, device, cause, reason, |scan| {
                let pool = scan.pool.as_mut()?;
                Some(pool.follower.refusal(event)?.to_string())
            });
        }
    }

    fn map_failed(&mut self, event: &Event, device: u32) {
        let judged = self.judge.as_mut().and_then(|judge| judge.push(event));
        // A scatterlist is one request, and the refusal of its slots has been told already.
        if event.sg_index.is_some_and(|index| index > 0) {
            return;
        }
        if self.pending.remove(&event.cpu) == Some(device) {
            return;
        }
        let foreseen = judged.and_then(|judged| judged.foreseen);
        if foreseen == Some(Foreseen::Refused)
            && let Some(refusal) = self.judge.as_mut().and_then(|judge| judge.refusal(event))
        {
            self.refused(event, device, Some(refusal.cause), None, |_| Some(refusal.to_string()));
            return;
        }
        let reason = self.judge.as_ref().and_then(|judge| judge.reason(event));
        if self.pool.is_none() {
            let limits = self.devices.get(device).map_or(Limits::NONE, Limits::from);
            let whole = event.orig_addr.zip(event.size);
            let beyond = whole.is_some_and(|(at, size)| !limits.capable(limits.bus(at), size));
            let beyond = beyond && self.trace.meta().pool_unknown.is_none();
            let cause = beyond.then_some(Cause::NoPool);
            self.refused(event, device, cause, reason, |_| beyond.then(|| "there is no bounce pool".to_owned()));
            return;
        }
        let cause = self.pool.as_mut().filter(|_| reason.is_some()).and_then(|pool| pool.follower.cause(event));
        if cause.is_some() {
            self.refused(event, device, cause, reason, |scan| {
                Some(scan.pool.as_mut()?.follower.refusal(event)?.to_string())
            });
            return;
        }
        let end = super::reach::pool_range(self.trace).map_or(0, |(_, to)| to);
        let reach = self.devices.get(device).map_or(u64::MAX, trace::Device::reach);
        let above = reason.is_some() && end > reach && !self.has_own_pool(device);
        self.refused(event, device, above.then_some(Cause::PoolAboveMask), reason, |_| {
            above.then(|| {
                format!(
                    "slots were free, but the device does not reach them (the pool ends at {end:#x}, reach {reach:#x})"
                )
            })
        });
    }

    fn refused(
        &mut self,
        event: &Event,
        device: u32,
        cause: Option<Cause>,
        reason: Option<Reason>,
        explain: impl FnOnce(&mut Self) -> Option<String>,
    ) {
        let size = event.size.unwrap_or(0);
        let count = &mut self.counts[device as usize];
        count.failures += 1;
        count.refused.add(size);
        if let Some(failed) = self.failed.iter_mut().find(|failed| (failed.device, failed.cause) == (device, cause)) {
            failed.count += 1;
            failed.largest = failed.largest.max(size);
            return;
        }
        if self.at_first_refusal.is_empty() && cause.is_some_and(of_state) {
            let syncs = self.sees_syncs();
            if let Some(pool) = &self.pool {
                self.at_first_refusal = pool.holders("first_refusal", event.time_ns, &self.devices, &self.sites, syncs);
            }
        }
        let explanation = explain(self).unwrap_or_else(|| unexplained(event, self.has_own_pool(device)));
        let site = self.sites.of(event.stack);
        let first_ns = event.time_ns;
        self.failed.push(Failed { device, cause, reason, count: 1, largest: size, first_ns, explanation, site });
    }

    /// The site of a failure, if its stack is known.
    pub fn site_text(&self, site: u32) -> Option<String> {
        if site == NOWHERE { None } else { self.sites.text(site) }
    }
}

/// Whether mappings were recorded, those that did not bounce among them. A trace that names no back-ends was not recorded
/// but made.
fn maps_recorded(capture: &trace::meta::Capture) -> bool {
    let attached = capture.backends.is_empty() || capture.backends.keys().any(|kind| kind.starts_with("map"));
    attached && !matches!(capture.mode.as_str(), "bounces" | "aggregate") && !capture.filters.contains_key("only")
}

/// Whether a cause depends on what else is in the pool.
pub(super) fn of_state(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::PoolFull
            | Cause::AreaFull
            | Cause::Livelock
            | Cause::Boundary
            | Cause::Alignment
            | Cause::Stride
            | Cause::Fragmented
    )
}

/// Whether no pool, however large, serves it.
pub(super) fn any_size(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::TooLarge | Cause::TooLargeWithOffset | Cause::AlignmentImpossible | Cause::BoundaryImpossible
    )
}

fn unexplained(event: &Event, own_pool: bool) -> String {
    match event.size {
        Some(size) if own_pool => format!(
            "{} were asked for, of a bounce pool of the device's own, which is in none of these figures",
            trace::field::bytes(size)
        ),
        Some(size) if event.op == Op::SlotFailed => format!(
            "{} were asked for; by the order of the records there was room, so another CPU, or an interrupt, had it at that moment",
            trace::field::bytes(size)
        ),
        Some(size) => {
            format!("{} were asked for; the trace does not tell why they were refused", trace::field::bytes(size))
        }
        None => "the trace does not tell what was asked for".to_owned(),
    }
}

/// The recorded platform's rules, to judge decisions with; nothing without a pool, or for a kernel whose policy does not
/// fit the recorded pool.
fn judge(trace: &Trace, rules: &'static Generation) -> Option<Judge> {
    let meta = trace.meta();
    let pool = meta.pool().filter(|pool| pool.nslabs > 0)?;
    let release = meta.host.kernel_version();
    // The release settles more than the generation does, but a policy of another name may not know it.
    let policy = Policy::parse(&format!("{}:kernel={release}", rules.id)).or_else(|_| Policy::parse(rules.id)).ok()?;
    let setup = policy.resolve(&Base::of_pool(pool, Some(meta.host.possible_cpus))).ok()?;
    let platform = Platform::recorded(PlatformKind::of_recorded(meta).into(), trace.p2m());
    Some(Judge::new(trace.devices(), &meta.pools, Machine::new(&setup, platform)))
}
