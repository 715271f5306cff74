//! How large a pool must be: against replays of every size.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::AtomicBool;

use replay::{Base, Load, OnFail, Platform, Policy, SizeCurve, Sizing};
use support::{base, churn, load, map, run, unmap};

fn curves_to(load: &Load, policies: &[&str], areas: &[u32], target: u64) -> Vec<SizeCurve> {
    let policies: Vec<_> = policies.iter().map(|policy| Policy::parse(policy).unwrap()).collect();
    let (platform, base): (_, Base) = (Platform::native(), base(1024));
    let sizing = Sizing { load, platform: &platform, base: &base, target, on_fail: OnFail::Drop, threads: None };
    sizing.curves(&policies, areas, &AtomicBool::new(false), |_| {}).unwrap()
}

#[test]
fn the_least_size_is_the_one_all_larger_ones_agree_with() {
    let load = churn(3_000);
    for (policy, step) in [("legacy", 128u64), ("v5_16", 128), ("v6_10", 0)] {
        let curve = &curves_to(&load, &[policy], &[1], 0)[0];
        let least = curve.least(0).unwrap().nslabs;
        assert_eq!((curve.endless.failures, curve.whole, curve.powers_of_two), (0, true, step == 0), "{policy}");
        assert!(least >= curve.endless.peak_slots, "{policy}");
        // Every point is a replay of its own.
        for point in &curve.points {
            let outcome = run(&load, &format!("{policy}:nslabs={}", point.nslabs), 1024);
            assert_eq!((point.failures, point.peak_slots), (outcome.total_failures(), outcome.peak_slots[0]));
        }
        // The next size below, as far as sizes go, is not good enough.
        let below = if step == 0 { least / 2 } else { least - step };
        let failures = |nslabs: u64| run(&load, &format!("{policy}:nslabs={nslabs}"), 1024).total_failures();
        if step == 0 || least < 128 * 100 {
            assert!(failures(below) > 0, "{policy}: {below} would do");
        }
        assert_eq!(failures(least), 0);
    }
}

#[test]
fn areas_are_tried_where_there_are_any() {
    let curves = curves_to(&churn(500), &["legacy", "v6_3", "v6_10"], &[1, 4], 0);
    let lines: Vec<_> = curves.iter().map(|curve| (curve.policy.text(), curve.areas)).collect();
    assert_eq!(lines, [("legacy", 1), ("v6_3", 1), ("v6_3", 4), ("v6_10", 1), ("v6_10", 4)]);
    assert!(curves.iter().all(|curve| curve.points.iter().all(|p| p.nslabs % (128 * u64::from(curve.areas)) == 0)));
}

#[test]
fn what_no_size_serves_is_the_floor() {
    let events = [map(1, 0x1000, 300_000), map(2, 0x100_0000, 4096), unmap(3, 0x100_0000, 4096)];
    let curve = &curves_to(&load(&events), &["v6_10"], &[1], 0)[0];
    assert_eq!((curve.endless.failures, curve.endless.peak_slots), (1, 2));
    assert!(curve.endless.first_refusal.as_ref().unwrap().contains("a segment has 128"));
    assert_eq!(curve.least(0), None);
    assert_eq!(curve.least(1).unwrap().nslabs, 128, "the floor is reached at once");
}

/// A pool without end would reach beyond 4 GiB, where its upper half is out of a 32-bit device's reach.
#[test]
fn the_largest_pool_ends_where_32_bit_devices_do() {
    let narrow = |event: trace::Event| trace::Event { device: 1, cpu: 1, ..event };
    let events = [narrow(map(1, 0x1000, 4096)), narrow(unmap(2, 0x1000, 4096))];
    let curve = &curves_to(&load(&events), &["v6_10"], &[2], 0)[0];
    assert_eq!((curve.endless.nslabs, curve.endless.failures), (1 << 20, 0), "2 GiB from 0x74000000 on");
}

#[test]
fn some_failures_may_be_allowed() {
    let load = churn(3_000);
    let least = |target| curves_to(&load, &["legacy"], &[1], target)[0].least(target).unwrap().nslabs;
    assert!(least(50) < least(0));
}

#[test]
fn nothing_bounces_nothing_is_needed() {
    let curve = &curves_to(&load(&[]), &["v6_10"], &[1], 0)[0];
    assert_eq!((curve.endless.peak_slots, curve.least(0).unwrap().nslabs), (0, 128));
}

#[test]
fn stopped_at_once_nothing_is_claimed() {
    let (platform, base, load) = (Platform::native(), base(1024), churn(100));
    let sizing =
        Sizing { load: &load, platform: &platform, base: &base, target: 0, on_fail: OnFail::Drop, threads: None };
    let curves = sizing.curves(&[Policy::parse("v6_10").unwrap()], &[1], &AtomicBool::new(true), |_| {}).unwrap();
    assert!(curves.is_empty());
}

#[test]
fn a_larger_pool_that_fares_worse_is_told() {
    let mut curve = curves_to(&churn(200), &["v6_10"], &[1], 0).remove(0);
    let point = curve.endless.clone();
    let at = |nslabs, failures| replay::SizePoint { nslabs, failures, ..point.clone() };
    curve.points = vec![at(128, 9), at(256, 0), at(512, 2), at(1024, 0), at(2048, 0)];
    assert_eq!(curve.least(0).unwrap().nslabs, 1024, "256 is not trusted: 512 is larger and refuses");
    let rises: Vec<_> = curve.rises().map(|(a, b)| (a.nslabs, b.nslabs)).collect();
    assert_eq!(rises, [(256, 512)]);
}
