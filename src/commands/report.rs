//! `swioscope report`: one page about one trace.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use analysis::report::rows::{OccupancyRow, SummaryRow};
use analysis::report::{Finding, html};
use analysis::{Gate, Report};
use anyhow::Context as _;
use trace::Trace;
use trace::field::{Record, Value, count, duration};

use super::Usage;
use super::progress::Bar;
use crate::cli::{ReportArgs, ReportFormat};
use crate::output;

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    if args.schema {
        output::print_json(&Report::schema())?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = args.trace.as_ref().context("no trace was given")?;
    // What cannot be compared is said before minutes are spent on reading.
    args.fail_on.iter().try_for_each(Gate::check::<SummaryRow>)?;
    let format = format(args)?;
    let trace = Trace::open(path)?;
    let bar = Bar::show()?;
    let report = analysis::report(&trace, &bar.stop, |stage| bar.at(stage, None));
    bar.clear();
    let report = report?;
    let text = match format {
        ReportFormat::Text => text(&report)?,
        ReportFormat::Json => format!("{:#}\n", serde_json::to_value(&report)?),
        ReportFormat::Html => html::page(&report)?,
    };
    match &args.output {
        Some(file) => {
            std::fs::write(file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
            output::line(&mut io::stdout(), format_args!("{}: {}", file.display(), report.headline()))?;
        }
        None => io::stdout().write_all(text.as_bytes())?,
    }
    Ok(gates(&args.fail_on, std::slice::from_ref(&report.summary))?.unwrap_or(ExitCode::SUCCESS))
}

/// The exit code when a condition holds in any of these rows, after saying which; nothing when none does.
pub(crate) fn gates<R: Record>(gates: &[Gate], rows: &[R]) -> anyhow::Result<Option<ExitCode>> {
    let mut code = None;
    for gate in gates {
        for row in rows {
            if let Some(value) = gate.holds(row)? {
                output::line(&mut io::stderr(), format_args!("--fail-on {gate}: it is {value}"))?;
                code = Some(ExitCode::from(4));
                break;
            }
        }
    }
    Ok(code)
}

/// The format asked for, or the one the file's ending speaks for.
fn format(args: &ReportArgs) -> anyhow::Result<ReportFormat> {
    let ending = args.output.as_deref().and_then(Path::extension).map(|ending| ending.to_ascii_lowercase());
    match (args.format, ending.as_ref().and_then(|ending| ending.to_str())) {
        (Some(format), _) => Ok(format),
        (None, None) => Ok(ReportFormat::Text),
        (None, Some("html" | "htm")) => Ok(ReportFormat::Html),
        (None, Some("json")) => Ok(ReportFormat::Json),
        (None, Some("txt" | "text" | "md")) => Ok(ReportFormat::Text),
        (None, Some(other)) => {
            Err(Usage(format!("what should a .{other} be? Give --format text, json or html")).into())
        }
    }
}

fn text(report: &Report) -> anyhow::Result<String> {
    let mut out = String::new();
    let trace = &report.trace;
    let xen = trace.xen.as_ref().map_or_else(String::new, |xen| format!(" · Xen {xen}"));
    let lost = if report.summary.lost == 0 { "none".to_owned() } else { count(report.summary.lost) };
    writeln!(
        out,
        "{} · Linux {}{xen} · {} · {} events · {lost} lost\n",
        trace.name,
        trace.release,
        duration(trace.duration_ns),
        count(report.summary.events)
    )?;
    for finding in &report.verdict {
        tell(&mut out, finding)?;
    }
    let section = |out: &mut String, title: &str, table: String| writeln!(out, "{title}\n{table}\n");
    if !report.reasons.is_empty() {
        section(&mut out, "Why mappings bounced", output::table(&report.reasons, |_| false))?;
    }
    if !report.failures.is_empty() {
        let columns = ["device", "driver", "cause", "failures", "largest", "first_ns", "explanation"];
        section(&mut out, "Refused requests", columns_of(&report.failures, &columns))?;
    }
    if !report.devices.is_empty() {
        let columns = [
            "device",
            "driver",
            "maps",
            "bytes_mapped",
            "bounces",
            "bounce_share",
            "failures",
            "syncs",
            "syncs_per_bounce",
            "peak_slots",
            "held_slots",
            "bytes_copied",
        ];
        section(&mut out, "Devices", columns_of(&report.devices, &columns))?;
    }
    if !report.holders.is_empty() {
        let columns =
            ["at", "device", "driver", "kind", "slots", "mappings", "standing_slots", "oldest_ns", "unsynced", "stack"];
        section(&mut out, "Who holds slots", columns_of(&report.holders, &columns))?;
    }
    if !report.occupancy.is_empty() && report.summary.peak_slots > 0 {
        writeln!(out, "The pool over {}", duration(trace.span_ns))?;
        curves(&mut out, report)?;
    }
    if !report.areas.is_empty() {
        section(&mut out, "Areas", output::table(&report.areas, |_| false))?;
    }
    if !report.latencies.is_empty() {
        section(&mut out, "How long calls took", output::table(&report.latencies, |_| false))?;
    }
    if !report.sizes.is_empty() {
        section(&mut out, "How large mappings were", output::table(&report.sizes, |_| false))?;
    }
    if !report.reach.is_empty() {
        section(&mut out, "Who reaches the pool", output::table(&report.reach, |_| false))?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(format!("{}\n", out.trim_end()))
}

/// Rows as a table of those columns that say anything.
fn columns_of<R: Record>(rows: &[R], names: &[&str]) -> String {
    let says = |name: &&&str| {
        let at = R::FIELDS.iter().position(|field| field.name == **name);
        let zero = |value: &Value<'_>| matches!(value, Value::Null | Value::U64(0)) || *value == Value::F64(0.0);
        at.is_some_and(|at| rows.iter().any(|row| !zero(&row.value(at))))
    };
    output::some_columns(rows, &names.iter().filter(says).copied().collect::<Vec<_>>())
}

/// A finding: its class beside what it says, each step behind an arrow.
fn tell(out: &mut String, finding: &Finding) -> anyhow::Result<()> {
    let mut table = output::plain_table();
    table.add_row([finding.class.name(), finding.title.as_str()]);
    for sentence in &finding.evidence {
        table.add_row(["", sentence.as_str()]);
    }
    for step in &finding.next {
        table.add_row(["", &format!("→ {step}")]);
    }
    // One width for all, so that the sentences stand under one another.
    if let Some(column) = table.column_mut(0) {
        column.set_constraint(comfy_table::ColumnConstraint::Absolute(comfy_table::Width::Fixed(11)));
    }
    writeln!(out, "{}\n", table.trim_fmt())?;
    Ok(())
}

/// Width of a curve in characters.
const CURVE: usize = 72;

fn curves(out: &mut String, report: &Report) -> anyhow::Result<()> {
    let rows = &report.occupancy;
    let end = rows[0].time_ns.saturating_add(report.trace.span_ns);
    let summary = &report.summary;
    let used: Vec<_> = rows.iter().map(|row| (row.time_ns, row.used)).collect();
    writeln!(
        out,
        " slots in use, at most    {}  {} of {}",
        bars(&used, end, summary.peak_slots, u64::max),
        count(summary.peak_slots),
        count(summary.pool_slots)
    )?;
    let of = |value: fn(&OccupancyRow) -> Option<u64>| -> Vec<(u64, u64)> {
        rows.iter().filter_map(|row| Some((row.time_ns, value(row)?))).collect()
    };
    let free = of(|row| row.free_segments);
    if let Some(least) = free.iter().map(|point| point.1).min() {
        let all = summary.pool_slots / 128;
        writeln!(
            out,
            " segments free, at least  {}  {} of {}",
            bars(&free, end, all, u64::min),
            count(least),
            count(all)
        )?;
    }
    let runs = of(|row| row.largest_run.map(u64::from));
    if let Some(least) = runs.iter().map(|point| point.1).min() {
        writeln!(out, " longest free run         {}  {least} at least", bars(&runs, end, 128, u64::min))?;
    }
    writeln!(out)?;
    Ok(())
}

/// A curve in one line of characters: in each the most, or the least, of its stretch.
fn bars(points: &[(u64, u64)], end: u64, top: u64, of: fn(u64, u64) -> u64) -> String {
    const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let Some(&(start, first)) = points.first() else { return String::new() };
    let span = end.saturating_sub(start).max(1);
    let mut values: Vec<Option<u64>> = vec![None; CURVE];
    for &(time, value) in points {
        let at = (u128::from(time.saturating_sub(start)) * CURVE as u128 / u128::from(span)) as usize;
        let cell = &mut values[at.min(CURVE - 1)];
        *cell = Some(cell.map_or(value, |before| of(before, value)));
    }
    let mut now = first;
    let level = |value: u64| if value == 0 { 0 } else { (value * 8).div_ceil(top.max(1)).clamp(1, 8) as usize };
    values
        .into_iter()
        .map(|value| {
            now = value.unwrap_or(now);
            LEVELS[level(now)]
        })
        .collect()
}
