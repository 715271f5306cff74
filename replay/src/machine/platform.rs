//! Platforms: how addresses become bus addresses, and whose rules say what bounces.

use std::fmt;

use super::terms::PAGE;
use crate::p2m::P2m;
use crate::tree::ForeignTree;
use trace::P2mRun;

trace::words! {
    /// A platform's name; [`PLATFORMS`] has what it stands for.
    pub enum PlatformKind {
        /// Physical addresses are bus addresses (SPEC 6.1).
        Native = "native",
        /// A Xen PV guest: looked up frame by frame (SPEC 10.1).
        XenPv = "xen-pv",
        /// An auto-translated x86 guest of Xen (SPEC 10.7).
        XenAuto = "xen-auto",
        /// Xen on ARM: its own frames one to one, other domains' in a tree (SPEC 10.8).
        XenArm = "xen-arm",
        /// A design of the thread: no Xen operations, the machine frame looked up inside phys_to_dma (SPEC 11).
        HchUnified = "hch-unified",
        /// A design of the thread: auto-translated guests use plain swiotlb (SPEC 11).
        HchAutoFast = "hch-auto-fast",
        /// A design of the thread: lookup inside phys_to_dma on ARM, caches flushed by hypercall at unmap (SPEC 11).
        StefanoArm = "stefano-arm",
    }
}

/// Which table the frames are looked up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameTable {
    /// None: a frame is its own bus frame.
    Identity,
    /// The p2m of a PV guest (SPEC 10).
    Pv,
    /// The tree of foreign pages (SPEC 10.8).
    Arm,
}

/// Whose rules say what bounces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ops {
    /// The kernel's direct mapping, which differs by era (SPEC 6.1; [`crate::ERAS`]).
    Direct,
    /// Xen's own operations, the same in all kernels but for the kmalloc term (SPEC 10.1).
    Xen,
}

/// What a platform is. One row a platform, one column a rule.
#[derive(Debug)]
pub struct PlatformRow {
    /// Its name.
    pub kind: PlatformKind,
    /// Another name it goes by.
    pub alias: Option<&'static str>,
    /// What it stands for, in a phrase.
    pub doc: &'static str,
    /// Where frames are looked up.
    pub frames: FrameTable,
    /// Whose rules.
    pub ops: Ops,
    /// Whether a range whose bus frames do not follow one another bounces.
    pub straddles: bool,
    /// Parameters it takes, of [`PLATFORM_PARAMETERS`].
    pub parameters: &'static [&'static str],
}

/// Every platform.
#[rustfmt::skip]
pub static PLATFORMS: &[PlatformRow] = {
    use FrameTable::{Arm, Identity, Pv};
    use Ops::{Direct, Xen};
    const NATIVE: &[&str] = &["kmalloc", "coherent", "iommu"];
    const ARM: &[&str] = &["flush", "coherent", "kmalloc"];
    &[
        row(PlatformKind::Native,      None,            "physical addresses are bus addresses",                           Identity, Direct, false, NATIVE),
        row(PlatformKind::XenPv,       None,            "Xen PV guest, as all kernels do it: frame by frame",             Pv,       Xen,    true,  &["kmalloc", "coherent"]),
        row(PlatformKind::XenAuto,     None,            "Xen HVM or PVH guest: comes to the same as native",              Identity, Direct, false, NATIVE),
        row(PlatformKind::XenArm,      None,            "Xen on ARM, as all kernels do it: foreign pages in a tree",      Arm,      Xen,    true,  ARM),
        row(PlatformKind::HchUnified,  Some("unified"), "design: one path, machine frames looked up in phys_to_dma",      Pv,       Direct, true,  &["bbase", "kmalloc", "coherent"]),
        row(PlatformKind::HchAutoFast, None,            "design: auto-translated guests use plain swiotlb",               Identity, Direct, false, NATIVE),
        row(PlatformKind::StefanoArm,  None,            "design: ARM's lookup in phys_to_dma; straddling is not asked",   Arm,      Direct, false, ARM),
    ]
};

