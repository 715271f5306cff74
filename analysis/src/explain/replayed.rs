//! The same of a replay, and what another size, area count or kernel would have done.
//!
//! What would have let a mapping pass is never concluded: everything up to it is replayed on each other machine.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use replay::{
    Answer, Base, Cause, GENERATIONS, Load, Machine, Moment, Options, Platform, PlatformKind, Policy, PolicyError,
    Setup,
};
use trace::field::{bytes, count};
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};
use trace::{Event, Trace};

use super::pass::{self, Found};
use super::recorded::{self, of_moment, own_policy};
use super::{ExplainOptions, Failures, RemedyRow, Story, words};
use crate::comparison::TraceFacts;
use crate::{AnalysisError, compare};

/// Slots of the largest pool tried: 8 GiB, as in a plan.
const ENDLESS: u64 = 1 << 22;
/// Parts a gap between two sizes is divided into.
const PARTS: u64 = 16;

/// A trace's load, ready to be replayed up to any mapping.
pub(super) struct WhatIf<'a> {
    trace: &'a Trace,
    options: &'a ExplainOptions,
    load: Load,
    facts: TraceFacts,
    base: Base,
    platform: Platform,
}

impl<'a> WhatIf<'a> {
    pub fn new(trace: &'a Trace, options: &'a ExplainOptions) -> Result<Self, AnalysisError> {
        let (load, facts) = compare::load(trace, |_| {})?;
        let spec = options.platform.unwrap_or_else(|| PlatformKind::of_recorded(trace.meta()).into());
        Ok(Self {
            trace,
            options,
            load,
            facts,
            base: recorded::base(trace),
            platform: Platform::recorded(spec, trace.p2m()),
        })
    }

    /// The policy asked about, or the recorded kernel's own.
    fn policy(&self) -> Result<Policy, AnalysisError> {
        self.options.policy.clone().map_or_else(|| own_policy(self.trace), Ok)
    }

    fn setup(&self, policy: &Policy) -> Result<Setup, AnalysisError> {
        let failed = |source| AnalysisError::Policy { policy: policy.text().to_owned(), source };
        policy.resolve(&self.base).map_err(failed)
    }

    fn keep(&self, refusals: usize) -> Options {
        Options { refusals, buckets: 1, on_fail: self.options.on_fail }
    }

    fn moment(&self, setup: &Setup, number: u64) -> Option<Moment> {
        replay::moment(&self.load, &mut Machine::new(setup, self.platform.clone()), &self.keep(1), number)
    }

    /// Fills in what would have let a refused mapping pass, and what weakens that.
    pub fn remedies(&self, story: &mut Story, number: Option<u64>, stop: &AtomicBool) -> Result<(), AnalysisError> {
        story.facts = self.facts.clone();
        if !story.refused {
            return Ok(());
        }
        if story.never {
            story.remedies.push(never(story));
        }
        let Some(number) = number.filter(|_| !self.load.is_empty()) else {
            story.remedies.push(
                "What other pools and kernels would have done cannot be told: the mapping is not in the trace, only the slots asked for.".to_owned(),
            );
            return Ok(());
        };
        let own = self.policy()?;
        let here = self.moment(&self.setup(&own)?, number);
        if let (false, Some(moment)) = (story.replayed, &here)
            && moment.answer.is_served()
        {
            story.notes.push(format!(
                "replayed from the start, {} in the recorded pool serves it: in reality the slots lay otherwise when it came",
                own.rules().id
            ));
        }
        if !story.never {
            self.sizes(story, &own, number, stop)?;
            self.areas(story, &own, number, stop)?;
        } else if story.rules.last().is_some_and(|rule| rule.word.starts_with("too_large")) {
            self.segments(story, &own, number, stop)?;
        }
        self.kernels(story, &own, number, stop)?;
        if stop.load(Ordering::Relaxed) {
            story.notes.push("stopped before everything was tried".to_owned());
        }
        Ok(())
    }

