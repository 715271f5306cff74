//! The terminal: taking it, drawing on it, giving it back.

use std::error::Error;
use std::time::Duration;
use std::{io, panic, thread};

use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, DisableMouseCapture, EnableMouseCapture, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};

use crate::app::App;

/// Shows the application on the real terminal.
pub(crate) fn show(app: &mut App) -> io::Result<()> {
    let ours = thread::current().id();
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // A panic in the background is told by whoever waits for its result: nothing may be printed over the screen.
        if thread::current().id() == ours {
            let _ = give_back(); // nothing is left to be done about a failure here
            report(info);
        }
    }));
    let shown = take().and_then(|mut terminal| run(&mut terminal, &mut Keyboard, app));
    app.stop();
    // Given back even when it could be taken only in part; the first error is the one that tells.
    let restored = give_back();
    drop(panic::take_hook());
    shown.and(restored)
}

fn take() -> io::Result<Terminal<CrosstermBackend<io::Stdout>>> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture)?;
    Terminal::new(CrosstermBackend::new(io::stdout()))
}

fn give_back() -> io::Result<()> {
    let raw = disable_raw_mode();
    execute!(io::stdout(), DisableMouseCapture, LeaveAlternateScreen, Show)?;
    raw
}

/// Where events come from.
pub(crate) trait Input {
    /// The next one, waiting no longer than this; without a limit for ever.
    fn next(&mut self, patience: Option<Duration>) -> io::Result<Option<Event>>;
}

/// The real keyboard and mouse.
struct Keyboard;

impl Input for Keyboard {
    fn next(&mut self, patience: Option<Duration>) -> io::Result<Option<Event>> {
        match patience {
            None => event::read().map(Some),
            Some(patience) => Ok(if event::poll(patience)? { Some(event::read()?) } else { None }),
        }
    }
}

/// Draws, waits, and again, until the user quits. It is drawn only when something has changed, and all events that have
/// come by then are taken first.
pub(crate) fn run<B: Backend<Error: Into<Box<dyn Error + Send + Sync>>>>(
    terminal: &mut Terminal<B>,
    input: &mut impl Input,
    app: &mut App,
) -> io::Result<()> {
    loop {
        if app.wants_drawing() {
            terminal.draw(|frame| app.draw(frame.area(), frame.buffer_mut())).map_err(io::Error::other)?;
        }
        let mut event = input.next(app.patience())?;
        while let Some(happened) = event {
            app.take(&happened);
            if app.state.quit {
                return Ok(());
            }
            event = input.next(Some(Duration::ZERO))?;
        }
        app.tick();
    }
}
