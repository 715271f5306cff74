//! The recorded kernel's own pool, as its slot events leave it: what a request met in reality, and who held the slots.
//!
//! No what-if: the slots are where the kernel put them. Events are taken in the order written down, which is that in which
//! calls returned and not quite that in which the lock was held (SPEC 8), so a moment may be off by what happened within
//! the same few microseconds.

use std::collections::{BTreeMap, HashMap};

use trace::pool::SLOT_BYTES;
use trace::{Device, Event};

use crate::allocator::Taken;
use crate::checker::Checker;
use crate::closely::{Holder, Moment};
use crate::plan::Limits;
use crate::rules::Generation;
use crate::snapshot;
use crate::verify::Start;

/// The recorded default pool, followed through a trace.
pub struct RecordedPool<'a> {
    start: Start<'a>,
    limits: HashMap<u32, Limits>,
    checker: Checker,
    /// Who holds slots, by first slot.
    holders: BTreeMap<u64, Holder>,
}

impl<'a> RecordedPool<'a> {
    /// The pool as the snapshot has it; `rules` say how many slots a request takes.
    #[must_use]
    pub fn new(start: Start<'a>, devices: &[Device], rules: &'static Generation) -> Self {
        let checker = Checker::new(&start, rules);
        let mut holders = BTreeMap::new();
        for held in snapshot::allocations(start.snapshot).iter().filter(|_| start.snapshot_ns.is_some()) {
            let first_slot = u32::try_from(held.first).unwrap_or(u32::MAX);
            let tlb_addr = start.pool.start.saturating_add((held.first + u64::from(held.pad)) * SLOT_BYTES);
            let taken = Taken { tlb_addr, first_slot, nslots: held.n as u32, pool: 0 };
            let holder = Holder { device: None, since_ns: None, number: None, size: held.size, taken };
            holders.insert(held.first, holder);
        }
        Self { start, limits: devices.iter().map(|d| (d.id, Limits::from(d))).collect(), checker, holders }
    }

    /// Takes in the event with that number. Others than slot events change nothing.
    pub fn push(&mut self, number: u64, event: &Event) {
        let Some(slots) = self.checker.read(event, &self.start, &self.limits) else { return };
        match self.checker.follow(&slots) {
            Some((run, true)) => {
                // What lies there has lost its release.
                let from = self.holders.range(..run.first).next_back();
                let before = from.filter(|(first, h)| *first + u64::from(h.taken.nslots) > run.first).map(|(&f, _)| f);
                let over: Vec<u64> = self.holders.range(run.first..run.first + run.n).map(|(&f, _)| f).collect();
                for first in before.into_iter().chain(over) {
                    self.holders.remove(&first);
                }
                let taken = Taken {
                    tlb_addr: event.tlb_addr.unwrap_or(0),
                    first_slot: u32::try_from(run.first).unwrap_or(u32::MAX),
                    nslots: u32::try_from(run.n).unwrap_or(u32::MAX),
                    pool: 0,
                };
                let holder = Holder {
                    device: Some(event.device),
                    since_ns: Some(event.time_ns),
                    number: Some(number),
                    size: event.size.unwrap_or(0),
                    taken,
                };
                self.holders.insert(run.first, holder);
            }
            Some((run, false)) => {
                self.holders.remove(&run.first);
            }
            None => {}
        }
    }

    /// The pool a slot allocation or refusal meets, and what the recorded kernel's rules make of it: the refusal's
    /// arithmetic, or the slots it would have had. Nothing for events without a buffer's address and size, and those of
    /// other pools. The event itself must not have been pushed.
    pub fn moment(&mut self, event: &Event) -> Option<Moment> {
        let slots = self.checker.read(event, &self.start, &self.limits)?;
        let (request, limits, pool, answer, refusal) = self.checker.look(&slots)?;
        Some(Moment {
            time_ns: event.time_ns,
            device: event.device,
            request,
            limits,
            pools: vec![pool],
            pool: 0,
            holders: self.holders.values().copied().collect(),
            answer,
            refusal,
        })
    }
}
