//! What `record` says at its end.

use std::fmt::Write as _;

use collector::Summary;
use collector::flight::Flown;
use trace::meta::{CpuCount, Losses};
use trace::sums::{Bucket, Reading, Sum};
use trace::{Device, Op, Trace, field};

use crate::output;

trace::record! {
    /// What became of a CPU's records.
    pub struct CpuRow {
        /// The CPU, or all of them.
        cpu: String => Text,
        /// Events that the probes saw.
        seen: u64 => Count,
        /// Events in the trace.
        stored: u64 => Count,
        /// Left out by a filter.
        filtered: u64 => Count,
        /// Lost.
        lost: u64 => Count,
    }
}

trace::record! {
    /// The events of one kind of one device.
    pub struct SumRow {
        /// The device.
        device: String => Text,
        /// What happened.
        op: String => Text,
        /// How often.
        count: u64 => Count,
        /// Bytes of all.
        bytes: u64 => Bytes,
        /// Half are not larger than this.
        size_p50: Option<u64> => Bytes,
        /// Mean latency.
        latency_mean: Option<u64> => Duration,
        /// Half took no longer than this.
        latency_p50: Option<u64> => Duration,
        /// 99 of 100 took no longer than this.
        latency_p99: Option<u64> => Duration,
    }
}

pub(in crate::commands) fn text(summary: &Summary) -> anyhow::Result<String> {
    let losses = &summary.meta.losses;
    let seconds = summary.meta.clock.duration_ns as f64 / 1e9;
    let mut text = format!(
        "{}: {} events in {seconds:.2} s ({:.0} events/s), {} lost, ",
        summary.path.display(),
        field::count(summary.events),
        if seconds > 0.0 { summary.events as f64 / seconds } else { 0.0 },
        field::count(losses.ring_full),
    );
    match &summary.flown {
        None => write!(text, "{} on disk, ", field::bytes(Trace::open(&summary.path)?.size_on_disk()?))?,
        Some(flown) => write!(text, "{} trace(s) written, ", flown.dumps.len())?,
    }
    writeln!(text, "{} device(s)", summary.devices)?;
    if let Some(flown) = &summary.flown {
        text.push_str(&dumps(flown)?);
    }
    if let Some((reading, devices)) = &summary.sums {
        if !reading.sums.is_empty() {
            writeln!(text, "{}", output::table(&sums(reading, devices), |field| field.name == "device"))?;
        }
        let most = reading.occupancy.iter().map(|look| look.used).max();
        if let (Some(most), Some(last)) = (most, reading.occupancy.last()) {
            let (most, now) = (field::count(most), field::count(last.used));
            writeln!(text, "slots in use, looked at once a second: {now} at the end, {most} at most")?;
        }
    }
    if let (Some(most), Some(last)) = (summary.looks.iter().map(|look| look.used).max(), summary.looks.last()) {
        let (most, now) = (field::count(most), field::count(last.used));
        writeln!(text, "slots in use, looked at ten times a second: {now} at the end, {most} at most")?;
    }
    if !losses.by_cpu.is_empty() {
        writeln!(text, "{}", output::table(&by_cpu(&losses.by_cpu, stores(summary)), always))?;
    }
    for (what, n) in losses.by_cause().filter(|&(_, n)| n > 0) {
        writeln!(text, "  {what}: {}", field::count(n))?;
    }
    if let Some(missing) = unaccounted(losses).filter(|_| stores(summary)) {
        writeln!(text, "  seen in the kernel and unaccounted for: {}", field::count(missing))?;
    }
    for note in &losses.notes {
        writeln!(text, "  note: {note}")?;
    }
    Ok(text)
}

/// What a flight recorder wrote, and what it did not.
fn dumps(flown: &Flown) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for dump in &flown.dumps {
        writeln!(text, "  {}{}", dump.display(), if dump.exists() { "" } else { ", removed since to make room" })?;
    }
    if flown.passed_over > 0 {
        writeln!(text, "  {} trigger(s) soon after one that was written", field::count(flown.passed_over))?;
    }
    if let Some(why) = &flown.last_failure {
        writeln!(text, "  {} trace(s) could not be written, the last because: {why}", field::count(flown.failed))?;
    }
    if let Some(trigger) = &flown.unwritten {
        writeln!(
            text,
            "  what led to `{trigger}` is in none of them: make room, or see to the cause, and record again"
        )?;
    }
    Ok(text)
}

fn always(field: &field::Field) -> bool {
    matches!(field.name, "cpu" | "seen" | "stored" | "lost")
}

/// Whether events are kept one by one.
fn stores(summary: &Summary) -> bool {
    summary.sums.is_none()
}

