//! How policies differ on one load: each against the first in a sentence, and two of them map by map.

use std::sync::atomic::AtomicBool;

use replay::rules::{Search, SizeRule};
use replay::{Answer, Cause, Generation, Load, Machine, Options, Platform, PlatformKind, Policy};
use trace::field::{bytes, count};
use trace::{Event, Trace};

use crate::compare::{self, CompareOptions, Stage};
use crate::comparison::{Comparison, PolicyRow, TraceFacts};
use crate::explain::{is_map, recorded_device};
use crate::{AnalysisError, verdict};

trace::record! {
    /// How a policy differs from the one it is compared with.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct DifferenceRow {
        /// Policy id.
        policy: String => Text,
        /// Its parameters after rounding.
        parameters: String => Text,
        /// Address translation.
        platform: String => Text,
        /// Requests it refuses.
        failures: u64 => Count,
        /// The difference in a sentence, with the rule behind it.
        difference: String => Text,
    }
}

/// Each policy of a comparison against its first one, in the order of its rows. The sentences are put together from the
/// counts that differ, which are replayed, and from the rules that do (`replay::GENERATIONS`): that a rule is behind the cause
/// with most refusals is likely and not proven, which [`CAVEAT`] says.
#[must_use]
pub fn differences(comparison: &Comparison) -> Vec<DifferenceRow> {
    let Some(first) = comparison.rows.first() else { return Vec::new() };
    let row = |(at, row): (usize, &PolicyRow)| DifferenceRow {
        policy: row.policy.clone(),
        parameters: row.parameters.clone(),
        platform: row.platform.clone(),
        failures: row.failures,
        difference: if at == 0 { alone(row) } else { against(row, first) },
    };
    comparison.rows.iter().enumerate().map(row).collect()
}

/// How the rules in [`differences`] are to be read.
pub const CAVEAT: &str = "counts are replayed; a rule in brackets is one in which the two allocators differ and that leads to such refusals, \
     and `--diff A,B` shows the mappings";

fn rules(row: &PolicyRow) -> Option<&'static Generation> {
    Generation::by_id(row.policy.split('+').next().unwrap_or_default())
}

fn refuses(row: &PolicyRow) -> String {
    match row.failures {
        0 => "serves all".to_owned(),
        1 => "1 failure".to_owned(),
        n => format!("{} failures", count(n)),
    }
}

fn alone(row: &PolicyRow) -> String {
    match causes(row, &PolicyRow::default(), None).as_str() {
        "" => format!("{}; the others are compared with it", refuses(row)),
        causes => format!("{}: {causes}; the others are compared with it", refuses(row)),
    }
}

fn against(row: &PolicyRow, first: &PolicyRow) -> String {
    let name = &first.policy;
    let mut parts = Vec::new();
    let (own, other) = (rules(row), rules(first));
    let why = largest(row, first).and_then(|cause| because(cause, own?));
    let more = causes(row, first, why);
    let second_pool = row.pool_slots_hi.is_some() && first.pool_slots_hi.is_none();
    let why = if second_pool {
        Some("devices that reach all 64 bits have a second pool")
    } else {
        largest(first, row).and_then(|cause| relief(cause, other?, own?))
    };
    let fewer = causes(first, row, why);
    if !more.is_empty() {
        parts.push(format!("more than {name}: {more}"));
    }
    if !fewer.is_empty() {
        parts.push(format!("fewer than {name}: {fewer}"));
    }
    parts.extend(bounces(row, first));
    if parts.is_empty() {
        let peaks = if row.peak_slots == first.peak_slots {
            String::new()
        } else {
            format!(", with {} slots at the peak for {}", count(row.peak_slots), count(first.peak_slots))
        };
        let high = row.peak_slots_hi.filter(|_| first.peak_slots_hi.is_none());
        let high = high.map_or_else(String::new, |peak| format!(", and {} in HI", count(peak)));
        return format!("{}, as {name} does{peaks}{high}", refuses(row));
    }
    format!("{}; {}", refuses(row), parts.join("; "))
}

/// Causes of which `row` has more than `other`, most first, with how many more, and why for the first.
fn causes(row: &PolicyRow, other: &PolicyRow, why: Option<&str>) -> String {
    let mut more: Vec<(u64, &str)> =
        excess(row, other).map(|(n, at)| (n, verdict::causes(row).nth(at).map_or("", |(_, words)| words))).collect();
    more.sort_by_key(|&(n, _)| std::cmp::Reverse(n));
    let say = |(at, (n, words)): (usize, &(u64, &str))| match why.filter(|_| at == 0) {
        Some(why) => format!("{} {words} ({why})", count(*n)),
        None => format!("{} {words}", count(*n)),
    };
    more.iter().enumerate().map(say).collect::<Vec<_>>().join(", ")
}

