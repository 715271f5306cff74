//! Plans. The RFC's two headline scenarios (RFC-64BIT) are here, scaled to what the lab recorded.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicBool;

use analysis::{PlanOptions, PlanReport};
use replay::{KernelVersion, OnFail, Policy};
use trace::{Meta, Trace, Writer};

use crate::build::Build;
use crate::sample;

fn options(policies: &[&str]) -> PlanOptions {
    PlanOptions {
        kernel: KernelVersion::parse("5.11").unwrap(),
        cpus: 1,
        policies: policies.iter().map(|policy| Policy::parse(policy).unwrap()).collect(),
        areas: Vec::new(),
        target: 0,
        scale: NonZeroU32::MIN,
        shift_ns: 0,
        platform: None,
        on_fail: OnFail::Drop,
    }
}

fn plan(trace: Trace, options: &PlanOptions) -> PlanReport {
    analysis::plan(&[trace], options, &AtomicBool::new(false), |_| {}).unwrap().unwrap()
}

/// Scenario 1: a PV dom0, `swiotlb=LO,HI,force`; its NVMe leaves LO for HI (258 of 65,536 slots in LO, 58,880 of 1,048,576 in
/// HI). Recorded on two CPUs instead of eight.
#[test]
fn with_a_second_pool_the_dom0_needs_a_twelfth_of_its_32_bit_pool() {
    let report = plan(sample(), &options(&["rfc64:hi_nslabs=32768"]));
    let (one, two) = (&report.needs[0], &report.needs[1]);
    assert_eq!((one.policy.as_str(), two.policy.as_str()), ("legacy", "rfc64"));
    // One pool: more than its peak of 1,942 slots, for a gap is not always where it is wanted.
    assert_eq!((one.pool_slots, one.least_possible), (Some(3200), 1942));
    assert_eq!((two.pool_slots, two.least_possible), (Some(256), 101));
    assert_eq!((one.failures, two.failures, one.floor, two.floor), (Some(0), Some(0), 0, 0));
    assert_eq!(one.parameter.as_deref(), Some("swiotlb=3200,force"));
    assert!(report.verdict.iter().any(|s| s == "rfc64 in 1 area would need only 256 slots."), "{:#?}", report.verdict);
    // A pool as small as the second policy's LO would refuse most with one pool alone.
    let small = report.sizes.iter().find(|row| row.policy == "legacy" && row.pool_slots == 256).unwrap();
    assert_eq!(small.failures, 1108);
}

/// Scenario 2: an encrypted guest whose only device reaches all 64 bits: LO is not used at all (0 and 64,647 slots).
#[test]
fn a_guest_with_one_64_bit_device_needs_no_32_bit_pool() {
    let recorded = sample();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.swio");
    // The dom0's NVMe alone, in a guest that encrypts its memory: no Xen, everything bounces.
    let mut meta: Meta = recorded.meta().clone();
    meta.xen = None;
    let disk = recorded.devices().iter().find(|device| device.driver.as_deref() == Some("nvme")).unwrap();
    assert_eq!(disk.reach(), u64::MAX);
    let mut writer = Writer::create(&path, meta.clone()).unwrap();
    writer.set_devices(vec![disk.clone()]);
    for event in recorded.events() {
        let event = event.unwrap();
        if event.device == disk.id {
            writer.push(&event).unwrap();
        }
    }
    writer.close(meta).unwrap();
    let report = plan(Trace::open(&path).unwrap(), &options(&["rfc64:hi_nslabs=32768"]));
    let (one, two) = (&report.needs[0], &report.needs[1]);
    assert!(one.least_possible > 1500, "{one:?}");
    assert_eq!((two.policy.as_str(), two.least_possible, two.failures), ("rfc64", 0, Some(0)));
    assert!(two.pool_slots < one.pool_slots, "{two:?} {one:?}");
    let low = report.sizes.iter().filter(|row| row.policy == "rfc64");
    assert!(low.map(|row| row.peak_slots).all(|peak| peak == 0), "LO stays empty");
}

#[test]
fn the_curve_is_drawn_and_the_answer_marked() {
    let report = plan(sample(), &options(&[]));
    let chart = report.chart();
    assert_eq!((chart.series.len(), chart.series[0].points.len()), (1, report.sizes.len()));
    assert_eq!(chart.marks[0].label, "3,200 slots");
    assert!(chart.svg(640, 360).unwrap().starts_with("<svg"));
    assert!(chart.png(640, 360).unwrap().starts_with(b"\x89PNG"));
    let bars = report.bars(60);
    assert!(bars.lines().all(|line| line.chars().count() <= 60), "{bars}");
    assert!(bars.lines().any(|line| line.trim_end().ends_with("0  ◂ enough")), "{bars}");
    assert_eq!(bars.lines().nth(1).map(str::trim_start).map(|line| &line[..12]), Some("256    1,108"), "{bars}");
}

#[test]
fn what_refused_drivers_do_matters_below_the_answer_only() {
    let report = plan(sample(), &options(&[]));
    let rows = &report.sensitivity;
    assert_eq!(rows.iter().map(|row| row.on_fail.as_str()).collect::<Vec<_>>(), ["drop", "retry:1ms"]);
    let answer = report.needs[0].pool_slots.unwrap();
    assert!(rows.iter().all(|row| row.pool_slots < answer && row.failures > 0));
    assert_eq!((rows[0].served_late, rows[0].never), (0, rows[0].failures));
    assert_eq!(rows[1].served_late + rows[1].never, rows[1].failures);
}

#[test]
fn a_target_of_failures_needs_less() {
    let report = plan(sample(), &PlanOptions { target: 40, ..options(&[]) });
    let need = &report.needs[0];
    assert!(need.pool_slots < Some(3200) && need.failures <= Some(40), "{need:?}");
}

#[test]
fn nothing_to_plan_for_is_no_plan() {
    let empty = Build::new("6.12.1", 512).finish();
    let report = analysis::plan(&[empty.trace], &options(&[]), &AtomicBool::new(false), |_| {}).unwrap().unwrap();
    assert!(report.needs.is_empty() && report.sizes.is_empty());
    assert!(report.verdict[0].contains("nothing to plan for"));
    assert_eq!((report.bars(80).as_str(), report.chart().series.len()), ("", 0));
}

#[test]
fn ctrl_c_leaves_a_plan_that_says_so() {
    let report = analysis::plan(&[sample()], &options(&[]), &AtomicBool::new(true), |_| {}).unwrap().unwrap();
    assert!(report.verdict[0].starts_with("Stopped"), "{:?}", report.verdict);
    assert!(report.facts.caveats.iter().any(|caveat| caveat.starts_with("stopped")));
}
