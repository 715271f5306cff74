//! Slots in use over time, kept to a fixed number of points that each hold the most of their stretch.

/// Slots in use over time, a curve a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupancy {
    start_ns: u64,
    bucket_ns: u64,
    pools: Vec<Curve>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Curve {
    /// The most in use in each stretch reached so far.
    most: Vec<u64>,
    /// In use now.
    now: u64,
    /// The last of those stretches ends before this time.
    until_ns: u64,
}

impl Occupancy {
    /// Empty curves over a span of time, of at most `buckets` points.
    pub(crate) fn new(span_ns: (u64, u64), buckets: usize, pools: usize) -> Self {
        let (start_ns, end_ns) = span_ns;
        let bucket_ns = (end_ns.saturating_sub(start_ns) / buckets.max(1) as u64).saturating_add(1);
        let curve = Curve { most: vec![0], now: 0, until_ns: start_ns.saturating_add(bucket_ns) };
        Self { start_ns, bucket_ns, pools: vec![curve; pools] }
    }

    /// A pool has so many slots in use from now on. Times before the last are taken as the last.
    pub(crate) fn set(&mut self, time_ns: u64, pool: usize, used: u64) {
        let curve = &mut self.pools[pool];
        // A division a map would be a tenth of what a replay costs; a stretch changes seldom.
        if time_ns >= curve.until_ns {
            let bucket = (time_ns.saturating_sub(self.start_ns) / self.bucket_ns).saturating_add(1);
            // Nothing happened in between.
            curve.most.resize(bucket as usize, curve.now);
            curve.until_ns = self.start_ns.saturating_add(bucket.saturating_mul(self.bucket_ns));
        }
        curve.now = used;
        if let Some(last) = curve.most.last_mut() {
            *last = (*last).max(used);
        }
    }

    /// The curve of a pool: from each time on until the next, the most slots in use.
    pub fn points(&self, pool: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let most = self.pools.get(pool).map_or(&[][..], |c| &c.most);
        (0u64..).zip(most).map(|(i, &used)| (self.start_ns + i * self.bucket_ns, used))
    }

    /// Length of a stretch in nanoseconds.
    #[must_use]
    pub fn bucket_ns(&self) -> u64 {
        self.bucket_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_holds_its_most_and_carries_on() {
        let mut curve = Occupancy::new((100, 1099), 10, 1);
        for (time, used) in [(100, 5), (110, 3), (450, 9), (460, 0), (1099, 2)] {
            curve.set(time, 0, used);
        }
        let points: Vec<_> = curve.points(0).collect();
        assert_eq!(points.len(), 10);
        assert_eq!(points.iter().map(|p| p.1).collect::<Vec<_>>(), [5, 3, 3, 9, 0, 0, 0, 0, 0, 2]);
        assert_eq!(points[3].0, 400);
    }
}
