//! `cargo xtask`: everything about swioscope that is not swioscope.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program talks to its user")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use xtask::bench::Part;
use xtask::lab::{self, Guest, Kernel, Load, Xen};
use xtask::setup::{self, Purpose};
use xtask::{bench, build, demo, fuzz, package};

/// Set-up, demo, tests and the VM lab of swioscope.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing: packages (as root), bpf-linker, the lab's kernels
    Setup {
        /// Only say what would be installed
        #[arg(long)]
        dry_run: bool,
    },
    /// Record a real dom0 in the lab, replay the trace under four policies, compare them on screen
    Demo {
        /// Use the trace in samples/: no QEMU
        #[arg(long)]
        offline: bool,
        /// Print the comparison, as is done where there is no terminal
        #[arg(long)]
        print: bool,
    },
    /// Run all tests, those of the lab included
    Test {
        /// For cargo test, as in `-- --test lab dom0`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Fuzz the models: the fast allocator beside the literal one, and scripts of any text (takes a nightly compiler)
    Fuzz {
        /// How long each target is run
        #[arg(default_value_t = 60)]
        seconds: u32,
    },
    /// Measure
    #[command(subcommand)]
    Bench(BenchTask),
    /// Build the program that is handed out: record-only, static, at most 10 MB
    Package {
        /// With comparisons and screens, as large as that makes it: builds polars once more
        #[arg(long)]
        full: bool,
        /// With musl for a C library
        #[arg(long)]
        musl: bool,
    },
    /// Real kernels in QEMU
    #[command(subcommand)]
    Lab(LabTask),
}

#[derive(Subcommand)]
enum BenchTask {
    /// What capturing costs, against bpftrace, perf and ftrace (which are installed for it) and against not capturing
    Capture {
        /// In guests of these kernels, all four if none is named, instead of here: ratios only
        #[arg(long, num_args = 0.., value_name = "KERNEL")]
        guest: Option<Vec<Kernel>>,
        /// Of that, only what a bouncing pair of map and unmap costs by mode and back-end
        #[arg(long, requires = "guest")]
        pairs: bool,
    },
}

#[derive(Subcommand)]
enum LabTask {
    /// Fetch kernels (all four if none is named) and both Xens into the cache; nothing is installed
    Fetch {
        /// 5.10, 6.1, 6.12, 7.2
        kernels: Vec<Kernel>,
        /// Fetch again what is there, for the archive's newest
        #[arg(long)]
        update: bool,
    },
    /// Build the lab's module for kernels (all four if none is named), as --load edu does
    Module {
        /// 5.10, 6.1, 6.12, 7.2
        kernels: Vec<Kernel>,
    },
    /// Boot a guest, run a command in it as root, exit with its status (125 if the lab itself fails)
    Run(RunArgs),
}

