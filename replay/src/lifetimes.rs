//! How long mappings live, by device and size: what a mapping that was refused in reality is given in a replay.

use std::collections::BTreeMap;

/// Steps of the histogram in a doubling of time.
const FINE: u32 = 8;

/// Lifetimes seen, in histograms with about 9 % between steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lifetimes {
    classes: BTreeMap<(u32, u32), Histogram>,
    devices: BTreeMap<u32, Histogram>,
    all: Histogram,
}

/// A lifetime that was assumed, as it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumed {
    /// Device, by position in [`crate::Load::devices`].
    pub device: u32,
    /// Sizes from this many bytes to just below twice as many.
    pub size_from: u64,
    /// The lifetime given.
    pub lifetime_ns: u64,
    /// Mappings it was given to.
    pub count: u64,
}

/// A mapping nothing like which was ever undone in the trace lives a millisecond.
const UNKNOWN_NS: u64 = 1_000_000;

impl Lifetimes {
    pub fn add(&mut self, device: u32, size: u64, lifetime_ns: u64) {
        self.classes.entry((device, class(size))).or_default().add(lifetime_ns);
        self.devices.entry(device).or_default().add(lifetime_ns);
        self.all.add(lifetime_ns);
    }

    /// Takes in another load's, whose devices are numbered from `device` on.
    pub fn take_in(&mut self, other: &Self, device: u32) {
        for (&(of, class), histogram) in &other.classes {
            self.classes.entry((of + device, class)).or_default().take_in(histogram);
        }
        for (of, histogram) in &other.devices {
            self.devices.entry(of + device).or_default().take_in(histogram);
        }
        self.all.take_in(&other.all);
    }

    /// The median lifetime of the device's mappings of about that size; failing those, of all its mappings; of all.
    pub fn typical(&self, device: u32, size: u64) -> u64 {
        let of_class = self.classes.get(&(device, class(size)));
        let of_device = self.devices.get(&device);
        of_class.or(of_device).unwrap_or(&self.all).median().unwrap_or(UNKNOWN_NS)
    }
}

/// Sizes of a class are within a factor of two.
pub(crate) fn class(size: u64) -> u32 {
    size.max(1).ilog2()
}

#[derive(Clone, Debug, Default)]
struct Histogram {
    counts: BTreeMap<u32, u64>,
    total: u64,
}

impl Histogram {
    fn add(&mut self, ns: u64) {
        *self.counts.entry(step(ns)).or_default() += 1;
        self.total += 1;
    }

    fn take_in(&mut self, other: &Self) {
        for (&step, count) in &other.counts {
            *self.counts.entry(step).or_default() += count;
        }
        self.total += other.total;
    }

    fn median(&self) -> Option<u64> {
        let mut left = self.total.div_ceil(2);
        for (&step, &count) in &self.counts {
            if left <= count {
                return Some(value(step));
            }
            left -= count;
        }
        None
    }
}

fn step(ns: u64) -> u32 {
    let ns = ns.max(1);
    let log = ns.ilog2();
    // The three bits after the leading one choose the fine step.
    let fine = if log >= 3 { (ns >> (log - 3)) & 7 } else { (ns << (3 - log)) & 7 };
    log * FINE + fine as u32
}

/// The smallest time of a step.
fn value(step: u32) -> u64 {
    let (log, fine) = (step / FINE, u64::from(step % FINE));
    if log >= 3 { (8 + fine) << (log - 3) } else { (8 + fine) >> (3 - log) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_at_most_an_eighth_wide() {
        for ns in (1..5000).chain([1_000_000, 123_456_789, u64::MAX / 3]) {
            let low = value(step(ns));
            assert!(low <= ns && ns - low <= ns / 8, "{ns} counted as {low}");
        }
    }

    #[test]
    fn the_nearest_likeness_wins() {
        let mut lifetimes = Lifetimes::default();
        assert_eq!(lifetimes.typical(0, 4096), UNKNOWN_NS);
        lifetimes.add(0, 4096, 16_000);
        lifetimes.add(0, 4096, 16_000);
        lifetimes.add(0, 65536, 256_000);
        lifetimes.add(1, 65536, 1024);
        let near = |got: u64, wanted: u64| assert!(got <= wanted && wanted - got <= wanted / 8, "{got} for {wanted}");
        near(lifetimes.typical(0, 5000), 16_000);
        near(lifetimes.typical(0, 65536), 256_000);
        near(lifetimes.typical(0, 512), 16_000);
        near(lifetimes.typical(1, 512), 1024);
        near(lifetimes.typical(7, 4096), 16_000);
    }
}
