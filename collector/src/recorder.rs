//! Records a trace: attach, snapshot, drain, close.
//!
//! Two threads: one drains the ring buffer and decodes, the other writes, so that a slow disk fills a queue before it
//! fills the ring. When the queue is full as well the ring overflows, which is counted and shown.
//!
//! The tool's own disk writes are mappings like any other and are recorded: they take slots too, and a trace without
//! them could not be verified. They are few: one mapping carries the bytes of thousands of events.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use probe::wire::CpuLoss;
use trace::event::NO_DEVICE;
use trace::meta::{Capture, Clock, Losses};
use trace::{Device, Event, Meta, Op, Writer, field};

use crate::attach::{self, Choice};
use crate::decode::{Decoder, Faults};
use crate::doctor::observes;
use crate::error::CollectorError;
use crate::kcore::Kcore;
use crate::kernel::{Kernel, clock};
use crate::p2m::P2m;
use crate::privilege;

/// What to record, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The trace's folder; must not exist.
    pub path: PathBuf,
    /// What runs meanwhile, in words, for meta.json: the command, or that it was whatever ran for a time.
    pub workload: String,
    /// Size of the ring buffer: a power of two of at least a page.
    pub ring_bytes: u32,
}

impl Options {
    /// Options with a ring buffer of 16 MiB, which takes 3 million events a second for some 80 ms.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, workload: impl Into<String>) -> Self {
        Self { path: path.into(), workload: workload.into(), ring_bytes: 1 << 24 }
    }
}

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
    /// The trace's folder.
    pub path: PathBuf,
    /// Its metadata as stored: duration, back-ends, pools, losses.
    pub meta: Meta,
    /// Events in it.
    pub events: u64,
    /// Devices in it.
    pub devices: usize,
}

/// A recording under way. Dropping it without [`Recorder::finish`] leaves a trace that opens, as after a SIGKILL.
pub struct Recorder {
    ebpf: Ebpf,
    choices: Vec<Choice>,
    meta: Meta,
    path: PathBuf,
    shared: Arc<Shared>,
    drainer: JoinHandle<(Decoder, SyncSender<Batch>)>,
    writer: JoinHandle<Result<Written, CollectorError>>,
}

struct Shared {
    stop: AtomicBool,
    events: AtomicU64,
    bytes: AtomicU64,
    losses: PerCpuArray<MapData, [u64; LOSS_WORDS]>,
    programs: Vec<OwnedFd>,
}

impl Shared {
    fn lost(&self) -> Vec<CpuLoss> {
        let values = self.losses.get(&0, 0);
        values.map(|cpus| cpus.iter().map(|words| bytemuck::cast(*words)).collect()).unwrap_or_default()
    }

    /// The losses up to now, those of p2m left out.
    fn losses(&self, faults: &Faults, mut notes: Vec<String>) -> Losses {
        let Faults { undecoded, sg_truncated, changed_devices, late, latest_ns } = faults;
        if *latest_ns >= SKEW_NS {
            notes.push(format!(
                "{} records came behind one with a later time, by {} at most, and were given that time: the CPUs' clocks disagree, or an interrupt came between a time stamp and its place in the ring buffer",
                field::count(*late),
                field::duration(*latest_ns)
            ));
        }
        for device in changed_devices {
            notes.push(format!("{device} changed its limits while in use: it has a second row"));
        }
        Losses {
            ring_full: self.lost().iter().map(|l| l.lost).sum(),
            probe_missed: attach::recursion_misses(&self.programs),
            undecoded: *undecoded,
            sg_truncated: *sg_truncated,
            p2m_changed: 0,
            notes,
        }
    }
}

/// What travels from the drainer to the writer.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    /// All devices, when one is new or changed.
    devices: Option<Vec<Device>>,
    /// The decoder's, when they have changed.
    faults: Option<Faults>,
}

/// What the writer hands back at the end.
struct Written {
    writer: Writer,
    p2m_changed: u64,
    devices: usize,
    notes: Vec<String>,
}

/// A [`CpuLoss`] as aya can read it.
const LOSS_WORDS: usize = size_of::<CpuLoss>() / 8;

/// How often the ring is looked at; see LAB: polling costs less than a wake-up an event.
const POLL: Duration = Duration::from_millis(2);
/// How often the trace is made safe against a SIGKILL, and newly seen p2m entries are read.
const FLUSH: Duration = Duration::from_millis(200);
/// How often p2m and the losses so far are written at most, which syncs the disk.
const KEEP: Duration = Duration::from_secs(2);
/// And no more than one part in so many of the time goes into it: a large p2m takes long.
const KEEP_SHARE: u32 = 10;
/// Events handed on at once.
const BATCH: usize = 8192;
/// Clocks this far apart are worth a note. Below it two CPUs took their time stamps in one order and their places in the
/// ring buffer in the other.
const SKEW_NS: u64 = 10_000;
/// Batches waiting for the disk at most.
const QUEUE: usize = 64;

