//! A small histogram of times.

/// Parts a power of two is cut into: a value is known to an eighth.
const PARTS: u64 = 8;
/// Powers of two it knows; above, everything is one bucket: 2^40 ns are a quarter of an hour.
const POWERS: usize = 40;

/// Counts of values by size, each known to about 12 %. It is part of every [`Moment`](super::Moment) that is kept, so it
/// has 1.3 KiB where a general histogram would have ten times that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    buckets: Vec<u32>,
    count: u64,
    sum: u64,
    most: u64,
}

impl Spread {
    /// The bucket of a value.
    fn place(value: u64) -> usize {
        if value < PARTS {
            return value as usize;
        }
        let power = value.ilog2();
        let part = (value >> (power - PARTS.ilog2())) - PARTS;
        (((u64::from(power) - 2) * PARTS + part) as usize).min(POWERS * PARTS as usize - 1)
    }

    /// The largest value of a bucket.
    fn upper(place: usize) -> u64 {
        let (row, part) = (place as u64 / PARTS, place as u64 % PARTS);
        if row == 0 { part } else { ((PARTS + part + 1) << (row - 1)) - 1 }
    }

    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        let place = Self::place(value);
        if self.buckets.len() <= place {
            self.buckets.resize(place + 1, 0);
        }
        self.buckets[place] = self.buckets[place].saturating_add(1);
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.most = self.most.max(value);
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest value.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.most
    }

    /// The value that a share (0 to 1) of all values do not exceed; nothing when there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (place, &n) in self.buckets.iter().enumerate() {
            seen += u64::from(n);
            if seen >= rank {
                return Some(Self::upper(place).min(self.most));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..5000).chain([1 << 20, (1 << 20) + 1, (1 << 39) - 1, 1 << 39]) {
            let place = Spread::place(value);
            assert!(Spread::upper(place) >= value, "{value}");
            assert!(place == 0 || Spread::upper(place - 1) < value, "{value}");
        }
        assert_eq!(Spread::place(u64::MAX), POWERS * PARTS as usize - 1);
    }

    #[test]
    fn quantiles_are_within_an_eighth() {
        let mut spread = Spread::default();
        assert_eq!(spread.quantile(0.5), None);
        (1..=1000).for_each(|value| spread.add(value));
        let near = |share: f64, right: f64| {
            let found = spread.quantile(share).unwrap() as f64;
            assert!((found - right).abs() <= right / 8.0, "{found} for {right}");
        };
        near(0.5, 500.0);
        near(0.99, 990.0);
        assert_eq!((spread.quantile(1.0), spread.most(), spread.count()), (Some(1000), 1000, 1000));
    }
}
