//! What is on every screen: which recording it is, the screens, the verdict, the timeline, where we are in it, the keys.
//!
//! ```text
//! dom0-nvme.swio · Linux 6.12 · Xen 4.17 PV dom0              tp_btf fexit fentry · none lost
//! ▸1 Overview  2 Slots  3 Devices  4 Failures  5 Compare  6 Plan
//! Nothing was refused. 25,115 of 25,115 mappings bounced (100 %); use peaked at 1,943 of …
//! … the screen …
//!      ▁▂▃▅▆▇█▇▇▆▅▅▄▃▂▁ ▂▃▅▆▇█▇▆▅▄▃▂▁
//! ────[─────────▲────]─────×──────────!────────────────────────────────────────────────────
//! ▶ ×1   3.21 s of 9.51 s · event 51,002 of 125,591                             peak 1,943
//! Space play  . , step  n N failure  m M peak  : time  ? help  q quit
//! ```

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline, Widget as _, Wrap};
use trace::field::{count, duration};

use super::action::{Action, KEYS};
use super::facts::{Tone, verdict};
use super::screens::{self, Drawn, Hit};
use super::state::{Ask, SPEEDS, Screen, State};
use crate::text::cut;
use crate::theme::Theme;

/// Below this the screen says so instead of drawing something that misleads.
pub(crate) const SMALLEST: (u16, u16) = (72, 22);
/// From this height on the timeline has room to be read.
const TALL: u16 = 36;

/// Draws everything.
pub(crate) fn draw(state: &State, area: Rect, buf: &mut Buffer) -> Drawn {
    let mut drawn = Drawn::default();
    let theme = &state.theme;
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let (width, height) = SMALLEST;
        let text = format!(
            "This terminal has {}×{} cells; the screens need {width}×{height}. Enlarge it, or press q and use --print.",
            area.width, area.height
        );
        Paragraph::new(Line::styled(text, theme.warn)).wrap(Wrap { trim: true }).render(area, buf);
        return drawn;
    }
    let bars = if area.height >= TALL { 3 } else { 1 };
    let [head, tabs, answer, body, bars, axis, status, foot] = area.layout(&Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(bars),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ]));
    header(state, head, buf);
    screen_tabs(state, tabs, buf, &mut drawn);
    answer_line(state, answer, buf);
    match state.screen {
        Screen::Overview => screens::overview::draw(state, body, buf, &mut drawn),
        Screen::Slots => screens::slots::draw(state, body, buf, &mut drawn),
        Screen::Devices => screens::devices::draw(state, body, buf, &mut drawn),
        Screen::Failures => screens::failures::draw(state, body, buf, &mut drawn),
        Screen::Compare => screens::compare::draw(state, body, buf, &mut drawn),
        Screen::Plan => screens::plan::draw(state, body, buf, &mut drawn),
    }
    timeline(state, bars, axis, buf, &mut drawn);
    status_line(state, status, buf);
    footer(state, foot, buf);
    screens::help::draw(state, area, buf);
    drawn
}

/// Text at the left and at the right of a line; the left one gives way.
fn both_ends(left: Line<'static>, right: Line<'static>, area: Rect, buf: &mut Buffer) {
    let room = area.width.saturating_sub(u16::try_from(right.width()).unwrap_or(u16::MAX).saturating_add(1));
    left.render(Rect { width: room, ..area }, buf);
    right.right_aligned().render(area, buf);
}

fn header(state: &State, area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    let facts = &state.facts;
    let lost = facts.lost.max(state.moment.totals().lost);
    let mut right = Line::from(vec![Span::styled(format!("{} · ", facts.backends), theme.dim)]);
    right.push_span(match lost {
        0 => Span::styled("none lost", theme.good),
        lost => Span::styled(format!("{} LOST", count(lost)), theme.bad),
    });
    let room = usize::from(area.width).saturating_sub(right.width() + 2);
    let mut text = facts.host.clone();
    if facts.partial.is_some() {
        text = format!("partial · {text}");
    } else if !facts.closed && !state.live {
        text = format!("recorder died · {text}");
    }
    let name = cut(&facts.name, room);
    let rest = room.saturating_sub(Span::raw(name.as_str()).width() + 3);
    let mut left = Line::from(Span::styled(name, theme.strong));
    if rest > 8 {
        left.push_span(Span::styled(" · ", theme.dim));
        left.push_span(Span::raw(cut(&text, rest)));
    }
    both_ends(left, right, area, buf);
}

