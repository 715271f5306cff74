//! Slots: the pool as a heat map, from the whole pool down to a slot.
//!
//! ```text
//!  pool 0 › segment 17 · a cell is 1 slot ───────── by device ─  Free runs ────────────
//!  ████████████████████▀▀▀▀▀▀▀▀▀▀▀▀                                1–1    12 ███
//!  ▄▄▄▄▄▄▄▄▄▄▄▄            ████████████████                        2–2     4 █
//!                                                                128–128 230 ████████
//!                                                              Cursor ──────────────────
//!                                                              slots 2,240–2,241: 2 of 2 used
//!                                                              0000:00:04.0 nvme
//!                                                              4 KiB, for 1.2 ms
//! ```
//!
//! With colours a character has two cells, one above the other; without, a cell's filling is its share in use, and
//! letters tell devices.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget as _};
use replay::moment::slots::PoolSlots;
use trace::event::NO_DEVICE;
use trace::field::{bytes, count, duration};

use super::{Drawn, Hit, callers, calls, task};
use crate::app::grid::{Cell, Colour, Level, Zoom, look};
use crate::app::state::State;
use crate::columns::Columns;
use crate::compare::widgets::section::section;
use crate::text::{bar, cut, fold};
use crate::theme::Theme;

/// Lines from which on the buffers are listed below the map.
const BUFFERS: u16 = 4;
/// Cells of the column beside the map.
const SIDE: u16 = 32;

/// Draws it.
pub(crate) fn draw(state: &State, area: Rect, buf: &mut Buffer, drawn: &mut Drawn) {
    let theme = &state.theme;
    let Some((zoom, pool)) =
        state.zoom.last().and_then(|zoom| Some((zoom, state.moment.slots().pools().get(zoom.pool)?)))
    else {
        let text = " This recording has no bounce pool, so there are no slots to show.";
        return Line::styled(text, theme.dim).render(area, buf);
    };
    let side = if area.width >= 140 { SIDE + 14 } else { SIDE };
    let [map, right] = area.layout(&Layout::horizontal([Constraint::Fill(1), Constraint::Length(side)]).spacing(1));
    // A segment's slots are few: each is drawn large.
    let large = matches!(zoom.level, Level::Segment(_));
    let deep = if theme.ramp.is_empty() || large { 1 } else { 2 };
    let inner =
        Rect { y: map.y + 1, height: map.height.saturating_sub(2), x: map.x + 1, width: map.width.saturating_sub(1) };
    let cells = (usize::from(inner.width), usize::from(inner.height) * deep);
    drawn.cells = Some(cells);
    grid(state, zoom, pool, cells, deep, map, inner, buf, drawn);
    side_column(state, zoom, pool, cells, right, buf);
}

