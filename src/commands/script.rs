//! `swioscope replay` of a file of allocator requests: each one's answer, or what they take.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use flate2::read::MultiGzDecoder;
use replay::{OnFail, Script, Timing};

use super::Usage;
use super::replay::grown;
use crate::cli::ReplayArgs;
use crate::output;

/// Plays a file of allocator requests: answers it, one line a request, times it, or both.
pub(crate) fn play(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let what = if args.answers.is_some() { "--answers" } else { "--timing" };
    if args.input.is_dir() {
        return Err(Usage(format!("{what} takes a file of allocator requests, not a trace folder")).into());
    }
    if !args.sweep.is_empty() || args.machine.on_fail != OnFail::Drop {
        return Err(
            Usage("--sweep and --on-fail take a trace folder, not a file of allocator requests".to_owned()).into()
        );
    }
    let policies = grown(args.machine.policies.clone(), args.machine.dynamic)?;
    let [policy] = policies.as_slice() else {
        return Err(Usage(format!("{what} takes exactly one --policy")).into());
    };
    let mut script = Script::parse(&read_script(&args.input)?).with_context(|| args.input.display().to_string())?;
    if let Some(platform) = args.machine.platform {
        script = script.on(platform).map_err(|error| Usage(error.to_string()))?;
    }
    if let Some(answers) = &args.answers {
        let mut text = String::new();
        script.answers(policy, &mut text)?;
        if answers == Path::new("-") {
            io::stdout().write_all(text.as_bytes())?;
            io::stdout().flush()?;
        } else {
            std::fs::write(answers, text).with_context(|| format!("could not write {}", answers.display()))?;
        }
    }
    if args.timing {
        let start = Instant::now();
        print_timing(&script.time(policy, || start.elapsed())?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The last line is for programs.
fn print_timing(timing: &Timing) -> anyhow::Result<()> {
    let stdout = &mut io::stdout();
    let Some(ns) = timing.ns_per_pair() else { bail!("there is nothing behind the mark to time") };
    let (maps, refused, unmaps) = [timing.maps, timing.refused, timing.unmaps].map(trace::field::count).into();
    output::line(stdout, format_args!("{maps} maps ({refused} refused) and {unmaps} unmaps in {:?}", timing.elapsed))?;
    output::line(stdout, format_args!("ns/pair: {ns:.1}"))
}

/// The text of a request file, gzipped or not: told by its first bytes, not by its name.
fn read_script(path: &Path) -> anyhow::Result<String> {
    let failed = || format!("could not read {}", path.display());
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).with_context(failed)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut text = String::new();
        MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).with_context(failed)?;
        return Ok(text);
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not a text file of allocator requests", path.display()))
}
