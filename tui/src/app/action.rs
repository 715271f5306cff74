//! The keys: one table that turns keys into actions, and from which the help and the bottom line are made.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::Screen;

/// Something the user asked for. The only way the [`State`](super::state::State) changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Leave.
    Quit,
    /// Close what is open, zoom out, take the filter away; never leaves.
    Back,
    /// Lay the keys over the screen.
    Help,
    /// Turn to this screen.
    Go(Screen),
    /// Turn to the next screen.
    NextScreen,
    /// Turn to the screen before.
    PreviousScreen,
    /// Move the selection or the cursor.
    Up,
    /// Same.
    Down,
    /// Same; where nothing can move sideways, a hundredth of the recording back.
    Left,
    /// Same, forward.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first row.
    First,
    /// To the last row.
    Last,
    /// Open, zoom in, explain.
    Enter,
    /// Select this row.
    Select(usize),
    /// Let time run, or stop it.
    Play,
    /// Let it run faster.
    Faster,
    /// Let it run slower.
    Slower,
    /// So many events on, or back.
    Step(i64),
    /// So many hundredths of the recording on, or back.
    Scrub(i64),
    /// To the next refusal, or the one before.
    Failure(bool),
    /// To the next peak of use, or the one before.
    Peak(bool),
    /// To the begin of the recording.
    Begin,
    /// To its end.
    End,
    /// To this time.
    Seek(u64),
    /// To the moment of what is selected.
    Travel,
    /// The range to report on begins here.
    RangeFrom,
    /// It ends here.
    RangeTo,
    /// Report on the range.
    Report,
    /// Write the report that is open into a file.
    Write,
    /// Ask for a time.
    AskTime,
    /// Ask for a filter.
    AskFilter,
    /// Ask for policies.
    AskPolicies,
    /// Sort by the next column.
    Sort,
    /// The other way round.
    Reverse,
    /// Colour the heat map by something else.
    Colour,
    /// One vertical scale for all curves, or each its own.
    Scale,
    /// The whole verdict.
    Verdict,
    /// Other colours.
    Theme,
}

/// A key, or a few that do the same.
pub(crate) struct Key {
    /// What is pressed.
    pub(crate) codes: &'static [KeyCode],
    /// How it is written.
    pub(crate) keys: &'static str,
    /// Bottom line: a word or two; empty keeps the key off the bottom line.
    pub(crate) short: &'static str,
    /// Help: a phrase; empty for the second half of a pair, which the first explains.
    pub(crate) long: &'static str,
    /// What it does.
    pub(crate) action: Action,
    /// Where it does it; empty means everywhere.
    pub(crate) on: &'static [Screen],
}

const fn key(
    codes: &'static [KeyCode],
    keys: &'static str,
    short: &'static str,
    long: &'static str,
    action: Action,
    on: &'static [Screen],
) -> Key {
    Key { codes, keys, short, long, action, on }
}

const fn c(c: char) -> KeyCode {
    KeyCode::Char(c)
}

const LISTS: &[Screen] = &[Screen::Devices, Screen::Failures];

