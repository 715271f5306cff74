//! The verdict: what the figures say, in words and numbers, each with what to do next.
//!
//! The first finding answers whether swiotlb is the problem at all, and a clear no is as good as a yes. The others name the
//! class of cause (docs/report.md has the classes). A kernel's log has one message for most of them.

use schemars::JsonSchema;
use serde::Serialize;
use trace::field::{bytes, count, duration};
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

use super::Report;
use super::rows::{FailureRow, HolderRow};

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
/// From this share of a CPU's time in the allocator on, or so many bytes copied a second, it is worth a warning.
const DEAR: (f64, u64) = (0.1, 100 << 20);
/// Rates over less time are chance.
const SHORT_NS: u64 = 100_000_000;
/// A pool that is never fuller than this is too large for the load.
const WASTED: f64 = 0.125;
/// From this share of allocations in other CPUs' areas on, areas are too small.
const STOLEN: f64 = 0.05;

/// The verdict on a report whose tables are filled. What `report.verdict` has already (leaks and silent mappings, which take
/// more than the tables) is kept.
#[must_use]
pub fn verdict(report: &Report) -> Vec<Finding> {
    let mut findings = report.verdict.clone();
    refusals(report, &mut findings);
    findings.extend([mask(report), pv(report), untrusted(report), areas(report), perf(report)].into_iter().flatten());
    findings.extend([size(report), waste(report, &findings), loss(report)].into_iter().flatten());
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
            let why = report.failures.first().map_or("", |row| why(&row.cause));
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
            "{} mappings bounced, {}; what share of all DMA that is cannot be said: what did not bounce was not recorded.",
            count(summary.bounces),
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
        finding.evidence.push(format!(
            "{} were copied in {}, {}/s{time}.",
            bytes(summary.bytes_copied),
            duration(report.trace.span_ns),
            bytes(summary.copy_rate)
        ));
    }
    if summary.pool_slots > 0 {
        let share = summary.peak_share.map_or_else(String::new, |share| format!(" ({})", percent(share)));
        let seen = if report.trace.mode == "aggregate" { ", looked at once a second" } else { "" };
        finding.evidence.push(format!(
            "The pool has {} slots ({}){}; at most {}{share} were in use at once{seen}, {} at the end.",
            count(summary.pool_slots),
            bytes(summary.pool_slots * SLOT_BYTES),
            if report.trace.areas > 1 { format!(" in {} areas", report.trace.areas) } else { String::new() },
            count(summary.peak_slots),
            count(summary.held_slots)
        ));
    } else {
        finding.evidence.push("There is no bounce pool.".to_owned());
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

/// Why refused, as the end of a sentence.
fn why(cause: &str) -> &'static str {
    match cause {
        "too_large" => "they are larger than a segment of 256 KiB",
        "too_large_with_offset" => "their offset makes them larger than a segment of 256 KiB",
        "alignment_impossible" => "no slot has the alignment they need",
        "boundary_impossible" => "they are longer than their device's segment boundary allows",
        "pool_full" => "the pool was full",
        "grow_pending" | "transient_refused" => "the pool was full and could not grow in time",
        "area_full" => "their CPU's area was full",
        "fragmented" => "the pool was fragmented",
        "boundary" => "every free run crossed the device's segment boundary",
        "alignment" => "no free run began at an address the masks allow",
        "stride" => "the kernel's search steps over the slots that were free",
        "never_ending_search" => "the kernel's search never ends",
        "pool_above_mask" => "the device does not reach the pool",
        "not_addressable" => "the device does not reach the buffer and bouncing is not possible",
        "forbidden" => "a copy was forbidden",
        "no_pool" => "there is no pool",
        "empty" => "they ask for nothing",
        _ => "of something the trace does not tell",
    }
}

/// One finding a class of refusal.
fn refusals(report: &Report, findings: &mut Vec<Finding>) {
    let mut classes: Vec<Class> = Vec::new();
    for row in &report.failures {
        let class = Class::of_cause(&row.cause);
        if !classes.contains(&class) {
            classes.push(class);
        }
    }
    for class in classes {
        let rows: Vec<&FailureRow> =
            report.failures.iter().filter(|row| Class::of_cause(&row.cause) == class).collect();
        findings.push(refusal(report, class, &rows));
    }
}

