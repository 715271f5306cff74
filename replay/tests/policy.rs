//! Policies as people write them, and scripts that cannot be played.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use replay::{Base, Force, Geometry, Limits, Policy, PolicyError, Script, ScriptError, Setup};

const BASE: Base = Base { pool: Geometry { start: 0x7400_0000, nslabs: 32768, areas: 4 }, cpus: Some(4), force: false };

fn setup(text: &str) -> Setup {
    Policy::parse(text).unwrap().resolve(&BASE).unwrap()
}

fn pool(text: &str) -> (u64, u32) {
    let pool = setup(text).pools[0];
    (pool.nslabs, pool.areas)
}

#[test]
fn the_recorded_pool_is_the_default() {
    assert_eq!(setup("v6_10").pools, [BASE.pool]);
    assert_eq!(pool("legacy"), (32768, 1));
    assert_eq!(setup("v6_10").force, Force::Normal);
    let forced = Base { force: true, ..BASE };
    let of = |text: &str| Policy::parse(text).unwrap().resolve(&forced).unwrap().force;
    assert_eq!(
        (of("v6_10"), of("v6_10:force=off"), of("v6_10:swiotlb=4096")),
        (Force::Always, Force::Normal, Force::Normal)
    );
}

#[test]
fn sizes_are_rounded_as_the_kernel_does() {
    assert_eq!(pool("v6_10:nslabs=1100,areas=3"), (2048, 4));
    assert_eq!(pool("v6_10:nslabs=128"), (512, 4), "a segment an area");
    assert_eq!(pool("v6_10:areas=16"), (32768, 16));
    assert_eq!(pool("legacy:nslabs=1100"), (1152, 1));
    assert_eq!(pool("v6_10:swiotlb=,8"), (32768, 8));
    assert_eq!(pool("v6_10:swiotlb=65536,force,nslabs=1024"), (1024, 4), "named parameters follow the kernel's");
    assert_eq!(pool("legacy:swiotlb=0"), (32768, 1));
    assert_eq!(pool("v5_16:swiotlb=0"), (0, 1));
}

#[test]
fn the_rfcs_headline() {
    let setup = setup("rfc64:swiotlb=65536,1048576,force");
    assert_eq!(setup.pools.iter().map(|p| p.nslabs).collect::<Vec<_>>(), [65536, 1_048_576]);
    assert!(setup.pools[1].start >= 1 << 32 && setup.force == Force::Always);
    let told = setup.describe();
    assert!(told.contains(&("hi_nslabs", "1048576".to_owned())) && told.contains(&("force", "on".to_owned())));
    assert_eq!(self::setup("rfc64:swiotlb=65536,force").pools.len(), 1);
    assert_eq!(self::setup("rfc64:hi_nslabs=100").pools[1].nslabs, 128);
}

#[test]
fn releases_stand_for_policies_with_a_word_of_caution() {
    for (release, id) in [
        ("6.12", "v6_10"),
        ("6.12.117+deb12-amd64", "v6_10"),
        ("7.2.13", "v6_10"),
        ("5.10.7", "legacy"),
        ("5.10", "v5_12"),
        ("5.15.16", "v5_15"),
        ("6.1", "v6_1y"),
        ("6.0.1", "v6_0"),
        ("6.4", "v6_3"),
        ("6.6.17", "v6_6"),
        ("6.6.87", "v6_6y"),
        ("4.19", "legacy"),
    ] {
        let policy = Policy::parse(&format!("{release}:nslabs=1024")).unwrap();
        assert_eq!(policy.rules().id, id, "{release}");
        assert!(policy.caveat().unwrap().starts_with(release));
    }
    assert_eq!(Policy::parse("v6_10").unwrap().caveat(), None);
}

