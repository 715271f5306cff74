//! Shows the screen without a trace: `cargo run --release -p swioscope-tui --example look [-- print | panic]`.
//!
//! `print` writes the plain text instead; `panic` panics after a second, to see that the terminal comes back.
#![allow(clippy::print_stdout, reason = "an example is a program")]

mod fixture;

use std::thread;
use std::time::Duration;

fn main() -> Result<(), tui::TuiError> {
    let comparison = fixture::headline();
    match std::env::args().nth(1).as_deref() {
        Some("print") => print!("{}", tui::print(&comparison, 120)),
        Some("panic") => {
            thread::spawn(|| {
                thread::sleep(Duration::from_secs(1));
                // The whole program goes down with it, as it would if the screen's own thread panicked.
                let _ = thread::spawn(|| panic!("asked for on the command line")).join();
                std::process::exit(101);
            });
            tui::view(&comparison)?;
        }
        _ => tui::view(&comparison)?,
    }
    Ok(())
}
