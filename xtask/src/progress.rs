//! What is going on, for somebody who waits: a spinner in a terminal, plain lines elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// All spinners, so that steps that run side by side have a line each.
static SPINNERS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A step that takes a while. All its lines go to standard error.
#[derive(Debug)]
pub struct Step {
    title: String,
    started: Instant,
    spinner: Option<ProgressBar>,
}

impl Step {
    /// Begins a step that says nothing by itself: a spinner turns, if somebody can see it.
    pub fn quiet(title: impl Into<String>) -> Step {
        if !std::io::stderr().is_terminal() {
            return Step::loud(title);
        }
        let mut step = Step { title: title.into(), started: Instant::now(), spinner: None };
        let spinner = SPINNERS.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}") {
            spinner.set_style(style);
        }
        spinner.set_prefix(step.title.clone());
        spinner.enable_steady_tick(Duration::from_millis(120));
        step.spinner = Some(spinner);
        step
    }

    /// Begins a step that starts a program which shows its own progress.
    pub fn loud(title: impl Into<String>) -> Step {
        let step = Step { title: title.into(), started: Instant::now(), spinner: None };
        step.line("begins");
        step
    }

    /// What the step is at.
    pub fn say(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.to_owned()),
            None => self.line(text),
        }
    }

    /// Ends the step and says how long it took.
    pub fn done(self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        self.line(&format!("done in {}", seconds(self.started.elapsed())));
    }

    fn line(&self, text: &str) {
        // Nobody listening is no reason to stop.
        let _ = SPINNERS.suspend(|| writeln!(std::io::stderr(), "==> {}: {text}", self.title));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// `8.1 s` or `3 min 5 s`.
pub fn seconds(took: Duration) -> String {
    match took.as_secs() {
        0..60 => format!("{:.1} s", took.as_secs_f64()),
        total => format!("{} min {} s", total / 60, total % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_for_people() {
        assert_eq!(seconds(Duration::from_millis(8_120)), "8.1 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 5 s");
    }
}
