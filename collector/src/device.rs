//! What the kernel knows of a device beside its limits (SPEC 13), read from its memory when the device is introduced: how its
//! DMA goes, not what the allocator asks for. Where memory cannot be read none of it is known.

use trace::{Device, Pool};

use crate::btf::Btf;
use crate::kcore::Kcore;
use crate::symbols::Symbols;

/// Members of `struct device` and what they point to.
#[derive(Debug)]
struct Members {
    bus: Option<u32>,
    dma_ops: Option<u32>,
    dma_range_map: Option<u32>,
    dma_io_tlb_mem: Option<u32>,
    iommu_group: Option<u32>,
    /// Bits, counted from the beginning of the structure.
    dma_iommu: Option<u32>,
    dma_coherent: Option<u32>,
    /// Of `struct pci_dev`: where the device is in it, and a bit.
    pci: Option<(u32, u32)>,
    /// Of `struct bus_dma_region`: its size, CPU address, bus address, bytes.
    region: Option<[u32; 4]>,
}

/// Reads devices.
#[derive(Debug)]
pub struct Devices {
    members: Members,
    memory: Kcore,
    /// Tables of DMA functions by address.
    ops: Vec<(u64, String)>,
    pci_bus: Option<u64>,
    default_pool: Option<u64>,
}

/// Regions of a bus looked at.
const REGIONS: u64 = 16;

impl Devices {
    /// A reader, where memory can be read.
    #[must_use]
    pub fn new(btf: &Btf, symbols: &Symbols, memory: Kcore) -> Self {
        let at = |path: &str| btf.offset_of("device", path);
        let region = || {
            let member = |path: &str| btf.offset_of("bus_dma_region", path);
            Some([btf.size_of("bus_dma_region")?, member("cpu_start")?, member("dma_start")?, member("size")?])
        };
        let members = Members {
            bus: at("bus"),
            dma_ops: at("dma_ops"),
            dma_range_map: at("dma_range_map"),
            dma_io_tlb_mem: at("dma_io_tlb_mem"),
            iommu_group: at("iommu_group"),
            dma_iommu: btf.bit_of("device", "dma_iommu"),
            dma_coherent: btf.bit_of("device", "dma_coherent"),
            pci: btf.offset_of("pci_dev", "dev").zip(btf.bit_of("pci_dev", "untrusted")),
            region: region(),
        };
        let (pci_bus, default_pool) = (symbols.address("pci_bus_type"), symbols.address("io_tlb_default_mem"));
        Self { members, memory, ops: symbols.dma_ops().to_vec(), pci_bus, default_pool }
    }

    /// Fills in what can be read of the device at `address`.
    pub fn look(&self, address: u64, device: &mut Device) {
        let members = &self.members;
        let word = |offset: Option<u32>| self.memory.u64(address + u64::from(offset?)).ok();
        device.coherent = members.dma_coherent.and_then(|bit| self.bit(address, bit));
        device.untrusted = self.untrusted(address, word(members.bus));
        let ops = word(members.dma_ops);
        device.dma_ops = ops.map(|ops| self.ops_name(ops));
        device.iommu = match (members.dma_iommu.and_then(|bit| self.bit(address, bit)), word(members.iommu_group)) {
            (Some(by_bit), _) => Some(by_bit),
            // Outside all groups it is behind none.
            (None, Some(0)) => Some(false),
            (None, _) => ops.map(|ops| self.ops_name(ops) == "iommu_dma_ops"),
        };
        device.dma_ranges = word(members.dma_range_map).map(|map| self.ranges(map));
        // Where the default one is not known nobody's can be told from it.
        let pool = word(members.dma_io_tlb_mem).filter(|&pool| pool != 0).zip(self.default_pool);
        device.pool =
            pool.map(|(pool, default)| if pool == default { Pool::DEFAULT.to_owned() } else { format!("{pool:#x}") });
    }

    fn bit(&self, address: u64, bit: u32) -> Option<bool> {
        let mut byte = [0];
        self.memory.read(address + u64::from(bit / 8), &mut byte).ok()?;
        // Bits are counted from the end of a byte that stands for the least, as bytes are.
        let at = if cfg!(target_endian = "big") { 7 - bit % 8 } else { bit % 8 };
        Some(byte[0] >> at & 1 == 1)
    }

