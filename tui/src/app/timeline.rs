//! A whole recording at a glance: how much of the pool was in use when, and where something went wrong.

use std::sync::Arc;

use replay::moment::{Failure, Moment, Second};

/// Parts a recording is cut into.
pub(crate) const BINS: usize = 600;

/// Something to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Events up to it, itself included.
    pub(crate) event: u64,
    /// When.
    pub(crate) time_ns: u64,
}

/// A recording as far as it has been read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    /// First and last time.
    pub(crate) span: (u64, u64),
    /// Parts of equal length, in order; each with what happened in it and the most slots in use.
    pub(crate) bins: Vec<Second>,
    /// Events read so far, and how many there are.
    pub(crate) read: (u64, u64),
    /// All refusals with the place of each, in order; not more than [`FAILURES`].
    pub(crate) failures: Arc<Vec<(Mark, Arc<Failure>)>>,
    /// Where use came to a head in each part.
    pub(crate) heads: Vec<(u64, Mark)>,
    /// The state at the end of what has been read.
    pub(crate) end: Option<Arc<Moment>>,
    /// Why reading stopped short.
    pub(crate) error: Option<String>,
}

/// Refusals kept to be listed; there may be more.
pub(crate) const FAILURES: usize = 100_000;

impl Timeline {
    /// An empty one over a span.
    pub(crate) fn new(span: (u64, u64), events: u64) -> Self {
        let width = Self::width_of(span);
        let bins = (0..BINS as u64).map(|i| Second { time_ns: span.0 + i * width, ..Second::default() });
        Self {
            span,
            bins: bins.collect(),
            read: (0, events),
            heads: vec![(0, Mark { event: 0, time_ns: 0 }); BINS],
            ..Self::default()
        }
    }

    fn width_of(span: (u64, u64)) -> u64 {
        ((span.1 - span.0.min(span.1)) / BINS as u64 + 1).max(1)
    }

    /// Nanoseconds of a part.
    pub(crate) fn width(&self) -> u64 {
        Self::width_of(self.span)
    }

    /// The part a time belongs to.
    pub(crate) fn bin(&self, time_ns: u64) -> usize {
        let at = time_ns.saturating_sub(self.span.0) / self.width();
        usize::try_from(at).unwrap_or(usize::MAX).min(self.bins.len().saturating_sub(1))
    }

    /// Whether everything has been read.
    pub(crate) fn is_whole(&self) -> bool {
        self.read.0 >= self.read.1
    }

    /// The share read, for people.
    pub(crate) fn percent(&self) -> u64 {
        (self.read.0 * 100).checked_div(self.read.1).unwrap_or(100)
    }

    /// The most slots in use anywhere.
    pub(crate) fn peak(&self) -> u64 {
        self.bins.iter().map(|bin| bin.peak_slots).max().unwrap_or(0)
    }

    /// The first failure after an event, or the last before it.
    pub(crate) fn failure(&self, event: u64, forward: bool) -> Option<usize> {
        let after = self.failures.partition_point(|(mark, _)| mark.event <= event);
        let before = self.failures.partition_point(|(mark, _)| mark.event < event);
        if forward { (after < self.failures.len()).then_some(after) } else { before.checked_sub(1) }
    }

    /// Where use came to a head: higher than ten parts around it, and at least half the highest.
    fn peaks(&self) -> impl DoubleEndedIterator<Item = Mark> + '_ {
        const AROUND: usize = 10;
        let least = (self.peak() / 2).max(1);
        self.heads.iter().enumerate().filter_map(move |(i, &(used, mark))| {
            let near = &self.heads[i.saturating_sub(AROUND)..(i + AROUND + 1).min(self.heads.len())];
            let first = near.iter().position(|&(other, _)| other >= used)? + i.saturating_sub(AROUND);
            (used >= least && first == i && near.iter().all(|&(other, _)| other <= used)).then_some(mark)
        })
    }

    /// The first such head after an event, or the last before it.
    pub(crate) fn next_peak(&self, event: u64, forward: bool) -> Option<Mark> {
        if forward {
            self.peaks().find(|mark| mark.event > event)
        } else {
            self.peaks().rev().find(|mark| mark.event < event)
        }
    }
}