fn refusal(report: &Report, class: Class, rows: &[&FailureRow]) -> Finding {
    let n: u64 = rows.iter().map(|row| row.failures).sum();
    let largest = rows.iter().map(|row| row.largest).max().unwrap_or(0);
    let pool =
        format!("{} slots ({})", count(report.summary.pool_slots), bytes(report.summary.pool_slots * SLOT_BYTES));
    let name = &report.path;
    let requests = if n == 1 { "1 request".to_owned() } else { format!("{} requests", count(n)) };
    let (was, is) = if n == 1 { ("was", "is") } else { ("were", "are") };
    let title = match class {
        Class::Big => format!(
            "Too big for any pool: {requests} {was} up to {} = {} slots, and one mapping can have {SEGMENT_SLOTS} ({}).",
            bytes(largest),
            count(largest.div_ceil(SLOT_BYTES)),
            bytes(u64::from(SEGMENT_SLOTS) * SLOT_BYTES)
        ),
        Class::BigOff => format!(
            "Too big with their offset or alignment: {requests} of up to {} {is} within 256 KiB, and still no empty pool serves {}.",
            bytes(largest),
            them(n)
        ),
        Class::Full => {
            format!("Full: for {requests} of up to {} there were not slots enough in a pool of {pool}.", bytes(largest))
        }
        Class::Frag => format!(
            "Fragmented: {requests} of up to {} {was} refused although slots enough were free, because none stood together as needed.",
            bytes(largest)
        ),
        Class::Area => format!(
            "Area full: {requests} of up to {} {was} refused because the CPU's own area was full and the others had no run.",
            bytes(largest)
        ),
        Class::Mask => {
            format!("Out of reach: {requests} {was} refused because a device does not reach the memory it was to use.")
        }
        Class::Size => format!("No pool: {requests} had to bounce and there is no bounce pool."),
        Class::Spin => format!(
            "The kernel hangs: for {requests} its search for slots never ends, with the lock held and interrupts off."
        ),
        _ => format!("{requests} {was} refused, and the trace does not tell why."),
    };
    let mut finding = Finding::new(class, Severity::Problem, title);
    for row in rows.iter().take(3) {
        finding.evidence.push(one_refusal(row));
    }
    if matches!(class, Class::Full | Class::Frag | Class::Area) {
        finding.evidence.extend(held_then(report));
    }
    let kernel = &report.trace.kernel;
    let promised = report.reach.iter().filter(|row| rows.iter().any(|failed| failed.device == row.device));
    let promised = promised.map(|row| row.largest_promised).filter(|&n| n > 0).min();
    match class {
        Class::Big => {
            let segment = largest.div_ceil(SLOT_BYTES).next_power_of_two();
            finding = finding
                .with("Raising swiotlb= changes nothing: the limit is of one mapping, not of the pool. The kernel's log says \"swiotlb buffer is full\" all the same.")
                .next(match promised {
                    Some(most) => format!(
                        "the driver must map at most {} at once (what dma_max_mapping_size() promises here): report it there",
                        bytes(most)
                    ),
                    None => "the driver must map in smaller pieces: report it there".to_owned(),
                })
                .next(format!(
                    "what a longer segment would do: swioscope replay {name} --policy {}:segment={segment}",
                    report.fidelity.policy.as_deref().unwrap_or("v6_10")
                ));
        }
        Class::BigOff => {
            finding = finding
                .with("Raising swiotlb= changes nothing: an empty pool refuses them too.")
                .next(match promised.filter(|&most| most < u64::from(SEGMENT_SLOTS) * SLOT_BYTES) {
                    Some(most) => format!(
                        "the driver must map at most {} at once (what dma_max_mapping_size() promises here): report it there",
                        bytes(most)
                    ),
                    None => "a kernel whose dma_max_mapping_size() leaves room for the offset: 5.19 and newer, late 5.10.y and 5.15.y".to_owned(),
                });
        }
        Class::Full | Class::Frag | Class::Area => {
            finding = finding.next(format!(
                "the size that would do, and what to write for it: swioscope plan {name} --kernel {kernel}"
            ));
            if class == Class::Area {
                finding = finding.next(format!(
                    "fewer areas, such as swiotlb={},1 on 6.0 and newer: swioscope plan {name} --areas 1",
                    report.summary.pool_slots
                ));
            }
            if class == Class::Frag {
                finding = finding.next(format!(
                    "other allocators on the same load: swioscope replay {name} --policy legacy --policy v6_10"
                ));
            }
        }
        Class::Mask => {
            finding = finding.next("a pool lower in memory (swiotlb= without a special placement), the device's full DMA mask in its driver, or an IOMMU");
        }
        Class::Size => {
            finding = finding.next("swiotlb=force or swiotlb=SLOTS on the command line makes one; what a number becomes: swioscope param swiotlb=32768");
        }
        Class::Spin => {
            finding = finding.next("a kernel with a search that is counted: 6.3 or newer");
        }
        _ => {
            finding = finding.next("record whole and with stacks: swioscope record --stacks -o load.swio -- COMMAND");
        }
    }
    finding
}

