//! The searches of SPEC 3.1–3.6, without the walking.
//!
//! A kernel search visits slots in a fixed order: it passes slots whose address does not match one by one, and after
//! a slot that matches but is busy (or would cross a boundary) it goes on `stride` slots further. So within one
//! sweep from a slot upward, the slots it *looks at* form a chain that depends on the request only, not on what is
//! free: the first match, then the first match at least `stride` further, and so on. [`Sweep::first_fit`] finds the
//! first free run on that chain, a segment at a time. What differs between the letters is how many sweeps there are
//! and where they end; that is [`find`].

use std::ops::Range;

use trace::pool::SEGMENT_SLOTS;

use crate::bits;
use crate::boundaries::Boundaries;
use crate::bounds::{Scan, Wanted};
use crate::plan::{Plan, Shape};
use crate::pool::SlotPool;
use crate::rules::Search;

const SEG: u64 = SEGMENT_SLOTS as u64;

/// What a search of one area came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The first slot to take, counted from the pool's start.
    Slot(u64),
    /// Nothing fits.
    Nothing,
    /// Nothing fits and the kernel would search for ever (SPEC 3.4).
    Livelock,
}

/// Searches one area as the kernel of that letter does.
pub(crate) fn find(pool: &mut SlotPool, area: usize, plan: &Plan, search: Search) -> Found {
    find_on(pool, area, plan, search, Before::Nothing)
}

/// What has been done for a request in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    /// It is one that [`area_that_may`] has named.
    Named,
    /// The sweep to its end was made, in vain.
    Swept,
    /// It was searched, in vain.
    Searched,
}

/// The first of some areas that may serve a request by what bounds say, mostly without a look at each; or just the first
/// where they are not asked, as a search that finds nothing might not end.
pub(crate) fn area_that_may(
    pool: &mut SlotPool,
    areas: Range<usize>,
    plan: &Plan,
    search: Search,
) -> Option<(usize, Before)> {
    let len = pool.area_slots();
    let may_not_end = matches!(search, Search::B | Search::BSplit) && !plan.shape.comes_round;
    if areas.is_empty() || !len.is_multiple_of(SEG) || may_not_end {
        return Some((areas.start, Before::Nothing)).filter(|_| !areas.is_empty());
    }
    let segment = segment_that_may(pool, areas.start as u64 * len, areas.end as u64 * len, plan)?;
    Some((pool.area_of(segment as u64 * SEG), Before::Named))
}

/// The first segment from one slot up to another that may have a run long enough at a slot that matches.
fn segment_that_may(pool: &mut SlotPool, from: u64, to: u64, plan: &Plan) -> Option<usize> {
    let Plan { n, shape, value, first, .. } = *plan;
    let n = u32::try_from(n).ok().filter(|&n| (1..=SEGMENT_SLOTS).contains(&n))?;
    // A mask with a hole at its low end leaves open where in four slots a run begins.
    let period = 1 << shape.mask.trailing_ones().min(2);
    let wanted = Wanted::new(n, value.wrapping_sub(first), period);
    pool.bounds_mut().next((from / SEG) as usize, to.div_ceil(SEG) as usize, &wanted)
}

