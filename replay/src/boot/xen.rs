//! Xen PV's pool: each segment of 128 slots is made of machine frames that follow one another, by handing frames back to
//! the hypervisor and asking for one extent instead (SPEC 9, 10.4).
//!
//! Extents are asked for below 2^18 bytes first (the first that can hold a segment), then below twice as much, up to
//! 2^32. What has been reached is kept from one segment to the next. When no extent is to be had, the pool is made
//! smaller and all begins anew; by version, that ends in a panic, an error, or no pool.

use std::collections::BTreeMap;

use trace::P2mRun;
use trace::field::{bytes as size, count};
use trace::pool::{P2mKind, SEGMENT_SLOTS};

use super::bytes;
use crate::kernel::{Fact, KernelVersion};
use crate::param::round_to_segments;

/// Machine memory to be exchanged for.
pub trait ExtentSource {
    /// One extent of 2^`order` frames, naturally aligned, all below 2^`bits` bytes: its first machine frame.
    fn exchange(&mut self, order: u32, bits: u32) -> Option<u64>;

    /// An extent of 2^`order` frames is given back, because the try it belonged to failed.
    fn give_back(&mut self, mfn: u64, order: u32);
}

/// A machine's free frames. Gives the highest extent that will do.
#[derive(Clone, Debug, Default)]
pub struct FreeMemory {
    /// First frame to frames.
    runs: BTreeMap<u64, u64>,
}

impl FreeMemory {
    /// Free frames as runs (first frame, frames) that do not overlap.
    #[must_use]
    pub fn new(runs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self { runs: runs.into_iter().filter(|&(_, frames)| frames > 0).collect() }
    }
}

impl ExtentSource for FreeMemory {
    fn exchange(&mut self, order: u32, bits: u32) -> Option<u64> {
        let frames = 1u64.checked_shl(order)?;
        let below = 1u64.checked_shl(bits.saturating_sub(12)).unwrap_or(u64::MAX);
        let fit = |(&start, &count): (&u64, &u64)| {
            let end = start.saturating_add(count).min(below);
            let mfn = end.checked_sub(frames)? & !(frames - 1);
            (mfn >= start).then_some((start, count, mfn))
        };
        let (start, count, mfn) = self.runs.range(..below).rev().find_map(fit)?;
        self.runs.remove(&start);
        let left = FreeMemory::new([(start, mfn - start), (mfn + frames, start + count - mfn - frames)]);
        self.runs.extend(left.runs);
        Some(mfn)
    }

    fn give_back(&mut self, mfn: u64, order: u32) {
        let (mut start, mut count) = (mfn, 1u64 << order);
        if let Some((&before, &frames)) = self.runs.range(..mfn).next_back()
            && before + frames == mfn
        {
            (start, count) = (before, frames + count);
        }
        count += self.runs.remove(&(start + count)).unwrap_or(0);
        self.runs.insert(start, count);
    }
}

/// How a kernel goes on when an extent was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Three times, with half as many slots but at least 1,024 (which can be more than before).
    Thrice,
    /// The same, while there are more than 1,024.
    ThriceAbove,
    /// With half as many while there are at least 512 left.
    AtLeastMinimum,
    /// With half as many while there were more than 512.
    WhileAboveMinimum,
}

trace::words! {
    /// What comes of no pool at all.
    pub enum Failure {
        /// The kernel panics.
        Panic = "panic",
        /// The driver that asked for the pool is told.
        Error = "error",
        /// Nothing; mappings that must bounce fail.
        Silent = "silent",
    }
}

/// How kernels of an era make the pool.
#[derive(Clone, Copy, Debug)]
pub struct Era {
    /// From this mainline release on.
    pub since: (u32, u32),
    /// In words.
    pub kernels: &'static str,
    /// When an extent was refused.
    pub retry: Retry,
    /// Late: a smaller pool keeps the pages of the larger one.
    pub late_keeps_pages: bool,
    /// Bytes the pool's guest-physical start is a multiple of.
    pub alignment: u64,
    /// When all was refused early in boot.
    pub failure: Failure,
}

const PAGE: u64 = 4096;
const SEGMENT: u64 = 256 << 10;

