//! Fuzzing the models (`replay/fuzz`), each target for so many seconds.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Step;
use crate::{build, cache, process};

/// The cargo-fuzz this project is known to work with.
const VERSION: &str = "0.13.2";
/// What there is to fuzz.
const TARGETS: [&str; 2] = ["differential", "script"];
/// A case longer than this finds nothing a shorter one does not, but slower.
const LONGEST: u32 = 4096;
/// A case that takes longer counts as a hang.
const PATIENCE: u32 = 20;

/// Installs cargo-fuzz if it is missing, writes the seeds, runs every target.
///
/// # Errors
/// There is no nightly compiler, something cannot be built, or a target found something: its output says where the input
/// is, which belongs into a test.
pub fn run(seconds: u32) -> Result<()> {
    let program = cargo_fuzz()?;
    let fuzz = cache::workspace().join("replay/fuzz");
    let target_dir = cache::target_dir()?.join("fuzz");

    let step = Step::quiet("seeds from the vectors");
    build::example("replay", "fuzz-seeds", &[&fuzz.join("corpus")])?;
    step.done();
    for target in TARGETS {
        let step = Step::loud(format!("fuzzing {target} for {seconds} s, after building it"));
        let mut command = build::plain(&program);
        // cargo-fuzz needs a nightly compiler, and calls cargo by its name.
        command.env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO_TARGET_DIR").current_dir(&fuzz);
        // The models have no unsafe code, so a sanitizer would find nothing and cost half the runs.
        command
            .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir", "."])
            .arg("--target-dir")
            .arg(&target_dir)
            .args([target, "--"]);
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST}"));
        process::run(command.arg(format!("-timeout={PATIENCE}")).arg("-print_final_stats=1"))?;
        step.done();
    }
    Ok(())
}

/// The path of cargo-fuzz, built into the tools folder unless that version is there.
fn cargo_fuzz() -> Result<std::path::PathBuf> {
    let tools = cache::tools_dir()?;
    let program = tools.join("bin/cargo-fuzz");
    let is_there = |program: &Path| {
        let version = process::output(Command::new(program).args(["fuzz", "--version"]));
        version.is_ok_and(|text| text.split_whitespace().nth(1) == Some(VERSION))
    };
    if !is_there(&program) {
        let step = Step::quiet(format!("cargo-fuzz {VERSION}"));
        let mut cargo = build::plain(Path::new("cargo"));
        cargo.args(["install", "cargo-fuzz", "--version", VERSION, "--locked", "--force", "--root"]).arg(&tools);
        // A folder in a checkout would have it pick up that checkout's settings.
        cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").current_dir(&tools);
        process::output(&mut cargo).with_context(|| format!("cannot build cargo-fuzz {VERSION}"))?;
        step.done();
    }
    process::output(Command::new("rustup").args(["run", "nightly", "rustc", "--version"]))
        .context("fuzzing takes a nightly compiler: `rustup toolchain install nightly`")?;
    Ok(program)
}