/// As [`find`], when something has been done before.
pub(crate) fn find_on(pool: &mut SlotPool, area: usize, plan: &Plan, search: Search, before: Before) -> Found {
    let len = pool.area_slots();
    let state = pool.areas()[area];
    // No slots at all are asked for when an alignment mask wraps the size to nothing.
    if plan.n == 0 {
        return Found::Nothing;
    }
    // The quick reject under the lock, before any walk (SPEC 3).
    // Unsigned there too: an area that owns slots beyond its border (6.0, SPEC 2.3) is walked all the same.
    if plan.n > len.wrapping_sub(state.used) {
        return Found::Nothing;
    }
    // Searches A and B begin at a multiple of the stride, C and D at the bare cursor.
    let begin = plan.shape.begin(state.index, len);
    let stride = plan.shape.stride;
    let base = area as u64 * len;
    // A sweep made in vain has left little to be told apart.
    let hopeless = before == Before::Nothing && segment_that_may(pool, base, base + len, plan).is_none();
    let mut sweep = Sweep { base, pool, plan };
    if hopeless && matches!(search, Search::A | Search::C | Search::D) {
        return Found::Nothing;
    }
    if before != Before::Swept
        && !hopeless
        && let Some(slot) = sweep.first_fit(begin, len)
    {
        return Found::Slot(slot);
    }
    let end = match search {
        // Round once in steps of the stride, to where it began.
        Search::A => begin,
        // Ends only on the slot it began with. A second sweep that steps over it goes on to the end of the area,
        // and as every further sweep repeats it, for ever.
        Search::B | Search::BSplit => match sweep.last_before(0, begin) {
            Some(last) if last + stride > begin => len,
            _ => begin,
        },
        // Counts the slots gone past: what the first sweep jumped beyond the area's end is missing in the second.
        Search::C | Search::D => {
            let overshoot = sweep.last_before(begin, len).map_or(0, |last| (last + stride).saturating_sub(len));
            begin.saturating_sub(overshoot)
        }
    };
    let again = if hopeless { None } else { sweep.first_fit(0, end) };
    match again {
        Some(slot) => Found::Slot(slot),
        None if end > begin => Found::Livelock,
        None => Found::Nothing,
    }
}

/// As [`find`], in an area that [`area_that_may`] has named; with one look at its bounds where that will do.
pub(crate) fn find_in_named(pool: &mut SlotPool, area: usize, plan: &Plan, search: Search) -> Found {
    let (shape, len, state) = (&plan.shape, pool.area_slots(), pool.areas()[area]);
    let base = area as u64 * len;
    let begin = shape.begin(state.index, len);
    let ahead = plan.value.wrapping_sub(plan.first + base + begin) & shape.mask;
    let fits = (1..=len.wrapping_sub(state.used).min(SEG)).contains(&plan.n);
    if !both_sweeps(pool, shape) || plan.never || !fits || begin + ahead >= len {
        return find_on(pool, area, plan, search, Before::Named);
    }
    let found = first_around(pool, area, shape, base + begin + ahead, plan.n as u32, &plan.boundaries);
    found.map_or(Found::Nothing, Found::Slot)
}

/// What is found from slot `from` on by the sweep to the area's end, or by both sweeps where one look at its bounds will do for
/// them ([`both_sweeps`]). The request's shape has a step, its length is 1 to 128.
#[inline(always)]
pub(crate) fn first_around(
    pool: &mut SlotPool,
    area: usize,
    shape: &Shape,
    from: u64,
    n: u32,
    boundaries: &Boundaries,
) -> Option<u64> {
    if boundaries.are_outside(n, pool) {
        let (step, to) = (shape.step?, (area as u64 + 1) * pool.area_slots());
        match glance(pool, from, to, step, n) {
            None => behind_glance(pool, area, shape, from, n),
            found => found,
        }
    } else {
        around_between(pool, area, shape, from, n, boundaries)
    }
}

/// As [`first_around`], behind a [`glance`].
#[inline(never)]
fn behind_glance(pool: &mut SlotPool, area: usize, shape: &Shape, from: u64, n: u32) -> Option<u64> {
    let (step, to) = (shape.step?, (area as u64 + 1) * pool.area_slots());
    // From the second half of a segment on, nothing was left out.
    let left_out = from % SEG < SEG / 2 || !may_glance(from, to, n);
    let looked = if left_out { look(pool, from, to, step, n, |_| u128::MAX) } else { None };
    match looked {
        None => beyond(pool, area, shape, from, n, |_| u128::MAX),
        found => found,
    }
}