    /// Larger pools, doubling up to as many slots as there can be; then the gap in front of the smallest that serves in equal
    /// parts, where sizes are free.
    fn sizes(&self, story: &mut Story, own: &Policy, number: u64, stop: &AtomicBool) -> Result<(), AnalysisError> {
        let setup = self.setup(own)?;
        let Some(pool) = setup.pools.first() else { return Ok(()) };
        let room = (1u64 << 32).saturating_sub(pool.start) / SLOT_BYTES;
        let most = room.checked_ilog2().map_or(ENDLESS, |log| ENDLESS.min(1 << log));
        let doubled =
            std::iter::successors(Some(pool.nslabs.max(u64::from(SEGMENT_SLOTS))), |n| n.checked_mul(2)).skip(1);
        let sizes: Vec<u64> = doubled.take_while(|&n| n <= most).collect();
        let sized = |nslabs: u64| resized(own, nslabs, pool.areas);
        let mut tried = self.try_all("size", sizes.iter().map(|&n| sized(n)), number, stop);
        let smallest = |tried: &[RemedyRow]| {
            let least = tried.iter().filter(|row| row.served).map(|row| row.pool_slots).min();
            least.map(|least| (least, tried.iter().filter(|row| row.pool_slots > least).all(|row| row.served)))
        };
        let free_sizes = own.rules().grammar != replay::rules::Grammar::Areas;
        let mut below = pool.nslabs;
        while let Some((least, _)) = smallest(&tried).filter(|_| free_sizes && !stop.load(Ordering::Relaxed)) {
            below = tried.iter().map(|row| row.pool_slots).filter(|&n| n < least).max().unwrap_or(0).max(below);
            let gap = least - below.min(least);
            let segment = u64::from(SEGMENT_SLOTS);
            if gap <= segment {
                break;
            }
            let part = (gap / PARTS).next_multiple_of(segment).max(segment);
            let sizes = (1..PARTS).map(|i| below + i * part).filter(|&n| n < least);
            let more = self.try_all("size", sizes.map(sized), number, stop);
            if more.is_empty() {
                break;
            }
            tried.extend(more);
        }
        tried.sort_by_key(|row| row.pool_slots);
        story.remedies.push(match smallest(&tried) {
            Some((least, whole)) => format!(
                "A pool of {} slots ({}) serves it, the smallest of {} sizes tried{}.",
                count(least),
                bytes(least * SLOT_BYTES),
                count(tried.len() as u64),
                if whole { "; every larger one does too" } else { ", though not every larger one does" }
            ),
            None if tried.is_empty() => {
                "There is no room for a larger pool below 4 GiB, where it would have to lie.".to_owned()
            }
            None => format!("No pool up to {} slots serves it.", count(tried.last().map_or(0, |row| row.pool_slots))),
        });
        story.tried.extend(tried);
        Ok(())
    }

    /// The same pool in other numbers of areas.
    fn areas(&self, story: &mut Story, own: &Policy, number: u64, stop: &AtomicBool) -> Result<(), AnalysisError> {
        let setup = self.setup(own)?;
        let Some(pool) = setup.pools.first().filter(|_| own.rules().areas) else { return Ok(()) };
        let segment = u64::from(SEGMENT_SLOTS);
        let numbers = (0..=6).map(|log| 1u32 << log);
        let others = numbers.filter(|&n| n != pool.areas && pool.nslabs / u64::from(n) >= segment);
        let tried = self.try_all("areas", others.map(|n| resized(own, pool.nslabs, n)), number, stop);
        let served: Vec<_> = tried.iter().filter(|row| row.served).map(|row| row.areas.to_string()).collect();
        if !served.is_empty() {
            story.remedies.push(format!(
                "In the same pool divided into {} areas instead of {} it is served.",
                served.join(" or "),
                pool.areas
            ));
        } else if !tried.is_empty() {
            story
                .remedies
                .push(format!("No other number of areas serves it in a pool of {} slots.", count(pool.nslabs)));
        }
        story.tried.extend(tried);
        Ok(())
    }