impl Recorder {
    /// Attaches the probe, takes the snapshot of the pool and begins to write.
    ///
    /// # Errors
    /// See [`CollectorError`]. Nothing is left behind then.
    pub fn start(options: &Options) -> Result<Self, CollectorError> {
        let missing: Vec<_> = privilege::missing().into_iter().filter(|m| m.required).collect();
        if !missing.is_empty() {
            return Err(CollectorError::NotAllowed { missing });
        }
        let kernel = Kernel::discover();
        let load = |reason: String| CollectorError::Load { reason };
        let btf = kernel.btf.as_ref().map_err(|e| CollectorError::NoTypes { reason: e.to_string() })?;
        let types = aya::Btf::from_sys_fs().map_err(|e| load(e.to_string()))?;
        let ebpf = attach::load(&kernel.layout, options.ring_bytes).map_err(load)?;
        let clock_base = Clock {
            monotonic_ns: clock(libc::CLOCK_MONOTONIC),
            realtime_ns: clock(libc::CLOCK_REALTIME),
            duration_ns: 0,
        };
        let attach::Attached { mut ebpf, choices } = attach::attach(ebpf, btf, &types, kernel.layout.tbl_map_form);
        if !observes(&choices) {
            return Err(CollectorError::NothingToObserve { choices });
        }
        let mut notes = kernel.missing.clone();
        for choice in &choices {
            match choice.backend {
                None => notes.push(format!("{} is not recorded: {}", choice.event, choice.without)),
                Some(backend) => notes.extend(choice.caveat.map(|c| format!("{} by {backend}: {c}", choice.event))),
            }
        }
        let logger = aya_log::EbpfLogger::init(&mut ebpf)
            .inspect_err(|e| tracing::warn!("no diagnostics from the probe: {e}"))
            .ok();
        let map = |ebpf: &mut Ebpf, name: &str| {
            ebpf.take_map(name).ok_or_else(|| load(format!("the object has no map {name}")))
        };
        let ring = RingBuf::try_from(map(&mut ebpf, "EVENTS")?).map_err(|e| load(e.to_string()))?;
        let losses = PerCpuArray::try_from(map(&mut ebpf, "LOSSES")?).map_err(|e| load(e.to_string()))?;

        let snapshot = kernel.snapshot();
        let snapshot_ns = clock(libc::CLOCK_MONOTONIC) - clock_base.monotonic_ns;
        let (pools, slots, exact, taken) = match snapshot {
            Ok(s) => (s.pools, s.slots, s.exact, true),
            Err(why) => {
                notes.push(format!("no snapshot of the pool: {why}"));
                (kernel.pool_from_log().into_iter().collect(), Vec::new(), false, false)
            }
        };
        let pads = kernel.pool_layout().is_ok_and(|l| l.pads.is_some());
        let mut decoder = Decoder::new(clock_base.monotonic_ns, pools.clone(), pads);
        for slot in &slots {
            decoder.padded(slot.slot, slot.pad_slots, slot.orig_addr);
        }
        let p2m = frame_table(&kernel, &mut notes);
        let meta = Meta {
            host: kernel.host,
            xen: kernel.xen,
            pools,
            snapshot_ns: taken.then_some(snapshot_ns),
            snapshot_exact: exact,
            capture: Capture {
                mode: "full".to_owned(),
                backends: choices.iter().filter_map(|c| Some((c.event.to_owned(), c.backend?.to_owned()))).collect(),
                workload: options.workload.clone(),
                ring_bytes: u64::from(options.ring_bytes),
            },
            clock: clock_base,
            losses: Losses { notes, ..Losses::default() },
            ..Meta::new()
        };
        let mut writer = Writer::create(&options.path, meta.clone())?;
        if taken {
            writer.set_snapshot(slots);
        }
        let shared = Shared {
            stop: AtomicBool::new(false),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            losses,
            programs: attach::programs(&ebpf),
        };
        Self::spawn(options.path.clone(), ebpf, choices, meta, ring, shared, logger, decoder, writer, p2m)
    }

