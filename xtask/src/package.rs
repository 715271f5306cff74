//! The program that is handed out: static, and mostly record-only, small enough to be dropped into a bare dom0.
//!
//! That one is built in a profile of its own, `dist` (see the workspace's Cargo.toml), without the comparisons and screens and
//! so without polars; the full one with them, as it is tested otherwise.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::progress::Step;
use crate::{cache, process};

/// The most it may have, in bytes: what still fits beside a kernel on a rescue medium.
pub const LIMIT: u64 = 10_000_000;

/// What is packaged; by default the record-only program, with the C library that every toolchain comes with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kind {
    /// With comparisons, plans and screens; as large as that makes it.
    pub full: bool,
    /// With musl for a C library, which rustup and the archive have (`x86_64-unknown-linux-musl`, musl-tools).
    pub musl: bool,
}

impl Kind {
    /// The target it is built for: this machine's.
    #[must_use]
    pub fn target(self) -> String {
        format!("{}-unknown-linux-{}", std::env::consts::ARCH, if self.musl { "musl" } else { "gnu" })
    }
}

/// Builds the record-only program and returns its path. What is up to date is not built again.
///
/// # Errors
/// As [`build`].
pub fn program() -> Result<PathBuf> {
    build(Kind::default())
}

/// Builds a program and returns its path. What is up to date is not built again.
///
/// # Errors
/// It does not build, needs something of the machine it is run on, or is record-only and larger than [`LIMIT`].
pub fn build(kind: Kind) -> Result<PathBuf> {
    let target = kind.target();
    if kind.musl {
        has_musl(&target)?;
    }
    let mut build = crate::build::cargo("build")?;
    let (profile, folder) = if kind.full { ("release", "release") } else { ("dist", "dist") };
    build.args(["--quiet", "--profile", profile, "--target", &target, "--bin", "swioscope"]);
    if !kind.full {
        build.arg("--no-default-features");
    }
    // With a target named, build scripts and macros stay as they are.
    build.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    process::run(&mut build)?;
    let path = cache::target_dir()?.join(&target).join(folder).join("swioscope");
    let program = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(is_static(&program), "{} is not static: it asks for an interpreter", path.display());
    let bytes = program.len();
    let fits = kind.full || bytes as u64 <= LIMIT;
    ensure!(fits, "{} has {bytes} bytes, more than the {LIMIT} it may have", path.display());
    Ok(path)
}

/// Whether there is what it takes to build for musl, which `setup` does not install: nothing else here needs it.
fn has_musl(target: &str) -> Result<()> {
    let mut print = Command::new("rustc");
    print.args(["--print", "target-libdir", "--target", target]);
    let libraries = process::output(&mut print)?;
    ensure!(Path::new(libraries.trim()).is_dir(), "this toolchain has no {target}: rustup target add {target}");
    ensure!(process::find("musl-gcc").is_some(), "there is no musl-gcc: apt-get install musl-tools");
    Ok(())
}

/// Builds a program, and says where it is and how large.
///
/// # Errors
/// As [`build`].
pub fn run(kind: Kind) -> Result<PathBuf> {
    let step = Step::loud("packaging (the first time takes some minutes)");
    let path = build(kind)?;
    step.done();
    Ok(path)
}

/// Whether an ELF program runs without a dynamic linker: no program header is of type `PT_INTERP`.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, bytes: usize| {
        let field = elf.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let headers = || {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let kinds = (0..count).map(|index| number(usize::try_from(table + index * size).ok()?, 4));
        kinds.collect::<Option<Vec<_>>>()
    };
    elf.starts_with(b"\x7fELF\x02\x01") && headers().is_some_and(|kinds| !kinds.contains(&PT_INTERP))
}

/// The size of a file in megabytes, for people.
#[must_use]
pub fn megabytes(path: &Path) -> String {
    fs::metadata(path).map_or_else(|_| "?".to_owned(), |file| format!("{:.1} MB", file.len() as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        // This test is linked dynamically, and says itself where its program headers are.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&own));
        let mut without = own.clone();
        let table = usize::try_from(u64::from_le_bytes(own[32..40].try_into().unwrap())).unwrap();
        for header in 0..usize::from(own[56]) {
            without[table + header * 56] = 1;
        }
        assert!(is_static(&without));
        assert!(!is_static(&own[..100]) && !is_static(b""));
    }
}
