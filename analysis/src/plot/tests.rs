//! Charts as pictures: what stands where, and what no chart may bring down.

use super::space::{round_step, short_duration};
use super::*;

fn chart() -> Chart {
    Chart {
        title: "Slots <in use>".to_owned(),
        x: Axis::new("time", Unit::Time).over(0.0, 10e9),
        y: Axis::new("slots", Unit::Slots),
        series: vec![
            Series {
                name: "used".to_owned(),
                kind: Kind::Area,
                tone: Tone::Blue,
                points: vec![(0.0, 3.0), (2e9, 700.0), (4e9, f64::NAN), (6e9, 20.0)],
            },
            Series {
                name: "free".to_owned(),
                kind: Kind::Line,
                tone: Tone::Orange,
                points: vec![(0.0, 509.0), (2e9, 12.0)],
            },
        ],
        marks: vec![Mark { at: At::Y(1024.0), label: "pool".to_owned(), tone: Tone::Red }],
    }
}

#[test]
fn an_svg_follows_its_page_and_escapes_what_it_quotes() {
    let svg = chart().inline_svg(640, 240).unwrap();
    assert!(svg.starts_with("<svg class=\"plot\" role=\"img\" aria-label=\"Slots in use\" "));
    assert!(svg.contains("Slots &lt;in use&gt;"), "{svg}");
    assert!(svg.contains("class=\"plot-f-blue\"") && svg.contains("class=\"plot-s-red\""));
    assert!(!svg.contains("NaN") && !svg.contains("<style>"));
    for label in ["256", "1,024", "2 s", "10 s", "used", "free", "pool"] {
        assert!(svg.lines().any(|line| line.trim() == label), "{label} in {svg}");
    }
    let alone = chart().svg(640, 240).unwrap();
    assert!(alone.contains("prefers-color-scheme:dark") && alone.contains("--plot-blue:#58a6ff"));
}

#[test]
fn a_png_is_one() {
    let png = chart().png(640, 240).unwrap();
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
}

#[test]
fn what_is_empty_flat_or_small_is_no_accident() {
    assert!(Chart::default().svg(640, 240).is_ok());
    let mut flat = chart();
    flat.x.range = None;
    for series in &mut flat.series {
        series.points = vec![(5.0, 0.0)];
    }
    flat.marks.clear();
    assert!(!flat.svg(640, 240).unwrap().contains("NaN"));
    assert!(matches!(Chart::default().svg(20, 20), Err(PlotError::TooSmall { .. })));
}

#[test]
fn a_doubling_axis_has_room_for_nothing() {
    let mut chart = chart();
    chart.y = Axis::new("refused", Unit::Count).doubling();
    chart.series[0].points = vec![(0.0, 0.0), (1e9, 900.0)];
    let space = Space::of(&chart, false, 8);
    assert_eq!((space.place(0.0), space.place(1.0), space.place(1024.0)), (-1.0, 0.0, 10.0));
    assert_eq!((space.label(-1.0), space.label(10.0)), ("0".to_owned(), "1,024".to_owned()));
}

#[test]
fn steps_are_round_in_their_unit() {
    assert_eq!(round_step(17.0, Unit::Count), 20.0);
    assert_eq!(round_step(0.3, Unit::Count), 1.0);
    assert_eq!(round_step(0.03, Unit::Ratio), 0.05);
    assert_eq!([1.5e6, 16.777e6, 262.144e3].map(short_duration), ["1.5 ms", "16.8 ms", "262 µs"]);
}
