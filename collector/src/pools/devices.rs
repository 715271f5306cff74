//! Which devices have bounce pools of their own: restricted ones (SPEC 2.7), and those made for one mapping (SPEC 5).

use super::read::list;
use crate::btf::Btf;
use crate::kcore::{Kcore, KcoreError};
use crate::symbols::Symbols;

/// How the kernel's devices are found, and what is read of each.
#[derive(Debug)]
pub struct Devices {
    /// Address of the pointer to the set of all devices.
    set: u64,
    /// Of `kset`, its list; of `kobject`, its place in one and its name.
    list: u32,
    entry: u32,
    name: u32,
    /// Of `device`: its `kobject`, its `io_tlb_mem`, its transient pools.
    kobj: u32,
    mem: u32,
    transient: Option<(u32, u32)>,
}

/// What devices have of their own.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Owned {
    /// Addresses of `io_tlb_mem`s.
    pub(super) mems: Vec<u64>,
    /// Pools for one mapping: whose, and where.
    pub(super) transient: Vec<(String, u64)>,
}

impl Devices {
    /// Finds what it takes; nothing on kernels whose devices have no pools of their own (before 5.15), or that hide it.
    #[must_use]
    pub fn discover(btf: &Btf, symbols: &Symbols) -> Option<Self> {
        let at = |path: &str| btf.offset_of("device", path);
        Some(Self {
            set: symbols.address("devices_kset")?,
            list: btf.offset_of("kset", "list")?,
            entry: btf.offset_of("kobject", "entry")?,
            name: btf.offset_of("kobject", "name")?,
            kobj: at("kobj")?,
            mem: at("dma_io_tlb_mem")?,
            transient: at("dma_io_tlb_pools").zip(btf.offset_of("io_tlb_pool", "node")),
        })
    }

    /// Looks at every device there is: three reads each.
    pub(super) fn owned(&self, memory: &Kcore, default_mem: u64) -> Result<Owned, KcoreError> {
        let set = memory.u64(self.set)?;
        let mut owned = Owned::default();
        for kobject in list(memory, set + u64::from(self.list), self.entry)? {
            let device = kobject - u64::from(self.kobj);
            let mem = memory.u64(device + u64::from(self.mem))?;
            if mem != 0 && mem != default_mem && !owned.mems.contains(&mem) {
                owned.mems.push(mem);
            }
            let Some((head, node)) = self.transient else { continue };
            let pools = list(memory, device + u64::from(head), node)?;
            if !pools.is_empty() {
                let name = memory.text(memory.u64(kobject + u64::from(self.name))?)?;
                owned.transient.extend(pools.into_iter().map(|pool| (name.clone(), pool)));
            }
        }
        Ok(owned)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Memory from address 0x1000 on that has these words.
    fn memory(words: &[(u64, u64)]) -> Kcore {
        let mut all = [0u64; 512];
        words.iter().for_each(|&(at, word)| all[(at as usize - 0x1000) / 8] = word);
        let mut file = tempfile::tempfile().unwrap();
        all.iter().for_each(|word| file.write_all(&word.to_ne_bytes()).unwrap());
        Kcore::over(file, 0x1000, 0x1000)
    }

    /// A device's `kobject` is 0x10 bytes into it, and begins with its place in the list.
    const DEVICES: Devices =
        Devices { set: 0x1000, list: 8, entry: 0, name: 0x20, kobj: 0x10, mem: 0x40, transient: Some((0x48, 0x18)) };
    const DEFAULT: u64 = 0x1f00;
    /// The set is at 0x1100, so its list at 0x1108; devices are at 0x1200, 0x1300 and 0x1400.
    const SET: [(u64, u64); 5] =
        [(0x1000, 0x1100), (0x1108, 0x1210), (0x1210, 0x1310), (0x1310, 0x1410), (0x1410, 0x1108)];

    #[test]
    fn devices_with_pools_of_their_own_are_found_among_all() {
        let name = u64::from_ne_bytes(*b"nvme0\0\0\0");
        let words = [
            (0x1240, DEFAULT),
            (0x1248, 0x1248),
            // Two devices with one pool.
            (0x1340, 0x1abc),
            (0x1348, 0x1348),
            (0x1440, 0x1abc),
            // And one that has a pool for one mapping, by its place in the list.
            (0x1448, 0x1518),
            (0x1518, 0x1448),
            (0x1430, 0x1600),
            (0x1600, name),
        ];
        let owned = DEVICES.owned(&memory(&[&SET[..], &words].concat()), DEFAULT).unwrap();
        assert_eq!(owned.mems, [0x1abc]);
        assert_eq!(owned.transient, [("nvme0".to_owned(), 0x1500)]);
    }

    #[test]
    fn a_list_that_leads_nowhere_is_an_error_and_one_without_end_ends() {
        let broken = [(0x1000, 0x1100), (0x1108, 0x9000)];
        assert!(DEVICES.owned(&memory(&broken), DEFAULT).is_err());
        // Its entries lead to each other and not to the head again.
        let endless = list(&memory(&[(0x1108, 0x1210), (0x1210, 0x1310), (0x1310, 0x1210)]), 0x1108, 0).unwrap();
        assert!(endless.len() > 1_000);
    }
}
