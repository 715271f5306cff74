//! A load replayed on a machine: what would have happened.
//!
//! Open-loop: the load stays as recorded, the answers change (the rules are in docs/models.md). A map refused here but
//! served in reality has its unmap and syncs passed over, or is tried again (`retry`). A map served here that nothing in
//! the trace undoes (refused in reality, or merged by an IOMMU) is released after the typical lifetime of its device and
//! size. A scatterlist is served whole or not at all.

mod due;
mod retry;
mod watch;

use std::ops::ControlFlow;

use trace::pool::SLOT_BYTES;

use crate::allocator::Taken;
use crate::copies::Part;
use crate::load::Load;
use crate::machine::{FalseBoundaries, Machine, Mapped, Reason, Refused, Terms};
use crate::occupancy::Occupancy;
use crate::outcome::{DeviceOutcome, OnFail, Options, Outcome, RefusedMap};
use crate::plan::{Limits, Request};
use crate::refusal::Cause;
use crate::restricted::POOL;
use crate::rules::Generation;
use crate::step::{Map, Step, What};
use crate::tie::UNTIED;
use due::{Bounce, Due};
use retry::Retries;
use watch::Watch;
pub use watch::{answers, moment};

/// Steps between two looks at whether to go on.
const WATCH: usize = 1 << 16;

/// Replays a load on a machine. A step costs a few tens of nanoseconds beside what the allocator takes.
#[must_use]
pub fn replay(load: &Load, machine: &mut Machine, options: &Options) -> Outcome {
    let mut replay = Replay::new(load, machine, options);
    let _ = replay.run(|_| ControlFlow::Continue(()));
    replay.finish()
}

/// How often an element of a request has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// This is the first time its request is made.
    First,
    /// Its request is made again; it itself may not have been asked for, when one before it was refused.
    Again { counted: bool },
}

/// A mapping that has slots.
#[derive(Clone, Copy, Debug)]
struct Bounced {
    taken: Taken,
    size: u64,
}

pub(crate) struct Replay<'a> {
    load: &'a Load,
    machine: &'a mut Machine,
    rules: &'static Generation,
    options: &'a Options,
    /// The mappings that bounced, by number.
    states: Vec<Option<Bounced>>,
    /// When something is to be done between steps, at the earliest.
    next_ns: u64,
    /// When the growth worker has its pool ready; the end of time when it was not woken.
    worker_ns: u64,
    due: Due,
    retries: Retries,
    /// Counts what changes the pools' slots.
    changes: u64,
    limits: Vec<Limits>,
    /// Devices with a pool of their own.
    restricted: Vec<bool>,
    used: Vec<u64>,
    out: Outcome,
    /// Steps to go through: all, unless only those up to a mapping are wanted.
    until: usize,
    /// What is kept of single mappings, when somebody asks for them.
    watch: Option<Box<Watch>>,
}

impl<'a> Replay<'a> {
    pub fn new(load: &'a Load, machine: &'a mut Machine, options: &'a Options) -> Self {
        let pools = machine.allocator().pools().len();
        let limits: Vec<_> = load.devices().iter().map(|d| d.limits).collect();
        let restricted: Vec<_> = load.devices().iter().map(|d| machine.restricts(&d.name)).collect();
        let pool_for = |(limits, &own): (&Limits, &bool)| match own {
            true => POOL as u8,
            false => machine.allocator().pool_for(limits) as u8,
        };
        let pools_of = limits.iter().zip(&restricted).map(pool_for);
        let devices = pools_of.map(|pool| DeviceOutcome { pool, ..DeviceOutcome::default() }).collect();
        let out = Outcome {
            requests: 0,
            maps: 0,
            bounces: [0; Reason::ALL.len()],
            failures: [0; Cause::ALL.len()],
            refusals: Vec::new(),
            bytes_at_map: 0,
            bytes_at_sync: 0,
            bytes_at_unmap: 0,
            bytes_dropped: 0,
            bytes_wrong_source: 0,
            peak_slots: vec![0; pools],
            final_slots: Vec::new(),
            occupancy: Occupancy::new(load.span_ns(), options.buckets, pools),
            devices,
            assumed: Vec::new(),
            dropped: 0,
            retried: 0,
            retried_ok: 0,
            held_refused: 0,
            grown: None,
            coherent: 0,
            coherent_failures: [0; Cause::ALL.len()],
            unspecified_tails: 0,
            unknown_frames: 0,
            parted: 0,
            false_boundaries: FalseBoundaries::default(),
        };
        Self {
            load,
            rules: machine.allocator().rules(),
            machine,
            options,
            states: vec![None; load.alive],
            next_ns: u64::MAX,
            worker_ns: u64::MAX,
            due: Due::default(),
            retries: Retries::default(),
            changes: 0,
            limits,
            restricted,
            used: vec![0; pools],
            out,
            until: load.steps.len(),
            watch: None,
        }
    }

