//! What to record and how.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use probe::settings::{self, Globs, Settings};
use trace::{Direction, Feed};

use crate::backends::Family;
use crate::flight::{Flight, Trigger};
use crate::glob::{self, GlobError};
use crate::host;

trace::words! {
    /// How much is recorded.
    #[derive(Default)]
    pub enum Mode {
        /// Every event.
        #[default]
        Full = "full",
        /// The slot allocator and the kernel's word that it bounces; nothing else is attached.
        Bounces = "bounces",
        /// Sums and histograms in the kernel instead of events: cheap enough to be left on.
        Aggregate = "aggregate",
    }
}

impl Mode {
    /// Whether an event is attached at all.
    #[must_use]
    pub fn attaches(self, event: &str) -> bool {
        self != Self::Bounces || matches!(event, "slot_alloc" | "slot_free" | "bounce" | "pool_added")
    }
}

trace::words! {
    /// Which events are wanted.
    #[derive(Default)]
    pub enum Only {
        /// Every one.
        #[default]
        Everything = "everything",
        /// What the bounce allocator does, and what was refused.
        Bounces = "bounces",
        /// What was refused.
        Failures = "failures",
    }
}

/// What is left out, decided in the kernel. Without any filter a trace holds everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Patterns of which a device's name has to fit one; none means any device.
    pub devices: Vec<String>,
    /// The same for the name of its driver.
    pub drivers: Vec<String>,
    /// Directions wanted; none means all.
    pub directions: Vec<Direction>,
    /// Bytes an event must have at least.
    pub min_size: u64,
    /// Which events.
    pub only: Only,
}

impl Filters {
    /// As the options were given, for meta.json; empty when nothing is left out.
    #[must_use]
    pub fn described(&self) -> BTreeMap<String, String> {
        let directions: Vec<_> = self.directions.iter().map(|d| d.name()).collect();
        let all = [
            ("device", self.devices.join(",")),
            ("driver", self.drivers.join(",")),
            ("dir", directions.join(",")),
            ("min_size", if self.min_size > 0 { self.min_size.to_string() } else { String::new() }),
            ("only", if self.only == Only::Everything { String::new() } else { self.only.name().to_owned() }),
        ];
        all.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), v)).collect()
    }

    /// The options that leave out slots which are taken while the events of others are kept, so that slots in use cannot be
    /// counted. `--only bounces` does not, nor do all directions that a mapping can have.
    #[must_use]
    pub fn hiding_slots(&self) -> Vec<&'static str> {
        let Self { devices, drivers, directions, min_size, only } = self;
        let mapped = [Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional];
        let all = [
            ("--device", !devices.is_empty()),
            ("--driver", !drivers.is_empty()),
            ("--dir", !directions.is_empty() && !mapped.iter().all(|way| directions.contains(way))),
            // A slot is never taken for less than a byte.
            ("--min-size", *min_size > 1),
            ("--only failures", *only == Only::Failures),
        ];
        all.into_iter().filter(|(_, hides)| *hides).map(|(option, _)| option).collect()
    }

    /// The patterns as the probe takes them.
    ///
    /// # Errors
    /// When they cannot be patterns.
    pub fn globs(&self) -> Result<Globs, GlobError> {
        Ok(Globs { device: glob::compile(&self.devices)?, driver: glob::compile(&self.drivers)? })
    }

    fn settings(&self) -> Settings {
        let bit = |d: &Direction| 1 << *d as u32;
        let directions = self.directions.iter().map(bit).fold(0, |all, one: u32| all | one);
        let names = [(!self.devices.is_empty(), settings::BY_DEVICE), (!self.drivers.is_empty(), settings::BY_DRIVER)];
        Settings {
            min_size: self.min_size,
            directions: if directions == 0 { settings::ALL_DIRECTIONS } else { directions },
            only: match self.only {
                Only::Everything => settings::ONLY_ALL,
                Only::Bounces => settings::ONLY_BOUNCES,
                Only::Failures => settings::ONLY_FAILURES,
            },
            names: names.into_iter().filter(|(asked, _)| *asked).map(|(_, bit)| bit).sum(),
            ..Settings::FULL
        }
    }
}

/// Options that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Slots are to be counted that are not seen.
    #[error(
        "--trigger {trigger} counts the slots that everybody has in use, {} leaves some of them out: record without it and filter the traces (`swioscope query`), or wait for another trigger (failure, signal)",
        .filters.join(" with ")
    )]
    SlotsLeftOut {
        /// The trigger that counts.
        trigger: Trigger,
        /// The filters, as they are given.
        filters: Vec<&'static str>,
    },
}

/// What to record, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The trace's folder; must not exist. With [`Options::flight`] what the names of the dumps begin with.
    pub path: PathBuf,
    /// What runs meanwhile, in words, for meta.json: the command, or that it was whatever ran for a time.
    pub workload: String,
    /// Size of the ring buffer: a power of two of at least a page.
    pub ring_bytes: u32,
    /// How much.
    pub mode: Mode,
    /// What of it.
    pub filters: Filters,
    /// Kernel stacks of all mappings and slot allocations, not only of those refused.
    pub stacks: bool,
    /// Keep events in memory and write them only when something happens.
    pub flight: Option<Flight>,
    /// Back-ends of this family only, for the events that have any.
    pub backend: Option<Family>,
    /// Whoever looks on is told everything here as well. One who takes nothing keeps the recorder waiting until the ring
    /// buffer is full, which is counted; one who has gone away is told nothing more.
    pub feed: Option<SyncSender<Feed>>,
    /// Whether a trace is written at all. Without one, `path` is only a name.
    pub store: bool,
}

