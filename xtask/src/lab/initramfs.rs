//! The two archives a guest is booted with: a base for each kernel, kept, and the job, made for each run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::kernel::{Image, unpack};
use crate::process;

const INIT: &str = include_str!("init.sh");

/// What every guest can load; what these depend on comes along.
const MODULES: [&str; 16] = [
    "virtio_pci",
    "virtio_blk",
    "nvme",
    "ahci",
    "ata_piix",
    "sd_mod",
    "e1000",
    "e1000e",
    "virtio_net",
    "pktgen",
    "loop",
    "xen-privcmd",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xenfs",
];

/// Folders that must be there before anything is mounted or written.
const FOLDERS: [&str; 9] = ["proc", "sys", "dev", "tmp", "run", "root", "out", "etc", ".lab"];

/// What a job brings into the guest.
#[derive(Clone, Debug, Default)]
pub(super) struct Job {
    /// Shell text.
    pub(super) command: String,
    /// Host path and guest path.
    pub(super) files: Vec<(PathBuf, String)>,
    pub(super) modules: Vec<String>,
    pub(super) disks: Vec<&'static str>,
    pub(super) xen: bool,
}

/// The base archive for a kernel, made unless the cache has it.
pub(super) fn base(image: &Image) -> Result<PathBuf> {
    let busybox = process::require("busybox")?;
    let mut hasher = DefaultHasher::new();
    (INIT, MODULES, FOLDERS, &image.release, fs::metadata(&busybox)?.modified()?).hash(&mut hasher);
    let archive = image.dir.join(format!("base-{:016x}.cpio", hasher.finish()));
    if archive.is_file() {
        return Ok(archive);
    }
    for entry in fs::read_dir(&image.dir)?.flatten() {
        // A base made by an older init script is never asked for again.
        if entry.file_name().to_string_lossy().starts_with("base-") {
            fs::remove_file(entry.path())?;
        }
    }
    let staging = tempfile::tempdir_in(&image.dir)?;
    let root = staging.path().join("root");
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    add_program(&root, &busybox, "/bin/busybox")?;
    for path in process::output(Command::new(&busybox).arg("--list-full"))?.lines() {
        let link = root.join(path);
        fs::create_dir_all(link.parent().unwrap_or(&root))?;
        if !link.exists() {
            symlink("/bin/busybox", &link)?;
        }
    }
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    add_modules(&root, image)?;
    let partial = staging.path().join("base.cpio");
    pack(&root, &partial)?;
    fs::rename(&partial, &archive)?;
    Ok(archive)
}

/// Writes base and job one after the other, which the kernel unpacks as one.
pub(super) fn write(base: &Path, job: &Job, initrd: &Path) -> Result<()> {
    let staging = tempfile::tempdir()?;
    let root = staging.path().join("root");
    fs::create_dir_all(root.join("job"))?;
    fs::write(root.join("job/command"), &job.command)?;
    let settings = format!(
        "MODULES='{}'\nDISKS='{}'\nXEN='{}'\n",
        job.modules.join(" "),
        job.disks.join(" "),
        if job.xen { "yes" } else { "" }
    );
    fs::write(root.join("job/settings"), settings)?;
    for (from, to) in &job.files {
        add_program(&root, from, to)?;
    }
    let archive = staging.path().join("job.cpio");
    pack(&root, &archive)?;
    fs::copy(base, initrd)?;
    let mut initrd = fs::OpenOptions::new().append(true).open(initrd)?;
    std::io::copy(&mut fs::File::open(&archive)?, &mut initrd)?;
    initrd.flush()?;
    Ok(())
}

/// Copies a file to its guest path, without symbols if it is a program, and the shared libraries it names to the
/// paths they have on the host: so the very binary a user runs is what runs in the guest.
fn add_program(root: &Path, from: &Path, guest_path: &str) -> Result<()> {
    ensure!(
        guest_path.starts_with('/') && !guest_path.contains(".."),
        "a guest path starts with `/` and has no `..`: {guest_path}"
    );
    if from.is_dir() {
        bail!("{} is a folder: give files one by one", from.display());
    }
    let to = root.join(&guest_path[1..]);
    fs::create_dir_all(to.parent().unwrap_or(root))?;
    fs::copy(from, &to).with_context(|| format!("cannot copy {} for the guest", from.display()))?;
    // A module without symbols could not be linked to the kernel.
    if !is_elf(from) || from.extension().is_some_and(|extension| extension == "ko") {
        return Ok(());
    }
    // Debug information would be unpacked into the guest's memory for nothing. The copy is good as it is when this fails.
    let _ = Command::new("strip").arg(&to).stderr(Stdio::null()).status();
    for library in libraries(from)? {
        let to = root.join(library.strip_prefix("/").unwrap_or(&library));
        if !to.exists() {
            fs::create_dir_all(to.parent().unwrap_or(root))?;
            fs::copy(&library, &to).with_context(|| format!("cannot copy {}", library.display()))?;
        }
    }
    Ok(())
}

