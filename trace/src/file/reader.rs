//! Opening a trace and reading its events.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::error::looks_like;
use super::open_segment::OpenSegment;
use super::table::{Rows, TableReader, read_table};
use super::{
    DEVICES, HISTOGRAMS, META, OCCUPANCY, P2M, SNAPSHOT, STACKS, SUMS, TASKS, TraceError, is_open_segment, sealed_name,
    sealed_number,
};
use crate::meta::{FORMAT, Format, TOOL};
use crate::sums::Reading;
use crate::{Device, Event, Meta, P2mRun, SnapshotSlot, StackFrame, Task};

/// A trace, opened and checked: every table is whole Parquet with the right columns. Opening never writes.
///
/// A trace that is still being recorded can be opened too; it shows what had been flushed by then.
#[derive(Debug)]
pub struct Trace {
    root: PathBuf,
    meta: Meta,
    devices: Vec<Device>,
    tasks: Vec<Task>,
    stacks: Vec<StackFrame>,
    snapshot: Vec<SnapshotSlot>,
    p2m: Vec<P2mRun>,
    sealed: Vec<Sealed>,
    open: Vec<Arc<OpenSegment>>,
}

/// What was found in the segments of a recorder that died (or is still at work).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Events in whole frames; they are part of the trace.
    pub events: u64,
    /// Bytes behind the last whole frame, lost: 0 when the recorder died between two writes.
    pub bytes_dropped: u64,
}

/// A sealed segment.
#[derive(Clone, Debug)]
struct Sealed {
    path: PathBuf,
    events: u64,
    first_ns: u64,
    last_ns: u64,
}

/// A place among a trace's events, to come back to by [`Trace::events_from`]. It stays good while the trace is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Segments begun, in order of their first event.
    begun: usize,
    /// Of those not at their end: which, and the next row.
    rows: Vec<(usize, u64)>,
}

