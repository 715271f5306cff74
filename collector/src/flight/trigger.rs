//! When a flight recorder writes.

use std::fmt;
use std::str::FromStr;

use trace::{Event, Meta, Op, field};

use trace::held::Held;

/// What makes a flight recorder write its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A mapping, slots or a coherent buffer were refused.
    Failure,
    /// The default pool is used to this many percent.
    HighWater(u8),
    /// SIGUSR1.
    Signal,
}

/// A trigger that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no trigger; known: failure, hiwater:90%, signal")]
pub struct BadTrigger(pub String);

impl FromStr for Trigger {
    type Err = BadTrigger;

    fn from_str(text: &str) -> Result<Self, BadTrigger> {
        let bad = || BadTrigger(text.to_owned());
        match text {
            "failure" => Ok(Self::Failure),
            "signal" => Ok(Self::Signal),
            _ => {
                let percent = text.strip_prefix("hiwater:").ok_or_else(bad)?;
                let percent = percent.strip_suffix('%').unwrap_or(percent).parse().map_err(|_| bad())?;
                if (1..=100).contains(&percent) { Ok(Self::HighWater(percent)) } else { Err(bad()) }
            }
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure => f.write_str("failure"),
            Self::HighWater(percent) => write!(f, "hiwater:{percent}%"),
            Self::Signal => f.write_str("signal"),
        }
    }
}

impl Trigger {
    /// Why this machine and what is recorded of it keep a trigger from doing what it says, in words; nothing when they do not.
    pub(super) fn doubt(self, meta: &Meta) -> Option<String> {
        let sees = |event: &str| meta.capture.backends.contains_key(event);
        match self {
            Self::HighWater(_) => {}
            Self::Failure if !["map", "map_sg", "alloc", "slot_alloc"].into_iter().any(sees) => {
                return Some(
                    "--trigger failure never comes, because nothing that can be refused is seen: give --trigger signal as well (`swioscope doctor` says why)"
                        .to_owned(),
                );
            }
            Self::Failure | Self::Signal => return None,
        }
        let ever = if meta.pool().is_none_or(|pool| pool.nslabs == 0) {
            "how many slots the default pool has is not known"
        } else if !sees("slot_alloc") {
            "no slot is seen to be taken"
        } else if !sees("slot_free") {
            return Some(format!(
                "--trigger {self} counts all slots taken as held, because none is seen to be given back: it comes too early, and once (`swioscope doctor` says why)"
            ));
        } else if meta.snapshot_ns.is_none() {
            return Some(format!(
                "--trigger {self} counts from zero, because the slots held at the start could not be read: it comes too late by as many, or never (`swioscope doctor` says why)"
            ));
        } else {
            return None;
        };
        Some(format!(
            "--trigger {self} never comes, because {ever}: give --trigger failure or signal as well (`swioscope doctor` says why)"
        ))
    }
}

/// Looks at events as they come. A trigger that stays true does so once, until it has been false.
#[derive(Debug)]
pub(super) struct Watch {
    failure: bool,
    /// Slots that must be in use.
    level: Option<u64>,
    /// Reached, and not fallen below nine tenths of it since.
    above: bool,
    model: Held,
}

impl Watch {
    /// A watch that begins with the pool as in `model`.
    pub(super) fn new(triggers: &[Trigger], model: &Held) -> Self {
        let level = triggers.iter().filter_map(|trigger| match trigger {
            Trigger::HighWater(percent) => Some((model.nslabs() * u64::from(*percent)).div_ceil(100)),
            _ => None,
        });
        // A machine without a pool never comes near its size.
        let level = level.min().filter(|level| *level > 0);
        Self { failure: triggers.contains(&Trigger::Failure), level, above: false, model: model.clone() }
    }

    /// What an event triggers, in words.
    pub(super) fn see(&mut self, event: &Event) -> Option<String> {
        if self.failure && matches!(event.op, Op::MapFailed | Op::SlotFailed | Op::AllocFailed) {
            let size = event.size.map_or(String::new(), |size| format!(" of {}", field::bytes(size)));
            return Some(format!("failure: {}{size}", event.op));
        }
        let level = self.level?;
        self.model.apply(event);
        let used = self.model.used();
        let reached = used >= level;
        let now = reached && !self.above;
        self.above = reached || self.above && used * 10 >= level * 9;
        now.then(|| format!("hiwater: {} of {} slots in use", field::count(used), field::count(self.model.nslabs())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace::held::samples::{alloc, free, meta};

    #[test]
    fn triggers_are_read_and_written_alike() {
        for text in ["failure", "signal", "hiwater:90%"] {
            assert_eq!(text.parse::<Trigger>().unwrap().to_string(), text);
        }
        assert_eq!("hiwater:5".parse(), Ok(Trigger::HighWater(5)));
        for text in ["", "hiwater", "hiwater:0%", "hiwater:101%", "hiwater:x", "Failure"] {
            assert!(text.parse::<Trigger>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_high_water_mark_triggers_once_until_the_pool_has_emptied() {
        // 100 slots, so the mark of 20 % is at 20, and it is left below 18.
        let mut watch = Watch::new(&[Trigger::HighWater(20)], &Held::new(&meta(100, 1), &[]));
        assert_eq!(watch.see(&alloc(1, 0, 19)), None);
        assert_eq!(watch.see(&alloc(2, 19, 1)).unwrap(), "hiwater: 20 of 100 slots in use");
        assert_eq!([watch.see(&free(3, 19)), watch.see(&alloc(4, 19, 1))], [None, None]);
        assert_eq!(watch.see(&free(5, 0)), None);
        assert!(watch.see(&alloc(6, 40, 19)).is_some());
        let mut watch = Watch::new(&[Trigger::Failure], &Held::new(&meta(100, 1), &[]));
        assert_eq!(watch.see(&alloc(1, 0, 99)), None);
        let failed = Event { size: Some(4096), ..Event::new(Op::SlotFailed, 2, 0, 0, 0) };
        assert_eq!(watch.see(&failed).unwrap(), "failure: slot_failed of 4 KiB");
    }

    #[test]
    fn a_high_water_mark_that_cannot_be_seen_is_told() {
        let mut meta = meta(100, 1);
        for event in ["slot_alloc", "slot_free"] {
            meta.capture.backends.insert(event.to_owned(), "kprobe".to_owned());
        }
        let doubt = |meta: &trace::Meta| Trigger::HighWater(90).doubt(meta);
        assert_eq!(doubt(&meta), None);
        let without = |event: &str| {
            let mut meta = meta.clone();
            meta.capture.backends.remove(event);
            doubt(&meta).unwrap()
        };
        assert!(without("slot_alloc").starts_with("--trigger hiwater:90% never comes, because no slot is seen"));
        assert!(without("slot_free").contains("too early"));
        meta.snapshot_ns = None;
        assert!(doubt(&meta).unwrap().starts_with("--trigger hiwater:90% counts from zero"));
        meta.pools.clear();
        assert!(doubt(&meta).unwrap().starts_with("--trigger hiwater:90% never comes, because how many slots"));
        assert_eq!(Trigger::Failure.doubt(&meta), None);
    }
}
