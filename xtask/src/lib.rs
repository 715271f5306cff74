//! Set-up, demo, tests and the VM lab of swioscope; never shipped.
//!
//! - [`cache`]: where things that are not part of a checkout live
//! - [`lab`]: real kernels in QEMU, for tests and for trying things out
//! - [`process`]: starting other programs
//!
//! The program `xtask` is a thin command line over these; `lab-load` is the load generator that runs in guests.

pub mod cache;
pub mod lab;
pub mod process;
