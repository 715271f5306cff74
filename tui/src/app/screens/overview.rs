//! The Overview: the rates, the pools, who is busiest.
//!
//! ```text
//!  The last second ──────────────────────────────── sparklines: the whole recording
//!  maps/s          2,740  ▁▂▃▅▆▇█▇▇▆▅▅▄▃▂▁
//!  bounces/s       2,740  ▁▂▃▅▆▇█▇▇▆▅▅▄▃▂▁
//!  copied/s       21 MiB  ▁▂▃▅▆▇█▇▇▆▅▅▄▃▂▁
//!  failures/s          0
//!  slots in use    1,702  ▁▂▃▅▆▇█▇▇▆▅▅▄▃▂▁
//!  Pools ──────────────────────────────────────────────────────────────────────────
//!  pool 0     1,702 of 32,768  ██▒░░░░░░░░░░░░    5 %  high 1,943  longest run 128
//!  Devices ─────────────────────────────────────────────────────── most slots first
//!  0000:00:04.0 nvme    …
//! ```

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline, Widget as _};
use replay::moment::{Now, Second};
use trace::field::{bytes, count, duration};

use super::Drawn;
use crate::app::state::State;
use crate::columns::{Columns, Overflow};
use crate::compare::widgets::section::section;
use crate::text::percent;
use crate::theme::Theme;

/// From this width on there are two columns.
const WIDE: u16 = 120;
/// Lines of a curve beyond which it says no more.
const TALLEST: u16 = 7;
/// Cells of a metric's name and value.
const LABEL: usize = 24;

/// Draws it.
pub(crate) fn draw(state: &State, area: Rect, buf: &mut Buffer, _: &mut Drawn) {
    let pools = pool_lines(state, usize::from(if area.width >= WIDE { area.width / 2 - 1 } else { area.width }));
    let lines = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    if area.width >= WIDE {
        let [left, right] = area.layout(&Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2));
        let pool_height = lines(pools.len() + 1).min(left.height / 2);
        let [rates_area, pools_area] =
            left.layout(&Layout::vertical([Constraint::Fill(1), Constraint::Length(pool_height)]));
        let [devices_area, failures_area] = right.layout(&Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]));
        rates(state, rates_area, buf);
        titled("Pools", "", pools, pools_area, buf, &state.theme);
        devices(state, devices_area, buf);
        failures(state, failures_area, buf);
    } else {
        let refused = state.timeline.end.as_ref().map_or(0, |moment| moment.totals().failures) > 0;
        let pool_height = lines(pools.len() + 1).min(area.height.saturating_sub(10)).max(2);
        let failure_height = if refused { 3 } else { 0 };
        let [rates_area, pools_area, devices_area, failures_area] = area.layout(&Layout::vertical([
            Constraint::Length(6.min(area.height)),
            Constraint::Length(pool_height),
            Constraint::Fill(1),
            Constraint::Length(failure_height),
        ]));
        rates(state, rates_area, buf);
        titled("Pools", "", pools, pools_area, buf, &state.theme);
        devices(state, devices_area, buf);
        if refused {
            failures(state, failures_area, buf);
        }
    }
}

fn titled(title: &str, right: &str, lines: Vec<Line<'static>>, area: Rect, buf: &mut Buffer, theme: &Theme) {
    let mut block = section(title.to_owned(), theme);
    if !right.is_empty() {
        block = block.title_top(Line::styled(format!(" {right} "), theme.dim).right_aligned());
    }
    Paragraph::new(lines).block(block).render(area, buf);
}

