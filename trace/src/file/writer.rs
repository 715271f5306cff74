//! Making a trace.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use super::open_segment::{self, Frame, OpenSegment};
use super::table::{self, TableWriter};
use super::tables::Tables;
use super::{OPEN, TraceError, portable, replace, sealed_name, waiting_name};
use crate::meta::{FORMAT, TOOL};
use crate::sums::{Occupancy, Reading};
use crate::{Device, Event, Meta, P2mRun, SnapshotSlot, StackFrame, Task};

/// A segment is sealed when it has this many events, which takes some 30 MB of memory: a dom0 may have little…
const SEGMENT_EVENTS: u64 = 1 << 18;
/// … or this many bytes.
const SEGMENT_BYTES: u64 = 16 << 20;
/// A frame is written when it has this many bytes, flushed or not.
const FRAME_BYTES: usize = 256 << 10;
/// Segments that wait to be sealed at most, some gigabyte of them; then writing waits too.
const BACKLOG: usize = 64;

/// Folders made by this process, to tell their names apart.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Writes a trace. What [`Writer::flush`] has returned from survives a SIGKILL of this process.
///
/// Dropping a writer without [`Writer::close`] leaves a trace that opens, marked as not closed.
///
/// # Cost
/// Events are encoded into memory by [`Writer::push`] and written a frame at a time. Sealing, the expensive part,
/// happens in a thread of its own and reads the frames back, so that memory does not grow with the segment until then.
#[derive(Debug)]
pub struct Writer {
    root: PathBuf,
    made_folder: bool,
    frame: Frame,
    open: Segment,
    /// Segments put aside but not yet sealed.
    waiting: Vec<u32>,
    sealer: Option<Sealer>,
    sealed_bytes: u64,
    pub(super) segment_events: u64,
    /// What went wrong here, for the losses.
    notes: Vec<String>,
    tables: Tables,
    /// Saves some of them meanwhile.
    saver: Option<JoinHandle<(Tables, Result<(), TraceError>)>>,
    /// Nothing is left to save when dropped.
    done: bool,
}

/// The segment being written.
#[derive(Debug)]
struct Segment {
    file: File,
    number: u32,
    bytes: u64,
    events: u64,
}

/// The thread that seals a segment.
#[derive(Debug)]
struct Sealer {
    number: u32,
    thread: JoinHandle<Result<Sealed, TraceError>>,
}

/// What sealing a segment came to.
#[derive(Debug, Clone, Copy)]
struct Sealed {
    bytes: u64,
    dropped: u64,
}

impl Writer {
    /// Whether a trace can be made at `path`, without making anything: a recorder asks before it spends seconds on
    /// attaching its probe.
    ///
    /// # Errors
    /// [`TraceError::Exists`] when something is there, other than an empty folder; [`TraceError::NoParent`] when the
    /// folder it would lie in is not; [`TraceError::ByteOrder`] when no trace can be made on this machine.
    pub fn check(path: impl AsRef<Path>) -> Result<(), TraceError> {
        let root = path.as_ref();
        if cfg!(target_endian = "big") {
            portable::check(root)?;
        }
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
        if parent.is_some_and(|parent| !parent.is_dir()) {
            return Err(TraceError::NoParent { path: root.to_owned() });
        }
        let empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if root.symlink_metadata().is_ok() && !empty(root) {
            return Err(TraceError::Exists { path: root.to_owned() });
        }
        Ok(())
    }

    /// Begins a trace in a new or empty folder. Tool, format and `closed` of `meta` are set here.
    ///
    /// # Errors
    /// When something is there already, or the folder cannot be made or written to. Nothing is left behind then.
    pub fn create(path: impl AsRef<Path>, meta: Meta) -> Result<Self, TraceError> {
        Self::create_then(path.as_ref(), meta, || ())
    }

    /// [`Writer::create`], with something done just before the folder takes its place.
    pub(super) fn create_then(path: &Path, meta: Meta, before: impl FnOnce()) -> Result<Self, TraceError> {
        let root = path.to_owned();
        Self::check(&root)?;
        if root.is_dir() {
            return Self::begin(&root, false, meta).inspect_err(|_| remove(&root, false));
        }
        // Made beside its place and put there once it can be opened: a SIGKILL never leaves half a trace under its name.
        let mut name = root.as_os_str().to_owned();
        name.push(format!(".{}-{}.tmp", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
        let beside = PathBuf::from(name);
        fs::create_dir(&beside).map_err(|e| TraceError::io("create", &root, e))?;
        let place = |mut writer: Self| {
            before();
            fs::rename(&beside, &root).map_err(|e| match e.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
                    TraceError::Exists { path: root.clone() }
                }
                _ => TraceError::io("put in place", &root, e),
            })?;
            writer.root.clone_from(&root);
            Ok(writer)
        };
        Self::begin(&beside, true, meta).and_then(place).inspect_err(|_| remove(&beside, true))
    }