#[test]
fn a_release_chooses_finer_than_its_generation() {
    assert_eq!(
        (setup("v6_10").copies.era, setup("v5_12").copies.era, setup("5.12.9").copies.era),
        ("6.9", "5.10.198", "5.12.9")
    );
    assert!(setup("v6_8").describe().iter().all(|(name, _)| *name != "copies"));
    assert!(setup("v6_8:copies=6.12").describe().contains(&("copies", "6.9".to_owned())));
    // 5.10.y reads 0 as unset, 5.14 as none, although they share a generation.
    assert_eq!(
        (pool("5.10.198:swiotlb=0"), pool("v5_12:swiotlb=0"), pool("5.14:swiotlb=0")),
        ((32768, 1), (32768, 1), (0, 1))
    );
}

/// USERS case 5 asks for a larger IO_TLB_SEGSIZE: 2 MiB in one mapping.
#[test]
fn segments_are_a_knob() {
    assert_eq!(pool("v6_10:nslabs=1024,areas=4,segment=1024"), (4096, 4), "a segment an area at least");
    assert_eq!(pool("v6_10:nslabs=1024,areas=4,segment=64"), pool("v6_10:nslabs=1024,areas=4"));
    assert_eq!(pool("rfc64:swiotlb=1000,2000,segment=256").0, 1024);
    assert_eq!(pool("legacy:swiotlb=noforce,segment=256"), (1, 1));
    let setup = setup("v6_10:nslabs=4096,segment=1024");
    assert!(setup.describe().contains(&("segment", "1024".to_owned())));
    assert_eq!(setup.max_mapping_size(&Limits { min_align_mask: 0xfff, ..Limits::NONE }), (2 << 20) - 4096);

    let script = Script::parse(
        "pool,10000000,4096,1\ndev,0,ffffffff,0,ffffffff,10000\nmap,1,0,40000000,2097152,0,0\nmap,2,0,40000000,4194304,0,0\n\
         map,3,0,40000000,524288,0,0\nunmap,1\nunmap,3\nmap,4,0,40000000,2097152,0,0\n",
    )
    .unwrap();
    let answers = |policy: &str| {
        let mut text = String::new();
        script.answers(&Policy::parse(policy).unwrap(), &mut text).unwrap();
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        answers("v6_10:segment=1024"),
        [
            "map,1,10000000,0,1024",
            "map,2,FAIL,,1024",
            "map,3,10200000,1024,1280",
            "unmap,1,,,256",
            "unmap,3,,,0",
            "map,4,10400000,2048,1024",
            "end,1024,1280"
        ]
    );
    assert_eq!(answers("v6_10")[0], "map,1,FAIL,,0");
    assert_eq!(answers("v6_10:segment=128"), answers("v6_10"));
}

#[test]
fn mistakes_are_named_and_the_right_words_given() {
    let message = |text: &str| Policy::parse(text).unwrap_err().to_string();
    assert!(message("v6_11").contains("unknown policy `v6_11`; known: legacy, rfc64, v5_12"));
    assert!(message("").contains("unknown policy"));
    assert!(message("legacy:areas=2").contains("policy legacy has no parameter `areas`; it has: nslabs"));
    assert!(message("v6_10:hi_nslabs=2").contains("no parameter `hi_nslabs`"));
    assert!(message("v6_10:nslabs=many").contains("parameter `nslabs`: `many` is not a number"));
    assert!(message("v6_10:nslabs").contains("is not a number"));
    assert!(message("v6_10:areas=0").contains("1 to 65536"));
    assert!(message("v6_10:force=maybe").contains("`on` or `off`"));
    assert!(message("v6_10:copies=old").contains("a kernel release such as 5.15.16"));
    assert!(message("v6_10:segment=100").contains("`100` is not a power of two from 1 to 1048576"));
    assert!(message("v6_10:,").contains("no parameter ``"));
    let refused = |text: &str| Policy::parse(text).unwrap().resolve(&BASE).unwrap_err();
    assert!(matches!(refused("v6_10:nslabs=0xffffffffffffffff"), PolicyError::TooLarge { .. }));
    assert!(matches!(refused("legacy:swiotlb=99999999999999999999"), PolicyError::TooLarge { .. }));
    assert!(matches!(refused("v6_10:start=0xfffffffffffff800"), PolicyError::BadStart { .. }));
    assert!(matches!(refused("v6_10:start=1"), PolicyError::BadStart { .. }));
    assert!(message("v6_3+dynamic").contains("no dynamic pools: they came with 6.6; with them: v6_6+dynamic, v6_6y+"));
    assert!(message("v6_10+dynamic:worker=5").contains("`5` is not a time such as 500us"));
    assert!(message("v6_3:worker=1ms").contains("no parameter `worker`"));
    assert!(refused("v6_10:worker=1ms").to_string().contains("write v6_10+dynamic"));
    assert!(refused("v6_10+dynamic:segment=256").to_string().contains("leave out `segment` or +dynamic"));
    assert!(matches!(refused("rfc64:hi_nslabs=128,hi_start=0x74000000"), PolicyError::Overlap { .. }));
}

