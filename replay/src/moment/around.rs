//! What does not change from moment to moment: the machine and the recorded kernel's rules.

use std::collections::HashMap;
use std::sync::Arc;

use trace::{Device, Direction, Event, Meta, Op, P2mRun, Pool, PoolKind};

use crate::copies::{COPY_ERAS, Copies};
use crate::machine::{Foreseen, Machine, Platform, PlatformKind, PlatformSpec, Reason, Terms};
use crate::plan::{Limits, Request};
use crate::policy::{Base, Policy, Setup};
use crate::refusal::Cause;
use crate::rules::Generation;

/// The machine a recording was made on, and the rules of its kernel as far as they are known.
#[derive(Clone, Debug)]
pub struct Around {
    pools: Vec<Pool>,
    devices: HashMap<u32, Known>,
    snapshot_ns: Option<u64>,
    slot_events: bool,
    /// Slots in use can be counted.
    counts_slots: bool,
    /// Only the kernel's word tells that it bounces.
    bounces_alone: bool,
    /// The recorded kernel's rules, on empty pools: what says why.
    machine: Option<Machine>,
    /// What the machine is made of, but for Xen's frames, which a recorder comes to know by and by.
    made_of: Option<(Arc<Setup>, PlatformSpec)>,
    copies: &'static Copies,
    policy: String,
}

#[derive(Clone, Debug)]
struct Known {
    device: Device,
    limits: Limits,
}

impl Around {
    /// From what a trace, or a recorder at work, says of its machine. A kernel nobody knows is taken for the newest one.
    #[must_use]
    pub fn new(meta: &Meta, p2m: &[P2mRun], devices: &[Device]) -> Self {
        let release = meta.host.kernel_version();
        let policy = match Generation::of_recorded(meta) {
            Some((rules, _)) => {
                Policy::parse(&format!("{}:kernel={release}", rules.id)).or_else(|_| Policy::parse(rules.id))
            }
            None => Policy::parse("v6_10"),
        };
        let cpus = Some(meta.host.possible_cpus);
        let base = meta.pool().map_or_else(|| Base::without_pool(cpus), |pool| Base::of_pool(pool, cpus));
        // A pool no kernel has, out of a damaged trace, leaves us without rules, not without counts.
        let setup = policy.ok().and_then(|policy| policy.resolve(&base).ok());
        let copies = setup.as_ref().map_or_else(|| &COPY_ERAS[COPY_ERAS.len() - 1], |setup| setup.copies);
        let made_of = setup.map(|setup| (Arc::new(setup), PlatformSpec::from(PlatformKind::of_recorded(meta))));
        let machine = made_of.as_ref().map(|(setup, spec)| Machine::new(setup, Platform::recorded(*spec, p2m)));
        let backends = &meta.capture.backends;
        let mut around = Self {
            pools: meta.pools.clone(),
            devices: HashMap::new(),
            snapshot_ns: meta.snapshot_ns,
            slot_events: backends.is_empty() || backends.contains_key(Op::SlotAlloc.name()),
            counts_slots: meta.capture.sees_slots(),
            bounces_alone: !meta.capture.sees_requests(),
            policy: machine.as_ref().map_or_else(String::new, |machine| machine.allocator().rules().id.to_owned()),
            machine: machine.filter(|_| !meta.pools.is_empty()),
            made_of,
            copies,
        };
        around.set_devices(devices);
        around
    }

    /// Takes note of devices.
    pub(super) fn set_devices(&mut self, devices: &[Device]) {
        let known = |device: &Device| (device.id, Known { device: device.clone(), limits: Limits::from(device) });
        self.devices = devices.iter().map(known).collect();
    }

    /// Takes note of Xen's frame table.
    pub(super) fn set_p2m(&mut self, p2m: &[P2mRun]) {
        if let (Some(machine), Some((setup, spec))) = (&mut self.machine, &self.made_of) {
            *machine = Machine::new(setup, Platform::recorded(*spec, p2m));
        }
    }

    /// The pools, the default one first.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// A device of the trace.
    #[must_use]
    pub fn device(&self, id: u32) -> Option<&Device> {
        self.devices.get(&id).map(|known| &known.device)
    }

    /// What a device is called on a screen.
    #[must_use]
    pub fn device_name(&self, id: u32) -> String {
        match self.device(id) {
            Some(device) => device.name.clone(),
            None if id == trace::event::NO_DEVICE => "–".to_owned(),
            None => format!("device {id}"),
        }
    }

