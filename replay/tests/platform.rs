//! Platforms: what bounces, what is refused, and how the designs differ from what kernels do (SPEC 6.1, 10, 11).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use replay::{
    Base, Cause, FalseBoundaries, Forbidden, GENERATIONS, Geometry, Limits, Load, Machine, Mapped, Options, Outcome,
    Platform, PlatformSpec, Policy, Reason, Refused, Request, Surroundings, Terms, replay,
};
use trace::pool::P2mKind;
use trace::{Device, Direction, Event, Op, P2mRun, Pool};

const LOW: u64 = 0x1000_0000;
const HIGH: u64 = 0x2_0000_0000;
const POOL: u64 = 0x7400_0000;
const PLAIN: Terms = Terms::PLAIN;

fn run(pfn: u64, mfn: u64, count: u64) -> P2mRun {
    P2mRun { pfn, mfn, count, kind: P2mKind::Own }
}

fn machine(policy: &str, platform: &str, pool: Geometry, p2m: &[P2mRun]) -> Machine {
    let base = Base { pool, cpus: Some(1), force: false };
    let setup = Policy::parse(policy).unwrap().resolve(&base).unwrap();
    Machine::new(&setup, Platform::recorded(PlatformSpec::parse(platform).unwrap(), p2m))
}

fn native(policy: &str, platform: &str) -> Machine {
    machine(policy, platform, Geometry { start: POOL, nslabs: 512, areas: 1 }, &[])
}

fn at(orig_addr: u64, size: u64) -> Request {
    Request { orig_addr, size, align_mask: 0, cpu: 0 }
}

const NARROW: Limits = Limits { reach: 0xffff_ffff, ..Limits::NONE };

/// A decision in a word.
fn word(machine: &mut Machine, request: Request, limits: &Limits, terms: &Terms) -> &'static str {
    match machine.map_on(&request, limits, terms) {
        Ok(Mapped::Direct { .. }) => "direct",
        Ok(Mapped::Bounced { taken, reason, .. }) => {
            machine.unmap(&taken, limits);
            reason.name()
        }
        Err(Refused { cause: Cause::Forbidden, forbidden, .. }) => forbidden.map_or("?", Forbidden::name),
        Err(refused) => refused.cause.name(),
    }
}

fn words(policy: &str, platform: &str, limits: &Limits, terms: &Terms) -> (&'static str, &'static str) {
    let mut machine = native(policy, platform);
    (word(&mut machine, at(LOW, 4096), limits, terms), word(&mut machine, at(HIGH, 4096), limits, terms))
}

#[test]
fn out_of_reach_bounces_unless_bouncing_is_off() {
    for g in GENERATIONS {
        assert_eq!(words(g.id, "native", &NARROW, &PLAIN), ("direct", "mask"), "{}", g.id);
        assert_eq!(words(&format!("{}:force", g.id), "native", &NARROW, &PLAIN), ("forced", "mask"), "{}", g.id);
        let noforce = format!("{}:swiotlb=noforce", g.id);
        assert_eq!(words(&noforce, "native", &NARROW, &PLAIN), ("direct", "not_addressable"), "{}", g.id);
    }
}

/// SPEC 6.1: until 5.18 only the mode is asked, and the allocator without a pool is the end; from 5.19 on the pool is.
#[test]
fn without_a_pool() {
    let answer = |policy: &str| {
        let mut none = machine(policy, "native", Geometry { start: POOL, nslabs: 0, areas: 1 }, &[]);
        word(&mut none, at(HIGH, 4096), &NARROW, &PLAIN)
    };
    assert_eq!((answer("legacy"), answer("5.15.148"), answer("5.18")), ("no_pool", "no_pool", "no_pool"));
    assert_eq!(
        (answer("5.19"), answer("6.12"), answer("v6_10")),
        ("not_addressable", "not_addressable", "not_addressable")
    );
    let mut forced = machine("v6_10:force", "native", Geometry { start: POOL, nslabs: 0, areas: 1 }, &[]);
    assert_eq!(word(&mut forced, at(LOW, 4096), &NARROW, &PLAIN), "no_pool");
}

