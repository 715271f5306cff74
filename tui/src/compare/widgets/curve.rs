//! One pool's occupancy over time.

use analysis::Curve;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Sparkline, Widget};
use trace::field::count;

use crate::text::{cut, percent};
use crate::theme::Theme;

/// Eighths of a cell a bar can fill.
const EIGHTHS: u64 = 8;
/// From this height on the figures get a line of their own, and so does the end of the pool.
const ROOMY: u16 = 7;

/// A curve and what its panel needs to know of its neighbours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel<'a> {
    /// Policy.
    pub(crate) policy: &'a str,
    /// What tells it from the same policy with other parameters; empty when there is none.
    pub(crate) apart: &'a str,
    /// The curve; `None` when the replay gave none.
    pub(crate) curve: Option<&'a Curve>,
    /// Whether the policy has more pools than this one, so that the pool needs a name.
    pub(crate) one_of_many: bool,
    /// Whether the policy is the selected one.
    pub(crate) selected: bool,
    /// Slots at the top of the scale.
    pub(crate) top: u64,
    /// Nanoseconds at the right end of the time axis.
    pub(crate) span_ns: u64,
    /// When the policy refused its first request.
    pub(crate) first_refusal: Option<u64>,
    /// The moment to mark, if any.
    pub(crate) now_ns: Option<u64>,
    /// Styles.
    pub(crate) theme: &'a Theme,
}

/// Most slots in use at once.
pub(crate) fn peak(curve: &Curve) -> u64 {
    curve.points.iter().map(|&(_, used)| used).max().unwrap_or(0)
}

/// Slots in use at a time, to a point of the curve.
fn at(curve: &Curve, time_ns: u64) -> u64 {
    let later = curve.points.partition_point(|&(from, _)| from <= time_ns);
    later.checked_sub(1).and_then(|last| curve.points.get(last)).map_or(0, |point| point.1)
}

/// The scale that shows a curve best: up to the pool's size once it was half full, else up to its peak.
pub(crate) fn own_top(curve: &Curve) -> u64 {
    let peak = peak(curve);
    if peak >= curve.slots / 2 { peak.max(curve.slots) } else { peak }
}

/// The column of a time, out of `width` columns that cover `span_ns`.
fn column(time_ns: u64, span_ns: u64, width: usize) -> usize {
    let exact = u128::from(time_ns) * width as u128 / u128::from(span_ns.max(1));
    usize::try_from(exact).unwrap_or(usize::MAX).min(width.saturating_sub(1))
}

/// The most slots in use in each of `width` equal spans of time: a peak is never averaged away.
pub(crate) fn resample(points: &[(u64, u64)], span_ns: u64, width: usize) -> Vec<u64> {
    let mut columns = vec![0; width];
    for (i, &(from, used)) in points.iter().enumerate() {
        let until = points.get(i + 1).map_or(span_ns, |next| next.0);
        let first = column(from, span_ns, width);
        let last = column(until.saturating_sub(1), span_ns, width).max(first);
        if let Some(covered) = columns.get_mut(first..=last) {
            covered.iter_mut().for_each(|most| *most = used.max(*most));
        }
    }
    columns
}

