//! The terminal: one application over a recording ([`view`]) or a recorder at work ([`top`]), and the comparison of
//! policies as plain text ([`print`]).
//!
//! Six screens under the same frame; each is drawn in its module's doc:
//!
//! ```text
//! dom0-nvme.swio · Linux 6.12 · Xen 4.17 PV dom0              tp_btf fexit fentry · none lost
//! ▸1 Overview  2 Slots  3 Devices  4 Failures  5 Compare  6 Plan
//! Nothing was refused. 25,115 of 25,115 mappings bounced (100 %); use peaked at 1,943 of …
//!  The last second ──────────────────────────────────────────── curves: whole recording ──
//!  maps/s            2,740 ▁▂▃▅▆▇█▇▇▆▅▅▄▃▂▁
//!  …
//!      ▁▂▃▅▆▇█▇▇▆▅▅▄▃▂▁ ▂▃▅▆▇█▇▆▅▄▃▂▁
//! ─────────────▲───────────×──────────────────────────────────────────────────────────────
//! ‖ ×1   3.214000 s of 9.51 s · event 51,002 of 125,591                  peak 1,943 slots
//! Space play  . , step  n N failure  m M peak  : time  ? help  q quit
//! ```
//!
//! # How every moment is near
//! A trace is read once in the background (`app::index`): every 25,000 events a checkpoint of the state is kept, with the
//! place in the segments where it was. To be anywhere is to clone the checkpoint before it, skip to its row in the Parquet
//! segment, and take in at most 25,000 events. The first screen needs the files' footers only. What that costs is measured
//! in docs/lab/2026-11-26-view.md.
//!
//! | module | what lives there |
//! |---|---|
//! | `app` | the application: state, actions, screens, sources; its own table is there |
//! | `compare` | the comparison of policies: a screen's part, and the plain text |
//! | `columns`, `text` | tables from the field registry; small pieces of text |
//! | `theme` | every style; `NO_COLOR` is honoured |
//! | `terminal` | taking the terminal and giving it back |

mod app;
mod columns;
mod compare;
mod terminal;
mod text;
mod theme;

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::Receiver;

use analysis::Comparison;
use trace::{Feed, Trace};

pub use app::{LiveStart, ViewOptions};

/// Why the screen could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum TuiError {
    /// Standard output or standard input is a file, a pipe, or nothing.
    #[error("there is no terminal to draw on; use --print to get the screen as text")]
    NoTerminal,
    /// The terminal refused to be set up, drawn on, or read.
    #[error("the terminal failed: {0}; use --print to get the screen as text")]
    Terminal(#[from] io::Error),
}

/// Opens a trace until the user quits.
///
/// Takes the whole terminal (alternate screen, raw mode, mouse) and gives it back on return, on error and on panic.
///
/// # Errors
/// [`TuiError::NoTerminal`] when standard input or output is not a terminal; [`TuiError::Terminal`] when it fails.
pub fn view(trace: Trace, options: ViewOptions) -> Result<(), TuiError> {
    needs_terminal()?;
    Ok(terminal::show(&mut app::App::recorded(trace, options, theme::Theme::from_env()))?)
}

/// Shows a recording under way until the user quits. The recorder goes on, or ends, as it likes: what it tells comes by
/// `feed`, and when that is closed the last state stays.
///
/// # Errors
/// As [`view`].
pub fn top(start: LiveStart, feed: Receiver<Feed>) -> Result<(), TuiError> {
    needs_terminal()?;
    let facts = app::facts::Facts::new(&start.name, &start.meta);
    let live = app::source::Live::new(&start, feed);
    Ok(terminal::show(&mut app::App::live(live, facts, start.policies, theme::Theme::from_env()))?)
}

fn needs_terminal() -> Result<(), TuiError> {
    if io::stdin().is_terminal() && io::stdout().is_terminal() { Ok(()) } else { Err(TuiError::NoTerminal) }
}

/// A comparison as plain text, `width` cells wide (72 at least), as tall as it needs to be. No escape
/// sequences: fit for a pipe, a file, a bug report.
#[must_use]
pub fn print(comparison: &Comparison, width: u16) -> String {
    compare::report::report(comparison, width)
}
