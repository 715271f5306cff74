//! What one pass over the events finds: an event, and those that belong to the same mapping.

use std::collections::BTreeMap;

use trace::{Event, Op, StackFrame, Task, Trace};

use crate::AnalysisError;

/// Events after a slot event in which its mapping is looked for: it is written when the outer call returns, a few events
/// of other CPUs later.
const AHEAD: u64 = 4096;
/// Slots whose mapping is still to come, at most, before the old ones are let go.
const UNDER_WAY: usize = 1 << 16;
/// A scatterlist's rows are written this soon after the element was refused.
pub(super) const LIST_NS: u64 = 10_000_000;

/// An event and its kin.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The event asked for, or the refused mapping it is part of.
    pub event: Event,
    /// Its number.
    pub number: u64,
    /// The event in which slots were taken or refused for it.
    pub slots: Option<(u64, Event)>,
    /// The mapping: its event, and its number among the mappings of the load.
    pub map: Option<(u64, Event)>,
    /// Its number among the mappings of the load ([`replay::Load::maps`]).
    pub map_number: Option<u64>,
}

/// Whether an event is a mapping of the load, as `replay` counts them.
pub(crate) fn is_map(event: &Event) -> bool {
    matches!(event.op, Op::Map | Op::MapFailed) && event.orig_addr.is_some() && event.size.is_some()
}

fn key(event: &Event) -> (u32, u32, Option<u64>) {
    (event.device, event.tid, event.orig_addr)
}

/// Whether slots were asked for by a mapping: the same buffer, the same thread.
fn belong(slots: &Event, map: &Event) -> bool {
    let refused = (slots.op == Op::SlotFailed) == (map.op == Op::MapFailed);
    refused && (slots.device, slots.tid, slots.orig_addr) == (map.device, map.tid, map.orig_addr)
}

/// Finds an event by its number.
pub(super) fn find(trace: &Trace, number: u64) -> Result<Found, AnalysisError> {
    let mut maps = 0u64;
    // Slots asked for whose mapping has not been seen yet; and the last refused, by device and thread: a refused
    // scatterlist has a row for each element, and one of them was to blame.
    let mut asked: BTreeMap<(u32, u32, Option<u64>), (u64, Event)> = BTreeMap::new();
    let mut refused: BTreeMap<(u32, u32), (u64, Event)> = BTreeMap::new();
    let mut found: Option<Found> = None;
    for (at, event) in (0u64..).zip(trace.events()) {
        let event = event?;
        if let Some(found) = &mut found {
            let slots = found.slots.as_ref().filter(|_| found.map.is_none());
            let Some((of, slots)) = slots else { break };
            if at - of > AHEAD {
                break;
            }
            if belong(slots, &event) {
                found.map = Some((at, event.clone()));
                found.map_number = is_map(&event).then_some(maps);
                break;
            }
        } else if at == number {
            match event.op {
                Op::SlotAlloc | Op::SlotFailed => {
                    let slots = Some((at, event.clone()));
                    found = Some(Found { event: event.clone(), number: at, slots, map: None, map_number: None });
                }
                Op::Map | Op::MapFailed => {
                    let own = asked.remove(&key(&event)).filter(|(_, slots)| belong(slots, &event));
                    let of_list = || {
                        let last = refused.remove(&(event.device, event.tid));
                        let listed = event.op == Op::MapFailed && event.sg_index.is_some();
                        last.filter(|(_, slots)| listed && event.time_ns.saturating_sub(slots.time_ns) < LIST_NS)
                    };
                    let slots = own.or_else(of_list);
                    let map_number = is_map(&event).then_some(maps);
                    let map = Some((at, event.clone()));
                    found = Some(Found { event: event.clone(), number: at, slots, map, map_number });
                    break;
                }
                op => {
                    return Err(AnalysisError::NoStory(format!(
                        "event {number} is {op}: a story is told of map, map_failed, slot_alloc and slot_failed; `swioscope query TRACE 'op in (map_failed, slot_failed)'` lists refusals with their numbers"
                    )));
                }
            }
        }
        match event.op {
            Op::SlotFailed => {
                refused.insert((event.device, event.tid), (at, event.clone()));
                asked.insert(key(&event), (at, event.clone()));
            }
            Op::SlotAlloc => {
                // Where mappings are not recorded, none would ever be taken out.
                if asked.len() >= UNDER_WAY {
                    asked.retain(|_, (_, slots)| event.time_ns.saturating_sub(slots.time_ns) < LIST_NS);
                }
                asked.insert(key(&event), (at, event.clone()));
            }
            // So that what waits is what is under way.
            Op::Map | Op::MapFailed => {
                asked.remove(&key(&event));
            }
            _ => {}
        }
        maps += u64::from(is_map(&event));
    }
    found.ok_or_else(|| {
        let events = trace.event_count();
        let last = match events.checked_sub(1) {
            Some(last) => format!("its events are numbered from 0 to {last}"),
            None => "it holds no events".to_owned(),
        };
        AnalysisError::NoStory(format!("the trace has no event {number}: {last}"))
    })
}

/// The thread that was running at an event, by name and number.
pub(super) fn task(trace: &Trace, event: &Event) -> Option<String> {
    if event.tid == 0 {
        return Some("an interrupt or the idle task".to_owned());
    }
    Some(match Task::at(trace.tasks(), event.tid, event.time_ns) {
        Some(task) if task.pid == task.tid => format!("{} (process {})", task.comm, task.pid),
        Some(task) => format!("{} (thread {} of process {})", task.comm, task.tid, task.pid),
        None => format!("thread {}", event.tid),
    })
}

/// A recorded kernel stack, innermost call first.
pub(super) fn stack(trace: &Trace, key: Option<u32>) -> Vec<String> {
    let Some(key) = key else { return Vec::new() };
    StackFrame::calls(trace.stacks(), key).iter().map(|call| call.place()).collect()
}

/// The innermost call of a stack that tells whose a mapping is.
pub(super) fn mapped_in(trace: &Trace, key: Option<u32>) -> Option<String> {
    let calls = StackFrame::calls(trace.stacks(), key?);
    StackFrame::telling(&calls).first().map(|call| call.place())
}