impl Trace {
    /// Opens the trace in a folder.
    ///
    /// # Errors
    /// When there is none, it is of a newer format, incomplete or damaged; each has its own [`TraceError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        let root = path.as_ref();
        let meta = read_meta(root)?;
        let (sealed, open) = read_segments(root, &meta)?;
        Ok(Self {
            devices: read_table(&present(root, DEVICES)?)?,
            tasks: read_if_there(&root.join(TASKS))?,
            stacks: read_if_there(&root.join(STACKS))?,
            snapshot: read_if_there(&root.join(SNAPSHOT))?,
            p2m: read_if_there(&root.join(P2M))?,
            root: root.to_owned(),
            meta,
            sealed,
            open,
        })
    }

    /// The trace's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Host, kernel, capture settings and losses.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The devices seen.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The threads seen; empty in traces before 1.1.
    #[must_use]
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The kernel stacks that events name, a row a call.
    #[must_use]
    pub fn stacks(&self) -> &[StackFrame] {
        &self.stacks
    }

    /// Slots in use when recording began; see `snapshot_ns` and `snapshot_exact` of [`Meta`].
    #[must_use]
    pub fn snapshot(&self) -> &[SnapshotSlot] {
        &self.snapshot
    }

    /// Xen's frame table as far as it was seen; empty elsewhere.
    #[must_use]
    pub fn p2m(&self) -> &[P2mRun] {
        &self.p2m
    }

    /// What an aggregate recording came to; empty in any other, but for the pool where it was looked at from time to time.
    ///
    /// # Errors
    /// When one of the tables cannot be read.
    pub fn sums(&self) -> Result<Reading, TraceError> {
        let at = |name| self.root.join(name);
        Ok(Reading {
            sums: read_if_there(&at(SUMS))?,
            histograms: read_if_there(&at(HISTOGRAMS))?,
            occupancy: read_if_there(&at(OCCUPANCY))?,
        })
    }

    /// How many events there are, the recovered ones included.
    #[must_use]
    pub fn event_count(&self) -> u64 {
        let open = self.open.iter().map(|s| s.len() as u64);
        self.sealed.iter().map(|s| s.events).chain(open).sum()
    }

    /// The sealed segments, for readers of Parquet. They hold all events unless [`Trace::has_open_segment`].
    #[must_use]
    pub fn event_files(&self) -> Vec<PathBuf> {
        self.sealed.iter().map(|s| s.path.clone()).collect()
    }

    /// Whether some events are not in Parquet, because the recorder died or is still at work.
    #[must_use]
    pub fn has_open_segment(&self) -> bool {
        !self.open.is_empty()
    }

    /// What the open segments hold; `None` for a trace without any.
    #[must_use]
    pub fn recovered(&self) -> Option<Recovered> {
        self.has_open_segment().then(|| {
            self.open.iter().fold(Recovered::default(), |sum, segment| Recovered {
                events: sum.events + segment.len() as u64,
                bytes_dropped: sum.bytes_dropped + segment.bytes_dropped(),
            })
        })
    }

    /// Bytes of all files in the folder.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn size_on_disk(&self) -> Result<u64, TraceError> {
        let entries = fs::read_dir(&self.root).map_err(|e| TraceError::io("list", &self.root, e))?;
        // A file that goes away while we look takes no space any more.
        Ok(entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).sum())
    }

    /// Time of the first and of the last event, from the segments' statistics; `None` without events.
    #[must_use]
    pub fn span_ns(&self) -> Option<(u64, u64)> {
        let sealed = self.sealed.iter().filter(|s| s.events > 0).map(|s| (s.first_ns, s.last_ns));
        let open =
            self.open.iter().filter_map(|s| Some((s.event(0)?.time_ns, s.event(s.len().checked_sub(1)?)?.time_ns)));
        sealed.chain(open).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// All events in time order; those of one time in the order they were written.
    #[must_use]
    pub fn events(&self) -> Events {
        Events { waiting: self.segments().into(), active: Vec::new(), begun: 0 }
    }

    /// The events from a place on that [`Events::place`] gave. Rows before it are skipped, not decoded.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn events_from(&self, place: &Place) -> Result<Events, TraceError> {
        let mut waiting: VecDeque<_> = self.segments().into();
        let mut active = Vec::new();
        for (order, (rank, segment)) in waiting.drain(..place.begun.min(waiting.len())).enumerate() {
            let Some(&(_, row)) = place.rows.iter().find(|(at, _)| *at == order) else { continue };
            active.extend(Active::begin(order, rank, segment, row)?);
        }
        Ok(Events { waiting, active, begun: place.begun })
    }

    /// The segments with their place among them, by first event.
    fn segments(&self) -> Vec<(usize, Waiting)> {
        let sealed = self.sealed.iter().map(|s| Waiting { first_ns: s.first_ns, from: Origin::Sealed(s.path.clone()) });
        let open = self.open.iter().filter_map(|s| {
            let first_ns = s.event(0)?.time_ns;
            Some(Waiting { first_ns, from: Origin::Open(Arc::clone(s)) })
        });
        let mut waiting: Vec<_> = sealed.chain(open).enumerate().collect();
        waiting.sort_by_key(|(rank, segment)| (segment.first_ns, *rank));
        waiting
    }
}

/// A segment whose time has not come.
struct Waiting {
    first_ns: u64,
    from: Origin,
}

/// Where a segment's events are.
enum Origin {
    Sealed(PathBuf),
    Open(Arc<OpenSegment>),
}

/// A segment's events, sorted by time.
enum Source {
    Sealed(Box<Rows<Event>>),
    Open(Arc<OpenSegment>, usize),
}

impl Source {
    /// The event after the last.
    fn next(&mut self) -> Option<Result<Event, TraceError>> {
        match self {
            Self::Sealed(rows) => rows.next(),
            Self::Open(segment, position) => {
                *position += 1;
                segment.event(*position - 1).map(Ok)
            }
        }
    }

