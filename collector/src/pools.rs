//! The bounce pools as the kernel has them now: geometry, each area's search index, and the slots in use.
//!
//! Read from kernel memory by BTF offsets; where that is not possible the geometry comes from debugfs and the kernel log,
//! and the caller is told so. Which members there are tells the generation (SPEC 13.1): `struct io_tlb_pool` (6.6 and
//! newer), `struct io_tlb_area` (6.0 and newer), plain fields of `io_tlb_mem` (5.15), or variables ([`Globals`], 5.10).

use std::thread;
use std::time::{Duration, Instant};

use trace::pool::{Area, Pool, SnapshotSlot};

use crate::btf::{Btf, Kind};
use crate::globals::Globals;
use crate::kcore::{Kcore, KcoreError, word};

/// Why the pools could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The symbol is hidden or gone.
    #[error(
        "neither the address of io_tlb_default_mem nor those of io_tlb_start and the like are known (/proc/kallsyms must show addresses of data)"
    )]
    NoSymbol,
    /// The structure has changed.
    #[error("this kernel's {structure} has no {member}")]
    Layout {
        /// Structure.
        structure: &'static str,
        /// Member.
        member: &'static str,
    },
    /// The memory could not be read.
    #[error(transparent)]
    Memory(#[from] KcoreError),
    /// What was read cannot be a pool.
    #[error("a pool of {nslabs} slots in {nareas} areas cannot be: the structure is not what BTF says")]
    Implausible {
        /// Slots.
        nslabs: u64,
        /// Areas.
        nareas: u64,
    },
}

/// Where the members are.
#[derive(Debug)]
pub struct PoolLayout {
    pool: u32,
    start: u32,
    nslabs: u32,
    nareas: Option<u32>,
    areas: Option<u32>,
    single: Option<(u32, u32)>,
    slots: u32,
    slots_inline: bool,
    force_bounce: Option<u32>,
    can_grow: Option<u32>,
    area: Option<(u32, u32, u32)>,
    slot_size: u32,
    slot_list: u32,
    slot_orig: u32,
    slot_alloc: Option<u32>,
    /// `pad_slots` exists: the allocator pads (6.9 and newer, late 6.6.y).
    pub pads: Option<u32>,
}

impl PoolLayout {
    /// Finds the members in BTF.
    ///
    /// # Errors
    /// [`PoolError::Layout`] when one that must be there is not.
    pub fn discover(btf: &Btf) -> Result<Self, PoolError> {
        let (structure, pool) = if btf.has(Kind::Struct, "io_tlb_pool") {
            ("io_tlb_pool", btf.offset_of("io_tlb_mem", "defpool").unwrap_or(0))
        } else {
            ("io_tlb_mem", 0)
        };
        let need = |structure, member| btf.offset_of(structure, member).ok_or(PoolError::Layout { structure, member });
        let size = |structure| btf.size_of(structure).ok_or(PoolError::Layout { structure, member: "definition" });
        let area = if btf.has(Kind::Struct, "io_tlb_area") {
            Some((size("io_tlb_area")?, need("io_tlb_area", "used")?, need("io_tlb_area", "index")?))
        } else {
            None
        };
        Ok(Self {
            pool,
            start: need(structure, "start")?,
            nslabs: need(structure, "nslabs")?,
            nareas: btf.offset_of(structure, "nareas"),
            areas: btf.offset_of(structure, "areas"),
            single: btf.offset_of(structure, "used").zip(btf.offset_of(structure, "index")),
            slots: need(structure, "slots")?,
            // 5.14's flexible array stands at the end of the structure itself.
            slots_inline: btf.offset_of(structure, "slots") == btf.size_of(structure),
            force_bounce: btf.offset_of("io_tlb_mem", "force_bounce"),
            can_grow: btf.offset_of("io_tlb_mem", "can_grow"),
            area,
            slot_size: size("io_tlb_slot")?,
            slot_list: need("io_tlb_slot", "list")?,
            slot_orig: need("io_tlb_slot", "orig_addr")?,
            slot_alloc: btf.offset_of("io_tlb_slot", "alloc_size"),
            pads: btf.offset_of("io_tlb_slot", "pad_slots"),
        })
    }
}

