//! Everything that can be wrong with a trace, each with what to do about it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::field::Mismatch;
use crate::meta::{FORMAT, Format};

/// Why a trace could not be written or read. Each message is a whole sentence, but for [`TraceError::Io`], whose reason
/// is its source (`{:#}` of anyhow prints both).
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// There is nothing at the path.
    #[error("there is no trace at `{}`: check the name, or record one with `swioscope record -o {0}`", .path.display())]
    Missing {
        /// The path asked for.
        path: PathBuf,
    },
    /// The path is a file; a trace is a folder.
    #[error("`{}` is not a trace but {looks_like}: a trace is a folder, give the NAME.swio folder itself", .path.display())]
    NotAFolder {
        /// The path asked for.
        path: PathBuf,
        /// What the file is, by its first bytes.
        looks_like: &'static str,
    },
    /// The folder has no meta.json.
    #[error("`{}` is a folder but not a trace, it has no meta.json: give the NAME.swio folder itself", .path.display())]
    NotATrace {
        /// The path asked for.
        path: PathBuf,
    },
    /// meta.json belongs to another program.
    #[error("`{}` is not a swioscope trace, its meta.json is by {found}: give a folder made by `swioscope record`", .path.display())]
    OtherTool {
        /// The path asked for.
        path: PathBuf,
        /// What meta.json says it is by.
        found: String,
    },
    /// The trace is of a later major format than this crate reads.
    #[error(
        "`{}` is a trace of format {}.{}, this swioscope reads {}.x: use a newer swioscope",
        .path.display(), .found.major, .found.minor, FORMAT.major
    )]
    Newer {
        /// The path asked for.
        path: PathBuf,
        /// Its format.
        found: Format,
    },
    /// meta.json is damaged.
    #[error("`{}` cannot be understood ({reason}): the trace was changed or damaged, restore it from a copy", .path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// Where it fails.
        reason: serde_json::Error,
    },
    /// A file that belongs to every trace is not there.
    #[error("`{}` is missing: the trace was copied or unpacked incompletely, copy it again", .path.display())]
    Incomplete {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A table is not whole Parquet.
    #[error("`{}` is not the Parquet table it should be but {what}: restore it from a copy of the trace", .path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What it is, or what is wrong with it.
        what: String,
    },
    /// A table lacks a column, or has it with another type.
    #[error("`{}` has no column `{column}` of type {wanted}: it was made by another program or changed", .path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column's name.
        column: &'static str,
        /// The type it should have.
        wanted: &'static str,
    },
    /// A row does not say anything that makes sense.
    #[error("`{}`, row {row}: {reason}: the trace was changed or damaged, restore it from a copy", .path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: u64,
        /// The value that does not fit.
        reason: Mismatch,
    },
    /// The segment being written is of a version this crate does not know.
    #[error(
        "`{}` is an open segment of version {found}, this swioscope reads version {}: use the swioscope that recorded it",
        .path.display(), super::open_segment::VERSION
    )]
    OpenVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The place to write to is taken.
    #[error("`{}` exists already: choose another name, or remove it first", .path.display())]
    Exists {
        /// The path asked for.
        path: PathBuf,
    },
    /// The segment being written has lost its name.
    #[error("`{}`, or the file in it, was removed while it was being written: what came since is lost, record again", .path.display())]
    Removed {
        /// The trace.
        path: PathBuf,
    },
    /// The folder to write the trace into is not there.
    #[error("cannot create `{}`, the folder it should go into does not exist: create that first", .path.display())]
    NoParent {
        /// The path asked for.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {doing} `{}`", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Parquet as this program was built with would not be Parquet.
    #[error("cannot write `{}`: this big-endian machine needs a crate `parquet` that writes numbers in Parquet's byte order; build swioscope with one that does", .path.display())]
    ByteOrder {
        /// The trace to be written.
        path: PathBuf,
    },
    /// The thread that seals segments died.
    #[error("sealing `{}` stopped unexpectedly: its events are safe in the .open file beside it; please report this", .path.display())]
    Sealer {
        /// The segment that was being sealed.
        path: PathBuf,
    },
}

impl TraceError {
    /// An error of the operating system, with what was being done to which file.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    /// A table that Parquet cannot read: says what the file is when it is not Parquet at all.
    pub(crate) fn table(path: &Path, error: &parquet::errors::ParquetError) -> Self {
        let what = match looks_like(path) {
            PARQUET => format!("a truncated or damaged Parquet file ({error})"),
            other => other.to_owned(),
        };
        Self::Table { path: path.to_owned(), what }
    }

    /// A table whose bytes are not those that were written.
    pub(crate) fn damaged(path: &Path) -> Self {
        let what = "a damaged one (its checksum does not match)".to_owned();
        Self::Table { path: path.to_owned(), what }
    }
}

const PARQUET: &str = "a Parquet file";

/// What a file is, judged by its first bytes, for people who gave the wrong one.
pub(crate) fn looks_like(path: &Path) -> &'static str {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(512).read_to_end(&mut head));
    match (read, head.as_slice()) {
        (Err(_), _) => "a file that cannot be read",
        (_, []) => "an empty file",
        (_, [b'P', b'A', b'R', b'1', ..]) => PARQUET,
        (_, [0x1f, 0x8b, ..]) => "a gzip file",
        (_, [0x28, 0xb5, 0x2f, 0xfd, ..]) => "a zstd file",
        (_, [b'P', b'K', 3, 4, ..]) => "a zip archive",
        (_, [0x7f, b'E', b'L', b'F', ..]) => "a program",
        (_, [b'{' | b'[', ..]) => "a JSON file",
        (_, text) if is_text(text) && text.contains(&b',') => "a CSV or text file",
        (_, text) if is_text(text) => "a text file",
        (_, bytes) if bytes.get(257..262) == Some(b"ustar") => "a tar archive (unpack it first)",
        _ => "a file of an unknown kind",
    }
}

fn is_text(head: &[u8]) -> bool {
    // A character cut in two by the end of the head is still text.
    let text = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(e) => e.error_len().is_none() && e.valid_up_to() > 0,
    };
    text && !head.contains(&0)
}
