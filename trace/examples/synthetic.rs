//! Writes a trace of made-up NVMe and network traffic, reads it back, and says what both cost.
//!
//! `cargo run --release -p swioscope-trace --example synthetic -- FOLDER [EVENTS]`
//!
//! For measuring the format, not for testing models: nothing here allocates slots as a kernel would.
#![allow(clippy::print_stdout, reason = "an example is a program")]

use std::collections::VecDeque;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use trace::{Device, Direction, Event, Meta, Op, Pool, Trace, Writer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("usage: synthetic FOLDER [EVENTS]")?);
    let count = args.next().map_or(Ok(3_000_000), |n| n.parse())?;
    let events: Vec<Event> = Load::default().take(count).collect();

    let start = Clock::start();
    let mut writer = Writer::create(&folder, meta())?;
    writer.set_devices((0..4).map(device).collect());
    for burst in events.chunks(20_000) {
        writer.extend(burst)?;
        writer.flush()?;
    }
    let pushed = start.elapsed();
    writer.close(meta())?;
    let closed = start.elapsed();

    let trace = Trace::open(&folder)?;
    let bytes = trace.size_on_disk()? as f64;
    let start = Clock::start();
    let mut read = 0_usize;
    for event in trace.events() {
        event?;
        read += 1;
    }
    let took = start.elapsed();
    println!("{} events of {} bytes in memory", events.len(), size_of::<Event>());
    println!("pushed   {} (the recorder's thread)", pushed.rate(count));
    println!("written  {} (until closed)", closed.rate(count));
    println!("read     {}", took.rate(read));
    println!("on disk  {:.2} B an event", bytes / count as f64);
    Ok(())
}

/// A plain machine with the default pool.
fn meta() -> Meta {
    let (start, nslabs) = (0x7400_0000, 32_768);
    let pool = Pool { start, nslabs, nareas: 1, force_bounce: false, ..Pool::default() };
    let mut meta = Meta { pools: vec![pool], ..Meta::new() };
    meta.host.release = "6.12.0".to_owned();
    meta.host.possible_cpus = 4;
    meta
}

/// Wall and processor time: on a busy machine only the second says what the code costs.
struct Clock {
    wall: Instant,
    cpu: Duration,
}

struct Span {
    wall: Duration,
    cpu: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }

    fn elapsed(&self) -> Span {
        Span { wall: self.wall.elapsed(), cpu: cpu_time().saturating_sub(self.cpu) }
    }
}

impl Span {
    fn rate(&self, events: usize) -> String {
        let rate = |t: Duration| events as f64 / t.as_secs_f64() / 1e6;
        format!("{:.2} M events/s, {:.2} M a second of CPU time", rate(self.wall), rate(self.cpu))
    }
}

/// User time of all threads so far, from /proc, in ticks of 10 ms; 0 where there is none.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(11)?.parse::<u64>().ok());
    Duration::from_millis(ticks.unwrap_or(0) * 10)
}

fn device(id: u32) -> Device {
    Device {
        id,
        name: format!("0000:00:{:02x}.0", id + 3),
        driver: Some(if id == 3 { "e1000e" } else { "nvme" }.to_owned()),
        dma_mask: Some(if id == 3 { 0xffff_ffff } else { u64::MAX }),
        coherent_dma_mask: 0xffff_ffff,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: None,
        min_align_mask: if id == 3 { 0 } else { 0xfff },
        ..Device::new(0, "")
    }
}

/// Three queues of block requests over a page cache and one network card that bounces, on four CPUs.
#[derive(Default)]
struct Load {
    time_ns: u64,
    random: u64,
    /// Mappings under way, oldest first: what unmaps them.
    pending: VecDeque<[Option<Event>; 2]>,
    ready: VecDeque<Event>,
}

impl Load {
    /// A number below `limit` (xorshift: the same load each time).
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= 0x9e37_79b9_7f4a_7c15;
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    fn step(&mut self) {
        self.time_ns += 300 + self.below(6_000);
        if self.pending.len() > 64 || (!self.pending.is_empty() && self.below(2) == 0) {
            let position = self.below(self.pending.len().min(8) as u64) as usize;
            for mut event in self.pending.remove(position).into_iter().flatten().flatten() {
                self.time_ns += 150 + self.below(200);
                event.time_ns = self.time_ns;
                self.ready.push_back(event);
            }
            return;
        }
        let (cpu, device) = (self.below(4) as u32, self.below(4) as u32);
        let tid = if self.below(3) == 0 { 0 } else { 1_000 + self.below(40) as u32 };
        let size = if device == 3 { 66 + self.below(1_449) } else { 4096 << self.below(6) };
        let new = |op, time| Event::new(op, time, cpu, tid, device);
        let mut map = new(Op::Map, self.time_ns);
        let page = 0x10_0000 + self.below(400_000);
        map.orig_addr = Some(page << 12 | if device == 3 { 0x40 } else { 0 });
        map.size = Some(size);
        map.attrs = Some(0);
        map.direction = Some(if self.below(3) == 0 { Direction::FromDevice } else { Direction::ToDevice });
        let mut unmap = new(Op::Unmap, 0);
        let mut release = None;
        if device == 3 {
            let mut slot = new(Op::SlotAlloc, self.time_ns);
            let first = self.below(32_768);
            slot.first_slot = Some(first as u32);
            slot.tlb_addr = Some(0x7400_0000 + (first << 11));
            (slot.orig_addr, slot.size, slot.direction) = (map.orig_addr, map.size, map.direction);
            (slot.attrs, slot.align_mask) = (Some(0), Some(0));
            map.dma_addr = slot.tlb_addr;
            let mut free = new(Op::SlotFree, 0);
            free.tlb_addr = slot.tlb_addr;
            release = Some(free);
            self.ready.push_back(slot);
            self.time_ns += 400 + self.below(400);
            map.time_ns = self.time_ns;
        } else {
            // Machine frames of a dom0: the pages of a run stand together, the runs do not.
            map.dma_addr = Some((page ^ ((page >> 9).wrapping_mul(0x2545_f491) % 0x8000)) << 12);
        }
        unmap.dma_addr = map.dma_addr;
        unmap.size = map.size;
        unmap.direction = map.direction;
        self.ready.push_back(map);
        self.pending.push_back([Some(unmap), release]);
    }
}

impl Iterator for Load {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        while self.ready.is_empty() {
            self.step();
        }
        self.ready.pop_front()
    }
}