    #[allow(clippy::too_many_arguments, reason = "the second half of start, split for length")]
    fn spawn(
        path: PathBuf,
        ebpf: Ebpf,
        choices: Vec<Choice>,
        meta: Meta,
        ring: RingBuf<MapData>,
        shared: Shared,
        logger: Option<Logger>,
        decoder: Decoder,
        writer: Writer,
        mut p2m: Option<P2m>,
    ) -> Result<Self, CollectorError> {
        // The threads begin with what is left.
        privilege::give_up(&path);
        let shared = Arc::new(shared);
        let (sender, receiver) = sync_channel(QUEUE);
        // The trace is handed over when both threads run: should one not start it can still be removed.
        let (hand_over, trace) = sync_channel(1);
        let writing = {
            let shared = Arc::clone(&shared);
            if let Some(p2m) = &mut p2m {
                meta.pools.iter().for_each(|pool| p2m.see(pool.start, pool.nslabs * trace::pool::SLOT_BYTES));
            }
            let meta = meta.clone();
            let work = move || {
                // What waits for the disk is lost with the process: it must not wait for the load as well.
                hurry("events are written");
                privilege::settle();
                let writer = trace.recv().map_err(|e| CollectorError::NoThread { reason: e.to_string() })?;
                write(writer, &receiver, &shared, &meta, p2m)
            };
            thread::Builder::new().name("writer".to_owned()).spawn(work)
        };
        let threads = writing.and_then(|writing| {
            let shared = Arc::clone(&shared);
            let work = move || drain(ring, logger, decoder, sender, &shared);
            Ok((writing, thread::Builder::new().name("drainer".to_owned()).spawn(work)?))
        });
        privilege::settle();
        match threads {
            Ok((writing, drainer)) => {
                // Should the thread be dead already it is told as any other failure of writing.
                let _ = hand_over.send(writer);
                Ok(Self { ebpf, choices, meta, path, shared, drainer, writer: writing })
            }
            Err(e) => {
                writer.abort();
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

    /// Detaches, takes what is left in the ring buffer and closes the trace.
    ///
    /// # Errors
    /// When the trace cannot be written; what was written can be opened.
    pub fn finish(mut self) -> Result<Summary, CollectorError> {
        let duration_ns = clock(libc::CLOCK_MONOTONIC) - self.meta.clock.monotonic_ns;
        attach::detach(&mut self.ebpf);
        self.shared.stop.store(true, Ordering::Release);
        let lost = self.shared.lost();
        let dead = |what: &str| CollectorError::Thread { path: self.path.clone(), reason: format!("{what} died") };
        let (decoder, sender) = self.drainer.join().map_err(|_| dead("the thread that reads the ring buffer"))?;
        let last = Batch { events: unreported(&lost, self.meta.clock.monotonic_ns), ..Batch::default() };
        // A writer that has failed tells why when it is joined.
        let _ = sender.send(last);
        drop(sender);
        let written = self.writer.join().map_err(|_| dead("the thread that writes"))??;

        let mut meta = self.meta;
        meta.clock.duration_ns = duration_ns;
        let mut notes = meta.losses.notes;
        notes.extend(written.notes);
        meta.losses = Losses { p2m_changed: written.p2m_changed, ..self.shared.losses(decoder.faults(), notes) };
        meta.closed = true;
        written.writer.close(meta.clone())?;
        let events = self.shared.events.load(Ordering::Relaxed);
        Ok(Summary { path: self.path, meta, events, devices: written.devices })
    }

    /// Detaches and removes what was written, for a recording that turned out to be of no use.
    pub fn abort(mut self) {
        attach::detach(&mut self.ebpf);
        self.shared.stop.store(true, Ordering::Release);
        // A thread that died has nothing to be removed by.
        let Ok((_, sender)) = self.drainer.join() else { return };
        drop(sender);
        if let Ok(Ok(written)) = self.writer.join() {
            written.writer.abort();
        }
    }
}

type Logger = aya_log::EbpfLogger<&'static dyn log::Log>;

/// Xen PV's frame table, when this is one and it can be read.
fn frame_table(kernel: &Kernel, notes: &mut Vec<String>) -> Option<P2m> {
    if kernel.xen.as_ref().is_none_or(|xen| xen.mode != "pv") {
        return None;
    }
    let open = || {
        let symbol = |name: &str| kernel.symbols.address(name).ok_or_else(|| format!("no symbol {name}"));
        let memory = Kcore::open().map_err(|e| e.to_string())?;
        P2m::new(memory, symbol("xen_p2m_addr")?, symbol("xen_p2m_size")?).map_err(|e| e.to_string())
    };
    open().map_err(|why: String| notes.push(format!("no p2m, so straddling frames cannot be told: {why}"))).ok()
}

/// Gaps that no later record told of.
fn unreported(lost: &[CpuLoss], base_ns: u64) -> Vec<Event> {
    let gaps = (0..).zip(lost).filter(|(_, l)| l.lost > l.reported);
    gaps.map(|(cpu, l)| Event {
        count: Some(l.lost - l.reported),
        since_ns: Some(l.since_ns.saturating_sub(base_ns)),
        ..Event::new(Op::Lost, l.last_ns.saturating_sub(base_ns), cpu, 0, NO_DEVICE)
    })
    .collect()
}

/// Puts this thread before ordinary ones: on a loaded machine with one CPU the load would otherwise fill the ring buffer
/// between two turns of the thread that empties it. Without the right to do so recording goes on as it is. Sealing, which
/// is most of the work, does not hurry.
fn hurry(what: &str) {
    // SAFETY: takes plain numbers; 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    if done != 0 {
        tracing::warn!("{what} at ordinary priority: {}", std::io::Error::last_os_error());
    }
}

fn drain(
    mut ring: RingBuf<MapData>,
    mut logger: Option<Logger>,
    mut decoder: Decoder,
    sender: SyncSender<Batch>,
    shared: &Shared,
) -> (Decoder, SyncSender<Batch>) {
    hurry("the ring buffer is emptied");
    privilege::settle();
    let (mut told, mut told_at) = (Faults::default(), Instant::now());
    loop {
        // Asked before looking: whatever came before the stop is then still taken.
        let stopping = shared.stop.load(Ordering::Acquire);
        let mut events = Vec::new();
        while events.len() < BATCH
            && let Some(item) = ring.next()
        {
            events.extend(decoder.record(&item));
        }
        if let Some(logger) = &mut logger {
            logger.flush();
        }
        let full = events.len() >= BATCH;
        let devices = decoder.take_devices();
        let changed = told_at.elapsed() >= KEEP && told != *decoder.faults();
        let faults = changed.then(|| decoder.faults().clone());
        if let Some(faults) = &faults {
            (told, told_at) = (faults.clone(), Instant::now());
        }
        if !events.is_empty() || devices.is_some() || faults.is_some() {
            shared.events.fetch_add(events.len() as u64, Ordering::Relaxed);
            if sender.send(Batch { events, devices, faults }).is_err() {
                return (decoder, sender);
            }
        }
        if !full {
            if stopping {
                return (decoder, sender);
            }
            thread::sleep(POLL);
        }
    }
}

fn write(
    mut writer: Writer,
    batches: &Receiver<Batch>,
    shared: &Shared,
    meta: &Meta,
    mut p2m: Option<P2m>,
) -> Result<Written, CollectorError> {
    let mut devices = 0;
    let mut notes = Vec::new();
    let mut faults = Faults::default();
    let mut flushed = Instant::now();
    let mut keep_at = flushed;
    writer.flush()?;
    loop {
        let batch = match batches.recv_timeout(FLUSH) {
            Ok(batch) => Some(batch),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some(batch) = batch {
            if let Some(all) = batch.devices {
                devices = all.len();
                writer.set_devices(all);
            }
            if let Some(all) = batch.faults {
                faults = all;
            }
            if let Some(p2m) = &mut p2m {
                for event in &batch.events {
                    if let (Some(address), Some(size)) = (event.orig_addr, event.size) {
                        p2m.see(address, size);
                    }
                }
            }
            writer.extend(&batch.events)?;
        }
        if flushed.elapsed() >= FLUSH {
            flushed = Instant::now();
            if let Some(table) = &mut p2m {
                catch_up(table, &mut notes);
            }
            let began = Instant::now();
            if began >= keep_at {
                if let Some(table) = &p2m {
                    writer.set_p2m(table.runs());
                }
                let notes = [meta.losses.notes.as_slice(), notes.as_slice()].concat();
                writer.set_meta(Meta { losses: shared.losses(&faults, notes), ..meta.clone() });
                writer.flush()?;
                keep_at = Instant::now() + KEEP.max(began.elapsed() * KEEP_SHARE);
            } else {
                writer.flush()?;
            }
            shared.bytes.store(writer.bytes_written(), Ordering::Relaxed);
        }
    }
    let mut p2m_changed = 0;
    if let Some(table) = &mut p2m {
        catch_up(table, &mut notes);
        match table.changed() {
            Ok(changed) => p2m_changed = changed,
            Err(why) => notes.push(format!("it is not known whether p2m changed while recording: {why}")),
        }
        if table.beyond() > 0 {
            notes.push(format!("{} pages of buffers lie beyond the p2m table", table.beyond()));
        }
        writer.set_p2m(table.runs());
    }
    writer.flush()?;
    shared.bytes.store(writer.bytes_written(), Ordering::Relaxed);
    Ok(Written { writer, p2m_changed, devices, notes })
}

/// Reads the entries of new pages; what was read before a failure is kept.
fn catch_up(p2m: &mut P2m, notes: &mut Vec<String>) {
    if let Err(why) = p2m.catch_up() {
        notes.push(format!("p2m could not be read any further, nor whether it has changed: {why}"));
    }
}