#[test]
fn scripts_with_mistakes_name_the_line() {
    let message = |text: &str| Script::parse(text).unwrap_err().to_string();
    assert_eq!(Script::parse("# nothing\n").unwrap_err(), ScriptError::NoPool);
    assert!(message("pool,74000000,512,1\nmap,0,0,0,1,0,3").starts_with("line 2: device 3 has no `dev` line"));
    assert!(message("pool,xyz,512,1").starts_with("line 1: the base `xyz` is not a hexadecimal number"));
    assert!(message("pool,74000000,512").starts_with("line 1: the areas is missing"));
    assert!(message("\n\npool,0,1,1,9").starts_with("line 3: `9` is one field too many"));
    assert!(message("pool,0,128,1\nunmap,four").starts_with("line 2: the id `four` is not a number"));
    assert!(message("pool,0,128,1\nunmap").starts_with("line 2: the id is missing"));
    assert!(message("pool,0,128,1\nxunmap,4,0").starts_with("line 2: `0` is one field too many"));
    assert!(message("pool,0,128,1\nopt,colour,1").starts_with("line 2: `colour` is not an option"));
    assert!(message("hello").starts_with("line 1: `hello` is not a kind of line"));
    let both = "pool,0,128,1\ndev,0,ff,0,0,0\nmap,0,0,0,1,0,0\nxmap,1,0,0,1,0";
    assert!(message(both).starts_with("line 4: Xen maps"));
}

/// The vectors' README: an unmap whose map did not succeed is not called. One that never was has not.
#[test]
fn an_unmap_of_what_was_never_mapped_is_skipped() {
    let device = "pool,74000000,512,1\ndev,0,ffffffffffffffff,0,0,0\n";
    let script = format!("{device}unmap,4\nmap,4,0,1000,4096,0,0\nunmap,5\nunmap,4\nunmap,4\n");
    let expected =
        ["unmap,4,SKIP,,0", "map,4,74000000,0,2", "unmap,5,SKIP,,2", "unmap,4,,,0", "unmap,4,SKIP,,0", "end,0,2"];
    assert_eq!(lines(&script, "v6_10"), expected);
    let xen = format!("{device}xunmap,4\nxmap,4,0,1000,4096,0\nxunmap,4\n");
    assert_eq!(lines(&xen, "v6_10"), ["xunmap,4,SKIP,,,0", "xmap,4,DIRECT,1000,,0", "xunmap,4,,,,0", "end,0"]);
}

/// SPEC 2.2: the line is what `swiotlb=0` would say, which old kernels take for nothing said and 6.0 on lifts to a segment.
#[test]
fn a_pool_of_0_slots_is_what_the_kernel_makes_of_it() {
    let nslabs = |policy: &str| {
        let mut out = String::new();
        let script = Script::parse("pool,74000000,0,1\n").unwrap();
        script.answers(&Policy::parse(policy).unwrap(), &mut out).unwrap();
        let (_, rest) = out.split_once("nslabs=").unwrap();
        rest.split_once(' ').unwrap().0.to_owned()
    };
    assert_eq!((nslabs("legacy"), nslabs("v5_12"), nslabs("rfc64")), ("32768".into(), "32768".into(), "32768".into()));
    assert_eq!((nslabs("v5_15"), nslabs("v6_10")), ("0".into(), "128".into()));
}

