//! What the process may do: the capabilities that recording takes, which of them are missing and what for, and giving up
//! those that it no longer needs.
//!
//! Not being root is no hindrance: `setcap cap_bpf,cap_perfmon,cap_syslog+ep swioscope` is enough to record, without the
//! snapshot of the pool, which takes CAP_SYS_RAWIO.
//!
//! # Minimum kernel version
//!
//! 5.8 has CAP_BPF and CAP_PERFMON; before it CAP_SYS_ADMIN stands for both, as it still does.

use std::collections::HashSet;
use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use caps::{CapSet, Capability};
use serde::Serialize;

use crate::host;

/// A capability that recording uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    capability: Capability,
    /// There is no recording without it.
    pub required: bool,
    purpose: &'static str,
}

/// All of them, the required ones first.
pub const NEEDS: [Need; 5] = [
    Need { capability: Capability::CAP_BPF, required: true, purpose: "to load eBPF programs" },
    Need { capability: Capability::CAP_PERFMON, required: true, purpose: "to attach them and let them read memory" },
    Need {
        capability: Capability::CAP_SYSLOG,
        required: false,
        purpose: "to see addresses in /proc/kallsyms, without which there are no snapshot of the pool and no names in stacks",
    },
    Need {
        capability: Capability::CAP_SYS_RAWIO,
        required: false,
        purpose: "to read /proc/kcore, without which there are no snapshot of the pool and no p2m",
    },
    Need {
        capability: Capability::CAP_SYS_NICE,
        required: false,
        purpose: "to empty the ring buffer before the load runs on, without which more is lost on a busy machine",
    },
];

/// A capability that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Its name.
    pub capability: String,
    /// There is no recording without it.
    pub required: bool,
    /// What it is needed for, in words that follow its name.
    pub purpose: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.capability, self.purpose)
    }
}

/// Which capabilities this thread lacks.
#[must_use]
pub fn missing() -> Vec<Missing> {
    // One that cannot be read is one that is not there: the kernel tells when it is used all the same.
    missing_of(&caps::read(None, CapSet::Effective).unwrap_or_default(), last_known())
}

/// The number of the last capability this kernel knows.
fn last_known() -> Option<u8> {
    host::line("/proc/sys/kernel/cap_last_cap")?.parse().ok()
}

fn missing_of(held: &HashSet<Capability>, last: Option<u8>) -> Vec<Missing> {
    let new = |capability: Capability| last.is_some_and(|last| capability.index() > last);
    let lacking = NEEDS.iter().filter(|need| !stands_in(need.capability).iter().any(|c| held.contains(c)));
    let mut missing: Vec<Missing> = lacking
        .map(|need| Missing {
            capability: if new(need.capability) { Capability::CAP_SYS_ADMIN } else { need.capability }.to_string(),
            required: need.required,
            purpose: need.purpose,
        })
        .collect();
    // On a kernel without the two newer ones, one stands for both.
    missing.dedup_by(|second, first| first.capability == second.capability);
    missing
}

/// What the kernel takes for a capability.
fn stands_in(capability: Capability) -> &'static [Capability] {
    match capability {
        Capability::CAP_BPF => &[Capability::CAP_BPF, Capability::CAP_SYS_ADMIN],
        Capability::CAP_PERFMON => &[Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN],
        Capability::CAP_SYSLOG => &[Capability::CAP_SYSLOG],
        Capability::CAP_SYS_RAWIO => &[Capability::CAP_SYS_RAWIO],
        _ => &[Capability::CAP_SYS_NICE],
    }
}

/// Gives up what recording into `folder` no longer needs once the probe is attached: all but
///
/// * CAP_BPF (or CAP_SYS_ADMIN, where it stands for that), to read the counters of losses;
/// * CAP_SYSLOG, for the names of the calls in stacks, which are looked up at the end;
/// * CAP_SYS_NICE, which [`settle`] gives up;
/// * CAP_DAC_OVERRIDE, if the trace's folder cannot be written without, as that of another user for root.
///
/// It holds for this thread and those it starts. A command started from here has it all back if the user is root.
pub fn give_up(folder: &Path) {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let mut keep = kept(&held);
    // Whether a file can be written is the kernel's to say, so it is asked without the right to override.
    let tried = set(CapSet::Effective, &keep);
    if held.contains(&Capability::CAP_DAC_OVERRIDE) && !(writable(folder) && folder.parent().is_none_or(writable)) {
        keep.insert(Capability::CAP_DAC_OVERRIDE);
    }
    let done = tried.and_then(|()| set(CapSet::Permitted, &keep)).and_then(|()| set(CapSet::Effective, &keep));
    if let Err(why) = done {
        tracing::warn!("capabilities that are no longer needed could not be given up: {why}");
    }
}