/// One row a CPU, and one for all when there are several.
fn by_cpu(counts: &[CpuCount], stores: bool) -> Vec<CpuRow> {
    let row = |cpu: String, c: &CpuCount| CpuRow {
        cpu,
        seen: c.seen,
        // Of sums nothing is stored one by one: what was not lost is in them.
        stored: if stores { c.stored } else { c.seen - (c.filtered + c.lost).min(c.seen) },
        filtered: c.filtered,
        lost: c.lost,
    };
    let mut rows: Vec<_> = counts.iter().map(|c| row(c.cpu.to_string(), c)).collect();
    if let [_, _, ..] = counts {
        let all = counts.iter().fold(CpuCount::default(), |all, c| CpuCount {
            cpu: 0,
            seen: all.seen + c.seen,
            stored: all.stored + c.stored,
            filtered: all.filtered + c.filtered,
            lost: all.lost + c.lost,
        });
        rows.push(row("all".to_owned(), &all));
    }
    rows
}

/// Records that were seen and neither stored nor known to be lost.
fn unaccounted(losses: &Losses) -> Option<u64> {
    let seen: u64 = losses.by_cpu.iter().map(|c| c.seen).sum();
    let known: u64 = losses.by_cpu.iter().map(|c| c.stored + c.filtered + c.lost).sum();
    seen.checked_sub(known + losses.undecoded).filter(|missing| *missing > 0)
}

fn sums(reading: &Reading, devices: &[Device]) -> Vec<SumRow> {
    let name = |id: u32| devices.iter().find(|d| d.id == id).map_or_else(|| id.to_string(), |d| d.name.clone());
    let of = |device: u32, op: Op| reading.histograms.iter().filter(move |b| (b.device, b.op) == (device, op));
    let row = |sum: &Sum| SumRow {
        device: name(sum.device),
        op: sum.op.name().to_owned(),
        count: sum.count,
        bytes: sum.bytes,
        size_p50: quantile(of(sum.device, sum.op), |b| b.size, 50),
        latency_mean: sum.latency_ns.checked_div(sum.timed),
        latency_p50: quantile(of(sum.device, sum.op), |b| b.latency_ns, 50),
        latency_p99: quantile(of(sum.device, sum.op), |b| b.latency_ns, 99),
    };
    reading.sums.iter().map(row).collect()
}

/// The upper end of the bucket in which so many percent are reached.
fn quantile<'a>(
    buckets: impl Iterator<Item = &'a Bucket> + Clone,
    least: impl Fn(&Bucket) -> Option<u64>,
    percent: u64,
) -> Option<u64> {
    let all = buckets.clone().filter(|b| least(b).is_some()).map(|b| b.count).sum::<u64>();
    let mut below = 0;
    buckets.filter_map(|b| Some((least(b)?, b.count))).find_map(|(least, count)| {
        below += count;
        (below * 100 >= all * percent).then(|| least.saturating_mul(2) - 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_that_failed_are_told_with_their_cause() {
        let flown = Flown { failed: 2, last_failure: Some("no space".to_owned()), ..Flown::default() };
        assert_eq!(dumps(&flown).unwrap(), "  2 trace(s) could not be written, the last because: no space\n");
        let lost = Flown { unwritten: Some("failure: slot_failed".to_owned()), ..flown };
        assert!(dumps(&lost).unwrap().contains("what led to `failure: slot_failed` is in none of them"));
        assert_eq!(dumps(&Flown::default()).unwrap(), "");
    }

    #[test]
    fn a_quantile_is_the_end_of_its_bucket() {
        let bucket = |latency, count| Bucket { device: 0, op: Op::Map, size: None, latency_ns: Some(latency), count };
        let buckets = [bucket(256, 60), bucket(512, 39), bucket(4096, 1)];
        let of = |percent| quantile(buckets.iter(), |b| b.latency_ns, percent);
        assert_eq!([of(50), of(99), of(100)], [Some(511), Some(1023), Some(8191)]);
        assert_eq!(quantile(buckets.iter(), |b| b.size, 50), None);
    }

    #[test]
    fn all_cpus_add_up_and_what_is_missing_is_seen() {
        let count = |cpu, seen, lost| CpuCount { cpu, seen, stored: seen - lost, filtered: 0, lost };
        let rows = by_cpu(&[count(0, 10, 1), count(1, 5, 0)], true);
        assert_eq!(
            rows.iter().map(|r| (r.cpu.as_str(), r.stored)).collect::<Vec<_>>(),
            [("0", 9), ("1", 5), ("all", 14)]
        );
        let mut losses = Losses { by_cpu: vec![count(0, 10, 1)], ..Losses::default() };
        assert_eq!(unaccounted(&losses), None);
        losses.by_cpu[0].stored = 7;
        assert_eq!(unaccounted(&losses), Some(2));
        losses.undecoded = 2;
        assert_eq!(unaccounted(&losses), None);
    }
}
