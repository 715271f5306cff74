//! What this kernel offers: how each event would be captured, what is missing and why.

use serde::Serialize;
use trace::meta::{Host, Xen};
use trace::{Pool, PoolKind};

use crate::attach::{self, Choice};
use crate::backends::POOL_USE;
use crate::host;
use crate::kernel::Kernel;
use crate::options::Mode;
use crate::privilege;
use crate::tracefs;

/// The answer of [`doctor`], as plain data.
#[derive(Clone, Debug, Serialize)]
pub struct Doctor {
    /// The machine.
    pub host: Host,
    /// Xen, when under it.
    pub xen: Option<Xen>,
    /// What recording needs of the system.
    pub checks: Vec<Check>,
    /// The default pool, when the machine has one and it can be found.
    pub pool: Option<Pool>,
    /// Pools beside it: those the kernel has added, and devices' own.
    pub other_pools: Vec<Pool>,
    /// How each event would be captured; empty when nothing could be tried.
    pub events: Vec<Choice>,
    /// What BTF and symbols lack, and what follows.
    pub missing: Vec<String>,
}

/// One need.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// There is no recording without it.
    pub required: bool,
    /// It is there.
    pub ok: bool,
    /// What was found, or what is wrong and what follows.
    pub detail: String,
}

impl Doctor {
    /// Whether a full recording is possible: all that is required is there, and every event has a back-end.
    #[must_use]
    pub fn ok(&self) -> bool {
        // Where slots are seen one by one nobody has to be told how many are in use.
        let needed = |choice: &&Choice| choice.event != POOL_USE || !attach::sees_slots(&self.events);
        self.usable() && !self.events.is_empty() && self.events.iter().filter(needed).all(|e| e.backend.is_some())
    }

    /// Whether something can be recorded: mappings, slots, bounces or how full the pool is.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.checks.iter().all(|c| c.ok || !c.required) && observes(&self.events)
    }
}

/// Whether at least mappings, slots, bounces or the pool's use are observed.
pub(crate) fn observes(choices: &[Choice]) -> bool {
    choices.iter().any(|c| matches!(c.event, "map" | "slot_alloc" | "bounce" | POOL_USE) && c.backend.is_some())
}

/// Examines the running kernel. Where it may it really loads and attaches each program for a moment, which is the only way to
/// know; nothing is left behind.
#[must_use]
pub fn doctor() -> Doctor {
    let kernel = Kernel::discover();
    let missing = privilege::missing();
    let allowed = !missing.iter().any(|m| m.required);
    let lacks = |required| {
        let of = missing.iter().filter(|m| m.required == required).map(ToString::to_string);
        format!("without {}", of.collect::<Vec<_>>().join(", "))
    };
    let mut checks = vec![
        check("capabilities", true, allowed, "enough to record", &format!("{}: run with sudo", lacks(true))),
        match &kernel.btf {
            Ok(_) => check("BTF", false, true, crate::btf::Btf::KERNEL, ""),
            Err(e) => check("BTF", false, false, "", &format!("{e}: {WITHOUT_TYPES}")),
        },
        check(
            "kallsyms",
            false,
            kernel.symbols.visible(),
            "addresses are shown",
            "shows no addresses of data (root, kernel.kptr_restrict below 2 and CONFIG_KALLSYMS_ALL are needed): no snapshot of the pool, no CPU addresses of scatterlists and coherent buffers",
        ),
        match &kernel.memory {
            Ok(_) => check("kcore", false, true, "/proc/kcore", ""),
            Err(e) => check("kcore", false, false, "", &format!("{e}: no snapshot of the pool, no p2m")),
        },
        check("tracefs", false, tracefs::is_mounted(), "mounted", "not mounted: needed only where there is no BTF"),
    ];
    let pool = match kernel.pool() {
        Ok(pool) => {
            checks.push(check(
                "pool",
                false,
                true,
                if pool.is_some() { "read from memory" } else { "this machine has none: nothing bounces" },
                "",
            ));
            pool
        }
        Err(why) => {
            let pool = kernel.pool_from_log();
            let instead = if pool.is_some() { "; start and size are from the kernel log" } else { "" };
            checks.push(check("pool", false, false, "", &format!("cannot be read: {why}{instead}")));
            pool
        }
    };
    let mut other_pools = kernel.pools().unwrap_or_else(|why| {
        // Of the default one it has been said.
        if kernel.pool().is_ok() {
            checks.push(check("other pools", false, false, "", &format!("cannot be read: {why}")));
        }
        Vec::new()
    });
    other_pools.retain(|pool| pool.kind != PoolKind::Default);
    if missing.iter().any(|m| !m.required) {
        checks.insert(1, check("more rights", false, false, "", &lacks(false)));
    }
    let events = match allowed {
        true => match try_events(&kernel) {
            Ok(events) => {
                let taken = if host::preempts() {
                    "the kernel takes it; it preempts tasks inside it, and skips a program then: each gets a copy that tells of those events"
                } else {
                    "the kernel takes it"
                };
                checks.push(check("probe", true, true, taken, ""));
                events
            }
            Err(why) => {
                checks.push(check("probe", true, false, "", &why));
                Vec::new()
            }
        },
        false => Vec::new(),
    };
    Doctor { host: kernel.host, xen: kernel.xen, checks, pool, other_pools, events, missing: kernel.missing }
}

fn check(name: &'static str, required: bool, ok: bool, good: &str, bad: &str) -> Check {
    Check { name, required, ok, detail: if ok { good } else { bad }.to_owned() }
}

/// Attaches everything for a moment.
fn try_events(kernel: &Kernel) -> Result<Vec<Choice>, String> {
    const SMALLEST_RING: u32 = 1 << 16;
    let ebpf = attach::load(&kernel.layout, &attach::Setup::new(SMALLEST_RING))?;
    let types = aya::Btf::from_sys_fs().ok();
    Ok(attach::attach(ebpf, &kernel.types(types.as_ref()), Mode::Full, None, false).choices)
}

/// What a kernel without BTF still lets be seen.
const WITHOUT_TYPES: &str = "what is left are the tracepoint swiotlb_bounced and the number of slots in use in debugfs";
