//! Small pieces of text that several widgets share.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// `part` of `whole` in percent: never 0 % of something nor 100 % of less than all. Nothing of nothing is a dash.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    let rounded = (u128::from(part) * 200 + u128::from(whole)) / (2 * u128::from(whole));
    match (part, rounded) {
        (0, _) => "0 %".to_owned(),
        (_, 0) => "<1 %".to_owned(),
        (_, 100) if part < whole => ">99 %".to_owned(),
        _ => format!("{rounded} %"),
    }
}

/// A horizontal bar of `width` cells; something is never drawn as nothing, nor less than all as all.
pub(crate) fn bar(part: u64, whole: u64, width: usize) -> String {
    let cells = width as u128;
    let exact = if whole == 0 { 0 } else { (u128::from(part) * cells).div_ceil(u128::from(whole)) };
    let full = if part < whole { exact.min(cells.saturating_sub(1)) } else { exact.min(cells) };
    let full = usize::try_from(full).unwrap_or(width);
    "█".repeat(full) + &"░".repeat(width - full)
}

/// Text folded to `width`, all but the first line indented.
pub(crate) fn fold(text: &str, width: usize, indent: usize, style: Style) -> Vec<Line<'static>> {
    let indent = " ".repeat(indent);
    let options = textwrap::Options::new(width.max(1)).subsequent_indent(&indent);
    textwrap::wrap(text, options).into_iter().map(|line| Line::styled(line.into_owned(), style)).collect()
}

/// Text cut to `width` cells, the cut marked.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if Span::raw(text).width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        if Span::raw(out.as_str()).width() + Span::raw(c.to_string()).width() + 1 > width {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// Pieces put side by side, `between` them, on as many lines as `width` asks for.
pub(crate) fn flow(pieces: Vec<Span<'static>>, between: &Span<'static>, width: usize) -> Vec<Line<'static>> {
    let mut lines: Vec<Line<'static>> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.width() + between.width() + piece.width() <= width => {
                line.push_span(between.clone());
                line.push_span(piece);
            }
            _ => lines.push(Line::from(piece)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_does_not_round_to_nothing_or_to_all() {
        assert_eq!(percent(0, 0), "–");
        assert_eq!(percent(0, 10), "0 %");
        assert_eq!(percent(1, 1_000_000), "<1 %");
        assert_eq!(percent(999_999, 1_000_000), ">99 %");
        assert_eq!(percent(2, 3), "67 %");
        assert_eq!(percent(u64::MAX, u64::MAX), "100 %");
    }

    #[test]
    fn a_bar_is_empty_only_for_nothing_and_full_only_for_all() {
        assert_eq!(bar(0, 100, 4), "░░░░");
        assert_eq!(bar(1, 100, 4), "█░░░");
        assert_eq!(bar(99, 100, 4), "███░");
        assert_eq!(bar(100, 100, 4), "████");
        assert_eq!(bar(5, 0, 4), "░░░░");
    }

    #[test]
    fn cut_counts_cells_not_bytes() {
        assert_eq!(cut("µµµµ", 4), "µµµµ");
        assert_eq!(cut("µµµµµ", 4), "µµµ…");
    }

    #[test]
    fn pieces_flow_onto_the_next_line() {
        let pieces = ["one", "two", "three"].map(Span::raw).to_vec();
        let lines = flow(pieces, &Span::raw(" · "), 9);
        assert_eq!(lines.iter().map(Line::to_string).collect::<Vec<_>>(), ["one · two", "three"]);
    }
}
