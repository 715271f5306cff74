//! What keys stand for: devices, and the places in the kernel that a stack names.

use std::collections::HashMap;

use trace::{Device, StackFrame, Trace};

/// The site of events without a stack.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Calls of a stack that are shown.
const SHOWN: usize = 4;

/// The devices, by position: those of the trace, then those its events name and it does not describe.
#[derive(Debug)]
pub(super) struct Devices<'a> {
    known: &'a [Device],
    by_id: HashMap<u32, u32>,
    unknown: Vec<u32>,
}

impl<'a> Devices<'a> {
    pub fn new(known: &'a [Device]) -> Self {
        Self { known, by_id: (0..).zip(known).map(|(at, device)| (device.id, at)).collect(), unknown: Vec::new() }
    }

    /// The position of a key.
    pub fn position(&mut self, id: u32) -> u32 {
        // Nearly always the key is the position.
        if self.known.get(id as usize).is_some_and(|device| device.id == id) {
            return id;
        }
        let (known, unknown) = (self.known.len(), &mut self.unknown);
        *self.by_id.entry(id).or_insert_with(|| {
            unknown.push(id);
            (known + unknown.len() - 1) as u32
        })
    }

    pub fn get(&self, position: u32) -> Option<&'a Device> {
        self.known.get(position as usize)
    }

    pub fn name(&self, position: u32) -> String {
        match self.get(position) {
            Some(device) => device.name.clone(),
            None => match self.unknown.get((position as usize).wrapping_sub(self.known.len())) {
                Some(id) if *id != trace::event::NO_DEVICE => format!("device {id}"),
                _ => "unknown".to_owned(),
            },
        }
    }

    pub fn driver(&self, position: u32) -> Option<String> {
        self.get(position)?.driver.clone()
    }
}

/// Stacks as sites: the first calls that are not the DMA API's own. Many stacks have one site.
#[derive(Debug, Default)]
pub(super) struct Sites {
    by_stack: HashMap<u32, u32>,
    texts: Vec<String>,
}

impl Sites {
    pub fn new(trace: &Trace) -> Self {
        let mut sites = Self::default();
        let mut known = HashMap::new();
        let mut frames: Vec<_> = trace.stacks().iter().collect();
        frames.sort_unstable_by_key(|frame| (frame.stack, frame.frame));
        for frames in frames.chunk_by(|a, b| a.stack == b.stack) {
            let stack = frames[0].stack;
            let calls = StackFrame::telling(&StackFrame::without_probe(frames));
            let calls: Vec<_> = calls.iter().take(SHOWN).map(|call| call.function()).collect();
            let text = calls.join(" < ");
            let site = *known.entry(text.clone()).or_insert_with(|| {
                sites.texts.push(text);
                (sites.texts.len() - 1) as u32
            });
            sites.by_stack.insert(stack, site);
        }
        sites
    }

    /// The site of an event's stack.
    pub fn of(&self, stack: Option<u32>) -> u32 {
        stack.and_then(|stack| self.by_stack.get(&stack)).copied().unwrap_or(NOWHERE)
    }

    pub fn text(&self, site: u32) -> Option<String> {
        self.texts.get(site as usize).cloned()
    }
}
