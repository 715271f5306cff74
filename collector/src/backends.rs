//! Which kernel hooks can deliver each event: the table, best first.
//!
//! Nothing falls back silently: for every event the chosen back-end is kept together with the reason why each better
//! one was not taken, and `doctor` and meta.json show it.

use crate::btf::Btf;

/// Where a program goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint, with typed arguments; the number is how many the program understands.
    Tracepoint {
        /// Its name.
        name: &'static str,
        /// Its arguments.
        arguments: usize,
    },
    /// The entry of a function.
    Fentry {
        /// Its name.
        function: &'static str,
    },
    /// The return of a function of up to six parameters.
    Fexit {
        /// Its name.
        function: &'static str,
    },
    /// The entry of a function, by breakpoint or ftrace.
    Kprobe {
        /// Its name.
        function: &'static str,
    },
    /// The return of a function, by replacing its return address.
    Kretprobe {
        /// Its name.
        function: &'static str,
    },
}

trace::words! {
    /// Back-ends of one kind.
    pub enum Family {
        /// Typed tracepoints.
        Tracepoint = "tp_btf",
        /// Entries and returns of functions, without breakpoints.
        Function = "fentry",
        /// Entries and returns of functions, by kprobe and kretprobe.
        Kprobe = "kprobe",
    }
}

/// One program of the object, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name in the object.
    pub name: &'static str,
    /// Where it goes.
    pub hook: Hook,
}

/// A way to get an event: all of its programs, or it is not taken.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// As shown to people and stored in meta.json.
    pub name: &'static str,
    /// What is attached.
    pub programs: &'static [Program],
    /// What it cannot see, when that matters.
    pub caveat: Option<&'static str>,
}

/// Something worth recording.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its name, the key in meta.json's `capture.backends`.
    pub event: &'static str,
    /// Ways to get it, best first.
    pub backends: &'static [Backend],
    /// What a trace without it cannot answer.
    pub without: &'static str,
}

const fn tracepoint(program: &'static str, name: &'static str, arguments: usize) -> Program {
    Program { name: program, hook: Hook::Tracepoint { name, arguments } }
}

const fn fexit(program: &'static str, function: &'static str) -> Program {
    Program { name: program, hook: Hook::Fexit { function } }
}

const BOUNDED_CAVEAT: &str = "elements of a scatterlist beyond the 128th are counted, not recorded";
const KPROBE_CAVEAT: &str = "the kernel skips kprobes that are hit while another one runs (1 to 3.5 % under load)";

const UNTIMED_CAVEAT: &str = "how long mapping took is not seen";

/// What notes when a mapping begins.
const MAP_PAGE_BEGINS: Program =
    Program { name: "map_page_fentry", hook: Hook::Fentry { function: "dma_map_page_attrs" } };
const MAP_PHYS_BEGINS: Program = Program { name: "map_phys_fentry", hook: Hook::Fentry { function: "dma_map_phys" } };

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
                name: "tp_btf dma:dma_map_sg, refused ones by fexit",
                programs: &[
                    tracepoint("dma_map_sg", "dma_map_sg", 6),
                    fexit("map_sg_refused", "dma_map_sg_attrs"),
                    fexit("map_sgtable_refused", "dma_map_sgtable"),
                ],
                caveat: None,
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
                programs: &[fexit("map_sg_fexit", "dma_map_sg_attrs"), fexit("map_sgtable_fexit", "dma_map_sgtable")],
                caveat: None,
            },
            Backend {
                name: "fexit dma_map_sg_attrs, dma_map_sgtable, bounded",
                programs: &[
                    fexit("map_sg_bounded", "dma_map_sg_attrs"),
                    fexit("map_sgtable_bounded", "dma_map_sgtable"),
                ],
                caveat: Some(BOUNDED_CAVEAT),
            },
            // Before 5.15 the one for tables goes through the other.
            Backend {
                name: "fexit dma_map_sg_attrs, bounded",
                programs: &[fexit("map_sg_bounded", "dma_map_sg_attrs")],
                caveat: Some(BOUNDED_CAVEAT),
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
        event: "bounce",
        backends: &[Backend {
            name: "tp_btf swiotlb:swiotlb_bounced",
            programs: &[tracepoint("swiotlb_bounced", "swiotlb_bounced", 3)],
            caveat: None,
        }],
        without: "the kernel's own word that it bounces is missing",
    },
];

impl Backend {
    /// Its kind: that of its first program, which the others help out at most.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        self.programs.first().map(|program| program.hook.family())
    }

    /// Whether it watches where calls begin only to time what a tracepoint tells.
    #[must_use]
    pub fn times_tracepoints(&self) -> bool {
        let begins = |program: &Program| matches!(program.hook, Hook::Fentry { .. });
        self.family() == Some(Family::Tracepoint) && self.programs.iter().any(begins)
    }
}

impl Source {
    /// Whether there is a back-end of this family to be forced.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.backends.iter().any(|backend| backend.family() == Some(family))
    }
}

impl Hook {
    /// The kind of back-end it belongs to.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::Tracepoint { .. } => Family::Tracepoint,
            Self::Fentry { .. } | Self::Fexit { .. } => Family::Function,
            Self::Kprobe { .. } | Self::Kretprobe { .. } => Family::Kprobe,
        }
    }

    /// Whether this kernel can have it, as far as BTF tells.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn check(self, btf: &Btf, tbl_map_form: u32) -> Result<(), String> {
        match self {
            Self::Tracepoint { name, arguments } => match btf.tracepoint_arguments(name) {
                None => Err(format!("this kernel has no tracepoint {name}")),
                // Later arguments may be added; those known keep their places.
                Some(found) if found < arguments => {
                    Err(format!("tracepoint {name} passes {found} arguments, not the {arguments} that are known"))
                }
                Some(_) => Ok(()),
            },
            Self::Fentry { function } => match btf.parameters(function) {
                None => Err(format!("{function} is not in this kernel's BTF")),
                Some(parameters) if parameters.len() > 6 => {
                    Err(format!("{function} has {} parameters, fentry takes 6", parameters.len()))
                }
                Some(_) => Ok(()),
            },
            Self::Fexit { function } => {
                Self::Fentry { function }.check(btf, tbl_map_form)?;
                match function {
                    "swiotlb_tbl_map_single" => known_form(function, tbl_map_form),
                    _ => Ok(()),
                }
            }
            Self::Kprobe { function } if function == "swiotlb_tbl_map_single" => known_form(function, tbl_map_form),
            // Symbols without BTF may still take a kprobe; attaching tells.
            Self::Kprobe { .. } | Self::Kretprobe { .. } => Ok(()),
        }
    }
}

fn known_form(function: &str, form: u32) -> Result<(), String> {
    if form == probe::layout::ABSENT {
        return Err(format!("{function} has parameters that this version does not know"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn events_are_named_once_and_alternatives_differ() {
        let mut events = HashSet::new();
        for source in SOURCES {
            assert!(events.insert(source.event));
            let names: HashSet<_> = source.backends.iter().map(|b| b.name).collect();
            assert_eq!(names.len(), source.backends.len());
            assert!(source.backends.iter().all(|b| b.family().is_some()));
        }
    }
}
