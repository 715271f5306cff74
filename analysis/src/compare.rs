//! Replays one trace under several policies and fills a [`Comparison`].

use std::sync::atomic::AtomicBool;

use replay::{
    Base, Cause, FalseBoundaries, Generation, Job, Load, OnFail, Options, Outcome, P2m, Platform, PlatformKind,
    PlatformSpec, Policy, Progress, Reason, Setup, Start, Surroundings,
};
use trace::{Event, Meta, Op, Pool, Trace, field};

use crate::comparison::{Comparison, Curve, PolicyDetail, PolicyDeviceRow, PolicyRow, RefusalRow, TraceFacts};
use crate::{AnalysisError, devices, verdict};

/// What a comparison rests on besides its policies.
#[derive(Clone, Debug, Default)]
pub struct CompareOptions {
    /// Where addresses are translated; the recorded platform when nothing is said.
    pub platform: Option<PlatformSpec>,
    /// Other translations the first policy is replayed on beside it.
    pub designs: Vec<PlatformSpec>,
    /// What a driver is taken to do when it is refused.
    pub on_fail: OnFail,
}

/// How far a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The trace is being read: so many events of how many.
    Reading(u64, u64),
    /// Its policies are being replayed.
    Replaying(Progress),
}

/// Events between two looks at whether to go on.
const WATCH: u64 = 1 << 16;

/// Replays `trace` under each policy, all processors at once; the trace is read once. `progress` is told every few
/// milliseconds, by any thread. Setting `stop` ends it soon: policies that were not done are left out, and a caveat says
/// how many.
///
/// # Errors
/// When the trace cannot be read, or a policy's pools cannot be made on the recorded machine.
pub fn compare(
    trace: &Trace,
    policies: &[Policy],
    options: &CompareOptions,
    stop: &AtomicBool,
    progress: impl Fn(Stage) + Sync,
) -> Result<Comparison, AnalysisError> {
    let meta = trace.meta();
    let pool = meta.pool();
    let base = base(meta, pool);
    // A policy that does not fit is said before minutes are spent on the others.
    let setups = policies
        .iter()
        .map(|policy| {
            let failed = |source| AnalysisError::Policy { policy: policy.text().to_owned(), source };
            policy.resolve(&base).map_err(failed)
        })
        .collect::<Result<Vec<Setup>, _>>()?;

    let (load, mut facts) = load(trace, &progress)?;
    let spec = options.platform.unwrap_or_else(|| PlatformKind::of_recorded(meta).into());
    let platform = Platform::recorded(spec, trace.p2m());
    let designs: Vec<_> = options.designs.iter().map(|spec| Platform::recorded(*spec, trace.p2m())).collect();
    let cases = policies.iter().zip(&setups).map(|(policy, setup)| (policy, setup, &platform));
    let on_designs = policies.iter().zip(&setups).take(1);
    let on_designs = on_designs.flat_map(|(policy, setup)| designs.iter().map(move |design| (policy, setup, design)));
    let cases: Vec<_> = cases.chain(on_designs).collect();

    let keep = Options { on_fail: options.on_fail, ..Options::default() };
    let job = |&(_, setup, platform): &(_, &Setup, _)| Job { setup: setup.clone(), platform, options: keep };
    let jobs: Vec<_> = cases.iter().map(job).collect();
    let outcomes = replay::sweep(&load, &jobs, None, stop, |told| progress(Stage::Replaying(told)));

    let (mut rows, mut details) = (Vec::new(), Vec::new());
    for (&(policy, setup, platform), outcome) in cases.iter().zip(&outcomes) {
        if let Ok(outcome) = outcome {
            rows.push(row(setup, platform.spec(), outcome));
            details.push(detail(policy, setup, &load, outcome, options.on_fail));
        }
    }
    if rows.len() < cases.len() {
        facts.caveats.push(format!("stopped: {} of {} policies were replayed", rows.len(), cases.len()));
    }
    let mut comparison =
        Comparison { facts, rows, details, devices: devices::devices(trace)?, ..Comparison::default() };
    comparison.verdict = verdict::sentences(&comparison);
    comparison.verdict.extend(only_bounces(meta));
    Ok(comparison)
}