/// Every era, oldest first (SPEC 10.4's table). 6.1.y is late enough where [`Fact::SmallerOnFailure`] says so.
#[rustfmt::skip]
pub static ERAS: &[Era] = {
    use Retry::{AtLeastMinimum, Thrice, ThriceAbove, WhileAboveMinimum};
    &[
        era((0, 0),  "up to 5.13",        Thrice,            false, PAGE,    Failure::Panic),
        era((5, 14), "5.14",              Thrice,            true,  PAGE,    Failure::Panic),
        era((5, 15), "5.15 to 5.18",      ThriceAbove,       false, SEGMENT, Failure::Panic),
        era((5, 19), "5.19, 6.0",         AtLeastMinimum,    false, PAGE,    Failure::Panic),
        era((6, 2),  "late 6.1.y, 6.2 +", WhileAboveMinimum, false, PAGE,    Failure::Silent),
    ]
};

const fn era(
    since: (u32, u32),
    kernels: &'static str,
    retry: Retry,
    late_keeps_pages: bool,
    alignment: u64,
    failure: Failure,
) -> Era {
    Era { since, kernels, retry, late_keeps_pages, alignment, failure }
}

impl Era {
    /// The era of a kernel.
    #[must_use]
    pub fn of_kernel(kernel: KernelVersion) -> &'static Self {
        let branch = if kernel.has(Fact::SmallerOnFailure) { kernel.branch().max((6, 2)) } else { kernel.branch() };
        ERAS.iter().rev().find(|e| e.since <= branch).unwrap_or(&ERAS[0])
    }

    /// Slots of the next try after one of `n` was refused; `retries` were made already.
    fn next(&self, n: u64, retries: u32) -> Option<u64> {
        let half = round_to_segments(n >> 1);
        match self.retry {
            Retry::Thrice => (retries < 3).then(|| (n >> 1).max(1024)),
            Retry::ThriceAbove => (retries < 3 && n > 1024).then(|| half.max(1024)),
            Retry::AtLeastMinimum => (half >= super::memory::MIN_SLABS).then_some(half),
            Retry::WhileAboveMinimum => (n > super::memory::MIN_SLABS).then_some(half),
        }
    }
}

/// A segment's machine memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The segment's first slot.
    pub first_slot: u64,
    /// Frames, a power of two.
    pub frames: u64,
    /// The first machine frame.
    pub mfn: u64,
    /// It was asked for below 2^this bytes.
    pub bits: u32,
}

/// A pool as Xen made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XenPool {
    /// Slots.
    pub nslabs: u64,
    /// Its segments.
    pub extents: Vec<Extent>,
}

impl XenPool {
    /// The frame table of the pool, when it lies at guest-physical address `start`. Extents that happen to follow one
    /// another are one run.
    #[must_use]
    pub fn p2m_runs(&self, start: u64) -> Vec<P2mRun> {
        let mut runs: Vec<P2mRun> = Vec::new();
        for extent in &self.extents {
            let pfn = start / PAGE + extent.first_slot / 2;
            match runs.last_mut() {
                Some(last) if last.pfn + last.count == pfn && last.mfn + last.count == extent.mfn => {
                    last.count += extent.frames;
                }
                _ => runs.push(P2mRun { pfn, mfn: extent.mfn, count: extent.frames, kind: P2mKind::Own }),
            }
        }
        runs
    }
}

/// One try, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XenStep {
    /// Which pool: 0, or 1 for `rfc64`'s second.
    pub pool: usize,
    /// Slots it is about.
    pub nslabs: u64,
    /// What happened.
    pub what: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetUp {
    /// Each try.
    pub steps: Vec<XenStep>,
    /// The pools; short of those that failed.
    pub pools: Vec<XenPool>,
    /// What comes of the one that failed.
    pub failure: Option<Failure>,
}

