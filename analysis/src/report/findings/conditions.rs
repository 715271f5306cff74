//! Findings that are no refusals: what leaks, costs, is out of reach, wasted, or not what it was asked to be.

use trace::field::{bytes, count, duration};
use trace::pool::SLOT_BYTES;

use super::super::Report;
use super::super::rows::ReasonRow;
use super::super::slots::{Leak, Silent};
use super::refused::who;
use super::{Class, Finding, Severity, percent};

/// From this share of a CPU's time in the allocator on, or so many bytes copied a second, it is worth a warning.
pub const DEAR: (f64, u64) = (0.1, 100 << 20);
/// Rates over less time are chance.
const SHORT_NS: u64 = 100_000_000;
/// A pool that is never fuller than this is too large for the load.
const WASTED: f64 = 0.125;
/// From this share of allocations in other CPUs' areas on, areas are too small.
const STOLEN: f64 = 0.05;

/// A leak, by the ages of what is held.
pub fn leak(device: &str, driver: Option<&str>, place: Option<&str>, leak: &Leak, free: u64, span_ns: u64) -> Finding {
    let from = place.map_or_else(String::new, |place| format!(", all from {place}"));
    let left = if leak.slots_a_second > 0.0 { free as f64 / leak.slots_a_second } else { f64::INFINITY };
    let lasts = if left.is_finite() {
        format!(" At that rate the {} free ones last {}.", count(free), duration((left * 1e9).min(1e18) as u64))
    } else {
        String::new()
    };
    let mut finding = Finding::new(
        Class::Leak,
        Severity::Problem,
        format!(
            "Leak: {} took {} slots in {} mappings{from} and did not give them back.",
            who(device, driver),
            count(leak.slots),
            count(leak.mappings)
        ),
    )
    .with(format!(
        "They were taken all through the {} of the trace, not at once: {:.1} slots a second; the oldest is {} old.{lasts}",
        duration(span_ns),
        leak.slots_a_second,
        duration(leak.oldest_ns)
    ))
    .with("No size of pool helps for long.");
    if place.is_none() {
        finding = finding.next("record with --stacks to see which function takes them");
    }
    finding.next(format!("report it to the driver{}", driver.map_or_else(String::new, |driver| format!(" {driver}"))))
}

