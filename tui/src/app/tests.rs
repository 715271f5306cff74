//! The application over a small trace: keys, screens, seeking.

use std::io;
use std::path::Path;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::style::Color;
use replay::moment::{Around, Moment};
use trace::{Feed, Trace};

use super::action::KEYS;
use super::state::{Ask, Popup, Prompt};
use super::*;
use crate::terminal::{self, Input};

const PLAIN: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (160, 50);

/// The sample that is shipped.
fn sample() -> Trace {
    Trace::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/dom0-nvme.swio")).unwrap()
}

fn app(trace: Trace) -> App {
    let options =
        ViewOptions { policies: vec!["v6_10".to_owned(), "v6_10:nslabs=1024".to_owned()], ..ViewOptions::default() };
    let mut app = App::indexed(trace, options, Theme::COLOUR);
    settle(&mut app);
    app
}

fn key(code: KeyCode) -> Event {
    Event::Key(KeyEvent::from(code))
}

/// Presses keys: characters as they are, `\n` for Enter, `\t` for Tab, `\x1b` for Esc.
fn press(app: &mut App, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        app.take(&key(code));
    }
    settle(app);
}

/// Lets the application do what it was asked to, the background included.
fn settle(app: &mut App) {
    for _ in 0..6000 {
        app.tick();
        if app.state.goal.is_none() && !app.jobs.are_running() {
            return;
        }
        std::thread::sleep(Duration::from_millis(if app.jobs.are_running() { 5 } else { 0 }));
    }
    panic!("it never settles: {:?}", app.state.goal);
}

fn terminal(app: &mut App, size: (u16, u16)) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    // Twice: what was drawn decides how much a page is.
    for _ in 0..2 {
        terminal.draw(|frame| app.draw(frame.area(), frame.buffer_mut())).unwrap();
    }
    terminal
}

fn drawn(app: &mut App, size: (u16, u16)) -> String {
    terminal(app, size).backend().to_string()
}

/// Every screen of the sample at both sizes, in the middle of it.
#[test]
fn the_screens_of_the_sample() {
    let mut app = app(sample());
    press(&mut app, ":50%\n");
    for (screen, name) in (1..).zip(["overview", "slots", "devices", "failures", "compare", "plan"]) {
        press(&mut app, &screen.to_string());
        for (size, which) in [(PLAIN, "80x24"), (LARGE, "160x50")] {
            insta::assert_snapshot!(format!("{name}_{which}"), drawn(&mut app, size));
        }
    }
}

/// The same of a trace with refusals, a loss, stacks and areas; and what opens over it.
#[test]
fn the_screens_of_a_trace_with_refusals() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    let look = |app: &mut App, name: &str, keys: &str| {
        press(app, keys);
        for (size, which) in [(PLAIN, "80x24"), (LARGE, "160x50")] {
            insta::assert_snapshot!(format!("refusals_{name}_{which}"), drawn(app, size));
        }
    };
    look(&mut app, "overview", "1n");
    look(&mut app, "failures", "4jj");
    look(&mut app, "explained", "\n");
    look(&mut app, "devices_drilled", "\u{1b}3\n");
    look(&mut app, "slots_area", "\u{1b}2\nc");
    look(&mut app, "slots_segment", "\ncc");
    look(&mut app, "slot", "\n");
    look(&mut app, "report", "\u{1b}1r");
    look(&mut app, "help", "\u{1b}4?");
    look(&mut app, "policies", "\u{1b}5pv6_10:nslabs=4096");
}

#[test]
fn without_colour_there_is_none_and_nothing_is_missing() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    app.state.theme = Theme::PLAIN;
    for keys in ["1", "2", "c", "c", "3\n", "4", "5", "6", "?"] {
        press(&mut app, keys);
        let terminal = terminal(&mut app, PLAIN);
        let buffer = terminal.backend().buffer();
        assert!(buffer.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset), "{keys}");
    }
    press(&mut app, "\u{1b}2c");
    insta::assert_snapshot!(drawn(&mut app, PLAIN));
}

