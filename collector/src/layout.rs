//! The running kernel's [`Layout`], from its BTF and symbols. What is not there stays absent, and is said.

use probe::Layout;
use probe::layout::{ABSENT, TBL_MAP_ALIGN, TBL_MAP_ALIGN_AT, TBL_MAP_ALLOC, TBL_MAP_ALLOC_ALIGN};

use crate::arch::Arch;
use crate::btf::{Btf, Kind};
use crate::symbols::Symbols;

/// Finds everything the probe wants to know; the second part says, a line each, what this kernel lacks and what is
/// missing from the trace because of it.
#[must_use]
pub fn discover(btf: &Btf, symbols: &Symbols) -> (Layout, Vec<String>) {
    let mut missing = Vec::new();
    let mut offset = |name: &str, path: &str, without: &str| {
        btf.offset_of(name, path).unwrap_or_else(|| {
            missing.push(format!("struct {name} has no {path}: {without}"));
            ABSENT
        })
    };
    const SG: &str = "scatterlists are recorded without their elements";
    let mut layout = Layout {
        device_name: offset("device", "kobj.name", "devices have no names"),
        device_driver: offset("device", "driver", "devices have no drivers"),
        device_dma_mask: offset("device", "dma_mask", "devices have no DMA mask"),
        device_coherent_dma_mask: offset("device", "coherent_dma_mask", "devices have no coherent mask"),
        device_bus_dma_limit: offset("device", "bus_dma_limit", "bus limits are taken as none"),
        device_dma_parms: offset("device", "dma_parms", "alignment and boundaries are taken as none"),
        driver_name: offset("device_driver", "name", "devices have no drivers"),
        parms_max_segment_size: offset("device_dma_parameters", "max_segment_size", "segment sizes are unknown"),
        parms_min_align_mask: offset("device_dma_parameters", "min_align_mask", "none is used before kernel 5.12"),
        parms_segment_boundary_mask: offset(
            "device_dma_parameters",
            "segment_boundary_mask",
            "boundaries are taken as none",
        ),
        sg_page_link: offset("scatterlist", "page_link", SG),
        sg_offset: offset("scatterlist", "offset", SG),
        sg_length: offset("scatterlist", "length", SG),
        sg_dma_address: offset("scatterlist", "dma_address", SG),
        sgt_sgl: offset("sg_table", "sgl", SG),
        sgt_nents: offset("sg_table", "nents", SG),
        sgt_orig_nents: offset("sg_table", "orig_nents", SG),
        sg_size: btf.size_of("scatterlist").unwrap_or(ABSENT),
        page_size: btf.size_of("page").unwrap_or(ABSENT),
        tbl_map_form: tbl_map_form(btf).unwrap_or(ABSENT),
        // Only asked for where pools come and go.
        pool_start: btf.offset_of("io_tlb_pool", "start").unwrap_or(ABSENT),
        pool_nslabs: btf.offset_of("io_tlb_pool", "nslabs").unwrap_or(ABSENT),
        pool_nareas: btf.offset_of("io_tlb_pool", "nareas").unwrap_or(ABSENT),
        ..Layout::EMPTY
    };
    let arch = Arch::discover(btf, symbols);
    let mut known = |place: Result<u64, &str>, without: &str| {
        place.unwrap_or_else(|name| {
            missing.push(format!("no symbol {name}: {without}"));
            0
        })
    };
    layout.page_offset_base = known(arch.page_offset, "coherent buffers have no CPU address");
    layout.page_offset_bytes = arch.page_offset_bytes;
    layout.vmemmap_base = known(arch.vmemmap, "elements of scatterlists have no CPU address");
    match used(btf, symbols) {
        Some(Used::Number(address)) => layout.used = address,
        Some(Used::Areas { areas, nareas, used, size }) => {
            (layout.areas, layout.nareas, layout.area_used, layout.area_size) = (areas, nareas, used, size);
        }
        None => missing.push("no count of used slots: refusals do not say how full the pool was".to_owned()),
    }
    if layout.page_size == ABSENT {
        missing.push("no struct page: elements of scatterlists have no CPU address".to_owned());
        layout.vmemmap_base = 0;
    }
    (layout, missing)
}

