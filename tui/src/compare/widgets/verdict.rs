//! The answer, before its arithmetic.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Widget as _};

use super::section::section;
use crate::text::fold;
use crate::theme::Theme;

/// Cells that border and padding take of the width.
const FRAME: u16 = 4;

/// The sentences as lines that fit a screen of `width`, the first and most important one set apart by its weight.
pub(crate) fn lines(sentences: &[String], width: u16, theme: &Theme) -> Vec<Line<'static>> {
    let width = usize::from(width.saturating_sub(FRAME));
    let style = |i| if i == 0 { theme.strong } else { Style::new() };
    sentences.iter().enumerate().flat_map(|(i, sentence)| fold(sentence, width, 2, style(i))).collect()
}

/// Draws the sentences: the one box of the screen where there is room for a box. Lines that do not fit are counted.
pub(crate) fn render(lines: Vec<Line<'static>>, boxed: bool, area: Rect, buf: &mut Buffer, theme: &Theme) {
    let block = if boxed {
        Block::bordered().border_style(theme.dim).title_top(" Verdict ").title_style(theme.strong)
    } else {
        section("Verdict", theme)
    };
    let mut inner = block.inner(area);
    let hidden = lines.len().saturating_sub(usize::from(inner.height));
    let block = if hidden == 0 {
        block
    } else {
        let more = Line::styled(format!(" {hidden} more: v "), theme.warn);
        block.title_top(more.right_aligned())
    };
    block.render(area, buf);
    inner.x += 1;
    inner.width = inner.width.saturating_sub(2);
    Paragraph::new(lines).render(inner, buf);
}
