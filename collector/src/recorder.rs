//! Records a trace: attach, snapshot, drain, close.
//!
//! Two threads: one drains the ring buffer and decodes, the other writes, so that a slow disk fills a queue before it
//! fills the ring. When the queue is full as well the ring overflows, which is counted and shown.
//!
//! The tool's own disk writes are mappings like any other and are recorded: they take slots too, and a trace without
//! them could not be verified. They are few: one mapping carries the bytes of thousands of events.
//!
//! | module | what lives there |
//! |---|---|
//! | `drain` | the thread that empties the ring buffer |
//! | `write` | the thread that writes a trace |
//! | `feed` | what a looker-on is told |
//! | `around` | devices, threads, stacks and frames that events name |
//! | `shared` | counters, and the accounts of losses |

pub(crate) mod around;
pub(crate) mod drain;
mod feed;
pub(crate) mod shared;
mod write;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, PerCpuArray, RingBuf, StackTraceMap};
use trace::meta::{Capture, Clock, CpuCount, Losses};
use trace::sums::{Occupancy, Reading};
use trace::{Device, Meta, SnapshotSlot, Writer};

use crate::attach::{self, Choice};
use crate::backends::POOL_USE;
use crate::decode::Decoder;
use crate::device::Devices;
use crate::doctor::observes;
use crate::error::CollectorError;
use crate::flight::{Flown, Keeper};
use crate::host;
use crate::kcore::Kcore;
use crate::kernel::{self, Kernel, clock};
use crate::options::{Mode, Options};
use crate::privilege;
use crate::stacks::Stacks;
use crate::sums::Sums;
use crate::usage::Usage;
use around::{Around, frame_table};
use drain::{Batch, Drainer, Gathered, Gatherer};
use feed::Feeder;
use shared::{Began, Shared};
use write::Written;

/// Counters while recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events taken from the ring buffer.
    pub events: u64,
    /// Records lost because it was full.
    pub lost: u64,
    /// Bytes of the trace on disk.
    pub bytes: u64,
}

/// A finished recording.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The trace's folder; of a flight recorder what its dumps are named after.
    pub path: PathBuf,
    /// Its metadata as stored: duration, back-ends, pools, losses.
    pub meta: Meta,
    /// Events in it.
    pub events: u64,
    /// Devices in it.
    pub devices: usize,
    /// What a flight recorder wrote.
    pub flown: Option<Flown>,
    /// What an aggregate recording came to, and the devices it names.
    pub sums: Option<(Reading, Vec<Device>)>,
    /// The pool where it was looked at from time to time, because slots are not seen one by one or it was asked for.
    pub looks: Vec<Occupancy>,
}

/// A recording under way. Dropping it without [`Recorder::finish`] leaves a trace that opens, as after a SIGKILL.
pub struct Recorder {
    ebpf: Ebpf,
    choices: Vec<Choice>,
    meta: Meta,
    snapshot: Vec<SnapshotSlot>,
    path: PathBuf,
    shared: Arc<Shared>,
    drainer: JoinHandle<Drainer>,
    writer: JoinHandle<Result<Output, CollectorError>>,
}

/// Where events go.
enum Sink {
    /// Into a trace, and past a looker-on.
    Trace(Box<Writer>, Option<Feeder>),
    /// Into memory, until something happens.
    Flight(Box<Keeper>),
    /// To a looker-on alone.
    Feed(Feeder),
}

/// What came of it.
enum Output {
    Trace(Box<Written>),
    Flight(Flown),
    /// How many devices were seen, and what went wrong.
    Told(usize, Vec<String>),
}

impl Sink {
    fn run(
        self,
        batches: &Receiver<Batch>,
        shared: &Shared,
        meta: &Meta,
        around: Around,
    ) -> Result<Output, CollectorError> {
        match self {
            Self::Trace(writer, feeder) => write::write(*writer, feeder, batches, shared, meta, around)
                .map(|written| Output::Trace(Box::new(written))),
            Self::Flight(keeper) => Ok(Output::Flight(keeper.run(batches, shared, around))),
            Self::Feed(feeder) => {
                let around = feeder.run(batches, shared, meta, around);
                Ok(Output::Told(around.devices.0.len(), around.notes))
            }
        }
    }

    fn abort(self) {
        if let Self::Trace(writer, _) = self {
            writer.abort();
        }
    }
}

/// How often p2m, stacks, threads and the losses so far are written at most, which syncs the disk.
pub(crate) const KEEP: Duration = Duration::from_secs(2);
/// Why the pool is unknown when the kernel's log does not help either.
const NOT_IN_LOG: &str = "the kernel's log, where most kernels say it, does not, or cannot be read (CAP_SYSLOG)";
/// Batches waiting for the disk at most.
const QUEUE: usize = 64;

