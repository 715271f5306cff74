//! Devices whose bus sees memory elsewhere than the CPU (SPEC 3, 6.1: `dma_range_map`): what bounces, which slots it gets, and
//! how a recording of them is read.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use replay::{
    Base, Cause, Foreseen, GENERATIONS, Generation, Geometry, Judge, Limits, Load, Machine, Mapped, Options, Outcome,
    Platform, PlatformSpec, Policy, Ranges, Reason, Request, Start, Surroundings, decisions, replay, verify,
};
use trace::pool::P2mKind;
use trace::{Device, Direction, Event, Op, P2mRun, Pool, SnapshotSlot};

/// As on a Raspberry Pi: the first GiB, seen from 3 GiB on.
const PI: &str = "0x0=0xc0000000+0x40000000";
const POOL: Geometry = Geometry { start: 0x3000_0000, nslabs: 512, areas: 1 };
/// What the bus of [`PI`] sees there.
const BUS: u64 = 0xf000_0000;

fn device(id: u32, mask: u64, ranges: Option<&str>) -> Device {
    Device { dma_mask: Some(mask), dma_ranges: ranges.map(str::to_owned), ..Device::new(id, format!("dev{id}")) }
}

fn pi() -> Limits {
    Limits::from(&device(0, 0xffff_ffff, Some(PI)))
}

fn machine(policy: &str, platform: &str, pool: Geometry, p2m: &[P2mRun]) -> Machine {
    let base = Base { pool, cpus: Some(1), force: false };
    let setup = Policy::parse(policy).unwrap().resolve(&base).unwrap();
    Machine::new(&setup, Platform::recorded(PlatformSpec::parse(platform).unwrap(), p2m))
}

fn native(policy: &str) -> Machine {
    machine(policy, "native", POOL, &[])
}

fn at(orig_addr: u64, size: u64) -> Request {
    Request { orig_addr, size, align_mask: 0, cpu: 0 }
}

#[test]
fn what_no_range_holds_bounces() {
    for g in GENERATIONS {
        let mut machine = native(g.id);
        let mut map = |orig_addr, size| machine.map(&at(orig_addr, size), &pi()).unwrap();
        assert_eq!(map(0x1000_0000, 4096), Mapped::Direct { dma_addr: 0xd000_0000 }, "{}", g.id);
        assert_eq!(map(0x3fff_f000, 4096), Mapped::Direct { dma_addr: 0xffff_f000 });
        let Mapped::Bounced { dma_addr, taken, reason } = map(0x5000_0000, 4096) else { panic!("{}", g.id) };
        assert_eq!((dma_addr, taken.tlb_addr, reason), (BUS, POOL.start, Reason::Mask));
        // It begins in the range and ends above the mask.
        assert!(matches!(map(0x3fff_f000, 8192), Mapped::Bounced { dma_addr: 0xf000_1000, .. }), "{}", g.id);
        assert_eq!(machine.tlb_addr(0xf000_1000, &pi()), Some(0x3000_1000));
        assert_eq!((machine.tlb_addr(POOL.start, &pi()), machine.is_pool(POOL.start)), (None, true));
        assert!(machine.unmap_from_bus(BUS, None, &pi()) && !machine.unmap_from_bus(POOL.start, None, &pi()));
    }
}

/// SPEC 6.1: where the range ends is not asked, only how far the device reaches.
#[test]
fn the_end_of_a_range_is_not_asked() {
    let limits = Limits { reach: u64::MAX, ..pi() };
    let mapped = native("6.12").map(&at(0x3fff_f000, 8192), &limits).unwrap();
    assert_eq!(mapped, Mapped::Direct { dma_addr: 0xffff_f000 });
}

/// SPEC 6.2: the bounce buffer is asked about by its bus address as well.
#[test]
fn a_pool_the_bus_puts_out_of_reach() {
    let narrow = Limits { reach: 0x7fff_ffff, ..pi() };
    let far = Geometry { start: 0x5000_0000, ..POOL };
    let text = |pool, limits: &Limits, policy: &str| {
        let mut machine = machine(policy, "native", pool, &[]);
        let refused = machine.map(&at(0x1_0000_0000, 4096), limits).unwrap_err();
        assert_eq!(refused.cause, Cause::PoolAboveMask, "{policy}");
        assert_eq!(machine.allocator().used(), 0);
        machine.explain(&at(0x1_0000_0000, 4096), limits, &refused).to_string()
    };
    let out = "slots were free, but the device does not reach them";
    for g in GENERATIONS {
        assert_eq!(text(POOL, &narrow, g.id), format!("{out} (last byte 0xf00fffff, reach 0x7fffffff)"), "{}", g.id);
        assert_eq!(text(far, &pi(), g.id), format!("{out} (its bus sees nothing there)"), "{}", g.id);
        assert_eq!(text(far, &pi(), &format!("{}:segment=256", g.id)), format!("{out} (its bus sees nothing there)"));
    }
    let mut off = native("legacy:swiotlb=noforce");
    let refused = off.map(&at(0x5000_0000, 64), &pi()).unwrap_err();
    assert_eq!(
        off.explain(&at(0x5000_0000, 64), &pi(), &refused).to_string(),
        "the device does not reach the buffer (its bus sees nothing there), and bouncing is switched off"
    );
}

