//! Every event and the ways to get it, best first.

use super::{Backend, Hook, Program, Source};

const fn tracepoint(program: &'static str, name: &'static str, arguments: usize) -> Program {
    Program { name: program, hook: Hook::Tracepoint { name, arguments } }
}

const fn fexit(program: &'static str, function: &'static str) -> Program {
    Program { name: program, hook: Hook::Fexit { function } }
}

const BOUNDED_CAVEAT: &str = "elements of a scatterlist beyond the 128th are counted, not recorded";
const BOUNDED_MAP_CAVEAT: &str =
    "elements of a scatterlist beyond the 128th are counted, not recorded, and how long mapping it took is not seen";
const KPROBE_CAVEAT: &str = "the kernel skips kprobes that are hit while another one runs (1 to 3.5 % under load)";

const UNTIMED_CAVEAT: &str = "how long mapping took is not seen";

/// What notes when a mapping begins.
const MAP_PAGE_BEGINS: Program =
    Program { name: "map_page_fentry", hook: Hook::Fentry { function: "dma_map_page_attrs" } };
const MAP_PHYS_BEGINS: Program = Program { name: "map_phys_fentry", hook: Hook::Fentry { function: "dma_map_phys" } };
const MAP_SG_BEGINS: Program = Program { name: "map_sg_fentry", hook: Hook::Fentry { function: "dma_map_sg_attrs" } };
const MAP_SGTABLE_BEGINS: Program =
    Program { name: "map_sgtable_fentry", hook: Hook::Fentry { function: "dma_map_sgtable" } };

