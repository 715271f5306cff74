//! How large the pool must be for a trace's load, and what to write on the kernel's command line for it.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, Ordering};

use replay::boot::{self, BootQuery};
use replay::{
    Base, Force, Job, KernelVersion, Load, OnFail, Options, Outcome, Platform, PlatformKind, PlatformSpec, Policy,
    PolicyError, Progress, SizeCurve, SizePoint, Sizing,
};
use trace::field::{bytes, count};
use trace::pool::SLOT_BYTES;
use trace::{Meta, Trace, Unit};

use crate::AnalysisError;
use crate::compare::{self, Stage};
use crate::comparison::TraceFacts;
use crate::plot::{At, Axis, Chart, Kind, Mark, Series, Tone};

/// What is asked.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The kernel that is to run the load, whose policy answers first and whose command line is written.
    pub kernel: KernelVersion,
    /// CPUs it can have, which is how many areas it makes.
    pub cpus: u32,
    /// Policies beside that kernel's own; none may fix a size.
    pub policies: Vec<Policy>,
    /// Numbers of areas beside the kernel's own.
    pub areas: Vec<u32>,
    /// Refused requests that may be.
    pub target: u64,
    /// The load so many times over.
    pub scale: NonZeroU32,
    /// How much later each of these begins than the one before, in nanoseconds.
    pub shift_ns: u64,
    /// Where addresses are translated; the recorded platform when nothing is said.
    pub platform: Option<PlatformSpec>,
    /// What a driver is taken to do when it is refused.
    pub on_fail: OnFail,
}

trace::record! {
    /// One size of one policy's pool, replayed.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SizeRow {
        /// Policy id.
        policy: String => Text,
        /// Areas; 1 on kernels without.
        areas: u32 => Count,
        /// Slots of the pool.
        pool_slots: u64 => Slots,
        /// Memory of those slots.
        memory: u64 => Bytes,
        /// Requests refused.
        failures: u64 => Count,
        /// Most slots in use at once.
        peak_slots: u64 => Slots,
        /// Why the first was refused.
        first_refusal: Option<String> => Text,
    }
}

trace::record! {
    /// What one policy needs.
    #[derive(Clone, Debug, PartialEq)]
    pub struct NeedRow {
        /// Policy id.
        policy: String => Text,
        /// Areas; 1 on kernels without.
        areas: u32 => Count,
        /// The smallest pool tried that is good enough, as is every larger one tried; absent when there is none.
        pool_slots: Option<u64> => Slots,
        /// Its memory.
        memory: Option<u64> => Bytes,
        /// Requests it refuses.
        failures: Option<u64> => Count,
        /// Share of its slots that are free at the peak.
        headroom: Option<f64> => Ratio,
        /// Slots in use at the peak when nothing is short: no smaller pool serves all.
        least_possible: u64 => Slots,
        /// Requests that no pool can serve, whatever its size.
        floor: u64 => Count,
        /// What to write on the kernel's command line.
        parameter: Option<String> => Text,
    }
}

trace::record! {
    /// What the next smaller pool comes to when refused drivers behave so: how much of the answer rests on the assumption.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SensitivityRow {
        /// What a driver is taken to do when it is refused.
        on_fail: String => Text,
        /// Slots of the pool, the largest tried that is not good enough.
        pool_slots: u64 => Slots,
        /// Requests refused at first.
        failures: u64 => Count,
        /// Of these, served later.
        served_late: u64 => Count,
        /// Of these, never served though they were in reality.
        never: u64 => Count,
    }
}

/// The answer.
#[derive(Clone, Debug)]
pub struct PlanReport {
    /// The trace, and what weakens the figures.
    pub facts: TraceFacts,
    /// What is to be done, the most important sentence first.
    pub verdict: Vec<String>,
    /// A policy and number of areas each; the asked kernel's own first.
    pub needs: Vec<NeedRow>,
    /// Every size tried.
    pub sizes: Vec<SizeRow>,
    /// The next smaller pool under each assumption about refused drivers; empty when every size tried is good enough.
    pub sensitivity: Vec<SensitivityRow>,
    /// What was taken for granted, one sentence each.
    pub assumptions: Vec<String>,
}

