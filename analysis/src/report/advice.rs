//! The size that would do, where size is the question: found by exact replay, as `plan` finds it.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};

use replay::{KernelVersion, OnFail};
use trace::Trace;
use trace::field::{bytes, count};

use super::Report;
use super::findings::{Class, percent};
use crate::plan::{self, NeedRow, PlanOptions};
use crate::{AnalysisError, Stage};

/// Events up to which sizes are tried along with a report: some seconds. Beyond, the command is given instead.
const EVENTS: u64 = 1 << 20;
/// From this share of lost records on nothing is replayed: what is missing would be taken for what was never asked.
const LOST: f64 = 0.01;

/// Adds to findings about size what to write, if it can be found in reasonable time and on good grounds.
///
/// # Errors
/// When the trace cannot be read again.
pub(super) fn add(
    report: &mut Report,
    trace: &Trace,
    stop: &AtomicBool,
    progress: impl Fn(Stage) + Sync,
) -> Result<(), AnalysisError> {
    let about_size = |class: Class| matches!(class, Class::Full | Class::Frag | Class::Area | Class::Waste);
    let asked = report.verdict.iter().skip(1).any(|finding| about_size(finding.class));
    let leaks = report.verdict.iter().any(|finding| finding.class == Class::Leak);
    let summary = &report.summary;
    let lost = summary.lost as f64 > LOST * (summary.events + summary.lost) as f64;
    let small = trace.event_count() <= EVENTS && summary.pool_slots > 0 && summary.maps.is_some();
    let Some(kernel) = KernelVersion::parse(&report.trace.kernel) else { return Ok(()) };
    if !asked || leaks || lost || !small || stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    let options = PlanOptions {
        kernel,
        cpus: report.trace.cpus.max(1),
        policies: Vec::new(),
        areas: Vec::new(),
        target: 0,
        scale: NonZeroU32::MIN,
        shift_ns: 0,
        platform: None,
        on_fail: OnFail::Drop,
    };
    let plan = match plan::plan(std::slice::from_ref(trace), &options, stop, progress) {
        Ok(Some(plan)) => plan,
        Ok(None) | Err(AnalysisError::Policy { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(need) = plan.needs.first().filter(|_| !stop.load(Ordering::Relaxed)) else { return Ok(()) };
    let Some((slots, memory)) = need.pool_slots.zip(need.memory) else { return Ok(()) };
    let trust = match report.summary.predicted_share {
        Some(share) => format!(", by a model that predicts {} of this kernel's slot choices", percent(share)),
        None => String::new(),
    };
    let found = format!(
        "By exact replay of this load a pool of {} slots ({}) refuses {}{trust}; {} are in use at its peak.",
        count(slots),
        bytes(memory),
        refuses(need),
        count(need.least_possible),
    );
    let wasted = slots < report.summary.pool_slots;
    for finding in report.verdict.iter_mut().skip(1).filter(|finding| about_size(finding.class)) {
        // What is too large by the peak may be needed whole all the same.
        if finding.class == Class::Waste && !wasted {
            continue;
        }
        finding.evidence.push(found.clone());
        if let Some(parameter) = &need.parameter {
            finding.next.insert(0, format!("write {parameter} on the kernel's command line"));
        }
    }
    Ok(())
}

fn refuses(need: &NeedRow) -> String {
    match (need.failures.unwrap_or(0), need.floor) {
        (0, _) => "nothing".to_owned(),
        (failures, floor) if failures <= floor => format!("only the {} that no pool serves", count(failures)),
        (failures, _) => count(failures),
    }
}