#[derive(Args)]
struct RunArgs {
    /// 5.10, 6.1, 6.12 or 7.2
    #[arg(long, default_value = "6.12")]
    kernel: Kernel,
    /// As a PV dom0 under Xen: 4.17, if no version is given, or 4.20
    #[arg(long, value_name = "VERSION", num_args = 0..=1, default_missing_value = Xen::DEFAULT.name())]
    xen: Option<Xen>,
    /// The kernel's swiotlb= argument, as in `force` or `4096,2,force`
    #[arg(long, value_name = "SPEC")]
    swiotlb: Option<String>,
    /// One more argument for the kernel's command line
    #[arg(long = "append", value_name = "ARGUMENT")]
    kernel_arguments: Vec<String>,
    /// Memory of the machine in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// How much of it dom0 gets
    #[arg(long, value_name = "MIB", requires = "xen")]
    dom0_memory: Option<u32>,
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// A device, with its driver loaded: nvme[:QUEUES], ahci, ide, e1000, e1000e, virtio, edu; disks are /dev/load/NAME
    #[arg(long = "load", value_name = "DEVICE")]
    loads: Vec<Load>,
    /// Limit each disk to so many requests a second, so that requests wait and hold their slots as on a real disk
    #[arg(long, value_name = "N")]
    disk_iops: Option<u32>,
    /// End the guest after so many seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
    /// Where the files under the guest's /out go
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A file to put into the guest, at the same path if no other is given
    #[arg(long = "file", value_name = "HOSTPATH[:GUESTPATH]")]
    files: Vec<String>,
    /// A program and its arguments, or one line for the shell. `swioscope` and `lab-load` are built and put into the
    /// guest when they are mentioned
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The status for a lab that failed, as `docker run` has it: jobs seldom use it themselves.
const LAB_FAILED: u8 = 125;

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup { dry_run } => setup(dry_run),
        Task::Demo { offline, print } => demo::run(offline, print),
        Task::Test { arguments } => test(&arguments),
        Task::Fuzz { seconds } => fuzz::run(seconds),
        Task::Package { full, musl } => package(package::Kind { full, musl }),
        Task::Bench(BenchTask::Capture { guest: Some(kernels), pairs }) => {
            bench::capture_in_guests(&kernels, if pairs { Part::Pairs } else { Part::All })
        }
        Task::Bench(BenchTask::Capture { guest: None, .. }) => bench::capture_here(),
        Task::Lab(LabTask::Run(args)) => {
            return run_in_lab(&args).unwrap_or_else(|error| {
                eprintln!("error: {error:#}");
                ExitCode::from(LAB_FAILED)
            });
        }
        Task::Lab(LabTask::Fetch { kernels, update }) => fetch(&kernels, update),
        Task::Lab(LabTask::Module { kernels }) => module(&kernels),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setup(dry_run: bool) -> Result<()> {
    let missing = setup::announce(Purpose::All)?;
    if dry_run { Ok(()) } else { setup::install(&missing) }
}

fn test(arguments: &[String]) -> Result<()> {
    setup::install(&setup::announce(Purpose::All)?)?;
    build::test(arguments)
}

fn package(kind: package::Kind) -> Result<()> {
    setup::install(&setup::announce(Purpose::Build)?)?;
    let path = package::run(kind)?;
    println!("{} ({})", path.display(), package::megabytes(&path));
    Ok(())
}

fn fetch(kernels: &[Kernel], update: bool) -> Result<()> {
    let kernels = if kernels.is_empty() { &Kernel::ALL } else { kernels };
    let mut say = |line: &str| println!("{line}");
    for kernel in kernels {
        if update {
            lab::forget(kernel.name())?;
        }
        let image = lab::fetch(*kernel, &mut say)?;
        println!("{kernel}: {} in {}", image.release, image.dir.display());
    }
    for xen in Xen::ALL {
        if update {
            lab::forget(&xen.folder())?;
        }
        println!("Xen {xen}: {}", lab::fetch_xen(xen, &mut say)?.display());
    }
    Ok(())
}

fn module(kernels: &[Kernel]) -> Result<()> {
    let kernels = if kernels.is_empty() { &Kernel::ALL } else { kernels };
    for kernel in kernels {
        let built = lab::module(*kernel, &mut |line| println!("{line}"))?;
        println!("{kernel}: {}", built.display());
    }
    Ok(())
}

fn run_in_lab(args: &RunArgs) -> Result<ExitCode> {
    let mut guest = Guest::new(args.kernel).cpus(args.cpus).timeout(Duration::from_secs(args.timeout)).echo(true);
    if let Some(xen) = args.xen {
        guest = guest.xen_version(xen);
    }
    if let Some(spec) = &args.swiotlb {
        guest = guest.swiotlb(spec);
    }
    if let Some(mib) = args.memory {
        guest = guest.memory(mib);
    }
    if let Some(mib) = args.dom0_memory {
        guest = guest.dom0_memory(mib);
    }
    if let Some(limit) = args.disk_iops {
        guest = guest.disk_iops(limit);
    }
    if let Some(dir) = &args.out {
        guest = guest.out(dir);
    }
    for argument in &args.kernel_arguments {
        guest = guest.kernel_argument(argument);
    }
    for load in &args.loads {
        guest = guest.load(*load);
    }
    let mut given = Vec::new();
    for file in &args.files {
        let (host, inside) = host_and_guest(file)?;
        given.push(inside.clone());
        guest = guest.file(host, inside);
    }
    for program in ["swioscope", "lab-load"] {
        let inside = format!("/bin/{program}");
        if mentioned(&args.command, program) && !given.contains(&inside) {
            guest = guest.file(build::program(program)?, inside);
        }
    }
    lab::fetch(args.kernel, &mut |line| eprintln!("{line}"))?;
    if args.loads.contains(&Load::Edu) {
        lab::module(args.kernel, &mut |line| eprintln!("{line}"))?;
    }
    if let Some(xen) = args.xen {
        lab::fetch_xen(xen, &mut |line| eprintln!("{line}"))?;
    }
    let outcome = guest.run(&args.command)?;
    eprintln!(
        "the guest took {:.1} s; console in {}, /out in {}",
        outcome.took.as_secs_f64(),
        outcome.console.display(),
        outcome.out_dir.display()
    );
    Ok(ExitCode::from(u8::try_from(outcome.status).unwrap_or(LAB_FAILED)))
}

/// Whether a word of the command is the program, as in `swioscope record` or `sh -c '/bin/swioscope doctor'`.
fn mentioned(command: &[String], program: &str) -> bool {
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let mut words = command.iter().flat_map(|text| text.split(|c| !part_of_name(c)));
    words.any(|word| word.strip_prefix("/bin/").unwrap_or(word) == program)
}

/// `HOSTPATH[:GUESTPATH]`.
fn host_and_guest(file: &str) -> Result<(PathBuf, String)> {
    match file.split_once(':') {
        Some((host, inside)) => Ok((host.into(), inside.to_owned())),
        None => {
            let host = std::path::absolute(file)?;
            let inside = host.to_str().with_context(|| format!("{file}: a guest path is UTF-8; give one after `:`"))?;
            Ok((host.clone(), inside.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_commands() {
        let mentioned = |text: &str| mentioned(&[text.to_owned()], "swioscope");
        for yes in ["swioscope", "cd /out; swioscope record", "(/bin/swioscope doctor)&"] {
            assert!(mentioned(yes), "{yes}");
        }
        for no in ["ls /out/swioscope.swio", "swioscope-old doctor", "cat /root/swioscope"] {
            assert!(!mentioned(no), "{no}");
        }
    }

    #[test]
    fn a_file_goes_to_its_own_path_unless_another_is_given() {
        assert_eq!(host_and_guest("a:/bin/b").unwrap(), ("a".into(), "/bin/b".to_owned()));
        assert_eq!(host_and_guest("/a/b").unwrap(), ("/a/b".into(), "/a/b".to_owned()));
        assert!(host_and_guest("b").unwrap().1.ends_with("/b"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    /// The `--xen` of a `lab run` with these options, or what is said against them.
    fn xen_of(options: &[&str]) -> Result<Option<Xen>, String> {
        let line = ["cargo xtask", "lab", "run"].iter().chain(options).chain(&["--", "true"]);
        match Cli::try_parse_from(line).map_err(|error| error.to_string())?.task {
            Task::Lab(LabTask::Run(args)) => Ok(args.xen),
            _ => Err("another task".to_owned()),
        }
    }

    #[test]
    fn xen_may_have_a_version() {
        assert_eq!(xen_of(&[]), Ok(None));
        assert_eq!(xen_of(&["--xen"]), Ok(Some(Xen::V4_17)));
        assert_eq!(xen_of(&["--xen", "--swiotlb", "force", "--dom0-memory", "512"]), Ok(Some(Xen::V4_17)));
        for given in [&["--xen", "4.20"][..], &["--xen=4.20"]] {
            assert_eq!(xen_of(given), Ok(Some(Xen::V4_20)));
        }
        let refused = xen_of(&["--xen", "4.18"]).unwrap_err();
        assert!(refused.contains("the lab has Xen 4.17, 4.20"), "{refused}");
    }
}
