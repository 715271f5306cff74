//! The lab: real kernels in QEMU, plain or as a PV dom0 under Xen, running real binaries as root.
//!
//! A run is a value, built up and then started:
//!
//! ```no_run
//! use xtask::lab::{Guest, Kernel, Load};
//!
//! let outcome = Guest::new(Kernel::V6_12)
//!     .swiotlb("4096,1,force")
//!     .load(Load::Nvme { queues: 4 })
//!     .run(&["cat /sys/kernel/debug/swiotlb/io_tlb_nslabs > /out/nslabs"])?;
//! assert_eq!(outcome.status, 0);
//! let nslabs = std::fs::read_to_string(outcome.out_dir.join("nslabs"))?;
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! What the guest needs is fetched on first use; the tools of the host come with `cargo xtask setup`. Guests of all
//! processes on a machine take turns, so tests may be started in any number.

mod archive;
mod initramfs;
mod kernel;
mod load;
mod module;
mod qemu;
mod xen;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

pub use archive::{fetched, fetched_xen, forget, kernel as fetch, xen as fetch_xen};
pub use kernel::{Image, Kernel};
pub use load::Load;
pub use module::module;
pub use xen::Xen;

use crate::{cache, process};

/// The size of the disks of loads, in bytes. Sparse.
const DISK: u64 = 1 << 30;
/// The size of the disk results come back on. Sparse, and more than any guest here has memory to fill.
const RESULT_DISK: u64 = 8 << 30;
/// Where the lab's module is in a guest that has its device. The job loads it, with the parameters it wants.
pub const MODULE: &str = "/lab/swio_lab.ko";
/// Runs whose logs are kept, whatever their age, and the age below which all are.
const KEPT_RUNS: usize = 40;
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// A guest to be run: a kernel, its machine and what is put into it.
#[derive(Clone, Debug)]
#[must_use = "a guest does nothing until it is run"]
pub struct Guest {
    kernel: Kernel,
    xen: Option<Xen>,
    swiotlb: Option<String>,
    kernel_arguments: Vec<String>,
    memory: Option<u32>,
    dom0_memory: Option<u32>,
    cpus: u32,
    loads: Vec<Load>,
    disk_iops: Option<u32>,
    files: Vec<(PathBuf, String)>,
    timeout: Duration,
    out: Option<PathBuf>,
    echo: bool,
}

/// How a job in a guest ended, and what it left.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The job's exit status, 128 + N if signal N ended it.
    pub status: i32,
    /// What the job wrote to standard output and standard error.
    pub output: String,
    /// The folder with what the job left under `/out`.
    pub out_dir: PathBuf,
    /// The log of the guest's console; `dmesg` beside it is the kernel's own log.
    pub console: PathBuf,
    /// From starting QEMU to its end; waiting for other guests is not counted.
    pub took: Duration,
}

impl Guest {
    /// A guest with one CPU, 1 GiB of memory and no load, which may run for five minutes.
    pub fn new(kernel: Kernel) -> Guest {
        Guest {
            kernel,
            xen: None,
            swiotlb: None,
            kernel_arguments: Vec::new(),
            memory: None,
            dom0_memory: None,
            cpus: 1,
            loads: Vec::new(),
            disk_iops: None,
            files: Vec::new(),
            timeout: Duration::from_secs(300),
            out: None,
            echo: false,
        }
    }

    /// Boots the kernel as a PV dom0 under the lab's default Xen. One CPU is quicker than two under emulation.
    pub fn xen(mut self, xen: bool) -> Guest {
        self.xen = xen.then_some(Xen::DEFAULT);
        self
    }

    /// As [`Guest::xen`], under this Xen.
    pub fn xen_version(mut self, xen: Xen) -> Guest {
        self.xen = Some(xen);
        self
    }

    /// The kernel's `swiotlb=`: slots, areas, force. Below 4 GiB of memory a plain guest has a pool only with `force`.
    pub fn swiotlb(mut self, spec: impl Into<String>) -> Guest {
        self.swiotlb = Some(spec.into());
        self
    }

