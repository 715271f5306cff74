//! The model as a checker of a recorded kernel: for every slot allocation, the slot the policy would have chosen beside
//! the slot the kernel chose.
//!
//! After each event the model is set to what the kernel really did, so each prediction is judged alone and a miss does
//! not drag others behind it. Events of different CPUs, and of tasks preempted between the lock and the return, are
//! not always written in the order of the lock (SPEC 8): before a prediction is called a miss, another order is sought in
//! which it and every event moved is as predicted.

use std::collections::HashMap;

use trace::{Device, Event, Meta, Op, Pool, PoolKind, SnapshotSlot};

use crate::checker::{Checker, EXAMPLES, MOST_POOLS, placed};
use crate::plan::Limits;
use crate::rules::Generation;

trace::words! {
    /// What kind of miss a wrong prediction is.
    pub enum Miss {
        /// The prediction is right for another CPU's area: the task moved between the CPU being read and the event.
        CpuDiffers = "cpu_differs",
        /// The first allocation in an area whose search index was not known.
        IndexUnknown = "index_unknown",
        /// No snapshot: which slots were held since before the recording is not known.
        StateUnknown = "state_unknown",
        /// The kernel refused what the policy would have served.
        RefusedByKernel = "refused_by_kernel",
        /// The kernel served what the policy would have refused.
        RefusedByModel = "refused_by_model",
        /// The slots cannot be what the policy's rules say of any allocation: another generation, or another device
        /// than recorded.
        Impossible = "impossible",
        /// None of these.
        Unexplained = "unexplained",
    }
}

/// A wrong prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissExample {
    /// What kind.
    pub miss: Miss,
    /// When, in the trace's nanoseconds.
    pub time_ns: u64,
    /// CPU.
    pub cpu: u32,
    /// Key in the trace's device table.
    pub device: u32,
    /// Address of the buffer.
    pub orig_addr: u64,
    /// Bytes.
    pub size: u64,
    /// Where the policy would have put it; nothing when it would have refused.
    pub predicted: Option<u64>,
    /// Where the kernel put it; nothing when it refused.
    pub recorded: Option<u64>,
}

/// How well a policy predicts a recorded kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Slot allocations and refusals judged.
    pub total: u64,
    /// Predicted exactly, in the order recorded.
    pub exact: u64,
    /// Predicted exactly once events around it stand in another order, in which they are as predicted too.
    pub after_swap: u64,
    /// Misses by kind, in the order of [`Miss::ALL`].
    pub misses: [u64; Miss::ALL.len()],
    /// The first misses of each kind.
    pub examples: Vec<MissExample>,
    /// Allocations whose release is not in the trace: their slots were taken again, and they were released there.
    pub missed_frees: u64,
    /// Releases of slots nothing was known to hold: taken before the recording, or their allocation is missing.
    pub unknown_frees: u64,
    /// Slot events outside all pools that are known; not judged.
    pub other_pools: u64,
    /// Slot events without what it takes to judge them.
    pub incomplete: u64,
    /// Slot events older than the snapshot, which has them already.
    pub before_snapshot: u64,
    /// There was no snapshot: the pool was taken to be empty.
    pub without_snapshot: bool,
    /// Areas where the snapshot's slots do not add up to the kernel's own count.
    pub snapshot_mismatches: u64,
}

impl Verdict {
    /// Adds what was judged of another allocator.
    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.exact += other.exact;
        self.after_swap += other.after_swap;
        self.misses.iter_mut().zip(other.misses).for_each(|(sum, n)| *sum += n);
        self.examples.extend(other.examples);
        self.missed_frees += other.missed_frees;
        self.unknown_frees += other.unknown_frees;
        self.incomplete += other.incomplete;
        self.snapshot_mismatches += other.snapshot_mismatches;
    }

    /// The share predicted exactly, swaps included; 1 when there was nothing to predict.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.total == 0 { 1.0 } else { (self.exact + self.after_swap) as f64 / self.total as f64 }
    }

    /// Wrong predictions.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.misses.iter().sum()
    }
}

