//! `meta.json`: where, how and how well a trace was recorded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pool::{Pool, PoolKind};

/// What [`Meta::tool`] says in every trace.
pub const TOOL: &str = "swioscope";

/// The format this crate writes. A reader takes any minor version of its own major version.
pub const FORMAT: Format = Format { major: 1, minor: 5 };

/// Version of the trace format; docs/trace-format.md has the compatibility promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Raised when an old reader would misread a new trace.
    pub major: u32,
    /// Raised when something was added that an old reader may pass over.
    pub minor: u32,
}

/// Everything about a trace that is not a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Always `swioscope`: tells a trace from any other folder.
    pub tool: String,
    /// Version of the program that wrote the trace.
    pub tool_version: String,
    /// Format version.
    pub format: Format,
    /// The machine.
    pub host: Host,
    /// Xen, when the machine runs under it.
    pub xen: Option<Xen>,
    /// What the kernel's types tell of its bounce allocator; absent in traces of format 1.0, and where there is no BTF.
    #[serde(default)]
    pub allocator: Option<AllocatorTypes>,
    /// Bounce pools: the default one, those added to it, the oldest first, those of devices, and those of one mapping; empty when the machine has none, or
    /// [its pool is unknown](Self::pool_unknown). What is added later is told by events.
    pub pools: Vec<Pool>,
    /// Why it is not known whether there is a pool, and where; absent when it is, and in traces before format 1.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_unknown: Option<String>,
    /// Time of the pool snapshot in nanoseconds since the recording began; absent when none could be taken.
    pub snapshot_ns: Option<u64>,
    /// Whether the pool stood still while the snapshot was read, so that slot choices can be predicted from it.
    pub snapshot_exact: bool,
    /// How events were captured.
    pub capture: Capture,
    /// Clock base: what `time_ns` 0 means.
    pub clock: Clock,
    /// What is missing.
    pub losses: Losses,
    /// Recording ended as it should; `false` in a trace whose recorder died.
    pub closed: bool,
}

impl Meta {
    /// The metadata of a trace about which nothing is known yet, by this version of the program.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tool: TOOL.to_owned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            format: FORMAT,
            host: Host::default(),
            xen: None,
            allocator: None,
            pools: Vec::new(),
            pool_unknown: None,
            snapshot_ns: None,
            snapshot_exact: false,
            capture: Capture::default(),
            clock: Clock::default(),
            losses: Losses::default(),
            closed: false,
        }
    }
}

impl Meta {
    /// The default pool, the first; nothing when the machine has none.
    #[must_use]
    pub fn pool(&self) -> Option<&Pool> {
        self.pools.first().filter(|pool| pool.kind == PoolKind::Default)
    }
}

impl Default for Meta {
    fn default() -> Self {
        Self::new()
    }
}

/// The recorded machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// Kernel release, as `uname -r`.
    pub release: String,
    /// Kernel version, as `uname -v`.
    pub version: String,
    /// Architecture, as `uname -m`.
    pub machine: String,
    /// Kernel command line.
    pub cmdline: String,
    /// CPUs that can exist (the number of areas follows from it).
    pub possible_cpus: u32,
    /// Bytes of memory the kernel manages.
    pub memory: u64,
}

impl Host {
    /// The kernel's version for choosing a policy. Debian's release is an ABI name (`6.1.0-56-amd64`) whose third number
    /// says nothing; the real one stands in `uname -v`.
    #[must_use]
    pub fn kernel_version(&self) -> &str {
        let debian = self.version.split_once("Debian ").map(|(_, rest)| rest.split(['-', ' ']).next().unwrap_or(rest));
        debian.filter(|v| v.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(&self.release)
    }
}

/// What a kernel's BTF tells of its bounce allocator: which generations it can be, whatever its version says (SPEC 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocatorTypes {
    /// Parameters of `swiotlb_tbl_map_single`; 0 when it is not there.
    pub parameters: u32,
    /// There is a `min_align_mask` among a device's parameters.
    pub min_align_mask: bool,
    /// Devices point to a pool of their own (`dma_io_tlb_mem`, or what came after).
    pub device_pools: bool,
    /// There is a `struct io_tlb_area`.
    pub areas: bool,
    /// There is a `struct io_tlb_pool`.
    pub pools: bool,
    /// Slots have `pad_slots`.
    pub pad_slots: bool,
}

/// Xen, as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xen {
    /// `pv`, `pvh` or `hvm`.
    pub mode: String,
    /// Hypervisor version.
    pub version: String,
    /// This is the initial domain.
    pub dom0: bool,
}

/// How events were captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// `full`, `bounces` or `aggregate`.
    pub mode: String,
    /// For each event kind, the back-end that delivered it.
    pub backends: BTreeMap<String, String>,
    /// What ran meanwhile: the command, or that it was whatever ran for a time.
    pub workload: String,
    /// Size of the ring buffer in bytes.
    pub ring_bytes: u64,
    /// What was asked to be kept, by option (`device`, `driver`, `dir`, `min_size`, `only`); empty when everything was.
    #[serde(default)]
    pub filters: BTreeMap<String, String>,
    /// Why a flight recorder wrote this; absent of any other recording.
    #[serde(default)]
    pub trigger: Option<String>,
}

