//! Finds what this kernel offers, loads and drains the probe, writes a trace.
//!
//! ```text
//!  BTF, kallsyms ─► layout ─► attach ─► ring buffer ─► decode ─► trace::Writer
//!                               │                        ▲
//!  /proc/kcore ──► pools ───────┴── snapshot, geometry ──┘      p2m ─► trace::Writer
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | [`recorder`] | [`Recorder`]: from start to summary |
//! | [`options`] | [`Options`]: mode, filters, stacks |
//! | [`flight`] | [`Flight`]: events in memory, written when something happens |
//! | [`doctor`](mod@doctor) | [`doctor()`]: what this kernel offers and what is missing |
//! | [`backends`] | the table of events and the hooks that can deliver them |
//! | [`attach`] | loads the eBPF object and takes the best back-end of each event |
//! | [`decode`], [`tasks`], [`stacks`] | the probe's records as a trace's events, the threads and stacks they name |
//! | [`sums`] | what the aggregate mode has in place of events |
//! | [`glob`] | patterns of names, as the probe runs them |
//! | [`kernel`] | all that is known of the running kernel beforehand |
//! | [`btf`], [`symbols`], [`arch`], [`kcore`], [`layout`] | the kernel's types, addresses and memory |
//! | [`tracefs`], [`usage`] | what there is without types: records of classic tracepoints, numbers in debugfs |
//! | [`pools`], [`globals`], [`p2m`] | the allocator's state, and Xen's frame table |
//! | [`host`] | the machine |
//! | [`privilege`] | what the process may do, and giving up what it no longer needs |
//! | [`error`] | [`CollectorError`] |

pub mod arch;
pub mod attach;
pub mod backends;
pub mod btf;
pub mod decode;
pub mod device;
mod doctor;
pub mod error;
pub mod flight;
pub mod glob;
pub mod globals;
pub mod host;
pub mod kcore;
pub mod kernel;
pub mod layout;
pub mod options;
pub mod p2m;
pub mod pools;
pub mod privilege;
pub mod recorder;
pub mod stacks;
pub mod sums;
pub mod symbols;
pub mod tasks;
pub mod tracefs;
pub mod usage;

pub use doctor::{Check, Doctor, doctor};
pub use error::CollectorError;
pub use flight::Flight;
pub use options::{Filters, Mode, Only, Options, OptionsError};
pub use recorder::{Recorder, Stats, Summary};
