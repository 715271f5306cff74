//! The application: a state, the actions that change it, and screens that are pure functions of it.
//!
//! ```text
//!   keys, mouse ──▶ action ──▶ State ──▶ screens ──▶ terminal
//!                               │  ▲
//!                          goal │  │ moment, timeline, results
//!                               ▼  │
//!                     Source (trace or recorder), background jobs
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | [`state`] | what is shown, and how an action changes it; no drawing, no files |
//! | [`action`] | the key table: keys, help and the bottom line are made from it |
//! | [`screens`] | one file a screen |
//! | [`chrome`] | what is on every screen: header, verdict, timeline, keys |
//! | [`grid`] | the heat map's cells and zoom |
//! | [`source`] | where moments come from: a trace, or a recorder at work |
//! | [`window`] | the last part of a live recording as a trace, for replays |
//! | [`index`], [`timeline`] | what makes every moment of a long trace near; the trace at a glance |
//! | [`filter`] | what rows a list shows |
//! | [`facts`] | the recording in words; the verdict |
//! | [`jobs`], [`progress`] | replays and plans in the background |
//! | [`report`] | what happened between two moments, as text |

pub(crate) mod action;
pub(crate) mod chrome;
pub(crate) mod facts;
pub(crate) mod filter;
pub(crate) mod grid;
pub(crate) mod index;
pub(crate) mod jobs;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod screens;
pub(crate) mod source;
pub(crate) mod state;
pub(crate) mod timeline;
mod window;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{Event, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};
use trace::{StackFrame, Task, Trace};

use self::action::Action;
use self::facts::Facts;
use self::jobs::Jobs;
use self::screens::Drawn;
use self::source::{Goal, Live, Names, News, Recorded, Source};
use self::state::{Effect, SPEEDS, Screen, State, time_of};
use crate::theme::Theme;

/// Time between two pictures while something moves: 30 a second, of at most 60.
const FRAME: Duration = Duration::from_millis(33);
/// Time between two looks at work in the background.
const LOOK: Duration = Duration::from_millis(100);
/// Time between two replays of a live recording's last part.
const AGAIN: Duration = Duration::from_secs(5);
/// How long going to a moment may hold up the screen; then it goes on with the next picture.
const PATIENCE: Duration = Duration::from_millis(40);

/// What the application is opened with.
#[derive(Clone, Debug, Default)]
pub struct ViewOptions {
    /// Policies to compare, as they are written.
    pub policies: Vec<String>,
    /// Where addresses are translated in replays, and what refused drivers do.
    pub compare: analysis::CompareOptions,
    /// Where to open: a time as people write it, such as 3.2s or -10s.
    pub at: Option<String>,
    /// Begin with the comparison.
    pub open_compare: bool,
    /// Called now and then; for tests of what happens when something goes wrong.
    #[doc(hidden)]
    pub each_tick: Option<fn()>,
}

/// The application with what it needs of the world.
pub(crate) struct App {
    pub(crate) state: State,
    source: Source,
    jobs: Jobs,
    /// Where to open, once the span is known.
    at: Option<String>,
    each_tick: Option<fn()>,
    drawn: Drawn,
    /// Nobody has asked for a moment yet: once the trace is read, a telling one is shown.
    undecided: bool,
    /// Something has changed since the last picture.
    dirty: bool,
    last_tick: Instant,
    last_drawn: Option<Instant>,
    /// When policies were last replayed.
    replayed: Instant,
}

impl App {
    /// On a trace. The first picture needs its footers only; the rest is read while it is shown.
    pub(crate) fn recorded(trace: Trace, options: ViewOptions, theme: Theme) -> Self {
        let trace = Arc::new(trace);
        Self::on_trace(Recorded::new(Arc::clone(&trace)), trace, options, theme)
    }

    /// As [`App::recorded`], with the whole trace read.
    #[cfg(test)]
    pub(crate) fn indexed(trace: Trace, options: ViewOptions, theme: Theme) -> Self {
        let trace = Arc::new(trace);
        Self::on_trace(Recorded::indexed(Arc::clone(&trace)), trace, options, theme)
    }

    fn on_trace(source: Recorded, trace: Arc<Trace>, options: ViewOptions, theme: Theme) -> Self {
        let name = trace.path().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut state = State::new(Facts::new(&name, trace.meta()), source.moment().clone(), theme);
        state.names = Names { tasks: trace.tasks().to_vec(), stacks: trace.stacks().to_vec() };
        let span = trace.span_ns().unwrap_or((0, 0));
        state.timeline = Arc::new(timeline::Timeline::new(span, trace.event_count()));
        state.policies = options.policies.clone();
        state.on_fail = options.compare.on_fail;
        let mut app = Self::with(state, Source::Recorded(Box::new(source)), Some(trace), options);
        app.open(span);
        app
    }

