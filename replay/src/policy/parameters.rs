//! The parameters policies take.

use crate::rules::Generation;

/// A policy's parameter, for listings and messages.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// As written before the `=`.
    pub name: &'static str,
    /// What it sets.
    pub doc: &'static str,
    /// Which policies have it.
    pub applies: fn(&Generation) -> bool,
}

/// Every parameter.
pub static PARAMETERS: &[Parameter] = &[
    Parameter { name: "nslabs", doc: "slots of 2 KiB; rounded as that kernel does", applies: |_| true },
    Parameter { name: "areas", doc: "areas; rounded up to a power of two", applies: |g| g.areas },
    Parameter { name: "start", doc: "physical address of the pool", applies: |_| true },
    Parameter { name: "hi_nslabs", doc: "slots of the 64-bit pool", applies: Generation::has_high_pool },
    Parameter { name: "hi_start", doc: "physical address of the 64-bit pool", applies: Generation::has_high_pool },
    Parameter {
        name: "worker",
        doc: "with +dynamic: how long after a refusal the worker has its pool ready, such as 1ms",
        applies: |g| g.dynamic.is_some(),
    },
    Parameter {
        name: "hi_threshold",
        doc: "what-if, in no kernel: devices that reach this address go to the 64-bit pool, instead of all 64 bits",
        applies: Generation::has_high_pool,
    },
    Parameter {
        name: "fallback",
        doc: "what-if, in no kernel: where a full pool's requests go: none, hi-lo, lo-hi (if the device reaches it), both",
        applies: Generation::has_high_pool,
    },
    Parameter {
        name: "segment",
        doc: "what-if, in no kernel: slots of a segment, the most a mapping can have, instead of 128; a power of two",
        applies: |_| true,
    },
    Parameter {
        name: "kernel",
        doc: "a release the policy stands for, such as 6.12, for what changes within it: set-up, bounce rules, copies",
        applies: |g| !g.has_high_pool(),
    },
    Parameter {
        name: "restricted",
        doc: "slots of a pool of its own for the devices of restricted_dev, as a device tree gives; not rounded",
        applies: |g| g.restricted.is_some(),
    },
    Parameter {
        name: "restricted_dev",
        doc: "which devices those are, by name, such as 0000:03:*; all when not given",
        applies: |g| g.restricted.is_some(),
    },
    Parameter {
        name: "restricted_start",
        doc: "physical address of their pool; behind the other when not given",
        applies: |g| g.restricted.is_some(),
    },
    Parameter { name: "force", doc: "on: everything bounces; off: only what must", applies: |_| true },
    Parameter { name: "swiotlb", doc: "a kernel command line value, such as 65536,force", applies: |_| true },
    Parameter { name: "copies", doc: "a kernel release to copy as, such as 5.15.16", applies: |_| true },
];

impl Generation {
    /// The parameters this policy takes.
    pub fn parameters(&'static self) -> impl Iterator<Item = &'static Parameter> {
        PARAMETERS.iter().filter(|p| (p.applies)(self))
    }
}