/// SPEC 3: `tbl` is where the bus sees the pool. Seen from 0xf000_8000 on, 64 KiB boundaries lie at slots 16, 48 and so on.
#[test]
fn boundaries_lie_where_the_bus_has_them() {
    let slots = |policy: &str, ranges: &str| {
        let limits = Limits { boundary: 0xffff, ranges: Ranges::parse(ranges).unwrap(), ..Limits::NONE };
        let mut machine = native(policy);
        let mut take = || machine.allocate(&at(0x5000_0000, 64 << 10), &limits).unwrap().first_slot;
        (take(), take())
    };
    let shifted = "0x0=0xc0008000+0x40000000";
    for g in GENERATIONS {
        assert_eq!((slots(g.id, ""), slots(g.id, PI), slots(g.id, shifted)), ((0, 32), (0, 32), (16, 48)), "{}", g.id);
        let cut = format!("{}:segment=256", g.id);
        assert_eq!((slots(&cut, PI), slots(&cut, shifted)), ((0, 32), (16, 48)), "{cut}");
    }
}

/// SPEC 3.6: search D asks for the address the device sees. The range moves slots by half of 4 KiB.
#[test]
fn alignment_is_the_bus_addresses() {
    let limits = Limits { ranges: Ranges::parse("0x0=0xc0000800+0x40000000").unwrap(), ..Limits::NONE };
    let page = Request { align_mask: 0xfff, ..at(0x5000_0000, 4096) };
    assert_eq!(native("v6_10").allocate(&page, &limits).unwrap().first_slot, 1);
    assert_eq!(native("v6_10").allocate(&page, &Limits::NONE).unwrap().first_slot, 0);
}

/// SPEC 10.1: under Xen it is the machine address that the bus sees elsewhere.
#[test]
fn under_xen_machine_addresses_are_moved() {
    let run = |pfn, mfn, count| P2mRun { pfn, mfn, count, kind: P2mKind::Own };
    let frames = [run(POOL.start >> 12, 0x2_0000, 256), run(0x100, 0x1_0000, 1), run(0x200, 0x5_0000, 1)];
    let mut machine = machine("6.12", "xen-pv", POOL, &frames);
    assert_eq!(machine.map(&at(0x10_0000, 64), &pi()).unwrap(), Mapped::Direct { dma_addr: 0xd000_0000 });
    let Mapped::Bounced { dma_addr, taken, .. } = machine.map(&at(0x20_0000, 64), &pi()).unwrap() else { panic!() };
    assert_eq!((dma_addr, machine.tlb_addr(dma_addr, &pi())), (0xe000_0000, Some(taken.tlb_addr)));
    assert!(machine.unmap_from_bus(dma_addr, None, &pi()));
}

fn recorded_pool() -> Pool {
    let Geometry { start, nslabs, areas } = POOL;
    Pool { start, nslabs, nareas: areas, force_bounce: false, ..Pool::default() }
}

fn collect(events: &[Event], devices: &[Device], snapshot: &[SnapshotSlot]) -> Load {
    let pool = recorded_pool();
    let snapshot_ns = (!snapshot.is_empty()).then_some(0);
    Load::collect(
        events,
        devices,
        &Surroundings { pool: Some(&pool), snapshot, snapshot_ns, ..Surroundings::default() },
    )
}

/// What a kernel would have recorded of mappings, each undone before the fourth after it.
fn record(devices: &[Device], maps: &[(u64, u64, usize)]) -> Vec<Event> {
    let mut machine = native("6.12");
    let mut events: Vec<Event> = Vec::new();
    let mut alive = std::collections::VecDeque::new();
    for (i, &(orig_addr, size, at_device)) in (0u64..).zip(maps) {
        let device = &devices[at_device];
        let limits = Limits::from(device);
        let mapped = machine.map(&at(orig_addr, size), &limits);
        let (op, dma_addr) = match mapped {
            Ok(Mapped::Direct { dma_addr } | Mapped::Bounced { dma_addr, .. }) => (Op::Map, Some(dma_addr)),
            Err(_) => (Op::MapFailed, None),
        };
        let of = |op, orig_addr, time_ns| Event {
            orig_addr,
            dma_addr,
            size: Some(size),
            direction: Some(Direction::ToDevice),
            ..Event::new(op, time_ns, 0, 1, device.id)
        };
        events.push(of(op, Some(orig_addr), 10 * i));
        if let Ok(mapped) = mapped {
            alive.push_back((of(Op::Unmap, None, 0), mapped, limits));
        }
        if alive.len() > 3
            && let Some((unmap, mapped, limits)) = alive.pop_front()
        {
            if let Mapped::Bounced { taken, .. } = mapped {
                machine.unmap(&taken, &limits);
            }
            events.push(Event { time_ns: 10 * i + 5, ..unmap });
        }
    }
    events
}