#[test]
fn a_peers_memory_is_never_copied_from_6_0_on() {
    let peer = Terms { p2p: true, ..PLAIN };
    assert_eq!(words("5.19", "native", &NARROW, &peer), ("direct", "mask"));
    assert_eq!(words("6.0", "native", &NARROW, &peer), ("direct", "peer"));
    assert_eq!(words("5.19:force", "native", &NARROW, &peer), ("forced", "mask"));
    assert_eq!(words("6.12:force", "native", &NARROW, &peer), ("peer", "peer"));
}

#[test]
fn device_memory_never_bounces() {
    let mmio = Terms { attrs: Terms::MMIO, ..PLAIN };
    for policy in ["legacy", "6.12", "6.18", "7.2"] {
        assert_eq!(words(policy, "native", &NARROW, &mmio), ("direct", "not_addressable"), "{policy}");
    }
    assert_eq!(words("6.12:force", "native", &NARROW, &mmio), ("direct", "not_addressable"), "a function of its own");
    assert_eq!(words("6.18:force", "native", &NARROW, &mmio), ("mmio", "mmio"));
    // Its address is the bus address, whatever the frame table says.
    let mut pv = machine("6.18", "xen-pv", Geometry { start: POOL, nslabs: 512, areas: 1 }, &[run(LOW >> 12, 7, 1)]);
    let mapped = pv.map_on(&at(LOW, 64), &NARROW, &mmio).unwrap();
    assert_eq!(mapped, Mapped::Direct { dma_addr: LOW });
}

#[test]
fn attributes_of_7_1() {
    let coherent = Terms { attrs: Terms::REQUIRE_COHERENT, ..PLAIN };
    let shared = Terms { attrs: Terms::CC_SHARED, ..PLAIN };
    assert_eq!(words("6.18", "native", &NARROW, &coherent), ("direct", "mask"), "nobody knew it");
    assert_eq!(words("7.1", "native", &NARROW, &coherent), ("direct", "coherent"));
    assert_eq!(words("7.1", "native:coherent=off", &NARROW, &coherent), ("incoherent", "incoherent"));
    assert_eq!(words("7.1:force", "native", &NARROW, &coherent), ("coherent", "coherent"));
    assert_eq!(words("7.1", "native", &NARROW, &shared), ("shared", "shared"));
    assert_eq!(words("7.1:force", "native", &NARROW, &shared), ("direct", "not_addressable"));
}

#[test]
fn small_kmalloc_buffers() {
    let word_of = |policy: &str, platform: &str, size: u64, direction| {
        let terms = Terms { direction, ..PLAIN };
        word(&mut native(policy, platform), at(LOW, size), &NARROW, &terms)
    };
    use Direction::{FromDevice, ToDevice};
    assert_eq!(word_of("6.5", "native:kmalloc=64", 24, FromDevice), "kmalloc");
    assert_eq!(word_of("6.5", "native:kmalloc=64", 24, ToDevice), "direct", "the device only reads");
    assert_eq!(word_of("6.5", "native:kmalloc=64", 64, FromDevice), "direct", "a bucket of whole lines");
    assert_eq!(word_of("6.5", "native:kmalloc=64", 4000, FromDevice), "direct");
    assert_eq!(word_of("6.4", "native:kmalloc=64", 24, FromDevice), "direct", "before there was such a rule");
    assert_eq!(word_of("6.5", "native:kmalloc=64,coherent=on", 24, FromDevice), "direct");
    assert_eq!(word_of("6.5", "native", 24, FromDevice), "direct", "x86");
    // SPEC 10.1: Xen's operations had it, lost it, have it again; the design without them always has it.
    for (policy, xen) in
        [("6.5", "direct"), ("6.12", "kmalloc"), ("6.14", "direct"), ("6.17", "kmalloc"), ("7.2", "kmalloc")]
    {
        let frames = [run(LOW >> 12, LOW >> 12, 1)];
        let pool = Geometry { start: POOL, nslabs: 512, areas: 1 };
        let terms = Terms { direction: FromDevice, ..PLAIN };
        for (platform, expected) in [("xen-pv:kmalloc=64", xen), ("hch-unified:kmalloc=64", "kmalloc")] {
            let mut machine = machine(policy, platform, pool, &frames);
            assert_eq!(word(&mut machine, at(LOW, 24), &NARROW, &terms), expected, "{policy} on {platform}");
        }
    }
}

