//! The fast model beside the literal one: same slots, same cursors, same `list[]`, and the invariants of SPEC 12, after
//! every step of random loads.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "reference/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod literal;

use literal::{Answer, Reference};
use proptest::prelude::*;
use replay::{Allocator, Cause, GENERATIONS, Generation, Geometry, Limits, Request};

/// One step of a random load.
#[derive(Clone, Debug)]
enum Step {
    Map {
        request: Request,
        device: usize,
    },
    /// Undo the mapping at this place in the list of those alive, counted modulo its length.
    Unmap(usize),
}

#[derive(Clone, Debug)]
struct Case {
    rules: &'static Generation,
    pool: Geometry,
    devices: Vec<Limits>,
    steps: Vec<Step>,
}

fn devices() -> impl Strategy<Value = Limits> {
    let masks =
        prop::sample::select(vec![0, 0, 0, 0x1ff, 0x7ff, 0xfff, 0xfff, 0x1fff, 0x3fff, 0xffff, 0x3_ffff, 0xf_ffff]);
    let boundaries =
        prop::sample::select(vec![u64::MAX, u64::MAX, 0xffff_ffff, 0xf_ffff, 0x1_ffff, 0xffff, 0xfff, 0x7ff, 0x3ff]);
    (masks, boundaries).prop_map(|(min_align_mask, boundary)| Limits { reach: u64::MAX, min_align_mask, boundary })
}

fn requests(all_masks: bool) -> impl Strategy<Value = Request> {
    let orig = prop_oneof![
        8 => (0x10_0000u64..0x20_0000, prop::sample::select(vec![0, 0, 0x800, 0xa00, 0xa34, 0x7ff, 1]))
            .prop_map(|(page, low)| page << 12 | low),
        1 => Just(0),
    ];
    let size = prop_oneof![
        4 => 1u64..3000,
        4 => prop::sample::select(vec![2048, 4096, 8192, 16384, 65536]),
        2 => 3000u64..70_000,
        1 => 200_000u64..270_000,
    ];
    let granules = if all_masks { vec![0, 0, 0, 0x7ff, 0xfff, 0x3fff, 0xffff, 0x1ff] } else { vec![0] };
    (orig, size, prop::sample::select(granules), 0u32..9).prop_map(|(orig_addr, size, align_mask, cpu)| Request {
        orig_addr,
        size,
        align_mask,
        cpu,
    })
}

fn cases(steps: usize) -> impl Strategy<Value = Case> {
    let starts = prop::sample::select(vec![0x1000_0000u64, 0x1000_1000, 0x7400_0800, 0x7401_f000, 0x1_0010_1000]);
    let pools = (starts, prop::sample::select(vec![1u32, 2, 4]), prop::sample::select(vec![1u64, 2, 3, 8]));
    let rules = (0..GENERATIONS.len()).prop_map(|i| &GENERATIONS[i]);
    let step = prop_oneof![
        3 => (requests(true), 0usize..4).prop_map(|(request, device)| Step::Map { request, device }),
        2 => any::<usize>().prop_map(Step::Unmap),
    ];
    (rules, pools, prop::collection::vec(devices(), 4), prop::collection::vec(step, 1..steps)).prop_map(
        |(rules, (start, areas, segments), devices, steps)| {
            let areas = if rules.areas { areas } else { 1 };
            // An area may be half a segment in 6.0 (SPEC 2.3).
            let nslabs = if rules.id == "v6_0" && segments == 1 { 128 } else { 128 * segments * u64::from(areas) };
            Case { rules, pool: Geometry { start, nslabs, areas }, devices, steps }
        },
    )
}

/// Plays a case to both and compares them after every step.
fn compare(case: &Case) -> Result<u64, TestCaseError> {
    let mut fast = Allocator::new(case.rules, &[case.pool]);
    let mut slow = Reference::new(case.rules, case.pool);
    let mut alive: Vec<(u64, u64, u64, usize)> = Vec::new();
    let mut compared = 0;
    for step in &case.steps {
        match *step {
            Step::Map { request, device } => {
                let limits = &case.devices[device];
                let before: Vec<u32> = slow.list.clone();
                let expected = slow.map(&request, limits);
                let got = match fast.map(&request, limits) {
                    Ok(t) => {
                        Answer::Taken { tlb_addr: t.tlb_addr, first: u64::from(t.first_slot), n: u64::from(t.nslots) }
                    }
                    Err(Cause::Livelock) => Answer::Livelock,
                    Err(cause) => {
                        explain_holds(&mut fast, &request, limits, cause, &before)?;
                        Answer::Failed
                    }
                };
                prop_assert_eq!(got, expected, "{:?} for {:?}", request, limits);
                if let Answer::Taken { tlb_addr, first, n } = got {
                    placed_well(case, &request, limits, tlb_addr, first, n)?;
                    alive.push((tlb_addr, first, n, device));
                }
            }
            Step::Unmap(which) => {
                if !alive.is_empty() {
                    let (tlb_addr, _, n, device) = alive.swap_remove(which % alive.len());
                    slow.unmap(tlb_addr, &case.devices[device]);
                    prop_assert_eq!(fast.unmap(tlb_addr, &case.devices[device]), Some(n as u32));
                }
            }
        }
        same_state(&fast, &slow, &alive)?;
        compared += 1;
    }
    Ok(compared)
}

