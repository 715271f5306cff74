//! Set-up, demo, tests and the VM lab of swioscope; never shipped.
//!
//! - [`setup`]: installs what is missing
//! - [`build`]: builds and tests the workspace, always with the same selection of packages
//! - [`demo`]: the whole path once, for somebody new
//! - [`fuzz`]: arbitrary input for the models, for as long as one likes
//! - [`bench`]: what capturing costs
//! - [`package`]: the program that is handed out, record-only and static
//! - [`lab`]: real kernels in QEMU, for tests and for trying things out
//! - `apt`: Debian suites beside the machine's own
//! - [`cache`]: where things that are not part of a checkout live
//! - [`process`], [`progress`]: starting other programs, and what somebody who waits gets to see
//!
//! The program `xtask` is a thin command line over these; `lab-load` is the load generator that runs in guests.

mod apt;
pub mod bench;
pub mod build;
pub mod cache;
pub mod demo;
pub mod fuzz;
pub mod lab;
pub mod package;
pub mod process;
pub mod progress;
pub mod setup;
