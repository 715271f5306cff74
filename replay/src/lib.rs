//! Bit-exact models of the Linux bounce-buffer allocators and of Xen's address translation.
//!
//! Pure: no files, no clock, and threads only in [`sweep`](mod@sweep). What goes in is plain types of the `trace` crate, or text.
//!
//! | module | what lives there |
//! |---|---|
//! | [`rules`] | the table of generations: every difference between kernels, side by side |
//! | [`detect`] | which of them a recorded kernel is |
//! | [`kernel`], [`copies`] | kernels by release, finer than a generation: dated facts, and how each era copies |
//! | [`plan`] | a request against a pool, in numbers: slots, stride, address match, boundary |
//! | `beside` | the pools a trace has beside the default one |
//! | `walk`, `view` | the five searches, without the walking; by other addresses than the pool's own |
//! | [`pool`], `bounds` | the slots of a pool, 128 to a word; which words may hold a run |
//! | [`allocator`] | a generation over its pools: map, unmap |
//! | [`restricted`] | pools of a device's own |
//! | [`growth`], [`pages`] | pools that come and go, and where their memory comes from |
//! | [`dispatch`] | which of `rfc64`'s two pools a request goes to |
//! | [`param`], [`policy`] | what a pool size becomes in a kernel; policies as people write them |
//! | [`axis`] | a parameter in many values, to sweep over |
//! | [`ranges`] | buses that see memory elsewhere than the CPU |
//! | [`boot`], [`largest`] | what `swiotlb=` becomes on a machine, step by step; the largest mapping promised |
//! | [`eras`] | the table of bounce rules, which change with the kernel's version |
//! | [`p2m`], [`tree`] | Xen's frame tables: of PV guests, of ARM |
//! | [`machine`] | a policy on a platform: what bounces, and why |
//! | [`mod@moment`] | who holds what at one moment of a recording, and how fast it goes: what the screens show |
//! | [`script`] | event scripts and their answers, to compare with real kernels |
//! | [`load`] | a trace's mappings, each unmap and sync tied to its map: the same for every policy |
//! | [`whatif`], [`outcome`], [`occupancy`], [`lifetimes`] | a load replayed on a machine, and what came of it |
//! | [`closely`] | one mapping looked at closely: the pool it met, and who held it |
//! | [`mod@recorded`] | the recorded kernel's pool as its slot events leave it |
//! | [`overlay`], [`sizing`] | loads laid over one another; how large a pool must be |
//! | [`mod@sweep`] | a load replayed on many machines at once |
//! | [`mod@verify`] | the model as a checker of a recorded kernel |
//! | [`follow`] | the pool as a recorded kernel had it, event by event |
//! | [`mod@decisions`] | the same for whether mappings bounce, and why |
//! | [`refusal`] | why a mapping was refused, with its arithmetic |

pub mod allocator;
pub mod axis;
mod beside;
mod bits;
pub mod boot;
mod boundaries;
mod bounds;
mod checker;
pub mod closely;
pub mod copies;
pub mod decisions;
pub mod detect;
pub mod dispatch;
pub mod eras;
pub mod follow;
pub mod growth;
pub mod kernel;
pub mod largest;
pub mod lifetimes;
pub mod load;
pub mod machine;
pub mod moment;
pub mod occupancy;
pub mod outcome;
pub mod overlay;
pub mod p2m;
pub mod pages;
pub mod param;
pub mod plan;
pub mod policy;
pub mod pool;
pub mod ranges;
pub mod recorded;
pub mod refusal;
pub mod restricted;
pub mod rules;
pub mod script;
pub mod sizing;
mod snapshot;
mod step;
pub mod sweep;
mod tie;
pub mod tree;
pub mod verify;
mod view;
mod walk;
pub mod whatif;

pub use allocator::{Allocator, Stop, Taken};
pub use axis::{Axis, AxisError, grid};
pub use closely::{Answer, AreaMoment, Holder, Moment, PoolMoment};
pub use copies::{COPY_ERAS, Copies};
pub use decisions::{DecisionExample, Decisions, Judge, Judged, WrongDecision, decisions};
pub use dispatch::{Dispatch, Fallback};
pub use eras::{ERAS, Era};
pub use follow::{FollowNotes, Followed, Follower, HeldBefore, Slots};
pub use growth::{Grown, GrowthSetup, Transient};
pub use kernel::KernelVersion;
pub use lifetimes::Assumed;
pub use load::{Load, LoadBuilder, LoadDevice, LoadMap, LoadNotes, Recorded, Surroundings};
pub use machine::{
    BoundaryBase, FalseBoundaries, Forbidden, Foreseen, FrameTable, Machine, Mapped, Ops, PLATFORM_PARAMETERS,
    PLATFORMS, Platform, PlatformError, PlatformKind, PlatformSpec, Reason, Refused, Terms,
};
pub use occupancy::Occupancy;
pub use outcome::{DeviceOutcome, OnFail, OnFailError, Options, Outcome, RefusedMap};
pub use p2m::P2m;
pub use pages::{Buddy, PageSource, Zone, Zones};
pub use param::Force;
pub use plan::{Limits, Request};
pub use policy::{Base, MAX_SLABS, PARAMETERS, Policy, PolicyError, Setup};
pub use pool::{AreaState, Geometry, SlotPool};
pub use ranges::Ranges;
pub use recorded::RecordedPool;
pub use refusal::{AreaRefusal, Cause, Refusal};
pub use restricted::Restricted;
pub use rules::{GENERATIONS, Generation};
pub use script::{Script, ScriptError, Timing};
pub use sizing::{SizeCurve, SizePoint, Sizing};
pub use sweep::{Job, Progress, Stopped, sweep};
pub use tree::ForeignTree;
pub use verify::{Miss, MissExample, Start, Verdict, verify};
pub use walk::Endless;
pub use whatif::{answers, moment, replay};
