//! How much happened in each of the last seconds.

use std::collections::VecDeque;

const SECOND: u64 = 1_000_000_000;
/// Parts of the window that [`Rates::now`] looks back over.
const PARTS: u64 = 10;
/// Seconds kept: the last five minutes.
pub const SECONDS: usize = 300;

trace::record! {
    /// What happened in one second, or in a tenth of one.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Second {
        /// When it began.
        time_ns: u64 => Time,
        /// Streaming mappings made.
        maps: u64 => Count,
        /// Mappings that went through the pool.
        bounces: u64 => Count,
        /// Bytes copied to and from bounce buffers.
        bytes_copied: u64 => Bytes,
        /// Requests refused.
        failures: u64 => Count,
        /// Most slots in use at once.
        peak_slots: u64 => Slots,
        /// Records lost.
        lost: u64 => Count,
    }
}

impl Second {
    fn add(&mut self, other: &Self) {
        self.maps += other.maps;
        self.bounces += other.bounces;
        self.bytes_copied = self.bytes_copied.saturating_add(other.bytes_copied);
        self.failures += other.failures;
        self.peak_slots = self.peak_slots.max(other.peak_slots);
        self.lost += other.lost;
    }
}

/// The last seconds, and the last tenths of a second.
#[derive(Clone, Debug)]
pub struct Rates {
    /// The second under way is the last.
    seconds: VecDeque<Second>,
    /// The tenth under way is the last of these.
    tenths: VecDeque<Second>,
}

impl Default for Rates {
    fn default() -> Self {
        Self { seconds: VecDeque::from([Second::default()]), tenths: VecDeque::from([Second::default()]) }
    }
}

impl Rates {
    /// The seconds, oldest first; the last one is not over yet.
    #[must_use]
    pub fn seconds(&self) -> &VecDeque<Second> {
        &self.seconds
    }

    /// What happened within the last second up to now: the rates a second. It moves on by tenths of a second; while the
    /// recording is younger than a second, it is what there was so far.
    #[must_use]
    pub fn now(&self) -> Second {
        let mut sum = Second { time_ns: self.tenths.front().map_or(0, |tenth| tenth.time_ns), ..Second::default() };
        self.tenths.iter().for_each(|tenth| sum.add(tenth));
        sum
    }

    /// Lets time pass; `used` slots are in use meanwhile.
    pub(super) fn advance(&mut self, time_ns: u64, used: u64) {
        advance(&mut self.seconds, time_ns, SECOND, SECONDS, used);
        advance(&mut self.tenths, time_ns, SECOND / PARTS, PARTS as usize, used);
    }

    /// Counts what happens now.
    pub(super) fn count(&mut self, add: impl Fn(&mut Second)) {
        for last in [self.seconds.back_mut(), self.tenths.back_mut()].into_iter().flatten() {
            add(last);
        }
    }
}

fn advance(spans: &mut VecDeque<Second>, time_ns: u64, width: u64, kept: usize, used: u64) {
    let now = time_ns / width;
    let last = spans.back().map_or(0, |span| span.time_ns / width);
    if now <= last {
        return;
    }
    // A long silence need not be counted through: what falls out again is not put in.
    let from = (last + 1).max(now.saturating_sub(kept as u64 - 1));
    for number in from..=now {
        if spans.len() == kept {
            spans.pop_front();
        }
        spans.push_back(Second { time_ns: number * width, peak_slots: used, ..Second::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_second_and_silence_empties_them() {
        let mut rates = Rates::default();
        for tenth in 0..15 {
            rates.advance(tenth * SECOND / 10 + 1, 7);
            rates.count(|second| second.maps += 1);
        }
        assert_eq!(rates.now().maps, 10);
        assert_eq!(rates.seconds().iter().map(|s| s.maps).collect::<Vec<_>>(), [10, 5]);
        rates.advance(1000 * SECOND, 7);
        assert_eq!((rates.now().maps, rates.now().peak_slots), (0, 7));
        assert_eq!(rates.seconds().len(), SECONDS);
        assert_eq!(rates.seconds().back().map(|s| s.time_ns), Some(1000 * SECOND));
    }
}
