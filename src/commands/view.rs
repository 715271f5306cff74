//! `swioscope view`: a trace on the screen, at any of its moments.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use analysis::CompareOptions;
use trace::Trace;
use tui::ViewOptions;

use super::compare::{compare, policies};
use crate::cli::ViewArgs;

/// Width of the printed comparison where there is no terminal to ask.
const PRINT_WIDTH: u16 = 120;

pub(crate) fn run(args: &ViewArgs) -> anyhow::Result<ExitCode> {
    let trace = Trace::open(&args.trace)?;
    let machine = &args.machine;
    if args.print || !io::stdout().is_terminal() {
        let comparison = compare(&trace, machine, &[])?;
        write!(io::stdout(), "{}", tui::print(&comparison, PRINT_WIDTH))?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = ViewOptions {
        policies: policies(&trace, machine, &[])?.iter().map(|policy| policy.text().to_owned()).collect(),
        compare: CompareOptions { platform: machine.platform, designs: Vec::new(), on_fail: machine.on_fail },
        at: args.at.clone(),
        open_compare: !machine.policies.is_empty(),
        ..ViewOptions::default()
    };
    tui::view(trace, options)?;
    Ok(ExitCode::SUCCESS)
}