const fn row(
    kind: PlatformKind,
    alias: Option<&'static str>,
    doc: &'static str,
    frames: FrameTable,
    ops: Ops,
    straddles: bool,
    parameters: &'static [&'static str],
) -> PlatformRow {
    PlatformRow { kind, alias, doc, frames, ops, straddles, parameters }
}

/// A platform's parameter, for listings and messages.
#[derive(Clone, Copy, Debug)]
pub struct PlatformParameter {
    /// As written before the `=`.
    pub name: &'static str,
    /// What it sets.
    pub doc: &'static str,
    /// What may stand behind the `=`.
    pub wanted: &'static str,
}

/// Every parameter of a platform.
pub static PLATFORM_PARAMETERS: &[PlatformParameter] = &[
    PlatformParameter {
        name: "bbase",
        doc: "where the segment boundaries are counted from: the pool's pseudo-physical start, its first machine address, or each slot's own",
        wanted: "`pseudo`, `machine_start` or `machine_per_slot`",
    },
    PlatformParameter {
        name: "kmalloc",
        doc: "small kmalloc buffers bounce (6.5 and newer, where the architecture chose it; x86 is believed not to): the CPU's cache alignment",
        wanted: "a power of two from 8 to 4096, or `off`",
    },
    PlatformParameter {
        name: "coherent",
        doc: "whether devices see the CPU's caches; else kmalloc applies, and on ARM foreign pages need flush; unless said, as recorded of each",
        wanted: "`on` or `off`",
    },
    PlatformParameter {
        name: "iommu",
        doc: "all devices behind an IOMMU of that granule in bytes: nothing is out of reach, untrusted devices bounce what is not whole granules; unless said, those recorded behind one, with 4096",
        wanted: "a power of two from 4096 to 65536, or `off`",
    },
    PlatformParameter {
        name: "flush",
        doc: "whether this Xen flushes caches of foreign pages by hypercall (GNTTABOP_cache_flush)",
        wanted: "`on` or `off`",
    },
];

trace::words! {
    /// Where the allocator counts the device's segment boundaries from (SPEC 10.2, 11).
    pub enum BoundaryBase {
        /// The pool's guest address, as today.
        Pseudo = "pseudo",
        /// The machine address of the pool's first slot, as if all slots followed it.
        MachineStart = "machine_start",
        /// Each slot's own machine address.
        MachinePerSlot = "machine_per_slot",
    }
}

/// A platform text that cannot be understood. The messages say what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// No such platform.
    #[error("unknown platform `{name}`; known: {}", PlatformKind::ALL.iter().map(|k| k.name()).collect::<Vec<_>>().join(", "))]
    Unknown {
        /// What was given.
        name: String,
    },
    /// The platform has no such parameter.
    #[error("platform {platform} has no parameter `{name}`; it has: {}", .known.join(", "))]
    UnknownParameter {
        /// The platform.
        platform: PlatformKind,
        /// What was given.
        name: String,
        /// What would have been right.
        known: &'static [&'static str],
    },
    /// A parameter's value is of the wrong kind.
    #[error("parameter `{name}`: `{value}` is not {wanted}")]
    BadValue {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What would have been right.
        wanted: &'static str,
    },
}

/// A platform and its parameters, as `--platform` takes them: `NAME` or `NAME:name=value,name=value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlatformSpec {
    kind: PlatformKind,
    /// SPEC 11; pseudo where there is nothing to choose.
    pub bbase: BoundaryBase,
    /// Cache alignment for the unaligned-kmalloc rule; nothing where the architecture did not choose it (SPEC 6.1).
    pub kmalloc: Option<u64>,
    coherent: Option<bool>,
    /// Granule of the IOMMU all devices are behind.
    pub iommu: Option<u64>,
    /// No device is behind one, whatever was recorded: `iommu=off`.
    no_iommu: bool,
    /// Xen flushes caches of foreign pages (SPEC 10.8, `hypercall_cflush`).
    pub flush: bool,
}

impl PlatformSpec {
    /// A platform with nothing said about it.
    #[must_use]
    pub const fn new(kind: PlatformKind) -> Self {
        Self {
            kind,
            bbase: BoundaryBase::Pseudo,
            kmalloc: None,
            coherent: None,
            iommu: None,
            no_iommu: false,
            flush: true,
        }
    }

