//! A trace's mappings as a load: what was asked for, in order, with each unmap and sync tied to its map.
//!
//! Tying depends on the trace alone, so it is done once and every policy replays the same load. It is where the
//! trace's gaps show: an unmap whose map is not in the trace, a map that lands on a bounce buffer still thought in use.

use trace::{Device, Direction, Event, Pool, SnapshotSlot};

use crate::lifetimes::Lifetimes;
use crate::machine::Terms;
use crate::p2m::P2m;
use crate::plan::Limits;
use crate::step::{Class, Step, What};
use crate::tie::Tie;

/// What the trace could not tell, or told in its own way. All zero is the good case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadNotes {
    /// Unmaps of mappings that are not in the trace: made before the recording, or lost.
    pub unmatched_unmaps: u64,
    /// Syncs of mappings that are not in the trace.
    pub unmatched_syncs: u64,
    /// Unmaps of another size than any mapping at that address; the oldest was taken.
    pub size_mismatches: u64,
    /// Coherent buffers freed that were allocated before the recording; they are in no restricted pool's figures.
    pub unmatched_frees: u64,
    /// Mappings whose unmap is missing: their bounce buffer was given out again, so they were released there.
    pub missed_unmaps: u64,
    /// Unmaps written down after their buffer was given out again.
    pub late_unmaps: u64,
    /// Events of devices the trace does not describe; taken to reach everything.
    pub unknown_devices: u64,
    /// Events without an address or a size, which could not be used.
    pub incomplete: u64,
    /// Scatterlist elements without an address of their own: an IOMMU merged them with those before them. They are
    /// mappings served without a bounce buffer; no unmap can be tied to them.
    pub merged: u64,
    /// Records the trace says were lost.
    pub lost: u64,
    /// Mappings held since before the recording, found in the snapshot.
    pub held: u64,
    /// Mappings of devices recorded behind an IOMMU: what is out of their reach need not bounce (SPEC 6.1, dma-iommu).
    pub behind_iommu: u64,
    /// Mappings of devices that have a bounce pool of their own (SPEC 2.7); replayed into a policy's, whose `restricted` gives them
    /// one.
    pub own_pools: u64,
    /// Mappings of devices whose bus may see memory elsewhere than the CPU, but whose `dma_ranges` cannot be read; taken as
    /// if it did not.
    pub shifted: u64,
}

impl LoadNotes {
    /// Adds another load's.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            unmatched_unmaps,
            unmatched_syncs,
            size_mismatches,
            unmatched_frees,
            missed_unmaps,
            late_unmaps,
            unknown_devices,
            incomplete,
            merged,
            lost,
            held,
            behind_iommu,
            own_pools,
            shifted,
        } = other;
        self.unmatched_unmaps += unmatched_unmaps;
        self.unmatched_syncs += unmatched_syncs;
        self.size_mismatches += size_mismatches;
        self.unmatched_frees += unmatched_frees;
        self.missed_unmaps += missed_unmaps;
        self.late_unmaps += late_unmaps;
        self.unknown_devices += unknown_devices;
        self.incomplete += incomplete;
        self.merged += merged;
        self.lost += lost;
        self.held += held;
        self.behind_iommu += behind_iommu;
        self.own_pools += own_pools;
        self.shifted += shifted;
    }
}

/// What surrounds the events: where bounce buffers were, and which were in use at the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// The recorded default pool.
    pub pool: Option<&'a Pool>,
    /// All that were found.
    pub pools: &'a [Pool],
    /// Slots in use when recording began.
    pub snapshot: &'a [SnapshotSlot],
    /// When they were read, in the trace's nanoseconds: of those in use then, some may have been mapped while recording
    /// and be among the events. Nothing stands for before the first event.
    pub snapshot_ns: Option<u64>,
    /// Xen's frame table.
    pub p2m: Option<&'a P2m>,
}

/// A trace's mappings, ready to be replayed under any policy, by many threads at once. 32 bytes an event.
#[derive(Clone, Debug)]
pub struct Load {
    pub(crate) steps: Vec<Step>,
    /// What steps have in common, by [`Step::class`].
    pub(crate) classes: Vec<Class>,
    /// Mappings alive at once, at most.
    pub(crate) alive: usize,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) devices: Vec<LoadDevice>,
    pub(crate) notes: LoadNotes,
    pub(crate) recorded: Recorded,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
}

/// A device of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadDevice {
    /// Key in the trace's device table; all ones for slots held since before the recording.
    pub id: u32,
    /// The kernel's name for it.
    pub name: String,
    /// What the models need of it.
    pub limits: Limits,
    /// What of the terms of its mappings is the device's: trusted, behind an IOMMU, coherent.
    pub terms: Terms,
}