impl Recorder {
    /// Attaches the probe, takes the snapshot of the pool and begins to write.
    ///
    /// # Errors
    /// See [`CollectorError`]. Nothing is left behind then.
    pub fn start(options: &Options) -> Result<Self, CollectorError> {
        options.check()?;
        let missing: Vec<_> = privilege::missing().into_iter().filter(|m| m.required).collect();
        if !missing.is_empty() {
            return Err(CollectorError::NotAllowed { missing });
        }
        let kernel = Kernel::discover();
        let load = |reason: String| CollectorError::Load { reason };
        let globs = Box::new(options.filters.globs()?);
        let copies = host::preempts();
        let settings = probe::Settings { copies: u32::from(copies), ..options.settings() };
        let setup = attach::Setup { settings, globs, ring_bytes: options.ring_bytes };
        let mut ebpf = attach::load(&kernel.layout, &setup).map_err(load)?;
        let map = |ebpf: &mut Ebpf, name: &str| {
            ebpf.take_map(name).ok_or_else(|| load(format!("the object has no map {name}")))
        };
        let ring = RingBuf::try_from(map(&mut ebpf, "EVENTS")?).map_err(|e| load(e.to_string()))?;
        let losses = PerCpuArray::try_from(map(&mut ebpf, "LOSSES")?).map_err(|e| load(e.to_string()))?;
        let gatherer = Gatherer::start(ring)?;
        let types = aya::Btf::from_sys_fs().ok();
        let attach::Attached { mut ebpf, mut choices } =
            attach::attach(ebpf, &kernel.types(types.as_ref()), options.mode, options.backend, copies);
        if options.flight.is_some() {
            // Looks are no events, which are all that a flight recorder keeps.
            choices.retain(|choice| choice.event != POOL_USE);
        }
        if !observes(&choices) {
            return Err(CollectorError::NothingToObserve { choices });
        }
        let programs = attach::programs(&ebpf);
        // Asked before, so that what is missed in between counts.
        let pair = attach::pair(&ebpf);
        let began = Began::now(&losses, &programs, pair.as_ref());
        let monotonic_ns = gatherer.begin()?;
        let since_ns = clock(libc::CLOCK_MONOTONIC).saturating_sub(monotonic_ns);
        let clock_base =
            Clock { monotonic_ns, realtime_ns: clock(libc::CLOCK_REALTIME).saturating_sub(since_ns), duration_ns: 0 };
        let mut notes = kernel.missing.clone();
        notes.extend(attach::without_drivers(&choices, !options.filters.drivers.is_empty()));
        for choice in &choices {
            match choice.backend {
                None => notes.push(format!("{} is not recorded: {}", choice.event, choice.without)),
                Some(backend) => notes.extend(choice.caveat.map(|c| format!("{} by {backend}: {c}", choice.event))),
            }
        }
        let logger = aya_log::EbpfLogger::init(&mut ebpf)
            .inspect_err(|e| tracing::warn!("no diagnostics from the probe: {e}"))
            .ok();
        let usage = Usage::taken(&choices, monotonic_ns, &mut notes);
        let stacks = StackTraceMap::try_from(map(&mut ebpf, "STACKS")?).map_err(|e| load(e.to_string()))?;
        let (sums, usage) = match options.mode {
            Mode::Aggregate => {
                let numbers = Array::<_, u64>::try_from(map(&mut ebpf, "NUMBERS")?).map_err(|e| load(e.to_string()))?;
                let numbers = numbers.get(&0, 0).unwrap_or(0);
                let sums = PerCpuArray::try_from(map(&mut ebpf, "SUMS")?).map_err(|e| load(e.to_string()))?;
                (Some(Sums::new(sums, numbers, monotonic_ns, || (Kernel::discover(), usage))), None)
            }
            Mode::Full | Mode::Bounces => (None, usage),
        };

        let snapshot = kernel.snapshot();
        let snapshot_ns = clock(libc::CLOCK_MONOTONIC) - clock_base.monotonic_ns;
        let mut pool_unknown = None;
        let (pools, slots, exact, taken) = match snapshot {
            Ok(s) => {
                notes.extend(s.doubt);
                (s.pools, s.slots, s.exact, true)
            }
            Err(why) => {
                notes.push(format!("no snapshot of the pool: {why}"));
                let pool = kernel.pool_from_log();
                if pool.is_none() {
                    let size = kernel::slots_by_debugfs().map_or_else(String::new, |slots| {
                        format!("; debugfs says that it has {} slots", trace::field::count(slots))
                    });
                    pool_unknown = Some(format!("{why}; {NOT_IN_LOG}{size}"));
                }
                (pool.into_iter().collect(), Vec::new(), false, false)
            }
        };
        let pads = kernel.pool_layout().is_ok_and(|l| l.pads.is_some());
        let mut decoder = Decoder::new(clock_base.monotonic_ns, pools.clone(), pads);
        // What cannot be opened was said of the snapshot.
        if let (Ok(btf), Ok(memory)) = (&kernel.btf, Kcore::open()) {
            decoder.look_with(Devices::new(btf, &kernel.symbols, memory));
        }
        decoder.leave_out_losses(began.lost());
        for slot in &slots {
            decoder.padded(slot);
        }
        let filters = options.filters.described();
        if !filters.is_empty() {
            // More addresses than were given out, but none that another allocation has.
            decoder.only_own(slots.iter().filter_map(|slot| slot.tlb_addr(&pools)));
        }
        let p2m = frame_table(&kernel, &mut notes);
        let allocator = kernel.allocator();
        let meta = Meta {
            allocator,
            host: kernel.host,
            xen: kernel.xen,
            pools,
            pool_unknown,
            snapshot_ns: taken.then_some(snapshot_ns),
            snapshot_exact: exact,
            capture: Capture {
                mode: options.mode.name().to_owned(),
                backends: choices.iter().filter_map(|c| Some((c.event.to_owned(), c.backend?.to_owned()))).collect(),
                workload: options.workload.clone(),
                ring_bytes: u64::from(options.ring_bytes),
                filters,
                trigger: None,
            },
            clock: clock_base,
            losses: Losses { notes, ..Losses::default() },
            ..Meta::new()
        };
        let mut meta = meta;
        // Also where only notes are shown, answers then say what they are made from.
        meta.losses.notes.extend(meta.capture.partial());
        meta.losses.notes.extend(options.flight.as_ref().map(|flight| flight.doubts(&meta)).unwrap_or_default());
        let feeder = options.feed.clone().map(|feed| Feeder::new(feed, clock_base.monotonic_ns));
        let snapshot = if feeder.is_some() { slots.clone() } else { Vec::new() };
        let sink = match (&options.flight, feeder) {
            (Some(flight), _) => {
                Sink::Flight(Box::new(Keeper::new(options.path.clone(), flight.clone(), meta.clone(), &slots)))
            }
            (None, Some(feeder)) if !options.store => Sink::Feed(feeder),
            (None, feeder) => {
                let mut writer = Writer::create(&options.path, meta.clone())?;
                if taken {
                    writer.set_snapshot(slots);
                }
                Sink::Trace(Box::new(writer), feeder)
            }
        };
        let shared = Shared {
            stop: AtomicBool::new(false),
            end_ns: AtomicU64::new(u64::MAX),
            dump: AtomicBool::new(false),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            losses,
            programs,
            pair,
            began,
            ended: OnceLock::new(),
            summed: Mutex::default(),
        };
        let around = Around::new(p2m, Stacks::new(stacks));
        let Gathered { ring, records: gathered, outside } = gatherer.finish()?;
        (0..).zip(outside).for_each(|(cpu, events)| decoder.leave_out(cpu, events));
        let (sender, receiver) = sync_channel(QUEUE);
        let drainer = Drainer { gathered, ring, logger, decoder, sums, usage, sender };
        let recorder = Self::spawn(options.path.clone(), ebpf, choices, meta, shared, drainer, receiver, around, sink)?;
        Ok(Self { snapshot, ..recorder })
    }

