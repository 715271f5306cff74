//! Where things that are not part of a checkout live.
//!
//! Everything is under one folder, `${XDG_CACHE_HOME:-$HOME/.cache}/swioscope`, shared by all checkouts and safe to
//! delete at any time:
//!
//! ```text
//! tools/      bin/bpf-linker, which the collector's build script looks for
//! lab/        one folder a guest kernel and a Xen, the base initramfs of each, the lock of the lab
//! target/     build products of what xtask starts, unless CARGO_TARGET_DIR says otherwise
//! ```

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The cache folder of swioscope, created if need be.
///
/// # Errors
/// Neither `XDG_CACHE_HOME` nor `HOME` is set, or the folder cannot be created.
pub fn cache_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set: set one of them")?)
            .join(".cache"),
    };
    subfolder(&base, "swioscope")
}

/// Tools built from source; programs are in its `bin`. The collector's build script looks for `bin/bpf-linker` here.
///
/// # Errors
/// As [`cache_dir`].
pub fn tools_dir() -> Result<PathBuf> {
    subfolder(&cache_dir()?, "tools")
}

/// Kernels, hypervisor and initramfs of the lab.
///
/// # Errors
/// As [`cache_dir`].
pub fn lab_dir() -> Result<PathBuf> {
    subfolder(&cache_dir()?, "lab")
}

/// The target folder of every build xtask starts: the user's `CARGO_TARGET_DIR`, else `target/` in the cache, so that
/// polars (twenty minutes on two cores) is built once a machine and not once a checkout.
///
/// # Errors
/// As [`cache_dir`].
pub fn target_dir() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Ok(std::path::absolute(&dir)?),
        None => Ok(cache_dir()?.join("target")),
    }
}

/// The root of the workspace this xtask was started in. Where checkouts share a target folder, the program may have been
/// built from another one, so cargo's word at run time goes before its word at build time.
pub fn workspace() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    let started = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_else(|| built.to_owned());
    let root = started.ancestors().find(|dir| dir.join("xtask/Cargo.toml").is_file());
    root.map_or_else(|| built.parent().unwrap_or(built).to_owned(), Path::to_owned)
}

fn subfolder(base: &Path, name: &str) -> Result<PathBuf> {
    let dir = base.join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}
