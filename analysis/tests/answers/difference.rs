//! Policies against each other.

use std::sync::atomic::AtomicBool;

use analysis::CompareOptions;
use analysis::difference::{DiffKind, PolicyDiff, diff, differences};
use replay::Policy;
use trace::Trace;

use crate::build::Build;
use crate::{HIGH, sample};

fn compare(trace: &Trace, a: &str, b: &str, limit: usize) -> PolicyDiff {
    let (a, b) = (Policy::parse(a).unwrap(), Policy::parse(b).unwrap());
    diff(trace, [&a, &b], &CompareOptions::default(), limit, &AtomicBool::new(false), |_| {}).unwrap()
}

#[test]
fn a_policy_is_like_itself() {
    let diff = compare(&sample(), "v6_10", "v6_10", 5);
    assert_eq!((diff.maps, diff.same, &diff.first, diff.kinds.as_slice()), (25_115, 25_115, &None, &[][..]));
    assert_eq!(diff.verdict, ["v6_10 and v6_10 do the same with all 25,115 mappings, slot by slot."]);
}

#[test]
fn half_pages_part_two_generations() {
    // SPEC 3.5 and 3.6: a page at half a page's offset keeps that offset under v6_3, and begins on a page under v6_10.
    let mut b = Build::new("6.12.1", 512).forced();
    let disk = b.device("0000:00:05.0", "ahci", 0xffff_ffff);
    b.map(disk, HIGH, 4096);
    b.map(disk, HIGH + 0x800, 4096);
    let built = b.finish();
    let diff = compare(&built.trace, "v6_3", "v6_10", 5);
    let first = diff.first.unwrap();
    assert_eq!((first.event, first.first.as_str(), first.second.as_str()), (3, "2 slots from 3", "2 slots from 2"));
    assert_eq!((diff.maps, diff.same, diff.kinds), (2, 1, vec![(DiffKind::OtherSlot, 1)]));
    assert!(diff.rows.is_empty(), "only slots differ");
}

#[test]
fn counts_agree_with_the_replays() {
    let trace = sample();
    let diff = compare(&trace, "v6_3:nslabs=2048", "v6_10:nslabs=2048", 3);
    let of = |kind| diff.kinds.iter().find(|(k, _)| *k == kind).map_or(0, |(_, n)| *n);
    let total: u64 = diff.kinds.iter().map(|(_, n)| n).sum();
    assert_eq!(total + diff.same, diff.maps);
    assert!(of(DiffKind::ServedByFirst) > 0 && of(DiffKind::ServedBySecond) > 0);
    assert_eq!(diff.rows.len(), 3);
    assert!(diff.rows.iter().all(|row| row.kind != "other_slot"));
    assert!(diff.first.unwrap().event < diff.rows[0].event);
}

#[test]
fn every_policy_has_its_sentence_on_a_tight_pool() {
    let policies: Vec<_> = ["v6_10", "legacy", "v5_16", "v6_1y", "v6_3", "v6_9"]
        .iter()
        .map(|id| Policy::parse(&format!("{id}:nslabs=2048")).unwrap())
        .collect();
    let comparison =
        analysis::compare(&sample(), &policies, &CompareOptions::default(), &AtomicBool::new(false), |_| {}).unwrap();
    let told = differences(&comparison);
    let told: Vec<_> = told.iter().map(|row| format!("{}: {}", row.policy, row.difference)).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn no_mappings_are_no_answer() {
    let empty = Build::new("6.12.1", 512).finish();
    let diff = compare(&empty.trace, "v6_3", "v6_10", 5);
    assert!(diff.verdict[0].contains("nothing to compare"), "{:?}", diff.verdict);
}

#[test]
fn designs_stand_beside_the_recorded_platform() {
    let options =
        CompareOptions { designs: vec![replay::PlatformKind::HchUnified.into()], ..CompareOptions::default() };
    let policies = [Policy::parse("v6_10").unwrap(), Policy::parse("legacy").unwrap()];
    let comparison = analysis::compare(&sample(), &policies, &options, &AtomicBool::new(false), |_| {}).unwrap();
    let rows: Vec<_> = comparison.rows.iter().map(|row| (row.policy.as_str(), row.platform.as_str())).collect();
    assert_eq!(rows, [("v6_10", "xen-pv"), ("legacy", "xen-pv"), ("v6_10", "hch-unified")]);
}
