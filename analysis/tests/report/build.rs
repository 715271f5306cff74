//! A builder of small traces for the cases of docs/report.md: mappings as a driver makes them, slots as the kernel of that
//! release would choose them, so that the model predicts every one.
//!
//! ```text
//! let mut b = Build::new("6.12.1", 512);                  // a pool of 512 slots at 16 MiB, not forced
//! let disk = b.device("0000:00:03.0", "ahci", u64::MAX);  // with that DMA mask
//! let one = b.map(disk, 1 << 33, 4096);                   // out of a 32-bit device's reach: bounces
//! b.wait(SECOND);                                         // the clock goes on by itself by 1 µs an event
//! b.unmap(one);
//! let trace = b.finish();
//! ```

use replay::{Base, Limits, Machine, Mapped, Platform, PlatformKind, Policy, Request, Terms};
use tempfile::TempDir;
use trace::meta::Xen;
use trace::pool::{P2mKind, SLOT_BYTES};
use trace::sums::Occupancy;
use trace::{Device, Direction, Event, Meta, Op, P2mRun, Pool, SnapshotSlot, StackFrame, Trace, Writer};

pub const SECOND: u64 = 1_000_000_000;
pub const MILLI: u64 = 1_000_000;
/// Where the pool begins.
pub const POOL: u64 = 0x100_0000;

/// A mapping that was made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    device: u32,
    pub dma_addr: u64,
    tlb_addr: Option<u64>,
    size: u64,
    cpu: u32,
}

/// A trace being built.
pub struct Build {
    pub meta: Meta,
    pub devices: Vec<Device>,
    pub events: Vec<Event>,
    pub snapshot: Vec<SnapshotSlot>,
    pub p2m: Vec<P2mRun>,
    stacks: Vec<StackFrame>,
    stack: Option<u32>,
    machine: Option<Machine>,
    pub cpu: u32,
    pub now: u64,
    pub direction: Direction,
    /// What each slot allocation is said to have taken.
    pub latency: Option<u64>,
    /// Looks at the pool, where slots are not seen.
    pub looks: Vec<Occupancy>,
}

/// A trace, and the folder it lies in for as long as it is looked at.
pub struct Built {
    pub trace: Trace,
    _folder: TempDir,
}

impl Build {
    /// A machine with a kernel of that release and a pool of so many slots; none for 0.
    pub fn new(release: &str, nslabs: u64) -> Self {
        let mut meta = Meta::new();
        meta.host.release = release.to_owned();
        meta.host.possible_cpus = 1;
        meta.host.memory = 16 << 30;
        meta.host.machine = "x86_64".to_owned();
        meta.capture.mode = "full".to_owned();
        for kind in ["map", "unmap", "sync", "slot_alloc", "slot_free"] {
            meta.capture.backends.insert(kind.to_owned(), "test".to_owned());
        }
        meta.capture.workload = "a test".to_owned();
        meta.snapshot_ns = Some(0);
        meta.snapshot_exact = true;
        if nslabs > 0 {
            let pool = Pool { start: POOL, nslabs, nareas: 1, force_bounce: false, ..Pool::default() };
            meta.pools.push(pool);
        }
        Self {
            meta,
            devices: Vec::new(),
            events: Vec::new(),
            snapshot: Vec::new(),
            p2m: Vec::new(),
            stacks: Vec::new(),
            stack: None,
            machine: None,
            cpu: 0,
            now: MILLI,
            direction: Direction::Bidirectional,
            latency: None,
            looks: Vec::new(),
        }
    }

    /// With everything bouncing.
    pub fn forced(mut self) -> Self {
        self.meta.pools[0].force_bounce = true;
        self
    }

