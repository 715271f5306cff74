//! One module a command. Each has `run`, which returns the exit code or the error to print.

#[cfg(feature = "answers")]
pub(crate) mod compare;
pub(crate) mod doctor;
#[cfg(feature = "answers")]
pub(crate) mod explain;
pub(crate) mod param;
#[cfg(feature = "answers")]
pub(crate) mod plan;
pub(crate) mod policies;
#[cfg(feature = "answers")]
mod progress;
#[cfg(feature = "answers")]
pub(crate) mod query;
pub(crate) mod record;
pub(crate) mod replay;
#[cfg(feature = "answers")]
pub(crate) mod report;
pub(crate) mod script;
pub(crate) mod top;
pub(crate) mod verify;
#[cfg(feature = "answers")]
pub(crate) mod view;

/// The command line asks for something that does not go together: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);
