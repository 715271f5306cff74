//! The report's tables out of the counts.

use replay::boot::{self, BootQuery};
use replay::{Generation, KernelVersion, Reason, Start};
use trace::pool::SLOT_BYTES;
use trace::{Op, Trace};

use super::notes::{notes, without_slots};
use super::rows::{
    BarRow, DeviceUseRow, FailureRow, FidelityRow, HolderRow, LatencyRow, ReasonRow, SizesRow, SummaryRow, TraceRow,
};
use super::scan::{DeviceCount, Scan, any_size};
use super::spread::Spread;
use super::{Report, VERSION, reach, sums};
use crate::AnalysisError;

/// Rows of holders shown at a time; the rest is summed up in one.
const HOLDERS: usize = 20;
/// Slot events compared with the model before it is decided whether to compare all.
pub(super) const FIRST_JUDGED: usize = 1 << 14;
/// The share predicted from which on a model fits.
const FITS: f64 = 0.9;
/// Mappings that live for longer than this, and half the recording, without a sync are remarkable.
const SILENT_NS: u64 = 1_000_000_000;

pub(super) fn report(trace: &Trace, mut scan: Scan<'_>) -> Result<Report, AnalysisError> {
    let meta = trace.meta();
    if meta.capture.mode == "aggregate" {
        return sums::report(trace);
    }
    let (first, end) = (scan.first_ns.unwrap_or(0), scan.last_ns);
    let span_ns = end.saturating_sub(first);
    let mut fidelity = fidelity(trace, &mut scan);
    let syncs_seen = scan.sees_syncs();
    let mut report =
        Report { version: VERSION, trace: trace_row(trace, span_ns), path: path(trace), ..Report::default() };
    let (mut standing, mut leaks, mut silent, mut unproven) = (0, Vec::new(), Vec::new(), false);
    if let Some(pool) = &mut scan.pool {
        pool.doubt = fidelity.lost;
        unproven = pool.leaks_unproven(end);
        standing = pool.count_standing(end);
        leaks = pool.leaks(end);
        if syncs_seen {
            silent = pool.silent(end, (span_ns / 2).max(SILENT_NS));
            // What leaks is not synced either, but that is not what is wrong with it.
            silent.retain(|silent| !leaks.iter().any(|leak| leak.device == silent.device));
        }
        report.occupancy = pool.take_timeline(end);
        report.areas = if pool.areas.len() > 1 { pool.areas.clone() } else { Vec::new() };
    }
    report.holders = folded(std::mem::take(&mut scan.at_first_refusal));
    if let Some(pool) = &scan.pool {
        report.holders.extend(folded(pool.holders("end", end, &scan.devices, &scan.sites, syncs_seen)));
    }

    let slot_allocs = scan.count(Op::SlotAlloc);
    report.devices = devices(&scan);
    report.reasons = reasons(&scan, report.devices.iter().map(|row| row.bounces).sum::<u64>());
    report.failures = failures(&scan);
    report.latencies = latencies(&scan);
    report.sizes = sizes(&scan);
    report.histograms = histograms(&scan);
    report.reach = reach::rows(trace, |at| scan.counts.get(at).map_or(0, |count| count.mapped.largest()));

    let full = scan.sees_maps();
    let sum = |of: fn(&DeviceUseRow) -> u64| report.devices.iter().map(of).fold(0, u64::saturating_add);
    let (bytes_mapped, bytes_bounced, bytes_copied) =
        (sum(|row| row.bytes_mapped), sum(|row| row.bytes_bounced), sum(|row| row.bytes_copied));
    let pool_time = report.latencies.iter().filter(|row| row.op == Op::SlotAlloc.name()).map(|row| row.sum_ns);
    let pool_time_ns: Option<u64> = pool_time.fold(None, |all, ns| Some(all.unwrap_or(0u64).saturating_add(ns)));
    let mut peak = scan.pool.as_ref().map_or(0, |pool| pool.peak);
    let mut held = scan.pool.as_ref().map_or(0, |pool| pool.follower.pool().used());
    let looks = if scan.sees_slots() { Vec::new() } else { trace.sums()?.occupancy };
    if let Some(last) = looks.last() {
        (peak, held) = (looks.iter().map(|look| look.used).max().unwrap_or(0), last.used);
        report.occupancy = sums::looked(&looks);
    }
    let steals = scan.pool.as_ref().map_or(0, |pool| pool.steals);
    report.summary = SummaryRow {
        events: scan.ops.iter().sum(),
        lost: fidelity.lost,
        maps: full.then(|| sum(|row| row.maps)),
        bytes_mapped: full.then_some(bytes_mapped),
        bounces: sum(|row| row.bounces),
        bytes_bounced,
        bounce_share: if full { share(bytes_bounced.min(bytes_mapped), bytes_mapped) } else { None },
        failures: report.failures.iter().map(|row| row.failures).sum(),
        failures_any_size: report.failures.iter().filter(|row| row.any_size).map(|row| row.failures).sum(),
        bytes_copied,
        copy_rate: a_second(bytes_copied, span_ns),
        pool_time_ns,
        pool_time_share: pool_time_ns.and_then(|_| share(typical(&report.latencies), span_ns)),
        pool_slots: report.trace.pool_slots,
        peak_slots: peak,
        peak_share: share(peak, report.trace.pool_slots).filter(|_| scan.sees_slots() || !looks.is_empty()),
        held_slots: held,
        standing_slots: standing,
        leaks: leaks.len() as u64,
        leaked_slots: leaks.iter().map(|leak| leak.slots).sum(),
        silent: silent.iter().map(|silent| silent.mappings).sum(),
        steals,
        steal_share: share(steals, slot_allocs),
        syncs: scan.count(Op::SyncForCpu) + scan.count(Op::SyncForDevice),
        unreachable: report.reach.iter().filter(|row| row.reaches != "all").count() as u64,
        predicted_share: share(fidelity.predicted, fidelity.predicted_of),
        decided_share: share(fidelity.decided, fidelity.decided_of),
    };
    fidelity.unknown_devices = scan.unknown_devices;
    report.notes = notes(trace, &scan, &fidelity);
    if !scan.sees_slots() {
        let told = report.trace.bounces_alone && meta.capture.backends.contains_key(Op::Bounce.name());
        report.notes.push(without_slots(told, !looks.is_empty()));
    }
    if unproven {
        report.notes.push(
            "slots are not given back all through the trace, but no more of them than records were lost: whether they leak \
             cannot be told"
                .to_owned(),
        );
    }
    report.fidelity = fidelity;
    report.asked = asked(trace);
    report.details(&scan, &leaks, &silent);
    Ok(report)
}

