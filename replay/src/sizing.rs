//! How large a pool must be: failures over its size, each point an exact replay.
//!
//! Failures need not fall as a pool grows, since a search that begins elsewhere leaves other gaps. So no size is concluded
//! from its neighbours: the answer is the smallest size tried from which on *every* larger size tried is good enough, and
//! where a larger pool fares worse than a smaller one is told.
//!
//! ```text
//!  failures
//!     │▪
//!     │   ▪           a doubling grid first, around what the load needs at its peak;
//!     │     ▪▪        then, where sizes are free, the gap in front of the answer in
//!     │      ▪ ▪      equal parts, until it is a segment or a hundredth of the size
//!     │         ▪─▪───────▪──────────▪─ ─ ─ floor: what no size serves
//!     └──────────┴──────────────────────► slots
//!                least
//! ```

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

use crate::load::Load;
use crate::machine::Platform;
use crate::outcome::{OnFail, Options, Outcome};
use crate::policy::{Base, Policy, PolicyError};
use crate::refusal::Cause;
use crate::rules::Grammar;
use crate::sweep::{Job, Progress, sweep};

/// Slots of a pool that is as good as endless, where nothing is in its way: 8 GiB.
const ENDLESS: u64 = 1 << 22;
/// Parts a gap is divided into.
const PARTS: u64 = 16;
/// A gap of one part in so many of the size is close enough.
const FINE: u64 = 100;

/// The question.
#[derive(Clone, Copy, Debug)]
pub struct Sizing<'a> {
    /// What was asked for.
    pub load: &'a Load,
    /// Where addresses are translated.
    pub platform: &'a Platform,
    /// The recorded machine.
    pub base: &'a Base,
    /// Refused requests that may be.
    pub target: u64,
    /// What a driver is taken to do when it is refused.
    pub on_fail: OnFail,
    /// How many replay at once; all processors when nothing is said.
    pub threads: Option<NonZeroUsize>,
}

/// A pool of one size.
#[derive(Clone, Debug, PartialEq)]
pub struct SizePoint {
    /// Slots of the pool, as the kernel rounds it.
    pub nslabs: u64,
    /// Requests refused.
    pub failures: u64,
    /// Of these, by cause, in the order of [`Cause::ALL`].
    pub causes: [u64; Cause::ALL.len()],
    /// Most slots in use at once.
    pub peak_slots: u64,
    /// Why the first was refused.
    pub first_refusal: Option<String>,
}

/// A policy's failures over the size of its pool.
#[derive(Clone, Debug, PartialEq)]
pub struct SizeCurve {
    /// The policy, without a size.
    pub policy: Policy,
    /// Areas of its pools.
    pub areas: u32,
    /// What was tried, by size.
    pub points: Vec<SizePoint>,
    /// What a pool without end comes to: its failures no size cures, its peak no smaller pool serves whole.
    pub endless: SizePoint,
    /// Sizes are powers of two only (6.0 and newer, SPEC 2.3).
    pub powers_of_two: bool,
    /// All sizes were tried that were meant to be.
    pub whole: bool,
}

impl SizeCurve {
    /// The smallest size tried from which on all larger ones tried refuse at most `target` requests.
    #[must_use]
    pub fn least(&self, target: u64) -> Option<&SizePoint> {
        self.points.iter().rev().take_while(|point| point.failures <= target).last()
    }

    /// Neighbours of which the larger refuses more.
    pub fn rises(&self) -> impl Iterator<Item = (&SizePoint, &SizePoint)> {
        self.points.windows(2).filter_map(|pair| match pair {
            [smaller, larger] if larger.failures > smaller.failures => Some((smaller, larger)),
            _ => None,
        })
    }

    fn has(&self, nslabs: u64) -> bool {
        self.points.iter().any(|point| point.nslabs == nslabs)
    }

    fn add(&mut self, point: SizePoint) {
        let at = self.points.partition_point(|known| known.nslabs < point.nslabs);
        if !self.has(point.nslabs) {
            self.points.insert(at, point);
        }
    }
}

