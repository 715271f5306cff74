//! Failures: what was refused, each with its cause and arithmetic.
//!
//! ```text
//!  Refused ─────────────────────────────────────────── 12 of 482 by now · fragmented 401
//!     time  device            size  cause       explanation
//!   1.75 s  0000:00:02.0     4 KiB  fragmented  needs 2 slots: 4 KiB; 12 of 1024 are free, …
//! ▸ 1.80 s  0000:00:02.0     4 KiB  alignment   needs 2 slots: 4 KiB; the longest free run …
//!   1.80 s  0000:00:03.0     4 KiB  alignment   (not yet)
//!  needs 2 slots: 4 KiB; the longest free run has 2, but none begins at an address the masks allow
//! ```

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget as _};
use replay::moment::{Failure, FailureRow};
use trace::field::{bytes, count, duration};

use super::{Drawn, Hit, calls, first_visible, task};
use crate::app::state::State;
use crate::columns::{Columns, Overflow};
use crate::compare::widgets::section::section;
use crate::text::{fold, percent};

/// Draws it.
pub(crate) fn draw(state: &State, area: Rect, buf: &mut Buffer, drawn: &mut Drawn) {
    let theme = &state.theme;
    let rows = state.failure_rows();
    let events = state.moment.totals().events;
    let by_now = state.timeline.failures.partition_point(|(mark, _)| mark.event <= events);
    let title = match &state.failure_filter {
        Some(filter) => format!("Refused · {}", filter.text()),
        None => "Refused".to_owned(),
    };
    let all = state.timeline.end.as_ref().map_or(0, |moment| moment.totals().failures);
    let right =
        format!(" {} by now, {} in all · {} listed ", count(by_now as u64), count(all), count(rows.len() as u64));
    let block = section(title, theme).title_top(Line::styled(right, theme.dim).right_aligned());
    if rows.is_empty() {
        let text = match (&state.failure_filter, state.timeline.is_whole()) {
            (Some(_), _) => " no refusal fits the filter (Esc takes it away)",
            (None, true) => " Nothing was refused. Compare (5) and Plan (6) show when it would be.",
            (None, false) => " None so far; the trace is still being read.",
        };
        return Paragraph::new(Line::styled(text, theme.good)).block(block).render(area, buf);
    }
    let selected = state.failure.min(rows.len() - 1);
    let about = fold(&rows[selected].1.explanation, usize::from(area.width.saturating_sub(2)), 0, theme.strong);
    let about_height = u16::try_from(about.len()).unwrap_or(u16::MAX).min(4) + 2;
    let [list, detail] = area.layout(&Layout::vertical([Constraint::Fill(1), Constraint::Length(about_height)]));
    let inner = block.inner(list);
    block.render(list, buf);
    let visible = usize::from(inner.height).saturating_sub(1).max(1);
    let first = first_visible(selected, visible, rows.len());
    let page: Vec<&(usize, FailureRow)> = rows.iter().skip(first).take(visible).collect();
    let shown: Vec<FailureRow> = page.iter().map(|(_, row)| row.clone()).collect();
    let mut table = Columns::new(shown.len());
    let names: &[&str] = if inner.width < 110 {
        &["time_ns", "device", "size", "cause", "explanation"]
    } else {
        &["time_ns", "device", "driver", "size", "cause", "used_slots", "explanation"]
    };
    names.iter().for_each(|name| table.push_field(name, &shown));
    table.flex_last(Overflow::Cut);
    let laid = table.lay_out(usize::from(inner.width.saturating_sub(2)), theme);
    let mut lines = vec![Line::from_iter(std::iter::once(Span::raw("  ")).chain(laid.head.spans))];
    for ((i, (at, _)), row) in page.into_iter().enumerate().zip(laid.rows) {
        let chosen = first + i == selected;
        let style = match (chosen, *at < by_now) {
            (true, _) => theme.selected.add_modifier(Modifier::REVERSED),
            (false, true) => Style::new(),
            (false, false) => theme.dim,
        };
        lines.extend(row.into_iter().map(|mut line| {
            line.spans.insert(0, Span::raw(if chosen { "▸ " } else { "  " }));
            line.style(style)
        }));
    }
    Paragraph::new(lines).render(inner, buf);
    drawn.page = Some(visible);
    drawn.hits.push((Rect { y: inner.y + 1, height: inner.height.saturating_sub(1), ..inner }, Hit::Row(first)));
    let causes = causes(state, usize::from(area.width));
    let lines: Vec<Line<'static>> = about
        .into_iter()
        .map(|mut line| {
            line.spans.insert(0, " ".into());
            line
        })
        .chain([causes])
        .collect();
    Paragraph::new(lines).block(section("Why", theme)).render(detail, buf);
}

