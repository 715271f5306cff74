//! One refused or bounced mapping told as a story: what was asked, the rule, the arithmetic, the pool it met, who held the
//! slots, and what would have let it pass.
//!
//! | module | what lives there |
//! |---|---|
//! | this one | the rows of a [`Story`], and the questions to an [`Explainer`] |
//! | `pass` | what one pass over the events finds: an event, those it belongs to, who was running |
//! | `recorded` | refusals and bounces as the recorded kernel's pool met them |
//! | `replayed` | the same of a replay, and what another size, area count or kernel would have done |
//! | `words` | sentences: rules with their SPEC sections, arithmetic |
//! | `text` | a story as text |
//!
//! The same rows feed the command, its JSON and the Failures screen.

mod pass;
mod recorded;
mod replayed;
mod text;
mod words;

use std::cell::OnceCell;
use std::sync::atomic::AtomicBool;

use replay::{OnFail, PlatformSpec, Policy};
use serde::Serialize;
use trace::Trace;

use crate::AnalysisError;
use crate::comparison::TraceFacts;

pub(crate) use pass::is_map;
pub(crate) use recorded::device as recorded_device;
pub use recorded::failures;
use replayed::WhatIf;

/// What a story is to be about.
#[derive(Clone, Debug, Default)]
pub struct ExplainOptions {
    /// The policy to replay; the recorded kernel's own doing when nothing is said.
    pub policy: Option<Policy>,
    /// Where addresses are translated; the recorded platform when nothing is said.
    pub platform: Option<PlatformSpec>,
    /// What a driver is taken to do when it is refused.
    pub on_fail: OnFail,
}

trace::record! {
    /// A refused mapping.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
    pub struct FailureRow {
        /// Number of the event, from 0, which `swioscope explain --event` takes.
        event: u64 => Index,
        /// When.
        time_ns: u64 => Time,
        /// Key into devices.parquet.
        device: u32 => Id,
        /// The device's name.
        device_name: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// CPU it was asked on.
        cpu: u32 => Index,
        /// Thread that asked.
        tid: u32 => Id,
        /// Address of the caller's buffer.
        orig_addr: Option<u64> => Address,
        /// Bytes asked for.
        size: Option<u64> => Bytes,
        /// The cause, as a word.
        cause: String => Text,
        /// The cause, with its numbers.
        explanation: String => Text,
        /// Key into stacks.parquet.
        stack: Option<u32> => Id,
    }
}

trace::record! {
    /// An area of the pool as the mapping met it.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
    pub struct AreaStateRow {
        /// The area; the mapping's own CPU's is tried first.
        area: u32 => Index,
        /// Slots in use.
        used: u64 => Slots,
        /// Slots free.
        free: u64 => Slots,
        /// The longest free run.
        largest_run: u64 => Slots,
        /// Where its next search begins, counted from its first slot.
        index: u64 => Index,
        /// Why it could not serve; absent where it was not asked.
        cause: Option<String> => Text,
    }
}

trace::record! {
    /// Free runs of one length.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
    pub struct RunRow {
        /// Shortest run counted here.
        from: u64 => Slots,
        /// Longest run counted here.
        to: u64 => Slots,
        /// Runs.
        runs: u64 => Count,
        /// Slots in them.
        slots: u64 => Slots,
    }
}

trace::record! {
    /// Who held slots, by device and kernel stack.
    #[derive(Clone, Debug, PartialEq, Serialize)]
    pub struct HolderRow {
        /// The device; what was there before the recording has none.
        device: String => Text,
        /// Its driver.
        driver: Option<String> => Text,
        /// Mappings.
        mappings: u64 => Count,
        /// Slots they held.
        slots: u64 => Slots,
        /// Share of the slots in use.
        share: f64 => Ratio,
        /// Age of the oldest; absent when it was there before the recording.
        oldest_ns: Option<u64> => Duration,
        /// Median age.
        median_ns: Option<u64> => Duration,
        /// The thread most of them were mapped by.
        task: Option<String> => Text,
        /// Innermost call of the kernel stack that mapped them, where stacks were recorded.
        mapped_in: Option<String> => Text,
    }
}

trace::record! {
    /// What would have become of it if one thing had been different: an exact replay of everything up to it.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
    pub struct RemedyRow {
        /// What is different: `size`, `areas`, `kernel` or `segment`.
        kind: String => Text,
        /// The policy that was replayed.
        policy: String => Text,
        /// Its slots.
        pool_slots: u64 => Slots,
        /// Its areas.
        areas: u32 => Count,
        /// The mapping is served.
        served: bool => Flag,
        /// How.
        answer: String => Text,
    }
}

/// The rule that decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuleText {
    /// The cause or reason, as a word; `direct` when nothing bounced.
    pub word: String,
    /// The rule, in a sentence.
    pub sentence: String,
    /// Its section of the specification the models are written from.
    pub section: String,
}

/// A pool as the mapping met it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PoolState {
    /// What it is called: `pool`, or LO, HI, restricted.
    pub name: String,
    /// Slots it has.
    pub slots: u64,
    /// Slots in use.
    pub used: u64,
    /// Slots free.
    pub free: u64,
    /// The longest free run.
    pub largest_run: u64,
    /// Free runs by length, in doublings.
    pub runs: Vec<RunRow>,
    /// Area by area, in the order tried.
    pub areas: Vec<AreaStateRow>,
}

