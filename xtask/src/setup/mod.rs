//! Installing what is missing, and only that.
//!
//! The host needs a few Debian packages, a linker for eBPF and, for the lab, kernels. Each is looked for by what it is
//! needed for and not by its package's name: a busybox of any package is a busybox.

mod linker;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::apt::{Apt, Mirror};
use crate::lab::{self, Kernel, Xen};
use crate::process;
use crate::progress::Step;

/// What somebody wants to do, which decides what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Building swioscope, its eBPF programs included.
    Build,
    /// Building, and booting this kernel under the default Xen.
    Demo(Kernel),
    /// Everything: all kernels and hypervisors, and what tests use besides.
    All,
}

/// A thing to install, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    item: Item,
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Package(&'static str),
    Linker,
    Kernel(Kernel),
    Xen(Xen),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Missing { item, why } = self;
        match item {
            Item::Package(name) => write!(f, "package {name}: {why}"),
            Item::Linker => write!(f, "bpf-linker {} (built from source, two minutes): {why}", linker::VERSION),
            Item::Kernel(kernel) => write!(f, "kernel {kernel} (into the cache, nothing is installed): {why}"),
            Item::Xen(xen) => write!(f, "Xen {xen} (into the cache): {why}"),
        }
    }
}

/// Packages by the program that shows they are there.
const LAB_PROGRAMS: [(&str, &str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86", "runs the guests"),
    ("busybox", "busybox-static", "is the guests' user land"),
    ("cpio", "cpio", "packs the guests' initramfs"),
    ("depmod", "kmod", "resolves the dependencies of the guests' modules"),
    ("xz", "xz-utils", "unpacks kernels and modules"),
    ("zstd", "zstd", "unpacks kernels and modules"),
    ("make", "make", "builds the lab's module"),
    ("gcc", "gcc", "compiles the lab's module"),
];

/// What is missing for a purpose, in the order it would be installed.
///
/// # Errors
/// The cache cannot be used.
pub fn missing(purpose: Purpose) -> Result<Vec<Missing>> {
    let mut all = Vec::new();
    let mut packages = Vec::new();
    if !linker::has_bpf_core() {
        packages.push(("rustc-web", "compiles eBPF: a rustc whose LLVM bpf-linker can be built with"));
        packages.push(("libstd-rust-web-dev-bpf", "is Rust's core library for eBPF"));
    }
    if purpose != Purpose::Build {
        let absent = LAB_PROGRAMS.iter().filter(|(program, ..)| process::find(program).is_none());
        packages.extend(absent.map(|(_, package, why)| (*package, *why)));
    }
    if purpose == Purpose::All && process::find("tmux").is_none() {
        packages.push(("tmux", "is the terminal the screens are tested in"));
    }
    all.extend(packages.into_iter().map(|(name, why)| Missing { item: Item::Package(name), why }));
    if !linker::is_there()? {
        all.push(Missing { item: Item::Linker, why: "links the eBPF programs" });
    }
    let (kernels, xens): (&[Kernel], &[Xen]) = match &purpose {
        Purpose::Build => (&[], &[]),
        Purpose::Demo(kernel) => (std::slice::from_ref(kernel), &[Xen::DEFAULT]),
        Purpose::All => (&Kernel::ALL, &Xen::ALL),
    };
    for kernel in kernels {
        if lab::fetched(*kernel)?.is_none() {
            all.push(Missing { item: Item::Kernel(*kernel), why: "is what guests of the lab boot" });
        }
    }
    for xen in xens {
        if lab::fetched_xen(*xen)?.is_none() {
            all.push(Missing { item: Item::Xen(*xen), why: "makes a guest a dom0" });
        }
    }
    Ok(all)
}

/// As [`missing`], and tells the user what is about to be installed and why.
///
/// # Errors
/// As [`missing`].
pub fn announce(purpose: Purpose) -> Result<Vec<Missing>> {
    let missing = missing(purpose)?;
    let mut stderr = std::io::stderr();
    // Nobody listening is no reason to stop.
    let _ = match missing.len() {
        0 => writeln!(stderr, "nothing is missing"),
        _ => writeln!(stderr, "to install:"),
    };
    for missing in &missing {
        let _ = writeln!(stderr, "  {missing}");
    }
    Ok(missing)
}

/// Installs what [`missing`] found.
///
/// # Errors
/// Something cannot be installed; the error says what and how it could be. What was installed before stays, and a
/// further call goes on from there.
pub fn install(missing: &[Missing]) -> Result<()> {
    let packages: Vec<_> = missing
        .iter()
        .filter_map(|missing| match missing.item {
            Item::Package(name) => Some(name),
            _ => None,
        })
        .collect();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    // Downloads wait for the network while the linker keeps the processors busy.
    thread::scope(|scope| {
        let building = missing.iter().any(|missing| missing.item == Item::Linker).then(|| scope.spawn(linker::build));
        for Missing { item, .. } in missing {
            match item {
                Item::Package(_) | Item::Linker => {}
                Item::Kernel(kernel) => {
                    let step = Step::quiet(format!("kernel {kernel}"));
                    lab::fetch(*kernel, &mut |text| step.say(text))?;
                    step.done();
                }
                Item::Xen(xen) => {
                    let step = Step::quiet(format!("Xen {xen}"));
                    lab::fetch_xen(*xen, &mut |text| step.say(text))?;
                    step.done();
                }
            }
        }
        match building {
            Some(building) => building.join().unwrap_or_else(|_| bail!("building bpf-linker panicked")),
            None => Ok(()),
        }
    })
}

/// Installs Debian packages, as root and at no price.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    let Some(apt) = process::find("apt-get") else {
        bail!(
            "this machine has no apt; install what gives these Debian packages their use: {}\n\
             For eBPF without rustc-web: `rustup toolchain install nightly --component rust-src` and `cargo install bpf-linker`.",
            packages.join(" ")
        );
    };
    if Path::new("/proc/self").metadata().map_or(0, |own| own.uid()) != 0 {
        bail!("installing packages takes root. Run this, then try again:\n  sudo {by_hand}");
    }
    let step = Step::quiet("packages");
    let apt_get = |args: &[&str]| {
        let mut command = Command::new(&apt);
        process::output(command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q").args(args))
    };
    step.say("apt-get update");
    apt_get(&["update"])?;
    step.say("apt-get install");
    // Never at the price of something the user has.
    let mut install = vec!["install", "-y", "--no-install-recommends", "--no-remove"];
    install.extend(packages);
    if let Err(error) = apt_get(&install) {
        step.say("apt-get install, one by one");
        for package in packages {
            install_one(&apt_get, package).with_context(|| {
                format!(
                    "apt cannot install {package}. Try `{by_hand}` by hand; where rustc-web does not exist or conflicts, \
                     eBPF can be built with `rustup toolchain install nightly --component rust-src` and \
                     `cargo install bpf-linker` instead. All at once failed with: {error:#}"
                )
            })?;
        }
    }
    step.done();
    Ok(())
}