/// SPEC 2.7: a device with a restricted pool bounces through that, whatever kind of request it makes.
#[test]
fn a_restricted_pool_serves_all_of_a_script() {
    let device = "pool,74000000,512,1\ndev,0,ffffffffffffffff,0,ffffffff,0\n";
    let plain = format!("{device}map,0,0,1000,4096,0,0\nsmap,1,0,1000,262144,0\nsmap,2,0,1000,2048,0\nunmap,0\n");
    let xen = format!("{device}xmap,0,0,1000,4096,0\nxunmap,0\n");
    let answers = |script: &str, policy: &str| {
        let mut out = String::new();
        let script = Script::parse(script).unwrap();
        script.answers(&Policy::parse(policy).unwrap(), &mut out).map(|()| out)
    };
    let told = " restricted_base=10000000 restricted_nslabs=130\n";
    for policy in ["v6_10", "v6_10+dynamic"] {
        let out = answers(&plain, &format!("{policy}:restricted=130,restricted_start=0x10000000")).unwrap();
        let pool = if policy == "v6_10" { "" } else { ",10000000" };
        let served =
            format!("map,0,10000000,0,2{pool}\nsmap,1,FAIL,,2\nsmap,2,10001000,2,3{pool}\nunmap,0,,,1\nend,1,3\n");
        assert!(out.ends_with(&format!("{told}{served}")), "{out}");
    }
    let out = answers(&xen, "v6_10:restricted=130,restricted_start=0x10000000").unwrap();
    assert!(out.ends_with(&format!("{told}xmap,0,BOUNCE,100000,10000000,2\nxunmap,0,,,,0\nend,0\n")), "{out}");
    answers(&plain, "v6_10:restricted=130,restricted_dev=*").unwrap();
    let refused = answers(&plain, "v6_10:restricted=130,restricted_dev=*:03:*").unwrap_err();
    assert_eq!(refused, ScriptError::RestrictedDevices { devices: "*:03:*".to_owned() });
    assert!(refused.to_string().contains("restricted_dev=*:03:* against; leave that out"), "{refused}");
}

#[test]
fn a_mark_and_an_empty_script_change_nothing() {
    let mut out = String::new();
    let script = Script::parse("pool,74000000,512,1\nmark\n").unwrap();
    script.answers(&Policy::parse("v6_10").unwrap(), &mut out).unwrap();
    let head = "# swiotlb answers v1 kernel=v6_10 base=74000000 nslabs=512 nareas=1 area_nslabs=512 dynamic=0\n";
    assert_eq!(out, format!("{head}end,0,0\n"));
    assert!(script.is_empty());
}

#[test]
fn dynamic_is_a_word_behind_the_name_or_a_flag() {
    let written = Policy::parse("v6_10+dynamic:worker=2ms,nslabs=4096").unwrap();
    let flagged = Policy::parse("v6_10:worker=2ms,nslabs=4096").unwrap().with_dynamic().unwrap();
    assert_eq!(written, flagged);
    assert_eq!(flagged.text(), "v6_10+dynamic:worker=2ms,nslabs=4096");
    assert_eq!(flagged.clone().with_dynamic().unwrap(), flagged);
    assert_eq!(written.resolve(&BASE).unwrap().growth.unwrap().worker_ns, 2_000_000);
    let release = Policy::parse("6.12.117+deb13-amd64+dynamic").unwrap();
    assert_eq!(release.rules().id, "v6_10");
    assert!(release.caveat().unwrap().starts_with("6.12.117+deb13-amd64 is taken"));
    assert_eq!(Policy::parse("v6_10").unwrap().resolve(&BASE).unwrap().growth, None);
}

const GROWS: &str = "pool,74000000,512,1\nregion,40000000,1048576\ndev,0,ffffffffffffffff,0,0,0\n\
    map,0,0,1000,262144,0,0\nmap,1,0,1000,262144,0,0\nmap,2,0,1000,262144,0,0\nmap,3,0,1000,262144,0,0\n\
    map,4,0,1000,2048,0,0\nwork\nmap,5,0,1000,2049,0,0\nunmap,5\nunmap,4\nwork\n";