impl Panel<'_> {
    fn name(&self) -> Span<'static> {
        let mark = if self.selected { "▸ " } else { "" };
        let pool = self.curve.filter(|_| self.one_of_many).map_or_else(String::new, |curve| format!(" {}", curve.pool));
        let style = if self.selected { self.theme.selected } else { Style::new() };
        Span::styled(format!("{mark}{}{pool}", self.policy), style)
    }

    /// The peak against the pool, as much of it as fits.
    fn figures(&self, width: usize) -> Span<'static> {
        let Some(curve) = self.curve else { return Span::raw("") };
        let (most, slots) = (peak(curve), curve.slots);
        let of = format!("{} of {}", count(most), count(slots));
        let now = self.now_ns.map(|now| format!("now {} · peak ", count(at(curve, now)))).unwrap_or_default();
        let short = self.now_ns.map(|now| format!("{} · ", count(at(curve, now)))).unwrap_or_default();
        let fitting = [
            format!("{now}{of} · {}", percent(most, slots)),
            format!("{now}{of}"),
            format!("{short}{of}"),
            of,
            count(most),
        ];
        let fitting = fitting.into_iter().find(|text| text.chars().count() <= width);
        Span::styled(fitting.unwrap_or_default(), self.theme.dim)
    }

    fn bars(&self, points: &[(u64, u64)], area: Rect, buf: &mut Buffer) {
        let units = u64::from(area.height) * EIGHTHS;
        let top = u128::from(self.top.max(1));
        // Rounded up, so that a single slot in use is seen.
        let height = |used: u64| u64::try_from((u128::from(used) * u128::from(units)).div_ceil(top)).unwrap_or(units);
        let data: Vec<u64> = resample(points, self.span_ns, area.width.into()).into_iter().map(height).collect();
        Sparkline::default().data(&data).max(units).style(self.theme.bar).render(area, buf);
    }

    /// A dashed line where the pool ends, wherever no bar stands; on `above` the bars when the scale ends there, too.
    fn pool_line(&self, slots: u64, above: Rect, bars: Rect, buf: &mut Buffer) {
        if slots == 0 || slots > self.top {
            return;
        }
        let below = u128::from(slots) * u128::from(bars.height) / u128::from(self.top.max(1));
        let below = u16::try_from(below).unwrap_or(bars.height);
        let y = if below < bars.height {
            bars.bottom() - 1 - below
        } else if above.is_empty() {
            return;
        } else {
            above.y
        };
        for x in bars.left()..bars.right() {
            if let Some(cell) = buf.cell_mut((x, y)).filter(|cell| cell.symbol() == " ") {
                cell.set_symbol("┄").set_style(self.theme.dim);
            }
        }
    }

    fn axis(&self, area: Rect, buf: &mut Buffer) {
        Line::styled("─".repeat(area.width.into()), self.theme.dim).render(area, buf);
        let marks = [(self.now_ns, "▲", self.theme.strong), (self.first_refusal, "×", self.theme.bad)];
        for (time, symbol, style) in marks.into_iter().filter_map(|(time, symbol, style)| Some((time?, symbol, style)))
        {
            let at = u16::try_from(column(time, self.span_ns, area.width.into())).unwrap_or(0);
            if let Some(cell) = buf.cell_mut((area.x.saturating_add(at), area.y)) {
                cell.set_symbol(symbol).set_style(style);
            }
        }
    }
}

impl Widget for Panel<'_> {
    fn render(self, area: Rect, buf: &mut Buffer) {
        let extra = u16::from(area.height >= ROOMY);
        let [name, figures, above, bars, axis] = area.layout(&Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(extra),
            Constraint::Length(extra),
            Constraint::Fill(1),
            Constraint::Length(1),
        ]));
        let width = usize::from(area.width);
        if extra > 0 {
            let room = width.saturating_sub(self.name().width() + 1);
            let apart = Span::styled(format!(" {}", cut(self.apart, room)), self.theme.dim);
            Line::from(vec![self.name(), apart]).render(name, buf);
            self.figures(width).render(figures, buf);
        } else {
            let room = width.saturating_sub(self.name().width() + 2);
            Line::from(vec![self.name(), "  ".into(), self.figures(room)]).render(name, buf);
        }
        self.axis(axis, buf);
        match self.curve {
            Some(curve) if peak(curve) > 0 => {
                self.bars(&curve.points, bars, buf);
                self.pool_line(curve.slots, above, bars, buf);
            }
            empty => {
                let why = if empty.is_some() { "no slot was used" } else { "no curve" };
                let middle = Rect { y: bars.y + bars.height / 2, height: bars.height.min(1), ..bars };
                Line::styled(why, self.theme.dim).centered().render(middle, buf);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_peak_survives_in_its_column() {
        let points = [(0, 1), (40, 900), (41, 2), (80, 0)];
        assert_eq!(resample(&points, 100, 5), [1, 1, 900, 2, 0]);
    }

    #[test]
    fn times_beyond_the_span_land_in_the_last_column() {
        assert_eq!(resample(&[(0, 1), (500, 7)], 100, 4), [1, 1, 1, 7]);
        assert_eq!(resample(&[(0, 3)], 0, 2), [3, 0]);
        assert_eq!(resample(&[(0, 3)], 10, 0), Vec::<u64>::new());
    }

    #[test]
    fn a_pool_that_is_hardly_used_gets_a_scale_of_its_own() {
        let curve = |used| Curve { pool: "pool".into(), slots: 1000, points: vec![(0, used)] };
        assert_eq!(own_top(&curve(10)), 10);
        assert_eq!(own_top(&curve(500)), 1000);
    }
}
