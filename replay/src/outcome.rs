//! What is asked of a replay, and what came of it.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use crate::growth::Grown;
use crate::lifetimes::Assumed;
use crate::machine::{FalseBoundaries, Reason};
use crate::occupancy::Occupancy;
use crate::refusal::{Cause, Refusal};

/// What to keep of a replay, and what to assume in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Refusals kept with their arithmetic.
    pub refusals: usize,
    /// Points of the occupancy curves.
    pub buckets: usize,
    /// What a driver does that is refused here and was served in reality.
    pub on_fail: OnFail,
}

impl Default for Options {
    fn default() -> Self {
        Self { refusals: 20, buckets: 1000, on_fail: OnFail::Drop }
    }
}

/// What a driver is taken to do when a mapping is refused that was served in reality. Drivers differ, and a trace cannot
/// tell, so it is an assumption; written `drop` or `retry:1ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFail {
    /// It goes without.
    #[default]
    Drop,
    /// It asks again after this many nanoseconds, and again, until the time at which it undid the mapping in reality.
    Retry(NonZeroU64),
}

/// A text that is no [`OnFail`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is neither `drop` nor `retry:` with a time above zero, such as retry:1ms")]
pub struct OnFailError {
    /// What was given.
    pub text: String,
}

impl FromStr for OnFail {
    type Err = OnFailError;

    fn from_str(text: &str) -> Result<Self, OnFailError> {
        let after = |time: &str| {
            let time = humantime::parse_duration(time).ok()?;
            Some(Self::Retry(NonZeroU64::new(u64::try_from(time.as_nanos()).ok()?)?))
        };
        match text.strip_prefix("retry:") {
            None if text == "drop" => Some(Self::Drop),
            None => None,
            Some(time) => after(time),
        }
        .ok_or_else(|| OnFailError { text: text.to_owned() })
    }
}

impl fmt::Display for OnFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::Retry(ns) => write!(f, "retry:{}", humantime::format_duration(Duration::from_nanos(ns.get()))),
        }
    }
}

/// A refusal and its circumstances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedMap {
    /// When, in the trace's nanoseconds.
    pub time_ns: u64,
    /// Device, by position in [`Load::devices`].
    pub device: u32,
    /// Why.
    pub refusal: Refusal,
}

/// A device's share of an outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOutcome {
    /// Mappings asked for; a scatterlist counts once an element.
    pub maps: u64,
    /// Mappings that needed a bounce buffer, whether or not they got one.
    pub bounces: u64,
    /// Requests refused; a scatterlist counts once.
    pub failures: u64,
    /// Slots held at the end.
    pub slots: u64,
    /// Most slots held at once.
    pub peak_slots: u64,
    /// The pool its bounces go to.
    pub pool: u8,
}

/// What would have happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Requests; a scatterlist counts once.
    pub requests: u64,
    /// Mappings asked for; a scatterlist counts once an element. Elements behind a refused one are not asked for.
    pub maps: u64,
    /// Mappings that needed a bounce buffer, by reason, in the order of [`Reason::ALL`]; whether or not they got one.
    pub bounces: [u64; Reason::ALL.len()],
    /// Requests refused, by cause, in the order of [`Cause::ALL`]; a scatterlist counts once.
    pub failures: [u64; Cause::ALL.len()],
    /// The first refusals, with their arithmetic.
    pub refusals: Vec<RefusedMap>,
    /// Bytes copied into bounce buffers by maps.
    pub bytes_at_map: u64,
    /// Bytes copied either way by syncs.
    pub bytes_at_sync: u64,
    /// Bytes copied back by unmaps.
    pub bytes_at_unmap: u64,
    /// Bytes a sync should have copied and this kernel would not, such as what lies in front of a later slot's offset
    /// (SPEC 6.3).
    pub bytes_dropped: u64,
    /// Bytes among those of syncs that this kernel would copy between places that do not belong together (5.12, 5.13).
    pub bytes_wrong_source: u64,
    /// Most slots in use at once, a pool.
    pub peak_slots: Vec<u64>,
    /// Slots in use at the end, a pool.
    pub final_slots: Vec<u64>,
    /// Slots in use over time, a pool.
    pub occupancy: Occupancy,
    /// By device, in the order of [`Load::devices`].
    pub devices: Vec<DeviceOutcome>,
    /// Lifetimes given to mappings nothing in the trace undoes: refused in reality, or merged by an IOMMU.
    pub assumed: Vec<Assumed>,
    /// Requests refused here and served in reality, which the driver is taken to go without: with [`OnFail::Retry`],
    /// those no retry got served.
    pub dropped: u64,
    /// Requests refused here and served in reality, which were tried again ([`OnFail::Retry`]). Each is one of the
    /// `failures` too, whatever became of it.
    pub retried: u64,
    /// Of these, requests a retry got served.
    pub retried_ok: u64,
    /// Mappings held since before the recording that find no room here. They are neither requests nor failures.
    pub held_refused: u64,
    /// Coherent buffers asked of a restricted pool (SPEC 2.7). They are no requests for mappings.
    pub coherent: u64,
    /// Of these, refused, by cause, in the order of [`Cause::ALL`].
    pub coherent_failures: [u64; Cause::ALL.len()],
    /// Releases that read past the end of the kernel's table, in a pool that ends inside a segment (SPEC 4).
    pub unspecified_tails: u64,
    /// Pools that came and went, where they can; their slots in use count for the boot pool.
    pub grown: Option<Grown>,
    /// Translations that had to be assumed because the trace does not name a frame (Xen PV).
    pub unknown_frames: u64,
    /// Buffers given to their device as one range although their bus frames part (`stefano-arm`): it would use somebody
    /// else's memory.
    pub parted: u64,
    /// Bounce buffers whose segment boundaries differ between the allocator's view and the machine's (Xen PV).
    pub false_boundaries: FalseBoundaries,
}

impl Outcome {
    /// Mappings that needed a bounce buffer.
    #[must_use]
    pub fn total_bounces(&self) -> u64 {
        self.bounces.iter().sum()
    }

    /// Requests refused.
    #[must_use]
    pub fn total_failures(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Bytes copied to and from bounce buffers.
    #[must_use]
    pub fn bytes_copied(&self) -> u64 {
        self.bytes_at_map + self.bytes_at_sync + self.bytes_at_unmap
    }

    /// Requests refused for one cause.
    #[must_use]
    pub fn failed(&self, cause: Cause) -> u64 {
        self.failures[cause as usize]
    }

    /// Mappings that needed a bounce buffer for one reason.
    #[must_use]
    pub fn bounced(&self, reason: Reason) -> u64 {
        self.bounces[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_does_is_read_as_it_is_written() {
        for (text, ns) in [("retry:1ms", 1_000_000), ("retry:7ns", 7), ("retry:2s", 2_000_000_000)] {
            let on_fail: OnFail = text.parse().unwrap();
            assert_eq!((on_fail, on_fail.to_string().as_str()), (OnFail::Retry(NonZeroU64::new(ns).unwrap()), text));
        }
        assert_eq!(("drop".parse(), OnFail::Drop.to_string().as_str()), (Ok(OnFail::Drop), "drop"));
        for text in ["", "retry", "retry:", "retry:0s", "retry:-1ms", "retry:99999999999999y", "drop:1ms", "Drop"] {
            assert!(text.parse::<OnFail>().is_err(), "{text}");
        }
    }
}