impl Report {
    /// What findings need beyond the tables, said in their words.
    fn details(&mut self, scan: &Scan<'_>, leaks: &[super::slots::Leak], silent: &[super::slots::Silent]) {
        let free = self.summary.pool_slots.saturating_sub(self.summary.held_slots);
        for leak in leaks {
            self.verdict.push(super::findings::leak(
                &scan.devices.name(leak.device),
                scan.devices.driver(leak.device).as_deref(),
                scan.sites.text(leak.site).as_deref(),
                leak,
                free,
                self.trace.span_ns,
            ));
        }
        for silent in silent {
            let reasons = silent.reasons.iter().map(|&(reason, n)| (reason_name(reason), n));
            self.verdict.push(super::findings::silent(
                &scan.devices.name(silent.device),
                scan.devices.driver(silent.device).as_deref(),
                silent,
                &reasons.collect::<Vec<_>>(),
            ));
        }
    }
}

/// A reason by its position; what lies behind the last is not explained.
fn reason_name(at: u8) -> &'static str {
    Reason::ALL.get(usize::from(at)).map_or("unexplained", |reason| reason.name())
}

/// A share; nothing of nothing.
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// So many a second; all of it where there is no time between the first event and the last.
pub(super) fn a_second(bytes: u64, span_ns: u64) -> u64 {
    if span_ns == 0 { bytes } else { (u128::from(bytes) * 1_000_000_000 / u128::from(span_ns)) as u64 }
}

