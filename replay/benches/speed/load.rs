//! Seeded loads for the bench: the same requests as an event script and as plain values.

use std::collections::VecDeque;
use std::fmt::Write;

use fastrand::Rng;
use replay::{Geometry, Limits, Request};

/// A request of a load.
#[derive(Clone, Copy)]
pub enum Event {
    Map { id: usize, request: Request },
    Unmap { id: usize },
    Mark,
}

/// A load: one device's requests to a pool.
pub struct Load {
    pub pool: Geometry,
    pub device: Limits,
    pub events: Vec<Event>,
    next: usize,
    rng: Rng,
}

impl Load {
    fn new(pool: Geometry, min_align_mask: u64) -> Self {
        let device = Limits { reach: 0xffff_ffff, min_align_mask, boundary: 0xffff_ffff, ..Limits::NONE };
        Self { pool, device, events: Vec::new(), next: 0, rng: Rng::with_seed(2026) }
    }

    fn map(&mut self, orig_addr: u64, size: u64) -> usize {
        let cpu = self.rng.u32(0..16);
        let id = self.next;
        self.events.push(Event::Map { id, request: Request { orig_addr, size, align_mask: 0, cpu } });
        self.next += 1;
        id
    }

    /// Pages of 4 KiB in a large pool, each given back after some dozens of others.
    pub fn light(pool: Geometry, min_align_mask: u64, pairs: usize) -> Self {
        let mut load = Self::new(pool, min_align_mask);
        let mut alive = VecDeque::new();
        load.events.push(Event::Mark);
        for _ in 0..pairs {
            let page = load.rng.u64(0x10_0000..0x100_0000);
            let id = load.map(page << 12, 4096);
            alive.push_back(id);
            if alive.len() > 48 {
                load.events.extend(alive.pop_front().map(|id| Event::Unmap { id }));
            }
        }
        load
    }

    /// A pool kept nine tenths full of buffers of 512 B to 64 KiB, given back in any order.
    pub fn full(pool: Geometry, min_align_mask: u64, pairs: usize) -> Self {
        let mut load = Self::new(pool, min_align_mask);
        let mut alive: Vec<(usize, u64)> = Vec::new();
        let (mut used, most) = (0, pool.nslabs * 9 / 10);
        let mut maps = 0;
        while maps < pairs {
            if used > most {
                if maps == 0 {
                    load.events.push(Event::Mark);
                }
                maps += 1;
                let (id, slots) = alive.swap_remove(load.rng.usize(0..alive.len()));
                load.events.push(Event::Unmap { id });
                used -= slots;
                if maps > 1 && used > most {
                    continue;
                }
            }
            let size = 512 << load.rng.u32(0..8);
            let size = load.rng.u64(size / 2 + 1..=size).max(512);
            let page = load.rng.u64(0x10_0000..0x100_0000);
            let low = if size < 4096 { load.rng.u64(0..4) * 512 } else { 0 };
            let id = load.map((page << 12) + low, size);
            alive.push((id, size.div_ceil(2048)));
            used += size.div_ceil(2048);
        }
        load
    }

    /// The load as an event script.
    pub fn script(&self) -> String {
        let Geometry { start, nslabs, areas } = self.pool;
        let Limits { reach, min_align_mask, boundary, .. } = self.device;
        let mut text =
            format!("pool,{start:x},{nslabs},{areas}\ndev,0,{reach:x},{min_align_mask:x},{boundary:x},10000\n");
        for event in &self.events {
            let _ = match *event {
                Event::Map { id, request: Request { orig_addr, size, cpu, .. } } => {
                    writeln!(text, "map,{id},{cpu},{orig_addr:x},{size},0,0")
                }
                Event::Unmap { id } => writeln!(text, "unmap,{id}"),
                Event::Mark => writeln!(text, "mark"),
            };
        }
        text
    }
}