    /// Goes through the load. `watch` is told now and then how many steps were done since it was last asked, and may end
    /// it.
    pub fn run(&mut self, mut watch: impl FnMut(usize) -> ControlFlow<()>) -> ControlFlow<()> {
        let load = self.load;
        let (mut at, mut told) = (0, 0);
        while let Some(step) = load.steps.get(at).filter(|_| at < self.until) {
            if at - told >= WATCH {
                watch(at - told)?;
                told = at;
            }
            if step.time_ns >= self.next_ns {
                self.catch_up(step.time_ns);
            }
            let class = &load.classes[step.class as usize];
            at += match class.what {
                What::Unmap { copies } => {
                    self.unmap(step, class.device, copies);
                    1
                }
                What::Map(map) if map.held => {
                    self.hold(step, class.device, &map);
                    1
                }
                What::Map(_) => self.request(at),
                What::Alloc => {
                    self.coherent(step, class.device);
                    1
                }
                What::Free => {
                    if let Some(Bounced { taken, .. }) = self.states[step.id as usize].take() {
                        self.release(&taken, class.device, step.time_ns);
                    }
                    1
                }
                What::Sync => {
                    if let Some(bounced) = self.states[step.id as usize] {
                        self.sync(&bounced, class.device, step);
                    }
                    1
                }
            };
        }
        // Too late to end what is done.
        let _ = watch(at - told);
        ControlFlow::Continue(())
    }

    /// What came of it.
    pub fn finish(mut self) -> Outcome {
        // The recording ended before they were served.
        self.out.dropped += self.retries.len() as u64;
        self.out.final_slots = self.used;
        self.out.assumed = self.due.assumed();
        self.out.unspecified_tails = self.machine.allocator().unspecified_tails();
        self.out.grown = self.machine.allocator().grown();
        self.out.unknown_frames = self.machine.unknown_frames();
        self.out.parted = self.machine.parted();
        self.out.false_boundaries = self.machine.false_boundaries();
        self.out
    }

    /// Does what is to be done up to a time, in the order of its times; the growth worker first, a release before a retry.
    #[cold]
    fn catch_up(&mut self, now_ns: u64) {
        loop {
            let (due_ns, retry_ns) = (self.due.next_ns(), self.retries.next_ns());
            self.next_ns = due_ns.min(retry_ns).min(self.worker_ns);
            // The end of time stands for nothing to do.
            if self.next_ns > now_ns || self.next_ns == u64::MAX {
                return;
            }
            if self.worker_ns == self.next_ns {
                self.worker_ns = u64::MAX;
                self.machine.allocator_mut().run_worker();
                self.changes += 1;
            } else if due_ns > retry_ns {
                self.retry(due_ns.min(now_ns));
            } else if let Some((time_ns, bounce)) = self.due.pop() {
                self.release(&bounce.taken, bounce.device, time_ns);
            }
        }
    }