/// Time of all slot allocations, were each as long as the median of its device. A call that is preempted counts whole by
/// the clock, and a few of those outweigh all others.
pub(super) fn typical(latencies: &[LatencyRow]) -> u64 {
    let allocations = latencies.iter().filter(|row| row.op == Op::SlotAlloc.name());
    allocations.fold(0, |all, row| all.saturating_add(row.timed.saturating_mul(row.p50_ns)))
}

/// The trace as it was given, for commands to copy.
pub(super) fn path(trace: &Trace) -> String {
    trace.path().display().to_string()
}

pub(super) fn trace_row(trace: &Trace, span_ns: u64) -> TraceRow {
    let meta = trace.meta();
    let pool = meta.pool().filter(|pool| pool.nslabs > 0);
    let role = |dom0| if dom0 { " dom0" } else { "" };
    TraceRow {
        name: trace.path().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        host: meta.host.name.clone(),
        release: meta.host.release.clone(),
        kernel: meta.host.kernel_version().to_owned(),
        xen: meta.xen.as_ref().map(|xen| format!("{} {}{}", xen.version, xen.mode.to_uppercase(), role(xen.dom0))),
        cmdline: meta.host.cmdline.clone(),
        workload: meta.capture.workload.clone(),
        mode: if meta.capture.mode.is_empty() { "full".to_owned() } else { meta.capture.mode.clone() },
        bounces_alone: !meta.capture.sees_requests(),
        cpus: meta.host.possible_cpus,
        duration_ns: if meta.closed { meta.clock.duration_ns.max(span_ns) } else { span_ns },
        span_ns,
        pool_start: pool.map(|pool| pool.start),
        pool_unknown: meta.pool_unknown.clone(),
        pool_slots: pool.map_or(0, |pool| pool.nslabs),
        areas: pool.map_or(0, |pool| pool.nareas.max(1)),
        forced: pool.is_some_and(|pool| pool.force_bounce),
        can_grow: pool.is_some_and(|pool| pool.can_grow),
    }
}

/// Slots that `swiotlb=` asks for, and what the recorded kernel makes of them where memory is to be had.
pub(super) fn asked(trace: &Trace) -> Option<(u64, u64)> {
    let meta = trace.meta();
    let value = meta.host.cmdline.split_whitespace().filter_map(|word| word.strip_prefix("swiotlb=")).next_back()?;
    let digits = value.split(',').next()?;
    let asked = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    let kernel = KernelVersion::parse(meta.host.kernel_version())?;
    let mut query = BootQuery::new(&meta.host.cmdline, kernel, meta.host.possible_cpus, meta.host.memory.max(1));
    query.machine = match &meta.xen {
        Some(xen) if xen.mode == "pv" && xen.dom0 => boot::Machine::XenDom0,
        Some(xen) if xen.mode == "pv" => boot::Machine::XenDomU,
        _ if meta.host.machine == "aarch64" => boot::Machine::Arm64,
        _ => boot::Machine::X86,
    };
    let becomes = boot::explain(&query).pools.first()?.nslabs;
    Some((asked, becomes))
}

fn fidelity(trace: &Trace, scan: &mut Scan<'_>) -> FidelityRow {
    let meta = trace.meta();
    let mut row = base_fidelity(trace);
    // A recorder that died wrote no sum, but its `lost` rows are there.
    row.lost = row.lost.max(scan.lost);
    row.backwards = scan.backwards;
    if let Some(pool) = &scan.pool {
        let notes = pool.follower.notes();
        row.missed_frees = notes.missed_frees;
        row.unknown_frees = notes.unknown_frees;
        row.other_pools = notes.other_pools;
    }
    if let (Some(_), Some(_)) = (meta.pool().filter(|pool| pool.nslabs > 0), &row.policy) {
        let start = Start::new(meta, trace.snapshot());
        let judge = |events: &[trace::Event]| replay::verify(events, trace.devices(), &start, scan.rules);
        let events = &scan.slot_events;
        let mut verdict = judge(&events[..events.len().min(FIRST_JUDGED)]);
        // A model that does not fit is slow to judge, for each miss is looked at in many orders; some thousand will do.
        if events.len() > FIRST_JUDGED && verdict.share() >= FITS {
            verdict = judge(events);
        }
        (row.predicted_of, row.predicted) = (verdict.total, verdict.exact + verdict.after_swap);
    }
    if let Some(judge) = scan.judge.clone() {
        let decisions = judge.finish();
        (row.decided_of, row.decided) = (decisions.total, decisions.exact);
    }
    row
}

