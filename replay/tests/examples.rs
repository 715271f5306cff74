//! The worked examples of SPEC 14 for fixed pools (E13 stands beside the frame table), with the causes of refusals.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use replay::{Allocator, Cause, Generation, Geometry, Limits, Request, Taken};

const START: u64 = 0x1000_0000;

fn allocator(id: &str, nslabs: u64, areas: u32) -> Allocator {
    Allocator::new(Generation::by_id(id).unwrap(), &[Geometry { start: START, nslabs, areas }])
}

fn at(orig_addr: u64, size: u64) -> Request {
    Request { orig_addr, size, align_mask: 0, cpu: 0 }
}

fn align(min_align_mask: u64) -> Limits {
    Limits { min_align_mask, ..Limits::NONE }
}

fn slot(taken: Result<Taken, Cause>) -> u32 {
    taken.unwrap().first_slot
}

fn index(a: &Allocator) -> u64 {
    a.pools()[0].areas()[0].index
}

fn list(a: &Allocator, n: usize) -> Vec<u32> {
    a.pools()[0].list().take(n).collect()
}

#[test]
fn e1_back_fill_and_release() {
    let mut a = allocator("legacy", 256, 1);
    let none = Limits::NONE;
    assert_eq!((slot(a.map(&at(0, 2048), &none)), index(&a)), (0, 1));
    assert_eq!((slot(a.map(&at(0, 4096), &none)), index(&a)), (2, 4));
    assert_eq!(list(&a, 5), [0, 1, 0, 0, 124]);
    assert_eq!(slot(a.map(&at(0, 2048), &none)), 4);
    assert_eq!(a.unmap(START + 2 * 2048, &none), Some(2));
    assert_eq!(list(&a, 6), [0, 3, 2, 1, 0, 123]);
    assert_eq!((slot(a.map(&at(0, 262_143), &none)), index(&a)), (128, 0));
}

#[test]
fn e2_min_align_mask() {
    let nvme = align(0xfff);
    let request = at(0x2000_0a00, 4096);
    assert_eq!(slot(allocator("legacy", 256, 1).map(&request, &nvme)), 0);
    for id in ["v5_12", "v5_15", "v5_16", "v6_0", "v6_1y", "v6_3", "v6_6", "v6_6y", "v6_8", "v6_9", "v6_10"] {
        let mut a = allocator(id, 256, 1);
        let first = a.map(&request, &nvme).unwrap();
        assert_eq!((first.tlb_addr, first.nslots, index(&a)), (0x1000_0a00, 3, 4), "{id}");
        assert_eq!((a.map(&request, &nvme).unwrap().tlb_addr, index(&a)), (0x1000_2a00, 8), "{id}");
        assert_eq!((list(&a, 5)[0], list(&a, 5)[4]), (1, 1), "{id}");
    }
}

#[test]
fn e3_the_page_quirk_of_c() {
    for g in replay::GENERATIONS {
        let c = g.search == replay::rules::Search::C;
        let mut a = allocator(g.id, 256, 1);
        let slots = [0x2000_0800, 0x2000_0000].map(|phys| slot(a.map(&at(phys, 4096), &Limits::NONE)));
        assert_eq!(slots, if c { [1, 4] } else { [0, 2] }, "{}", g.id);
    }
}

#[test]
fn e4_the_doubled_stride_of_b() {
    let nvme = align(0xfff);
    for g in replay::GENERATIONS {
        use replay::rules::Search::{B, BSplit};
        let b = matches!(g.search, B | BSplit);
        let mut a = allocator(g.id, 256, 1);
        assert_eq!((slot(a.map(&at(0x1234_5000, 4096), &nvme)), index(&a)), (0, 2), "{}", g.id);
        assert_eq!(slot(a.map(&at(0x1234_5000, 4096), &nvme)), if b { 4 } else { 2 }, "{}", g.id);
    }
    let mut a = allocator("v5_12", 128, 1);
    for request in [at(0x1234_5000, 4096), at(0x1234_5000, 4096), at(0x1234_5800, 2048)] {
        a.map(&request, &nvme).unwrap();
    }
    assert_eq!((index(&a), list(&a, 9)), (8, vec![0, 0, 2, 1, 0, 0, 1, 0, 120]));
}

