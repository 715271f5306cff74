//! Pools of a device's own (SPEC 2.7).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "reference/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod literal;

use literal::{Answer, Reference};
use proptest::prelude::*;
use replay::{
    Allocator, Base, Cause, GENERATIONS, Generation, Geometry, Limits, Load, Machine, Options, Outcome, Platform,
    PlatformSpec, Policy, PolicyError, Request, Surroundings, replay,
};
use trace::pool::P2mKind;
use trace::{Device, Direction, Event, Op, P2mRun};

const BASE: Base = Base { pool: Geometry { start: 0x7400_0000, nslabs: 512, areas: 1 }, cpus: Some(1), force: false };
const OWN: Geometry = Geometry { start: 0x1000_0000, nslabs: 256, areas: 1 };

fn device(id: u32, name: &str) -> Device {
    Device {
        id,
        name: name.to_owned(),
        driver: None,
        dma_mask: Some(u64::MAX),
        coherent_dma_mask: u64::MAX,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: None,
        min_align_mask: 0,
        ..Device::new(0, "")
    }
}

fn event(op: Op, time_ns: u64, device: u32, dma_addr: u64, size: u64) -> Event {
    Event {
        orig_addr: (op == Op::Map).then_some(0x20_0000),
        size: Some(size),
        dma_addr: Some(dma_addr),
        direction: Some(Direction::ToDevice),
        ..Event::new(op, time_ns, 0, 1, device)
    }
}

fn run(policy: &str, events: &[Event]) -> Outcome {
    let devices = [device(0, "0000:03:00.0"), device(1, "0000:04:00.0")];
    let load = Load::collect(events, &devices, &Surroundings::default());
    let setup = Policy::parse(policy).unwrap().resolve(&BASE).unwrap();
    replay(&load, &mut Machine::new(&setup, Platform::native()), &Options::default())
}

#[test]
fn the_devices_named_bounce_through_their_own_pool() {
    let events = [
        event(Op::Map, 1, 0, 0xa000, 4096),
        event(Op::Map, 2, 1, 0xb000, 4096),
        event(Op::Alloc, 3, 0, 0xc000, 10_000),
        event(Op::Alloc, 4, 1, 0xd000, 4096),
        event(Op::Unmap, 5, 0, 0xa000, 4096),
        event(Op::Free, 6, 0, 0xc000, 10_000),
        event(Op::Free, 7, 0, 0xf000, 4096),
    ];
    for policy in ["v5_15", "v6_1y", "v6_8+dynamic", "v6_10", "v6_10+dynamic"] {
        let out = run(&format!("{policy}:restricted=64,restricted_dev=*:03:*"), &events);
        // 4 KiB and 10,000 bytes in whole pages: 2 + 6 slots; the other device does not bounce at all.
        assert_eq!(
            (out.peak_slots.as_slice(), out.final_slots.as_slice()),
            ([0, 8].as_slice(), [0, 0].as_slice()),
            "{policy}"
        );
        assert_eq!((out.total_bounces(), out.total_failures(), out.coherent), (1, 0, 1), "{policy}");
        assert_eq!(out.devices.iter().map(|d| (d.pool, d.bounces)).collect::<Vec<_>>(), [(1, 1), (0, 0)], "{policy}");
    }
    let out = run("v6_10:restricted=64,restricted_dev=*:03:*,force=on", &events);
    assert_eq!(out.peak_slots, [2, 8]);
    let out = run("v6_10:restricted=64,swiotlb=noforce", &events);
    assert_eq!((out.peak_slots[1], out.coherent), (12, 2), "it bounces even where bouncing is switched off");
    assert_eq!(run("v6_10", &events).peak_slots, [0]);
}

#[test]
fn an_own_pool_that_is_full_does_not_grow_and_explains_itself() {
    let events: Vec<_> = (0..3).map(|i| event(Op::Map, i + 1, 0, 0xa0_0000 + (i << 20), 131_072)).collect();
    let out = run("v6_10+dynamic:restricted=128", &events);
    assert_eq!((out.failed(Cause::PoolFull), out.grown.unwrap().pools, out.peak_slots[1]), (1, 0, 128));
    assert_eq!(out.refusals[0].refusal.to_string(), "needs 64 slots: 128 KiB; 0 of 128 are free");
    let large = run("v6_10:restricted=64", &[event(Op::Alloc, 1, 0, 0xa000, 135_168)]);
    assert_eq!((large.coherent, large.coherent_failures[Cause::PoolFull as usize]), (1, 1));
}