    /// Every other generation on the same pool, and pools that grow.
    fn kernels(&self, story: &mut Story, own: &Policy, number: u64, stop: &AtomicBool) -> Result<(), AnalysisError> {
        let slots = self.setup(own)?.pools.first().map_or(0, |pool| pool.nslabs);
        let others =
            GENERATIONS.iter().filter(|rules| rules.id != own.rules().id).map(|rules| match rules.has_high_pool() {
                true => Policy::parse(&format!("{}:nslabs={slots},hi_nslabs={slots}", rules.id)),
                false => Policy::parse(&format!("{}:nslabs={slots}", rules.id)),
            });
        let growing = [Policy::parse(&format!("v6_10+dynamic:nslabs={slots}"))];
        let tried = self.try_all("kernel", others.chain(growing), number, stop);
        let (served, refused): (Vec<_>, Vec<_>) = tried.iter().partition(|row| row.served);
        if served.is_empty() && !tried.is_empty() {
            story.remedies.push("No other kernel's allocator serves it in a pool of that size.".to_owned());
        } else if !served.is_empty() {
            let names: Vec<_> = served.iter().map(|row| row.policy.as_str()).collect();
            story.remedies.push(format!(
                "On the same load and a pool of that size it is served by {}{}.",
                names.join(", "),
                if refused.is_empty() { ": by every other" } else { "" }
            ));
        }
        story.tried.extend(tried);
        Ok(())
    }

    /// Longer segments, which no kernel has.
    fn segments(&self, story: &mut Story, own: &Policy, number: u64, stop: &AtomicBool) -> Result<(), AnalysisError> {
        let slots = self.setup(own)?.pools.first().map_or(0, |pool| pool.nslabs);
        let longer = [256u64, 512, 1024, 2048, 4096].into_iter().filter(|&n| n <= slots);
        let joint = if own.text().contains(':') { ',' } else { ':' };
        let policies = longer.map(|n| Policy::parse(&format!("{}{joint}segment={n}", own.text())));
        let tried = self.try_all("segment", policies, number, stop);
        if let Some(row) = tried.iter().find(|row| row.served) {
            story
                .remedies
                .push(format!("If a segment were longer, which no kernel offers, it would be served: {}.", row.policy));
        }
        story.tried.extend(tried);
        Ok(())
    }

