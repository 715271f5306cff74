//! The report as one page for a browser: no scripts, nothing loaded from elsewhere, light or dark as the reader has it, and
//! fit for paper.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use trace::field::{Record, Type, Unit, bytes, count, duration};
use trace::pool::SLOT_BYTES;

use super::Report;
use super::findings::{Finding, Severity};
use super::rows::{BarRow, FidelityRow};
use crate::plot::{self, At, Axis, Chart, Kind, Mark, PlotError, Series, Tone};

/// Width of a plot across the page, in pixels.
const WIDE: (u32, u32) = (1040, 250);
/// And of one of two side by side.
const HALF: (u32, u32) = (508, 220);

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(report: &Report) -> Result<String, PlotError> {
    let trace = &report.trace;
    let sections = [
        ("Why mappings bounced", table(&report.reasons, &[]), "No mapping bounced."),
        (
            "Refused requests",
            table(
                &report.failures,
                &["device", "driver", "cause", "failures", "largest", "first_ns", "explanation", "stack"],
            ),
            "Nothing was refused.",
        ),
        ("Devices", table(&report.devices, &[]), "No device did anything."),
    ];
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "swioscope: " (trace.name) }
                style { (PreEscaped(STYLE)) (PreEscaped(plot::style())) }
            }
            body {
                header {
                    p.kicker { "swioscope report" }
                    h1 { (trace.name) }
                    p.facts { (facts(report)) }
                    @if !trace.cmdline.is_empty() { p.facts { code { (trace.cmdline) } } }
                }
                main {
                    section.verdict {
                        @for (at, finding) in report.verdict.iter().enumerate() { (one(finding, at == 0)) }
                    }
                    @for (title, content, none) in sections {
                        section { h2 { (title) } @match content { Some(content) => (content), None => p.none { (none) } } }
                    }
                    section { h2 { "The pool over time" } (pool(report)?) }
                    section {
                        h2 { "Who holds slots" }
                        @match table(&report.holders, &[]) {
                            Some(content) => {
                                (content)
                                p.small {
                                    "Standing: taken in the first half of the trace so far, or before it. A leak goes on \
                                     taking and keeping all through the trace; a ring is filled once."
                                }
                            }
                            None => p.none { "Nobody held slots at the end." }
                        }
                    }
                    @if let Some(content) = table(&report.areas, &[]) {
                        section {
                            h2 { "Areas" }
                            (content)
                            p.small { "Stolen: allocated in this area for CPUs whose own area is another." }
                        }
                    }
                    section {
                        h2 { "How long and how large" }
                        div.pair { (histograms(report)?) }
                        @if let Some(content) = table(&report.latencies, &[]) { (content) }
                        @if let Some(content) = table(&report.sizes, &[]) { (content) }
                    }
                    @if let Some(content) = table(&report.reach, &[]) {
                        section { h2 { "Who reaches the pool" } (content) }
                    }
                    section {
                        h2 { "How far this may be trusted" }
                        (fidelity(&report.fidelity))
                        @if !report.notes.is_empty() { ul.notes { @for note in &report.notes { li { (note) } } } }
                    }
                }
                footer { p { "Written by swioscope " (env!("CARGO_PKG_VERSION")) ". All times are from the start of the recording." } }
            }
        }
    };
    Ok(markup.into_string())
}

fn facts(report: &Report) -> String {
    let trace = &report.trace;
    let xen = trace.xen.as_ref().map_or_else(String::new, |xen| format!(" · Xen {xen}"));
    let host = if trace.host.is_empty() { String::new() } else { format!("{} · ", trace.host) };
    let lost = match report.summary.lost {
        0 => "none lost".to_owned(),
        lost => format!("{} lost", count(lost)),
    };
    let ran = if trace.workload.is_empty() { String::new() } else { format!(" · {}", trace.workload) };
    format!(
        "{host}Linux {}{xen} · {} · {} events · {lost}{ran}",
        trace.release,
        duration(trace.duration_ns),
        count(report.summary.events)
    )
}

fn one(finding: &Finding, first: bool) -> Markup {
    let severity = finding.severity.name();
    html! {
        article class=(format!("finding {severity}{}", if first { " first" } else { "" })) {
            p.class { span.word { (finding.class.name()) } " " span.severity { (severity) } }
            @if first { h2 { (finding.title) } } @else { h3 { (finding.title) } }
            @if !finding.evidence.is_empty() {
                ul { @for sentence in &finding.evidence { li { (sentence) } } }
            }
            @if !finding.next.is_empty() {
                p.next { @if finding.severity == Severity::Clear { "If you like" } @else { "Next" } }
                ul.next { @for step in &finding.next { li { (command(step)) } } }
            }
        }
    }
}

/// A step with its command, if it has one, set as such.
fn command(step: &str) -> Markup {
    match step.find("swioscope ").or_else(|| step.find("dmesg ")) {
        Some(at) => html! { (step[..at]) code { (step[at..]) } },
        None => html! { (step) },
    }
}

