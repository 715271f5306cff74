//! The page of details about the selected policy.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Widget as _};

use crate::pages;
use crate::state::{Page, Reach, State};
use crate::text::cut;
use crate::theme::Theme;

/// Draws the open page, and tells the state how far it can be scrolled.
pub(crate) fn render(state: &mut State<'_>, area: Rect, buf: &mut Buffer, theme: &Theme) {
    let Some(row) = state.row() else { return };
    let tabs = tabs(state.page, theme);
    let used = tabs.width();
    let block = Block::new().borders(Borders::TOP).border_style(theme.dim).title_top(tabs);
    let inner = block.inner(area);
    let lines = pages::lines(state.comparison, state.selected, state.page, inner.width.into(), theme);
    state.reach = Reach { visible: inner.height.into(), lines: lines.len() };
    state.scroll = state.scroll.min(state.reach.end());

    let mut right = format!("{} {}", row.policy, row.parameters).trim_end().to_owned();
    if state.reach.end() > 0 {
        let last = state.scroll + state.reach.visible;
        right = format!("lines {}–{last} of {}", state.scroll + 1, state.reach.lines) + " · " + &right;
    }
    let room = usize::from(area.width).saturating_sub(used + 6);
    let right = Line::styled(format!(" {} ", cut(&right, room)), theme.dim).right_aligned();
    block.title_top(right).render(area, buf);
    let scroll = u16::try_from(state.scroll).unwrap_or(u16::MAX);
    Paragraph::new(lines).scroll((scroll, 0)).render(inner, buf);
}

fn tabs(open: Page, theme: &Theme) -> Line<'static> {
    let mut line = Line::from(" ");
    for (i, page) in Page::ALL.into_iter().enumerate() {
        let (mark, style) = if page == open { ("▸", theme.selected) } else { (" ", theme.dim) };
        line.push_span(Span::styled(format!("{mark}{} {} ", i + 1, page.title()), style));
    }
    line
}
