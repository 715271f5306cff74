//! `swioscope replay`: what would have happened, policy beside policy.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use analysis::Comparison;
use analysis::verdict::label;
use anyhow::Context as _;
use flate2::read::MultiGzDecoder;
use indicatif::ProgressBar;
use replay::{Policy, Script};
use serde_json::json;
use trace::Trace;

use super::Usage;
use crate::cli::{Format, MachineArgs, ReplayArgs};
use crate::output;

pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    match &args.answers {
        Some(answers) => write_answers(args, answers),
        None if is_script(&args.input) => Err(Usage(format!(
            "{} is a file of allocator requests: add `--answers -` to see each answer, or give a trace folder to compare policies on",
            args.input.display()
        ))
        .into()),
        None => print_comparison(&compare(&Trace::open(&args.input)?, &args.machine)?, args.format),
    }
}

/// Replays a trace under the policies asked for, or under a telling few.
pub(crate) fn compare(trace: &Trace, machine: &MachineArgs) -> anyhow::Result<Comparison> {
    let policies = if machine.policies.is_empty() { default_policies(trace)? } else { machine.policies.clone() };
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.set_message("reading the trace");
    let comparison = analysis::compare(trace, &policies, machine.platform, machine.on_fail, |policy| {
        bar.set_message(format!("replaying {policy}"));
    });
    bar.finish_and_clear();
    Ok(comparison?)
}

/// The recorded kernel's own policy, the oldest allocator, and the RFC's two pools of the recorded size.
fn default_policies(trace: &Trace) -> anyhow::Result<Vec<Policy>> {
    // An unknown kernel is most likely a newer one; the comparison's notes say that it is unknown.
    let own = analysis::own_policy(trace.meta()).map_or("v6_10", |(generation, _)| generation.id);
    let slots = trace.meta().pools.first().map_or(32_768, |pool| pool.nslabs);
    let texts = [own.to_owned(), "legacy".to_owned(), format!("rfc64:hi_nslabs={slots}")];
    Ok(texts.iter().map(|text| Policy::parse(text)).collect::<Result<_, _>>()?)
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
            if let Some((total, exact)) = comparison.facts.predicted {
                let (exact, total) = (trace::field::count(exact), trace::field::count(total));
                output::line(
                    stdout,
                    format_args!("The model predicts {exact} of {total} slot choices of the recorded kernel."),
                )?;
            }
            output::line(stdout, format_args!("\n{}", output::turned(&comparison.rows)))?;
            for caveat in &comparison.facts.caveats {
                output::line(stdout, format_args!("note: {caveat}"))?;
            }
            for (row, detail) in comparison.rows.iter().zip(&comparison.details) {
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
        "trace": {
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
        },
        "verdict": comparison.verdict,
        "policies": policies.collect::<Vec<_>>(),
        "devices": output::json_rows(&comparison.devices),
    })
}

/// A plain file, whatever its name: a trace is a folder.
fn is_script(path: &Path) -> bool {
    path.is_file()
}

/// Answers a file of allocator requests, one line a request.
fn write_answers(args: &ReplayArgs, answers: &Path) -> anyhow::Result<ExitCode> {
    if args.input.is_dir() {
        return Err(Usage("--answers takes a file of allocator requests, not a trace folder".to_owned()).into());
    }
    let [policy] = args.machine.policies.as_slice() else {
        return Err(Usage("--answers takes exactly one --policy".to_owned()).into());
    };
    let mut script = Script::parse(&read_script(&args.input)?).with_context(|| args.input.display().to_string())?;
    if let Some(platform) = args.machine.platform {
        script = script.on(platform).map_err(|error| Usage(error.to_string()))?;
    }
    let mut text = String::new();
    script.answers(policy, &mut text)?;
    if answers == Path::new("-") {
        io::stdout().write_all(text.as_bytes())?;
        io::stdout().flush()?;
    } else {
        std::fs::write(answers, text).with_context(|| format!("could not write {}", answers.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of a request file, gzipped or not: told by its first bytes, not by its name.
fn read_script(path: &Path) -> anyhow::Result<String> {
    let failed = || format!("could not read {}", path.display());
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).with_context(failed)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = String::new();
        MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).with_context(failed)?;
        return Ok(text);
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not a text file of allocator requests", path.display()))
}