/// Every event and the ways to get it.
pub const SOURCES: &[Source] = &[
    Source {
        event: "map",
        backends: &[
            Backend {
                name: "tp_btf dma:dma_map_phys, timed by fentry",
                programs: &[tracepoint("dma_map", "dma_map_phys", 6), MAP_PHYS_BEGINS],
                caveat: None,
            },
            Backend {
                name: "tp_btf dma:dma_map_phys",
                programs: &[tracepoint("dma_map", "dma_map_phys", 6)],
                caveat: Some(UNTIMED_CAVEAT),
            },
            Backend {
                name: "tp_btf dma:dma_map_page, timed by fentry",
                programs: &[
                    tracepoint("dma_map", "dma_map_page", 6),
                    tracepoint("dma_map_resource", "dma_map_resource", 6),
                    MAP_PAGE_BEGINS,
                ],
                caveat: None,
            },
            Backend {
                name: "tp_btf dma:dma_map_page",
                programs: &[
                    tracepoint("dma_map", "dma_map_page", 6),
                    tracepoint("dma_map_resource", "dma_map_resource", 6),
                ],
                caveat: Some(UNTIMED_CAVEAT),
            },
            Backend {
                name: "fexit dma_map_page_attrs",
                programs: &[
                    // First, so that no return is seen whose beginning was not.
                    MAP_PAGE_BEGINS,
                    fexit("map_page_fexit", "dma_map_page_attrs"),
                    fexit("map_resource_fexit", "dma_map_resource"),
                ],
                caveat: None,
            },
        ],
        without: "mappings that do not bounce are not seen, so other policies cannot be judged on them",
    },
    Source {
        event: "unmap",
        backends: &[
            Backend {
                name: "tp_btf dma:dma_unmap_phys",
                programs: &[tracepoint("dma_unmap", "dma_unmap_phys", 5)],
                caveat: None,
            },
            Backend {
                name: "tp_btf dma:dma_unmap_page",
                programs: &[
                    tracepoint("dma_unmap", "dma_unmap_page", 5),
                    tracepoint("dma_unmap_resource", "dma_unmap_resource", 5),
                ],
                caveat: None,
            },
            Backend {
                name: "fexit dma_unmap_page_attrs",
                programs: &[
                    fexit("unmap_page_fexit", "dma_unmap_page_attrs"),
                    fexit("unmap_resource_fexit", "dma_unmap_resource"),
                ],
                caveat: None,
            },
        ],
        without: "how long mappings live is not known",
    },
    Source {
        event: "map_sg",
        backends: &[
            Backend {
                name: "tp_btf dma:dma_map_sg, timed by fentry, refused ones by fexit",
                programs: &[
                    tracepoint("dma_map_sg", "dma_map_sg", 6),
                    MAP_SG_BEGINS,
                    MAP_SGTABLE_BEGINS,
                    fexit("map_sg_refused", "dma_map_sg_attrs"),
                    fexit("map_sgtable_refused", "dma_map_sgtable"),
                ],
                caveat: None,
            },
            Backend {
                name: "tp_btf dma:dma_map_sg, refused ones by fexit",
                programs: &[
                    tracepoint("dma_map_sg", "dma_map_sg", 6),
                    fexit("map_sg_refused", "dma_map_sg_attrs"),
                    fexit("map_sgtable_refused", "dma_map_sgtable"),
                ],
                caveat: Some(UNTIMED_CAVEAT),
            },
            Backend {
                name: "tp_btf dma:dma_map_sg",
                programs: &[
                    tracepoint("dma_map_sg", "dma_map_sg", 6),
                    tracepoint("dma_map_sg_err", "dma_map_sg_err", 6),
                ],
                caveat: Some("lists that are refused for want of slots show as refused slots only"),
            },
            Backend {
                name: "fexit dma_map_sg_attrs, dma_map_sgtable",
                programs: &[
                    MAP_SG_BEGINS,
                    MAP_SGTABLE_BEGINS,
                    fexit("map_sg_fexit", "dma_map_sg_attrs"),
                    fexit("map_sgtable_fexit", "dma_map_sgtable"),
                ],
                caveat: None,
            },
            Backend {
                name: "fexit dma_map_sg_attrs, dma_map_sgtable, bounded",
                programs: &[
                    fexit("map_sg_bounded", "dma_map_sg_attrs"),
                    fexit("map_sgtable_bounded", "dma_map_sgtable"),
                ],
                caveat: Some(BOUNDED_MAP_CAVEAT),
            },
            // Before 5.15 the one for tables goes through the other.
            Backend {
                name: "fexit dma_map_sg_attrs, bounded",
                programs: &[fexit("map_sg_bounded", "dma_map_sg_attrs")],
                caveat: Some(BOUNDED_MAP_CAVEAT),
            },
        ],
        without: "scatterlist mappings are not seen",
    },
    Source {
        event: "unmap_sg",
        backends: &[
            Backend {
                name: "tp_btf dma:dma_unmap_sg",
                programs: &[tracepoint("dma_unmap_sg", "dma_unmap_sg", 5)],
                caveat: None,
            },
            Backend {
                name: "fexit dma_unmap_sg_attrs",
                programs: &[fexit("unmap_sg_fexit", "dma_unmap_sg_attrs")],
                caveat: None,
            },
            Backend {
                name: "fexit dma_unmap_sg_attrs, bounded",
                programs: &[fexit("unmap_sg_bounded", "dma_unmap_sg_attrs")],
                caveat: Some(BOUNDED_CAVEAT),
            },
        ],
        without: "how long scatterlist mappings live is not known",
    },
    Source {
        event: "sync",
        backends: &[
            Backend {
                name: "tp_btf dma:dma_sync_single_*",
                programs: &[
                    tracepoint("dma_sync_single_for_cpu", "dma_sync_single_for_cpu", 4),
                    tracepoint("dma_sync_single_for_device", "dma_sync_single_for_device", 4),
                ],
                caveat: None,
            },
            Backend {
                name: "fexit dma_sync_single_*",
                programs: &[
                    fexit("sync_single_for_cpu_fexit", "dma_sync_single_for_cpu"),
                    fexit("sync_single_for_device_fexit", "dma_sync_single_for_device"),
                ],
                caveat: None,
            },
        ],
        without: "copies made by syncs are not counted",
    },
    Source {
        event: "sync_sg",
        backends: &[
            Backend {
                name: "tp_btf dma:dma_sync_sg_*",
                programs: &[
                    tracepoint("dma_sync_sg_for_cpu", "dma_sync_sg_for_cpu", 4),
                    tracepoint("dma_sync_sg_for_device", "dma_sync_sg_for_device", 4),
                ],
                caveat: None,
            },
            Backend {
                name: "fexit dma_sync_sg_*",
                programs: &[
                    fexit("sync_sg_for_cpu_fexit", "dma_sync_sg_for_cpu"),
                    fexit("sync_sg_for_device_fexit", "dma_sync_sg_for_device"),
                ],
                caveat: None,
            },
            Backend {
                name: "fexit dma_sync_sg_*, bounded",
                programs: &[
                    fexit("sync_sg_for_cpu_bounded", "dma_sync_sg_for_cpu"),
                    fexit("sync_sg_for_device_bounded", "dma_sync_sg_for_device"),
                ],
                caveat: Some(BOUNDED_CAVEAT),
            },
        ],
        without: "copies made by syncs of scatterlists are not counted",
    },
    Source {
        event: "alloc",
        backends: &[
            Backend {
                name: "tp_btf dma:dma_alloc",
                programs: &[
                    tracepoint("dma_alloc", "dma_alloc", 7),
                    tracepoint("dma_alloc_pages", "dma_alloc_pages", 7),
                ],
                caveat: None,
            },
            Backend {
                name: "fexit dma_alloc_*",
                programs: &[fexit("alloc_fexit", "dma_alloc_attrs"), fexit("alloc_pages_fexit", "dma_alloc_pages")],
                caveat: None,
            },
        ],
        without: "coherent buffers are not seen",
    },
    Source {
        event: "free",
        backends: &[
            Backend {
                name: "tp_btf dma:dma_free",
                programs: &[tracepoint("dma_free", "dma_free", 6), tracepoint("dma_free_pages", "dma_free_pages", 6)],
                caveat: None,
            },
            Backend {
                name: "fexit dma_free_*",
                programs: &[fexit("free_fexit", "dma_free_attrs"), fexit("free_pages_fexit", "dma_free_pages")],
                caveat: None,
            },
        ],
        without: "how long coherent buffers live is not known",
    },
    Source {
        event: "slot_alloc",
        backends: &[
            Backend {
                name: "fentry+fexit swiotlb_tbl_map_single",
                programs: &[
                    Program { name: "tbl_map_fexit", hook: Hook::Fexit { function: "swiotlb_tbl_map_single" } },
                    Program { name: "tbl_map_fentry", hook: Hook::Fentry { function: "swiotlb_tbl_map_single" } },
                ],
                caveat: None,
            },
            Backend {
                name: "kprobe+kretprobe swiotlb_tbl_map_single",
                programs: &[
                    // The return first, so that no entry is noted whose return nobody sees.
                    Program { name: "tbl_map_kretprobe", hook: Hook::Kretprobe { function: "swiotlb_tbl_map_single" } },
                    Program { name: "tbl_map_kprobe", hook: Hook::Kprobe { function: "swiotlb_tbl_map_single" } },
                ],
                caveat: Some(KPROBE_CAVEAT),
            },
        ],
        without: "which slots were taken is not known, so nothing can be verified",
    },
    Source {
        event: "slot_free",
        backends: &[
            Backend {
                name: "fentry swiotlb_release_slots",
                programs: &[Program {
                    name: "release_fentry",
                    hook: Hook::Fentry { function: "swiotlb_release_slots" },
                }],
                caveat: None,
            },
            Backend {
                name: "kprobe swiotlb_release_slots",
                programs: &[Program {
                    name: "release_kprobe",
                    hook: Hook::Kprobe { function: "swiotlb_release_slots" },
                }],
                caveat: Some(KPROBE_CAVEAT),
            },
            // 7.3 may have the one before as a part of this one.
            Backend {
                name: "fentry __swiotlb_tbl_unmap_single",
                programs: &[Program {
                    name: "release_fentry",
                    hook: Hook::Fentry { function: "__swiotlb_tbl_unmap_single" },
                }],
                caveat: None,
            },
            Backend {
                name: "kprobe __swiotlb_tbl_unmap_single",
                programs: &[Program {
                    name: "release_kprobe",
                    hook: Hook::Kprobe { function: "__swiotlb_tbl_unmap_single" },
                }],
                caveat: Some(KPROBE_CAVEAT),
            },
            Backend {
                name: "fentry swiotlb_tbl_unmap_single",
                programs: &[Program {
                    name: "release_fentry",
                    hook: Hook::Fentry { function: "swiotlb_tbl_unmap_single" },
                }],
                caveat: None,
            },
            Backend {
                name: "kprobe swiotlb_tbl_unmap_single",
                programs: &[Program {
                    name: "release_kprobe",
                    hook: Hook::Kprobe { function: "swiotlb_tbl_unmap_single" },
                }],
                caveat: Some(KPROBE_CAVEAT),
            },
        ],
        without: "which slots were given back is not known, so nothing can be verified",
    },
    Source {
        event: POOL_ADDED,
        backends: &[
            Backend {
                name: "fexit swiotlb_alloc_pool",
                programs: &[fexit("alloc_pool_fexit", "swiotlb_alloc_pool")],
                caveat: None,
            },
            Backend {
                name: "kprobe+kretprobe swiotlb_alloc_pool",
                programs: &[
                    Program { name: "alloc_pool_kretprobe", hook: Hook::Kretprobe { function: "swiotlb_alloc_pool" } },
                    Program { name: "alloc_pool_kprobe", hook: Hook::Kprobe { function: "swiotlb_alloc_pool" } },
                ],
                caveat: Some(KPROBE_CAVEAT),
            },
        ],
        without: "slots in pools that the kernel adds stand by address alone, and nothing can be verified from then on",
    },
    Source {
        event: "bounce",
        backends: &[
            Backend {
                name: "tp_btf swiotlb:swiotlb_bounced",
                programs: &[tracepoint("swiotlb_bounced", "swiotlb_bounced", 3)],
                caveat: None,
            },
            Backend {
                name: "tracepoint swiotlb:swiotlb_bounced",
                programs: &[Program {
                    name: "swiotlb_bounced_classic",
                    hook: Hook::Classic { group: "swiotlb", name: "swiotlb_bounced" },
                }],
                caveat: Some(
                    "of a device only its name and DMA mask are told, and the kernel skips it while another such program runs on that CPU",
                ),
            },
        ],
        without: "the kernel's own word that it bounces is missing",
    },
    Source {
        event: POOL_USE,
        backends: &[Backend {
            name: "debugfs io_tlb_used",
            programs: &[Program { name: "", hook: Hook::Debugfs { file: "io_tlb_used" } }],
            caveat: Some("slots in use are looked at ten times a second; peaks between two looks are not seen"),
        }],
        without: "how full the pool is cannot be told",
    },
];

/// A pool was made; wanted where the kernel can make some.
pub const POOL_ADDED: &str = "pool_added";
/// How full the pool is; wanted where slots are not seen one by one, or when it is asked for.
pub const POOL_USE: &str = "pool_use";
