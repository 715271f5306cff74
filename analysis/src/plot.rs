//! Plots: a chart in data, drawn as SVG for a page or as PNG for a mail.
//!
//! An SVG's colours are CSS variables with a light and a dark value, so that it follows the page it stands in, and the
//! reader's system where it stands alone. A PNG has the light ones on white.

mod space;

use std::sync::OnceLock;

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters::element::{Circle, EmptyElement, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontStyle, IntoTextStyle as _, RGBColor, ShapeStyle, TextStyle, register_font};
use trace::Unit;

use space::{Space, Ticked};

/// Why a plot could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The built-in font was refused.
    #[error("the font that is built in cannot be read; please report this")]
    Font,
    /// Too small for its own labels.
    #[error("a plot of {width} × {height} pixels is too small: it takes {} × {} at least", LEAST.0, LEAST.1)]
    TooSmall {
        /// Width asked for.
        width: u32,
        /// Height asked for.
        height: u32,
    },
    /// The drawing library gave up.
    #[error("the plot could not be drawn: {0}")]
    Draw(String),
    /// The picture could not be encoded.
    #[error("the plot could not be written as PNG")]
    Png(#[from] png::EncodingError),
}

/// Smallest picture there is room for labels in, in pixels.
pub const LEAST: (u32, u32) = (240, 120);

/// A chart: curves or bars over two axes, with marks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What it shows, above it.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upward.
    pub y: Axis,
    /// What is drawn, first to last.
    pub series: Vec<Series>,
    /// What is pointed out.
    pub marks: Vec<Mark>,
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it measures, in a word or two.
    pub label: String,
    /// How its numbers are written.
    pub unit: Unit,
    /// How they are spaced.
    pub scale: Scale,
    /// From where to where; from the data when nothing is said, then with 0 on a linear upward axis.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// A linear axis over its data.
    #[must_use]
    pub fn new(label: impl Into<String>, unit: Unit) -> Self {
        Self { label: label.into(), unit, scale: Scale::Linear, range: None }
    }

    /// The same, doubling at equal steps.
    #[must_use]
    pub fn doubling(self) -> Self {
        Self { scale: Scale::Log2, ..self }
    }

    /// The same, from here to there.
    #[must_use]
    pub fn over(self, from: f64, to: f64) -> Self {
        Self { range: Some((from, to)), ..self }
    }
}

impl Default for Axis {
    fn default() -> Self {
        Self::new("", Unit::Count)
    }
}

/// How an axis is spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// By powers of two. There is room for 0, a step below 1.
    Log2,
}

/// Points that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name, for the legend; there is none when a chart has one series.
    pub name: String,
    /// How it is drawn.
    pub kind: Kind,
    /// Its colour.
    pub tone: Tone,
    /// x and y, by rising x. Points that are no numbers are left out.
    pub points: Vec<(f64, f64)>,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// From point to point, each point dotted.
    Line,
    /// A value holds until the next.
    Step,
    /// As a step, with the space below it filled.
    Area,
    /// A bar from each point's x, so wide: in the axis' unit, or in doublings on [`Scale::Log2`].
    Bars(f64),
}

/// Something pointed out.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Where.
    pub at: At,
    /// In a word or two.
    pub label: String,
    /// Its colour.
    pub tone: Tone,
}

/// Where a mark is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// A line upward.
    X(f64),
    /// A line across.
    Y(f64),
    /// A dot.
    Point(f64, f64),
}