#[test]
fn every_size_can_be_drawn() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    for screen in ["1", "2", "2\n", "2\n", "3", "3\n", "4", "5", "6", "?"] {
        press(&mut app, screen);
        for width in (0..200).step_by(13) {
            for height in (0..70).step_by(7) {
                terminal(&mut app, (width, height));
            }
        }
    }
    assert!(drawn(&mut app, (40, 10)).contains("72×22"));
}

/// The state at any moment is the same, whichever way it is gone to.
#[test]
fn every_moment_is_the_same_by_any_way() {
    let trace = sample();
    let events: Vec<_> = trace.events().map(Result::unwrap).collect();
    let around = || Around::new(trace.meta(), trace.p2m(), trace.devices());
    let mut app = app(sample());
    let telling = |moment: &Moment| (moment.now(), moment.device_rows(), moment.area_rows(), *moment.totals());
    for at in [125_000, 7, 60_001, 60_000, 24_999, 25_000, 0, 100_000, 125_591] {
        app.state.goal = Some(Goal::Event(at));
        settle(&mut app);
        let mut plain = Moment::new(around(), trace.snapshot());
        events[..at as usize].iter().for_each(|event| plain.apply(event));
        assert_eq!(telling(&app.state.moment), telling(&plain), "after {at} events");
    }
}

#[test]
fn a_step_is_an_event_both_ways_and_the_ends_hold() {
    let mut app = app(sample());
    let events = |app: &App| app.state.moment.totals().events;
    press(&mut app, "g");
    press(&mut app, ",");
    assert_eq!(events(&app), 0);
    press(&mut app, "...");
    // Keys that come faster than pictures count from where the moment is.
    assert_eq!(events(&app), 1);
    press(&mut app, ".");
    press(&mut app, ".");
    press(&mut app, ",");
    assert_eq!(events(&app), 2);
    press(&mut app, "G");
    assert_eq!(events(&app), 125_591);
    press(&mut app, ".");
    assert_eq!(events(&app), 125_591);
}

#[test]
fn failures_and_peaks_are_jumped_to() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    let failures = app.state.timeline.failures.clone();
    assert!(failures.len() > 10, "{}", failures.len());
    assert_eq!(app.state.moment.totals().failures, 1, "opened at the first refusal");
    press(&mut app, "n");
    assert_eq!(app.state.moment.totals().failures, 2);
    assert_eq!(app.state.moment.time_ns(), failures[1].1.time_ns);
    press(&mut app, "N");
    press(&mut app, "N");
    assert_eq!(app.state.message.as_deref(), Some("no earlier refusal"));
    press(&mut app, "4Gjjt");
    assert_eq!(app.state.moment.totals().failures, 3);
    press(&mut app, "g");
    press(&mut app, "m");
    let peak = app.state.moment.slots().used();
    assert!(peak * 2 >= app.state.timeline.peak(), "{peak}");
}

#[test]
fn times_are_read_as_people_write_them() {
    let span = (1_000_000_000, 10_000_000_000);
    let time = |text: &str| time_of(text, span).ok();
    assert_eq!(time("3.2s"), Some(3_200_000_000));
    assert_eq!(time(" 2500 ms"), Some(2_500_000_000));
    assert_eq!(time("-2s"), Some(8_000_000_000));
    assert_eq!(time("50%"), Some(5_500_000_000));
    assert_eq!(time("4"), Some(4_000_000_000));
    assert_eq!((time("99h"), time("0"), time("1m")), (None, Some(1_000_000_000), Some(10_000_000_000)));
    assert!(["", "s", "-", "nan", "inf%", "--3s", "1e400s"].iter().all(|text| time(text).is_none()));
}

