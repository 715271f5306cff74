//! Where things are in the running kernel. Rust has no CO-RE, so the offsets travel as a global of the object.

/// An offset that this kernel does not have; the probe leaves the value out.
pub const ABSENT: u32 = u32::MAX;

/// Member offsets (bytes, from BTF) and symbol addresses (from kallsyms) of the running kernel. The object's global
/// `LAYOUT` is overridden with it before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Layout {
    /// Where the kernel keeps the address of its first `struct page`, 0 when unknown: scatterlists then have no original
    /// addresses.
    pub vmemmap_base: u64,
    /// Where it keeps the virtual address at which all memory is mapped, 0 when unknown: coherent buffers then have no
    /// original addresses.
    pub page_offset_base: u64,
    /// Where it keeps how many bytes are mapped there; 0 when nothing else is within [`DIRECT_MAP`] of it.
    pub page_offset_bytes: u64,
    /// Address of the number of slots in use in the default pool, 0 when it has none (or is unknown): see `areas`.
    pub used: u64,
    /// Address of the pointer to the default pool's areas, whose numbers together are the same; 0 when not needed.
    pub areas: u64,
    /// Address of the number of areas.
    pub nareas: u64,
    /// `struct device`: kobj.name.
    pub device_name: u32,
    /// `struct device`: driver.
    pub device_driver: u32,
    /// `struct device`: dma_mask, a pointer.
    pub device_dma_mask: u32,
    /// `struct device`: coherent_dma_mask.
    pub device_coherent_dma_mask: u32,
    /// `struct device`: bus_dma_limit.
    pub device_bus_dma_limit: u32,
    /// `struct device`: dma_parms, a pointer.
    pub device_dma_parms: u32,
    /// `struct device_driver`: name.
    pub driver_name: u32,
    /// `struct device_dma_parameters`: max_segment_size.
    pub parms_max_segment_size: u32,
    /// `struct device_dma_parameters`: min_align_mask (5.12 and newer).
    pub parms_min_align_mask: u32,
    /// `struct device_dma_parameters`: segment_boundary_mask.
    pub parms_segment_boundary_mask: u32,
    /// `struct scatterlist`: page_link.
    pub sg_page_link: u32,
    /// `struct scatterlist`: offset.
    pub sg_offset: u32,
    /// `struct scatterlist`: length.
    pub sg_length: u32,
    /// `struct scatterlist`: dma_address.
    pub sg_dma_address: u32,
    /// Size of `struct scatterlist`.
    pub sg_size: u32,
    /// `struct sg_table`: sgl.
    pub sgt_sgl: u32,
    /// `struct sg_table`: nents, elements left after mapping.
    pub sgt_nents: u32,
    /// `struct sg_table`: orig_nents.
    pub sgt_orig_nents: u32,
    /// Size of `struct page`.
    pub page_size: u32,
    /// Parameters of `swiotlb_tbl_map_single`, as one of the `TBL_MAP_*` forms.
    pub tbl_map_form: u32,
    /// `struct io_tlb_area`: used.
    pub area_used: u32,
    /// Size of `struct io_tlb_area`.
    pub area_size: u32,
    /// `struct io_tlb_pool`: start.
    pub pool_start: u32,
    /// `struct io_tlb_pool`: nslabs.
    pub pool_nslabs: u32,
    /// `struct io_tlb_pool`: nareas.
    pub pool_nareas: u32,
    /// Record of the tracepoint `swiotlb_bounced` (from tracefs, not BTF): where the place of the device's name stands.
    pub bounced_dev_name: u32,
    /// The same record: dma_mask.
    pub bounced_dma_mask: u32,
    /// The same record: dev_addr.
    pub bounced_dev_addr: u32,
    /// The same record: size.
    pub bounced_size: u32,
    /// Nothing: for whole words.
    pub padding: u32,
}

/// How many bytes the mapping of all memory has at most, on machines where that tells it from other addresses.
pub const DIRECT_MAP: u64 = 1 << 46;

/// `swiotlb_tbl_map_single(dev, orig, size, align_mask, dir, attrs)`: 6.10 to 7.2.
pub const TBL_MAP_ALIGN: u32 = 0;
/// `swiotlb_tbl_map_single(dev, orig, size, alloc_size, align_mask, dir, attrs)`: late 5.15.y to 6.9.
pub const TBL_MAP_ALLOC_ALIGN: u32 = 1;
/// `swiotlb_tbl_map_single(dev, orig, size, alloc_size, dir, attrs)`: 5.10 to early 5.15.y.
pub const TBL_MAP_ALLOC: u32 = 2;
/// `swiotlb_tbl_map_single(dev, orig, size, align_mask, dir, &attrs)`: 7.3 and newer.
pub const TBL_MAP_ALIGN_AT: u32 = 3;

impl Layout {
    /// Nothing known.
    pub const EMPTY: Self = Self {
        vmemmap_base: 0,
        page_offset_base: 0,
        page_offset_bytes: 0,
        used: 0,
        areas: 0,
        nareas: 0,
        device_name: ABSENT,
        device_driver: ABSENT,
        device_dma_mask: ABSENT,
        device_coherent_dma_mask: ABSENT,
        device_bus_dma_limit: ABSENT,
        device_dma_parms: ABSENT,
        driver_name: ABSENT,
        parms_max_segment_size: ABSENT,
        parms_min_align_mask: ABSENT,
        parms_segment_boundary_mask: ABSENT,
        sg_page_link: ABSENT,
        sg_offset: ABSENT,
        sg_length: ABSENT,
        sg_dma_address: ABSENT,
        sg_size: ABSENT,
        sgt_sgl: ABSENT,
        sgt_nents: ABSENT,
        sgt_orig_nents: ABSENT,
        page_size: ABSENT,
        tbl_map_form: ABSENT,
        area_used: ABSENT,
        area_size: ABSENT,
        pool_start: ABSENT,
        pool_nslabs: ABSENT,
        pool_nareas: ABSENT,
        bounced_dev_name: ABSENT,
        bounced_dma_mask: ABSENT,
        bounced_dev_addr: ABSENT,
        bounced_size: ABSENT,
        padding: 0,
    };
}
