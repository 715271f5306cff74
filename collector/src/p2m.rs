//! Xen PV's frame table for the pages that were seen: which machine frame stands behind each guest frame (SPEC 10).
//!
//! An entry is read soon after its page was first seen in an event, and again when recording ends; the first value is
//! kept and a change is counted. What a device was given says besides which frame stood there when it was: pages that a
//! back-end maps from other domains come and go in milliseconds, and a mapping of one in whose place another stands by now is
//! counted as a change too.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use trace::pool::{P2mKind, P2mRun};

use crate::kcore::{Kcore, KcoreError, word};

const FOREIGN: u64 = 1 << 63;
const IDENTITY: u64 = 1 << 62;
/// Frames whose entries fill a page; the table is read in such pieces.
const CHUNK: u64 = 512;

/// The table and what was seen of it.
#[derive(Debug)]
pub struct P2m {
    /// None once reading has failed: what was read until then is kept.
    memory: Option<Kcore>,
    table: u64,
    frames: u64,
    /// By chunk: a bit a frame wanted, and the entries read so far.
    chunks: BTreeMap<u64, Chunk>,
    /// Mappings since the last reading.
    given: Vec<Given>,
    /// Guest frames of the pools, and machine frames behind them: what lies there has bounced.
    pools: Vec<Range<u64>>,
    pool_frames: HashSet<u64>,
    /// Frames beyond the table: memory that is not this domain's.
    beyond: u64,
}

#[derive(Debug)]
struct Chunk {
    wanted: [u64; 8],
    read: [u64; 8],
    /// Frames that were another's in a mapping.
    moved: [u64; 8],
    entries: Vec<u64>,
}

/// What a mapping says of its pages: unless it bounced, they have consecutive machine frames.
#[derive(Clone, Copy, Debug)]
struct Given {
    pfn: u64,
    mfn: u64,
    pages: u64,
}

