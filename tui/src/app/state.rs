//! What the application is showing, apart from how it is drawn.

mod moves;
mod parts;
mod typing;

use std::sync::Arc;

use analysis::{Comparison, PlanReport};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use replay::OnFail;
use replay::moment::{DeviceNow, FailureRow, Moment};
use trace::Record;

use super::action::{Action, action};
use super::facts::Facts;
use super::filter::ListFilter;
use super::grid::{Colour, Zoom};
use super::source::{Goal, Names};
use super::timeline::{Mark, Timeline};
use crate::compare;
use crate::theme::Theme;

pub(crate) use parts::{Ask, Effect, Job, POLICIES, Popup, Prompt, SPEEDS, Screen};
pub(crate) use typing::time_of;

/// What the application is showing.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) facts: Facts,
    /// The recording is under way.
    pub(crate) live: bool,
    pub(crate) screen: Screen,
    /// The moment shown.
    pub(crate) moment: Moment,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) names: Names,
    /// Where to be; the application goes there.
    pub(crate) goal: Option<Goal>,
    /// Time runs (of a live recording: with it).
    pub(crate) playing: bool,
    /// Position in [`SPEEDS`].
    pub(crate) speed: usize,
    pub(crate) range: (Option<u64>, Option<u64>),
    /// Rows of a page, as last drawn.
    pub(crate) page: usize,
    /// Cells of the heat map, as last drawn: across, down.
    pub(crate) cells: (usize, usize),
    pub(crate) zoom: Vec<Zoom>,
    pub(crate) colour: Colour,
    /// Selected device row.
    pub(crate) device: usize,
    /// Stacks and sizes of the selected device are shown.
    pub(crate) drilled: bool,
    /// Column devices are sorted by, and whether the other way round.
    pub(crate) sort: (usize, bool),
    /// Selected failure row.
    pub(crate) failure: usize,
    /// Which devices, and which refusals, are listed.
    pub(crate) device_filter: Option<ListFilter<DeviceNow>>,
    pub(crate) failure_filter: Option<ListFilter<FailureRow>>,
    pub(crate) policies: Vec<String>,
    pub(crate) compare: Job<compare::state::State>,
    pub(crate) plan: Job<Arc<PlanReport>>,
    /// Selected size of the plan.
    pub(crate) size: usize,
    pub(crate) popup: Option<Popup>,
    pub(crate) prompt: Option<Prompt>,
    pub(crate) message: Option<String>,
    pub(crate) theme: Theme,
    pub(crate) quit: bool,
    pub(crate) effects: Vec<Effect>,
    /// What a driver does that is refused, in replays.
    pub(crate) on_fail: OnFail,
}

/// Columns by which devices can be sorted, by name.
const SORTS: [&str; 8] =
    ["maps", "maps_per_s", "bytes_copied", "bounces", "slots", "failures", "latency_p99_ns", "device"];

impl State {
    /// The state in which the application opens.
    pub(crate) fn new(facts: Facts, moment: Moment, theme: Theme) -> Self {
        Self {
            facts,
            live: false,
            screen: Screen::default(),
            timeline: Arc::default(),
            names: Names::default(),
            goal: None,
            playing: false,
            speed: 3,
            range: (None, None),
            page: 10,
            cells: (64, 16),
            zoom: vec![Zoom::whole(&moment)],
            colour: Colour::default(),
            device: 0,
            drilled: false,
            sort: (0, false),
            failure: 0,
            device_filter: None,
            failure_filter: None,
            policies: Vec::new(),
            compare: Job::default(),
            plan: Job::default(),
            size: 0,
            popup: None,
            prompt: None,
            message: None,
            theme,
            quit: false,
            effects: Vec::new(),
            on_fail: OnFail::default(),
            moment,
        }
    }

    /// What time it is, or will be once the application has gone where it is asked to.
    pub(crate) fn time_ns(&self) -> u64 {
        match self.goal {
            Some(Goal::Time(time_ns)) => time_ns,
            _ => self.moment.time_ns(),
        }
    }

