//! Building the lab's own kernel module for a guest's kernel, from Debian's headers packages.
//!
//! Headers, kbuild's tools and, where those are newer than this machine, the libraries they run with are unpacked into
//! the cache; nothing is installed. The module's source is in `xtask/lab-module`.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::archive::{self, Fresh};
use super::initramfs;
use super::kernel::{Image, Kernel};
use crate::apt::Apt;
use crate::process;

/// The module's source, file by file.
const SOURCE: [(&str, &str); 4] = [
    ("Kbuild", include_str!("../../lab-module/Kbuild")),
    ("swio_lab.c", include_str!("../../lab-module/swio_lab.c")),
    ("foreign.h", include_str!("../../lab-module/foreign.h")),
    ("own_pool.h", include_str!("../../lab-module/own_pool.h")),
];

/// Packages the tools of kbuild need to run where the machine's own libraries are too old for them.
const LIBRARIES: [&str; 4] = ["^libc6$", "^libelf1(t64)?$", "^zlib1g$", "^libzstd1$"];

/// Makefile variables set for every build. The guest needs no debug information of the module, and making its BTF takes
/// pahole.
const VARIABLES: [&str; 2] = ["CONFIG_DEBUG_INFO=", "CONFIG_DEBUG_INFO_BTF_MODULES="];

/// How often a build is tried again without the options the compiler did not know: each time it names all of a stage.
const TRIES: usize = 4;

/// The lab's module built for a kernel, from the cache if its source has not changed since.
///
/// # Errors
/// The kernel or its headers cannot be fetched, `make` or `gcc` is missing, or the module does not compile.
pub fn module(kernel: Kernel, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let image = archive::kernel(kernel, say)?;
    let _lock = super::lock(&format!("fetch-{kernel}.lock"))?;
    let mut hasher = DefaultHasher::new();
    (SOURCE, VARIABLES, &image.release).hash(&mut hasher);
    let built = image.dir.join(format!("module-{:016x}.ko", hasher.finish()));
    if built.is_file() {
        return Ok(built);
    }
    let headers = headers(kernel, &image, say)?;
    say(&format!("building swio_lab.ko for {}", image.release));
    let staging = tempfile::tempdir_in(&image.dir)?;
    for (name, text) in SOURCE {
        fs::write(staging.path().join(name), text)?;
    }
    compile(&headers, staging.path()).with_context(|| format!("cannot build the lab's module for {kernel}"))?;
    for entry in fs::read_dir(&image.dir)?.flatten() {
        // One of an older source is never asked for again.
        if entry.file_name().to_string_lossy().starts_with("module-") {
            fs::remove_file(entry.path())?;
        }
    }
    fs::rename(staging.path().join("swio_lab.ko"), &built)?;
    Ok(built)
}

/// Runs kbuild with the host's gcc, whatever the kernel was compiled with: a newer kernel's options that this gcc does not
/// know are about speed and diagnostics, and are left out.
fn compile(headers: &Path, staging: &Path) -> Result<()> {
    let gcc = process::require("gcc")?;
    let make = process::require("make")?;
    let wrapper = staging.join("cc");
    let mut unknown = BTreeSet::new();
    for _ in 0..TRIES {
        write_program(&wrapper, &without(&gcc, &unknown))?;
        let output = Command::new(&make)
            // Kbuild drops LC_ALL before it calls the compiler, whose words are read below.
            .env("LC_ALL", "C")
            .env("LANG", "C")
            .env_remove("LC_CTYPE")
            .env_remove("LC_MESSAGES")
            // Those of an outer make or of a cargo that runs under one are not for kbuild.
            .env_remove("MAKEFLAGS")
            .env_remove("MFLAGS")
            .arg("-C")
            .arg(headers)
            .arg(format!("M={}", staging.display()))
            .arg(format!("CC={}", wrapper.display()))
            .args(VARIABLES)
            .arg("modules")
            .output()
            .context("cannot start make")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let known = unknown.len();
        unknown.extend(unrecognized(&said));
        if unknown.len() == known {
            bail!("make failed: {}", errors(&said));
        }
    }
    bail!("{} knows too few of the kernel's options: {unknown:?}", gcc.display())
}

/// A compiler that leaves options out.
fn without(gcc: &Path, options: &BTreeSet<String>) -> String {
    let mut script = String::from("#!/bin/sh\n");
    if !options.is_empty() {
        let options: Vec<_> = options.iter().map(|option| format!("'{option}'")).collect();
        script.push_str(&format!(
            "for argument; do shift; case $argument in {}) ;; *) set -- \"$@\" \"$argument\" ;; esac; done\n",
            options.join("|")
        ));
    }
    script.push_str(&format!("exec {} \"$@\"\n", gcc.display()));
    script
}

/// The options gcc says it does not know.
fn unrecognized(said: &str) -> BTreeSet<String> {
    said.lines()
        .filter_map(|line| line.split_once("unrecognized command-line option '")?.1.split_once('\''))
        .map(|(option, _)| option.to_owned())
        .collect()
}

/// The lines that say what is wrong, or the last ones.
fn errors(said: &str) -> String {
    let lines: Vec<_> =
        said.lines().filter(|line| line.contains("rror") || line.contains("not found")).take(12).collect();
    if lines.is_empty() { super::last_words(said, 12) } else { lines.join("\n") }
}

