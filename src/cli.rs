//! The command line, as clap sees it. Nothing here touches the world.

mod capture;

#[cfg(feature = "answers")]
use std::num::NonZeroU32;
use std::path::PathBuf;
#[cfg(feature = "answers")]
use std::time::Duration;

#[cfg(feature = "answers")]
use analysis::Gate;
use clap::{Args, Parser, Subcommand, ValueEnum};
use replay::boot::Machine;
use replay::{Axis, AxisError, KernelVersion, OnFail, PlatformError, PlatformSpec, Policy, PolicyError};

pub(crate) use capture::{FilterArgs, RecordArgs, TopArgs, TopFormat};

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
  swioscope record -o sums.swio --mode aggregate       sums only, cheap enough to be left on
  swioscope record -o pool.swio --trigger failure      what led to each failure, from memory
  swioscope top                                        what happens now, on screens
  swioscope top --format jsonl --interval 5s           the same for a script
  swioscope report load.swio                           is swiotlb the problem, and whose
  swioscope report load.swio -o load.html              the same as a page to send on
  swioscope report load.swio --fail-on 'failures>0'    the same for scripts
  swioscope verify load.swio                           how many slot choices the model predicts
  swioscope replay load.swio --policy v6_10 --policy 'rfc64:swiotlb=4096,65536,force'
  swioscope replay load.swio --policy v6_10 --sweep nslabs=1024..65536
  swioscope plan load.swio --kernel 6.12 --cpus 8      how large the pool must be
  swioscope compare load.swio --policies all           every policy, with the differences in words
  swioscope compare load.swio --diff v6_3,v6_10        two of them map by map
  swioscope explain load.swio                          why mappings were refused, what would help
  swioscope query load.swio 'op == map && size >= 64k && device == nvme'
  swioscope view load.swio                             any moment of it on the screen
  swioscope param swiotlb=128 --kernel 6.12 --cpus 8 --ram 32G   what a boot parameter becomes

Exit codes:
  0  done
  1  it was tried and failed, or a check said no
  2  the command line was wrong
  3  recorded, but something was lost and --strict was given
  4  answered, and a --fail-on condition holds"
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
    /// Show what the allocator does now: who holds slots, who bounces and why, what is refused
    Top(TopArgs),
    /// Replay a trace under one or more policies and compare them
    Replay(ReplayArgs),
    /// Compare each slot the kernel chose with the slot the model would have chosen
    Verify(VerifyArgs),
    /// Say how large the pool must be for a trace's load, and what to write on the kernel's command line
    #[cfg(feature = "answers")]
    Plan(PlanArgs),
    /// Compare every policy on a trace, with the differences in words; or two of them map by map
    #[cfg(feature = "answers")]
    Compare(CompareArgs),
    /// Ask a trace in SQL, or filter its events
    #[cfg(feature = "answers")]
    Query(QueryArgs),
    /// Tell why a mapping was refused or bounced, and what would have let it pass
    #[cfg(feature = "answers")]
    Explain(ExplainArgs),
    /// Say in one page whether swiotlb is the problem, whose it is, and what to do
    #[cfg(feature = "answers")]
    Report(ReportArgs),
    /// Look at a trace in the terminal, at any of its moments
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
    #[value(alias = "text")]
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

fn policy(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text)
}

fn axis(text: &str) -> Result<Axis, AxisError> {
    Axis::parse(text)
}

#[cfg(feature = "answers")]
fn gate(text: &str) -> Result<Gate, analysis::GateError> {
    text.parse()
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
    /// Exit with 4 if this holds of any policy, such as failures>0; may be given several times
    #[cfg(feature = "answers")]
    #[arg(long, value_name = "CONDITION", value_parser = gate)]
    pub(crate) fail_on: Vec<Gate>,
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
    /// Draw the curve into this file, .svg or .png
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// How much later each copy begins than the one before
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = humantime::parse_duration)]
    pub(crate) shift: Duration,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// How results are written; csv has every size tried
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Exit with 4 if this holds of what any policy needs, such as pool_slots>65536 or floor>0; may be given several times
    #[arg(long, value_name = "CONDITION", value_parser = gate)]
    pub(crate) fail_on: Vec<Gate>,
}

/// How a report is written.
#[cfg(feature = "answers")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For a terminal, or a bug report
    Text,
    /// One JSON document; `--schema` describes it
    Json,
    /// One page for a browser, with plots, that needs nothing else
    Html,
}

