//! The comparison as it is drawn.

use std::sync::Arc;

use analysis::{Comparison, PolicyDetail, PolicyRow};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use crate::compare::action::Action;
use crate::compare::fixture;
use crate::compare::screen;
use crate::compare::state::{Page, State};
use crate::theme::Theme;

/// The screen after `actions`, in a terminal of this size.
fn terminal(comparison: &Comparison, size: (u16, u16), theme: &Theme, actions: &[Action]) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    let mut state = State::new(Arc::new(comparison.clone()));
    let mut draw = |state: &mut State| {
        terminal
            .draw(|frame| state.reach = screen::draw(state, 5_000_000_000, frame.area(), frame.buffer_mut(), theme))
            .unwrap();
    };
    draw(&mut state);
    for action in actions {
        state.apply(*action);
        draw(&mut state);
    }
    terminal
}

fn drawn(comparison: &Comparison, size: (u16, u16), actions: &[Action]) -> String {
    terminal(comparison, size, &Theme::COLOUR, actions).backend().to_string()
}

fn many() -> Comparison {
    let mut many = fixture::headline();
    for _ in 0..3 {
        many.rows.extend_from_within(..4);
        many.details.extend_from_within(..4);
    }
    many
}

#[test]
fn the_whole_screen() {
    insta::assert_snapshot!(drawn(&fixture::headline(), (120, 40), &[]));
}

#[test]
fn the_screen_of_a_plain_terminal() {
    insta::assert_snapshot!(drawn(&fixture::headline(), (80, 24), &[]));
}

#[test]
fn another_policy_its_refusals_and_own_scales() {
    let actions = [Action::Next, Action::Next, Action::Show(Page::Refusals), Action::ToggleScale, Action::ScrollDown];
    insta::assert_snapshot!(drawn(&fixture::headline(), (120, 40), &actions));
}

#[test]
fn devices_enlarged() {
    let actions = [Action::Last, Action::Show(Page::Devices), Action::Enlarge];
    insta::assert_snapshot!(drawn(&fixture::headline(), (80, 24), &actions));
}

#[test]
fn nothing_refused() {
    insta::assert_snapshot!(drawn(&fixture::quiet(), (100, 30), &[Action::Show(Page::Assumptions)]));
}

#[test]
fn more_policies_than_fit() {
    insta::assert_snapshot!(drawn(&many(), (100, 30), &[Action::Last]));
}

#[test]
fn empty_curves_and_missing_details() {
    let mut quiet = fixture::quiet();
    quiet.details[0].curves[0].points.clear();
    quiet.rows.push(PolicyRow { policy: "legacy".into(), ..PolicyRow::default() });
    quiet.details.push(PolicyDetail::default());
    quiet.rows.push(PolicyRow { policy: "rfc64".into(), ..PolicyRow::default() });
    insta::assert_snapshot!(drawn(&quiet, (100, 30), &[Action::Next]));
}

#[test]
fn no_policies_at_all() {
    let nothing = Comparison::default();
    let screen = drawn(&nothing, (80, 24), &[Action::Last, Action::NextPage, Action::ScrollDown, Action::Enlarge]);
    assert!(screen.contains("name one with --policy"), "{screen}");
    assert!(crate::print(&nothing, 80).contains("name one with --policy"));
}

#[test]
fn every_size_can_be_drawn() {
    let comparison = many();
    for width in (0..140).step_by(10) {
        for height in (0..50).step_by(4) {
            for page in Page::ALL {
                let actions = [Action::Last, Action::Show(page), Action::Enlarge];
                terminal(&comparison, (width, height), &Theme::COLOUR, &actions);
            }
        }
    }
}

#[test]
fn without_colour_there_is_none() {
    let terminal = terminal(&fixture::headline(), (120, 40), &Theme::PLAIN, &[]);
    assert!(
        terminal.backend().buffer().content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
    );
}

#[test]
fn the_plain_text() {
    let text = crate::print(&fixture::headline(), 120);
    assert!(!text.contains('\u{1b}'));
    assert!(text.lines().all(|line| line.chars().count() <= 120 && line == line.trim_end()));
    insta::assert_snapshot!(text);
}

#[test]
fn control_characters_from_a_trace_never_reach_the_terminal() {
    let mut hostile = fixture::headline();
    hostile.facts.name = "\u{1b}[2Jx\u{7}".into();
    hostile.details[0].refusals[0].explanation = "a\u{1b}]0;title\u{7}\nb".into();
    hostile.devices[0].driver = Some("\u{9b}31m".into());
    let screen = drawn(&hostile, (120, 40), &[Action::Show(Page::Refusals)]) + &crate::print(&hostile, 120);
    assert!(screen.chars().all(|c| c == '\n' || !c.is_control()));
}