    /// Takes a key.
    pub(crate) fn key(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            self.quit = true;
        } else if self.prompt.is_some() {
            self.typed(key);
        } else if let Some(action) = action(key, self.screen) {
            self.apply(action);
        }
    }

    /// Does what was asked for.
    pub(crate) fn apply(&mut self, action: Action) {
        if self.popup.is_some() && self.in_popup(action) {
            return;
        }
        match action {
            Action::Quit => self.quit = true,
            Action::Help => self.popup = Some(Popup::Help),
            Action::Go(screen) => self.turn_to(screen),
            Action::NextScreen => self.turn_to(self.screen.turned(1)),
            Action::PreviousScreen => self.turn_to(self.screen.turned(Screen::ALL.len() - 1)),
            Action::Back => self.back(),
            Action::Up => self.walk(0, -1),
            Action::Down => self.walk(0, 1),
            Action::Left => self.walk(-1, 0),
            Action::Right => self.walk(1, 0),
            Action::PageUp => self.page(-1),
            Action::PageDown => self.page(1),
            Action::First => self.edge(false),
            Action::Last => self.edge(true),
            Action::Enter => self.enter(),
            Action::Select(row) => self.select(row),
            Action::Play => {
                let at_end = self.time_ns() >= self.timeline.span.1;
                if !self.playing && at_end && !self.live {
                    self.goal = Some(Goal::Time(self.timeline.span.0));
                }
                self.playing = !self.playing;
            }
            Action::Faster => self.speed = (self.speed + 1).min(SPEEDS.len() - 1),
            Action::Slower => self.speed = self.speed.saturating_sub(1),
            Action::Step(by) => {
                let event = self.moment.totals().events.saturating_add_signed(by);
                let last = if self.timeline.is_whole() { self.timeline.read.0 } else { self.timeline.read.1 };
                self.halt(Goal::Event(event.min(last.max(self.moment.totals().events))));
            }
            Action::Scrub(by) => {
                let (from, to) = self.timeline.span;
                let hundredth = ((to - from.min(to)) / 100).max(1);
                let time = self.time_ns().saturating_add_signed(by.saturating_mul(hundredth.cast_signed()));
                self.halt(Goal::Time(time.clamp(from, to.max(from))));
            }
            Action::Begin => self.halt(Goal::Event(0)),
            Action::End => self.halt(Goal::Time(self.timeline.span.1)),
            Action::Seek(time) => self.halt(Goal::Time(time)),
            Action::Failure(forward) => match self.timeline.failure(self.moment.totals().events, forward) {
                Some(at) => self.go_to_failure(at),
                None => self.say(if forward { "no later refusal" } else { "no earlier refusal" }),
            },
            Action::Peak(forward) => match self.timeline.next_peak(self.moment.totals().events, forward) {
                Some(Mark { event, .. }) => self.halt(Goal::Event(event)),
                None => self.say(if forward { "no later peak" } else { "no earlier peak" }),
            },
            Action::Travel => {
                if let Some((at, _)) = self.failure_rows().get(self.failure) {
                    self.go_to_failure(*at);
                }
            }
            Action::RangeFrom => self.range.0 = Some(self.time_ns()),
            Action::RangeTo => self.range.1 = Some(self.time_ns()),
            Action::Report => {
                let from = self.range.0.unwrap_or(self.timeline.span.0);
                let to = self.range.1.unwrap_or_else(|| self.time_ns());
                self.effects.push(Effect::Report(from.min(to), from.max(to)));
            }
            Action::Write => {}
            Action::AskTime => self.ask(Ask::Time, ""),
            Action::AskFilter => {
                let now = self.filter().unwrap_or_default().to_owned();
                self.ask(Ask::Filter, &now);
            }
            Action::AskPolicies => {
                let mut texts = self.policies.clone();
                if texts.len() < POLICIES {
                    texts.push(String::new());
                }
                let at = texts.len() - 1;
                let text = texts[at].clone();
                self.ask(Ask::Policies { texts, at }, &text);
            }
            Action::Sort => self.sort = ((self.sort.0 + 1) % SORTS.len(), false),
            Action::Reverse => self.sort.1 = !self.sort.1,
            Action::Colour => self.colour = self.colour.next(),
            Action::Scale => self.on_compare(compare::action::Action::ToggleScale),
            Action::Verdict => {
                let text = match self.screen {
                    Screen::Plan => self.plan.result.as_ref().map(|report| report.verdict.clone()),
                    _ => self.compare.result.as_ref().map(|state| state.comparison.verdict.clone()),
                };
                if let Some(text) = text {
                    self.show_text("Verdict".to_owned(), text, None);
                }
            }
            Action::Theme => {
                self.theme = self.theme.next();
                self.say(&format!("theme: {}", self.theme.name));
            }
        }
    }

    /// Says something on the bottom line, until the next key.
    pub(crate) fn say(&mut self, text: &str) {
        self.message = Some(text.to_owned());
    }

    /// Lays text over the screen.
    pub(crate) fn show_text(&mut self, title: String, text: Vec<String>, file: Option<String>) {
        self.popup = Some(Popup::Text { title, text, scroll: 0, file });
    }

    /// A popup takes the keys that move, write and close; others close it and do what they do. Returns whether that was
    /// all.
    fn in_popup(&mut self, action: Action) -> bool {
        let page = self.page.max(2);
        if let Some(Popup::Text { text, scroll, file, .. }) = &mut self.popup {
            let last = text.len().saturating_sub(1);
            match action {
                Action::Up => *scroll = scroll.saturating_sub(1),
                Action::Down => *scroll = (*scroll + 1).min(last),
                Action::PageUp => *scroll = scroll.saturating_sub(page - 1),
                Action::PageDown => *scroll = (*scroll + page - 1).min(last),
                Action::First => *scroll = 0,
                Action::Last => *scroll = last,
                Action::Write => {
                    if let Some(file) = file.clone() {
                        let text = text.join("\n") + "\n";
                        self.effects.push(Effect::Write(file, text));
                    }
                }
                _ => self.popup = None,
            }
        } else {
            self.popup = None;
        }
        action != Action::Quit
    }

    fn turn_to(&mut self, screen: Screen) {
        self.screen = screen;
        let job = match screen {
            Screen::Compare if !self.compare.asked => {
                self.compare.begin();
                Effect::Compare
            }
            Screen::Plan if !self.plan.asked => {
                self.plan.begin();
                Effect::Plan
            }
            _ => return,
        };
        self.effects.push(job);
    }

    fn back(&mut self) {
        if self.screen == Screen::Slots && self.zoom.len() > 1 {
            self.zoom.pop();
        } else if self.screen == Screen::Devices && self.drilled {
            self.drilled = false;
        } else if self.filter().is_some() {
            match self.screen {
                Screen::Failures => self.failure_filter = None,
                _ => self.device_filter = None,
            }
        } else if let Some(state) = self.compare.result.as_mut().filter(|state| state.enlarged) {
            state.enlarged = false;
        } else {
            self.range = (None, None);
        }
    }

    /// Time stops, and it is then.
    fn halt(&mut self, goal: Goal) {
        self.playing = false;
        self.goal = Some(goal);
    }

    fn go_to_failure(&mut self, at: usize) {
        let Some(mark) = self.timeline.failures.get(at).map(|(mark, _)| *mark) else { return };
        self.halt(Goal::Event(mark.event));
        if let Some(row) = self.failure_rows().iter().position(|(place, _)| *place == at) {
            self.failure = row;
        }
    }

    /// The devices as they are listed.
    pub(crate) fn device_rows(&self) -> Vec<DeviceNow> {
        let mut rows = self.moment.device_rows();
        if let Some(filter) = &self.device_filter {
            rows.retain(|row| filter.fits(row));
        }
        let name = self.sorted_by();
        let column = DeviceNow::FIELDS.iter().position(|field| field.name == name).unwrap_or(0);
        let number = |row: &DeviceNow| match row.value(column) {
            trace::Value::U64(n) => n,
            _ => 0,
        };
        if name == "device" {
            rows.sort_by(|a, b| a.device.cmp(&b.device));
        } else {
            rows.sort_by_key(|row| std::cmp::Reverse(number(row)));
        }
        if self.sort.1 {
            rows.reverse();
        }
        rows
    }

    /// The column devices are sorted by.
    pub(crate) fn sorted_by(&self) -> &'static str {
        SORTS.get(self.sort.0).copied().unwrap_or(SORTS[0])
    }

    /// The refusals as they are listed, each with its place in the timeline.
    pub(crate) fn failure_rows(&self) -> Vec<(usize, FailureRow)> {
        let around = self.moment.around();
        let rows = self.timeline.failures.iter().enumerate().map(|(at, (_, f))| (at, FailureRow::new(f, around)));
        match &self.failure_filter {
            Some(filter) => rows.filter(|(_, row)| filter.fits(row)).collect(),
            None => rows.collect(),
        }
    }

    fn on_compare(&mut self, action: compare::action::Action) {
        if let Some(state) = &mut self.compare.result {
            state.apply(action);
        }
    }

    /// Selects a row of the list on screen.
    fn select(&mut self, row: usize) {
        match self.screen {
            Screen::Devices => self.device = row.min(self.device_rows().len().saturating_sub(1)),
            Screen::Failures => self.failure = row.min(self.failure_count().saturating_sub(1)),
            Screen::Slots => {
                if let Some(zoom) = self.zoom.last_mut() {
                    zoom.cursor = row;
                }
            }
            Screen::Plan => self.size = row.min(self.sizes().saturating_sub(1)),
            Screen::Overview | Screen::Compare => {}
        }
    }

    fn failure_count(&self) -> usize {
        if self.failure_filter.is_some() { self.failure_rows().len() } else { self.timeline.failures.len() }
    }

    /// Sizes the plan tried under its first policy and areas.
    fn sizes(&self) -> usize {
        self.plan.result.as_ref().map_or(0, |report| super::screens::plan::sizes(report).len())
    }

    /// Puts a comparison in the place of the one before, if any, with the same page and selection.
    pub(crate) fn compared(&mut self, comparison: Comparison) {
        let mut state = compare::state::State::new(Arc::new(comparison));
        if let Some(before) = &self.compare.result {
            state.page = before.page;
            state.scale = before.scale;
            state.selected = before.selected.min(state.comparison.rows.len().saturating_sub(1));
        }
        // Who has asked for policies wants to know what goes wrong.
        let refuses = |row: &analysis::PolicyRow| row.failures > 0;
        if !state.row().is_some_and(refuses)
            && let Some(first) = state.comparison.rows.iter().position(refuses)
        {
            state.selected = first;
        }
        self.compare.result = Some(state);
        self.compare.stage = None;
    }

    /// Puts a refusal's whole story into the popup of that title, if it is still open.
    pub(crate) fn told(&mut self, about: &str, story: Result<String, String>) {
        let Some(Popup::Text { title, text, scroll, .. }) = &mut self.popup else { return };
        if title != about {
            return;
        }
        *scroll = 0;
        match story {
            Ok(story) => *text = story.lines().map(str::to_owned).collect(),
            // What was known before stays; only the promise is taken back.
            Err(error) => {
                text.pop();
                text.push(format!("What would have let it pass is not known: {error}."));
            }
        }
    }

    /// Takes the plan.
    pub(crate) fn planned(&mut self, report: PlanReport) {
        self.size = super::screens::plan::recommended(&report);
        self.plan.result = Some(Arc::new(report));
        self.plan.stage = None;
    }
}