impl P2m {
    /// Finds the table through the symbols `xen_p2m_addr` and `xen_p2m_size`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn new(memory: Kcore, addr_symbol: u64, size_symbol: u64) -> Result<Self, KcoreError> {
        let (table, frames) = (memory.u64(addr_symbol)?, memory.u64(size_symbol)?);
        // A first read tells at once whether the table can be read at all.
        memory.u64(table)?;
        Ok(Self::over(Some(memory), table, frames))
    }

    fn over(memory: Option<Kcore>, table: u64, frames: u64) -> Self {
        let (chunks, given, pools, pool_frames) = (BTreeMap::new(), Vec::new(), Vec::new(), HashSet::new());
        Self { memory, table, frames, chunks, given, pools, pool_frames, beyond: 0 }
    }

    /// Notes a pool's pages.
    pub fn see_pool(&mut self, start: u64, size: u64) {
        self.see(start, size);
        self.pools.push(start >> 12..start.saturating_add(size).div_ceil(4096));
    }

    /// Notes the pages of a buffer and the address its device was given for it.
    pub fn see_mapped(&mut self, address: u64, size: u64, dma_addr: u64) {
        self.see(address, size);
        let last = address.saturating_add(size.max(1) - 1) >> 12;
        let (pfn, mfn) = (address >> 12, dma_addr >> 12);
        if self.memory.is_some() && last < self.frames {
            self.given.push(Given { pfn, mfn, pages: last - pfn + 1 });
        }
    }

    /// Notes the pages of a buffer.
    pub fn see(&mut self, address: u64, size: u64) {
        let last = address.saturating_add(size.max(1) - 1) >> 12;
        for pfn in address >> 12..=last {
            if pfn >= self.frames {
                self.beyond += last - pfn + 1;
                return;
            }
            let chunk = self.chunks.entry(pfn / CHUNK).or_insert_with(|| Chunk {
                wanted: [0; 8],
                read: [0; 8],
                moved: [0; 8],
                entries: vec![0; CHUNK as usize],
            });
            chunk.wanted[(pfn % CHUNK / 64) as usize] |= 1 << (pfn % 64);
        }
    }

    /// Frames of buffers that lie beyond the table.
    #[must_use]
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Reads the entries of pages that were seen since the last call.
    ///
    /// # Errors
    /// When memory cannot be read, which is told once: nothing is read from then on.
    pub fn catch_up(&mut self) -> Result<(), KcoreError> {
        let (table, frames) = (self.table, self.frames);
        let Some(memory) = &self.memory else { return Ok(()) };
        for (&number, chunk) in self.chunks.iter_mut().filter(|(_, c)| c.wanted != c.read) {
            let bytes = match read_chunk(memory, table, frames, number) {
                Ok(bytes) => bytes,
                Err(why) => {
                    self.memory = None;
                    return Err(why);
                }
            };
            for (index, entry) in chunk.entries.iter_mut().enumerate() {
                let (at, bit) = (index / 64, 1 << (index % 64));
                if chunk.wanted[at] & !chunk.read[at] & bit != 0 {
                    *entry = word(&bytes, index * 8);
                }
            }
            chunk.read = chunk.wanted;
        }
        self.look_at_given();
        Ok(())
    }

    /// Marks frames that were others in a mapping than in the table.
    fn look_at_given(&mut self) {
        for pool in std::mem::take(&mut self.pools) {
            let entries = pool.filter_map(|pfn| self.entry(pfn));
            let frames: Vec<_> = entries.map(|entry| entry & !(FOREIGN | IDENTITY)).collect();
            self.pool_frames.extend(frames);
        }
        for Given { pfn, mfn, pages } in std::mem::take(&mut self.given) {
            if self.pool_frames.contains(&mfn) {
                continue;
            }
            for page in 0..pages {
                let same = |entry: u64| entry != u64::MAX && entry & !(FOREIGN | IDENTITY) == mfn + page;
                if self.entry(pfn + page).is_some_and(|entry| !same(entry))
                    && let Some(chunk) = self.chunks.get_mut(&((pfn + page) / CHUNK))
                {
                    chunk.moved[((pfn + page) % CHUNK / 64) as usize] |= 1 << ((pfn + page) % 64);
                }
            }
        }
    }

    /// A frame's entry, when it was read.
    fn entry(&self, pfn: u64) -> Option<u64> {
        let chunk = self.chunks.get(&(pfn / CHUNK))?;
        let at = pfn % CHUNK;
        chunk.entries.get(at as usize).copied().filter(|_| is_set(&chunk.read, at))
    }

    /// The entries read so far.
    #[must_use]
    pub fn runs(&self) -> Vec<P2mRun> {
        let mut runs = Runs::default();
        for (pfn, entry) in self.chunks.iter().flat_map(|(&number, chunk)| chunk.known(number)) {
            runs.push(pfn, entry);
        }
        runs.0
    }

    /// Reads everything once more and counts the entries that have changed, or were others in a mapping; the latter only when
    /// reading has failed before.
    ///
    /// # Errors
    /// When memory cannot be read.
    pub fn changed(&self) -> Result<u64, KcoreError> {
        let Some(memory) = &self.memory else {
            return Ok(self
                .chunks
                .values()
                .flat_map(|chunk| chunk.moved)
                .map(|bits| u64::from(bits.count_ones()))
                .sum());
        };
        let mut changed = 0;
        for (&number, chunk) in &self.chunks {
            let bytes = read_chunk(memory, self.table, self.frames, number)?;
            let differs = |&(pfn, entry): &(u64, u64)| {
                let at = pfn % CHUNK;
                is_set(&chunk.moved, at) || entry != word(&bytes, at as usize * 8)
            };
            changed += chunk.known(number).filter(differs).count() as u64;
        }
        Ok(changed)
    }
}

impl Chunk {
    /// The frames whose entries were read, with these.
    fn known(&self, number: u64) -> impl Iterator<Item = (u64, u64)> {
        let read = |(index, _): &(u64, _)| is_set(&self.read, *index);
        (0..CHUNK).zip(&self.entries).filter(read).map(move |(i, &e)| (number * CHUNK + i, e))
    }
}

/// The bit of a frame of a chunk.
fn is_set(bits: &[u64; 8], at: u64) -> bool {
    bits[(at / 64) as usize] >> (at % 64) & 1 == 1
}

/// The entries of a chunk; those beyond the table's end read as zero and are never wanted.
fn read_chunk(memory: &Kcore, table: u64, frames: u64, number: u64) -> Result<Vec<u8>, KcoreError> {
    let first = number * CHUNK;
    let mut bytes = vec![0; CHUNK as usize * 8];
    let count = CHUNK.min(frames.saturating_sub(first)) as usize;
    memory.read(table + first * 8, &mut bytes[..count * 8])?;
    Ok(bytes)
}

/// Joins consecutive entries.
#[derive(Default)]
struct Runs(Vec<P2mRun>);

