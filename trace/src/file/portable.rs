//! Tables on big-endian machines.
//!
//! Parquet is little-endian everywhere, but the crate `parquet` (60) writes plain numbers, dictionaries and statistics as they
//! stand in memory. Differences and lengths it writes bit by bit, right on every machine: so on big-endian ones numbers are
//! written as differences, texts by their lengths, and statistics are not. What is left is which values are there: that too the
//! crate, and `arrow-buffer` below it, get wrong, and [`check`] finds it out before anything is recorded.

use std::path::Path;

use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::TraceError;
use super::table::{TableWriter, common};
use crate::Device;
use crate::field::{Field, Record, Type};

/// How a table is written.
pub(super) fn properties(fields: &[Field]) -> WriterProperties {
    of(common(), fields)
}

fn of(properties: WriterPropertiesBuilder, fields: &[Field]) -> WriterProperties {
    let properties = properties.set_dictionary_enabled(false).set_statistics_enabled(EnabledStatistics::None);
    let of_field = |properties: WriterPropertiesBuilder, field: &Field| {
        let encoding = match field.ty {
            Type::U64 | Type::U32 => Encoding::DELTA_BINARY_PACKED,
            Type::Text => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            Type::Bool => Encoding::PLAIN,
            // No table of a trace has one; the test sees to it.
            Type::F64 => Encoding::PLAIN,
        };
        properties.set_column_encoding(ColumnPath::from(field.name), encoding)
    };
    fields.iter().fold(properties, of_field).build()
}

/// What the columns of [`sample`] come to on a little-endian machine. They change with what `parquet` makes of them, and the
/// test tells.
const SAMPLE: u32 = 0x576b_c405;

/// Rows with every kind of column, some of whose values are not there.
fn sample() -> Vec<Device> {
    let row = |id: u32| Device {
        driver: (!id.is_multiple_of(3)).then(|| format!("driver{}", id % 7)),
        dma_mask: (!id.is_multiple_of(5)).then_some(u64::MAX >> (id % 60)),
        coherent_dma_mask: u64::from(id) << 30,
        max_segment_size: (!id.is_multiple_of(2)).then_some(id * 512),
        untrusted: (!id.is_multiple_of(4)).then_some(id % 8 == 1),
        ..Device::new(id, format!("0000:00:{id:02x}.0"))
    };
    // More than a block of anything, and no whole number of them.
    (0..1_003).map(row).collect()
}

/// The checksum of what stands before the footer, which says who wrote it.
fn columns(rows: &[Device], path: &Path) -> Result<u32, TraceError> {
    let properties = of(WriterProperties::builder().set_compression(Compression::UNCOMPRESSED), Device::FIELDS);
    let mut file = Vec::new();
    let mut table = TableWriter::with(properties, &mut file, path)?;
    table.write(rows)?;
    table.finish()?;
    let footer =
        file.last_chunk().map_or(0, |&[a, b, c, d, ..]: &[u8; 8]| u32::from_le_bytes([a, b, c, d]) as usize + 8);
    Ok(crc32fast::hash(&file[..file.len().saturating_sub(footer)]))
}

/// Whether this program's `parquet` writes what it should.
///
/// # Errors
/// [`TraceError::ByteOrder`] when it does not.
pub(super) fn check(path: &Path) -> Result<(), TraceError> {
    if columns(&sample(), path)? == SAMPLE { Ok(()) } else { Err(TraceError::ByteOrder { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::table::TableReader;
    use crate::sums::{Bucket, Occupancy, Sum};
    use crate::{Direction, Event, Op, P2mRun, SnapshotSlot, StackFrame, Task};

    #[test]
    fn no_table_has_numbers_that_would_be_plain() {
        let tables: [&[Field]; 9] = [
            Event::FIELDS,
            Device::FIELDS,
            Task::FIELDS,
            StackFrame::FIELDS,
            SnapshotSlot::FIELDS,
            P2mRun::FIELDS,
            Sum::FIELDS,
            Bucket::FIELDS,
            Occupancy::FIELDS,
        ];
        assert!(tables.iter().all(|fields| fields.iter().all(|field| field.ty != Type::F64)));
    }

    #[test]
    fn columns_are_what_a_big_endian_machine_compares_its_own_with() {
        assert_eq!(columns(&sample(), Path::new("x")).unwrap(), SAMPLE);
        check(Path::new("x")).unwrap();
    }

    #[test]
    fn a_portable_table_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let event = |at: u64| {
            let sized =
                Event { size: (!at.is_multiple_of(3)).then_some(at << 40), ..Event::new(Op::Map, at * 7, 1, 2, 0) };
            Event { direction: (!at.is_multiple_of(5)).then_some(Direction::ToDevice), ..sized }
        };
        let events: Vec<_> = (0..20_000).map(event).collect();
        let file = std::fs::File::create(&path).unwrap();
        let mut table = TableWriter::with(properties(Event::FIELDS), file, &path).unwrap();
        table.write(&events).unwrap();
        table.finish().unwrap();
        let table = TableReader::<Event>::open(&path).unwrap();
        assert_eq!((table.minimum("time_ns"), table.row_count()), (None, 20_000));
        assert_eq!(table.rows().unwrap().collect::<Result<Vec<_>, _>>().unwrap(), events);
    }
}