/// Reads a trace's load, and what must be known of it. Millions of events are not kept: the load takes what it needs, the
/// check of the model the slots' own.
pub(crate) fn load(trace: &Trace, progress: impl Fn(Stage)) -> Result<(Load, TraceFacts), AnalysisError> {
    let meta = trace.meta();
    if !meta.capture.has_requests() {
        let path = trace.path().to_owned();
        let why = meta.capture.partial().filter(|_| meta.capture.mode == "aggregate").unwrap_or_else(|| {
            let backends: Vec<_> = meta.capture.backends.values().map(String::as_str).collect();
            format!("recorded by {} alone", backends.join(" and "))
        });
        return Err(AnalysisError::NothingToReplay { path, why });
    }
    if let Some(why) = &meta.pool_unknown {
        return Err(AnalysisError::PoolUnknown { path: trace.path().to_owned(), why: why.clone() });
    }
    // Elsewhere a pool's addresses are what they are; ARM's table is of other domains' pages only.
    let pv = PlatformKind::of_recorded(meta) == PlatformKind::XenPv;
    let p2m = (pv && !trace.p2m().is_empty()).then(|| P2m::from_runs(trace.p2m()));
    let pool = meta.pool();
    let around = Surroundings {
        pool,
        pools: &meta.pools,
        snapshot: trace.snapshot(),
        snapshot_ns: meta.snapshot_ns,
        p2m: p2m.as_ref(),
    };
    let mut builder = Load::builder(trace.devices(), &around);
    let mut slots = Vec::new();
    for (read, event) in (0u64..).zip(trace.events()) {
        let event = event?;
        builder.push(&event);
        if matches!(event.op, Op::SlotAlloc | Op::SlotFailed | Op::SlotFree | Op::PoolAdded) {
            slots.push(event);
        }
        if read % WATCH == 0 {
            progress(Stage::Reading(read, trace.event_count()));
        }
    }
    let load = builder.finish();
    let facts = facts(trace, &slots, &load);
    Ok((load, facts))
}

pub(crate) fn base(meta: &Meta, pool: Option<&Pool>) -> Base {
    let cpus = Some(meta.host.possible_cpus);
    pool.map_or_else(|| Base::without_pool(cpus), |pool| Base::of_pool(pool, cpus))
}

fn facts(trace: &Trace, slots: &[Event], load: &Load) -> TraceFacts {
    let meta = trace.meta();
    let recorded = load.recorded();
    let mut host = format!("Linux {}", meta.host.release);
    if let Some(xen) = &meta.xen {
        let role = if xen.dom0 { " dom0" } else { "" };
        host += &format!(" · Xen {} {}{role}", xen.version, xen.mode.to_uppercase());
    }
    let name = trace.path().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    TraceFacts {
        name,
        host,
        cmdline: meta.host.cmdline.clone(),
        workload: meta.capture.workload.clone(),
        duration_ns: if meta.closed { meta.clock.duration_ns } else { load.span_ns().1 },
        events: trace.event_count(),
        // A recorder that died wrote no sum, but its `lost` rows are there.
        lost: meta.losses.events().max(load.notes().lost),
        really_mapped: recorded.maps,
        really_bounced: recorded.bounces,
        really_failed: recorded.failures,
        predicted: predicted(trace, slots),
        caveats: caveats(trace, load),
    }
}

/// Slot choices of the recorded kernel, and how many its own policy predicts.
fn predicted(trace: &Trace, slots: &[Event]) -> Option<(u64, u64)> {
    let meta = trace.meta();
    meta.pool()?;
    let (rules, _) = Generation::of_recorded(meta)?;
    let start = Start::new(meta, trace.snapshot());
    let verdict = replay::verify(slots, trace.devices(), &start, rules);
    (verdict.total > 0).then_some((verdict.total, verdict.exact + verdict.after_swap))
}

