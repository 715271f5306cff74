//! Xen on ARM: the tree of foreign pages (SPEC 10.8). A guest's own frames are their own bus frames; a page another
//! domain shares is found here, by guest frame, and there is no way back from its bus frame.

use std::collections::BTreeMap;

use trace::P2mRun;
use trace::pool::P2mKind;

use crate::p2m::Span;

/// Guest frames of other domains' pages to bus frames.
#[derive(Clone, Debug, Default)]
pub struct ForeignTree {
    /// First guest frame to first bus frame and count.
    entries: BTreeMap<u64, (u64, u64)>,
    /// Frames from here on are no memory of ours.
    max_pfn: Option<u64>,
}

impl ForeignTree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The foreign pages of a recorded frame table; of pages named twice the first stays.
    #[must_use]
    pub fn from_runs<'a>(runs: impl IntoIterator<Item = &'a P2mRun>) -> Self {
        let mut tree = Self::new();
        for run in runs.into_iter().filter(|run| run.kind == P2mKind::Foreign) {
            tree.insert(run.pfn, run.mfn, run.count);
        }
        tree
    }

    /// Frames at or past `max_pfn` are not valid (`pfn_valid`).
    pub fn set_max_pfn(&mut self, max_pfn: u64) {
        self.max_pfn = Some(max_pfn);
    }

    /// Whether a frame is memory of ours.
    #[must_use]
    pub fn is_valid(&self, pfn: u64) -> bool {
        self.max_pfn.is_none_or(|max| pfn < max)
    }

    /// Adds an entry of `count` frames; `false` when an entry begins at that frame already, as the kernel refuses it.
    pub fn insert(&mut self, pfn: u64, bfn: u64, count: u64) -> bool {
        if self.entries.contains_key(&pfn) {
            return false;
        }
        self.entries.insert(pfn, (bfn, count));
        true
    }

    /// The bus frame of a guest frame: its own unless it lies in an entry.
    #[must_use]
    pub fn bfn(&self, pfn: u64) -> u64 {
        self.entry(pfn).map_or(pfn, |(bfn, _)| bfn)
    }

    /// How `pages` frames from `pfn` on lie on the bus.
    #[must_use]
    pub fn span(&self, pfn: u64, pages: u64) -> Span {
        let first = self.bfn(pfn);
        let mut span = Span { mfn: first, straddles: false, foreign: false, unknown: false };
        let mut i = 0;
        while i < pages {
            let at = pfn.wrapping_add(i);
            let next = at.checked_add(1).and_then(|after| self.entries.range(after..).next()).map(|(&start, _)| start);
            let to_next = next.map_or(u64::MAX - at, |start| start - at);
            let (bfn, alike) = match self.entry(at) {
                Some((bfn, left)) => (bfn, left.min(to_next)),
                None => (at, to_next),
            };
            span.foreign |= bfn != at;
            span.straddles |= bfn != first.wrapping_add(i);
            i = i.saturating_add(alike.max(1));
        }
        span
    }

    /// The bus frame of a frame that lies in an entry, and how many of the entry are left from there on.
    fn entry(&self, pfn: u64) -> Option<(u64, u64)> {
        let (&start, &(bfn, count)) = self.entries.range(..=pfn).next_back()?;
        let at = pfn - start;
        (at < count).then(|| (bfn.wrapping_add(at), count - at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SPEC 10.8.
    #[test]
    fn an_entry_is_refused_where_one_begins_and_nowhere_else() {
        let mut tree = ForeignTree::new();
        assert!(tree.insert(100, 7000, 4));
        assert!(!tree.insert(100, 9000, 1));
        assert!(tree.insert(104, 9000, 1));
        assert_eq!((tree.bfn(99), tree.bfn(103), tree.bfn(104), tree.bfn(105)), (99, 7003, 9000, 105));
        assert!(!tree.span(100, 4).straddles);
        assert!(tree.span(100, 5).straddles && tree.span(99, 2).straddles);
        assert!(!tree.span(105, 1000).foreign);
    }

    proptest! {
        #[test]
        fn a_span_is_what_its_frames_are_one_by_one(
            entries in prop::collection::vec((0u64..60, 0u64..80, 1u64..6), 0..20), pfn in 0u64..70, pages in 1u64..20,
        ) {
            let mut tree = ForeignTree::new();
            for (pfn, bfn, count) in entries {
                tree.insert(pfn, bfn, count);
            }
            let bfns: Vec<_> = (0..pages).map(|i| (pfn + i, tree.bfn(pfn + i))).collect();
            let span = tree.span(pfn, pages);
            prop_assert_eq!(span.mfn, bfns[0].1);
            prop_assert_eq!(span.foreign, bfns.iter().any(|(pfn, bfn)| pfn != bfn));
            prop_assert_eq!(span.straddles, bfns.iter().any(|(p, bfn)| bfn - bfns[0].1.min(*bfn) != p - pfn));
        }

        #[test]
        fn any_span_ends(pfn: u64, pages: u64, at: u64, count: u64) {
            let mut tree = ForeignTree::new();
            tree.insert(at, !at, count);
            let _ = tree.span(pfn, pages);
        }
    }
}
