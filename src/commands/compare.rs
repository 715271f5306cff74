//! `swioscope compare`, and `swioscope replay` of a trace: what would have happened, policy beside policy.

use std::io;
use std::process::ExitCode;

use analysis::difference::{self, DifferenceRow, PolicyDiff};
use analysis::verdict::{FEW, label};
use analysis::{CompareOptions, Comparison, Gate, PolicyRow, TraceFacts};
use replay::{Axis, GENERATIONS, Generation, PlatformKind, PlatformSpec, Policy, PolicyError};
use serde_json::json;
use trace::Trace;

use super::progress::Bar;
use super::replay::grown;
use crate::cli::{CompareArgs, Format, MachineArgs, Policies, ReplayArgs, TwoPolicies};
use crate::output;

pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    args.fail_on.iter().try_for_each(Gate::check::<PolicyRow>)?;
    let comparison = compare(&Trace::open(&args.input)?, &args.machine, &args.sweep)?;
    let code = print_comparison(&comparison, args.format)?;
    Ok(super::report::gates(&args.fail_on, &comparison.rows)?.unwrap_or(code))
}

/// Replays a trace under the policies asked for, or under a telling few, in every combination of the axes' values.
pub(crate) fn compare(trace: &Trace, machine: &MachineArgs, axes: &[Axis]) -> anyhow::Result<Comparison> {
    let policies = policies(trace, machine, axes)?;
    run_policies(trace, machine, &policies, Vec::new())
}

fn run_policies(
    trace: &Trace,
    machine: &MachineArgs,
    policies: &[Policy],
    designs: Vec<PlatformSpec>,
) -> anyhow::Result<Comparison> {
    let cases = policies.len() + designs.len();
    let options = CompareOptions { platform: machine.platform, designs, on_fail: machine.on_fail };
    let bar = Bar::show()?;
    let comparison = analysis::compare(trace, policies, &options, &bar.stop, |stage| bar.at(stage, Some(cases)));
    bar.clear();
    Ok(comparison?)
}

/// The policies asked for, or a telling few, in every combination of the axes' values.
pub(crate) fn policies(trace: &Trace, machine: &MachineArgs, axes: &[Axis]) -> anyhow::Result<Vec<Policy>> {
    let policies = match machine.policies.as_slice() {
        [] if axes.is_empty() => default_policies(trace)?,
        [] => vec![own_policy(trace)?],
        given => given.to_vec(),
    };
    Ok(replay::grid(&grown(policies, machine.dynamic)?, axes)?)
}

/// `swioscope compare`.
pub(crate) fn run_compare(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    args.fail_on.iter().try_for_each(Gate::check::<PolicyRow>)?;
    let trace = Trace::open(&args.trace)?;
    if let Some(TwoPolicies(policies)) = &args.diff {
        return diff(&trace, args, policies);
    }
    // Whoever names policies means those.
    let given = args.policies == Policies::Given || !args.machine.policies.is_empty();
    let comparison = if given {
        compare(&trace, &args.machine, &[])?
    } else {
        let policies = every_policy(&trace, args.slots)?;
        let designs = designs(&trace, args.machine.platform);
        run_policies(&trace, &args.machine, &policies, designs)?
    };
    print_differences(&comparison, args.format)?;
    Ok(super::report::gates(&args.fail_on, &comparison.rows)?.unwrap_or(ExitCode::SUCCESS))
}

/// The recorded kernel's own policy, every other generation on a pool of that size, and pools that come and go as both
/// kinds of walk have them.
fn every_policy(trace: &Trace, slots: Option<u64>) -> Result<Vec<Policy>, PolicyError> {
    let own = own_policy(trace)?;
    let mut texts = vec![own.text().to_owned()];
    for rules in GENERATIONS {
        if rules.has_high_pool() {
            let slots = slots.or(trace.meta().pool().map(|pool| pool.nslabs)).unwrap_or(32_768);
            texts.push(format!("{}:hi_nslabs={slots}", rules.id));
        } else if rules.id != own.rules().id {
            texts.push(rules.id.to_owned());
        }
    }
    texts.extend(["v6_6+dynamic", "v6_10+dynamic"].map(str::to_owned));
    let sized = |text: &String| match slots {
        None => Policy::parse(text),
        Some(slots) => Policy::parse(&format!("{text}{}nslabs={slots}", if text.contains(':') { ',' } else { ':' })),
    };
    texts.iter().map(sized).collect()
}

/// The designs for the recorded platform that are no kernel's.
fn designs(trace: &Trace, asked: Option<PlatformSpec>) -> Vec<PlatformSpec> {
    let kinds: &[PlatformKind] = match (asked, PlatformKind::of_recorded(trace.meta())) {
        (None, PlatformKind::XenPv) => &[PlatformKind::HchUnified],
        (None, PlatformKind::XenArm) => &[PlatformKind::StefanoArm, PlatformKind::HchUnified],
        _ => &[],
    };
    kinds.iter().map(|kind| (*kind).into()).collect()
}