#[test]
fn behind_an_iommu_only_strangers_bounce() {
    let stranger = Terms { untrusted: true, ..PLAIN };
    assert_eq!(words("6.12", "native:iommu=4096", &NARROW, &PLAIN), ("direct", "direct"));
    assert_eq!(words("6.12:force", "native:iommu=4096", &NARROW, &stranger), ("direct", "direct"), "whole granules");
    assert_eq!(words("6.12", "native:iommu=16384", &NARROW, &stranger), ("untrusted", "untrusted"));
    assert_eq!(words("6.12", "native", &NARROW, &stranger), ("direct", "mask"), "no IOMMU, no protection");
    assert_eq!(words("5.14", "native:iommu=16384", &NARROW, &stranger), ("direct", "direct"), "not read");
    // The copy takes whole granules, and is searched for as what takes a page is.
    let slots = |policy: &str| {
        let mut machine = native(policy, "native:iommu=4096");
        machine.allocate(&at(LOW, 64), &NARROW).unwrap();
        let mapped = machine.map_on(&at(LOW + 64, 100), &NARROW, &stranger);
        let Ok(Mapped::Bounced { taken, .. }) = mapped else { panic!("{mapped:?}") };
        (taken.first_slot, taken.nslots)
    };
    assert_eq!((slots("5.15.16"), slots("5.15.148"), slots("6.12")), ((2, 2), (2, 2), (2, 2)));
    // From 5.16 on it begins on a granule too.
    let first = |policy: &str| {
        let mut machine = native(policy, "native:iommu=16384");
        machine.allocate(&at(LOW, 64), &NARROW).unwrap();
        let mapped = machine.map_on(&at(LOW + 64, 100), &NARROW, &stranger);
        let Ok(Mapped::Bounced { taken, .. }) = mapped else { panic!("{mapped:?}") };
        (taken.first_slot, taken.nslots)
    };
    assert_eq!((first("5.15.16"), first("5.15.148"), first("6.12")), ((2, 8), (8, 8), (8, 8)));
    let mut full = native("5.15.16:nslabs=128", "native:iommu=4096");
    full.allocate(&at(LOW, 127 << 11), &NARROW).unwrap();
    let refused = full.map_on(&at(LOW + 64, 100), &NARROW, &stranger).unwrap_err();
    let refusal = full.explain(&at(LOW + 64, 100), &NARROW, &refused);
    assert_eq!(refusal.to_string(), "needs 2 slots: 100 B; 1 of 128 are free");
    let mut none = machine("6.12", "native:iommu=4096", Geometry { start: POOL, nslabs: 0, areas: 1 }, &[]);
    assert_eq!(word(&mut none, at(LOW + 64, 100), &NARROW, &stranger), "no_pool");
}

/// A recorded device behind an IOMMU is decided by that rule, one that is coherent by that; what the platform is said to be
/// goes before what was recorded.
#[test]
fn recorded_facts_of_a_device_decide() {
    let behind = Terms::of_device(&Device { iommu: Some(true), untrusted: Some(true), ..Device::new(0, "") });
    let part =
        |platform: &str, terms: &Terms| word(&mut native("6.12:force", platform), at(HIGH + 64, 100), &NARROW, terms);
    assert_eq!(words("6.12:force", "native", &NARROW, &behind), ("direct", "direct"), "whole granules, in reach");
    assert_eq!(part("native", &behind), "untrusted");
    assert_eq!(part("native", &Terms { untrusted: false, ..behind }), "direct");
    assert_eq!(part("native:iommu=off", &behind), "mask");
    let table = [run(HIGH >> 12, 7, 1)];
    let mut pv = machine("6.12", "xen-pv", Geometry { start: POOL, nslabs: 512, areas: 1 }, &table);
    assert_eq!(word(&mut pv, at(HIGH, 64), &NARROW, &behind), "direct", "Xen's operations know no IOMMU");
    // The copy takes a whole granule, wherever the pool lies.
    let narrow = Limits { reach: 0xffff, ..Limits::NONE };
    let mut machine = native("6.12:nslabs=128", "native");
    let Ok(Mapped::Bounced { taken, .. }) = machine.map_on(&at(LOW + 64, 100), &narrow, &behind) else { panic!() };
    assert_eq!(taken.nslots, 2);
    (0..63).for_each(|_| assert!(machine.map_on(&at(LOW + 64, 100), &narrow, &behind).is_ok()));
    let refused = machine.map_on(&at(LOW + 64, 100), &narrow, &behind).unwrap_err();
    let refusal = machine.explain(&at(LOW + 64, 100), &narrow, &refused);
    assert_eq!(refusal.to_string(), "needs 2 slots: 100 B; 0 of 128 are free");

    let small = |platform: &str, coherent| {
        let terms =
            Terms { direction: Direction::FromDevice, ..Terms::of_device(&Device { coherent, ..Device::new(0, "") }) };
        word(&mut native("6.12", platform), at(LOW, 24), &NARROW, &terms)
    };
    assert_eq!((small("native:kmalloc=64", None), small("native:kmalloc=64", Some(false))), ("kmalloc", "kmalloc"));
    assert_eq!(small("native:kmalloc=64", Some(true)), "direct");
    assert_eq!(small("native:kmalloc=64,coherent=off", Some(true)), "kmalloc");
    let coherent_only = Terms { attrs: Terms::REQUIRE_COHERENT, coherent: Some(false), ..PLAIN };
    assert_eq!(words("7.1", "native", &NARROW, &coherent_only), ("incoherent", "incoherent"));
}