#[test]
fn a_wrong_answer_is_said_and_can_be_put_right() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    press(&mut app, ":soon\n");
    assert!(app.state.prompt.as_ref().is_some_and(|prompt| prompt.error.is_some()));
    press(&mut app, "\u{1b}4/size >=\n");
    assert!(app.state.prompt.as_ref().is_some_and(|prompt| prompt.error.is_some()));
    press(&mut app, " 64k\n");
    assert!(app.state.prompt.is_none());
    let rows = app.state.failure_rows();
    assert!(!rows.is_empty() && rows.iter().all(|(_, row)| row.size >= 65536));
    press(&mut app, "\u{1b}");
    assert!(app.state.failure_rows().len() > rows.len());
    press(&mut app, "/nosuchword\n");
    assert!(drawn(&mut app, PLAIN).contains("no refusal fits"));
    press(&mut app, "\u{1b}5pv9_99\n");
    let Some(Prompt { what: Ask::Policies { .. }, error: Some(error), .. }) = &app.state.prompt else { panic!() };
    assert!(error.contains("v9_99"), "{error}");
}

#[test]
fn policies_are_added_and_replayed_in_the_background() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    press(&mut app, "5");
    let rows = |app: &App| app.state.compare.result.as_ref().map_or(0, |state| state.comparison.rows.len());
    assert_eq!(rows(&app), 2);
    press(&mut app, "plegacy\n");
    assert_eq!(rows(&app), 3);
    // Taken away again by emptying its line.
    press(&mut app, "p");
    app.take(&key(KeyCode::Up));
    app.take(&Event::Key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL)));
    press(&mut app, "\n");
    assert_eq!(rows(&app), 2);
}

#[test]
fn the_heat_map_is_zoomed_to_a_slot_and_back() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    press(&mut app, "2");
    drawn(&mut app, LARGE);
    for (keys, title) in [("\n", "area 0"), ("\n", "segment 0")] {
        press(&mut app, keys);
        assert!(app.state.zoom.last().is_some_and(|zoom| zoom.title().contains(title)));
        drawn(&mut app, LARGE);
    }
    press(&mut app, "\n");
    assert!(matches!(app.state.popup, Some(Popup::Text { .. })));
    press(&mut app, "\u{1b}\u{1b}\u{1b}");
    assert_eq!(app.state.zoom.len(), 1);
}

#[test]
fn a_range_is_reported_on() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    press(&mut app, ":1s\n");
    press(&mut app, "[:2s\n");
    press(&mut app, "]r");
    let Some(Popup::Text { text, file: Some(file), .. }) = &app.state.popup else { panic!("{:?}", app.state.popup) };
    assert!(text[1].starts_with("from 1.00 s to 2.00 s") && file == "small-1000ms-2000ms.txt", "{text:#?}");
    assert_eq!(app.state.moment.time_ns() / 100_000_000, 20, "it is the same moment as before");
}

#[test]
fn time_runs_to_its_end_and_stops() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    press(&mut app, "g");
    press(&mut app, "+++++++++++ ");
    assert!(app.state.playing || app.state.time_ns() > 0);
    for _ in 0..200 {
        app.tick();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!app.state.playing);
    assert_eq!(app.state.moment.totals().events, app.state.timeline.read.0);
    assert_eq!(app.patience(), None, "nothing moves, so nothing wakes");
}

