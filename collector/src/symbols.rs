//! Addresses of kernel symbols.

use std::collections::HashMap;
use std::fs;

/// The symbols this crate asks for; keeping only these makes the table small.
const WANTED: [&str; 6] =
    ["vmemmap_base", "page_offset_base", "io_tlb_default_mem", "xen_p2m_addr", "xen_p2m_size", "swiotlb_force"];

/// Addresses of the wanted symbols that this kernel shows.
#[derive(Debug, Default)]
pub struct Symbols(HashMap<&'static str, u64>);

impl Symbols {
    /// Reads /proc/kallsyms; empty without the right to see addresses (root and kernel.kptr_restrict < 2).
    #[must_use]
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/kallsyms").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut found = HashMap::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            if let Some(wanted) = WANTED.iter().find(|w| **w == name)
                && let Ok(address @ 1..) = u64::from_str_radix(address, 16)
            {
                found.entry(*wanted).or_insert(address);
            }
        }
        Self(found)
    }

    /// A symbol's address.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// Whether addresses can be seen at all.
    #[must_use]
    pub fn visible(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