#[test]
fn mistakes_about_restricted_pools_are_named() {
    let refused = |text: &str| Policy::parse(text).and_then(|p| p.resolve(&BASE)).unwrap_err();
    assert!(refused("v5_12:restricted=64").to_string().contains("has no parameter `restricted`"));
    assert!(refused("v6_10:restricted_dev=a*").to_string().contains("add restricted=SLOTS"));
    assert!(refused("v6_10:restricted=64,restricted_dev=a[").to_string().contains("a pattern"));
    assert!(matches!(refused("v6_10:restricted=64,restricted_start=0x74000000"), PolicyError::Overlap { .. }));
    let setup = Policy::parse("v6_10:restricted=100").unwrap().resolve(&BASE).unwrap();
    assert_eq!(setup.pools[1], Geometry { start: 0x7410_0000, nslabs: 100, areas: 1 });
    assert_eq!((setup.pool_name(0), setup.pool_name(1)), ("pool", "restricted"));
}

fn own(id: &str, nslabs: u64) -> Allocator {
    Allocator::new(Generation::by_id(id).unwrap(), &[BASE.pool, Geometry { nslabs, ..OWN }])
}

#[test]
fn coherent_memory_is_aligned_to_its_order_from_late_6_6_on() {
    let at = |id: &str| {
        let mut a = own(id, 256);
        let sizes = [4096, 4096, 12_288, 1];
        sizes.map(|size| (a.alloc_coherent(size, 0, &Limits::NONE).unwrap().tlb_addr - OWN.start) >> 11)
    };
    assert_eq!(at("v6_8"), [0, 2, 4, 10]);
    assert_eq!(at("v6_6y"), [0, 2, 8, 14], "three pages are aligned to four");
    assert_eq!(at("v6_10"), at("v6_9"));
    assert_eq!(own("v5_12", 256).alloc_coherent(1, 0, &Limits::NONE), Err(Cause::NoPool));
    assert_eq!(own("v6_10", 256).alloc_coherent(0, 0, &Limits::NONE), Err(Cause::Empty));
    assert_eq!(own("v6_10", 256).alloc_coherent(u64::MAX, 0, &Limits::NONE), Err(Cause::Empty));
    assert_eq!(own("v6_10", 256).alloc_coherent(266_240, 0, &Limits::NONE), Err(Cause::TooLarge));
}

#[test]
fn a_release_at_the_end_of_an_odd_pool_reads_on() {
    let mut a = own("v6_10", 130);
    let taken = [262_144, 4096].map(|size| a.alloc_coherent(size, 0, &Limits::NONE).unwrap());
    assert_eq!(a.unmap(taken[0].tlb_addr, &Limits::NONE), Some(128));
    assert_eq!(a.unspecified_tails(), 0);
    assert_eq!(a.unmap(taken[1].tlb_addr, &Limits::NONE), Some(2));
    assert_eq!(a.unspecified_tails(), 1);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc(u64),
    Free(usize),
}