#[test]
fn a_recorder_at_work_is_followed_paused_and_looked_back_on() {
    let (feed, receiver) = std::sync::mpsc::channel();
    let (_folder, trace) = super::fixture::trace();
    let start = LiveStart {
        name: "this machine".to_owned(),
        policies: vec!["v6_10".to_owned(), "v6_10:nslabs=8192".to_owned()],
        meta: trace.meta().clone(),
        p2m: Vec::new(),
        devices: trace.devices()[..1].to_vec(),
        snapshot: Vec::new(),
        tasks: trace.tasks().to_vec(),
        stacks: trace.stacks().to_vec(),
    };
    let facts = Facts::new(&start.name, &start.meta);
    let policies = start.policies.clone();
    let mut app = App::live(Live::new(&start, receiver), facts, policies.clone(), Theme::COLOUR);
    let events = super::fixture::events();
    let (first, second) = events.split_at(events.len() / 2);
    feed.send(Feed::Devices(trace.devices().to_vec())).unwrap();
    for events in first.chunks(100) {
        feed.send(Feed::Events(events.to_vec())).unwrap();
        app.tick();
    }
    let screen = drawn(&mut app, PLAIN);
    assert!(screen.contains("● live") && screen.contains("this machine"), "{screen}");
    assert_eq!(app.state.moment.totals().events, first.len() as u64);
    // Paused, the moment stays while the recording goes on; at the end it is followed again.
    press(&mut app, " ");
    for events in second.chunks(100) {
        feed.send(Feed::Events(events.to_vec())).unwrap();
        app.tick();
    }
    assert_eq!(app.state.moment.totals().events, first.len() as u64);
    press(&mut app, "G");
    assert_eq!(app.state.moment.totals().events, events.len() as u64);
    press(&mut app, ":1.5s\n");
    let time = app.state.moment.time_ns();
    assert!((1_000_000_000..=1_500_000_000).contains(&time), "to a second back: {time}");
    press(&mut app, "N");
    assert!(app.state.moment.time_ns() <= time);
    press(&mut app, " ");
    feed.send(Feed::Time(4_000_000_000)).unwrap();
    feed.send(Feed::Ended("the load has ended".to_owned())).unwrap();
    app.tick();
    assert_eq!((app.state.moment.now().maps_per_s, app.state.message.as_deref()), (0, Some("the load has ended")));
    for keys in ["2", "3\n", "4"] {
        press(&mut app, keys);
        drawn(&mut app, PLAIN);
    }
    // What other policies would have done is worked out on what was seen, the same as on the trace itself.
    press(&mut app, "5");
    settle(&mut app);
    let rows = &app.state.compare.result.as_ref().expect("a comparison").comparison.rows;
    let recorded = replayed(&trace, &policies);
    assert_eq!(rows.iter().map(|row| (row.maps, row.failures)).collect::<Vec<_>>(), recorded);
    assert!(recorded[0].1 > 0 && recorded[1].1 == 0, "{recorded:?}");
    assert!(drawn(&mut app, PLAIN).contains("The last 3"), "{}", drawn(&mut app, PLAIN));
    press(&mut app, "6");
    settle(&mut app);
    assert!(app.state.plan.result.is_some(), "{:?}", app.state.plan.error);
}

/// Mappings and refusals of each policy on a trace.
fn replayed(trace: &Trace, policies: &[String]) -> Vec<(u64, u64)> {
    let policies: Vec<_> = policies.iter().map(|text| replay::Policy::parse(text).unwrap()).collect();
    let options = analysis::CompareOptions::default();
    let comparison = analysis::compare(trace, &policies, &options, &Default::default(), |_| {}).unwrap();
    comparison.rows.iter().map(|row| (row.maps, row.failures)).collect()
}

