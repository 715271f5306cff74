//! What the kernel half of the probe and user space agree upon: the records in the ring buffer and the layout of
//! kernel structures, which user space reads from BTF and hands over.
//!
//! The binary half (`src/kernel`, for the BPF target only) is built by the collector's build script.
//!
//! | module | what lives there |
//! |---|---|
//! | [`wire`] | the records: [`wire::Event`], [`wire::Device`], [`wire::Task`], [`wire::CpuLoss`] |
//! | [`sums`] | what the aggregate mode keeps instead |
//! | [`settings`] | [`Settings`], [`settings::Globs`]: what is asked of the programs |
//! | [`layout`] | [`Layout`]: member offsets and symbol addresses of the running kernel |

#![no_std]

pub mod layout;
pub mod settings;
pub mod sums;
pub mod wire;

pub use layout::Layout;
pub use settings::Settings;
