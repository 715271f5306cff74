//! Answers computed from traces and replays. polars lives here and nowhere else.
//!
//! | module | what lives there |
//! |---|---|
//! | [`query`](mod@query) | SQL and filters over a trace's tables |
//! | [`explain`] | one refused or bounced mapping told as a story |
//! | [`frames`] | traces and tables as polars frames |
//! | [`devices`] | one row a device, from the recorded events |
//! | [`comparison`] | [`Comparison`]: one trace under several policies, as plain rows |
//! | [`compare`](mod@compare) | replays the policies and fills the comparison |
//! | [`difference`] | how policies differ: in a sentence each, and map by map |
//! | [`report`](mod@report) | one page about one trace: the verdict, and what it rests on |
//! | [`gate`] | conditions on an answer's numbers, for scripts |
//! | [`plan`](mod@plan) | how large the pool must be, and what to write for it |
//! | [`plot`] | charts as SVG and PNG |
//! | [`verdict`] | the sentences that come before the figures |

use std::path::PathBuf;

pub mod compare;
pub mod comparison;
pub mod devices;
pub mod difference;
pub mod explain;
pub mod frames;
pub mod gate;
pub mod plan;
pub mod plot;
pub mod query;
pub mod report;
pub mod verdict;

pub use compare::{CompareOptions, Stage, compare};
pub use comparison::{Comparison, Curve, PolicyDetail, PolicyDeviceRow, PolicyRow, RefusalRow, TraceFacts};
pub use devices::DeviceRow;
pub use gate::{Gate, GateError};
pub use plan::{NeedRow, PlanOptions, PlanReport, SizeRow, plan};
pub use report::{Report, report};

/// Why an answer could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// The trace could not be read.
    #[error(transparent)]
    Trace(#[from] trace::TraceError),
    /// A policy cannot be put on the recorded machine.
    #[error("policy `{policy}` does not fit this trace")]
    Policy {
        /// The policy as it was written.
        policy: String,
        /// What is wrong with it.
        source: replay::PolicyError,
    },
    /// The recorder could not find the pool: what bounced cannot be told from what did not, nor replayed.
    #[error(
        "{} does not know its machine's bounce pool: {why}\nWhat bounced in reality cannot be told from what did not, so nothing can be replayed; record again as root, where the kernel has BTF", .path.display()
    )]
    PoolUnknown {
        /// The trace.
        path: PathBuf,
        /// Why, as its recorder put it.
        why: String,
    },
    /// The trace has sums, or bounces and looks at the pool, and nothing that could be asked of another allocator.
    #[error(
        "{} holds neither mappings nor slots, so there is nothing to replay: {why}\nWhat it does hold: swioscope report {}", .path.display(), .path.display()
    )]
    NothingToReplay {
        /// The trace.
        path: PathBuf,
        /// How it was recorded.
        why: String,
    },
    /// The data-frame library refused a query.
    #[error("could not query the trace")]
    Frame(#[from] polars::error::PolarsError),
    /// A filter cannot be read.
    #[error(transparent)]
    Filter(#[from] trace::FilterError),
    /// A question in SQL cannot be answered.
    #[error("{what}\n{hint}")]
    Query {
        /// What is wrong with it.
        what: String,
        /// What there is to be asked for.
        hint: String,
    },
    /// A question about an event there is nothing to say of.
    #[error("{0}")]
    NoStory(String),
    /// polars takes paths as text.
    #[error("the path {0:?} is not UTF-8; move the trace to a folder whose name is")]
    PathNotText(PathBuf),
    /// A plot could not be drawn.
    #[error(transparent)]
    Plot(#[from] plot::PlotError),
}