/// The pools and what was in them.
#[derive(Debug)]
pub struct Snapshot {
    /// The default pool; empty when the machine has none.
    pub pools: Vec<Pool>,
    /// Slots in use.
    pub slots: Vec<SnapshotSlot>,
    /// Nothing was taken or given back while it was read.
    pub exact: bool,
}

/// How long the areas must stand still around the reading: longer than any call that had taken slots before it needs to
/// be recorded.
const QUIET: Duration = Duration::from_millis(2);
/// How often it is tried to find the pool at rest.
const ATTEMPTS: u32 = 20;

/// Where the kernel keeps its default pool.
#[derive(Debug)]
pub enum Place {
    /// In an `io_tlb_mem` at this address.
    Object(PoolLayout, u64),
    /// In variables of its own.
    Globals(Globals),
}

impl Place {
    /// The pool as it is now, without its slots; `None` when the machine has none.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn pool(&self, memory: &Kcore) -> Result<Option<Pool>, PoolError> {
        match self {
            Self::Object(layout, address) => read_pool(layout, memory, *address),
            Self::Globals(globals) => globals.read_pool(memory),
        }
    }

    fn slots(&self, memory: &Kcore, pool: &Pool) -> Result<Vec<SnapshotSlot>, PoolError> {
        match self {
            Self::Object(layout, address) => read_slots(layout, memory, *address, pool),
            Self::Globals(globals) => globals.read_slots(memory, pool),
        }
    }
}

/// Reads the default pool, trying a few times to find it at rest.
///
/// # Errors
/// See [`PoolError`].
pub fn snapshot(place: &Place, memory: &Kcore) -> Result<Snapshot, PoolError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let began = Instant::now();
        let Some(before) = place.pool(memory)? else {
            return Ok(Snapshot { pools: Vec::new(), slots: Vec::new(), exact: true });
        };
        let slots = place.slots(memory, &before)?;
        thread::sleep(QUIET.saturating_sub(began.elapsed()));
        let after = place.pool(memory)?;
        let used = before.areas.iter().map(|a| a.used).sum::<u64>();
        // Slots and counters are changed under one lock, so at rest they agree.
        let exact = after.as_ref() == Some(&before) && !before.areas.is_empty() && used == slots.len() as u64;
        if exact || attempt == ATTEMPTS {
            return Ok(Snapshot { pools: vec![before], slots, exact });
        }
    }
}

/// The default pool's geometry and areas; `None` when the machine has no pool.
fn read_pool(layout: &PoolLayout, memory: &Kcore, default_mem: u64) -> Result<Option<Pool>, PoolError> {
    let base = default_mem + u64::from(layout.pool);
    let at = |offset: u32| memory.u64(base + u64::from(offset));
    let flag = |offset: Option<u32>| -> Result<bool, PoolError> {
        let Some(offset) = offset else { return Ok(false) };
        Ok(memory.u64(default_mem + u64::from(offset))? & 0xff != 0)
    };
    let nslabs = at(layout.nslabs)?;
    if nslabs == 0 {
        return Ok(None);
    }
    let nareas = layout.nareas.map_or(Ok(1), |offset| at(offset).map(|n| n & 0xffff_ffff))?;
    if nareas == 0 || nareas > nslabs || nslabs > 1 << 32 {
        return Err(PoolError::Implausible { nslabs, nareas });
    }
    let mut areas = Vec::new();
    if let (Some((size, used, index)), Some(list)) = (layout.area, layout.areas) {
        let list = at(list)?;
        for area in 0..nareas {
            let area = list + area * u64::from(size);
            let index = memory.u64(area + u64::from(index))? & 0xffff_ffff;
            areas.push(Area { index, used: memory.u64(area + u64::from(used))? });
        }
    } else if let Some((used, index)) = layout.single {
        areas.push(Area { index: at(index)? & 0xffff_ffff, used: at(used)? });
    }
    Ok(Some(Pool {
        start: at(layout.start)?,
        nslabs,
        nareas: u32::try_from(nareas).unwrap_or(u32::MAX),
        force_bounce: flag(layout.force_bounce)?,
        can_grow: flag(layout.can_grow)?,
        areas,
    }))
}