/// Makes pools of `wanted` slots, `rfc64`'s second behind its first. Cost: linear in segments, a few exchanges each.
///
/// What a failed try had exchanged is there for the next to exchange again; SPEC does not say, but without that no next
/// try could fare better.
pub fn set_up(kernel: KernelVersion, wanted: &[u64], late: bool, source: &mut dyn ExtentSource) -> SetUp {
    let era = Era::of_kernel(kernel);
    let mut out = SetUp { steps: Vec::new(), pools: Vec::new(), failure: None };
    for (pool, &asked) in wanted.iter().enumerate() {
        // The RFC's second pool is asked for once, anywhere (SPEC 9).
        let (first_bits, last_bits) = if pool == 0 { (18, 32) } else { (64, 64) };
        let (mut n, mut retries) = (asked, 0);
        let made = loop {
            let mut step = |nslabs, what| out.steps.push(XenStep { pool, nslabs, what });
            match exchange(n, first_bits, last_bits, source) {
                Ok(extents) => {
                    let bits = extents.last().map_or(first_bits, |e| e.bits);
                    let segments = count(extents.len() as u64);
                    step(n, format!("{segments} segments, each one machine extent, the last below 2^{bits} bytes"));
                    break Some(XenPool { nslabs: n, extents });
                }
                Err(segment) => {
                    let slots = count(n);
                    let what = format!("{slots} slots: no machine extent below 2^{last_bits} for segment {segment}");
                    let Some(next) = era.next(n, retries) else {
                        step(n, format!("{what}; no further try"));
                        break None;
                    };
                    let mut what = format!("{what}; next, {} slots", count(next));
                    if late && era.late_keeps_pages {
                        what += &format!(", although the pages of {} stay taken", size(bytes(asked)));
                    }
                    step(next, what);
                    (n, retries) = (next, retries + 1);
                }
            }
        };
        match made {
            Some(pool) => out.pools.push(pool),
            None => {
                out.failure = Some(if late { Failure::Error } else { era.failure });
                break;
            }
        }
    }
    out
}

