//! The report on an aggregate recording, which has sums and histograms and no events: what they say, and what they cannot.

use std::collections::BTreeMap;

use trace::sums::{Occupancy, Sum};
use trace::{Op, Trace};

use super::build::{a_second, asked, base_fidelity, path, share, trace_row, typical};
use super::notes::base_notes;
use super::rows::{BarRow, DeviceUseRow, FailureRow, LatencyRow, OccupancyRow, SizesRow, SummaryRow};
use super::{Report, VERSION, reach};
use crate::AnalysisError;

pub(super) fn report(trace: &Trace) -> Result<Report, AnalysisError> {
    let meta = trace.meta();
    let reading = trace.sums()?;
    let looks = &reading.occupancy;
    let duration = if meta.closed { meta.clock.duration_ns } else { looks.last().map_or(0, |look| look.time_ns) };
    let mut report =
        Report { version: VERSION, trace: trace_row(trace, duration), path: path(trace), ..Report::default() };
    let name = |id: u32| {
        let device = trace.devices().iter().find(|device| device.id == id);
        (device.map_or_else(|| format!("device {id}"), |d| d.name.clone()), device.and_then(|d| d.driver.clone()))
    };
    let mut by_device: BTreeMap<u32, Vec<&Sum>> = BTreeMap::new();
    for sum in &reading.sums {
        by_device.entry(sum.device).or_default().push(sum);
    }
    let mut refused_unknown = 0;
    for (id, sums) in by_device {
        let (device, driver) = name(id);
        let of = |op: Op| {
            let of_op = sums.iter().filter(|sum| sum.op == op);
            of_op.fold((0, 0), |all, sum| (all.0 + sum.count, all.1 + sum.bytes))
        };
        let bounced = if report.trace.bounces_alone { Op::Bounce } else { Op::SlotAlloc };
        let ((maps, bytes_mapped), (bounces, bytes_bounced)) = (of(Op::Map), of(bounced));
        let failures = of(Op::SlotFailed).0.max(of(Op::MapFailed).0);
        if failures > 0 {
            refused_unknown += failures;
            report.failures.push(FailureRow {
                device: device.clone(),
                driver: driver.clone(),
                cause: "unknown".to_owned(),
                failures,
                largest: largest(&reading.histograms, id, Op::SlotFailed),
                explanation: "sums do not tell why; a flight recorder does: swioscope record --trigger failure"
                    .to_owned(),
                ..FailureRow::default()
            });
        }
        for sum in sums.iter().filter(|sum| sum.timed > 0) {
            let bars = bars(&reading.histograms, id, sum.op, |bucket| bucket.latency_ns);
            report.latencies.push(LatencyRow {
                op: sum.op.name().to_owned(),
                device: device.clone(),
                timed: sum.timed,
                p50_ns: below(&bars, 0.5),
                p90_ns: below(&bars, 0.9),
                p99_ns: below(&bars, 0.99),
                p999_ns: below(&bars, 0.999),
                max_ns: below(&bars, 1.0),
                sum_ns: sum.latency_ns,
            });
        }
        let sizes = bars(&reading.histograms, id, bounced, |bucket| bucket.size);
        if bounces > 0 {
            report.sizes.push(SizesRow {
                device: device.clone(),
                what: "bounced".to_owned(),
                count: bounces,
                p50: below(&sizes, 0.5),
                p90: below(&sizes, 0.9),
                p99: below(&sizes, 0.99),
                largest: below(&sizes, 1.0),
            });
        }
        report.devices.push(DeviceUseRow {
            device,
            driver,
            maps,
            bytes_mapped,
            bounces,
            bytes_bounced,
            failures,
            syncs: of(Op::SyncForCpu).0 + of(Op::SyncForDevice).0,
            bytes_copied: if report.trace.bounces_alone { 0 } else { bytes_bounced },
            ..DeviceUseRow::default()
        });
    }
    report.devices.sort_by_key(|row| std::cmp::Reverse((row.maps, row.bounces)));
    report.histograms = histograms(&reading.histograms);
    report.occupancy = looked(looks);
    report.reach = reach::rows(trace, |_| 0);

    let sum = |of: fn(&DeviceUseRow) -> u64| report.devices.iter().map(of).sum::<u64>();
    let timed: Vec<u64> =
        report.latencies.iter().filter(|row| row.op == Op::SlotAlloc.name()).map(|row| row.sum_ns).collect();
    let pool_time_ns = (!timed.is_empty()).then(|| timed.iter().sum());
    let peak = looks.iter().map(|look| look.used).max().unwrap_or(0);
    let (bytes_bounced, bytes_copied) = (sum(|row| row.bytes_bounced), sum(|row| row.bytes_copied));
    report.summary = SummaryRow {
        events: reading.events(),
        lost: meta.losses.events(),
        bounces: sum(|row| row.bounces),
        bytes_bounced,
        failures: refused_unknown,
        // A copy each, in or out: directions are not in the sums.
        bytes_copied,
        copy_rate: a_second(bytes_copied, duration),
        pool_time_ns,
        pool_time_share: pool_time_ns.and_then(|_| share(typical(&report.latencies), duration)),
        pool_slots: report.trace.pool_slots,
        peak_slots: peak,
        peak_share: share(peak, report.trace.pool_slots).filter(|_| !looks.is_empty()),
        held_slots: looks.last().map_or(0, |look| look.used),
        syncs: sum(|row| row.syncs),
        unreachable: report.reach.iter().filter(|row| row.reaches != "all").count() as u64,
        ..SummaryRow::default()
    };
    report.fidelity = base_fidelity(trace);
    report.asked = asked(trace);
    report.notes = base_notes(trace);
    report.notes.push(
        "from sums it cannot be told who holds slots, why mappings bounced or were refused, how the pool broke up, or how the model does on this kernel; \
         bytes copied are taken to be the bytes bounced, once; percentiles are upper ends of their buckets, and the pool was looked at once a second"
            .to_owned(),
    );
    Ok(report)
}