/// Whether a [`glance`] is made: the run is short, and the segment at slot `from` not cut by the sweep's end.
#[inline(always)]
fn may_glance(from: u64, to: u64, n: u32) -> bool {
    n <= bits::SHORT && to > from | (SEG - 1)
}

/// A [`look`] at the next 64 slots only, in half the time. `None` may mean that it was not made.
#[inline(always)]
fn glance(pool: &SlotPool, from: u64, to: u64, step: u32, n: u32) -> Option<u64> {
    let at = (from % SEG) as u32;
    if at < step || !may_glance(from, to, n) {
        return None;
    }
    let ahead = (pool.segment((from / SEG) as usize) >> at) as u64;
    let found = bits::short_starts(ahead, n) & bits::every(step, 0) as u64;
    if found == 0 {
        return None;
    }
    Some(from + u64::from(found.trailing_zeros()))
}

/// As [`first_around`], where there are boundaries in the pool.
#[inline(never)]
fn around_between(
    pool: &mut SlotPool,
    area: usize,
    shape: &Shape,
    from: u64,
    n: u32,
    boundaries: &Boundaries,
) -> Option<u64> {
    let allowed = boundaries.of_runs(n, pool);
    around_allowed(pool, area, shape, from, n, |base| allowed.in_segment(base))
}

/// As [`first_around`]; `allowed` says where runs may begin in the segment at a slot.
#[inline(always)]
fn around_allowed(
    pool: &mut SlotPool,
    area: usize,
    shape: &Shape,
    from: u64,
    n: u32,
    allowed: impl Fn(u64) -> u128,
) -> Option<u64> {
    let (step, to) = (shape.step?, (area as u64 + 1) * pool.area_slots());
    match look(pool, from, to, step, n, &allowed) {
        None => beyond(pool, area, shape, from, n, allowed),
        found => found,
    }
}

/// As [`first_around`], behind the first [`look`].
#[inline(always)]
fn beyond(
    pool: &mut SlotPool,
    area: usize,
    shape: &Shape,
    from: u64,
    n: u32,
    allowed: impl Fn(u64) -> u128,
) -> Option<u64> {
    if both_sweeps(pool, shape) {
        return rest_around(pool, area, shape, from, n, allowed);
    }
    let (step, to) = (shape.step?, (area as u64 + 1) * pool.area_slots());
    in_segments(pool, behind(from, step), from, to, step, n, allowed)
}

/// Whether [`first_around`] makes both sweeps.
#[inline(always)]
pub(crate) fn both_sweeps(pool: &SlotPool, shape: &Shape) -> bool {
    shape.comes_round && pool.has_small_areas()
}

/// Both sweeps behind the first [`look`], in an area with bounds in one group ([`SlotPool::has_small_areas`]).
#[inline(always)]
fn rest_around(
    pool: &mut SlotPool,
    area: usize,
    shape: &Shape,
    from: u64,
    n: u32,
    allowed: impl Fn(u64) -> u128,
) -> Option<u64> {
    let (step, len) = (shape.step?, pool.area_slots());
    let base = area as u64 * len;
    let (first, at) = ((base / SEG) as usize, from - base);
    let wanted = Wanted::new(n, at, step);
    // In the order they are come to: one that was looked at already comes again at last.
    let behind = behind(at, step) as u32;
    let mut hits = pool.bounds_mut().of_area(first, (len / SEG) as usize, &wanted).rotate_right(behind);
    // Where the second sweep ends, as in `find_on`; searches A and B have nothing to overshoot, their cursor being
    // a multiple of the stride.
    let last = at + ((len - 1 - at) & !u64::from(step - 1));
    let begin = shape.begin(pool.areas().get(area)?.index, len);
    let end = base + begin.saturating_sub((last + shape.stride).saturating_sub(len));
    while hits != 0 {
        let in_area = (hits.trailing_zeros() + behind) % u64::BITS;
        hits &= hits - 1;
        let to = if in_area >= behind { base + len } else { end };
        let found = in_segment(pool, first + in_area as usize, at, to, step, n, &wanted, &allowed);
        if found.is_some() {
            return found;
        }
    }
    None
}

