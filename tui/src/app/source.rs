//! Where moments come from: a trace, in which every one can be gone to, or a recorder at work, which only goes on.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use replay::moment::{Around, Moment};
use trace::file::Events;
use trace::{Device, Event, Feed, Meta, P2mRun, StackFrame, Task, Trace};

use super::LiveStart;
use super::index::{self, Shared};
use super::timeline::{FAILURES, Mark, Timeline};
use super::window::{Making, Window};

/// Where to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Behind the last event not later than this.
    Time(u64),
    /// Behind so many events.
    Event(u64),
}

impl Goal {
    /// Whether a moment lies before it, or is it.
    fn is_ahead_of(self, moment: &Moment) -> bool {
        match self {
            Self::Time(time_ns) => moment.time_ns() <= time_ns,
            Self::Event(events) => moment.totals().events <= events,
        }
    }
}

/// Who ran and what was called: what numbers in events stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) tasks: Vec<Task>,
    pub(crate) stacks: Vec<StackFrame>,
}

/// A source of moments.
pub(crate) enum Source {
    /// A trace.
    Recorded(Box<Recorded>),
    /// A recorder at work.
    Live(Box<Live>),
}

impl Source {
    /// Of a live recording, its last part to be replayed.
    pub(crate) fn excerpt(&self) -> Option<Making> {
        match self {
            Self::Recorded(_) => None,
            Self::Live(live) => Some(live.excerpt()),
        }
    }

    /// What is known of the recording.
    pub(crate) fn meta(&self) -> &Meta {
        match self {
            Self::Recorded(recorded) => recorded.trace.meta(),
            Self::Live(live) => &live.meta,
        }
    }
}

/// What a source has for the screen.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// A new moment.
    pub(crate) moment: Option<Moment>,
    /// A new timeline.
    pub(crate) timeline: Option<Arc<Timeline>>,
    /// New facts about the recording.
    pub(crate) meta: Option<Meta>,
    /// New names.
    pub(crate) names: Option<Names>,
    /// It is over.
    pub(crate) ended: Option<String>,
}

/// A trace with its index.
pub(crate) struct Recorded {
    trace: Arc<Trace>,
    start: Moment,
    index: Shared,
    version: u64,
    stop: Arc<AtomicBool>,
    /// The events behind `moment`.
    cursor: Option<Peekable<Events>>,
    moment: Moment,
}

impl Recorded {
    /// Opens a trace's events; the index is made by a thread of its own.
    pub(crate) fn new(trace: Arc<Trace>) -> Self {
        let source = Self::without_index(trace);
        let (trace, start, index, stop) =
            (Arc::clone(&source.trace), source.start.clone(), source.index.clone(), Arc::clone(&source.stop));
        thread::spawn(move || index::read(&trace, start, &index, &stop));
        source
    }

    fn without_index(trace: Arc<Trace>) -> Self {
        let around = Around::new(trace.meta(), trace.p2m(), trace.devices());
        let start = Moment::new(around, trace.snapshot());
        Self {
            moment: start.clone(),
            start,
            index: Shared::default(),
            version: u64::MAX,
            stop: Arc::default(),
            cursor: None,
            trace,
        }
    }

    /// As [`Recorded::new`], but returns when the index is whole.
    #[cfg(test)]
    pub(crate) fn indexed(trace: Arc<Trace>) -> Self {
        let source = Self::without_index(trace);
        index::read(&source.trace, source.start.clone(), &source.index, &source.stop);
        source
    }

    /// Goes to a moment, or as near as `budget` allows; whether it got there.
    ///
    /// # Errors
    /// When the trace cannot be read there.
    pub(crate) fn go(&mut self, goal: Goal, budget: Duration) -> Result<bool, trace::TraceError> {
        let began = Instant::now();
        let near = self.index.checkpoint(|moment| goal.is_ahead_of(moment));
        let ahead = goal.is_ahead_of(&self.moment) && self.cursor.is_some();
        let events = |moment: &Moment| moment.totals().events;
        match near {
            // Nearer from the checkpoint than from here.
            Some(near) if !ahead || events(&near.moment) > events(&self.moment) => {
                self.cursor = Some(self.trace.events_from(&near.place)?.peekable());
                self.moment = Moment::clone(&near.moment);
            }
            None if !ahead => {
                self.cursor = Some(self.trace.events().peekable());
                self.moment = self.start.clone();
            }
            _ => {}
        }
        let Some(cursor) = &mut self.cursor else { return Ok(true) };
        loop {
            let is_next = |event: &Result<Event, trace::TraceError>| match (event, goal) {
                (Ok(event), Goal::Time(time_ns)) => event.time_ns <= time_ns,
                (Ok(_), Goal::Event(events)) => self.moment.totals().events < events,
                (Err(_), _) => true,
            };
            let Some(event) = cursor.next_if(is_next) else { break };
            self.moment.apply(&event?);
            // A look at the clock costs more than an event.
            if self.moment.totals().events.is_multiple_of(1024) && began.elapsed() > budget {
                return Ok(false);
            }
        }
        if let Goal::Time(time_ns) = goal {
            let last = self.trace.span_ns().map_or(0, |span| span.1);
            self.moment.advance(time_ns.min(last));
        }
        Ok(true)
    }

    /// The moment it is at.
    pub(crate) fn moment(&self) -> &Moment {
        &self.moment
    }

