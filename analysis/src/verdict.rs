//! The sentences that come before the figures.

use trace::field::{bytes, count};

use crate::comparison::{Comparison, PolicyRow};

/// Policies up to which each gets a sentence, and a column of its own in tables.
pub const FEW: usize = 6;

/// What a comparison says, the most important sentence first.
#[must_use]
pub fn sentences(comparison: &Comparison) -> Vec<String> {
    let rows = &comparison.rows;
    let mut out = Vec::new();
    let nothing = if rows.is_empty() {
        Some("No policy was asked for.")
    } else if rows.iter().all(|row| row.requests == 0) {
        // Not an exoneration: nobody asked, or nobody was heard asking.
        Some("The trace holds no mapping, so there is nothing to judge: record while the load runs, and see the notes.")
    } else if rows.iter().all(|row| row.bounces == 0 && row.failures == 0) && !really_bounced(comparison) {
        Some("Nothing bounced, and nothing bounces under any of these policies: swiotlb is not your problem.")
    } else {
        None
    };
    if let Some(nothing) = nothing {
        out.push(nothing.to_owned());
        return out;
    }
    let (served, refused): (Vec<&PolicyRow>, Vec<&PolicyRow>) = rows.iter().partition(|row| row.failures == 0);
    let many = rows.len() > FEW;
    out.push(match (served.is_empty(), refused.is_empty()) {
        (false, true) => "Every policy serves this load whole.".to_owned(),
        (true, _) => "No policy serves this load whole.".to_owned(),
        (false, false) if many => {
            format!("{} of {} policies serve this load whole.", count(served.len() as u64), count(rows.len() as u64))
        }
        (false, false) => format!("{} this load whole; {} not.", serve(&served), do_not(&refused)),
    });
    out.push(reality(comparison));
    let slots = |row: &&&PolicyRow| row.pool_slots + row.pool_slots_hi.unwrap_or(0);
    let sizes_differ = rows.windows(2).any(|pair| slots(&&&pair[0]) != slots(&&&pair[1]));
    if let Some(smallest) = served.iter().min_by_key(slots).filter(|_| many && sizes_differ) {
        out.push(format!("The smallest that does: {} {}; {}", smallest.policy, smallest.parameters, result(smallest)));
    }
    out.extend(rows.iter().filter(|_| !many).map(|row| format!("{}: {}", label(row), result(row))));
    out.extend(rows.iter().filter(|_| !many).zip(&comparison.details).filter_map(|(row, detail)| {
        let moved: Vec<&str> =
            detail.devices.iter().filter(|d| d.pool == "HI" && d.bounces > 0).map(|d| d.device.as_str()).collect();
        let low = row.pool_slots_hi.is_some().then_some(row.peak_slots)?;
        (!moved.is_empty()).then(|| {
            format!(
                "{} {} all 64 bits and {} LO for HI; LO is left to the others, with a peak of {} slots.",
                moved.join(", "),
                if moved.len() == 1 { "reaches" } else { "reach" },
                if moved.len() == 1 { "leaves" } else { "leave" },
                count(low)
            )
        })
    }));
    if let Some(never) = rows.iter().map(beyond_any_pool).max().filter(|&n| n > 0) {
        out.push(format!("{} requests cannot be served by a pool of any size: see their arithmetic.", count(never)));
    }
    out
}

/// Whether the recorded kernel bounced or refused anything, by its mappings or by its slots: the models do not know every
/// reason to bounce, so only the kernel's own silence exonerates.
fn really_bounced(comparison: &Comparison) -> bool {
    let facts = &comparison.facts;
    let slots = comparison.devices.iter().any(|device| device.bounced + device.bounces_failed > 0);
    slots || facts.really_bounced + facts.really_failed > 0
}

fn serve(rows: &[&PolicyRow]) -> String {
    let verb = if rows.len() == 1 { "serves" } else { "serve" };
    format!("{} {verb}", names(rows))
}

fn do_not(rows: &[&PolicyRow]) -> String {
    let verb = if rows.len() == 1 { "does" } else { "do" };
    format!("{} {verb}", names(rows))
}

fn names(rows: &[&PolicyRow]) -> String {
    rows.iter().map(|row| label(row)).collect::<Vec<_>>().join(", ")
}

/// A policy with what tells it from its neighbours.
#[must_use]
pub fn label(row: &PolicyRow) -> String {
    match row.pool_slots_hi {
        Some(high) => format!("{} (LO {}, HI {} slots)", row.policy, count(row.pool_slots), count(high)),
        None => format!("{} ({} slots)", row.policy, count(row.pool_slots)),
    }
}

fn reality(comparison: &Comparison) -> String {
    let facts = &comparison.facts;
    let refused = if facts.really_failed == 0 {
        "and refused none".to_owned()
    } else {
        format!("and refused {}", count(facts.really_failed))
    };
    format!(
        "In reality the kernel bounced {} of {} mappings ({}) {refused}.",
        count(facts.really_bounced),
        count(facts.really_mapped),
        percent(facts.really_bounced, facts.really_mapped)
    )
}

fn result(row: &PolicyRow) -> String {
    let peaks = match (row.pool_slots_hi, row.peak_slots_hi) {
        (Some(high), Some(peak)) => format!(
            "LO peaks at {} of {} slots, HI at {} of {}",
            count(row.peak_slots),
            count(row.pool_slots),
            count(peak),
            count(high)
        ),
        _ => format!(
            "peaks at {} of {} slots ({})",
            count(row.peak_slots),
            count(row.pool_slots),
            percent(row.peak_slots, row.pool_slots)
        ),
    };
    if row.failures == 0 {
        return format!("serves all, {peaks}, copies {}.", bytes(row.bytes_copied));
    }
    let mut causes: Vec<(u64, &str)> = causes(row).filter(|&(n, _)| n > 0).collect();
    causes.sort_by_key(|&(n, _)| std::cmp::Reverse(n));
    let causes: Vec<String> = causes.iter().map(|(n, cause)| format!("{} {cause}", count(*n))).collect();
    format!(
        "refuses {} of {} requests ({}): {}; {peaks}.",
        count(row.failures),
        count(row.requests),
        percent(row.failures, row.requests),
        causes.join(", ")
    )
}

