//! Where the members of the kernel's pools are.

use super::PoolError;
use crate::btf::{Btf, Kind};

/// Where the members are.
#[derive(Debug)]
pub struct PoolLayout {
    /// Of `io_tlb_mem`, its first pool.
    pool: u32,
    /// Of `io_tlb_mem`, the list of its pools, and where a pool has its place in one (kernels that grow).
    pub(super) list: Option<(u32, u32)>,
    pub(super) start: u32,
    pub(super) nslabs: u32,
    pub(super) nareas: Option<u32>,
    pub(super) areas: Option<u32>,
    pub(super) single: Option<(u32, u32)>,
    pub(super) slots: u32,
    pub(super) slots_inline: bool,
    pub(super) force_bounce: Option<u32>,
    pub(super) can_grow: Option<u32>,
    pub(super) area: Option<(u32, u32, u32)>,
    pub(super) slot_size: u32,
    pub(super) slot_list: u32,
    pub(super) slot_list_wide: bool,
    pub(super) slot_orig: u32,
    pub(super) slot_alloc: Option<u32>,
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
            list: btf.offset_of("io_tlb_mem", "pools").zip(btf.offset_of(structure, "node")),
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
            slot_list_wide: btf.member_size("io_tlb_slot", "list") == Some(4),
            slot_orig: need("io_tlb_slot", "orig_addr")?,
            slot_alloc: btf.offset_of("io_tlb_slot", "alloc_size"),
            pads: btf.offset_of("io_tlb_slot", "pad_slots"),
        })
    }

    /// Where the pool that an `io_tlb_mem` begins with is.
    pub(super) fn default_pool(&self, mem: u64) -> u64 {
        mem + u64::from(self.pool)
    }
}