/// Rows as a table of the columns named, or of all; columns that are empty or zero in every row are left out.
fn table<R: Record>(rows: &[R], names: &[&str]) -> Option<Markup> {
    use trace::field::Value;
    if rows.is_empty() {
        return None;
    }
    let zero = |value: Value<'_>| matches!(value, Value::Null | Value::U64(0)) || value == Value::F64(0.0);
    let says = |i: &usize| rows.iter().any(|row| !zero(row.value(*i)));
    let named = |i: &usize| names.is_empty() || names.contains(&R::FIELDS[*i].name);
    let shown: Vec<usize> = (0..R::FIELDS.len()).filter(named).filter(says).collect();
    let class = |i: usize| if R::FIELDS[i].ty == Type::Text { "text" } else { "number" };
    Some(html! {
        div.scroll {
            table {
                thead { tr {
                    @for &i in &shown {
                        th class=(class(i)) title=(R::FIELDS[i].doc) { (R::FIELDS[i].name.trim_end_matches("_ns").replace('_', " ")) }
                    }
                } }
                tbody {
                    @for row in rows {
                        tr { @for &i in &shown { td class=(class(i)) { (R::FIELDS[i].show(&row.value(i)).to_string()) } } }
                    }
                }
            }
        }
    })
}

fn pool(report: &Report) -> Result<Markup, PlotError> {
    let rows = &report.occupancy;
    if rows.is_empty() || report.summary.pool_slots == 0 {
        return Ok(html! { p.none { "The trace does not tell." } });
    }
    let (from, to) = (rows[0].time_ns as f64, rows[0].time_ns.saturating_add(report.trace.span_ns) as f64);
    let axis = || Axis::new("", Unit::Time).over(from, to);
    let refusals = report.failures.iter().map(|row| row.first_ns).min();
    let marks = refusals.map(|at| Mark { at: At::X(at as f64), label: "first refusal".to_owned(), tone: Tone::Red });
    let slots = report.summary.pool_slots;
    // A pool far above its use would press the curve flat; then it is said in words.
    let near = report.summary.peak_slots * 4 >= slots;
    let whole =
        Mark { at: At::Y(slots as f64), label: format!("the pool: {} slots", count(slots)), tone: Tone::Orange };
    let used = Chart {
        title: format!("Slots in use, of {} ({})", count(slots), bytes(slots.saturating_mul(SLOT_BYTES))),
        x: axis(),
        y: Axis::new("slots", Unit::Slots),
        series: vec![Series {
            name: "in use".to_owned(),
            kind: Kind::Area,
            tone: Tone::Blue,
            points: rows.iter().map(|row| (row.time_ns as f64, row.used as f64)).collect(),
        }],
        marks: near.then_some(whole).into_iter().chain(marks.clone()).collect(),
    };
    let free: Vec<_> = rows.iter().filter_map(|row| Some((row.time_ns as f64, row.free_segments? as f64))).collect();
    let runs: Vec<_> = rows.iter().filter_map(|row| Some((row.time_ns as f64, f64::from(row.largest_run?)))).collect();
    let curve = |title: String, label: &str, tone: Tone, points: Vec<(f64, f64)>| Chart {
        title,
        x: axis(),
        y: Axis::new(label, Unit::Count),
        series: vec![Series { name: String::new(), kind: Kind::Step, tone, points }],
        marks: marks.iter().cloned().collect(),
    };
    let segments = curve(
        format!("Segments free from end to end, of {}", count(slots / 128)),
        "segments of 128 slots",
        Tone::Green,
        free,
    );
    let largest = curve("The longest free run".to_owned(), "slots", Tone::Purple, runs);
    let (wide, half) = (used.inline_svg(WIDE.0, WIDE.1)?, |chart: &Chart| chart.inline_svg(HALF.0, HALF.1));
    Ok(html! {
        figure { (PreEscaped(wide)) }
        @if rows.iter().any(|row| row.free_segments.is_some()) {
            div.pair { figure { (PreEscaped(half(&segments)?)) } figure { (PreEscaped(half(&largest)?)) } }
        }
    })
}

fn histograms(report: &Report) -> Result<Markup, PlotError> {
    let mut figures = Vec::new();
    for (of, title, unit) in [
        ("mapped_size", "Sizes of mappings", Unit::Bytes),
        ("bounced_size", "Sizes of bounced mappings", Unit::Bytes),
        ("slot_alloc_latency_ns", "Time of a slot allocation, its copy included", Unit::Duration),
        ("bounce_life_ns", "Lifetimes of bounce buffers", Unit::Duration),
    ] {
        let bars: Vec<&BarRow> = report.histograms.iter().filter(|bar| bar.of == of).collect();
        if bars.is_empty() {
            continue;
        }
        let chart = Chart {
            title: title.to_owned(),
            x: Axis::new("", unit).doubling(),
            y: Axis::new("how many", Unit::Count),
            series: vec![Series {
                name: String::new(),
                kind: Kind::Bars(1.0),
                tone: Tone::Blue,
                points: bars.iter().map(|bar| (bar.from as f64, bar.count as f64)).collect(),
            }],
            marks: Vec::new(),
        };
        figures.push(chart.inline_svg(HALF.0, HALF.1)?);
    }
    Ok(html! { @for figure in figures { figure { (PreEscaped(figure)) } } })
}