    /// One more argument for the kernel's command line.
    pub fn kernel_argument(mut self, argument: impl Into<String>) -> Guest {
        self.kernel_arguments.push(argument.into());
        self
    }

    /// The machine's memory in MiB. Above 4 GiB, 32-bit devices bounce by themselves.
    pub fn memory(mut self, mib: u32) -> Guest {
        self.memory = Some(mib);
        self
    }

    /// How much of the memory dom0 gets, in MiB: all but what Xen needs, at most 1 GiB, if not said.
    pub fn dom0_memory(mut self, mib: u32) -> Guest {
        self.dom0_memory = Some(mib);
        self
    }

    /// The number of CPUs.
    pub fn cpus(mut self, cpus: u32) -> Guest {
        self.cpus = cpus;
        self
    }

    /// Attaches a device and loads its driver. A disk is `/dev/load/NAME` in the guest.
    pub fn load(mut self, load: Load) -> Guest {
        self.loads.push(load);
        self
    }

    /// Limits each disk to so many requests a second. An emulated disk answers at once; a limited one keeps requests
    /// waiting, which hold their slots meanwhile as they do on a real disk.
    pub fn disk_iops(mut self, limit: u32) -> Guest {
        self.disk_iops = Some(limit);
        self
    }

    /// Copies a file into the guest. A program gets its shared libraries copied too.
    pub fn file(mut self, host: impl Into<PathBuf>, guest: impl Into<String>) -> Guest {
        self.files.push((host.into(), guest.into()));
        self
    }

    /// How long the guest may take, boot included, before it is ended.
    pub fn timeout(mut self, timeout: Duration) -> Guest {
        self.timeout = timeout;
        self
    }

    /// Where the files under the guest's `/out` go; a folder of the run's own if not said.
    pub fn out(mut self, dir: impl Into<PathBuf>) -> Guest {
        self.out = Some(dir.into());
        self
    }

    /// Copies the job's output to standard output as it comes.
    pub fn echo(mut self, echo: bool) -> Guest {
        self.echo = echo;
        self
    }

    /// Boots, runs the job as root in an empty `/root`, powers off.
    ///
    /// One argument is a line for the shell, several are a program and its arguments. A job that fails is an
    /// [`Outcome`] with its status, not an error.
    ///
    /// # Errors
    /// The kernel cannot be fetched, a host tool or file is missing, the guest does not boot, dies or takes too long:
    /// the error has the end of the console and says where the whole is.
    pub fn run<S: AsRef<str>>(&self, command: &[S]) -> Result<Outcome> {
        let wanted: Vec<&str> = command.iter().map(AsRef::as_ref).collect();
        self.check(&wanted)?;
        let image = archive::kernel(self.kernel, &mut |_| {})?;
        let base = {
            let _lock = lock(&format!("fetch-{}.lock", self.kernel))?;
            initramfs::base(&image)?
        };
        let dir = new_run_dir()?;
        let mut files = self.files.clone();
        if self.loads.contains(&Load::Edu) {
            files.push((module::module(self.kernel, &mut |_| {})?, MODULE.to_owned()));
        }
        let job = initramfs::Job {
            command: shell_text(&wanted),
            files,
            modules: self.modules(),
            disks: self.loads.iter().filter(|load| load.is_disk()).map(|load| load.name()).collect(),
            xen: self.xen.is_some(),
        };
        initramfs::write(&base, &job, &dir.join(qemu::INITRD))?;
        symlink(image.vmlinux(), dir.join(qemu::VMLINUX))?;
        if let Some(xen) = self.xen {
            symlink(archive::xen(xen, &mut |_| {})?, dir.join(qemu::XEN))?;
        }
        let disks = self.loads.iter().filter(|load| load.is_disk()).map(|load| (load.backing(), DISK));
        let disks: Vec<_> = disks.chain([(qemu::RESULT.into(), RESULT_DISK)]).collect();
        for (name, size) in &disks {
            File::create(dir.join(name))?.set_len(*size)?;
        }

        let args = qemu::arguments(self, qemu::use_kvm()?);
        let turn = take_turn()?;
        let started = Instant::now();
        let ended = qemu::run(&args, &dir, self.timeout, self.echo)?;
        let took = started.elapsed();
        drop(turn);

        let outcome = self.collect(&dir, ended, took);
        for name in disks.iter().map(|(name, _)| name.as_path()).chain([Path::new(qemu::INITRD)]) {
            fs::remove_file(dir.join(name))?;
        }
        outcome
    }