/// How many more of each cause, by position in [`verdict::causes`], which is that in [`Cause::ALL`].
fn excess<'a>(row: &'a PolicyRow, other: &'a PolicyRow) -> impl Iterator<Item = (u64, usize)> + 'a {
    let both = verdict::causes(row).zip(verdict::causes(other)).enumerate();
    both.filter_map(|(at, ((own, _), (theirs, _)))| Some((own.checked_sub(theirs).filter(|&n| n > 0)?, at)))
}

fn largest(row: &PolicyRow, other: &PolicyRow) -> Option<Cause> {
    // Of those that are equal the first, as in the words.
    let (_, at) = excess(row, other).max_by_key(|&(n, at)| (n, std::cmp::Reverse(at)))?;
    Cause::ALL.get(at).copied()
}

/// The rule by which a generation refuses for a cause.
fn because(cause: Cause, rules: &Generation) -> Option<&'static str> {
    Some(match (cause, rules.search) {
        (Cause::Alignment | Cause::AlignmentImpossible, Search::C) => {
            "half-page offsets keep bit 11: a request of a page or more begins at its buffer's place within the page"
        }
        (Cause::Alignment | Cause::AlignmentImpossible, Search::D) => {
            "a request of a page or more begins on a page, or at its buffer's bits under min_align_mask"
        }
        (Cause::Alignment | Cause::AlignmentImpossible, Search::B | Search::BSplit) => {
            "the buffer's bits under min_align_mask are kept"
        }
        (Cause::Stride, Search::A) => "the search looks at every second slot for a page or more",
        (Cause::Stride, Search::B | Search::BSplit) => "the stride is doubled for a page or more",
        (Cause::Livelock, _) => {
            "a search that ends only on the slot it began with, and spins for ever when it steps over it"
        }
        (Cause::TooLargeWithOffset, _) if rules.pads => "the offset kept in front, padding slots included, counts",
        (Cause::TooLargeWithOffset, _) => "the offset kept in front counts",
        (Cause::AreaFull, _) if rules.areas => "the pool is divided among CPUs",
        (Cause::Fragmented, Search::B | Search::BSplit) => {
            "its stride passes over places a page would fit, which leaves gaps"
        }
        (Cause::Fragmented, Search::C) => "buffers at half a page leave single slots between them",
        (Cause::Fragmented, Search::D) if rules.size == SizeRule::PaddedTogether => {
            "offsets and padding take slots too"
        }
        (Cause::Fragmented, Search::A) => "gaps between its even slots",
        _ => return None,
    })
}

/// Why a generation does not refuse what another does for a cause.
fn relief(cause: Cause, theirs: &Generation, own: &Generation) -> Option<&'static str> {
    if theirs.min_align && !own.min_align {
        return Some("it takes no notice of min_align_mask: devices that set one get buffers at wrong offsets");
    }
    Some(match cause {
        Cause::Livelock if !matches!(own.search, Search::B | Search::BSplit) => "its search counts, so it ends",
        Cause::Alignment if own.search != theirs.search => match own.search {
            // Both keep the buffer's bits.
            Search::B | Search::BSplit => return None,
            Search::C => "a buffer is put where it lies within its page, not on a page",
            Search::D => "a request of a page or more begins on a page, whatever its buffer does",
            Search::A => "a slot's address plays no part",
        },
        Cause::AreaFull if theirs.areas && !own.areas => "its pool is not divided",
        Cause::GrowPending | Cause::TransientRefused if own.dynamic.is_none() => "its pool does not grow",
        _ => return None,
    })
}

/// What bounces under one and not under the other, with the reason.
fn bounces(row: &PolicyRow, first: &PolicyRow) -> Option<String> {
    let reasons = |row: &PolicyRow| {
        [
            (row.bounced_mask, "mask"),
            (row.bounced_straddle, "straddle"),
            (row.bounced_alignment, "alignment"),
            (row.bounced_foreign, "foreign"),
            (row.bounced_forced, "forced"),
            (row.bounced_untrusted, "untrusted"),
            (row.bounced_kmalloc, "kmalloc"),
        ]
    };
    // What was never asked for, behind a refused element, is no difference of the rules.
    if row.maps != first.maps || row.bounces == first.bounces {
        return None;
    }
    let (word, n) = if row.bounces > first.bounces {
        ("more", row.bounces - first.bounces)
    } else {
        ("fewer", first.bounces - row.bounces)
    };
    let changed = reasons(row).into_iter().zip(reasons(first)).filter(|((own, _), (theirs, _))| own != theirs);
    let changed: Vec<_> =
        changed.map(|((own, reason), (theirs, _))| format!("{reason} {} for {}", count(own), count(theirs))).collect();
    Some(format!("{} bounces {word} ({})", count(n), changed.join(", ")))
}