/// Replays the load of `traces` (of the first, and beside it the others, as if all ran on the first's machine) in as many
/// pool sizes as it takes. Setting `stop` leaves what is done.
///
/// # Errors
/// When a trace cannot be read, or a policy's pools cannot be made on the recorded machine.
pub fn plan(
    traces: &[Trace],
    options: &PlanOptions,
    stop: &AtomicBool,
    progress: impl Fn(Stage) + Sync,
) -> Result<Option<PlanReport>, AnalysisError> {
    let Some(first) = traces.first() else { return Ok(None) };
    let mut loads = Vec::new();
    let mut facts = Vec::new();
    for trace in traces {
        let (load, of_trace) = compare::load(trace, &progress)?;
        loads.push(load);
        facts.push(of_trace);
    }
    let copies = u64::from(options.scale.get());
    let shifted = (0..copies).flat_map(|copy| loads.iter().map(move |load| (load, copy * options.shift_ns)));
    let joint = (copies > 1 || loads.len() > 1).then(|| Load::overlay(&shifted.collect::<Vec<_>>()));
    let load = joint.as_ref().or(loads.first());
    let Some(load) = load else { return Ok(None) };

    let meta = first.meta();
    let base = compare::base(meta, meta.pool());
    let platform =
        Platform::recorded(options.platform.unwrap_or_else(|| PlatformKind::of_recorded(meta).into()), first.p2m());
    let refused = |policy: &str| {
        let policy = policy.to_owned();
        move |source| AnalysisError::Policy { policy, source }
    };
    let own = options.kernel.to_string();
    let mut policies = vec![Policy::parse(&own).map_err(refused(&own))?];
    policies.extend(options.policies.iter().filter(|policy| policy.text() != own).cloned());
    let mut areas = vec![options.cpus.max(1).checked_next_power_of_two().unwrap_or(1 << 16).min(1 << 16)];
    for &more in &options.areas {
        if !areas.contains(&more) {
            areas.push(more);
        }
    }
    let sizing = Sizing {
        load,
        platform: &platform,
        base: &base,
        target: options.target,
        on_fail: options.on_fail,
        threads: None,
    };
    let told = |told: Progress| progress(Stage::Replaying(told));
    // Nothing was asked for: every size would do, and none is an answer.
    let curves = if load.is_empty() {
        Vec::new()
    } else {
        sizing.curves(&policies, &areas, stop, told).map_err(refused(&own))?
    };

    let mut facts = facts.swap_remove(0);
    facts.events = traces.iter().map(Trace::event_count).sum();
    let needs: Vec<_> = curves.iter().map(|curve| need(curve, options, meta, &base)).collect();
    let mut verdict = sentences(&curves, &needs, options, &base, load);
    verdict.extend(compare::only_bounces(meta));
    let mut assumptions = Vec::new();
    if joint.is_some() {
        let each = if copies > 1 { format!(", each {} times over", count(copies)) } else { String::new() };
        assumptions.push(format!(
            "the loads of {} traces are laid over one another{each}, a copy {} after the other; the pool lies where the first \
             trace's lay",
            count(traces.len() as u64),
            trace::field::duration(options.shift_ns)
        ));
    }
    if options.on_fail == OnFail::Drop {
        assumptions.push("a driver that is refused goes without (--on-fail drop)".to_owned());
    } else {
        assumptions.push(format!("a driver that is refused asks again (--on-fail {})", options.on_fail));
    }
    if curves.iter().any(|curve| !curve.whole) || curves.is_empty() && !load.is_empty() {
        facts.caveats.push("stopped before all sizes were tried".to_owned());
    }
    let sizes = curves.iter().flat_map(|curve| curve.points.iter().map(|point| size_row(curve, point)));
    let sensitivity = match curves.first().filter(|_| !stop.load(Ordering::Relaxed)) {
        Some(curve) => sensitivity(curve, load, &platform, &base, options, stop).map_err(refused(&own))?,
        None => Vec::new(),
    };
    Ok(Some(PlanReport { sizes: sizes.collect(), facts, verdict, needs, sensitivity, assumptions }))
}