/// Causes of refusal with their counts, in words. The columns are the registry's `failed_*`.
pub fn causes(row: &PolicyRow) -> impl Iterator<Item = (u64, &'static str)> {
    [
        (row.failed_empty, "empty"),
        (row.failed_no_pool, "without a pool"),
        (row.failed_not_addressable, "out of reach"),
        (row.failed_forbidden, "a copy is forbidden"),
        (row.failed_too_large, "too large for a segment"),
        (row.failed_too_large_with_offset, "too large with their offset"),
        (row.failed_pool_full, "pool full"),
        (row.failed_area_full, "area full"),
        (row.failed_never_ending_search, "never-ending search"),
        (row.failed_boundary_impossible, "longer than the segment boundary allows"),
        (row.failed_boundary, "segment boundary"),
        (row.failed_alignment_impossible, "alignment that no slot has"),
        (row.failed_alignment, "alignment"),
        (row.failed_stride, "stepped over"),
        (row.failed_fragmented, "fragmented"),
        (row.failed_pool_above_mask, "pool beyond the device's reach"),
        (row.failed_grow_pending, "new pool too late"),
        (row.failed_transient_refused, "no pages for a pool of their own"),
    ]
    .into_iter()
}

/// Refusals that a larger pool would not change (USERS: "BIG", "BIG-OFF").
fn beyond_any_pool(row: &PolicyRow) -> u64 {
    row.failed_too_large
        + row.failed_too_large_with_offset
        + row.failed_alignment_impossible
        + row.failed_boundary_impossible
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    // For people; the counts stand beside it.
    let share = part as f64 * 100.0 / whole as f64;
    if share > 0.0 && share < 0.1 { "below 0.1 %".to_owned() } else { format!("{share:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::{PolicyDetail, PolicyDeviceRow};

    fn row(policy: &str, pool_slots: u64, failures: u64) -> PolicyRow {
        PolicyRow {
            policy: policy.into(),
            requests: 1000,
            maps: 1200,
            bounces: 1200,
            failures,
            failed_pool_full: failures,
            pool_slots,
            peak_slots: pool_slots.min(900),
            ..PolicyRow::default()
        }
    }

    #[test]
    fn the_first_sentence_tells_who_serves_the_load() {
        let mut high = row("rfc64", 512, 0);
        (high.pool_slots_hi, high.peak_slots_hi, high.peak_slots) = (Some(4096), Some(900), 12);
        let device = PolicyDeviceRow {
            device: "0000:00:04.0".into(),
            reach: u64::MAX,
            maps: 1200,
            bounces: 1200,
            failures: 0,
            pool: "HI".into(),
            peak_slots: 900,
        };
        let comparison = Comparison {
            rows: vec![row("legacy", 512, 40), high],
            details: vec![PolicyDetail::default(), PolicyDetail { devices: vec![device], ..PolicyDetail::default() }],
            ..Comparison::default()
        };
        insta::assert_snapshot!(sentences(&comparison).join("\n"), @r"
        rfc64 (LO 512, HI 4,096 slots) serves this load whole; legacy (512 slots) does not.
        In reality the kernel bounced 0 of 0 mappings (0 %) and refused none.
        legacy (512 slots): refuses 40 of 1,000 requests (4.0 %): 40 pool full; peaks at 512 of 512 slots (100.0 %).
        rfc64 (LO 512, HI 4,096 slots): serves all, LO peaks at 12 of 512 slots, HI at 900 of 4,096, copies 0 B.
        0000:00:04.0 reaches all 64 bits and leaves LO for HI; LO is left to the others, with a peak of 12 slots.
        ");
    }

    #[test]
    fn a_load_that_never_bounces_exonerates_swiotlb() {
        let direct = PolicyRow { requests: 5, maps: 5, ..PolicyRow::default() };
        let comparison = Comparison { rows: vec![direct], ..Comparison::default() };
        assert_eq!(sentences(&comparison).len(), 1);
        assert!(sentences(&comparison)[0].contains("not your problem"));
    }

    #[test]
    fn what_bounced_in_reality_is_not_exonerated_by_a_policy_that_bounces_nothing() {
        let direct = PolicyRow { requests: 5, maps: 5, ..PolicyRow::default() };
        let mut comparison = Comparison { rows: vec![direct], ..Comparison::default() };
        comparison.facts.really_bounced = 5;
        assert!(!sentences(&comparison).join(" ").contains("not your problem"));
    }

    #[test]
    fn an_empty_trace_exonerates_nobody() {
        let comparison = Comparison { rows: vec![PolicyRow::default()], ..Comparison::default() };
        assert_eq!(sentences(&comparison).len(), 1);
        assert!(sentences(&comparison)[0].contains("no mapping"));
    }

    #[test]
    fn every_cause_and_reason_has_a_column_and_words() {
        use replay::{Cause, Reason};
        use trace::Record as _;
        let has = |name: String| PolicyRow::FIELDS.iter().any(|field| field.name == name);
        assert!(Cause::ALL.iter().all(|cause| has(format!("failed_{cause}"))));
        assert!(Reason::ALL.iter().all(|reason| has(format!("bounced_{reason}"))));
        assert_eq!(causes(&PolicyRow::default()).count(), Cause::ALL.len());
    }
}