/// Where the kernel counts the slots in use that it tells of in *buffer is full* (SPEC 6.7).
enum Used {
    /// In one number.
    Number(u64),
    /// In each area.
    Areas { areas: u64, nareas: u64, used: u32, size: u32 },
}

fn used(btf: &Btf, symbols: &Symbols) -> Option<Used> {
    let Some(mem) = symbols.address("io_tlb_default_mem") else {
        return symbols.address("io_tlb_used").map(Used::Number);
    };
    let member = |member: &str| btf.offset_of("io_tlb_mem", member).map(|offset| mem + u64::from(offset));
    // From 7.3 on it counts only while somebody asks for the high-water mark; areas always count, of one pool each.
    let counts = !btf.has(Kind::Func, "inc_used_and_hiwater_nop");
    if let Some(total) = member("total_used").filter(|_| counts) {
        return Some(Used::Number(total));
    }
    if member("pools").is_some() {
        return None;
    }
    let of_pool = |name: &str| member(name).or_else(|| member(&format!("defpool.{name}")));
    match (of_pool("areas"), of_pool("nareas")) {
        (Some(areas), Some(nareas)) => {
            let (used, size) = (btf.offset_of("io_tlb_area", "used")?, btf.size_of("io_tlb_area")?);
            Some(Used::Areas { areas, nareas, used, size })
        }
        _ => member("used").map(Used::Number),
    }
}

/// Which parameters `swiotlb_tbl_map_single` has; `None` for a form this version does not know (SPEC 1, end).
#[must_use]
pub fn tbl_map_form(btf: &Btf) -> Option<u32> {
    let parameters = btf.parameters("swiotlb_tbl_map_single")?.len();
    match (parameters, btf.has(Kind::Struct, "io_tlb_pool")) {
        (7, _) => Some(TBL_MAP_ALLOC_ALIGN),
        (6, true) if btf.is_pointer("swiotlb_tbl_map_single", 5)? => Some(TBL_MAP_ALIGN_AT),
        (6, true) => Some(TBL_MAP_ALIGN),
        (6, false) => Some(TBL_MAP_ALLOC),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// This machine's types with one member called something else.
    fn without(member: &str) -> Option<Btf> {
        let mut bytes = fs::read(Btf::KERNEL).ok()?;
        let name = format!("\0{member}\0").into_bytes();
        let at: Vec<_> = (0..bytes.len() - name.len()).filter(|&at| bytes[at..].starts_with(&name)).collect();
        at.into_iter().for_each(|at| bytes[at + 1] = b'X');
        let path = std::env::temp_dir().join(format!("swioscope-btf-{}-{member}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        let btf = Btf::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        Some(btf)
    }

    #[test]
    fn a_missing_member_is_said_with_what_follows_and_the_others_stay() {
        if !Path::new(Btf::KERNEL).exists() {
            eprintln!("skipped: this kernel has no BTF");
            return;
        }
        let (whole, before) = discover(&Btf::kernel().unwrap(), &Symbols::default());
        let (layout, missing) = discover(&without("bus_dma_limit").unwrap(), &Symbols::default());
        assert_eq!(layout, Layout { device_bus_dma_limit: ABSENT, ..whole });
        let said: Vec<_> = missing.iter().filter(|line| !before.contains(line)).collect();
        assert_eq!(said, ["struct device has no bus_dma_limit: bus limits are taken as none"]);
        // A structure's whole name: everything in it is unknown.
        let (layout, missing) = discover(&without("scatterlist").unwrap(), &Symbols::default());
        assert_eq!((layout.sg_page_link, layout.sg_size, layout.device_name), (ABSENT, ABSENT, whole.device_name));
        assert!(missing.iter().any(|line| line.contains("without their elements")), "{missing:?}");
    }
}
