//! The bottom line: the keys.

use ratatui::text::{Line, Span};

use crate::action::KEYS;
use crate::theme::Theme;

/// As many keys as fit; the last two (help and quit) always do.
pub(crate) fn line(width: usize, theme: &Theme) -> Line<'static> {
    let entries: Vec<[Span<'static>; 3]> = KEYS
        .iter()
        .filter(|key| !key.short.is_empty())
        .map(|key| {
            [Span::styled(key.keys, theme.strong), Span::styled(format!(" {}", key.short), theme.dim), "  ".into()]
        })
        .collect();
    let (others, always) = entries.split_at(entries.len().saturating_sub(2));
    (0..=others.len())
        .rev()
        .map(|some| Line::from_iter(others[..some].iter().chain(always).flatten().cloned()))
        .find(|line| line.width() <= width + 2)
        .unwrap_or_default()
}
