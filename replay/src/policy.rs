//! A policy as people write it, and what it comes to on a given machine.
//!
//! `ID`, `ID+dynamic`, `ID:nslabs=65536,areas=8`, `ID:swiotlb=65536,1048576,force` (a kernel command line value, read and rounded
//! as that generation does), or a kernel release that stands for an ID.

mod error;
mod parameters;

use crate::copies::Copies;
use crate::dispatch::{Dispatch, Fallback};
use crate::eras::Era;
use crate::growth::GrowthSetup;
use crate::kernel::KernelVersion;
use crate::largest;
use crate::param::{self, BootParam, DEFAULT_SLABS, Force};
use crate::plan::{Limits, align};
use crate::pool::Geometry;
use crate::restricted::Restricted;
use crate::rules::{Generation, Grammar};
use std::time::Duration;
use trace::Pool;
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

pub use error::PolicyError;
pub use parameters::{PARAMETERS, Parameter};

/// Slots a pool may have at most here: 128 GiB, far more than the kernel gets, and affordable to simulate.
pub const MAX_SLABS: u64 = 1 << 26;

/// Slots a segment may have at most here: 2 GiB.
const MAX_SEGMENT: u32 = 1 << 20;

/// Time from the worker being woken to its pool being there when nobody says: a guess of the right order for a queue
/// that is not busy and memory that is not short.
const WORKER_NS: u64 = 1_000_000;

/// Behind a policy's name: its kernel is built with `CONFIG_SWIOTLB_DYNAMIC` (SPEC 5).
const DYNAMIC: &str = "+dynamic";

/// A policy: a generation and what the user fixed about its pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: &'static Generation,
    text: String,
    caveat: Option<String>,
    nslabs: Option<u64>,
    areas: Option<u32>,
    start: Option<u64>,
    hi_nslabs: Option<u64>,
    hi_start: Option<u64>,
    force: Option<Force>,
    boot: Option<BootParam>,
    dispatch: Dispatch,
    kernel: KernelVersion,
    copies: Option<&'static Copies>,
    dynamic: bool,
    worker_ns: Option<u64>,
    restricted: Option<u64>,
    restricted_start: Option<u64>,
    restricted_dev: Option<glob::Pattern>,
    segment: u32,
}

/// What is known of the machine a policy is put on: the recorded pool, or a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The pool to start from.
    pub pool: Geometry,
    /// CPUs that can exist, which is how many areas a kernel makes when nobody says.
    pub cpus: Option<u32>,
    /// Whether everything bounced.
    pub force: bool,
}

impl Base {
    /// From a trace's pool, as the kernel had it.
    #[must_use]
    pub fn of_pool(pool: &Pool, cpus: Option<u32>) -> Self {
        let geometry = Geometry { start: pool.start, nslabs: pool.nslabs, areas: pool.nareas.max(1) };
        Self { pool: geometry, cpus: cpus.filter(|&c| c > 0), force: pool.force_bounce }
    }

    /// For a trace without a pool: the default one, where a PC often has it.
    #[must_use]
    pub fn without_pool(cpus: Option<u32>) -> Self {
        let cpus = cpus.filter(|&c| c > 0);
        let areas = cpus.unwrap_or(1).clamp(1, 1 << 16).next_power_of_two();
        Self { pool: Geometry { start: 0x7400_0000, nslabs: DEFAULT_SLABS, areas }, cpus, force: false }
    }
}

/// A policy resolved for a machine: the pools as that kernel would make them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The allocator's rules.
    pub rules: &'static Generation,
    /// The direct mapping's rules.
    pub era: &'static Era,
    /// The pools; `rfc64` may have two, the 64-bit one last.
    pub pools: Vec<Geometry>,
    /// Which of two pools a request goes to.
    pub dispatch: Dispatch,
    /// Whether mappings bounce that need not.
    pub force: Force,
    /// The kernel it stands for.
    pub kernel: KernelVersion,
    /// When and from where it copies.
    pub copies: &'static Copies,
    /// The pool that was recorded, when this follows from one.
    pub recorded: Geometry,
    /// Devices with a pool of their own, which is then the second of `pools`.
    pub restricted: Option<Restricted>,
    /// Pools come and go; how they do in a replay.
    pub growth: Option<GrowthSetup>,
    /// Slots of a segment: 128 in every kernel.
    pub segment: u32,
}

