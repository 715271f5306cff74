//! Which segments may hold a run: a bound on each segment's free runs, so that those too full for a request are passed
//! over several at a time.
//!
//! A bound is at least the longest run, never less: a release raises it, a search that was disappointed lowers it, a
//! request that takes slots leaves it. It is kept apart for runs that begin at slots 0, 1, 2 and 3 modulo 4, since a
//! search that looks at every second or fourth slot only would otherwise come back in vain to the same run at a wrong
//! slot. Bytes hold 0 to 127 (which stands for 128 too), so adding `128 - n` sets a byte's top bit exactly when the bound
//! is at least `n`.

/// Segments of a block: two a word, four bytes each. One segment of the upper level stands for a block.
const BLOCK: usize = 8;
/// The top bit of each byte, and the lowest.
const TOPS: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;
/// The largest bound kept.
const MOST: u32 = 127;
/// The bounds of a segment of which nothing is known.
const FULL: Quad = MOST * ONES as Quad;

/// The bounds of a segment (or of a group, which is a block of segments), a byte each: of runs that begin at slots 0, 1, 2 and 3 modulo 4.
type Quad = u32;

/// The bounds of a pool's segments, and at least the largest of each block of them.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    segments: Vec<Block>,
    groups: Vec<Block>,
}

/// The bounds of eight segments (or groups), two a word.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Block([u64; BLOCK / 2]);

impl Block {
    /// With all bounds at their most.
    const FULL: Self = Self([(FULL as u64) << 32 | FULL as u64; BLOCK / 2]);

    #[inline]
    fn get(&self, at: usize) -> Quad {
        (self.0[at % BLOCK / 2] >> (32 * (at % 2))) as Quad
    }

    #[inline]
    fn set(&mut self, at: usize, bounds: Quad) {
        let (word, shift) = (&mut self.0[at % BLOCK / 2], 32 * (at % 2));
        *word = *word & !(u64::from(Quad::MAX) << shift) | u64::from(bounds) << shift;
    }
}

/// The bounds a run of `n` slots (1 to 128) from slot `at` of its segment on sets.
#[inline]
fn of_run(at: u32, n: u32) -> Quad {
    /// By length (0 to 2; more; 128) and first slot: how far behind it the first slot of each residue lies, the whole
    /// run at most. A run of 128 counts as one less where it begins.
    const BEHIND: [[Quad; 4]; 5] = {
        let mut behind = [[0; 4]; 5];
        let mut i = 0;
        while i < 80 {
            let (n, at, r) = (i / 16, i / 4 % 4, i % 4);
            let slots = (4 + r - at) % 4;
            behind[n][at] |= (if slots < n { slots } else { n } as Quad) << (8 * r);
            i += 1;
        }
        behind[4][0] |= 1;
        behind
    };
    let length = if n > MOST { 4 } else { n.min(3) };
    n.wrapping_mul(ONES as Quad).wrapping_sub(BEHIND[length as usize][at as usize & 3])
}

/// Byte by byte, the larger.
#[inline]
fn larger(a: Quad, b: Quad) -> Quad {
    let tops = TOPS as Quad;
    let less = ((a | tops) - b) & tops ^ tops;
    let of_b = less | (less - (less >> 7));
    a ^ ((a ^ b) & of_b)
}

/// Byte by byte, the smaller.
#[inline]
fn smaller(a: Quad, b: Quad) -> Quad {
    a ^ b ^ larger(a, b)
}

/// What a search wants of a segment: a run of `n` slots that begins at one of some residues modulo 4.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// What a bound needs to have its byte's top bit set.
    add: u64,
    /// The residues, as the top bits of their bytes.
    mask: u64,
    n: u32,
}

/// How far a search has come through the segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    next: usize,
    to: usize,
}

impl Scan {
    /// Through segments `from..to`; whole blocks are looked at, so some behind `to` may be found too.
    #[inline]
    pub fn new(from: usize, to: usize) -> Self {
        Self { next: from, to }
    }
}

impl Wanted {
    /// A run of `n` slots (1 to 128) at `at` or a multiple of `step` (a power of two) further.
    #[inline]
    pub fn new(n: u32, at: u64, step: u32) -> Self {
        let mask = match step {
            1 => TOPS,
            2 => 0x0080_0080_0080_0080 << (8 * (at & 1)),
            _ => 0x0000_0080_0000_0080 << (8 * (at & 3)),
        };
        Self { add: ONES * u64::from(128 - n.min(MOST)), mask, n }
    }

    /// The segments of a block that may do, as bits; those below `from` left out.
    #[inline]
    fn hits(&self, block: &Block, from: usize) -> u32 {
        let [w, x, y, z] = block.0.map(|pair| (pair + self.add) & self.mask);
        if w | x | y | z == 0 {
            return 0;
        }
        let bits = |pair: u64| u32::from(pair as u32 != 0) | u32::from(pair >> 32 != 0) << 1;
        (bits(w) | bits(x) << 2 | bits(y) << 4 | bits(z) << 6) >> from << from
    }

    /// What to lower bounds to where there was none; a run of 128 cannot be told from one of 127.
    fn lowered(&self) -> Quad {
        let tops = self.mask as Quad;
        let bytes = tops | (tops - (tops >> 7));
        let most = if self.n > MOST { MOST } else { self.n - 1 };
        ((most * ONES as Quad) & bytes) | (FULL & !bytes)
    }
}

fn lower(blocks: &mut [Block], at: usize, bounds: Quad) {
    let block = &mut blocks[at / BLOCK];
    block.set(at, smaller(block.get(at), bounds));
}

