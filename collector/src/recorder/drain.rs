//! The thread that empties the ring buffer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use trace::sums::{Occupancy, Reading};
use trace::{Device, Event, Task};

use super::KEEP;
use super::shared::Shared;
use crate::decode::{self, Decoder, Faults};
use crate::error::CollectorError;
use crate::kernel::clock;
use crate::privilege;
use crate::sums::Sums;
use crate::usage::Usage;

/// How often the ring is looked at; see LAB: polling costs less than a wake-up an event.
const POLL: Duration = Duration::from_millis(2);
/// The same in aggregate mode, where only devices come through it.
const SLOW_POLL: Duration = Duration::from_millis(100);
/// How often the sums are read.
const READ: Duration = Duration::from_secs(1);
/// Events handed on at once.
const BATCH: usize = 8192;

pub(crate) type Logger = aya_log::EbpfLogger<&'static dyn log::Log>;

/// What travels from the drainer to the writer.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    /// All devices, when one is new or changed.
    pub(crate) devices: Option<Vec<Device>>,
    /// All threads, when there are new ones.
    pub(crate) tasks: Option<Vec<Task>>,
    /// The decoder's, when they have changed.
    pub(crate) faults: Option<Faults>,
    /// The sums, in aggregate mode.
    pub(crate) sums: Option<Reading>,
    /// The pool, where it is looked at.
    pub(crate) looks: Vec<Occupancy>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        let Self { events, devices, tasks, faults, sums, looks } = self;
        let told = devices.is_some() || tasks.is_some() || faults.is_some() || sums.is_some();
        events.is_empty() && looks.is_empty() && !told
    }
}

/// Empties the ring buffer while programs are attached one after the other and the recorder is made ready: under load the one
/// takes seconds, as does the snapshot of a busy pool or a new trace on a busy disk, which is longer than the ring lasts.
///
/// Mappings seen without their slots, or slots without their mappings, would be told as if that were how it was; so a recording
/// begins when all is attached, and ends before the first program is detached. What came before is left out and counted.
pub(crate) struct Gatherer {
    begin: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    began: Receiver<u64>,
    /// Taken when it is waited for.
    thread: Option<JoinHandle<Gathered>>,
}

/// What was in the ring buffer meanwhile.
pub(crate) struct Gathered {
    pub(crate) ring: RingBuf<MapData>,
    /// Devices, threads and losses, and what is part of the recording, as they came.
    pub(crate) records: Vec<Vec<u8>>,
    /// Events from before the beginning, by CPU.
    pub(crate) outside: Vec<u64>,
}

/// Bytes of records gathered at most; what comes then stays in the ring.
const GATHERED: usize = 48 << 20;

