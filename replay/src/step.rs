//! A load's steps, packed: a sweep reads them once a configuration, so what they weigh is what it waits for.

use std::collections::HashMap;

use crate::machine::Terms;
use crate::plan::Request;

/// One step of a load, 32 bytes. What many steps have in common is kept once, as their [`Class`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub time_ns: u64,
    /// The buffer's physical address (map), or where the part handed over begins in it (sync).
    pub addr: u64,
    /// Bytes of the mapping, or of the part handed over.
    pub size: u64,
    /// The mapping, numbered among those alive at once; [`UNTIED`](crate::tie::UNTIED) when nothing will undo it.
    pub id: u32,
    /// Position in [`Classes`].
    pub class: u32,
}

const _: () = assert!(size_of::<Step>() == 32, "a load of ten million events is to fit 500 MB");

/// What steps have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Class {
    /// Position in [`Load::devices`](crate::Load::devices).
    pub device: u32,
    pub what: What,
}

/// What a step asks of the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// Map a buffer, or one element of a scatterlist.
    Map(Map),
    /// Undo a mapping.
    Unmap {
        /// Copy the data back.
        copies: bool,
    },
    /// Hand a part of a mapping over, in a way that copies.
    Sync,
    /// Allocate coherent memory; for devices with a restricted pool.
    Alloc,
    /// Free it.
    Free,
}

/// A map, but for its address and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Map {
    pub align_mask: u64,
    pub cpu: u32,
    /// What decides, beside the device's limits, whether it bounces and is copied.
    pub terms: Terms,
    /// The next map belongs to the same scatterlist; only unmaps that were missed stand in between.
    pub more: bool,
    /// Refused in reality.
    pub refused: bool,
    /// Held since before the recording: takes slots, but nobody asked for it while recording.
    pub held: bool,
}

impl Map {
    /// The request of a step of this class.
    pub fn request(&self, step: &Step) -> Request {
        Request { orig_addr: step.addr, size: step.size, align_mask: self.align_mask, cpu: self.cpu }
    }
}

/// The classes met. They are as many as devices × CPUs × ways of mapping, not as many as steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classes {
    all: Vec<Class>,
    positions: HashMap<Class, u32>,
}

impl Classes {
    /// The position of a class, which is added when it is new.
    pub fn position(&mut self, class: Class) -> u32 {
        let next = self.all.len() as u32;
        let at = *self.positions.entry(class).or_insert(next);
        if at == next {
            self.all.push(class);
        }
        at
    }

    /// The class at a position.
    pub fn get(&self, at: u32) -> &Class {
        &self.all[at as usize]
    }

    /// The classes alone, when no more will come.
    pub fn into_vec(self) -> Vec<Class> {
        self.all
    }
}