/// The comparison with the differences in words.
fn print_differences(comparison: &Comparison, format: Format) -> anyhow::Result<()> {
    let out = &mut io::stdout();
    let differences = analysis::difference::differences(comparison);
    match format {
        Format::Csv => output::write_csv(&comparison.rows, out),
        Format::Json => {
            let mut json = as_json(comparison);
            json["differences"] = output::json_rows(&differences);
            output::print_json(&json)
        }
        Format::Table => {
            // The sentences a policy of a short comparison are said by the differences here.
            let most = if comparison.rows.len() <= FEW { 2 } else { usize::MAX };
            comparison.verdict.iter().take(most).try_for_each(|sentence| output::line(out, sentence))?;
            print_predicted(&comparison.facts)?;
            // A table of noughts would look like an answer.
            if comparison.rows.iter().any(|row| row.requests > 0) {
                output::line(out, format_args!("\n{}", sweep_table(comparison)))?;
                output::line(out, "")?;
                for (names, difference) in alike(&differences) {
                    output::line(out, format_args!("{names}: {difference}"))?;
                }
            }
            let bracketed = differences.iter().any(|row| row.difference.contains(" ("));
            let caveats = comparison.facts.caveats.iter().map(String::as_str);
            let mut notes = caveats.chain(bracketed.then_some(difference::CAVEAT));
            notes.try_for_each(|note| output::line(out, format_args!("note: {note}")))
        }
    }
}

/// The differences, those that are the same joined; with the platform where it is not the first one's.
fn alike(differences: &[DifferenceRow]) -> Vec<(String, &str)> {
    let mut out: Vec<(String, &str)> = Vec::new();
    let first = differences.first().map_or("", |row| row.platform.as_str());
    for row in differences {
        let on = if row.platform == first { String::new() } else { format!(" on {}", row.platform) };
        let name = format!("{}{on}", row.policy);
        match out.iter_mut().find(|(_, difference)| *difference == row.difference) {
            Some((names, _)) => *names = format!("{names}, {name}"),
            None => out.push((name, &row.difference)),
        }
    }
    out
}

fn diff(trace: &Trace, args: &CompareArgs, policies: &[Policy; 2]) -> anyhow::Result<ExitCode> {
    let machine = &args.machine;
    let options = CompareOptions { platform: machine.platform, designs: Vec::new(), on_fail: machine.on_fail };
    let bar = Bar::show()?;
    let pair = [&policies[0], &policies[1]];
    let diff = difference::diff(trace, pair, &options, args.limit, &bar.stop, |stage| bar.at(stage, None));
    bar.clear();
    let diff = diff?;
    let out = &mut io::stdout();
    match args.format {
        Format::Csv => output::write_csv(&diff.rows, out)?,
        Format::Json => output::print_json(&json!({
            "trace": facts_json(&diff.facts),
            "verdict": diff.verdict,
            "policies": diff.policies,
            "maps": diff.maps,
            "same": diff.same,
            "kinds": diff.kinds.iter().map(|(kind, n)| (kind.name(), *n)).collect::<std::collections::BTreeMap<_, _>>(),
            "first": diff.first.as_ref().map(output::json_row),
            "rows": output::json_rows(&diff.rows),
        }))?,
        Format::Table => print_diff(&diff)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_diff(diff: &PolicyDiff) -> anyhow::Result<()> {
    let out = &mut io::stdout();
    diff.verdict.iter().try_for_each(|sentence| output::line(out, sentence))?;
    print_predicted(&diff.facts)?;
    for (kind, n) in &diff.kinds {
        output::line(out, format_args!("  {}: {}", kind.name().replace('_', " "), trace::field::count(*n)))?;
    }
    if !diff.rows.is_empty() {
        output::line(
            out,
            format_args!(
                "\nfirst is {}, second {}\n{}",
                diff.policies[0],
                diff.policies[1],
                output::table(&diff.rows, |_| true)
            ),
        )?;
        let other_slot = |kind: &difference::DiffKind| *kind == difference::DiffKind::OtherSlot;
        let all: u64 = diff.kinds.iter().filter(|(kind, _)| !other_slot(kind)).map(|(_, n)| n).sum();
        if all > diff.rows.len() as u64 {
            let (shown, all) = (trace::field::count(diff.rows.len() as u64), trace::field::count(all));
            output::line(
                out,
                format_args!(
                    "note: the first {shown} of {all} that differ in more than their slots; --limit prints more"
                ),
            )?;
        }
    }
    diff.facts.caveats.iter().try_for_each(|caveat| output::line(out, format_args!("note: {caveat}")))
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
    let slots = trace.meta().pool().map_or(32_768, |pool| pool.nslabs);
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
    let one_platform = comparison.rows.windows(2).all(|pair| pair[0].platform == pair[1].platform);
    let columns = [
        "policy",
        if one_platform { "" } else { "platform" },
        "parameters",
        "requests",
        "failures",
        "peak_slots",
        "peak_slots_hi",
        "bounces",
        "bytes_copied",
    ];
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
