//! Shows the application on a trace: `cargo run --release -p swioscope-tui --example look -- TRACE [panic]`.
//!
//! `panic` panics after a second, to see that the terminal comes back.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tui::ViewOptions;

static BEGAN: OnceLock<Instant> = OnceLock::new();

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: look TRACE [panic]")?;
    let mut options = ViewOptions::default();
    if args.next().as_deref() == Some("panic") {
        options.each_tick = Some(|| {
            let late = BEGAN.get_or_init(Instant::now).elapsed() > Duration::from_secs(1);
            assert!(!late, "asked for on the command line");
        });
    }
    Ok(tui::view(trace::Trace::open(path)?, options)?)
}
