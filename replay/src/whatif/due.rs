//! Slots to be released at a time, because nothing in the trace releases them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::allocator::Taken;
use crate::lifetimes::{Assumed, class};

/// A mapping nothing in the trace undoes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounce {
    pub taken: Taken,
    pub device: u32,
    pub size: u64,
}

/// What is to be released, and what was assumed about when.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Times, and numbers that break ties by age; those of mappings taken back are passed over.
    times: BinaryHeap<Reverse<(u64, u64)>>,
    bounces: BTreeMap<u64, Bounce>,
    next_number: u64,
    assumed: BTreeMap<(u32, u32), Assumed>,
}

impl Due {
    /// When the next is due; the end of time when nothing is.
    pub fn next_ns(&self) -> u64 {
        self.times.peek().map_or(u64::MAX, |&Reverse((time_ns, _))| time_ns)
    }

    /// Those that wait.
    pub fn bounces(&self) -> impl Iterator<Item = &Bounce> {
        self.bounces.values()
    }

    /// The number the next one pushed will have.
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Adds a mapping that lives so long, to be released at a time.
    pub fn push(&mut self, time_ns: u64, lifetime_ns: u64, bounce: Bounce) {
        self.times.push(Reverse((time_ns, self.next_number)));
        self.bounces.insert(self.next_number, bounce);
        self.next_number += 1;
        let class = class(bounce.size);
        let assumed = Assumed { device: bounce.device, size_from: 1 << class, lifetime_ns, count: 0 };
        self.assumed.entry((bounce.device, class)).or_insert(assumed).count += 1;
    }

    /// Takes the next one out, with its time; nothing when it was taken back.
    pub fn pop(&mut self) -> Option<(u64, Bounce)> {
        let Reverse((time_ns, number)) = self.times.pop()?;
        Some((time_ns, self.bounces.remove(&number)?))
    }

    /// Takes out those numbered from `first` on, as if they had never been pushed.
    pub fn take_back(&mut self, first: u64) -> impl Iterator<Item = Bounce> + use<> {
        let back = self.bounces.split_off(&first);
        if !back.is_empty() {
            for bounce in back.values() {
                if let Some(assumed) = self.assumed.get_mut(&(bounce.device, class(bounce.size))) {
                    assumed.count -= 1;
                }
            }
            self.assumed.retain(|_, assumed| assumed.count > 0);
        }
        back.into_values()
    }

    /// The lifetimes that were assumed.
    pub fn assumed(self) -> Vec<Assumed> {
        self.assumed.into_values().collect()
    }
}