#[test]
fn a_recording_goes_round() {
    let devices = [device(0, 0xffff_ffff, Some(PI)), device(1, 0x4fff_ffff, None), device(2, u64::MAX, Some(PI))];
    let maps: Vec<_> = (0..300u64)
        .map(|i| (((i * 37) % 24) << 26 | 0x200_0000 | (i % 3) << 12, 1 + (i * 977) % 9000, (i % 3) as usize))
        .collect();
    let events = record(&devices, &maps);
    let told = decisions(&events, &devices, &[], &native("6.12"));
    assert_eq!((told.total, told.exact, told.unjudged), (300, 300, 0), "{told:?}");
    let bounced = told.bounced[Reason::Mask as usize];
    assert!(bounced > 50 && told.direct > 50, "{told:?}");
    let load = collect(&events, &devices, &[]);
    assert_eq!((load.recorded().bounces, load.recorded().failures), (bounced, 0));
    assert_eq!(*load.notes(), replay::LoadNotes::default());
    let out = replay(&load, &mut native("6.12"), &Options::default());
    assert_eq!((out.bounced(Reason::Mask), out.bounces.iter().sum::<u64>()), (bounced, bounced));
    // As if the bus saw memory where the CPU does, the pool is not where the recording has its addresses.
    let plain: Vec<_> = devices.iter().map(|d| Device { dma_ranges: None, ..d.clone() }).collect();
    assert!(collect(&events, &plain, &[]).recorded().bounces < bounced);
    assert!(decisions(&events, &plain, &[], &native("6.12")).exact < 200);
}

/// SPEC 3: the checker counts boundaries where the bus has them, too.
#[test]
fn slots_are_verified_by_the_bus_addresses() {
    let verdict = |ranges: &str| {
        let device = Device { seg_boundary_mask: Some(0xffff), ..device(0, u64::MAX, Some(ranges)) };
        let event = |slot: u64| Event {
            op: Op::SlotAlloc,
            size: Some(64 << 10),
            tlb_addr: Some(POOL.start + slot * 2048),
            ..map(0, slot, 0x5000_0000, 0)
        };
        let pool = recorded_pool();
        let start = Start { pools: std::slice::from_ref(&pool), snapshot: &[], snapshot_ns: None };
        verify(&[event(16), event(48)], &[device], &start, Generation::by_id("v6_10").unwrap())
    };
    assert_eq!((verdict("0x0=0xc0008000+0x40000000").exact, verdict(PI).exact), (2, 0));
}

fn map(device: u32, time_ns: u64, orig_addr: u64, dma_addr: u64) -> Event {
    Event {
        orig_addr: Some(orig_addr),
        dma_addr: Some(dma_addr),
        size: Some(4096),
        direction: Some(Direction::ToDevice),
        ..Event::new(Op::Map, time_ns, 0, 1, device)
    }
}

#[test]
fn what_bounced_is_told_by_the_address_behind_the_bus_address() {
    let devices = [device(0, 0xffff_ffff, Some(PI)), device(1, 0x3fff_ffff, None)];
    let mut judge = Judge::new(&devices, &[], native("6.12"));
    let mut judged = |event: &Event| judge.push(event).unwrap();
    let bounced = judged(&map(0, 1, 0x5000_0000, BUS));
    assert_eq!((bounced.bounced, bounced.foreseen), (true, Some(Foreseen::Bounced(Reason::Mask))));
    // A bus address that as a CPU's would lie in the pool: the bus has other memory there, or none.
    assert!(!judged(&map(0, 2, 0x1000_0000, POOL.start)).bounced);
    assert!(judged(&map(1, 3, 0x5000_0000, POOL.start)).bounced);
    assert_eq!(judged(&map(0, 4, 0x1000_0000, 0xd000_0000)).foreseen, Some(Foreseen::Direct(0xd000_0000)));
    assert_eq!((judge.tlb_addr_of(0, BUS), judge.tlb_addr_of(1, BUS)), (Some(POOL.start), None));
    let told = judge.finish();
    assert_eq!((told.total, told.exact, told.unjudged), (4, 3, 0));
}

