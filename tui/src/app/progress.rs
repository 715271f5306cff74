//! How far work in the background is.

use analysis::Stage;
use ratatui::text::{Line, Span};
use replay::Progress;

use super::state::Job;
use crate::text::{bar, cut};
use crate::theme::Theme;

/// A line about work that is under way or has failed; nothing when it is done.
pub(crate) fn line<T>(job: &Job<T>, doing: &str, width: usize, theme: &Theme) -> Option<Line<'static>> {
    if let Some(error) = &job.error {
        return Some(Line::styled(cut(error, width), theme.bad));
    }
    if !job.is_running() {
        return None;
    }
    let (what, part, whole) = match job.stage {
        Some(Stage::Reading(read, events)) => ("reading the trace".to_owned(), read, events),
        Some(Stage::Replaying(Progress { steps, total_steps, jobs })) => {
            (format!("{doing}: {jobs} done"), steps, total_steps)
        }
        None => (doing.to_owned(), 0, 1),
    };
    let percent = (part * 100).checked_div(whole).unwrap_or(0).min(100);
    Some(Line::from(vec![
        Span::styled(format!(" {what} "), theme.strong),
        Span::styled(bar(part.min(whole), whole.max(1), 24), theme.bar),
        Span::raw(format!(" {percent} %")),
    ]))
}