#[test]
fn e5_segment_boundary() {
    let small = Limits { boundary: 0xffff, ..Limits::NONE };
    let mut a = allocator("v6_10", 256, 1);
    assert_eq!([0, 0, 0].map(|_| slot(a.map(&at(0, 40 << 10), &small))), [0, 32, 64]);
    let rules = Generation::by_id("v6_10").unwrap();
    let mut a = Allocator::new(rules, &[Geometry { start: 0x1000_1000, nslabs: 256, areas: 1 }]);
    assert_eq!((slot(a.map(&at(0, 64 << 10), &small)), index(&a)), (30, 62));
    assert_eq!(slot(a.map(&at(0, 60 << 10), &small)), 62);
    assert_eq!(a.map(&at(0, (64 << 10) + 2048), &small), Err(Cause::BoundaryImpossible));
}

/// Search B looks at address bits 14 and 15 only where a caller's 16 KiB are split off a device's 64 KiB (SPEC 3.4): any
/// slot of the eight below will do, also in a pool that begins two slots off.
#[test]
fn a_mask_with_a_hole_leaves_the_low_slots_open() {
    let rules = Generation::by_id("v6_1y").unwrap();
    let mut a = Allocator::new(rules, &[Geometry { start: 0x1000_1000, nslabs: 256, areas: 1 }]);
    let halves = [0; 4].map(|_| a.map(&at(0x1_0000_0000, 128 << 10), &Limits::NONE).unwrap());
    let whole = Request { align_mask: 0x3fff, ..at(0x1_0000_0000, 245_761) };
    a.unmap(halves[0].tlb_addr, &Limits::NONE).unwrap();
    a.unmap(halves[2].tlb_addr, &Limits::NONE).unwrap();
    // A search in vain: what is remembered of it must not stand in the next one's way.
    assert!(a.map(&at(0x1_0000_0000, 200 << 10), &Limits::NONE).is_err());
    a.unmap(halves[1].tlb_addr, &Limits::NONE).unwrap();
    assert_eq!(slot(a.map(&whole, &align(0xffff))), 0);
}

#[test]
fn e6_wrap() {
    let mut a = allocator("v6_10", 256, 1);
    let slots: Vec<u32> = (0..8).map(|_| slot(a.map(&at(0, 64 << 10), &Limits::NONE))).collect();
    assert_eq!((slots, index(&a)), ((0..8).map(|i| i * 32).collect(), 0));
    a.unmap(START, &Limits::NONE).unwrap();
    a.unmap(START + (64 << 10), &Limits::NONE).unwrap();
    assert_eq!((slot(a.map(&at(0, 64 << 10), &Limits::NONE)), index(&a)), (0, 32));
}

#[test]
fn e7_areas() {
    let mut a = allocator("v6_10", 1024, 4);
    let mut on = |cpu, size| slot(a.map(&Request { cpu, ..at(0, size) }, &Limits::NONE));
    assert_eq!([on(6, 8192), on(6, 8192), on(1, 8192), on(3, 8192)], [512, 516, 256, 768]);
    assert_eq!([on(2, 256 << 10), on(2, 256 << 10)], [640, 896]);
}

#[test]
fn e8_padding() {
    let device = align(0xffff);
    let request = Request { align_mask: 0x3fff, ..at(0x4000_1a00, 0x400) };
    let mut a = allocator("v6_10", 256, 1);
    let taken = a.map(&request, &device).unwrap();
    assert_eq!((taken.tlb_addr, taken.first_slot, taken.nslots), (0x1000_1a00, 0, 8));
    assert_eq!((a.unmap(taken.tlb_addr, &device), a.used()), (Some(8), 0));
    assert_eq!(allocator("v6_9", 256, 1).map(&request, &device).unwrap().nslots, 12);
}

