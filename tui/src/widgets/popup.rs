//! What lies over the rest of the screen until the next key: the help, or the whole verdict.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Widget as _};

use crate::action::KEYS;
use crate::theme::Theme;

/// What the drawing means, for somebody who sees it for the first time.
const LEGEND: [(&str, &str); 3] = [
    ("▁▄█", "slots in use; each column shows the most of its span of time"),
    ("┄┄┄", "the pool ends here"),
    ("×", "the first request refused"),
];

/// The keys, and what the drawing means.
pub(crate) fn help(area: Rect, buf: &mut Buffer, theme: &Theme) {
    let wide = KEYS.iter().map(|key| key.keys.chars().count()).max().unwrap_or(0);
    let entry = |what: &str, means: &str| {
        Line::from(vec![Span::styled(format!("{what:<wide$}  "), theme.strong), Span::raw(means.to_owned())])
    };
    let mut lines: Vec<Line<'_>> = KEYS.iter().map(|key| entry(key.keys, key.long)).collect();
    lines.push(Line::default());
    lines.extend(LEGEND.map(|(what, means)| entry(what, means)));
    popup(" Help ", lines, area, buf, theme);
}

/// Draws `lines` in the middle of `area`.
pub(crate) fn popup(title: &'static str, lines: Vec<Line<'_>>, area: Rect, buf: &mut Buffer, theme: &Theme) {
    let width = lines.iter().map(Line::width).max().unwrap_or(0) + 4;
    let height = lines.len() + 2;
    let size = |n: usize| Constraint::Length(u16::try_from(n).unwrap_or(u16::MAX));
    let popup = area.centered(size(width), size(height));
    Clear.render(popup, buf);
    let block = Block::bordered()
        .border_style(theme.dim)
        .padding(Padding::horizontal(1))
        .title_top(Line::styled(title, theme.strong))
        .title_bottom(Line::styled(" any key closes ", theme.dim).right_aligned());
    Paragraph::new(lines).block(block).render(popup, buf);
}
