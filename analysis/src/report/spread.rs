//! How values spread: percentiles to one in a hundred, and a histogram by powers of two.

use hdrhistogram::Histogram;

use super::rows::BarRow;

/// Many values of one kind.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    /// Absent only if the library refused a precision it documents.
    values: Option<Histogram<u64>>,
    bars: [u64; 64],
    sum: u64,
}

impl Default for Spread {
    fn default() -> Self {
        Self { values: Histogram::new(2).ok(), bars: [0; 64], sum: 0 }
    }
}

impl Spread {
    pub fn add(&mut self, value: u64) {
        if let Some(values) = &mut self.values {
            // It grows with its values; one too large to grow for is in the sums and bars all the same.
            let _ = values.record(value);
        }
        self.bars[value.max(1).ilog2() as usize] += 1;
        self.sum = self.sum.saturating_add(value);
    }

    pub fn count(&self) -> u64 {
        self.bars.iter().sum()
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn largest(&self) -> u64 {
        self.values.as_ref().map_or(0, |values| values.lowest_equivalent(values.max()))
    }

    /// The value that this share of all does not exceed.
    pub fn at(&self, share: f64) -> u64 {
        self.values.as_ref().map_or(0, |values| values.lowest_equivalent(values.value_at_quantile(share)))
    }

    /// Bars from the first to the last that has something.
    pub fn bars(&self, of: &str) -> Vec<BarRow> {
        let filled = |&i: &usize| self.bars[i] > 0;
        let (Some(first), Some(last)) = ((0..64).find(filled), (0..64).rfind(filled)) else { return Vec::new() };
        (first..=last).map(|i| BarRow { of: of.to_owned(), from: 1 << i, count: self.bars[i] }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_are_powers_of_two_stay_what_they_are() {
        let mut spread = Spread::default();
        [4096, 4096, 65_536, 0].into_iter().for_each(|value| spread.add(value));
        assert_eq!((spread.count(), spread.at(0.5), spread.at(0.99), spread.largest()), (4, 4096, 65_536, 65_536));
        assert_eq!((spread.bars("x").first().map(|b| b.from), spread.bars("x").len()), (Some(1), 17));
        assert_eq!((Spread::default().at(0.99), Spread::default().bars("x").len()), (0, 0));
    }
}