#[test]
fn e9_the_maximum_with_an_offset() {
    let nvme = align(0xfff);
    let one = |phys, size| allocator("v6_10", 256, 1).map(&at(phys, size), &nvme);
    let taken = one(0x2000_0a00, 258_048).unwrap();
    assert_eq!((taken.first_slot, taken.nslots), (1, 127));
    assert_eq!(one(0x2000_0a00, 260_096), Err(Cause::AlignmentImpossible));
    assert_eq!(slot(one(0x2000_0000, 260_096)), 0);
    assert_eq!(one(0x2000_0a00, 262_144), Err(Cause::TooLargeWithOffset));
    let mut a = allocator("v6_10", 256, 1);
    let refused = a.explain(&at(0x2000_0a00, 262_144), &nvme, Cause::TooLargeWithOffset);
    assert_eq!(refused.to_string(), "needs 129 slots: 256 KiB + 512 B offset; a segment has 128");
}

#[test]
fn e11_the_search_that_never_ends() {
    let nvme = align(0xfff);
    let request = at(0x2000_0a00, 4096);
    for g in replay::GENERATIONS.iter().filter(|g| g.min_align) {
        let mut a = allocator(g.id, 128, 1);
        for k in 0..32 {
            assert_eq!(slot(a.map(&request, &nvme)), 1 + 4 * k, "{}", g.id);
        }
        let refused = a.map(&request, &nvme).unwrap_err();
        assert_ne!(refused, Cause::Livelock, "{}: the cursor stands at 0, so the search ends", g.id);
        a.unmap(START + 0xa00, &nvme).unwrap();
        assert_eq!((slot(a.map(&request, &nvme)), index(&a)), (1, 4), "{}", g.id);
        use replay::rules::Search::{B, BSplit};
        let spins = matches!(g.search, B | BSplit);
        assert_eq!(a.map(&request, &nvme) == Err(Cause::Livelock), spins, "{}", g.id);
        assert_eq!((a.used(), index(&a)), (96, 4), "{}", g.id);
        if spins {
            // The slots SPEC 3.4 says it visits: 4, 5, 9, …, 125, 0, 1, 5, … and never 4 again.
            assert_eq!(
                a.explain(&request, &nvme, Cause::Livelock).to_string(),
                "needs 3 slots: 4 KiB + 512 B offset; none fit, and this kernel's search would not end: it ends only \
                 on slot 4, where it began, but comes round by slot 1 and goes on from slot 1 by 4",
                "{}",
                g.id
            );
        }
    }
}

/// A cause is the first area's, so with several the figures it rests on are that area's.
#[test]
fn refusals_say_which_area_they_are_about() {
    let mut a = allocator("v6_10", 256, 2);
    let on = |cpu, size| Request { cpu, ..at(0, size) };
    for cpu in [0, 1] {
        (0..128).for_each(|_| assert!(a.map(&on(cpu, 2048), &Limits::NONE).is_ok()));
    }
    let mut free =
        |slots: &[u64]| slots.iter().for_each(|n| assert!(a.unmap(START + n * 2048, &Limits::NONE).is_some()));
    free(&(0..64).map(|n| 2 * n).collect::<Vec<_>>());
    free(&[129, 130]);
    let mut text = |cpu, size, limits| {
        let cause = a.map(&on(cpu, size), limits).unwrap_err();
        a.explain(&on(cpu, size), limits, cause).to_string()
    };
    let pool = "66 of 256 are free in all, the longest of 65 runs has 2";
    let none = &Limits::NONE;
    assert_eq!(text(0, 4096, none), format!("needs 2 slots: 4 KiB; area 0: 64 free, longest run 1; {pool}"));
    assert_eq!(text(1, 6000, none), "needs 3 slots: 6,000 B; area 1 has 2 free, 66 of 256 are free in all");
    assert_eq!(
        text(1, 4096, none),
        "needs 2 slots: 4 KiB; area 1: 2 free, longest run 2, but none begins at an address the masks allow; the pool's longest has 2"
    );
    let pages = &Limits { boundary: 0xfff, ..Limits::NONE };
    assert_eq!(
        text(1, 4095, pages),
        "needs 2 slots: 4,095 B; area 1: 2 free, longest run 2: every free run long enough crosses the device's segment boundary, one in 2 slots"
    );
}