    #[allow(clippy::too_many_arguments, reason = "the second half of start, split for length")]
    fn spawn(
        path: PathBuf,
        ebpf: Ebpf,
        choices: Vec<Choice>,
        meta: Meta,
        shared: Shared,
        drainer: Drainer,
        receiver: Receiver<Batch>,
        mut around: Around,
        sink: Sink,
    ) -> Result<Self, CollectorError> {
        // The threads begin with what is left.
        privilege::give_up(&path);
        let shared = Arc::new(shared);
        // The trace is handed over when both threads run: should one not start it can still be removed.
        let (hand_over, trace) = sync_channel::<Sink>(1);
        let writing = {
            let shared = Arc::clone(&shared);
            if let Some(p2m) = &mut around.p2m {
                meta.pools.iter().for_each(|pool| p2m.see_pool(pool.start, pool.nslabs * trace::pool::SLOT_BYTES));
            }
            let meta = meta.clone();
            let work = move || {
                // What waits for the disk is lost with the process: it must not wait for the load as well.
                drain::hurry("events are written");
                privilege::settle();
                let sink = trace.recv().map_err(|e| CollectorError::NoThread { reason: e.to_string() })?;
                sink.run(&receiver, &shared, &meta, around)
            };
            thread::Builder::new().name("writer".to_owned()).spawn(work)
        };
        let threads = writing.and_then(|writing| {
            let shared = Arc::clone(&shared);
            let work = move || drainer.run(&shared);
            Ok((writing, thread::Builder::new().name("drainer".to_owned()).spawn(work)?))
        });
        privilege::settle();
        match threads {
            Ok((writing, drainer)) => {
                // Should the thread be dead already it is told as any other failure of writing.
                let _ = hand_over.send(sink);
                Ok(Self { ebpf, choices, meta, snapshot: Vec::new(), path, shared, drainer, writer: writing })
            }
            Err(e) => {
                sink.abort();
                Err(CollectorError::NoThread { reason: e.to_string() })
            }
        }
    }