/// The same through a load: who is behind an IOMMU does not bounce for its mask, and its addresses are none of the pool's.
#[test]
fn a_load_keeps_what_was_recorded_of_its_devices() {
    let behind = Device { iommu: Some(true), ..device(1, 0xffff_ffff, u64::MAX, 0) };
    let shifted = Device { dma_ranges: Some("0x0=0xc0000000".to_owned()), ..device(2, u64::MAX, u64::MAX, 0) };
    let devices = [device(0, 0xffff_ffff, u64::MAX, 0), behind, shifted];
    let map = |device, time_ns| Event {
        orig_addr: Some(HIGH),
        dma_addr: Some(POOL),
        size: Some(4096),
        direction: Some(Direction::ToDevice),
        ..Event::new(Op::Map, time_ns, 0, 1, device)
    };
    let pool = Pool { start: POOL, nslabs: 512, nareas: 1, force_bounce: false, ..Pool::default() };
    let around = Surroundings { pool: Some(&pool), ..Surroundings::default() };
    let load = Load::collect(&[map(1, 1), map(1, 2), map(2, 3), map(0, 4)], &devices, &around);
    assert_eq!((load.notes().behind_iommu, load.notes().shifted, load.notes().missed_unmaps), (2, 1, 1));
    let bounced = |platform: &str| {
        let load = Load::collect(&[map(1, 1), map(0, 2)], &devices, &Surroundings::default());
        let out = replay(&load, &mut native("6.12", platform), &Options::default());
        (out.devices[0].bounces, out.devices[1].bounces)
    };
    assert_eq!((bounced("native"), bounced("native:iommu=off")), ((1, 0), (1, 1)));
}

#[test]
fn refusals_say_what_forbids_a_copy() {
    let mut machine = native("7.1", "native");
    let refused =
        machine.map_on(&at(HIGH, 64), &NARROW, &Terms { attrs: Terms::REQUIRE_COHERENT, ..PLAIN }).unwrap_err();
    assert_eq!(refused.cause, Cause::Forbidden);
    let refusal = machine.explain(&at(HIGH, 64), &NARROW, &refused);
    assert_eq!(refusal.to_string(), "the mapping requires coherence, so no copy can stand in for the buffer");
    let text = |policy: &str, nslabs: u64, attrs: u64| {
        let mut machine = self::machine(policy, "native", Geometry { start: POOL, nslabs, areas: 1 }, &[]);
        let refused = machine.map_on(&at(HIGH, 64), &NARROW, &Terms { attrs, ..PLAIN }).unwrap_err();
        machine.explain(&at(HIGH, 64), &NARROW, &refused).to_string()
    };
    let out = "the device does not reach the buffer (last byte 0x20000003f, reach 0xffffffff), and ";
    assert_eq!(text("7.1", 512, Terms::MMIO), format!("{out}device memory is never copied"));
    assert_eq!(text("7.1", 0, 0), format!("{out}there is no bounce pool"));
    assert_eq!(text("legacy:swiotlb=noforce", 512, 0), format!("{out}bouncing is switched off"));
}

