//! The progress bar of what takes longer than a second, and Ctrl-C that leaves what is done.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use analysis::Stage;
use indicatif::{ProgressBar, ProgressStyle};
use replay::Progress;
use signal_hook::consts::SIGINT;

/// A bar on standard error, and the flag Ctrl-C sets.
pub(crate) struct Bar {
    bar: ProgressBar,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Bar {
    /// Shows it. The first Ctrl-C asks the work to stop and keep what is done, a second one ends the program.
    pub(crate) fn show() -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(SIGINT, Arc::clone(&stop))?;
        let bar = ProgressBar::new(0);
        bar.set_style(
            ProgressStyle::with_template("{spinner} {msg}  {wide_bar} {percent} %  {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.enable_steady_tick(Duration::from_millis(100));
        Ok(Self { bar, stop })
    }

    /// How far the work is; `of` says how many replays there are, where that is known.
    pub(crate) fn at(&self, stage: Stage, of: Option<usize>) {
        match stage {
            Stage::Reading(read, events) => {
                self.bar.set_message("reading the trace");
                self.bar.set_length(events);
                self.bar.set_position(read);
            }
            Stage::Replaying(Progress { steps, total_steps, jobs }) => {
                let of = of.map_or_else(String::new, |of| format!(" of {of}"));
                self.bar.set_message(format!("replaying: {jobs}{of} policies done"));
                self.bar.set_length(total_steps);
                self.bar.set_position(steps);
            }
        }
    }

    /// What is being done, where nobody knows how much of it there is.
    pub(crate) fn says(&self, what: &'static str) {
        self.bar.set_message(what);
    }

    /// Takes it from the screen.
    pub(crate) fn clear(self) {
        self.bar.finish_and_clear();
    }
}