/// Gives up what a thread needs only while it begins.
pub fn settle() {
    for set in [CapSet::Effective, CapSet::Permitted] {
        if let Err(why) = caps::drop(None, set, Capability::CAP_SYS_NICE) {
            tracing::warn!("CAP_SYS_NICE is no longer needed and could not be given up: {why}");
        }
    }
}

fn kept(held: &HashSet<Capability>) -> HashSet<Capability> {
    let counters = stands_in(Capability::CAP_BPF).iter().find(|c| held.contains(c));
    let others = [Capability::CAP_SYSLOG, Capability::CAP_SYS_NICE];
    counters.into_iter().chain(others.iter().filter(|c| held.contains(c))).copied().collect()
}

fn set(which: CapSet, to: &HashSet<Capability>) -> Result<(), caps::errors::CapsError> {
    caps::set(None, which, to)
}

/// Whether files can be made in a folder with the capabilities in effect.
fn writable(folder: &Path) -> bool {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path ends with a NUL and is good for the call.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK | libc::X_OK, libc::AT_EACCESS) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(held: &[Capability], last: u8) -> Vec<String> {
        let missing = missing_of(&held.iter().copied().collect(), Some(last));
        missing.into_iter().filter(|m| m.required).map(|m| m.capability).collect()
    }

    #[test]
    fn two_small_capabilities_do_and_a_large_one_stands_for_them() {
        use Capability::{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_RAWIO};
        const NOW: u8 = 40;
        assert_eq!(names(&[], NOW), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(names(&[CAP_BPF], NOW), ["CAP_PERFMON"]);
        assert!(names(&[CAP_BPF, CAP_PERFMON], NOW).is_empty());
        assert!(names(&[CAP_SYS_ADMIN], NOW).is_empty());
        // Before 5.8, which ends with CAP_AUDIT_READ.
        assert_eq!(names(&[CAP_SYS_RAWIO], 37), ["CAP_SYS_ADMIN"]);
    }

    #[test]
    fn what_is_missing_says_what_for() {
        let missing = missing_of(&HashSet::new(), None);
        assert_eq!(missing.len(), NEEDS.len());
        assert_eq!(missing[0].to_string(), "CAP_BPF (to load eBPF programs)");
        assert!(missing.iter().all(|m| m.purpose.starts_with("to ")));
    }

    #[test]
    fn counters_symbols_and_the_drainers_priority_are_kept() {
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_SYSLOG};
        let of = |held: &[Capability]| kept(&held.iter().copied().collect());
        assert_eq!(of(&[CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_NET_ADMIN]), HashSet::from([CAP_BPF]));
        assert_eq!(of(&[CAP_BPF, CAP_SYSLOG]), HashSet::from([CAP_BPF, CAP_SYSLOG]));
        assert_eq!(of(&[CAP_SYS_ADMIN, CAP_SYS_NICE]), HashSet::from([CAP_SYS_ADMIN, CAP_SYS_NICE]));
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn dropping_holds_for_the_thread_that_did_it() {
        let folder = std::env::temp_dir();
        let before = caps::read(None, CapSet::Permitted).unwrap();
        let after = std::thread::scope(|scope| {
            let dropped = scope.spawn(|| {
                give_up(&folder);
                settle();
                caps::read(None, CapSet::Permitted).unwrap()
            });
            dropped.join().unwrap()
        });
        use Capability::{CAP_BPF, CAP_DAC_OVERRIDE, CAP_SYS_ADMIN, CAP_SYSLOG};
        let may_stay = HashSet::from([CAP_BPF, CAP_SYS_ADMIN, CAP_SYSLOG, CAP_DAC_OVERRIDE]);
        assert!(after.is_subset(&may_stay), "{after:?}");
        assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), before);
    }
}
