//! What the screen is showing, apart from how it is drawn.

use analysis::{Comparison, PolicyDetail, PolicyRow};

use crate::action::Action;

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

    /// The page that the key `digit` opens.
    pub(crate) fn from_digit(digit: char) -> Option<Self> {
        let place = usize::try_from(digit.to_digit(10)?).ok()?.checked_sub(1)?;
        Self::ALL.get(place).copied()
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

/// Something that lies over the screen until the next key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Popup {
    /// The keys, and what the drawing means.
    Help,
    /// The verdict, whole.
    Verdict,
}

/// What the screen is showing.
#[derive(Debug)]
pub(crate) struct State<'a> {
    /// The figures.
    pub(crate) comparison: &'a Comparison,
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
    /// What lies over the rest.
    pub(crate) popup: Option<Popup>,
    /// The user wants to leave.
    pub(crate) quit: bool,
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

impl<'a> State<'a> {
    /// The state in which the screen opens.
    pub(crate) fn new(comparison: &'a Comparison) -> Self {
        Self {
            comparison,
            selected: 0,
            page: Page::default(),
            scroll: 0,
            reach: Reach::default(),
            scale: Scale::default(),
            enlarged: false,
            popup: None,
            quit: false,
        }
    }

    /// The selected policy; `None` when there is no policy at all.
    pub(crate) fn row(&self) -> Option<&'a PolicyRow> {
        self.comparison.rows.get(self.selected)
    }

    /// Does what the user asked for.
    pub(crate) fn apply(&mut self, action: Action) {
        // A popup covers the rest: the next key closes it and does nothing else, unless it is to quit.
        if self.popup.take().is_some() && action != Action::Quit {
            return;
        }
        let last = self.comparison.rows.len().saturating_sub(1);
        match action {
            Action::Quit => self.quit = true,
            Action::Back if self.enlarged => self.enlarged = false,
            Action::Back => self.quit = true,
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
            Action::Open(popup) => self.popup = Some(popup),
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

    fn comparison(policies: usize) -> Comparison {
        Comparison { rows: vec![PolicyRow::default(); policies], ..Comparison::default() }
    }

    #[test]
    fn selection_stops_at_both_ends_and_survives_no_policies() {
        let three = comparison(3);
        let mut state = State::new(&three);
        state.apply(Action::Previous);
        assert_eq!(state.selected, 0);
        (0..5).for_each(|_| state.apply(Action::Next));
        assert_eq!(state.selected, 2);
        let none = comparison(0);
        let mut state = State::new(&none);
        state.apply(Action::Last);
        state.apply(Action::Next);
        assert!(state.row().is_none());
    }

    #[test]
    fn pages_turn_round_and_begin_at_the_top() {
        let one = comparison(1);
        let mut state = State::new(&one);
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
        let mut state = State::new(&one);
        state.reach = Reach { visible: 4, lines: 6 };
        (0..3).for_each(|_| state.apply(Action::ScrollDown));
        assert_eq!(state.scroll, 2);
        (0..3).for_each(|_| state.apply(Action::ScrollUp));
        assert_eq!(state.scroll, 0);
    }

    #[test]
    fn esc_goes_back_one_step_at_a_time_and_then_quits() {
        let one = comparison(1);
        let mut state = State::new(&one);
        state.apply(Action::Enlarge);
        state.apply(Action::Open(Popup::Help));
        state.apply(Action::Back);
        assert!(state.popup.is_none() && state.enlarged && !state.quit);
        state.apply(Action::Back);
        assert!(!state.enlarged && !state.quit);
        state.apply(Action::Back);
        assert!(state.quit);
    }

    #[test]
    fn a_key_that_closes_a_popup_does_nothing_else_but_quit_quits() {
        let two = comparison(2);
        let mut state = State::new(&two);
        state.apply(Action::Open(Popup::Help));
        state.apply(Action::Next);
        assert!(state.popup.is_none() && state.selected == 0);
        state.apply(Action::Open(Popup::Help));
        state.apply(Action::Quit);
        assert!(state.quit);
    }
}
