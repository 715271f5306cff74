//! Which segments may hold a run: a bound on each segment's free runs, so that those too full for a request are passed
//! sixty-four at a time.
//!
//! A bound is at least the longest run, never less: a release raises it, a search that was disappointed lowers it, a
//! request that takes slots leaves it. A segment has seven of them ([`Bound`]): of its runs as they are, and as far as they
//! begin at an even or odd slot, or at slots 0, 1, 2 and 3 modulo 4, since a search that looks at every second or fourth
//! slot only would otherwise come back in vain to the same run at a wrong slot. Bytes hold 0 to 127 (which stands for 128
//! too), so adding `128 - n` sets a byte's top bit exactly when the bound is at least `n`.
//!
//! Segments (and groups of them, one level up) are looked at in groups of 64. A group keeps each of the seven bounds in 64
//! bytes of its own, a [`Lane`]: four additions of sixteen bytes give a word with bit k set when segment k may do.

use wide::bytemuck::cast;
use wide::{i8x16, u8x16};

/// Segments of a group. One group of the upper level has a byte for each of 64 groups.
const GROUP: usize = 64;
/// The top bit of each byte, and the lowest.
const TOPS: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;
/// The largest bound kept.
const MOST: u32 = 127;

/// The bounds of a segment (or of a group of them), a byte each: of runs as they are, of their parts from an even and
/// from an odd slot on, and from slots 0, 1, 2 and 3 modulo 4 on. The last byte is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound(u64);

/// Lanes of a group: one for each byte of a [`Bound`] that is used.
const LANES: usize = 7;

/// One bound of each of 64 segments, in their order.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Lane([u8; GROUP]);

impl Lane {
    /// The segments with a bound of at least `n`, as bits; `add` is `128 - n` in every byte.
    #[inline(always)]
    fn at_least(&self, add: u64) -> u64 {
        let add = i8x16::splat(add as i8);
        let (parts, _) = self.0.as_chunks();
        let hits = |part: &[u8; 16]| u64::from((i8x16::new(part.map(|byte| byte as i8)) + add).to_bitmask());
        parts.iter().rev().fold(0, |word, part| word << 16 | hits(part))
    }

    /// The largest of all.
    fn largest(&self) -> u32 {
        let (parts, _) = self.0.as_chunks();
        parts.iter().fold(u8x16::ZERO, |largest, part| largest.max(u8x16::new(*part))).reduce_max().into()
    }
}

/// The bounds of 64 segments, or of 64 groups.
#[derive(Clone, Copy, Debug)]
struct Group([Lane; LANES]);

impl Group {
    /// With all bounds at their most.
    const FULL: Self = Self([Lane([MOST as u8; GROUP]); LANES]);

    /// Sets those of one of its 64.
    #[inline]
    fn set(&mut self, at: usize, bound: Bound) {
        for (lane, value) in self.0.iter_mut().zip(bound.0.to_le_bytes()) {
            lane.0[at % GROUP] = value;
        }
    }
}

impl Bound {
    /// That of a segment of which nothing is known.
    pub const FULL: Self = Self(MOST as u64 * ONES);

    /// What a run of `n` slots (1 to 128) from slot `at` of its segment on sets.
    #[inline]
    fn of_run(at: u32, n: u32) -> Self {
        /// By first slot: how far behind it the first slot for each byte lies. The last byte stays zero.
        const BEHIND: [[u8; 8]; 4] = {
            let mut behind = [[u8::MAX; 8]; 4];
            let mut i = 0;
            while i < 4 * LANES {
                let (at, lane) = (i / LANES, i % LANES);
                behind[at][lane] = match lane {
                    0 => 0,
                    1 | 2 => (3 + lane - at) % 2,
                    _ => (5 + lane - at) % 4,
                } as u8;
                i += 1;
            }
            behind
        };
        let behind = Self(u64::from_le_bytes(BEHIND[at as usize & 3]));
        Self(u64::from(n) * ONES).each(behind, |n, behind| n.saturating_sub(behind).min(u8x16::splat(MOST as u8)))
    }

