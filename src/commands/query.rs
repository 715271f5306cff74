//! `swioscope query`: SQL over a trace's tables, or a filter over its events.

use std::io;
use std::process::ExitCode;

use analysis::query::{self, Grid, TABLES};
use anyhow::Context as _;
use serde_json::Value as Json;
use trace::Trace;
use trace::field::{Unit, count};

use crate::cli::{Format, QueryArgs};
use crate::output;

pub(crate) fn run(args: &QueryArgs) -> anyhow::Result<ExitCode> {
    if args.tables {
        return tables(args.format);
    }
    let (path, question) = args.trace.as_ref().zip(args.question.as_ref()).context("give a trace and a question")?;
    let trace = Trace::open(path)?;
    let limit = (args.limit > 0).then_some(args.limit);
    let answer = quietly(|| query::query(&trace, question, limit))?;
    let out = &mut io::stdout();
    match args.format {
        Format::Json => output::print_json(&output::grid_json(&answer))?,
        Format::Csv => output::grid_csv(&answer, &mut *out)?,
        Format::Table if answer.rows.is_empty() => output::line(out, "no rows")?,
        Format::Table => output::line(out, output::grid_table(&named(&answer, &trace)))?,
    }
    // On standard error where the rows are for programs.
    let notes = notes(&answer, &trace, question, args.limit);
    for note in notes {
        match args.format {
            Format::Table => output::line(out, format_args!("note: {note}"))?,
            Format::Json | Format::Csv => eprintln!("note: {note}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the rows do not say.
fn notes(answer: &Grid, trace: &Trace, question: &str, limit: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if answer.more {
        let of = answer.total.map_or_else(String::new, |total| format!(" of {}", count(total)));
        notes.push(format!("the first {} rows{of}; --limit 0 prints all", count(limit as u64)));
    }
    let meta = trace.meta();
    let lost = meta.losses.events();
    if lost > 0 {
        notes.push(format!("{} events were lost while recording and are in no count", count(lost)));
    }
    notes.extend(meta.capture.partial());
    if query::is_sql(question) && question.to_ascii_lowercase().contains("failures") && meta.pools.is_empty() {
        notes.push("the recorded machine has no bounce pool".to_owned());
    }
    notes
}

/// The rows with names in place of the devices' keys, for people.
fn named(answer: &Grid, trace: &Trace) -> Grid {
    let mut answer = answer.clone();
    let Some(at) = answer.columns.iter().position(|column| column.name == "device" && column.unit == Some(Unit::Id))
    else {
        return answer;
    };
    for cell in answer.rows.iter_mut().filter_map(|row| row.get_mut(at)) {
        let Some(key) = cell.as_u64() else { continue };
        if let Some(device) = trace.devices().iter().find(|device| u64::from(device.id) == key) {
            *cell = Json::from(device.name.as_str());
        } else if key == u64::from(trace::event::NO_DEVICE) {
            *cell = Json::Null;
        }
    }
    answer.columns[at].number = false;
    answer
}

/// Runs something whose panics are caught and told as errors; nothing else of them is printed.
fn quietly<T>(ask: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let answer = ask();
    std::panic::set_hook(hook);
    answer
}

fn tables(format: Format) -> anyhow::Result<ExitCode> {
    let columns = query::columns();
    if format != Format::Table {
        output::print_rows(&columns, format)?;
        return Ok(ExitCode::SUCCESS);
    }
    let out = &mut io::stdout();
    for table in TABLES {
        output::line(out, format_args!("{}: {}", table.name, table.doc))?;
        let rows: Vec<_> = columns.iter().filter(|column| column.table == table.name).cloned().collect();
        output::line(out, format_args!("{}\n", output::some_columns(&rows, &["column", "stored", "unit", "meaning"])))?;
    }
    output::line(
        out,
        "A question that is no SQL is a filter over the events; docs/filters.md has its language. In SQL, a column whose name is a\nword of SQL stands in double quotes: \"offset\".",
    )?;
    Ok(ExitCode::SUCCESS)
}