fn one_refusal(row: &FailureRow) -> String {
    let reason = match row.reason.as_deref() {
        Some(reason) => format!(" It had to bounce: {}.", because(reason)),
        None => String::new(),
    };
    let from = row.stack.as_ref().map_or_else(String::new, |stack| format!(" Asked for by {stack}."));
    format!(
        "{}: {} × {}; the first, at {}: {}.{reason}{from}",
        who(&row.device, row.driver.as_deref()),
        count(row.failures),
        row.cause.replace('_', " "),
        duration(row.first_ns),
        row.explanation
    )
}

/// Why a mapping had to bounce, in words.
#[must_use]
pub fn because(reason: &str) -> &'static str {
    match reason {
        "mask" => "the device does not reach the buffer",
        "straddle" => "the buffer's machine frames do not follow one another",
        "alignment" => "the buffer is not aligned as it must be",
        "foreign" => "part of the buffer is another domain's memory",
        "forced" => "everything bounces here (swiotlb=force, or encrypted memory)",
        "untrusted" => "the device is not trusted",
        "kmalloc" => "it is a small kmalloc buffer",
        _ => "for a reason the rules do not know",
    }
}

fn who(device: &str, driver: Option<&str>) -> String {
    driver.map_or_else(|| device.to_owned(), |driver| format!("{device} ({driver})"))
}

/// Who had the pool when it first refused.
fn held_then(report: &Report) -> Option<String> {
    let then: Vec<&HolderRow> = report.holders.iter().filter(|row| row.at == "first_refusal").collect();
    let (slots, standing) = then.iter().fold((0, 0), |sum, row| (sum.0 + row.slots, sum.1 + row.standing_slots));
    let first = then.first()?;
    let stand = if standing * 2 > slots {
        format!(
            "{} of them stand: taken in the first half of the recording or before it, and not given back",
            count(standing)
        )
    } else {
        format!("{} of them stand, the rest comes and goes", count(standing))
    };
    let place = first.stack.as_ref().map_or_else(String::new, |stack| format!(" from {stack}"));
    Some(format!(
        "At the first refusal {} slots were held; {}. {} held most, {}{place}.",
        count(slots),
        stand,
        who(&first.device, first.driver.as_deref()),
        count(first.slots)
    ))
}