    /// Reads a platform as people write it.
    ///
    /// # Errors
    /// [`PlatformError`] with what is known, when the text is not a platform.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let (name, parameters) = text.split_once(':').unwrap_or((text, ""));
        let row = PLATFORMS.iter().find(|row| row.kind.name() == name || row.alias == Some(name));
        let row = row.ok_or_else(|| PlatformError::Unknown { name: name.to_owned() })?;
        let mut spec = Self::new(row.kind);
        for item in parameters.split(',').filter(|item| !item.is_empty()) {
            spec.set(item)?;
        }
        Ok(spec)
    }

    fn set(&mut self, item: &str) -> Result<(), PlatformError> {
        let (name, value) = item.split_once('=').unwrap_or((item, ""));
        let known = self.row().parameters;
        let parameter = PLATFORM_PARAMETERS.iter().find(|p| p.name == name && known.contains(&name));
        let Some(&PlatformParameter { name, wanted, .. }) = parameter else {
            return Err(PlatformError::UnknownParameter { platform: self.kind, name: name.to_owned(), known });
        };
        let bad = || PlatformError::BadValue { name, value: value.to_owned(), wanted };
        let switch = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(bad()),
        };
        let power = |from: u64, to: u64| match value {
            "off" => Ok(None),
            _ => match value.parse::<u64>() {
                Ok(n) if n.is_power_of_two() && (from..=to).contains(&n) => Ok(Some(n)),
                _ => Err(bad()),
            },
        };
        match name {
            "bbase" => self.bbase = BoundaryBase::from_name(value).ok_or_else(bad)?,
            "kmalloc" => self.kmalloc = power(8, PAGE)?,
            "coherent" => self.coherent = Some(switch()?),
            "iommu" => {
                self.iommu = power(PAGE, 1 << 16)?;
                self.no_iommu = self.iommu.is_none();
            }
            _ => self.flush = switch()?,
        }
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub const fn kind(&self) -> PlatformKind {
        self.kind
    }

    /// Its row of [`PLATFORMS`].
    #[must_use]
    pub fn row(&self) -> &'static PlatformRow {
        &PLATFORMS[self.kind as usize]
    }

    /// Says whether devices see the CPU's caches.
    pub fn set_coherent(&mut self, coherent: bool) {
        self.coherent = Some(coherent);
    }

    /// What was said about whether devices see the CPU's caches.
    pub(super) fn said_coherent(&self) -> Option<bool> {
        self.coherent
    }

    /// Whether it was said that no device is behind an IOMMU.
    pub(super) fn no_iommu(&self) -> bool {
        self.no_iommu
    }

    /// Whether devices of which nothing was recorded see the CPU's caches. Unless said, they do where physical is bus and nobody asks about kmalloc.
    #[must_use]
    pub fn is_coherent(&self) -> bool {
        self.coherent.unwrap_or(self.kmalloc.is_none() && self.row().frames != FrameTable::Arm)
    }
}

impl From<PlatformKind> for PlatformSpec {
    fn from(kind: PlatformKind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for PlatformSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        let said = [
            ("bbase", (self.bbase != BoundaryBase::Pseudo).then(|| self.bbase.name().to_owned())),
            ("kmalloc", self.kmalloc.map(|n| n.to_string())),
            ("coherent", self.coherent.map(switch)),
            ("iommu", self.iommu.map(|n| n.to_string()).or(self.no_iommu.then(|| "off".to_owned()))),
            ("flush", (!self.flush).then(|| switch(false))),
        ];
        let mut before = ':';
        for (name, value) in said.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            write!(f, "{before}{name}={value}")?;
            before = ',';
        }
        Ok(())
    }
}

/// A platform with its frame tables.
#[derive(Clone, Debug)]
pub struct Platform {
    spec: PlatformSpec,
    pub(super) frames: Frames,
}

#[derive(Clone, Debug)]
pub(super) enum Frames {
    Identity,
    Pv(P2m),
    Arm(ForeignTree),
}

impl Platform {
    /// Physical addresses are bus addresses.
    #[must_use]
    pub fn native() -> Self {
        Self { spec: PlatformSpec::new(PlatformKind::Native), frames: Frames::Identity }
    }