/// What a trace of bounces alone cannot say, as a sentence of the verdict.
pub(crate) fn only_bounces(meta: &Meta) -> Option<String> {
    (meta.capture.mode == "bounces").then(|| {
        "The trace holds only what bounced: what another policy would have bounced beside it is not known.".to_owned()
    })
}

/// What weakens every figure of the comparison.
fn caveats(trace: &Trace, load: &Load) -> Vec<String> {
    let meta = trace.meta();
    let mut caveats = Vec::new();
    // A policy can only be judged on what it might have bounced, and that is not in such a trace.
    caveats.extend(
        meta.capture
            .partial()
            .map(|partial| format!("{partial}; what another policy would have done with those cannot be told")),
    );
    if !meta.closed {
        caveats.push("the recording was cut short: what it lost in its last seconds is not known".to_owned());
    }
    if let Some(recovered) = trace.recovered() {
        caveats.push(format!(
            "{} events were recovered from the open segment, {} were dropped as incomplete",
            field::count(recovered.events),
            field::bytes(recovered.bytes_dropped)
        ));
    }
    for (what, n) in meta.losses.by_cause().filter(|&(_, n)| n > 0) {
        caveats.push(format!("{what}: {}", field::count(n)));
    }
    let said = |note: &&String| !caveats.iter().any(|caveat| caveat.starts_with(note.as_str()));
    let notes: Vec<_> = meta.losses.notes.iter().filter(said).cloned().collect();
    caveats.extend(notes);
    match Generation::of_recorded(meta) {
        Some((_, caveat)) if caveat.is_empty() => {}
        Some((rules, caveat)) => {
            caveats.push(format!("kernel {} is taken as {}: {caveat}", meta.host.kernel_version(), rules.id))
        }
        None => caveats.push(format!("no policy is known for kernel {}", meta.host.release)),
    }
    let notes = load.notes();
    for (n, what) in [
        (notes.unmatched_unmaps, "unmaps of mappings that are not in the trace, left out"),
        (notes.unmatched_syncs, "syncs of mappings that are not in the trace, left out"),
        (
            notes.size_mismatches,
            "unmaps of another size than their mapping; the oldest mapping at that address was taken",
        ),
        (notes.missed_unmaps, "mappings without an unmap whose bounce buffer was given out again; released there"),
        (notes.unknown_devices, "events of devices the trace does not describe; taken to reach everything"),
        (notes.incomplete, "events without an address or a size, left out"),
        (
            notes.merged,
            "elements an IOMMU merged into others, which live as long as is typical: their unmaps cannot be told",
        ),
        (
            notes.behind_iommu,
            "mappings of devices behind an IOMMU, decided by its rule with granules of 4 KiB (platform's `iommu=` says otherwise)",
        ),
        (
            notes.own_pools,
            "mappings of devices with a bounce pool of their own, replayed into the policy's pools (`restricted=` gives such devices one)",
        ),
        (
            notes.shifted,
            "mappings of devices whose bus may see memory elsewhere than the CPU, and whose ranges cannot be read; decided as if it did not, by CPU addresses",
        ),
        (notes.held, "mappings held since before the recording, known from the snapshot only"),
    ] {
        if n > 0 {
            caveats.push(format!("{what}: {}", field::count(n)));
        }
    }
    caveats
}