/// A mapping's story.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Story {
    /// Number of the event.
    pub event: u64,
    /// When, in nanoseconds since the recording began.
    pub time_ns: u64,
    /// Whether it was refused.
    pub refused: bool,
    /// The policy it is told by: the recorded kernel's own, or the one replayed.
    pub policy: String,
    /// It happened in a replay and not in reality.
    pub replayed: bool,
    /// The answer in a sentence.
    pub headline: String,
    /// What was asked for, in a sentence.
    pub asked: String,
    /// The rules that decided, in order: whether it bounces, then which slots.
    pub rules: Vec<RuleText>,
    /// The arithmetic, a line a step.
    pub arithmetic: Vec<String>,
    /// The pool it met; nothing where no slot was asked for.
    pub pool: Option<PoolState>,
    /// Who held slots, those with most first.
    pub holders: Vec<HolderRow>,
    /// No pool of any size can serve it.
    pub never: bool,
    /// What would have let it pass, the most useful sentence first.
    pub remedies: Vec<String>,
    /// What they rest on: each an exact replay.
    pub tried: Vec<RemedyRow>,
    /// Process and thread that asked.
    pub task: Option<String>,
    /// The kernel's calls that led there, innermost first.
    pub stack: Vec<String>,
    /// What weakens the answer.
    pub notes: Vec<String>,
    /// The trace, and how far the model can be trusted with it.
    #[serde(skip)]
    pub facts: TraceFacts,
}

/// Refusals, the first ones with all that is known of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failures {
    /// The first refusals.
    pub rows: Vec<FailureRow>,
    /// Refusals in all, those without a row included.
    pub total: u64,
    /// Refusals of each cause among `rows`, the most frequent first.
    pub causes: Vec<(String, u64)>,
    /// What weakens the answer.
    pub notes: Vec<String>,
}

impl Failures {
    /// The first refusal of each device and cause: what is worth a story.
    #[must_use]
    pub fn typical(&self) -> Vec<(&FailureRow, u64)> {
        let mut found: Vec<(&FailureRow, u64)> = Vec::new();
        for row in &self.rows {
            match found.iter_mut().find(|(first, _)| (first.device, &first.cause) == (row.device, &row.cause)) {
                Some((_, n)) => *n += 1,
                None => found.push((row, 1)),
            }
        }
        found
    }

    fn count(&mut self) {
        let mut causes = std::collections::BTreeMap::<&str, u64>::new();
        for row in &self.rows {
            *causes.entry(&row.cause).or_default() += 1;
        }
        self.causes = causes.into_iter().map(|(cause, n)| (cause.to_owned(), n)).collect();
        self.causes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    }
}

/// Tells stories of one trace, which is made ready for replays once, when the first story needs them.
pub struct Explainer<'a> {
    trace: &'a Trace,
    options: &'a ExplainOptions,
    what_if: OnceCell<WhatIf<'a>>,
}

impl<'a> Explainer<'a> {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(trace: &'a Trace, options: &'a ExplainOptions) -> Self {
        Self { trace, options, what_if: OnceCell::new() }
    }

    /// What was refused: by the recorded kernel, or in the replay of the policy asked about. The first `limit` have all that is
    /// known of them.
    ///
    /// # Errors
    /// When the trace cannot be read, or the policy does not fit it.
    pub fn failures(&self, limit: usize) -> Result<Failures, AnalysisError> {
        match self.options.policy {
            Some(_) => self.what_if()?.failures(limit),
            None => recorded::failures(self.trace, limit),
        }
    }

    /// The story of the event with that number: a refusal, a mapping, or the slots it took. Reads the events up to it
    /// twice, and replays what comes before it some twenty times for what would have let it pass; setting `stop` leaves out
    /// what was not tried by then.
    ///
    /// # Errors
    /// When the trace cannot be read, a policy does not fit it, or there is nothing to tell of that event.
    pub fn story(&self, event: u64, stop: &AtomicBool) -> Result<Story, AnalysisError> {
        let found = pass::find(self.trace, event)?;
        if self.options.policy.is_some() {
            return self.what_if()?.story(&found, stop);
        }
        let mut story = recorded::story(self.trace, &found)?;
        // What was served needs no replay, which would read the whole trace. And a replay has no pool of a device's own: what
        // another size of the default one would have served says nothing of it.
        let own = recorded::device(self.trace, found.event.device).is_some_and(|device| device.own_pool().is_some());
        if story.refused && own {
            story.remedies.push(
                "What another pool or kernel would have done cannot be told: the device has a bounce pool of its own."
                    .to_owned(),
            );
        } else if story.refused {
            self.what_if()?.remedies(&mut story, found.map_number, stop)?;
        }
        Ok(story)
    }

    /// The number of the first bounce, for a trace in which nothing was refused.
    ///
    /// # Errors
    /// When the trace cannot be read.
    pub fn first_bounce(&self) -> Result<Option<u64>, AnalysisError> {
        for (number, event) in (0u64..).zip(self.trace.events()) {
            if event?.op == trace::Op::SlotAlloc {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn what_if(&self) -> Result<&WhatIf<'a>, AnalysisError> {
        if self.what_if.get().is_none() {
            // Nobody else fills it: cells are for one thread.
            let _ = self.what_if.set(WhatIf::new(self.trace, self.options)?);
        }
        self.what_if.get().ok_or_else(|| AnalysisError::NoStory("the trace could not be made ready".to_owned()))
    }
}

/// [`Explainer::story`] for a single event.
///
/// # Errors
/// As there.
pub fn story(trace: &Trace, event: u64, options: &ExplainOptions, stop: &AtomicBool) -> Result<Story, AnalysisError> {
    Explainer::new(trace, options).story(event, stop)
}

impl Story {
    /// The story as text, lines of any length: the one place that writes it.
    #[must_use]
    pub fn text(&self) -> String {
        text::write(self)
    }
}