impl Bounds {
    /// For segments about which nothing is known.
    pub fn new(segments: usize) -> Self {
        let blocks = |n: usize| vec![Block::FULL; n.div_ceil(BLOCK)];
        Self { segments: blocks(segments), groups: blocks(segments.div_ceil(BLOCK)) }
    }

    /// The next segments that may do, all in one block: the number of its first, and which as bits.
    #[inline]
    pub fn next_hits(&mut self, scan: &mut Scan, wanted: &Wanted) -> Option<(usize, u32)> {
        while scan.next < scan.to {
            let (number, from) = (scan.next / BLOCK, scan.next % BLOCK);
            let hits = wanted.hits(self.segments.get(number)?, from);
            if hits != 0 {
                scan.next = (number + 1) * BLOCK;
                return Some((number * BLOCK, hits));
            }
            if from == 0 {
                lower(&mut self.groups, number, wanted.lowered());
            }
            scan.next = self.next_group(number + 1, wanted)? * BLOCK;
        }
        None
    }

    /// The first block from `from` on that may hold a segment that may do.
    #[inline]
    fn next_group(&self, from: usize, wanted: &Wanted) -> Option<usize> {
        let (first, mut below) = (from / BLOCK, from % BLOCK);
        for (number, groups) in self.groups.get(first..)?.iter().enumerate() {
            let hits = wanted.hits(groups, below);
            if hits != 0 {
                return Some((first + number) * BLOCK + hits.trailing_zeros() as usize);
            }
            below = 0;
        }
        None
    }

    /// The first segment in `from..to` that may do.
    pub fn next(&mut self, from: usize, to: usize, wanted: &Wanted) -> Option<usize> {
        let (first, hits) = self.next_hits(&mut Scan::new(from, to), wanted)?;
        Some(first + hits.trailing_zeros() as usize).filter(|&found| found < to)
    }

    /// Whether no run whatever could raise a segment's bounds.
    #[inline]
    pub fn is_full(&self, segment: usize) -> bool {
        self.segments[segment / BLOCK].get(segment) == FULL
    }

    /// Remembers a free run of `n` slots (1 to 128) from slot `at` of a segment on.
    #[inline]
    pub fn raise(&mut self, segment: usize, at: u32, n: u32) {
        let longest = of_run(at, n);
        let block = &mut self.segments[segment / BLOCK];
        let (known, raised) = (block.get(segment), larger(block.get(segment), longest));
        if known != raised {
            block.set(segment, raised);
            let group = segment / BLOCK;
            let block = &mut self.groups[group / BLOCK];
            block.set(group, larger(block.get(group), longest));
        }
    }

    /// Remembers that a segment has no such run as was wanted.
    pub fn lower(&mut self, segment: usize, wanted: &Wanted) {
        lower(&mut self.segments, segment, wanted.lowered());
    }

    /// Remembers that a segment has no run longer than `longest`, wherever it begins.
    pub fn cap(&mut self, segment: usize, longest: u32) {
        lower(&mut self.segments, segment, longest.min(MOST) * ONES as Quad);
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        (self.segments.capacity() + self.groups.capacity()) * size_of::<Block>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = [u8; 4]> {
        prop::array::uniform4(0u8..128)
    }

    proptest! {
        #[test]
        fn bytes_are_compared_one_by_one(a in bytes(), b in bytes()) {
            let both = |f: fn(u8, u8) -> u8| -> [u8; 4] { std::array::from_fn(|r| f(a[r], b[r])) };
            let (x, y) = (Quad::from_le_bytes(a), Quad::from_le_bytes(b));
            prop_assert_eq!(larger(x, y).to_le_bytes(), both(u8::max));
            prop_assert_eq!(smaller(x, y).to_le_bytes(), both(u8::min));
        }

        #[test]
        fn a_run_is_found_by_those_it_serves(at in 0u32..128, n in 1u32..=128, wanted in 1u32..=128, from in 0u64..4, log in 0u32..3) {
            let n = n.min(128 - at);
            let step = 1 << log;
            let serves = (at..at + n).any(|s| u64::from(s) % step == from % step && at + n - s >= wanted);
            let mut bounds = Bounds::new(200);
            for segment in 0..200 {
                bounds.cap(segment, 0);
            }
            bounds.raise(130, at, n);
            let found = bounds.next(3, 200, &Wanted::new(wanted, from, step as u32));
            // 127 stands for 128 too.
            prop_assert!(found == serves.then_some(130) || wanted == 128 && n == 127, "{:?}", found);
        }

        #[test]
        fn an_empty_segment_serves_all_that_fits_it(from in 0u32..4, log in 0u32..3) {
            let mut bounds = Bounds::new(1);
            bounds.cap(0, 0);
            bounds.raise(0, 0, 128);
            let first = from % (1 << log);
            prop_assert_eq!(bounds.next(0, 1, &Wanted::new(128 - first, from.into(), 1 << log)), Some(0));
        }

        #[test]
        fn what_was_in_vain_is_not_tried_again(n in 1u32..128, from in 0u64..4, log in 0u32..3, other in 1u32..=128) {
            let wanted = Wanted::new(n, from, 1 << log);
            let mut bounds = Bounds::new(10);
            for segment in 0..10 {
                prop_assert_eq!(bounds.next(segment, 10, &wanted), Some(segment));
                bounds.lower(segment, &wanted);
            }
            prop_assert_eq!(bounds.next(0, 10, &wanted), None);
            // Neither is what asks for more there; less, or elsewhere, is not ruled out.
            let found = bounds.next(0, 10, &Wanted::new(other, from, 1 << log));
            prop_assert_eq!(found, (other < n).then_some(0));
            if log > 0 {
                prop_assert_eq!(bounds.next(0, 10, &Wanted::new(other, from + 1, 1 << log)), Some(0));
            }
        }
    }
}
