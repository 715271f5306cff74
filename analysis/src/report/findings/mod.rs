//! The verdict: what the figures say, in words and numbers, each with what to do next.
//!
//! The first finding answers whether swiotlb is the problem at all, and a clear no is as good as a yes. The others name the
//! class of cause (docs/report.md has the classes). A kernel's log has one message for most of them.

use schemars::JsonSchema;
use serde::Serialize;
use trace::field::{bytes, count, duration};
use trace::pool::SLOT_BYTES;

use super::Report;
use conditions::DEAR;

mod conditions;
mod refused;

pub(super) use conditions::{leak, silent};
pub use refused::because;

/// What kind of cause a finding names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
pub enum Class {
    /// Nothing is wrong.
    #[serde(rename = "CLEAR")]
    Clear,
    /// The trace cannot answer.
    #[serde(rename = "EMPTY")]
    Empty,
    /// The pool was full.
    #[serde(rename = "FULL")]
    Full,
    /// Slots are never given back.
    #[serde(rename = "LEAK")]
    Leak,
    /// A request larger than a segment: no pool serves it.
    #[serde(rename = "BIG")]
    Big,
    /// A request that is larger than a segment, or fits no slot, because of its offset and alignment.
    #[serde(rename = "BIG-OFF")]
    BigOff,
    /// Slots enough are free, but not so that the request fits.
    #[serde(rename = "FRAG")]
    Frag,
    /// An area is full while others are not, or CPUs live on other CPUs' areas.
    #[serde(rename = "AREA")]
    Area,
    /// A device does not reach the buffer, or the pool.
    #[serde(rename = "MASK")]
    Mask,
    /// Xen's frames make mappings bounce.
    #[serde(rename = "PV")]
    Pv,
    /// The pool is not there, or not as large as it was asked to be.
    #[serde(rename = "SIZE")]
    Size,
    /// The pool is much larger than the load needs.
    #[serde(rename = "WASTE")]
    Waste,
    /// Copying costs time.
    #[serde(rename = "PERF")]
    Perf,
    /// Bounced mappings that nobody syncs: data may differ between CPU and device without a message.
    #[serde(rename = "SILENT")]
    Silent,
    /// A search that never ends, with the lock held.
    #[serde(rename = "SPIN")]
    Spin,
    /// A device is not trusted.
    #[serde(rename = "UNTRUSTED")]
    Untrusted,
    /// Refusals the trace does not explain.
    #[serde(rename = "UNKNOWN")]
    Unknown,
    /// The trace itself is not whole.
    #[serde(rename = "LOSS")]
    Loss,
}

