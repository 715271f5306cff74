//! Which kernel hooks can deliver each event: the table, best first.
//!
//! Nothing falls back silently: for every event the chosen back-end is kept together with the reason why each better
//! one was not taken, and `doctor` and meta.json show it.

mod table;

use probe::Layout;
use probe::layout::ABSENT;

use crate::btf::Btf;
use crate::usage::Usage;

pub use table::{POOL_ADDED, POOL_USE, SOURCES};

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
    /// A tracepoint as tracefs describes it: a record of plain members. Goes without BTF.
    Classic {
        /// The group it stands in.
        group: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A number that the kernel shows in debugfs, looked at from time to time. Goes without BTF and without a program.
    Debugfs {
        /// Its file.
        file: &'static str,
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
        /// Tracepoints as tracefs describes them.
        Classic = "tracepoint",
        /// Numbers in debugfs.
        Debugfs = "debugfs",
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

/// A way to get an event: all of its programs, or it is not taken. A number in debugfs has a hook and no program.
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
            Self::Classic { .. } => Family::Classic,
            Self::Debugfs { .. } => Family::Debugfs,
        }
    }

    /// Whether this kernel can have it, as far as BTF tells.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn check(self, types: &Types<'_>) -> Result<(), String> {
        match self {
            Self::Classic { group, name } => {
                let layout = types.layout;
                let places =
                    [layout.bounced_dev_name, layout.bounced_dma_mask, layout.bounced_dev_addr, layout.bounced_size];
                if places.contains(&ABSENT) {
                    return Err(format!(
                        "tracefs does not describe {group}:{name} as known here, may not be read, or is not mounted (mount -t tracefs tracefs /sys/kernel/tracing)"
                    ));
                }
                Ok(())
            }
            Self::Debugfs { file } => Usage::open(file).map(drop),
            _ => self.check_types(types.btf.clone()?, types.layout.tbl_map_form),
        }
    }

    /// The same for what takes BTF.
    fn check_types(self, btf: &Btf, tbl_map_form: u32) -> Result<(), String> {
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
                // Those of 7 came when the kernels that have it could pass them.
                Some(parameters) if parameters.len() > 6 && function != "swiotlb_alloc_pool" => {
                    Err(format!("{function} has {} parameters, fentry takes 6", parameters.len()))
                }
                Some(_) => Ok(()),
            },
            Self::Fexit { function } => {
                Self::Fentry { function }.check_types(btf, tbl_map_form)?;
                match function {
                    "swiotlb_tbl_map_single" => known_form(function, tbl_map_form),
                    _ => Ok(()),
                }
            }
            Self::Kprobe { function } if function == "swiotlb_tbl_map_single" => known_form(function, tbl_map_form),
            // Functions that BTF leaves out may still take a kprobe; attaching tells.
            Self::Kprobe { .. } | Self::Kretprobe { .. } => Ok(()),
            Self::Classic { .. } | Self::Debugfs { .. } => Ok(()),
        }
    }
}

/// What is known of the kernel's types, for hooks to be judged by.
#[derive(Clone, Debug)]
pub struct Types<'a> {
    /// Its BTF, or why there is none.
    pub btf: Result<&'a Btf, String>,
    /// The same as aya reads it.
    pub kernel: Option<&'a aya::Btf>,
    /// What the probe is told.
    pub layout: &'a Layout,
}

impl Types<'_> {
    /// Whether the kernel can add pools (CONFIG_SWIOTLB_DYNAMIC).
    #[must_use]
    pub fn grows(&self) -> bool {
        self.btf.as_ref().is_ok_and(|btf| btf.offset_of("io_tlb_mem", "pools").is_some())
    }
}

fn known_form(function: &str, form: u32) -> Result<(), String> {
    if form == ABSENT {
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
