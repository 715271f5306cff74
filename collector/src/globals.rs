//! The pool of kernels up to 5.13, which keep it in variables of their own instead of an `io_tlb_mem` (SPEC 13.1).
//!
//! # Minimum kernel version
//!
//! Tried on 5.10. The variables are not exported, so addresses take CONFIG_KALLSYMS_ALL.

use trace::pool::{Area, Pool, SEGMENT_SLOTS, SLOT_BYTES, SnapshotSlot};

use crate::kcore::{Kcore, word};
use crate::pools::PoolError;
use crate::symbols::Symbols;

/// Where the variables are.
#[derive(Clone, Copy, Debug)]
pub struct Globals {
    start: u64,
    nslabs: u64,
    used: u64,
    index: u64,
    list: u64,
    orig_addr: u64,
    force: Option<u64>,
}

/// `swiotlb_force` when everything bounces (SPEC 6.5).
const FORCE: u64 = 1;

impl Globals {
    /// Finds the variables; nothing when this kernel has none, or hides them.
    #[must_use]
    pub fn discover(symbols: &Symbols) -> Option<Self> {
        Some(Self {
            start: symbols.address("io_tlb_start")?,
            nslabs: symbols.address("io_tlb_nslabs")?,
            used: symbols.address("io_tlb_used")?,
            index: symbols.address("io_tlb_index")?,
            list: symbols.address("io_tlb_list")?,
            orig_addr: symbols.address("io_tlb_orig_addr")?,
            force: symbols.address("swiotlb_force"),
        })
    }

    /// The pool as it is now; `None` when there is none.
    ///
    /// # Errors
    /// When memory cannot be read, or holds no pool.
    pub fn read_pool(&self, memory: &Kcore) -> Result<Option<Pool>, PoolError> {
        // The size is what was asked for, whether or not a pool was made then.
        let (start, nslabs) = (memory.u64(self.start)?, memory.u64(self.nslabs)?);
        if start == 0 || nslabs == 0 {
            return Ok(None);
        }
        if nslabs > 1 << 32 {
            return Err(PoolError::Implausible { nslabs, nareas: 1 });
        }
        let force = self.force.map(|address| memory.u32(address)).transpose()?;
        let area = Area { index: memory.u32(self.index)?, used: memory.u64(self.used)? };
        Ok(Some(Pool {
            start,
            nslabs,
            nareas: 1,
            force_bounce: force == Some(FORCE),
            areas: vec![area],
            ..Pool::default()
        }))
    }

    /// The slots in use. These kernels do not remember sizes: what follows on in the buffer is taken to belong together.
    ///
    /// # Errors
    /// When memory cannot be read.
    pub fn read_slots(&self, memory: &Kcore, pool: &Pool) -> Result<Vec<SnapshotSlot>, PoolError> {
        let array = |pointer: u64, entry: u64| -> Result<Vec<u8>, PoolError> {
            let len = usize::try_from(pool.nslabs * entry).unwrap_or(0);
            let mut bytes = vec![0; len];
            memory.read(memory.u64(pointer)?, &mut bytes)?;
            Ok(bytes)
        };
        let (list, origs) = (array(self.list, 4)?, array(self.orig_addr, 8)?);
        // A free run of no slots: taken (SPEC 12, I2).
        let taken = (0u32..).zip(list.chunks_exact(4)).filter(|(_, run)| run.iter().all(|&byte| byte == 0));
        let mut slots: Vec<_> = taken
            .map(|(slot, _)| {
                let orig_addr = word(&origs, slot as usize * 8);
                SnapshotSlot { slot, orig_addr, alloc_size: 0, pad_slots: 0, pool: Some(0) }
            })
            .collect();
        let joined = |a: &SnapshotSlot, b: &SnapshotSlot| {
            a.slot + 1 == b.slot
                && !b.slot.is_multiple_of(SEGMENT_SLOTS)
                && b.orig_addr == a.orig_addr.wrapping_add(SLOT_BYTES)
        };
        for group in slots.chunk_by_mut(joined) {
            let n = group.len() as u64;
            for (k, slot) in (0..).zip(group) {
                slot.alloc_size = (n - k) * SLOT_BYTES;
            }
        }
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Memory from address 0 on: the variables, then a list and buffers of four slots.
    fn memory() -> Kcore {
        let mut words = vec![0u64; 32];
        (words[1], words[2], words[3], words[4], words[5], words[6], words[7]) = (0x9000_0000, 4, 3, 2, 128, 160, 1);
        // Slots 0 and 1 belong together, 3 is another's.
        (words[16], words[17]) = (0, 1);
        (words[20], words[21], words[23]) = (0x5000, 0x5800, 0x6000);
        let mut file = tempfile::tempfile().unwrap();
        words.iter().for_each(|word| file.write_all(&word.to_ne_bytes()).unwrap());
        Kcore::over(file, 0, 256)
    }

    #[test]
    fn variables_and_slots_are_read() {
        let globals = Globals { start: 8, nslabs: 16, used: 24, index: 32, list: 40, orig_addr: 48, force: Some(56) };
        let memory = memory();
        let pool = globals.read_pool(&memory).unwrap().unwrap();
        assert_eq!((pool.start, pool.nslabs, pool.nareas, pool.force_bounce), (0x9000_0000, 4, 1, true));
        assert_eq!((pool.areas[0].index, pool.areas[0].used), (2, 3));
        let slots = globals.read_slots(&memory, &pool).unwrap();
        let seen: Vec<_> = slots.iter().map(|s| (s.slot, s.orig_addr, s.alloc_size)).collect();
        assert_eq!(seen, [(0, 0x5000, 4096), (1, 0x5800, 2048), (3, 0x6000, 2048)]);
    }
}