/// A metric: what it is called, what it is now, and what it was in a part of the recording.
type Metric = (&'static str, fn(&Now) -> String, fn(&Second) -> u64);

const METRICS: [Metric; 5] = [
    ("maps/s", |now| count(now.maps_per_s), |part| part.maps),
    ("bounces/s", |now| count(now.bounces_per_s), |part| part.bounces),
    ("copied/s", |now| bytes(now.bytes_copied_per_s), |part| part.bytes_copied),
    ("failures/s", |now| count(now.failures_per_s), |part| part.failures),
    ("slots in use", |now| count(now.used_slots), |part| part.peak_slots),
];

fn rates(state: &State, area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    let now = state.moment.now();
    let (from, to) = state.timeline.span;
    let what = if state.live { "last minutes" } else { "whole recording" };
    let block = section("The last second", theme).title_top(
        Line::styled(format!(" curves: {what}, {} ", duration(to - from.min(to))), theme.dim).right_aligned(),
    );
    let inner = block.inner(area);
    block.render(area, buf);
    // What never happened needs a line; the others share the room.
    let quiet = |part: fn(&Second) -> u64| state.timeline.bins.iter().all(|bin| part(bin) == 0);
    let silent = METRICS.iter().filter(|(_, _, part)| quiet(*part)).count() as u16;
    let others = METRICS.len() as u16 - silent;
    let tall = (inner.height.saturating_sub(silent) / others.max(1)).clamp(1, TALLEST);
    let mut y = inner.y;
    for (name, value, part) in METRICS {
        let height = if quiet(part) { 1 } else { tall };
        let line = Rect { y, height: height.min(inner.bottom().saturating_sub(y)), ..inner };
        if line.height == 0 {
            break;
        }
        y += height;
        let tall = line.height;
        let failing = name.starts_with("fail") && now.failures_per_s > 0;
        let style = if failing { theme.bad } else { theme.strong };
        let bottom = Rect { y: line.bottom() - 1, height: 1, ..line };
        let text = Line::from(vec![
            Span::styled(format!(" {name:<12}"), theme.dim),
            Span::styled(format!("{:>10} ", value(&now)), style),
        ]);
        text.render(bottom, buf);
        let curve = Rect {
            x: line.x + LABEL as u16,
            width: line.width.saturating_sub(LABEL as u16 + 1),
            // A line is left between curves that are more than one high.
            y: line.y + u16::from(tall > 1),
            height: line.height - u16::from(tall > 1),
        };
        let style = if name.starts_with("fail") { theme.bad } else { theme.bar };
        spark(state, part, style, curve, buf);
    }
}

/// What a metric was over the recording, the most of what each column covers; the moment shown is marked.
fn spark(state: &State, part: fn(&Second) -> u64, style: Style, area: Rect, buf: &mut Buffer) {
    let width = usize::from(area.width);
    let bins = &state.timeline.bins;
    if width == 0 || bins.is_empty() {
        return;
    }
    let mut columns = vec![0u64; width];
    for (i, bin) in bins.iter().enumerate() {
        // Of fewer parts than columns each covers several.
        let (first, last) =
            (i * width / bins.len(), ((i + 1) * width).div_ceil(bins.len()).max(i * width / bins.len() + 1));
        for column in columns.get_mut(first..last.min(width)).into_iter().flatten() {
            *column = part(bin).max(*column);
        }
    }
    let most = columns.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return;
    }
    let units = u64::from(area.height) * 8;
    // Rounded up, so that something is never drawn as nothing.
    let scaled: Vec<u64> = columns
        .iter()
        .map(|&v| u64::try_from((u128::from(v) * u128::from(units)).div_ceil(u128::from(most))).unwrap_or(units))
        .collect();
    Sparkline::default().data(&scaled).max(units).style(style).render(area, buf);
    if state.live {
        return;
    }
    let at = super::super::chrome::column(state.time_ns(), state.timeline.span, area.width);
    for x in area.x + at + 1..area.right() {
        for y in area.top()..area.bottom() {
            if let Some(cell) = buf.cell_mut((x, y)) {
                cell.set_style(state.theme.dim);
            }
        }
    }
}

/// A bar of what is used, what was at most, and what never was.
fn gauge(used: u64, high: u64, slots: u64, width: usize) -> (String, String, String) {
    let cells = |n: u64| {
        if slots == 0 {
            0
        } else {
            usize::try_from((u128::from(n) * width as u128).div_ceil(u128::from(slots))).unwrap_or(width).min(width)
        }
    };
    let (used, high) = (cells(used), cells(high.max(used)));
    ("█".repeat(used), "▒".repeat(high - used), "░".repeat(width - high))
}