/// A leak, by the ages of what is held.
pub(super) fn leak(
    device: &str,
    driver: Option<&str>,
    place: Option<&str>,
    leak: &super::slots::Leak,
    free: u64,
    span_ns: u64,
) -> Finding {
    let from = place.map_or_else(String::new, |place| format!(", all from {place}"));
    let left = if leak.slots_a_second > 0.0 { free as f64 / leak.slots_a_second } else { f64::INFINITY };
    let lasts = if left.is_finite() {
        format!(" At that rate the {} free ones last {}.", count(free), duration((left * 1e9).min(1e18) as u64))
    } else {
        String::new()
    };
    let mut finding = Finding::new(
        Class::Leak,
        Severity::Problem,
        format!(
            "Leak: {} took {} slots in {} mappings{from} and did not give them back.",
            who(device, driver),
            count(leak.slots),
            count(leak.mappings)
        ),
    )
    .with(format!(
        "They were taken all through the {} of the trace, not at once: {:.1} slots a second; the oldest is {} old.{lasts}",
        duration(span_ns),
        leak.slots_a_second,
        duration(leak.oldest_ns)
    ))
    .with("No size of pool helps for long.");
    if place.is_none() {
        finding = finding.next("record with --stacks to see which function takes them");
    }
    finding.next(format!("report it to the driver{}", driver.map_or_else(String::new, |driver| format!(" {driver}"))))
}

