//! What machine this is: kernel, command line, Xen.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use trace::meta::{Host, Xen};

/// The machine.
#[must_use]
pub fn host() -> Host {
    // SAFETY: zeroes are a valid utsname, which uname fills or leaves alone.
    let mut uts: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is good for the call.
    unsafe { libc::uname(&raw mut uts) };
    // SAFETY: as above.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::sysinfo(&raw mut info) };
    Host {
        name: text(&uts.nodename),
        release: text(&uts.release),
        version: text(&uts.version),
        machine: text(&uts.machine),
        cmdline: line("/proc/cmdline").unwrap_or_default(),
        possible_cpus: line("/sys/devices/system/cpu/possible").and_then(|l| last_cpu(&l)).map_or(0, |last| last + 1),
        memory: info.totalram * u64::from(info.mem_unit),
    }
}

fn text(field: &[libc::c_char]) -> String {
    // SAFETY: the kernel ends these with a NUL, and the array was zeroed before.
    unsafe { CStr::from_ptr(field.as_ptr()) }.to_string_lossy().into_owned()
}

/// A one-line file without its line end.
pub(crate) fn line(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// How many devices sums are kept of at most, 8 KiB a CPU each: those on the PCI bus, as many that come later, and some that
/// are on other buses.
pub(crate) fn devices() -> u32 {
    let pci = fs::read_dir("/sys/bus/pci/devices").map_or(0, Iterator::count);
    u32::try_from(2 * pci + 64).map_or(DEVICES, |count| count.min(DEVICES))
}

/// More than this would be too much of the kernel's memory.
const DEVICES: u32 = 1024;

/// Whether the kernel preempts tasks also while they run in it, programs of ours included. Where neither the mode nor the
/// kernel's name says no, it may.
pub(crate) fn preempts() -> bool {
    let mode = line("/sys/kernel/debug/sched/preempt");
    preempts_by(mode.as_deref(), &host().version)
}

/// By the mode in force, which stands in brackets, or by what the kernel calls itself.
fn preempts_by(mode: Option<&str>, version: &str) -> bool {
    match mode {
        Some(mode) => !mode.contains("(none)") && !mode.contains("(voluntary)"),
        None => version.contains("PREEMPT"),
    }
}

/// The last CPU of a list such as `0-3,8-11`.
fn last_cpu(list: &str) -> Option<u32> {
    list.rsplit([',', '-']).next()?.parse().ok()
}

/// Bit of the hypervisor's feature word that says that this is the initial domain.
const XENFEAT_DOM0: u32 = 11;

/// Xen, when the machine runs under it.
#[must_use]
pub fn xen() -> Option<Xen> {
    let root = Path::new("/sys/hypervisor");
    if line(root.join("type")).as_deref() != Some("xen") {
        return None;
    }
    let version = |part: &str| line(root.join("version").join(part)).unwrap_or_default();
    let features = line(root.join("properties/features")).and_then(|f| u64::from_str_radix(f.trim(), 16).ok());
    Some(Xen {
        mode: line(root.join("guest_type")).unwrap_or_default().to_ascii_lowercase(),
        version: format!("{}.{}{}", version("major"), version("minor"), version("extra")),
        dom0: features.is_some_and(|f| f >> XENFEAT_DOM0 & 1 == 1)
            || line("/proc/xen/capabilities").is_some_and(|c| c.contains("control_d")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preemption_by_mode_and_by_name() {
        let by = preempts_by;
        assert!(by(Some("full (lazy) "), "") && by(Some("none voluntary (full)"), ""));
        assert!(!by(Some("none (voluntary) full"), "#1 SMP PREEMPT_DYNAMIC") && !by(Some("(none) voluntary full"), ""));
        assert!(
            by(None, "#1 SMP PREEMPT_DYNAMIC Debian") && by(None, "#1 SMP PREEMPT_RT") && !by(None, "#1 SMP Debian")
        );
    }

    #[test]
    fn the_machine_has_a_kernel_and_cpus() {
        let host = host();
        assert!(!host.release.is_empty() && host.memory > 0);
        assert_eq!(last_cpu("0-3,8-11"), Some(11));
        assert_eq!(last_cpu("0"), Some(0));
        assert_eq!(last_cpu(""), None);
    }
}