pub(super) fn base_fidelity(trace: &Trace) -> FidelityRow {
    let meta = trace.meta();
    FidelityRow {
        closed: meta.closed,
        lost: meta.losses.events(),
        ring_full: meta.losses.ring_full,
        probe_missed: meta.losses.probe_missed,
        policy: Generation::of_recorded(meta).map(|(rules, _)| rules.id.to_owned()),
        ..FidelityRow::default()
    }
}

fn devices(scan: &Scan<'_>) -> Vec<DeviceUseRow> {
    let none = super::slots::DeviceSlots::default();
    let unmaps = scan.count(Op::Unmap) > 0;
    let row = |(at, count): (usize, &DeviceCount)| {
        let slots = scan.pool.as_ref().and_then(|pool| pool.devices.get(at)).unwrap_or(&none);
        let (bounces, bytes_bounced) = if count.by_maps() {
            (count.bounced_maps, count.bounced_map_bytes)
        } else {
            (count.bounced.count(), count.bounced.sum())
        };
        let back = if unmaps { count.copied_at_unmap } else { slots.copied_back };
        let copied = count.copied.saturating_add(back);
        let full = scan.sees_maps() && scan.count(Op::Map) > 0;
        let lives = slots.lives.count() > 0;
        DeviceUseRow {
            device: scan.devices.name(at as u32),
            driver: scan.devices.driver(at as u32),
            maps: count.maps,
            bytes_mapped: count.bytes_mapped,
            bounces,
            bytes_bounced,
            bounce_share: if full { share(bytes_bounced.min(count.bytes_mapped), count.bytes_mapped) } else { None },
            failures: count.failures,
            syncs: count.syncs,
            syncs_per_bounce: share(slots.syncs, bounces),
            peak_slots: slots.peak,
            held_slots: slots.held,
            standing_slots: slots.standing,
            bytes_copied: copied,
            copy_amplification: share(copied, bytes_bounced),
            slot_rounding: share(slots.slots.saturating_mul(SLOT_BYTES), slots.bytes),
            life_p50_ns: lives.then(|| slots.lives.at(0.5)),
            life_p99_ns: lives.then(|| slots.lives.at(0.99)),
        }
    };
    let mut rows: Vec<_> = scan.counts.iter().enumerate().map(row).collect();
    rows.retain(|row| row.maps + row.bounces + row.failures + row.syncs + row.held_slots > 0);
    rows.sort_by_key(|row| std::cmp::Reverse((row.maps, row.bounces, row.failures)));
    rows
}

fn reasons(scan: &Scan<'_>, all: u64) -> Vec<ReasonRow> {
    let mut rows = Vec::new();
    for (at, count) in (0u32..).zip(&scan.counts) {
        let reasons = if count.by_maps() { &count.reasons } else { &count.slot_reasons };
        for (reason, &(bounces, bytes)) in (0u8..).zip(reasons) {
            if bounces > 0 {
                rows.push(ReasonRow {
                    device: scan.devices.name(at),
                    driver: scan.devices.driver(at),
                    reason: reason_name(reason).to_owned(),
                    bounces,
                    bytes,
                    share: share(bounces, all.max(bounces)).unwrap_or(0.0),
                });
            }
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.bounces));
    rows
}