    fn memory_mib(&self) -> u32 {
        self.memory.unwrap_or(if self.xen.is_some() { 1280 } else { 1024 })
    }

    fn modules(&self) -> Vec<String> {
        let mut modules: Vec<String> = ["virtio_pci", "virtio_blk"].map(str::to_owned).into();
        if self.xen.is_some() {
            modules.extend(["xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xenfs"].map(str::to_owned));
        }
        modules.extend(self.loads.iter().flat_map(|load| load.modules(self.cpus)));
        modules
    }

    fn check(&self, command: &[&str]) -> Result<()> {
        ensure!(!command.is_empty(), "there is no command to run in the guest");
        let least = if self.xen.is_some() { 768 } else { 256 };
        ensure!(self.memory_mib() >= least, "such a guest needs at least {least} MiB of memory");
        ensure!(self.disk_iops != Some(0), "a disk that serves no requests would hang the guest");
        ensure!((1..=255).contains(&self.cpus), "a guest has 1 to 255 CPUs");
        for (index, load) in self.loads.iter().enumerate() {
            let again = self.loads[..index].iter().any(|other| other.name() == load.name());
            ensure!(!again, "the load {load} is given twice");
        }
        let plain = |text: &str| !text.contains([' ', '\t', '\n', '\'', '"']);
        for text in self.swiotlb.iter().chain(&self.kernel_arguments) {
            ensure!(plain(text), "a kernel argument has no spaces or quotes: {text}");
        }
        Ok(())
    }

    /// Unpacks what the guest wrote to its result disk.
    fn collect(&self, dir: &Path, ended: qemu::Ended, took: Duration) -> Result<Outcome> {
        let console = dir.join(qemu::CONSOLE);
        let output = String::from_utf8_lossy(&ended.output).into_owned();
        fs::write(dir.join("output.log"), &ended.output)?;
        let failed = |what: String| {
            let said = fs::read(&console).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let log = dir.display();
            anyhow::anyhow!("{what}\n{}\nconsole, job output and QEMU's messages: {log}", last_words(&said, 25))
        };
        match ended.status {
            None => {
                let seconds = self.timeout.as_secs();
                return Err(failed(format!("the guest ({}) did not end within {seconds} s", self.kernel)));
            }
            Some(status) if !status.success() => {
                return Err(failed(format!("qemu failed ({status}): {}", ended.complaints.trim_end())));
            }
            Some(_) => {}
        }
        let result = dir.join(qemu::RESULT);
        let unpack = |to: &Path, strip: &str, what: &str| {
            let mut tar = std::process::Command::new("tar");
            tar.arg("-xf").arg(&result).arg("-C").arg(to).args(["--no-same-owner", strip, what]);
            process::output(&mut tar)
        };
        if unpack(dir, "--strip-components=1", ".lab").is_err() {
            return Err(failed(format!("the guest ({}) died before it could hand back results", self.kernel)));
        }
        let status = fs::read_to_string(dir.join("status")).unwrap_or_default();
        let Ok(status) = status.trim().parse() else {
            return Err(failed("the guest handed back no status".to_owned()));
        };
        let out_dir = self.out.clone().unwrap_or_else(|| dir.join("out"));
        fs::create_dir_all(&out_dir).with_context(|| format!("cannot create {}", out_dir.display()))?;
        unpack(&out_dir, "--strip-components=1", "out")?;
        Ok(Outcome { status, output, out_dir, console, took })
    }
}

