//! The `swioscope` command: thin. It parses arguments, calls the crates that know, prints, and chooses the exit code.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it was tried and failed, or a check said no |
//! | 2 | the command line was wrong |
//! | 3 | recorded, but something was lost and `--strict` was given |
//! | 4 | answered, and a `--fail-on` condition holds |
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the binary is where printing belongs")]

mod cli;
mod commands;
mod output;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Diagnostics of the probe and the collector go to standard error, quiet unless asked for by RUST_LOG, as in
    // `RUST_LOG=debug` or `RUST_LOG=warn,collector=debug`.
    let asked = std::env::var("RUST_LOG").ok().and_then(|filter| filter.parse::<Targets>().ok());
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(coloured).without_time())
        .with(asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN)))
        .init();
    let done = match cli.command {
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Record(args) => commands::record::run(&args),
        Command::Top(args) => commands::top::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        #[cfg(feature = "answers")]
        Command::Plan(args) => commands::plan::run(&args),
        #[cfg(feature = "answers")]
        Command::Compare(args) => commands::compare::run_compare(&args),
        #[cfg(feature = "answers")]
        Command::Query(args) => commands::query::run(&args),
        #[cfg(feature = "answers")]
        Command::Explain(args) => commands::explain::run(&args),
        #[cfg(feature = "answers")]
        Command::Report(args) => commands::report::run(&args),
        #[cfg(feature = "answers")]
        Command::View(args) => commands::view::run(&args),
        Command::Policies(args) => commands::policies::run(&args),
        Command::Param(args) => commands::param::run(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if is_usage(&error) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// What the command line asked for cannot be, whatever the files hold.
fn is_usage(error: &anyhow::Error) -> bool {
    #[cfg(feature = "answers")]
    {
        use analysis::AnalysisError::{Filter, NoStory, Policy, Query};
        if matches!(error.downcast_ref(), Some(Policy { .. } | Filter(_) | Query { .. } | NoStory(_))) {
            return true;
        }
    }
    #[cfg(feature = "answers")]
    if error.is::<analysis::GateError>() {
        return true;
    }
    error.is::<commands::Usage>() || error.is::<replay::PolicyError>() || error.is::<replay::AxisError>()
}

/// The reader of our output went away (`| head`): nothing failed.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}
