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
//! | [`doctor`](mod@doctor) | [`doctor()`]: what this kernel offers and what is missing |
//! | [`backends`] | the table of events and the hooks that can deliver them |
//! | [`attach`] | loads the eBPF object and takes the best back-end of each event |
//! | [`decode`] | the probe's records as a trace's events |
//! | [`kernel`] | all that is known of the running kernel beforehand |
//! | [`btf`], [`symbols`], [`kcore`], [`layout`] | the kernel's types, addresses and memory |
//! | [`pools`], [`p2m`] | the allocator's state, and Xen's frame table |
//! | [`host`] | the machine |
//! | [`privilege`] | what the process may do, and giving up what it no longer needs |
//! | [`error`] | [`CollectorError`] |

pub mod attach;
pub mod backends;
pub mod btf;
pub mod decode;
pub mod doctor;
pub mod error;
pub mod host;
pub mod kcore;
pub mod kernel;
pub mod layout;
pub mod p2m;
pub mod pools;
pub mod privilege;
pub mod recorder;
pub mod symbols;

pub use doctor::{Check, Doctor, doctor};
pub use error::CollectorError;
pub use recorder::{Options, Recorder, Stats, Summary};