fn failures(scan: &Scan<'_>) -> Vec<FailureRow> {
    let row = |failed: &super::scan::Failed| FailureRow {
        device: scan.devices.name(failed.device),
        driver: scan.devices.driver(failed.device),
        cause: failed.cause.map_or("unknown", |cause| cause.name()).to_owned(),
        reason: failed.reason.map(|reason| reason.name().to_owned()),
        failures: failed.count,
        largest: failed.largest,
        any_size: failed.cause.is_some_and(any_size),
        first_ns: failed.first_ns,
        explanation: failed.explanation.clone(),
        stack: scan.site_text(failed.site),
    };
    let mut rows: Vec<_> = scan.failed.iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.failures));
    rows
}

fn latencies(scan: &Scan<'_>) -> Vec<LatencyRow> {
    let row = |(&(op, device), spread): (&(Op, u32), &Spread)| LatencyRow {
        op: op.name().to_owned(),
        device: scan.devices.name(device),
        timed: spread.count(),
        p50_ns: spread.at(0.5),
        p90_ns: spread.at(0.9),
        p99_ns: spread.at(0.99),
        p999_ns: spread.at(0.999),
        max_ns: spread.largest(),
        sum_ns: spread.sum(),
    };
    let mut rows: Vec<_> = scan.latencies.iter().map(row).collect();
    rows.sort_by(|a, b| (b.timed, &a.op, &a.device).cmp(&(a.timed, &b.op, &b.device)));
    rows
}

fn sizes(scan: &Scan<'_>) -> Vec<SizesRow> {
    let mut rows = Vec::new();
    for (at, count) in (0u32..).zip(&scan.counts) {
        for (what, spread) in [("mapped", &count.mapped), ("bounced", &count.bounced), ("refused", &count.refused)] {
            if spread.count() > 0 {
                rows.push(SizesRow {
                    device: scan.devices.name(at),
                    what: what.to_owned(),
                    count: spread.count(),
                    p50: spread.at(0.5),
                    p90: spread.at(0.9),
                    p99: spread.at(0.99),
                    largest: spread.largest(),
                });
            }
        }
    }
    rows
}

fn histograms(scan: &Scan<'_>) -> Vec<BarRow> {
    let joined = |of: &str, bars: Vec<BarRow>| {
        let mut sum = std::collections::BTreeMap::new();
        bars.iter().for_each(|bar| *sum.entry(bar.from).or_insert(0) += bar.count);
        sum.into_iter().map(|(from, count)| BarRow { of: of.to_owned(), from, count }).collect::<Vec<_>>()
    };
    let of_all = |of: &str, spread: fn(&DeviceCount) -> &Spread| {
        joined(of, scan.counts.iter().flat_map(|count| spread(count).bars(of)).collect())
    };
    let latency = scan.latencies.iter().filter(|((op, _), _)| *op == Op::SlotAlloc);
    let latency = latency.flat_map(|(_, spread)| spread.bars("slot_alloc_latency_ns")).collect();
    let lives = scan.pool.as_ref().map_or_else(Vec::new, |pool| pool.lives.bars("bounce_life_ns"));
    [
        of_all("mapped_size", |count| &count.mapped),
        of_all("bounced_size", |count| &count.bounced),
        joined("slot_alloc_latency_ns", latency),
        lives,
    ]
    .concat()
}

/// The holders with most slots; the rest in one row.
fn folded(mut rows: Vec<HolderRow>) -> Vec<HolderRow> {
    if rows.len() > HOLDERS {
        let rest = rows.split_off(HOLDERS - 1);
        let mut others = HolderRow {
            at: rest[0].at.clone(),
            device: format!("{} others", rest.len()),
            kind: "transient".to_owned(),
            youngest_ns: u64::MAX,
            ..HolderRow::default()
        };
        for row in rest {
            others.slots += row.slots;
            others.mappings += row.mappings;
            others.standing_slots += row.standing_slots;
            others.oldest_ns = others.oldest_ns.max(row.oldest_ns);
            others.youngest_ns = others.youngest_ns.min(row.youngest_ns);
            others.given_back += row.given_back;
        }
        rows.push(others);
    }
    rows
}