impl Setup {
    /// The policy's name, `+dynamic` included.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}{}", self.rules.id, if self.growth.is_some() { DYNAMIC } else { "" })
    }

    /// What a pool is called: the RFC's words when there are two of its kind.
    #[must_use]
    pub fn pool_name(&self, pool: usize) -> &'static str {
        match (self.pools.len(), pool, &self.restricted) {
            (0 | 1, ..) | (_, 0, Some(_)) => "pool",
            (_, 0, None) => "LO",
            (.., None) => "HI",
            (.., Some(_)) => "restricted",
        }
    }

    /// Bytes this kernel promises a device for one mapping through its pool (SPEC 6.4).
    #[must_use]
    pub fn max_mapping_size(&self, limits: &Limits) -> u64 {
        largest::max_mapping_size_of(self.kernel, limits.min_align_mask, u64::from(self.segment) * SLOT_BYTES)
    }

    /// The parameters as they came out, by name.
    #[must_use]
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        if let Some(pool) = self.pools.first() {
            out.push(("nslabs", pool.nslabs.to_string()));
            if self.rules.areas {
                out.push(("areas", pool.areas.to_string()));
            }
            out.push(("start", format!("{:#x}", pool.start)));
        }
        let second = self.pools.get(1);
        if let (Some(own), Some(restricted)) = (second, &self.restricted) {
            out.push(("restricted", own.nslabs.to_string()));
            out.push(("restricted_dev", restricted.devices.as_str().to_owned()));
            out.push(("restricted_start", format!("{:#x}", own.start)));
        } else if let Some(high) = second {
            out.push(("hi_nslabs", high.nslabs.to_string()));
            out.push(("hi_start", format!("{:#x}", high.start)));
        }
        let Dispatch { hi_threshold, fallback } = self.dispatch;
        if hi_threshold != u64::MAX {
            out.push(("hi_threshold", format!("{hi_threshold:#x}")));
        }
        if fallback != Fallback::None {
            out.push(("fallback", fallback.name().to_owned()));
        }
        if self.segment != SEGMENT_SLOTS {
            out.push(("segment", self.segment.to_string()));
        }
        if self.copies != Copies::of_generation(self.rules) {
            out.push(("copies", self.copies.era.to_owned()));
        }
        if let Some(growth) = self.growth {
            let after = humantime::format_duration(Duration::from_nanos(growth.worker_ns));
            out.push(("worker", after.to_string().replace(' ', "")));
        }
        let newest = Era::of_kernel(KernelVersion::of_generation(self.rules));
        if self.era != newest {
            out.push(("bounce_rules", self.era.kernels.to_owned()));
        }
        if self.force != Force::Normal {
            out.push(("force", if self.force == Force::Always { "on" } else { "noforce" }.to_owned()));
        }
        out
    }
}

