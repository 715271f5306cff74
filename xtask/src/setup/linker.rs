//! The compiler and the linker for eBPF, which have to share an LLVM.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::Step;
use crate::{cache, process};

/// The bpf-linker this project is known to build with.
pub(super) const VERSION: &str = "0.13.0";
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const TARGET: &str = "bpfel-unknown-none";
/// Beside the linker: the LLVM it was built with, since it has to be built again when the compiler moves on.
const LLVM_NOTE: &str = "bpf-linker.llvm";

/// Whether something here compiles eBPF: the system's rustc with a prebuilt core, or a rustup nightly that can build it.
pub(super) fn has_bpf_core() -> bool {
    std::env::var_os("SWIOSCOPE_PROBE_OBJ").is_some() || system_core() || nightly_source()
}

fn system_core() -> bool {
    sysroot(Command::new(SYSTEM_RUSTC).args(["--print", "sysroot"])).is_some_and(|sysroot| {
        let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
        fs::read_dir(library)
            .is_ok_and(|files| files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-")))
    })
}

fn nightly_source() -> bool {
    sysroot(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
        .is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core").is_dir())
}

fn sysroot(command: &mut Command) -> Option<PathBuf> {
    process::output(command).ok().map(|text| PathBuf::from(text.trim()))
}

/// Whether a linker that fits the compiler is installed and runs.
pub(super) fn is_there() -> Result<bool> {
    if std::env::var_os("SWIOSCOPE_PROBE_OBJ").is_some() {
        return Ok(true);
    }
    let runs = |linker: &Path| process::output(Command::new(linker).arg("--version")).is_ok();
    if !system_core() && nightly_source() {
        // The user's own arrangement, which is theirs to keep in step.
        return Ok(process::find("bpf-linker").is_some_and(|linker| runs(&linker)));
    }
    let tools = cache::tools_dir()?;
    let built_with = fs::read_to_string(tools.join(LLVM_NOTE)).unwrap_or_default();
    Ok(llvm_major().is_ok_and(|llvm| llvm == built_with.trim()) && runs(&tools.join("bin/bpf-linker")))
}

/// Builds bpf-linker against the LLVM of the system's rustc and puts it into the tools folder.
pub(super) fn build() -> Result<()> {
    let step = Step::quiet("bpf-linker");
    let tools = cache::tools_dir()?;
    let llvm = llvm_major()?;
    let library = llvm_library(&llvm)?;
    // LLVM_PREFIX is a folder whose lib/ has libLLVM.so, a name that only the -dev package would bring.
    let prefix = tools.join("llvm");
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))?;
    if link.is_symlink() {
        fs::remove_file(&link)?;
    }
    symlink(&library, &link)?;
    step.say(&format!("building with LLVM {llvm}"));
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--no-default-features"]);
    cargo.arg("--features").arg(format!("llvm-{llvm}")).arg("--root").arg(&tools);
    // A folder in a checkout would have it pick up that checkout's settings.
    cargo.env("LLVM_PREFIX", &prefix).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").current_dir(&tools);
    process::output(&mut cargo).with_context(|| {
        format!("cannot build bpf-linker {VERSION} for LLVM {llvm}; with a rustup nightly and rust-src, `cargo install bpf-linker` does as well")
    })?;
    fs::write(tools.join(LLVM_NOTE), &llvm)?;
    step.done();
    Ok(())
}

fn llvm_major() -> Result<String> {
    let text = process::output(Command::new(SYSTEM_RUSTC).arg("-vV"))?;
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next());
    Ok(major.with_context(|| format!("{SYSTEM_RUSTC} -vV does not say its LLVM version"))?.to_owned())
}

/// The shared library of an LLVM, `libLLVM.so.22.1` as Debian calls it, or `libLLVM-14.so` before 18.
fn llvm_library(major: &str) -> Result<PathBuf> {
    let dir = Path::new("/usr/lib/x86_64-linux-gnu");
    let fits = |name: &str| name.starts_with(&format!("libLLVM.so.{major}.")) || name == format!("libLLVM-{major}.so");
    let mut files = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.flatten();
    match files.find(|file| fits(&file.file_name().to_string_lossy())) {
        Some(file) => Ok(file.path()),
        None => bail!("{} has no libLLVM.so.{major}.*: install libllvm{major}", dir.display()),
    }
}
