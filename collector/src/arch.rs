//! Where each architecture's kernel keeps what its addresses mean: where all memory is mapped, and where the array of
//! `struct page` is. An architecture that is not named here is taken to have what x86_64 has, and lacks what it has not.

use crate::btf::Btf;
use crate::symbols::Symbols;

/// Places of numbers in the kernel's memory, or the symbol that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// Of the virtual address at which all memory is mapped.
    pub page_offset: Result<u64, &'static str>,
    /// Of how many bytes are mapped there; 0 when it need not be known.
    pub page_offset_bytes: u64,
    /// Of the address of the first `struct page`.
    pub vmemmap: Result<u64, &'static str>,
}

impl Arch {
    /// This machine's.
    #[must_use]
    pub fn discover(btf: &Btf, symbols: &Symbols) -> Self {
        let symbol = |name: &'static str| symbols.address(name).ok_or(name);
        if cfg!(target_arch = "s390x") {
            // Members of one structure; memory is mapped from 0 on, and modules not far above.
            let layout = |member| {
                let offset = btf.offset_of("vm_layout", member).ok_or("vm_layout")?;
                symbol("vm_layout").map(|address| address + u64::from(offset))
            };
            let bytes = layout("identity_size");
            return Self {
                page_offset: bytes.and(layout("identity_base")),
                page_offset_bytes: bytes.unwrap_or(0),
                vmemmap: symbol("vmemmap"),
            };
        }
        Self { page_offset: symbol("page_offset_base"), page_offset_bytes: 0, vmemmap: symbol("vmemmap_base") }
    }
}
