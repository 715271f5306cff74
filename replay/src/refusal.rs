//! Why a mapping was refused (SPEC 7): a [`Cause`] to count by, and a [`Refusal`] with its arithmetic to read.

use std::fmt;

use crate::bounds::Wanted;
use crate::growth::Transient;
use crate::machine::Forbidden;
use crate::plan::Plan;
use crate::pool::SlotPool;
use crate::walk::{self, Endless, Found, find};
use crate::{bits, rules::Search};
use trace::field::count;
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

trace::words! {
    /// Why a mapping was refused, in SPEC 7's order. The kernel says "swiotlb buffer is full" to most of them.
    pub enum Cause {
        /// Nothing to map: the size is 0, which the kernel treats as a bug.
        Empty = "empty",
        /// There is no pool, or the pool has no slots.
        NoPool = "no_pool",
        /// The device does not reach the buffer, and bouncing is switched off or no copy will do.
        NotAddressable = "not_addressable",
        /// It would have to bounce, and something about the mapping forbids a copy.
        Forbidden = "forbidden",
        /// More than one segment holds, whatever else is in the pool.
        TooLarge = "too_large",
        /// The data alone would fit a segment; with the offset kept in front it does not.
        TooLargeWithOffset = "too_large_with_offset",
        /// No area has that many free slots.
        PoolFull = "pool_full",
        /// The CPU's area has not that many free slots, and the others fail otherwise.
        AreaFull = "area_full",
        /// The kernel would search for ever with the lock held (5.10.y, 5.15.y, 6.1.y).
        Livelock = "never_ending_search",
        /// Longer than the distance of two segment boundaries of the device.
        BoundaryImpossible = "boundary_impossible",
        /// Runs are long enough, but each crosses a segment boundary of the device.
        Boundary = "boundary",
        /// No slot would do even if the pool were empty.
        AlignmentImpossible = "alignment_impossible",
        /// Runs are long enough, but none begins at an address the masks allow.
        Alignment = "alignment",
        /// A slot would do, but the walk steps over it.
        Stride = "stride",
        /// Slots enough are free, but not side by side.
        Fragmented = "fragmented",
        /// Slots were found, but the device does not reach them.
        PoolAboveMask = "pool_above_mask",
        /// No pool had room, and the one made for the request began at a wrong address; the worker's next pool, which
        /// was on its way, would have served it (6.6+ with pools that grow).
        GrowPending = "grow_pending",
        /// No pool had room, and there were no pages within the device's reach to make one for the request (6.6+ with
        /// pools that grow).
        TransientRefused = "transient_refused",
    }
}

/// What one area had to offer when a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaRefusal {
    /// The area, in the order tried.
    pub area: u32,
    /// Why it could not serve.
    pub cause: Cause,
    /// Its free slots.
    pub free: u64,
    /// Its longest free run.
    pub largest_run: u32,
}

/// Why an allocator that grows had no pool in time (SPEC 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growing {
    /// Slots of the pool the worker was to add.
    pub worker_slots: u64,
    /// What became of a pool for the request alone.
    pub transient: Transient,
}

/// A refused request, with the numbers a person can check. `Display` says them in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why: the cause of the first area tried, unless all share one.
    pub cause: Cause,
    /// Bytes asked for.
    pub size: u64,
    /// Bytes kept in front of the data so that its low address bits stay as the device wants them.
    pub offset: u64,
    /// Slots needed, offset and padding included.
    pub slots: u64,
    /// Slots of the pool.
    pub nslabs: u64,
    /// Free slots of the pool.
    pub free: u64,
    /// Slots of a segment, the most any mapping can have.
    pub segment_slots: u64,
    /// The longest free run in one segment.
    pub largest_run: u32,
    /// Free runs, as many as segments and busy slots cut the pool into.
    pub free_runs: u64,
    /// How the search goes round for ever (only [`Cause::Livelock`]).
    pub endless: Option<Endless>,
    /// Slots between two segment boundaries of the device.
    pub boundary_slots: u64,
    /// Where the bounce buffer would have ended on the bus, all ones if the bus does not see that, and how far the device
    /// reaches (only [`Cause::PoolAboveMask`] and [`Cause::NotAddressable`]).
    pub out_of_reach: Option<(u64, u64)>,
    /// What came of growing (only [`Cause::GrowPending`] and [`Cause::TransientRefused`]).
    pub growing: Option<Growing>,
    /// What forbids a copy ([`Cause::Forbidden`] and [`Cause::NotAddressable`]).
    pub forbidden: Option<Forbidden>,
    /// Area by area, in the order tried; empty when the cause does not depend on what is free.
    pub areas: Vec<AreaRefusal>,
}

