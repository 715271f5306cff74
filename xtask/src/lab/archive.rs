//! Fetching kernels and Xen from the Debian archive, without installing anything.
//!
//! A private apt configuration in the cache names the suites; the mirror's address and keyring come from the machine's
//! own apt sources. `apt-get download` and `dpkg -x` need no root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::kernel::{Image, Kernel, extract_vmlinux, unpack};
use super::xen::Xen;
use crate::apt::{Apt, Mirror, only_entry};
use crate::{cache, process};

/// Where a kernel or a hypervisor can come from: suites tried in order, each with the pattern of the package names.
struct Origin<'a> {
    suites: &'static [&'static str],
    /// apt's regular expression of the package that has the image.
    image: &'a str,
}

fn origins(kernel: Kernel) -> &'static [Origin<'static>] {
    match kernel {
        Kernel::V5_10 => {
            &[Origin { suites: &["bullseye", "bullseye-security"], image: r"^linux-image-5\.10\.[0-9]+-[0-9]+-amd64$" }]
        }
        Kernel::V6_1 => {
            &[Origin { suites: &["bookworm", "bookworm-security"], image: r"^linux-image-6\.1\.[0-9]+-[0-9]+-amd64$" }]
        }
        Kernel::V6_12 => &[
            Origin { suites: &["bookworm-security"], image: r"^linux-image-6\.12\.[0-9]+\+deb12-amd64$" },
            Origin { suites: &["trixie", "trixie-security"], image: r"^linux-image-6\.12\.[0-9]+\+deb13-amd64$" },
        ],
        Kernel::V7_2 => &[
            Origin { suites: &["sid"], image: r"^linux-binary-7\.2\.[0-9]+\+deb[0-9]+-amd64$" },
            Origin { suites: &["sid"], image: r"^linux-binary-7\.[0-9]+\.[0-9]+\+deb[0-9]+-amd64$" },
        ],
    }
}

fn xen_origins(xen: Xen) -> &'static [Origin<'static>] {
    match xen {
        Xen::V4_17 => &[Origin { suites: &["bookworm", "bookworm-security"], image: r"^xen-hypervisor-4\.17-amd64$" }],
        Xen::V4_20 => &[Origin { suites: &["trixie", "trixie-security"], image: r"^xen-hypervisor-4\.20-amd64$" }],
    }
}

/// The kernel from the cache, if it is there.
///
/// # Errors
/// The cache cannot be used.
pub fn fetched(kernel: Kernel) -> Result<Option<Image>> {
    Ok(Image::open(&cache::lab_dir()?.join(kernel.name())))
}

/// The Xen hypervisor from the cache, if it is there.
///
/// # Errors
/// The cache cannot be used.
pub fn fetched_xen(xen: Xen) -> Result<Option<PathBuf>> {
    let hypervisor = cache::lab_dir()?.join(xen.folder()).join("xen");
    Ok(hypervisor.is_file().then_some(hypervisor))
}

/// The kernel from the cache, fetched first if it is not there. `say` gets a line a step.
///
/// # Errors
/// The archive cannot be reached or has no such kernel, or the cache cannot be written.
pub fn kernel(kernel: Kernel, say: &mut dyn FnMut(&str)) -> Result<Image> {
    let dir = cache::lab_dir()?.join(kernel.name());
    let _lock = super::lock(&format!("fetch-{kernel}.lock"))?;
    if let Some(image) = Image::open(&dir) {
        return Ok(image);
    }
    let fresh = Fresh::new(&dir)?;
    fetch_kernel(kernel, &fresh.partial, say).with_context(|| format!("cannot fetch kernel {kernel}"))?;
    fresh.keep()?;
    Image::open(&dir).with_context(|| format!("{} is incomplete: delete it and try again", dir.display()))
}

/// The Xen hypervisor from the cache, fetched first if it is not there.
///
/// # Errors
/// As [`kernel`].
pub fn xen(xen: Xen, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let dir = cache::lab_dir()?.join(xen.folder());
    let hypervisor = dir.join("xen");
    let _lock = super::lock(&format!("fetch-{}.lock", xen.folder()))?;
    if !hypervisor.is_file() {
        let fresh = Fresh::new(&dir)?;
        fetch_xen(xen, &fresh.partial, say).with_context(|| format!("cannot fetch Xen {xen}"))?;
        fresh.keep()?;
    }
    Ok(hypervisor)
}

/// Forgets a fetched kernel or hypervisor by its folder, so that the next use fetches the archive's newest.
///
/// # Errors
/// The folder exists and cannot be deleted.
pub fn forget(name: &str) -> Result<()> {
    let dir = cache::lab_dir()?.join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot delete {}", dir.display()))?;
    }
    Ok(())
}