/// All refusals by cause.
fn causes(state: &State, width: usize) -> Line<'static> {
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for (_, failure) in state.timeline.failures.iter() {
        let name = failure.cause_name();
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += 1,
            None => sums.push((name, 1)),
        }
    }
    sums.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
    let all: u64 = sums.iter().map(|(_, sum)| sum).sum();
    let pieces =
        sums.iter().map(|(name, sum)| format!("{} {} ({})", name.replace('_', " "), count(*sum), percent(*sum, all)));
    let text = format!(" in all: {}", pieces.collect::<Vec<_>>().join(", "));
    Line::styled(crate::text::cut(&text, width), state.theme.dim)
}

/// What is known of a refusal, as text: the cause and its arithmetic, who asked, the calls that led there.
pub(crate) fn story(state: &State, failure: &Failure) -> Vec<String> {
    let around = state.moment.around();
    let device = around.device(failure.device);
    let driver =
        device.and_then(|device| device.driver.clone()).map_or_else(String::new, |driver| format!(" ({driver})"));
    let mut out = vec![
        format!(
            "{} at {}: {}{driver} was refused {} on CPU {}.",
            failure.cause_name().replace('_', " "),
            duration(failure.time_ns),
            around.device_name(failure.device),
            bytes(failure.size),
            failure.cpu
        ),
        String::new(),
        format!("Arithmetic: {}.", failure.explanation),
    ];
    if let Some(cause) = failure.cause {
        out.push(format!("What would help: {}", remedy(cause)));
    }
    out.push(String::new());
    // Of all pools together, which may have been fewer then.
    let pools = state.moment.slots().pools();
    let slots: u64 = pools.iter().map(|pool| pool.geometry().nslabs).sum();
    out.push(match pools.len() {
        1 => format!(
            "Slots in use then: {} of {} ({}).",
            count(failure.used),
            count(slots),
            percent(failure.used.min(slots), slots)
        ),
        pools => format!(
            "Slots in use then in all pools: {}; now they are {pools} with {}.",
            count(failure.used),
            count(slots)
        ),
    });
    out.push(format!("Running: {}.", task(state, failure.tid, failure.time_ns)));
    if let Some(device) = device {
        let mut line = format!("The device reaches {:#x}", device.reach());
        if device.min_align_mask != 0 {
            line += &format!("; its bounce buffers keep the low address bits {:#x}", device.min_align_mask);
        }
        if device.boundary() != u64::MAX {
            line += &format!("; segment boundary {:#x}", device.boundary());
        }
        out.push(line + ".");
    }
    if let Some(addr) = failure.orig_addr {
        out.push(format!("The buffer was at {addr:#x}."));
    }
    match failure.stack {
        Some(stack) => {
            out.push("Called by:".to_owned());
            out.extend(calls(state, stack).into_iter().map(|call| format!("  {call}")));
        }
        None => out.push("No kernel stack was recorded.".to_owned()),
    }
    out
}

/// What can be done about a cause, in a sentence.
fn remedy(cause: replay::Cause) -> &'static str {
    use replay::Cause;
    match cause {
        Cause::PoolFull => "a larger pool; Plan (6) finds the size and writes the parameter.",
        Cause::AreaFull => "fewer areas or a larger pool: the CPU's own area was full; Compare (5) tries areas=1.",
        Cause::Fragmented => "a larger pool: slots were free, but not side by side; Plan (6) finds the size.",
        Cause::TooLarge | Cause::TooLargeWithOffset => {
            "no pool of any size: the driver must ask for less at once (dma_max_mapping_size)."
        }
        Cause::Livelock => "a newer kernel: this one's search never ends here, with a lock held.",
        Cause::Boundary | Cause::Alignment | Cause::Stride => "a larger pool, or another kernel's search: Compare (5).",
        Cause::BoundaryImpossible | Cause::AlignmentImpossible => {
            "no pool of any size: the device's masks rule it out."
        }
        Cause::PoolAboveMask => "a pool below the device's mask: it does not reach this one.",
        Cause::NotAddressable | Cause::Forbidden => "memory the device reaches: no copy will do here.",
        Cause::NoPool => "a pool: boot with swiotlb= and a size; Plan (6) finds it.",
        Cause::Empty => "the driver: it maps 0 bytes.",
        Cause::GrowPending | Cause::TransientRefused => "a larger pool from the start: this one grew too late.",
    }
}
