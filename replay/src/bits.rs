//! Runs of ones in a 128-bit word.

/// The lowest `n` bits; all of them from 128 up.
pub(crate) const fn below(n: u32) -> u128 {
    if n >= 128 { u128::MAX } else { (1 << n) - 1 }
}

/// Bits at which a run of at least `n` ones starts; none when `n` is 0 or above 128.
pub(crate) const fn starts(ones: u128, n: u32) -> u128 {
    if n == 0 || n > 128 {
        return 0;
    }
    // After a step the bits left are those with `have` ones from them upward.
    let (mut left, mut have) = (ones, 1);
    while have * 2 <= n {
        left &= left >> have;
        have *= 2;
    }
    if have < n { left & (left >> (n - have)) } else { left }
}

/// Length of the longest run of ones.
pub(crate) const fn longest_run(ones: u128) -> u32 {
    if ones == 0 {
        return 0;
    }
    if ones == u128::MAX {
        return 128;
    }
    // Double while a run that long exists, then add the halves that still fit.
    let (mut left, mut have) = (ones, 1);
    let mut half = 1;
    while left & (left >> half) != 0 {
        left &= left >> half;
        have += half;
        half = have;
        if half >= 128 {
            return 128;
        }
    }
    half /= 2;
    while half > 0 {
        if left & (left >> half) != 0 {
            left &= left >> half;
            have += half;
        }
        half /= 2;
    }
    have
}

/// First bit and length of the run of ones that contains `bit`, which must be set.
pub(crate) const fn run_around(ones: u128, bit: u32) -> (u32, u32) {
    let before = (ones << (127 - bit)).leading_ones() - 1;
    (bit - before, before + (ones >> bit).trailing_ones())
}

/// One bit in every `step` (a power of two up to 128), from `residue` up.
pub(crate) const fn every(step: u32, residue: u32) -> u128 {
    const PATTERN: [u128; 8] = {
        let mut patterns = [0; 8];
        let mut log = 0;
        while log < 8 {
            let mut bit = 0;
            while bit < 128 {
                patterns[log] |= 1 << bit;
                bit += 1 << log;
            }
            log += 1;
        }
        patterns
    };
    PATTERN[step.trailing_zeros() as usize] << residue
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
        fn words_of_runs_agree_with_counting(ones in words(), n in 0u32..140) {
            let paper = runs(ones);
            let expected = paper.iter().enumerate().filter(|&(_, &r)| n > 0 && r >= n);
            prop_assert_eq!(starts(ones, n), expected.fold(0, |word, (bit, _)| word | 1 << bit));
            prop_assert_eq!(longest_run(ones), paper.iter().copied().max().unwrap_or(0));
            for bit in (0..128).filter(|&b| ones >> b & 1 == 1) {
                let first = (0..=bit).rev().take_while(|&b| ones >> b & 1 == 1).last().unwrap_or(bit);
                prop_assert_eq!(run_around(ones, bit as u32), (first as u32, paper[first as usize]));
            }
        }

        #[test]
        fn every_is_a_residue_class(log in 0u32..8, residue in 0u32..128) {
            let step = 1 << log;
            let residue = residue % step;
            for bit in 0..128 {
                prop_assert_eq!(every(step, residue) >> bit & 1 == 1, bit % step == residue);
            }
        }
    }
}