#[allow(clippy::too_many_arguments, reason = "all of it is the map's")]
fn grid(
    state: &State,
    zoom: &Zoom,
    pool: &PoolSlots,
    cells: (usize, usize),
    deep: usize,
    area: Rect,
    inner: Rect,
    buf: &mut Buffer,
    drawn: &mut Drawn,
) {
    let theme = &state.theme;
    let across = zoom.across(cells);
    let per = zoom.per_cell((across, cells.1));
    let total = zoom.cells(cells);
    let scale = if per == 1 { String::new() } else { format!("a cell is {} slots · ", count(per)) };
    let mode = format!(" {scale}{} ", state.colour.title());
    let block = section(zoom.title(), theme).title_top(Line::styled(mode, theme.dim).right_aligned());
    block.render(area, buf);
    // A few cells are drawn wide, so that they can be told apart and hit.
    let wide = (usize::from(inner.width) / across.max(1)).clamp(1, 5);
    let now = state.moment.time_ns();
    let oldest = pool.holders().map(|holder| now.saturating_sub(holder.since_ns.unwrap_or(0))).max().unwrap_or(0);
    let cell_at = |cell: usize| {
        let (from, to) = zoom.slots(cell, cells);
        (cell < total).then(|| look(pool, now, from, to))
    };
    let paint = Paint { theme, colour: state.colour, oldest };
    for line in 0..usize::from(inner.height) {
        if line * deep * across >= total {
            break;
        }
        for column in 0..across {
            let at = |k: usize| (line * deep + k) * across + column;
            let (upper, lower) = (cell_at(at(0)), if deep == 2 { cell_at(at(1)) } else { None });
            let x = inner.x + u16::try_from(column * wide).unwrap_or(u16::MAX);
            let y = inner.y + line as u16;
            let under = zoom.cursor == at(0) || (deep == 2 && zoom.cursor == at(1));
            for k in 0..wide {
                let Some(cell) = buf.cell_mut((x.saturating_add(k as u16), y)) else { continue };
                let Some(upper) = upper else { continue };
                if deep == 1 && !theme.ramp.is_empty() {
                    cell.set_symbol("▆").set_fg(paint.colour(&upper));
                } else if deep == 2 {
                    cell.set_symbol("▀").set_fg(paint.colour(&upper));
                    if let Some(lower) = &lower {
                        cell.set_bg(paint.colour(lower));
                    }
                } else {
                    cell.set_symbol(paint.letter(&upper));
                }
                // The last of wide cells is left dark at its edge, so that neighbours part.
                if wide > 1 && k + 1 == wide {
                    cell.set_symbol(" ").set_bg(Color::Reset);
                }
            }
            if under && let Some(cell) = buf.cell_mut((x, y)) {
                cell.set_symbol(if deep == 2 && zoom.cursor == at(1) {
                    "▄"
                } else if deep == 2 {
                    "▀"
                } else {
                    "◆"
                });
                if deep == 2 {
                    let other = if zoom.cursor == at(1) { upper } else { lower };
                    cell.set_fg(Color::White).set_bg(other.map_or(Color::Reset, |other| paint.colour(&other)));
                } else {
                    cell.set_style(Style::new().add_modifier(Modifier::REVERSED));
                }
            }
        }
    }
    let lines = total.div_ceil(across * deep) as u16;
    let hit = Rect { height: lines.min(inner.height), ..inner };
    drawn.hits.push((hit, Hit::Cell(across, wide, deep)));
    let y = (hit.bottom() + 1).min(area.bottom().saturating_sub(1));
    let legend = Rect { y, height: 1, ..inner };
    paint.legend(state, pool).render(legend, buf);
    let below = Rect { y: y + 1, height: area.bottom().saturating_sub(y + 1), ..area };
    if below.height >= BUFFERS {
        buffers(state, zoom, pool, below, buf);
    }
}

/// The buffers in the part looked at, those held longest first.
fn buffers(state: &State, zoom: &Zoom, pool: &PoolSlots, area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    let mut held: Vec<_> = pool.holders_in(zoom.from, zoom.to).collect();
    held.sort_by_key(|holder| (holder.since_ns.unwrap_or(0), holder.first_slot));
    let title = format!("Buffers here: {}", count(held.len() as u64));
    let rows: Vec<_> = held.into_iter().take(area.height.into()).map(|holder| state.moment.held_row(holder)).collect();
    let mut table = Columns::new(rows.len());
    for name in ["device", "driver", "first_slot", "slots", "size", "age_ns", "direction", "orig_addr", "cpu"] {
        table.push_field(name, &rows);
    }
    let lines =
        table.lay_out(usize::from(area.width.saturating_sub(1)), theme).lines(theme).into_iter().map(|mut line| {
            line.spans.insert(0, " ".into());
            line
        });
    let block = section(title, theme).title_top(Line::styled(" held longest first ", theme.dim).right_aligned());
    let lines = if rows.is_empty() { vec![Line::styled(" none", theme.dim)] } else { lines.collect() };
    Paragraph::new(lines).block(block).render(area, buf);
}

/// How cells look.
struct Paint<'a> {
    theme: &'a Theme,
    colour: Colour,
    oldest: u64,
}

