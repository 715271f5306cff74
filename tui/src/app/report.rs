//! What happened between two moments, as text for a bug report.

use replay::moment::{DeviceTally, Moment};
use trace::field::{bytes, count, duration};

use super::state::State;
use crate::text::percent;

/// The report on a range of time; `first` and `last` are the moments at its ends.
pub(crate) fn between(state: &State, range: (u64, u64), first: &Moment, last: &Moment) -> Vec<String> {
    let (from, to) = range;
    let facts = &state.facts;
    let (a, b) = (first.totals(), last.totals());
    let maps = b.maps - a.maps.min(b.maps);
    let bounces = b.bounces - a.bounces.min(b.bounces);
    let failures = b.failures - a.failures.min(b.failures);
    let copied = b.bytes_copied.saturating_sub(a.bytes_copied);
    let lost = b.lost - a.lost.min(b.lost);
    let span = to.saturating_sub(from);
    let rate = |n: u64| {
        if span == 0 { 0 } else { u64::try_from(u128::from(n) * 1_000_000_000 / u128::from(span)).unwrap_or(u64::MAX) }
    };
    let mut out = vec![
        format!("{} · {}", facts.name, facts.host),
        format!("from {} to {}: {}", duration(from), duration(to), duration(span)),
        String::new(),
        format!("maps       {:>14}   {:>12}/s", count(maps), count(rate(maps))),
        format!(
            "bounces    {:>14}   {:>12}/s   {} of all maps",
            count(bounces),
            count(rate(bounces)),
            percent(bounces.min(maps), maps)
        ),
        format!("copied     {:>14}   {:>12}/s", bytes(copied), bytes(rate(copied))),
        format!("refused    {:>14}", count(failures)),
        format!("lost       {:>14}", count(lost)),
    ];
    let width = state.timeline.width();
    let inside = state.timeline.bins.iter().filter(|bin| bin.time_ns.saturating_add(width) > from && bin.time_ns <= to);
    let peak = inside.map(|bin| bin.peak_slots).max().unwrap_or(0);
    let slots: u64 = last.slots().pools().iter().map(|pool| pool.geometry().nslabs).sum();
    let share = percent(peak.min(slots), slots);
    out.push(format!("slots      {:>14}   in use at the end", count(last.slots().used())));
    out.push(format!("           {:>14}   of {} at most ({share}), to {}", count(peak), count(slots), duration(width)));
    out.push(String::new());
    let line = |name: &str, cells: [String; 5], driver: &str| {
        let [maps, bounces, copied, refused, slots] = cells;
        format!("{name:<13} {maps:>10} {bounces:>10} {copied:>10} {refused:>8} {slots:>6} {driver}")
            .trim_end()
            .to_owned()
    };
    out.push(line("device", ["maps", "bounces", "copied", "refused", "slots"].map(str::to_owned), "driver"));
    for (id, tally) in last.devices() {
        let none = DeviceTally::default();
        let before = first.device(id).unwrap_or(&none);
        let driver = last.around().device(id).and_then(|device| device.driver.clone()).unwrap_or_default();
        let cells = [
            count(tally.maps - before.maps.min(tally.maps)),
            count(tally.bounces - before.bounces.min(tally.bounces)),
            bytes(tally.bytes_copied.saturating_sub(before.bytes_copied)),
            count(tally.failures - before.failures.min(tally.failures)),
            count(tally.slots),
        ];
        out.push(line(&last.around().device_name(id), cells, &driver));
    }
    let refused: Vec<_> = state
        .timeline
        .failures
        .iter()
        .filter(|(mark, _)| (from..=to).contains(&mark.time_ns))
        .map(|(_, failure)| failure)
        .collect();
    if !refused.is_empty() {
        out.push(String::new());
        out.push(format!("The first of {} refusals:", count(refused.len() as u64)));
        out.extend(refused.iter().take(10).map(|failure| {
            format!(
                "  {} {} {}: {}",
                duration(failure.time_ns),
                last.around().device_name(failure.device),
                failure.cause_name(),
                failure.explanation
            )
        }));
    }
    if let Some(partial) = &facts.partial {
        out.push(String::new());
        out.push(format!("Note: {partial}."));
    }
    if lost > 0 || facts.lost > 0 {
        out.push(String::new());
        out.push(format!("Note: {} records were lost while recording.", count(facts.lost.max(last.totals().lost))));
    }
    out
}