impl Class {
    /// The word it is called by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clear => "CLEAR",
            Self::Empty => "EMPTY",
            Self::Full => "FULL",
            Self::Leak => "LEAK",
            Self::Big => "BIG",
            Self::BigOff => "BIG-OFF",
            Self::Frag => "FRAG",
            Self::Area => "AREA",
            Self::Mask => "MASK",
            Self::Pv => "PV",
            Self::Size => "SIZE",
            Self::Waste => "WASTE",
            Self::Perf => "PERF",
            Self::Silent => "SILENT",
            Self::Spin => "SPIN",
            Self::Untrusted => "UNTRUSTED",
            Self::Unknown => "UNKNOWN",
            Self::Loss => "LOSS",
        }
    }

    /// The class of a refusal by its cause.
    fn of_cause(cause: &str) -> Self {
        match cause {
            "too_large" => Self::Big,
            "too_large_with_offset" | "alignment_impossible" | "boundary_impossible" => Self::BigOff,
            "pool_full" | "grow_pending" | "transient_refused" => Self::Full,
            "area_full" => Self::Area,
            "fragmented" | "boundary" | "alignment" | "stride" => Self::Frag,
            "never_ending_search" => Self::Spin,
            "pool_above_mask" | "not_addressable" | "forbidden" => Self::Mask,
            "no_pool" => Self::Size,
            _ => Self::Unknown,
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something failed, or will.
    Problem,
    /// Something costs, or may fail.
    Warning,
    /// Worth knowing.
    Info,
    /// A reason not to worry.
    Clear,
}

impl Severity {
    /// The word it is called by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Clear => "clear",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Finding {
    /// What kind of cause.
    pub class: Class,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, in a sentence.
    pub title: String,
    /// The numbers behind it, a sentence each.
    pub evidence: Vec<String>,
    /// What to do, a command or a parameter where there is one.
    pub next: Vec<String>,
}

impl Finding {
    fn new(class: Class, severity: Severity, title: impl Into<String>) -> Self {
        Self { class, severity, title: title.into(), evidence: Vec::new(), next: Vec::new() }
    }

    fn with(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    fn next(mut self, step: impl Into<String>) -> Self {
        self.next.push(step.into());
        self
    }
}

/// From this share of mapped bytes on, bouncing is worth a word.
const LITTLE: f64 = 0.01;

/// The verdict on a report whose tables are filled. What `report.verdict` has already (leaks and silent mappings, which take
/// more than the tables) is kept.
#[must_use]
pub fn verdict(report: &Report) -> Vec<Finding> {
    let mut findings = report.verdict.clone();
    refused::refusals(report, &mut findings);
    let of = [
        conditions::mask(report),
        conditions::pv(report),
        conditions::untrusted(report),
        conditions::areas(report),
        conditions::perf(report),
        conditions::size(report),
        conditions::waste(report, &findings),
        conditions::loss(report),
    ];
    findings.extend(of.into_iter().flatten());
    findings.sort_by_key(|finding| finding.severity);
    let mut answer = answer(report, &findings);
    // What is the whole answer is not told twice.
    if answer.class == Class::Perf
        && let Some(at) = findings.iter().position(|finding| finding.class == Class::Perf)
    {
        let perf = findings.remove(at);
        answer.evidence.extend(perf.evidence);
        answer.next.extend(perf.next);
    }
    findings.insert(0, answer);
    findings
}

fn answer(report: &Report, findings: &[Finding]) -> Finding {
    let summary = &report.summary;
    let of = |class: Class| findings.iter().find(|finding| finding.class == class);
    let judged = summary.maps.unwrap_or(0) + summary.bounces + summary.failures;
    let base = if judged == 0 {
        let title = if summary.lost > 0 {
            format!("Nothing can be judged: the trace holds no mapping, only {} lost records.", count(summary.lost))
        } else {
            "Nothing can be judged: the trace holds no mapping.".to_owned()
        };
        return Finding::new(Class::Empty, Severity::Info, title)
            .next("swioscope doctor says what this kernel lets us see")
            .next("record while the load runs: swioscope record -o load.swio -- COMMAND");
    } else if summary.failures > 0 {
        let first = findings.iter().find(|finding| finding.severity == Severity::Problem);
        let class = report.failures.first().map_or(Class::Unknown, |row| Class::of_cause(&row.cause));
        let class = first.filter(|first| first.class == Class::Leak).map_or(class, |leak| leak.class);
        let refused = if summary.failures == 1 {
            "1 request was refused".to_owned()
        } else {
            format!("{} requests were refused", count(summary.failures))
        };
        let title = if summary.failures_any_size == summary.failures {
            format!(
                "swiotlb is your problem, its size is not: {refused}, and no pool of any size serves {}.",
                them(summary.failures)
            )
        } else if class == Class::Leak {
            format!("swiotlb is your problem: {refused}, because slots are taken and never given back.")
        } else {
            let why = report.failures.first().map_or("", |row| refused::why(&row.cause));
            let first = report.failures.first().map_or(0, |row| row.failures);
            let mostly = if report.failures.len() <= 1 {
                "because".to_owned()
            } else if first * 2 > summary.failures {
                "most of them because".to_owned()
            } else {
                format!("for several reasons; {} because", count(first))
            };
            format!("swiotlb is your problem: {refused}, {mostly} {why}.")
        };
        Finding::new(class, Severity::Problem, title)
    } else if of(Class::Leak).is_some() {
        Finding::new(
            Class::Leak,
            Severity::Problem,
            format!(
                "swiotlb is about to be your problem: nothing was refused yet, but {} slots leaked.",
                count(summary.leaked_slots)
            ),
        )
    } else if of(Class::Silent).is_some() {
        Finding::new(
            Class::Silent,
            Severity::Warning,
            format!(
                "swiotlb refuses nothing and may still be your problem: {} bounced mappings live long and are never synced.",
                count(summary.silent)
            ),
        )
    } else if summary.bounces == 0 {
        let mapped = summary.maps.map_or_else(String::new, |maps| {
            format!(", of {} mappings ({})", count(maps), bytes(summary.bytes_mapped.unwrap_or(0)))
        });
        Finding::new(
            Class::Clear,
            Severity::Clear,
            format!("swiotlb is not your problem: nothing bounced{mapped}, and nothing was refused."),
        )
    } else if report.trace.bounces_alone {
        let bounces =
            if summary.bounces == 1 { "1 mapping".to_owned() } else { format!("{} mappings", count(summary.bounces)) };
        let title = format!("{bounces} went to the bounce pool; whether any was refused was not recorded.");
        Finding::new(Class::Empty, Severity::Warning, title)
            .next("what was refused stands in the kernel's log: dmesg | grep 'swiotlb buffer is full'")
            .next("what this kernel lets us see, and what that takes: swioscope doctor")
    } else if of(Class::Perf).is_some_and(|perf| perf.severity == Severity::Warning) {
        let time = summary.pool_time_share.filter(|&share| share >= DEAR.0);
        let time = time
            .map_or_else(String::new, |share| format!(", and allocating slots takes {} of one CPU", percent(share)));
        let title = format!("swiotlb refuses nothing, but it costs: it copies {}/s{time}.", bytes(summary.copy_rate));
        Finding::new(Class::Perf, Severity::Warning, title)
    } else if summary.bounce_share.is_some_and(|share| share < LITTLE) {
        let share = percent(summary.bounce_share.unwrap_or(0.0));
        Finding::new(
            Class::Clear,
            Severity::Clear,
            format!("swiotlb is not your problem: {share} of DMA bytes bounced, and nothing was refused."),
        )
    } else {
        let what = match summary.bounce_share {
            Some(share) => format!("{} of DMA bytes bounced", percent(share)),
            None => format!("{} mappings bounced", count(summary.bounces)),
        };
        let cheap = match summary.pool_time_share {
            Some(share) => format!("that takes {} of one CPU", percent(share)),
            None => format!("that is {} copied a second", bytes(summary.copy_rate)),
        };
        Finding::new(
            Class::Clear,
            Severity::Clear,
            format!("swiotlb is not your problem: nothing was refused; {what}, and {cheap}."),
        )
    };
    facts(report, base)
}

fn them(n: u64) -> &'static str {
    if n == 1 { "it" } else { "them" }
}

/// How the pool was watched, where it was not slot by slot.
fn looked(report: &Report) -> &'static str {
    match (report.looked(), report.trace.mode.as_str()) {
        (false, _) => "",
        (true, "aggregate") => ", looked at once a second",
        (true, _) => ", looked at ten times a second",
    }
}

