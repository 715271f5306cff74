//! The terminal: taking it, drawing on it, giving it back.

use std::error::Error;
use std::{io, panic};

use analysis::Comparison;
use ratatui::Terminal;
use ratatui::backend::Backend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;

use crate::action::Action;
use crate::screen;
use crate::state::State;
use crate::theme::Theme;

/// Shows a comparison on the real terminal.
pub(crate) fn show(comparison: &Comparison) -> io::Result<()> {
    // ratatui's own hook gives the terminal back but leaves the cursor hidden; ours runs after it, before the message.
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let _ = execute!(io::stdout(), Show); // nothing is left to be done about a failure here
        report(info);
    }));
    // Also installs a panic hook that gives the terminal back before the message is printed.
    let shown = ratatui::try_init()
        .and_then(|mut terminal| run(&mut terminal, event::read, State::new(comparison), &Theme::from_env()));
    // Given back even when it could be taken only in part; the first error is the one that tells.
    let restored = ratatui::try_restore();
    shown.and(restored)
}

/// Draws, waits for an event, and again, until the user quits. Nothing moves by itself, so nothing is drawn meanwhile.
pub(crate) fn run<B: Backend<Error: Into<Box<dyn Error + Send + Sync>>>>(
    terminal: &mut Terminal<B>,
    mut next: impl FnMut() -> io::Result<Event>,
    mut state: State<'_>,
    theme: &Theme,
) -> io::Result<()> {
    while !state.quit {
        terminal
            .draw(|frame| screen::draw(&mut state, frame.area(), frame.buffer_mut(), theme))
            .map_err(io::Error::other)?;
        // A resize needs no action: the next draw asks for the size.
        if let Event::Key(key) = next()?
            && let Some(action) = Action::from_key(key)
        {
            state.apply(action);
        }
    }
    Ok(())
}
