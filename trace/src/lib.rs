//! What a swioscope trace *is*, and nothing else: plain records of what happened, and the folder they are kept in.
//!
//! | module | what lives there |
//! |---|---|
//! | [`field`] | the field registry: every column's name, type, unit and doc, defined once by [`crate::record!`] |
//! | [`filter`] | [`Filter`]: the filter language, the same in every command and screen (feature `filter`) |
//! | [`event`] | [`Event`], [`Op`], [`Direction`]: one row a thing that happened |
//! | [`device`] | [`Device`]: the masks and limits that decide where a device's mappings may go |
//! | [`origin`] | [`Task`], [`StackFrame`]: threads and kernel stacks that events name by key |
//! | [`pool`] | [`Pool`], [`SnapshotSlot`], [`P2mRun`]: the state of memory around the events |
//! | [`meta`] | [`Meta`]: host, kernel, capture settings and losses (`meta.json`) |
//! | [`feed`] | [`Feed`]: what a recorder at work tells whoever looks on |
//! | [`held`] | [`Held`](held::Held): which slots are held, followed from event to event |
//! | [`sums`] | [`Sum`](sums::Sum), [`Bucket`](sums::Bucket): what the aggregate mode keeps in place of events |
//! | [`mod@file`] | [`Writer`] and [`Trace`]: the folder on disk, Parquet and all (feature `file`) |
//!
//! The models (`replay`) use this crate without the `file` feature: types only, no I/O.

pub mod device;
pub mod event;
pub mod feed;
pub mod field;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "filter")]
pub mod filter;
pub mod held;
pub mod meta;
pub mod origin;
pub mod pool;
pub mod sums;

pub use device::Device;
pub use event::{Direction, Event, Op};
pub use feed::Feed;
pub use field::{Field, Record, Unit, Value};
#[cfg(feature = "file")]
pub use file::{Trace, TraceError, Writer};
#[cfg(feature = "filter")]
pub use filter::{Filter, FilterError, Names};
pub use meta::Meta;
pub use origin::{StackFrame, Task};
pub use pool::{Area, P2mKind, P2mRun, Pool, PoolKind, SnapshotSlot};
