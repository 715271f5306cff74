//! Xen's frame tables as a PV guest sees them: guest frame to machine frame and back (SPEC 10, 10.3).
//!
//! Kept as runs, since recorded tables and real ones are mostly runs, and a table may name any 64-bit frame.

use std::collections::BTreeMap;

use trace::P2mRun;
use trace::pool::P2mKind;

/// The entry of a guest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Machine frame, flag bits taken off; all ones when there is none.
    pub mfn: u64,
    /// Whose it is.
    pub kind: P2mKind,
}

impl Frame {
    const INVALID: Self = Self { mfn: u64::MAX, kind: P2mKind::Invalid };
}

/// Guest frames to machine frames, and back for the domain's own.
#[derive(Clone, Debug, Default)]
pub struct P2m {
    forward: Runs<P2mKind>,
    /// What the hypervisor says of machine frames; frames never set have no guest frame.
    back: Runs<()>,
    /// Guest frames from here on are identity.
    size: Option<u64>,
}

impl P2m {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A table as recorded; frames in none of the runs are unknown.
    #[must_use]
    pub fn from_runs<'a>(runs: impl IntoIterator<Item = &'a P2mRun>) -> Self {
        let mut table = Self::new();
        for run in runs {
            table.set(run.pfn, run.mfn, run.count, run.kind);
        }
        table
    }

    /// Frames at or past `size` are identity, as past the end of the guest's table.
    pub fn set_size(&mut self, size: u64) {
        self.size = Some(size);
    }

    /// Whether this is a guest's whole table, in which frames never set are invalid, or one in which they are unknown.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.size.is_some()
    }

    /// Sets `count` entries from `pfn` on. The domain's own frames are set in the reverse table too.
    pub fn set(&mut self, pfn: u64, mfn: u64, count: u64, kind: P2mKind) {
        self.forward.set(pfn, mfn, count, kind);
        if kind == P2mKind::Own {
            self.back.set(mfn, pfn, count, ());
        }
    }

    /// Sets reverse entries only: what the hypervisor says of frames that belong to other domains.
    pub fn set_m2p(&mut self, mfn: u64, pfn: u64, count: u64) {
        self.back.set(mfn, pfn, count, ());
    }

    /// The entry of a guest frame, or nothing when it was never set.
    #[must_use]
    pub fn get(&self, pfn: u64) -> Option<Frame> {
        if self.size.is_some_and(|size| pfn >= size) {
            return Some(Frame { mfn: pfn, kind: P2mKind::Identity });
        }
        self.forward.get(pfn).map(|(mfn, kind, _)| match kind {
            P2mKind::Invalid => Frame::INVALID,
            kind => Frame { mfn, kind },
        })
    }

    /// The guest frame that owns a machine frame: only if its entry names exactly that frame without a flag, so
    /// foreign and identity frames have none (SPEC 10.3).
    #[must_use]
    pub fn local_pfn(&self, mfn: u64) -> Option<u64> {
        let (pfn, (), _) = self.back.get(mfn)?;
        (self.get(pfn) == Some(Frame { mfn, kind: P2mKind::Own })).then_some(pfn)
    }

    /// How `pages` frames from `pfn` on lie in machine memory.
    #[must_use]
    pub fn span(&self, pfn: u64, pages: u64) -> Span {
        let first = self.get(pfn);
        let base = first.unwrap_or(Frame::INVALID);
        let mut span =
            Span { mfn: base.mfn, straddles: false, foreign: base.kind == P2mKind::Foreign, unknown: first.is_none() };
        let mut i = match self.run_length(pfn) {
            0 => 1,
            n => n,
        };
        while i < pages {
            let next = pfn.wrapping_add(i);
            let entry = self.get(next);
            let frame = entry.unwrap_or(Frame::INVALID);
            span.unknown |= entry.is_none();
            span.foreign |= frame.kind == P2mKind::Foreign;
            span.straddles |= frame.mfn != base.mfn.wrapping_add(i);
            i += self.run_length(next).max(1);
        }
        span
    }

    /// Frames from `pfn` on that continue its run in machine memory; 0 when that is not known or not so.
    fn run_length(&self, pfn: u64) -> u64 {
        match self.size {
            Some(size) if pfn >= size => u64::MAX - pfn,
            _ => match self.forward.get(pfn) {
                // Entries without a frame are all alike: the second is not one more than the first.
                None | Some((_, P2mKind::Invalid, _)) => 0,
                Some((_, _, left)) => left.min(self.size.map_or(left, |size| size - pfn)),
            },
        }
    }
}

