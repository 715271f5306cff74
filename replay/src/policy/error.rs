//! What can be wrong with a policy, said so that it can be put right.

use super::{DYNAMIC, MAX_SLABS};
use crate::rules::GENERATIONS;

/// A policy text that cannot be understood. The messages say what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Neither a policy nor a kernel release.
    #[error("unknown policy `{id}`; known: {}, or a kernel release such as 6.12", ids())]
    Unknown {
        /// What was given.
        id: String,
    },
    /// The policy has no such parameter.
    #[error("policy {id} has no parameter `{name}`; it has: {}", .known.join(", "))]
    UnknownParameter {
        /// The policy.
        id: &'static str,
        /// What was given.
        name: String,
        /// What would have been right.
        known: Vec<&'static str>,
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
    /// A pool larger than [`MAX_SLABS`].
    #[error("a pool of {nslabs} slots is too large: {MAX_SLABS} (128 GiB) is the most this model takes")]
    TooLarge {
        /// Slots after rounding.
        nslabs: u64,
    },
    /// More areas than slots.
    #[error("{areas} areas in {nslabs} slots: an area must have at least one slot; give fewer areas or more slots")]
    TooManyAreas {
        /// Slots.
        nslabs: u64,
        /// Areas.
        areas: u32,
    },
    /// A pool whose addresses run over the end of the address space, or whose start is inside a slot.
    #[error(
        "a pool cannot start at {start:#x} with {nslabs} slots: it must start at a multiple of 2048 and end below 2^64"
    )]
    BadStart {
        /// The start.
        start: u64,
        /// Slots.
        nslabs: u64,
    },
    /// The policy's kernels have no pools that come and go.
    #[error("policy {id} has no dynamic pools: they came with 6.6; with them: {}", dynamic_ids())]
    NotDynamic {
        /// The policy.
        id: &'static str,
    },
    /// A parameter only dynamic pools have.
    #[error("parameter `{name}` is for dynamic pools: write {id}+dynamic")]
    NeedsDynamic {
        /// The parameter.
        name: &'static str,
        /// The policy.
        id: &'static str,
    },
    /// Another segment size where pools come and go.
    #[error(
        "policy {id}+dynamic: pools that come and go are modelled with segments of 128 slots only; leave out `segment` or +dynamic"
    )]
    SegmentOfDynamic {
        /// The policy.
        id: &'static str,
    },
    /// A restricted pool's devices or place without its size.
    #[error("policy {id}: a restricted pool needs a size: add restricted=SLOTS")]
    NeedsRestricted {
        /// The policy.
        id: &'static str,
    },
    /// Two pools share addresses.
    #[error("the two pools overlap at {at:#x}; give the second an address after the first's end")]
    Overlap {
        /// Where.
        at: u64,
    },
}

fn ids() -> String {
    GENERATIONS.iter().map(|g| g.id).collect::<Vec<_>>().join(", ")
}

fn dynamic_ids() -> String {
    let ids = GENERATIONS.iter().filter(|g| g.dynamic.is_some()).map(|g| format!("{}{DYNAMIC}", g.id));
    ids.collect::<Vec<_>>().join(", ")
}