trace::record! {
    /// A mapping two policies treat differently.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct DiffRow {
        /// Number of the event, which `swioscope explain --event` takes.
        event: u64 => Index,
        /// When.
        time_ns: u64 => Time,
        /// The device's name.
        device: String => Text,
        /// Bytes asked for.
        size: u64 => Bytes,
        /// How they differ.
        kind: String => Text,
        /// What the first policy does.
        first: String => Text,
        /// What the second policy does.
        second: String => Text,
    }
}

trace::words! {
    /// How two answers to one mapping differ.
    pub enum DiffKind {
        /// The first serves what the second refuses.
        ServedByFirst = "served_by_first",
        /// The second serves what the first refuses.
        ServedBySecond = "served_by_second",
        /// The first bounces what the second lets through.
        BouncedByFirst = "bounced_by_first",
        /// The second bounces what the first lets through.
        BouncedBySecond = "bounced_by_second",
        /// Both refuse, for different causes.
        OtherCause = "other_cause",
        /// Both bounce, for different reasons.
        OtherReason = "other_reason",
        /// Both bounce, with another number of slots.
        OtherLength = "other_length",
        /// Both bounce, into other slots.
        OtherSlot = "other_slot",
    }
}

impl DiffKind {
    fn of(first: &Answer, second: &Answer) -> Option<Self> {
        if first == second {
            return None;
        }
        let refused = |answer: &Answer| matches!(answer, Answer::Refused { .. } | Answer::NotAsked);
        Some(match (first, second) {
            (a, b) if a.is_served() && refused(b) => Self::ServedByFirst,
            (a, b) if refused(a) && b.is_served() => Self::ServedBySecond,
            (a, b) if refused(a) && refused(b) => Self::OtherCause,
            (Answer::Bounced { .. }, Answer::Direct) => Self::BouncedByFirst,
            (Answer::Direct, Answer::Bounced { .. }) => Self::BouncedBySecond,
            (a, b) if a.reason() != b.reason() => Self::OtherReason,
            (Answer::Bounced { nslots: a, .. }, Answer::Bounced { nslots: b, .. }) if a != b => Self::OtherLength,
            _ => Self::OtherSlot,
        })
    }
}

/// Two policies, map by map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyDiff {
    /// The trace, and what weakens the figures.
    pub facts: TraceFacts,
    /// The two policies, as they came out.
    pub policies: [String; 2],
    /// Mappings compared; a scatterlist counts once an element.
    pub maps: u64,
    /// Mappings with the same answer, slots included.
    pub same: u64,
    /// How many differ in each way, those that do.
    pub kinds: Vec<(DiffKind, u64)>,
    /// The first mapping with any difference.
    pub first: Option<DiffRow>,
    /// The first mappings that differ in more than the slots they get.
    pub rows: Vec<DiffRow>,
    /// What it says, the most important sentence first.
    pub verdict: Vec<String>,
}