proptest! {
    /// The path without a buffer, slot for slot; the pool may end inside a segment where the kernel allows for that, and
    /// segments may have another length than in any kernel.
    #[test]
    fn coherent_memory_as_in_the_literal_model(
        rules in prop::sample::select(GENERATIONS.iter().filter(|g| g.restricted.is_some()).collect::<Vec<_>>()),
        nslabs in prop::sample::select(vec![128u64, 256, 640, 100, 130]),
        segment in prop::sample::select(vec![128u64, 128, 128, 16, 64, 256, 1024]),
        (min_align_mask, boundary) in prop::sample::select(vec![
            (0u64, u64::MAX), (0xfff, u64::MAX), (0xffff, 0xffff_ffff), (0, 0x1_ffff),
        ]),
        steps in prop::collection::vec(prop_oneof![
            3 => (1u64..20).prop_map(Step::Alloc),
            1 => (1u64..70).prop_map(Step::Alloc),
            3 => any::<usize>().prop_map(Step::Free),
        ], 1..200),
    ) {
        let nslabs = if rules.dynamic.is_some() { nslabs } else { nslabs.next_multiple_of(segment.max(128)) };
        let limits = Limits { reach: u64::MAX, min_align_mask, boundary, ..Limits::NONE };
        let pool = Geometry { nslabs, ..OWN };
        let mut fast = Allocator::new(rules, &[BASE.pool, pool]);
        fast.cut_into(segment);
        let mut slow = Reference::cut(rules, pool, segment);
        let aligned = ["v6_6y", "v6_9", "v6_10"].contains(&rules.id);
        let mut alive = Vec::new();
        for step in steps {
            match step {
                Step::Alloc(pages) => {
                    let mask = if aligned { (pages.next_power_of_two() << 12) - 1 } else { 0 };
                    let answer = match fast.alloc_coherent(pages << 12, 0, &limits) {
                        Ok(t) => Answer::Taken { tlb_addr: t.tlb_addr, first: t.first_slot.into(), n: t.nslots.into() },
                        Err(Cause::Livelock) => Answer::Livelock,
                        Err(_) => Answer::Failed,
                    };
                    prop_assert_eq!(answer, slow.coherent(pages << 12, mask, &limits), "{}", rules.id);
                    if let Answer::Taken { tlb_addr, .. } = answer {
                        alive.push(tlb_addr);
                    }
                }
                Step::Free(_) if alive.is_empty() => {}
                Step::Free(which) => {
                    let tlb_addr = alive.swap_remove(which % alive.len());
                    slow.unmap(tlb_addr, &limits);
                    prop_assert!(fast.unmap(tlb_addr, &limits).is_some());
                }
            }
            prop_assert!(fast.pools()[1].list().eq(slow.list.iter().copied()));
            prop_assert_eq!(fast.pools()[1].areas()[0].index, slow.index[0]);
            prop_assert_eq!(fast.used(), slow.used[0]);
        }
    }
}

/// SPEC 2.7: everything such a device maps goes through its pool, also if it reaches 4 GiB only; on a frame table that
/// does not name the pool it is therefore not taken to lie above.
#[test]
fn an_own_pool_on_a_frame_table_is_in_reach() {
    let limits = Limits { reach: 0xffff_ffff, ..Limits::NONE };
    let request = Request { orig_addr: 0x20_0000, size: 4096, align_mask: 0, cpu: 0 };
    let setup = Policy::parse("v6_10:restricted=256").unwrap().resolve(&BASE).unwrap();
    let frames = [P2mRun { pfn: 0x200, mfn: 0x900, count: 1, kind: P2mKind::Own }];
    for platform in ["xen-pv", "hch-unified"] {
        let platform = Platform::recorded(PlatformSpec::parse(platform).unwrap(), &frames);
        let mut machine = Machine::new(&setup, platform);
        let mapped = machine.map_restricted(&request, &limits, &replay::Terms::PLAIN);
        // Right behind the first pool of 512 slots.
        assert!(matches!(mapped, Ok(replay::Mapped::Bounced { dma_addr: 0x10_0000, .. })), "{mapped:?}");
    }
}

/// What a device maps is placed by the same rules in its own pool.
#[test]
fn mappings_in_an_own_pool_are_placed_as_in_any() {
    let setup = Policy::parse("v6_10:restricted=256,restricted_start=0x10000000").unwrap().resolve(&BASE).unwrap();
    let mut machine = Machine::new(&setup, Platform::native());
    let mut alone = Allocator::new(setup.rules, &[OWN]);
    for size in [4096, 2048, 70_000] {
        let request = Request { orig_addr: 0x20_0a00, size, align_mask: 0, cpu: 3 };
        let limits = Limits { min_align_mask: 0xfff, ..Limits::NONE };
        let expected = alone.map(&request, &limits).unwrap().tlb_addr;
        let got = machine.map_restricted(&request, &limits, &replay::Terms::PLAIN).unwrap();
        assert!(matches!(got, replay::Mapped::Bounced { dma_addr, .. } if dma_addr == expected), "{got:?}");
    }
}