    /// What comes of the bytes of both, each with its own.
    #[inline(always)]
    fn each(self, other: Self, of: impl Fn(u8x16, u8x16) -> u8x16) -> Self {
        let bytes = |bound: Self| cast::<_, u8x16>([bound.0, 0]);
        let [both, _] = cast::<_, [u64; 2]>(of(bytes(self), bytes(other)));
        Self(both)
    }

    /// Byte by byte, the larger.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.each(other, u8x16::max)
    }

    /// Byte by byte, the smaller.
    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        self.each(other, u8x16::min)
    }
}

/// What a search wants of a segment: a run of `n` slots that begins at some slot, an even one and so on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// What a bound needs to have its byte's top bit set.
    add: u64,
    /// Where the slots it looks at are kept: a lane, which is a byte of a [`Bound`].
    lane: usize,
    n: u32,
}

impl Wanted {
    /// A run of `n` slots (1 to 128) at `at` or a multiple of `step` (a power of two) further.
    #[inline]
    pub fn new(n: u32, at: u64, step: u32) -> Self {
        let modulo = step.min(4) as usize - 1;
        // Lane 0; 1 and 2; 3 to 6.
        Self { add: ONES * u64::from(128 - n.min(MOST)), lane: modulo + (at as usize & modulo), n }
    }

    /// What to lower bounds to where there was none; a run of 128 cannot be told from one of 127.
    fn lowered(&self) -> Bound {
        self.at_most(if self.n > MOST { MOST } else { self.n - 1 })
    }

    /// What to lower bounds to where the bound asked about is so large.
    fn at_most(&self, most: u32) -> Bound {
        /// By lane: those that are at most as large.
        const WITHIN: [u64; LANES] = {
            const OF: [&[usize]; LANES] = [&[0, 1, 2, 3, 4, 5, 6], &[1, 3, 5], &[2, 4, 6], &[3], &[4], &[5], &[6]];
            let mut within = [0; LANES];
            let mut i = 0;
            while i < LANES * LANES {
                let (lane, k) = (i / LANES, i % LANES);
                if k < OF[lane].len() {
                    within[lane] |= 0xff << (8 * OF[lane][k]);
                }
                i += 1;
            }
            within
        };
        let bytes = WITHIN[self.lane];
        Bound((u64::from(most) * ONES) & bytes | Bound::FULL.0 & !bytes)
    }
}

/// How far a search has come through the segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    next: usize,
    to: usize,
}

impl Scan {
    /// Through segments `from..to`.
    #[inline]
    pub fn new(from: usize, to: usize) -> Self {
        Self { next: from, to }
    }
}

/// The bounds of a pool's segments, to look through, and at least the largest of each group of them. What is known of a
/// segment is kept with its slots and is the caller's to hand in: who changes the one has the other at hand.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    segments: Vec<Group>,
    /// Of each group.
    known: Vec<Bound>,
    groups: Vec<Group>,
}

impl Bounds {
    /// For segments about which nothing is known.
    pub fn new(segments: usize) -> Self {
        let groups = segments.div_ceil(GROUP);
        Self {
            segments: vec![Group::FULL; groups],
            known: vec![Bound::FULL; groups],
            groups: vec![Group::FULL; groups.div_ceil(GROUP)],
        }
    }

    /// The next segments that may do, all in one group: the number of its first, and which as bits.
    #[inline(always)]
    pub fn next_hits(&mut self, scan: &mut Scan, wanted: &Wanted) -> Option<(usize, u64)> {
        while scan.next < scan.to {
            let (group, from) = (scan.next / GROUP, scan.next % GROUP);
            let (base, behind) = (group * GROUP, scan.to - group * GROUP);
            let all = self.segments.get(group)?.0[wanted.lane].at_least(wanted.add);
            let hits = all & u64::MAX << from & u64::MAX >> GROUP.saturating_sub(behind);
            if hits != 0 {
                scan.next = base + GROUP;
                return Some((base, hits));
            }
            if all == 0 && (self.known[group].0 + wanted.add) & TOPS & 0xff << (8 * wanted.lane) != 0 {
                self.lower_group(group, wanted);
            }
            if behind <= GROUP {
                return None;
            }
            scan.next = self.next_group(group + 1, wanted)? * GROUP;
        }
        None
    }