/// The build folder of a kernel's headers, fetched first if it is not there.
fn headers(kernel: Kernel, image: &Image, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let dir = image.dir.join("headers");
    let build = dir.join("usr/src").join(format!("linux-headers-{}", image.release));
    if build.join("Makefile").is_file() {
        return Ok(build);
    }
    let fresh = Fresh::new(&dir)?;
    fetch_headers(kernel, image, &fresh.partial, &dir, say)
        .with_context(|| format!("cannot fetch the headers of {}", image.release))?;
    fresh.keep()?;
    ensure!(build.join("Makefile").is_file(), "the headers package has no {}", build.display());
    Ok(build)
}

/// Unpacks headers into `to`, which is going to be at `dir`.
fn fetch_headers(kernel: Kernel, image: &Image, to: &Path, dir: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
    let (apt, package) = archive::choose_headers(kernel, &image.release, say)?;
    let mut packages = vec![package.clone()];
    let needed = apt.depends(&package)?;
    packages.extend(needed.into_iter().filter(|name| {
        (name.starts_with("linux-headers-") && name.ends_with("-common")) || name.starts_with("linux-kbuild-")
    }));
    for package in &packages {
        say(&format!("fetching {package}"));
        apt.extract(package, to)?;
    }
    // The makefiles name each other by where packages install them.
    let src = to.join("usr/src");
    for entry in fs::read_dir(&src)?.flatten() {
        let makefile = entry.path().join("Makefile");
        if entry.file_type()?.is_dir() && fs::metadata(&makefile).is_ok_and(|meta| meta.len() < 1024) {
            let text = fs::read_to_string(&makefile)?;
            fs::write(&makefile, text.replace("/usr/src/", &format!("{}/usr/src/", dir.display())))?;
        }
    }
    // Before the file systems were merged, kbuild's folder was under /lib as well.
    if !to.join("lib").exists() {
        symlink("usr/lib", to.join("lib"))?;
    }
    make_runnable(&apt, to, dir, say)
}

/// Gives kbuild's programs the libraries of their own suite, if any of them does not run with this machine's.
fn make_runnable(apt: &Apt, to: &Path, dir: &Path, say: &mut dyn FnMut(&str)) -> Result<()> {
    let mut strangers = Vec::new();
    find_strangers(&to.join("usr/lib"), &mut strangers)?;
    if strangers.is_empty() {
        return Ok(());
    }
    for pattern in LIBRARIES {
        let package = apt.newest(pattern)?.with_context(|| format!("the suite has no package {pattern}"))?;
        say(&format!("fetching {package}: kbuild's programs do not run with this machine's"));
        apt.extract(&package, &to.join("runtime"))?;
    }
    let loader = ["usr/lib64", "lib64"].map(|folder| Path::new("runtime").join(folder).join("ld-linux-x86-64.so.2"));
    let loader = loader.iter().find(|loader| to.join(loader).exists()).context("libc6 has no loader")?;
    let loader = dir.join(loader);
    let folders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| dir.join("runtime").join(folder));
    let folders = folders.map(|folder| folder.display().to_string()).join(":");
    for program in strangers {
        let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
        let real = program.with_file_name(format!("{name}.elf"));
        fs::rename(&program, &real)?;
        let at = dir.join(real.strip_prefix(to)?);
        let script = format!("#!/bin/sh\nexec {} --library-path {folders} {} \"$@\"\n", loader.display(), at.display());
        write_program(&program, &script)?;
    }
    Ok(())
}

/// The programs under a folder that lack a library, or a new enough one, on this machine.
fn find_strangers(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            find_strangers(&path, found)?;
        } else if kind.is_file() && initramfs::is_elf(&path) {
            let said = Command::new("ldd").arg(&path).output().context("cannot run ldd")?;
            let text = [said.stdout, said.stderr].concat();
            // What only signs modules (with libcrypto) is of no use here.
            let lacks = |line: &str| line.contains("not found") && !line.contains("libcrypto");
            if String::from_utf8_lossy(&text).lines().any(lacks) {
                found.push(path);
            }
        }
    }
    Ok(())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_gcc_does_not_know_are_left_out() {
        let said = "gcc: error: unrecognized command-line option '-fa=16'; did you mean '-fb'?\n\
                    cc1: error: unrecognized command-line option '-fc'\nother\n";
        let unknown = unrecognized(said);
        assert_eq!(unknown, ["-fa=16", "-fc"].map(str::to_owned).into());
        let script = without(Path::new("echo"), &unknown);
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("cc");
        write_program(&program, &script).unwrap();
        let said = process::output(Command::new("sh").arg(&program).args(["-x", "-fa=16", "a b", "-fc"])).unwrap();
        assert_eq!(said, "-x a b\n");
        assert_eq!(without(Path::new("gcc"), &BTreeSet::new()), "#!/bin/sh\nexec gcc \"$@\"\n");
    }

    #[test]
    fn a_failed_build_says_the_errors() {
        assert_eq!(errors("a.c:1: error: no\nnote\nmake: *** Error 2\n"), "a.c:1: error: no\nmake: *** Error 2");
        assert_eq!(errors("killed\n"), "killed");
    }
}