/// The facts every answer rests on.
fn facts(report: &Report, mut finding: Finding) -> Finding {
    let summary = &report.summary;
    finding.evidence.push(match (summary.maps, summary.bytes_mapped, summary.bounce_share) {
        (Some(maps), Some(mapped), Some(share)) => format!(
            "{} of {} mappings bounced, {} of {} ({}).",
            count(summary.bounces),
            count(maps),
            bytes(summary.bytes_bounced),
            bytes(mapped),
            percent(share)
        ),
        (Some(maps), ..) => format!("{} of {} mappings bounced.", count(summary.bounces), count(maps)),
        _ => format!(
            "{} mappings {}, {}; what share of all DMA that is cannot be said: what did not bounce was not recorded.",
            count(summary.bounces),
            if report.trace.bounces_alone { "bounced or were refused" } else { "bounced" },
            bytes(summary.bytes_bounced)
        ),
    });
    if summary.bounces > 0 {
        let time = match (summary.pool_time_ns, summary.pool_time_share) {
            (Some(ns), Some(share)) => {
                format!(
                    "; allocating slots, the copy at map included, takes {} of one CPU by its median ({} by the clock, preemption included)",
                    percent(share),
                    duration(ns)
                )
            }
            _ => "; how long that took was not recorded".to_owned(),
        };
        finding.evidence.push(match summary.bytes_copied {
            0 if summary.pool_time_ns.is_none() => {
                "Which way their data went, and so how much was copied, was not recorded.".to_owned()
            }
            copied => format!(
                "{} were copied in {}, {}/s{time}.",
                bytes(copied),
                duration(report.trace.span_ns),
                bytes(summary.copy_rate)
            ),
        });
    }
    if summary.pool_slots > 0 {
        let used = match summary.peak_share {
            Some(share) => format!(
                "at most {} ({}) were in use at once{}, {} at the end",
                count(summary.peak_slots),
                percent(share),
                looked(report),
                count(summary.held_slots)
            ),
            None => "how many of them were in use was not recorded".to_owned(),
        };
        finding.evidence.push(format!(
            "The pool has {} slots ({}){}; {used}.",
            count(summary.pool_slots),
            bytes(summary.pool_slots.saturating_mul(SLOT_BYTES)),
            if report.trace.areas > 1 { format!(" in {} areas", report.trace.areas) } else { String::new() },
        ));
    } else {
        let known = report.trace.pool_unknown.is_none();
        finding.evidence.push(match (known, report.looked()) {
            (true, _) => "There is no bounce pool.".to_owned(),
            (false, false) => "The bounce pool is unknown.".to_owned(),
            (false, true) => format!(
                "The bounce pool is unknown; at most {} slots were in use{}, {} at the end.",
                count(summary.peak_slots),
                looked(report),
                count(summary.held_slots)
            ),
        });
    }
    let fidelity = &report.fidelity;
    if let (Some(share), Some(policy)) = (summary.predicted_share, &fidelity.policy) {
        finding.evidence.push(format!(
            "The arithmetic is {policy}'s, which predicts {} of {} slot choices of this kernel ({}).",
            count(fidelity.predicted),
            count(fidelity.predicted_of),
            percent(share)
        ));
    }
    finding
}

/// A share in words: never 0 % of something, never 100 % of less.
#[must_use]
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value > 0.0 && value < 0.1 {
        "below 0.1 %".to_owned()
    } else if share < 1.0 && value >= 99.95 {
        "above 99.9 %".to_owned()
    } else {
        format!("{value:.1} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_rounded_to_all_or_nothing() {
        assert_eq!(
            [0.0, 0.0003, 0.5, 0.99999, 1.0].map(percent),
            ["0.0 %", "below 0.1 %", "50.0 %", "above 99.9 %", "100.0 %"]
        );
    }

    #[test]
    fn every_cause_has_a_class_and_words() {
        for cause in replay::Cause::ALL {
            assert!(!refused::why(cause.name()).contains("does not tell"), "{cause}");
            assert!(Class::of_cause(cause.name()) != Class::Unknown || cause.name() == "empty", "{cause}");
        }
        for reason in replay::Reason::ALL {
            assert!(!because(reason.name()).contains("do not know"), "{reason}");
        }
    }
}