/// What seeking costs in a large trace: `SWIOSCOPE_BIG=FOLDER … what_a_large_trace_costs -- --ignored --nocapture`.
#[test]
#[ignore = "needs a large trace (trace/examples/synthetic.rs) and a quiet machine"]
fn what_a_large_trace_costs() {
    let path = std::env::var_os("SWIOSCOPE_BIG").unwrap();
    let began = Instant::now();
    let mut app = App::recorded(Trace::open(&path).unwrap(), ViewOptions::default(), Theme::COLOUR);
    drawn(&mut app, LARGE);
    let first = began.elapsed();
    while !app.state.timeline.is_whole() {
        std::thread::sleep(Duration::from_millis(5));
        app.tick();
    }
    let read = began.elapsed();
    settle(&mut app);
    let (from, to) = app.state.timeline.span;
    // On a busy machine only the time on a processor says what it costs.
    let cpu = || {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Duration::from_nanos(told.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
    };
    let timed = |app: &mut App| {
        let (wall, on_cpu) = (Instant::now(), cpu());
        while app.state.goal.is_some() {
            app.tick();
        }
        (wall.elapsed(), cpu() - on_cpu)
    };
    let (mut seeks, mut steps) = (Vec::new(), Vec::new());
    let mut place: u64 = 7;
    for _ in 0..200 {
        // Scattered over the trace, each far from the one before.
        place = (place * 7919 + 104_729) % 1_000_003;
        app.state.goal = Some(Goal::Time(from + (to - from) / 1_000_003 * place));
        seeks.push(timed(&mut app));
    }
    for by in [1, -1].into_iter().cycle().take(40) {
        app.state.apply(Action::Step(by));
        steps.push(timed(&mut app));
    }
    let events = app.state.timeline.read.0;
    eprintln!("{events} events: first screen {first:?}, whole index {read:?}");
    for (what, times) in [("seek", &seeks), ("step", &steps)] {
        let mut wall: Vec<_> = times.iter().map(|time| time.0).collect();
        let mut on_cpu: Vec<_> = times.iter().map(|time| time.1).collect();
        wall.sort();
        on_cpu.sort();
        let at = |times: &[Duration], percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        eprintln!(
            "{what}: median {:?} ({:?} on a processor), 95 of 100 {:?} ({:?}), worst {:?} ({:?})",
            at(&wall, 50),
            at(&on_cpu, 50),
            at(&wall, 95),
            at(&on_cpu, 95),
            at(&wall, 100),
            at(&on_cpu, 100)
        );
    }
    assert!(first < Duration::from_secs(1));
}

#[test]
fn the_mouse_turns_screens_seeks_and_selects() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    drawn(&mut app, PLAIN);
    let click = |app: &mut App, column, row| {
        let kind = MouseEventKind::Down(MouseButton::Left);
        app.take(&Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }));
        settle(app);
    };
    click(&mut app, 25, 1);
    assert_eq!(app.state.screen, Screen::Devices);
    drawn(&mut app, PLAIN);
    click(&mut app, 10, 6);
    assert_eq!(app.state.device, 1);
    click(&mut app, 40, 20);
    assert_eq!(app.state.moment.time_ns() / 100_000_000, 15);
}

#[test]
fn every_key_of_a_screen_is_in_its_help() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    for screen in Screen::ALL {
        app.state.screen = screen;
        app.state.popup = Some(Popup::Help);
        let help = drawn(&mut app, LARGE);
        for key in KEYS.iter().filter(|key| !key.long.is_empty() && key.is_on(screen)) {
            assert!(help.contains(key.long), "{} {}\n{help}", key.keys, key.long);
        }
        assert!(!drawn(&mut app, PLAIN).contains(" more ·"), "the help of {} has no room on 80×24", screen.title());
    }
}

#[test]
fn control_characters_from_a_trace_never_reach_the_terminal() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    app.state.facts.name = "\u{1b}[2Jx\u{7}".into();
    app.state.facts.host = "\u{9b}31m".into();
    app.state.names.stacks.iter_mut().for_each(|frame| frame.symbol = Some("a\u{1b}]0;t\u{7}".into()));
    for keys in ["1", "3\n", "4\n"] {
        press(&mut app, keys);
        assert!(drawn(&mut app, PLAIN).chars().all(|c| c == '\n' || !c.is_control()));
    }
}

struct Script(Vec<Event>);

impl Input for Script {
    fn next(&mut self, patience: Option<Duration>) -> io::Result<Option<Event>> {
        match (self.0.is_empty(), patience) {
            (false, _) => Ok(Some(self.0.remove(0))),
            (true, Some(_)) => Ok(None),
            (true, None) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }
}

#[test]
fn keys_drive_the_screen_until_quit_and_a_failing_terminal_is_an_error() {
    let (_folder, trace) = super::fixture::trace();
    let mut app = app(trace);
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let mut keys = Script(['3', 'x', 'q', '4'].map(|c| key(KeyCode::Char(c))).to_vec());
    terminal::run(&mut terminal, &mut keys, &mut app).unwrap();
    assert_eq!((keys.0.len(), app.state.screen), (1, Screen::Devices), "the key after `q` is not taken");
    app.state.quit = false;
    let error = terminal::run(&mut terminal, &mut Script(Vec::new()), &mut app).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
