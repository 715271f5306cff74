//! Addresses of kernel symbols.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;

/// The symbols this crate asks for; keeping only these makes the table small.
const WANTED: [&str; 16] = [
    "vmemmap_base",
    "page_offset_base",
    // The same on s390x.
    "vmemmap",
    "vm_layout",
    "io_tlb_default_mem",
    "io_tlb_start",
    "io_tlb_nslabs",
    "io_tlb_used",
    "io_tlb_index",
    "io_tlb_list",
    "io_tlb_orig_addr",
    "xen_p2m_addr",
    "xen_p2m_size",
    "swiotlb_force",
    "pci_bus_type",
    "devices_kset",
];

/// Addresses of the wanted symbols that this kernel shows.
#[derive(Debug, Default)]
pub struct Symbols {
    wanted: HashMap<&'static str, u64>,
    dma_ops: Vec<(u64, String)>,
}

impl Symbols {
    /// Reads /proc/kallsyms; empty without the right to see addresses (root and kernel.kptr_restrict < 2).
    #[must_use]
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/kallsyms").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            let wanted = WANTED.iter().find(|w| **w == name);
            if (wanted.is_some() || name.ends_with("dma_ops"))
                && let Ok(address @ 1..) = u64::from_str_radix(address, 16)
            {
                match wanted {
                    Some(wanted) => _ = found.wanted.entry(*wanted).or_insert(address),
                    None => found.dma_ops.push((address, name.to_owned())),
                }
            }
        }
        found
    }

    /// A symbol's address.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.wanted.get(name).copied()
    }

    /// Whether addresses can be seen at all.
    #[must_use]
    pub fn visible(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Tables of DMA functions, by address.
    #[must_use]
    pub fn dma_ops(&self) -> &[(u64, String)] {
        &self.dma_ops
    }
}

/// The kernel's functions by address, those of modules included.
#[derive(Debug, Default)]
pub struct Functions {
    /// Address, and where in `names` the name is.
    starts: Vec<(u64, Range<usize>)>,
    /// All names, one after the other: a table of small strings would be several times as large.
    names: String,
}

impl Functions {
    /// Reads /proc/kallsyms; empty without the right to see addresses.
    #[must_use]
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/kallsyms").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let Ok(address @ 1..) = u64::from_str_radix(address, 16) {
                let start = found.names.len();
                found.names.push_str(name);
                found.starts.push((address, start..found.names.len()));
            }
        }
        // Stable, so that of several names of one place the first is taken.
        found.starts.sort_by_key(|(address, _)| *address);
        found.starts.dedup_by_key(|(address, _)| *address);
        found
    }

    /// The function an address lies in, and how far from its start. What lies a MiB behind a function's start is not its
    /// code: the symbols end there.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<(&str, u32)> {
        let below = self.starts.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.starts.get(below.checked_sub(1)?)?;
        let offset = u32::try_from(address - start).ok().filter(|offset| *offset < 1 << 20)?;
        Some((self.names.get(name.clone())?, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_the_function_that_begins_last_before_it() {
        let functions = Functions::parse(
            "ffffffff81000100 T dma_map\nffffffff81000000 t __start\nffffffff81000100 T alias\nffffffff81000200 D data\nffffffffc0000000 t nvme_q\t[nvme]\n",
        );
        assert_eq!(functions.at(0xffff_ffff_8100_0010), Some(("__start", 0x10)));
        assert_eq!(functions.at(0xffff_ffff_8100_0210), Some(("dma_map", 0x110)));
        assert_eq!(functions.at(0xffff_ffff_c000_0004), Some(("nvme_q", 4)));
        assert_eq!((functions.at(0x1000), functions.at(0xffff_ffff_9000_0000)), (None, None));
    }

    #[test]
    fn hidden_addresses_are_no_addresses() {
        let symbols =
            Symbols::parse("ffffffff82a0 D vmemmap_base\n0000000000000000 b io_tlb_default_mem\nzz T xen_p2m_addr\n");
        assert_eq!(symbols.address("vmemmap_base"), Some(0xffff_ffff_82a0));
        assert_eq!(symbols.address("io_tlb_default_mem"), None);
        assert_eq!(symbols.address("xen_p2m_addr"), None);
        assert!(!Symbols::parse("").visible());
    }
}
