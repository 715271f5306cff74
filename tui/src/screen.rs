//! The whole screen: who gets how many lines.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Widget as _, Wrap};

use crate::state::{Popup, State};
use crate::theme::Theme;
use crate::widgets::occupancy::Occupancy;
use crate::widgets::{detail, footer, header, policies, popup, verdict};

/// Below this the screen says so instead of drawing something that misleads.
pub(crate) const SMALLEST: (u16, u16) = (72, 22);
/// From this height on the verdict gets a box.
const TALL: u16 = 32;
/// Lines the details keep, title included.
const DETAIL: u16 = 5;
/// Lines the curves keep, title included.
const CURVES: u16 = 5;
/// Lines of curves beyond which the details have more use for the room.
const CURVES_MOST: u16 = 12;
/// Lines the verdict keeps, title included.
const VERDICT: u16 = 3;
/// Lines the table keeps before the verdict gets more: title, heads, four policies.
const TABLE: u16 = 6;

/// Draws everything.
pub(crate) fn draw(state: &mut State<'_>, area: Rect, buf: &mut Buffer, theme: &Theme) {
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        return too_small(area, buf, theme);
    }
    let comparison = state.comparison;
    let boxed = area.height >= TALL;
    let head = header::lines(&comparison.facts, area.width.into(), theme);
    let verdict_lines = verdict::lines(&comparison.verdict, area.width, theme);
    let table = policies::lay_out(&comparison.rows, area.width.into(), theme);

    // Curves and details keep their least, then the verdict, then the table; what is left goes to whoever wants it, in
    // the order verdict, table, curves, details.
    let lines = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let frame = if boxed { 2 } else { 1 };
    let free = area.height.saturating_sub(lines(head.len()) + 1);
    let least = if state.enlarged { DETAIL } else { DETAIL + CURVES };
    let wanted_verdict =
        if verdict_lines.is_empty() || state.enlarged { 0 } else { lines(verdict_lines.len()).saturating_add(frame) };
    let wanted_table = lines(comparison.rows.len().max(1)).saturating_add(2);
    let spare = |after_verdict: u16| free.saturating_sub(least + after_verdict);
    let table_height = spare(wanted_verdict).min(area.height / 3).max(TABLE);
    let table_height = table_height.min(spare(wanted_verdict.min(VERDICT))).min(wanted_table);
    let verdict_height = wanted_verdict.min(free.saturating_sub(least + table_height));
    let rest = free.saturating_sub(verdict_height + table_height);
    let curves_height = if state.enlarged { 0 } else { (rest * 9 / 20).clamp(CURVES, CURVES_MOST) };

    let [head_area, verdict_area, table_area, curves_area, detail_area, foot_area] = area.layout(&Layout::vertical([
        Constraint::Length(lines(head.len())),
        Constraint::Length(verdict_height),
        Constraint::Length(table_height),
        Constraint::Length(curves_height),
        Constraint::Fill(1),
        Constraint::Length(1),
    ]));
    Paragraph::new(head).render(head_area, buf);
    if verdict_height > 0 {
        verdict::render(verdict_lines.clone(), boxed, verdict_area, buf, theme);
    }
    policies::render(table, Some(state.selected), table_area, buf, theme);
    if curves_height > 0 && !comparison.rows.is_empty() {
        Occupancy { comparison, selected: Some(state.selected), scale: state.scale, theme }.render(curves_area, buf);
    }
    detail::render(state, detail_area, buf, theme);
    footer::line(area.width.into(), theme).render(foot_area, buf);
    match state.popup {
        Some(Popup::Help) => popup::help(area, buf, theme),
        Some(Popup::Verdict) => popup::popup(" Verdict ", verdict_lines, area, buf, theme),
        None => {}
    }
}

fn too_small(area: Rect, buf: &mut Buffer, theme: &Theme) {
    let (width, height) = SMALLEST;
    let text = format!(
        "This terminal has {}×{} cells; the screen needs {width}×{height}. Enlarge it, or press q and use --print.",
        area.width, area.height
    );
    Paragraph::new(Line::styled(text, theme.warn)).wrap(Wrap { trim: true }).render(area, buf);
}