macro_rules! tones {
    ($($(#[$doc:meta])* $tone:ident = $name:literal, $light:literal, $dark:literal;)*) => {
        /// A colour by what it means; each has a light and a dark value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Tone { $($(#[$doc])* $tone),* }

        impl Tone {
            /// Every tone.
            pub const ALL: &'static [Self] = &[$(Self::$tone),*];

            /// Its name in the CSS variable `--plot-NAME`.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$tone => $name),* } }

            /// On white, as 0xRRGGBB.
            #[must_use]
            pub const fn light(self) -> u32 { match self { $(Self::$tone => $light),* } }

            /// On black, as 0xRRGGBB.
            #[must_use]
            pub const fn dark(self) -> u32 { match self { $(Self::$tone => $dark),* } }
        }
    };
}
tones! {
    /// Titles.
    Ink = "ink", 0x1F_23_28, 0xE6_ED_F3;
    /// Labels.
    Faint = "faint", 0x59_63_6E, 0x91_98_A1;
    /// Lines behind the data.
    Grid = "grid", 0xD8_DE_E4, 0x30_36_3D;
    /// The first series.
    Blue = "blue", 0x0B_62_C4, 0x58_A6_FF;
    /// The second.
    Orange = "orange", 0xB3_59_00, 0xF0_88_3E;
    /// The third.
    Green = "green", 0x1A_7F_37, 0x3F_B9_50;
    /// The fourth.
    Purple = "purple", 0x7B_3F_C0, 0xBC_8C_FF;
    /// The fifth.
    Teal = "teal", 0x0E_7C_86, 0x39_C5_CF;
    /// The sixth.
    Pink = "pink", 0xB4_30_6E, 0xFF_7E_B6;
    /// What went wrong.
    Red = "red", 0xCF_22_2E, 0xFF_7B_72;
}

impl Tone {
    /// The colour of the series at a position; the seventh is the first again.
    #[must_use]
    pub fn of_series(position: usize) -> Self {
        [Self::Blue, Self::Orange, Self::Green, Self::Purple, Self::Teal, Self::Pink][position % 6]
    }

    fn rgb(self) -> RGBColor {
        let [_, r, g, b] = self.light().to_be_bytes();
        RGBColor(r, g, b)
    }
}

/// The style sheet of every SVG of [`Chart::inline_svg`]: for the page they stand in.
#[must_use]
pub fn style() -> String {
    let variables = |value: fn(Tone) -> u32| {
        Tone::ALL.iter().map(|&tone| format!("--plot-{}:#{:06x};", tone.name(), value(tone))).collect::<String>()
    };
    let rules = Tone::ALL.iter().map(|tone| {
        let name = tone.name();
        format!(".plot-f-{name}{{fill:var(--plot-{name})}}.plot-s-{name}{{stroke:var(--plot-{name})}}")
    });
    format!(
        ".plot{{{light}}}@media screen and (prefers-color-scheme:dark){{.plot{{{dark}}}}}{}.plot text{{font-family:system-ui,sans-serif}}",
        rules.collect::<String>(),
        light = variables(Tone::light),
        dark = variables(Tone::dark),
    )
}

impl Chart {
    /// The chart as a file of its own: with its style sheet.
    ///
    /// # Errors
    /// When it is smaller than [`LEAST`].
    pub fn svg(&self, width: u32, height: u32) -> Result<String, PlotError> {
        let svg = self.inline_svg(width, height)?;
        Ok(svg.replacen('>', &format!("><style>{}</style>", style()), 1))
    }

    /// The chart for a page that has [`style`].
    ///
    /// # Errors
    /// When it is smaller than [`LEAST`].
    pub fn inline_svg(&self, width: u32, height: u32) -> Result<String, PlotError> {
        let mut svg = String::new();
        self.draw_on(&SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area())?;
        let label: String = self.title.chars().filter(|c| !c.is_control() && !"<>&\"'".contains(*c)).collect();
        let mut out = svg.replacen("<svg ", &format!("<svg class=\"plot\" role=\"img\" aria-label=\"{label}\" "), 1);
        // The colours stay as attributes, for viewers without style sheets; a class comes before an attribute.
        for tone in Tone::ALL {
            let colour = format!("{:06X}", tone.light());
            for (attribute, class) in [("fill", 'f'), ("stroke", 's')] {
                let plain = format!("{attribute}=\"#{colour}\"");
                out = out.replace(&plain, &format!("class=\"plot-{class}-{}\" {plain}", tone.name()));
            }
        }
        Ok(out)
    }

    /// The chart as a PNG file, light on white.
    ///
    /// # Errors
    /// When it is smaller than [`LEAST`].
    pub fn png(&self, width: u32, height: u32) -> Result<Vec<u8>, PlotError> {
        let mut pixels = vec![u8::MAX; width as usize * height as usize * 3];
        self.draw_on(&BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area())?;
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&pixels)?;
        writer.finish()?;
        Ok(file)
    }

    fn draw_on<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), PlotError> {
        let (width, height) = area.dim_in_pixel();
        if width < LEAST.0 || height < LEAST.1 {
            return Err(PlotError::TooSmall { width, height });
        }
        font()?;
        self.draw(area).map_err(|error| PlotError::Draw(error.to_string()))
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        let (width, height) = area.dim_in_pixel();
        let (x, y) = (Space::of(self, true, width / 90), Space::of(self, false, height / 40));
        let label = text(Tone::Faint, 13.0);
        area.draw_text(&clean(&self.title), &text(Tone::Ink, 17.0), (8, 8))?;
        area.draw_text(&clean(&self.y.label), &label, (8, 30))?;
        self.legend(area)?;

        let y_ticks = y.ticks();
        let widest = y_ticks.iter().filter_map(|&at| area.estimate_text_size(&y.label(at), &label).ok());
        let widest = widest.map(|(width, _)| width).max().unwrap_or(0);
        let mut chart = ChartBuilder::on(area)
            .margin_top(54)
            .margin_right(36)
            .margin_bottom(4)
            .margin_left(6)
            .x_label_area_size(if self.x.label.is_empty() { 24 } else { 42 })
            .y_label_area_size(widest + 16)
            .build_cartesian_2d(Ticked::of(&x), Ticked::of(&y))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(line(Tone::Grid, 1))
            .axis_style(line(Tone::Grid, 1))
            .label_style(label.clone())
            .axis_desc_style(label.clone())
            .x_desc(clean(&self.x.label))
            .x_label_formatter(&|at| x.label(*at))
            .y_label_formatter(&|at| y.label(*at))
            .draw()?;
        for series in &self.series {
            draw_series(&mut chart, series, &x, &y)?;
        }
        for mark in &self.marks {
            draw_mark(&mut chart, mark, &x, &y)?;
        }
        area.present()
    }

    /// The names of the series, right above the plot.
    fn legend<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<B> {
        if self.series.len() < 2 {
            return Ok(());
        }
        let mut right = area.dim_in_pixel().0 as i32 - 36;
        for series in self.series.iter().rev().filter(|series| !series.name.is_empty()) {
            let style = text(Tone::Faint, 13.0).pos(Pos::new(HPos::Right, VPos::Top));
            let name = clean(&series.name);
            area.draw_text(&name, &style, (right, 30))?;
            right -= area.estimate_text_size(&name, &style)?.0 as i32 + 18;
            area.draw(&Rectangle::new([(right, 32), (right + 11, 41)], series.tone.rgb().filled()))?;
            right -= 14;
        }
        Ok(())
    }
}