/// The pools as recording found them.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// As a trace has them: the default one first. With each area's search index where it could be read.
    pub pools: &'a [Pool],
    /// Slots in use, in all of them.
    pub snapshot: &'a [SnapshotSlot],
    /// When the snapshot was taken, in the trace's nanoseconds; nothing when there is none.
    pub snapshot_ns: Option<u64>,
}

impl<'a> Start<'a> {
    /// That of a trace.
    #[must_use]
    pub fn new(meta: &'a Meta, snapshot: &'a [SnapshotSlot]) -> Self {
        Self { pools: &meta.pools, snapshot, snapshot_ns: meta.snapshot_ns }
    }

    /// The default pool.
    #[must_use]
    pub fn pool(&self) -> Option<&'a Pool> {
        self.pools.first().filter(|pool| pool.kind == PoolKind::Default)
    }

    /// The places of the pools that are searched together: the default one with those added to it, and each device's own.
    fn allocators(&self) -> Vec<Vec<usize>> {
        let (own, shared): (Vec<_>, Vec<_>) =
            (0..self.pools.len().min(MOST_POOLS)).partition(|&at| self.pools[at].kind == PoolKind::Own);
        std::iter::once(shared).chain(own.into_iter().map(|at| vec![at])).collect()
    }
}

/// Compares a policy's choice with the kernel's for every slot allocation of a trace. Events must be in order.
#[must_use]
pub fn verify<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    devices: &[Device],
    start: &Start<'_>,
    rules: &'static Generation,
) -> Verdict {
    let allocators = start.allocators();
    let mut checkers: Vec<_> =
        allocators.iter().map(|places| (Checker::new(start, places, rules), Vec::new())).collect();
    let limits: HashMap<u32, Limits> = devices.iter().map(|d| (d.id, Limits::from(d))).collect();
    let owner = |at: usize| start.pools[allocators[at][0]].name.as_str();
    // Nothing of a device whose pool is not known.
    let allocator = |device: &Device| match device.own_pool() {
        None => Some(0),
        Some(name) => (1..allocators.len()).find(|&at| owner(at) == name),
    };
    let owners: HashMap<u32, Option<usize>> = devices.iter().map(|device| (device.id, allocator(device))).collect();
    let mut verdict = Verdict { without_snapshot: start.snapshot_ns.is_none(), ..Verdict::default() };
    for event in events {
        if !matches!(event.op, Op::SlotAlloc | Op::SlotFailed | Op::SlotFree | Op::PoolAdded) {
            continue;
        }
        // A pool that is not in the snapshot came while that was read.
        if event.op != Op::PoolAdded && start.snapshot_ns.is_some_and(|ns| event.time_ns < ns) {
            verdict.before_snapshot += 1;
            continue;
        }
        // A refusal has no address.
        let found = match event.tlb_addr {
            // Only the default one's grow.
            _ if event.op == Op::PoolAdded => Some(0),
            Some(tlb) => checkers.iter().position(|(checker, _)| checker.holds(tlb)),
            None => owners.get(&event.device).copied().unwrap_or(Some(0)),
        };
        let Some((checker, read)) = found.and_then(|at| checkers.get_mut(at)) else {
            verdict.other_pools += 1;
            continue;
        };
        read.extend(if event.op == Op::PoolAdded { checker.added(event) } else { checker.read(event, &limits) });
    }
    for (mut checker, events) in checkers {
        checker.run(&placed(events.into_iter()));
        verdict.add(checker.verdict);
    }
    verdict.examples.sort_by_key(|example| example.time_ns);
    let mut kept = [0; Miss::ALL.len()];
    verdict.examples.retain(|example| {
        kept[example.miss as usize] += 1;
        kept[example.miss as usize] <= EXAMPLES
    });
    verdict
}
