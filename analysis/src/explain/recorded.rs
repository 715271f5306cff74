//! Refusals and bounces as the recorded kernel's pool met them.

use std::collections::BTreeMap;

use replay::{
    Answer, Base, Foreseen, Generation, Limits, Machine, Moment, Platform, PlatformKind, Policy, Reason, RecordedPool,
    Request, Start, Terms,
};
use trace::{Device, Event, Op, Trace};

use super::pass::{self, Found, LIST_NS};
use super::{AreaStateRow, FailureRow, Failures, HolderRow, PoolState, RunRow, Story, words};
use crate::{AnalysisError, compare};

/// The recorded kernel's refusals, the first `limit` of them with all that is known.
///
/// One pass over the events, and a look at every slot of the pool a refusal.
///
/// # Errors
/// When the trace cannot be read.
pub fn failures(trace: &Trace, limit: usize) -> Result<Failures, AnalysisError> {
    let mut out = Failures { notes: notes(trace), ..Failures::default() };
    let machine = machine(trace)?;
    let mut pool = recorded_pool(trace);
    // Slots refused, by device and thread: the mapping they were for is refused right after.
    let mut refused = BTreeMap::new();
    // The refused scatterlist being read: its rows stand together.
    let mut list = None;
    for (number, event) in (0u64..).zip(trace.events()) {
        let event = event?;
        let told = match event.op {
            Op::SlotFailed => {
                refused.insert((event.device, event.tid), event.time_ns);
                Some(out.rows.len() < limit).map(|wanted| wanted.then(|| pool.as_mut()?.moment(&event)).flatten())
            }
            Op::MapFailed => {
                let key = (event.device, event.tid);
                let same_list = event.sg_index.is_some_and(|i| i > 0) && list == Some((key, event.time_ns));
                list = event.sg_index.map(|_| (key, event.time_ns));
                let by_slots = refused.get(&key).is_some_and(|ns| event.time_ns.saturating_sub(*ns) < LIST_NS);
                if !event.sg_index.is_some_and(|_| by_slots) && !same_list {
                    refused.remove(&key);
                }
                // What was refused for want of slots is there already.
                (!by_slots && !same_list).then_some(None)
            }
            _ => None,
        };
        if let Some(moment) = told {
            out.total += 1;
            if out.rows.len() < limit {
                out.rows.push(row(trace, number, &event, moment.as_ref(), &machine));
            }
        }
        if let Some(pool) = &mut pool {
            pool.push(number, &event);
        }
    }
    out.count();
    Ok(out)
}

fn row(trace: &Trace, number: u64, event: &Event, moment: Option<&Moment>, machine: &Machine) -> FailureRow {
    let (cause, explanation) = match moment.map(|moment| (&moment.refusal, &moment.answer)) {
        Some((Some(refusal), _)) => (refusal.cause.name().to_owned(), refusal.to_string()),
        Some((None, _)) => ("unexplained".to_owned(), UNEXPLAINED.to_owned()),
        None => unslotted(trace, event, machine),
    };
    failure(trace, number, event, cause, explanation)
}

/// A refused event with its cause.
pub(super) fn failure(trace: &Trace, number: u64, event: &Event, cause: String, explanation: String) -> FailureRow {
    let device = device(trace, event.device);
    FailureRow {
        event: number,
        time_ns: event.time_ns,
        device: event.device,
        device_name: device.map_or_else(|| format!("device {}", event.device), |d| d.name.clone()),
        driver: device.and_then(|d| d.driver.clone()),
        cpu: event.cpu,
        tid: event.tid,
        orig_addr: event.orig_addr,
        size: event.size,
        cause,
        explanation,
        stack: event.stack,
    }
}

const UNEXPLAINED: &str = "by the slots the trace knows of it could have been served: events are missing, or stand in another order than the lock's";

/// A mapping refused without a slot having been asked for, or without anybody having seen it.
fn unslotted(trace: &Trace, event: &Event, machine: &Machine) -> (String, String) {
    let request = request(event);
    let (Some(request), Some(device)) = (request, device(trace, event.device)) else {
        return ("unknown".to_owned(), "the event does not say of what device, address or size it was".to_owned());
    };
    let limits = device.into();
    // On pools of its own, which are empty: what it is refused for then does not depend on what is free.
    match machine.clone().map_on(&request, &limits, &terms(event, device)) {
        Err(refused) => {
            let told = machine.clone().explain(&request, &limits, &refused);
            (refused.cause.name().to_owned(), told.to_string())
        }
        Ok(_) if event.sg_index.is_some() => (
            "unknown".to_owned(),
            "a scatterlist was refused; which element was to blame is not in the trace".to_owned(),
        ),
        Ok(_) if device.own_pool().is_some() => (
            "unknown".to_owned(),
            "the device has a bounce pool of its own, whose slots are not followed here".to_owned(),
        ),
        Ok(_) => ("unknown".to_owned(), "the slots it met are not in the trace".to_owned()),
    }
}

