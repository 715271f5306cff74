//! `swioscope doctor`: what this kernel lets us see.

use std::io;
use std::process::ExitCode;

use collector::Doctor;
use trace::{PoolKind, field};

use crate::cli::DoctorArgs;
use crate::output::{self, plain_table};

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let doctor = collector::doctor();
    if args.json {
        output::print_json(&serde_json::to_value(&doctor)?)?;
    } else {
        output::line(&mut io::stdout(), text(&doctor))?;
    }
    Ok(if doctor.usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The verdict first, then what it rests on.
fn text(doctor: &Doctor) -> String {
    use std::fmt::Write as _;
    let verdict = if doctor.ok() {
        "everything can be recorded"
    } else if doctor.usable() {
        "recording works, with the gaps below"
    } else {
        "nothing can be recorded here; the lines marked ✗ say why"
    };
    let host = &doctor.host;
    let mut out = format!("{verdict}\n\n{} {} on {}", host.release, host.machine, host.name);
    // Writing to a String cannot fail.
    let _ = match &doctor.xen {
        Some(xen) => {
            writeln!(out, ", Xen {} {}{}", xen.version, xen.mode, if xen.dom0 { " (initial domain)" } else { "" })
        }
        None => writeln!(out),
    };
    if let Some(pool) = &doctor.pool {
        let size = field::bytes(pool.nslabs * trace::pool::SLOT_BYTES);
        let force = if pool.force_bounce { ", every mapping bounces" } else { "" };
        let _ = writeln!(
            out,
            "pool: {} slots ({size}) at {:#x}, {} area(s){force}",
            field::count(pool.nslabs),
            pool.start,
            pool.nareas
        );
    }
    for (kind, what) in
        [(PoolKind::Added, "added to it"), (PoolKind::Own, "devices' own"), (PoolKind::Transient, "of one mapping")]
    {
        let slots: Vec<_> =
            doctor.other_pools.iter().filter(|pool| pool.kind == kind).map(|pool| pool.nslabs).collect();
        if !slots.is_empty() {
            let (count, slots) = (field::count(slots.len() as u64), field::count(slots.iter().sum()));
            let _ = writeln!(out, "{what}: {count} pool(s) of {slots} slots in all");
        }
    }
    let mut checks = plain_table();
    for check in &doctor.checks {
        let mark = match (check.ok, check.required) {
            (true, _) => "✓",
            (false, true) => "✗",
            (false, false) => "–",
        };
        checks.add_row([mark, check.name, &check.detail]);
    }
    let _ = writeln!(out, "\n{}\n", checks.trim_fmt());
    if !doctor.events.is_empty() {
        let mut events = plain_table();
        events.set_header(["event", "back-end", "why not a better one, and what is missing"]);
        for choice in &doctor.events {
            let rejected = choice.rejected.iter().map(|r| format!("{}: {}", r.backend, r.why));
            let without = choice.backend.is_none().then(|| format!("without it, {}", choice.without));
            let caveat = choice.caveat.map(str::to_owned);
            let notes: Vec<String> = rejected.chain(without).chain(caveat).collect();
            events.add_row([choice.event, choice.backend.unwrap_or("none"), &notes.join("\n")]);
        }
        let _ = write!(out, "{}", events.trim_fmt());
    }
    for missing in &doctor.missing {
        let _ = write!(out, "\n  missing: {missing}");
    }
    out
}