    /// With so many CPUs, and as many areas.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.meta.host.possible_cpus = cpus;
        self.meta.pools[0].nareas = cpus;
        self
    }

    /// As a Xen PV dom0: frames are their own machine frames, but for those of `runs`.
    pub fn xen(mut self, runs: &[(u64, u64, u64)]) -> Self {
        self.meta.xen = Some(Xen { mode: "pv".to_owned(), version: "4.17.7".to_owned(), dom0: true });
        let run = |&(pfn, mfn, count): &(u64, u64, u64)| P2mRun { pfn, mfn, count, kind: P2mKind::Own };
        self.p2m = runs.iter().map(run).collect();
        self
    }

    /// A device that reaches up to a mask.
    pub fn device(&mut self, name: &str, driver: &str, mask: u64) -> u32 {
        let id = self.devices.len() as u32;
        self.devices.push(Device {
            id,
            name: name.to_owned(),
            driver: Some(driver.to_owned()),
            dma_mask: Some(mask),
            coherent_dma_mask: mask,
            bus_dma_limit: 0,
            seg_boundary_mask: None,
            max_segment_size: None,
            min_align_mask: 0,
            ..Device::new(0, "")
        });
        id
    }

    /// The calls of the events to come, innermost first.
    pub fn stack(&mut self, calls: &[&str]) {
        let stack = self.stack.map_or(0, |stack| stack + 1);
        self.stack = Some(stack);
        for (frame, call) in (0u32..).zip(calls) {
            self.stacks.push(StackFrame {
                stack,
                frame,
                address: 0xffff_ffff_8100_0000 + u64::from(frame),
                symbol: Some((*call).to_owned()),
                offset: Some(1),
            });
        }
    }

    /// Lets time pass.
    pub fn wait(&mut self, ns: u64) {
        self.now += ns;
    }

    fn machine(&mut self) -> Option<&mut Machine> {
        if self.machine.is_none() && !self.meta.pools.is_empty() {
            let policy = Policy::parse(&self.meta.host.release).unwrap();
            let base = Base::of_pool(&self.meta.pools[0], Some(self.meta.host.possible_cpus));
            let platform = Platform::recorded(PlatformKind::of_recorded(&self.meta).into(), &self.p2m);
            self.machine = Some(Machine::new(&policy.resolve(&base).unwrap(), platform));
        }
        self.machine.as_mut()
    }

    fn push(&mut self, op: Op, device: u32, fill: impl FnOnce(&mut Event)) {
        self.now += 1_000;
        let mut event = Event::new(op, self.now, self.cpu, 100 + self.cpu, device);
        fill(&mut event);
        self.events.push(event);
    }

    /// Maps a buffer as the kernel would; nothing when it refuses.
    pub fn try_map(&mut self, device: u32, orig_addr: u64, size: u64) -> Option<Made> {
        let (cpu, direction, stack, latency) = (self.cpu, self.direction, self.stack, self.latency);
        let limits = Limits::from(&self.devices[device as usize]);
        let untrusted = self.devices[device as usize].untrusted.unwrap_or(false);
        let request = Request { orig_addr, size, align_mask: 0, cpu };
        let terms = Terms { direction, untrusted, ..Terms::PLAIN };
        let asked = |event: &mut Event| {
            event.orig_addr = Some(orig_addr);
            event.size = Some(size);
            event.direction = Some(direction);
            event.attrs = Some(0);
            event.stack = stack;
        };
        let mapped = match self.machine() {
            Some(machine) => machine.map_on(&request, &limits, &terms).ok(),
            None => (orig_addr + size - 1 <= limits.reach).then_some(Mapped::Direct { dma_addr: orig_addr }),
        };
        match mapped {
            Some(Mapped::Direct { dma_addr }) => {
                self.push(Op::Map, device, |event| {
                    asked(event);
                    event.dma_addr = Some(dma_addr);
                });
                Some(Made { device, dma_addr, tlb_addr: None, size, cpu })
            }
            Some(Mapped::Bounced { dma_addr, taken, .. }) => {
                self.push(Op::SlotAlloc, device, |event| {
                    asked(event);
                    event.tlb_addr = Some(taken.tlb_addr);
                    event.first_slot = Some(taken.first_slot);
                    event.align_mask = Some(0);
                    event.latency_ns = latency;
                });
                self.push(Op::Map, device, |event| {
                    asked(event);
                    event.dma_addr = Some(dma_addr);
                });
                Some(Made { device, dma_addr, tlb_addr: Some(taken.tlb_addr), size, cpu })
            }
            None => {
                let foreseen = self.machine().and_then(|machine| machine.foresee(&request, &limits, &terms));
                if matches!(foreseen, Some(replay::Foreseen::Bounced(_))) {
                    self.push(Op::SlotFailed, device, |event| {
                        asked(event);
                        event.align_mask = Some(0);
                    });
                }
                self.push(Op::MapFailed, device, asked);
                None
            }
        }
    }

    /// A mapping bounced into a slot by rules the models do not have, its device given whatever address.
    pub fn bounce_at(&mut self, device: u32, orig_addr: u64, size: u64, slot: u64, dma_addr: u64) {
        let asked = |event: &mut Event| {
            (event.orig_addr, event.size, event.direction) =
                (Some(orig_addr), Some(size), Some(Direction::Bidirectional));
        };
        self.push(Op::SlotAlloc, device, |event| {
            asked(event);
            event.tlb_addr = Some(POOL + slot * SLOT_BYTES);
        });
        self.push(Op::Map, device, |event| {
            asked(event);
            event.dma_addr = Some(dma_addr);
        });
    }

    /// Maps a buffer that is not refused.
    pub fn map(&mut self, device: u32, orig_addr: u64, size: u64) -> Made {
        self.try_map(device, orig_addr, size).expect("there are slots")
    }

    /// Undoes a mapping.
    pub fn unmap(&mut self, made: Made) {
        let limits = Limits::from(&self.devices[made.device as usize]);
        let (direction, cpu) = (self.direction, self.cpu);
        self.cpu = made.cpu;
        if let Some(tlb_addr) = made.tlb_addr {
            if let Some(machine) = self.machine() {
                assert!(machine.unmap_at(tlb_addr, &limits));
            }
            self.push(Op::SlotFree, made.device, |event| event.tlb_addr = Some(tlb_addr));
        }
        self.push(Op::Unmap, made.device, |event| {
            event.dma_addr = Some(made.dma_addr);
            event.size = Some(made.size);
            event.direction = Some(direction);
        });
        self.cpu = cpu;
    }

    /// Hands a mapping to the CPU.
    pub fn sync(&mut self, made: Made) {
        let direction = self.direction;
        self.push(Op::SyncForCpu, made.device, |event| {
            event.dma_addr = Some(made.dma_addr);
            event.size = Some(made.size);
            event.direction = Some(direction);
        });
    }

    /// Says that so many records of a CPU were lost since a time.
    pub fn lost(&mut self, count: u64) {
        let since = self.now;
        self.push(Op::Lost, trace::event::NO_DEVICE, |event| {
            event.count = Some(count);
            event.since_ns = Some(since);
        });
    }

    /// Writes it down and opens it.
    pub fn finish(mut self) -> Built {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case.swio");
        self.meta.clock.duration_ns = self.now + MILLI;
        let mut writer = Writer::create(&path, self.meta.clone()).unwrap();
        writer.set_devices(self.devices);
        writer.set_stacks(self.stacks);
        writer.set_snapshot(self.snapshot);
        writer.set_p2m(self.p2m);
        if !self.looks.is_empty() {
            writer.set_occupancy(self.looks);
        }
        writer.extend(&self.events).unwrap();
        writer.close(self.meta).unwrap();
        Built { trace: Trace::open(&path).unwrap(), _folder: folder }
    }
}

/// Slots of a pool that were in use before the recording: each so many bytes at such an address.
pub fn held(first: u32, slots: u32, orig_addr: u64) -> Vec<SnapshotSlot> {
    let slot = |i| SnapshotSlot {
        slot: first + i,
        orig_addr: orig_addr + u64::from(i) * SLOT_BYTES,
        alloc_size: u64::from(slots - i) * SLOT_BYTES,
        pad_slots: 0,
        pool: Some(0),
    };
    (0..slots).map(slot).collect()
}
