//! What `swiotlb=` really becomes on a machine, step by step (SPEC 2.2 to 2.8, 9, 10.4).
//!
//! The number is slots of 2 KiB, it is rounded twice, the rounding depends on how many CPUs can exist, what the kernel
//! does not understand it passes over without a word, and memory that cannot be had halves the pool: 128 becomes 1,024
//! on a machine with 8 CPUs. [`explain`] says each of these as a [`Step`] with its rule.
//!
//! | file | what it decides |
//! |---|---|
//! | `size` | how many slots and areas are asked for |
//! | `memory` | whether a pool is made at all, and how much of it can be had |
//! | [`xen`] | the same under Xen PV, made of machine-contiguous extents |
//! | `report` | kernel messages to expect, warnings, what to write instead |

mod memory;
mod report;
mod size;
#[cfg(test)]
mod tests;
pub mod xen;

use trace::pool::SLOT_BYTES;

use crate::kernel::KernelVersion;
use crate::largest;
use crate::param::{DEFAULT_SLABS, Force};
use crate::rules::Grammar;

pub use report::{Advice, Warning, WarningKind};

trace::words! {
    /// Whether memory is encrypted.
    pub enum Encryption {
        /// It is not.
        None = "none",
        /// A guest whose memory the host cannot read (SEV, TDX): everything bounces.
        Guest = "guest",
        /// The machine's own memory (SME): the pool is made, for devices that do not reach the encryption bit.
        Host = "host",
    }
}

trace::words! {
    /// What the machine is.
    pub enum Machine {
        /// An ordinary PC, or a guest with translated memory.
        X86 = "x86",
        /// Xen's first PV domain.
        XenDom0 = "xen-dom0",
        /// Another Xen PV domain, with PCI devices passed through.
        XenDomU = "xen-domu",
        /// 64-bit ARM.
        Arm64 = "arm64",
        /// 64-bit ARM whose devices reach all memory: the pool is for small kmalloc buffers only.
        Arm64Kmalloc = "arm64-kmalloc",
    }
}

/// The question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootQuery {
    /// `swiotlb=128`, a bare `128,force`, or a whole kernel command line, of which `swiotlb=` and `iommu=` are read.
    pub command_line: String,
    /// The kernel.
    pub kernel: KernelVersion,
    /// CPUs that can exist, which is how many areas are made when nobody says. At least 1.
    pub cpus: u32,
    /// Bytes of RAM.
    pub ram: u64,
    /// The longest stretch of memory that can be had for the pool at that time, in bytes; nothing if not known.
    pub low_mem: Option<u64>,
    /// Whether memory is encrypted.
    pub encryption: Encryption,
    /// What the machine is.
    pub machine: Machine,
    /// Set up by a driver that needs it, when memory is in use already.
    pub late: bool,
}

impl BootQuery {
    /// An ordinary PC with plenty of memory for the pool.
    #[must_use]
    pub fn new(command_line: &str, kernel: KernelVersion, cpus: u32, ram: u64) -> Self {
        Self {
            command_line: command_line.to_owned(),
            kernel,
            cpus: cpus.max(1),
            ram,
            low_mem: None,
            encryption: Encryption::None,
            machine: Machine::X86,
            late: false,
        }
    }
}

/// One thing that happens to the pool's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens, in words.
    pub what: String,
    /// Where it is specified.
    pub rule: &'static str,
    /// Slots after it; 0 for none, or not decided yet.
    pub nslabs: u64,
    /// Areas after it, once they are decided; nothing on kernels without.
    pub areas: Option<u32>,
    /// Bytes of those slots.
    pub bytes: u64,
}

/// A pool as it is after boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootPool {
    /// Slots.
    pub nslabs: u64,
    /// Areas it is divided into; 1 on kernels without.
    pub areas: u32,
    /// `rfc64`'s second, for devices that reach all 64 bits.
    pub high: bool,
}

impl BootPool {
    /// Bytes of memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        bytes(self.nslabs)
    }

    /// Slots of each area.
    #[must_use]
    pub fn area_slots(&self) -> u64 {
        self.nslabs / u64::from(self.areas.max(1))
    }

    /// Slots behind the last area, which nobody can ever use (SPEC 2.3).
    #[must_use]
    pub fn unreachable(&self) -> u64 {
        self.nslabs - self.area_slots() * u64::from(self.areas.max(1))
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The kernel.
    pub kernel: KernelVersion,
    /// What happened, in order.
    pub steps: Vec<Step>,
    /// The pools there are in the end: none, one, or `rfc64`'s two.
    pub pools: Vec<BootPool>,
    /// What bounces.
    pub force: Force,
    /// What stands in the kernel's log. START and END are addresses nobody can foretell.
    pub dmesg: Vec<String>,
    /// What to write for what may have been meant.
    pub advice: Vec<Advice>,
    /// What the user may not expect.
    pub warnings: Vec<Warning>,
    /// What was taken for granted because the question does not say.
    pub assumptions: Vec<String>,
    /// Bytes one mapping may have, before the offset of devices with a min_align_mask is taken off (SPEC 6.4).
    pub max_mapping: u64,
    /// Bytes some graphics and other drivers are told a segment may have; nothing from 6.3 on (SPEC 6.4).
    pub max_segment: Option<u64>,
}

