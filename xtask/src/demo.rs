//! The demo: a real trace of a real dom0, replayed under several policies, on screen.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::build::{self, Programs};
use crate::lab::{Guest, Kernel, Load};
use crate::progress::Step;
use crate::setup::{self, Purpose};
use crate::{cache, process};

/// The dom0 of the demo.
pub const KERNEL: Kernel = Kernel::V6_12;
/// Its pool: the default 64 MiB, everything bounced, as the second pool's RFC was tried.
const SWIOTLB: &str = "32768,,force";
/// A 64-bit disk and a 32-bit one, sharing that pool.
const JOB: &str = "swioscope record -o /out/demo.swio -- lab-load --device /dev/load/nvme --device /dev/load/ide \
                   --threads 64 --min 4k --max 200k --ops 1600";
/// Slow enough that requests queue up in the NVMe, on a busy machine too: its 32 threads then hold some 2,000 slots between
/// them. At 100 a busy machine was seen to keep a third of them.
const DISK_IOPS: u32 = 25;

/// What the load is replayed under: the allocator it was recorded on, the oldest, and a pool of 2 MiB that is too small
/// for it, alone and with the RFC's second, 64-bit pool beside it.
const POLICIES: [&str; 4] = ["v6_10", "legacy", "v6_10:nslabs=1024", "rfc64:swiotlb=1024,32768,force"];

/// Sets up, records in the lab (or takes the sample with `offline`), replays, and opens the comparison; prints it with
/// `print` or where there is no terminal.
///
/// # Errors
/// Something cannot be installed or built, the guest fails, or swioscope does.
pub fn run(offline: bool, print: bool) -> Result<()> {
    let sample = if offline { Some(sample()?) } else { None };
    let purpose = if offline { Purpose::Build } else { Purpose::Demo(KERNEL) };
    setup::install(&setup::announce(purpose)?)?;
    let programs = build::workspace()?;
    let trace = match sample {
        Some(trace) => trace,
        None => record(&programs)?,
    };

    let swioscope = |arguments: &[&str]| {
        let mut command = Command::new(&programs.swioscope);
        command.arg(arguments[0]).arg(&trace).args(&arguments[1..]);
        // Shown as it could be typed. Nobody listening is no reason to stop.
        let _ = writeln!(
            std::io::stderr(),
            "\n$ swioscope {} {} {}",
            arguments[0],
            trace.display(),
            arguments[1..].join(" ")
        );
        process::run(&mut command)
    };
    let mut policies: Vec<_> = POLICIES.iter().flat_map(|policy| ["--policy", policy]).collect();
    swioscope(&["verify"])?;
    swioscope(&[&["replay"], &policies[..]].concat())?;
    if print || !std::io::stdout().is_terminal() {
        policies.push("--print");
    }
    swioscope(&[&["view"], &policies[..]].concat())?;
    let _ =
        writeln!(std::io::stderr(), "\nswioscope is {}, the trace {}", programs.swioscope.display(), trace.display());
    Ok(())
}

/// Records the load in a dom0 and brings the trace back.
fn record(programs: &Programs) -> Result<PathBuf> {
    let out = cache::cache_dir()?.join("demo");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let step = Step::loud(format!("recording in a {KERNEL} dom0 under Xen (half a minute, emulated)"));
    let outcome = Guest::new(KERNEL)
        .xen(true)
        .swiotlb(SWIOTLB)
        .load(Load::Nvme { queues: 4 })
        .load(Load::Ide)
        .disk_iops(DISK_IOPS)
        .file(&programs.swioscope, "/bin/swioscope")
        .file(&programs.lab_load, "/bin/lab-load")
        .out(&out)
        .echo(true)
        .run(&[JOB])?;
    ensure!(
        outcome.status == 0,
        "recording ended with status {}; what it said is above, the console in {}",
        outcome.status,
        outcome.console.display()
    );
    step.done();
    Ok(out.join("demo.swio"))
}

/// The trace shipped with the project.
fn sample() -> Result<PathBuf> {
    let trace = cache::workspace().join("samples/dom0-nvme.swio");
    ensure!(trace.is_dir(), "{} is missing: try without --offline", trace.display());
    Ok(trace)
}
