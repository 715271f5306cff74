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
    /// Machine frames from here on the hypervisor's table does not have.
    back_size: Option<u64>,
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

    /// Machine frames at or past `size` have no guest frame: reading the hypervisor's table there faults (SPEC 10.3).
    pub fn set_m2p_size(&mut self, size: u64) {
        self.back_size = Some(size);
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
        self.forward.get(pfn).map(|(mfn, kind)| match kind {
            P2mKind::Invalid => Frame::INVALID,
            kind => Frame { mfn, kind },
        })
    }

    /// The guest frame that owns a machine frame: only if its entry names exactly that frame without a flag, so
    /// foreign and identity frames have none, nor have those past the hypervisor's table (SPEC 10.3).
    #[must_use]
    pub fn local_pfn(&self, mfn: u64) -> Option<u64> {
        if self.back_size.is_some_and(|size| mfn >= size) {
            return None;
        }
        let (pfn, ()) = self.back.get(mfn)?;
        (self.get(pfn) == Some(Frame { mfn, kind: P2mKind::Own })).then_some(pfn)
    }

    /// How `pages` frames from `pfn` on lie in machine memory.
    #[must_use]
    pub fn span(&self, pfn: u64, pages: u64) -> Span {
        let mfn = self.get(pfn).unwrap_or(Frame::INVALID).mfn;
        let mut span = Span { mfn, straddles: false, foreign: false, unknown: false };
        let mut i = 0;
        while i < pages {
            let at = pfn.wrapping_add(i);
            let entry = self.get(at);
            let frame = entry.unwrap_or(Frame::INVALID);
            let alike = self.alike(at).min(pages - i);
            span.unknown |= entry.is_none();
            span.foreign |= frame.kind == P2mKind::Foreign;
            // Frames of a run follow one another; two frames without a machine frame do not.
            span.straddles |= frame.mfn != mfn.wrapping_add(i) || (frame.kind == P2mKind::Invalid && alike > 1);
            i += alike;
        }
        span
    }

    /// Frames from `pfn` on, itself included, in the same run or in the same hole.
    fn alike(&self, pfn: u64) -> u64 {
        let left = match self.size {
            Some(size) if pfn >= size => u64::MAX - pfn,
            Some(size) => self.forward.left(pfn).min(size - pfn),
            None => self.forward.left(pfn),
        };
        left.max(1)
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
    /// The value at `key`, and its tag.
    fn get(&self, key: u64) -> Option<(u64, T)> {
        let (&start, &(value, count, tag)) = self.runs.range(..=key).next_back()?;
        let at = key - start;
        (at < count).then(|| (value.wrapping_add(at), tag))
    }

    /// How many keys from this one on are in the same run, or in none.
    fn left(&self, key: u64) -> u64 {
        if let Some((&start, &(_, count, _))) = self.runs.range(..=key).next_back()
            && key - start < count
        {
            return count - (key - start);
        }
        self.runs.range(key..).next().map_or(u64::MAX - key, |(&next, _)| next - key)
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
                prop_assert_eq!(got, plain.get(&key).copied());
                let alike = |i: u64| match got {
                    Some((value, tag)) => plain.get(&(key + i)) == Some(&(value + i, tag)),
                    None => !plain.contains_key(&(key + i)),
                };
                prop_assert!((0..runs.left(key).min(400)).all(alike));
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
        table.set_m2p_size(501);
        assert_eq!((table.local_pfn(500), table.local_pfn(501)), (Some(10), None), "past the hypervisor's table");
    }
}