/// Bounced mappings that live long and are never synced (USERS case 26).
pub(super) fn silent(
    device: &str,
    driver: Option<&str>,
    silent: &super::slots::Silent,
    reasons: &[(&'static str, u64)],
) -> Finding {
    let why: Vec<String> = reasons.iter().map(|(reason, n)| format!("{} {reason}", count(*n))).collect();
    Finding::new(
        Class::Silent,
        Severity::Warning,
        format!(
            "Silent: {} has {} bounced mappings ({}) that live long and were never synced; the oldest is {} old.",
            who(device, driver),
            count(silent.mappings),
            bytes(silent.bytes),
            duration(silent.oldest_ns)
        ),
    )
    .with(format!("Why they bounced: {}.", why.join(", ")))
    .with("Between map and unmap only a sync copies. A driver that takes such memory for shared sees stale data, without any message: corrupt displays are the known case. Receive buffers that wait for their first packet look the same.")
    .next(format!(
        "ask whether {} syncs what it keeps mapped; coherent memory (dma_alloc_coherent) does not bounce",
        driver.unwrap_or("the driver")
    ))
}

fn mask(report: &Report) -> Option<Finding> {
    let beyond: Vec<_> = report.reach.iter().filter(|row| row.reaches != "all").collect();
    let first = beyond.first()?;
    let used = |device: &str| report.devices.iter().any(|row| row.device == device && row.bounces + row.failures > 0);
    let serious = beyond.iter().any(|row| used(&row.device));
    let mut finding = Finding::new(
        Class::Mask,
        if serious { Severity::Problem } else { Severity::Warning },
        format!(
            "The pool itself is out of reach: {} reaches {} of it.",
            who(&first.device, first.driver.as_deref()),
            if first.reaches == "none" { "nothing" } else { "only part" }
        ),
    );
    for row in beyond.iter().take(3) {
        finding = finding.with(format!(
            "{}: reach {:#x}, the pool lies from {:#x} to {:#x} as the bus sees it.",
            who(&row.device, row.driver.as_deref()),
            row.reach,
            row.pool_from,
            row.pool_to
        ));
    }
    Some(finding.next("a pool lower in memory, or the device's full DMA mask in its driver"))
}

fn pv(report: &Report) -> Option<Finding> {
    let pv = |row: &&super::rows::ReasonRow| matches!(row.reason.as_str(), "straddle" | "foreign");
    let rows: Vec<_> = report.reasons.iter().filter(pv).collect();
    let first = rows.first()?;
    let n: u64 = rows.iter().map(|row| row.bounces).sum();
    let size: u64 = rows.iter().map(|row| row.bytes).sum();
    let mut finding = Finding::new(
        Class::Pv,
        Severity::Info,
        format!(
            "Xen: {} mappings ({}) bounced because their machine frames do not follow one another or are another domain's.",
            count(n),
            bytes(size)
        ),
    );
    for row in rows.iter().take(3) {
        finding = finding.with(format!(
            "{}: {} by {} ({}).",
            who(&row.device, row.driver.as_deref()),
            count(row.bounces),
            row.reason,
            bytes(row.bytes)
        ));
    }
    Some(
        finding
            .with("Such buffers bounce on PV however far the device reaches; the same load on PVH or bare metal does not.")
            .next(format!("scatterlists of single pages in {}, or PVH", first.driver.as_deref().unwrap_or("the driver")))
            .next(format!("what a machine-frame lookup would change: swioscope replay {} --platform hch-unified", report.path)),
    )
}

fn untrusted(report: &Report) -> Option<Finding> {
    let rows: Vec<_> = report.reasons.iter().filter(|row| row.reason == "untrusted").collect();
    let first = rows.first()?;
    let n: u64 = rows.iter().map(|row| row.bounces).sum();
    Some(
        Finding::new(
            Class::Untrusted,
            Severity::Info,
            format!("Not trusted: {} mappings bounced because their device can be plugged in by anybody.", count(n)),
        )
        .with(format!("{}: {}.", who(&first.device, first.driver.as_deref()), count(first.bounces)))
        .next("the port's external-facing property marks it; without it the IOMMU maps directly"),
    )
}

fn areas(report: &Report) -> Option<Finding> {
    let share = report.summary.steal_share.filter(|&share| share >= STOLEN)?;
    // Where no area was ever half full, tasks moved between CPUs in the middle of a call.
    let filled = report.areas.iter().any(|row| row.peak_slots * 2 >= row.slots);
    let fullest = report.areas.iter().filter(|_| filled).max_by_key(|row| row.sent_away)?;
    Some(
        Finding::new(
            Class::Area,
            Severity::Warning,
            format!(
                "Areas are too small: {} of slot allocations ({}) went to another CPU's area.",
                percent(share),
                count(report.summary.steals)
            ),
        )
        .with(format!(
            "Area {} has {} slots and peaks at {}; {} requests of its CPUs went elsewhere, each after a search that found nothing and under another CPU's lock.",
            fullest.area,
            count(fullest.slots),
            count(fullest.peak_slots),
            count(fullest.sent_away)
        ))
        .next(format!("a larger pool or fewer areas: swioscope plan {} --areas 1", report.path)),
    )
}

fn perf(report: &Report) -> Option<Finding> {
    let summary = &report.summary;
    let slow = summary.pool_time_share.is_some_and(|share| share >= DEAR.0);
    // A rate over less time than this says nothing.
    let told = summary.bounces > 0 && report.trace.span_ns >= SHORT_NS;
    if !told || !(slow || summary.copy_rate >= DEAR.1) {
        return None;
    }
    let mut finding = Finding::new(
        Class::Perf,
        Severity::Warning,
        format!(
            "It costs: {}/s are copied{}.",
            bytes(summary.copy_rate),
            summary.pool_time_share.map_or_else(String::new, |share| format!(
                ", and allocating slots takes {} of one CPU",
                percent(share)
            ))
        ),
    );
    if let Some(row) = report.latencies.iter().find(|row| row.op == "slot_alloc") {
        finding = finding.with(format!(
            "{}: half of {} slot allocations took no longer than {}, 99 of 100 no longer than {}, the longest {}.",
            row.device,
            count(row.timed),
            duration(row.p50_ns),
            duration(row.p99_ns),
            duration(row.max_ns)
        ));
    }
    for row in report.devices.iter().filter(|row| row.bounces > 0).take(3) {
        finding = finding.with(format!(
            "{}: {} copied{}{}.",
            who(&row.device, row.driver.as_deref()),
            bytes(row.bytes_copied),
            row.copy_amplification.map_or_else(String::new, |x| format!(", {x:.2} bytes a byte bounced")),
            row.slot_rounding.map_or_else(String::new, |x| format!("; {x:.2} bytes of slots a byte"))
        ));
    }
    let commonest = report.reasons.first().map_or("", |row| row.reason.as_str());
    Some(finding.next(match commonest {
        "forced" => "everything bounces by order: without swiotlb=force, or without encrypted memory, it would not",
        "mask" => "the device does not reach the buffers: a driver with a 64-bit DMA mask, or an IOMMU",
        "straddle" | "foreign" => "machine frames make them bounce: single-page scatterlists, or PVH",
        _ => "see why mappings bounced, below",
    }))
}

fn size(report: &Report) -> Option<Finding> {
    let (asked, becomes) = report.asked?;
    let got = report.summary.pool_slots;
    let given = report.trace.cmdline.split_whitespace().rfind(|word| word.starts_with("swiotlb="))?;
    let in_words = |slots: u64| format!("{} slots ({})", count(slots), bytes(slots * SLOT_BYTES));
    if got < becomes {
        return Some(
            Finding::new(
                Class::Size,
                if report.summary.failures > 0 { Severity::Problem } else { Severity::Warning },
                format!("The pool is smaller than asked: {given} makes {}, and there are {}.", in_words(becomes), in_words(got)),
            )
            .with("So much memory in one piece was not to be had at boot: the kernel halves until it gets some, and says so once in its log.")
            .next("dmesg | grep 'software IO TLB'")
            .next(format!("why, step by step: swioscope param {given} --kernel {}", report.trace.kernel)),
        );
    }
    (asked != got).then(|| {
        Finding::new(
            Class::Size,
            Severity::Info,
            format!("The parameter is not what it looks like: {given} became {}.", in_words(got)),
        )
        .next(format!("why, step by step: swioscope param {given} --kernel {}", report.trace.kernel))
    })
}

fn waste(report: &Report, findings: &[Finding]) -> Option<Finding> {
    let summary = &report.summary;
    let share = summary.peak_share.filter(|&share| share < WASTED)?;
    // Below a MiB the kernel does not go.
    let looked = report.trace.mode != "aggregate";
    let quiet = looked && summary.failures == 0 && summary.pool_slots > 512 && summary.bounces > 0;
    if !quiet || findings.iter().any(|finding| finding.class == Class::Leak) {
        return None;
    }
    let free = (summary.pool_slots - summary.peak_slots.min(summary.pool_slots)) * SLOT_BYTES;
    Some(
        Finding::new(
            Class::Waste,
            Severity::Info,
            format!(
                "The pool is larger than this load needs: {} of {} slots ({}) at the peak, {} were free even then.",
                count(summary.peak_slots),
                count(summary.pool_slots),
                percent(share),
                bytes(free)
            ),
        )
        .with(format!(
            "That is of {} of this load. Slots in use are not the whole need: they must also stand together.",
            duration(report.trace.span_ns)
        ))
        .next(format!(
            "how far it can shrink, by exact replay: swioscope plan {} --kernel {}",
            report.path, report.trace.kernel
        )),
    )
}

fn loss(report: &Report) -> Option<Finding> {
    let summary = &report.summary;
    let weak = summary.predicted_share.filter(|&share| share < 0.99);
    if summary.lost == 0 && weak.is_none() {
        return None;
    }
    let all = summary.events + summary.lost;
    let mut finding = Finding::new(
        Class::Loss,
        Severity::Warning,
        if summary.lost > 0 {
            format!(
                "The trace is not whole: {} records are missing beside {} ({}).",
                count(summary.lost),
                count(summary.events),
                percent(if all > 0 { summary.lost as f64 / all as f64 } else { 0.0 })
            )
        } else {
            "The model does not follow this kernel well: take the arithmetic with care.".to_owned()
        },
    );
    if let Some(share) = weak {
        finding = finding.with(format!("The model predicts {} of the kernel's slot choices.", percent(share)));
    }
    if report.fidelity.probe_missed > 0 {
        finding = finding.with(format!("{} times the kernel skipped a probe.", count(report.fidelity.probe_missed)));
    }
    if report.fidelity.missed_frees > 0 {
        finding = finding.with(format!(
            "{} releases are missing: slots held at the end may be held by nobody.",
            count(report.fidelity.missed_frees)
        ));
    }
    if report.fidelity.ring_full > 0 {
        finding = finding.next("record with a larger ring: swioscope record --ring 256M …");
    }
    Some(finding)
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
            assert!(!why(cause.name()).contains("does not tell"), "{cause}");
            assert!(Class::of_cause(cause.name()) != Class::Unknown || cause.name() == "empty", "{cause}");
        }
        for reason in replay::Reason::ALL {
            assert!(!because(reason.name()).contains("do not know"), "{reason}");
        }
    }
}
