//! Questions in SQL, or in the filter language, over a trace's own tables.
//!
//! SQL is polars': only the columns a question needs are read. A filter is run row by row over the merged events, so that
//! each comes with its number in the trace, which `swioscope explain --event` takes.

use polars::prelude::*;
use polars::sql::SQLContext;
use serde_json::{Number, Value as Json};
use trace::field::{Field, Record, Unit, Value};
use trace::sums::{Bucket, Occupancy, Sum};
use trace::{Device, Event, Filter, Names, P2mRun, PoolKind, SnapshotSlot, StackFrame, Task, Trace};

use crate::explain::{self, FailureRow};
use crate::{AnalysisError, frames};

trace::record! {
    /// A bounce pool as recording found it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PoolRow {
        /// Which pool; 0 is the default one, where there is one.
        pool: u32 => Index,
        /// What it is for.
        kind: PoolKind => Text,
        /// Whose it is: as the devices' `pool` has it; of a transient one its device's name.
        name: String => Text,
        /// Address of its first slot.
        start: u64 => Address,
        /// Slots it has.
        nslabs: u64 => Slots,
        /// Areas it is divided into.
        nareas: u32 => Count,
        /// Every mapping goes through it.
        force_bounce: bool => Flag,
        /// The kernel may add pools.
        can_grow: bool => Flag,
        /// Slots in use when recording began; absent when they could not be read.
        used: Option<u64> => Slots,
    }
}

/// A table that can be asked.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name in SQL.
    pub name: &'static str,
    /// What it holds.
    pub doc: &'static str,
    /// Its columns.
    pub fields: &'static [Field],
}

/// Every table, also those a given trace has no rows of.
pub const TABLES: &[Table] = &[
    table::<Event>("events", "what happened, a row an event"),
    table::<Device>("devices", "the devices that events refer to"),
    table::<FailureRow>("failures", "slots or mappings the recorded kernel refused, with the arithmetic"),
    table::<PoolRow>("pools", "the bounce pools"),
    table::<SnapshotSlot>("snapshot", "slots in use when recording began"),
    table::<Task>("tasks", "threads, their processes and names"),
    table::<StackFrame>("stacks", "kernel stacks, a row a call"),
    table::<P2mRun>("p2m", "Xen's frame table"),
    table::<Sum>("sums", "what an aggregate recording came to"),
    table::<Bucket>("histograms", "its histograms"),
    table::<Occupancy>("occupancy", "its slots in use over time"),
];

const fn table<R: Record>(name: &'static str, doc: &'static str) -> Table {
    Table { name, doc, fields: R::FIELDS }
}

trace::record! {
    /// A column that can be asked for.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ColumnRow {
        /// Its table.
        table: String => Text,
        /// Its name.
        column: String => Text,
        /// How it is stored.
        stored: String => Text,
        /// What it is measured in.
        unit: String => Text,
        /// What it means.
        meaning: String => Text,
    }
}

/// Every column of every table, as the registry has them.
#[must_use]
pub fn columns() -> Vec<ColumnRow> {
    let of = |table: &Table| {
        let name = table.name;
        table.fields.iter().map(move |field| ColumnRow {
            table: name.to_owned(),
            column: field.name.to_owned(),
            stored: field.ty.name().to_owned(),
            unit: field.unit.name().to_owned(),
            meaning: field.doc.to_owned(),
        })
    };
    TABLES.iter().flat_map(of).collect()
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The unit of the registry's field of that name; nothing when it is the question's own.
    pub unit: Option<Unit>,
    /// Whether its values are numbers.
    pub number: bool,
}

/// An answer: rows of plain values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows, a value a column.
    pub rows: Vec<Vec<Json>>,
    /// There are more rows than were asked for.
    pub more: bool,
    /// Rows in all, where they were counted.
    pub total: Option<u64>,
}

/// Whether a question is SQL; what is not is a filter over the events.
#[must_use]
pub fn is_sql(question: &str) -> bool {
    let first = question.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let word = first.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_lowercase();
    matches!(word.as_str(), "select" | "with" | "show" | "from" | "describe" | "create" | "drop" | "delete" | "insert")
}

