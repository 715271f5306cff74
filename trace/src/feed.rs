//! What a recorder at work tells whoever looks on.

use crate::sums::Occupancy;
use crate::{Device, Event, Meta, P2mRun, StackFrame, Task};

/// A piece of a recording under way. Tables are told whole, and before the events that name their rows where that is known in
/// time: devices always are, threads and stacks follow within some hundred milliseconds.
#[derive(Clone, Debug)]
pub enum Feed {
    /// What happened, in the order it is stored in.
    Events(Vec<Event>),
    /// All devices known by now.
    Devices(Vec<Device>),
    /// All threads known by now.
    Tasks(Vec<Task>),
    /// All kernel stacks known by now.
    Stacks(Vec<StackFrame>),
    /// The pool where it is looked at from time to time: since the last telling.
    Looks(Vec<Occupancy>),
    /// Xen's frame table as far as it is known by now.
    P2m(Vec<P2mRun>),
    /// The losses by now, and whatever else has changed about the recording.
    Meta(Box<Meta>),
    /// It is this late, whether or not anything happened: nanoseconds since the recording began.
    Time(u64),
    /// The recording is over; why, in words.
    Ended(String),
}