type Drawn<B> = Result<(), plotters::drawing::DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;
type Plane = Cartesian2d<Ticked, Ticked>;

fn draw_series<B: DrawingBackend>(
    chart: &mut ChartContext<'_, B, Plane>,
    series: &Series,
    x: &Space<'_>,
    y: &Space<'_>,
) -> Drawn<B> {
    let colour = series.tone.rgb();
    let points: Vec<_> = numbers(series).map(|(at, up)| (x.place(at), y.place(up))).collect();
    let Some(&last) = points.last() else { return Ok(()) };
    let floor = y.within.start;
    match series.kind {
        Kind::Line => {
            chart.draw_series([PathElement::new(points.clone(), line(series.tone, 2))])?;
            chart.draw_series(points.iter().map(|&at| Circle::new(at, 3, colour.filled())))?;
        }
        Kind::Step | Kind::Area => {
            let mut steps = Vec::with_capacity(points.len() * 2 + 1);
            for pair in points.windows(2) {
                steps.extend([pair[0], (pair[1].0, pair[0].1)]);
            }
            steps.extend([last, (x.within.end.max(last.0), last.1)]);
            if series.kind == Kind::Area {
                let (from, to) = (steps[0].0, steps[steps.len() - 1].0);
                let below = [(to, floor), (from, floor)];
                let shape: Vec<_> = steps.iter().copied().chain(below).collect();
                chart.draw_series([Polygon::new(shape, colour.mix(0.18).filled())])?;
            }
            chart.draw_series([PathElement::new(steps, line(series.tone, 2))])?;
        }
        Kind::Bars(wide) => {
            // A hair's breadth between bars.
            let gap = (x.within.end - x.within.start) * 0.002;
            let bar = |&(from, up): &(f64, f64)| {
                Rectangle::new([(from + gap, floor), ((from + wide - gap).max(from), up)], colour.filled())
            };
            chart.draw_series(points.iter().filter(|point| point.1 > floor).map(bar))?;
        }
    }
    Ok(())
}

