//! Which segments may hold a run: a bound on each segment's free runs, so that those too full for a request are passed
//! over eight at a time.
//!
//! A bound is at least the longest run, never less: a release raises it, a search that was disappointed lowers it, a
//! request that takes slots leaves it. It is kept apart for runs that begin at slots 0, 1, 2 and 3 modulo 4, since a
//! search that looks at every second or fourth slot only would otherwise come back in vain to the same run at a wrong
//! slot. Bytes hold 0 to 128, so adding `128 - n` sets a byte's top bit exactly when the bound is at least `n`.

/// Residues told apart.
const RESIDUES: usize = 4;
/// Segments of a block, one a byte of a word.
const BLOCK: usize = 8;
/// Segments a group of the upper level stands for.
const GROUP: usize = 64;
const TOPS: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// The bounds of eight segments (or groups): a row a residue, a byte a segment.
#[derive(Clone, Copy, Debug)]
struct Block([[u8; BLOCK]; RESIDUES]);

/// The bounds of a pool's segments, and at least the largest of each 64 of them.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    segments: Vec<Block>,
    groups: Vec<Block>,
}

/// What a search wants of a segment: a run of `n` slots that begins at one of some residues modulo 4.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    n: u8,
    add: u64,
    /// The residues, as masks of their rows' top bits.
    rows: [u64; RESIDUES],
}

impl Wanted {
    /// A run of `n` slots (1 to 128) at `at` or a multiple of `step` (a power of two) further.
    pub fn new(n: u32, at: u64, step: u32) -> Self {
        let residues: u8 = match step {
            1 => 0b1111,
            2 => 0b0101 << (at & 1),
            _ => 1 << (at & 3),
        };
        let row = |r: u32| TOPS & u64::from(residues >> r & 1).wrapping_neg();
        Self { n: n as u8, add: ONES * u64::from(128 - n), rows: [row(0), row(1), row(2), row(3)] }
    }
}

impl Block {
    /// The segments that may do, as the top bits of their bytes.
    #[inline]
    fn hits(&self, wanted: &Wanted) -> u64 {
        let hits = |r: usize| (u64::from_le_bytes(self.0[r]) + wanted.add) & wanted.rows[r];
        (hits(0) | hits(1)) | (hits(2) | hits(3))
    }
}

/// The first of `from..to` that may do.
#[inline]
fn scan(blocks: &[Block], from: usize, to: usize, wanted: &Wanted) -> Option<usize> {
    let last = to.div_ceil(BLOCK).min(blocks.len());
    let first = from / BLOCK;
    let mut below = u64::MAX << (8 * (from % BLOCK));
    for (i, block) in blocks.get(first..last)?.iter().enumerate() {
        let hits = block.hits(wanted) & below;
        if hits != 0 {
            let found = (first + i) * BLOCK + hits.trailing_zeros() as usize / 8;
            return Some(found).filter(|&found| found < to);
        }
        below = u64::MAX;
    }
    None
}

fn raise(blocks: &mut [Block], at: usize, bounds: [u8; RESIDUES]) {
    let block = &mut blocks[at / BLOCK];
    for (row, bound) in block.0.iter_mut().zip(bounds) {
        row[at % BLOCK] = row[at % BLOCK].max(bound);
    }
}

fn lower(blocks: &mut [Block], at: usize, wanted: &Wanted) {
    let block = &mut blocks[at / BLOCK];
    for (row, &mask) in block.0.iter_mut().zip(&wanted.rows) {
        if mask != 0 {
            row[at % BLOCK] = row[at % BLOCK].min(wanted.n - 1);
        }
    }
}

impl Bounds {
    /// For segments about which nothing is known.
    pub fn new(segments: usize) -> Self {
        let blocks = |n: usize| vec![Block([[128; BLOCK]; RESIDUES]); n.div_ceil(BLOCK)];
        Self { segments: blocks(segments), groups: blocks(segments.div_ceil(GROUP)) }
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

    /// Remembers a free run of `n` slots from slot `at` of a segment on.
    pub fn raise(&mut self, segment: usize, at: u32, n: u32) {
        let from = |r: u32| n.saturating_sub(r.wrapping_sub(at) & 3) as u8;
        let bounds = [from(0), from(1), from(2), from(3)];
        raise(&mut self.segments, segment, bounds);
        raise(&mut self.groups, segment / GROUP, bounds);
    }

    /// Remembers that a segment has no such run as was wanted.
    pub fn lower(&mut self, segment: usize, wanted: &Wanted) {
        lower(&mut self.segments, segment, wanted);
    }

    /// Remembers that a segment has no run longer than `longest`, wherever it begins.
    pub fn cap(&mut self, segment: usize, longest: u32) {
        for row in &mut self.segments[segment / BLOCK].0 {
            row[segment % BLOCK] = row[segment % BLOCK].min(longest as u8);
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        (self.segments.capacity() + self.groups.capacity()) * size_of::<Block>()
    }
}