fn row(setup: &Setup, platform: &PlatformSpec, outcome: &Outcome) -> PolicyRow {
    let slots = |i: usize| setup.pools.get(i).map(|pool| pool.nslabs);
    let peak = |i: usize| outcome.peak_slots.get(i).copied();
    let high = slots(1).filter(|_| setup.restricted.is_none());
    let parameters: Vec<String> = setup.describe().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    PolicyRow {
        policy: setup.name(),
        parameters: parameters.join(","),
        platform: platform.to_string(),
        requests: outcome.requests,
        maps: outcome.maps,
        bounces: outcome.total_bounces(),
        bounced_mask: outcome.bounced(Reason::Mask),
        bounced_straddle: outcome.bounced(Reason::Straddle),
        bounced_alignment: outcome.bounced(Reason::Alignment),
        bounced_foreign: outcome.bounced(Reason::Foreign),
        bounced_forced: outcome.bounced(Reason::Forced),
        bounced_untrusted: outcome.bounced(Reason::Untrusted),
        bounced_kmalloc: outcome.bounced(Reason::Kmalloc),
        failures: outcome.total_failures(),
        failed_empty: outcome.failed(Cause::Empty),
        failed_no_pool: outcome.failed(Cause::NoPool),
        failed_not_addressable: outcome.failed(Cause::NotAddressable),
        failed_forbidden: outcome.failed(Cause::Forbidden),
        failed_too_large: outcome.failed(Cause::TooLarge),
        failed_too_large_with_offset: outcome.failed(Cause::TooLargeWithOffset),
        failed_pool_full: outcome.failed(Cause::PoolFull),
        failed_area_full: outcome.failed(Cause::AreaFull),
        failed_never_ending_search: outcome.failed(Cause::Livelock),
        failed_boundary_impossible: outcome.failed(Cause::BoundaryImpossible),
        failed_boundary: outcome.failed(Cause::Boundary),
        failed_alignment_impossible: outcome.failed(Cause::AlignmentImpossible),
        failed_alignment: outcome.failed(Cause::Alignment),
        failed_stride: outcome.failed(Cause::Stride),
        failed_fragmented: outcome.failed(Cause::Fragmented),
        failed_pool_above_mask: outcome.failed(Cause::PoolAboveMask),
        failed_grow_pending: outcome.failed(Cause::GrowPending),
        failed_transient_refused: outcome.failed(Cause::TransientRefused),
        pool_slots: slots(0).unwrap_or(0) + outcome.grown.map_or(0, |grown| grown.slots),
        peak_slots: peak(0).unwrap_or(0),
        pool_slots_hi: high,
        peak_slots_hi: high.and(peak(1)),
        bytes_copied: outcome.bytes_copied(),
    }
}

fn detail(policy: &Policy, setup: &Setup, load: &Load, outcome: &Outcome, on_fail: OnFail) -> PolicyDetail {
    let device = |i: u32| load.devices().get(i as usize).map_or("?", |device| device.name.as_str()).to_owned();
    // What the growth worker added counts with the boot pool.
    let added = outcome.grown.map_or(0, |grown| grown.slots);
    let curves = setup.pools.iter().enumerate().map(|(i, pool)| Curve {
        pool: setup.pool_name(i).to_owned(),
        slots: pool.nslabs + if i == 0 { added } else { 0 },
        points: outcome.occupancy.points(i).collect(),
    });
    let refusals = outcome.refusals.iter().map(|refused| RefusalRow {
        time_ns: refused.time_ns,
        device: device(refused.device),
        size: refused.refusal.size,
        cause: refused.refusal.cause.name().to_owned(),
        explanation: refused.refusal.to_string(),
    });
    let mut devices: Vec<_> = load
        .devices()
        .iter()
        .zip(&outcome.devices)
        .filter(|(_, result)| result.maps > 0)
        .map(|(device, result)| PolicyDeviceRow {
            device: device.name.clone(),
            reach: device.limits.reach,
            maps: result.maps,
            bounces: result.bounces,
            failures: result.failures,
            pool: setup.pool_name(usize::from(result.pool)).to_owned(),
            peak_slots: result.peak_slots,
        })
        .collect();
    devices.sort_by_key(|row| std::cmp::Reverse(row.maps));
    PolicyDetail {
        curves: curves.collect(),
        refusals: refusals.collect(),
        devices,
        assumptions: assumptions(policy, setup, load, outcome, on_fail),
    }
}