fn draw_mark<B: DrawingBackend>(
    chart: &mut ChartContext<'_, B, Plane>,
    mark: &Mark,
    x: &Space<'_>,
    y: &Space<'_>,
) -> Drawn<B> {
    let style = line(mark.tone, 1);
    let middle = f64::midpoint(x.within.start, x.within.end);
    // What lies to the right has its words to the left of it.
    let side = |at: f64| if at > middle { HPos::Right } else { HPos::Left };
    let (at, anchor, off) = match mark.at {
        At::X(at) => {
            let at = x.place(at);
            chart.draw_series([PathElement::new(vec![(at, y.within.start), (at, y.within.end)], style)])?;
            let side = side(at);
            ((at, y.within.end), Pos::new(side, VPos::Top), (if matches!(side, HPos::Left) { 5 } else { -5 }, 2))
        }
        At::Y(up) => {
            let up = y.place(up);
            chart.draw_series([PathElement::new(vec![(x.within.start, up), (x.within.end, up)], style)])?;
            let below = up > y.within.start + (y.within.end - y.within.start) * 0.9;
            let (v_pos, down) = if below { (VPos::Top, 4) } else { (VPos::Bottom, -3) };
            ((x.within.end, up), Pos::new(HPos::Right, v_pos), (-4, down))
        }
        At::Point(at, up) => {
            let place = (x.place(at), y.place(up));
            chart.draw_series([Circle::new(place, 4, mark.tone.rgb().filled())])?;
            (place, Pos::new(side(place.0), VPos::Bottom), (0, -8))
        }
    };
    let words = Text::new(clean(&mark.label), off, text(mark.tone, 13.0).pos(anchor));
    chart.draw_series([EmptyElement::at(at) + words])?;
    Ok(())
}

fn numbers(series: &Series) -> impl Iterator<Item = (f64, f64)> + '_ {
    series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite())
}

/// Without what no picture can have.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn line(tone: Tone, width: u32) -> ShapeStyle {
    tone.rgb().stroke_width(width)
}

fn text(tone: Tone, size: f64) -> TextStyle<'static> {
    (FAMILY, size * 1.24).with_color(tone.rgb()).into_text_style(&(0, 0))
}

const FAMILY: &str = "sans-serif";

/// Registers the font by which texts are measured and, in PNG, drawn; once.
fn font() -> Result<(), PlotError> {
    static READY: OnceLock<bool> = OnceLock::new();
    let register = || register_font(FAMILY, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_ok();
    if *READY.get_or_init(register) { Ok(()) } else { Err(PlotError::Font) }
}

#[cfg(test)]
mod tests;