/// The headers package of exactly the release that was fetched, and the suites that have it.
pub(super) fn choose_headers(kernel: Kernel, release: &str, say: &mut dyn FnMut(&str)) -> Result<(Apt, String)> {
    let pattern = format!("^linux-headers-{}$", release.replace('.', r"\.").replace('+', r"\+"));
    let origins: Vec<_> =
        origins(kernel).iter().map(|origin| Origin { suites: origin.suites, image: &pattern }).collect();
    choose(&origins, say).with_context(|| {
        format!("the archive may have dropped {release} for a newer one: `cargo xtask lab fetch --update {kernel}`")
    })
}

/// A folder that appears under its name only when it is complete.
pub(super) struct Fresh {
    dir: PathBuf,
    pub(super) partial: PathBuf,
}

impl Fresh {
    pub(super) fn new(dir: &Path) -> Result<Fresh> {
        let name = dir.file_name().context("a folder of the cache has a name")?;
        let partial = dir.with_file_name(format!("{}.partial", name.display()));
        for stale in [dir, &partial] {
            if stale.exists() {
                fs::remove_dir_all(stale)?;
            }
        }
        fs::create_dir_all(&partial)?;
        Ok(Fresh { dir: dir.to_owned(), partial })
    }

    pub(super) fn keep(self) -> Result<()> {
        fs::rename(&self.partial, &self.dir).with_context(|| format!("cannot create {}", self.dir.display()))
    }
}

fn fetch_kernel(kernel: Kernel, dir: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
    let (apt, package) = choose(origins(kernel), say)?;
    let mut packages = vec![package.clone()];
    if let Some(rest) = package.strip_prefix("linux-binary-") {
        packages.push(format!("linux-modules-{rest}"));
    }
    let unpacked = dir.join("unpacked");
    for package in &packages {
        say(&format!("fetching {package}"));
        apt.extract(package, &unpacked)?;
    }
    // Newer packages keep everything under usr/, as the merged file system has it.
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| unpacked.join(path));
    let modules = modules.iter().find(|path| path.is_dir()).context("the package has no modules")?;
    let release = only_entry(modules)?;
    let vmlinuz = [unpacked.join(format!("boot/vmlinuz-{release}")), modules.join(&release).join("vmlinuz")];
    let vmlinuz = vmlinuz.iter().find(|path| path.is_file()).context("the package has no vmlinuz")?;
    extract_vmlinux(vmlinuz, &dir.join("vmlinux"))?;
    fs::create_dir_all(dir.join("lib/modules"))?;
    fs::rename(modules.join(&release), dir.join("lib/modules").join(&release))?;
    process::output(Command::new(process::require("depmod")?).arg("-b").arg(dir).arg(&release))?;
    fs::remove_dir_all(&unpacked)?;
    fs::write(dir.join("release"), &release)?;
    say(&format!("kernel {kernel} is {release}"));
    Ok(())
}

fn fetch_xen(xen: Xen, dir: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
    let (apt, package) = choose(xen_origins(xen), say)?;
    say(&format!("fetching {package}"));
    let unpacked = dir.join("unpacked");
    apt.extract(&package, &unpacked)?;
    let boot = unpacked.join("boot");
    let packed = fs::read_dir(&boot)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .with_context(|| format!("{package} has no hypervisor in boot/"))?;
    unpack(&packed, &dir.join("xen"))?;
    fs::remove_dir_all(&unpacked)?;
    Ok(())
}

/// The newest package of the first origin that has one.
fn choose(origins: &[Origin<'_>], say: &mut dyn FnMut(&str)) -> Result<(Apt, String)> {
    let mirror = Mirror::of_this_machine()?;
    let mut problems = String::new();
    for origin in origins {
        say(&format!("looking for {} in {}", origin.image, origin.suites.join(", ")));
        let found = Apt::update(&mirror, origin.suites)
            .and_then(|apt| Ok(apt.newest(origin.image)?.map(|package| (apt, package))));
        match found {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => problems.push_str(&format!("\n  {}: no package {}", origin.suites.join(", "), origin.image)),
            Err(error) => problems.push_str(&format!("\n  {}: {error:#}", origin.suites.join(", "))),
        }
    }
    bail!("the Debian archive has none of what was looked for:{problems}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_folder_appears_only_when_kept() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("6.12");
        let fresh = Fresh::new(&wanted).unwrap();
        fs::write(fresh.partial.join("release"), "x").unwrap();
        assert!(!wanted.exists());
        fresh.keep().unwrap();
        assert!(wanted.join("release").is_file());
    }
}
