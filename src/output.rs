//! Rows to text: one table, one JSON array, one CSV, all from the field registry.

use std::fmt::Display;
use std::io::{self, Write};

#[cfg(feature = "answers")]
use analysis::query::Grid;
use anyhow::Context as _;
use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};
use serde_json::{Map, Value as Json};
#[cfg(feature = "answers")]
use trace::field::Unit;
use trace::field::{Field, Record, Type, Value};

use crate::cli::Format;

/// Any row as JSON, keys being the registry's names.
pub(crate) fn json_row<R: Record>(row: &R) -> Json {
    let pairs = R::FIELDS.iter().enumerate().map(|(i, field)| (field.name.to_owned(), json_value(&row.value(i))));
    Json::Object(pairs.collect::<Map<_, _>>())
}

/// Rows as a JSON array.
pub(crate) fn json_rows<R: Record>(rows: &[R]) -> Json {
    Json::Array(rows.iter().map(json_row).collect())
}

fn json_value(value: &Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::U64(v) => Json::from(*v),
        Value::F64(v) => Json::from(*v),
        Value::Bool(v) => Json::from(*v),
        Value::Text(v) => Json::from(v.as_ref()),
    }
}

/// Rows as CSV with a header; absent values are empty, numbers plain.
pub(crate) fn write_csv<R: Record>(rows: &[R], out: impl Write) -> anyhow::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(R::FIELDS.iter().map(|field| field.name))?;
    for row in rows {
        csv.write_record((0..R::FIELDS.len()).map(|i| match row.value(i) {
            Value::Null => String::new(),
            Value::U64(v) => v.to_string(),
            Value::F64(v) => v.to_string(),
            Value::Bool(v) => v.to_string(),
            Value::Text(v) => v.into_owned(),
        }))?;
    }
    csv.flush().context("could not write the CSV")
}

/// Rows as a table for people. Columns in which every value is absent, or zero where `keep` says it may go, are left out.
pub(crate) fn table<R: Record>(rows: &[R], keep: impl Fn(&Field) -> bool) -> String {
    let shown = |i: &usize| {
        keep(&R::FIELDS[*i]) || rows.iter().any(|row| !matches!(row.value(*i), Value::Null | Value::U64(0)))
    };
    columns(rows, &(0..R::FIELDS.len()).filter(shown).collect::<Vec<_>>())
}

/// Rows as a table of some columns, those in which every value is absent left out.
pub(crate) fn some_columns<R: Record>(rows: &[R], names: &[&str]) -> String {
    let present = |i: &usize| rows.iter().any(|row| !matches!(row.value(*i), Value::Null));
    let at = |name: &&str| R::FIELDS.iter().position(|field| field.name == *name);
    columns(rows, &names.iter().filter_map(at).filter(present).collect::<Vec<_>>())
}

