//! One mapping looked at closely: what was asked, the pool it met, who held the slots, and what became of it.

use crate::allocator::Taken;
use crate::machine::{Mapped, Reason, Refused};
use crate::plan::{Limits, Request};
use crate::pool::{Geometry, SlotPool};
use crate::refusal::{Cause, Refusal};

/// What became of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The device uses the buffer itself.
    Direct,
    /// It has a bounce buffer.
    Bounced {
        /// Why; nothing of a recorded pool, whose slot events do not say.
        reason: Option<Reason>,
        /// Pool, as in [`Taken::pool`].
        pool: u32,
        /// First slot, padding included.
        first_slot: u32,
        /// Slots.
        nslots: u32,
    },
    /// It was refused.
    Refused {
        /// Why.
        cause: Cause,
        /// Why it would have bounced; nothing when it was refused before.
        reason: Option<Reason>,
    },
    /// Nobody asked for it, because an element of its scatterlist before it was refused.
    NotAsked,
}

impl Answer {
    pub(crate) fn of(answer: &Result<Mapped, Refused>) -> Self {
        match *answer {
            Ok(Mapped::Direct { .. }) => Self::Direct,
            Ok(Mapped::Bounced { taken, reason, .. }) => Self::bounced(&taken, Some(reason)),
            Err(Refused { cause, reason, .. }) => Self::Refused { cause, reason },
        }
    }

    pub(crate) fn bounced(taken: &Taken, reason: Option<Reason>) -> Self {
        let &Taken { pool, first_slot, nslots, .. } = taken;
        Self::Bounced { reason, pool, first_slot, nslots }
    }

    /// Whether the device got what it asked for.
    #[must_use]
    pub fn is_served(&self) -> bool {
        matches!(self, Self::Direct | Self::Bounced { .. })
    }

    /// Whether it bounced or would have, had there been slots.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Bounced { reason, .. } | Self::Refused { reason, .. } => *reason,
            Self::Direct | Self::NotAsked => None,
        }
    }
}

/// A pool just before a mapping was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMoment {
    /// Where it lies and how it is divided.
    pub geometry: Geometry,
    /// Slots in use.
    pub used: u64,
    /// Slots of a segment, the most one mapping can have.
    pub segment_slots: u64,
    /// Free runs by length, as (slots, runs of that many), the longest last.
    pub runs: Vec<(u32, u64)>,
    /// Area by area.
    pub areas: Vec<AreaMoment>,
}

/// An area just before a mapping was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaMoment {
    /// Where the next search begins, counted from the area's first slot.
    pub index: u64,
    /// Slots in use.
    pub used: u64,
    /// Slots free.
    pub free: u64,
    /// The longest free run.
    pub largest_run: u32,
}

impl PoolMoment {
    /// Looks at every slot: some microseconds for each thousand.
    pub(crate) fn of(pool: &SlotPool) -> Self {
        let mut runs = std::collections::BTreeMap::new();
        let area_slots = pool.area_slots();
        let mut areas: Vec<_> = pool
            .areas()
            .iter()
            .map(|area| AreaMoment {
                index: area.index,
                used: area.used,
                free: area_slots.saturating_sub(area.used),
                largest_run: 0,
            })
            .collect();
        let mut slot = 0;
        while slot < pool.geometry().nslabs {
            let run = pool.run_at(slot);
            if run > 0 {
                *runs.entry(run).or_insert(0) += 1;
                if let Some(area) = areas.get_mut(pool.area_of(slot)) {
                    area.largest_run = area.largest_run.max(run);
                }
            }
            slot += u64::from(run.max(1));
        }
        Self {
            geometry: *pool.geometry(),
            used: pool.used(),
            segment_slots: pool.segment_slots(),
            runs: runs.into_iter().collect(),
            areas,
        }
    }

    /// The longest free run.
    #[must_use]
    pub fn largest_run(&self) -> u32 {
        self.runs.last().map_or(0, |&(run, _)| run)
    }

    /// Slots free.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.geometry.nslabs - self.used.min(self.geometry.nslabs)
    }
}

/// A mapping that held slots at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its device: a position in [`crate::Load::devices`] of a replay, a key of the trace of a recorded pool; nothing when
    /// it was there before the recording and has not been given back yet.
    pub device: Option<u32>,
    /// Since when, in the trace's nanoseconds; nothing when that is not known.
    pub since_ns: Option<u64>,
    /// The mapping's number in the load, of a replay; the number of the event, of a recorded pool.
    pub number: Option<u64>,
    /// Bytes.
    pub size: u64,
    /// The slots.
    pub taken: Taken,
}

/// A mapping looked at closely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When, in the trace's nanoseconds.
    pub time_ns: u64,
    /// The device, as in [`Holder::device`].
    pub device: u32,
    /// What was asked.
    pub request: Request,
    /// What the device can take.
    pub limits: Limits,
    /// The pools as they were just before; those that come and go (SPEC 5) are not among them.
    pub pools: Vec<PoolMoment>,
    /// The pool its device's mappings go to.
    pub pool: usize,
    /// Who held slots, in all pools.
    pub holders: Vec<Holder>,
    /// What became of it by the model.
    pub answer: Answer,
    /// The arithmetic, when it is a refusal.
    pub refusal: Option<Refusal>,
}