/// SPEC 14, E14: a boundary in guest addresses is none in machine addresses.
#[test]
fn e14_a_false_boundary() {
    let pool = Geometry { start: 0x1_0010_1000, nslabs: 128, areas: 1 };
    let frames = [run(pool.start >> 12, 0x8_0000, 64)];
    let limits = Limits { boundary: 0xffff, ..Limits::NONE };
    let answer = |bbase: &str| {
        let mut machine = machine("v5_16:force", &format!("hch-unified:bbase={bbase}"), pool, &frames);
        let mapped = machine.map(&at(LOW, 64 << 10), &limits);
        let slot = mapped.map(|m| if let Mapped::Bounced { taken, .. } = m { taken.first_slot } else { 999 });
        (slot.ok(), machine.false_boundaries().accepts)
    };
    assert_eq!(answer("pseudo"), (Some(30), 1));
    assert_eq!(answer("machine_start"), (Some(0), 0));
    assert_eq!(answer("machine_per_slot"), (Some(0), 0));
    let mut today = machine("v5_16:force", "xen-pv", pool, &frames);
    today.map(&at(LOW, 64 << 10), &limits).unwrap();
    assert_eq!(today.false_boundaries(), FalseBoundaries { accepts: 1, rejects: 0 });
}

/// The other way round: the only free run crosses a boundary in guest addresses, and none in machine addresses.
#[test]
fn a_false_refusal() {
    let pool = Geometry { start: 0x1_0010_1000, nslabs: 128, areas: 1 };
    let frames = [run(pool.start >> 12, 0x8_0000, 64)];
    let limits = Limits { boundary: 0xffff, ..Limits::NONE };
    let mut today = machine("v5_16:force", "xen-pv", pool, &frames);
    let mut all: Vec<_> = (0..128).map(|_| today.allocate(&at(LOW, 2048), &limits).unwrap()).collect();
    for taken in all.drain(..32) {
        today.unmap(&taken, &limits);
    }
    // Slots 0 to 31 are free; in guest addresses a boundary lies before slot 30, in machine addresses before 0 and 32.
    assert_eq!(today.map(&at(LOW, 64 << 10), &limits).unwrap_err().cause, Cause::Boundary);
    assert_eq!(today.false_boundaries(), FalseBoundaries { accepts: 0, rejects: 1 });
    // A 128 KiB request could never be: that is nobody's view.
    assert_eq!(today.map(&at(LOW, 128 << 10), &limits).unwrap_err().cause, Cause::PoolFull);
    assert_eq!(today.false_boundaries().rejects, 1);
}

/// SPEC 11: the machine address of the pool's start is right in the first segment only.
#[test]
fn machine_start_is_right_in_the_first_segment_only() {
    let pool = Geometry { start: 0x1000_0000, nslabs: 256, areas: 1 };
    // The second segment's extent lies 32 KiB off a 64 KiB boundary.
    let frames = [run(pool.start >> 12, 0x8_0000, 64), run((pool.start >> 12) + 64, 0x9_0008, 64)];
    let limits = Limits { boundary: 0xffff, ..Limits::NONE };
    let slots = |bbase: &str| {
        let mut machine = machine("v6_3:force", &format!("hch-unified:bbase={bbase}"), pool, &frames);
        let mut slots = Vec::new();
        while let Ok(Mapped::Bounced { taken, .. }) = machine.map(&at(LOW, 64 << 10), &limits) {
            slots.push(taken.first_slot);
        }
        (slots, machine.false_boundaries().accepts)
    };
    assert_eq!(slots("machine_start"), (vec![0, 32, 64, 96, 128, 160, 192, 224], 4));
    assert_eq!(slots("machine_per_slot"), (vec![0, 32, 64, 96, 144, 176, 208], 0));
}

#[test]
fn arm_designs() {
    let foreign = [P2mRun { kind: P2mKind::Foreign, ..run(0x90000, 0x60000, 1) }];
    let pool = Geometry { start: POOL, nslabs: 512, areas: 1 };
    let page = at(0x9000_0000, 64);
    let answers = |platform: &str| {
        let mut machine = machine("v6_1y", platform, pool, &foreign);
        let two = at(0x9000_0000, 8192);
        (word(&mut machine, page, &NARROW, &PLAIN), word(&mut machine, two, &NARROW, &PLAIN))
    };
    assert_eq!(answers("xen-arm"), ("direct", "foreign"));
    assert_eq!(answers("stefano-arm"), ("direct", "direct"), "straddling is not asked");
    assert_eq!(answers("xen-arm:flush=off"), ("foreign", "foreign"));
    assert_eq!(answers("stefano-arm:flush=off"), ("foreign", "foreign"));
    assert_eq!(answers("xen-arm:flush=off,coherent=on"), ("direct", "foreign"));
    let mut design = machine("v6_1y", "stefano-arm", pool, &foreign);
    assert_eq!(design.map(&page, &NARROW).unwrap(), Mapped::Direct { dma_addr: 0x6000_0000 });
    assert_eq!(design.parted(), 0);
    design.map(&at(0x9000_0000, 8192), &NARROW).unwrap();
    assert_eq!(design.parted(), 1, "the second page is another domain's on the bus");
}