impl Runs {
    fn push(&mut self, pfn: u64, entry: u64) {
        let kind = match entry {
            u64::MAX => P2mKind::Invalid,
            e if e & FOREIGN != 0 => P2mKind::Foreign,
            e if e & IDENTITY != 0 => P2mKind::Identity,
            _ => P2mKind::Own,
        };
        // Invalid frames have no number; 0 lets them join.
        let mfn = if kind == P2mKind::Invalid { 0 } else { entry & !(FOREIGN | IDENTITY) };
        if let Some(last) = self.0.last_mut()
            && last.kind == kind
            && last.pfn + last.count == pfn
            && (kind == P2mKind::Invalid || last.mfn + last.count == mfn)
        {
            last.count += 1;
        } else {
            self.0.push(P2mRun { pfn, mfn, count: 1, kind });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_kind_join() {
        let mut runs = Runs::default();
        for (pfn, entry) in [
            (10, 700),
            (11, 701),
            (12, 900),
            (13, FOREIGN | 901),
            (14, u64::MAX),
            (15, u64::MAX),
            (16, IDENTITY | 16),
            (18, IDENTITY | 18),
        ] {
            runs.push(pfn, entry);
        }
        let seen: Vec<_> = runs.0.iter().map(|r| (r.pfn, r.mfn, r.count, r.kind)).collect();
        assert_eq!(
            seen,
            [
                (10, 700, 2, P2mKind::Own),
                (12, 900, 1, P2mKind::Own),
                (13, 901, 1, P2mKind::Foreign),
                (14, 0, 2, P2mKind::Invalid),
                (16, 16, 1, P2mKind::Identity),
                (18, 18, 1, P2mKind::Identity),
            ]
        );
    }

    #[test]
    fn the_pages_of_a_buffer_are_seen_once_each() {
        let mut p2m = P2m::over(None, 0, 1000);
        p2m.see(511 * 4096 + 4095, 2);
        p2m.see(511 * 4096, 1);
        let bits: u32 = p2m.chunks.values().flat_map(|c| c.wanted).map(u64::count_ones).sum();
        assert_eq!((p2m.chunks.len(), bits), (2, 2));
        p2m.see(999 * 4096, 3 * 4096);
        assert_eq!(p2m.beyond(), 2);
    }

    /// Of a page of another domain the table holds, by the time it is read, the next one's frame.
    #[test]
    fn a_mapping_of_a_frame_that_is_another_by_now_is_counted() {
        let path = std::env::temp_dir().join(format!("swioscope-p2m-given-{}", std::process::id()));
        let entries: Vec<u8> = (0..CHUNK).flat_map(|pfn| (FOREIGN | (pfn + 7000)).to_ne_bytes()).collect();
        std::fs::write(&path, &entries).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let mut p2m = P2m::over(Some(Kcore::over(file, 0x1000, entries.len() as u64)), 0x1000, CHUNK);
        p2m.see_pool(100 << 12, 4 << 12);
        // As the table has it; bounced; as it has it; two pages that were others.
        p2m.see_mapped((5 << 12) + 12, 2 << 12, (7005 << 12) + 12);
        p2m.see_mapped(9 << 12, 4096, 7102 << 12);
        p2m.see_mapped(20 << 12, 4096, 7020 << 12);
        p2m.see_mapped(21 << 12, 2 << 12, 9021 << 12);
        p2m.catch_up().unwrap();
        assert_eq!(p2m.changed().unwrap(), 2);
        // Once each.
        p2m.see_mapped(22 << 12, 4096, 9055 << 12);
        p2m.catch_up().unwrap();
        assert_eq!(p2m.changed().unwrap(), 2);
        std::fs::remove_file(&path).unwrap();
    }

    /// A table of 1024 frames whose second half cannot be read.
    #[test]
    fn what_was_read_outlives_a_failed_read() {
        let path = std::env::temp_dir().join(format!("swioscope-p2m-{}", std::process::id()));
        let entries: Vec<u8> = (0..CHUNK).flat_map(|pfn| (pfn + 7000).to_ne_bytes()).collect();
        std::fs::write(&path, &entries).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let memory = Kcore::over(file, 0x1000, entries.len() as u64);
        let mut p2m = P2m::over(Some(memory), 0x1000, 1024);
        p2m.see(5 << 12, 2 << 12);
        p2m.catch_up().unwrap();
        let read = [P2mRun { pfn: 5, mfn: 7005, count: 2, kind: P2mKind::Own }];
        assert_eq!(p2m.runs(), read);
        assert_eq!(p2m.changed().unwrap(), 0);
        std::fs::write(&path, vec![0; entries.len()]).unwrap();
        assert_eq!(p2m.changed().unwrap(), 2);
        p2m.see(600 << 12, 1);
        assert!(p2m.changed().is_err());
        assert!(p2m.catch_up().is_err());
        // Told once, and what was read stays.
        p2m.see(7 << 12, 1);
        p2m.catch_up().unwrap();
        assert_eq!(p2m.runs(), read);
        std::fs::remove_file(&path).unwrap();
    }
}
