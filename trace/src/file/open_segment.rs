//! The segment being written: events in frames, so that a SIGKILL costs at most the frame in progress.
//!
//! ```text
//! file     "SWIOOPEN"  u32 version  u32 segment number  frame…
//! frame    u32 length  u32 crc32    payload of `length` bytes
//! payload  event…
//! event    u16 present  u8 op  u8 direction  u64 time_ns  u32 cpu  u32 tid  u32 device  u64…
//! ```
//!
//! Numbers are little-endian. Each frame is written by one `write()`. docs/trace-format.md says it byte for byte.

use std::fs;
use std::path::{Path, PathBuf};

use super::TraceError;
use crate::event::{Direction, Event, Op};

/// What an open segment begins with.
pub const MAGIC: &[u8; 8] = b"SWIOOPEN";
/// Version of the encoding below; raised with every change, for only a recorder that died leaves one to read.
pub const VERSION: u32 = 2;
/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 16;
/// Bytes before a frame's payload.
pub const FRAME_HEADER_BYTES: usize = 8;
/// Longest payload a frame may have: anything larger is not a length but damage.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// Bytes of an event before its optional values.
const FIXED_BYTES: usize = 24;
/// How a direction that is not there is written.
const NO_DIRECTION: u8 = 0xff;
/// How many values an event may have besides the fixed ones.
const OPTIONAL: usize = 13;

/// The bytes an open segment of this number begins with.
#[must_use]
pub fn header(number: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// A frame being filled.
#[derive(Clone, Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    events: u64,
}

impl Default for Frame {
    fn default() -> Self {
        Self { bytes: vec![0; FRAME_HEADER_BYTES], events: 0 }
    }
}

impl Frame {
    /// Adds an event at the end.
    pub fn push(&mut self, event: &Event) {
        encode(event, &mut self.bytes);
        self.events += 1;
    }

    /// Events in it.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Bytes it takes in the file.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been added since it was cleared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// The frame as it goes into the file.
    pub fn finish(&mut self) -> &[u8] {
        let (head, payload) = self.bytes.split_at_mut(FRAME_HEADER_BYTES);
        // The writer flushes long before a payload reaches MAX_PAYLOAD; a longer one would be read as damage.
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
        &self.bytes
    }

    /// Its events, in the order in which they were added.
    pub fn decoded(&self) -> impl Iterator<Item = Event> {
        let mut at = FRAME_HEADER_BYTES;
        std::iter::from_fn(move || {
            let (event, length) = decode(self.bytes.get(at..)?)?;
            at += length;
            Some(event)
        })
    }

    /// Gives back memory that it does not use, for a frame that is kept.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Empties it for the next events.
    pub fn clear(&mut self) {
        self.bytes.truncate(FRAME_HEADER_BYTES);
        self.events = 0;
    }
}

/// An open segment read back: every event of every whole frame up to the first broken one, in time order.
#[derive(Debug)]
pub struct OpenSegment {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Time and position of each event. Sorting these leaves the events where they are.
    index: Vec<(u64, usize)>,
    number: Option<u32>,
    dropped: u64,
}

impl OpenSegment {
    /// Reads a segment, as far as it is whole.
    ///
    /// # Errors
    /// When the file cannot be read, or is of another version.
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let bytes = fs::read(path).map_err(|e| TraceError::io("read", path, e))?;
        let mut segment = Self { path: path.to_owned(), bytes, index: Vec::new(), number: None, dropped: 0 };
        let whole = segment.scan()?;
        segment.dropped = (segment.bytes.len() - whole) as u64;
        // Positions grow in the order of writing, so that events of one time stay in it.
        segment.index.sort_unstable();
        Ok(segment)
    }

    /// Indexes the events of whole frames; returns where they end.
    fn scan(&mut self) -> Result<usize, TraceError> {
        if !self.bytes.starts_with(MAGIC) || self.bytes.len() < HEADER_BYTES {
            return Ok(0);
        }
        let version = u32_at(&self.bytes, 8).unwrap_or(0);
        if version != VERSION {
            return Err(TraceError::OpenVersion { path: self.path.clone(), found: version });
        }
        self.number = u32_at(&self.bytes, 12);
        let mut end = HEADER_BYTES;
        while let Some(payload) = frame_at(&self.bytes, end) {
            let before = self.index.len();
            let mut at = end + FRAME_HEADER_BYTES;
            end = at + payload.len();
            while let Some((event, length)) = self.bytes.get(at..end).and_then(decode) {
                self.index.push((event.time_ns, at));
                at += length;
            }
            if at != end {
                // A checksum that holds over bytes that mean nothing: not written by this format.
                self.index.truncate(before);
                return Ok(end - payload.len() - FRAME_HEADER_BYTES);
            }
        }
        Ok(end)
    }

    /// The segment's number; `None` when not even the header is whole.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.number
    }

    /// The file it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many events it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether it has no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes after the last whole frame, which could not be used.
    #[must_use]
    pub fn bytes_dropped(&self) -> u64 {
        self.dropped
    }

    /// Event `position` in time order.
    #[must_use]
    pub fn event(&self, position: usize) -> Option<Event> {
        let &(_, at) = self.index.get(position)?;
        decode(&self.bytes[at..]).map(|(event, _)| event)
    }
}