    /// Maps a buffer or a whole scatterlist, which begins at a step; the number of steps it had. Between its elements may
    /// stand unmaps that were missed, found where an element took their slots.
    fn request(&mut self, at: usize) -> usize {
        self.out.requests += 1;
        let load = self.load;
        let first_due = self.due.next_number();
        let mut refused = None;
        let mut done = 0;
        for step in &load.steps[at..] {
            let class = &load.classes[step.class as usize];
            match class.what {
                What::Map(map) => {
                    if refused.is_none() && !self.element(step, class.device, &map, step.time_ns, Asked::First) {
                        refused = Some((done, map.refused));
                        self.undo(at, done, step.time_ns, first_due);
                    }
                    if let Some(watch) = &mut self.watch {
                        watch.pass();
                    }
                    done += 1;
                    if !map.more {
                        break;
                    }
                }
                What::Unmap { copies } => {
                    self.unmap(step, class.device, copies);
                    done += 1;
                }
                // None stands inside a scatterlist, whose rows stand together.
                What::Sync | What::Alloc | What::Free => break,
            }
        }
        match (refused, self.options.on_fail) {
            (Some((_, true)), _) | (None, _) => {}
            (Some(_), OnFail::Drop) => self.out.dropped += 1,
            (Some((element, false)), OnFail::Retry(after)) => self.wait(at, done, element, after),
        }
        done
    }

    /// Maps a buffer that was mapped before the recording: only its slots count.
    fn hold(&mut self, step: &Step, device: u32, map: &Map) {
        let state = match self.ask(&map.request(step), device, map, step.time_ns) {
            Ok(Mapped::Direct { .. }) => None,
            Ok(Mapped::Bounced { taken, .. }) => {
                self.took(step.time_ns, device, &taken);
                if let Some(watch) = &mut self.watch {
                    watch.held(step, device);
                }
                Some(Bounced { taken, size: step.size })
            }
            Err(_) => {
                self.out.held_refused += 1;
                None
            }
        };
        self.states[step.id as usize] = state;
    }

    /// Asks the machine, on behalf of a device, and minds the growth worker.
    fn ask(&mut self, request: &Request, device: u32, map: &Map, now_ns: u64) -> Result<Mapped, Refused> {
        let limits = &self.limits[device as usize];
        let answer = if self.restricted[device as usize] {
            self.machine.map_restricted(request, limits, &map.terms)
        } else {
            self.machine.map_on(request, limits, &map.terms)
        };
        self.wake_worker(now_ns);
        answer
    }

    /// Coherent memory comes from the pool only where the device has one of its own (SPEC 2.7).
    fn coherent(&mut self, step: &Step, device: u32) {
        if !self.restricted[device as usize] {
            return;
        }
        self.out.coherent += 1;
        let limits = self.limits[device as usize];
        match self.machine.allocator_mut().alloc_coherent(step.size, 0, &limits) {
            Ok(taken) => {
                self.took(step.time_ns, device, &taken);
                self.states[step.id as usize] = Some(Bounced { taken, size: step.size });
            }
            Err(cause) => self.out.coherent_failures[cause as usize] += 1,
        }
    }

    /// Maps one buffer; `false` when it is refused.
    fn element(&mut self, step: &Step, device: u32, map: &Map, now_ns: u64, asked: Asked) -> bool {
        let request = map.request(step);
        // What was counted when it was refused is not counted again.
        let counts = u64::from(asked != Asked::Again { counted: true });
        self.out.maps += counts;
        self.out.devices[device as usize].maps += counts;
        if self.watch.is_some() {
            self.before(step, device, map, asked);
        }
        let answer = self.ask(&request, device, map, now_ns);
        if self.watch.is_some() {
            self.after(step, device, map, asked, &answer);
        }
        let of_device = &mut self.out.devices[device as usize];
        let state = match answer {
            Ok(Mapped::Direct { .. }) => None,
            Ok(Mapped::Bounced { taken, reason, .. }) => {
                self.out.bounces[reason as usize] += counts;
                of_device.bounces += counts;
                if self.machine.copies().copies_at_map(map.terms.direction, map.terms.has(Terms::SKIP_CPU_SYNC)) {
                    self.out.bytes_at_map += request.size;
                }
                self.took(now_ns, device, &taken);
                Some(Bounced { taken, size: step.size })
            }
            Err(refused) => {
                if let Some(reason) = refused.reason {
                    self.out.bounces[reason as usize] += counts;
                    of_device.bounces += counts;
                }
                if asked == Asked::First {
                    self.out.failures[refused.cause as usize] += 1;
                    of_device.failures += 1;
                    if self.out.refusals.len() < self.options.refusals {
                        let limits = &self.limits[device as usize];
                        let refusal = if self.restricted[device as usize] {
                            self.machine.explain_restricted(&request, limits, &refused)
                        } else {
                            self.machine.explain(&request, limits, &refused)
                        };
                        self.out.refusals.push(RefusedMap { time_ns: step.time_ns, device, refusal });
                    }
                }
                return false;
            }
        };
        if step.id != UNTIED {
            self.states[step.id as usize] = state;
        } else if let Some(Bounced { taken, size }) = state {
            let lifetime_ns = self.load.lifetimes.typical(device, step.size);
            let time_ns = step.time_ns.saturating_add(lifetime_ns);
            self.due.push(time_ns, lifetime_ns, Bounce { taken, device, size });
            self.next_ns = self.next_ns.min(time_ns);
        }
        true
    }