fn screen_tabs(state: &State, area: Rect, buf: &mut Buffer, drawn: &mut Drawn) {
    let theme = &state.theme;
    let mut x = area.x;
    for (i, screen) in Screen::ALL.into_iter().enumerate() {
        let (mark, style) = if screen == state.screen { ("▸", theme.selected) } else { (" ", theme.dim) };
        let mut text = format!("{mark}{} {}", i + 1, screen.title());
        if screen == Screen::Failures {
            let failures = state.timeline.end.as_ref().map_or(0, |moment| moment.totals().failures);
            if failures > 0 {
                text += &format!(" {}", count(failures));
            }
        }
        let span = Span::styled(text + " ", style);
        let width = u16::try_from(span.width()).unwrap_or(0).min(area.right().saturating_sub(x));
        let place = Rect { x, width, ..area };
        Line::from(span).render(place, buf);
        drawn.hits.push((place, Hit::Do(Action::Go(screen))));
        x += width;
    }
    let reading = if state.live {
        Line::styled("● live", theme.good)
    } else if state.timeline.is_whole() {
        Line::default()
    } else {
        Line::styled(format!("reading {} %", state.timeline.percent()), theme.warn)
    };
    reading.right_aligned().render(Rect { x, width: area.right().saturating_sub(x), ..area }, buf);
}

fn answer_line(state: &State, area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    let (tone, text) = match (state.screen, &state.compare.result, &state.plan.result) {
        (Screen::Compare, Some(compared), _) => {
            let first = compared.comparison.verdict.first().cloned().unwrap_or_default();
            let text =
                screens::compare::diverge(&compared.comparison).map_or(first.clone(), |part| format!("{part} {first}"));
            let refused = compared.comparison.rows.iter().any(|row| row.failures > 0);
            (if refused { Tone::Warn } else { Tone::Good }, text)
        }
        (Screen::Plan, _, Some(report)) => (Tone::Plain, report.assumptions.join("; ")),
        _ => verdict(&state.facts, &state.timeline, &state.moment),
    };
    let style = match tone {
        Tone::Good => theme.good,
        Tone::Warn => theme.warn,
        Tone::Bad => theme.bad,
        Tone::Plain => Style::new(),
    };
    Line::styled(cut(&text, area.width.into()), style).render(area, buf);
}

/// The column of a time, out of `width` columns that cover a span.
pub(crate) fn column(time_ns: u64, span: (u64, u64), width: u16) -> u16 {
    let (from, to) = span;
    let exact =
        u128::from(time_ns.saturating_sub(from)) * u128::from(width) / u128::from((to.saturating_sub(from)).max(1));
    u16::try_from(exact).unwrap_or(u16::MAX).min(width.saturating_sub(1))
}

fn timeline(state: &State, bars: Rect, axis: Rect, buf: &mut Buffer, drawn: &mut Drawn) {
    let theme = &state.theme;
    let span = state.timeline.span;
    let width = usize::from(bars.width);
    let bins = &state.timeline.bins;
    let mut columns = vec![(0u64, 0u64, 0u64); width];
    for (i, bin) in bins.iter().enumerate() {
        let first = i * width / bins.len().max(1);
        let last = ((i + 1) * width).div_ceil(bins.len().max(1)).max(first + 1);
        for column in columns.get_mut(first..last.min(width)).into_iter().flatten() {
            column.0 = column.0.max(bin.peak_slots);
        }
        if let Some(column) = columns.get_mut(first) {
            column.1 += bin.failures;
            column.2 += bin.lost;
        }
    }
    let most = columns.iter().map(|column| column.0).max().unwrap_or(0).max(1);
    let units = u64::from(bars.height) * 8;
    let data: Vec<u64> = columns
        .iter()
        .map(|column| {
            u64::try_from((u128::from(column.0) * u128::from(units)).div_ceil(u128::from(most))).unwrap_or(units)
        })
        .collect();
    Sparkline::default().data(&data).max(units).style(theme.bar).render(bars, buf);
    Line::styled("─".repeat(width), theme.dim).render(axis, buf);
    let mut mark = |x: u16, symbol: &'static str, style: Style| {
        if let Some(cell) = buf.cell_mut((axis.x + x, axis.y)) {
            cell.set_symbol(symbol).set_style(style);
        }
    };
    for (x, column) in (0u16..).zip(&columns) {
        if column.2 > 0 {
            mark(x, "!", theme.bad);
        } else if column.1 > 0 {
            mark(x, "×", theme.bad);
        }
    }
    for (time, symbol) in [(state.range.0, "["), (state.range.1, "]")] {
        if let Some(time) = time {
            mark(column(time, span, axis.width), symbol, theme.strong);
        }
    }
    let now = column(state.time_ns(), span, axis.width);
    mark(now, "▲", theme.strong);
    for y in bars.top()..bars.bottom() {
        if let Some(cell) = buf.cell_mut((bars.x + now, y)).filter(|cell| cell.symbol() == " ") {
            cell.set_symbol("│").set_style(theme.dim);
        }
    }
    let whole = Rect { height: bars.height + axis.height, ..bars };
    drawn.hits.push((whole, Hit::Time(span.0, span.1)));
}