/// What-ifs of SPEC 11 that no kernel has.
#[test]
fn who_goes_to_the_second_pool_and_who_falls_back() {
    let forty = Limits { reach: (1 << 40) - 1, ..Limits::NONE };
    // Two pools of one segment each; the pools that three whole segments land in, and the last refusal.
    let pools = |policy: &str, limits: &Limits| {
        let mut machine = native(&format!("rfc64:nslabs=128,hi_nslabs=128,force,{policy}"), "native");
        let mut pool = || match machine.map(&at(LOW, 256 << 10), limits) {
            Ok(Mapped::Bounced { taken, .. }) => taken.pool.to_string(),
            Ok(_) => "direct".to_owned(),
            Err(refused) => refused.cause.to_string(),
        };
        [pool(), pool(), pool()].join(" ")
    };
    let full = "pool_full pool_full";
    assert_eq!(pools("fallback=none", &Limits::NONE), format!("1 {full}"));
    assert_eq!(pools("fallback=lo-hi", &Limits::NONE), format!("1 {full}"));
    assert_eq!(pools("fallback=hi-lo", &Limits::NONE), "1 0 pool_full");
    assert_eq!(pools("fallback=hi-lo", &forty), format!("0 {full}"));
    assert_eq!(pools("fallback=lo-hi", &forty), "0 1 pool_full");
    assert_eq!(pools("fallback=both", &NARROW), format!("0 {full}"), "it does not reach the second pool");
    assert_eq!(pools("hi_threshold=0xffffffffff", &forty), format!("1 {full}"));
    assert_eq!(pools("hi_threshold=0xffffffffff,fallback=both", &forty), "1 0 pool_full");
    assert_eq!(pools("hi_threshold=0xffffffff", &NARROW), "pool_above_mask pool_above_mask pool_above_mask");
    let unknown = Policy::parse("rfc64:fallback=up").unwrap_err().to_string();
    assert_eq!(unknown, "parameter `fallback`: `up` is not `none`, `hi-lo`, `lo-hi` or `both`");
    assert!(Policy::parse("v6_10:fallback=both").is_err() && Policy::parse("rfc64:kernel=6.12").is_err());
}

fn device(id: u32, mask: u64, boundary: u64, min_align_mask: u64) -> Device {
    Device {
        id,
        name: format!("dev{id}"),
        driver: None,
        dma_mask: Some(mask),
        coherent_dma_mask: mask,
        bus_dma_limit: 0,
        seg_boundary_mask: Some(boundary),
        max_segment_size: None,
        min_align_mask,
        ..Device::new(0, "")
    }
}

/// Maps and unmaps that stand for themselves: each map has an address of its own and is undone later, or not.
fn load(maps: &[(u64, u64, u32, u64, u64)]) -> Load {
    let devices = [
        device(0, u64::MAX, u64::MAX, 0),
        device(1, 0xffff_ffff, 0xffff_ffff, 0xfff),
        device(2, 0x7fff_ffff, 0xffff, 0),
    ];
    let mut events = Vec::new();
    for (i, &(page, size, device, attrs, lives)) in (0u64..).zip(maps) {
        let event = |op, time_ns| Event {
            orig_addr: (op == Op::Map).then_some(page * 512),
            dma_addr: Some(i << 32),
            size: Some(size),
            attrs: Some(attrs << 10),
            direction: Some(Direction::ALL[(page % 3) as usize]),
            ..Event::new(op, time_ns, (i % 3) as u32, 1, device)
        };
        events.push(event(Op::Map, i * 10));
        if lives < 50 {
            events.push(event(Op::Unmap, (i + lives) * 10 + 5));
        }
    }
    events.sort_by_key(|e| e.time_ns);
    Load::collect(&events, &devices, &Surroundings::default())
}

