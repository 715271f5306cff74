//! The fast model beside the literal one: same slots, same cursors, same `list[]`, and the invariants of SPEC 12, after
//! every step of a load. Panics where they differ. Used by the property test and by the fuzz target; both have the
//! literal model as `crate::literal`.

use crate::literal::{Answer, Reference};
use replay::{Allocator, Cause, Generation, Geometry, Limits, Request};

/// One step of a random load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Map {
        request: Request,
        device: usize,
    },
    /// Undo the mapping at this place in the list of those alive, counted modulo its length.
    Unmap(usize),
}

#[derive(Clone, Debug)]
pub struct Case {
    pub rules: &'static Generation,
    /// The pool; `rfc64`'s second is made from it.
    pub pool: Geometry,
    /// Slots of a segment: 128 but in what-ifs.
    pub segment: u64,
    pub devices: Vec<Limits>,
    pub steps: Vec<Step>,
}

impl Case {
    /// The pools, `rfc64`'s second twice as long as the first.
    fn pools(&self) -> Vec<Geometry> {
        let low = self.pool;
        let high = Geometry { start: low.end() + (1 << 32), nslabs: low.nslabs * 2, areas: 1 };
        if self.rules.has_high_pool() { vec![low, high] } else { vec![low] }
    }
}

/// A mapping that is alive.
struct Alive {
    pool: usize,
    tlb_addr: u64,
    first: u64,
    n: u64,
    device: usize,
}

/// Plays a case to both and compares their answers, cursors and counts after every step, the whole `list[]` after every
/// so many steps and at the end.
pub fn compare(case: &Case, every: usize) {
    let pools = case.pools();
    let mut fast = Allocator::new(case.rules, &pools);
    fast.cut_into(case.segment);
    // What one pool is asked the other is not told, so that they agree after each step is I14.
    let mut slow: Vec<_> = pools.iter().map(|&pool| Reference::cut(case.rules, pool, case.segment)).collect();
    let mut alive: Vec<Alive> = Vec::new();
    for (number, step) in (1..).zip(&case.steps) {
        let look = number % every == 0 || number == case.steps.len();
        match *step {
            Step::Map { request, device } => {
                let limits = &case.devices[device];
                // SPEC 9: all 64 bits or the low pool, and no falling back.
                let pool = usize::from(pools.len() > 1 && limits.reach == u64::MAX);
                let expected = slow[pool].map(&request, limits);
                let before = look.then(|| fast.clone());
                let got = match fast.map(&request, limits) {
                    Ok(t) => {
                        assert_eq!(t.pool as usize, pool, "for {limits:?}");
                        Answer::Taken { tlb_addr: t.tlb_addr, first: u64::from(t.first_slot), n: u64::from(t.nslots) }
                    }
                    Err(Cause::Livelock) => Answer::Livelock,
                    Err(cause) => {
                        explain_holds(&mut fast, &request, limits, cause, &slow[pool].list);
                        Answer::Failed
                    }
                };
                assert_eq!(got, expected, "{:?} for {:?}", request, limits);
                if let Answer::Taken { tlb_addr, first, n } = got {
                    placed_well(case, &pools[pool], &request, limits, (tlb_addr, first, n));
                    if let Some(before) = before {
                        undone_is_as_before(&before, &fast, tlb_addr, limits);
                    }
                    alive.push(Alive { pool, tlb_addr, first, n, device });
                }
            }
            Step::Unmap(which) => {
                if !alive.is_empty() {
                    let Alive { pool, tlb_addr, n, device, .. } = alive.swap_remove(which % alive.len());
                    slow[pool].unmap(tlb_addr, &case.devices[device]);
                    assert_eq!(fast.unmap(tlb_addr, &case.devices[device]), Some(n as u32));
                }
            }
        }
        same_counts(&fast, &slow);
        if look {
            same_slots(&fast, &slow, &alive, case.segment);
        }
    }
}

/// I5, and equality of cursors and counts.
fn same_counts(fast: &Allocator, slow: &[Reference]) {
    for (number, (pool, slow)) in fast.pools().iter().zip(slow).enumerate() {
        for (area, state) in pool.areas().iter().enumerate() {
            assert_eq!((state.index, state.used), (slow.index[area], slow.used[area]), "pool {number}, area {area}");
            assert!(state.index < pool.area_slots(), "I5");
        }
    }
}