pub(super) fn request(event: &Event) -> Option<Request> {
    let (orig_addr, size) = (event.orig_addr?, event.size?);
    Some(Request { orig_addr, size, align_mask: event.align_mask.unwrap_or(0), cpu: event.cpu })
}

pub(crate) fn device(trace: &Trace, key: u32) -> Option<&Device> {
    trace.devices().iter().find(|device| device.id == key)
}

fn terms(event: &Event, device: &Device) -> Terms {
    Terms {
        direction: event.direction.unwrap_or(trace::Direction::Bidirectional),
        attrs: event.attrs.unwrap_or(0),
        ..Terms::of_device(device)
    }
}

/// The recorded kernel's policy; the newest when it is not known.
pub(crate) fn own_policy(trace: &Trace) -> Result<Policy, AnalysisError> {
    let failed = |source| AnalysisError::Policy { policy: "v6_10".to_owned(), source };
    let Some((rules, _)) = Generation::of_recorded(trace.meta()) else {
        return Policy::parse("v6_10").map_err(failed);
    };
    let release = trace.meta().host.kernel_version();
    Policy::parse(&format!("{}:kernel={release}", rules.id)).or_else(|_| Policy::parse(rules.id)).map_err(failed)
}

/// The recorded kernel's rules on the recorded platform and pool.
fn machine(trace: &Trace) -> Result<Machine, AnalysisError> {
    let meta = trace.meta();
    let policy = own_policy(trace)?;
    let base = compare::base(meta, meta.pool());
    let failed = |source| AnalysisError::Policy { policy: policy.text().to_owned(), source };
    let setup = policy.resolve(&base).map_err(failed)?;
    let mut setup = setup;
    if meta.pools.is_empty() {
        setup.pools.clear();
    }
    Ok(Machine::new(&setup, Platform::recorded(PlatformKind::of_recorded(meta).into(), trace.p2m())))
}

/// The recorded pool; nothing when the machine had none.
fn recorded_pool(trace: &Trace) -> Option<RecordedPool> {
    let meta = trace.meta();
    let rules = Generation::of_recorded(meta).map(|(rules, _)| rules).or_else(|| Generation::by_id("v6_10"))?;
    let start = Start::new(meta, trace.snapshot());
    Some(RecordedPool::new(&start, trace.devices(), rules))
}

/// What weakens every answer about the recorded pool.
fn notes(trace: &Trace) -> Vec<String> {
    let meta = trace.meta();
    let mut notes = Vec::new();
    if meta.pool().is_some() && meta.snapshot_ns.is_none() {
        notes.push("the trace has no snapshot of the pool, which was taken to be empty at the start".to_owned());
    }
    let lost = meta.losses.events();
    if lost > 0 {
        notes.push(format!(
            "{} events were lost while recording: slots may be in use that are not shown",
            trace::field::count(lost)
        ));
    }
    notes.extend(meta.capture.partial());
    notes
}

/// The story of a mapping as it really went, but for what would have let it pass.
pub(super) fn story(trace: &Trace, found: &Found) -> Result<Story, AnalysisError> {
    let slots = found.slots.as_ref();
    let told = found.map.as_ref().map_or(&found.event, |(_, map)| map);
    let device = device(trace, told.device);
    let machine = machine(trace)?;
    let policy = own_policy(trace)?;
    let mut story = Story {
        event: found.number,
        time_ns: found.event.time_ns,
        policy: policy.rules().id.to_owned(),
        refused: matches!(found.event.op, Op::MapFailed | Op::SlotFailed),
        asked: words::asked(told, device),
        task: pass::task(trace, &found.event),
        stack: pass::stack(trace, told.stack.or(slots.and_then(|(_, slots)| slots.stack))),
        notes: notes(trace),
        ..Story::default()
    };
    let foreseen = device
        .zip(request(told))
        .and_then(|(device, request)| machine.foresee(&request, &device.into(), &terms(told, device)));
    let moment = match slots {
        Some((at, slots)) => met(trace, *at, slots, &mut story)?,
        None => None,
    };
    match (&foreseen, &moment, found.map.is_some()) {
        // Slots were asked for without the mapping being in the trace: why it bounced is known to the kernel only, unless
        // everything does.
        (_, Some(_), false) if trace.meta().pool().is_some_and(|pool| pool.force_bounce) => {
            story.rules.push(words::reason(Reason::Forced));
        }
        (Some(Foreseen::Bounced(reason)), ..) => story.rules.push(words::reason(*reason)),
        (Some(Foreseen::Direct(_)), None, _) if !story.refused && !bounced(told, device, &machine) => {
            story.rules.push(words::direct());
        }
        (None, ..) => {
            story.notes.push("frames of its buffer are not in the trace, so why it bounces cannot be told".to_owned())
        }
        _ => {}
    }
    if let Some(reach) = moment.as_ref().and_then(words::reach) {
        story.arithmetic.push(reach);
    }
    match &moment {
        Some(moment) => of_moment(trace, &mut story, moment, slots.map(|(_, slots)| slots)),
        None if story.refused => {
            let (word, explanation) = unslotted(trace, told, &machine);
            let cause = replay::Cause::ALL.iter().find(|cause| cause.name() == word);
            story.rules.extend(cause.map(|cause| words::cause(*cause)));
            story.never = cause.is_some_and(|cause| words::is_never(*cause));
            story.arithmetic.push(explanation);
        }
        None => {}
    }
    story.headline = headline(&story, moment.as_ref());
    Ok(story)
}

