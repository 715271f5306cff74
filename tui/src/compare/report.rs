//! The screen as plain text, as tall as it needs to be.

use analysis::Comparison;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget as _};

use crate::compare::pages;
use crate::compare::screen::NARROWEST;
use crate::compare::state::Scale;
use crate::compare::widgets::occupancy::Occupancy;
use crate::compare::widgets::section::section;
use crate::compare::widgets::{header, policies, verdict};
use crate::theme::Theme;

/// Lines of a panel of curves.
const PANEL: u16 = 10;

/// Renders everything the screen can show, once: header, verdict, table and curves, then the details of every policy.
pub(crate) fn report(comparison: &Comparison, width: u16) -> String {
    let theme = &Theme::PLAIN;
    let width = width.max(NARROWEST);
    let cells = usize::from(width);
    let mut out = String::new();

    let head = header::lines(&comparison.facts, cells, theme);
    paint(&mut out, width, head.len(), |area, buf| Paragraph::new(head).render(area, buf));
    if !comparison.verdict.is_empty() {
        let lines = verdict::lines(&comparison.verdict, width, theme);
        paint(&mut out, width, lines.len() + 2, |area, buf| verdict::render(lines, true, area, buf, theme));
    }
    let table = policies::lay_out(&comparison.rows, cells, theme);
    let rows = comparison.rows.len().max(1) + 2;
    paint(&mut out, width, rows, |area, buf| policies::render(table, None, area, buf, theme));
    out.push('\n');
    if !comparison.rows.is_empty() {
        let curves = Occupancy { comparison, selected: None, scale: Scale::Common, now_ns: None, theme };
        let height = curves.height(width, PANEL).into();
        paint(&mut out, width, height, |area, buf| curves.render(area, buf));
    }
    for (index, row) in comparison.rows.iter().enumerate() {
        let mut lines = Vec::new();
        for part in pages::report(comparison, index, cells, theme) {
            lines.extend(part);
            lines.push(Line::default());
        }
        lines.pop();
        chapter(&mut out, width, format!("{} {}", row.policy, row.parameters), lines);
    }
    let mut lines = pages::recorded_devices(&comparison.devices, cells, theme);
    lines.push(Line::default());
    lines.extend(pages::about_trace(&comparison.facts, cells, theme));
    chapter(&mut out, width, comparison.facts.name.clone(), lines);
    out
}

fn chapter(out: &mut String, width: u16, title: String, lines: Vec<Line<'static>>) {
    out.push('\n');
    paint(out, width, lines.len() + 1, |area, buf| {
        Paragraph::new(lines).block(section(title.trim_end().to_owned(), &Theme::PLAIN)).render(area, buf);
    });
}

/// Draws into a buffer of its own and appends its text, without the blanks at the ends of lines.
fn paint(out: &mut String, width: u16, height: usize, draw: impl FnOnce(Rect, &mut Buffer)) {
    let area = Rect::new(0, 0, width, u16::try_from(height).unwrap_or(u16::MAX));
    let mut buf = Buffer::empty(area);
    draw(area, &mut buf);
    for row in buf.content().chunks(width.into()) {
        let mut line = String::new();
        let mut covered = 0;
        for cell in row {
            // A wide character covers the cell after it, too.
            if covered > 0 {
                covered -= 1;
                continue;
            }
            line.push_str(cell.symbol());
            covered = Span::raw(cell.symbol()).width().saturating_sub(1);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