/// Replays a trace under two policies and compares the answer to each mapping. Keeps the first `limit` mappings that differ in
/// more than their slots. Costs two replays, 32 bytes a mapping, and another pass over the events.
///
/// # Errors
/// When the trace cannot be read, or a policy does not fit it.
pub fn diff(
    trace: &Trace,
    policies: [&Policy; 2],
    options: &CompareOptions,
    limit: usize,
    stop: &AtomicBool,
    progress: impl Fn(Stage) + Sync,
) -> Result<PolicyDiff, AnalysisError> {
    let meta = trace.meta();
    let base = compare::base(meta, meta.pool());
    let setup = |policy: &Policy| {
        policy.resolve(&base).map_err(|source| AnalysisError::Policy { policy: policy.text().to_owned(), source })
    };
    let setups = [setup(policies[0])?, setup(policies[1])?];
    let (load, facts) = compare::load(trace, progress)?;
    let spec = options.platform.unwrap_or_else(|| PlatformKind::of_recorded(meta).into());
    let platform = Platform::recorded(spec, trace.p2m());
    let keep = Options { refusals: 0, buckets: 1, on_fail: options.on_fail };
    let answers = setups.each_ref().map(|setup| {
        // Ctrl-C before the second leaves nothing to compare.
        let stopped = stop.load(std::sync::atomic::Ordering::Relaxed);
        if stopped { Vec::new() } else { replay::answers(&load, &mut Machine::new(setup, platform.clone()), &keep).1 }
    });
    let mut out = PolicyDiff { facts, policies: setups.each_ref().map(replay::Setup::name), ..PolicyDiff::default() };
    let mut counts = [0u64; DiffKind::ALL.len()];
    let (mut wanted, mut listed) = (Vec::new(), 0);
    let mut first = None;
    for (number, (a, b)) in (0u64..).zip(answers[0].iter().zip(&answers[1])) {
        out.maps += 1;
        let Some(kind) = DiffKind::of(a, b) else {
            out.same += 1;
            continue;
        };
        counts[kind as usize] += 1;
        first = first.or(Some(number));
        let lists = listed < limit && kind != DiffKind::OtherSlot;
        listed += usize::from(lists);
        if lists || first == Some(number) {
            wanted.push((number, kind));
        }
    }
    out.kinds = DiffKind::ALL.iter().copied().zip(counts).filter(|&(_, n)| n > 0).collect();
    let rows = rows(trace, &load, &wanted, &answers)?;
    out.first = rows.first().filter(|_| first.is_some()).cloned();
    out.rows = rows.into_iter().filter(|row| row.kind != DiffKind::OtherSlot.name()).take(limit).collect();
    out.verdict = sentences(&out, &load);
    Ok(out)
}

/// The rows of some mappings, by their numbers in the load.
fn rows(
    trace: &Trace,
    load: &Load,
    wanted: &[(u64, DiffKind)],
    answers: &[Vec<Answer>; 2],
) -> Result<Vec<DiffRow>, AnalysisError> {
    let mut wanted = wanted.iter().peekable();
    let mut rows = Vec::new();
    let mut number = 0u64;
    for (at, event) in (0u64..).zip(trace.events()) {
        if wanted.peek().is_none() {
            break;
        }
        let event: Event = event?;
        if !is_map(&event) {
            continue;
        }
        if let Some((_, kind)) = wanted.next_if(|(wanted, _)| *wanted == number) {
            let answer = |of: usize| {
                let answer = usize::try_from(number).ok().and_then(|number| answers[of].get(number));
                answer.map_or_else(String::new, say)
            };
            rows.push(DiffRow {
                event: at,
                time_ns: event.time_ns,
                device: recorded_device(trace, event.device)
                    .map_or_else(|| format!("device {}", event.device), |device| device.name.clone()),
                size: event.size.unwrap_or(0),
                kind: kind.name().to_owned(),
                first: answer(0),
                second: answer(1),
            });
        }
        number += 1;
    }
    debug_assert!(number <= load.maps().count() as u64, "the load has every mapping of the events");
    Ok(rows)
}

fn say(answer: &Answer) -> String {
    match answer {
        Answer::Direct => "direct".to_owned(),
        Answer::Bounced { first_slot, nslots, .. } => {
            let slots = if *nslots == 1 { "slot" } else { "slots" };
            format!("{nslots} {slots} from {}", count(u64::from(*first_slot)))
        }
        Answer::Refused { cause, .. } => format!("refused: {}", cause.name().replace('_', " ")),
        Answer::NotAsked => "refused before it".to_owned(),
    }
}