fn columns<R: Record>(rows: &[R], shown: &[usize]) -> String {
    let mut table = plain_table();
    table.set_header(shown.iter().map(|&i| R::FIELDS[i].name.replace('_', " ")));
    for row in rows {
        table.add_row(shown.iter().map(|&i| R::FIELDS[i].show(&row.value(i)).to_string()));
    }
    for (column, &i) in shown.iter().enumerate() {
        if R::FIELDS[i].ty != Type::Text
            && let Some(column) = table.column_mut(column)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Rows as a table on its side, a column a row: what fits a screen when rows are few and fields are many. Fields that are
/// absent or zero in every row are left out.
#[cfg(feature = "answers")]
pub(crate) fn turned<R: Record>(rows: &[R]) -> String {
    let mut table = plain_table();
    for (i, field) in R::FIELDS.iter().enumerate() {
        if rows.iter().all(|row| matches!(row.value(i), Value::Null | Value::U64(0))) {
            continue;
        }
        let shown = rows.iter().map(|row| field.show(&row.value(i)).to_string());
        // Parameters are too wide for a column: one a line.
        let cells = shown.map(|text| if field.ty == Type::Text { text.replace(',', "\n") } else { text });
        table.add_row(std::iter::once(field.name.replace('_', " ")).chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// An answer to a question as a table for people. Where there are many columns, those empty in every row are left out.
#[cfg(feature = "answers")]
pub(crate) fn grid_table(grid: &Grid) -> String {
    let few = grid.columns.len() <= 8;
    let shown = |at: &usize| few || grid.rows.iter().any(|row| row.get(*at) != Some(&Json::Null));
    let shown: Vec<usize> = (0..grid.columns.len()).filter(shown).collect();
    let mut table = plain_table();
    table.set_header(shown.iter().map(|&at| grid.columns[at].name.replace('_', " ")));
    for row in &grid.rows {
        table.add_row(shown.iter().map(|&at| grid_cell(grid.columns[at].unit, row.get(at).unwrap_or(&Json::Null))));
    }
    for (column, &at) in shown.iter().enumerate() {
        if let Some(column) = table.column_mut(column).filter(|_| grid.columns[at].number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(feature = "answers")]
fn grid_cell(unit: Option<Unit>, cell: &Json) -> String {
    let value = match cell {
        Json::Null => Value::Null,
        Json::Bool(v) => Value::Bool(*v),
        Json::String(text) => Value::Text(text.into()),
        Json::Number(n) => match (n.as_u64(), n.as_f64()) {
            (Some(v), _) => Value::U64(v),
            // Below zero: no field of the registry is.
            (None, Some(_)) if n.is_i64() => return n.to_string(),
            // A mean of bytes is shown in bytes, a mean of times in times.
            (None, Some(v)) if v >= 1.0 && matches!(unit, Some(Unit::Bytes | Unit::Time | Unit::Duration)) => {
                Value::U64(v.round() as u64)
            }
            (None, Some(v)) => Value::F64(v),
            (None, None) => return n.to_string(),
        },
        other => return other.to_string(),
    };
    // What a question counts or adds up has no field: a count it most likely is.
    unit.unwrap_or(Unit::Count).show(&value).to_string()
}

/// An answer as a JSON array of objects, keys being the columns' names.
#[cfg(feature = "answers")]
pub(crate) fn grid_json(grid: &Grid) -> Json {
    let names = || grid.columns.iter().map(|column| column.name.clone());
    let row = |row: &Vec<Json>| Json::Object(names().zip(row.iter().cloned()).collect::<Map<_, _>>());
    Json::Array(grid.rows.iter().map(row).collect())
}

/// An answer as CSV with a header; absent values are empty, numbers plain.
#[cfg(feature = "answers")]
pub(crate) fn grid_csv(grid: &Grid, out: impl Write) -> anyhow::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(grid.columns.iter().map(|column| &column.name))?;
    for row in &grid.rows {
        csv.write_record(row.iter().map(|cell| match cell {
            Json::Null => String::new(),
            Json::String(text) => text.clone(),
            other => other.to_string(),
        }))?;
    }
    csv.flush().context("could not write the CSV")
}

/// An empty table in the house's dress, as wide as the terminal; cells that are too long wrap.
pub(crate) fn plain_table() -> Table {
    let terminal = console::Term::stdout();
    let width = terminal.size_checked().map_or(PIPE_WIDTH, |(_, columns)| columns.max(80));
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_style(TableComponent::HeaderLines, '─')
        .set_style(TableComponent::MiddleHeaderIntersections, '─')
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width);
    table
}

/// Width of a table that goes into a pipe or a file.
const PIPE_WIDTH: u16 = 160;

/// Rows in the format asked for.
pub(crate) fn print_rows<R: Record>(rows: &[R], format: Format) -> anyhow::Result<()> {
    match format {
        Format::Table => line(&mut io::stdout(), table(rows, |_| true)),
        Format::Json => print_json(&json_rows(rows)),
        Format::Csv => write_csv(rows, io::stdout()),
    }
}

/// One JSON document, indented, with a line's end.
pub(crate) fn print_json(value: &Json) -> anyhow::Result<()> {
    line(&mut io::stdout(), format_args!("{value:#}"))
}

/// Writes a line, so that a reader who went away is an error and not a panic, as it is with `println!`.
pub(crate) fn line(out: &mut impl Write, text: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(out, "{text}")?)
}
