//! Building the workspace, always the same selection of packages: cargo unites features over what is selected, so a
//! different selection would build polars a second time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Result, anyhow};

use crate::progress::Step;
use crate::{cache, package, process};

/// The packages, and the folder where the products go.
const SELECTION: [&str; 4] = ["--release", "--workspace", "--exclude", "swioscope-probe"];

/// The workspace's own crates.
const PACKAGES: [&str; 8] = [
    "swioscope",
    "swioscope-analysis",
    "swioscope-collector",
    "swioscope-probe",
    "replay",
    "swioscope-trace",
    "swioscope-tui",
    "xtask",
];

/// What a build leaves that others use.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The tool itself.
    pub swioscope: PathBuf,
    /// The load generator for guests.
    pub lab_load: PathBuf,
}

/// Builds all programs.
///
/// # Errors
/// The build fails.
pub fn workspace() -> Result<Programs> {
    let step = Step::loud("building (the first time takes twenty minutes on two cores, most of it polars)");
    process::run(cargo("build")?.args(SELECTION).arg("--bins"))?;
    step.done();
    let release = cache::target_dir()?.join("release");
    Ok(Programs { swioscope: release.join("swioscope"), lab_load: release.join("lab-load") })
}

/// Builds one program and returns its path: the load generator alone, anything else with the whole workspace.
///
/// # Errors
/// The build fails.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut build = cargo("build")?;
    build.args(["--quiet", "--bin", name]);
    if name == "lab-load" {
        build.args(["--release", "--package", "xtask"]);
    } else {
        build.args(SELECTION);
    }
    process::run(&mut build)?;
    Ok(cache::target_dir()?.join("release").join(name))
}

/// Runs all tests, those of the lab included.
///
/// # Errors
/// A test fails, or does not build.
pub fn test(arguments: &[String]) -> Result<()> {
    let step = Step::loud("tests");
    if arguments.is_empty() {
        build_tests()?;
    }
    process::run(cargo("test")?.args(SELECTION).arg("--no-fail-fast").args(arguments))?;
    step.done();
    Ok(())
}

/// Builds all tests, and beside them the program as it is handed out, which some of them ask for: else a test builds it, and
/// those behind it wait for minutes.
fn build_tests() -> Result<()> {
    let mut tests = cargo("test")?;
    tests.args(SELECTION).arg("--no-run");
    thread::scope(|scope| {
        let packaged = scope.spawn(package::program);
        process::run(&mut tests)?;
        packaged.join().map_err(|_| anyhow!("building the packaged program panicked"))??;
        Ok(())
    })
}

/// Builds and runs an example of one package, quietly.
///
/// # Errors
/// It does not build, or fails.
pub fn example(package: &str, name: &str, arguments: &[&Path]) -> Result<()> {
    let mut run = cargo("run")?;
    run.args(["--quiet", "--release", "--package", package, "--example", name, "--"]).args(arguments);
    process::output(&mut run)?;
    Ok(())
}

/// Cargo tells what is fresh by files' times, and gives the crates of two checkouts the same names in a target folder they
/// share: an older checkout would be handed what the newer one built. So the folder notes whose crates it holds, and a
/// change of checkout throws them out; polars and the other dependencies stay.
fn claim() -> Result<()> {
    let (root, target) = (cache::workspace(), cache::target_dir()?);
    let note = target.join("checkout");
    let owner = root.to_string_lossy().into_owned();
    match fs::read_to_string(&note) {
        Ok(before) if before == owner => return Ok(()),
        // A folder of one's own, or a new one: nothing to throw out.
        Err(_) if !target.join("release").exists() => {}
        _ => {
            let packages = PACKAGES.iter().flat_map(|package| ["--package", package]);
            process::run(bare_cargo("clean")?.args(["--quiet", "--release"]).args(packages.clone()))?;
            let dist = ["--quiet", "--profile", "dist", "--target", &package::Kind::default().target()];
            process::run(bare_cargo("clean")?.args(dist).args(packages))?;
        }
    }
    fs::create_dir_all(&target)?;
    Ok(fs::write(note, owner)?)
}

pub(crate) fn cargo(task: &str) -> Result<Command> {
    claim()?;
    bare_cargo(task)
}

fn bare_cargo(task: &str) -> Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = plain(Path::new(&cargo));
    command.arg(task).current_dir(cache::workspace()).env("CARGO_TARGET_DIR", cache::target_dir()?);
    Ok(command)
}

/// A program that may be cargo, or call it, as if nobody had called cargo before.
pub(crate) fn plain(program: &Path) -> Command {
    let mut command = Command::new(program);
    // What `cargo run` told this xtask about itself is not for the cargo within. Build scripts look at it (ring's does),
    // and would be run anew, polars behind them, each time after somebody has used cargo directly.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_xtask) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether cargo sets a variable for the package it builds or runs.
fn is_about_xtask(name: &str) -> bool {
    const PREFIXES: [&str; 5] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CFG_", "CARGO_BIN_", "DEP_"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cargo_within_knows_nothing_of_the_one_without() {
        // cargo test sets these for us.
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some() && std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let command = cargo("build").unwrap();
        let removed = |name: &str| command.get_envs().any(|(key, value)| key == name && value.is_none());
        assert!(removed("CARGO_PKG_NAME") && removed("CARGO_PKG_VERSION_MAJOR") && removed("CARGO_MANIFEST_DIR"));
        assert!(
            !is_about_xtask("CARGO_HOME")
                && !is_about_xtask("CARGO_TARGET_DIR")
                && !is_about_xtask("CARGO_NET_OFFLINE")
        );
    }
}
