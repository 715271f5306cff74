//! What the figures rest on.

use analysis::{PolicyRow, TraceFacts};
use ratatui::style::Style;
use ratatui::text::Line;

use crate::text::fold;
use crate::theme::Theme;

/// What the replay had to assume, and the machine it was on.
pub(crate) fn replay(row: &PolicyRow, assumptions: &[String], width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let mut lines = list("This replay", assumptions, "nothing had to be assumed", Style::new(), width, theme);
    let machine = format!("machine: {} {} on {}", row.policy, row.parameters, row.platform);
    lines.extend(fold(&machine, width, 2, theme.dim));
    lines
}

/// What weakens the trace, and how it came about.
pub(crate) fn trace(facts: &TraceFacts, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let mut lines = list("The trace", &facts.caveats, "nothing weakens it", theme.warn, width, theme);
    for (name, value) in [("workload", &facts.workload), ("command line", &facts.cmdline)] {
        if !value.is_empty() {
            lines.extend(fold(&format!("{name}: {value}"), width, 2, theme.dim));
        }
    }
    lines
}

fn list(
    title: &'static str,
    sentences: &[String],
    none: &'static str,
    style: Style,
    width: usize,
    theme: &Theme,
) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(title, theme.strong)];
    lines.extend(sentences.iter().flat_map(|sentence| fold(&format!("• {sentence}"), width, 2, style)));
    if sentences.is_empty() {
        lines.push(Line::styled(none, theme.dim));
    }
    lines
}