/// The keys in the order they are shown; of two for the same key the first one counts.
#[rustfmt::skip]
pub(crate) const KEYS: &[Key] = &[
    // What is special to a screen comes first, in the help and on the bottom line.
    key(&[KeyCode::Enter], "Enter", "stacks, sizes", "stacks and sizes of the device", Action::Enter, &[Screen::Devices]),
    key(&[KeyCode::Enter], "Enter", "explain", "explain the refusal, with its arithmetic", Action::Enter, &[Screen::Failures]),
    key(&[c('t')], "t", "go to it", "go to the moment of the refusal", Action::Travel, &[Screen::Failures]),
    key(&[KeyCode::Enter], "Enter", "in, Esc out", "zoom in: pool, area, segment, slot (Esc: out)", Action::Enter, &[Screen::Slots]),
    key(&[c('c')], "c", "colour", "colour by device, by age, by length of free runs", Action::Colour, &[Screen::Slots]),
    key(&[c('p')], "p", "policies", "add or change policies, replayed in the background", Action::AskPolicies, &[Screen::Compare]),
    key(&[KeyCode::Enter], "Enter", "enlarge", "give the details the whole screen, and back", Action::Enter, &[Screen::Compare]),
    key(&[c('s')], "s", "scale", "one scale for all curves, or each its own", Action::Scale, &[Screen::Compare]),
    key(&[c('v')], "v", "verdict", "the whole verdict", Action::Verdict, &[Screen::Compare, Screen::Plan]),
    key(&[c('s')], "s", "sort", "sort by the next column (S: the other way round)", Action::Sort, &[Screen::Devices]),
    key(&[c('S')], "S", "", "", Action::Reverse, &[Screen::Devices]),
    key(&[c('/')], "/", "filter", "only rows that fit: a word, or size >= 64K && driver == \"nvme\"", Action::AskFilter, LISTS),
    key(&[KeyCode::Up, c('k')], "↑↓", "", "select, move (also k j; Home End PgUp PgDn)", Action::Up, &[]),
    key(&[KeyCode::Down, c('j')], "↓", "", "", Action::Down, &[]),
    key(&[KeyCode::Left, c('h')], "←→", "", "move; where nothing moves sideways, 1 % of the time back or on", Action::Left, &[]),
    key(&[KeyCode::Right, c('l')], "→", "", "", Action::Right, &[]),
    key(&[KeyCode::PageUp], "PgUp", "", "", Action::PageUp, &[]),
    key(&[KeyCode::PageDown], "PgDn", "", "", Action::PageDown, &[]),
    key(&[KeyCode::Home], "Home", "", "", Action::First, &[]),
    key(&[KeyCode::End], "End", "", "", Action::Last, &[]),
    key(&[c(' ')], "Space", "play", "let time run, or stop it", Action::Play, &[]),
    key(&[c('+'), c('=')], "+ -", "", "faster, slower: ×0.1 to ×1000", Action::Faster, &[]),
    key(&[c('-')], "-", "", "", Action::Slower, &[]),
    key(&[c('.')], ". ,", "step", "one event on, one back", Action::Step(1), &[]),
    key(&[c(',')], ",", "", "", Action::Step(-1), &[]),
    key(&[c('>')], "> <", "", "a hundredth of the recording on, back", Action::Scrub(1), &[]),
    key(&[c('<')], "<", "", "", Action::Scrub(-1), &[]),
    key(&[c('n')], "n N", "failure", "to the next refusal, to the one before", Action::Failure(true), &[]),
    key(&[c('N')], "N", "", "", Action::Failure(false), &[]),
    key(&[c('m')], "m M", "peak", "to the next peak of use, to the one before", Action::Peak(true), &[]),
    key(&[c('M')], "M", "", "", Action::Peak(false), &[]),
    key(&[c('g')], "g G", "", "to the begin of the recording, to its end", Action::Begin, &[]),
    key(&[c('G')], "G", "", "", Action::End, &[]),
    key(&[c(':')], ":", "time", "to a time, such as 3.2s, or -10s from the end", Action::AskTime, &[]),
    key(&[c('[')], "[ ]", "", "a range begins here, ends here", Action::RangeFrom, &[]),
    key(&[c(']')], "]", "", "", Action::RangeTo, &[]),
    key(&[c('r')], "r", "", "report on the range, or on everything up to now (w: into a file)", Action::Report, &[]),
    key(&[c('w')], "w", "", "", Action::Write, &[]),
    key(&[KeyCode::Tab], "Tab", "", "next screen (Shift-Tab: the one before; 1 to 6: that one)", Action::NextScreen, &[]),
    key(&[KeyCode::BackTab], "Shift-Tab", "", "", Action::PreviousScreen, &[]),
    key(&[c('1')], "1", "", "", Action::Go(Screen::Overview), &[]),
    key(&[c('2')], "2", "", "", Action::Go(Screen::Slots), &[]),
    key(&[c('3')], "3", "", "", Action::Go(Screen::Devices), &[]),
    key(&[c('4')], "4", "", "", Action::Go(Screen::Failures), &[]),
    key(&[c('5')], "5", "", "", Action::Go(Screen::Compare), &[]),
    key(&[c('6')], "6", "", "", Action::Go(Screen::Plan), &[]),
    key(&[KeyCode::Enter], "Enter", "", "", Action::Enter, &[]),
    key(&[c('T')], "T", "", "other colours: colour, blue and yellow, none", Action::Theme, &[]),
    key(&[KeyCode::Esc, KeyCode::Backspace], "Esc", "", "close, zoom out, take the filter away", Action::Back, &[]),
    key(&[c('?'), KeyCode::F(1)], "?", "help", "", Action::Help, &[]),
    key(&[c('q')], "q", "quit", "quit (also Ctrl-C)", Action::Quit, &[]),
];

impl Key {
    /// Whether it means something on a screen.
    pub(crate) fn is_on(&self, screen: Screen) -> bool {
        self.on.is_empty() || self.on.contains(&screen)
    }
}

/// The action a key stands for on a screen; `None` for a key that means nothing there.
pub(crate) fn action(key: KeyEvent, screen: Screen) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Action::Quit);
    }
    KEYS.iter().find(|known| known.is_on(screen) && known.codes.contains(&key.code)).map(|known| known.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_means_what_its_screen_says() {
        let on = |c, screen| action(KeyEvent::from(KeyCode::Char(c)), screen);
        assert_eq!(on('s', Screen::Devices), Some(Action::Sort));
        assert_eq!(on('s', Screen::Compare), Some(Action::Scale));
        assert_eq!(on('s', Screen::Overview), None);
        assert_eq!(on('4', Screen::Plan), Some(Action::Go(Screen::Failures)));
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::from(KeyCode::Char('q')) };
        assert_eq!(action(released, Screen::Overview), None);
        let ctrl = |c| action(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL), Screen::Slots);
        assert_eq!((ctrl('c'), ctrl('q')), (Some(Action::Quit), None));
    }

    #[test]
    fn every_screen_can_be_helped_and_left() {
        for screen in Screen::ALL {
            for (c, wanted) in [('?', Action::Help), ('q', Action::Quit), (' ', Action::Play)] {
                assert_eq!(action(KeyEvent::from(KeyCode::Char(c)), screen), Some(wanted));
            }
        }
    }

    #[test]
    fn no_key_hides_another_for_good() {
        // A key that some earlier entry takes away on all its screens would never be reached.
        for (i, key) in KEYS.iter().enumerate() {
            let screens = if key.on.is_empty() { &Screen::ALL[..] } else { key.on };
            for code in key.codes {
                let reached = screens.iter().any(|screen| {
                    !KEYS[..i].iter().any(|earlier| earlier.is_on(*screen) && earlier.codes.contains(code))
                });
                assert!(reached, "{} {:?}", key.keys, code);
            }
        }
    }
}