fn read_slots(
    layout: &PoolLayout,
    memory: &Kcore,
    default_mem: u64,
    pool: &Pool,
) -> Result<Vec<SnapshotSlot>, PoolError> {
    let address = default_mem + u64::from(layout.pool) + u64::from(layout.slots);
    let address = if layout.slots_inline { address } else { memory.u64(address)? };
    let size = layout.slot_size as usize;
    let mut used = Vec::new();
    // In pieces, because a pool of 2 GiB has 24 MiB of slots.
    const PIECE: u64 = 16384;
    let mut bytes = Vec::new();
    for first in (0..pool.nslabs).step_by(PIECE as usize) {
        let count = PIECE.min(pool.nslabs - first);
        bytes.resize(count as usize * size, 0);
        memory.read(address + first * size as u64, &mut bytes)?;
        for (slot, entry) in (first..).zip(bytes.chunks_exact(size)) {
            let short =
                |at: u32| entry.get(at as usize..at as usize + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
            // A free run of no slots: taken (SPEC 12, I2).
            if short_list(layout, entry) == 0 {
                used.push(SnapshotSlot {
                    slot: u32::try_from(slot).unwrap_or(u32::MAX),
                    orig_addr: word(entry, layout.slot_orig as usize),
                    alloc_size: layout.slot_alloc.map_or(0, |at| word(entry, at as usize)),
                    pad_slots: u32::from(layout.pads.map_or(0, short)),
                });
            }
        }
    }
    Ok(used)
}

/// `list` is an `unsigned int` up to 6.8 and a `short` since; its values fit 16 bits either way.
fn short_list(layout: &PoolLayout, entry: &[u8]) -> u16 {
    let at = layout.slot_list as usize;
    entry.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

/// What debugfs, the kernel log and the command line tell of the pool when memory cannot be read: start and size, and
/// whether everything was asked to bounce; no state. That encrypted memory forces it too is not told by any of them.
#[must_use]
pub fn from_log(log: &str, cmdline: &str, nslabs: Option<u64>, nareas: u32) -> Option<Pool> {
    // "software IO TLB: mapped [mem 0x0000000099e00000-0x000000009de00000] (64MB)"
    let line = log.lines().rev().find(|l| l.contains("IO TLB: mapped [mem "))?;
    let (_, range) = line.split_once("[mem ")?;
    let (start, rest) = range.split_once('-')?;
    let (end, _) = rest.split_once(']')?;
    let hex = |text: &str| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    // The end is exclusive.
    let nslabs = nslabs.unwrap_or(end.checked_sub(start)? / trace::pool::SLOT_BYTES);
    Some(Pool { start, nslabs, nareas, force_bounce: is_forced(cmdline), can_grow: false, areas: Vec::new() })
}

/// Whether the command line asks for everything to bounce, by the last word that ends a `swiotlb=` (SPEC 2.2).
fn is_forced(cmdline: &str) -> bool {
    let values = cmdline.split_whitespace().filter_map(|word| word.strip_prefix("swiotlb="));
    let mut words = values.filter_map(|value| value.rsplit(',').next());
    words.rfind(|word| ["force", "noforce"].contains(word)) == Some("force")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_log_tells_where_the_pool_is() {
        let log = "[    0.1] x\n[    0.2] software IO TLB: mapped [mem 0x0000000099e00000-0x000000009de00000] (64MB)\n";
        let pool = from_log(log, "quiet swiotlb=32768,force", None, 1).unwrap();
        assert_eq!((pool.start, pool.nslabs, pool.force_bounce), (0x99e0_0000, 32768, true));
        assert_eq!(from_log("software IO TLB: mapped [mem nonsense", "", None, 1), None);
    }

    #[test]
    fn the_command_line_tells_whether_all_is_forced() {
        for forced in ["swiotlb=force", "a swiotlb=65536,4,force b", "swiotlb=noforce swiotlb=8192,force swiotlb=16384"]
        {
            assert!(is_forced(forced), "{forced}");
        }
        for not in ["", "swiotlb=65536", "swiotlb=force swiotlb=noforce", "xswiotlb=force", "swiotlb=force,4"] {
            assert!(!is_forced(not), "{not}");
        }
    }
}
