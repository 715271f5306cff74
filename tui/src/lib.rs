//! The terminal screens. Today one: a trace under several policies, side by side ([`view`]), or the same as plain text
//! ([`print`]).
//!
//! The verdict comes first, then the arithmetic it rests on, then the details of the selected policy:
//!
//! ```text
//! nvme.swio · Linux 6.12 · 10.02 s · 99,600 events · none lost · model predicts 24,900 of 24,900 slot choices
//! ┌ Verdict ──────────────────────────────────────────────────────────────────────────────────────────────┐
//! │ what the figures say, the most important sentence first                                               │
//! └───────────────────────────────────────────────────────────────────────────────────────────────────────┘
//!  Policies on xen-pv ─────────────────────────────────────────────────────────────────────────────────────
//!   policy  parameters             maps  bounces  failures                        peak slots  bytes copied
//! ▸ v6_10   nslabs=4096,areas=2  24,900   24,900     7,507  2,745 of 4,096  ██████░░    67 %       389 MiB
//!   rfc64   nslabs=4096,131072   24,900   24,900         0     64 of 4,096  █░░░░░░░     2 %       556 MiB
//!  Slots in use over 10.02 s · one scale ──────────────────────────────────────────────────────────────────
//! ▸ v6_10  2,745 of 4,096          rfc64 LO  64 of 4,096             rfc64 HI  5,120 of 131,072
//!     ▂▅▇███▇▅▂                                                          ▃▆███████▆▃
//! ─────×──────────────────         ────────────────────────          ────────────────────────
//!  ▸1 Causes   2 Refusals   3 Devices   4 Assumptions ────────────────────────── v6_10 nslabs=4096,areas=2
//! Bounced: 24,900 of 24,900 mappings (100 %)
//! …
//! ↑↓ policy  Tab page  PgUp PgDn scroll  Enter enlarge  s scale  ? help  q quit
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | `state`, `action` | what is shown, and what can be asked of it; no drawing |
//! | `screen` | who gets how many lines |
//! | `widgets` | one file a part of the screen |
//! | `pages` | one file a page of details |
//! | `columns`, `text` | tables from the field registry; small pieces of text |
//! | `theme` | every style; `NO_COLOR` is honoured |
//! | `report` | the plain text |

mod action;
mod columns;
mod pages;
mod report;
mod screen;
mod state;
mod terminal;
mod text;
mod theme;
mod widgets;

#[cfg(test)]
#[path = "../examples/fixture/mod.rs"]
mod fixture;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _};

use analysis::Comparison;

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

/// Shows a comparison until the user quits.
///
/// Takes the whole terminal (alternate screen, raw mode) and gives it back on return, on error and on panic.
///
/// # Errors
/// [`TuiError::NoTerminal`] when standard input or output is not a terminal; [`TuiError::Terminal`] when it fails.
pub fn view(comparison: &Comparison) -> Result<(), TuiError> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(TuiError::NoTerminal);
    }
    Ok(terminal::show(comparison)?)
}

/// Everything [`view`] can show as plain text, `width` cells wide (72 at least), as tall as it needs to be. No escape
/// sequences: fit for a pipe, a file, a bug report.
#[must_use]
pub fn print(comparison: &Comparison, width: u16) -> String {
    report::report(comparison, width)
}
