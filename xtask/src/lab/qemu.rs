//! QEMU's command line, and watching it run.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Guest;
use crate::process;

/// The serial number by which the guest knows the disk its results go to.
const RESULT_SERIAL: &str = "swioscope-result";
/// File names in QEMU's working folder. Relative, so that no path has to be quoted for QEMU or Xen.
pub(super) const RESULT: &str = "result.raw";
pub(super) const INITRD: &str = "initrd.cpio";
pub(super) const CONSOLE: &str = "console.log";
pub(super) const VMLINUX: &str = "vmlinux";
pub(super) const XEN: &str = "xen";

/// What Xen keeps for itself and its tables, in MiB.
const XEN_OWN_MIB: u32 = 256;

pub(super) fn arguments(guest: &Guest, kvm: bool) -> Vec<String> {
    let memory = guest.memory_mib();
    let mut args = words(&format!(
        "-nodefaults -no-user-config -display none -monitor none -no-reboot -machine q35 -m {memory} -smp {} \
         -serial file:{CONSOLE} -chardev stdio,id=job,signal=off -serial chardev:job \
         -drive if=none,format=raw,cache=unsafe,id=result,file={RESULT} \
         -device virtio-blk-pci,drive=result,serial={RESULT_SERIAL} -initrd",
        guest.cpus
    ));
    let kernel_arguments = kernel_arguments(guest);
    if guest.xen.is_some() {
        let dom0 = guest.dom0_memory.unwrap_or((memory - XEN_OWN_MIB).min(1024));
        // QEMU splits the list of modules at commas that are not doubled.
        args.push(format!("{VMLINUX} {},{INITRD}", kernel_arguments.replace(',', ",,")));
        args.extend(words(&format!("-kernel {XEN} -append")));
        args.push(format!(
            "com1=115200,8n1 console=com1 dom0_mem={dom0}M,max:{dom0}M dom0_max_vcpus={} bootscrub=0 loglvl=warning",
            guest.cpus
        ));
    } else {
        args.push(INITRD.to_owned());
        args.extend(words(&format!("-kernel {VMLINUX} -append")));
        args.push(kernel_arguments);
    }
    args.extend(words(match (kvm, guest.xen.is_some()) {
        (true, _) => "-accel kvm -cpu host",
        (false, false) => "-accel tcg,thread=multi -cpu max",
        // With `max` a PV dom0 under TCG dies at its first page fault, of SMAP and SMEP. Without random numbers from the CPU
        // a guest that has no disk at work waits four minutes for its first ones.
        (false, true) => "-accel tcg,thread=multi -cpu qemu64,+rdrand",
    }));
    args.extend(guest.loads.iter().flat_map(|load| load.qemu_args(guest.disk_iops)));
    args
}

fn kernel_arguments(guest: &Guest) -> String {
    let console = if guest.xen.is_some() { "hvc0" } else { "ttyS0" };
    let mut line = format!(
        // Expedited grace periods: attaching and detaching probes waits for many of them.
        "console={console} loglevel=5 panic=-1 nokaslr mitigations=off apparmor=0 audit=0 rcupdate.rcu_expedited=1"
    );
    if let Some(spec) = &guest.swiotlb {
        line.push_str(&format!(" swiotlb={spec}"));
    }
    for extra in &guest.kernel_arguments {
        line.push_str(&format!(" {extra}"));
    }
    line
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Whether to use KVM: where it is there and this machine is no guest itself, since nested KVM is known to fail on
/// stock guests. `SWIOSCOPE_LAB_ACCEL=kvm` or `=tcg` decides otherwise.
pub(super) fn use_kvm() -> Result<bool> {
    match std::env::var("SWIOSCOPE_LAB_ACCEL").as_deref() {
        Ok("kvm") => Ok(true),
        Ok("tcg") => Ok(false),
        Ok(other) => bail!("SWIOSCOPE_LAB_ACCEL is `kvm` or `tcg`, not `{other}`"),
        Err(_) => {
            let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let nested = cpu.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
            Ok(!nested && fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok())
        }
    }
}

/// How a run of QEMU ended.
pub(super) struct Ended {
    /// QEMU's own status, none if it ran out of time and was ended.
    pub(super) status: Option<ExitStatus>,
    /// What the job wrote to standard output and error.
    pub(super) output: Vec<u8>,
    /// What QEMU complained about.
    pub(super) complaints: String,
}

/// Runs QEMU in `dir` until it ends or `timeout` is over. With `echo`, the job's output appears as it comes.
pub(super) fn run(args: &[String], dir: &Path, timeout: Duration, echo: bool) -> Result<Ended> {
    let mut command = Command::new(process::require("qemu-system-x86_64")?);
    command.args(args).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(dir.join("qemu.log"))?);
    // SAFETY: prctl only sets an attribute of the child between fork and exec, and is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // A guest must not outlive the test that started it.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let mut child = command.spawn().context("cannot start qemu-system-x86_64")?;
    let stdout = child.stdout.take().context("qemu has no standard output")?;
    let reader = thread::spawn(move || collect(stdout, echo));
    let status = wait(&mut child, timeout);
    let output = reader.join().unwrap_or_default();
    let complaints = fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
    Ok(Ended { status: status?, output, complaints })
}

fn collect(mut from: impl std::io::Read, echo: bool) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(got @ 1..) = from.read(&mut chunk) {
        all.extend_from_slice(&chunk[..got]);
        if echo {
            let mut stdout = std::io::stdout().lock();
            // Nobody listening is no reason to stop the guest.
            let _ = stdout.write_all(&chunk[..got]).and_then(|()| stdout.flush());
        }
    }
    all
}

fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Kernel, Load};

    #[test]
    fn xen_gets_its_kernel_arguments_with_commas_doubled() {
        let args = arguments(&Guest::new(Kernel::V6_12).xen(true).swiotlb("65536,,force"), false);
        let modules = &args[args.iter().position(|arg| arg == "-initrd").unwrap() + 1];
        assert!(modules.contains(" swiotlb=65536,,,,force,initrd.cpio"), "{modules}");
    }

    #[test]
    fn plain_guests_get_them_as_they_are() {
        let args = arguments(&Guest::new(Kernel::V6_12).swiotlb("4096,2,force").load(Load::Ahci).disk_iops(9), false);
        assert!(args.iter().any(|arg| arg.ends_with(" swiotlb=4096,2,force")), "{args:?}");
        assert!(args.iter().any(|arg| arg == "ide-hd,bus=ide.0,drive=ahci"), "{args:?}");
        assert!(args.iter().any(|arg| arg.ends_with("file=ahci.raw,throttling.iops-total=9")), "{args:?}");
    }
}