/// Buffers given out again are found whoever's address tells of them, and so are those held since before.
#[test]
fn slots_are_tied_across_buses() {
    let devices = [device(0, 0xffff_ffff, Some(PI)), device(1, 0x3fff_ffff, None)];
    let again = [map(0, 1, 0x5000_0000, BUS), map(1, 2, 0x5000_0000, POOL.start)];
    let unmap = |device, dma_addr| Event { op: Op::Unmap, orig_addr: None, ..map(device, 9, 0, dma_addr) };
    let notes = *collect(&again, &devices, &[]).notes();
    assert_eq!((notes.missed_unmaps, notes.shifted), (1, 0));
    let late = [&again[..], &[unmap(0, BUS), unmap(1, POOL.start)]].concat();
    let notes = *collect(&late, &devices, &[]).notes();
    assert_eq!((notes.missed_unmaps, notes.late_unmaps, notes.unmatched_unmaps), (0, 1, 0));
    let slot = |slot: u32, before: u64| SnapshotSlot {
        slot,
        orig_addr: 0x5000_0000 + before,
        alloc_size: 4096 - before,
        pad_slots: 0,
        pool: None,
    };
    let snapshot = [slot(0, 0), slot(1, 2048)];
    let held = collect(&[unmap(0, BUS)], &devices, &snapshot);
    assert_eq!((held.notes().held, held.notes().unmatched_unmaps), (1, 0));
    let other = collect(&[unmap(0, POOL.start)], &devices, &snapshot);
    assert_eq!((other.notes().held, other.notes().unmatched_unmaps), (1, 1));
}

#[test]
fn ranges_that_cannot_be_read_are_said() {
    let devices = [device(0, 0xffff_ffff, Some("0x0=0xc0000000+…")), device(1, 0xffff_ffff, Some(""))];
    let events = [map(0, 1, 0x5000_0000, BUS), map(1, 2, 0x5000_0000, 0x5000_0000)];
    let load = collect(&events, &devices, &[]);
    assert_eq!((load.notes().shifted, load.devices()[0].limits.ranges), (1, Ranges::NONE));
    let told = decisions(&events, &devices, &[], &native("6.12"));
    assert_eq!((told.total, told.exact, told.unjudged), (1, 1, 1));
}

fn maps() -> impl Strategy<Value = Vec<(u64, u64, usize)>> {
    let size = prop_oneof![8 => 1u64..20_000, 1 => 1u64..300_000];
    prop::collection::vec(((0u64..1 << 21).prop_map(|page| page << 10), size, 0usize..3), 1..150)
}

/// Three devices that see memory by those ranges, reach what `reach` makes of an address, and have boundaries and masks.
fn three(ranges: Option<&str>, reach: impl Fn(u64) -> u64) -> Vec<Device> {
    let of = |(id, mask, boundary, min_align_mask)| Device {
        seg_boundary_mask: Some(boundary),
        min_align_mask,
        ..device(id, reach(mask), ranges)
    };
    [(0, 0x4fff_ffff, u64::MAX, 0), (1, 0x3fff_ffff, 0xffff_ffff, 0xfff), (2, 0x37ff_ffff, 0xffff, 0)].map(of).to_vec()
}

fn outcome(load: &Load, generation: usize) -> Outcome {
    replay(load, &mut native(GENERATIONS[generation].id), &Options::default())
}

proptest! {
    /// Ranges that leave memory where it is are none; ranges that move all of it by what no mask or boundary shows change
    /// nothing but addresses.
    #[test]
    fn to_move_all_memory_is_to_move_none(maps in maps(), generation in 0..GENERATIONS.len()) {
        let plain = three(None, |reach| reach);
        let events = record(&plain, &maps);
        let load = collect(&events, &plain, &[]);
        let expected = outcome(&load, generation);
        let still = three(Some("0x0=0x0+0xffffffffffffffff"), |reach| reach);
        let load = collect(&events, &still, &[]);
        prop_assert_eq!(load.recorded().bounces, collect(&events, &plain, &[]).recorded().bounces);
        prop_assert_eq!(&outcome(&load, generation), &expected);
        let moved = three(Some("0x0=0x200000000000+0x10000000000"), |reach| reach + (1 << 45));
        let events = record(&moved, &maps);
        let told = decisions(&events, &moved, &[], &native("6.12"));
        prop_assert_eq!((told.exact, told.unjudged), (told.total, 0));
        prop_assert_eq!(&outcome(&collect(&events, &moved, &[]), generation), &expected);
    }
}