/// The payload of the frame that begins at `start`; `None` when it is not whole. An empty frame is never written:
/// a length of zero is the zeros that a file system leaves after a crash.
fn frame_at(bytes: &[u8], start: usize) -> Option<&[u8]> {
    let length = usize::try_from(u32_at(bytes, start)?).ok()?;
    let crc = u32_at(bytes, start + 4)?;
    let begin = start + FRAME_HEADER_BYTES;
    let payload = bytes.get(begin..begin.checked_add(length)?)?;
    ((1..=MAX_PAYLOAD).contains(&length) && crc32fast::hash(payload) == crc).then_some(payload)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

fn encode(event: &Event, out: &mut Vec<u8>) {
    // Every field is named, so that one added to `Event` cannot be forgotten here.
    let &Event {
        time_ns,
        cpu,
        tid,
        device,
        op,
        orig_addr,
        size,
        dma_addr,
        tlb_addr,
        first_slot,
        direction,
        attrs,
        align_mask,
        sg_index,
        latency_ns,
        stack,
        used,
        count,
        since_ns,
    } = event;
    let optional: [Option<u64>; OPTIONAL] = [
        orig_addr,
        size,
        dma_addr,
        tlb_addr,
        first_slot.map(u64::from),
        attrs,
        align_mask,
        sg_index.map(u64::from),
        count,
        since_ns,
        latency_ns,
        stack.map(u64::from),
        used,
    ];
    let present = optional.iter().enumerate().fold(0_u16, |mask, (bit, v)| mask | u16::from(v.is_some()) << bit);
    let mut fixed = [0; FIXED_BYTES];
    fixed[0..2].copy_from_slice(&present.to_le_bytes());
    fixed[2] = op as u8;
    fixed[3] = direction.map_or(NO_DIRECTION, |d| d as u8);
    fixed[4..12].copy_from_slice(&time_ns.to_le_bytes());
    fixed[12..16].copy_from_slice(&cpu.to_le_bytes());
    fixed[16..20].copy_from_slice(&tid.to_le_bytes());
    fixed[20..24].copy_from_slice(&device.to_le_bytes());
    out.extend_from_slice(&fixed);
    for value in optional.into_iter().flatten() {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// The event `bytes` begins with and how many of them it takes; `None` when they are none.
fn decode(bytes: &[u8]) -> Option<(Event, usize)> {
    let fixed: &[u8; FIXED_BYTES] = bytes.first_chunk()?;
    let present = u16::from_le_bytes([fixed[0], fixed[1]]);
    if present >> OPTIONAL != 0 {
        return None;
    }
    let op = *Op::ALL.get(usize::from(fixed[2]))?;
    let direction = match fixed[3] {
        NO_DIRECTION => None,
        code => Some(*Direction::ALL.get(usize::from(code))?),
    };
    let mut at = FIXED_BYTES;
    let mut optional = [None; OPTIONAL];
    for (bit, value) in optional.iter_mut().enumerate() {
        if present & 1 << bit != 0 {
            *value = Some(u64_at(bytes, at)?);
            at += 8;
        }
    }
    let [
        orig_addr,
        size,
        dma_addr,
        tlb_addr,
        first_slot,
        attrs,
        align_mask,
        sg_index,
        count,
        since_ns,
        latency_ns,
        stack,
        used,
    ] = optional;
    let event = Event {
        time_ns: u64_at(fixed, 4)?,
        cpu: u32_at(fixed, 12)?,
        tid: u32_at(fixed, 16)?,
        device: u32_at(fixed, 20)?,
        op,
        orig_addr,
        size,
        dma_addr,
        tlb_addr,
        first_slot: first_slot.map(u32::try_from).transpose().ok()?,
        direction,
        attrs,
        align_mask,
        sg_index: sg_index.map(u32::try_from).transpose().ok()?,
        latency_ns,
        stack: stack.map(u32::try_from).transpose().ok()?,
        used,
        count,
        since_ns,
    };
    Some((event, at))
}
