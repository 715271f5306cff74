//! Runs of ones in a 128-bit word.

/// `BELOW[n]` is the lowest `n` bits. A load is cheaper than a shift of two words by a variable; the upper half is there
/// so that a byte cannot be out of bounds.
static BELOW: [u128; 256] = {
    let mut masks = [u128::MAX; 256];
    let mut n = 0;
    while n < 128 {
        masks[n] = (1 << n) - 1;
        n += 1;
    }
    masks
};

/// `EVERY[step - 1 + residue]` has one bit in every `step`, from `residue` up.
static EVERY: [u128; 256] = {
    let mut patterns = [0; 256];
    let mut step = 1;
    while step <= 128 {
        let mut bit = 0;
        while bit < 128 {
            patterns[step - 1 + bit % step] |= 1 << bit;
            bit += 1;
        }
        step *= 2;
    }
    patterns
};

/// The lowest `n` bits, up to 255; all of them from 128 up.
#[inline]
pub(crate) fn below(n: u32) -> u128 {
    BELOW[usize::from(n as u8)]
}

/// `n` bits from bit `at` on, as far as there are.
#[inline]
pub(crate) fn run(at: u32, n: u32) -> u128 {
    below(at + n) ^ below(at)
}

/// 128 bits looked at one by one: a half is an index, not a branch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags([u64; 2]);

impl Flags {
    pub const NONE: Self = Self([0; 2]);

    #[inline]
    pub fn has(&self, bit: u32) -> bool {
        self.0[bit as usize / 64 % 2] >> (bit % 64) & 1 == 1
    }

    #[inline]
    pub fn set(&mut self, bit: u32) {
        self.0[bit as usize / 64 % 2] |= 1 << (bit % 64);
    }

    #[inline]
    pub fn clear(&mut self, bits: u128) {
        self.0[0] &= !(bits as u64);
        self.0[1] &= !((bits >> 64) as u64);
    }

    /// All of them.
    #[inline]
    pub fn bits(self) -> u128 {
        u128::from(self.0[1]) << 64 | u128::from(self.0[0])
    }
}

/// One bit in every `step` (a power of two up to 128), at `at` modulo `step`.
#[inline]
pub(crate) fn every(step: u32, at: u64) -> u128 {
    EVERY[usize::from((step - 1 + (at as u32 & (step - 1))) as u8)]
}

/// `SHIFTS[n - 1]` is by how much to shift, step by step, what is left of a word so that the runs of `n` ones are left.
/// After a step the bits left are those with 2, 4, 8, … ones from them upward, after the last those with `n`.
static SHIFTS: [[u8; 8]; 128] = {
    let mut shifts = [[0; 8]; 128];
    let mut n = 1;
    while n <= 128 {
        let (mut have, mut step) = (1, 0);
        while have < n {
            // No shift reaches 64, which a shift of two words would have to ask about.
            let more = if 2 * have <= n { have } else { n - have };
            let more = if more < 64 { more } else { 63 };
            shifts[n - 1][step] = more as u8;
            (have, step) = (have + more, step + 1);
        }
        n += 1;
    }
    shifts
};

/// Bits at which a run of at least `n` ones (1 to 128) starts.
#[inline(always)]
pub(crate) fn starts(ones: u128, n: u32) -> u128 {
    let shifts = &SHIFTS[(n as usize - 1) & 127];
    let longer = |left: u128, step: usize| left & left >> (shifts[step] & 63);
    // One or two questions that cannot be foreseen, not one for each step.
    let mut left = longer(longer(longer(ones, 0), 1), 2);
    if n > 8 {
        left = longer(longer(left, 3), 4);
        if n > 32 {
            left = longer(longer(longer(left, 5), 6), 7);
        }
    }
    left
}

/// The longest runs [`short_starts`] looks for.
pub(crate) const SHORT: u32 = 32;

/// As [`starts`] for runs of at most [`SHORT`] ones, in half a word, whose shifts take half the time.
#[inline(always)]
pub(crate) fn short_starts(ones: u64, n: u32) -> u64 {
    let shifts = &SHIFTS[(n as usize - 1) & 127];
    let longer = |left: u64, step: usize| left & left >> (shifts[step] & 63);
    let mut left = longer(longer(longer(ones, 0), 1), 2);
    if n > 8 {
        left = longer(longer(left, 3), 4);
    }
    left
}

/// Length of the longest run of ones.
pub(crate) fn longest_run(ones: u128) -> u32 {
    // Where runs of 1, 2, 4, … 64 ones start.
    let mut doubled = [ones; 7];
    for k in 1..doubled.len() {
        doubled[k] = doubled[k - 1] & doubled[k - 1] >> (1 << (k - 1));
    }
    let (mut left, mut have) = (u128::MAX, 0);
    if doubled[6] != 0 {
        if ones == u128::MAX {
            return 128;
        }
        // What is left of the run lies behind its first 64, and is less.
        left = doubled[6];
        for starts in &mut doubled {
            *starts >>= 64;
        }
        have = 64;
    }
    // The longest is put together from the largest part down; whether a part fits is added, not asked.
    for (k, starts) in doubled[..6].iter().enumerate().rev() {
        let more = left & starts >> (have & 63);
        let fits = more != 0;
        have += (fits as u32) << k;
        left = if fits { more } else { left };
    }
    have
}

/// Where the run of ones ends upward that begins at or before `bit`: the first zero from there on.
#[inline]
pub(crate) fn end(ones: u128, bit: u32) -> u32 {
    (!ones & !below(bit)).trailing_zeros()
}

/// Where the run of ones begins that ends at or behind `bit`: behind the last zero before it.
#[inline]
pub(crate) fn begin(ones: u128, bit: u32) -> u32 {
    128 - (!ones & below(bit)).leading_zeros()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One bit at a time, as one would on paper.
    fn runs(ones: u128) -> Vec<u32> {
        (0..128).map(|bit| (bit..128).take_while(|&b| ones >> b & 1 == 1).count() as u32).collect()
    }

    fn words() -> impl Strategy<Value = u128> {
        prop_oneof![
            any::<u128>(),
            (any::<u128>(), any::<u128>()).prop_map(|(a, b)| a | b),
            (0u32..=128, 0u32..128).prop_map(|(n, at)| below(n) << at),
            (0u32..=128, 0u32..128).prop_map(|(n, at)| !(below(n) << at)),
        ]
    }

    proptest! {
        #[test]
        fn words_of_runs_agree_with_counting(ones in words(), n in 1u32..=128) {
            let paper = runs(ones);
            let expected = paper.iter().enumerate().filter(|&(_, &r)| r >= n);
            prop_assert_eq!(starts(ones, n), expected.fold(0, |word, (bit, _)| word | 1 << bit));
            if n <= SHORT {
                let half = ones as u64;
                prop_assert_eq!(u128::from(short_starts(half, n)), starts(half.into(), n));
            }
            prop_assert_eq!(longest_run(ones), paper.iter().copied().max().unwrap_or(0));
            for bit in (0..128).filter(|&b| ones >> b & 1 == 1) {
                let first = (0..=bit).rev().take_while(|&b| ones >> b & 1 == 1).last().unwrap_or(bit);
                prop_assert_eq!((begin(ones, bit as u32), end(ones, bit as u32)), (first as u32, bit as u32 + paper[bit as usize]));
            }
        }

        #[test]
        fn every_is_a_residue_class(log in 0u32..8, residue in 0u32..128) {
            let step = 1 << log;
            for bit in 0..128 {
                prop_assert_eq!(every(step, u64::from(residue)) >> bit & 1 == 1, bit % step == residue % step);
            }
        }
    }
}
