//! `swioscope plan`: how large the pool must be, and what to write on the kernel's command line.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::process::ExitCode;

use analysis::{Gate, NeedRow, PlanOptions, PlanReport};
use anyhow::Context as _;
use replay::KernelVersion;
use serde_json::json;
use trace::Trace;

use super::Usage;
use super::progress::Bar;
use crate::cli::{Format, PlanArgs};
use crate::output;

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    // A name that cannot be written is said before the work.
    args.plot.as_deref().map(plot_kind).transpose()?;
    args.fail_on.iter().try_for_each(Gate::check::<NeedRow>)?;
    let paths = args.traces.iter().chain(&args.add_trace);
    let traces = paths.map(Trace::open).collect::<Result<Vec<_>, _>>()?;
    let options = options(args, &traces)?;
    let bar = Bar::show()?;
    let report = analysis::plan(&traces, &options, &bar.stop, |stage| bar.at(stage, None));
    bar.clear();
    let report = report?.context("no trace was given")?;
    if let Some(path) = &args.plot {
        draw(&report, path)?;
    }
    print(&report, args.format)?;
    if let Some(code) = super::report::gates(&args.fail_on, &report.needs)? {
        return Ok(code);
    }
    let refused = report.needs.first().and_then(|need| need.failures);
    Ok(if refused.is_some_and(|n| n <= args.target_failures) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Cells a line of the curve in the terminal may have.
const BARS: usize = 80;

/// How large a plot is drawn, in pixels.
const PLOT: (u32, u32) = (960, 540);

/// What a plot can be written as, by the ending of its name.
fn plot_kind(path: &Path) -> Result<&str, Usage> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.filter(|ending| matches!(*ending, "svg" | "png")).ok_or_else(|| {
        Usage(format!("--plot writes SVG or PNG: give a name that ends in .svg or .png, not `{}`", path.display()))
    })
}

fn draw(report: &PlanReport, path: &Path) -> anyhow::Result<()> {
    let (width, height) = PLOT;
    let chart = report.chart();
    let bytes = match plot_kind(path)? {
        "svg" => chart.svg(width, height)?.into_bytes(),
        _ => chart.png(width, height)?,
    };
    std::fs::write(path, bytes).with_context(|| format!("could not write {}", path.display()))
}

fn options(args: &PlanArgs, traces: &[Trace]) -> anyhow::Result<PlanOptions> {
    let meta = traces.first().context("no trace was given")?.meta();
    let kernel = match args.kernel {
        Some(kernel) => kernel,
        None => KernelVersion::parse(meta.host.kernel_version()).with_context(|| {
            format!("the recorded kernel's release `{}` is not understood: give --kernel", meta.host.release)
        })?,
    };
    let cpus = args.cpus.unwrap_or(meta.host.possible_cpus).max(1);
    let machine = &args.machine;
    if let Some(sized) = machine.policies.iter().find(|policy| policy.text().contains("nslabs=")) {
        return Err(Usage(format!("plan looks for the size: leave nslabs out of `{}`", sized.text())).into());
    }
    let mut policies = machine.policies.clone();
    if machine.dynamic {
        policies = super::replay::grown(policies, true)?;
    }
    let recorded = meta.pool().map(|pool| pool.nareas.max(1));
    let areas = if args.areas.is_empty() { [1].into_iter().chain(recorded).collect() } else { args.areas.clone() };
    Ok(PlanOptions {
        kernel,
        cpus,
        policies,
        areas,
        target: args.target_failures,
        scale: args.scale.unwrap_or(NonZeroU32::MIN),
        shift_ns: u64::try_from(args.shift.as_nanos()).unwrap_or(u64::MAX),
        platform: machine.platform,
        on_fail: machine.on_fail,
    })
}

fn print(report: &PlanReport, format: Format) -> anyhow::Result<()> {
    let out = &mut io::stdout();
    match format {
        Format::Csv => output::write_csv(&report.sizes, out),
        Format::Json => output::print_json(&json!({
            "verdict": report.verdict,
            "needs": output::json_rows(&report.needs),
            "sizes": output::json_rows(&report.sizes),
            "sensitivity": output::json_rows(&report.sensitivity),
            "assumptions": report.assumptions,
            "trace": super::compare::facts_json(&report.facts),
        })),
        Format::Table => {
            report.verdict.iter().try_for_each(|sentence| output::line(out, sentence))?;
            super::compare::print_predicted(&report.facts)?;
            if !report.sizes.is_empty() {
                output::line(out, format_args!("\n{}", output::table(&report.needs, |_| false)))?;
                output::line(out, format_args!("\n{}", report.bars(BARS)))?;
                output::line(
                    out,
                    format_args!("\n{}", output::table(&report.sizes, |field| field.name == "failures")),
                )?;
            }
            if !report.sensitivity.is_empty() {
                output::line(out, "\nThe next smaller pool, by what a driver does that is refused:")?;
                output::line(out, output::table(&report.sensitivity, |_| true))?;
            }
            let notes = report.assumptions.iter().chain(&report.facts.caveats);
            notes.into_iter().try_for_each(|note| output::line(out, format_args!("note: {note}")))
        }
    }
}
