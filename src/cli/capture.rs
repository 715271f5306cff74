//! The arguments of what looks at the running kernel: `record` and `top`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use collector::backends::Family;
use collector::flight::{BadTrigger, Trigger};
use collector::{Mode, Only};
#[cfg(feature = "answers")]
use replay::Policy;
use trace::Direction;

#[cfg(feature = "answers")]
use super::policy;
use super::size;

#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// Trace folder to write, such as load.swio; must not exist. With --trigger, what the names of the traces begin with
    #[arg(short, long, value_name = "NAME.swio")]
    pub(crate) output: PathBuf,
    /// Stop after this time, such as 500ms, 10s or 5m [default: until Ctrl-C or the command's end]
    #[arg(short, long, value_parser = humantime::parse_duration, conflicts_with = "workload")]
    pub(crate) duration: Option<Duration>,
    /// Size of the ring buffer between kernel and recorder, a power of two; larger when records are lost. A plain number
    /// is MiB. With --trigger, size of the memory in which events are kept; the ring buffer then has a quarter of it, 16M to 64M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = ring_bytes)]
    pub(crate) ring: u64,
    /// full: every event; bounces: the slot allocator only, nothing else is attached; aggregate: sums and histograms in
    /// the kernel instead of events, cheap enough to be left on
    #[arg(long, value_name = "full|bounces|aggregate", default_value = "full", value_parser = mode)]
    pub(crate) mode: Mode,
    /// Record the kernel stack of every mapping and slot allocation, not only of those refused
    #[arg(long)]
    pub(crate) stacks: bool,
    /// Take back-ends of this family only (tp_btf, fentry, kprobe, tracepoint or debugfs), for the events that have any;
    /// `swioscope doctor` lists them
    #[arg(long, value_name = "FAMILY", value_parser = family)]
    pub(crate) backend: Option<Family>,
    /// Exit with 3 if anything was lost
    #[arg(long)]
    pub(crate) strict: bool,
    /// No live counters, only the summary
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Command to run while recording; its exit status becomes ours
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) workload: Vec<String>,
    #[command(flatten, next_help_heading = "Filters, applied in the kernel")]
    pub(crate) filters: FilterArgs,
    #[command(flatten, next_help_heading = "Flight recorder")]
    pub(crate) flight: FlightArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// text: tables, one after the other; jsonl: a JSON object a line [default: screens, or text where there is no terminal]
    #[arg(long, value_enum)]
    pub(crate) format: Option<TopFormat>,
    /// Time between two reports of --format
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) interval: Duration,
    /// End after so many reports [default: with Ctrl-C]
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Write a trace as well, which must not exist yet
    #[arg(short, long, value_name = "NAME.swio")]
    pub(crate) output: Option<PathBuf>,
    /// Size of the ring buffer between kernel and screen, a power of two; a plain number is MiB
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = ring_bytes)]
    pub(crate) ring: u64,
    /// Take the kernel stack of every mapping and slot allocation, not only of those refused
    #[arg(long)]
    pub(crate) stacks: bool,
    /// Take back-ends of this family only (tp_btf, fentry, kprobe, tracepoint or debugfs), for the events that have any;
    /// `swioscope doctor` lists them
    #[arg(long, value_name = "FAMILY", value_parser = family)]
    pub(crate) backend: Option<Family>,
    /// Policies to compare on the last minute, as for `replay` [default: this kernel's, and the newest]
    #[cfg(feature = "answers")]
    #[arg(short, long = "policy", value_name = "POLICY", value_parser = policy)]
    pub(crate) policies: Vec<Policy>,
    #[command(flatten, next_help_heading = "Filters, applied in the kernel")]
    pub(crate) filters: FilterArgs,
}

/// How `top` writes where it does not draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopFormat {
    /// For people
    Text,
    /// For programs
    Jsonl,
}

/// What is left out.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only devices whose name fits, such as '0000:00:0[4-6].*'; may be given several times
    #[arg(long = "device", value_name = "GLOB")]
    pub(crate) devices: Vec<String>,
    /// Only devices whose driver's name fits, such as 'nvme*'; may be given several times
    #[arg(long = "driver", value_name = "GLOB")]
    pub(crate) drivers: Vec<String>,
    /// Only this direction; may be given several times
    #[arg(long = "dir", value_name = "to|from|bidi", value_parser = direction)]
    pub(crate) directions: Vec<Direction>,
    /// Only events of at least so many bytes, such as 4K
    #[arg(long, value_name = "SIZE", default_value = "0", hide_default_value = true, value_parser = size)]
    pub(crate) min_size: u64,
    /// bounces: what the slot allocator does, and what is refused; failures: only what is refused
    #[arg(long, value_name = "bounces|failures", default_value = "everything", hide_default_value = true, value_parser = only)]
    pub(crate) only: Only,
}

/// Keep events in memory and write them when something has happened.
#[derive(Debug, Args)]
pub(crate) struct FlightArgs {
    /// Write what led to it: to a refusal (failure), to a pool used to so much (hiwater:90%), or to SIGUSR1 (signal); may
    /// be given several times
    #[arg(long = "trigger", value_name = "failure|hiwater:PERCENT|signal", value_parser = trigger)]
    pub(crate) triggers: Vec<Trigger>,
    /// Go on for this long after a trigger before writing
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration, requires = "triggers")]
    pub(crate) after: Duration,
    /// Traces kept, the newest
    #[arg(long, value_name = "NUMBER", default_value = "10", requires = "triggers")]
    pub(crate) keep: usize,
    /// Bytes of all traces kept
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size, requires = "triggers")]
    pub(crate) max_size: u64,
    /// Age up to which traces are kept
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration, requires = "triggers")]
    pub(crate) max_age: Duration,
}

/// A size of at least a MiB; a plain number is MiB.
fn ring_bytes(text: &str) -> Result<u64, String> {
    let bytes = match text.parse::<u32>() {
        Ok(mib) => u64::from(mib) << 20,
        Err(_) => size(text)?,
    };
    if bytes < 1 << 20 { Err("a ring buffer has 1 MiB at least".to_owned()) } else { Ok(bytes) }
}

fn mode(text: &str) -> Result<Mode, String> {
    Mode::from_name(text).ok_or_else(|| "a mode is full, bounces or aggregate".to_owned())
}

fn family(text: &str) -> Result<Family, String> {
    Family::from_name(text)
        .ok_or_else(|| "a back-end is of the family tp_btf, fentry, kprobe, tracepoint or debugfs".to_owned())
}

fn only(text: &str) -> Result<Only, String> {
    Only::from_name(text).ok_or_else(|| "give bounces or failures".to_owned())
}

fn direction(text: &str) -> Result<Direction, String> {
    match text {
        "to" => Ok(Direction::ToDevice),
        "from" => Ok(Direction::FromDevice),
        "bidi" => Ok(Direction::Bidirectional),
        _ => Err("a direction is to (the device), from (the device) or bidi".to_owned()),
    }
}

fn trigger(text: &str) -> Result<Trigger, BadTrigger> {
    text.parse()
}