impl Capture {
    /// Whether what was asked of the allocator, mappings or slots, was observed, and not only the kernel's word that it is about to
    /// bounce. A trace that names no back-ends was not recorded but made, and has what it has.
    #[must_use]
    pub fn sees_requests(&self) -> bool {
        let asks = |event: &String| matches!(event.as_str(), "map" | "map_sg" | "slot_alloc");
        self.backends.is_empty() || self.backends.keys().any(asks)
    }

    /// Whether all slots taken and given back were observed, so that those in use can be counted.
    #[must_use]
    pub fn sees_slots(&self) -> bool {
        self.backends.is_empty()
            || ["slot_alloc", "slot_free"].into_iter().all(|event| self.backends.contains_key(event))
    }

    /// Whether these requests are in the trace one by one, so that there is something to replay.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.mode != "aggregate" && self.sees_requests()
    }

    /// What the trace leaves out by intention, as a sentence; nothing of a full one. Whoever answers from such a trace
    /// says so.
    #[must_use]
    pub fn partial(&self) -> Option<String> {
        let kept = self.filters.iter().map(|(option, value)| format!("--{} {value}", option.replace('_', "-")));
        let kept = kept.collect::<Vec<_>>().join(" ");
        match (self.mode.as_str(), kept.is_empty()) {
            ("bounces", true) => {
                Some("recorded with --mode bounces: mappings that did not bounce are missing".to_owned())
            }
            ("bounces", false) => Some(format!(
                "recorded with --mode bounces {kept}: mappings that did not bounce and all that the filters left out are missing, slots held by others among it"
            )),
            ("aggregate", _) => Some("recorded with --mode aggregate: it holds sums and no events".to_owned()),
            (_, true) => None,
            (_, false) => Some(format!(
                "recorded with {kept}: all that the filters left out is missing, slots held by others among it"
            )),
        }
    }
}

/// What `time_ns` 0 means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// CLOCK_MONOTONIC at the start of the recording, in nanoseconds.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME at the same moment, in nanoseconds since 1970.
    pub realtime_ns: u64,
    /// How long the recording took, once closed.
    pub duration_ns: u64,
}

/// What is missing from a trace, by cause. All zero is the normal case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Records dropped because a ring buffer was full.
    pub ring_full: u64,
    /// Probe hits the kernel skipped because the same program was under way on that CPU, and that no copy of it told of.
    pub probe_missed: u64,
    /// Records that could not be understood.
    pub undecoded: u64,
    /// Elements of scatterlists longer than the probe walks.
    pub sg_truncated: u64,
    /// Frames whose p2m entry changed between the start and the end of the recording, or was another when they were mapped.
    pub p2m_changed: u64,
    /// Kernel stacks that were asked for and could not be kept; their events are there.
    #[serde(default)]
    pub stacks_missed: u64,
    /// What each CPU's probes saw and what became of it; empty when nobody counted.
    #[serde(default)]
    pub by_cpu: Vec<CpuCount>,
    /// Anything else worth knowing, in words.
    pub notes: Vec<String>,
}

/// The records of one CPU. What was seen was stored, left out by a filter, or lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuCount {
    /// The CPU.
    pub cpu: u32,
    /// Records the probes had to write, counted in the kernel.
    pub seen: u64,
    /// Events that reached the trace.
    pub stored: u64,
    /// Left out by a filter.
    pub filtered: u64,
    /// Dropped because the ring buffer was full.
    pub lost: u64,
}

impl Losses {
    /// Each cause of loss in words, with its count.
    pub fn by_cause(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("records lost to a full ring buffer", self.ring_full),
            ("probe hits the kernel skipped", self.probe_missed),
            ("records that could not be understood", self.undecoded),
            ("scatterlist elements past the longest the probe walks", self.sg_truncated),
            ("frames whose p2m entry changed while recording", self.p2m_changed),
            ("kernel stacks that could not be kept", self.stacks_missed),
        ]
        .into_iter()
    }

    /// Events that happened and are not in the trace.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.ring_full + self.probe_missed + self.undecoded + self.sg_truncated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_trace_says_so() {
        let mut capture = Capture { mode: "full".to_owned(), ..Capture::default() };
        assert_eq!(capture.partial(), None);
        capture.filters.insert("min_size".to_owned(), "4096".to_owned());
        assert!(capture.partial().unwrap().starts_with("recorded with --min-size 4096: "));
        capture.mode = "bounces".to_owned();
        assert!(capture.partial().unwrap().starts_with("recorded with --mode bounces --min-size 4096: "));
    }

    #[test]
    fn debian_hides_its_version_in_uname_v() {
        let host =
            |release: &str, version: &str| Host { release: release.into(), version: version.into(), ..Host::default() };
        let debian = host("6.1.0-56-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-01)");
        assert_eq!(debian.kernel_version(), "6.1.192");
        assert_eq!(host("6.12.7-arch1", "#1 SMP Debian-like").kernel_version(), "6.12.7-arch1");
    }
}
