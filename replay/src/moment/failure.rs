//! A refused request.

use trace::Direction;

use crate::refusal::Cause;

/// A request the recorded kernel refused, and why by the models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its place among all failures, from 1.
    pub number: u64,
    /// When.
    pub time_ns: u64,
    /// CPU it was asked on.
    pub cpu: u32,
    /// Thread that was running.
    pub tid: u32,
    /// Device that asked.
    pub device: u32,
    /// The buffer's address.
    pub orig_addr: Option<u64>,
    /// Bytes asked for.
    pub size: u64,
    /// Which way data was to move.
    pub direction: Option<Direction>,
    /// The kernel's calls that led there.
    pub stack: Option<u32>,
    /// Slots in use then.
    pub used: u64,
    /// Why, as a word; absent when the models would have served it.
    pub cause: Option<Cause>,
    /// Why, with its numbers.
    pub explanation: String,
}

impl Failure {
    /// The cause as a word.
    #[must_use]
    pub fn cause_name(&self) -> &'static str {
        self.cause.map_or("unexplained", Cause::name)
    }
}
