//! The bounce pools as the kernel has them now: geometry, each area's search index, and the slots in use.
//!
//! Read from kernel memory by BTF offsets; where that is not possible the geometry comes from debugfs and the kernel log,
//! and the caller is told so. Which members there are tells the generation (SPEC 13.1): `struct io_tlb_pool` (6.6 and
//! newer), `struct io_tlb_area` (6.0 and newer), plain fields of `io_tlb_mem` (5.15), or variables ([`Globals`], 5.10).
//!
//! `layout.rs` has where members are, `read.rs` reads one pool, `devices.rs` finds those that devices have of their own.

use std::thread;
use std::time::{Duration, Instant};

use trace::pool::{Pool, PoolKind, SnapshotSlot};

use crate::globals::Globals;
use crate::kcore::{Kcore, KcoreError};

mod devices;
mod layout;
mod read;

pub use devices::Devices;
use devices::Owned;
pub use layout::PoolLayout;

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

/// The pools and what was in them.
#[derive(Debug)]
pub struct Snapshot {
    /// In the order of a trace's; empty when the machine has none.
    pub pools: Vec<Pool>,
    /// Slots in use.
    pub slots: Vec<SnapshotSlot>,
    /// Nothing was taken or given back while it was read.
    pub exact: bool,
    /// What could not be read, for people.
    pub doubt: Option<String>,
}

/// How long the areas must stand still around the reading: longer than any call that had taken slots before it needs to
/// be recorded.
const QUIET: Duration = Duration::from_millis(2);
/// How often it is tried to find the pool at rest.
const ATTEMPTS: u32 = 20;

/// Where the kernel keeps its pools.
#[derive(Debug)]
pub enum Place {
    /// In an `io_tlb_mem` at this address, and in those that devices point to.
    Object {
        /// Where its members are.
        layout: PoolLayout,
        /// The default one.
        address: u64,
        /// How devices are found; nothing where they have no pools of their own, or cannot be.
        devices: Option<Devices>,
    },
    /// In variables of its own.
    Globals(Globals),
}

/// A pool, and where the entries of its slots are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    pool: Pool,
    slots: u64,
}

impl Place {
    /// The default pool as it is now, without its slots; `None` when the machine has none.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn pool(&self, memory: &Kcore) -> Result<Option<Pool>, PoolError> {
        match self {
            Self::Object { layout, address, .. } => {
                Ok(read::pool(layout, memory, layout.default_pool(*address), *address)?.map(|found| found.pool))
            }
            Self::Globals(globals) => globals.read_pool(memory),
        }
    }

    /// All pools as they are now, without their slots, in the order of a trace's.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn all(&self, memory: &Kcore) -> Result<Vec<Pool>, PoolError> {
        let owned = self.owners(memory)?;
        Ok(self.pools(memory, &owned)?.into_iter().map(|found| found.pool).collect())
    }

    /// What devices have of their own.
    fn owners(&self, memory: &Kcore) -> Result<Owned, KcoreError> {
        match self {
            Self::Object { devices: Some(devices), address, .. } => devices.owned(memory, *address),
            Self::Object { .. } | Self::Globals(_) => Ok(Owned::default()),
        }
    }

    /// All pools as they are now, in the order of a trace's.
    fn pools(&self, memory: &Kcore, owned: &Owned) -> Result<Vec<Found>, PoolError> {
        let (layout, address) = match self {
            Self::Object { layout, address, .. } => (layout, *address),
            Self::Globals(globals) => {
                return Ok(globals.read_pool(memory)?.map(|pool| Found { pool, slots: 0 }).into_iter().collect());
            }
        };
        let mut all: Vec<_> = read::pool(layout, memory, layout.default_pool(address), address)?.into_iter().collect();
        // One that goes while it is looked at is none: the default pool is worth having without.
        let read = |kind, name: &str, at, mem| -> Option<Found> {
            let Found { pool, slots } = read::pool(layout, memory, at, mem).ok()??;
            Some(Found { pool: Pool { kind, name: name.to_owned(), ..pool }, slots })
        };
        for at in read::added(layout, memory, address)? {
            all.extend(read(PoolKind::Added, Pool::DEFAULT, at, address));
        }
        for &mem in &owned.mems {
            all.extend(read(PoolKind::Own, &format!("{mem:#x}"), layout.default_pool(mem), mem));
        }
        for (device, at) in &owned.transient {
            all.extend(read(PoolKind::Transient, device, *at, address));
        }
        Ok(all)
    }

    fn slots(&self, memory: &Kcore, found: &Found) -> Result<Vec<SnapshotSlot>, PoolError> {
        match self {
            Self::Object { layout, .. } => read::slots(layout, memory, found.slots, &found.pool),
            Self::Globals(globals) => globals.read_slots(memory, &found.pool),
        }
    }
}

/// Reads the pools, trying a few times to find them at rest.
///
/// # Errors
/// See [`PoolError`].
pub fn snapshot(place: &Place, memory: &Kcore) -> Result<Snapshot, PoolError> {
    let mut doubt = None;
    let mut owned = || {
        place.owners(memory).unwrap_or_else(|why| {
            doubt = Some(format!("it is not known whether devices have bounce pools of their own: {why}"));
            Owned::default()
        })
    };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let began = Instant::now();
        let owned_before = owned();
        let before = place.pools(memory, &owned_before)?;
        let mut slots = Vec::new();
        for (at, found) in (0..).zip(&before) {
            let of_pool = match place.slots(memory, found) {
                Err(_) if found.pool.kind != PoolKind::Default => continue,
                of_pool => of_pool?,
            };
            slots.extend(of_pool.into_iter().map(|slot| SnapshotSlot { pool: Some(at), ..slot }));
        }
        thread::sleep(QUIET.saturating_sub(began.elapsed()));
        // The pools before the devices, which take longer to look at than pools stand still.
        let after = place.pools(memory, &owned_before)?;
        let owned_after = owned();
        // Slots and counters are changed under one lock, so at rest they agree.
        let agrees = |(at, found): (usize, &Found)| {
            let used = found.pool.areas.iter().map(|a| a.used).sum::<u64>();
            !found.pool.areas.is_empty() && used == slots.iter().filter(|slot| slot.pool() == at).count() as u64
        };
        let exact = owned_after == owned_before && after == before && before.iter().enumerate().all(agrees);
        if exact || attempt == ATTEMPTS {
            let pools = before.into_iter().map(|found| found.pool).collect();
            return Ok(Snapshot { pools, slots, exact, doubt });
        }
    }
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
    Some(Pool { start, nslabs, nareas, force_bounce: is_forced(cmdline), ..Pool::default() })
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
