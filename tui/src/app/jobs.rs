//! Work in the background: replays of policies, and plans.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

use analysis::explain::{self, ExplainOptions};
use analysis::{CompareOptions, Comparison, PlanOptions, PlanReport, Stage};
use replay::{KernelVersion, Policy};
use trace::{Meta, Trace};

use super::screens::failures;
use super::source::Told;
use super::state::{Job, State};
use super::window::{Excerpt, Making};

/// One piece of work.
struct Work<T> {
    stop: Arc<AtomicBool>,
    stage: Arc<Told<Stage>>,
    result: Receiver<Result<T, String>>,
}

impl<T: Send + 'static> Work<T> {
    /// Begins it in a thread of its own.
    fn begin(work: impl FnOnce(&AtomicBool, &(dyn Fn(Stage) + Sync)) -> Result<T, String> + Send + 'static) -> Self {
        let (sender, result) = mpsc::channel();
        let (stop, stage) = (Arc::<AtomicBool>::default(), Arc::<Told<Stage>>::default());
        let (stopped, told) = (Arc::clone(&stop), Arc::clone(&stage));
        thread::spawn(move || {
            let tell = |stage: Stage| told.tell(stage);
            // A defect in a model must not take the screen with it.
            let done = catch_unwind(AssertUnwindSafe(|| work(&stopped, &tell)));
            let done =
                done.unwrap_or_else(|_| Err("the replay panicked: a defect in swioscope; please report it".to_owned()));
            // Nobody waits any more when the application has ended.
            let _ = sender.send(done);
        });
        Self { stop, stage, result }
    }

    /// What came of it, if it has ended; else how far it is.
    fn look<J>(&self, job: &mut Job<J>) -> Option<Result<T, String>> {
        match self.result.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Disconnected) => {
                Some(Err("the work in the background ended without a result".to_owned()))
            }
            Err(TryRecvError::Empty) => {
                job.stage = self.stage.last().or(job.stage);
                None
            }
        }
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What goes on in the background.
pub(crate) struct Jobs {
    trace: Option<Arc<Trace>>,
    options: CompareOptions,
    compare: Option<Work<Comparison>>,
    plan: Option<Work<PlanReport>>,
    /// The story of a refusal, under the title of its popup.
    story: Option<(String, Work<String>)>,
}

impl Jobs {
    /// Nothing yet. Without a trace nothing can be replayed.
    pub(crate) fn new(trace: Option<Arc<Trace>>, options: CompareOptions) -> Self {
        Self { trace, options, compare: None, plan: None, story: None }
    }

    /// Whether anything is under way.
    pub(crate) fn are_running(&self) -> bool {
        self.compare.is_some() || self.plan.is_some() || self.story.is_some()
    }

    /// Has all of it end soon.
    pub(crate) fn stop(&self) {
        let flags = [
            self.compare.as_ref().map(|work| &work.stop),
            self.plan.as_ref().map(|work| &work.stop),
            self.story.as_ref().map(|(_, work)| &work.stop),
        ];
        flags.into_iter().flatten().for_each(|flag| flag.store(true, Ordering::Relaxed));
    }

    /// Takes what has been done and how far the rest is; whether there was anything.
    pub(crate) fn take_results(&mut self, state: &mut State) -> bool {
        let mut changed = false;
        if let Some(work) = &self.compare {
            let before = state.compare.stage;
            let done = work.look(&mut state.compare);
            changed |= before != state.compare.stage || done.is_some();
            if let Some(done) = done {
                self.compare = None;
                state.compare.stage = None;
                match done {
                    Ok(comparison) => state.compared(comparison),
                    Err(error) => state.compare.error = Some(error),
                }
            }
        }
        if let Some(work) = &self.plan {
            let before = state.plan.stage;
            let done = work.look(&mut state.plan);
            changed |= before != state.plan.stage || done.is_some();
            if let Some(done) = done {
                self.plan = None;
                state.plan.stage = None;
                match done {
                    Ok(report) => state.planned(report),
                    Err(error) => state.plan.error = Some(error),
                }
            }
        }
        if let Some((title, work)) = &self.story {
            let done = work.look(&mut Job::<()>::default());
            if let Some(done) = done {
                state.told(title, done);
                self.story = None;
                changed = true;
            }
        }
        changed
    }

