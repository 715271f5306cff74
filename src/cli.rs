//! The command line, as clap sees it. Nothing here touches the world.

#[cfg(feature = "answers")]
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use replay::boot::Machine;
use replay::{Axis, AxisError, KernelVersion, OnFail, PlatformError, PlatformSpec, Policy, PolicyError};

/// Shows what Linux's bounce-buffer allocator does, records it, and replays it under other policies.
#[derive(Debug, Parser)]
#[command(
    name = "swioscope",
    version,
    about,
    after_help = "Examples:
  swioscope doctor                                     what this kernel lets us see
  swioscope record -o load.swio --duration 10s         record everything for ten seconds
  swioscope record -o load.swio -- fio job.fio         record while a command runs
  swioscope verify load.swio                           how many slot choices the model predicts
  swioscope replay load.swio --policy v6_10 --policy 'rfc64:swiotlb=4096,65536,force'
  swioscope replay load.swio --policy v6_10 --sweep nslabs=1024..65536
  swioscope plan load.swio --kernel 6.12 --cpus 8      how large the pool must be, and what to write for it
  swioscope view load.swio                             the policies on a screen
  swioscope param swiotlb=128 --kernel 6.12 --cpus 8 --ram 32G   what a boot parameter becomes"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what this kernel offers, which back-end each event would use, and what is missing and why
    Doctor(DoctorArgs),
    /// Record DMA mappings and bounce slots into a trace folder
    Record(RecordArgs),
    /// Replay a trace under one or more policies and compare them
    Replay(ReplayArgs),
    /// Compare each slot the kernel chose with the slot the model would have chosen
    Verify(VerifyArgs),
    /// Say how large the pool must be for a trace's load, and what to write on the kernel's command line
    #[cfg(feature = "answers")]
    Plan(PlanArgs),
    /// Look at a trace and its policies in the terminal
    #[cfg(feature = "answers")]
    View(ViewArgs),
    /// List the policies and platforms, the kernels they stand for, and their parameters
    Policies(PoliciesArgs),
    /// Say what a boot parameter really becomes, step by step
    Param(ParamArgs),
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// Comma-separated values with a header
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// Trace folder to write, such as load.swio; must not exist
    #[arg(short, long, value_name = "NAME.swio")]
    pub(crate) output: PathBuf,
    /// Stop after this time, such as 500ms, 10s or 5m [default: until Ctrl-C or the command's end]
    #[arg(short, long, value_parser = humantime::parse_duration, conflicts_with = "workload")]
    pub(crate) duration: Option<Duration>,
    /// Size of the ring buffer between kernel and recorder in MiB, a power of two; larger when records are lost
    #[arg(long, value_name = "MIB", default_value = "16", value_parser = ring_bytes)]
    pub(crate) ring: u32,
    /// No live counters, only the summary
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Command to run while recording; its exit status becomes ours
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) workload: Vec<String>,
}

/// Which machine to replay on.
#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    /// Policy: ID, ID:name=value,… or ID:swiotlb=… as on a kernel command line; may be given several times
    #[arg(short, long = "policy", value_name = "POLICY", value_parser = policy)]
    pub(crate) policies: Vec<Policy>,
    /// Address translation, NAME or NAME:name=value,… [default: what the trace was recorded on]
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    pub(crate) platform: Option<PlatformSpec>,
    /// Let every policy's pool grow (CONFIG_SWIOTLB_DYNAMIC), as if +dynamic stood behind each ID
    #[arg(long)]
    pub(crate) dynamic: bool,
    /// What a driver does when it is refused and was served in reality: drop, or retry:1ms
    #[arg(long, value_name = "drop|retry:TIME", default_value = "drop")]
    pub(crate) on_fail: OnFail,
}

/// MiB to bytes, of a size the kernel takes.
fn ring_bytes(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(mib) if mib.is_power_of_two() && mib <= 1024 => Ok(mib << 20),
        _ => Err("a ring buffer has 1, 2, 4, … or 1024 MiB".to_owned()),
    }
}

fn policy(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text)
}

fn axis(text: &str) -> Result<Axis, AxisError> {
    Axis::parse(text)
}

fn kernel(text: &str) -> Result<KernelVersion, String> {
    text.parse().map_err(|error: replay::kernel::NoKernel| error.to_string())
}