    /// A Xen PV guest.
    #[must_use]
    pub fn xen_pv(p2m: P2m) -> Self {
        Self { spec: PlatformSpec::new(PlatformKind::XenPv), frames: Frames::Pv(p2m) }
    }

    /// A platform with the frames a trace recorded.
    #[must_use]
    pub fn recorded<'a>(spec: PlatformSpec, runs: impl IntoIterator<Item = &'a P2mRun>) -> Self {
        let frames = match spec.row().frames {
            FrameTable::Identity => Frames::Identity,
            FrameTable::Pv => Frames::Pv(P2m::from_runs(runs)),
            FrameTable::Arm => Frames::Arm(ForeignTree::from_runs(runs)),
        };
        Self { spec, frames }
    }

    /// A platform whose frames are entered later.
    #[must_use]
    pub fn new(spec: PlatformSpec) -> Self {
        Self::recorded(spec, [])
    }

    /// Which, and its parameters.
    #[must_use]
    pub fn spec(&self) -> &PlatformSpec {
        &self.spec
    }

    /// Which.
    #[must_use]
    pub fn kind(&self) -> PlatformKind {
        self.spec.kind()
    }

    /// The table of a PV guest, to change entries as grants come and go.
    pub fn p2m_mut(&mut self) -> Option<&mut P2m> {
        match &mut self.frames {
            Frames::Pv(p2m) => Some(p2m),
            Frames::Identity | Frames::Arm(_) => None,
        }
    }

    /// The tree of foreign pages on ARM, to add entries as grants come.
    pub fn tree_mut(&mut self) -> Option<&mut ForeignTree> {
        match &mut self.frames {
            Frames::Arm(tree) => Some(tree),
            Frames::Identity | Frames::Pv(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_names() {
        for (row, &kind) in PLATFORMS.iter().zip(PlatformKind::ALL) {
            assert_eq!(row.kind, kind);
            for name in row.parameters {
                assert!(PLATFORM_PARAMETERS.iter().any(|p| p.name == *name), "{name}");
            }
        }
        assert_eq!(PLATFORMS.len(), PlatformKind::ALL.len());
    }

    #[test]
    fn platforms_as_people_write_them() {
        let same = |text: &str| assert_eq!(PlatformSpec::parse(text).unwrap().to_string(), text);
        same("native");
        same("native:kmalloc=64,coherent=on");
        same("native:iommu=4096");
        same("native:iommu=off");
        same("hch-unified:bbase=machine_per_slot");
        same("xen-arm:coherent=on,flush=off");
        assert_eq!(PlatformSpec::parse("unified").unwrap().kind(), PlatformKind::HchUnified);
        assert_eq!(PlatformSpec::parse("hch-unified:bbase=pseudo").unwrap().to_string(), "hch-unified");
    }

    #[test]
    fn what_cannot_be_understood_is_said_with_what_could() {
        let error = |text: &str| PlatformSpec::parse(text).unwrap_err().to_string();
        assert!(error("xen").starts_with("unknown platform `xen`; known: native, xen-pv,"));
        assert_eq!(
            error("native:bbase=pseudo"),
            "platform native has no parameter `bbase`; it has: kmalloc, coherent, iommu"
        );
        assert_eq!(
            error("hch-unified:bbase=machine"),
            "parameter `bbase`: `machine` is not `pseudo`, `machine_start` or `machine_per_slot`"
        );
        assert_eq!(
            error("native:kmalloc=48"),
            "parameter `kmalloc`: `48` is not a power of two from 8 to 4096, or `off`"
        );
        assert_eq!(error("xen-arm:flush"), "parameter `flush`: `` is not `on` or `off`");
    }

    #[test]
    fn devices_are_coherent_unless_it_is_asked_what_happens_when_not() {
        let coherent = |text: &str| PlatformSpec::parse(text).unwrap().is_coherent();
        assert!(coherent("native") && coherent("xen-pv"));
        assert!(!coherent("native:kmalloc=64") && !coherent("xen-arm"));
        assert!(coherent("native:kmalloc=64,coherent=on") && coherent("xen-arm:coherent=on"));
    }
}