    /// How each event is captured.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// The metadata as it is at the start: host, pools, back-ends.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The slots in use at the start, for one who looks on; empty without [`Options::feed`].
    #[must_use]
    pub fn snapshot(&self) -> &[SnapshotSlot] {
        &self.snapshot
    }

    /// The loaded object, for the bench, which attaches programs of its own to it.
    #[doc(hidden)]
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            events: self.shared.events.load(Ordering::Relaxed),
            lost: self.shared.lost().iter().map(|l| l.lost).sum(),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
        }
    }

    /// Whether writing has failed; [`Recorder::finish`] then tells why.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.writer.is_finished()
    }

    /// What became of each CPU's records up to now, as far as the kernel counts it: `stored` is known at the end only.
    #[must_use]
    pub fn by_cpu(&self) -> Vec<CpuCount> {
        shared::by_cpu(&self.shared.lost(), std::iter::empty())
    }

    /// Asks a flight recorder to write its window.
    pub fn dump(&self) {
        self.shared.dump.store(true, Ordering::Relaxed);
    }

    /// Detaches, takes what is left in the ring buffer and closes the trace.
    ///
    /// # Errors
    /// When the trace cannot be written; what was written can be opened.
    pub fn finish(mut self) -> Result<Summary, CollectorError> {
        let end_ns = clock(libc::CLOCK_MONOTONIC);
        let duration_ns = end_ns - self.meta.clock.monotonic_ns;
        self.shared.end_ns.store(end_ns, Ordering::Release);
        self.shared.end();
        attach::detach(&mut self.ebpf);
        self.shared.stop.store(true, Ordering::Release);
        let lost = self.shared.lost();
        let dead = |what: &str| CollectorError::Thread { path: self.path.clone(), reason: format!("{what} died") };
        let Drainer { decoder, sender, .. } =
            self.drainer.join().map_err(|_| dead("the thread that reads the ring buffer"))?;
        let last = Batch { events: shared::unreported(&lost, self.meta.clock.monotonic_ns), ..Batch::default() };
        // A writer that has failed tells why when it is joined.
        let _ = sender.send(last);
        drop(sender);
        let output = self.writer.join().map_err(|_| dead("the thread that writes"))??;

        let mut meta = self.meta;
        meta.clock.duration_ns = duration_ns;
        let mut notes = std::mem::take(&mut meta.losses.notes);
        match &output {
            Output::Trace(written) => notes.extend_from_slice(&written.notes),
            Output::Told(_, told) => notes.extend_from_slice(told),
            Output::Flight(_) => {}
        }
        meta.losses = self.shared.losses(decoder.faults(), notes);
        meta.losses.by_cpu = shared::by_cpu(&self.shared.lost(), decoder.by_cpu());
        meta.closed = true;
        let events = self.shared.events.load(Ordering::Relaxed);
        let path = self.path;
        match output {
            Output::Trace(written) => {
                meta.losses.p2m_changed = written.p2m_changed;
                meta.losses.stacks_missed += written.stacks_unread;
                let Written { writer, devices, sums, looks, .. } = *written;
                let count = devices.len();
                writer.close(meta.clone())?;
                let sums = sums.map(|sums| (sums, devices));
                Ok(Summary { path, meta, events, devices: count, flown: None, sums, looks })
            }
            Output::Flight(flown) => {
                let (devices, flown) = (flown.devices, Some(flown));
                Ok(Summary { path, meta, events, devices, flown, sums: None, looks: Vec::new() })
            }
            Output::Told(devices, _) => {
                Ok(Summary { path, meta, events, devices, flown: None, sums: None, looks: Vec::new() })
            }
        }
    }

    /// Detaches and removes what was written, for a recording that turned out to be of no use.
    pub fn abort(mut self) {
        attach::detach(&mut self.ebpf);
        self.shared.stop.store(true, Ordering::Release);
        // A thread that died has nothing to be removed by.
        let Ok(drainer) = self.drainer.join() else { return };
        drop(drainer);
        if let Ok(Ok(Output::Trace(written))) = self.writer.join() {
            written.writer.abort();
        }
    }
}
