//! Where values go on an axis, where its labels stand, and what they say.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use trace::Unit;
use trace::field::{bytes, count};

use super::{At, Axis, Chart, Kind, Scale, numbers};

/// An axis with its data: where a value goes.
pub(super) struct Space<'a> {
    axis: &'a Axis,
    /// In places, not in values.
    pub(super) within: Range<f64>,
    /// How many labels there is room for.
    room: f64,
}

impl<'a> Space<'a> {
    pub(super) fn of(chart: &'a Chart, across: bool, room: u32) -> Self {
        let axis = if across { &chart.x } else { &chart.y };
        let room = f64::from(room.clamp(2, 12));
        let own = Self { axis, within: 0.0..1.0, room };
        let finite = |range: &(f64, f64)| range.0.is_finite() && range.1.is_finite();
        let mut places: Vec<f64> = if let Some((from, to)) = axis.range.filter(finite) {
            vec![own.place(from), own.place(to)]
        } else {
            let of_series = chart.series.iter().flat_map(|series| {
                numbers(series).flat_map(|(x, y)| {
                    let wide = if let Kind::Bars(wide) = series.kind { wide } else { 0.0 };
                    if across { [own.place(x), own.place(x) + wide] } else { [own.place(y); 2] }
                })
            });
            let of_marks = chart.marks.iter().filter_map(|mark| match (mark.at, across) {
                (At::X(x) | At::Point(x, _), true) => Some(own.place(x)),
                (At::Y(y) | At::Point(_, y), false) => Some(own.place(y)),
                _ => None,
            });
            let mut all: Vec<f64> = of_series.chain(of_marks).filter(|place| place.is_finite()).collect();
            if !across {
                all.push(if axis.scale == Scale::Linear { 0.0 } else { ZERO });
            }
            all
        };
        places.sort_by(f64::total_cmp);
        let (from, to) = (places.first().copied().unwrap_or(0.0), places.last().copied().unwrap_or(1.0));
        let mut to = if to > from { to } else { from + 1.0 };
        if !across && axis.range.is_none() {
            // Room above the highest point.
            to += (to - from) * 0.06;
        }
        Self { axis, within: from..to, room }
    }

    /// Where a value is.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.axis.scale {
            Scale::Linear => value,
            Scale::Log2 if value < 1.0 => ZERO,
            Scale::Log2 => value.log2(),
        }
    }

    /// The value at a place.
    pub(super) fn value(&self, place: f64) -> f64 {
        match self.axis.scale {
            Scale::Linear => place,
            Scale::Log2 if place < 0.0 => 0.0,
            Scale::Log2 => place.exp2(),
        }
    }

    /// Places with a label.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let (from, to) = (self.within.start, self.within.end);
        let step = match (self.axis.scale, self.axis.unit) {
            (Scale::Log2, _) => ((to - from) / self.room).ceil().max(1.0),
            (Scale::Linear, Unit::Bytes | Unit::Slots) => ((to - from) / self.room).max(1.0).log2().ceil().exp2(),
            (Scale::Linear, unit) => round_step((to - from) / self.room, unit),
        };
        // The place of 0 on a doubling axis has a label of its own.
        let zero = (self.axis.scale == Scale::Log2 && from <= ZERO).then_some(ZERO);
        let first = (from.max(zero.map_or(from, |_| 0.0)) / step).ceil();
        // At most as many as fit, whatever the arithmetic of very large numbers comes to.
        let others = (0..24).map(|i| (first + f64::from(i)) * step).take_while(|&at| at <= to);
        zero.into_iter().chain(others).collect()
    }

    pub(super) fn label(&self, place: f64) -> String {
        let value = self.value(place);
        // What is not negative and in the axis' range fits; it is for people, to three digits or so.
        let whole = value.round().max(0.0) as u64;
        match self.axis.unit {
            Unit::Bytes => bytes(whole),
            Unit::Time | Unit::Duration => short_duration(value),
            Unit::Ratio => format!("{} %", trimmed(value * 100.0)),
            Unit::Address | Unit::Mask | Unit::Frame => format!("{whole:#x}"),
            _ if value.fract().abs() > 1e-9 => trimmed(value),
            _ => count(whole),
        }
    }
}

/// An axis as the drawing library wants it: its labels stand where we say.
pub(super) struct Ticked {
    within: Range<f64>,
    ticks: Vec<f64>,
}

impl Ticked {
    pub(super) fn of(space: &Space<'_>) -> Self {
        Self { within: space.within.clone(), ticks: space.ticks() }
    }
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.within.start) / (self.within.end - self.within.start);
        limit.0 + (f64::from(limit.1 - limit.0) * share.clamp(0.0, 1.0)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _hint: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.within.clone()
    }
}

/// Where 0 is on a doubling axis.
const ZERO: f64 = -1.0;

/// The next of 1, 2, 5, 10, 20 …; of what is counted, whole numbers.
pub(super) fn round_step(least: f64, unit: Unit) -> f64 {
    let least = if unit == Unit::Ratio { least.max(1e-6) } else { least.max(1.0) };
    let power = 10f64.powf(least.log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| digit * power >= least * 0.999).unwrap_or(10.0);
    digit * power
}

/// Up to two decimals, no more than it takes.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub(super) fn short_duration(ns: f64) -> String {
    let (per, unit) = match ns {
        _ if ns < 1.0 => return "0".to_owned(),
        _ if ns < 1e3 => (1.0, "ns"),
        _ if ns < 1e6 => (1e3, "µs"),
        _ if ns < 1e9 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    // Three digits or so.
    let value = ns / per;
    let rounded = if value >= 100.0 { value.round() } else { (value * 10.0).round() / 10.0 };
    format!("{} {unit}", trimmed(if value < 10.0 { value } else { rounded }))
}
