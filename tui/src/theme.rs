//! Every style on the screen, named by what it says, not by how it looks.

use ratatui::style::{Color, Modifier, Style};

/// The styles. Text keeps the terminal's own foreground, so that light and dark backgrounds both work; colour is kept
/// for what must be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Theme {
    /// What it is called.
    pub(crate) name: &'static str,
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
    /// Devices told apart, and steps of a scale, on the heat map; empty where there are no colours.
    pub(crate) devices: &'static [Color],
    /// From little to much.
    pub(crate) ramp: &'static [Color],
    /// Free slots on the heat map.
    pub(crate) free: Color,
}

impl Theme {
    /// Colours from the terminal's own palette, which its owner has made readable.
    pub(crate) const COLOUR: Self = Self {
        name: "colour",
        strong: Style::new().add_modifier(Modifier::BOLD),
        dim: Style::new().add_modifier(Modifier::DIM),
        good: Style::new().fg(Color::Green),
        warn: Style::new().fg(Color::Magenta),
        bad: Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        bar: Style::new().fg(Color::Cyan),
        selected: Style::new().add_modifier(Modifier::BOLD),
        devices: &[
            Color::Cyan,
            Color::Yellow,
            Color::Green,
            Color::Magenta,
            Color::Blue,
            Color::LightRed,
            Color::LightCyan,
            Color::LightYellow,
        ],
        ramp: &[
            Color::Indexed(24),
            Color::Indexed(31),
            Color::Indexed(72),
            Color::Indexed(149),
            Color::Indexed(220),
            Color::Indexed(208),
            Color::Indexed(196),
        ],
        free: Color::Indexed(236),
    };

    /// Blue against yellow: the same to eyes that do not tell red from green.
    pub(crate) const BLUE: Self = Self {
        name: "blue",
        good: Style::new().fg(Color::Blue),
        warn: Style::new().fg(Color::Yellow),
        bad: Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED)),
        bar: Style::new().fg(Color::Blue),
        devices: &[
            Color::Indexed(33),
            Color::Indexed(220),
            Color::Indexed(153),
            Color::Indexed(130),
            Color::Indexed(255),
            Color::Indexed(61),
        ],
        ramp: &[
            Color::Indexed(17),
            Color::Indexed(19),
            Color::Indexed(26),
            Color::Indexed(33),
            Color::Indexed(110),
            Color::Indexed(187),
            Color::Indexed(220),
        ],
        ..Self::COLOUR
    };

    /// No colour at all: weight carries what colour did.
    pub(crate) const PLAIN: Self = Self {
        name: "plain",
        strong: Style::new().add_modifier(Modifier::BOLD),
        dim: Style::new().add_modifier(Modifier::DIM),
        good: Style::new(),
        warn: Style::new().add_modifier(Modifier::BOLD),
        bad: Style::new().add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED)),
        bar: Style::new(),
        selected: Style::new().add_modifier(Modifier::BOLD),
        devices: &[],
        ramp: &[],
        free: Color::Reset,
    };

    /// [`Theme::PLAIN`] when `NO_COLOR` is set to anything (<https://no-color.org>), else [`Theme::COLOUR`].
    pub(crate) fn from_env() -> Self {
        match std::env::var_os("NO_COLOR") {
            Some(value) if !value.is_empty() => Self::PLAIN,
            _ => Self::COLOUR,
        }
    }

    /// The theme after this one.
    pub(crate) fn next(&self) -> Self {
        match self.name {
            "colour" => Self::BLUE,
            "blue" => Self::PLAIN,
            _ => Self::COLOUR,
        }
    }
}