fn maps() -> impl Strategy<Value = Vec<(u64, u64, u32, u64, u64)>> {
    let size = prop_oneof![8 => 1u64..20_000, 1 => 1u64..300_000];
    let attrs = prop_oneof![9 => Just(0u64), 1 => 0u64..16];
    prop::collection::vec((0u64..4000, size, 0u32..3, attrs, 0u64..60), 1..200)
}

fn outcome(load: &Load, policy: &str, platform: &str, p2m: &[P2mRun]) -> Outcome {
    let pool = Geometry { start: 400 << 12, nslabs: 256, areas: 1 };
    replay(load, &mut machine(policy, platform, pool, p2m), &Options::default())
}

/// The pool, and memory in runs of a few frames, some of them another domain's.
fn frames() -> impl Strategy<Value = Vec<P2mRun>> {
    let runs = prop::collection::vec((1u64..40, 0u64..0xc_0000, 0u8..5), 1..40);
    (runs, 0u64..0xc_0000, 0u64..0xc_0000).prop_map(|(runs, first, second)| {
        let mut frames = vec![run(400, first, 64), run(464, second, 64)];
        let mut pfn = 0;
        for (count, mfn, kind) in runs {
            let count = count.min(400u64.saturating_sub(pfn));
            frames
                .push(P2mRun { kind: if kind == 0 { P2mKind::Foreign } else { P2mKind::Own }, ..run(pfn, mfn, count) });
            pfn += count;
        }
        frames.retain(|run| run.count > 0);
        frames
    })
}

proptest! {
    /// SPEC 10.7, 11: auto-translated guests, as they are and as designed, come to the same as no Xen at all. Foreign and
    /// straddling buffers exist under frame tables only.
    #[test]
    fn auto_translation_is_native(maps in maps(), generation in 0..GENERATIONS.len(), force: bool) {
        let load = load(&maps);
        let policy = format!("{}:force={}", GENERATIONS[generation].id, if force { "on" } else { "off" });
        let native = outcome(&load, &policy, "native", &[]);
        prop_assert_eq!(native.bounced(Reason::Straddle) + native.bounced(Reason::Foreign), 0);
        prop_assert_eq!(native.false_boundaries, FalseBoundaries::default());
        for platform in ["xen-auto", "hch-auto-fast"] {
            prop_assert_eq!(&outcome(&load, &policy, platform, &[]), &native);
        }
    }

    /// SPEC 11: with boundaries counted as today, the design without Xen's operations decides as they do, bit for bit.
    /// It differs where the kernel's own rules do: attributes (kept out here) and `noforce`.
    #[test]
    fn unified_is_todays_xen(maps in maps(), p2m in frames(), generation in 0..GENERATIONS.len(), force: bool) {
        let plain: Vec<_> = maps.into_iter().map(|(page, size, device, _, lives)| (page, size, device, 0, lives)).collect();
        let load = load(&plain);
        let policy = format!("{}:force={}", GENERATIONS[generation].id, if force { "on" } else { "off" });
        let today = outcome(&load, &policy, "xen-pv", &p2m);
        prop_assert_eq!(&outcome(&load, &policy, "hch-unified:bbase=pseudo", &p2m), &today);
        // Other bases change which slots are taken, never what bounces of what is asked for.
        for bbase in ["machine_start", "machine_per_slot"] {
            let other = outcome(&load, &policy, &format!("hch-unified:bbase={bbase}"), &p2m);
            if other.maps == today.maps {
                prop_assert_eq!(&other.bounces, &today.bounces);
            }
            if bbase == "machine_per_slot" {
                prop_assert_eq!(other.false_boundaries, FalseBoundaries::default());
            }
        }
    }

    /// Without foreign pages ARM is native, whatever can be flushed.
    #[test]
    fn arm_without_foreign_pages_is_native(maps in maps(), flush: bool, coherent: bool) {
        let plain: Vec<_> = maps.into_iter().map(|(page, size, device, _, lives)| (page, size, device, 0, lives)).collect();
        let load = load(&plain);
        let native = outcome(&load, "v6_1y", "native", &[]);
        let on = |b: bool| if b { "on" } else { "off" };
        for platform in ["xen-arm", "stefano-arm"] {
            let platform = format!("{platform}:flush={},coherent={}", on(flush), on(coherent));
            prop_assert_eq!(&outcome(&load, "v6_1y", &platform, &[]), &native);
        }
    }
}
