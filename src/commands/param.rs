//! `swioscope param`: what a boot parameter really becomes.

use std::io;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use replay::boot::{self, BootQuery, Encryption, Explanation};
use replay::{Force, KernelVersion};
use serde_json::json;
use trace::field::{bytes, count};

use crate::cli::{Format, ParamArgs};
use crate::output;

trace::record! {
    /// One thing that happens to the pool's size between the command line and the running kernel.
    pub struct ParamStep {
        /// Which, from 1.
        step: u64 => Count,
        /// What happens.
        happens: String => Text,
        /// Slots after it; absent where none are decided yet.
        slots: Option<u64> => Count,
        /// Areas after it, on kernels that have them.
        areas: Option<u32> => Count,
        /// Memory of those slots.
        memory: Option<u64> => Bytes,
        /// Where it is specified.
        rule: String => Text,
    }
}

pub(crate) fn run(args: &ParamArgs) -> anyhow::Result<ExitCode> {
    let query = query(args)?;
    let answer = boot::explain(&query);
    let rows: Vec<ParamStep> = (1..).zip(&answer.steps).map(|(number, step)| row(number, step)).collect();
    match args.format {
        Format::Csv => output::write_csv(&rows, io::stdout())?,
        Format::Json => output::print_json(&as_json(&query, &answer, &rows))?,
        Format::Table => print(&query, &answer, &rows)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is asked; what is not said is this machine's.
fn query(args: &ParamArgs) -> anyhow::Result<BootQuery> {
    let host = collector::host::host();
    let kernel = match args.kernel {
        Some(kernel) => kernel,
        None => KernelVersion::parse(&host.release)
            .with_context(|| format!("this kernel's release `{}` is not understood: give --kernel", host.release))?,
    };
    let cpus = args.cpus.or(Some(host.possible_cpus).filter(|&cpus| cpus > 0));
    let cpus = cpus.ok_or_else(|| anyhow!("how many CPUs this machine can have is not known: give --cpus"))?;
    let mut query = BootQuery::new(&args.parameter, kernel, cpus, args.ram.unwrap_or(host.memory));
    query.low_mem = args.low_mem;
    query.machine = args.machine;
    query.late = args.late;
    query.encryption = match (args.cc, args.sme) {
        (true, _) => Encryption::Guest,
        (_, true) => Encryption::Host,
        _ => Encryption::None,
    };
    Ok(query)
}

fn row(number: u64, step: &boot::Step) -> ParamStep {
    let decided = step.nslabs > 0;
    ParamStep {
        step: number,
        happens: step.what.clone(),
        slots: decided.then_some(step.nslabs),
        areas: step.areas,
        memory: decided.then_some(step.bytes),
        rule: step.rule.to_owned(),
    }
}

/// The answer in a sentence.
fn verdict(query: &BootQuery, answer: &Explanation) -> String {
    let machine = format!("Linux {}, {} CPUs, {} of RAM", query.kernel, count(query.cpus.into()), bytes(query.ram));
    let pools: Vec<String> = answer
        .pools
        .iter()
        .map(|pool| {
            let name = match (answer.pools.len(), pool.high) {
                (1, _) => "",
                (_, false) => "LO: ",
                (_, true) => "HI: ",
            };
            let areas = match pool.areas {
                0 | 1 => String::new(),
                n => format!(" in {} areas of {}", count(n.into()), count(pool.area_slots())),
            };
            format!("{name}{} slots ({}){areas}", count(pool.nslabs), bytes(pool.bytes()))
        })
        .collect();
    let pools = if pools.is_empty() { "no pool".to_owned() } else { pools.join("; ") };
    let force = match answer.force {
        Force::Normal => "",
        Force::Always => "; everything bounces",
        Force::Never => "; nothing bounces, not even what must",
    };
    format!("`{}` becomes {pools}{force} ({machine}).", query.command_line)
}

fn print(query: &BootQuery, answer: &Explanation, rows: &[ParamStep]) -> anyhow::Result<()> {
    let out = &mut io::stdout();
    output::line(out, verdict(query, answer))?;
    if !rows.is_empty() {
        output::line(out, format_args!("\n{}", output::table(rows, |_| false)))?;
    }
    output::line(out, format_args!("\nOne mapping may have {}.", bytes(answer.max_mapping)))?;
    if let Some(max) = answer.max_segment {
        output::line(out, format_args!("Drivers that ask for the largest segment are told {}.", bytes(max)))?;
    }
    section(out, "The kernel's log will have", &answer.dmesg)?;
    for advice in &answer.advice {
        output::line(out, format_args!("\nFor {}, write {}: {}.", advice.meant, advice.write, advice.becomes))?;
    }
    for warning in &answer.warnings {
        output::line(out, format_args!("warning: {}", warning.text))?;
    }
    for assumption in &answer.assumptions {
        output::line(out, format_args!("note: {assumption}"))?;
    }
    Ok(())
}

fn section(out: &mut impl io::Write, title: &str, lines: &[String]) -> anyhow::Result<()> {
    if !lines.is_empty() {
        output::line(out, format_args!("\n{title}:"))?;
    }
    lines.iter().try_for_each(|line| output::line(out, format_args!("  {line}")))
}

fn as_json(query: &BootQuery, answer: &Explanation, rows: &[ParamStep]) -> serde_json::Value {
    let pools = answer.pools.iter().map(|pool| {
        json!({
            "slots": pool.nslabs,
            "areas": pool.areas,
            "area_slots": pool.area_slots(),
            "unreachable": pool.unreachable(),
            "memory": pool.bytes(),
            "high": pool.high,
        })
    });
    json!({
        "parameter": query.command_line,
        "kernel": query.kernel.to_string(),
        "cpus": query.cpus,
        "ram": query.ram,
        "verdict": verdict(query, answer),
        "steps": output::json_rows(rows),
        "pools": pools.collect::<Vec<_>>(),
        "force": answer.force.name(),
        "max_mapping": answer.max_mapping,
        "max_segment": answer.max_segment,
        "dmesg": answer.dmesg,
        "advice": answer.advice.iter().map(|a| json!({"meant": a.meant, "write": a.write, "becomes": a.becomes})).collect::<Vec<_>>(),
        "warnings": answer.warnings.iter().map(|w| json!({"kind": w.kind.name(), "text": w.text})).collect::<Vec<_>>(),
        "assumptions": answer.assumptions,
    })
}
