//! Plan: how large the pool must be, and what to write for it.
//!
//! ```text
//!  Write swiotlb=4096,force for Linux 6.12 …
//!  Requests refused, by pool size ───────────────────────────────── v6_10, 1 area
//!   256  512 KiB  ████████████████████████████████████████████  1,107
//!   512    1 MiB  █████████████████████████████████               835
//! ▸ 4,096  8 MiB  0  swiotlb=4096,force
//!  needs 2 slots: 4 KiB; 5 of 256 are free, the longest of 5 runs has 1
//! ```

use analysis::{NeedRow, PlanReport, SizeRow};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget as _};
use trace::field::{bytes, count};

use super::{Drawn, Hit, first_visible};
use crate::app::progress;
use crate::app::state::State;
use crate::columns::Columns;
use crate::compare::widgets::section::section;
use crate::text::{bar, fold, percent};

/// The sizes tried under the first policy and its areas, smallest first, then those of the others.
pub(crate) fn sizes(report: &PlanReport) -> Vec<&SizeRow> {
    report.sizes.iter().collect()
}

/// The place of the size that is recommended.
pub(crate) fn recommended(report: &PlanReport) -> usize {
    let Some(need) = report.needs.first() else { return 0 };
    let fits = |row: &&SizeRow| {
        row.policy == need.policy && row.areas == need.areas && Some(row.pool_slots) == need.pool_slots
    };
    sizes(report).iter().position(fits).unwrap_or(0)
}

/// Draws it.
pub(crate) fn draw(state: &State, area: Rect, buf: &mut Buffer, drawn: &mut Drawn) {
    let theme = &state.theme;
    if let Some(line) = progress::line(&state.plan, "replaying sizes", area.width.into(), theme) {
        return line.render(area, buf);
    }
    let Some(report) = &state.plan.result else {
        return;
    };
    let width = usize::from(area.width.saturating_sub(2));
    let answer: Vec<Line<'static>> = report
        .verdict
        .iter()
        .enumerate()
        .flat_map(|(i, sentence)| fold(sentence, width, 2, if i == 0 { theme.strong } else { Style::new() }))
        .collect();
    let rows = sizes(report);
    let selected = state.size.min(rows.len().saturating_sub(1));
    let about = rows.get(selected).map(|row| about(report, row, width, theme)).unwrap_or_default();
    let lines = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let answer_height = lines(answer.len()).min(area.height / 3).max(2);
    let needs = needs(report, width, theme);
    let needs_height = if area.height >= 30 { lines(needs.len() + 1) } else { 0 };
    let [answer_area, needs_area, curve_area, about_area] = area.layout(&Layout::vertical([
        Constraint::Length(answer_height),
        Constraint::Length(needs_height),
        Constraint::Fill(1),
        Constraint::Length(lines(about.len() + 1).min(5)),
    ]));
    Paragraph::new(answer.into_iter().map(indented).collect::<Vec<_>>()).render(answer_area, buf);
    if needs_height > 0 {
        let lines: Vec<_> = needs.into_iter().map(indented).collect();
        Paragraph::new(lines).block(section("What each needs", theme)).render(needs_area, buf);
    }
    curve(state, &rows, selected, report, curve_area, buf, drawn);
    Paragraph::new(about.into_iter().map(indented).collect::<Vec<_>>())
        .block(section("This size", theme))
        .render(about_area, buf);
}

fn indented(mut line: Line<'static>) -> Line<'static> {
    line.spans.insert(0, " ".into());
    line
}

fn needs(report: &PlanReport, width: usize, theme: &crate::theme::Theme) -> Vec<Line<'static>> {
    let table = Columns::of::<NeedRow>(&report.needs);
    table.lay_out(width, theme).lines(theme)
}

fn curve(
    state: &State,
    rows: &[&SizeRow],
    selected: usize,
    report: &PlanReport,
    area: Rect,
    buf: &mut Buffer,
    drawn: &mut Drawn,
) {
    let theme = &state.theme;
    let block = section("Requests refused, by pool size", theme)
        .title_top(Line::styled(" ▸ selected   ● recommended ", theme.dim).right_aligned());
    let inner = block.inner(area);
    block.render(area, buf);
    let visible = usize::from(inner.height).max(1);
    let first = first_visible(selected, visible, rows.len());
    let most = rows.iter().map(|row| row.failures).max().unwrap_or(0);
    let best = recommended(report);
    let room = usize::from(inner.width).saturating_sub(55).clamp(6, 90);
    let lines = rows.iter().enumerate().skip(first).take(visible).map(|(i, row)| {
        let chosen = i == selected;
        let good = row.failures == 0;
        let mark = match (chosen, i == best && report.needs.first().is_some_and(|need| need.pool_slots.is_some())) {
            (true, true) => "▸●",
            (true, false) => "▸ ",
            (false, true) => " ●",
            (false, false) => "  ",
        };
        let style = if chosen { theme.selected.add_modifier(Modifier::REVERSED) } else { Style::new() };
        let figures = format!(
            "{mark}{:<8} {:>3} area{} {:>8} {:>8} ",
            row.policy,
            row.areas,
            if row.areas == 1 { " " } else { "s" },
            count(row.pool_slots),
            bytes(row.memory)
        );
        let drawn_bar = if good { " ".repeat(room) } else { bar(row.failures, most, room) };
        let bar_style = if good { theme.good } else { theme.bad };
        Line::from(vec![
            Span::styled(figures, style),
            Span::styled(drawn_bar.replace('░', " "), bar_style),
            Span::styled(format!(" {:>7}", count(row.failures)), if good { theme.good } else { theme.bad }),
            Span::styled(format!("  {:>4}", percent(row.peak_slots.min(row.pool_slots), row.pool_slots)), theme.dim),
        ])
    });
    Paragraph::new(lines.collect::<Vec<_>>()).render(inner, buf);
    drawn.page = Some(visible);
    drawn.hits.push((inner, Hit::Row(first)));
}

fn about(report: &PlanReport, row: &SizeRow, width: usize, theme: &crate::theme::Theme) -> Vec<Line<'static>> {
    let refused = match row.failures {
        0 => "refuses nothing".to_owned(),
        1 => "refuses 1 request".to_owned(),
        n => format!("refuses {} requests", count(n)),
    };
    let areas = if row.areas == 1 { "1 area".to_owned() } else { format!("{} areas", count(row.areas.into())) };
    let text = format!(
        "{} slots ({}) in {areas} under {}: {refused}; {} in use at the peak ({}).",
        count(row.pool_slots),
        bytes(row.memory),
        row.policy,
        count(row.peak_slots),
        percent(row.peak_slots.min(row.pool_slots), row.pool_slots)
    );
    let mut out = fold(&text, width, 2, Style::new());
    let same = |need: &&NeedRow| {
        need.policy == row.policy && need.areas == row.areas && need.pool_slots == Some(row.pool_slots)
    };
    if let Some(parameter) = report.needs.iter().find(same).and_then(|need| need.parameter.as_ref()) {
        out.extend(fold(&format!("On the kernel's command line: {parameter}"), width, 2, theme.good));
    }
    if let Some(first) = &row.first_refusal {
        out.extend(fold(&format!("The first refusal: {first}."), width, 2, theme.bad));
    }
    out
}