fn status_line(state: &State, area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    if let Some(prompt) = &state.prompt {
        let (label, hint) = match prompt.what {
            Ask::Time => ("time", "3.2s, 250ms, -10s from the end, 50%"),
            Ask::Filter => ("filter", "a word, or size >= 64K && driver == \"nvme\""),
            Ask::Policies { .. } => return,
        };
        let mut line = Line::from(vec![
            Span::styled(format!("{label}: "), theme.strong),
            Span::raw(prompt.text.clone()),
            Span::raw("▏ "),
        ]);
        line.push_span(match &prompt.error {
            Some(error) => Span::styled(error.lines().next().unwrap_or_default().to_owned(), theme.bad),
            None => Span::styled(hint, theme.dim),
        });
        return line.render(area, buf);
    }
    let (from, to) = state.timeline.span;
    let sign = if state.playing { "▶" } else { "‖" };
    let speed = SPEEDS.get(state.speed).copied().unwrap_or(1.0);
    let events = state.moment.totals().events;
    let mut left = Line::from(vec![
        Span::styled(format!("{sign} ×{speed} "), theme.strong),
        Span::raw(format!(" {} of {}", seconds(state.time_ns()), duration(to.max(from)))),
        Span::styled(format!(" · event {} of {}", count(events), count(state.timeline.read.1)), theme.dim),
    ]);
    if let Some(event) = going(state) {
        left.push_span(Span::styled(format!(" · going to {event} …"), theme.warn));
    }
    if let (Some(from), Some(to)) = state.range {
        left.push_span(Span::styled(format!(" · range {} (r: report)", duration(to.abs_diff(from))), theme.dim));
    }
    let right = match (&state.message, state.filter()) {
        (Some(message), _) => Line::styled(message.clone(), theme.warn),
        (None, Some(filter)) => Line::styled(format!("filter: {filter}"), theme.warn),
        (None, None) => Line::styled(format!("peak {} slots", count(state.timeline.peak())), theme.dim),
    };
    both_ends(left, right, area, buf);
}

/// A time to the microsecond: steps of one event are seen.
fn seconds(ns: u64) -> String {
    format!("{}.{:06} s", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
}

/// Where the application is still going to, when that takes longer.
fn going(state: &State) -> Option<String> {
    match state.goal? {
        super::source::Goal::Time(time_ns) => Some(duration(time_ns)),
        super::source::Goal::Event(event) => Some(format!("event {}", count(event))),
    }
}

/// As many keys as fit; the last two (help and quit) always do.
fn footer(state: &State, area: Rect, buf: &mut Buffer) {
    let theme: &Theme = &state.theme;
    let entries: Vec<[Span<'static>; 3]> = KEYS
        .iter()
        .filter(|key| !key.short.is_empty() && key.is_on(state.screen))
        .map(|key| {
            [Span::styled(key.keys, theme.strong), Span::styled(format!(" {}", key.short), theme.dim), "  ".into()]
        })
        .collect();
    let (others, always) = entries.split_at(entries.len().saturating_sub(2));
    let width = usize::from(area.width);
    (0..=others.len())
        .rev()
        .map(|some| Line::from_iter(others[..some].iter().chain(always).flatten().cloned()))
        .find(|line| line.width() <= width + 2)
        .unwrap_or_default()
        .render(area, buf);
}
