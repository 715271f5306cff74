//! Segments of another length than the kernel's 128 slots: what if `IO_TLB_SEGSIZE` were a knob (SPEC 11, "SEG size").
//!
//! Slots stay 128 to a word; a segment is then a part of a word, or several words. Nothing here is on a kernel's path, so
//! it is short rather than fast: searches of such pools look at slots one by one (`view`).

use super::{Run, SEG, Segment, SlotPool};
use crate::bits;

impl SlotPool {
    /// Cuts an empty pool into segments of so many slots, a power of two.
    pub(crate) fn cut_into(&mut self, segment_slots: u64) {
        debug_assert!(segment_slots.is_power_of_two() && self.used() == 0);
        self.segment_slots = segment_slots;
    }

    /// [`SlotPool::run_at`] for any segment.
    pub(super) fn cut_run_at(&self, slot: u64) -> u32 {
        let end = (slot | (self.segment_slots - 1)).saturating_add(1).min(self.geometry().nslabs);
        u32::try_from(self.end_of(slot, end, |s| s.free) - slot).unwrap_or(u32::MAX)
    }

    /// The first slot from `from` on that is not among `ones`, below `to`; else `to`.
    fn end_of(&self, from: u64, to: u64, ones: impl Fn(&Segment) -> u128) -> u64 {
        let mut slot = from;
        while slot < to
            && let Some(word) = self.segments.get((slot / SEG) as usize)
        {
            let end = bits::end(ones(word), (slot % SEG) as u32);
            slot = slot - slot % SEG + u64::from(end);
            if u64::from(end) < SEG {
                break;
            }
        }
        slot.min(to)
    }

    /// The allocation that covers a busy slot, through all words it may span.
    pub(super) fn cut_allocation(&self, slot: u64) -> Option<Run> {
        let (mut number, mut below) = ((slot / SEG) as usize, (slot % SEG) as u32 + 1);
        let first = loop {
            let behind = bits::begin(!self.segments.get(number)?.starts.bits(), below);
            match behind.checked_sub(1) {
                Some(at) => break number as u64 * SEG + u64::from(at),
                None => (number, below) = (number.checked_sub(1)?, SEG as u32),
            }
        };
        let taken = |word: &Segment| !(word.free | word.starts.bits());
        Some(Run { first, n: self.end_of(first + 1, self.geometry().nslabs, taken) - first })
    }

    /// Changes each word a run lies in; `change` gets its slots as bits.
    pub(super) fn cut_change(&mut self, run: Run, mut change: impl FnMut(&mut Segment, u128)) {
        let (mut slot, end) = (run.first, run.first + run.n);
        while slot < end
            && let Some(word) = self.segments.get_mut((slot / SEG) as usize)
        {
            let n = (SEG - slot % SEG).min(end - slot);
            change(word, bits::run((slot % SEG) as u32, n as u32));
            slot += n;
        }
    }

    /// Every free run, cut at the ends of segments.
    pub(super) fn cut_runs(&self) -> impl Iterator<Item = u32> + '_ {
        let mut slot = 0;
        std::iter::from_fn(move || {
            while slot < self.geometry().nslabs {
                let run = self.cut_run_at(slot);
                slot += u64::from(run.max(1));
                if run > 0 {
                    return Some(run);
                }
            }
            None
        })
    }
}
