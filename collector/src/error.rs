//! What can stop a recording, each with what to do about it.

use std::path::PathBuf;

use crate::attach::Choice;
use crate::backends::POOL_USE;
use crate::privilege::Missing;

/// Why nothing can be recorded, or why a recording ended badly.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Capabilities without which nothing can be recorded are missing.
    #[error(
        "recording takes {}: run it with sudo, or give the program its capabilities (setcap cap_bpf,cap_perfmon,cap_syslog,cap_sys_rawio,cap_sys_nice+ep FILE)",
        listed(.missing)
    )]
    NotAllowed {
        /// Which, and what for.
        missing: Vec<Missing>,
    },
    /// A filter's pattern.
    #[error("--device or --driver: {0}")]
    Pattern(#[from] crate::glob::GlobError),
    /// Options that contradict each other.
    #[error(transparent)]
    Options(#[from] crate::options::OptionsError),
    /// The object could not be loaded at all.
    #[error("the kernel does not take the probe: {reason}. `swioscope doctor` shows what this kernel offers")]
    Load {
        /// What aya and the kernel say.
        reason: String,
    },
    /// No hook gave way.
    #[error("this kernel lets neither mappings nor bounces nor the pool be observed: {}. `swioscope doctor` shows all that was tried", reasons(.choices))]
    NothingToObserve {
        /// What was tried.
        choices: Vec<Choice>,
    },
    /// The trace could not be written.
    #[error(transparent)]
    Trace(#[from] trace::TraceError),
    /// A thread could not be started.
    #[error(
        "no thread to record with could be started: {reason}; nothing was recorded. Check the limits on processes (`ulimit -u`, the cgroup's pids.max) and free memory"
    )]
    NoThread {
        /// What happened.
        reason: String,
    },
    /// A thread died.
    #[error("the recording of {path} ended: {reason}; what was written until then can be opened")]
    Thread {
        /// The trace.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

fn listed(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn reasons(choices: &[Choice]) -> String {
    let of = |event: &str| {
        let rejected = choices.iter().filter(|c| c.event == event).flat_map(|c| &c.rejected);
        rejected.map(|r| format!("{}: {}", r.backend, r.why)).collect::<Vec<_>>().join("; ")
    };
    let all = ["map", "slot_alloc", "bounce", POOL_USE].map(of);
    all.into_iter().filter(|reasons| !reasons.is_empty()).collect::<Vec<_>>().join("; ")
}

/// An error and its causes in a line; causes that the text before them repeats are left out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
