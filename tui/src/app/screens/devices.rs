//! Devices: who maps, who bounces and why, who holds slots, what it costs.
//!
//! ```text
//!  Devices ─────────────────────────────────────────────────────── by maps · 2 of 3
//!   device        driver  maps   maps per s  bounces  bounce share  reason  slots …
//! ▸ 0000:00:04.0  nvme    20,110      2,740   20,110      100.00 %  forced  1,702
//!   0000:00:05.0  ahci     5,005        310    5,005      100.00 %  forced     96
//!  0000:00:04.0 ── sizes ───────────────────────── stacks ─────────────────────────
//!     4 KiB  ████████████  12,001      slots  maps  nvme_map_data ← nvme_queue_rq
//! ```

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget as _};
use replay::moment::DeviceNow;
use trace::Record as _;
use trace::field::{bytes, count};

use super::{Drawn, Hit, callers, first_visible};
use crate::app::state::State;
use crate::columns::{Columns, Overflow, is_nothing};
use crate::compare::widgets::section::section;
use crate::text::{bar, cut, percent};

/// Columns in the order of their weight: those at the end are left out first.
const ORDER: [&str; 18] = [
    "device",
    "driver",
    "maps",
    "maps_per_s",
    "bounces",
    "reason",
    "slots",
    "failures",
    "bounce_share",
    "cause",
    "latency_p50_ns",
    "latency_p99_ns",
    "bytes_copied",
    "bytes_copied_per_s",
    "peak_slots",
    "reach",
    "min_align_mask",
    "syncs",
];

/// Draws it.
pub(crate) fn draw(state: &State, area: Rect, buf: &mut Buffer, drawn: &mut Drawn) {
    let theme = &state.theme;
    let rows = state.device_rows();
    let share = if state.drilled {
        Constraint::Max(u16::try_from(rows.len()).unwrap_or(u16::MAX).saturating_add(3).min(area.height / 2))
    } else {
        Constraint::Fill(1)
    };
    let [list, detail] = area
        .layout(&Layout::vertical([share, if state.drilled { Constraint::Fill(1) } else { Constraint::Length(0) }]));

    let mut table = Columns::new(rows.len());
    for name in ORDER {
        let index = DeviceNow::FIELDS.iter().position(|field| field.name == name).unwrap_or(0);
        // A column in which nothing can be seen is left out, but a zero may be the answer where it is asked for.
        let asked = name == state.sorted_by() || name == "failures" || name == "slots";
        if asked || rows.iter().any(|row| !is_nothing(&row.value(index))) {
            table.push_field(name, &rows);
        }
    }
    let laid = table.lay_out(usize::from(list.width.saturating_sub(2)), theme);
    let order = if state.sort.1 { "reversed, by" } else { "by" };
    let title = match &state.device_filter {
        Some(filter) => format!("Devices · {}", filter.text()),
        None => "Devices".to_owned(),
    };
    let right = format!(" {order} {} · {} ", state.sorted_by().replace('_', " "), count(rows.len() as u64));
    let block = section(title, theme).title_top(Line::styled(right, theme.dim).right_aligned());
    let inner = block.inner(list);
    block.render(list, buf);
    if rows.is_empty() {
        let text = if state.device_filter.is_some() {
            " no device fits the filter (Esc takes it away)"
        } else {
            " no device has mapped anything yet"
        };
        return Line::styled(text, theme.dim).render(inner, buf);
    }
    let selected = state.device.min(rows.len() - 1);
    let note = (!laid.left_out.is_empty()).then(|| format!("  no room for: {}", laid.left_out.join(", ")));
    let visible = usize::from(inner.height).saturating_sub(1 + usize::from(note.is_some())).max(1);
    let first = first_visible(selected, visible, rows.len());
    let mut lines = vec![indented(laid.head, "  ", Style::new())];
    for (i, row) in laid.rows.into_iter().enumerate().skip(first).take(visible) {
        let chosen = i == selected;
        let style = if chosen { theme.selected.add_modifier(ratatui::style::Modifier::REVERSED) } else { Style::new() };
        lines.extend(row.into_iter().map(|line| indented(line, if chosen { "▸ " } else { "  " }, style)));
    }
    lines.extend(note.map(|note| Line::styled(cut(&note, usize::from(inner.width)), theme.dim)));
    Paragraph::new(lines).render(inner, buf);
    drawn.page = Some(visible);
    let below_head = Rect { y: inner.y + 1, height: inner.height.saturating_sub(1), ..inner };
    drawn.hits.push((below_head, Hit::Row(first)));
    if state.drilled
        && let Some(row) = rows.get(selected)
    {
        drill(state, row, detail, buf);
    }
}

fn indented(mut line: Line<'static>, mark: &'static str, style: Style) -> Line<'static> {
    line.spans.insert(0, Span::raw(mark));
    line.style(style)
}

/// Sizes and stacks of one device.
fn drill(state: &State, row: &DeviceNow, area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    let Some(tally) = state.moment.device(row.id) else { return };
    let [left, right] = area.layout(&Layout::horizontal([Constraint::Percentage(42), Constraint::Fill(1)]).spacing(1));
    let sizes = tally.size_rows();
    let most = sizes.iter().map(|row| row.maps.max(row.bounces)).max().unwrap_or(0);
    let all: u64 = sizes.iter().map(|row| row.maps.max(row.bounces)).sum();
    let width = usize::from(left.width).saturating_sub(26).clamp(4, 30);
    let lines: Vec<Line<'static>> = sizes
        .iter()
        .map(|row| {
            let n = row.maps.max(row.bounces);
            Line::from(vec![
                Span::raw(format!(" {:>8} ", bytes(row.size))),
                Span::styled(bar(n, most, width), theme.bar),
                Span::raw(format!(" {:>7}", count(n))),
                Span::styled(format!(" {:>5}", percent(n, all)), theme.dim),
            ])
        })
        .collect();
    Paragraph::new(lines).block(section(format!("{}: sizes", row.device), theme)).render(left, buf);

    let stacks = tally.stack_rows();
    let names: Vec<String> = stacks.iter().map(|row| callers(state, row.stack)).collect();
    let mut table = Columns::new(stacks.len());
    let figures: &[&str] =
        if right.width < 60 { &["slots", "maps", "failures"] } else { &["slots", "maps", "bounces", "failures"] };
    for &name in figures {
        let index = replay::moment::StackRow::FIELDS.iter().position(|field| field.name == name).unwrap_or(0);
        if stacks.iter().any(|row| !is_nothing(&row.value(index))) {
            table.push_field(name, &stacks);
        }
    }
    table.push("called by".to_owned(), false, |i| Span::raw(names.get(i).cloned().unwrap_or_default()));
    table.flex_last(Overflow::Fold);
    let lines = if stacks.is_empty() {
        let text = "none were recorded (record --stacks takes them all)";
        crate::text::fold(text, usize::from(right.width), 0, theme.dim)
    } else {
        table.lay_out(right.width.into(), theme).lines(theme)
    };
    Paragraph::new(lines).block(section("stacks", theme)).render(right, buf);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_in_the_registry() {
        for name in ORDER {
            assert!(DeviceNow::FIELDS.iter().any(|field| field.name == name), "{name}");
        }
    }
}