    pub(super) fn begin(root: &Path, made_folder: bool, meta: Meta) -> Result<Self, TraceError> {
        let mut writer = Self {
            root: root.to_owned(),
            made_folder,
            frame: Frame::default(),
            open: Segment::begin(&root.join(OPEN), 0)?,
            waiting: Vec::new(),
            sealer: None,
            sealed_bytes: 0,
            segment_events: SEGMENT_EVENTS,
            notes: Vec::new(),
            tables: Tables::default(),
            saver: None,
            // Until everything is in place a failure removes it all.
            done: true,
        };
        writer.tables.devices.touch();
        writer.set_meta(meta);
        writer.tables.save(&writer.root)?;
        writer.done = false;
        Ok(writer)
    }

    /// The trace's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Adds an event. They may come slightly out of order; a reader sees them sorted, those of one time in this order.
    ///
    /// # Errors
    /// When a full frame cannot be written. The events not yet written are kept, so that trying again is possible.
    pub fn push(&mut self, event: &Event) -> Result<(), TraceError> {
        self.frame.push(event);
        if self.frame.len() >= FRAME_BYTES { self.write_frame() } else { Ok(()) }
    }

    /// Adds events; see [`Writer::push`].
    ///
    /// # Errors
    /// As [`Writer::push`].
    pub fn extend<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) -> Result<(), TraceError> {
        events.into_iter().try_for_each(|event| self.push(event))
    }

    /// Registers a device, replacing one of the same id. Written at the next [`Writer::flush`].
    pub fn device(&mut self, device: Device) {
        let mut devices = self.tables.devices.value().clone();
        match devices.iter_mut().find(|d| d.id == device.id) {
            Some(known) => *known = device,
            None => devices.push(device),
        }
        self.tables.devices.set(devices);
    }

    /// Replaces all devices. Written at the next [`Writer::flush`].
    pub fn set_devices(&mut self, devices: Vec<Device>) {
        self.tables.devices.set(devices);
    }

    /// Replaces all threads. Written at the next [`Writer::flush`].
    pub fn set_tasks(&mut self, tasks: Vec<Task>) {
        self.tables.tasks.set(tasks);
    }

    /// Replaces all kernel stacks. Written at the next [`Writer::flush`].
    pub fn set_stacks(&mut self, frames: Vec<StackFrame>) {
        self.tables.stacks.set(frames);
    }

    /// Replaces the slots in use when recording began; when they were read is `snapshot_ns` of [`Meta`].
    /// Written at the next [`Writer::flush`].
    pub fn set_snapshot(&mut self, slots: Vec<SnapshotSlot>) {
        self.tables.snapshot.set(slots);
    }

    /// Replaces the frame table. Written at the next [`Writer::flush`].
    pub fn set_p2m(&mut self, runs: Vec<P2mRun>) {
        self.tables.p2m.set(runs);
    }

    /// Replaces what an aggregate recording came to. Written at the next [`Writer::flush`].
    pub fn set_sums(&mut self, reading: Reading) {
        let Reading { sums, histograms, occupancy } = reading;
        self.tables.sums.set(sums);
        self.tables.histograms.set(histograms);
        self.tables.occupancy.set(occupancy);
    }

    /// Replaces the looks at the pool of a recording in which slots are not seen one by one. Written at the next
    /// [`Writer::flush`].
    pub fn set_occupancy(&mut self, looks: Vec<Occupancy>) {
        self.tables.occupancy.set(looks);
    }

    /// Replaces the metadata, such as the losses so far. Written at the next [`Writer::flush`].
    pub fn set_meta(&mut self, meta: Meta) {
        let mut meta = Meta { tool: TOOL.to_owned(), format: FORMAT, closed: false, ..meta };
        meta.losses.notes.extend_from_slice(&self.notes);
        self.tables.meta.set(meta);
    }

    /// Writes what was pushed or set so far, so that it survives this process, and a power cut but for the last events.
    ///
    /// # Errors
    /// When a file cannot be written, or the sealing of an earlier segment failed (its events are safe).
    pub fn flush(&mut self) -> Result<(), TraceError> {
        self.still_there()?;
        self.write_frame()?;
        let earlier = self.finish_saver();
        self.tables.save(&self.root)?;
        earlier
    }

    /// Writes the events pushed so far, so that they survive this process; tables follow in a thread of their own, as soon as
    /// the disk takes them, which can be seconds on one that others keep busy. Meant to be called a few times a second.
    ///
    /// # Errors
    /// As [`Writer::flush`], of tables those of an earlier call.
    pub fn flush_events(&mut self) -> Result<(), TraceError> {
        self.still_there()?;
        self.write_frame()?;
        if self.saver.as_ref().is_some_and(|saver| !saver.is_finished()) {
            return Ok(());
        }
        self.finish_saver()?;
        let Some(mut tables) = self.tables.take_changed() else { return Ok(()) };
        let root = self.root.clone();
        let work = move || {
            let saved = tables.save(&root);
            (tables, saved)
        };
        let saver = thread::Builder::new().name("tables".to_owned()).spawn(work);
        match saver {
            Ok(saver) => self.saver = Some(saver),
            Err(source) => {
                self.tables.touch_all();
                return Err(TraceError::io("start a thread to write", &self.root, source));
            }
        }
        Ok(())
    }

    /// Waits for the tables being saved, if there are any. Those that could not be are saved again.
    fn finish_saver(&mut self) -> Result<(), TraceError> {
        let Some(saver) = self.saver.take() else { return Ok(()) };
        let Ok((tables, saved)) = saver.join() else {
            self.tables.touch_all();
            return Err(TraceError::Sealer { path: self.root.clone() });
        };
        self.tables.take_back(&tables);
        saved
    }

    /// A file without a name can be written to for ever, to no use.
    fn still_there(&self) -> Result<(), TraceError> {
        match self.open.file.metadata() {
            Ok(file) if file.nlink() == 0 => Err(TraceError::Removed { path: self.root.clone() }),
            _ => Ok(()),
        }
    }

    /// Bytes of the trace on disk so far, events not yet flushed left out.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.sealed_bytes + self.open.bytes + self.tables.bytes()
    }

    /// Ends the trace: seals every segment and writes `meta` marked as closed.
    ///
    /// # Errors
    /// When a file cannot be written. The trace then stays as it would after a SIGKILL: it opens, not closed.
    pub fn close(mut self, meta: Meta) -> Result<(), TraceError> {
        self.still_there()?;
        self.write_frame()?;
        // Neither's error is final: what could not be sealed or saved is tried again below.
        let _ = (self.finish_sealer(), self.finish_saver());
        self.set_meta(meta);
        for number in std::mem::take(&mut self.waiting) {
            let sealed = seal(&self.root, &waiting_name(number), number)?;
            self.note(number, sealed);
        }
        let number = self.open.number;
        if self.open.events > 0 || number == 0 {
            let sealed = seal(&self.root, OPEN, number)?;
            self.note(number, sealed);
            (self.open.events, self.open.bytes) = (0, 0);
        } else {
            let path = self.root.join(OPEN);
            fs::remove_file(&path).map_err(|e| TraceError::io("remove", &path, e))?;
        }
        // Metadata is saved after the tables: a trace that says it is closed is complete.
        let meta = Meta { closed: true, ..self.tables.meta.value().clone() };
        self.tables.meta.set(meta);
        self.tables.save(&self.root)?;
        self.done = true;
        Ok(())
    }

    /// Removes everything that was written, and the folder if it was made here. What cannot be removed stays.
    pub fn abort(mut self) {
        let _ = (self.finish_sealer(), self.finish_saver());
        self.done = true;
        remove(&self.root, self.made_folder);
    }

    fn write_frame(&mut self) -> Result<(), TraceError> {
        if !self.frame.is_empty() {
            self.open.append(&mut self.frame, &self.root)?;
        }
        if self.sealer.as_ref().is_some_and(|s| s.thread.is_finished()) {
            self.finish_sealer()?;
        }
        if self.open.events >= self.segment_events || self.open.bytes >= SEGMENT_BYTES {
            self.rotate()?;
        }
        self.seal_next()
    }

    /// Puts the open segment aside to be sealed and begins the next.
    fn rotate(&mut self) -> Result<(), TraceError> {
        if self.waiting.len() >= BACKLOG {
            self.finish_sealer()?;
        }
        let number = self.open.number;
        let (open, waiting) = (self.root.join(OPEN), self.root.join(waiting_name(number)));
        // The next segment is made ready first: if the disk is full, nothing has changed yet.
        let ready = self.root.join(format!("{OPEN}.tmp"));
        let next = Segment::begin(&ready, number + 1)?;
        fs::rename(&open, &waiting).map_err(|e| TraceError::io("put aside", &open, e))?;
        self.open = next;
        self.waiting.push(number);
        fs::rename(&ready, &open).map_err(|e| TraceError::io("put in place", &open, e))
    }

    /// Seals the segment that has waited longest, unless one is being sealed: on a busy machine segments wait, not events.
    fn seal_next(&mut self) -> Result<(), TraceError> {
        let (None, Some(&number)) = (&self.sealer, self.waiting.first()) else { return Ok(()) };
        let root = self.root.clone();
        let waiting = root.join(waiting_name(number));
        let thread = thread::Builder::new()
            .name("seal".to_owned())
            .spawn(move || {
                take_time();
                seal(&root, &waiting_name(number), number)
            })
            .map_err(|e| TraceError::io("start a thread to seal", &waiting, e))?;
        self.sealer = Some(Sealer { number, thread });
        Ok(())
    }

    /// Waits for the sealer, if there is one.
    pub(super) fn finish_sealer(&mut self) -> Result<(), TraceError> {
        let Some(Sealer { number, thread }) = self.sealer.take() else { return Ok(()) };
        let sealed =
            thread.join().unwrap_or_else(|_| Err(TraceError::Sealer { path: self.root.join(sealed_name(number)) }))?;
        self.waiting.retain(|&n| n != number);
        self.note(number, sealed);
        Ok(())
    }

    fn note(&mut self, number: u32, sealed: Sealed) {
        self.sealed_bytes += sealed.bytes;
        if sealed.dropped > 0 {
            let note = format!("segment {number}: {} bytes could not be read back when it was sealed", sealed.dropped);
            let mut meta = self.tables.meta.value().clone();
            meta.losses.notes.push(note.clone());
            self.tables.meta.set(meta);
            self.notes.push(note);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            // Nobody is left to tell; the trace opens all the same.
            let _ = self.flush();
            let _ = self.finish_sealer();
        }
    }
}

