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
#[derive(Debug, Default)]
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