/// Bounced mappings that live long and are never synced (USERS case 26).
pub fn silent(device: &str, driver: Option<&str>, silent: &Silent, reasons: &[(&'static str, u64)]) -> Finding {
    let why: Vec<String> = reasons.iter().map(|(reason, n)| format!("{} {reason}", count(*n))).collect();
    Finding::new(
        Class::Silent,
        Severity::Warning,
        format!(
            "Silent: {} has {} bounced mappings ({}) that live long and were never synced; the oldest is {} old.",
            who(device, driver),
            count(silent.mappings),
            bytes(silent.bytes),
            duration(silent.oldest_ns)
        ),
    )
    .with(format!("Why they bounced: {}.", why.join(", ")))
    .with("Between map and unmap only a sync copies. A driver that takes such memory for shared sees stale data, without any message: corrupt displays are the known case. Receive buffers that wait for their first packet look the same.")
    .next(format!(
        "ask whether {} syncs what it keeps mapped; coherent memory (dma_alloc_coherent) does not bounce",
        driver.unwrap_or("the driver")
    ))
}

pub fn mask(report: &Report) -> Option<Finding> {
    let beyond: Vec<_> = report.reach.iter().filter(|row| row.reaches != "all").collect();
    let first = beyond.first()?;
    let used = |device: &str| report.devices.iter().any(|row| row.device == device && row.bounces + row.failures > 0);
    let serious = beyond.iter().any(|row| used(&row.device));
    let mut finding = Finding::new(
        Class::Mask,
        if serious { Severity::Problem } else { Severity::Warning },
        format!(
            "The pool itself is out of reach: {} reaches {} of it.",
            who(&first.device, first.driver.as_deref()),
            if first.reaches == "none" { "nothing" } else { "only part" }
        ),
    );
    for row in beyond.iter().take(3) {
        finding = finding.with(format!(
            "{}: reach {:#x}, the pool lies from {:#x} to {:#x} as the bus sees it.",
            who(&row.device, row.driver.as_deref()),
            row.reach,
            row.pool_from,
            row.pool_to
        ));
    }
    Some(finding.next("a pool lower in memory, or the device's full DMA mask in its driver"))
}

pub fn pv(report: &Report) -> Option<Finding> {
    let pv = |row: &&ReasonRow| matches!(row.reason.as_str(), "straddle" | "foreign");
    let rows: Vec<_> = report.reasons.iter().filter(pv).collect();
    let first = rows.first()?;
    let n: u64 = rows.iter().map(|row| row.bounces).sum();
    let size: u64 = rows.iter().map(|row| row.bytes).sum();
    let mut finding = Finding::new(
        Class::Pv,
        Severity::Info,
        format!(
            "Xen: {} mappings ({}) bounced because their machine frames do not follow one another or are another domain's.",
            count(n),
            bytes(size)
        ),
    );
    for row in rows.iter().take(3) {
        finding = finding.with(format!(
            "{}: {} by {} ({}).",
            who(&row.device, row.driver.as_deref()),
            count(row.bounces),
            row.reason,
            bytes(row.bytes)
        ));
    }
    Some(
        finding
            .with("Such buffers bounce on PV however far the device reaches; the same load on PVH or bare metal does not.")
            .next(format!("scatterlists of single pages in {}, or PVH", first.driver.as_deref().unwrap_or("the driver")))
            .next(format!("what a machine-frame lookup would change: swioscope replay {} --platform hch-unified", report.path)),
    )
}

pub fn untrusted(report: &Report) -> Option<Finding> {
    let rows: Vec<_> = report.reasons.iter().filter(|row| row.reason == "untrusted").collect();
    let first = rows.first()?;
    let n: u64 = rows.iter().map(|row| row.bounces).sum();
    Some(
        Finding::new(
            Class::Untrusted,
            Severity::Info,
            format!("Not trusted: {} mappings bounced because their device can be plugged in by anybody.", count(n)),
        )
        .with(format!("{}: {}.", who(&first.device, first.driver.as_deref()), count(first.bounces)))
        .next("the port's external-facing property marks it; without it the IOMMU maps directly"),
    )
}

pub fn areas(report: &Report) -> Option<Finding> {
    let share = report.summary.steal_share.filter(|&share| share >= STOLEN)?;
    // Where no area was ever half full, tasks moved between CPUs in the middle of a call.
    let filled = report.areas.iter().any(|row| row.peak_slots * 2 >= row.slots);
    let fullest = report.areas.iter().filter(|_| filled).max_by_key(|row| row.sent_away)?;
    Some(
        Finding::new(
            Class::Area,
            Severity::Warning,
            format!(
                "Areas are too small: {} of slot allocations ({}) went to another CPU's area.",
                percent(share),
                count(report.summary.steals)
            ),
        )
        .with(format!(
            "Area {} has {} slots and peaks at {}; {} requests of its CPUs went elsewhere, each after a search that found nothing and under another CPU's lock.",
            fullest.area,
            count(fullest.slots),
            count(fullest.peak_slots),
            count(fullest.sent_away)
        ))
        .next(format!("a larger pool or fewer areas: swioscope plan {} --areas 1", report.path)),
    )
}

pub fn perf(report: &Report) -> Option<Finding> {
    let summary = &report.summary;
    let slow = summary.pool_time_share.is_some_and(|share| share >= DEAR.0);
    // A rate over less time than this says nothing.
    let told = summary.bounces > 0 && report.trace.span_ns >= SHORT_NS;
    if !told || !(slow || summary.copy_rate >= DEAR.1) {
        return None;
    }
    let mut finding = Finding::new(
        Class::Perf,
        Severity::Warning,
        format!(
            "It costs: {}/s are copied{}.",
            bytes(summary.copy_rate),
            summary.pool_time_share.map_or_else(String::new, |share| format!(
                ", and allocating slots takes {} of one CPU",
                percent(share)
            ))
        ),
    );
    if let Some(row) = report.latencies.iter().find(|row| row.op == "slot_alloc") {
        finding = finding.with(format!(
            "{}: half of {} slot allocations took no longer than {}, 99 of 100 no longer than {}, the longest {}.",
            row.device,
            count(row.timed),
            duration(row.p50_ns),
            duration(row.p99_ns),
            duration(row.max_ns)
        ));
    }
    for row in report.devices.iter().filter(|row| row.bounces > 0).take(3) {
        finding = finding.with(format!(
            "{}: {} copied{}{}.",
            who(&row.device, row.driver.as_deref()),
            bytes(row.bytes_copied),
            row.copy_amplification.map_or_else(String::new, |x| format!(", {x:.2} bytes a byte bounced")),
            row.slot_rounding.map_or_else(String::new, |x| format!("; {x:.2} bytes of slots a byte"))
        ));
    }
    let commonest = report.reasons.first().map_or("", |row| row.reason.as_str());
    Some(finding.next(match commonest {
        "forced" => "everything bounces by order: without swiotlb=force, or without encrypted memory, it would not",
        "mask" => "the device does not reach the buffers: a driver with a 64-bit DMA mask, or an IOMMU",
        "straddle" | "foreign" => "machine frames make them bounce: single-page scatterlists, or PVH",
        _ => "see why mappings bounced, below",
    }))
}

pub fn size(report: &Report) -> Option<Finding> {
    // Of a pool that is unknown its size is, too.
    let (asked, becomes) = report.asked.filter(|_| report.trace.pool_unknown.is_none())?;
    let got = report.summary.pool_slots;
    let given = report.trace.cmdline.split_whitespace().rfind(|word| word.starts_with("swiotlb="))?;
    let in_words = |slots: u64| format!("{} slots ({})", count(slots), bytes(slots.saturating_mul(SLOT_BYTES)));
    if got < becomes {
        return Some(
            Finding::new(
                Class::Size,
                if report.summary.failures > 0 { Severity::Problem } else { Severity::Warning },
                format!("The pool is smaller than asked: {given} makes {}, and there are {}.", in_words(becomes), in_words(got)),
            )
            .with("So much memory in one piece was not to be had at boot: the kernel halves until it gets some, and says so once in its log.")
            .next("dmesg | grep 'software IO TLB'")
            .next(format!("why, step by step: swioscope param {given} --kernel {}", report.trace.kernel)),
        );
    }
    (asked != got).then(|| {
        Finding::new(
            Class::Size,
            Severity::Info,
            format!("The parameter is not what it looks like: {given} became {}.", in_words(got)),
        )
        .next(format!("why, step by step: swioscope param {given} --kernel {}", report.trace.kernel))
    })
}

pub fn waste(report: &Report, findings: &[Finding]) -> Option<Finding> {
    let summary = &report.summary;
    let share = summary.peak_share.filter(|&share| share < WASTED)?;
    // Below a MiB the kernel does not go. A pool that is looked at from time to time may have been fuller in between.
    let quiet = !report.looked() && summary.failures == 0 && summary.pool_slots > 512 && summary.bounces > 0;
    if !quiet || findings.iter().any(|finding| finding.class == Class::Leak) {
        return None;
    }
    let free = summary.pool_slots.saturating_sub(summary.peak_slots).saturating_mul(SLOT_BYTES);
    Some(
        Finding::new(
            Class::Waste,
            Severity::Info,
            format!(
                "The pool is larger than this load needs: {} of {} slots ({}) at the peak, {} were free even then.",
                count(summary.peak_slots),
                count(summary.pool_slots),
                percent(share),
                bytes(free)
            ),
        )
        .with(format!(
            "That is of {} of this load: leave room for what it did not do. Slots in use are not the whole need: they must also stand together.",
            duration(report.trace.span_ns)
        ))
        .next(format!(
            "how far it can shrink, by exact replay: swioscope plan {} --kernel {}",
            report.path, report.trace.kernel
        )),
    )
}

pub fn loss(report: &Report) -> Option<Finding> {
    let summary = &report.summary;
    let weak = summary.predicted_share.filter(|&share| share < 0.99);
    let unknown = &report.trace.pool_unknown;
    if summary.lost == 0 && weak.is_none() && unknown.is_none() {
        return None;
    }
    let all = summary.events + summary.lost;
    let mut finding = Finding::new(
        Class::Loss,
        Severity::Warning,
        if summary.lost > 0 {
            format!(
                "The trace is not whole: {} records are missing beside {} ({}).",
                count(summary.lost),
                count(summary.events),
                percent(if all > 0 { summary.lost as f64 / all as f64 } else { 0.0 })
            )
        } else if weak.is_some() {
            "The model does not follow this kernel well: take the arithmetic with care.".to_owned()
        } else {
            let what = if report.looked() { "how large it is" } else { "how full it was" };
            format!("The bounce pool is unknown: {what} and why it refused cannot be said.")
        },
    );
    if let Some(why) = unknown {
        finding = finding
            .with(format!("The recorder could not look at the pool: {why}."))
            .next("record as root, where the kernel has BTF");
    }
    if let Some(share) = weak {
        finding = finding.with(format!("The model predicts {} of the kernel's slot choices.", percent(share)));
    }
    if report.fidelity.probe_missed > 0 {
        finding = finding.with(format!("{} times the kernel skipped a probe.", count(report.fidelity.probe_missed)));
    }
    if report.fidelity.missed_frees > 0 {
        finding = finding.with(format!(
            "{} releases are missing: slots held at the end may be held by nobody.",
            count(report.fidelity.missed_frees)
        ));
    }
    if report.fidelity.ring_full > 0 {
        finding = finding.next("record with a larger ring: swioscope record --ring 256M …");
    }
    Some(finding)
}
