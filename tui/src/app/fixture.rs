//! A small trace with a bit of everything: two devices, a pool of two areas too small for them, refusals with stacks, a
//! loss. The slots are what the 6.10 allocator chooses.

use std::collections::VecDeque;

use replay::{Allocator, Generation, Geometry, Limits, Request};
use tempfile::TempDir;
use trace::pool::Area;
use trace::{Device, Direction, Event, Meta, Op, Pool, StackFrame, Task, Trace, Writer};

const START: u64 = 0x4000_0000;
const SLOTS: u64 = 512;

fn device(id: u32, driver: &str, dma_mask: u64, min_align_mask: u64) -> Device {
    Device {
        id,
        name: format!("0000:00:{:02x}.0", id + 4),
        driver: Some(driver.to_owned()),
        dma_mask: Some(dma_mask),
        coherent_dma_mask: u64::from(u32::MAX),
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: Some(65536),
        min_align_mask,
        ..Device::new(0, "")
    }
}

fn meta() -> Meta {
    let pool = Pool {
        start: START,
        nslabs: SLOTS,
        nareas: 2,
        force_bounce: true,
        areas: vec![Area { index: 0, used: 0 }; 2],
        ..Pool::default()
    };
    let mut meta = Meta { pools: vec![pool], snapshot_ns: Some(0), snapshot_exact: true, closed: true, ..Meta::new() };
    meta.host.release = "6.12.9".to_owned();
    meta.host.possible_cpus = 2;
    meta.host.memory = 8 << 30;
    meta.host.cmdline = "swiotlb=512,2,force".to_owned();
    meta.capture.mode = "full".to_owned();
    for (kind, backend) in [
        ("map", "tp_btf dma:dma_map_page"),
        ("slot_alloc", "fentry+fexit swiotlb_tbl_map_single"),
        ("slot_free", "fentry swiotlb_release_slots"),
    ] {
        meta.capture.backends.insert(kind.to_owned(), backend.to_owned());
    }
    meta.clock.duration_ns = 3_000_000_000;
    meta.losses.ring_full = 12;
    meta
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The events: three seconds, the load highest in the middle.
pub(crate) fn events() -> Vec<Event> {
    let rules = Generation::by_id("v6_10").unwrap();
    let mut allocator = Allocator::new(rules, &[Geometry { start: START, nslabs: SLOTS, areas: 2 }]);
    let devices = [device(0, "nvme", u64::MAX, 0xfff), device(1, "ahci", u64::from(u32::MAX), 0)];
    let limits: Vec<Limits> = devices.iter().map(Limits::from).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut held: VecDeque<(u32, u64, u64)> = VecDeque::new();
    let mut out = Vec::new();
    let mut time = 1_000_000;
    while time < 3_000_000_000 {
        time += 400_000 + random.below(900_000);
        // 20 buffers at the begin and the end, 60 in the middle.
        let most = 20 + 40 * (1_500_000_000 - time.abs_diff(1_500_000_000).min(1_500_000_000)) / 1_500_000_000;
        let cpu = random.below(2) as u32;
        if held.len() as u64 > most || (held.len() > 4 && random.below(5) < 2) {
            let at = random.below(held.len().min(12) as u64) as usize;
            let Some((id, tlb, size)) = held.remove(at) else { continue };
            allocator.unmap(tlb, &limits[id as usize]);
            let base = Event::new(Op::Unmap, time, cpu, 40 + id, id);
            out.push(Event { tlb_addr: Some(tlb), ..Event { op: Op::SlotFree, ..base.clone() } });
            out.push(Event {
                time_ns: time + 900,
                dma_addr: Some(tlb),
                size: Some(size),
                direction: Some(Direction::ToDevice),
                ..base
            });
            continue;
        }
        let id = u32::from(random.below(3) == 0);
        let size = if id == 1 { 512 << random.below(4) } else { 4096 << random.below(6) };
        let orig_addr = 0x1_0000_0000 + (random.below(1 << 18) << 12) + random.below(4) * 512;
        let asked = Event {
            orig_addr: Some(orig_addr),
            size: Some(size),
            direction: Some(if random.below(3) == 0 { Direction::FromDevice } else { Direction::ToDevice }),
            attrs: Some(0),
            stack: Some(id),
            ..Event::new(Op::SlotAlloc, time, cpu, 40 + id, id)
        };
        let request = Request { orig_addr, size, align_mask: 0, cpu };
        match allocator.map(&request, &limits[id as usize]) {
            Ok(taken) => {
                let tlb = Some(taken.tlb_addr);
                held.push_back((id, taken.tlb_addr, size));
                let latency_ns = Some(800 + random.below(4000));
                out.push(Event { tlb_addr: tlb, first_slot: Some(taken.first_slot), latency_ns, ..asked.clone() });
                out.push(Event { op: Op::Map, time_ns: time + 700, dma_addr: tlb, ..asked });
            }
            Err(_) => {
                out.push(Event { op: Op::SlotFailed, ..asked.clone() });
                out.push(Event { op: Op::MapFailed, time_ns: time + 700, ..asked });
            }
        }
        if out.len() == 2500 {
            out.push(Event {
                count: Some(12),
                since_ns: Some(time - 300_000),
                ..Event::new(Op::Lost, time + 750, 1, 0, trace::event::NO_DEVICE)
            });
        }
    }
    out
}

/// Writes it; the folder goes away with what is returned.
pub(crate) fn trace() -> (TempDir, Trace) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.swio");
    let mut writer = Writer::create(&path, meta()).unwrap();
    writer.set_devices(vec![device(0, "nvme", u64::MAX, 0xfff), device(1, "ahci", u64::from(u32::MAX), 0)]);
    let task = |tid, comm: &str| Task { tid, since_ns: 0, pid: tid, comm: comm.to_owned() };
    writer.set_tasks(vec![task(40, "fio"), task(41, "dd")]);
    let names = [
        ["swiotlb_tbl_map_single", "swiotlb_map", "dma_map_page_attrs", "nvme_map_data", "nvme_queue_rq"],
        ["swiotlb_tbl_map_single", "swiotlb_map", "dma_map_sg_attrs", "ata_qc_issue", "ata_scsi_translate"],
    ];
    let frames = (0u32..).zip(names).flat_map(|(stack, names)| {
        (0u32..).zip(names).map(move |(frame, name)| StackFrame {
            stack,
            frame,
            address: 0xffff_ffff_8100_0000 + u64::from(stack * 0x1000 + frame * 0x100),
            symbol: Some(name.to_owned()),
            offset: Some(0x10 + frame),
        })
    });
    writer.set_stacks(frames.collect());
    writer.extend(&events()).unwrap();
    writer.close(meta()).unwrap();
    let trace = Trace::open(&path).unwrap();
    (folder, trace)
}