/// One try; or the segment no extent was to be had for, counted from 1.
fn exchange(n: u64, first_bits: u32, last_bits: u32, source: &mut dyn ExtentSource) -> Result<Vec<Extent>, u64> {
    let segment = u64::from(SEGMENT_SLOTS);
    let mut bits = first_bits;
    let mut extents: Vec<Extent> = Vec::new();
    for first_slot in (0..n).step_by(SEGMENT_SLOTS as usize) {
        let pages = bytes((n - first_slot).min(segment)).div_ceil(PAGE);
        let order = pages.next_power_of_two().trailing_zeros();
        let mfn = loop {
            match source.exchange(order, bits) {
                Some(mfn) => break mfn,
                None if bits < last_bits => bits += 1,
                None => {
                    for extent in &extents {
                        let Extent { mfn, frames, .. } = *extent;
                        source.give_back(mfn, frames.trailing_zeros());
                    }
                    return Err(first_slot / segment + 1);
                }
            }
        };
        extents.push(Extent { first_slot, frames: 1 << order, mfn, bits });
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kernel(text: &str) -> KernelVersion {
        KernelVersion::parse(text).unwrap()
    }

    /// Free memory for `segments` segments below 4 GiB.
    fn room(segments: u64) -> FreeMemory {
        FreeMemory::new([(0x1000, segments * 64)])
    }

    fn tries(release: &str, n: u64, segments: u64) -> (Vec<u64>, Option<u64>, Option<Failure>) {
        let made = set_up(kernel(release), &[n], false, &mut room(segments));
        let mut tried = vec![n];
        tried.extend(made.steps.iter().filter(|s| s.what.contains("next,")).map(|s| s.nslabs));
        (tried, made.pools.first().map(|p| p.nslabs), made.failure)
    }

    #[test]
    fn retries_by_version() {
        for release in ["5.10.7", "5.10.198", "5.12.9", "5.14-rc5"] {
            let panics = (vec![32768, 16384, 8192, 4096], None, Some(Failure::Panic));
            assert_eq!(tries(release, 32768, 0), panics, "{release}: three retries");
            let grows = (vec![512, 1024, 1024, 1024], None, Some(Failure::Panic));
            assert_eq!(tries(release, 512, 0), grows, "{release}: at least 1,024, even if that is more");
        }
        assert_eq!(tries("5.15.16", 32768, 0).0, [32768, 16384, 8192, 4096]);
        assert_eq!(tries("5.15.16", 2048, 0), (vec![2048, 1024], None, Some(Failure::Panic)));
        assert_eq!(tries("5.18", 512, 0), (vec![512], None, Some(Failure::Panic)));
        assert_eq!(tries("5.19", 4096, 0), (vec![4096, 2048, 1024, 512], None, Some(Failure::Panic)));
        assert_eq!(tries("6.0.1", 640, 0), (vec![640], None, Some(Failure::Panic)), "384 is below the minimum");
        assert_eq!(tries("6.1.192", 640, 0), (vec![640, 384], None, Some(Failure::Silent)), "640 was above it");
        assert_eq!(tries("6.12", 4096, 0), (vec![4096, 2048, 1024, 512], None, Some(Failure::Silent)));
        assert_eq!(tries("6.1.16", 4096, 0).2, Some(Failure::Panic));
        assert_eq!(tries("6.12", 1024, 8), (vec![1024], Some(1024), None));
        assert_eq!(tries("6.12", 1024, 7), (vec![1024, 512], Some(512), None));
        assert_eq!(tries("5.10.7", 32768, 20), (vec![32768, 16384, 8192, 4096], None, Some(Failure::Panic)));
        assert_eq!(tries("5.10.7", 32768, 40).1, Some(4096), "the third retry");
    }

    #[test]
    fn late_failures_are_errors_and_5_14_keeps_the_pages() {
        let late = |release| set_up(kernel(release), &[4096], true, &mut room(0));
        assert_eq!(late("5.12.9").failure, Some(Failure::Error));
        assert!(late("5.14").steps[0].what.contains("although the pages of 8 MiB stay taken"));
        assert!(!late("5.15").steps[0].what.contains("although"));
    }

    /// Bits rise until an extent is to be had, and stay there although the first place was free again.
    #[test]
    fn bits_are_not_reset_between_segments() {
        let mut memory = FreeMemory::new([(0, 64), (0x4000, 64), (0x8_0000, 128)]);
        let made = set_up(kernel("5.12"), &[512], false, &mut memory);
        let extents: Vec<_> = made.pools[0].extents.iter().map(|e| (e.first_slot, e.mfn, e.bits)).collect();
        assert_eq!(extents, [(0, 0, 18), (128, 0x4000, 27), (256, 0x8_0040, 32), (384, 0x8_0000, 32)]);
        assert_eq!(made.steps.last().unwrap().what, "4 segments, each one machine extent, the last below 2^32 bytes");
        let runs = made.pools[0].p2m_runs(0x1_0010_1000);
        let told: Vec<_> = runs.iter().map(|r| (r.pfn, r.mfn, r.count)).collect();
        let want = [(0x10_0101, 0, 64), (0x10_0141, 0x4000, 64), (0x10_0181, 0x8_0040, 64), (0x10_01c1, 0x8_0000, 64)];
        assert_eq!(told, want);
    }

    #[test]
    fn the_rfcs_second_pool_lies_anywhere_and_is_asked_for_once() {
        let far = 1 << 24;
        let made = set_up(Rfc, &[1024, 2048], false, &mut FreeMemory::new([(0, 64 * 8), (far, 64 * 16)]));
        assert_eq!(made.pools.iter().map(|p| p.nslabs).collect::<Vec<_>>(), [1024, 2048]);
        assert!(made.pools[1].extents.iter().all(|e| e.bits == 64 && e.mfn >= far));
        assert!(made.pools[0].extents.iter().all(|e| e.mfn < 64 * 8));
        assert_eq!(made.pools[0].p2m_runs(0).iter().map(|r| r.count).sum::<u64>(), 512);
        let short = set_up(Rfc, &[1024, 2048], false, &mut FreeMemory::new([(0, 64 * 8)]));
        assert_eq!((short.pools.len(), short.failure), (1, Some(Failure::Panic)));
        assert_eq!(short.steps.len(), 1 + 4);
    }
    use KernelVersion::Rfc64 as Rfc;

    #[test]
    fn a_last_segment_may_be_short() {
        let made = set_up(kernel("5.10.7"), &[192], false, &mut room(4));
        let frames: Vec<_> = made.pools[0].extents.iter().map(|e| (e.first_slot, e.frames)).collect();
        assert_eq!(frames, [(0, 64), (128, 32)]);
    }

    proptest! {
        /// Whatever is free: every segment is one extent below its bits, no frame is had twice, all were free.
        #[test]
        fn extents_are_whole_and_within_reach(
            free in prop::collection::vec((0u64..1 << 21, 1u64..3000), 0..30),
            segments in 1u64..40, release in prop::sample::select(vec!["5.10.7", "5.14", "5.18", "6.0", "6.12", "rfc64"]),
        ) {
            let mut runs = BTreeMap::new();
            let mut next = 0;
            for (gap, frames) in free {
                runs.insert(next + gap % 9000, frames);
                next += gap % 9000 + frames;
            }
            let was_free = |mfn: u64| runs.range(..=mfn).next_back().is_some_and(|(&s, &c)| mfn < s + c);
            let made = set_up(kernel(release), &[segments * 128], false, &mut FreeMemory::new(runs.clone()));
            prop_assert_eq!(made.failure.is_none(), made.pools.len() == 1);
            for pool in &made.pools {
                prop_assert_eq!(pool.extents.len() as u64, pool.nslabs.div_ceil(128));
                let mut taken = std::collections::BTreeSet::new();
                for (i, extent) in (0u64..).zip(&pool.extents) {
                    // Half of an odd number of segments leaves a short one (up to 5.14).
                    let slots = (pool.nslabs - i * 128).min(128);
                    prop_assert_eq!((extent.first_slot, extent.frames), (i * 128, (slots / 2).next_power_of_two()));
                    prop_assert_eq!(extent.mfn % extent.frames, 0);
                    let end = extent.mfn + extent.frames;
                    prop_assert!(end <= 1 << (extent.bits - 12) && extent.bits <= 32);
                    for mfn in extent.mfn..end {
                        prop_assert!(was_free(mfn) && taken.insert(mfn));
                    }
                }
                prop_assert!(pool.extents.is_sorted_by_key(|e| e.bits));
                let runs = pool.p2m_runs(1 << 30);
                prop_assert!(runs.iter().map(|r| r.count).sum::<u64>() >= pool.nslabs / 2);
            }
        }

        /// What is taken and given back is as before, whatever the order.
        #[test]
        fn giving_back_undoes_taking(runs in prop::collection::vec((1u64..50, 1u64..50), 1..6), orders in prop::collection::vec(0u32..4, 0..40)) {
            let mut next = 0;
            let runs: Vec<_> = runs.iter().map(|&(gap, frames)| { next += gap + frames; (next - frames, frames) }).collect();
            let mut memory = FreeMemory::new(runs.clone());
            let mut taken: Vec<_> = orders.iter().filter_map(|&o| memory.exchange(o, 64).map(|mfn| (mfn, o))).collect();
            taken.sort_by_key(|&(mfn, o)| mfn.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(o));
            for (mfn, order) in taken {
                memory.give_back(mfn, order);
            }
            prop_assert_eq!(memory.runs, FreeMemory::new(runs).runs);
        }

        /// The source itself, against its definition: the highest aligned extent below the bits, if there is any.
        #[test]
        fn the_highest_extent_is_given(free in prop::collection::vec(any::<bool>(), 64), order in 0u32..4, bits in 12u32..20) {
            let runs = (0u64..).zip(&free).filter(|(_, free)| **free).map(|(mfn, _)| (mfn, 1));
            let mut whole: Vec<(u64, u64)> = Vec::new();
            for (mfn, _) in runs {
                match whole.last_mut() {
                    Some((start, count)) if *start + *count == mfn => *count += 1,
                    _ => whole.push((mfn, 1)),
                }
            }
            let (frames, below) = (1u64 << order, 64.min(1u64 << (bits - 12)));
            let fits = |&mfn: &u64| mfn + frames <= below && (mfn..mfn + frames).all(|f| free[f as usize]);
            let want = (0..64).step_by(frames as usize).filter(fits).max();
            prop_assert_eq!(FreeMemory::new(whole).exchange(order, bits), want);
        }
    }
}