/// A range of guest frames in machine memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Machine frame of the first; all ones when it has none.
    pub mfn: u64,
    /// The machine frames do not follow one another.
    pub straddles: bool,
    /// Some frame belongs to another domain.
    pub foreign: bool,
    /// Some frame's entry was never set.
    pub unknown: bool,
}

/// A map from numbers to numbers, in runs where both go up by one.
#[derive(Clone, Debug)]
struct Runs<T> {
    runs: BTreeMap<u64, (u64, u64, T)>,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<T: Copy> Runs<T> {
    /// The value at `key`, its tag, and how many keys from it on are in its run.
    fn get(&self, key: u64) -> Option<(u64, T, u64)> {
        let (&start, &(value, count, tag)) = self.runs.range(..=key).next_back()?;
        let at = key - start;
        (at < count).then(|| (value.wrapping_add(at), tag, count - at))
    }

    /// Sets `count` keys from `key` on, over whatever was there.
    fn set(&mut self, key: u64, value: u64, count: u64, tag: T) {
        let count = count.min(u64::MAX - key);
        if count == 0 {
            return;
        }
        let end = key + count;
        // The run that reaches into ours keeps its front, and its back when it goes on behind ours.
        if let Some((&start, &(old, n, old_tag))) = self.runs.range(..key).next_back()
            && start + n > key
        {
            self.runs.insert(start, (old, key - start, old_tag));
            if start + n > end {
                self.runs.insert(end, (old.wrapping_add(end - start), start + n - end, old_tag));
            }
        }
        while let Some((&start, &(old, n, old_tag))) = self.runs.range(key..end).next() {
            self.runs.remove(&start);
            if start + n > end {
                self.runs.insert(end, (old.wrapping_add(end - start), start + n - end, old_tag));
            }
        }
        self.runs.insert(key, (value, count, tag));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_agree_with_a_plain_table(sets in prop::collection::vec((0u64..200, 0u64..1000, 0u64..60, any::<bool>()), 0..60)) {
            let mut runs = Runs::default();
            let mut plain = BTreeMap::new();
            for (key, value, count, tag) in sets {
                runs.set(key, value, count, tag);
                plain.extend((0..count).map(|i| (key + i, (value + i, tag))));
            }
            for key in 0..300 {
                let got = runs.get(key);
                prop_assert_eq!(got.map(|(v, t, _)| (v, t)), plain.get(&key).copied());
                if let Some((value, tag, left)) = got {
                    prop_assert!((0..left).all(|i| plain.get(&(key + i)) == Some(&(value + i, tag))));
                }
            }
        }

        #[test]
        fn a_span_is_what_its_frames_are_one_by_one(
            sets in prop::collection::vec((0u64..60, 0u64..40, 1u64..20, 0usize..4), 0..20),
            size in prop::option::of(20u64..60), pfn in 0u64..70, pages in 1u64..20,
        ) {
            let mut table = P2m::new();
            for (pfn, mfn, count, kind) in sets {
                table.set(pfn, mfn, count, P2mKind::ALL[kind]);
            }
            if let Some(size) = size {
                table.set_size(size);
            }
            let frames: Vec<_> = (0..pages).map(|i| table.get(pfn + i)).collect();
            let mfn = |f: Option<Frame>| f.map_or(u64::MAX, |f| f.mfn);
            let span = table.span(pfn, pages);
            prop_assert_eq!(span.mfn, mfn(frames[0]));
            prop_assert_eq!(span.unknown, frames.contains(&None));
            prop_assert_eq!(span.foreign, frames.iter().flatten().any(|f| f.kind == P2mKind::Foreign));
            let contiguous = (0u64..).zip(&frames).all(|(i, &f)| mfn(f) == mfn(frames[0]).wrapping_add(i));
            prop_assert_eq!(span.straddles, !contiguous);
        }
    }

    /// SPEC 14, E13.
    #[test]
    fn a_range_straddles_when_its_machine_frames_part() {
        let mut table = P2m::new();
        table.set(100, 7000, 2, P2mKind::Own);
        table.set(102, 9000, 1, P2mKind::Own);
        assert!(!table.span(100, 2).straddles);
        assert!(table.span(100, 3).straddles);
    }

    #[test]
    fn only_own_frames_are_found_backwards() {
        let mut table = P2m::new();
        table.set(10, 500, 4, P2mKind::Own);
        table.set(20, 900, 1, P2mKind::Foreign);
        table.set_m2p(900, 20, 1);
        assert_eq!(table.local_pfn(502), Some(12));
        assert_eq!(table.local_pfn(900), None);
        table.set(12, 600, 1, P2mKind::Own);
        assert_eq!(table.local_pfn(502), None, "the frame was given away");
    }
}
