//! Builds the eBPF object and hands its path, packed, to the crate as `SWIOSCOPE_PROBE_OBJECT`.
//!
//! Ways, the first that is there wins:
//! 1. `SWIOSCOPE_PROBE_OBJ=/path/to/object`: one that was built elsewhere.
//! 2. A `rustc` (`SWIOSCOPE_PROBE_RUSTC`, or /usr/bin/rustc) whose sysroot holds `core` for `bpfel-unknown-none` (for
//!    `bpfeb-unknown-none` where bytes stand the other way round), as Debian's rustc-web with libstd-rust-web-dev-bpf.
//! 3. A rustup nightly with rust-src.
//!
//! The last two need a bpf-linker whose LLVM is at least as new as the compiler's.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use object::build::elf::{Builder, SectionData};

/// The target of a kernel whose bytes stand in the order of the machine's that the program is built for.
fn target() -> &'static str {
    if env::var("CARGO_CFG_TARGET_ENDIAN").is_ok_and(|order| order == "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    }
}

const HELP: &str = "the eBPF object cannot be built on this machine. Do one of:
 * `cargo xtask setup`, which installs what is missing;
 * on Debian: `apt-get install rustc-web libstd-rust-web-dev-bpf`, and `cargo install bpf-linker --version 0.13.0
   --locked --no-default-features --features llvm-22` with LLVM_PREFIX set to a folder whose lib/ links to libLLVM.so.22.1;
 * with rustup: `rustup toolchain install nightly --component rust-src`, and `cargo install bpf-linker`;
 * set SWIOSCOPE_PROBE_OBJ to an object that was built elsewhere.
What was found: ";

/// A compiler that can make BPF code.
enum Compiler {
    /// Has `core` for BPF in its sysroot.
    Prebuilt(PathBuf),
    /// Builds `core` itself.
    Nightly,
}

fn main() {
    for variable in ["SWIOSCOPE_PROBE_OBJ", "SWIOSCOPE_PROBE_RUSTC", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    match object() {
        Ok(path) => println!("cargo:rustc-env=SWIOSCOPE_PROBE_OBJECT={}", path.display()),
        Err(why) => {
            // One `cargo::error` a line: cargo shows each on its own.
            for line in format!("{HELP}{why}").lines() {
                println!("cargo::error={line}");
            }
        }
    }
}

fn object() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("SWIOSCOPE_PROBE_OBJ") {
        let path = PathBuf::from(path);
        println!("cargo:rerun-if-changed={}", path.display());
        return fs::read(&path)
            .map_err(|e| format!("SWIOSCOPE_PROBE_OBJ={}: {e}", path.display()))
            .and_then(|bytes| pack(&bytes));
    }
    let probe = variable("CARGO_MANIFEST_DIR")?.join("../probe-ebpf");
    println!("cargo:rerun-if-changed={}", probe.display());
    let compiler = compiler()?;
    let linker = linker()?;
    build(&probe, &compiler, &linker)
}

fn variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("cargo did not set {name}"))
}

fn compiler() -> Result<Compiler, String> {
    let chosen = env::var_os("SWIOSCOPE_PROBE_RUSTC").map(PathBuf::from);
    let rustc = chosen.clone().unwrap_or_else(|| PathBuf::from("/usr/bin/rustc"));
    if has_core(&rustc) {
        return Ok(Compiler::Prebuilt(rustc));
    }
    if let Some(rustc) = chosen {
        return Err(format!("SWIOSCOPE_PROBE_RUSTC={} has no core for {}.", rustc.display(), target()));
    }
    let nightly = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
    if let Ok(output) = nightly
        && output.status.success()
        && Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("lib/rustlib/src/rust/library/core").is_dir()
    {
        return Ok(Compiler::Nightly);
    }
    Err(format!("neither core for {} beside /usr/bin/rustc nor a rustup nightly with rust-src.", target()))
}

fn has_core(rustc: &Path) -> bool {
    let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output() else { return false };
    let library =
        Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("lib/rustlib").join(target()).join("lib");
    fs::read_dir(library)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-")))
}

fn linker() -> Result<PathBuf, String> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
    let cargo = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    // Where `cargo xtask setup` puts it comes first: another one may not fit the compiler's LLVM.
    [cache.join("swioscope/tools/bin"), cargo.join("bin")]
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join("bpf-linker"))
        .find(|file| file.is_file())
        .ok_or_else(|| "a compiler, but no bpf-linker.".to_owned())
}

fn build(probe: &Path, compiler: &Compiler, linker: &Path) -> Result<PathBuf, String> {
    let target_dir = variable("OUT_DIR")?.join("probe");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").map_err(|e| format!("CARGO_CFG_TARGET_ARCH: {e}"))?;
    let mut command = match compiler {
        Compiler::Prebuilt(rustc) => {
            let mut command = Command::new(variable("CARGO")?);
            // Both use inline assembly for BPF, unstable; naming the crates keeps build-std out of it.
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "aya_ebpf,probe_kernel");
            command
        }
        Compiler::Nightly => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo"]).env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
            command
        }
    };
    command
        .arg("build")
        .arg("--manifest-path")
        .arg(probe.join("Cargo.toml"))
        .args(["--release", "--bin", "probe-kernel", "--features", "kernel", "--target", target(), "--target-dir"])
        .arg(&target_dir);
    if matches!(compiler, Compiler::Nightly) {
        command.args(["-Z", "build-std=core"]);
    }
    for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    let flags = [format!("--cfg=bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2".into(), "-Clink-arg=--btf".into()];
    command
        .env("CARGO_ENCODED_RUSTFLAGS", OsString::from(flags.join("\u{1f}")))
        .env(format!("CARGO_TARGET_{}_LINKER", target().replace('-', "_").to_uppercase()), linker);
    let output = command.output().map_err(|e| format!("{command:?} could not be started: {e}"))?;
    if !output.status.success() {
        return Err(format!("the build failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    let object = target_dir.join(target()).join("release/probe-kernel");
    strip(&object).map_err(|e| format!("{} cannot be stripped: {e}", object.display())).and_then(|bytes| pack(&bytes))
}

/// Writes the object as the program carries it: an eighth of its size.
fn pack(object: &[u8]) -> Result<PathBuf, String> {
    let path = variable("OUT_DIR")?.join("probe.o.gz");
    let packed = || {
        let mut encoder = GzEncoder::new(fs::File::create(&path)?, Compression::best());
        encoder.write_all(object)?;
        encoder.finish()
    };
    packed().map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// Leaves out DWARF, five sixths of the object: BTF was made from it, and the kernel takes nothing else.
fn strip(from: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let bytes = fs::read(from)?;
    let mut elf = Builder::read(&bytes[..])?;
    for section in elf.sections.iter_mut() {
        let name = section.name.to_vec();
        section.delete |= name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    // LLVM keeps the sections' names among the symbols'; here they need a table of their own.
    if !elf.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = elf.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    elf.delete_orphans();
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}
