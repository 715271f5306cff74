//! The Compare screen: who gets how many lines.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};

use crate::compare::state::{Reach, State};
use crate::compare::widgets::occupancy::Occupancy;
use crate::compare::widgets::{detail, policies, verdict};
use crate::theme::Theme;

/// Narrower than this the report would mislead.
pub(crate) const NARROWEST: u16 = 72;
/// From this height on the verdict gets a box; the screen has one sentence of it anyhow.
const TALL: u16 = 26;
/// Lines the details keep, title included.
const DETAIL: u16 = 5;
/// Lines the curves keep, title included.
const CURVES: u16 = 5;
/// Lines of curves beyond which the details have more use for the room.
const CURVES_MOST: u16 = 14;
/// Lines the table keeps before the verdict gets more: title, heads, four policies.
const TABLE: u16 = 6;

/// Draws the comparison at the moment `now_ns`; returns how far the details can be scrolled.
pub(crate) fn draw(state: &State, now_ns: u64, area: Rect, buf: &mut Buffer, theme: &Theme) -> Reach {
    let comparison = &*state.comparison;
    let lines = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let verdict_lines = verdict::lines(&comparison.verdict, area.width, theme);
    let table = policies::lay_out(&comparison.rows, area.width.into(), theme);
    let free = area.height;
    let least = if state.enlarged { DETAIL } else { DETAIL + CURVES };
    let wanted_verdict = if verdict_lines.is_empty() || state.enlarged || area.height < TALL {
        0
    } else {
        lines(verdict_lines.len()).saturating_add(2)
    };
    let wanted_table = lines(comparison.rows.len().max(1)).saturating_add(2);
    let table_height = free.saturating_sub(least).min(wanted_table.max(TABLE)).min(wanted_table);
    let verdict_height = wanted_verdict.min(free.saturating_sub(least + table_height));
    let rest = free.saturating_sub(verdict_height + table_height);
    let curves_height = if state.enlarged { 0 } else { (rest * 9 / 20).clamp(CURVES, CURVES_MOST) };

    let [verdict_area, table_area, curves_area, detail_area] = area.layout(&Layout::vertical([
        Constraint::Length(verdict_height),
        Constraint::Length(table_height),
        Constraint::Length(curves_height),
        Constraint::Fill(1),
    ]));
    if verdict_height > 0 {
        verdict::render(verdict_lines, true, verdict_area, buf, theme);
    }
    policies::render(table, Some(state.selected), table_area, buf, theme);
    if curves_height > 0 && !comparison.rows.is_empty() {
        let now_ns = Some(now_ns);
        Occupancy { comparison, selected: Some(state.selected), scale: state.scale, now_ns, theme }
            .render(curves_area, buf);
    }
    detail::render(state, detail_area, buf, theme)
}
