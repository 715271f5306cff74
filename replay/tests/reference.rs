//! The fast model beside the literal one on random loads.

#[path = "reference/bytes.rs"]
mod bytes;
#[path = "reference/differential.rs"]
mod differential;
#[path = "reference/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod literal;

use differential::{Case, Step, compare};
use proptest::prelude::*;
use replay::{GENERATIONS, Geometry, Limits, Request};

fn devices() -> impl Strategy<Value = Limits> {
    let masks =
        prop::sample::select(vec![0, 0, 0, 0x1ff, 0x7ff, 0xfff, 0xfff, 0x1fff, 0x3fff, 0xffff, 0x3_ffff, 0xf_ffff]);
    let boundaries =
        prop::sample::select(vec![u64::MAX, u64::MAX, 0xffff_ffff, 0xf_ffff, 0x1_ffff, 0xffff, 0xfff, 0x7ff, 0x3ff]);
    // Only `rfc64` asks how far they reach.
    let reaches = prop::sample::select(vec![u64::MAX, u64::MAX, (1 << 48) - 1, 0xffff_ffff]);
    (reaches, masks, boundaries).prop_map(|(reach, min_align_mask, boundary)| Limits {
        reach,
        min_align_mask,
        boundary,
        ..Limits::NONE
    })
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
            Case { rules, pool: Geometry { start, nslabs, areas }, segment: 128, devices, steps }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn fast_and_literal_agree(case in cases(600)) {
        compare(&case, 1);
    }

    /// Segments no kernel has, shorter and longer than a word of slots.
    #[test]
    fn cut_pools_and_literal_agree(case in cases(300), log in prop::sample::select(vec![0u32, 3, 6, 8, 9, 11])) {
        let segment = 1 << log;
        let whole = segment.max(128) * u64::from(case.pool.areas);
        let pool = Geometry { nslabs: case.pool.nslabs.next_multiple_of(whole), ..case.pool };
        let longer = |mut step| {
            if let Step::Map { request, .. } = &mut step {
                request.size *= segment.div_ceil(128);
            }
            step
        };
        let steps = case.steps.into_iter().map(longer).collect();
        compare(&Case { pool, segment, steps, ..case }, 1);
    }
}

/// Pools of several groups of 64 segments, kept nearly full, as the bounds on their segments are made for.
#[test]
fn large_pools_and_literal_agree() {
    for (seed, rules) in (0..).zip(GENERATIONS) {
        for areas in if rules.areas { &[1, 2, 8, 64][..] } else { &[1] } {
            let mut rng = fastrand::Rng::with_seed(seed);
            let devices = [(32, 0, u64::MAX), (0, 0xfff, 0xffff_ffff), (0, 0x3fff, u64::MAX), (16, 0, 0xf_ffff)].map(
                |(short, min_align_mask, boundary)| Limits {
                    reach: u64::MAX >> short,
                    min_align_mask,
                    boundary,
                    ..Limits::NONE
                },
            );
            let mut map = |full: bool| {
                if full && rng.bool() {
                    return Step::Unmap(rng.usize(..));
                }
                let size = 512 << rng.u32(0..8);
                let (page, low) = (rng.u64(0x10_0000..0x100_0000), rng.u64(0..4) * 512);
                let request = Request {
                    orig_addr: (page << 12) + if size < 4096 { low } else { 0 },
                    size: rng.u64(size / 2 + 1..=size),
                    align_mask: if rng.u8(0..20) == 0 { 0x1fff } else { 0 },
                    cpu: rng.u32(0..64),
                };
                Step::Map { request, device: rng.usize(0..4) }
            };
            let mut steps: Vec<_> = (0..6000).map(|_| map(false)).collect();
            steps.extend((0..6000).map(|_| map(true)));
            let pool = Geometry { start: 0x4000_0000, nslabs: 32_768, areas: *areas };
            compare(&Case { rules, pool, segment: 128, devices: devices.to_vec(), steps }, 3000);
        }
    }
}

/// What the fuzzer found (`cargo xtask fuzz`), as its artifacts; and a case that shows that bytes are read as written.
#[test]
fn cases_from_bytes() {
    let mut writer = bytes::Writer::new(12, 0b101, 3, &[(0xfff, 0xffff), (0, u64::MAX)]);
    let request = Request { orig_addr: 0x1234_5678, size: 70_000, align_mask: 0x3fff, cpu: 9 };
    writer.map(&request, 1);
    writer.unmap(517);
    let case = bytes::case(&writer.into_bytes());
    assert_eq!((case.rules.id, case.pool), ("v6_10", Geometry { start: 0x7400_1800, nslabs: 512, areas: 2 }));
    assert_eq!((case.devices[0].min_align_mask, case.devices[0].boundary), (0xfff, 0xffff));
    assert_eq!((case.devices[1].min_align_mask, case.devices[1].boundary), (0, u64::MAX));
    assert_eq!(case.steps, [Step::Map { request, device: 1 }, Step::Unmap(517)]);
    for bytes in FOUND {
        compare(&bytes::case(bytes), 1);
    }
}

const FOUND: &[&[u8]] = &[];