impl Options {
    /// Everything, with a ring buffer of 16 MiB, which takes 3 million events a second for some 80 ms.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, workload: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            workload: workload.into(),
            ring_bytes: 1 << 24,
            mode: Mode::Full,
            filters: Filters::default(),
            stacks: false,
            flight: None,
            backend: None,
            feed: None,
            store: true,
        }
    }

    /// Whether all that is asked for can be had together.
    ///
    /// # Errors
    /// What does not go with what.
    pub fn check(&self) -> Result<(), OptionsError> {
        let triggers = self.flight.iter().flat_map(|flight| &flight.triggers);
        let counts = triggers.copied().find(|trigger| matches!(trigger, Trigger::HighWater(_)));
        let filters = self.filters.hiding_slots();
        match counts {
            Some(trigger) if !filters.is_empty() => Err(OptionsError::SlotsLeftOut { trigger, filters }),
            _ => Ok(()),
        }
    }

    /// What the probe is told.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let aggregate = self.mode == Mode::Aggregate;
        let stacks = match (aggregate, self.stacks) {
            (true, _) => settings::STACKS_NONE,
            (false, false) => settings::STACKS_FAILURES,
            (false, true) => settings::STACKS_ALL,
        };
        let devices = if aggregate { host::devices() } else { 0 };
        Settings { stacks, aggregate: u32::from(aggregate), devices, ..self.filters.settings() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::flight::Keep;

    #[test]
    fn what_is_asked_for_reaches_the_probe_and_meta_json() {
        let mut options = Options::new("t.swio", "");
        assert_eq!(options.settings(), Settings::FULL);
        assert!(options.filters.described().is_empty());
        options.filters = Filters {
            devices: vec!["0000:*".to_owned(), "pci*".to_owned()],
            drivers: Vec::new(),
            directions: vec![Direction::ToDevice, Direction::Bidirectional],
            min_size: 4096,
            only: Only::Failures,
        };
        options.stacks = true;
        let asked = options.settings();
        assert_eq!((asked.min_size, asked.directions, asked.only), (4096, 0b11, settings::ONLY_FAILURES));
        assert_eq!((asked.names, asked.stacks, asked.aggregate), (settings::BY_DEVICE, settings::STACKS_ALL, 0));
        let described: Vec<_> = options.filters.described().into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(described, ["device=0000:*,pci*", "dir=to_device,bidirectional", "min_size=4096", "only=failures"]);
        options.mode = Mode::Aggregate;
        assert_eq!((options.settings().stacks, options.settings().aggregate), (settings::STACKS_NONE, 1));
        assert!(Mode::Bounces.attaches("slot_alloc") && !Mode::Bounces.attaches("map") && Mode::Full.attaches("map"));
    }

    #[test]
    fn slots_are_counted_only_where_all_are_seen() {
        use Direction::{Bidirectional, FromDevice, ToDevice};
        let flight = |triggers: &[Trigger]| Flight {
            window_bytes: 1 << 20,
            triggers: triggers.to_vec(),
            after: Duration::ZERO,
            keep: Keep { count: 1, bytes: 1, age: Duration::ZERO },
        };
        let check = |filters: Filters, triggers: &[Trigger]| {
            Options { filters, flight: Some(flight(triggers)), ..Options::new("f.swio", "") }.check()
        };
        let none = Filters::default();
        let name = || vec!["nvme*".to_owned()];
        let hiding = [
            ("--device", Filters { devices: name(), ..none.clone() }),
            ("--driver", Filters { drivers: name(), ..none.clone() }),
            ("--dir", Filters { directions: vec![ToDevice, FromDevice], ..none.clone() }),
            ("--min-size", Filters { min_size: 4096, ..none.clone() }),
            ("--only failures", Filters { only: Only::Failures, ..none.clone() }),
        ];
        for (option, filters) in hiding {
            assert_eq!(filters.hiding_slots(), [option]);
            // The probe is told of each, so that it does leave something out.
            assert_ne!(filters.settings(), Settings::FULL);
            let error = check(filters.clone(), &[Trigger::Failure, Trigger::HighWater(90)]).unwrap_err().to_string();
            assert!(
                error.starts_with("--trigger hiwater:90% ") && error.contains(&format!(", {option} leaves")),
                "{error}"
            );
            assert_eq!(check(filters, &[Trigger::Failure, Trigger::Signal]), Ok(()));
        }
        let showing = [
            none.clone(),
            Filters { only: Only::Bounces, ..none.clone() },
            Filters { directions: vec![Bidirectional, ToDevice, FromDevice], ..none },
        ];
        showing.into_iter().for_each(|filters| assert_eq!(check(filters, &[Trigger::HighWater(90)]), Ok(())));
        assert_eq!(Options::new("t.swio", "").check(), Ok(()));
    }
}