pub(super) fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).is_ok_and(|mut file| std::io::Read::read_exact(&mut file, &mut magic).is_ok())
        && magic == *b"\x7fELF"
}

/// The interpreter and libraries of a program, as the host's loader resolves them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let found = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    if !found.status.success() {
        return Ok(Vec::new()); // "not a dynamic executable"
    }
    parse_ldd(&String::from_utf8_lossy(&found.stdout))
        .with_context(|| format!("{} does not run on this machine either", program.display()))
}

fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("a shared library is missing: {}", line.trim());
        }
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        paths.extend(path.map(PathBuf::from));
    }
    Ok(paths)
}

/// Puts the modules and all they depend on under `lib/modules`, unpacked, since busybox cannot unpack xz or zstd.
fn add_modules(root: &Path, image: &Image) -> Result<()> {
    let index = fs::read_to_string(image.modules().join("modules.dep"))?;
    let dependencies = parse_modules_dep(&index);
    let mut wanted = BTreeSet::new();
    for module in MODULES {
        if let Some((path, needed)) = dependencies.get(&module.replace('-', "_")) {
            wanted.insert(*path);
            wanted.extend(needed.iter().copied());
        }
    }
    let dir = root.join("lib/modules").join(&image.release);
    fs::create_dir_all(&dir)?;
    let mut lines = String::new();
    for path in wanted {
        unpack(&image.modules().join(path), &dir.join(plain_name(path)))?;
        let (_, needed) = &dependencies[&module_name(path)];
        let needed: Vec<_> = needed.iter().map(|path| plain_name(path)).collect();
        lines.push_str(&format!("{}: {}\n", plain_name(path), needed.join(" ")));
    }
    fs::write(dir.join("modules.dep"), lines)?;
    Ok(())
}

/// Module name to its path and the paths it needs.
fn parse_modules_dep(index: &str) -> BTreeMap<String, (&str, Vec<&str>)> {
    index
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needed)| (module_name(path), (path, needed.split_whitespace().collect())))
        .collect()
}

fn module_name(path: &str) -> String {
    plain_name(path).trim_end_matches(".ko").replace('-', "_")
}

/// `nvme.ko` of `kernel/drivers/nvme/host/nvme.ko.xz`.
fn plain_name(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.find(".ko").map_or(name, |at| &name[..at + 3])
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    process::require("cpio")?;
    let mut pack = Command::new("sh");
    pack.args(["-c", "find . | cpio -o -H newc -R +0:+0 --quiet >\"$0\""]).arg(archive).current_dir(root);
    process::output(&mut pack)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_are_told_from_paths() {
        let index = "kernel/drivers/nvme/host/nvme.ko.xz: kernel/drivers/nvme/host/nvme-core.ko.xz\n\
                     kernel/drivers/nvme/host/nvme-core.ko.xz:\n";
        let dependencies = parse_modules_dep(index);
        assert_eq!(dependencies["nvme"].1, ["kernel/drivers/nvme/host/nvme-core.ko.xz"]);
        assert!(dependencies["nvme_core"].1.is_empty());
        assert_eq!(plain_name("kernel/drivers/ata/ahci.ko"), "ahci.ko");
    }

    #[test]
    fn ldd_gives_libraries_and_interpreter() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x0)\n";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text).unwrap(), paths);
        assert!(parse_ldd("\tlibx.so => not found\n").is_err());
    }

    #[test]
    fn guest_paths_stay_in_the_guest() {
        let root = tempfile::tempdir().unwrap();
        for path in ["bin/x", "/../x"] {
            assert!(add_program(root.path(), Path::new("/bin/sh"), path).is_err(), "{path}");
        }
    }
}
