//! The top line: which trace this is, and how far to trust it.

use analysis::TraceFacts;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use trace::field::{count, duration};

use crate::text::{flow, percent};
use crate::theme::Theme;

/// Name, machine, length, losses, and how well the model predicts the recorded kernel.
pub(crate) fn lines(facts: &TraceFacts, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let plain = |text: String| Span::raw(text);
    let mut pieces = vec![Span::styled(facts.name.clone(), theme.strong)];
    if !facts.host.is_empty() {
        pieces.push(plain(facts.host.clone()));
    }
    pieces.push(plain(duration(facts.duration_ns)));
    pieces.push(plain(format!("{} events", count(facts.events))));
    pieces.push(match facts.lost {
        0 => plain("none lost".to_owned()),
        lost => Span::styled(format!("{} LOST", count(lost)), theme.bad),
    });
    if facts.really_failed > 0 {
        pieces.push(Span::styled(format!("kernel refused {}", count(facts.really_failed)), theme.bad));
    }
    pieces.push(prediction(facts, theme));
    flow(pieces, &Span::styled(" · ", theme.dim), width)
}

fn prediction(facts: &TraceFacts, theme: &Theme) -> Span<'static> {
    match facts.predicted {
        None | Some((0, _)) => Span::styled("no slot choices recorded: model not checked", theme.warn),
        Some((all, hits)) => {
            let style = if hits == all { Style::new() } else { theme.warn };
            let share = percent(hits, all);
            Span::styled(format!("model predicts {} of {} slot choices ({share})", count(hits), count(all)), style)
        }
    }
}
