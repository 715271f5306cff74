//! `swioscope replay` of a trace: what would have happened, policy beside policy.

use std::io;
use std::process::ExitCode;

use analysis::verdict::{FEW, label};
use analysis::{CompareOptions, Comparison, Gate, PolicyRow, TraceFacts};
use replay::{Axis, Generation, Policy, PolicyError};
use serde_json::json;
use trace::Trace;

use super::progress::Bar;
use super::replay::grown;
use crate::cli::{Format, MachineArgs, ReplayArgs};
use crate::output;

pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    args.fail_on.iter().try_for_each(Gate::check::<PolicyRow>)?;
    let comparison = compare(&Trace::open(&args.input)?, &args.machine, &args.sweep)?;
    let code = print_comparison(&comparison, args.format)?;
    Ok(super::report::gates(&args.fail_on, &comparison.rows)?.unwrap_or(code))
}

/// Replays a trace under the policies asked for, or under a telling few, in every combination of the axes' values.
pub(crate) fn compare(trace: &Trace, machine: &MachineArgs, axes: &[Axis]) -> anyhow::Result<Comparison> {
    let policies = match machine.policies.as_slice() {
        [] if axes.is_empty() => default_policies(trace)?,
        [] => vec![own_policy(trace)?],
        given => given.to_vec(),
    };
    let policies = replay::grid(&grown(policies, machine.dynamic)?, axes)?;
    let options = CompareOptions { platform: machine.platform, on_fail: machine.on_fail };

    let bar = Bar::show()?;
    let comparison =
        analysis::compare(trace, &policies, &options, &bar.stop, |stage| bar.at(stage, Some(policies.len())));
    bar.clear();
    Ok(comparison?)
}

/// The recorded kernel's own policy, with what its release settles beyond the allocator. An unknown kernel is most likely
/// a newer one; the comparison's notes say that it is unknown.
fn own_policy(trace: &Trace) -> Result<Policy, PolicyError> {
    let Some((generation, _)) = Generation::of_recorded(trace.meta()) else { return Policy::parse("v6_10") };
    let release = trace.meta().host.kernel_version();
    Policy::parse(&format!("{}:kernel={release}", generation.id)).or_else(|_| Policy::parse(generation.id))
}

/// The recorded kernel's own policy, the oldest allocator, and the RFC's two pools of the recorded size.
fn default_policies(trace: &Trace) -> Result<Vec<Policy>, PolicyError> {
    let slots = trace.meta().pools.first().map_or(32_768, |pool| pool.nslabs);
    let two_pools = Policy::parse(&format!("rfc64:hi_nslabs={slots}"))?;
    Ok(vec![own_policy(trace)?, Policy::parse("legacy")?, two_pools])
}

fn print_comparison(comparison: &Comparison, format: Format) -> anyhow::Result<ExitCode> {
    let stdout = &mut io::stdout();
    match format {
        Format::Csv => output::write_csv(&comparison.rows, stdout)?,
        Format::Json => output::print_json(&as_json(comparison))?,
        Format::Table => {
            for sentence in &comparison.verdict {
                output::line(stdout, sentence)?;
            }
            print_predicted(&comparison.facts)?;
            let few = comparison.rows.len() <= FEW;
            let table = if few { output::turned(&comparison.rows) } else { sweep_table(comparison) };
            output::line(stdout, format_args!("\n{table}"))?;
            for caveat in &comparison.facts.caveats {
                output::line(stdout, format_args!("note: {caveat}"))?;
            }
            for (row, detail) in comparison.rows.iter().zip(&comparison.details).filter(|_| few) {
                for assumption in &detail.assumptions {
                    output::line(stdout, format_args!("note: {}: {assumption}", label(row)))?;
                }
                if let Some(first) = detail.refusals.first() {
                    output::line(
                        stdout,
                        format_args!("first refusal of {}: {} {}", label(row), first.device, first.explanation),
                    )?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Many policies, a row each: what tells them apart, and what matters of them. `--format csv` has every column.
fn sweep_table(comparison: &Comparison) -> String {
    let common = |parameter: &str| comparison.rows.iter().all(|row| row.parameters.split(',').any(|p| p == parameter));
    let rows: Vec<_> = comparison
        .rows
        .iter()
        .map(|row| {
            let own: Vec<&str> = row.parameters.split(',').filter(|p| !common(p)).collect();
            PolicyRow { parameters: own.join(" "), ..row.clone() }
        })
        .collect();
    let columns =
        ["policy", "parameters", "requests", "failures", "peak_slots", "peak_slots_hi", "bounces", "bytes_copied"];
    output::some_columns(&rows, &columns)
}

fn as_json(comparison: &Comparison) -> serde_json::Value {
    let facts = &comparison.facts;
    let policies = comparison.rows.iter().zip(&comparison.details).map(|(row, detail)| {
        let mut policy = output::json_row(row);
        policy["devices"] = output::json_rows(&detail.devices);
        policy["refusals"] = output::json_rows(&detail.refusals);
        policy["assumptions"] = json!(detail.assumptions);
        policy
    });
    json!({
        "trace": facts_json(facts),
        "verdict": comparison.verdict,
        "policies": policies.collect::<Vec<_>>(),
        "devices": output::json_rows(&comparison.devices),
    })
}

/// What is known of the trace, for programs.
pub(crate) fn facts_json(facts: &TraceFacts) -> serde_json::Value {
    json!({
        "name": facts.name,
        "host": facts.host,
        "cmdline": facts.cmdline,
        "workload": facts.workload,
        "duration_ns": facts.duration_ns,
        "events": facts.events,
        "lost": facts.lost,
        "maps": facts.really_mapped,
        "bounces": facts.really_bounced,
        "failures": facts.really_failed,
        "predicted": facts.predicted.map(|(total, exact)| json!({"total": total, "exact": exact})),
        "caveats": facts.caveats,
    })
}

/// How far the models can be trusted with this kernel.
pub(crate) fn print_predicted(facts: &TraceFacts) -> anyhow::Result<()> {
    let Some((total, exact)) = facts.predicted else { return Ok(()) };
    let (exact, total) = (trace::field::count(exact), trace::field::count(total));
    output::line(
        &mut io::stdout(),
        format_args!("The model predicts {exact} of {total} slot choices of the recorded kernel."),
    )
}
