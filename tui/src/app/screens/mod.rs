//! One file a screen. Each is a pure function of the state; what can be clicked is told back.

pub(crate) mod compare;
pub(crate) mod devices;
pub(crate) mod failures;
pub(crate) mod help;
pub(crate) mod overview;
pub(crate) mod plan;
pub(crate) mod slots;

use ratatui::layout::{Position, Rect};

use trace::{StackFrame, Task};

use super::action::Action;
use super::state::State;
use crate::compare::state::Reach;

/// What was drawn, as far as the state must know: what a click means, and how much there was room for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drawn {
    /// What a click in an area does; the last that fits counts.
    pub(crate) hits: Vec<(Rect, Hit)>,
    /// Rows of the list on screen that were visible.
    pub(crate) page: Option<usize>,
    /// Cells of the heat map, across and down.
    pub(crate) cells: Option<(usize, usize)>,
    /// How far the comparison's details can be scrolled.
    pub(crate) reach: Option<Reach>,
}

/// What a click means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// This.
    Do(Action),
    /// Go to the time at that column of a span.
    Time(u64, u64),
    /// Select the row at that line, the first being this.
    Row(usize),
    /// Select the cell of a grid with so many across, each so wide, and so many to a line of text.
    Cell(usize, usize, usize),
}

impl Drawn {
    /// The action of a click.
    pub(crate) fn click(&self, at: Position) -> Option<Action> {
        let (area, hit) = self.hits.iter().rev().find(|(area, _)| area.contains(at))?;
        let (x, y) = (at.x - area.x, at.y - area.y);
        Some(match *hit {
            Hit::Do(action) => action,
            Hit::Time(from, to) => {
                let share = u128::from(to - from.min(to)) * u128::from(x) / u128::from(area.width.max(1));
                Action::Seek(from + u64::try_from(share).unwrap_or(0))
            }
            Hit::Row(first) => Action::Select(first + usize::from(y)),
            Hit::Cell(across, wide, deep) => {
                let column = usize::from(x) / wide.max(1);
                if column >= across {
                    return None;
                }
                Action::Select(usize::from(y) * deep * across + column)
            }
        })
    }
}

/// The first of the rows to show, so that the selected one is among `visible`.
pub(crate) fn first_visible(selected: usize, visible: usize, rows: usize) -> usize {
    let last = rows.saturating_sub(visible);
    (selected + 1).saturating_sub(visible.max(1)).min(last)
}

/// The calls of a kernel stack, innermost first.
pub(crate) fn calls(state: &State, stack: u32) -> Vec<String> {
    StackFrame::calls(&state.names.stacks, stack).iter().map(|call| call.place()).collect()
}

/// The calls that tell most: the allocator's own and the DMA API's, which all have, are left out.
pub(crate) fn callers(state: &State, stack: u32) -> String {
    let calls = StackFrame::calls(&state.names.stacks, stack);
    let told: Vec<_> = StackFrame::telling(&calls).iter().map(|call| call.function()).collect();
    if told.is_empty() { format!("stack {stack}") } else { told.join(" ← ") }
}

/// Who ran: a thread's name, as it was then.
pub(crate) fn task(state: &State, tid: u32, time_ns: u64) -> String {
    if tid == 0 {
        return "idle or interrupt".to_owned();
    }
    let task = Task::at(&state.names.tasks, tid, time_ns);
    task.map_or_else(|| format!("tid {tid}"), |task| format!("{} ({tid})", task.comm))
}
