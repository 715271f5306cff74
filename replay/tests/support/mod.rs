//! Events and loads for the tests of what-ifs.

#![allow(dead_code, reason = "each test uses some of these")]

use replay::{Base, Geometry, Load, Machine, Options, Outcome, Platform, Policy, Surroundings, replay};
use trace::{Area, Device, Direction, Event, Op, Pool};

pub const LOW: u64 = 0x1000_0000;
pub const POOL: u64 = 0x7400_0000;

pub fn device(id: u32, dma_mask: u64) -> Device {
    Device {
        id,
        name: format!("dev{id}"),
        driver: None,
        dma_mask: Some(dma_mask),
        coherent_dma_mask: dma_mask,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: None,
        min_align_mask: 0,
        ..Device::new(0, "")
    }
}

/// A 64-bit device and a 32-bit one.
pub fn devices() -> Vec<Device> {
    vec![device(0, u64::MAX), device(1, 0xffff_ffff)]
}

pub fn event(op: Op, time_ns: u64, device: u32, dma_addr: u64, size: u64) -> Event {
    Event {
        orig_addr: matches!(op, Op::Map | Op::MapFailed).then_some(LOW),
        size: Some(size),
        dma_addr: (op != Op::MapFailed).then_some(dma_addr),
        direction: Some(Direction::ToDevice),
        ..Event::new(op, time_ns, 0, 1, device)
    }
}

pub fn map(time_ns: u64, dma_addr: u64, size: u64) -> Event {
    event(Op::Map, time_ns, 0, dma_addr, size)
}

pub fn unmap(time_ns: u64, dma_addr: u64, size: u64) -> Event {
    event(Op::Unmap, time_ns, 0, dma_addr, size)
}

pub fn base(nslabs: u64) -> Base {
    Base { pool: Geometry { start: POOL, nslabs, areas: 1 }, cpus: Some(1), force: true }
}

pub fn pool(nslabs: u64) -> Pool {
    Pool {
        start: POOL,
        nslabs,
        nareas: 1,
        force_bounce: true,
        areas: vec![Area { index: 0, used: 0 }],
        ..Pool::default()
    }
}

pub fn run(load: &Load, policy: &str, nslabs: u64) -> Outcome {
    let setup = Policy::parse(policy).unwrap().resolve(&base(nslabs)).unwrap();
    replay(load, &mut Machine::new(&setup, Platform::native()), &Options::default())
}

pub fn load(events: &[Event]) -> Load {
    Load::collect(events, &devices(), &Surroundings::default())
}

/// Buffers that come and go, of all sizes up to 256 KiB.
pub fn churn(events: u64) -> Load {
    let mut builder = Load::builder(&[], &Surroundings::default());
    let mut alive = Vec::new();
    let mut random = 1u64;
    for time_ns in 0..events {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = 1 + (random >> 40) % (1 << (11 + (random >> 60) % 8));
        let dma_addr = 0x1000_0000 + (time_ns << 20);
        let mut event = |op, dma_addr, size| {
            builder.push(&Event {
                orig_addr: Some(dma_addr),
                dma_addr: Some(dma_addr),
                size: Some(size),
                direction: Some(Direction::Bidirectional),
                ..Event::new(op, time_ns, (random >> 33) as u32 % 4, 1, 0)
            });
        };
        if random >> 63 == 0 || alive.is_empty() {
            event(Op::Map, dma_addr, size);
            alive.push((dma_addr, size));
        } else {
            let (dma_addr, size) = alive.swap_remove((random >> 20) as usize % alive.len());
            event(Op::Unmap, dma_addr, size);
        }
    }
    builder.finish()
}