/// A driver that asks again, when only the other kind was asked about.
const RETRY_NS: u64 = 1_000_000;

fn sensitivity(
    curve: &SizeCurve,
    load: &Load,
    platform: &Platform,
    base: &Base,
    options: &PlanOptions,
    stop: &AtomicBool,
) -> Result<Vec<SensitivityRow>, PolicyError> {
    let good = good(curve, options);
    let least = curve.least(good).map_or(u64::MAX, |point| point.nslabs);
    let Some(below) = curve.points.iter().rev().find(|point| point.nslabs < least && point.failures > good) else {
        return Ok(Vec::new());
    };
    let setup = curve.policy.sized(below.nslabs, curve.areas)?.resolve(base)?;
    let retry = match options.on_fail {
        OnFail::Drop => NonZeroU64::new(RETRY_NS).map_or(OnFail::Drop, OnFail::Retry),
        asked @ OnFail::Retry(_) => asked,
    };
    let behaviours = [OnFail::Drop, retry];
    let job = |on_fail: &OnFail| Job {
        setup: setup.clone(),
        platform,
        options: Options { refusals: 0, buckets: 1, on_fail: *on_fail },
    };
    let jobs: Vec<_> = behaviours.iter().map(job).collect();
    let outcomes = replay::sweep(load, &jobs, None, stop, |_| {});
    let row = |(on_fail, outcome): (&OnFail, Result<Outcome, _>)| {
        let outcome = outcome.ok()?;
        Some(SensitivityRow {
            on_fail: on_fail.to_string(),
            pool_slots: below.nslabs,
            failures: outcome.total_failures(),
            served_late: outcome.retried_ok,
            never: outcome.dropped,
        })
    };
    Ok(behaviours.iter().zip(outcomes).filter_map(row).collect())
}

impl PlanReport {
    /// Failures over the size of the pool, a curve a policy and number of areas, with the answer marked.
    #[must_use]
    pub fn chart(&self) -> Chart {
        let mut series: Vec<Series> = Vec::new();
        let mut last = None;
        for row in &self.sizes {
            let key = (&row.policy, row.areas);
            if last != Some(key) {
                let areas = if row.areas == 1 { String::new() } else { format!(", {}", areas(row.areas)) };
                series.push(Series {
                    name: format!("{}{areas}", row.policy),
                    kind: Kind::Line,
                    tone: Tone::of_series(series.len()),
                    points: Vec::new(),
                });
                last = Some(key);
            }
            // Counts for the eye; the table has them exactly.
            series
                .iter_mut()
                .last()
                .into_iter()
                .for_each(|s| s.points.push((row.pool_slots as f64, row.failures as f64)));
        }
        let answer = self.needs.first().and_then(|need| need.pool_slots);
        let marks = answer.map(|slots| Mark {
            at: At::X(slots as f64),
            label: format!("{} slots", count(slots)),
            tone: Tone::of_series(0),
        });
        Chart {
            title: format!("Refused requests over the size of the pool: {}", self.facts.name),
            x: Axis::new("slots of the pool", Unit::Slots).doubling(),
            y: Axis::new("requests refused", Unit::Count),
            series,
            marks: marks.into_iter().collect(),
        }
    }

