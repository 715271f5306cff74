//! Every style on the screen, named by what it says, not by how it looks.

use ratatui::style::{Color, Modifier, Style};

/// The styles. Text keeps the terminal's own foreground, so that light and dark backgrounds both work; colour is kept
/// for what must be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Theme {
    /// Titles and the figures that matter.
    pub(crate) strong: Style,
    /// Labels, rules, axes: what the eye may pass over.
    pub(crate) dim: Style,
    /// Nothing is wrong here.
    pub(crate) good: Style,
    /// Worth a look.
    pub(crate) warn: Style,
    /// Refused, lost.
    pub(crate) bad: Style,
    /// Bars and curves.
    pub(crate) bar: Style,
    /// The selected policy, the open page.
    pub(crate) selected: Style,
}

impl Theme {
    /// Colours from the terminal's own palette, which its owner has made readable.
    pub(crate) const COLOUR: Self = Self {
        strong: Style::new().add_modifier(Modifier::BOLD),
        dim: Style::new().add_modifier(Modifier::DIM),
        good: Style::new().fg(Color::Green),
        warn: Style::new().fg(Color::Magenta),
        bad: Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        bar: Style::new().fg(Color::Cyan),
        selected: Style::new().add_modifier(Modifier::BOLD),
    };

    /// No colour at all: weight carries what colour did.
    pub(crate) const PLAIN: Self = Self {
        strong: Style::new().add_modifier(Modifier::BOLD),
        dim: Style::new().add_modifier(Modifier::DIM),
        good: Style::new(),
        warn: Style::new().add_modifier(Modifier::BOLD),
        bad: Style::new().add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED)),
        bar: Style::new(),
        selected: Style::new().add_modifier(Modifier::BOLD),
    };

    /// [`Theme::PLAIN`] when `NO_COLOR` is set to anything (<https://no-color.org>), else [`Theme::COLOUR`].
    pub(crate) fn from_env() -> Self {
        match std::env::var_os("NO_COLOR") {
            Some(value) if !value.is_empty() => Self::PLAIN,
            _ => Self::COLOUR,
        }
    }
}