impl Paint<'_> {
    fn step(&self, part: f64) -> Color {
        let ramp = self.theme.ramp;
        let at = (part.clamp(0.0, 1.0) * (ramp.len().saturating_sub(1)) as f64).round() as usize;
        ramp.get(at).copied().unwrap_or(Color::Reset)
    }

    fn colour(&self, cell: &Cell) -> Color {
        let busy = cell.used.0 > 0;
        match self.colour {
            Colour::Device if busy => device_colour(self.theme, cell.device),
            Colour::Age if busy => self.step(age_share(cell.age_ns, self.oldest)),
            // Long runs are what is looked for: they are at the cool end.
            Colour::Run if cell.run > 0 => self.step(1.0 - f64::from(cell.run.ilog2()) / 7.0),
            Colour::Run => Color::Indexed(238),
            Colour::Device | Colour::Age => self.theme.free,
        }
    }

    /// Without colours: who, how old, or how long a run, as far as one letter tells.
    fn letter(&self, cell: &Cell) -> &'static str {
        const DEVICES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        const STEPS: [&str; 5] = ["▁", "▂", "▄", "▆", "█"];
        let step = |part: f64| STEPS[((part.clamp(0.0, 1.0) * 4.0).round() as usize).min(4)];
        match self.colour {
            Colour::Device if cell.used.0 > 0 => {
                cell.device.and_then(|device| DEVICES.get(device as usize).copied()).unwrap_or("?")
            }
            Colour::Age if cell.used.0 > 0 => step(age_share(cell.age_ns, self.oldest)),
            Colour::Run if cell.run > 0 => step(f64::from(cell.run.ilog2()) / 7.0),
            Colour::Run => "x",
            Colour::Device | Colour::Age => "·",
        }
    }

    fn legend(&self, state: &State, pool: &PoolSlots) -> Line<'static> {
        let theme = self.theme;
        let coloured = !theme.ramp.is_empty();
        let mut spans = Vec::new();
        match self.colour {
            Colour::Device => {
                let mut ids: Vec<u32> = pool.holders().map(|holder| holder.device).collect();
                ids.sort_unstable();
                ids.dedup();
                for id in ids {
                    let name = state.moment.around().device_name(id);
                    let name = if id == NO_DEVICE { "held before".to_owned() } else { name };
                    let mark = if coloured {
                        Span::styled("■ ", Style::new().fg(device_colour(theme, Some(id))))
                    } else {
                        let cell = Cell { used: (1, 1), device: Some(id), ..Cell::default() };
                        Span::raw(format!("{} ", self.letter(&cell)))
                    };
                    spans.extend([mark, Span::styled(format!("{name}  "), theme.dim)]);
                }
                let free = if coloured { Span::styled("■ ", Style::new().fg(theme.free)) } else { Span::raw("· ") };
                spans.extend([free, Span::styled("free", theme.dim)]);
            }
            Colour::Age | Colour::Run => {
                let (little, much) = match self.colour {
                    Colour::Age => ("just taken ".to_owned(), format!(" held for {}", duration(self.oldest))),
                    _ => ("free: 128 side by side ".to_owned(), " 1 · grey: in use".to_owned()),
                };
                spans.push(Span::styled(little, theme.dim));
                spans.extend(theme.ramp.iter().map(|&colour| Span::styled("■", Style::new().fg(colour))));
                if !coloured {
                    spans.push(Span::raw("▁▂▄▆█"));
                }
                spans.push(Span::styled(much, theme.dim));
            }
        }
        Line::from(spans)
    }
}

/// Ages are compared by their logarithm: microseconds and seconds are in one pool.
fn age_share(age_ns: u64, oldest: u64) -> f64 {
    let log = |ns: u64| ((ns / 1000).max(1) as f64).ln();
    let whole = log(oldest);
    if whole <= 0.0 { 0.0 } else { log(age_ns) / whole }
}

fn device_colour(theme: &Theme, device: Option<u32>) -> Color {
    match device {
        Some(NO_DEVICE) | None => Color::Gray,
        Some(id) if theme.devices.is_empty() => Color::Indexed(u8::try_from(id % 8).unwrap_or(7)),
        Some(id) => theme.devices[id as usize % theme.devices.len()],
    }
}

fn side_column(state: &State, zoom: &Zoom, pool: &PoolSlots, cells: (usize, usize), area: Rect, buf: &mut Buffer) {
    let theme = &state.theme;
    let rows = pool.run_rows();
    let runs_height = (rows.len() as u16 + 2).min(area.height.saturating_sub(5).max(3));
    let [runs, cursor] = area.layout(&Layout::vertical([Constraint::Length(runs_height), Constraint::Fill(1)]));
    let most = rows.iter().map(|row| row.runs).max().unwrap_or(0);
    let width = usize::from(runs.width).saturating_sub(17).clamp(3, 30);
    let free = pool.geometry().nslabs - pool.used().min(pool.geometry().nslabs);
    let mut lines = vec![Line::styled(format!(" {} slots free", count(free)), theme.dim)];
    // Where there is no room for all lengths the longest stay: they are what requests need.
    let room = usize::from(runs_height).saturating_sub(2);
    let skipped = rows.len().saturating_sub(room);
    lines.extend(rows.iter().skip(skipped).map(|row| {
        let name = if row.from_slots == row.to_slots {
            row.to_slots.to_string()
        } else {
            format!("{}–{}", row.from_slots, row.to_slots)
        };
        Line::from(vec![
            Span::raw(format!(" {name:>7} {:>6} ", count(row.runs))),
            Span::styled(bar(row.runs, most, width), theme.bar),
        ])
    }));
    Paragraph::new(lines).block(section("Free runs", theme)).render(runs, buf);

    let lines = about_cell(state, zoom, pool, cells, usize::from(cursor.width.saturating_sub(1)));
    Paragraph::new(lines).block(section("Cursor", theme)).render(cursor, buf);
}

