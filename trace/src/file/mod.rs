//! The trace on disk: a folder of `meta.json` and Parquet tables, and the segment being written.
//!
//! | module | what lives there |
//! |---|---|
//! | [`writer`] | [`Writer`]: makes a trace; what it has flushed survives a SIGKILL |
//! | [`reader`] | [`Trace`]: opens one, checks it, yields its events in time order |
//! | [`table`] | any [`Record`](crate::Record) as a Parquet table, columns matched by name |
//! | `portable` | the same on big-endian machines |
//! | `tables` | those that are kept whole, and which of them have changed |
//! | [`open_segment`] | the frames events are kept in until a segment is sealed as Parquet |
//! | [`error`] | [`TraceError`]: everything that can be wrong with a trace, and what to do |
//!
//! The format is written down in docs/trace-format.md.

#[cfg(test)]
mod tests;

mod checksum;
pub mod error;
pub mod open_segment;
mod portable;
pub mod reader;
pub mod table;
mod tables;
pub mod writer;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

pub use error::TraceError;
pub use reader::{Events, Place, Recovered, Trace};
pub use writer::Writer;

/// Host, kernel, capture settings, losses.
pub const META: &str = "meta.json";
/// The segment being written.
pub const OPEN: &str = "events.open";
/// The devices seen.
pub const DEVICES: &str = "devices.parquet";
/// The threads seen; absent in traces before 1.1.
pub const TASKS: &str = "tasks.parquet";
/// The kernel stacks that events name; absent when none was taken.
pub const STACKS: &str = "stacks.parquet";
/// The sums of an aggregate recording; absent from any other.
pub const SUMS: &str = "sums.parquet";
/// Its histograms.
pub const HISTOGRAMS: &str = "histograms.parquet";
/// Slots in use over time, where the pool was looked at from time to time.
pub const OCCUPANCY: &str = "occupancy.parquet";
/// Slots in use when recording began; absent when there was no snapshot.
pub const SNAPSHOT: &str = "snapshot.parquet";
/// Xen's frame table as far as it was seen; absent elsewhere.
pub const P2M: &str = "p2m.parquet";

/// The file of sealed segment `number`.
#[must_use]
pub fn sealed_name(number: u32) -> String {
    format!("events-{number:05}.parquet")
}

/// The file of segment `number` while it waits to be sealed.
fn waiting_name(number: u32) -> String {
    format!("events-{number:05}.open")
}

/// The number in the name of a sealed segment; `None` for any other file.
fn sealed_number(name: &str) -> Option<u32> {
    name.strip_prefix("events-")?.strip_suffix(".parquet")?.parse().ok()
}

/// Whether a file of this name holds a segment not yet sealed.
fn is_open_segment(name: &str) -> bool {
    name.starts_with("events") && name.ends_with(".open")
}

/// Every table that is not events.
const TABLES: [&str; 8] = [DEVICES, TASKS, STACKS, SNAPSHOT, P2M, SUMS, HISTOGRAMS, OCCUPANCY];

/// Removes a trace: its files and, when nothing else lies in it, its folder. What is not a trace's stays.
///
/// # Errors
/// When there is no trace, or something cannot be removed.
pub fn remove(path: &Path) -> Result<(), TraceError> {
    reader::read_meta(path)?;
    let gone = |path: &Path, done: std::io::Result<()>| done.map_err(|e| TraceError::io("remove", path, e));
    for entry in fs::read_dir(path).map_err(|e| TraceError::io("list", path, e))?.flatten() {
        if is_ours(&entry.file_name().to_string_lossy()) {
            gone(&entry.path(), fs::remove_file(entry.path()))?;
        }
    }
    gone(path, fs::remove_dir(path))
}

/// Whether a file of this name in a trace's folder is part of the trace.
fn is_ours(name: &str) -> bool {
    let stem = name.strip_suffix(".tmp").unwrap_or(name);
    stem == META || TABLES.contains(&stem) || sealed_number(stem).is_some() || is_open_segment(stem)
}

/// Writes a file so that a reader sees either the old or the new one, never half: a temporary beside it, then a rename.
/// Returns the file's length in bytes. The temporary is removed when something fails.
fn replace(path: &Path, fill: impl FnOnce(&mut File) -> Result<(), TraceError>) -> Result<u64, TraceError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let write = || {
        let mut file = File::create(&temporary).map_err(|e| TraceError::io("create", &temporary, e))?;
        fill(&mut file)?;
        // Without this a power cut could leave the new name with nothing behind it.
        file.sync_all().map_err(|e| TraceError::io("write", &temporary, e))?;
        let length = file.metadata().map_err(|e| TraceError::io("look at", &temporary, e))?.len();
        fs::rename(&temporary, path).map_err(|e| TraceError::io("put in place", path, e))?;
        Ok(length)
    };
    write().inspect_err(|_| {
        // Best effort: the error that brought us here is the one to report.
        let _ = fs::remove_file(&temporary);
    })
}

/// [`replace`] for bytes at hand.
fn replace_bytes(path: &Path, bytes: &[u8]) -> Result<u64, TraceError> {
    replace(path, |file| file.write_all(bytes).map_err(|e| TraceError::io("write", path, e)))
}
