//! What capturing costs: on this machine against other tracers, and in guests against the same load unrecorded.

mod pairs;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::lab::{Guest, Kernel, Load};
use crate::{build, cache, package, process, setup};

/// Tracers that the same calls are measured with.
const RIVALS: [(&str, &str); 2] = [("bpftrace", "bpftrace"), ("perf", "linux-perf")];
const TRACEFS: &str = "/sys/kernel/tracing";

/// Measures on this machine: a tracepoint that is passed at will stands for DMA, which a build machine seldom has.
///
/// # Errors
/// It does not build, or may not use BPF here.
#[allow(clippy::print_stderr, reason = "what is skipped is said")]
pub fn capture_here() -> Result<()> {
    let missing: Vec<_> =
        RIVALS.iter().filter(|(program, _)| process::find(program).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty()
        && let Err(error) = setup::install_packages(&missing)
    {
        eprintln!("not compared with {}: {error:#}", missing.join(" and "));
    }
    let mounted = PathBuf::from(TRACEFS).join("events").is_dir();
    if !mounted && let Err(error) = process::run(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS])) {
        eprintln!("not compared with perf and ftrace: {error:#}");
    }
    let program = program()?;
    let measured = process::run(&mut Command::new(program));
    if !mounted {
        // As it was before; that it may not have been mounted is said above.
        let _ = Command::new("umount").arg(TRACEFS).status();
    }
    measured
}

/// What a guest does: the same calls, fewer of them; what the verifier makes of each program; a load with and without a
/// recorder, in turns.
const JOB: &str = r#"
echo "== calls"
capture-cost 3000
echo "== instructions the verifier looked at"
NO_COLOR=1 RUST_LOG=collector=debug swioscope doctor 2>&1 >/dev/null | sed -n 's/.*program="\([a-z_0-9]*\)" verified_instructions=\([0-9]*\) milliseconds=\([0-9]*\) ok=true/  \1 \2 (\3 ms)/p'
echo "== NVMe, alone and recorded, in turns"
load="lab-load --device /dev/load/nvme --threads 4 --ops 3000"
for round in 1 2 3; do
    echo "  alone:    $($load)"
    echo "  recorded: $(swioscope record -q --ring 64 -o /out/$round.swio -- $load 2>/out/said)"
    echo "  $(head -1 /out/said)"
done
"#;

/// What is measured in guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything.
    All,
    /// Pairs of map and unmap that bounce, by mode and back-end.
    Pairs,
}

/// Measures in guests. Under emulation only ratios mean anything.
///
/// # Errors
/// Something does not build, or a guest fails.
#[allow(clippy::print_stderr, reason = "a guest's end is told where its output goes")]
pub fn capture_in_guests(kernels: &[Kernel], part: Part) -> Result<()> {
    for &kernel in if kernels.is_empty() { &Kernel::ALL } else { kernels } {
        eprintln!("\n# Linux {kernel}");
        if part == Part::All {
            loads(kernel)?;
        }
        pairs::measure(kernel)?;
    }
    Ok(())
}

/// Measures calls, the verifier and a disk's load in a guest of a kernel.
#[allow(clippy::print_stderr, reason = "a guest's end is told where its output goes")]
fn loads(kernel: Kernel) -> Result<()> {
    let outcome = Guest::new(kernel)
        .swiotlb(pool(kernel))
        .load(Load::Nvme { queues: 2 })
        .file(package::program()?, "/bin/swioscope")
        .file(program()?, "/bin/capture-cost")
        .file(build::program("lab-load")?, "/bin/lab-load")
        .echo(true)
        .run(&[JOB])?;
    eprintln!("the traces are in {}", outcome.out_dir.display());
    Ok(())
}

/// 64 MiB in one area, into which everything is forced. 5.10 has no areas and would take their number for a word of its own.
fn pool(kernel: Kernel) -> &'static str {
    if kernel == Kernel::V5_10 { "32768,force" } else { "32768,1,force" }
}

/// The program that measures.
fn program() -> Result<PathBuf> {
    let mut build = build::cargo("build")?;
    build.args(["--quiet", "--release", "--package", "swioscope-collector", "--example", "capture-cost"]);
    process::run(&mut build)?;
    let program = cache::target_dir()?.join("release/examples/capture-cost");
    program.canonicalize().with_context(|| format!("cannot find {}", program.display()))
}