/// Whether the recorded kernel gave the device an address in the pool.
fn bounced(event: &Event, device: Option<&Device>, machine: &Machine) -> bool {
    let limits = device.map_or(Limits::NONE, Limits::from);
    event.tlb_addr.is_some() || event.dma_addr.is_some_and(|at| machine.tlb_addr(at, &limits).is_some())
}

/// The recorded pool as the event in which slots were asked for met it, with who held them.
fn met(trace: &Trace, at: u64, slots: &Event, story: &mut Story) -> Result<Option<Moment>, AnalysisError> {
    let meta = trace.meta();
    let Some(mut pool) = recorded_pool(trace) else { return Ok(None) };
    let inside = |tlb: u64| meta.pool().is_some_and(|pool| pool.contains(tlb));
    let device = device(trace, slots.device);
    let own = device.is_some_and(|device| device.own_pool().is_some());
    if own || slots.tlb_addr.is_some_and(|tlb| !inside(tlb)) {
        story.notes.push("its slots are of another pool than the default one, which alone is shown here".to_owned());
        return Ok(None);
    }
    if meta.snapshot_ns.is_some_and(|ns| slots.time_ns < ns) {
        story.notes.push(
            "it happened before the snapshot of the pool was read, and is shown with the pool as it was then"
                .to_owned(),
        );
    }
    // Who mapped what is held, by bounce address.
    let mut by: BTreeMap<u64, (u32, Option<u32>)> = BTreeMap::new();
    for (number, event) in (0..at).zip(trace.events()) {
        let event = event?;
        match (event.op, event.tlb_addr) {
            (Op::SlotAlloc, Some(tlb)) => {
                by.insert(tlb, (event.tid, event.stack));
            }
            (Op::SlotFree, Some(tlb)) => {
                by.remove(&tlb);
            }
            _ => {}
        }
        pool.push(number, &event);
    }
    let moment = pool.moment(slots);
    match &moment {
        Some(moment) => story.holders = holders(trace, moment, |holder| by.get(&holder.taken.tlb_addr).copied()),
        None => story.notes.push("the event does not say of what address or size it was".to_owned()),
    }
    Ok(moment)
}

/// Fills in what a moment tells.
pub(super) fn of_moment(trace: &Trace, story: &mut Story, moment: &Moment, slots: Option<&Event>) {
    story.pool = moment.pools.get(moment.pool).map(|pool| state(pool, moment));
    if let (Some(counted), Some(pool)) = (slots.and_then(|slots| slots.used), &story.pool) {
        story.arithmetic.push(words::counted(counted, pool.used, pool.slots));
    }
    if let Some(refusal) = &moment.refusal {
        story.rules.push(words::cause(refusal.cause));
        story.arithmetic.extend(words::refusal(refusal));
        story.never = words::is_never(refusal.cause);
        return;
    }
    if let Answer::Bounced { first_slot, nslots, .. } = moment.answer {
        let needs = words::slots_needed(moment.request.size, 0, nslots.into());
        story.arithmetic.extend(needs);
        if story.refused {
            story.notes.push(UNEXPLAINED.to_owned());
            return;
        }
        let recorded = slots.and_then(|slots| slots.tlb_addr).zip(trace.meta().pool());
        let recorded = recorded.map(|(tlb, pool)| tlb.saturating_sub(pool.start) / trace::pool::SLOT_BYTES);
        let model = format!("slot {}", trace::field::count(first_slot.into()));
        story.arithmetic.push(match recorded {
            Some(at) if (u64::from(first_slot)..u64::from(first_slot + nslots)).contains(&at) => {
                format!("the search finds them from {model} on, where the kernel put it too")
            }
            Some(at) => format!(
                "the kernel put it at slot {}; by the slots the trace knows of it would have been {model}",
                trace::field::count(at)
            ),
            None => format!("the search finds them from {model} on"),
        });
    }
}

