//! The first refusals, each with arithmetic that a person can check.

use analysis::{PolicyRow, RefusalRow};
use ratatui::text::Line;
use trace::field::count;

use crate::columns::{Columns, Overflow};
use crate::theme::Theme;

/// One row a refusal, and how many more there were.
pub(crate) fn lines(row: &PolicyRow, refusals: &[RefusalRow], width: usize, theme: &Theme) -> Vec<Line<'static>> {
    if row.failures == 0 {
        return vec![Line::styled("Nothing was refused", theme.good)];
    }
    let shown = refusals.len() as u64;
    let title = if shown < row.failures {
        format!("The first {} of {} refused requests", count(shown), count(row.failures))
    } else {
        format!("Refused requests: {}", count(row.failures))
    };
    let mut table = Columns::of(refusals);
    table.flex_last(Overflow::Fold);
    std::iter::once(Line::styled(title, theme.bad)).chain(table.lay_out(width, theme).lines(theme)).collect()
}
