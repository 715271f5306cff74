//! The policies, one line each.

use analysis::PolicyRow;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget as _};
use trace::field::{Record as _, Type, Value};

use super::section::section;
use crate::columns::{Columns, Laid, Overflow, head, is_nothing, show};
use crate::text::{bar, percent};
use crate::theme::Theme;

/// Columns that stay even when there is nothing in them: a zero here is an answer.
const CORE: [&str; 7] = ["policy", "parameters", "maps", "bounces", "failures", "peak_slots", "bytes_copied"];
/// Fields that break a total down; the page of causes shows them.
const BREAKDOWNS: [&str; 2] = ["bounced_", "failed_"];
/// Fields that tell how full a pool was, and the fields that tell its size.
const PEAK: &str = "peak_";
const POOL: &str = "pool_";
/// Cells of the bar that shows a pool's peak.
const BAR: usize = 8;
/// Cells the parameters keep before pools are told in fewer words: the first of them are the ones that matter.
const PARAMETERS: usize = 24;
/// Cells of the mark before the selected policy.
const MARK: usize = 2;

/// How much is said of a pool's peak, by the room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gauge {
    /// Peak, pool, bar, percent.
    Bar,
    /// Peak, pool, percent.
    Pool,
    /// Peak, percent: the pool's size is in the parameters, too.
    Share,
}

/// The table, laid out for a screen of `width`, and what its title says beside "Policies".
pub(crate) fn lay_out(rows: &[PolicyRow], width: usize, theme: &Theme) -> (Laid, String) {
    let room = width.saturating_sub(MARK);
    let table = [Gauge::Bar, Gauge::Pool]
        .into_iter()
        .map(|gauge| columns(rows, gauge, theme))
        .find(|table| table.width_giving_way(PARAMETERS) <= room)
        .unwrap_or_else(|| columns(rows, Gauge::Share, theme));
    let laid = table.lay_out(room, theme);
    let mut title = "Policies".to_owned();
    if let Some(first) = rows.first().filter(|_| same_platform(rows)) {
        title += &format!(" on {}", first.platform);
    }
    if !laid.left_out.is_empty() {
        title += &format!(" · no room for {}", laid.left_out.join(", "));
    }
    (laid, title)
}

fn same_platform(rows: &[PolicyRow]) -> bool {
    rows.windows(2).all(|pair| pair[0].platform == pair[1].platform)
}

fn columns(rows: &[PolicyRow], gauge: Gauge, theme: &Theme) -> Columns {
    let mut table = Columns::new(rows.len());
    for (index, field) in PolicyRow::FIELDS.iter().enumerate() {
        let elsewhere = BREAKDOWNS.iter().any(|prefix| field.name.starts_with(prefix))
            || field.name.starts_with(POOL)
            || (field.name == "platform" && same_platform(rows))
            || (field.name == "requests" && rows.iter().all(|row| row.requests == row.maps));
        let nothing = rows.iter().all(|row| is_nothing(&row.value(index)));
        if elsewhere || (nothing && !CORE.contains(&field.name)) {
            continue;
        }
        table.push(head(field), field.ty != Type::Text, |row| {
            let value = rows[row].value(index);
            let shown = show(field, &value);
            match value {
                Value::U64(n) if field.name == "failures" && n > 0 => Span::styled(shown, theme.bad),
                Value::U64(peak) if field.name.starts_with(PEAK) => filled(&rows[row], field.name, peak, shown, gauge),
                _ => Span::raw(shown),
            }
        });
        if field.name == "parameters" {
            table.flex_last(Overflow::Cut);
        }
    }
    table
}

/// A pool's peak beside the pool's size.
fn filled(row: &PolicyRow, peak_field: &str, peak: u64, shown: String, gauge: Gauge) -> Span<'static> {
    let pool_field = peak_field.replacen(PEAK, POOL, 1);
    let pool = PolicyRow::FIELDS.iter().enumerate().find(|(_, field)| field.name == pool_field);
    let Some((field, value @ Value::U64(size))) = pool.map(|(index, field)| (field, row.value(index))) else {
        return Span::raw(shown);
    };
    let (of, share) = (show(field, &value), percent(peak, size));
    Span::raw(match gauge {
        Gauge::Bar => format!("{shown} of {of}  {} {share:>5}", bar(peak, size, BAR)),
        Gauge::Pool => format!("{shown} of {of} {share:>5}"),
        Gauge::Share => format!("{shown} {share:>5}"),
    })
}

/// Draws the table; the selected policy is always among the visible ones.
pub(crate) fn render(
    (laid, title): (Laid, String),
    selected: Option<usize>,
    area: Rect,
    buf: &mut Buffer,
    theme: &Theme,
) {
    let block = section(title, theme);
    let inner = block.inner(area);
    let visible = usize::from(inner.height).saturating_sub(1);
    let total = laid.rows.len();
    let first = selected.map_or(0, |selected| (selected + 1).saturating_sub(visible));
    let block = if visible < total {
        let shown = format!(" {}–{} of {total} ", first + 1, first + visible);
        block.title_top(Line::styled(shown, theme.warn).right_aligned())
    } else {
        block
    };
    block.render(area, buf);
    let mark = |chosen: bool| if chosen { Span::styled("▸ ", theme.selected) } else { Span::raw("  ") };
    let rows = laid.rows.into_iter().enumerate().skip(first).take(visible).flat_map(|(i, lines)| {
        lines.into_iter().map(move |mut line| {
            let chosen = selected == Some(i);
            line.spans.insert(0, mark(chosen));
            line.style(if chosen { theme.selected } else { Style::new() })
        })
    });
    let mut head = laid.head;
    head.spans.insert(0, mark(false));
    let lines = if total == 0 {
        vec![Line::styled("No policy was replayed: name one with --policy, such as --policy v6_10.", theme.warn)]
    } else {
        std::iter::once(head).chain(rows).collect::<Vec<_>>()
    };
    Paragraph::new(lines).render(inner, buf);
}
