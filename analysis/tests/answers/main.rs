//! Answers on small traces whose truth is known, and on the sample: stories, questions, differences, plans.

// The builder is the report's; not every part of it is used here.
#[allow(dead_code, reason = "each test uses some of it")]
#[path = "../report/build.rs"]
mod build;
mod difference;
mod explain;
mod plan;
mod query;

use std::path::Path;

use trace::Trace;

/// Beyond what a 32-bit device reaches.
pub const HIGH: u64 = 1 << 33;

/// The recorded dom0 of samples/README.md.
pub fn sample() -> Trace {
    Trace::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/dom0-nvme.swio")).unwrap()
}