impl Sizing<'_> {
    /// Replays the load under each policy (which must not fix a size) with each number of areas, in as many sizes as it
    /// takes. `progress` is told of one round after the other; setting `stop` leaves what is done.
    ///
    /// Costs about ten replays of the load a curve, up to forty where sizes are free.
    ///
    /// # Errors
    /// When a policy's pools cannot be made.
    pub fn curves(
        &self,
        policies: &[Policy],
        areas: &[u32],
        stop: &AtomicBool,
        progress: impl Fn(Progress) + Sync,
    ) -> Result<Vec<SizeCurve>, PolicyError> {
        let mut lines = Vec::new();
        for policy in policies {
            match policy.rules().areas {
                true => lines.extend(areas.iter().map(|&areas| (policy, areas))),
                false => lines.push((policy, 1)),
            }
        }
        let endless: Vec<_> = lines.iter().map(|&(policy, areas)| (policy, areas, self.endless())).collect();
        let mut curves = Vec::new();
        for (&(policy, areas), point) in lines.iter().zip(self.points(&endless, stop, &progress)?) {
            // Stopped before anything is known of it: it is left out.
            let Some(endless) = point else { continue };
            let powers_of_two = policy.rules().grammar == Grammar::Areas;
            curves.push(SizeCurve {
                policy: policy.clone(),
                areas,
                points: vec![],
                endless,
                powers_of_two,
                whole: false,
            });
        }
        loop {
            let wanted: Vec<Vec<u64>> = curves.iter().map(|curve| self.wanted(curve)).collect();
            if wanted.iter().all(Vec::is_empty) {
                curves.iter_mut().for_each(|curve| curve.whole = true);
                return Ok(curves);
            }
            let asked = curves.iter().zip(&wanted);
            let asked = asked.flat_map(|(c, sizes)| sizes.iter().map(|&nslabs| (&c.policy, c.areas, nslabs)));
            let mut points = self.points(&asked.collect::<Vec<_>>(), stop, &progress)?.into_iter();
            let mut stopped = false;
            for (curve, sizes) in curves.iter_mut().zip(&wanted) {
                for point in points.by_ref().take(sizes.len()) {
                    stopped |= point.is_none();
                    point.into_iter().for_each(|point| curve.add(point));
                }
            }
            if stopped {
                return Ok(curves);
            }
        }
    }

    /// Slots of the largest pool that is tried: where the recorded one lies below 4 GiB it ends there, for beyond it 32-bit
    /// devices reach nothing.
    fn endless(&self) -> u64 {
        let room = (1u64 << 32).saturating_sub(self.base.pool.start) / SLOT_BYTES;
        room.checked_ilog2().map_or(ENDLESS, |log| ENDLESS.min(1 << log)).max(SEGMENT_SLOTS.into())
    }

    /// Sizes worth trying next.
    fn wanted(&self, curve: &SizeCurve) -> Vec<u64> {
        let good = self.target.max(curve.endless.failures);
        let segment = u64::from(SEGMENT_SLOTS);
        let smallest = segment * u64::from(curve.areas);
        let peak = curve.endless.peak_slots.next_power_of_two().max(smallest);
        let Some(last) = curve.points.last() else {
            let sizes = std::iter::successors(Some((peak / 8).max(smallest)), |n| n.checked_mul(2));
            return sizes.take_while(|&n| n <= peak.saturating_mul(4)).collect();
        };
        let Some(least) = curve.least(good) else {
            // Nothing has been good enough yet.
            return if last.nslabs < self.endless() { vec![last.nslabs * 2] } else { Vec::new() };
        };
        if curve.powers_of_two {
            return Vec::new();
        }
        let below = curve.points.iter().rev().find(|point| point.nslabs < least.nslabs);
        let from = below.map_or(0, |point| point.nslabs);
        let gap = least.nslabs - from;
        if gap <= segment || gap.saturating_mul(FINE) <= least.nslabs {
            return Vec::new();
        }
        let part = (gap / PARTS).next_multiple_of(segment);
        (1..PARTS).map(|i| from + i * part).filter(|&n| n < least.nslabs && !curve.has(n)).collect()
    }

    /// One replay a size; nothing where it was stopped.
    fn points(
        &self,
        asked: &[(&Policy, u32, u64)],
        stop: &AtomicBool,
        progress: impl Fn(Progress) + Sync,
    ) -> Result<Vec<Option<SizePoint>>, PolicyError> {
        let options = Options { refusals: 1, buckets: 1, on_fail: self.on_fail };
        let setups = asked.iter().map(|&(policy, areas, nslabs)| policy.sized(nslabs, areas)?.resolve(self.base));
        let setups = setups.collect::<Result<Vec<_>, _>>()?;
        let job = |setup: &_| Job { setup: Clone::clone(setup), platform: self.platform, options };
        let jobs: Vec<_> = setups.iter().map(job).collect();
        let outcomes = sweep(self.load, &jobs, self.threads, stop, progress);
        let point = |(setup, outcome): (&crate::Setup, Result<Outcome, _>)| {
            let outcome = outcome.ok()?;
            Some(SizePoint {
                nslabs: setup.pools.first().map_or(0, |pool| pool.nslabs),
                failures: outcome.total_failures(),
                causes: outcome.failures,
                peak_slots: outcome.peak_slots.first().copied().unwrap_or(0),
                first_refusal: outcome.refusals.first().map(|refused| refused.refusal.to_string()),
            })
        };
        Ok(setups.iter().zip(outcomes).map(point).collect())
    }
}

impl Policy {
    /// The same policy with a pool of so many slots, and areas where it has any.
    ///
    /// # Errors
    /// When it does not take that many.
    pub fn sized(&self, nslabs: u64, areas: u32) -> Result<Self, PolicyError> {
        let joint = if self.text().contains(':') { ',' } else { ':' };
        let areas = if self.rules().areas { format!(",areas={areas}") } else { String::new() };
        Policy::parse(&format!("{}{joint}nslabs={nslabs}{areas}", self.text()))
    }
}
