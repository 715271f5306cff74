//! Traces and tables as polars frames.

use polars::prelude::*;
use trace::field::{Record, Type, Value};
use trace::{Event, Trace};

use crate::AnalysisError;

/// The events of a trace as a lazy frame, one column a field of [`Event`].
///
/// Sealed segments are scanned where they lie (only the columns a query needs are read); a trace whose recorder died
/// still has an open segment, and is read through memory instead.
///
/// # Errors
/// When the trace cannot be read.
pub fn events(trace: &Trace) -> Result<LazyFrame, AnalysisError> {
    if trace.has_open_segment() {
        let rows = trace.events().collect::<Result<Vec<Event>, _>>()?;
        return Ok(frame(&rows)?.lazy());
    }
    let paths = trace
        .event_files()
        .iter()
        .map(|path| path.to_str().map(PlRefPath::from).ok_or_else(|| AnalysisError::PathNotText(path.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    if paths.is_empty() {
        return Ok(frame::<Event>(&[])?.lazy());
    }
    // The names are the files' own: `*` and `[` in a folder's name mean themselves.
    let literal = ScanArgsParquet { glob: false, ..ScanArgsParquet::default() };
    whole(LazyFrame::scan_parquet_files(paths.into(), literal)?)
}

/// Adds the columns that came with a later version of the format, which are absent throughout.
fn whole(mut events: LazyFrame) -> Result<LazyFrame, AnalysisError> {
    let schema = events.collect_schema()?;
    let missing = Event::FIELDS.iter().filter(|field| !schema.contains(field.name));
    let absent = missing.map(|field| {
        let stored = match field.ty {
            Type::U64 => DataType::UInt64,
            Type::U32 => DataType::UInt32,
            Type::F64 => DataType::Float64,
            Type::Bool => DataType::Boolean,
            Type::Text => DataType::String,
        };
        lit(NULL).cast(stored).alias(field.name)
    });
    let absent: Vec<_> = absent.collect();
    Ok(if absent.is_empty() { events } else { events.with_columns(absent) })
}

/// Rows of any registered table as a frame.
///
/// # Errors
/// Only if polars refuses the columns, which would be a defect.
pub fn frame<R: Record>(rows: &[R]) -> Result<DataFrame, AnalysisError> {
    let columns = R::FIELDS.iter().enumerate().map(|(i, field)| {
        let name = PlSmallStr::from_static(field.name);
        let values = rows.iter().map(|row| row.value(i));
        match field.ty {
            Type::U64 => Column::new(name, values.map(|v| number(&v)).collect::<Vec<_>>()),
            Type::U32 => {
                Column::new(name, values.map(|v| number(&v).and_then(|n| u32::try_from(n).ok())).collect::<Vec<_>>())
            }
            Type::F64 => Column::new(
                name,
                values.map(|v| if let Value::F64(x) = v { Some(x) } else { None }).collect::<Vec<_>>(),
            ),
            Type::Bool => Column::new(
                name,
                values.map(|v| if let Value::Bool(x) = v { Some(x) } else { None }).collect::<Vec<_>>(),
            ),
            Type::Text => Column::new(
                name,
                values.map(|v| if let Value::Text(x) = v { Some(x.into_owned()) } else { None }).collect::<Vec<_>>(),
            ),
        }
    });
    Ok(DataFrame::new(rows.len(), columns.collect())?)
}

fn number(value: &Value<'_>) -> Option<u64> {
    match value {
        Value::U64(v) => Some(*v),
        _ => None,
    }
}
