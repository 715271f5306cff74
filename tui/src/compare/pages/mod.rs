//! The pages of details, as lines of text: the screen scrolls them, `--print` writes them one after the other.

mod assumptions;
mod causes;
mod devices;
mod refusals;

use analysis::Comparison;
use ratatui::text::Line;

use crate::compare::state::{Page, detail};
use crate::theme::Theme;

pub(crate) use assumptions::trace as about_trace;
pub(crate) use devices::recorded as recorded_devices;

/// The lines of `page` about the policy in row `index`.
pub(crate) fn lines(
    comparison: &Comparison,
    index: usize,
    page: Page,
    width: usize,
    theme: &Theme,
) -> Vec<Line<'static>> {
    let Some(row) = comparison.rows.get(index) else { return Vec::new() };
    let detail = detail(comparison, index);
    match page {
        Page::Causes => causes::lines(row, width, theme),
        Page::Refusals => refusals::lines(row, &detail.refusals, width, theme),
        Page::Devices => {
            let mut lines = devices::replayed(&detail.devices, width, theme);
            lines.push(Line::default());
            lines.extend(devices::recorded(&comparison.devices, width, theme));
            lines
        }
        Page::Assumptions => {
            let mut lines = assumptions::replay(row, &detail.assumptions, width, theme);
            lines.push(Line::default());
            lines.extend(assumptions::trace(&comparison.facts, width, theme));
            lines
        }
    }
}

/// Refusals that `--print` writes out for each policy.
const PRINTED: usize = 3;

/// What `--print` says of the policy in row `index`: all its pages, but only a few refusals, and the trace's own facts
/// left for the end.
pub(crate) fn report(comparison: &Comparison, index: usize, width: usize, theme: &Theme) -> Vec<Vec<Line<'static>>> {
    let Some(row) = comparison.rows.get(index) else { return Vec::new() };
    let detail = detail(comparison, index);
    let first = &detail.refusals[..detail.refusals.len().min(PRINTED)];
    let mut parts = vec![causes::lines(row, width, theme)];
    if row.failures > 0 {
        parts.push(refusals::lines(row, first, width, theme));
    }
    parts.push(devices::replayed(&detail.devices, width, theme));
    parts.push(assumptions::replay(row, &detail.assumptions, width, theme));
    parts
}