/// Installs a package of the machine's own suites or, if that would take something the user has from a newer one
/// (qemu-utils of backports forbids an older qemu-system-x86), of the release's backports.
fn install_one(apt_get: &impl Fn(&[&str]) -> Result<String>, package: &str) -> Result<()> {
    let install = ["install", "-y", "--no-install-recommends", "--no-remove"];
    let Err(own) = apt_get(&[&install[..], &[package]].concat()) else { return Ok(()) };
    let Some(codename) = codename(&fs::read_to_string("/etc/os-release").unwrap_or_default()) else { return Err(own) };
    let suites = ["", "-updates", "-security", "-backports"].map(|suffix| format!("{codename}{suffix}"));
    let backports = || -> Result<()> {
        let apt = Apt::update(&Mirror::of_this_machine()?, &suites.each_ref().map(String::as_str))?;
        let mut command = apt.command("apt-get")?;
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-t", &suites[3]]).args(install).arg(package);
        process::output(&mut command)?;
        Ok(())
    };
    backports().with_context(|| format!("{own:#}; nor from {}", suites[3]))
}

/// The release's name, such as `bookworm`.
fn codename(os_release: &str) -> Option<String> {
    let name = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.trim_matches('"').to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_takes_no_lab() {
        for Missing { item, .. } in missing(Purpose::Build).unwrap() {
            assert!(matches!(item, Item::Package("rustc-web" | "libstd-rust-web-dev-bpf") | Item::Linker), "{item:?}");
        }
    }

    #[test]
    fn the_release_is_read_from_its_file() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"trixie\"").as_deref(), Some("trixie"));
        assert_eq!(codename("ID=arch"), None);
    }

    #[test]
    fn each_missing_thing_says_why() {
        let package = Missing { item: Item::Package("cpio"), why: "packs the guests' initramfs" };
        assert_eq!(package.to_string(), "package cpio: packs the guests' initramfs");
    }
}