    /// The curve of the asked kernel as text, a bar a size, at most `width` cells long.
    #[must_use]
    pub fn bars(&self, width: usize) -> String {
        let Some(first) = self.sizes.first() else { return String::new() };
        let own = self.sizes.iter().filter(|row| (&row.policy, row.areas) == (&first.policy, first.areas));
        let rows: Vec<_> = own.map(|row| (count(row.pool_slots), count(row.failures), row)).collect();
        let widest = |of: fn(&(String, String, &SizeRow)) -> usize| rows.iter().map(of).max().unwrap_or(0);
        let (slots, failures) = (widest(|row| row.0.len()).max(5), widest(|row| row.1.len()).max(7));
        let most = rows.iter().map(|row| row.2.failures).max().unwrap_or(0).max(1);
        let room = width.saturating_sub(slots + failures + 6).max(8);
        let answer = self.needs.first().and_then(|need| need.pool_slots);
        let mut out = format!("  {:>slots$}  {:>failures$}", "slots", "refused");
        for (size, refused, row) in &rows {
            // In eighths of a cell, and never nothing for something.
            let eighths = (u128::from(row.failures) * room as u128 * 8).div_ceil(u128::from(most));
            let eighths = usize::try_from(eighths).unwrap_or(0);
            let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
            let bar = format!("{}{part}", "█".repeat(eighths / 8));
            let mark = if answer == Some(row.pool_slots) { "◂ enough" } else { "" };
            out += format!("\n  {size:>slots$}  {refused:>failures$}  {bar}{mark}").trim_end();
        }
        out
    }
}

fn size_row(curve: &SizeCurve, point: &SizePoint) -> SizeRow {
    SizeRow {
        policy: curve.policy.rules().id.to_owned(),
        areas: curve.areas,
        pool_slots: point.nslabs,
        memory: point.nslabs * SLOT_BYTES,
        failures: point.failures,
        peak_slots: point.peak_slots,
        first_refusal: point.first_refusal.clone(),
    }
}

/// Failures that are good enough: as many as may be, or as there are in a pool without end.
fn good(curve: &SizeCurve, options: &PlanOptions) -> u64 {
    options.target.max(curve.endless.failures)
}

fn need(curve: &SizeCurve, options: &PlanOptions, meta: &Meta, base: &Base) -> NeedRow {
    let least = curve.least(good(curve, options));
    let free = |point: &SizePoint| (point.nslabs - point.peak_slots.min(point.nslabs)) as f64 / point.nslabs as f64;
    // A parameter is written for the kernel that was asked about only.
    let own = Policy::parse(&options.kernel.to_string()).is_ok_and(|own| own.rules().id == curve.policy.rules().id);
    NeedRow {
        policy: curve.policy.rules().id.to_owned(),
        areas: curve.areas,
        pool_slots: least.map(|point| point.nslabs),
        memory: least.map(|point| point.nslabs * SLOT_BYTES),
        failures: least.map(|point| point.failures),
        headroom: least.filter(|point| point.nslabs > 0).map(free),
        least_possible: curve.endless.peak_slots,
        floor: curve.endless.failures,
        parameter: least.filter(|_| own).and_then(|point| parameter(point.nslabs, curve, options, meta, base)),
    }
}

/// What to write so that this kernel makes this very pool; nothing if it cannot be had that way.
fn parameter(nslabs: u64, curve: &SizeCurve, options: &PlanOptions, meta: &Meta, base: &Base) -> Option<String> {
    let force = if base.force && meta.host.cmdline.contains("force") { ",force" } else { "" };
    let forms = [format!("swiotlb={nslabs}{force}"), format!("swiotlb={nslabs},{}{force}", curve.areas)];
    forms.into_iter().find(|text| {
        let mut query = BootQuery::new(text, options.kernel, options.cpus, meta.host.memory.max(1));
        query.machine = match &meta.xen {
            Some(xen) if xen.mode == "pv" && xen.dom0 => boot::Machine::XenDom0,
            Some(xen) if xen.mode == "pv" => boot::Machine::XenDomU,
            // With less memory the recorded kernel made a pool all the same, so that the next one will is not in question.
            _ => {
                query.ram = query.ram.max(8 << 30);
                boot::Machine::X86
            }
        };
        let answer = boot::explain(&query);
        let forced = (answer.force == Force::Always) == !force.is_empty();
        forced && answer.pools.first().is_some_and(|pool| (pool.nslabs, pool.areas) == (nslabs, curve.areas))
    })
}

