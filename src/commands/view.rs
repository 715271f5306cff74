//! `swioscope view`: the comparison on a screen.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use trace::Trace;

use super::compare::compare;
use crate::cli::ViewArgs;

/// Width of the printed screen where there is no terminal to ask.
const PRINT_WIDTH: u16 = 120;

pub(crate) fn run(args: &ViewArgs) -> anyhow::Result<ExitCode> {
    let comparison = compare(&Trace::open(&args.trace)?, &args.machine, &[])?;
    if args.print || !io::stdout().is_terminal() {
        write!(io::stdout(), "{}", tui::print(&comparison, PRINT_WIDTH))?;
    } else {
        tui::view(&comparison)?;
    }
    Ok(ExitCode::SUCCESS)
}
