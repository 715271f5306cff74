//! Who held the recorded kernel's pool: what a request met in reality.
//!
//! A [`Follower`] that remembers whose the slots are. No what-if: the slots are where the kernel put them.

use std::collections::BTreeMap;

use trace::pool::SLOT_BYTES;
use trace::{Device, Event};

use crate::allocator::Taken;
use crate::closely::{Answer, Holder, Moment, PoolMoment};
use crate::follow::{Followed, Follower};
use crate::rules::Generation;
use crate::verify::Start;

/// The recorded default pool with its holders.
#[derive(Debug)]
pub struct RecordedPool {
    follower: Follower,
    /// By first slot.
    holders: BTreeMap<u64, Holder>,
}

impl RecordedPool {
    /// The pool as the snapshot has it; `rules` say how many slots a request takes.
    #[must_use]
    pub fn new(start: &Start<'_>, devices: &[Device], rules: &'static Generation) -> Self {
        let follower = Follower::new(start, devices, rules);
        let holder = |held: &crate::follow::HeldBefore| {
            let tlb_addr = follower.pool().geometry().start.saturating_add(held.slots.first * SLOT_BYTES);
            let taken = taken(tlb_addr, held.slots.first, held.slots.n);
            (held.slots.first, Holder { device: None, since_ns: None, number: None, size: held.size, taken })
        };
        let holders = follower.held_before().iter().map(holder).collect();
        Self { follower, holders }
    }

    /// Takes in the event with that number. Others than slot events change nothing.
    pub fn push(&mut self, number: u64, event: &Event) {
        match self.follower.push(event) {
            Followed::Took { slots, missed, .. } => {
                for first in missed {
                    self.holders.remove(&first);
                }
                let holder = Holder {
                    device: Some(event.device),
                    since_ns: Some(event.time_ns),
                    number: Some(number),
                    size: event.size.unwrap_or(0),
                    taken: taken(event.tlb_addr.unwrap_or(0), slots.first, slots.n),
                };
                self.holders.insert(slots.first, holder);
            }
            Followed::Gave(slots) => {
                self.holders.remove(&slots.first);
            }
            Followed::Refused | Followed::Nothing => {}
        }
    }

    /// The pool an event that asks for slots meets, and what the recorded kernel's rules make of it: the refusal's
    /// arithmetic, or the slots it would have had. Nothing for events without a buffer's address and size, and for devices
    /// with a pool of their own. The event itself must not have been pushed. Cost: linear in the pool's slots.
    pub fn moment(&mut self, event: &Event) -> Option<Moment> {
        let (request, limits) = self.follower.request(event)?;
        let pools = vec![PoolMoment::of(self.follower.pool())];
        let refusal = self.follower.refusal(event);
        let answer = match &refusal {
            Some(refusal) => Answer::Refused { cause: refusal.cause, reason: None },
            None => Answer::bounced(&self.follower.place(event)?, None),
        };
        Some(Moment {
            time_ns: event.time_ns,
            device: event.device,
            request,
            limits,
            pools,
            pool: 0,
            holders: self.holders.values().copied().collect(),
            answer,
            refusal,
        })
    }
}

fn taken(tlb_addr: u64, first: u64, n: u64) -> Taken {
    let short = |n| u32::try_from(n).unwrap_or(u32::MAX);
    Taken { tlb_addr, first_slot: short(first), nslots: short(n), pool: 0 }
}