/// One argument as it is, several quoted.
fn shell_text(command: &[&str]) -> String {
    match command {
        [line] => format!("{line}\n"),
        words => {
            let quoted: Vec<_> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
            format!("{}\n", quoted.join(" "))
        }
    }
}

/// The end of a console, and before it the line that says why, which a stack trace may have pushed out of sight.
fn last_words(console: &str, count: usize) -> String {
    let lines: Vec<_> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = &lines[lines.len().saturating_sub(count)..];
    let why = lines.iter().find(|line| line.contains("Kernel panic") || line.contains("Panic on CPU"));
    let why = why.filter(|line| !end.contains(line)).into_iter();
    why.chain(end).copied().collect::<Vec<_>>().join("\n")
}

/// A new folder for a run's logs, named by the time so that they sort; old ones go.
fn new_run_dir() -> Result<PathBuf> {
    let runs = cache::lab_dir()?.join("runs");
    fs::create_dir_all(&runs)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut old: Vec<_> = fs::read_dir(&runs)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    old.sort();
    let recent = |dir: &Path| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let millis = name.split('-').next().and_then(|millis| millis.parse().ok());
        // A guest may still be waiting for its turn.
        millis.is_some_and(|millis| now.saturating_sub(Duration::from_millis(millis)) < KEPT_FOR)
    };
    for dir in old[..old.len().saturating_sub(KEPT_RUNS)].iter().filter(|dir| !recent(dir)) {
        // Another process may be deleting it as well.
        let _ = fs::remove_dir_all(dir);
    }
    let dir = tempfile::Builder::new().prefix(&format!("{}-", now.as_millis())).tempdir_in(&runs)?;
    Ok(dir.keep())
}

/// Waits for one of the machine's places for guests: emulation takes a core or two each, and a guest that is starved
/// runs into time-outs of its own.
fn take_turn() -> Result<File> {
    let places = thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).max(1));
    loop {
        for place in 0..places {
            let file = open_lock(&format!("guest-{place}.lock"))?;
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(error)) => bail!("cannot take the lab's lock: {error}"),
            }
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Held until dropped, across processes.
fn lock(name: &str) -> Result<File> {
    let file = open_lock(name)?;
    file.lock().with_context(|| format!("cannot lock {name} in the lab's folder"))?;
    Ok(file)
}

fn open_lock(name: &str) -> Result<File> {
    let path = cache::lab_dir()?.join(name);
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_argument_is_a_line_and_several_are_words() {
        assert_eq!(shell_text(&["cat /proc/cmdline | head"]), "cat /proc/cmdline | head\n");
        assert_eq!(shell_text(&["echo", "it's", "a b"]), "'echo' 'it'\\''s' 'a b'\n");
    }

    #[test]
    fn a_panic_is_shown_however_long_its_trace() {
        let console = format!("boot\n[1] Kernel panic - not syncing: x\n\n{}", "[1]  trace\n".repeat(30));
        let words = last_words(&console, 25);
        assert!(words.starts_with("[1] Kernel panic - not syncing: x\n[1]  trace"), "{words}");
        assert_eq!(words.lines().count(), 26);
        assert_eq!(last_words("a\n\nKernel panic\nb", 25), "a\nKernel panic\nb");
    }

    #[test]
    fn impossible_guests_are_refused_before_anything_is_fetched() {
        let refused = |guest: Guest, command: &[&str]| guest.run(command).unwrap_err().to_string();
        let guest = || Guest::new(Kernel::V6_12);
        assert!(refused(guest(), &[]).contains("no command"));
        assert!(refused(guest().memory(64), &["true"]).contains("at least 256 MiB"));
        assert!(refused(guest().load(Load::Ide).load(Load::Ide), &["true"]).contains("twice"));
        assert!(refused(guest().swiotlb("force init=/bin/sh"), &["true"]).contains("no spaces"));
    }
}