/// How a walk goes that does not end (SPEC 3.4). Slots are counted from the area's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endless {
    /// Where it begins, and would have to stand again to end.
    pub begin: u64,
    /// The first slot it looks at when it comes round.
    pub first: u64,
    /// The last slot it looks at before it steps over its beginning.
    pub last: u64,
    /// How far it goes after a slot that matches but is not free.
    pub stride: u64,
}

/// Why [`find`] has just found that a walk does not end.
pub(crate) fn endless(pool: &mut SlotPool, area: usize, plan: &Plan) -> Option<Endless> {
    let len = pool.area_slots();
    let begin = plan.shape.begin(pool.areas().get(area)?.index, len);
    let sweep = Sweep { base: area as u64 * len, pool, plan };
    let (first, last) = (sweep.next_match(0, begin)?, sweep.last_before(0, begin)?);
    Some(Endless { begin, first, last, stride: plan.shape.stride })
}

/// The first of the slots `from`, `from + step`, … below `to` that begins a free run of `n` slots (1 to 128) and crosses
/// no boundary. `step` is a power of two up to 128, so a segment's share of these slots is a pattern of bits.
#[inline(always)]
pub(crate) fn first_in_step(
    pool: &mut SlotPool,
    from: u64,
    to: u64,
    step: u32,
    n: u32,
    boundaries: &Boundaries,
) -> Option<u64> {
    if boundaries.are_outside(n, pool) {
        first_allowed(pool, from, to, step, n, |_| u128::MAX)
    } else {
        first_between(pool, from, to, step, n, boundaries)
    }
}

/// As [`first_in_step`], where there are boundaries in the pool.
#[inline(never)]
fn first_between(pool: &mut SlotPool, from: u64, to: u64, step: u32, n: u32, boundaries: &Boundaries) -> Option<u64> {
    let allowed = boundaries.of_runs(n, pool);
    first_allowed(pool, from, to, step, n, |base| allowed.in_segment(base))
}

/// As [`first_in_step`]; `allowed` says where runs may begin in the segment at a slot.
#[inline(always)]
fn first_allowed(
    pool: &mut SlotPool,
    from: u64,
    to: u64,
    step: u32,
    n: u32,
    allowed: impl Fn(u64) -> u128,
) -> Option<u64> {
    look(pool, from, to, step, n, &allowed)
        .or_else(|| in_segments(pool, behind(from, step), from, to, step, n, allowed))
}

/// As [`first_allowed`] in the segment `from` lies in. Mostly what is left behind the last allocation will do, so bounds are not
/// asked about that, unless it is a whole segment.
#[inline(always)]
fn look(pool: &SlotPool, from: u64, to: u64, step: u32, n: u32, allowed: impl Fn(u64) -> u128) -> Option<u64> {
    if from % SEG < u64::from(step) {
        return None;
    }
    let base = from - from % SEG;
    let starts = bits::starts(pool.segment((from / SEG) as usize), n) & bits::every(step, from);
    let found = starts & !bits::below((from % SEG) as u32) & allowed(base) & bits::below((to - base).min(SEG) as u32);
    if found == 0 {
        return None;
    }
    Some(base + u64::from(found.trailing_zeros()))
}

/// The segment behind what [`look`] has looked at.
#[inline]
fn behind(from: u64, step: u32) -> u64 {
    from / SEG + u64::from(from % SEG >= u64::from(step))
}

/// The slots below `to` of the segment at slot `base`.
#[inline(always)]
fn up_to(base: u64, to: u64) -> u128 {
    bits::below(to.saturating_sub(base).min(SEG) as u32)
}

