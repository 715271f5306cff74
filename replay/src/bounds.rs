//! Which segments may hold a run: a bound on each segment's free runs, so that those too full for a request are passed
//! over several at a time.
//!
//! A bound is at least the longest run, never less: a release raises it, a search that was disappointed lowers it, a
//! request that takes slots leaves it. It is kept apart for runs that begin at slots 0, 1, 2 and 3 modulo 4, since a
//! search that looks at every second or fourth slot only would otherwise come back in vain to the same run at a wrong
//! slot. Bytes hold 0 to 128, so adding `128 - n` sets a byte's top bit exactly when the bound is at least `n`.

/// Segments of a word of bounds: four bytes each.
const WORD: usize = 2;
/// Segments a group of the upper level stands for.
const GROUP: usize = 64;
const TOPS: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// The bounds of a segment (or group): of runs that begin at slots 0, 1, 2 and 3 modulo 4.
type Quad = [u8; 4];

/// The bounds of a pool's segments, and at least the largest of each 64 of them.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    segments: Vec<[Quad; WORD]>,
    groups: Vec<[Quad; WORD]>,
}

/// What a search wants of a segment: a run of `n` slots that begins at one of some residues modulo 4.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    n: u8,
    add: u64,
    /// The residues, as the top bits of their bytes.
    mask: u64,
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
        Self { n: n as u8, add: ONES * u64::from(128 - n), mask: residues }
    }

    /// The segments of a word that may do, as the top bits of their bytes.
    #[inline]
    fn hits(&self, word: &[Quad; WORD]) -> u64 {
        let [[a, b, c, d], [e, f, g, h]] = *word;
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]) + self.add) & self.mask
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

fn lower(words: &mut [[Quad; WORD]], at: usize, wanted: &Wanted) {
    let masks = (wanted.mask as u32).to_le_bytes();
    for (bound, mask) in words[at / WORD][at % WORD].iter_mut().zip(masks) {
        if mask != 0 {
            *bound = (*bound).min(wanted.n - 1);
        }
    }
}

impl Bounds {
    /// For segments about which nothing is known.
    pub fn new(segments: usize) -> Self {
        let words = |n: usize| vec![[[128; 4]; WORD]; n.div_ceil(WORD)];
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
                lower(&mut self.groups, group, wanted);
            }
            segment = scan(&self.groups, group + 1, to.div_ceil(GROUP), wanted)? * GROUP;
        }
        None
    }

    /// Remembers a free run of `n` slots (at least 1) from slot `at` of a segment on.
    #[inline]
    pub fn raise(&mut self, segment: usize, at: u32, n: u32) {
        /// How far behind a run's first slot, by its residue, the first slot of each residue lies.
        const BEHIND: [Quad; 4] = [[0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1], [1, 2, 3, 0]];
        let behind = BEHIND[at as usize & 3];
        let longest: Quad = std::array::from_fn(|r| (n as u8).saturating_sub(behind[r]));
        let raised = |old: Quad| -> Quad { std::array::from_fn(|r| old[r].max(longest[r])) };
        let bounds = &mut self.segments[segment / WORD][segment % WORD];
        let new = raised(*bounds);
        if *bounds != new {
            *bounds = new;
            let group = segment / GROUP;
            let bounds = &mut self.groups[group / WORD][group % WORD];
            *bounds = raised(*bounds);
        }
    }

    /// Remembers that a segment has no such run as was wanted.
    pub fn lower(&mut self, segment: usize, wanted: &Wanted) {
        lower(&mut self.segments, segment, wanted);
    }

    /// Remembers that a segment has no run longer than `longest`, wherever it begins.
    pub fn cap(&mut self, segment: usize, longest: u32) {
        for bound in &mut self.segments[segment / WORD][segment % WORD] {
            *bound = (*bound).min(longest as u8);
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        (self.segments.capacity() + self.groups.capacity()) * size_of::<[Quad; WORD]>()
    }
}