/// What a what-if had to assume (docs/models.md), one sentence each.
fn assumptions(policy: &Policy, setup: &Setup, load: &Load, outcome: &Outcome, on_fail: OnFail) -> Vec<String> {
    let mut out: Vec<String> = policy.caveat().map(str::to_owned).into_iter().collect();
    if let OnFail::Retry(after) = on_fail
        && outcome.retried > 0
    {
        out.push(format!(
            "{} requests served in reality are refused here: their drivers are taken to ask again every {}, until the time \
             of their own unmap; {} are served then, {} never",
            field::count(outcome.retried),
            field::duration(after.get()),
            field::count(outcome.retried_ok),
            field::count(outcome.dropped)
        ));
    } else if outcome.dropped > 0 {
        out.push(format!(
            "{} requests served in reality are refused here: their drivers are taken to go without",
            field::count(outcome.dropped)
        ));
    }
    for assumed in &outcome.assumed {
        let device = load.devices().get(assumed.device as usize).map_or("?", |device| device.name.as_str());
        out.push(format!(
            "{} mappings of {device} from {} on, refused in reality and served here, are released after {}, the median of their kind",
            field::count(assumed.count),
            field::bytes(assumed.size_from),
            field::duration(assumed.lifetime_ns)
        ));
    }
    out.extend(setup.growth.zip(outcome.grown).map(|(growth, grown)| {
        format!(
            "pools come and go: the worker is taken to have its pool {} after it is woken, and memory to be plentiful; it \
             added {} pools of {} slots in all, and {} transient pools served a mapping each, with {} slots at most at \
             once; slots in use are those of all pools",
            field::duration(growth.worker_ns),
            field::count(grown.pools),
            field::count(grown.slots),
            field::count(grown.transient),
            field::count(grown.transient_peak_slots)
        )
    }));
    if let (Some(_), Some(own)) = (&setup.restricted, setup.pools.get(1)) {
        out.push(format!(
            "the restricted pool peaks at {} of {} slots; {} coherent buffers were asked of it and {} refused, and {} \
             freed that were allocated before the recording (by any device)",
            field::count(outcome.peak_slots.get(1).copied().unwrap_or(0)),
            field::count(own.nslabs),
            field::count(outcome.coherent),
            field::count(outcome.coherent_failures.iter().sum()),
            field::count(load.notes().unmatched_frees)
        ));
    }
    if outcome.unspecified_tails > 0 {
        out.push(format!(
            "this kernel would have read past the end of a table {} times, in a pool that ends inside a segment (SPEC 4)",
            field::count(outcome.unspecified_tails)
        ));
    }
    if outcome.held_refused > 0 {
        out.push(format!(
            "{} mappings held since before the recording find no room in this pool; they are in none of the figures",
            field::count(outcome.held_refused)
        ));
    }
    if outcome.unknown_frames > 0 {
        out.push(format!(
            "{} translations met frames the trace does not name; each was taken for its own machine frame",
            field::count(outcome.unknown_frames)
        ));
    }
    if outcome.bytes_dropped > 0 {
        out.push(format!(
            "this kernel would silently not copy {} of partial syncs (SPEC 6.3)",
            field::bytes(outcome.bytes_dropped)
        ));
    }
    if outcome.parted > 0 {
        out.push(format!(
            "{} buffers whose frames part are given to their device as one range: it would use somebody else's memory",
            field::count(outcome.parted)
        ));
    }
    let FalseBoundaries { accepts, rejects } = outcome.false_boundaries;
    if accepts > 0 {
        out.push(format!(
            "{} bounce buffers cross a segment boundary of their device in machine memory, which this kernel's allocator does not see (SPEC 10.2)",
            field::count(accepts)
        ));
    }
    if rejects > 0 {
        out.push(format!(
            "{} requests are refused for a segment boundary that is none in machine memory (SPEC 10.2)",
            field::count(rejects)
        ));
    }
    if outcome.bytes_wrong_source > 0 {
        out.push(format!(
            "this kernel would silently sync {} with the wrong place of the buffer (SPEC 6.3)",
            field::bytes(outcome.bytes_wrong_source)
        ));
    }
    out
}