    /// The error of a segment that goes back in time: merging would hand on its disorder.
    fn unsorted(&self) -> TraceError {
        let path = match self {
            Self::Sealed(rows) => rows.path(),
            Self::Open(segment, _) => segment.path(),
        };
        TraceError::Table { path: path.to_owned(), what: "one whose rows are not sorted by time".to_owned() }
    }
}

/// A segment being read, with the event that is next.
struct Active {
    /// Its place in the order in which segments are begun.
    order: usize,
    rank: usize,
    head: Event,
    /// The row of `head`.
    row: u64,
    source: Source,
}

impl Active {
    /// Opens a segment at a row; nothing when there are no more rows.
    fn begin(order: usize, rank: usize, segment: Waiting, row: u64) -> Result<Option<Self>, TraceError> {
        let mut source = match segment.from {
            Origin::Sealed(path) => Source::Sealed(Box::new(TableReader::open(&path)?.rows_from(row)?)),
            Origin::Open(segment) => Source::Open(segment, usize::try_from(row).unwrap_or(usize::MAX)),
        };
        Ok(source.next().transpose()?.map(|head| Self { order, rank, head, row, source }))
    }
}

/// All events of a trace in time order; see [`Trace::events`]. Ends after the first error.
///
/// Segments are sorted in themselves but overlap a little, because events reach the writer a little late. They are
/// merged, and each is opened only when its first event may be next: normally one or two are open at a time.
pub struct Events {
    /// With its place among the segments, in order of first event.
    waiting: VecDeque<(usize, Waiting)>,
    active: Vec<Active>,
    /// Segments begun so far.
    begun: usize,
}