fn pool_lines(state: &State, width: usize) -> Vec<Line<'static>> {
    let theme = &state.theme;
    let pools = state.moment.pool_rows();
    if pools.is_empty() {
        let unknown = state.facts.pool_unknown;
        let text =
            if unknown { " The bounce pool could not be looked at." } else { " This machine has no bounce pool." };
        return vec![Line::styled(text, theme.dim)];
    }
    let areas = state.moment.area_rows();
    let mut out = Vec::new();
    let line = |name: String, used: u64, high: u64, slots: u64, more: String| {
        let figures = format!("{:>17}", format!("{} of {}", count(used), count(slots)));
        let share = format!("{:>5}", percent(used.min(slots), slots));
        let tail = format!("  high {} ({}){more}", count(high), percent(high.min(slots), slots));
        let room = width.saturating_sub(12 + 18 + 2 + 6 + tail.chars().count());
        let (full, was, free) = gauge(used, high, slots, room.clamp(4, 60));
        Line::from(vec![
            Span::styled(format!(" {name:<10}"), theme.strong),
            Span::raw(figures + "  "),
            Span::styled(full, theme.bar),
            Span::styled(was, theme.bar.patch(theme.dim)),
            Span::styled(free, theme.dim),
            Span::raw(share),
            Span::styled(tail, theme.dim),
        ])
    };
    if !state.moment.around().counts_slots() {
        let slots = pools.iter().map(|pool| pool.pool_slots).sum();
        return vec![match state.moment.looked() {
            Some((most, last)) => {
                line("pool".to_owned(), last, most, slots, "  looked at ten times a second".to_owned())
            }
            None => Line::styled(
                " Slots were not seen one by one: `swioscope report` shows how full the pool was.",
                theme.dim,
            ),
        }];
    }
    for pool in &pools {
        let run = format!("  run {}", pool.longest_run);
        out.push(line(format!("pool {}", pool.pool), pool.used_slots, pool.peak_slots, pool.pool_slots, run));
        if pool.areas > 1 {
            let of_pool = areas.iter().filter(|area| area.pool == pool.pool);
            out.extend(of_pool.map(|area| {
                line(format!("  area {}", area.area), area.used_slots, area.peak_slots, area.area_slots, String::new())
            }));
        }
    }
    if state.moment.slots().used_elsewhere() > 0 {
        let text =
            format!(" {} slots in pools of one mapping, or not known", count(state.moment.slots().used_elsewhere()));
        out.push(Line::raw(text));
    }
    out
}

/// Columns that tell most of a device in little room.
const FEW: [&str; 7] = ["device", "driver", "slots", "maps_per_s", "bounces", "reason", "failures"];

fn devices(state: &State, area: Rect, buf: &mut Buffer) {
    let mut rows = state.moment.device_rows();
    rows.sort_by_key(|row| std::cmp::Reverse((row.slots, row.maps, row.bounces)));
    let width = usize::from(area.width.saturating_sub(1));
    let mut table = Columns::new(rows.len());
    for name in FEW {
        table.push_field(name, &rows);
    }
    let mut lines = table.lay_out(width, &state.theme).lines(&state.theme);
    if rows.is_empty() {
        lines = vec![Line::styled("no device has mapped anything yet", state.theme.dim)];
    }
    let lines = lines.into_iter().map(|mut line| {
        line.spans.insert(0, " ".into());
        line
    });
    titled("Devices", "most slots first · 3: all of them", lines.collect(), area, buf, &state.theme);
}

fn failures(state: &State, area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    let events = state.moment.totals().events;
    let rows: Vec<_> = state.timeline.failures.iter().rev().filter(|(mark, _)| mark.event <= events).collect();
    let total = state.moment.totals().failures;
    let title = format!("Refused so far: {}", count(total));
    if rows.is_empty() {
        let later = state.timeline.failures.len() as u64;
        let text = if later > 0 {
            format!(" none yet; {} later: n goes to the next", count(later))
        } else {
            " none".to_owned()
        };
        return titled(&title, "", vec![Line::styled(text, theme.dim)], area, buf, theme);
    }
    let room = usize::from(area.height.saturating_sub(1));
    let around = state.moment.around();
    let rows: Vec<_> = rows.into_iter().take(room).map(|(_, f)| replay::moment::FailureRow::new(f, around)).collect();
    let mut table = Columns::new(rows.len());
    for name in ["time_ns", "device", "size", "cause", "explanation"] {
        table.push_field(name, &rows);
    }
    table.flex_last(Overflow::Cut);
    let laid = table.lay_out(usize::from(area.width.saturating_sub(1)), theme);
    let lines = laid.rows.into_iter().flatten().map(|mut line| {
        line.spans.insert(0, " ".into());
        line
    });
    titled(&title, "newest first · 4: explained", lines.collect(), area, buf, theme);
}

#[cfg(test)]
mod tests {
    use super::*;
    use replay::moment::DeviceNow;
    use trace::Record as _;

    #[test]
    fn the_columns_are_in_the_registry() {
        for name in FEW {
            assert!(DeviceNow::FIELDS.iter().any(|field| field.name == name), "{name}");
        }
    }

    #[test]
    fn a_gauge_has_its_width_whatever_it_shows() {
        for (used, high, slots) in [(0, 0, 0), (1, 1, 1000), (500, 900, 1000), (2000, 3000, 1000)] {
            let (a, b, c) = gauge(used, high, slots, 20);
            assert_eq!((a + &b + &c).chars().count(), 20);
        }
    }
}