impl Explanation {
    /// Warnings of one kind.
    pub fn warned(&self, kind: WarningKind) -> impl Iterator<Item = &Warning> {
        self.warnings.iter().filter(move |w| w.kind == kind)
    }
}

/// Says what a boot parameter becomes. Cost: microseconds, but for Xen, where it is linear in the pool's segments.
#[must_use]
pub fn explain(query: &BootQuery) -> Explanation {
    let mut work = Work::new(query);
    if let Some(caveat) = query.kernel.caveat() {
        work.assume(format!("{}: {caveat}", query.kernel));
    }
    let words = CommandLine::read(&query.command_line);
    for value in &words.swiotlb {
        work.read(value);
    }
    work.encrypt();
    work.adjust();
    if work.is_made(&words) {
        work.settle_areas();
        work.obtain();
    }
    work.report(&words);
    work.out
}

/// What of a kernel command line plays a part.
#[derive(Debug, Default, PartialEq, Eq)]
struct CommandLine<'a> {
    /// Values of `swiotlb=`, in order.
    swiotlb: Vec<&'a str>,
    iommu_off: bool,
    iommu_soft: bool,
}

impl<'a> CommandLine<'a> {
    fn read(text: &'a str) -> Self {
        let mut line = Self::default();
        let bare = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_digit() || c == ',')
                || ["force", "noforce"].iter().any(|known| word.starts_with(known))
        };
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("swiotlb", value)) => line.swiotlb.push(value),
                Some(("iommu", value)) => {
                    line.iommu_off |= value.split(',').any(|v| v == "off");
                    line.iommu_soft |= value.split(',').any(|v| v == "soft");
                }
                None if bare(word) => line.swiotlb.push(word),
                _ => {}
            }
        }
        line
    }
}

/// The pool as far as it has come.
struct Work<'a> {
    query: &'a BootQuery,
    kernel: KernelVersion,
    grammar: Grammar,
    /// Slots; 0 for "not given" on kernels whose size is a global.
    n: u64,
    /// Slots of `rfc64`'s second pool, if there is to be one; 0 for "not given".
    high: Option<u64>,
    areas: Option<u32>,
    force: Force,
    /// Some `swiotlb=` had a first number.
    given: bool,
    out: Explanation,
}

impl<'a> Work<'a> {
    fn new(query: &'a BootQuery) -> Self {
        let kernel = query.kernel;
        let grammar = kernel.grammar();
        let unset = matches!(grammar, Grammar::Globals | Grammar::TwoPools);
        let out = Explanation {
            kernel,
            steps: Vec::new(),
            pools: Vec::new(),
            force: Force::Normal,
            dmesg: Vec::new(),
            advice: Vec::new(),
            warnings: Vec::new(),
            assumptions: Vec::new(),
            max_mapping: largest::max_mapping_size(kernel, 0),
            max_segment: None,
        };
        let n = if unset { 0 } else { DEFAULT_SLABS };
        Self { query, kernel, grammar, n, high: None, areas: None, force: Force::Normal, given: false, out }
    }

    /// Whether the size is one nobody chose, as far as the kernel can tell (SPEC 2.4).
    fn is_default(&self) -> bool {
        match self.grammar {
            Grammar::Globals | Grammar::TwoPools => self.n == 0,
            Grammar::Preset | Grammar::Areas => self.n == DEFAULT_SLABS,
        }
    }

    fn step(&mut self, rule: &'static str, what: impl Into<String>) {
        let (nslabs, areas) = (self.n, self.areas);
        self.out.steps.push(Step { what: what.into(), rule, nslabs, areas, bytes: bytes(nslabs) });
    }

    fn warn(&mut self, kind: WarningKind, text: impl Into<String>) {
        self.out.warnings.push(Warning { kind, text: text.into() });
    }

    fn log(&mut self, message: impl std::fmt::Display) {
        self.out.dmesg.push(format!("software IO TLB: {message}"));
    }

    fn assume(&mut self, text: impl Into<String>) {
        self.out.assumptions.push(text.into());
    }
}

/// Bytes of a number of slots.
fn bytes(nslabs: u64) -> u64 {
    nslabs.saturating_mul(SLOT_BYTES)
}
