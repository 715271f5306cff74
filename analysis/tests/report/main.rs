//! `report` on small traces: one for each class of case, its verdict in words and numbers, and one for each kind of bad input.

mod build;
mod cases;
mod odd;
mod pages;

use std::sync::atomic::AtomicBool;

use analysis::Report;
use analysis::report::{Class, Finding};

use build::Built;

fn report(built: &Built) -> Report {
    analysis::report(&built.trace, &AtomicBool::new(false), |_| ()).unwrap()
}

/// The finding of a class beyond the answer, which comes first.
fn found(report: &Report, class: Class) -> &Finding {
    let others = report.verdict.iter().skip(1);
    others.filter(|finding| finding.class == class).next().unwrap_or_else(|| panic!("no {class:?} in {report:#?}"))
}

/// Everything a finding says, in one line.
fn said(finding: &Finding) -> String {
    std::iter::once(&finding.title)
        .chain(&finding.evidence)
        .chain(&finding.next)
        .cloned()
        .collect::<Vec<_>>()
        .join(" | ")
}

#[track_caller]
fn says(finding: &Finding, parts: &[&str]) {
    let all = said(finding);
    for part in parts {
        assert!(all.contains(part), "{part:?} is not in {all}");
    }
}

fn classes(report: &Report) -> Vec<&'static str> {
    report.verdict.iter().map(|finding| finding.class.name()).collect()
}