fn areas(n: u32) -> String {
    if n == 1 { "1 area".to_owned() } else { format!("{} areas", count(n.into())) }
}

fn sentences(curves: &[SizeCurve], needs: &[NeedRow], options: &PlanOptions, base: &Base, load: &Load) -> Vec<String> {
    let mut out = Vec::new();
    if load.is_empty() {
        return vec![
            "The trace holds no mapping, so there is nothing to plan for: record while the load runs.".to_owned(),
        ];
    }
    let Some((curve, need)) = curves.iter().zip(needs).next() else {
        return vec!["Stopped before anything was known.".to_owned()];
    };
    let kernel = format!("Linux {}", options.kernel);
    let floor = curve.endless.failures;
    if curve.endless.peak_slots == 0 && floor == 0 {
        out.push(format!("Nothing in this load bounces on {kernel}: it needs no pool, and a small one does no harm."));
        return out;
    }
    let requests = |n: u64| if n == 1 { "1 request".to_owned() } else { format!("{} requests", count(n)) };
    match (need.pool_slots, need.failures, &need.parameter) {
        (Some(slots), Some(failures), parameter) => {
            let write = match parameter {
                Some(text) => format!("Write {text} for {kernel}"),
                None => format!("On {kernel} it takes a pool that `swiotlb=` alone does not make"),
            };
            let refuses =
                if failures == 0 { "refuses nothing".to_owned() } else { format!("refuses {}", requests(failures)) };
            out.push(format!(
                "{write}: {} slots ({}) in {}, which {refuses}; {} of them are in use at the peak ({:.0} %).",
                count(slots),
                bytes(slots * SLOT_BYTES),
                areas(need.areas),
                count(curve.least(good(curve, options)).map_or(0, |point| point.peak_slots)),
                100.0 * (1.0 - need.headroom.unwrap_or(0.0))
            ));
            let recorded = base.pool.nslabs;
            if slots < recorded {
                let saved = bytes((recorded - slots) * SLOT_BYTES);
                out.push(format!("The recorded pool of {} slots can shrink by {saved}.", count(recorded)));
            } else if slots > recorded {
                out.push(format!("The recorded pool of {} slots is too small for that.", count(recorded)));
            }
        }
        _ => out.push(format!("No size that was tried is good enough on {kernel}.")),
    }
    out.push(format!(
        "No pool below {} slots serves all of it: so many are in use at the peak when nothing is short.",
        count(curve.endless.peak_slots)
    ));
    if floor > 0 {
        let why = curve.endless.first_refusal.as_deref().unwrap_or("see the causes");
        out.push(format!("{} no pool serves, whatever its size; the first: {why}.", requests(floor)));
    }
    for curve in curves {
        let rises: Vec<_> = curve.rises().collect();
        if let Some((smaller, larger)) = rises.first() {
            out.push(format!(
                "Larger is not always better: on {} in {}, {} slots refuse {} and {} refuse {}{}.",
                curve.policy.rules().id,
                areas(curve.areas),
                count(smaller.nslabs),
                count(smaller.failures),
                count(larger.nslabs),
                count(larger.failures),
                if rises.len() > 1 { ", and so on" } else { "" }
            ));
        }
    }
    let smaller = needs.iter().skip(1).filter(|other| other.pool_slots < need.pool_slots && other.pool_slots.is_some());
    if let Some(best) = smaller.min_by_key(|other| other.pool_slots) {
        out.push(format!(
            "{} in {} would need only {} slots.",
            best.policy,
            areas(best.areas),
            count(best.pool_slots.unwrap_or(0))
        ));
    }
    out
}