#[cfg(feature = "answers")]
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Trace folder (NAME.swio)
    #[arg(required_unless_present = "schema")]
    pub(crate) trace: Option<PathBuf>,
    /// How it is written [default: what the ending of --output says, else text]
    #[arg(long, value_enum)]
    pub(crate) format: Option<ReportFormat>,
    /// Write it into this file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Exit with 4 if this holds of the summary, such as failures>0, bounce_share>10% or copy_rate>=100M; may be given
    /// several times
    #[arg(long, value_name = "CONDITION", value_parser = gate)]
    pub(crate) fail_on: Vec<Gate>,
    /// Print the JSON schema of the report instead
    #[arg(long, conflicts_with_all = ["trace", "format", "output", "fail_on"])]
    pub(crate) schema: bool,
}

/// The policies a comparison is over.
#[cfg(feature = "answers")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policies {
    /// The recorded kernel's own first, then every generation and design
    All,
    /// Those given with --policy; without any the recorded kernel's own, the oldest allocator, and the RFC's two pools
    Given,
}

#[cfg(feature = "answers")]
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Trace folder (NAME.swio)
    pub(crate) trace: PathBuf,
    /// Which policies
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) policies: Policies,
    /// Slots every policy of `all` has in its pool [default: as many as were recorded]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["diff", "policy"])]
    pub(crate) slots: Option<u64>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Compare two policies map by map instead
    #[arg(long, value_name = "A,B", value_parser = two_policies, conflicts_with = "policies")]
    pub(crate) diff: Option<TwoPolicies>,
    /// Mappings to list at most with --diff
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: usize,
    /// Exit with 4 if this holds of any policy's row, such as failures>0; may be given several times
    #[arg(long, value_name = "CONDITION", value_parser = gate, conflicts_with = "diff")]
    pub(crate) fail_on: Vec<Gate>,
    /// How results are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Two policies to be compared map by map.
#[cfg(feature = "answers")]
#[derive(Clone, Debug)]
pub(crate) struct TwoPolicies(pub(crate) [Policy; 2]);

/// Policies have commas in them: the one that parts them is the first with a policy on both sides.
#[cfg(feature = "answers")]
fn two_policies(text: &str) -> Result<TwoPolicies, String> {
    let parted = text.match_indices(',').find_map(|(at, _)| {
        let (a, b) = (Policy::parse(&text[..at]).ok()?, Policy::parse(&text[at + 1..]).ok()?);
        Some(TwoPolicies([a, b]))
    });
    parted.ok_or_else(|| match text.split_once(',') {
        None => "give two policies, as in v6_3,v6_10".to_owned(),
        Some((a, b)) => match (Policy::parse(a), Policy::parse(b)) {
            (Err(error), _) | (_, Err(error)) => error.to_string(),
            _ => "give two policies, as in v6_3,v6_10".to_owned(),
        },
    })
}

#[cfg(feature = "answers")]
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// Trace folder (NAME.swio)
    #[arg(required_unless_present = "tables")]
    pub(crate) trace: Option<PathBuf>,
    /// SQL over the trace's tables (SELECT …), or a filter over its events such as 'op == map && size >= 64k'
    #[arg(required_unless_present = "tables", allow_hyphen_values = true)]
    pub(crate) question: Option<String>,
    /// List the tables and their columns
    #[arg(long)]
    pub(crate) tables: bool,
    /// Rows to print at most; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// How results are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[cfg(feature = "answers")]
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Trace folder (NAME.swio)
    pub(crate) trace: PathBuf,
    /// Tell the story of this event [default: of the first refusal of each device and cause, else of the first bounce]
    #[arg(long, value_name = "N", conflicts_with = "failures")]
    pub(crate) event: Option<u64>,
    /// List what was refused, with the arithmetic, instead of telling stories
    #[arg(long)]
    pub(crate) failures: bool,
    /// Rows or stories to print at most; 0 for all
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Of a replay under this policy instead of what the recorded kernel did
    #[arg(short, long, value_name = "POLICY", value_parser = policy)]
    pub(crate) policy: Option<Policy>,
    /// Address translation of the replays, NAME or NAME:name=value,… [default: what the trace was recorded on]
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    pub(crate) platform: Option<PlatformSpec>,
    /// What a driver does when it is refused and was served in reality: drop, or retry:1ms
    #[arg(long, value_name = "drop|retry:TIME", default_value = "drop")]
    pub(crate) on_fail: OnFail,
    /// How results are written; csv has the refusals only
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
    /// Open at this moment: 3.2s from the begin, -10s from the end, or 50%
    #[arg(short = 't', long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) at: Option<String>,
    /// Print the comparison of policies once instead of opening the screens
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