fn lines(script: &str, policy: &str) -> Vec<String> {
    let mut out = String::new();
    Script::parse(script).unwrap().answers(&Policy::parse(policy).unwrap(), &mut out).unwrap();
    out.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn a_dynamic_script_under_a_policy_that_does_not_grow() {
    let answers = lines(GROWS, "v6_10");
    assert_eq!(
        answers[4..],
        [
            "map,4,FAIL,,512",
            "work,0",
            "map,5,FAIL,,512",
            "unmap,5,SKIP,,512",
            "unmap,4,SKIP,,512",
            "work,0",
            "end,512,512"
        ]
    );
    assert_eq!(answers[3], "map,3,740c0000,384,512");
}

#[test]
fn a_dynamic_script_under_one_that_does() {
    // The pool of 512 slots that the worker wants takes a whole MiB, and a page of it is taken.
    let expected = [
        "map,3,740c0000,384,512,74000000",
        "page+,40000000,0",
        "map,4,40000000,0,513,40000000",
        "page+,NONE,8",
        "work,1",
    ];
    let answers = lines(GROWS, "v6_10+dynamic");
    assert_eq!(answers[3..8], expected);
    assert_eq!(
        answers[8..],
        [
            "page+,40001000,0",
            "map,5,40001000,0,515,40001000",
            "page-,40001000,0",
            "unmap,5,,,513",
            "page-,40000000,0",
            "unmap,4,,,512",
            "page+,40000000,8",
            "work,1",
            "end,512,515"
        ]
    );
}

#[test]
fn without_a_region_there_is_no_page() {
    let script: String = GROWS.lines().filter(|l| !l.starts_with("region")).map(|l| format!("{l}\n")).collect();
    assert_eq!(lines(&script, "v6_10+dynamic")[4..8], ["page+,NONE,0", "map,4,FAIL,,512", "page+,NONE,8", "work,1"]);
}

#[test]
fn pages_above_the_limit_are_given_back_and_lower_zones_asked() {
    // The only pages lie above 4 GiB, where neither the worker (DMA32, then DMA) nor a 40-bit device at 2^40 looks.
    let script = "pool,74000000,512,1\nregion,10000000000,4194304\ndev,0,ffffffffff,0,0,0\ndev,1,1ffffffffff,0,0,0\n\
        map,0,0,1000,262144,0,0\nmap,1,0,1000,262144,0,0\nmap,2,0,1000,262144,0,0\nmap,3,0,1000,262144,0,0\n\
        map,4,0,1000,2048,0,0\nmap,5,0,1000,2048,0,1\nwork\n";
    let pair = ["page+,10000000000,0", "page-,10000000000,0"];
    let answers = lines(script, "v6_9+dynamic");
    assert_eq!(answers[4..10], [pair, pair, pair].concat());
    assert_eq!(answers[10..13], ["map,4,FAIL,,512", "page+,10000000000,0", "map,5,10000000000,0,513,10000000000"]);
    let worker = ["page+,10000100000,8", "page-,10000100000,8"];
    assert_eq!(answers[13..17], [worker, worker].concat());
    assert_eq!(answers[17], "work,1");
}

#[test]
fn a_script_under_two_pools() {
    let script = "pool,74000000,512,1\ndev,0,ffffffffffffffff,0,ffffffff,0\ndev,1,ffffffff,0,ffffffff,0\n\
        map,0,0,1000,4096,0,0\nmap,1,0,1000,4096,0,1\nsmap,2,0,1000,2048,1\nunmap,0\nmap,3,0,0,262144,0,0\n";
    let mut out = String::new();
    let policy = Policy::parse("rfc64:hi_nslabs=128").unwrap();
    Script::parse(script).unwrap().answers(&policy, &mut out).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].ends_with("area_nslabs=512 dynamic=0 hi_base=100000000 hi_nslabs=128"), "{}", lines[0]);
    assert_eq!(
        lines[1..],
        [
            "map,0,100000000,0,2",
            "map,1,74000000,0,4",
            "smap,2,74001000,2,5",
            "unmap,0,,,3",
            "map,3,100000000,0,131",
            "end,131,131",
        ]
    );
}