fn fidelity(row: &FidelityRow) -> Markup {
    html! {
        dl {
            @for (i, field) in FidelityRow::FIELDS.iter().enumerate() {
                div { dt title=(field.doc) { (field.name.replace('_', " ")) } dd { (field.show(&row.value(i)).to_string()) } }
            }
        }
    }
}

/// Plain, with the colours of both schemes as variables.
const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--faint:#59636e;--line:#d8dee4;--soft:#f6f8fa;--link:#0b62c4;\
--problem:#cf222e;--warning:#9a6700;--info:#0b62c4;--clear:#1a7f37}\
@media screen and (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--faint:#9198a1;--line:#30363d;--soft:#161b22;--link:#58a6ff;\
--problem:#ff7b72;--warning:#d29922;--info:#58a6ff;--clear:#3fb950}}\
*{box-sizing:border-box}\
body{margin:0 auto;padding:2.5rem 1.5rem 4rem;max-width:68rem;background:var(--paper);color:var(--ink);\
font:16px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;font-variant-numeric:tabular-nums}\
header{border-bottom:1px solid var(--line);padding-bottom:1rem;margin-bottom:1.5rem}\
.kicker{margin:0;color:var(--faint);font-size:.85rem;letter-spacing:.06em;text-transform:uppercase}\
h1{margin:.1rem 0 .4rem;font-size:1.9rem;line-height:1.2;overflow-wrap:anywhere}\
h2{margin:2.2rem 0 .8rem;font-size:1.25rem;line-height:1.3}h3{margin:.1rem 0 .4rem;font-size:1.05rem;line-height:1.4}\
.facts{margin:.2rem 0;color:var(--faint);font-size:.92rem;overflow-wrap:anywhere}\
code{font:.88em ui-monospace,'SF Mono',Menlo,Consolas,monospace;background:var(--soft);border-radius:4px;padding:.1em .35em;overflow-wrap:anywhere}\
.finding{border-left:4px solid var(--tone);background:var(--soft);border-radius:0 6px 6px 0;padding:.7rem 1.1rem .8rem;margin:0 0 .8rem}\
.finding.problem{--tone:var(--problem)}.finding.warning{--tone:var(--warning)}.finding.info{--tone:var(--info)}.finding.clear{--tone:var(--clear)}\
.finding.first{padding:1rem 1.3rem}.finding.first h2{margin:.1rem 0 .5rem;font-size:1.4rem}\
.finding ul{margin:.3rem 0;padding-left:1.2rem}.finding li{margin:.15rem 0}\
.class{margin:0;font-size:.8rem;letter-spacing:.05em}.word{color:var(--tone);font-weight:700}.severity{color:var(--faint)}\
p.next{margin:.6rem 0 .1rem;font-size:.8rem;letter-spacing:.05em;text-transform:uppercase;color:var(--faint)}\
.scroll{overflow-x:auto;margin:.6rem 0}\
table{border-collapse:collapse;font-size:.88rem;min-width:100%}\
th,td{padding:.32rem .9rem .32rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}\
th{color:var(--faint);font-weight:600;vertical-align:bottom;border-bottom-width:2px}\
td.number,th.number{text-align:right}td.number{white-space:nowrap}td:first-child{white-space:nowrap}\
th[title],dt[title]{cursor:help}\
figure{margin:.4rem 0}figure svg{display:block;max-width:100%;height:auto}\
.pair{display:flex;flex-wrap:wrap;gap:.5rem 1rem}.pair figure{flex:1 1 24rem}\
.small,.notes,.none,footer{color:var(--faint);font-size:.9rem}\
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:.4rem 1.5rem;margin:.6rem 0}\
dl div{display:flex;justify-content:space-between;border-bottom:1px solid var(--line);gap:1rem}dt{color:var(--faint)}dd{margin:0}\
footer{border-top:1px solid var(--line);margin-top:2.5rem}\
@media print{body{max-width:none;padding:0;font-size:10.5pt}.finding,figure,tr{break-inside:avoid}h2,h3{break-after:avoid}\
.scroll{overflow:visible}table{font-size:8.5pt}td.number,th.number,th{white-space:normal}.finding{border:1px solid var(--line);border-left:4px solid var(--tone)}\
@page{margin:1.6cm}}";