/// The pool over time, of which only the slots in use are known.
pub(super) fn looked(looks: &[Occupancy]) -> Vec<OccupancyRow> {
    let row = |look: &Occupancy| OccupancyRow { time_ns: look.time_ns, used: look.used, ..OccupancyRow::default() };
    looks.iter().map(row).collect()
}

type Bars = Vec<(u64, u64)>;

/// Buckets of a device's operation: where each ends, and how many.
fn bars(all: &[trace::sums::Bucket], device: u32, op: Op, value: impl Fn(&trace::sums::Bucket) -> Option<u64>) -> Bars {
    let mut bars: Bars = all
        .iter()
        .filter(|bucket| (bucket.device, bucket.op) == (device, op))
        .filter_map(|bucket| Some((value(bucket)?.saturating_mul(2), bucket.count)))
        .collect();
    bars.sort_unstable();
    bars
}

/// Where the bucket ends in which this share of all is reached.
fn below(bars: &Bars, share: f64) -> u64 {
    let all: u64 = bars.iter().map(|bar| bar.1).sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut seen = 0;
    bars.iter()
        .find(|bar| {
            seen += bar.1;
            seen >= wanted.max(1)
        })
        .map_or(0, |bar| bar.0)
}

fn largest(all: &[trace::sums::Bucket], device: u32, op: Op) -> u64 {
    below(&bars(all, device, op, |bucket| bucket.size), 1.0)
}

fn histograms(all: &[trace::sums::Bucket]) -> Vec<BarRow> {
    let mut sums: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for bucket in all {
        let of = match (bucket.op, bucket.size, bucket.latency_ns) {
            (Op::SlotAlloc, Some(size), _) => Some(("bounced_size", size)),
            (Op::Map, Some(size), _) => Some(("mapped_size", size)),
            (Op::SlotAlloc, _, Some(latency)) => Some(("slot_alloc_latency_ns", latency)),
            _ => None,
        };
        if let Some((of, from)) = of {
            *sums.entry((of, from.max(1))).or_default() += bucket.count;
        }
    }
    sums.into_iter().map(|((of, from), count)| BarRow { of: of.to_owned(), from, count }).collect()
}