fn state(pool: &replay::PoolMoment, moment: &Moment) -> PoolState {
    let areas = u32::try_from(pool.areas.len()).unwrap_or(u32::MAX).max(1);
    let first = moment.request.cpu & (areas - 1);
    let cause = |area: u32| {
        let told = moment.refusal.as_ref()?.areas.iter().find(|told| told.area == area)?;
        Some(told.cause.name().to_owned())
    };
    let area = |at: u32| {
        let area = pool.areas.get(at as usize)?;
        Some(AreaStateRow {
            area: at,
            used: area.used,
            free: area.free,
            largest_run: area.largest_run.into(),
            index: area.index,
            cause: cause(at),
        })
    };
    let mut runs: Vec<RunRow> = Vec::new();
    for &(length, n) in &pool.runs {
        let from = 1u64 << length.max(1).ilog2();
        let slots = u64::from(length) * n;
        match runs.last_mut().filter(|row| row.from == from) {
            Some(row) => (row.runs, row.slots) = (row.runs + n, row.slots + slots),
            None => runs.push(RunRow { from, to: from * 2 - 1, runs: n, slots }),
        }
    }
    if let Some(last) = runs.last_mut() {
        last.to = last.to.min(pool.segment_slots.max(last.from));
    }
    PoolState {
        name: "pool".to_owned(),
        slots: pool.geometry.nslabs,
        used: pool.used,
        free: pool.free(),
        largest_run: pool.largest_run().into(),
        runs,
        areas: (first..areas).chain(0..first).filter_map(area).collect(),
    }
}

/// Who held slots, by device and by where they were mapped.
pub(super) fn holders(
    trace: &Trace,
    moment: &Moment,
    mut mapped: impl FnMut(&replay::Holder) -> Option<(u32, Option<u32>)>,
) -> Vec<HolderRow> {
    let used: u64 = moment.holders.iter().map(|holder| u64::from(holder.taken.nslots)).sum();
    let mut groups: BTreeMap<(Option<u32>, Option<u32>), Vec<(&replay::Holder, Option<u32>)>> = BTreeMap::new();
    for holder in &moment.holders {
        let (tid, stack) = mapped(holder).map_or((None, None), |(tid, stack)| (Some(tid), stack));
        groups.entry((holder.device, stack)).or_default().push((holder, tid));
    }
    let mut rows: Vec<_> = groups
        .into_iter()
        .map(|((key, stack), held)| {
            let device = key.and_then(|key| device(trace, key));
            let slots = held.iter().map(|(holder, _)| u64::from(holder.taken.nslots)).sum();
            let mut ages: Vec<u64> =
                held.iter().filter_map(|(h, _)| h.since_ns).map(|ns| moment.time_ns.saturating_sub(ns)).collect();
            ages.sort_unstable();
            let mut tids = BTreeMap::<u32, u64>::new();
            held.iter().filter_map(|(_, tid)| *tid).for_each(|tid| *tids.entry(tid).or_default() += 1);
            let most = tids.into_iter().max_by_key(|(_, n)| *n).map(|(tid, _)| tid);
            let at = |tid| Event::new(Op::SlotAlloc, moment.time_ns, 0, tid, 0);
            HolderRow {
                device: match (key, device) {
                    (_, Some(device)) => device.name.clone(),
                    (None, _) => "before the recording".to_owned(),
                    (Some(key), None) if key == trace::event::NO_DEVICE => "before the recording".to_owned(),
                    (Some(key), None) => format!("device {key}"),
                },
                driver: device.and_then(|device| device.driver.clone()),
                mappings: held.len() as u64,
                slots,
                share: if used == 0 { 0.0 } else { slots as f64 / used as f64 },
                oldest_ns: ages.last().copied(),
                median_ns: ages.get(ages.len() / 2).copied(),
                task: most.and_then(|tid| pass::task(trace, &at(tid))),
                mapped_in: pass::mapped_in(trace, stack),
            }
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.slots));
    rows
}

/// The answer in a sentence.
fn headline(story: &Story, moment: Option<&Moment>) -> String {
    let last = story.rules.last();
    match (story.refused, last) {
        (true, Some(rule)) if moment.is_none_or(|moment| moment.refusal.is_some()) => {
            format!("Refused: {}.", rule.sentence)
        }
        (true, _) => "Refused, and the trace does not show why.".to_owned(),
        (false, Some(rule)) if rule.word == "direct" => format!("It did not bounce: {}.", rule.sentence),
        (false, Some(rule)) => format!("It bounced: {}.", rule.sentence),
        (false, None) => "It was served.".to_owned(),
    }
}

/// The recorded machine, for the replays.
pub(super) fn base(trace: &Trace) -> Base {
    compare::base(trace.meta(), trace.meta().pool())
}
