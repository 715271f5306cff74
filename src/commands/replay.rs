//! `swioscope replay`: a trace under other policies, or a file of allocator requests.

use std::process::ExitCode;

use replay::{Policy, PolicyError};

use super::{Usage, script};
use crate::cli::ReplayArgs;

pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    if args.answers.is_some() || args.timing {
        return script::play(args);
    }
    // A trace is a folder, whatever its name.
    if args.input.is_file() {
        return Err(Usage(format!(
            "{} is a file of allocator requests: add `--answers -` to see each answer, or give a trace folder to compare policies on",
            args.input.display()
        ))
        .into());
    }
    trace(args)
}

#[cfg(feature = "answers")]
fn trace(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    super::compare::run(args)
}

#[cfg(not(feature = "answers"))]
fn trace(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    Err(Usage(format!(
        "this is the record-only build: copy {} to a machine with the whole swioscope and compare policies there",
        args.input.display()
    ))
    .into())
}

/// The policies with pools that grow, if asked for.
pub(crate) fn grown(policies: Vec<Policy>, dynamic: bool) -> Result<Vec<Policy>, PolicyError> {
    let grow = |policy: Policy| if dynamic { policy.with_dynamic() } else { Ok(policy) };
    policies.into_iter().map(grow).collect()
}