    /// What is to be replayed: the trace, or the last part of a live recording.
    fn subject(&self, live: Option<Making>) -> Option<Making> {
        let recorded = self.trace.clone().map(|trace| -> Making { Box::new(move || Ok(Excerpt::whole(trace))) });
        live.or(recorded)
    }

    /// Replays the state's policies.
    pub(crate) fn compare(&mut self, state: &mut State, live: Option<Making>) {
        let Some(subject) = self.subject(live) else { return };
        let options = self.options.clone();
        let policies = state.policies.iter().map(|text| Policy::parse(text)).collect::<Result<Vec<_>, _>>();
        let policies = match policies {
            Ok(policies) => policies,
            Err(error) => return state.compare.error = Some(error.to_string()),
        };
        state.compare.stage = Some(Stage::Reading(0, 0));
        self.compare = Some(Work::begin(move |stop, tell| {
            let excerpt = subject().map_err(|error| chain(&error))?;
            analysis::compare(&excerpt.trace, &policies, &options, stop, tell).map_err(|error| chain(&error))
        }));
    }

    /// Looks for the size the recorded kernel needs.
    pub(crate) fn plan(&mut self, state: &mut State, meta: &Meta, live: Option<Making>) {
        let Some(subject) = self.subject(live) else { return };
        let options = match plan_options(meta, &self.options) {
            Ok(options) => options,
            Err(error) => return state.plan.error = Some(error),
        };
        state.plan.stage = Some(Stage::Reading(0, 0));
        self.plan = Some(Work::begin(move |stop, tell| {
            let excerpt = subject().map_err(|error| chain(&error))?;
            let trace = Trace::open(excerpt.trace.path()).map_err(|error| chain(&error))?;
            let report = analysis::plan(&[trace], &options, stop, tell).map_err(|error| chain(&error))?;
            report.ok_or_else(|| "there is nothing to plan for".to_owned())
        }));
    }

    /// Explains a refusal, by its place in the timeline: at once what is known of it, and when that has been worked out,
    /// the whole story with what would have let it pass.
    pub(crate) fn explain(&mut self, state: &mut State, at: usize) {
        let Some((mark, failure)) = state.timeline.failures.get(at).cloned() else { return };
        let title = format!("Refusal {} of {}", at + 1, state.timeline.failures.len());
        let mut text = failures::story(state, &failure);
        if let Some(trace) = self.trace.clone() {
            text.push(String::new());
            text.push("Working out what would have let it pass …".to_owned());
            let options =
                ExplainOptions { policy: None, platform: self.options.platform, on_fail: self.options.on_fail };
            // Its number is counted from 0.
            let event = mark.event.saturating_sub(1);
            let work = Work::begin(move |stop, _| {
                explain::story(&trace, event, &options, stop).map(|story| story.text()).map_err(|error| chain(&error))
            });
            self.story = Some((title.clone(), work));
        }
        state.show_text(title, text, None);
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// What `swioscope plan` asks when nothing else is said.
fn plan_options(meta: &Meta, options: &CompareOptions) -> Result<PlanOptions, String> {
    let release = meta.host.kernel_version();
    let kernel = KernelVersion::parse(release).ok_or_else(|| {
        format!("the recorded kernel's release `{release}` is not understood: use swioscope plan --kernel")
    })?;
    let recorded = meta.pool().map(|pool| pool.nareas.max(1));
    Ok(PlanOptions {
        kernel,
        cpus: meta.host.possible_cpus.max(1),
        policies: Vec::new(),
        areas: [1].into_iter().chain(recorded).collect(),
        target: 0,
        scale: NonZeroU32::MIN,
        shift_ns: 0,
        platform: options.platform,
        on_fail: options.on_fail,
    })
}
