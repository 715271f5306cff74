//! The page of details about the selected policy.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Widget as _};

use crate::compare::pages;
use crate::compare::state::{Page, Reach, State};
use crate::text::cut;
use crate::theme::Theme;

/// Draws the open page; returns how far it can be scrolled.
pub(crate) fn render(state: &State, area: Rect, buf: &mut Buffer, theme: &Theme) -> Reach {
    let Some(row) = state.row() else { return Reach::default() };
    let tabs = tabs(state.page, theme);
    let used = tabs.width();
    let block = Block::new().borders(Borders::TOP).border_style(theme.dim).title_top(tabs);
    let inner = block.inner(area);
    let lines = pages::lines(&state.comparison, state.selected, state.page, inner.width.into(), theme);
    let reach = Reach { visible: inner.height.into(), lines: lines.len() };
    let scroll = state.scroll.min(reach.end());

    let mut right = format!("{} {}", row.policy, row.parameters).trim_end().to_owned();
    if reach.end() > 0 {
        let last = scroll + reach.visible;
        right = format!("lines {}–{last} of {}", scroll + 1, reach.lines) + " · " + &right;
    }
    let room = usize::from(area.width).saturating_sub(used + 6);
    let right = Line::styled(format!(" {} ", cut(&right, room)), theme.dim).right_aligned();
    block.title_top(right).render(area, buf);
    let scroll = u16::try_from(scroll).unwrap_or(u16::MAX);
    Paragraph::new(lines).scroll((scroll, 0)).render(inner, buf);
    reach
}

fn tabs(open: Page, theme: &Theme) -> Line<'static> {
    let mut line = Line::from(" ");
    for page in Page::ALL {
        let (mark, style) = if page == open { ("▸", theme.selected) } else { (" ", theme.dim) };
        line.push_span(Span::styled(format!("{mark}{} ", page.title()), style));
    }
    line
}