    /// Replays up to the mapping on each policy's machine, two or more at once. Policies that do not fit the machine are left
    /// out, and those not reached before `stop`.
    fn try_all(
        &self,
        kind: &str,
        policies: impl Iterator<Item = Result<Policy, PolicyError>>,
        number: u64,
        stop: &AtomicBool,
    ) -> Vec<RemedyRow> {
        let setups: Vec<_> = policies
            .filter_map(|policy| {
                let policy = policy.ok()?;
                let setup = policy.resolve(&self.base).ok()?;
                Some((policy, setup))
            })
            .collect();
        let next = AtomicUsize::new(0);
        let rows = Mutex::new(vec![None; setups.len()]);
        let work = || {
            while !stop.load(Ordering::Relaxed)
                && let at = next.fetch_add(1, Ordering::Relaxed)
                && let Some((policy, setup)) = setups.get(at)
            {
                let moment = self.moment(setup, number);
                let row = remedy(kind, policy, setup, moment.as_ref());
                rows.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(row);
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        std::thread::scope(|scope| {
            for _ in 1..threads.min(setups.len()) {
                // Where there are no more threads to be had, those there are do the work.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        rows.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
    }

    /// The story of a mapping in the replay of the policy asked about.
    pub fn story(&self, found: &Found, stop: &AtomicBool) -> Result<Story, AnalysisError> {
        let policy = self.policy()?;
        let setup = self.setup(&policy)?;
        let told = found.map.as_ref().map_or(&found.event, |(_, map)| map);
        let Some(number) = found.map_number else {
            return Err(AnalysisError::NoStory(format!(
                "event {} belongs to no mapping in the trace, so no policy can be asked what it would have done with it",
                found.number
            )));
        };
        let mut story = Story {
            event: found.number,
            time_ns: told.time_ns,
            policy: setup.name(),
            replayed: true,
            asked: words::asked(told, recorded::device(self.trace, told.device)),
            task: pass::task(self.trace, told),
            stack: pass::stack(self.trace, told.stack),
            ..Story::default()
        };
        let Some(moment) = self.moment(&setup, number) else {
            story.refused = true;
            story.facts = self.facts.clone();
            story.headline = "Nobody asks for it: an element of its scatterlist before it is refused.".to_owned();
            return Ok(story);
        };
        story.refused = !moment.answer.is_served();
        match (moment.answer.reason(), moment.answer) {
            (Some(reason), _) => story.rules.push(words::reason(reason)),
            (None, Answer::Direct) => story.rules.push(words::direct()),
            (None, _) => {}
        }
        story.arithmetic.extend(words::reach(&moment));
        if moment.answer == Answer::Direct {
            story.headline = format!("It does not bounce under {}.", story.policy);
            story.facts = self.facts.clone();
            return Ok(story);
        }
        of_moment(self.trace, &mut story, &moment, None);
        if let Some(pool) = &mut story.pool {
            pool.name = setup.pool_name(moment.pool).to_owned();
        }
        let events = self.events_of(&moment)?;
        // Devices are numbered by the load here; the trace's own numbers are what the rest is told by.
        let renumbered = self.renumber(&moment);
        story.holders = recorded::holders(self.trace, &renumbered, |holder| {
            let event = events.get(&holder.number?)?;
            Some((event.tid, event.stack))
        });
        story.headline = match (moment.answer, &moment.refusal) {
            (Answer::Refused { cause, .. }, _) => {
                format!("Under {} it is refused: {}.", story.policy, words::cause(cause).sentence)
            }
            (_, _) => format!("Under {} it bounces and is served.", story.policy),
        };
        self.remedies(&mut story, Some(number), stop)?;
        Ok(story)
    }

    fn renumber(&self, moment: &Moment) -> Moment {
        let key = |at: u32| self.load.devices().get(at as usize).map_or(trace::event::NO_DEVICE, |device| device.id);
        let mut moment = moment.clone();
        moment.device = key(moment.device);
        for holder in &mut moment.holders {
            holder.device = holder.device.map(key);
        }
        moment
    }

    /// The events behind a replay's holders, by their numbers in the load.
    fn events_of(&self, moment: &Moment) -> Result<BTreeMap<u64, Event>, AnalysisError> {
        let mut wanted: Vec<u64> = moment.holders.iter().filter_map(|holder| holder.number).collect();
        wanted.sort_unstable();
        let mut found = BTreeMap::new();
        let Some(&last) = wanted.last() else { return Ok(found) };
        let mut number = 0;
        for event in self.trace.events() {
            let event = event?;
            if !pass::is_map(&event) {
                continue;
            }
            if number > last {
                break;
            }
            if wanted.binary_search(&number).is_ok() {
                found.insert(number, event);
            }
            number += 1;
        }
        Ok(found)
    }

    /// What a replay refuses, the first `limit` with all that is known.
    pub fn failures(&self, limit: usize) -> Result<Failures, AnalysisError> {
        let setup = self.setup(&self.policy()?)?;
        let mut machine = Machine::new(&setup, self.platform.clone());
        let (outcome, answers) = replay::answers(&self.load, &mut machine, &self.keep(limit));
        let refused = (0u64..).zip(&answers).filter(|(_, answer)| matches!(answer, Answer::Refused { .. }));
        let numbers: Vec<u64> = refused.map(|(number, _)| number).take(limit).collect();
        let mut out =
            Failures { total: outcome.total_failures(), notes: self.facts.caveats.clone(), ..Failures::default() };
        let mut wanted = numbers.iter().zip(&outcome.refusals).peekable();
        let mut number = 0;
        for (at, event) in (0u64..).zip(self.trace.events()) {
            let event = event?;
            if !pass::is_map(&event) {
                continue;
            }
            let Some((_, told)) = wanted.next_if(|(wanted, _)| **wanted == number) else {
                number += 1;
                if wanted.peek().is_none() {
                    break;
                }
                continue;
            };
            number += 1;
            let (cause, explanation) = (told.refusal.cause.name().to_owned(), told.refusal.to_string());
            out.rows.push(recorded::failure(self.trace, at, &event, cause, explanation));
        }
        out.count();
        Ok(out)
    }
}

/// The policy with another pool: what it fixes of its size and areas gives way.
fn resized(policy: &Policy, nslabs: u64, areas: u32) -> Result<Policy, PolicyError> {
    let (name, rest) = policy.text().split_once(':').unwrap_or((policy.text(), ""));
    let fixed = |item: &&str| !["nslabs=", "areas=", "swiotlb="].iter().any(|start| item.starts_with(start));
    let kept: Vec<_> = rest.split(',').filter(|item| !item.is_empty()).filter(fixed).collect();
    let text = if kept.is_empty() { name.to_owned() } else { format!("{name}:{}", kept.join(",")) };
    Policy::parse(&text)?.sized(nslabs, areas)
}

fn remedy(kind: &str, policy: &Policy, setup: &Setup, moment: Option<&Moment>) -> RemedyRow {
    let answer = match moment.map(|moment| (moment.answer, &moment.refusal)) {
        Some((Answer::Direct, _)) => "does not bounce".to_owned(),
        Some((Answer::Bounced { first_slot, nslots, pool, .. }, _)) => {
            let pool = if pool as usize >= setup.pools.len() { " of a pool that came later" } else { "" };
            format!("{} slots from {}{pool}", count(nslots.into()), count(first_slot.into()))
        }
        Some((Answer::Refused { .. }, Some(refusal))) => format!("{}: {refusal}", refusal.cause),
        Some((Answer::Refused { cause, .. }, None)) => cause.name().to_owned(),
        Some((Answer::NotAsked, _)) | None => "an element before it is refused".to_owned(),
    };
    RemedyRow {
        kind: kind.to_owned(),
        policy: if kind == "kernel" { setup.name() } else { policy.text().to_owned() },
        pool_slots: setup.pools.first().map_or(0, |pool| pool.nslabs),
        areas: setup.pools.first().map_or(0, |pool| pool.areas),
        served: moment.is_some_and(|moment| moment.answer.is_served()),
        answer,
    }
}

/// Why no pool will do.
fn never(story: &Story) -> String {
    let word = story.rules.last().map_or("", |rule| rule.word.as_str());
    let is = |cause: Cause| word == cause.name();
    if is(Cause::TooLarge) {
        "No pool of any size can serve it: it is larger than a segment (256 KiB). The driver must ask for less at a time, as dma_max_mapping_size() tells it, or reach the memory itself.".to_owned()
    } else if is(Cause::TooLargeWithOffset) {
        "No pool of any size can serve it: with the offset kept in front it is larger than a segment (256 KiB). The driver must ask for less at a time, as dma_max_mapping_size() tells it on kernels that take the offset off.".to_owned()
    } else if is(Cause::NotAddressable) || is(Cause::Forbidden) {
        "No pool of any size can serve it: it may not be copied.".to_owned()
    } else if is(Cause::Empty) {
        "Nothing can serve it: the driver asks for no bytes.".to_owned()
    } else {
        "No pool of any size can serve it, an empty one neither: what the device asks of addresses leaves no place."
            .to_owned()
    }
}