/// Answers a question with so many rows at most; with all when nothing is said. SQL that only reads is run whatever it
/// costs; a filter reads the events once.
///
/// # Errors
/// When the question is neither SQL nor a filter, names what is not there, or the trace cannot be read.
pub fn query(trace: &Trace, question: &str, limit: Option<usize>) -> Result<Grid, AnalysisError> {
    if is_sql(question) { sql(trace, question, limit) } else { filter(trace, question, limit) }
}

/// The events that pass a filter, with their numbers.
fn filter(trace: &Trace, text: &str, limit: Option<usize>) -> Result<Grid, AnalysisError> {
    let filter = Filter::<Event>::parse(text)?.resolved(&Names::of(trace));
    let mut columns = vec![Column { name: "event".to_owned(), unit: Some(Unit::Index), number: true }];
    columns.extend(Event::FIELDS.iter().map(|field| Column {
        name: field.name.to_owned(),
        unit: Some(field.unit),
        number: field.ty != trace::field::Type::Text,
    }));
    let mut grid = Grid { columns, ..Grid::default() };
    let mut total = 0u64;
    for (number, event) in (0u64..).zip(trace.events()) {
        let event = event?;
        if !filter.matches(&event) {
            continue;
        }
        total += 1;
        if limit.is_some_and(|limit| grid.rows.len() >= limit) {
            grid.more = true;
            continue;
        }
        let cells = (0..Event::FIELDS.len()).map(|i| cell(&event.value(i)));
        grid.rows.push(std::iter::once(Json::from(number)).chain(cells).collect());
    }
    grid.total = Some(total);
    Ok(grid)
}

fn cell(value: &Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::U64(v) => Json::from(*v),
        Value::F64(v) => Number::from_f64(*v).map_or(Json::Null, Json::Number),
        Value::Bool(v) => Json::from(*v),
        Value::Text(v) => Json::from(v.as_ref()),
    }
}

fn sql(trace: &Trace, question: &str, limit: Option<usize>) -> Result<Grid, AnalysisError> {
    let lower = question.to_ascii_lowercase();
    let first = lower.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    if first.starts_with("describe") {
        let what = "columns are listed by `swioscope query --tables`".to_owned();
        return Err(AnalysisError::Query { what, hint: hint(&lower) });
    }
    if ["create", "drop", "delete", "insert"].iter().any(|word| first.starts_with(word)) {
        return Err(AnalysisError::Query {
            what: "a trace is only read: ask with SELECT".to_owned(),
            hint: hint(&lower),
        });
    }
    let mut context = SQLContext::new();
    for table in TABLES.iter().filter(|table| lower.contains(table.name) || first.starts_with("show")) {
        context.register(table.name, rows(trace, table.name)?);
    }
    let failed = |error: PolarsError| AnalysisError::Query { what: plainly(&error), hint: hint(&lower) };
    // polars leaves some of SQL to panics; a question must not end the program.
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let frame = context.execute(question)?;
        match limit {
            Some(limit) => frame.limit(u32::try_from(limit).unwrap_or(u32::MAX).saturating_add(1)).collect(),
            None => frame.collect(),
        }
    }));
    let frame = match answer {
        Ok(frame) => frame.map_err(failed)?,
        Err(_) => {
            let what = "this SQL is more than the engine can do; ask in a simpler way".to_owned();
            return Err(AnalysisError::Query { what, hint: hint(&lower) });
        }
    };
    grid(&frame, limit)
}

/// The rows of a table, read when they are needed.
fn rows(trace: &Trace, name: &str) -> Result<LazyFrame, AnalysisError> {
    let sums = || trace.sums();
    let frame = match name {
        "events" => return frames::events(trace),
        "devices" => frames::frame(trace.devices()),
        "failures" => frames::frame(&explain::failures(trace, usize::MAX)?.rows),
        "pools" => frames::frame(&pools(trace)),
        "snapshot" => frames::frame(trace.snapshot()),
        "tasks" => frames::frame(trace.tasks()),
        "stacks" => frames::frame(trace.stacks()),
        "p2m" => frames::frame(trace.p2m()),
        "sums" => frames::frame(&sums()?.sums),
        "histograms" => frames::frame(&sums()?.histograms),
        _ => frames::frame(&sums()?.occupancy),
    };
    Ok(frame?.lazy())
}

