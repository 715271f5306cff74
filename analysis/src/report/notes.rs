//! What weakens a report's figures, and what they cannot say.

use replay::Generation;
use trace::{Op, Trace, field};

use super::build::FIRST_JUDGED;
use super::rows::FidelityRow;
use super::scan::Scan;

/// What a trace without slots does not say.
pub(super) fn without_slots(told: bool, looks: bool) -> String {
    let bounces = match told {
        false => "",
        true => {
            "bounces are counted by the kernel's word that it is about to bounce, so those refused are among them; "
        }
    };
    let pool = match looks {
        true => "the pool was looked at ten times a second, and may have been fuller in between",
        false => "how full the pool was is not known",
    };
    format!("slots were not seen one by one: {bounces}who holds them, and why any were refused, is not known; {pool}")
}

/// What weakens the figures.
pub(super) fn notes(trace: &Trace, scan: &Scan<'_>, fidelity: &FidelityRow) -> Vec<String> {
    let mut notes = base_notes(trace);
    let choices = scan.count(Op::SlotAlloc) + scan.count(Op::SlotFailed);
    if scan.slot_events.len() > FIRST_JUDGED && fidelity.predicted_of * 2 < choices {
        notes.push(format!(
            "the model was compared with the first {} slot choices only",
            field::count(fidelity.predicted_of)
        ));
    }
    for (n, what) in [
        (
            fidelity.missed_frees,
            "allocations whose release is not in the trace; they were taken as released when their slots were taken again",
        ),
        (fidelity.unknown_frees, "releases of slots nothing was known to hold"),
        (fidelity.other_pools, "slot events in other pools than the default one, which are in none of its figures"),
        (fidelity.unknown_devices, "events of devices the trace does not describe; taken to reach everything"),
        (fidelity.backwards, "events with an earlier time than one before them; ages and rates around them are off"),
        (
            scan.pool.as_ref().map_or(0, |pool| pool.follower.notes().odd),
            "allocations whose place is not what the policy's rules say: another kernel's rules, or another device",
        ),
    ] {
        if n > 0 {
            notes.push(format!("{what}: {}", field::count(n)));
        }
    }
    notes
}

pub(super) fn base_notes(trace: &Trace) -> Vec<String> {
    let meta = trace.meta();
    let mut notes: Vec<String> = meta.capture.partial().into_iter().collect();
    if meta.capture.mode == "bounces" {
        notes.push(
            "what other policies would have bounced is not known from such a trace, nor the share of DMA that bounced"
                .to_owned(),
        );
    }
    if !meta.closed {
        notes.push("the recording was cut short: what it lost in its last seconds is not known".to_owned());
    }
    if let Some(recovered) = trace.recovered() {
        notes.push(format!(
            "{} events were recovered from the open segment, {} were dropped as incomplete",
            field::count(recovered.events),
            field::bytes(recovered.bytes_dropped)
        ));
    }
    for (what, n) in meta.losses.by_cause().filter(|&(_, n)| n > 0) {
        notes.push(format!("{what}: {}", field::count(n)));
    }
    let said = meta.losses.notes.iter().filter(|note| !notes.contains(note)).cloned().collect::<Vec<_>>();
    notes.extend(said);
    match Generation::of_recorded(meta) {
        Some((_, caveat)) if caveat.is_empty() => {}
        Some((rules, caveat)) => {
            notes.push(format!("kernel {} is taken as {}: {caveat}", meta.host.kernel_version(), rules.id));
        }
        None => notes.push(format!(
            "no policy is known for kernel `{}`; the newest one's rules were taken for arithmetic",
            meta.host.release
        )),
    }
    notes
}