impl Policy {
    /// Reads a policy as people write it.
    ///
    /// # Errors
    /// [`PolicyError`] with what is known, when the text is not a policy.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let (name, params) = text.split_once(':').unwrap_or((text, ""));
        let (id, dynamic) = name.strip_suffix(DYNAMIC).map_or((name, false), |id| (id, true));
        let (rules, caveat) = match Generation::by_id(id) {
            Some(rules) => (rules, None),
            None => {
                let unknown = || PolicyError::Unknown { id: id.to_owned() };
                let (rules, caveat) = Generation::of_release(id).ok_or_else(unknown)?;
                let stands = format!("{id} is taken as {}", rules.id);
                (rules, Some(if caveat.is_empty() { stands } else { format!("{stands}: {caveat}") }))
            }
        };
        let kernel = match caveat {
            Some(_) => KernelVersion::parse(id),
            None => None,
        };
        let kernel = kernel.unwrap_or_else(|| KernelVersion::of_generation(rules));
        let mut policy = Self {
            rules,
            text: text.to_owned(),
            caveat,
            nslabs: None,
            areas: None,
            start: None,
            hi_nslabs: None,
            hi_start: None,
            force: None,
            boot: None,
            dispatch: Dispatch::default(),
            kernel,
            copies: None,
            dynamic: false,
            worker_ns: None,
            restricted: None,
            restricted_start: None,
            restricted_dev: None,
            segment: SEGMENT_SLOTS,
        };
        let mut items = Vec::new();
        let mut rest = params;
        while !rest.is_empty() {
            let (item, after) = next_parameter(rest);
            items.push(item);
            rest = after;
        }
        // How a kernel reads the others may depend on which it is.
        items.sort_by_key(|item| !item.starts_with("kernel="));
        for item in items {
            policy.set(item)?;
        }
        if dynamic { policy.with_dynamic() } else { Ok(policy) }
    }

    /// The same policy with dynamic pools, as if `+dynamic` stood behind its name.
    ///
    /// # Errors
    /// When its kernels have none.
    pub fn with_dynamic(mut self) -> Result<Self, PolicyError> {
        if self.rules.dynamic.is_none() {
            return Err(PolicyError::NotDynamic { id: self.rules.id });
        }
        let name = self.text.find(':').unwrap_or(self.text.len());
        if !self.text[..name].ends_with(DYNAMIC) {
            self.text.insert_str(name, DYNAMIC);
        }
        self.dynamic = true;
        Ok(self)
    }

    fn set(&mut self, item: &str) -> Result<(), PolicyError> {
        let (name, value) = item.split_once('=').map_or((item, None), |(n, v)| (n, Some(v)));
        let rules = self.rules;
        let Some(parameter) = rules.parameters().find(|p| p.name == name) else {
            let known = rules.parameters().map(|p| p.name).collect();
            return Err(PolicyError::UnknownParameter { id: rules.id, name: name.to_owned(), known });
        };
        let bad =
            |wanted| PolicyError::BadValue { name: parameter.name, value: value.unwrap_or("").to_owned(), wanted };
        let number = || integer(value.unwrap_or("")).ok_or_else(|| bad("a number (decimal or 0x…)"));
        match parameter.name {
            "nslabs" => self.nslabs = Some(number()?),
            "areas" => {
                let wanted = "a number from 1 to 65536";
                let areas = u32::try_from(number()?).ok().filter(|a| (1..=1 << 16).contains(a));
                self.areas = Some(areas.ok_or_else(|| bad(wanted))?);
            }
            "start" => self.start = Some(number()?),
            "segment" => {
                let wanted = "a power of two from 1 to 1048576";
                let slots = u32::try_from(number()?).ok().filter(|s| s.is_power_of_two() && *s <= MAX_SEGMENT);
                self.segment = slots.ok_or_else(|| bad(wanted))?;
            }
            "worker" => {
                let wanted = "a time such as 500us, 1ms or 2s";
                let time = value.and_then(|text| humantime::parse_duration(text).ok());
                self.worker_ns = Some(time.and_then(|t| u64::try_from(t.as_nanos()).ok()).ok_or_else(|| bad(wanted))?);
            }
            "hi_nslabs" => self.hi_nslabs = Some(number()?),
            "hi_start" => self.hi_start = Some(number()?),
            "restricted" => self.restricted = Some(number()?),
            "restricted_start" => self.restricted_start = Some(number()?),
            "restricted_dev" => {
                let pattern = value.and_then(|text| glob::Pattern::new(text).ok());
                self.restricted_dev =
                    Some(pattern.ok_or_else(|| bad("a device's name, or a pattern with `*` and `?`"))?);
            }
            "hi_threshold" => self.dispatch.hi_threshold = number()?,
            "fallback" => {
                let fallback = Fallback::from_name(value.unwrap_or(""));
                self.dispatch.fallback = fallback.ok_or_else(|| bad("`none`, `hi-lo`, `lo-hi` or `both`"))?;
            }
            "kernel" => {
                let of_policy = |release: &&str| Generation::of_release(release).is_some_and(|(g, _)| g.id == rules.id);
                let kernel = value.filter(of_policy).and_then(KernelVersion::parse);
                self.kernel = kernel.ok_or_else(|| bad("a kernel release this policy stands for"))?;
            }
            "force" => {
                self.force = Some(match value {
                    None | Some("on") => Force::Always,
                    Some("off") => Force::Normal,
                    Some(_) => return Err(bad("`on` or `off`")),
                });
            }
            "copies" => {
                let era = Copies::by_name(value.unwrap_or(""));
                self.copies = Some(era.ok_or_else(|| bad("a kernel release such as 5.15.16"))?);
            }
            _ => {
                let value = value.ok_or_else(|| bad("a kernel command line value"))?;
                self.boot = Some(BootParam::parse(value, self.kernel.grammar()));
            }
        }
        Ok(())
    }

    /// The allocator's rules.
    #[must_use]
    pub fn rules(&self) -> &'static Generation {
        self.rules
    }

    /// The kernel it stands for: the release it was given as, else the generation's.
    #[must_use]
    pub fn kernel(&self) -> KernelVersion {
        self.kernel
    }

    /// When and from where it copies: as `copies` says, else as its kernel does.
    #[must_use]
    pub fn copies(&self) -> &'static Copies {
        self.copies.unwrap_or_else(|| Copies::of_kernel(self.kernel))
    }

    /// The direct mapping's rules: which mappings bounce (SPEC 6.1).
    #[must_use]
    pub fn era(&self) -> &'static Era {
        Era::of_kernel(self.kernel)
    }

    /// The policy as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What must be said about a kernel release that was taken for a policy.
    #[must_use]
    pub fn caveat(&self) -> Option<&str> {
        self.caveat.as_deref()
    }

    /// Makes the pools this policy has on a machine: what the user fixed, rounded as that kernel does; else what was
    /// recorded, as it is.
    ///
    /// # Errors
    /// When the pools cannot be simulated.
    pub fn resolve(&self, base: &Base) -> Result<Setup, PolicyError> {
        let rules = self.rules;
        let round = |nslabs, areas| param::round_cut(rules, nslabs, areas, self.segment.into());
        let mut low = base.pool;
        if !rules.areas {
            low.areas = 1;
        }
        let mut high = None;
        let mut force = if base.force { Force::Always } else { Force::Normal };
        if let Some(boot) = self.boot {
            force = boot.force;
            let areas = match boot.second {
                Some(n) if rules.areas => u32::try_from(n.clamp(1, 1 << 16)).unwrap_or(1),
                _ => base.cpus.unwrap_or(base.pool.areas),
            };
            (low.nslabs, low.areas) = round(self.boot_slabs(boot.nslabs), areas.clamp(1, 1 << 16));
            if rules.has_high_pool() {
                high = boot.second.map(|n| round(self.boot_slabs(Some(n)), 1).0);
            }
            if force == Force::Never {
                // A pool of one slot before 5.14, none after (SPEC 2.2).
                low.nslabs = u64::from(self.zero_means_default());
                high = high.map(|_| low.nslabs);
            }
        }
        // A pool of one slot is how old kernels say `noforce`.
        let recut = self.segment != SEGMENT_SLOTS && low.nslabs > 1;
        if self.nslabs.is_some() || self.areas.is_some() || recut {
            let (nslabs, areas) = (self.nslabs.unwrap_or(low.nslabs), self.areas.unwrap_or(low.areas));
            (low.nslabs, low.areas) = round(nslabs, areas);
        }
        low.start = self.start.unwrap_or(low.start);
        force = self.force.unwrap_or(force);
        check(&low)?;
        let mut pools = vec![low];
        if let Some(nslabs) = self.hi_nslabs.map(|n| round(n, 1).0).or(high) {
            // Memory "from anywhere": above 4 GiB, and whole segments from its start.
            let above = align(low.end().max(1 << 32), 1 << 18);
            let high = Geometry { start: self.hi_start.unwrap_or(above), nslabs, areas: 1 };
            check(&high)?;
            if high.start < low.end() && low.start < high.end() {
                return Err(PolicyError::Overlap { at: high.start.max(low.start) });
            }
            pools.push(high);
        }
        let mut restricted = None;
        if let Some(nslabs) = self.restricted {
            let start = self.restricted_start.unwrap_or(align(low.end(), 1 << 18));
            let own = Geometry { start, nslabs, areas: 1 };
            check(&own)?;
            if own.start < low.end() && low.start < own.end() {
                return Err(PolicyError::Overlap { at: own.start.max(low.start) });
            }
            pools.push(own);
            let all = || glob::Pattern::new("*").unwrap_or_default();
            let devices = self.restricted_dev.clone().unwrap_or_else(all);
            restricted = Some(Restricted { devices });
        } else if self.restricted_dev.is_some() || self.restricted_start.is_some() {
            return Err(PolicyError::NeedsRestricted { id: rules.id });
        }
        if self.dynamic && self.segment != SEGMENT_SLOTS {
            return Err(PolicyError::SegmentOfDynamic { id: rules.id });
        }
        if self.worker_ns.is_some() && !self.dynamic {
            return Err(PolicyError::NeedsDynamic { name: "worker", id: rules.id });
        }
        let worker_ns = self.worker_ns.unwrap_or(WORKER_NS);
        let growth = self.dynamic.then_some(GrowthSetup { worker_ns, phys_limit: 0xffff_ffff });
        Ok(Setup {
            rules,
            era: self.era(),
            pools,
            dispatch: self.dispatch,
            force,
            kernel: self.kernel,
            copies: self.copies(),
            recorded: base.pool,
            restricted,
            growth,
            segment: self.segment,
        })
    }

    /// `swiotlb=0` is the default size where the pool's size is a global that starts at 0 (SPEC 2.2).
    fn zero_means_default(&self) -> bool {
        matches!(self.kernel.grammar(), Grammar::Globals | Grammar::TwoPools)
    }

    /// Slots of a boot parameter before rounding (SPEC 2.2).
    pub(crate) fn boot_slabs(&self, given: Option<u64>) -> u64 {
        match given {
            Some(n) if n > 0 || !self.zero_means_default() => n,
            _ => DEFAULT_SLABS,
        }
    }
}

/// Whether a pool can be simulated.
pub(crate) fn check(pool: &Geometry) -> Result<(), PolicyError> {
    let &Geometry { start, nslabs, areas } = pool;
    if nslabs > MAX_SLABS {
        return Err(PolicyError::TooLarge { nslabs });
    }
    if nslabs > 0 && u64::from(areas) > nslabs {
        return Err(PolicyError::TooManyAreas { nslabs, areas });
    }
    if start % 2048 != 0 || start.checked_add(nslabs * 2048).is_none() {
        return Err(PolicyError::BadStart { start, nslabs });
    }
    Ok(())
}

/// Splits off one parameter. The value of `swiotlb` has commas of its own: it goes on until something with a `=`.
fn next_parameter(text: &str) -> (&str, &str) {
    let mut end = text.find(',').unwrap_or(text.len());
    if text.starts_with("swiotlb=") {
        while end < text.len() {
            let next = &text[end + 1..];
            let item = next.find(',').unwrap_or(next.len());
            if next[..item].contains('=') {
                break;
            }
            end += 1 + item;
        }
    }
    (&text[..end], text.get(end + 1..).unwrap_or(""))
}

pub(crate) fn integer(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