fn pools(trace: &Trace) -> Vec<PoolRow> {
    let row = |(at, pool): (u32, &trace::Pool)| PoolRow {
        pool: at,
        kind: pool.kind,
        name: pool.name.clone(),
        start: pool.start,
        nslabs: pool.nslabs,
        nareas: pool.nareas,
        force_bounce: pool.force_bounce,
        can_grow: pool.can_grow,
        used: (!pool.areas.is_empty()).then(|| pool.areas.iter().map(|area| area.used).sum()),
    };
    (0..).zip(&trace.meta().pools).map(row).collect()
}

fn grid(frame: &DataFrame, limit: Option<usize>) -> Result<Grid, AnalysisError> {
    let unit = |name: &str| {
        TABLES.iter().flat_map(|table| table.fields).find(|field| field.name == name).map(|field| field.unit)
    };
    let height = limit.map_or(frame.height(), |limit| frame.height().min(limit));
    let columns = frame.columns().iter().map(|column| {
        let number = column.dtype().is_primitive_numeric();
        // A unit makes sense of numbers and flags only where they are the field's own kind.
        Column { name: column.name().to_string(), unit: unit(column.name()), number }
    });
    let columns: Vec<_> = columns.collect();
    let mut rows = Vec::with_capacity(height);
    for at in 0..height {
        let cells = frame.columns().iter().map(|column| Ok(any(&column.get(at)?)));
        rows.push(cells.collect::<Result<Vec<_>, PolarsError>>()?);
    }
    Ok(Grid { columns, rows, more: frame.height() > height, total: None })
}

fn any(value: &AnyValue<'_>) -> Json {
    let real = |v: f64| Number::from_f64(v).map_or(Json::Null, Json::Number);
    match value {
        AnyValue::Null => Json::Null,
        AnyValue::Boolean(v) => Json::from(*v),
        AnyValue::String(v) => Json::from(*v),
        AnyValue::StringOwned(v) => Json::from(v.as_str()),
        AnyValue::Float32(v) => real(f64::from(*v)),
        AnyValue::Float64(v) => real(*v),
        AnyValue::List(list) => {
            Json::Array((0..list.len()).map(|i| list.get(i).map_or(Json::Null, |item| any(&item))).collect())
        }
        other => match (other.extract::<u64>(), other.extract::<i64>()) {
            (Some(v), _) => Json::from(v),
            (None, Some(v)) => Json::from(v),
            (None, None) => Json::from(other.to_string()),
        },
    }
}

/// What polars said, without what only its developers know.
fn plainly(error: &PolarsError) -> String {
    let text = match error {
        PolarsError::Context { error, .. } => return plainly(error),
        PolarsError::ExprContext { error, .. } => return plainly(error),
        PolarsError::ColumnNotFound(what) | PolarsError::SchemaFieldNotFound(what) => {
            let what = what.to_string();
            let name = what.split('"').nth(1).unwrap_or(&what);
            return format!("no column `{name}`");
        }
        PolarsError::SQLInterface(what) | PolarsError::SQLSyntax(what) => what.to_string(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().trim_end_matches([':', ' ']).to_owned()
}

/// The columns of the tables a question names, or the tables if it names none.
fn hint(question: &str) -> String {
    let named: Vec<_> = TABLES.iter().filter(|table| question.contains(table.name)).collect();
    if named.is_empty() {
        return format!("tables: {}", TABLES.iter().map(|table| table.name).collect::<Vec<_>>().join(", "));
    }
    let columns = |table: &&Table| {
        let columns: Vec<_> = table.fields.iter().map(|field| field.name).collect();
        format!("{}: {}", table.name, columns.join(", "))
    };
    named.iter().map(columns).collect::<Vec<_>>().join("\n")
}
