//! What is said of a recording on every screen.

use replay::moment::Moment;
use trace::Meta;
use trace::field::count;

use super::timeline::Timeline;
use crate::text::percent;

/// What a recording is, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its name, or what is being recorded.
    pub(crate) name: String,
    /// Kernel, and Xen where there is one.
    pub(crate) host: String,
    /// The families of back-ends in use.
    pub(crate) backends: String,
    /// Records known to be lost.
    pub(crate) lost: u64,
    /// What the recording leaves out by intention.
    pub(crate) partial: Option<String>,
    /// The recorder could not tell whether there is a pool, and where.
    pub(crate) pool_unknown: bool,
    /// Nothing but the kernel's word that it is about to bounce was recorded.
    pub(crate) bounces_alone: bool,
    /// Whether the recorder ended as it should.
    pub(crate) closed: bool,
}

impl Facts {
    /// Of a recording of that name.
    pub(crate) fn new(name: &str, meta: &Meta) -> Self {
        let mut host = format!("Linux {}", meta.host.release);
        if let Some(xen) = &meta.xen {
            let role = if xen.dom0 { " dom0" } else { "" };
            host += &format!(" · Xen {} {}{role}", xen.version, xen.mode.to_uppercase());
        }
        let mut families: Vec<&str> = Vec::new();
        for backend in meta.capture.backends.values() {
            for family in backend.split(' ').next().unwrap_or("").split('+').filter(|family| !family.is_empty()) {
                if !families.contains(&family) {
                    families.push(family);
                }
            }
        }
        Self {
            name: name.to_owned(),
            host,
            backends: if families.is_empty() { "back-ends not known".to_owned() } else { families.join(" ") },
            lost: meta.losses.events(),
            partial: meta.capture.partial(),
            pool_unknown: meta.pool_unknown.is_some(),
            bounces_alone: !meta.capture.sees_requests(),
            closed: meta.closed,
        }
    }
}

/// How a sentence is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// Something was refused or lost.
    Bad,
    /// Neither.
    Plain,
}

/// The answer in a sentence: of the whole recording as far as it has been read.
pub(crate) fn verdict(facts: &Facts, timeline: &Timeline, shown: &Moment) -> (Tone, String) {
    if let Some(error) = &timeline.error {
        return (Tone::Bad, format!("The trace cannot be read to its end: {error}"));
    }
    let moment = timeline.end.as_deref().unwrap_or(shown);
    let totals = moment.totals();
    let so_far = if timeline.is_whole() { "" } else { "So far: " };
    let now = moment.now();
    let bounced = match totals.maps {
        0 => format!("{} buffers bounced", count(totals.bounces)),
        maps if totals.bounces >= maps => format!("All {} mappings bounced", count(maps)),
        maps => {
            let share = percent(totals.bounces, maps);
            format!("{} of {} mappings bounced ({share})", count(totals.bounces), count(maps))
        }
    };
    let share = percent(now.peak_slots.min(now.pool_slots), now.pool_slots);
    let high = format!("peak {} of {} slots ({share})", count(now.peak_slots), count(now.pool_slots));
    if totals.failures > 0 {
        let worst = moment.devices().max_by_key(|(_, tally)| tally.failures);
        let who = worst.map_or_else(String::new, |(id, tally)| {
            let driver = moment.around().device(id).and_then(|device| device.driver.clone());
            let driver = driver.map_or_else(String::new, |driver| format!(" ({driver})"));
            let share = if tally.failures == totals.failures { "all" } else { "most" };
            let cause = tally.cause().map_or("cause unexplained", replay::Cause::name).replace('_', " ");
            format!(", {share} of {}{driver}: {cause}", moment.around().device_name(id))
        });
        return (
            Tone::Bad,
            format!(
                "{so_far}{} refused{who}; peak {} of {} slots.",
                count(totals.failures),
                count(now.peak_slots),
                count(now.pool_slots)
            ),
        );
    }
    if totals.events == 0 {
        return match &facts.partial {
            Some(partial) => (Tone::Warn, format!("There are no events: {partial}.")),
            None if timeline.is_whole() => (Tone::Plain, "Nothing has happened.".to_owned()),
            None => (Tone::Plain, "Reading the trace …".to_owned()),
        };
    }
    if facts.bounces_alone {
        let text = format!(
            "{so_far}{} buffers went to the bounce pool; whether any was refused was not recorded.",
            count(totals.bounces)
        );
        return (Tone::Warn, text);
    }
    if !moment.around().counts_slots() && totals.bounces > 0 {
        return (
            Tone::Plain,
            format!("{so_far}Nothing seen refused. {bounced}; how full the pool was is not known from events."),
        );
    }
    if totals.bounces == 0 {
        return (
            Tone::Good,
            format!("{so_far}Nothing refused and nothing bounced, of {} mappings.", count(totals.maps)),
        );
    }
    if now.pool_slots > 0 && now.peak_slots * 10 >= now.pool_slots * 9 {
        return (Tone::Warn, format!("{so_far}Nothing refused, but {high}. {bounced}."));
    }
    (Tone::Good, format!("{so_far}Nothing refused. {bounced}; {high}."))
}