    /// The policy that says why: the recorded kernel's.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// When and from where the recorded kernel copies.
    #[must_use]
    pub fn copies(&self) -> &'static Copies {
        self.copies
    }

    pub(super) fn snapshot_ns(&self) -> Option<u64> {
        self.snapshot_ns
    }

    pub(super) fn has_snapshot(&self) -> bool {
        self.snapshot_ns.is_some()
    }

    pub(super) fn has_slot_events(&self) -> bool {
        self.slot_events
    }

    /// Whether nothing but the kernel's word tells that it bounces.
    pub(super) fn has_bounces_alone(&self) -> bool {
        self.bounces_alone
    }

    /// Whether all slots taken and given back are events.
    #[must_use]
    pub fn counts_slots(&self) -> bool {
        self.counts_slots
    }

    pub(super) fn rules(&self) -> Option<&'static Generation> {
        self.machine.as_ref().map(|machine| machine.allocator().rules())
    }

    pub(super) fn limits(&self, device: u32) -> Limits {
        self.devices.get(&device).map_or(Limits::NONE, |known| known.limits)
    }

    /// The CPU's address of a device's bus address, wherever that lies.
    pub(super) fn address(&self, device: u32, dma_addr: u64) -> Option<u64> {
        self.machine.as_ref()?.phys(dma_addr, &self.limits(device))
    }

    /// The address inside a pool that a device's bus address stands for.
    pub(super) fn pool_address(&self, device: u32, dma_addr: u64) -> Option<u64> {
        self.machine.as_ref()?.pool_address(dma_addr, &self.limits(device))
    }

    fn terms(&self, event: &Event) -> Terms {
        let of_device = self.device(event.device).map_or(Terms::PLAIN, Terms::of_device);
        let direction = event.direction.unwrap_or(Direction::Bidirectional);
        Terms { direction, attrs: event.attrs.unwrap_or(0), ..of_device }
    }

    /// Why a mapping that bounced did so, by the rules; nothing when they would not have bounced it, or do not know.
    pub(super) fn reason(&self, event: &Event) -> Option<Reason> {
        let own =
            self.pool_of(event.device).and_then(|at| self.pools.get(at)).filter(|pool| pool.kind == PoolKind::Own);
        if own.is_some_and(|pool| pool.force_bounce) {
            return Some(Reason::Forced);
        }
        match self.foresee(event) {
            Some(Foreseen::Bounced(reason)) => Some(reason),
            // Xen's frame of a new page is not known yet, and does not matter here.
            None if self.pool().is_some_and(|pool| pool.force_bounce) => Some(Reason::Forced),
            None | Some(Foreseen::Direct(_) | Foreseen::Refused) => None,
        }
    }

    /// The place of the pool that a device's requests go to: its own, or the default one.
    pub(super) fn pool_of(&self, device: u32) -> Option<usize> {
        match self.device(device).and_then(Device::own_pool) {
            None => self.pool().map(|_| 0),
            Some(name) => self.pools.iter().position(|pool| pool.kind == PoolKind::Own && pool.name == name),
        }
    }

    /// The default pool.
    fn pool(&self) -> Option<&Pool> {
        self.pools.first().filter(|pool| pool.kind == PoolKind::Default)
    }

    fn foresee(&self, event: &Event) -> Option<Foreseen> {
        let request = Request { orig_addr: event.orig_addr?, size: event.size?, align_mask: 0, cpu: event.cpu };
        self.machine.as_ref()?.foresee(&request, &self.limits(event.device), &self.terms(event))
    }

    pub(super) fn copies_at_map(&self, event: &Event) -> bool {
        let terms = self.terms(event);
        self.copies.copies_at_map(terms.direction, terms.has(Terms::SKIP_CPU_SYNC))
    }

    /// Why a mapping was refused without slots having been sought.
    pub(super) fn refusal(&self, event: &Event) -> (Option<Cause>, String) {
        let limits = self.limits(event.device);
        match (self.foresee(event), self.pool()) {
            (Some(Foreseen::Refused), _) if event.size == Some(0) => {
                (Some(Cause::Empty), "a mapping of 0 bytes".to_owned())
            }
            (Some(Foreseen::Refused) | None, None) => {
                (Some(Cause::NoPool), "it would have to bounce, and there is no bounce pool".to_owned())
            }
            (Some(Foreseen::Refused), _) => (
                Some(Cause::NotAddressable),
                format!("the device does not reach the buffer (reach {:#x}), and no copy will do", limits.reach),
            ),
            (Some(Foreseen::Bounced(_)), Some(pool)) => {
                let end = pool.start.saturating_add(pool.nslabs * trace::pool::SLOT_BYTES).saturating_sub(1);
                let seen = limits.bus(end);
                if !limits.capable(seen, 1) {
                    let reach = limits.reach;
                    let text = match seen {
                        u64::MAX => format!("the device's bus does not see where the pool ends, at {end:#x}"),
                        seen => format!("the device reaches {reach:#x}, the pool ends at {seen:#x}"),
                    };
                    (Some(Cause::PoolAboveMask), text)
                } else {
                    (None, "it had to bounce; no refused slots are recorded with it".to_owned())
                }
            }
            (Some(Foreseen::Bounced(_)), None) => (Some(Cause::NoPool), "there is no bounce pool".to_owned()),
            (Some(Foreseen::Direct(_)), _) => (None, "by the rules it needs no bounce buffer".to_owned()),
            (None, _) => (None, "the record has no address, size or frame to judge by".to_owned()),
        }
    }
}
