//! Why mappings bounced, and why some were refused.

use analysis::PolicyRow;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use trace::field::{Record as _, Value, count};

use crate::columns::{Columns, Overflow, show};
use crate::text::{bar, percent};
use crate::theme::Theme;

/// Cells of a share's bar.
const BAR: usize = 10;

/// Totals, and their parts largest first, each with its meaning.
pub(crate) fn lines(row: &PolicyRow, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let of = |n, all, what| format!("{} of {} {what} ({})", count(n), count(all), percent(n, all));
    let mut lines = match row.bounces {
        0 => vec![Line::styled("Nothing bounced", theme.strong)],
        n => part(row, &format!("Bounced: {}", of(n, row.maps, "mappings")), theme.strong, "bounced_", n, width, theme),
    };
    lines.push(Line::default());
    lines.extend(match row.failures {
        0 => vec![Line::styled("Nothing was refused", theme.good)],
        n => part(row, &format!("Refused: {}", of(n, row.requests, "requests")), theme.bad, "failed_", n, width, theme),
    });
    lines
}

/// A total and the fields that break it down, which the registry names by `prefix` and explains.
fn part(
    row: &PolicyRow,
    title: &str,
    style: Style,
    prefix: &str,
    total: u64,
    width: usize,
    theme: &Theme,
) -> Vec<Line<'static>> {
    let mut parts: Vec<(String, u64, String, &str)> = PolicyRow::FIELDS
        .iter()
        .enumerate()
        .filter_map(|(index, field)| {
            let name = field.name.strip_prefix(prefix)?.replace('_', " ");
            match row.value(index) {
                value @ Value::U64(n) if n > 0 => Some((name, n, show(field, &value), field.doc)),
                _ => None,
            }
        })
        .collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.1));
    let known = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.1));
    if let Some(rest @ 1..) = total.checked_sub(known) {
        parts.push(("unexplained".to_owned(), rest, count(rest), "The replay gave no reason."));
    }
    let mut table = Columns::new(parts.len());
    table.push(String::new(), false, |i| Span::raw(format!("  {}", parts[i].0)));
    table.push(String::new(), true, |i| Span::raw(parts[i].2.clone()));
    table.push(String::new(), true, |i| Span::raw(percent(parts[i].1, total)));
    table.push(String::new(), false, |i| Span::styled(bar(parts[i].1, total, BAR), theme.bar));
    table.push(String::new(), false, |i| Span::styled(parts[i].3, theme.dim));
    table.flex_last(Overflow::Fold);
    let rows = table.lay_out(width, theme).rows.into_iter().flatten();
    std::iter::once(Line::styled(title.to_owned(), style)).chain(rows).collect()
}