impl Segment {
    fn begin(path: &Path, number: u32) -> Result<Self, TraceError> {
        let header = open_segment::header(number);
        let mut file = File::create(path).map_err(|e| TraceError::io("create", path, e))?;
        file.write_all(&header).map_err(|e| TraceError::io("write", path, e))?;
        Ok(Self { file, number, bytes: header.len() as u64, events: 0 })
    }

    fn append(&mut self, frame: &mut Frame, root: &Path) -> Result<(), TraceError> {
        let bytes = frame.finish();
        if let Err(error) = self.file.write_all(bytes) {
            // Half a frame would hide every later one from a reader.
            let _ = self.file.set_len(self.bytes).and_then(|()| self.file.seek(SeekFrom::Start(self.bytes)));
            return Err(TraceError::io("write", &root.join(OPEN), error));
        }
        self.bytes += bytes.len() as u64;
        self.events += frame.events();
        frame.clear();
        Ok(())
    }
}

/// Gives up a priority that was inherited from the thread that writes: sealing is long, and nothing waits for it.
fn take_time() {
    // SAFETY: plain numbers; 0 is the calling thread. An error is a priority of -1, which is given up too.
    unsafe {
        if libc::getpriority(libc::PRIO_PROCESS, 0) < 0 {
            libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        }
    }
}

/// Turns the frames in `open` into a sorted Parquet table. Until that is in place the frames stay.
fn seal(root: &Path, open: &str, number: u32) -> Result<Sealed, TraceError> {
    let from = root.join(open);
    let segment = OpenSegment::read(&from)?;
    let path = root.join(sealed_name(number));
    let bytes = replace(&path, |file| {
        let mut table = TableWriter::<Event, _>::new(file, &path)?;
        let mut batch = Vec::with_capacity(table::BATCH_ROWS);
        for event in (0..segment.len()).filter_map(|position| segment.event(position)) {
            batch.push(event);
            if batch.len() == table::BATCH_ROWS {
                table.write(&batch)?;
                batch.clear();
            }
        }
        table.write(&batch)?;
        table.finish()
    })?;
    fs::remove_file(&from).map_err(|e| TraceError::io("remove", &from, e))?;
    Ok(Sealed { bytes, dropped: segment.bytes_dropped() })
}

/// Removes a trace's files, and its folder if it was made for it. Best effort: it follows an error or a wish to forget.
fn remove(root: &Path, made_folder: bool) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if super::is_ours(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    if made_folder {
        let _ = fs::remove_dir(root);
    }
}