    /// Which segments may do of `segments` from `first` on, as bits from the lowest; they are of one group.
    #[inline(always)]
    pub fn of_area(&self, first: usize, segments: usize, wanted: &Wanted) -> u64 {
        let all = self.segments.get(first / GROUP).map_or(0, |group| group.0[wanted.lane].at_least(wanted.add));
        all >> (first % GROUP) & u64::MAX >> GROUP.saturating_sub(segments)
    }

    /// Whether areas of so many segments each lie in one group.
    pub fn is_in_a_group(segments: usize) -> bool {
        segments.is_power_of_two() && segments <= GROUP
    }

    /// The first group from `from` on that may hold a segment that may do.
    #[inline(never)]
    fn next_group(&self, from: usize, wanted: &Wanted) -> Option<usize> {
        let (first, mut mask) = (from / GROUP, u64::MAX << (from % GROUP));
        for (number, groups) in self.groups.get(first..)?.iter().enumerate() {
            let hits = groups.0[wanted.lane].at_least(wanted.add) & mask;
            if hits != 0 {
                return Some((first + number) * GROUP + hits.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Lowers a group's bound to the largest of its segments', so that looks at it are in vain as seldom as may be.
    #[inline(never)]
    fn lower_group(&mut self, group: usize, wanted: &Wanted) {
        let known = &mut self.known[group];
        *known = known.smaller(wanted.at_most(self.segments[group].0[wanted.lane].largest()));
        self.groups[group / GROUP].set(group, *known);
    }

    /// The first segment in `from..to` that may do.
    #[inline(never)]
    pub fn next(&mut self, from: usize, to: usize, wanted: &Wanted) -> Option<usize> {
        let (first, hits) = self.next_hits(&mut Scan::new(from, to), wanted)?;
        Some(first + hits.trailing_zeros() as usize)
    }

    /// Remembers a free run of `n` slots (1 to 128) from slot `at` of a segment on. Whether that raises a bound nobody can
    /// foresee, so it is entered without asking.
    #[inline(always)]
    pub fn raise(&mut self, segment: usize, known: &mut Bound, at: u32, n: u32) {
        *known = known.larger(Bound::of_run(at, n));
        self.set(segment, *known);
    }

    /// Enters a segment's bound, which may have become larger.
    #[inline(always)]
    fn set(&mut self, segment: usize, bound: Bound) {
        let group = segment / GROUP;
        self.segments[group].set(segment, bound);
        let raised = self.known[group].larger(bound);
        if raised != self.known[group] {
            self.known[group] = raised;
            self.groups[group / GROUP].set(group, raised);
        }
    }

    /// Remembers that a segment has no such run as was wanted, and none longer than `longest`, wherever it begins.
    pub fn lower(&mut self, segment: usize, known: &mut Bound, wanted: &Wanted, longest: u32) {
        let longest = Bound(u64::from(longest.min(MOST)) * ONES);
        *known = known.smaller(wanted.lowered()).smaller(longest);
        self.segments[segment / GROUP].set(segment, *known);
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        (self.segments.capacity() + self.groups.capacity()) * size_of::<Group>()
            + self.known.capacity() * size_of::<Bound>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = [u8; 8]> {
        prop::array::uniform8(0u8..128)
    }

    /// Bounds of a pool's segments, with what is known of each.
    struct Pool(Bounds, Vec<Bound>);

    impl Pool {
        fn new(segments: usize) -> Self {
            Self(Bounds::new(segments), vec![Bound::FULL; segments])
        }

        /// Without any free run.
        fn full(segments: usize) -> Self {
            let mut pool = Self::new(segments);
            for segment in 0..segments {
                pool.lower(segment, &Wanted::new(1, 0, 1), 0);
            }
            pool
        }

        fn lower(&mut self, segment: usize, wanted: &Wanted, longest: u32) {
            self.0.lower(segment, &mut self.1[segment], wanted, longest);
        }

        fn raise(&mut self, segment: usize, at: u32, n: u32) {
            self.0.raise(segment, &mut self.1[segment], at, n);
        }

        fn next(&mut self, from: usize, to: usize, wanted: &Wanted) -> Option<usize> {
            self.0.next(from, to, wanted)
        }
    }

    proptest! {
        #[test]
        fn bytes_are_compared_one_by_one(a in bytes(), b in bytes()) {
            let both = |f: fn(u8, u8) -> u8| -> [u8; 8] { std::array::from_fn(|r| f(a[r], b[r])) };
            let (x, y) = (Bound(u64::from_le_bytes(a)), Bound(u64::from_le_bytes(b)));
            prop_assert_eq!(x.larger(y).0.to_le_bytes(), both(u8::max));
            prop_assert_eq!(x.smaller(y).0.to_le_bytes(), both(u8::min));
        }

        #[test]
        fn a_lane_tells_its_segments_apart(values in prop::collection::vec(0u8..128, 64), n in 1u32..128) {
            let mut group = Group::FULL;
            for (at, &value) in values.iter().enumerate() {
                group.set(at, Bound(u64::from(value) * ONES));
            }
            let paper = values.iter().enumerate().filter(|&(_, &v)| u32::from(v) >= n);
            let paper = paper.fold(0, |word, (at, _)| word | 1 << at);
            for lane in group.0 {
                prop_assert_eq!(lane.at_least(Wanted::new(n, 0, 1).add), paper);
            }
        }

        #[test]
        fn a_run_is_found_by_those_it_serves(
            at in 0u32..128, n in 1u32..=128, wanted in 1u32..=128, from in 0u64..4, log in 0u32..3,
            segment in 3usize..9000,
        ) {
            let n = n.min(128 - at);
            let step = 1 << log;
            let serves = (at..at + n).any(|s| u64::from(s) % step == from % step && at + n - s >= wanted);
            let mut pool = Pool::full(9000);
            let wanted = Wanted::new(wanted, from, step as u32);
            // Nothing is there, which groups remember and are to forget again.
            prop_assert_eq!(pool.next(0, 9000, &wanted), None);
            pool.raise(segment, at, n);
            let found = pool.next(3, 9000, &wanted);
            // 127 stands for 128 too.
            prop_assert!(found == serves.then_some(segment) || wanted.n == 128 && n == 127, "{:?}", found);
            prop_assert_eq!(pool.next(3, segment, &wanted), None);
            prop_assert_eq!(pool.next(segment + 1, 9000, &wanted), None);
        }

        #[test]
        fn an_empty_segment_serves_all_that_fits_it(from in 0u32..4, log in 0u32..3) {
            let mut pool = Pool::full(1);
            pool.raise(0, 0, 128);
            let first = from % (1 << log);
            prop_assert_eq!(pool.next(0, 1, &Wanted::new(128 - first, from.into(), 1 << log)), Some(0));
        }

        #[test]
        fn what_was_in_vain_is_not_tried_again(n in 1u32..128, from in 0u64..4, log in 0u32..3, other in 1u32..=128) {
            let wanted = Wanted::new(n, from, 1 << log);
            let mut pool = Pool::new(10);
            for segment in 0..10 {
                prop_assert_eq!(pool.next(segment, 10, &wanted), Some(segment));
                pool.lower(segment, &wanted, 127);
            }
            prop_assert_eq!(pool.next(0, 10, &wanted), None);
            // Neither is what asks for more there; less, or elsewhere, is not ruled out.
            let found = pool.next(0, 10, &Wanted::new(other, from, 1 << log));
            prop_assert_eq!(found, (other < n).then_some(0));
            if log > 0 {
                prop_assert_eq!(pool.next(0, 10, &Wanted::new(other, from + 1, 1 << log)), Some(0));
            }
        }
    }
}
