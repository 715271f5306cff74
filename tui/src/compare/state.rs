//! What the comparison is showing, apart from how it is drawn.

use std::sync::Arc;

use analysis::{Comparison, PolicyDetail, PolicyRow};

use crate::compare::action::Action;

/// A page of details about the selected policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Page {
    /// Why mappings bounced, and why some were refused.
    #[default]
    Causes,
    /// The first refusals, with their arithmetic.
    Refusals,
    /// Who maps, who bounces.
    Devices,
    /// What the figures rest on.
    Assumptions,
}

impl Page {
    /// The pages in order.
    pub(crate) const ALL: [Self; 4] = [Self::Causes, Self::Refusals, Self::Devices, Self::Assumptions];

    /// What its tab says.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Causes => "Causes",
            Self::Refusals => "Refusals",
            Self::Devices => "Devices",
            Self::Assumptions => "Assumptions",
        }
    }

    fn turned(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// The vertical scale of the curves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scale {
    /// One for all: heights compare between policies.
    #[default]
    Common,
    /// Each its own: a small pool's shape can be seen beside a big one's.
    Own,
}

/// What the screen is showing.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The figures.
    pub(crate) comparison: Arc<Comparison>,
    /// Row of the selected policy.
    pub(crate) selected: usize,
    /// Page of details.
    pub(crate) page: Page,
    /// First line of the page that is visible.
    pub(crate) scroll: usize,
    /// Lines one key press scrolls, and the furthest it may go: known only once drawn, so the view says.
    pub(crate) reach: Reach,
    /// Scale of the curves.
    pub(crate) scale: Scale,
    /// The page has the room of the verdict and the curves.
    pub(crate) enlarged: bool,
}

/// How far the page of details can be scrolled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Lines visible at once.
    pub(crate) visible: usize,
    /// Lines there are.
    pub(crate) lines: usize,
}

impl Reach {
    /// The largest scroll that still fills the page.
    pub(crate) fn end(self) -> usize {
        self.lines.saturating_sub(self.visible)
    }
}

/// The detail of a policy that has none.
static NO_DETAIL: PolicyDetail =
    PolicyDetail { curves: Vec::new(), refusals: Vec::new(), devices: Vec::new(), assumptions: Vec::new() };

/// The detail behind row `index`.
pub(crate) fn detail(comparison: &Comparison, index: usize) -> &PolicyDetail {
    comparison.details.get(index).unwrap_or(&NO_DETAIL)
}

impl State {
    /// The state in which the screen opens.
    pub(crate) fn new(comparison: Arc<Comparison>) -> Self {
        Self {
            comparison,
            selected: 0,
            page: Page::default(),
            scroll: 0,
            reach: Reach::default(),
            scale: Scale::default(),
            enlarged: false,
        }
    }

    /// The selected policy; `None` when there is no policy at all.
    pub(crate) fn row(&self) -> Option<&PolicyRow> {
        self.comparison.rows.get(self.selected)
    }

    /// Does what the user asked for.
    pub(crate) fn apply(&mut self, action: Action) {
        let last = self.comparison.rows.len().saturating_sub(1);
        match action {
            Action::Previous => self.select(self.selected.saturating_sub(1)),
            Action::Next => self.select((self.selected + 1).min(last)),
            Action::First => self.select(0),
            Action::Last => self.select(last),
            Action::PreviousPage => self.show(self.page.turned(Page::ALL.len() - 1)),
            Action::NextPage => self.show(self.page.turned(1)),
            Action::Show(page) => self.show(page),
            Action::ScrollDown => self.scroll = (self.scroll + self.step()).min(self.reach.end()),
            Action::ScrollUp => self.scroll = self.scroll.saturating_sub(self.step()),
            Action::ToggleScale => {
                self.scale = match self.scale {
                    Scale::Common => Scale::Own,
                    Scale::Own => Scale::Common,
                };
            }
            Action::Enlarge => self.enlarged = !self.enlarged,
        }
    }

    /// One line less than a page, so that the eye keeps its place.
    fn step(&self) -> usize {
        self.reach.visible.saturating_sub(1).max(1)
    }

    fn select(&mut self, row: usize) {
        if row != self.selected {
            self.selected = row;
            self.scroll = 0;
        }
    }

    fn show(&mut self, page: Page) {
        if page != self.page {
            self.page = page;
            self.scroll = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(policies: usize) -> Arc<Comparison> {
        Arc::new(Comparison { rows: vec![PolicyRow::default(); policies], ..Comparison::default() })
    }

    #[test]
    fn selection_stops_at_both_ends_and_survives_no_policies() {
        let three = comparison(3);
        let mut state = State::new(three);
        state.apply(Action::Previous);
        assert_eq!(state.selected, 0);
        (0..5).for_each(|_| state.apply(Action::Next));
        assert_eq!(state.selected, 2);
        let none = comparison(0);
        let mut state = State::new(none);
        state.apply(Action::Last);
        state.apply(Action::Next);
        assert!(state.row().is_none());
    }

    #[test]
    fn pages_turn_round_and_begin_at_the_top() {
        let one = comparison(1);
        let mut state = State::new(one);
        state.reach = Reach { visible: 4, lines: 20 };
        state.apply(Action::ScrollDown);
        assert_eq!(state.scroll, 3);
        state.apply(Action::PreviousPage);
        assert_eq!((state.page, state.scroll), (Page::Assumptions, 0));
        state.apply(Action::NextPage);
        assert_eq!(state.page, Page::Causes);
    }

    #[test]
    fn scrolling_stops_where_the_text_does() {
        let one = comparison(1);
        let mut state = State::new(one);
        state.reach = Reach { visible: 4, lines: 6 };
        (0..3).for_each(|_| state.apply(Action::ScrollDown));
        assert_eq!(state.scroll, 2);
        (0..3).for_each(|_| state.apply(Action::ScrollUp));
        assert_eq!(state.scroll, 0);
    }
}
