//! The thread that empties the ring buffer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use trace::sums::Reading;
use trace::{Device, Event, Task};

use super::KEEP;
use super::shared::Shared;
use crate::decode::{self, Decoder, Faults};
use crate::error::CollectorError;
use crate::privilege;
use crate::sums::Sums;

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
}

impl Batch {
    fn is_empty(&self) -> bool {
        let Self { events, devices, tasks, faults, sums } = self;
        events.is_empty() && devices.is_none() && tasks.is_none() && faults.is_none() && sums.is_none()
    }
}

/// What was in the ring buffer before everything was attached. Mappings seen without their slots, or slots without their
/// mappings, would be told as if that were how it was; so a recording begins behind them, and ends before the first
/// program is detached, which under load takes seconds.
pub(crate) struct Early {
    /// Devices, threads and losses, which hold for what follows too.
    pub(crate) kept: Vec<Vec<u8>>,
    /// Events left out, by CPU.
    pub(crate) events: Vec<u64>,
}

impl Early {
    /// Takes what is older than `base_ns` out of the ring buffer.
    pub(crate) fn take(ring: &mut RingBuf<MapData>, base_ns: u64) -> Self {
        let mut early = Self { kept: Vec::new(), events: Vec::new() };
        while let Some(record) = ring.next() {
            let Some(event) = decode::stamp(&record) else {
                early.kept.push(record.to_vec());
                continue;
            };
            let cpu = usize::from(event.cpu);
            if early.events.len() <= cpu {
                early.events.resize(cpu + 1, 0);
            }
            early.events[cpu] += 1;
            // It may fill as fast as it is emptied.
            if event.time_ns >= base_ns {
                break;
            }
        }
        early
    }
}

/// Empties the ring buffer while the recorder is made ready: the snapshot of a busy pool and a new trace on a busy disk can
/// take longer than the ring lasts, and what were lost then would be what follows the snapshot.
pub(crate) struct Gatherer {
    stop: Arc<AtomicBool>,
    /// Taken when it is waited for.
    thread: Option<JoinHandle<Gathered>>,
}

type Gathered = (RingBuf<MapData>, Vec<Vec<u8>>);

/// Bytes of records gathered at most; what comes then stays in the ring.
const GATHERED: usize = 48 << 20;

impl Gatherer {
    /// Begins.
    pub(crate) fn start(mut ring: RingBuf<MapData>) -> Result<Self, CollectorError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            hurry("the ring buffer is emptied");
            let (mut records, mut bytes) = (Vec::new(), 0);
            loop {
                // Asked before looking, as the drainer does.
                let stopping = stopped.load(Ordering::Acquire);
                while bytes < GATHERED
                    && let Some(record) = ring.next()
                {
                    bytes += record.len();
                    records.push(record.to_vec());
                }
                if stopping {
                    return (ring, records);
                }
                thread::sleep(POLL);
            }
        };
        let thread = thread::Builder::new().name("gatherer".to_owned()).spawn(work);
        let thread = thread.map_err(|e| CollectorError::NoThread { reason: e.to_string() })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends; the ring buffer, and the records taken out of it.
    pub(crate) fn finish(mut self) -> Result<Gathered, CollectorError> {
        self.stop.store(true, Ordering::Release);
        let gathered = self.thread.take().and_then(|thread| thread.join().ok());
        gathered
            .ok_or_else(|| CollectorError::NoThread { reason: "the one that empties the ring buffer died".to_owned() })
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
    /// Losses from before the beginning.
    pub(crate) first: Vec<Event>,
    /// What came while the recorder was made ready.
    pub(crate) gathered: Vec<Vec<u8>>,
    pub(crate) ring: RingBuf<MapData>,
    pub(crate) logger: Option<Logger>,
    pub(crate) decoder: Decoder,
    pub(crate) sums: Option<Sums>,
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
            let mut batch = Batch { events: std::mem::take(&mut self.first), ..Batch::default() };
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