fn machine(text: &str) -> Result<Machine, String> {
    let known = || Machine::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    Machine::from_name(text).ok_or_else(|| format!("unknown machine `{text}`; known: {}", known()))
}

/// Bytes, with K, M, G and T as the kernel has them: powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let config = parse_size::Config::new().with_binary();
    config.parse_size(text).map_err(|error| format!("{error}; write 512M or 32G"))
}

fn platform(text: &str) -> Result<PlatformSpec, PlatformError> {
    PlatformSpec::parse(text)
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Trace folder (NAME.swio), or a file of allocator requests (EVENTS.csv, EVENTS.csv.gz)
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// How results are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Try a parameter in many values: nslabs=1024..65536 doubles, nslabs=4096..65536+4096 steps, areas=1|4 lists; may be
    /// given several times, for every combination
    #[arg(long, value_name = "NAME=VALUES", value_parser = axis)]
    pub(crate) sweep: Vec<Axis>,
    /// Write the answer to each request of an EVENTS.csv file here (`-` for standard output)
    #[arg(long, value_name = "FILE")]
    pub(crate) answers: Option<PathBuf>,
    /// Time an EVENTS.csv file from its `mark` line on, and print nanoseconds a map and unmap
    #[arg(long)]
    pub(crate) timing: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Trace folder (NAME.swio)
    pub(crate) trace: PathBuf,
    /// Policy to predict with [default: the one of the recorded kernel]
    #[arg(short, long, value_name = "POLICY", value_parser = policy)]
    pub(crate) policy: Option<Policy>,
    /// How results are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Fail unless at least this share of allocations is predicted exactly, in percent
    #[arg(long, value_name = "PERCENT")]
    pub(crate) at_least: Option<f64>,
}

#[cfg(feature = "answers")]
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Trace folders (NAME.swio); several run together on the first one's machine
    #[arg(required = true, value_name = "TRACE")]
    pub(crate) traces: Vec<PathBuf>,
    /// One more load that is to run beside these
    #[arg(long, value_name = "TRACE")]
    pub(crate) add_trace: Vec<PathBuf>,
    /// Kernel that is to run it [default: the recorded one]
    #[arg(long, value_name = "RELEASE", value_parser = kernel)]
    pub(crate) kernel: Option<KernelVersion>,
    /// CPUs that can exist, which is how many areas that kernel makes [default: the recorded machine's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) cpus: Option<u32>,
    /// Numbers of areas to try beside the kernel's own [default: 1 and the recorded one]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) areas: Vec<u32>,
    /// Requests that may be refused
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) target_failures: u64,
    /// The load so many times over
    #[arg(long, value_name = "N")]
    pub(crate) scale: Option<NonZeroU32>,
    /// How much later each copy begins than the one before
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = humantime::parse_duration)]
    pub(crate) shift: Duration,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// How results are written; csv has every size tried
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[cfg(feature = "answers")]
#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// Trace folder (NAME.swio)
    pub(crate) trace: PathBuf,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Print the screen once instead of opening it
    #[arg(long)]
    pub(crate) print: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PoliciesArgs {
    /// How results are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ParamArgs {
    /// swiotlb=128, a bare 128,force, or a whole kernel command line
    #[arg(allow_hyphen_values = true)]
    pub(crate) parameter: String,
    /// Kernel release, or rfc64 [default: this machine's]
    #[arg(long, value_name = "RELEASE", value_parser = kernel)]
    pub(crate) kernel: Option<KernelVersion>,
    /// CPUs that can exist [default: this machine's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) cpus: Option<u32>,
    /// Memory, such as 32G [default: this machine's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) ram: Option<u64>,
    /// A guest with encrypted memory (SEV, TDX)
    #[arg(long)]
    pub(crate) cc: bool,
    /// A host with encrypted memory (SME)
    #[arg(long, conflicts_with = "cc")]
    pub(crate) sme: bool,
    /// What it runs on: x86, xen-dom0, xen-domu, arm64, arm64-kmalloc
    #[arg(long, value_name = "MACHINE", value_parser = machine, default_value = "x86")]
    pub(crate) machine: Machine,
    /// Longest stretch of low memory that can be had for the pool, such as 24M [default: enough]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) low_mem: Option<u64>,
    /// Set up after boot, by a driver that needs it
    #[arg(long)]
    pub(crate) late: bool,
    /// How results are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}
