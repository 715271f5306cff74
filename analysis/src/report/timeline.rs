//! The pool over a time whose length is not known beforehand: stretches double when there are too many of them.

use super::rows::OccupancyRow;

/// Stretches at most.
const POINTS: usize = 512;
/// Length of a stretch to begin with, in nanoseconds.
const FIRST_NS: u64 = 1 << 14;

/// The pool in one stretch.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    used: u64,
    free_segments: u64,
    largest_run: u32,
}

/// The pool over time.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    start_ns: u64,
    width_ns: u64,
    points: Vec<Point>,
    now: Point,
    until_ns: u64,
}

impl Timeline {
    /// Begins with a pool that has so many slots in use and segments free.
    pub fn new(start_ns: u64, used: u64, free_segments: u64, largest_run: u32) -> Self {
        let now = Point { used, free_segments, largest_run };
        Self { start_ns, width_ns: FIRST_NS, points: vec![now], now, until_ns: start_ns.saturating_add(FIRST_NS) }
    }

    /// The pool is like this from now on. The longest run is asked for once a stretch.
    pub fn set(&mut self, time_ns: u64, used: u64, free_segments: u64, largest_run: impl Fn() -> u32) {
        if time_ns >= self.until_ns {
            // The stretches that end here had, at their end, what there was before this.
            self.now.largest_run = largest_run();
            if let Some(last) = self.points.last_mut() {
                last.largest_run = self.now.largest_run;
            }
            let since = time_ns.saturating_sub(self.start_ns);
            while since / self.width_ns >= POINTS as u64 {
                self.halve();
            }
            let at = (since / self.width_ns) as usize;
            self.points.resize(at + 1, self.now);
            self.until_ns = self.start_ns.saturating_add((at as u64 + 1).saturating_mul(self.width_ns));
        }
        (self.now.used, self.now.free_segments) = (used, free_segments);
        if let Some(last) = self.points.last_mut() {
            last.used = last.used.max(used);
            last.free_segments = last.free_segments.min(free_segments);
        }
    }

    fn halve(&mut self) {
        let joined = self.points.chunks(2).map(|pair| Point {
            used: pair.iter().map(|point| point.used).max().unwrap_or(0),
            free_segments: pair.iter().map(|point| point.free_segments).min().unwrap_or(0),
            largest_run: pair.last().map_or(0, |point| point.largest_run),
        });
        self.points = joined.collect();
        self.width_ns = self.width_ns.saturating_mul(2);
    }

    /// A row a stretch; those that say the same as the one before are left out.
    pub fn rows(mut self, end_ns: u64, largest_run: u32) -> Vec<OccupancyRow> {
        let (used, free_segments) = (self.now.used, self.now.free_segments);
        self.set(end_ns, used, free_segments, || largest_run);
        if let Some(last) = self.points.last_mut() {
            last.largest_run = largest_run;
        }
        let row = |(i, point): (u64, &Point)| OccupancyRow {
            time_ns: self.start_ns.saturating_add(i.saturating_mul(self.width_ns)),
            used: point.used,
            free_segments: Some(point.free_segments),
            largest_run: Some(point.largest_run),
        };
        let mut rows: Vec<_> = (0u64..).zip(&self.points).map(row).collect();
        let says = |row: &OccupancyRow| (row.used, row.free_segments, row.largest_run);
        rows.dedup_by(|next, before| says(next) == says(before));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_time_keeps_its_peaks_in_few_points() {
        let mut timeline = Timeline::new(1_000, 0, 4, 128);
        for i in 0..100_000u64 {
            timeline.set(1_000 + i * 1_000_000, if i == 77_777 { 500 } else { i % 7 }, 4 - i % 3, || 64);
        }
        let rows = timeline.rows(100_000_000_000, 12);
        assert!(rows.len() <= POINTS && rows.iter().any(|row| row.used == 500));
        assert_eq!(rows.last().unwrap().largest_run, Some(12));
        assert!(rows.windows(2).all(|pair| pair[0].time_ns < pair[1].time_ns));
    }

    #[test]
    fn what_does_not_change_is_said_once() {
        let mut timeline = Timeline::new(0, 3, 1, 9);
        timeline.set(1 << 30, 3, 1, || 9);
        assert_eq!(timeline.rows(2 << 30, 9).len(), 1);
    }
}
