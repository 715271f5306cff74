//! Slots in use as debugfs shows them: less than every slot one by one, but without BTF, kernel memory or a program.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use trace::sums::Occupancy;

use crate::attach::Choice;
use crate::backends::POOL_USE;
use crate::kernel::clock;

/// Where the kernel shows its bounce pool.
const FOLDER: &str = "/sys/kernel/debug/swiotlb";
/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(100);
/// A look that took less is good, and no more are made than so many.
const QUICK_NS: u64 = 1_000_000;
const TRIES: usize = 3;

/// Reads the number of slots in use. The file is opened for each look, because the kernel lets it be read once.
#[derive(Debug)]
pub struct Usage {
    path: PathBuf,
    base_ns: u64,
    looked: Option<Instant>,
    /// What was told last, and what was seen last, when they are not the same look.
    told: Option<u64>,
    untold: Option<Occupancy>,
    failed: u64,
}

impl Usage {
    /// A file of the kernel's folder, which is read to see whether it can be.
    ///
    /// # Errors
    /// What is missing, for people.
    pub fn open(file: &str) -> Result<Self, String> {
        let path = Path::new(FOLDER).join(file);
        let text = fs::read_to_string(&path).map_err(|error| {
            let path = path.display();
            format!("{path}: {error}; it takes root and debugfs (mount -t debugfs debugfs /sys/kernel/debug)")
        })?;
        number(&text).ok_or_else(|| format!("{} holds {text:?} and no number", path.display()))?;
        Ok(Self { path, base_ns: 0, looked: None, told: None, untold: None, failed: 0 })
    }

    /// What looks at the pool in a recording that began at `base_ns`, where that back-end was taken.
    pub(crate) fn taken(choices: &[Choice], base_ns: u64, notes: &mut Vec<String>) -> Option<Self> {
        let backend = choices.iter().find(|choice| choice.event == POOL_USE)?.backend?;
        let file = backend.strip_prefix("debugfs ")?;
        // It could be read a moment ago.
        Self::open(file).map(|usage| usage.since(base_ns)).map_err(|why| notes.push(why)).ok()
    }

    /// From now on in times of a recording that began at `base_ns`.
    #[must_use]
    pub fn since(self, base_ns: u64) -> Self {
        Self { base_ns, ..self }
    }

    /// The pool now. One who is held up between clock and file would tell of another moment, so the quickest of some looks
    /// counts.
    #[must_use]
    pub fn now(&self) -> Option<Occupancy> {
        let mut quickest: Option<(u64, Occupancy)> = None;
        for _ in 0..TRIES {
            let began_ns = clock(libc::CLOCK_MONOTONIC);
            let used = number(&fs::read_to_string(&self.path).ok()?)?;
            let took_ns = clock(libc::CLOCK_MONOTONIC).saturating_sub(began_ns);
            if quickest.as_ref().is_none_or(|(least, _)| took_ns < *least) {
                quickest = Some((took_ns, Occupancy { time_ns: began_ns.saturating_sub(self.base_ns), used }));
            }
            if took_ns < QUICK_NS {
                break;
            }
        }
        quickest.map(|(_, look)| look)
    }

    /// Looks that came to nothing.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The looks to be told, when it is time for one, or the `last`: those at which there were more or fewer slots in use than
    /// before, each with the one before it, so that a line between them runs as it was seen.
    pub fn look(&mut self, last: bool) -> Vec<Occupancy> {
        if !last && self.looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return Vec::new();
        }
        self.looked = Some(Instant::now());
        let Some(look) = self.now() else {
            self.failed += 1;
            return Vec::new();
        };
        self.changed(look, last)
    }

    fn changed(&mut self, look: Occupancy, last: bool) -> Vec<Occupancy> {
        if self.told == Some(look.used) && !last {
            self.untold = Some(look);
            return Vec::new();
        }
        self.told = Some(look.used);
        self.untold.take().into_iter().chain([look]).collect()
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_told_with_the_look_before_them() {
        let path = PathBuf::from("/dev/null");
        let mut usage = Usage { path, base_ns: 0, looked: None, told: None, untold: None, failed: 0 };
        let look = |time_ns, used| Occupancy { time_ns, used };
        let mut told = Vec::new();
        for (time, used) in [(1, 5), (2, 5), (3, 5), (4, 9), (5, 2), (6, 2)] {
            told.extend(usage.changed(look(time, used), false));
        }
        told.extend(usage.changed(look(7, 2), true));
        assert_eq!(told, [look(1, 5), look(3, 5), look(4, 9), look(5, 2), look(6, 2), look(7, 2)]);
        // Nothing is there to be read, which counts.
        assert_eq!((usage.look(true), usage.failed()), (Vec::new(), 1));
    }

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!(["1024\n", "0", "", "many\n", "-1"].map(number), [Some(1024), Some(0), None, None, None]);
    }

    #[test]
    fn a_missing_file_is_said_with_what_it_takes() {
        let error = Usage::open("not-there").unwrap_err();
        assert!(error.contains("/sys/kernel/debug/swiotlb/not-there") && error.contains("mount -t debugfs"), "{error}");
    }
}