/// As [`first_allowed`], from segment `next` on.
#[inline(always)]
fn in_segments(
    pool: &mut SlotPool,
    next: u64,
    from: u64,
    to: u64,
    step: u32,
    n: u32,
    allowed: impl Fn(u64) -> u128,
) -> Option<u64> {
    let wanted = Wanted::new(n, from, step);
    let mut scan = Scan::new(next as usize, to.div_ceil(SEG) as usize);
    while let Some((group, mut hits)) = pool.bounds_mut().next_hits(&mut scan, &wanted) {
        while hits != 0 {
            let segment = group + hits.trailing_zeros() as usize;
            hits &= hits - 1;
            let found = in_segment(pool, segment, from, to, step, n, &wanted, &allowed);
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

/// The first slot below `to` of a segment that bounds have named; where it disappoints, its bound is lowered.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the inside of two loops, whose variables these are")]
fn in_segment(
    pool: &mut SlotPool,
    segment: usize,
    from: u64,
    to: u64,
    step: u32,
    n: u32,
    wanted: &Wanted,
    allowed: impl Fn(u64) -> u128,
) -> Option<u64> {
    let base = segment as u64 * SEG;
    let starts = bits::starts(pool.segment(segment), n);
    let found = starts & bits::every(step, from) & allowed(base) & up_to(base, to);
    if found != 0 {
        return Some(base + u64::from(found.trailing_zeros()));
    }
    // Runs that are there, but outside the sweep or across a boundary, may serve another request.
    if starts & bits::every(step.min(4), from) == 0 {
        pool.disappoint(segment, wanted);
    }
    None
}

/// The chain of slots one sweep over an area looks at. Positions are counted from the area's first slot.
struct Sweep<'a> {
    base: u64,
    pool: &'a mut SlotPool,
    plan: &'a Plan,
}

impl Sweep<'_> {
    /// The first slot at or after `i` whose address matches, below `to`.
    fn next_match(&self, i: u64, to: u64) -> Option<u64> {
        let plan = self.plan;
        if plan.never {
            return None;
        }
        if (plan.shape.mask + 1).is_power_of_two() {
            // The mask has no holes: one slot in mask + 1 matches.
            let ahead = plan.value.wrapping_sub(plan.first + self.base + i) & plan.shape.mask;
            i.checked_add(ahead).filter(|&m| m < to)
        } else {
            (i..to).find(|&i| plan.matches(self.base + i))
        }
    }

    /// The first slot of the chain from `from`, below `to`, that begins a long enough free run; pool-wide number.
    fn first_fit(&mut self, from: u64, to: u64) -> Option<u64> {
        let first = self.next_match(from, to)?;
        let n = u32::try_from(self.plan.n).ok().filter(|&n| n <= SEGMENT_SLOTS)?;
        match self.plan.shape.step {
            Some(step) => first_in_step(self.pool, self.base + first, self.base + to, step, n, &self.plan.boundaries),
            None => self.fit_by_slot(first, to),
        }
    }

    /// As [`Sweep::first_fit`] for the rare chain without a regular step: slot by slot.
    fn fit_by_slot(&self, first: u64, to: u64) -> Option<u64> {
        let mut at = Some(first);
        while let Some(i) = at {
            let slot = self.base + i;
            if !self.plan.boundaries.cross(slot, self.plan.n) && u64::from(self.pool.run_at(slot)) >= self.plan.n {
                return Some(slot);
            }
            at = self.next_match(i.checked_add(self.plan.shape.stride)?, to);
        }
        None
    }

    /// The last slot of the chain from `from` that lies below `to`.
    fn last_before(&self, from: u64, to: u64) -> Option<u64> {
        let first = self.next_match(from, to)?;
        if let Some(step) = self.plan.shape.step {
            let step = u64::from(step);
            return Some(first + ((to - 1 - first) & !(step - 1)));
        }
        let mut last = first;
        while let Some(next) = last.checked_add(self.plan.shape.stride).and_then(|i| self.next_match(i, to)) {
            last = next;
        }
        Some(last)
    }
}