fn sentences(diff: &PolicyDiff, load: &Load) -> Vec<String> {
    let [a, b] = &diff.policies;
    if load.is_empty() {
        return vec![
            "The trace holds no mapping, so there is nothing to compare: record while the load runs.".to_owned(),
        ];
    }
    if diff.maps == 0 {
        return vec!["Stopped before both were replayed.".to_owned()];
    }
    let Some(first) = &diff.first else {
        return vec![format!("{a} and {b} do the same with all {} mappings, slot by slot.", count(diff.maps))];
    };
    // The number is plain, as `explain --event` takes it.
    let mut out = vec![format!(
        "{a} and {b} do the same with {} of {} mappings; they part at event {}, after {}: {} of {}, {} under {a}, {} under {b}.",
        count(diff.same),
        count(diff.maps),
        first.event,
        trace::field::duration(first.time_ns),
        bytes(first.size),
        first.device,
        first.first,
        first.second
    )];
    let of = |kind: DiffKind| diff.kinds.iter().find(|(k, _)| *k == kind).map_or(0, |(_, n)| *n);
    let served = [of(DiffKind::ServedByFirst), of(DiffKind::ServedBySecond)];
    out.push(match served {
        [0, 0] => "Both serve and refuse the same mappings.".to_owned(),
        [n, m] => format!("{a} serves {} that {b} refuses, {b} serves {} that {a} refuses.", count(n), count(m)),
    });
    let bounced = [of(DiffKind::BouncedByFirst), of(DiffKind::BouncedBySecond)];
    if bounced != [0, 0] {
        out.push(format!(
            "{a} bounces {} that {b} lets through, {b} bounces {} that {a} lets through.",
            count(bounced[0]),
            count(bounced[1])
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(policy: &str) -> PolicyRow {
        PolicyRow { policy: policy.to_owned(), requests: 10_000, maps: 10_000, bounces: 10_000, ..PolicyRow::default() }
    }

    #[test]
    fn a_difference_names_the_rule_behind_it() {
        let own = PolicyRow { failures: 3, failed_pool_full: 3, peak_slots: 500, ..row("v6_10") };
        let half_page = PolicyRow { failures: 4112, failed_alignment: 4100, failed_pool_full: 12, ..row("v6_3") };
        let spins = PolicyRow { failures: 7, failed_never_ending_search: 7, ..row("v6_0") };
        let blind = row("legacy");
        let same = PolicyRow { failures: 3, failed_pool_full: 3, peak_slots: 510, ..row("v6_9") };
        let comparison = Comparison { rows: vec![own, half_page, spins, blind, same], ..Comparison::default() };
        let told = differences(&comparison)
            .iter()
            .map(|row| format!("{}: {}", row.policy, row.difference))
            .collect::<Vec<_>>();
        insta::assert_snapshot!(told.join("\n"), @r"
        v6_10: 3 failures: 3 pool full; the others are compared with it
        v6_3: 4,112 failures; more than v6_10: 4,100 alignment (half-page offsets keep bit 11: a request of a page or more begins at its buffer's place within the page), 9 pool full
        v6_0: 7 failures; more than v6_10: 7 never-ending search (a search that ends only on the slot it began with, and spins for ever when it steps over it); fewer than v6_10: 3 pool full
        legacy: serves all; fewer than v6_10: 3 pool full (it takes no notice of min_align_mask: devices that set one get buffers at wrong offsets)
        v6_9: 3 failures, as v6_10 does, with 510 slots at the peak for 500
        ");
    }

    #[test]
    fn kinds_of_differences() {
        let bounced =
            |first_slot, nslots| Answer::Bounced { reason: Some(replay::Reason::Mask), pool: 0, first_slot, nslots };
        let refused = |cause| Answer::Refused { cause, reason: None };
        for (a, b, kind) in [
            (Answer::Direct, Answer::Direct, None),
            (bounced(1, 2), bounced(1, 2), None),
            (bounced(1, 2), bounced(3, 2), Some(DiffKind::OtherSlot)),
            (bounced(1, 2), bounced(1, 3), Some(DiffKind::OtherLength)),
            (bounced(1, 2), Answer::Direct, Some(DiffKind::BouncedByFirst)),
            (Answer::Direct, refused(Cause::PoolFull), Some(DiffKind::ServedByFirst)),
            (Answer::NotAsked, bounced(1, 2), Some(DiffKind::ServedBySecond)),
            (refused(Cause::Stride), refused(Cause::PoolFull), Some(DiffKind::OtherCause)),
        ] {
            assert_eq!(DiffKind::of(&a, &b), kind, "{a:?} {b:?}");
        }
    }

    #[test]
    fn causes_stand_in_the_order_of_their_words() {
        // `largest` takes the position in one list for that in the other.
        for (at, cause) in Cause::ALL.iter().enumerate() {
            use trace::Record as _;
            let name = format!("failed_{cause}");
            let field = PolicyRow::FIELDS.iter().position(|field| field.name == name).unwrap();
            let mut given = false;
            let row = PolicyRow::from_values(|i| {
                let text = |i: usize| PolicyRow::FIELDS[i].ty == trace::field::Type::Text;
                given |= i == field;
                if text(i) { trace::Value::Text("".into()) } else { trace::Value::U64(u64::from(i == field)) }
            })
            .unwrap();
            assert!(given);
            assert_eq!(verdict::causes(&row).position(|(n, _)| n == 1), Some(at), "{cause}");
        }
    }
}