/// The cause one area has for not serving `plan`; the state must be the one the search failed on.
pub(crate) fn area_cause(pool: &mut SlotPool, area: usize, plan: &Plan) -> Cause {
    let state = pool.areas()[area];
    if plan.n > pool.area_slots().wrapping_sub(state.used) {
        return Cause::AreaFull;
    }
    if plan.n > plan.boundaries.max_slots {
        return Cause::BoundaryImpossible;
    }
    let any = Fits::of(pool, area, plan, false);
    if any.both {
        Cause::Stride
    } else if any.matching {
        Cause::Boundary
    } else if any.within {
        if Fits::of(pool, area, plan, true).both { Cause::Alignment } else { Cause::AlignmentImpossible }
    } else if any.run {
        Cause::Boundary
    } else {
        Cause::Fragmented
    }
}

/// Which tests some run of the area passes.
struct Fits {
    run: bool,
    matching: bool,
    within: bool,
    both: bool,
}

impl Fits {
    /// Looks at every segment of the area that may have a run long enough, as it is or as if all slots were free.
    fn of(pool: &mut SlotPool, area: usize, plan: &Plan, empty: bool) -> Self {
        let seg = u64::from(SEGMENT_SLOTS);
        let (from, to) = (area as u64 * pool.area_slots(), (area as u64 + 1) * pool.area_slots());
        let mut fits = Self { run: false, matching: false, within: false, both: false };
        let Some(n) = u32::try_from(plan.n).ok().filter(|n| (1..=SEGMENT_SLOTS).contains(n)) else { return fits };
        let wanted = Wanted::new(n, 0, 1);
        let boundaries = plan.boundaries.of_runs(n, pool);
        let (mut next, end) = ((from / seg) as usize, to.div_ceil(seg) as usize);
        while let Some(segment) =
            if empty { Some(next).filter(|&s| s < end) } else { pool.bounds_mut().next(next, end, &wanted) }
        {
            next = segment + 1;
            let base = segment as u64 * seg;
            let free = if empty { u128::MAX } else { pool.segment(segment) };
            let edges = !bits::below(from.saturating_sub(base) as u32) & bits::below((to - base).min(seg) as u32);
            let starts = bits::starts(free, n) & edges;
            if starts == 0 {
                continue;
            }
            let matching = starts & matching(plan, base);
            let within = starts & boundaries.in_segment(base);
            fits.run = true;
            fits.matching |= matching != 0;
            fits.within |= within != 0;
            fits.both |= matching & within != 0;
            if fits.both {
                break;
            }
        }
        fits
    }
}

/// The slots of the segment at `base` whose address the masks allow.
fn matching(plan: &Plan, base: u64) -> u128 {
    let period = plan.shape.mask + 1;
    if plan.never {
        0
    } else if period.is_power_of_two() && period <= u64::from(SEGMENT_SLOTS) {
        bits::every(period as u32, plan.value.wrapping_sub(plan.first + base))
    } else {
        (0..SEGMENT_SLOTS).filter(|&k| plan.matches(base + u64::from(k))).fold(0, |bits, k| bits | 1 << k)
    }
}

/// The order of areas for a CPU (SPEC 3.8).
pub(crate) fn area_order(areas: usize, cpu: u32) -> impl Iterator<Item = usize> {
    let first = cpu as usize & (areas - 1);
    (0..areas).map(move |k| if first + k < areas { first + k } else { first + k - areas })
}

/// The cause of a request that `plan` describes and no area of the pool could serve.
pub(crate) fn cause(pool: &mut SlotPool, plan: &Plan, cpu: u32, livelock: bool) -> Cause {
    if pool.area_slots() == 0 {
        return Cause::NoPool;
    }
    if let Some(cause) = size_cause(plan, pool.segment_slots()) {
        return if livelock { Cause::Livelock } else { cause };
    }
    let free = |area: &crate::pool::AreaState| pool.area_slots().wrapping_sub(area.used);
    if pool.areas().iter().all(|area| plan.n > free(area)) {
        return Cause::PoolFull;
    }
    if livelock {
        return Cause::Livelock;
    }
    let first = area_order(pool.areas().len(), cpu).next().unwrap_or(0);
    area_cause(pool, first, plan)
}