    /// The timeline, if there is a newer one than was asked for last.
    pub(crate) fn timeline(&mut self) -> Option<Arc<Timeline>> {
        self.index.news(&mut self.version)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A recorder at work.
pub(crate) struct Live {
    feed: Receiver<Feed>,
    /// Now.
    head: Moment,
    /// As it was at each of the last seconds.
    past: VecDeque<Arc<Moment>>,
    failures: Vec<(Mark, Arc<replay::moment::Failure>)>,
    names: Names,
    /// What replays are made of.
    window: Window,
    meta: Meta,
    devices: Vec<Device>,
    p2m: Vec<P2mRun>,
    ended: bool,
}

/// Moments of a live recording that can be gone back to, one a second.
const PAST: usize = 300;

impl Live {
    /// From what the recorder knew at its start, and what it goes on to tell.
    pub(crate) fn new(start: &LiveStart, feed: Receiver<Feed>) -> Self {
        let around = Around::new(&start.meta, &start.p2m, &start.devices);
        let head = Moment::new(around, &start.snapshot);
        let names = Names { tasks: start.tasks.clone(), stacks: start.stacks.clone() };
        Self {
            feed,
            head,
            past: VecDeque::new(),
            failures: Vec::new(),
            names,
            window: Window::new(&start.meta, &start.snapshot),
            meta: start.meta.clone(),
            devices: start.devices.clone(),
            p2m: start.p2m.clone(),
            ended: false,
        }
    }

    /// Takes in what has been told by now.
    pub(crate) fn take_in(&mut self) -> News {
        let mut news = News::default();
        let mut changed = false;
        loop {
            match self.feed.try_recv() {
                Ok(Feed::Events(events)) => {
                    for event in &events {
                        let failures = self.head.totals().failures;
                        self.head.apply(event);
                        if self.head.totals().failures > failures && self.failures.len() < FAILURES {
                            let mark = Mark { event: self.head.totals().events, time_ns: event.time_ns };
                            self.failures.extend(self.head.failures().back().map(|f| (mark, Arc::clone(f))));
                        }
                    }
                    self.window.push(&events);
                    changed = true;
                }
                Ok(told @ (Feed::Time(_) | Feed::Devices(_) | Feed::P2m(_) | Feed::Looks(_))) => {
                    self.head.follow(&told);
                    match told {
                        Feed::Devices(devices) => self.devices = devices,
                        Feed::P2m(p2m) => self.p2m = p2m,
                        _ => {}
                    }
                    changed = true;
                }
                Ok(Feed::Tasks(tasks)) => self.names.tasks = tasks,
                Ok(Feed::Stacks(stacks)) => self.names.stacks = stacks,
                Ok(Feed::Meta(meta)) => {
                    self.meta = Meta::clone(&meta);
                    news.meta = Some(*meta);
                }
                Ok(Feed::Ended(why)) => {
                    self.ended = true;
                    news.ended = Some(why);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    if !std::mem::replace(&mut self.ended, true) {
                        news.ended = Some("the recorder has stopped".to_owned());
                    }
                    break;
                }
            }
        }
        if changed {
            let last = self.past.back().map_or(0, |moment| moment.time_ns());
            if self.head.time_ns() >= last + 1_000_000_000 {
                if self.past.len() == PAST {
                    self.past.pop_front();
                }
                self.past.push_back(Arc::new(self.head.clone()));
            }
            news.timeline = Some(Arc::new(self.timeline()));
            news.names = Some(self.names.clone());
            news.moment = Some(self.head.clone());
        }
        news
    }

    /// The last part of the recording, to be made a trace of elsewhere: it takes its time.
    pub(crate) fn excerpt(&self) -> Making {
        let (window, meta, devices, p2m) =
            (self.window.clone(), self.meta.clone(), self.devices.clone(), self.p2m.clone());
        Box::new(move || window.excerpt(&meta, devices, p2m))
    }

    /// The last five minutes, a part a second.
    fn timeline(&self) -> Timeline {
        let seconds = self.head.rates().seconds();
        let first = seconds.front().map_or(0, |second| second.time_ns);
        let mut timeline = Timeline::new((first, self.head.time_ns()), self.head.totals().events);
        for second in seconds {
            let at = timeline.bin(second.time_ns);
            let width = timeline.width();
            let until = timeline.bin(second.time_ns.saturating_add(1_000_000_000 - width.min(1_000_000_000)));
            for bin in timeline.bins.get_mut(at..=until.max(at)).into_iter().flatten() {
                let time_ns = bin.time_ns;
                *bin = replay::moment::Second { time_ns, ..*second };
            }
        }
        timeline.read.0 = timeline.read.1;
        timeline.failures = Arc::new(self.failures.clone());
        timeline.end = Some(Arc::new(self.head.clone()));
        timeline
    }

    /// The moment nearest to a goal that is still known.
    pub(crate) fn moment_at(&self, goal: Goal) -> Moment {
        let before = self.past.partition_point(|moment| goal.is_ahead_of(moment));
        if goal.is_ahead_of(&self.head) || self.past.is_empty() {
            return self.head.clone();
        }
        let at = before.saturating_sub(1);
        self.past.get(at).map_or_else(|| self.head.clone(), |moment| Moment::clone(moment))
    }
}

/// A value that a thread puts in place and another one looks at.
#[derive(Debug)]
pub(crate) struct Told<T>(RwLock<Option<T>>);

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self(RwLock::new(None))
    }
}

impl<T: Clone> Told<T> {
    /// Says something new.
    pub(crate) fn tell(&self, what: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    /// What was said last.
    pub(crate) fn last(&self) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