/// A mapping of a load; one element where it is a scatterlist's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadMap {
    /// When, in the trace's nanoseconds.
    pub time_ns: u64,
    /// Device, by position in [`Load::devices`].
    pub device: u32,
    /// Physical address of the buffer.
    pub orig_addr: u64,
    /// Bytes.
    pub size: u64,
    /// CPU it was asked on.
    pub cpu: u32,
    /// Which way data moves.
    pub direction: Direction,
    /// The recorded kernel refused it.
    pub refused: bool,
    /// The next mapping is an element of the same scatterlist.
    pub more: bool,
}

/// What the recorded kernel did, for comparison with the replays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Mappings asked for; a scatterlist counts once an element.
    pub maps: u64,
    /// Mappings that went through the pool: the slot allocations of the trace. When it has none, the mappings whose DMA
    /// address lies in the pool, which under Xen PV takes the frame table.
    pub bounces: u64,
    /// Mappings refused.
    pub failures: u64,
}

/// Ties a trace's events into a [`Load`] as they are read, so that they need not all be kept.
pub struct LoadBuilder<'a> {
    tie: Tie<'a>,
    first_ns: Option<u64>,
}

impl<'a> LoadBuilder<'a> {
    /// Takes one more event; they come in the order of the trace. Less than a microsecond.
    pub fn push(&mut self, event: &Event) {
        self.first_ns.get_or_insert(event.time_ns);
        self.tie.last_ns = self.tie.last_ns.max(event.time_ns);
        self.tie.event(event);
    }

    /// The load, when there are no more events.
    #[must_use]
    pub fn finish(self) -> Load {
        let Self { mut tie, first_ns } = self;
        tie.pass_snapshot();
        let first_ns = first_ns.unwrap_or(0);
        for step in tie.steps.iter_mut().take(tie.notes.held as usize) {
            step.time_ns = first_ns;
        }
        tie.steps.shrink_to_fit();
        Load {
            steps: tie.steps,
            classes: tie.classes.into_vec(),
            alive: tie.slab.len(),
            lifetimes: tie.lifetimes,
            devices: tie.devices,
            notes: tie.notes,
            recorded: Recorded {
                bounces: if tie.slot_allocs > 0 { tie.slot_allocs } else { tie.recorded.bounces },
                ..tie.recorded
            },
            first_ns,
            last_ns: tie.last_ns,
        }
    }
}

impl Load {
    /// Begins a load that events are pushed to.
    #[must_use]
    pub fn builder<'a>(devices: &[Device], around: &Surroundings<'a>) -> LoadBuilder<'a> {
        let mut tie = Tie::new(devices, around);
        tie.hold_snapshot();
        LoadBuilder { tie, first_ns: None }
    }

    /// Ties a trace's events, in order, into a load.
    #[must_use]
    pub fn collect<'a>(
        events: impl IntoIterator<Item = &'a Event>,
        devices: &[Device],
        around: &Surroundings<'_>,
    ) -> Self {
        let mut builder = Self::builder(devices, around);
        for event in events {
            builder.push(event);
        }
        builder.finish()
    }

    /// The devices; outcomes list theirs in the same order.
    #[must_use]
    pub fn devices(&self) -> &[LoadDevice] {
        &self.devices
    }

    /// What the trace could not tell.
    #[must_use]
    pub fn notes(&self) -> &LoadNotes {
        &self.notes
    }

    /// What the recorded kernel did.
    #[must_use]
    pub fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    /// Steps to replay.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is nothing to replay.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The mappings asked for, in order; numbered from 0 they are what [`crate::answers`] answers. Those held since before
    /// the recording are not among them.
    pub fn maps(&self) -> impl Iterator<Item = LoadMap> + '_ {
        self.steps.iter().filter_map(|step| {
            let class = &self.classes[step.class as usize];
            let What::Map(map) = class.what else { return None };
            (!map.held).then_some(LoadMap {
                time_ns: step.time_ns,
                device: class.device,
                orig_addr: step.addr,
                size: step.size,
                cpu: map.cpu,
                direction: map.terms.direction,
                refused: map.refused,
                more: map.more,
            })
        })
    }

    /// Position of the step of the mapping with that number.
    pub(crate) fn step_of(&self, map: u64) -> Option<usize> {
        let is_map = |step: &Step| matches!(self.classes[step.class as usize].what, What::Map(map) if !map.held);
        let maps = self.steps.iter().enumerate().filter(|(_, step)| is_map(step));
        maps.map(|(at, _)| at).nth(usize::try_from(map).ok()?)
    }

    /// Time of the first and of the last event, in the trace's nanoseconds.
    #[must_use]
    pub fn span_ns(&self) -> (u64, u64) {
        (self.first_ns, self.last_ns)
    }
}