/// Causes that lie in the request alone; `most` slots has a segment.
pub(crate) fn size_cause(plan: &Plan, most: u64) -> Option<Cause> {
    match (plan.n, plan.n_bare) {
        (0, _) => Some(Cause::Empty),
        (n, bare) if n > most => Some(if bare > most { Cause::TooLarge } else { Cause::TooLargeWithOffset }),
        _ => None,
    }
}

/// The cause of a request that not even an empty pool could serve.
pub(crate) fn impossible(pool: &mut SlotPool, plan: &Plan) -> Option<Cause> {
    size_cause(plan, pool.segment_slots()).or_else(|| match plan.n > plan.boundaries.max_slots {
        true => Some(Cause::BoundaryImpossible),
        false => (!Fits::of(pool, 0, plan, true).both).then_some(Cause::AlignmentImpossible),
    })
}

/// Everything about a refusal whose cause is known.
pub(crate) fn explain(pool: &mut SlotPool, plan: &Plan, cpu: u32, size: u64, search: Search, cause: Cause) -> Refusal {
    let of_state = !matches!(
        cause,
        Cause::Empty
            | Cause::NoPool
            | Cause::NotAddressable
            | Cause::Forbidden
            | Cause::TooLarge
            | Cause::TooLargeWithOffset
    );
    let (mut areas, mut endless) = (Vec::new(), None);
    if of_state && cause != Cause::PoolAboveMask {
        for area in area_order(pool.areas().len(), cpu) {
            let cause = match find(pool, area, plan, search) {
                Found::Livelock => {
                    endless = endless.or_else(|| walk::endless(pool, area, plan));
                    Cause::Livelock
                }
                Found::Nothing | Found::Slot(_) => area_cause(pool, area, plan),
            };
            let from = area as u64 * pool.area_slots();
            let largest_run = (from..from + pool.area_slots()).map(|s| pool.run_at(s)).max().unwrap_or(0);
            let free = pool.area_slots().wrapping_sub(pool.areas()[area].used);
            areas.push(AreaRefusal { area: area as u32, cause, free, largest_run });
        }
    }
    Refusal {
        cause,
        size,
        offset: plan.offset,
        slots: plan.n,
        nslabs: pool.geometry().nslabs,
        free: pool.geometry().nslabs - pool.used(),
        segment_slots: pool.segment_slots(),
        largest_run: pool.largest_run(),
        free_runs: pool.free_runs(),
        endless,
        boundary_slots: plan.boundaries.max_slots,
        out_of_reach: None,
        growing: None,
        forbidden: None,
        areas,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { slots, nslabs, free, largest_run, .. } = self;
        match self.cause {
            Cause::Empty => write!(f, "a mapping of 0 bytes"),
            Cause::NoPool => write!(f, "there is no bounce pool"),
            Cause::NotAddressable => {
                write!(f, "the device does not reach the buffer")?;
                self.reach(f)?;
                match self.forbidden {
                    Some(why) => write!(f, ", and {}", why.in_short()),
                    None if nslabs == 0 => write!(f, ", and there is no bounce pool"),
                    None => write!(f, ", and bouncing is switched off"),
                }
            }
            Cause::Forbidden => write!(f, "{}", self.forbidden.map_or("a copy is forbidden", Forbidden::sentence)),
            Cause::TooLarge | Cause::TooLargeWithOffset => {
                write!(f, "needs {slots} slots: {}; a segment has {}", self.bytes(), self.segment_slots)
            }
            Cause::PoolFull => {
                write!(f, "needs {slots} slots: {}; {} of {} are free", self.bytes(), count(free), count(nslabs))?;
                match self.areas.iter().map(|a| a.free).max() {
                    Some(best) if self.areas.len() > 1 => write!(f, ", {} at most in one area", count(best)),
                    _ => Ok(()),
                }
            }
            Cause::AreaFull => {
                let first = self.areas.first().map_or((0, 0), |a| (a.area, a.free));
                write!(
                    f,
                    "needs {slots} slots: {}; area {} has {} free, {} of {} are free in all",
                    self.bytes(),
                    first.0,
                    count(first.1),
                    count(free),
                    count(nslabs)
                )
            }
            Cause::Livelock => {
                write!(f, "needs {slots} slots: {}; none fit, and this kernel's search would not end", self.bytes())?;
                match self.endless {
                    Some(Endless { begin, first, last, stride }) => write!(
                        f,
                        ": it ends only on slot {}, where it began, but comes round by slot {} and goes on from slot {} by {}",
                        count(begin),
                        count(first),
                        count(last),
                        count(stride)
                    ),
                    None => Ok(()),
                }
            }
            Cause::BoundaryImpossible => write!(
                f,
                "needs {slots} slots: {}; the device's segment boundary comes every {} slots",
                self.bytes(),
                self.boundary_slots
            ),
            Cause::Boundary => write!(
                f,
                "needs {slots} slots: {}; {}every free run long enough crosses the device's segment boundary, one in {} slots",
                self.bytes(),
                self.area(": "),
                self.boundary_slots
            ),
            Cause::AlignmentImpossible => write!(
                f,
                "needs {slots} slots: {}; at no address the masks allow are there so many in one segment",
                self.bytes()
            ),
            Cause::Alignment if self.areas.len() > 1 => write!(
                f,
                "needs {slots} slots: {}; {}none begins at an address the masks allow; the pool's longest has {largest_run}",
                self.bytes(),
                self.area(", but "),
            ),
            Cause::Alignment => write!(
                f,
                "needs {slots} slots: {}; the longest free run has {largest_run}, but none begins at an address the masks allow",
                self.bytes()
            ),
            Cause::Stride => write!(
                f,
                "needs {slots} slots: {}; {}a run is free, but this kernel's search steps over it",
                self.bytes(),
                self.area(": "),
            ),
            Cause::Fragmented => write!(
                f,
                "needs {slots} slots: {}; {}{} of {} are free{}, the longest of {} runs has {largest_run}",
                self.bytes(),
                self.area("; "),
                count(free),
                count(nslabs),
                if self.areas.len() > 1 { " in all" } else { "" },
                count(self.free_runs)
            ),
            Cause::GrowPending | Cause::TransientRefused => {
                write!(f, "needs {slots} slots: {}; no pool had room", self.bytes())?;
                self.growing(f)
            }
            Cause::PoolAboveMask => {
                write!(f, "slots were free, but the device does not reach them")?;
                self.reach(f)
            }
        }
    }
}