#[test]
fn e12_fragmentation() {
    let mut a = allocator("v6_10", 128, 1);
    let taken: Vec<_> = (0..128).map(|_| a.map(&at(0, 2048), &Limits::NONE).unwrap()).collect();
    taken.iter().step_by(2).for_each(|t| assert_eq!(a.unmap(t.tlb_addr, &Limits::NONE), Some(1)));
    assert_eq!((list(&a, 4), a.used()), (vec![1, 0, 1, 0], 64));
    assert_eq!(a.map(&at(0, 4096), &Limits::NONE), Err(Cause::Fragmented));
    let refused = a.explain(&at(0, 4096), &Limits::NONE, Cause::Fragmented);
    assert_eq!(refused.to_string(), "needs 2 slots: 4 KiB; 64 of 128 are free, the longest of 64 runs has 1");
    assert_eq!(slot(a.map(&at(0, 2048), &Limits::NONE)), 0);
}

#[test]
fn e15_rfc64_sends_only_full_masks_high_and_never_falls_back() {
    let rules = Generation::by_id("rfc64").unwrap();
    let low = Geometry { start: START, nslabs: 128, areas: 1 };
    let high = Geometry { start: 1 << 32, nslabs: 128, areas: 1 };
    let mut a = Allocator::new(rules, &[low, high]);
    let reach = |reach| Limits { reach, ..Limits::NONE };
    assert_eq!(a.map(&at(0, 256 << 10), &reach(u64::MAX)).unwrap().pool, 1);
    assert_eq!(a.map(&at(0, 2048), &reach(u64::MAX)), Err(Cause::PoolFull), "the low pool is empty, and stays so");
    for limited in [(1 << 40) - 1, (1 << 48) - 1, (1 << 63) - 1] {
        assert_eq!(a.map(&at(0, 2048), &reach(limited)).unwrap().pool, 0);
    }
    assert_eq!(a.pools().iter().map(|p| p.used()).collect::<Vec<_>>(), [3, 128]);
}

#[test]
fn causes_that_need_a_state() {
    let none = Limits::NONE;
    // Free slots at odd places only, two in a row: `legacy` looks at even ones.
    let mut a = allocator("legacy", 128, 1);
    let taken: Vec<_> = (0..128).map(|_| a.map(&at(0, 2048), &none).unwrap()).collect();
    for i in [1, 2] {
        a.unmap(taken[i].tlb_addr, &none).unwrap();
    }
    assert_eq!(a.map(&at(0, 4096), &none), Err(Cause::Stride));
    assert_eq!(a.map(&at(0, 6144), &none), Err(Cause::PoolFull));
    // The same slots under a boundary between them.
    let mut a = allocator("v6_10", 128, 1);
    let page = Limits { boundary: 0xfff, ..none };
    let taken: Vec<_> = (0..128).map(|_| a.map(&at(0, 2048), &none).unwrap()).collect();
    for i in [1, 2] {
        a.unmap(taken[i].tlb_addr, &none).unwrap();
    }
    assert_eq!(a.map(&at(0x800, 2049), &page), Err(Cause::Boundary));
    assert_eq!(a.map(&at(0x1000, 4096), &align(0xfff)), Err(Cause::Alignment));
    assert_eq!(a.map(&at(0, 0), &none), Err(Cause::Empty));
    // One area full, the other in pieces.
    let mut a = allocator("v6_10", 256, 2);
    a.map(&at(0, 256 << 10), &none).unwrap();
    let other = Request { cpu: 1, ..at(0, 2048) };
    let taken: Vec<_> = (0..128).map(|_| a.map(&other, &none).unwrap()).collect();
    taken.iter().step_by(2).for_each(|t| assert_eq!(a.unmap(t.tlb_addr, &none), Some(1)));
    assert_eq!(a.map(&at(0, 4096), &none), Err(Cause::AreaFull));
    assert_eq!(a.map(&Request { cpu: 1, ..at(0, 4096) }, &none), Err(Cause::Fragmented));
    let refused = a.explain(&at(0, 4096), &none, Cause::AreaFull);
    assert_eq!(refused.areas.iter().map(|r| r.cause).collect::<Vec<_>>(), [Cause::AreaFull, Cause::Fragmented]);
}