impl Gatherer {
    /// Starts to empty the ring buffer.
    pub(crate) fn start(ring: RingBuf<MapData>) -> Result<Self, CollectorError> {
        let (begin, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (told, began) = sync_channel(1);
        let work = {
            let (begin, stop) = (Arc::clone(&begin), Arc::clone(&stop));
            move || gather(ring, &begin, &told, &stop)
        };
        let thread = thread::Builder::new().name("gatherer".to_owned()).spawn(work);
        let thread = thread.map_err(|e| CollectorError::NoThread { reason: e.to_string() })?;
        Ok(Self { begin, stop, began, thread: Some(thread) })
    }

    /// Everything is attached: the recording begins, at the time that is returned (CLOCK_MONOTONIC).
    pub(crate) fn begin(&self) -> Result<u64, CollectorError> {
        self.begin.store(true, Ordering::Release);
        self.began.recv().map_err(|_| died())
    }

    /// Ends.
    pub(crate) fn finish(mut self) -> Result<Gathered, CollectorError> {
        self.stop.store(true, Ordering::Release);
        self.thread.take().and_then(|thread| thread.join().ok()).ok_or_else(died)
    }
}

fn died() -> CollectorError {
    CollectorError::NoThread { reason: "the one that empties the ring buffer died".to_owned() }
}

fn gather(mut ring: RingBuf<MapData>, begin: &AtomicBool, told: &SyncSender<u64>, stop: &AtomicBool) -> Gathered {
    hurry("the ring buffer is emptied");
    let (mut records, mut bytes, mut outside) = (Vec::new(), 0, Vec::new());
    let mut base_ns = u64::MAX;
    // The beginning is set here, between two records: whatever was taken out before it was stamped before it.
    let beginning = |base_ns: &mut u64| {
        if *base_ns == u64::MAX && begin.load(Ordering::Acquire) {
            *base_ns = clock(libc::CLOCK_MONOTONIC);
            // Nobody waits when the recorder has not come about.
            let _ = told.send(*base_ns);
        }
    };
    loop {
        // Asked before looking, as the drainer does.
        let stopping = stop.load(Ordering::Acquire);
        beginning(&mut base_ns);
        while bytes < GATHERED
            && let Some(record) = ring.next()
        {
            match decode::stamp(&record).filter(|event| event.time_ns < base_ns) {
                Some(early) => {
                    let cpu = usize::from(early.cpu);
                    outside.resize(outside.len().max(cpu + 1), 0);
                    outside[cpu] += 1;
                }
                None => {
                    bytes += record.len();
                    records.push(record.to_vec());
                }
            }
            drop(record);
            // The ring may fill as fast as it is emptied.
            beginning(&mut base_ns);
        }
        if stopping {
            return Gathered { ring, records, outside };
        }
        thread::sleep(POLL);
    }
}

impl Drop for Gatherer {
    /// Should the recorder not come about, nobody waits for it.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// What the drainer works with and hands back.
pub(crate) struct Drainer {
    /// What came while the recorder was made ready.
    pub(crate) gathered: Vec<Vec<u8>>,
    pub(crate) ring: RingBuf<MapData>,
    pub(crate) logger: Option<Logger>,
    pub(crate) decoder: Decoder,
    pub(crate) sums: Option<Sums>,
    pub(crate) usage: Option<Usage>,
    pub(crate) sender: SyncSender<Batch>,
}

/// Puts this thread before ordinary ones: on a loaded machine with one CPU the load would otherwise fill the ring buffer
/// between two turns of the thread that empties it. Without the right to do so recording goes on as it is. Sealing, which
/// is most of the work, does not hurry.
pub(crate) fn hurry(what: &str) {
    // SAFETY: takes plain numbers; 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    if done != 0 {
        tracing::warn!("{what} at ordinary priority: {}", std::io::Error::last_os_error());
    }
}

impl Drainer {
    /// Runs until told to stop, or until nobody takes what it hands on.
    pub(crate) fn run(mut self, shared: &Shared) -> Self {
        hurry("the ring buffer is emptied");
        privilege::settle();
        let (mut told, mut told_at) = (Faults::default(), Instant::now());
        let (mut tasks_at, mut read_at) = (told_at, told_at);
        let mut gathered = std::mem::take(&mut self.gathered).into_iter();
        loop {
            // Asked before looking: whatever came before the stop is then still taken.
            let stopping = shared.stop.load(Ordering::Acquire);
            let mut batch = Batch::default();
            while batch.events.len() < BATCH
                && let Some(record) = gathered.next()
            {
                batch.events.extend(self.decoder.record(&record));
            }
            while batch.events.len() < BATCH
                && let Some(item) = self.ring.next()
            {
                let end_ns = shared.end_ns.load(Ordering::Acquire);
                if end_ns != u64::MAX
                    && let Some(late) = decode::stamp(&item).filter(|event| event.time_ns > end_ns)
                {
                    self.decoder.leave_out(usize::from(late.cpu), 1);
                    continue;
                }
                batch.events.extend(self.decoder.record(&item));
            }
            if let Some(logger) = &mut self.logger {
                logger.flush();
            }
            let full = batch.events.len() >= BATCH;
            batch.devices = self.decoder.take_devices();
            if stopping || tasks_at.elapsed() >= KEEP {
                (batch.tasks, tasks_at) = (self.decoder.take_tasks(), Instant::now());
            }
            if told_at.elapsed() >= KEEP && told != *self.decoder.faults() {
                (told, told_at) = (self.decoder.faults().clone(), Instant::now());
                batch.faults = Some(told.clone());
            }
            if let Some(sums) = &self.sums
                && (stopping && !full || read_at.elapsed() >= READ)
            {
                let (reading, by_cpu) = sums.read(&self.decoder);
                *shared.summed.lock().unwrap_or_else(PoisonError::into_inner) = by_cpu;
                (batch.sums, read_at) = (Some(reading), Instant::now());
            }
            if let Some(usage) = &mut self.usage {
                batch.looks = usage.look(stopping && !full);
                self.decoder.unlooked(usage.failed());
            }
            if !batch.is_empty() {
                shared.events.fetch_add(batch.events.len() as u64, Ordering::Relaxed);
                if self.sender.send(batch).is_err() {
                    return self;
                }
            }
            if !full {
                if stopping {
                    return self;
                }
                thread::sleep(if self.sums.is_some() { SLOW_POLL } else { POLL });
            }
        }
    }
}