    /// Only PCI devices can be so.
    fn untrusted(&self, address: u64, bus: Option<u64>) -> Option<bool> {
        let (bus, pci_bus) = (bus?, self.pci_bus?);
        if bus != pci_bus {
            return Some(false);
        }
        let (inside, bit) = self.members.pci?;
        self.bit(address.checked_sub(u64::from(inside))?, bit)
    }

    fn ops_name(&self, ops: u64) -> String {
        if ops == 0 {
            return "direct".to_owned();
        }
        let named = self.ops.iter().find(|(address, _)| *address == ops);
        named.map_or_else(|| format!("{ops:#x}"), |(_, name)| name.clone())
    }

    /// The regions up to the one without a size, which ends them.
    fn ranges(&self, map: u64) -> String {
        let (Some([size, cpu, dma, bytes]), 1..) = (self.members.region, map) else { return String::new() };
        let region = |n: u64| {
            let word = |at: u32| self.memory.u64(map + n * u64::from(size) + u64::from(at)).ok();
            let bytes = word(bytes).filter(|&bytes| bytes > 0)?;
            Some(format!("{:#x}={:#x}+{bytes:#x}", word(cpu)?, word(dma)?))
        };
        (0..REGIONS).map_while(region).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const POOL: u64 = 0x70;

    /// Memory from address 0 on; a `pci_dev` at 0x40, whose `device` begins 8 bytes later.
    fn devices(words: &[(usize, u64)]) -> Devices {
        let mut all = [0u64; 64];
        words.iter().for_each(|&(at, word)| all[at / 8] = word);
        let mut file = tempfile::tempfile().unwrap();
        all.iter().for_each(|word| file.write_all(&word.to_ne_bytes()).unwrap());
        let members = Members {
            bus: Some(0),
            dma_ops: Some(8),
            dma_range_map: Some(16),
            dma_io_tlb_mem: Some(24),
            iommu_group: Some(32),
            dma_iommu: None,
            dma_coherent: Some(40 * 8 + 3),
            pci: Some((8, 56 * 8 + 1)),
            region: Some([32, 0, 8, 16]),
        };
        let ops = vec![(0xabc0, "iommu_dma_ops".to_owned()), (0xdef0, "xen_swiotlb_dma_ops".to_owned())];
        Devices { members, memory: Kcore::over(file, 0, 512), ops, pci_bus: Some(0x99), default_pool: Some(POOL) }
    }

    fn look(words: &[(usize, u64)]) -> Device {
        let mut device = Device::new(0, "x");
        devices(words).look(0x48, &mut device);
        device
    }

    #[test]
    fn a_plain_device() {
        let device = look(&[(0x48, 0x99), (0x60, POOL)]);
        assert_eq!((device.untrusted, device.coherent, device.iommu), (Some(false), Some(false), Some(false)));
        assert_eq!((device.dma_ops.as_deref(), device.pool.as_deref()), (Some("direct"), Some("default")));
        assert_eq!(device.dma_ranges.as_deref(), Some(""));
    }

    #[test]
    fn one_behind_an_iommu_that_nobody_trusts() {
        let words = [(0x48, 0x99), (0x50, 0xabc0), (0x60, 0x1234), (0x68, 0x5), (0x70, 8), (0x78, 2)];
        let device = look(&words);
        assert_eq!((device.untrusted, device.coherent, device.iommu), (Some(true), Some(true), Some(true)));
        assert_eq!((device.dma_ops.as_deref(), device.pool.as_deref()), (Some("iommu_dma_ops"), Some("0x1234")));
        // Of another bus the bit is something else's.
        let other = look(&[(0x48, 0x11), (0x50, 0xdef0), (0x78, 2)]);
        assert_eq!((other.untrusted, other.dma_ops.as_deref()), (Some(false), Some("xen_swiotlb_dma_ops")));
    }

    #[test]
    fn one_whose_bus_sees_memory_elsewhere() {
        let regions =
            [(0x100, 0), (0x108, 0xc000_0000), (0x110, 0x4000_0000), (0x120, 0x1_0000_0000), (0x128, 0), (0x130, 16)];
        let device = look(&[&[(0x58, 0x100)][..], &regions].concat());
        assert_eq!(device.dma_ranges.as_deref(), Some("0x0=0xc0000000+0x40000000 0x100000000=0x0+0x10"));
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        let mut device = Device::new(0, "x");
        devices(&[]).look(0x1000, &mut device);
        assert_eq!(device, Device::new(0, "x"));
    }
}
