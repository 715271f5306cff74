//! The same tracepoint, watched by what else there is.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::load::{median, ns_a_pair};
use crate::{ROUNDS, Result};

/// What a program on its side takes to begin.
const BEGINS: Duration = Duration::from_secs(4);

/// Measures all that are there, each beside the bare pair of the same minute.
pub(crate) fn all(pairs: u32, folder: &Path) {
    println!("\nothers on the same calls, ns a pair:");
    let process = std::process::id();
    let bpftrace = |what: &str| {
        let mut command = Command::new("bpftrace");
        let only = format!("tracepoint:task:task_rename /pid == {process}/");
        command.arg("-e").arg(format!("{only} {{ {what} }}"));
        command
    };
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-e", "task:task_rename", "-p", &process.to_string(), "-o"]);
    perf.arg(folder.join("perf.data"));
    let printing = bpftrace(r#"printf("%d %d %d %llx %s\n", cpu, tid, args->pid, nsecs, comm);"#);
    for (name, mut command) in
        [("bpftrace, counting", bpftrace("@ = count();")), ("bpftrace, printing", printing), ("perf record", perf)]
    {
        match beside(&mut command, pairs) {
            Ok(figures) => tell(name, figures),
            Err(why) => println!("  {name}: skipped: {why}"),
        }
    }
    match ftrace(process, pairs) {
        Ok(figures) => tell("ftrace, to memory", figures),
        Err(why) => println!("  ftrace: skipped: {why}"),
    }
}

fn tell(name: &str, (bare, watched): (f64, f64)) {
    println!("  {name:24} {watched:7.0}   +{:.0}   × {:.2}   (bare {bare:.0})", watched - bare, watched / bare);
}

fn measured(pairs: u32) -> f64 {
    let round = |_| {
        let figure = ns_a_pair(pairs);
        // Whoever reads has time to.
        thread::sleep(Duration::from_millis(100));
        figure
    };
    median((0..ROUNDS).map(round).collect())
}

/// With a program running beside, and without.
fn beside(command: &mut Command, pairs: u32) -> Result<(f64, f64)> {
    let bare = measured(pairs);
    let mut other = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    thread::sleep(BEGINS);
    let watched = if other.try_wait()?.is_none() { measured(pairs) } else { return Err(last_words(other).into()) };
    // SAFETY: plain numbers; the process has not been waited for.
    unsafe { libc::kill(other.id().cast_signed(), libc::SIGINT) };
    other.wait()?;
    Ok((bare, watched))
}

fn last_words(other: Child) -> String {
    let output = other.wait_with_output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it ended by itself");
    line.to_owned()
}

/// The kernel's own tracer, into an instance of our own that nobody reads.
fn ftrace(process: u32, pairs: u32) -> Result<(f64, f64)> {
    let instance = Path::new("/sys/kernel/tracing/instances/capture-cost");
    fs::create_dir(instance).map_err(|e| format!("{}: {e} (is tracefs mounted?)", instance.display()))?;
    let event = instance.join("events/task/task_rename");
    let measure = || -> Result<(f64, f64)> {
        let bare = measured(pairs);
        fs::write(event.join("filter"), format!("common_pid == {process}"))?;
        fs::write(event.join("enable"), "1")?;
        let watched = measured(pairs);
        fs::write(event.join("enable"), "0")?;
        Ok((bare, watched))
    };
    let figures = measure();
    fs::remove_dir(instance)?;
    figures
}
