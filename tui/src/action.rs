//! What a key asks for.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::state::{Page, Popup};

/// Something the user asked for. The only way the [`State`](crate::state::State) changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Leave.
    Quit,
    /// Close what is open; leave when nothing is.
    Back,
    /// Select the policy above.
    Previous,
    /// Select the policy below.
    Next,
    /// Select the first policy.
    First,
    /// Select the last policy.
    Last,
    /// Turn to the page before.
    PreviousPage,
    /// Turn to the page after.
    NextPage,
    /// Turn to this page.
    Show(Page),
    /// Move the page's text up.
    ScrollDown,
    /// Move the page's text down.
    ScrollUp,
    /// One vertical scale for all curves, or each its own.
    ToggleScale,
    /// Give the page the room of the curves and the verdict, or take it back.
    Enlarge,
    /// Lay this over the screen.
    Open(Popup),
}

/// A key as the bottom line and the help name it.
pub(crate) struct Key {
    /// The keys.
    pub(crate) keys: &'static str,
    /// Bottom line: a word or two; empty keeps the key off the bottom line.
    pub(crate) short: &'static str,
    /// Help: a phrase.
    pub(crate) long: &'static str,
}

/// The keys in the order they are shown.
pub(crate) const KEYS: &[Key] = &[
    Key { keys: "↑↓", short: "policy", long: "select a policy (also k j; Home End: first, last)" },
    Key { keys: "Tab", short: "page", long: "next page of details (Shift-Tab: back; 1 to 4: that page)" },
    Key { keys: "PgUp PgDn", short: "scroll", long: "scroll the details" },
    Key { keys: "Enter", short: "enlarge", long: "give the details the whole screen, and back" },
    Key { keys: "s", short: "scale", long: "one scale for all curves, or each its own" },
    Key { keys: "v", short: "", long: "the whole verdict, where there was no room for it" },
    Key { keys: "?", short: "help", long: "this help" },
    Key { keys: "q", short: "quit", long: "quit (also Ctrl-C; Esc goes one step back)" },
];

impl Action {
    /// The action a key stands for; `None` for a key that means nothing here.
    pub(crate) fn from_key(key: KeyEvent) -> Option<Self> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Self::Quit);
        }
        Some(match key.code {
            KeyCode::Char('q') => Self::Quit,
            KeyCode::Esc => Self::Back,
            KeyCode::Up | KeyCode::Char('k') => Self::Previous,
            KeyCode::Down | KeyCode::Char('j') => Self::Next,
            KeyCode::Home | KeyCode::Char('g') => Self::First,
            KeyCode::End | KeyCode::Char('G') => Self::Last,
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => Self::PreviousPage,
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => Self::NextPage,
            KeyCode::PageDown | KeyCode::Char(' ') => Self::ScrollDown,
            KeyCode::PageUp => Self::ScrollUp,
            KeyCode::Char('s') => Self::ToggleScale,
            KeyCode::Enter => Self::Enlarge,
            KeyCode::Char('v') => Self::Open(Popup::Verdict),
            KeyCode::Char('?') | KeyCode::F(1) => Self::Open(Popup::Help),
            KeyCode::Char(digit) => Self::Show(Page::from_digit(digit)?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_c_quits_and_ctrl_anything_else_does_nothing() {
        let ctrl = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
        assert_eq!(Action::from_key(ctrl('c')), Some(Action::Quit));
        assert_eq!(Action::from_key(ctrl('q')), None);
    }

    #[test]
    fn digits_are_pages_and_a_released_key_is_nothing() {
        let key = |c| KeyEvent::from(KeyCode::Char(c));
        assert_eq!(Action::from_key(key('1')), Some(Action::Show(Page::Causes)));
        assert_eq!(Action::from_key(key('4')), Some(Action::Show(Page::Assumptions)));
        assert_eq!(Action::from_key(key('5')), None);
        let released = KeyEvent { kind: KeyEventKind::Release, ..key('q') };
        assert_eq!(Action::from_key(released), None);
    }
}