    /// On a recorder at work.
    pub(crate) fn live(live: Live, facts: Facts, policies: Vec<String>, theme: Theme) -> Self {
        let moment = live.moment_at(Goal::Time(u64::MAX));
        let mut state = State::new(facts, moment, theme);
        state.live = true;
        state.policies = policies;
        state.playing = true;
        Self::with(state, Source::Live(Box::new(live)), None, ViewOptions::default())
    }

    fn with(state: State, source: Source, trace: Option<Arc<Trace>>, options: ViewOptions) -> Self {
        Self {
            jobs: Jobs::new(trace, options.compare),
            state,
            source,
            at: options.at,
            each_tick: options.each_tick,
            drawn: Drawn::default(),
            undecided: true,
            dirty: true,
            last_tick: Instant::now(),
            last_drawn: None,
            replayed: Instant::now(),
        }
        .opened_on(options.open_compare)
    }

    fn opened_on(mut self, compare: bool) -> Self {
        if compare {
            self.state.apply(Action::Go(Screen::Compare));
        }
        self
    }

    /// Goes to where the application is to be opened.
    fn open(&mut self, span: (u64, u64)) {
        if let Some(at) = self.at.take() {
            match time_of(&at, span) {
                Ok(time) => {
                    self.undecided = false;
                    self.state.goal = Some(Goal::Time(time));
                }
                Err(error) => self.state.say(&error),
            }
        }
    }

    /// Draws what is to be seen, and keeps what a click there means.
    pub(crate) fn draw(&mut self, area: Rect, buf: &mut Buffer) {
        let drawn = chrome::draw(&self.state, area, buf);
        self.state.page = drawn.page.unwrap_or(usize::from(area.height / 2));
        self.state.cells = drawn.cells.unwrap_or(self.state.cells);
        if let (Some(reach), Some(compare)) = (drawn.reach, &mut self.state.compare.result) {
            compare.reach = reach;
            compare.scroll = compare.scroll.min(reach.end());
        }
        self.drawn = drawn;
        self.dirty = false;
        self.last_drawn = Some(Instant::now());
    }

    /// Whether there is a new picture to be drawn.
    pub(crate) fn wants_drawing(&self) -> bool {
        self.dirty
    }