/// I1 to I4, I9, I10 and I13, and equality of `list[]`.
fn same_slots(fast: &Allocator, slow: &[Reference], alive: &[Alive], segment: u64) {
    for (number, slow) in slow.iter().enumerate() {
        assert!(fast.pools()[number].list().eq(slow.list.iter().copied()), "list[] of pool {number} differs");
        let mut taken = vec![false; slow.list.len()];
        let mut kept = vec![false; slow.list.len()];
        for &Alive { first, n, tlb_addr, .. } in alive.iter().filter(|alive| alive.pool == number) {
            assert!((1..=segment).contains(&n) && first % segment + n <= segment, "I1, I9");
            for slot in first..first + n {
                assert!(!std::mem::replace(&mut taken[slot as usize], true), "I1: slot {} twice", slot);
            }
            kept[((tlb_addr - slow.pool.start) >> 11) as usize..(first + n) as usize].fill(true);
        }
        assert!(slow.orig_addr.iter().map(|&orig| orig != u64::MAX).eq(kept), "I10: data slots have one, pads do not");
        let mut run = 0;
        for slot in (0..taken.len()).rev() {
            run = if taken[slot] {
                0
            } else if slot as u64 % segment == segment - 1 {
                1
            } else {
                run + 1
            };
            assert_eq!(slow.list[slot], run, "I2, I3 at {}", slot);
        }
    }
    let total: u64 = alive.iter().map(|alive| alive.n).sum();
    assert_eq!(fast.used(), total, "I4");
    assert!(fast.high_water() >= total, "I13");
}

/// I11: giving back what was just taken restores `list[]` and the counts, but no cursor.
fn undone_is_as_before(before: &Allocator, after: &Allocator, tlb_addr: u64, limits: &Limits) {
    let mut undone = after.clone();
    assert!(undone.unmap(tlb_addr, limits).is_some());
    assert_eq!(undone.used(), before.used(), "I11");
    for ((undone, before), after) in undone.pools().iter().zip(before.pools()).zip(after.pools()) {
        assert!(undone.list().eq(before.list()), "I11: list[]");
        for ((undone, before), after) in undone.areas().iter().zip(before.areas()).zip(after.areas()) {
            assert_eq!((undone.used, undone.index), (before.used, after.index), "I11");
        }
    }
}

/// I6, I7 and I8 of a new allocation.
fn placed_well(
    case: &Case,
    pool: &Geometry,
    request: &Request,
    limits: &Limits,
    (tlb_addr, first, n): (u64, u64, u64),
) {
    let aligned = case.rules.min_align;
    if aligned {
        assert_eq!((tlb_addr ^ request.orig_addr) & limits.min_align_mask & 2047, 0, "I6, inside the slot");
    }
    let bits = limits.min_align_mask.min(limits.boundary);
    if case.rules.pads && request.orig_addr != 0 && limits.min_align_mask <= bits {
        assert_eq!((tlb_addr ^ request.orig_addr) & limits.min_align_mask, 0, "I6");
    }
    if case.rules.pads && request.align_mask <= limits.boundary {
        assert_eq!((pool.start + first * 2048) & request.align_mask & !2047, 0, "I7");
    }
    if (2047..u64::MAX).contains(&limits.boundary) && pool.start & limits.boundary & 2047 == 0 {
        let (from, to) = (pool.start + first * 2048, pool.start + (first + n) * 2048 - 1);
        assert_eq!(from & !limits.boundary, to & !limits.boundary, "I8");
    }
}

/// A refusal's cause, held against a count over all slots: a refusal changes none.
fn explain_holds(fast: &mut Allocator, request: &Request, limits: &Limits, cause: Cause, list: &[u32]) {
    let refusal = fast.explain(request, limits, cause);
    assert_eq!(refusal.cause, cause);
    let free = list.iter().filter(|&&run| run > 0).count() as u64;
    let longest = list.iter().copied().max().unwrap_or(0);
    assert_eq!((refusal.free, refusal.largest_run), (free, longest));
    match cause {
        Cause::TooLarge | Cause::TooLargeWithOffset => assert!(refusal.slots > refusal.segment_slots),
        Cause::PoolFull => assert!(refusal.areas.iter().all(|a| a.free < refusal.slots)),
        Cause::AreaFull => assert!(refusal.areas[0].free < refusal.slots),
        Cause::Fragmented => {
            let first = refusal.areas[0];
            assert!(first.free >= refusal.slots && u64::from(first.largest_run) < refusal.slots);
        }
        Cause::Boundary | Cause::Alignment | Cause::AlignmentImpossible | Cause::Stride => {
            assert!(u64::from(refusal.areas[0].largest_run) >= refusal.slots);
        }
        Cause::BoundaryImpossible => assert!(refusal.slots > refusal.boundary_slots),
        other => panic!("{other} is not the allocator's to give"),
    }
    assert!(!refusal.to_string().is_empty());
}
