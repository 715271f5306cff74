//! The rule with a title that every part of the screen begins with.

use ratatui::text::Line;
use ratatui::widgets::{Block, Borders};

use crate::theme::Theme;

/// A rule across the screen with `title` on it.
pub(crate) fn section(title: impl Into<Line<'static>>, theme: &Theme) -> Block<'static> {
    let mut title = title.into();
    title.spans.insert(0, " ".into());
    title.push_span(" ");
    Block::new().borders(Borders::TOP).border_style(theme.dim).title_top(title).title_style(theme.strong)
}