    /// How long nothing need be done unless the user does something; nothing means for ever.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let reading = !self.state.timeline.is_whole() && self.state.timeline.error.is_none();
        if (self.state.playing && !self.state.live) || self.state.goal.is_some() {
            let since = self.last_drawn.map_or(FRAME, |drawn| drawn.elapsed());
            Some(FRAME.saturating_sub(since))
        } else if self.state.live || reading || self.jobs.are_running() || self.each_tick.is_some() {
            Some(LOOK)
        } else {
            None
        }
    }

    /// Takes what the user did.
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Key(key) => self.state.key(*key),
            Event::Mouse(mouse) => self.mouse(*mouse),
            Event::Resize(..) => {}
            _ => return,
        }
        self.dirty = true;
    }

    fn mouse(&mut self, mouse: MouseEvent) {
        let at = Position::new(mouse.column, mouse.row);
        let action = match mouse.kind {
            MouseEventKind::Down(MouseButton::Left) | MouseEventKind::Drag(MouseButton::Left) => self.drawn.click(at),
            MouseEventKind::ScrollUp => Some(Action::Up),
            MouseEventKind::ScrollDown => Some(Action::Down),
            _ => None,
        };
        if self.state.prompt.is_none()
            && let Some(action) = action
        {
            self.state.apply(action);
        }
    }

    /// Lets time pass: plays, goes where it is asked to, and takes in what was done in the background.
    pub(crate) fn tick(&mut self) {
        if let Some(each) = self.each_tick {
            each();
        }
        let passed = self.last_tick.elapsed();
        self.last_tick = Instant::now();
        match &mut self.source {
            Source::Recorded(source) => {
                if let Some(timeline) = source.timeline() {
                    self.state.timeline = timeline;
                    self.dirty = true;
                    self.decide();
                }
            }
            Source::Live(live) => {
                let news = live.take_in();
                self.take_news(news);
            }
        }
        if self.state.playing && !self.state.live {
            self.play(passed);
        }
        if let Some(goal) = self.state.goal {
            self.go(goal);
        }
        self.dirty |= self.jobs.take_results(&mut self.state);
        // What others would be doing now, as long as somebody looks.
        if self.state.live
            && self.state.playing
            && self.state.screen == Screen::Compare
            && !self.state.compare.is_running()
            && self.replayed.elapsed() >= AGAIN
        {
            self.state.effects.push(Effect::Compare);
        }
        for effect in std::mem::take(&mut self.state.effects) {
            self.effect(effect);
            self.dirty = true;
        }
    }

    /// Until the user has been somewhere, shows the first refusal or, without any, the highest use.
    fn decide(&mut self) {
        let moved = self.state.goal.is_some() || self.state.playing || self.state.moment.totals().events > 0;
        if !self.undecided || moved || !self.state.timeline.is_whole() {
            self.undecided &= !moved;
            return;
        }
        self.undecided = false;
        let timeline = &self.state.timeline;
        let highest = timeline.heads.iter().max_by_key(|(used, mark)| (*used, std::cmp::Reverse(mark.event)));
        let (mark, what) = match (timeline.failures.first(), highest) {
            (Some((mark, _)), _) => (*mark, "opened at the first refusal"),
            (None, Some((used, mark))) if *used > 0 => (*mark, "opened at the peak of use"),
            _ => return,
        };
        self.state.goal = Some(Goal::Event(mark.event));
        self.state.say(what);
    }

    fn take_news(&mut self, news: News) {
        let News { moment, timeline, meta, names, ended } = news;
        self.dirty |= moment.is_some() || ended.is_some();
        if let Some(moment) = moment.filter(|_| self.state.playing) {
            self.state.moment = moment;
        }
        if let Some(timeline) = timeline {
            self.state.timeline = timeline;
        }
        if let Some(meta) = meta {
            self.state.facts = Facts::new(&self.state.facts.name, &meta);
        }
        if let Some(names) = names {
            self.state.names = names;
        }
        if let Some(why) = ended {
            self.state.say(&why);
        }
    }

    fn play(&mut self, passed: Duration) {
        let speed = SPEEDS.get(self.state.speed).copied().unwrap_or(1.0);
        let on = (passed.as_secs_f64() * 1e9 * speed) as u64;
        let end = self.state.timeline.span.1;
        let time = self.state.time_ns().saturating_add(on).min(end);
        self.state.goal = Some(Goal::Time(time));
        if time >= end {
            self.state.playing = false;
        }
    }

    fn go(&mut self, goal: Goal) {
        match &mut self.source {
            Source::Recorded(source) => match source.go(goal, PATIENCE) {
                Ok(there) => {
                    self.state.moment = source.moment().clone();
                    if there {
                        self.state.goal = None;
                    }
                }
                Err(error) => {
                    self.state.goal = None;
                    self.state.playing = false;
                    self.state.say(&error.to_string());
                }
            },
            Source::Live(live) => {
                self.state.moment = live.moment_at(goal);
                self.state.goal = None;
            }
        }
        self.dirty = true;
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Compare => {
                self.replayed = Instant::now();
                self.jobs.compare(&mut self.state, self.source.excerpt());
            }
            Effect::Plan => self.jobs.plan(&mut self.state, self.source.meta(), self.source.excerpt()),
            Effect::Explain(at) => self.jobs.explain(&mut self.state, at),
            Effect::Report(from, to) => self.report(from, to),
            Effect::Write(file, text) => {
                let said = match std::fs::write(&file, text) {
                    Ok(()) => format!("written to {file}"),
                    Err(error) => format!("cannot write {file}: {error}"),
                };
                self.state.say(&said);
            }
        }
    }

    /// Reports on what happened between two times.
    fn report(&mut self, from: u64, to: u64) {
        let before = self.state.moment.totals().events;
        let (first, last) = match &mut self.source {
            Source::Recorded(source) => {
                // Whatever it takes: a report on half a range would be wrong.
                let mut at = |time: u64| source.go(Goal::Time(time), Duration::MAX).map(|_| source.moment().clone());
                // What happens at the very begin belongs to the range.
                match (at(from.saturating_sub(1)), at(to)) {
                    (Ok(first), Ok(last)) => (first, last),
                    (Err(error), _) | (_, Err(error)) => return self.state.say(&error.to_string()),
                }
            }
            Source::Live(live) => (live.moment_at(Goal::Time(from)), live.moment_at(Goal::Time(to))),
        };
        self.state.goal = Some(Goal::Event(before));
        let text = report::between(&self.state, (from, to), &first, &last);
        let stem = self.state.facts.name.trim_end_matches(".swio").replace(['/', ' '], "-");
        let file = format!("{stem}-{}ms-{}ms.txt", from / 1_000_000, to / 1_000_000);
        self.state.show_text("Report".to_owned(), text, Some(file));
    }

    /// Tells the background to end.
    pub(crate) fn stop(&self) {
        self.jobs.stop();
    }
}

/// What the recorder knows when it begins, for [`crate::top`].
#[derive(Debug)]
pub struct LiveStart {
    /// What is being recorded, for the header.
    pub name: String,
    /// Policies to compare on what happens now, as they are written.
    pub policies: Vec<String>,
    /// The machine, its pools and the capture's settings.
    pub meta: trace::Meta,
    /// Xen's frame table, where there is one.
    pub p2m: Vec<trace::P2mRun>,
    /// Devices known by now.
    pub devices: Vec<trace::Device>,
    /// Slots in use.
    pub snapshot: Vec<trace::SnapshotSlot>,
    /// Threads known by now.
    pub tasks: Vec<Task>,
    /// Kernel stacks known by now.
    pub stacks: Vec<StackFrame>,
}
