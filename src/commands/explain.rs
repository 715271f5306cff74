//! `swioscope explain`: one refused or bounced mapping told as a story, or all refusals in a list.

use std::io;
use std::process::ExitCode;

use analysis::explain::{ExplainOptions, Explainer, Failures, Story};
use serde_json::json;
use trace::Trace;
use trace::field::count;

use super::progress::Bar;
use crate::cli::{ExplainArgs, Format};
use crate::output;

/// Stories told when nobody says how many.
const STORIES: usize = 3;
/// Refusals listed when nobody says how many.
const LISTED: usize = 50;
/// Refusals looked at for the first of each kind.
const LOOKED_AT: usize = 1000;

pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let trace = Trace::open(&args.trace)?;
    let options = ExplainOptions { policy: args.policy.clone(), platform: args.platform, on_fail: args.on_fail };
    let explainer = Explainer::new(&trace, &options);
    let bar = Bar::show()?;
    bar.says("reading the trace");
    if args.failures || args.format == Format::Csv {
        let limit = args.limit.unwrap_or(LISTED);
        let failures = explainer.failures(if limit == 0 { usize::MAX } else { limit });
        bar.clear();
        return list(&failures?, args.format);
    }
    let told = tell(&explainer, args, &bar);
    bar.clear();
    let (stories, rest) = told?;
    match args.format {
        Format::Json => {
            let stories: Vec<_> = stories.iter().map(story_json).collect();
            output::print_json(&json!({ "stories": stories, "refusals": rest.total }))?;
        }
        Format::Table | Format::Csv => print(&stories, &rest, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The stories asked for, and what they stand for.
fn tell(explainer: &Explainer<'_>, args: &ExplainArgs, bar: &Bar) -> anyhow::Result<(Vec<(Story, u64)>, Failures)> {
    if let Some(event) = args.event {
        bar.says("replaying what came before");
        return Ok((vec![(explainer.story(event, &bar.stop)?, 1)], Failures::default()));
    }
    let failures = explainer.failures(LOOKED_AT)?;
    bar.says("replaying what came before");
    let most = match args.limit {
        Some(0) => usize::MAX,
        limit => limit.unwrap_or(STORIES),
    };
    let typical: Vec<(u64, u64)> = failures.typical().into_iter().map(|(row, n)| (row.event, n)).collect();
    let mut stories = Vec::new();
    for (event, n) in typical.into_iter().take(most) {
        stories.push((explainer.story(event, &bar.stop)?, n));
    }
    if let (true, true, Some(event)) = (stories.is_empty(), args.policy.is_none(), explainer.first_bounce()?) {
        stories.push((explainer.story(event, &bar.stop)?, 1));
    }
    Ok((stories, failures))
}

fn print(stories: &[(Story, u64)], failures: &Failures, args: &ExplainArgs) -> anyhow::Result<()> {
    let out = &mut io::stdout();
    if args.event.is_none() {
        let by =
            args.policy.as_ref().map_or_else(|| "The recorded kernel".to_owned(), |policy| policy.text().to_owned());
        output::line(out, summary(failures, &by, stories))?;
    }
    for (story, n) in stories {
        let like = if *n > 1 { format!("  (the first of {} alike)\n", count(*n)) } else { String::new() };
        let gap = if args.event.is_none() { "\n" } else { "" };
        output::line(out, format_args!("{gap}{like}{}", story.text().trim_end()))?;
    }
    for note in failures.notes.iter().filter(|_| stories.is_empty()) {
        output::line(out, format_args!("note: {note}"))?;
    }
    Ok(())
}

fn summary(failures: &Failures, by: &str, stories: &[(Story, u64)]) -> String {
    let causes: Vec<_> =
        failures.causes.iter().map(|(cause, n)| format!("{} {}", count(*n), cause.replace('_', " "))).collect();
    match (failures.total, stories.is_empty()) {
        (0, true) => format!("{by} refused nothing, and nothing bounced."),
        (0, false) => format!("{by} refused nothing; this is the first bounce."),
        (total, _) => {
            let first = if total > failures.rows.len() as u64 {
                format!("; of the first {}", count(failures.rows.len() as u64))
            } else {
                String::new()
            };
            format!("{by} refused {}{first}: {}.", count(total), causes.join(", "))
        }
    }
}

fn story_json((story, alike): &(Story, u64)) -> serde_json::Value {
    let mut value = serde_json::to_value(story).unwrap_or_default();
    value["alike"] = (*alike).into();
    value["trace"] = super::compare::facts_json(&story.facts);
    value
}

fn list(failures: &Failures, format: Format) -> anyhow::Result<ExitCode> {
    let out = &mut io::stdout();
    match format {
        Format::Csv => output::write_csv(&failures.rows, &mut *out)?,
        Format::Json => output::print_json(&json!({
            "total": failures.total,
            "causes": failures.causes.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "failures": output::json_rows(&failures.rows),
            "notes": failures.notes,
        }))?,
        Format::Table if failures.rows.is_empty() => output::line(out, "nothing was refused")?,
        Format::Table => {
            let columns = ["event", "time_ns", "device_name", "driver", "cpu", "size", "cause", "explanation"];
            output::line(out, output::some_columns(&failures.rows, &columns))?;
            if failures.total > failures.rows.len() as u64 {
                let shown = count(failures.rows.len() as u64);
                output::line(
                    out,
                    format_args!("note: the first {shown} of {}; --limit 0 prints all", count(failures.total)),
                )?;
            }
        }
    }
    if format == Format::Table {
        for note in &failures.notes {
            output::line(out, format_args!("note: {note}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