    fn unmap(&mut self, step: &Step, device: u32, copies: bool) {
        if let Some(Bounced { taken, .. }) = self.states[step.id as usize].take() {
            if copies {
                self.out.bytes_at_unmap += step.size * self.machine.copies().at_unmap;
            }
            self.release(&taken, device, step.time_ns);
        } else if self.retries.give_up(self.load, step.id) {
            self.out.dropped += 1;
        }
    }

    /// Undoes the elements mapped before one was refused, without copying (SPEC 6.1): those among so many steps. Those to
    /// be released at a time are numbered from `first_due` on.
    fn undo(&mut self, at: usize, steps: usize, now_ns: u64, first_due: u64) {
        let load = self.load;
        for step in load.steps[at..].iter().take(steps).filter(|step| step.id != UNTIED) {
            let class = &load.classes[step.class as usize];
            if matches!(class.what, What::Map(_))
                && let Some(Bounced { taken, .. }) = self.states[step.id as usize].take()
            {
                self.release(&taken, class.device, now_ns);
            }
        }
        for bounce in self.due.take_back(first_due) {
            self.release(&bounce.taken, bounce.device, now_ns);
        }
    }

    /// The pool whose slots and curve an allocation counts for: those that come and go count for the boot pool, as in
    /// the kernel's `total_used`.
    fn pool_of(&self, taken: &Taken) -> usize {
        let pool = taken.pool as usize;
        if pool < self.used.len() { pool } else { 0 }
    }

    /// Sets the time of the growth worker, if a request has just woken it.
    fn wake_worker(&mut self, now_ns: u64) {
        if let (Some(after), u64::MAX) = (self.machine.worker_ns(), self.worker_ns)
            && self.machine.allocator().worker_scheduled()
        {
            self.worker_ns = now_ns.saturating_add(after);
            self.next_ns = self.next_ns.min(self.worker_ns);
        }
    }

    /// Counts slots taken by a map.
    fn took(&mut self, time_ns: u64, device: u32, taken: &Taken) {
        let (pool, slots) = (self.pool_of(taken), u64::from(taken.nslots));
        self.changes += 1;
        self.used[pool] += slots;
        self.out.peak_slots[pool] = self.out.peak_slots[pool].max(self.used[pool]);
        self.out.occupancy.set(time_ns, pool, self.used[pool]);
        let device = &mut self.out.devices[device as usize];
        device.slots += slots;
        device.peak_slots = device.peak_slots.max(device.slots);
    }

    fn release(&mut self, taken: &Taken, device: u32, time_ns: u64) {
        self.machine.unmap(taken, &self.limits[device as usize]);
        let (pool, slots) = (self.pool_of(taken), u64::from(taken.nslots));
        self.changes += 1;
        self.used[pool] -= slots;
        self.out.occupancy.set(time_ns, pool, self.used[pool]);
        self.out.devices[device as usize].slots -= slots;
    }

    /// Counts what a sync copies; `step` says which part of the mapping (SPEC 6.3).
    fn sync(&mut self, bounced: &Bounced, device: u32, step: &Step) {
        let min_align_mask = if self.rules.min_align { self.limits[device as usize].min_align_mask } else { 0 };
        let lo = bounced.taken.tlb_addr & min_align_mask & (SLOT_BYTES - 1);
        let synced =
            self.machine.copies().sync(&Part { offset: step.addr, size: step.size, mapping: bounced.size, lo });
        self.out.bytes_at_sync += synced.copied;
        self.out.bytes_wrong_source += synced.wrong_source;
        self.out.bytes_dropped += synced.dropped;
    }
}