impl Events {
    /// Where the next event is.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { begun: self.begun, rows: self.active.iter().map(|active| (active.order, active.row)).collect() }
    }

    /// The position in `active` of the segment whose head is next.
    fn earliest(&self) -> Option<usize> {
        let order = |&i: &usize| (self.active[i].head.time_ns, self.active[i].rank);
        (0..self.active.len()).min_by_key(order)
    }

    /// Opens every segment that may hold the next event.
    fn activate(&mut self) -> Result<(), TraceError> {
        while let Some((_, next)) = self.waiting.front() {
            if self.earliest().is_some_and(|i| self.active[i].head.time_ns < next.first_ns) {
                break;
            }
            let Some((rank, segment)) = self.waiting.pop_front() else { break };
            self.active.extend(Active::begin(self.begun, rank, segment, 0)?);
            self.begun += 1;
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Event>, TraceError> {
        self.activate()?;
        let Some(i) = self.earliest() else { return Ok(None) };
        let current = &mut self.active[i];
        match current.source.next().transpose()? {
            Some(next) if next.time_ns < current.head.time_ns => Err(current.source.unsorted()),
            Some(next) => {
                current.row += 1;
                Ok(Some(std::mem::replace(&mut current.head, next)))
            }
            None => Ok(Some(self.active.swap_remove(i).head)),
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance();
        if result.is_err() {
            self.waiting.clear();
            self.active.clear();
        }
        result.transpose()
    }
}

/// As much of meta.json as every version has.
#[derive(Deserialize)]
struct Head {
    tool: Option<String>,
    format: Option<Format>,
}

pub(super) fn read_meta(root: &Path) -> Result<Meta, TraceError> {
    match fs::metadata(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(TraceError::Missing { path: root.to_owned() }),
        Err(e) => return Err(TraceError::io("look at", root, e)),
        Ok(found) if !found.is_dir() => {
            return Err(TraceError::NotAFolder { path: root.to_owned(), looks_like: looks_like(root) });
        }
        Ok(_) => {}
    }
    let path = root.join(META);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(TraceError::NotATrace { path: root.to_owned() }),
        other => other.map_err(|e| TraceError::io("read", &path, e))?,
    };
    let damaged = |reason| TraceError::Meta { path: path.clone(), reason };
    // Whose it is and which version come first: the rest may have any shape in another version.
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    let head = Head::deserialize(&value).unwrap_or(Head { tool: None, format: None });
    match (head.tool.as_deref(), head.format) {
        (Some(TOOL), Some(found)) if found.major > FORMAT.major => {
            return Err(TraceError::Newer { path: root.to_owned(), found });
        }
        (Some(TOOL), _) => {}
        (other, _) => {
            let found = other.map_or("another program".to_owned(), |tool| format!("`{tool}`"));
            return Err(TraceError::OtherTool { path: root.to_owned(), found });
        }
    }
    serde_json::from_slice(&text).map_err(damaged)
}

/// Finds the segments. A recorder at work may seal one between listing and reading; then the list is made again.
fn read_segments(root: &Path, meta: &Meta) -> Result<(Vec<Sealed>, Vec<Arc<OpenSegment>>), TraceError> {
    let mut tries = 3;
    loop {
        tries -= 1;
        let result = list_segments(root, meta);
        let moved = match &result {
            Err(TraceError::Io { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            Err(TraceError::Incomplete { .. }) => true,
            _ => false,
        };
        if meta.closed || !moved || tries == 0 {
            return result;
        }
    }
}

fn list_segments(root: &Path, meta: &Meta) -> Result<(Vec<Sealed>, Vec<Arc<OpenSegment>>), TraceError> {
    let mut sealed = BTreeMap::new();
    let mut open = Vec::new();
    for entry in fs::read_dir(root).map_err(|e| TraceError::io("list", root, e))? {
        let entry = entry.map_err(|e| TraceError::io("list", root, e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(number) = sealed_number(&name) {
            let table = TableReader::<Event>::open(&entry.path())?;
            let events = table.row_count();
            let (first_ns, last_ns) = span(&entry.path(), table)?;
            sealed.insert(number, Sealed { path: entry.path(), events, first_ns, last_ns });
        } else if is_open_segment(&name) {
            open.push(OpenSegment::read(&entry.path())?);
        }
    }
    // A recorder that died between putting the Parquet in place and removing the frames leaves both.
    open.retain(|segment| segment.number().is_none_or(|n| !sealed.contains_key(&n)));
    // A recorder at work may put the open segment aside while the folder is listed: then it is met under both names.
    open.sort_by_key(|segment| (segment.number().unwrap_or(u32::MAX), std::cmp::Reverse(segment.len())));
    open.dedup_by_key(|segment| segment.number().unwrap_or(u32::MAX));
    let numbers = sealed.keys().copied().chain(open.iter().filter_map(OpenSegment::number));
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    let gap = (0..).zip(&numbers).find(|(expected, found)| expected != *found).map(|(expected, _)| expected);
    if let Some(number) = gap.or((meta.closed && numbers.is_empty()).then_some(0)) {
        return Err(TraceError::Incomplete { path: root.join(sealed_name(number)) });
    }
    Ok((sealed.into_values().collect(), open.into_iter().map(Arc::new).collect()))
}

/// Times of a segment's first and last event, by the footer's statistics; where there are none (big-endian machines write
/// none, see `table`) by the events themselves, which are sorted.
fn span(path: &Path, table: TableReader<Event>) -> Result<(u64, u64), TraceError> {
    if let Some(span) = table.minimum("time_ns").zip(table.maximum("time_ns")) {
        return Ok(span);
    }
    let Some(last) = table.row_count().checked_sub(1) else { return Ok((0, 0)) };
    let time = |mut rows: super::table::Rows<Event>| rows.next().transpose().map(|e| e.map_or(0, |e| e.time_ns));
    Ok((time(table.rows()?)?, time(TableReader::open(path)?.rows_from(last)?)?))
}

fn present(root: &Path, name: &str) -> Result<PathBuf, TraceError> {
    let path = root.join(name);
    if path.exists() { Ok(path) } else { Err(TraceError::Incomplete { path }) }
}

fn read_if_there<R: crate::Record>(path: &Path) -> Result<Vec<R>, TraceError> {
    if path.exists() { read_table(path) } else { Ok(Vec::new()) }
}
