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

/// How many devices sums are kept of at most: those on the PCI bus, as many that come later, and some that are on other
/// buses, as far as the memory for it goes. What becomes of the others is told by `Shared::losses`.
pub(crate) fn devices() -> u32 {
    let pci = fs::read_dir("/sys/bus/pci/devices").map_or(0, Iterator::count);
    places(pci, host().possible_cpus)
}

/// Places for devices on a machine with so many PCI devices and CPUs that can exist.
fn places(pci: usize, cpus: u32) -> u32 {
    let wanted = pci.saturating_mul(2).saturating_add(64).min(DEVICES as usize);
    let room = SUMS_BYTES / sums_bytes(1, cpus);
    // Not above DEVICES, so within u32.
    (wanted as u64).min(room.max(u64::from(FEW_DEVICES))) as u32
}

/// The kernel's memory that sums of so many devices take, which cannot be swapped: all of it from the start, for every CPU
/// that can exist.
pub(crate) fn sums_bytes(devices: u32, cpus: u32) -> u64 {
    size_of::<probe::sums::Cell>() as u64 * u64::from(probe::sums::CELLS) * u64::from(devices) * u64::from(cpus.max(1))
}

/// More devices than this are not expected, nor looked through once a second.
const DEVICES: u32 = 1024;
/// The kernel's memory that sums may take: 1,024 devices on 8 CPUs, 34 on 256.
const SUMS_BYTES: u64 = 64 << 20;
/// So many devices have sums whatever it takes, which is more than [`SUMS_BYTES`] from 1,111 CPUs on.
const FEW_DEVICES: u32 = 8;

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
    fn sums_take_a_bounded_part_of_the_kernels_memory() {
        assert_eq!(sums_bytes(1, 1), 7_552);
        // What the machine has, on a small one.
        assert_eq!([places(0, 1), places(20, 8), places(200, 8), places(2_000, 8)], [64, 104, 464, 1_024]);
        // What the memory allows, on a large one.
        assert_eq!([places(200, 64), places(200, 256), places(20, 512)], [138, 34, 17]);
        for cpus in [1, 2, 7, 16, 64, 255, 256, 1_000, 1_110] {
            for pci in [0, 10, 200, 100_000] {
                let places = places(pci, cpus);
                assert!((FEW_DEVICES..=DEVICES).contains(&places), "{places} places of {pci} on {cpus} CPUs");
                assert!(sums_bytes(places, cpus) <= SUMS_BYTES, "{places} places of {pci} on {cpus} CPUs");
            }
        }
        // A few always, also where nothing is known of the machine.
        assert_eq!([places(200, 8_192), places(usize::MAX, u32::MAX)], [FEW_DEVICES; 2]);
        assert_eq!([places(0, 0), places(usize::MAX, 0)], [64, DEVICES]);
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