/// I1 to I5 and I9, and equality of the two states.
fn same_state(fast: &Allocator, slow: &Reference, alive: &[(u64, u64, u64, usize)]) -> Result<(), TestCaseError> {
    let pool = &fast.pools()[0];
    prop_assert!(pool.list().eq(slow.list.iter().copied()), "list[] differs");
    for (area, state) in pool.areas().iter().enumerate() {
        prop_assert_eq!((state.index, state.used), (slow.index[area], slow.used[area]), "area {}", area);
        prop_assert!(state.index < pool.area_slots(), "I5");
    }
    let mut taken = vec![false; slow.list.len()];
    for &(_, first, n, _) in alive {
        prop_assert!((1..=128).contains(&n) && first % 128 + n <= 128, "I1, I9");
        for slot in first..first + n {
            prop_assert!(!std::mem::replace(&mut taken[slot as usize], true), "I1: slot {} twice", slot);
        }
    }
    let mut run = 0;
    for slot in (0..taken.len()).rev() {
        run = if taken[slot] {
            0
        } else if slot % 128 == 127 {
            1
        } else {
            run + 1
        };
        prop_assert_eq!(slow.list[slot], run, "I2, I3 at {}", slot);
    }
    let total: u64 = alive.iter().map(|&(_, _, n, _)| n).sum();
    prop_assert_eq!(fast.used(), total, "I4");
    prop_assert!(fast.high_water() >= total, "I13");
    Ok(())
}

/// I6, I7 and I8 of a new allocation.
fn placed_well(
    case: &Case,
    request: &Request,
    limits: &Limits,
    tlb_addr: u64,
    first: u64,
    n: u64,
) -> Result<(), TestCaseError> {
    let aligned = case.rules.min_align;
    if aligned {
        prop_assert_eq!((tlb_addr ^ request.orig_addr) & limits.min_align_mask & 2047, 0, "I6, inside the slot");
    }
    let bits = limits.min_align_mask.min(limits.boundary);
    if case.rules.pads && request.orig_addr != 0 && limits.min_align_mask <= bits {
        prop_assert_eq!((tlb_addr ^ request.orig_addr) & limits.min_align_mask, 0, "I6");
    }
    if case.rules.pads && request.align_mask <= limits.boundary {
        prop_assert_eq!((case.pool.start + first * 2048) & request.align_mask & !2047, 0, "I7");
    }
    if (2047..u64::MAX).contains(&limits.boundary) && case.pool.start & limits.boundary & 2047 == 0 {
        let (from, to) = (case.pool.start + first * 2048, case.pool.start + (first + n) * 2048 - 1);
        prop_assert_eq!(from & !limits.boundary, to & !limits.boundary, "I8");
    }
    Ok(())
}

/// A refusal's cause, held against a count over all slots; and that it changed nothing.
fn explain_holds(
    fast: &mut Allocator,
    request: &Request,
    limits: &Limits,
    cause: Cause,
    before: &[u32],
) -> Result<(), TestCaseError> {
    let refusal = fast.explain(request, limits, cause);
    prop_assert_eq!(refusal.cause, cause);
    let free = before.iter().filter(|&&run| run > 0).count() as u64;
    let longest = before.iter().copied().max().unwrap_or(0);
    prop_assert_eq!((refusal.free, refusal.largest_run), (free, longest));
    match cause {
        Cause::TooLarge | Cause::TooLargeWithOffset => prop_assert!(refusal.slots > 128),
        Cause::PoolFull => prop_assert!(refusal.areas.iter().all(|a| a.free < refusal.slots)),
        Cause::AreaFull => prop_assert!(refusal.areas[0].free < refusal.slots),
        Cause::Fragmented => {
            let first = refusal.areas[0];
            prop_assert!(first.free >= refusal.slots && u64::from(first.largest_run) < refusal.slots);
        }
        Cause::Boundary | Cause::Alignment | Cause::AlignmentImpossible | Cause::Stride => {
            prop_assert!(u64::from(refusal.areas[0].largest_run) >= refusal.slots);
        }
        Cause::BoundaryImpossible => prop_assert!(refusal.slots > refusal.boundary_slots),
        other => return Err(TestCaseError::fail(format!("{other} is not the allocator's to give"))),
    }
    prop_assert!(!refusal.to_string().is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn fast_and_literal_agree(case in cases(600)) {
        compare(&case)?;
    }
}
