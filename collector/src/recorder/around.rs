//! What belongs to events and is told or read a little later than they are: devices, threads, stacks, frames.

use trace::{Device, Event, Op, P2mRun, StackFrame, Task};

use super::drain::Batch;
use crate::decode::Faults;
use crate::kcore::Kcore;
use crate::kernel::Kernel;
use crate::p2m::P2m;
use crate::stacks::Stacks;

pub(crate) struct Around {
    pub(crate) p2m: Option<P2m>,
    pub(crate) stacks: Stacks,
    /// Frames handed out by [`Around::new_frames`].
    frames_taken: usize,
    /// Threads, and whether there are new ones.
    pub(crate) tasks: (Vec<Task>, bool),
    /// How often threads were told: old rows are given up for new ones, so their number does not say it.
    pub(crate) tasks_told: u64,
    pub(crate) devices: (Vec<Device>, bool),
    pub(crate) faults: Faults,
    /// What went wrong with these.
    pub(crate) notes: Vec<String>,
}

impl Around {
    pub(crate) fn new(p2m: Option<P2m>, stacks: Stacks) -> Self {
        let (tasks, devices) = ((Vec::new(), false), (Vec::new(), false));
        Self {
            p2m,
            stacks,
            frames_taken: 0,
            tasks_told: 0,
            tasks,
            devices,
            faults: Faults::default(),
            notes: Vec::new(),
        }
    }

    /// Takes what a batch says, and notes what its events name.
    pub(crate) fn see(&mut self, batch: &mut Batch) {
        if let Some(all) = batch.devices.take() {
            self.devices = (all, true);
        }
        if let Some(all) = batch.tasks.take() {
            self.tasks = (all, true);
            self.tasks_told += 1;
        }
        if let Some(all) = batch.faults.take() {
            self.faults = all;
        }
        for event in &batch.events {
            self.see_event(event);
        }
    }

    fn see_event(&mut self, event: &Event) {
        if let Some(p2m) = &mut self.p2m
            && let (Some(address), Some(size)) = (event.orig_addr, event.size)
        {
            match event.dma_addr.filter(|_| event.op == Op::Map) {
                Some(dma_addr) => p2m.see_mapped(address, size, dma_addr),
                None => p2m.see(address, size),
            }
        }
        if let Some(stack) = event.stack {
            self.stacks.see(stack);
        }
    }

    /// Reads the entries of new pages; what was read before a failure is kept.
    pub(crate) fn catch_up(&mut self) {
        if let Some(p2m) = &mut self.p2m
            && let Err(why) = p2m.catch_up()
        {
            self.notes.push(format!("p2m could not be read any further, nor whether it has changed: {why}"));
        }
    }

    /// The frame table as far as it was read.
    pub(crate) fn runs(&self) -> Option<Vec<P2mRun>> {
        self.p2m.as_ref().map(P2m::runs)
    }

    /// The stacks, when there are new ones.
    pub(crate) fn new_frames(&mut self) -> Option<&[StackFrame]> {
        self.stacks.catch_up();
        let frames = self.stacks.frames();
        let before = std::mem::replace(&mut self.frames_taken, frames.len());
        (before != frames.len()).then_some(frames)
    }

    /// At the end: frames whose entry has changed.
    pub(crate) fn p2m_changed(&mut self) -> u64 {
        self.catch_up();
        let Some(table) = &mut self.p2m else { return 0 };
        if table.beyond() > 0 {
            self.notes.push(format!("{} pages of buffers lie beyond the p2m table", table.beyond()));
        }
        table.changed().unwrap_or_else(|why| {
            self.notes.push(format!("it is not known whether p2m changed while recording: {why}"));
            0
        })
    }
}

/// Xen PV's frame table, when this is one and it can be read.
pub(crate) fn frame_table(kernel: &Kernel, notes: &mut Vec<String>) -> Option<P2m> {
    if kernel.xen.as_ref().is_none_or(|xen| xen.mode != "pv") {
        return None;
    }
    let open = || {
        let symbol = |name: &str| kernel.symbols.address(name).ok_or_else(|| format!("no symbol {name}"));
        let memory = Kcore::open().map_err(|e| e.to_string())?;
        P2m::new(memory, symbol("xen_p2m_addr")?, symbol("xen_p2m_size")?).map_err(|e| e.to_string())
    };
    open().map_err(|why: String| notes.push(format!("no p2m, so straddling frames cannot be told: {why}"))).ok()
}
