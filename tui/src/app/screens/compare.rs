//! The Compare screen: up to four policies side by side, at the moment shown.
//!
//! ```text
//!  Policies on xen-pv ─────────────────────────────────────────────────────────────
//!   policy  parameters             maps  bounces  failures     peak slots  bytes copied
//! ▸ v6_10   nslabs=4096,areas=2  24,900   24,900     7,507  2,745   67 %       389 MiB
//!   rfc64   nslabs=4096,131072   24,900   24,900         0     64    2 %       556 MiB
//!  Slots in use over 10.02 s · one scale ──────────────────────────────────────────
//! ▸ v6_10  now 2,101 · peak 2,745    rfc64 LO  now 60 · peak 64    rfc64 HI …
//!     ▂▅▇███▇▅▂                                                        ▃▆███████▆▃
//! ─────×──────▲───────────           ────────────▲───────────      ────────▲───────
//!  ▸Causes   Refusals   Devices   Assumptions ────────────── v6_10 nslabs=4096,areas=2
//! Bounced: 24,900 of 24,900 mappings (100 %)
//! ```

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Widget as _;
use trace::field::{count, duration};

use super::Drawn;
use crate::app::progress;
use crate::app::state::State;
use crate::compare::screen;

/// Draws it.
pub(crate) fn draw(state: &State, area: Rect, buf: &mut Buffer, drawn: &mut Drawn) {
    let theme = &state.theme;
    let mut body = area;
    // A live recording is replayed again and again; what was found last stays meanwhile.
    let line = match &state.compare.result {
        Some(compare) if state.live && state.compare.error.is_none() => {
            let span = duration(compare.comparison.facts.duration_ns);
            Some(Line::styled(format!(" The last {span} replayed, again every few seconds; p: policies"), theme.dim))
        }
        _ => progress::line(&state.compare, "replaying", area.width.into(), theme),
    };
    if let Some(line) = line {
        let [top, rest] = area.layout(&ratatui::layout::Layout::vertical([
            ratatui::layout::Constraint::Length(1),
            ratatui::layout::Constraint::Fill(1),
        ]));
        line.render(top, buf);
        body = rest;
    }
    if let Some(comparison) = &state.compare.result {
        let now_ns = if state.live { comparison.comparison.facts.duration_ns } else { state.time_ns() };
        drawn.reach = Some(screen::draw(comparison, now_ns, body, buf, theme));
    }
}

/// Where policies part: the first refusal that not all share.
pub(crate) fn diverge(comparison: &analysis::Comparison) -> Option<String> {
    let first = |i: usize| {
        let detail = comparison.details.get(i)?;
        detail.refusals.iter().map(|refusal| refusal.time_ns).min()
    };
    let firsts: Vec<Option<u64>> = (0..comparison.rows.len()).map(first).collect();
    let (at, time) =
        firsts.iter().enumerate().filter_map(|(i, time)| Some((i, (*time)?))).min_by_key(|(_, time)| *time)?;
    if comparison.rows.len() < 2 || firsts.iter().all(|other| *other == Some(time)) {
        return None;
    }
    let row = comparison.rows.get(at)?;
    Some(format!(
        "They part at {}: {} with {} slots is the first to refuse.",
        duration(time),
        row.policy,
        count(row.pool_slots)
    ))
}
