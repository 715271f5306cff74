//! Devices as the kernel addresses them, and the rows of the trace that their events belong to.

use std::collections::BTreeMap;

use probe::wire::Limits;
use trace::Op;

/// A device as the kernel addresses it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: u32,
    pub(super) limits: Limits,
    /// An event other than a coherent allocation belongs to its row.
    pub(super) used: bool,
    /// Its first row, when it has several: what was mapped before the first change is not in `since`.
    pub(super) first: Option<u32>,
    /// What was mapped, or given slots (true), since the first change and still is: by address, its size and row.
    pub(super) since: BTreeMap<(bool, u64), (u64, u32)>,
}

impl Known {
    /// The row an event belongs to: what ends or syncs a mapping has the mapping's, so that the two can be tied.
    pub(super) fn row(&mut self, op: Op, target: Option<u64>, size: u64) -> u32 {
        let (Some(first), Some(target)) = (self.first, target) else { return self.id };
        let key = (matches!(op, Op::SlotAlloc | Op::SlotFree), target);
        match op {
            Op::Map | Op::Alloc | Op::SlotAlloc => {
                self.since.insert(key, (size, self.id));
                self.id
            }
            Op::Unmap | Op::Free | Op::SlotFree => self.since.remove(&key).map_or(first, |(_, id)| id),
            Op::SyncForCpu | Op::SyncForDevice => {
                // A sync may be of a part.
                let below = self.since.range(..=key).next_back();
                below.filter(|((_, start), (size, _))| target - start < *size).map_or(first, |(_, (_, id))| *id)
            }
            _ => self.id,
        }
    }
}
