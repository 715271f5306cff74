//! The curves of all policies side by side: same time axis, and one vertical scale unless asked otherwise.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::Widget as _;
use trace::field::{count, duration};

use analysis::{Comparison, PolicyRow};

use super::curve::{Panel, own_top};
use super::section::section;
use crate::compare::state::{Scale, detail};
use crate::theme::Theme;

/// A panel is not made narrower than this.
const NARROWEST: u16 = 22;
/// A panel is not made lower than this while there is another way.
const LOWEST: u16 = 6;
/// Cells between panels.
const GAP: u16 = 2;

/// What the curves are drawn from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupancy<'a> {
    /// The figures.
    pub(crate) comparison: &'a Comparison,
    /// Row of the selected policy, if one can be selected.
    pub(crate) selected: Option<usize>,
    /// Vertical scale.
    pub(crate) scale: Scale,
    /// The moment to mark, if any.
    pub(crate) now_ns: Option<u64>,
    /// Styles.
    pub(crate) theme: &'a Theme,
}

impl<'a> Occupancy<'a> {
    /// One panel a pool of each policy, and each panel's row of the table.
    fn panels<'p>(&self, apart: &'p [String]) -> Vec<(usize, Panel<'p>)>
    where
        'a: 'p,
    {
        let curves = || self.comparison.details.iter().flat_map(|detail| &detail.curves);
        let ends = curves().filter_map(|curve| curve.points.last()).map(|point| point.0);
        let span_ns = ends.max().unwrap_or(0).max(self.comparison.facts.duration_ns);
        let common = curves().map(own_top).max().unwrap_or(0);
        let mut panels = Vec::new();
        for (index, row) in self.comparison.rows.iter().enumerate() {
            let detail = detail(self.comparison, index);
            let panel = Panel {
                policy: &row.policy,
                apart: apart.get(index).map_or("", String::as_str),
                curve: None,
                one_of_many: detail.curves.len() > 1,
                selected: self.selected == Some(index),
                top: common,
                span_ns,
                first_refusal: detail.refusals.iter().map(|refusal| refusal.time_ns).min(),
                now_ns: self.now_ns,
                theme: self.theme,
            };
            if detail.curves.is_empty() {
                panels.push((index, panel));
            }
            panels.extend(detail.curves.iter().map(|curve| {
                let top = if self.scale == Scale::Common { common } else { own_top(curve) };
                (index, Panel { curve: Some(curve), top, ..panel })
            }));
        }
        panels
    }

    /// Panels side by side and rows of them, in `width` cells and at most `height`.
    fn grid(panels: usize, width: u16, height: u16) -> (usize, usize) {
        let across = usize::from(((width + GAP) / (NARROWEST + GAP)).max(1));
        let rows = panels.div_ceil(across).clamp(1, usize::from((height / LOWEST).max(1)));
        (panels.div_ceil(rows).clamp(1, across), rows)
    }

    /// Lines it takes to draw every panel `tall` lines high, title included.
    pub(crate) fn height(&self, width: u16, tall: u16) -> u16 {
        let (_, rows) = Self::grid(self.panels(&[]).len(), width, u16::MAX);
        u16::try_from(rows).unwrap_or(u16::MAX).saturating_mul(tall).saturating_add(1)
    }

    /// Draws as many panels as there is room for, the selected policy's always among them.
    pub(crate) fn render(&self, area: Rect, buf: &mut Buffer) {
        let apart = apart(&self.comparison.rows);
        let panels = self.panels(&apart);
        let span = panels.first().map_or(0, |(_, panel)| panel.span_ns);
        let scale = match self.scale {
            Scale::Common => match panels.first().map_or(0, |(_, panel)| panel.top) {
                0 => "one scale".to_owned(),
                top => format!("one scale, up to {}", count(top)),
            },
            Scale::Own => "each its own scale".to_owned(),
        };
        let block = section(format!("Slots in use over {} · {scale}", duration(span)), self.theme);
        let inner = block.inner(area);
        let (across, rows) = Self::grid(panels.len(), inner.width, inner.height);
        let room = across * rows;
        let last = panels.iter().rposition(|(row, _)| Some(*row) == self.selected).unwrap_or(0);
        let first = (last + 1).saturating_sub(room);
        let block = if room < panels.len() {
            let shown = format!(" {}–{} of {} ", first + 1, first + room, panels.len());
            block.title_top(Line::styled(shown, self.theme.warn).right_aligned())
        } else {
            block
        };
        block.render(area, buf);
        let lines = Layout::vertical(vec![Constraint::Fill(1); rows]).split(inner);
        let cells = lines
            .iter()
            .flat_map(|line| Layout::horizontal(vec![Constraint::Fill(1); across]).spacing(GAP).split(*line).to_vec());
        for (cell, (_, panel)) in cells.zip(panels.into_iter().skip(first)) {
            panel.render(cell, buf);
        }
    }
}

/// For each row, the parameters that tell it from rows of the same policy.
fn apart(rows: &[PolicyRow]) -> Vec<String> {
    fn words(row: &PolicyRow) -> impl Iterator<Item = &str> {
        row.parameters.split([',', ' ']).filter(|word| !word.is_empty())
    }
    let same = |row: &PolicyRow, word: &str| {
        let mut namesakes = rows.iter().filter(|other| other.policy == row.policy);
        namesakes.all(|other| words(other).any(|theirs| theirs == word))
    };
    rows.iter().map(|row| words(row).filter(|word| !same(row, word)).collect::<Vec<_>>().join(",")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_that_differ_tell_namesakes_apart() {
        let row = |policy: &str, parameters: &str| PolicyRow {
            policy: policy.into(),
            parameters: parameters.into(),
            ..PolicyRow::default()
        };
        let rows =
            [row("v6_10", "nslabs=4096,areas=1"), row("v6_10", "nslabs=4096,areas=8"), row("legacy", "nslabs=1")];
        assert_eq!(apart(&rows), ["areas=1", "areas=8", ""]);
    }

    #[test]
    fn panels_are_spread_evenly_over_as_few_rows_as_fit() {
        assert_eq!(Occupancy::grid(4, 120, 10), (4, 1));
        assert_eq!(Occupancy::grid(6, 120, 12), (3, 2));
        assert_eq!(Occupancy::grid(9, 80, 5), (3, 1));
        assert_eq!(Occupancy::grid(0, 80, 5), (1, 1));
        assert_eq!(Occupancy::grid(2, 10, 5), (1, 1));
    }
}