impl Refusal {
    fn bytes(&self) -> String {
        let size = bytes(self.size);
        if self.offset == 0 { size } else { format!("{size} + {} offset", bytes(self.offset)) }
    }

    /// What the first area tried had, whose cause it is, and what leads on from there; nothing of a pool of one area, whose
    /// figures are the pool's.
    fn area(&self, then: &str) -> String {
        match self.areas.as_slice() {
            &[AreaRefusal { area, free, largest_run, .. }, _, ..] => {
                format!("area {area}: {} free, longest run {largest_run}{then}", count(free))
            }
            _ => String::new(),
        }
    }

    fn growing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Growing { worker_slots, transient }) = self.growing else { return Ok(()) };
        match transient {
            Transient::Refused { limit } => write!(
                f,
                ", and there were no pages at or below {limit:#x} for one of its own; a pool of {worker_slots} was on its way"
            ),
            Transient::Unfit { start } => write!(
                f,
                ", and in one of its own at {start:#x} it would begin at an address the masks do not allow; a pool of {worker_slots} was on its way"
            ),
        }
    }

    fn reach(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.out_of_reach {
            Some((u64::MAX, _)) => write!(f, " (its bus sees nothing there)"),
            Some((last, reach)) => write!(f, " (last byte {last:#x}, reach {reach:#x})"),
            None => Ok(()),
        }
    }
}

/// Bytes for people: whole KiB where it is whole, else bytes with thousands set apart.
fn bytes(n: u64) -> String {
    if n >= 4096 && n.is_multiple_of(SLOT_BYTES) {
        return format!("{} KiB", n / 1024);
    }
    format!("{} B", count(n))
}
