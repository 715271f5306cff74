//! Kernel stacks that events name, read out of the kernel and given names.

use std::collections::HashSet;

use aya::maps::{MapData, StackTraceMap};
use trace::StackFrame;

use crate::symbols::Functions;

/// The stacks seen. The kernel never gives a stack's place to another, so reading may lag behind the events.
pub struct Stacks {
    map: StackTraceMap<MapData>,
    seen: HashSet<u32>,
    waiting: Vec<u32>,
    frames: Vec<StackFrame>,
    functions: Option<Functions>,
    unread: u64,
}

impl Stacks {
    /// Stacks of the probe's map.
    #[must_use]
    pub fn new(map: StackTraceMap<MapData>) -> Self {
        Self { map, seen: HashSet::new(), waiting: Vec::new(), frames: Vec::new(), functions: None, unread: 0 }
    }

    /// Notes a stack that an event names.
    pub fn see(&mut self, stack: u32) {
        if self.seen.insert(stack) {
            self.waiting.push(stack);
        }
    }

    /// Reads the stacks newly seen; whether there were any.
    pub fn catch_up(&mut self) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        // Read when first needed: it is a few MiB, and most recordings have no stack at all.
        let functions = self.functions.get_or_insert_with(Functions::read);
        for stack in std::mem::take(&mut self.waiting) {
            match self.map.get(&stack, 0) {
                Ok(trace) => self.frames.extend((0..).zip(trace.frames()).map(|(frame, call)| {
                    let function = functions.at(call.ip);
                    StackFrame {
                        stack,
                        frame,
                        address: call.ip,
                        symbol: function.map(|(name, _)| name.to_owned()),
                        offset: function.map(|(_, offset)| offset),
                    }
                })),
                Err(why) => {
                    tracing::warn!("stack {stack} cannot be read: {why}");
                    self.unread += 1;
                }
            }
        }
        true
    }

    /// All calls of all stacks read.
    #[must_use]
    pub fn frames(&self) -> &[StackFrame] {
        &self.frames
    }

    /// Stacks that an event names and that could not be read.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.unread
    }
}
