//! Which segments may hold a run: a bound on each segment's free runs, so that those too full for a request are passed
//! over several at a time.
//!
//! A bound is at least the longest run, never less: a release raises it, a search that was disappointed lowers it, a
//! request that takes slots leaves it. It is kept apart for runs that begin at slots 0, 1, 2 and 3 modulo 4, since a
//! search that looks at every second or fourth slot only would otherwise come back in vain to the same run at a wrong
//! slot. Bytes hold 0 to 127 (which stands for 128 too), so adding `128 - n` sets a byte's top bit exactly when the bound
//! is at least `n`.

/// Segments of a word of bounds: four bytes each.
const WORD: usize = 2;
/// Segments a group of the upper level stands for.
const GROUP: usize = 64;
/// The top bit of each byte, and the lowest.
const TOPS: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;
/// The largest bound kept.
const MOST: u32 = 127;

/// The bounds of a segment (or group), a byte each: of runs that begin at slots 0, 1, 2 and 3 modulo 4.
type Quad = u32;

/// The bounds of a pool's segments, and at least the largest of each 64 of them.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    segments: Vec<[Quad; WORD]>,
    groups: Vec<[Quad; WORD]>,
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
    /// What to lower the bounds to where there is none.
    less: Quad,
}

impl Wanted {
    /// A run of `n` slots (1 to 128) at `at` or a multiple of `step` (a power of two) further.
    #[inline]
    pub fn new(n: u32, at: u64, step: u32) -> Self {
        let residues = match step {
            1 => TOPS,
            2 => 0x0080_0080_0080_0080 << (8 * (at & 1)),
            _ => 0x0000_0080_0000_0080 << (8 * (at & 3)),
        };
        let residues_of_one = residues as Quad;
        let bytes = residues_of_one | (residues_of_one - (residues_of_one >> 7));
        // A run of 128 cannot be told from one of 127.
        let less = if n > MOST { MOST } else { n - 1 };
        let less = (less * ONES as Quad & bytes) | (MOST * ONES as Quad & !bytes);
        Self { add: ONES * u64::from(128 - n.min(MOST)), mask: residues, less }
    }

    /// The segments of a word that may do, as the top bits of their bytes.
    #[inline]
    fn hits(&self, word: &[Quad; WORD]) -> u64 {
        ((u64::from(word[1]) << 32 | u64::from(word[0])) + self.add) & self.mask
    }
}

/// The first of `from..to` that may do.
#[inline]
fn scan(words: &[[Quad; WORD]], from: usize, to: usize, wanted: &Wanted) -> Option<usize> {
    let words = &words[..to.div_ceil(WORD).min(words.len())];
    let mut at = from / WORD;
    let hits = wanted.hits(words.get(at)?) & (u64::MAX << (32 * (from % WORD)));
    let hits = if hits != 0 {
        hits
    } else {
        at += 1;
        // Four words at a time, as long as there are so many.
        while let Some([a, b, c, d]) = words.get(at..at + 4) {
            if wanted.hits(a) | wanted.hits(b) | wanted.hits(c) | wanted.hits(d) != 0 {
                break;
            }
            at += 4;
        }
        let found = words.get(at..)?.iter().position(|word| wanted.hits(word) != 0)?;
        at += found;
        wanted.hits(&words[at])
    };
    Some(at * WORD + usize::from(hits.trailing_zeros() >= 32)).filter(|&found| found < to)
}

fn lower(words: &mut [[Quad; WORD]], at: usize, bounds: Quad) {
    let known = &mut words[at / WORD][at % WORD];
    *known = smaller(*known, bounds);
}

impl Bounds {
    /// For segments about which nothing is known.
    pub fn new(segments: usize) -> Self {
        let words = |n: usize| vec![[MOST * ONES as Quad; WORD]; n.div_ceil(WORD)];
        Self { segments: words(segments), groups: words(segments.div_ceil(GROUP)) }
    }

    /// The first segment in `from..to` that may do.
    pub fn next(&mut self, from: usize, to: usize, wanted: &Wanted) -> Option<usize> {
        let mut segment = from;
        while segment < to {
            let group = segment / GROUP;
            let end = (group + 1) * GROUP;
            let found = scan(&self.segments, segment, end.min(to), wanted);
            if found.is_some() {
                return found;
            }
            if segment.is_multiple_of(GROUP) && end <= to {
                lower(&mut self.groups, group, wanted.less);
            }
            segment = scan(&self.groups, group + 1, to.div_ceil(GROUP), wanted)? * GROUP;
        }
        None
    }

    /// Remembers a free run of `n` slots (at least 1) from slot `at` of a segment on.
    #[inline]
    pub fn raise(&mut self, segment: usize, at: u32, n: u32) {
        let longest = of_run(at, n);
        let bounds = &mut self.segments[segment / WORD][segment % WORD];
        let raised = larger(*bounds, longest);
        if *bounds != raised {
            *bounds = raised;
            let group = segment / GROUP;
            let bounds = &mut self.groups[group / WORD][group % WORD];
            *bounds = larger(*bounds, longest);
        }
    }

    /// Remembers that a segment has no such run as was wanted.
    pub fn lower(&mut self, segment: usize, wanted: &Wanted) {
        lower(&mut self.segments, segment, wanted.less);
    }

    /// Remembers that a segment has no run longer than `longest`, wherever it begins.
    pub fn cap(&mut self, segment: usize, longest: u32) {
        lower(&mut self.segments, segment, longest.min(MOST) * ONES as Quad);
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        (self.segments.capacity() + self.groups.capacity()) * size_of::<[Quad; WORD]>()
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
