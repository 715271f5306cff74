//! `lab-load`: random direct I/O from several threads, to give swiotlb in a guest something to do.
//!
//! The same seed gives the same requests in each thread; how the threads interleave is the kernel's affair. Requests
//! begin and end anywhere the block size allows, and so do the buffers in their pages: that is what decides how many
//! slots a mapping takes and where. Nothing is verified, and what was on the device is overwritten.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program talks to its user")]

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

/// The smallest logical block, which offsets and sizes are multiples of.
const BLOCK: usize = 512;

/// Random direct reads and writes from several threads; overwrites the devices.
#[derive(Parser)]
#[command(name = "lab-load")]
struct Args {
    /// A block device or file; may be given several times, the threads are dealt out among them
    #[arg(long = "device", required = true, value_name = "PATH")]
    devices: Vec<PathBuf>,
    /// Threads, each with one request at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: u64,
    /// Smallest request, in bytes or with k or m
    #[arg(long, default_value = "4k", value_parser = parse_size)]
    min: usize,
    /// Largest request
    #[arg(long, default_value = "200k", value_parser = parse_size)]
    max: usize,
    /// Requests of all threads together
    #[arg(long, conflicts_with = "seconds", required_unless_present = "seconds")]
    ops: Option<u64>,
    /// Go on for so long instead
    #[arg(long)]
    seconds: Option<u64>,
    /// How many requests in a hundred read
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Buffers begin at multiples of this; below the block size only newer kernels take it
    #[arg(long, default_value = "512", value_parser = parse_size)]
    align: usize,
}

/// What one thread did.
#[derive(Clone, Debug, Default)]
struct Done {
    reads: u64,
    writes: u64,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
}

/// When a thread stops.
#[derive(Clone, Copy)]
enum Until {
    Ops(u64),
    Time(Instant),
}

fn main() -> ExitCode {
    match load(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab-load: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the load, prints what it did and returns the number of requests that failed.
fn load(args: &Args) -> Result<u64> {
    ensure!(args.min > 0 && args.min.is_multiple_of(BLOCK), "--min is a multiple of {BLOCK}, and not 0");
    ensure!(args.max >= args.min && args.max.is_multiple_of(BLOCK), "--max is a multiple of {BLOCK}, at least --min");
    ensure!(args.align.is_power_of_two() && args.align <= 4096, "--align is a power of two up to 4096");
    let devices = args.devices.iter().map(|path| open(path, args.max)).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    let workers: Vec<_> = (0..args.threads)
        .zip(devices.iter().cycle())
        .map(|(index, (file, size))| {
            let until = match args.ops {
                // What cannot be shared evenly goes to the first threads.
                Some(ops) => Until::Ops(ops / args.threads + u64::from(index < ops % args.threads)),
                None => Until::Time(begin + Duration::from_secs(args.seconds.unwrap_or_default())),
            };
            Ok((file.try_clone()?, *size, index, until))
        })
        .collect::<io::Result<_>>()?;
    let done: Vec<Done> = thread::scope(|scope| {
        let spawned: Vec<_> = workers
            .iter()
            .map(|(file, size, index, until)| scope.spawn(move || work(args, file, *size, *index, *until)))
            .collect();
        spawned.into_iter().map(|worker| worker.join().unwrap_or_default()).collect()
    });
    let seconds = begin.elapsed().as_secs_f64().max(1e-9);

    let sum = |field: fn(&Done) -> u64| done.iter().map(field).sum::<u64>();
    let (reads, writes, errors) = (sum(|d| d.reads), sum(|d| d.writes), sum(|d| d.errors));
    let mib = sum(|d| d.bytes) as f64 / f64::from(1 << 20);
    println!(
        "{} ops ({reads} reads, {writes} writes), {mib:.1} MiB in {seconds:.2} s: {:.0} IOPS, {:.1} MiB/s, {errors} errors",
        reads + writes,
        (reads + writes) as f64 / seconds,
        mib / seconds
    );
    if let Some(error) = done.iter().find_map(|done| done.first_error.as_deref()) {
        eprintln!("lab-load: {errors} requests failed, the first with: {error}");
    }
    Ok(errors)
}

fn open(path: &Path, largest: usize) -> Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .with_context(|| format!("cannot open {} for direct I/O", path.display()))?;
    let size = file.seek(SeekFrom::End(0))?;
    if size < largest as u64 {
        bail!("{} has {size} bytes, less than the largest request", path.display());
    }
    Ok((file, size))
}

fn work(args: &Args, file: &File, size: u64, index: u64, until: Until) -> Done {
    let mut random = fastrand::Rng::with_seed(args.seed.wrapping_mul(1_000_003).wrapping_add(index));
    // Room for buffers at many places, so that the frames behind them differ from one request to the next.
    let mut room = vec![0_u8; args.max * 4 + 4096];
    let align_room = room.as_ptr().align_offset(4096);
    let places = (args.max * 3) / args.align;
    let mut done = Done::default();
    let mut count = 0;
    while match until {
        Until::Ops(ops) => count < ops,
        Until::Time(end) => Instant::now() < end,
    } {
        count += 1;
        let blocks = random.usize(args.min / BLOCK..=args.max / BLOCK);
        let length = blocks * BLOCK;
        let at = random.u64(0..=(size - length as u64) / BLOCK as u64) * BLOCK as u64;
        let start = align_room + random.usize(0..=places) * args.align;
        let reading = random.u8(0..100) < args.read_percent;
        let buffer = &mut room[start..start + length];
        let result = if reading { file.read_at(buffer, at) } else { file.write_at(buffer, at) };
        match result {
            Ok(bytes) if reading => (done.reads, done.bytes) = (done.reads + 1, done.bytes + bytes as u64),
            Ok(bytes) => (done.writes, done.bytes) = (done.writes + 1, done.bytes + bytes as u64),
            Err(error) => {
                done.errors += 1;
                let what = if reading { "reading" } else { "writing" };
                done.first_error.get_or_insert_with(|| format!("{what} {length} bytes at {at}: {error}"));
            }
        }
    }
    done
}

fn parse_size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let number: usize = digits.parse().map_err(|_| format!("`{text}` is not a size like 512, 4k or 1m"))?;
    number.checked_mul(unit).filter(|size| *size <= 1 << 30).ok_or_else(|| format!("{text} is too much"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        assert_eq!(parse_size("200k"), Ok(204_800));
        assert_eq!(parse_size("1m"), Ok(1 << 20));
        assert_eq!(parse_size("512"), Ok(512));
        for wrong in ["", "k", "4kb", "-1", "9999999m"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let run = |seed: &str| {
            let args = ["lab-load", "--device", "x", "--ops", "100", "--max", "16k", "--seed", seed];
            let done = work(&Args::parse_from(args), &file, 1 << 20, 0, Until::Ops(100));
            assert_eq!((done.reads + done.writes, done.errors), (100, 0));
            (done.reads, done.bytes)
        };
        assert_eq!(run("7"), run("7"));
        assert_ne!(run("7"), run("8"));
    }
}
