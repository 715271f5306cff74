//! A slot event as the checker takes it.

use trace::Event;

use crate::plan::{Limits, Request};

/// A slot event.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// Slots were taken; where.
    Alloc(Request, Limits, u64),
    /// The same in a pool made for this mapping; whether they are those that the rules choose in it.
    Alone(Request, Limits, bool),
    Failed(Request, Limits),
    /// Slots were given back: an address in the first data slot.
    Free(u64),
    /// A pool was added: as many there are then.
    Added(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotEvent {
    pub(super) time_ns: u64,
    /// Of an event whose record came late, the time of the event it belongs before.
    pub(super) since_ns: Option<u64>,
    pub(super) cpu: u32,
    pub(super) tid: u32,
    pub(super) device: u32,
    pub(super) what: What,
}

impl SlotEvent {
    pub(super) fn new(event: &Event, what: What) -> Self {
        let &Event { time_ns, since_ns, cpu, tid, device, .. } = event;
        Self { time_ns, since_ns, cpu, tid, device, what }
    }
}