/// What the cursor is on, in a few lines.
fn about_cell(state: &State, zoom: &Zoom, pool: &PoolSlots, cells: (usize, usize), width: usize) -> Vec<Line<'static>> {
    let theme = &state.theme;
    let now = state.moment.time_ns();
    let (from, to) = zoom.slots(zoom.cursor.min(zoom.cells(cells).saturating_sub(1)), cells);
    let cell = look(pool, now, from, to);
    let place = if to - from == 1 {
        format!("slot {}", count(from))
    } else {
        format!("slots {}–{}", count(from), count(to.saturating_sub(1)))
    };
    let area = from / pool.geometry().area_slots().max(1);
    let mut out = vec![Line::styled(cut(&format!(" {place}"), width), theme.strong)];
    out.push(Line::styled(cut(&format!(" area {area}, segment {}", from / 128), width), theme.dim));
    let mut say = |text: String, style: Style| out.push(Line::styled(cut(&format!(" {text}"), width), style));
    let holders: Vec<_> = pool.holders_in(from, to).collect();
    if to - from > 1 {
        say(
            format!("{} of {} in use, {} buffers", count(cell.used.0), count(cell.used.1), holders.len()),
            Style::new(),
        );
    }
    let oldest = holders.iter().min_by_key(|holder| holder.since_ns.unwrap_or(0));
    match oldest {
        Some(holder) => {
            let row = state.moment.held_row(holder);
            let driver = row.driver.map_or_else(String::new, |driver| format!(" {driver}"));
            say(
                format!("{}{driver}", if holder.device == NO_DEVICE { "held before recording" } else { &row.device }),
                theme.strong,
            );
            let age = row.age_ns.map_or_else(|| "since before".to_owned(), |age| format!("for {}", duration(age)));
            let which = if holders.len() > 1 { "oldest: " } else { "" };
            say(format!("{which}{} in {} slots", bytes(row.size), row.slots), Style::new());
            say(age, Style::new());
            if let Some(direction) = row.direction {
                say(format!("{direction}, {}", task(state, holder.tid, holder.since_ns.unwrap_or(0))), theme.dim);
            }
            if let Some(stack) = row.stack {
                out.extend(fold(&callers(state, stack), width.saturating_sub(1), 2, theme.dim));
            }
        }
        None => {
            let run = pool.free_run(from).map_or(0, |(_, slots)| slots);
            say(format!("free: {} side by side", cell.run.max(run)), theme.good);
        }
    }
    out
}

/// All that is known of the slot under the cursor.
pub(crate) fn about_slot(state: &State) -> Vec<String> {
    let Some((zoom, pool)) =
        state.zoom.last().and_then(|zoom| Some((zoom, state.moment.slots().pools().get(zoom.pool)?)))
    else {
        return vec!["There is no pool.".to_owned()];
    };
    let (slot, _) = zoom.slots(zoom.cursor, state.cells);
    let address = pool.geometry().start + slot * trace::pool::SLOT_BYTES;
    let segment = match zoom.level {
        Level::Segment(segment) => segment,
        _ => slot / 128,
    };
    let mut out = vec![format!("slot {} at {address:#x}, segment {segment}", count(slot)), String::new()];
    let Some(holder) = pool.holder_at(slot) else {
        let (first, run) = pool.free_run(slot).unwrap_or((slot, 0));
        out.push(format!("It is free, one of {run} side by side from slot {}.", count(first)));
        return out;
    };
    let row = state.moment.held_row(holder);
    out.extend(replay::moment::HeldRow::lines(&row));
    out.push(format!("task        {}", task(state, holder.tid, holder.since_ns.unwrap_or(0))));
    if let Some(stack) = holder.stack {
        out.push("called by".to_owned());
        out.extend(calls(state, stack).into_iter().map(|call| format!("  {call}")));
    } else {
        out.push("no kernel stack was recorded (record --stacks takes them all)".to_owned());
    }
    out
}

/// A record as lines of name and value.
trait Lines {
    fn lines(row: &Self) -> Vec<String>;
}

impl<R: trace::Record> Lines for R {
    fn lines(row: &Self) -> Vec<String> {
        let shown = R::FIELDS
            .iter()
            .enumerate()
            .map(|(index, field)| format!("{:<11} {}", crate::columns::head(field), field.show(&row.value(index))));
        shown.collect()
    }
}
