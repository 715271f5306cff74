//! Requests refused here and served in reality, tried again ([`OnFail::Retry`](crate::OnFail)).
//!
//! A request waits until the unmap of one of its mappings in the trace, the time its driver was done with it in reality;
//! one that has no unmap, until the time it is taken to have lived. While nobody has taken or given back a slot since its
//! last attempt, none is made: it would meet the same slots. That bounds the cost by what changes, however short the time
//! between attempts.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::num::NonZeroU64;

use super::{Asked, Replay};
use crate::load::Load;
use crate::step::What;
use crate::tie::UNTIED;

/// A request that waits to be served.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Its first step.
    at: usize,
    /// Its steps; unmaps that were missed may be among them.
    steps: usize,
    /// The elements among so many of its steps have been asked for before.
    counted: usize,
    /// It is given up after this.
    until_ns: u64,
    after: NonZeroU64,
    /// [`Replay::changes`] after its last attempt.
    seen: u64,
}

/// The requests that wait.
#[derive(Debug, Default)]
pub(super) struct Retries {
    /// Times and numbers; those of requests that wait no more are passed over.
    times: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: HashMap<u64, Waiting>,
    /// The numbers of the requests by their mappings'.
    of_mapping: HashMap<u32, u64>,
    next_number: u64,
}

impl Retries {
    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the next attempt is due; the end of time when none is.
    pub fn next_ns(&self) -> u64 {
        self.times.peek().map_or(u64::MAX, |&Reverse((time_ns, _))| time_ns)
    }

    /// Lets the request go that a mapping belongs to; whether there was one.
    pub fn give_up(&mut self, load: &Load, mapping: u32) -> bool {
        // The map is asked for every unmap of a mapping without slots, and is mostly empty.
        if self.of_mapping.is_empty() {
            return false;
        }
        let Some(number) = self.of_mapping.get(&mapping).copied() else { return false };
        self.forget(load, number);
        true
    }

    fn forget(&mut self, load: &Load, number: u64) {
        if let Some(Waiting { at, steps, .. }) = self.waiting.remove(&number) {
            for mapping in mappings(load, at, steps) {
                self.of_mapping.remove(&mapping);
            }
        }
    }
}

/// The mappings of a request that something in the trace undoes.
fn mappings(load: &Load, at: usize, steps: usize) -> impl Iterator<Item = u32> {
    let steps = load.steps[at..].iter().take(steps);
    let maps = steps.filter(|step| matches!(load.classes[step.class as usize].what, What::Map(_)));
    maps.map(|step| step.id).filter(|&id| id != UNTIED)
}

impl Replay<'_> {
    /// Has a request tried again that was refused at one of its steps.
    pub(super) fn wait(&mut self, at: usize, steps: usize, refused: usize, after: NonZeroU64) {
        self.out.retried += 1;
        let load = self.load;
        let number = self.retries.next_number;
        self.retries.next_number += 1;
        self.retries.of_mapping.extend(mappings(load, at, steps).map(|id| (id, number)));
        let first = &load.steps[at];
        let until_ns = if mappings(load, at, steps).next().is_some() {
            u64::MAX
        } else {
            let device = load.classes[first.class as usize].device;
            first.time_ns.saturating_add(load.lifetimes.typical(device, first.size))
        };
        let waiting = Waiting { at, steps, counted: refused + 1, until_ns, after, seen: self.changes };
        self.retries.waiting.insert(number, waiting);
        self.next_attempt(number, first.time_ns.saturating_add(after.get()));
    }

    fn next_attempt(&mut self, number: u64, time_ns: u64) {
        self.retries.times.push(Reverse((time_ns, number)));
        self.next_ns = self.next_ns.min(time_ns);
    }

    /// Makes the attempt that is due, or puts it off when nothing changes before `horizon_ns`.
    pub(super) fn retry(&mut self, horizon_ns: u64) {
        let Some(Reverse((now_ns, number))) = self.retries.times.pop() else { return };
        let Some(&waiting) = self.retries.waiting.get(&number) else { return };
        if now_ns > waiting.until_ns {
            self.retries.forget(self.load, number);
            self.out.dropped += 1;
            return;
        }
        let after = waiting.after.get();
        if waiting.seen == self.changes {
            let times = (horizon_ns - now_ns).div_ceil(after).max(1);
            return self.next_attempt(number, now_ns.saturating_add(times.saturating_mul(after)));
        }
        match self.attempt(&waiting, now_ns) {
            None => {
                self.retries.forget(self.load, number);
                self.out.retried_ok += 1;
            }
            Some(refused) => {
                if let Some(waiting) = self.retries.waiting.get_mut(&number) {
                    waiting.counted = waiting.counted.max(refused + 1);
                    waiting.seen = self.changes;
                }
                self.next_attempt(number, now_ns.saturating_add(after));
            }
        }
    }

    /// Asks for a request's elements again; the position of the step that is refused, if one is.
    fn attempt(&mut self, waiting: &Waiting, now_ns: u64) -> Option<usize> {
        let load = self.load;
        let (first_due, changes) = (self.due.next_number(), self.changes);
        for (i, step) in load.steps[waiting.at..].iter().take(waiting.steps).enumerate() {
            let class = &load.classes[step.class as usize];
            let What::Map(map) = class.what else { continue };
            let asked = Asked::Again { counted: i < waiting.counted };
            if !self.element(step, class.device, &map, now_ns, asked) {
                self.undo(waiting.at, i, now_ns, first_due);
                // The slots are as before.
                self.changes = changes;
                return Some(i);
            }
        }
        None
    }
}
