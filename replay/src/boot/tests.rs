//! Every sentence of SPEC 2.2 to 2.8 that names a number, and what must hold of any answer.

use proptest::prelude::*;

use super::*;
use crate::{Base, Geometry, Policy};

const GIB: u64 = 1 << 30;

fn query(line: &str, release: &str) -> BootQuery {
    BootQuery::new(line, KernelVersion::parse(release).unwrap(), 8, 32 * GIB)
}

fn guest(line: &str, release: &str, ram: u64) -> BootQuery {
    BootQuery { encryption: Encryption::Guest, ram, ..query(line, release) }
}

/// Slots, areas and what bounces; 0 slots for no pool.
fn becomes(query: &BootQuery) -> (u64, u32, Force) {
    let told = explain(query);
    told.pools.first().map_or((0, 0, told.force), |p| (p.nslabs, p.areas, told.force))
}

fn warned(query: &BootQuery, kind: WarningKind) -> String {
    explain(query).warned(kind).map(|w| w.text.clone()).collect::<Vec<_>>().join("; ")
}

fn says(query: &BootQuery, words: &str) -> bool {
    explain(query).steps.iter().any(|step| step.what.contains(words))
}

use Force::{Always, Never, Normal};

/// SPEC 2.2: the grammar of each era, with the "consequences to reproduce".
#[test]
fn the_grammar() {
    #[rustfmt::skip]
    let table = [
        // line,                       kernel,    slots, areas, bounces
        ("",                           "5.10.7",   32768, 1, Normal),
        ("",                           "5.19",     32768, 1, Normal),
        ("",                           "6.12",     32768, 8, Normal),
        ("swiotlb=128",                "6.12",     1024,  8, Normal),
        ("swiotlb=128",                "5.19",     128,   1, Normal),
        ("swiotlb=1100,3",             "5.10.198", 1152,  1, Normal),
        ("swiotlb=1100,3",             "6.1.192",  2048,  4, Normal),
        ("swiotlb=,4",                 "6.12",     32768, 4, Normal),
        ("swiotlb=force",              "5.10.7",   32768, 1, Always),
        ("swiotlb=force",              "6.12",     32768, 8, Always),
        ("swiotlb=,force",             "5.10.7",   32768, 1, Always),
        ("swiotlb=,,force",            "6.12",     32768, 8, Always),
        ("swiotlb=,,",                 "6.12",     32768, 8, Normal),
        ("swiotlb=65536,force",        "6.12",     65536, 8, Always),
        ("swiotlb=65536,force",        "5.15.16",  65536, 1, Always),
        ("swiotlb=65536,2,force",      "6.0.1",    65536, 2, Always),
        ("swiotlb=65536,2,force",      "5.19",     65536, 1, Normal),
        ("swiotlb=0x1000,010",         "6.12",     4096,  8, Normal),
        ("swiotlb=4096,0",             "6.12",     4096,  1, Normal),
        ("swiotlb=0",                  "5.10.7",   32768, 1, Normal),
        ("swiotlb=0",                  "5.12.9",   32768, 1, Normal),
        ("swiotlb=0",                  "5.14-rc5", 0,     0, Normal),
        ("swiotlb=0",                  "5.19",     0,     0, Normal),
        ("swiotlb=0",                  "6.0.1",    1024,  8, Normal),
        ("swiotlb=noforce",            "5.10.7",   1,     1, Never),
        ("swiotlb=65536,noforce",      "5.12.9",   1,     1, Never),
        ("swiotlb=noforce",            "5.14-rc5", 0,     0, Never),
        ("swiotlb=noforce",            "6.12",     0,     0, Never),
        ("swiotlb=64M",                "6.12",     1024,  8, Normal),
        ("swiotlb=64M,force",          "6.12",     1024,  8, Normal),
        ("swiotlb=force,65536",        "6.12",     32768, 8, Normal),
        ("swiotlb=65536,forced",       "6.12",     65536, 8, Normal),
        // The number before areas is rounded for them at once; what comes later is not.
        ("swiotlb=128,16",             "6.12",     2048,  16, Normal),
        ("swiotlb=,4 swiotlb=1100",    "6.12",     1152,  4, Normal),
        ("swiotlb=1100 swiotlb=,4",    "6.12",     2048,  4, Normal),
        ("swiotlb=,8 swiotlb=384",     "6.12",     384,   3, Normal),
        ("swiotlb=,8 swiotlb=384",     "6.4",      384,   8, Normal),
        ("swiotlb=,8 swiotlb=0",       "6.12",     0,     0, Normal),
        ("swiotlb=1024 swiotlb=force", "5.10.7",   1024,  1, Always),
        ("swiotlb=force swiotlb=1024", "6.12",     1024,  8, Always),
        ("swiotlb=noforce swiotlb=1024", "5.10.7", 1024,  1, Never),
        // A bare value, and a whole command line.
        ("128",                        "6.12",     1024,  8, Normal),
        ("force",                      "6.12",     32768, 8, Always),
        ("ro root=/dev/sda1 swiotlb=4096 quiet", "6.12", 4096, 8, Normal),
    ];
    for (line, release, nslabs, areas, force) in table {
        assert_eq!(becomes(&query(line, release)), (nslabs, areas, force), "{line} on {release}");
    }
}

/// SPEC 9.
#[test]
fn the_rfcs_two_pools() {
    let pools = |line| explain(&query(line, "rfc64")).pools.iter().map(|p| p.nslabs).collect::<Vec<_>>();
    assert_eq!(pools("swiotlb=65536,1048576,force"), [65536, 1_048_576]);
    assert_eq!(pools("swiotlb=,524288,force"), [32768, 524_288]);
    assert_eq!(pools("swiotlb=65536,force"), [65536]);
    assert_eq!(pools("swiotlb=65536,0"), [65536, 32768]);
    assert_eq!(pools("swiotlb=65536,1000,noforce"), [1, 1]);
    let dmesg = explain(&query("swiotlb=65536,1048576,force", "rfc64")).dmesg;
    assert_eq!(
        dmesg,
        [
            "software IO TLB: Low Mem mapped [mem START-END] (128MB)",
            "software IO TLB: High Mem mapped [mem START-END] (2048MB)"
        ]
    );
    // Only the low pool must lie low.
    assert_eq!(pools("swiotlb=4194304,65536"), [65536]);
    assert_eq!(pools("swiotlb=65536,4194304"), [65536, 4_194_304]);
    let late = BootQuery { late: true, ..query("swiotlb=1024,65536", "rfc64") };
    assert_eq!(explain(&late).pools.len(), 1);
    let xen = BootQuery { machine: Machine::XenDom0, ..query("swiotlb=65536,1048576,force", "rfc64") };
    assert_eq!(
        explain(&xen).pools.iter().map(|p| (p.nslabs, p.high)).collect::<Vec<_>>(),
        [(65536, false), (1_048_576, true)]
    );
}

/// SPEC 2.3, and the kernel messages of 2.8.
#[test]
fn slots_are_rounded_for_areas() {
    let told = explain(&query("swiotlb=128", "6.12"));
    let steps: Vec<_> = told.steps.iter().map(|s| (s.rule, s.nslabs, s.areas, s.bytes)).collect();
    assert_eq!(
        steps,
        [
            ("SPEC 2.2", 128, None, 256 << 10),
            ("SPEC 2.4", 128, None, 256 << 10),
            ("SPEC 2.3", 128, Some(8), 256 << 10),
            ("SPEC 2.3", 1024, Some(8), 2 << 20),
            ("SPEC 2.5", 1024, Some(8), 2 << 20),
        ]
    );
    assert_eq!(
        told.dmesg,
        [
            "software IO TLB: area num 8.",
            "software IO TLB: SWIOTLB bounce buffer size roundup to 2MB",
            "software IO TLB: mapped [mem START-END] (2MB)",
        ]
    );
    let advice: Vec<_> = told.advice.iter().map(|a| (a.meant.as_str(), a.write.as_str(), a.becomes.as_str())).collect();
    assert_eq!(advice, [("128 MiB", "swiotlb=65536", "65,536 slots, 128 MiB")]);
    let on = |cpus| becomes(&BootQuery { cpus, ..query("", "6.12") });
    assert_eq!(on(6), (32768, 8, Normal), "a power of two");
    assert_eq!(on(512), (65536, 512, Normal), "512 areas of a segment are more than the default");
    assert_eq!(becomes(&query("swiotlb=33000", "6.12")), (65536, 8, Normal));
    assert_eq!(becomes(&query("swiotlb=33000", "5.19")), (33024, 1, Normal));
}

/// SPEC 2.4: what an encrypted guest takes.
#[test]
fn sizes_the_kernel_chooses() {
    for (ram, old, new) in [
        (GIB / 2, 32768, 32768),
        (GIB, 32768, 32768),
        // 6 % of 8 GiB are 515,396,075 bytes: 251,659 slots, 251,776 in whole segments.
        (8 * GIB, 251_776, 262_144),
        (32 * GIB, 524_288, 524_288),
    ] {
        assert_eq!(becomes(&guest("", "5.11", ram)), (old, 1, Always), "{ram}");
        assert_eq!(becomes(&guest("", "6.12", ram)), (new, 8, Always), "{ram}");
        assert_eq!(becomes(&guest("", "5.10.198", ram)), (32768, 1, Always), "5.10 only forces");
    }
    assert!(explain(&guest("", "6.12", 8 * GIB)).dmesg[0].ends_with("SWIOTLB bounce buffer size adjusted to 491MB"));
    // Given sizes stay, but 32,768 cannot be told from none; nor can 0 where the size is a global.
    assert_eq!(becomes(&guest("swiotlb=128", "6.12", 32 * GIB)).0, 1024);
    assert!(warned(&guest("swiotlb=128", "6.12", 32 * GIB), WarningKind::BelowChosen).contains("1 GiB"));
    assert_eq!(becomes(&guest("swiotlb=32768", "6.12", 32 * GIB)).0, 524_288);
    assert!(warned(&guest("swiotlb=32768", "6.12", 32 * GIB), WarningKind::SizeRounded).contains("cannot be told"));
    assert_eq!(becomes(&guest("swiotlb=32768", "5.11", 32 * GIB)).0, 32768);
    assert_eq!(becomes(&guest("swiotlb=0", "5.11", 32 * GIB)).0, 524_288);
    // Areas that raise the size look like a size that was given.
    assert_eq!(becomes(&guest("swiotlb=,512", "6.12", 32 * GIB)).0, 65536);
    assert_eq!(becomes(&guest("swiotlb=,4", "6.12", 32 * GIB)), (524_288, 4, Always));
    // noforce against the guest's own forcing.
    assert_eq!(becomes(&guest("swiotlb=noforce", "5.15", 32 * GIB)).2, Always);
    assert_eq!(becomes(&guest("swiotlb=noforce", "6.12", 32 * GIB)), (0, 0, Never));
    let arm = |line, release| becomes(&BootQuery { machine: Machine::Arm64Kmalloc, ..query(line, release) }).0;
    assert_eq!(arm("", "6.12"), 16384, "a 1024th of 32 GiB");
    assert_eq!(arm("swiotlb=4096", "6.12"), 4096);
    assert_eq!(arm("", "6.4"), 32768);
    let big = BootQuery { machine: Machine::Arm64Kmalloc, ram: 1 << 40, ..query("", "6.12") };
    assert_eq!(becomes(&big).0, 32768, "never more than the default");
}

/// SPEC 2.4: who has a pool at all.
#[test]
fn who_has_a_pool() {
    let small = |line| BootQuery { ram: 2 * GIB, ..query(line, "6.12") };
    assert_eq!(becomes(&small("")).0, 0);
    assert_eq!(
        warned(&small(""), WarningKind::NoPool),
        "without a pool mappings of buffers a device does not reach fail"
    );
    assert!(warned(&small("swiotlb=65536"), WarningKind::NoPool).contains("no effect"));
    assert_eq!(becomes(&small("iommu=soft")).0, 32768);
    assert_eq!(becomes(&small("swiotlb=force")), (32768, 8, Always));
    assert_eq!(becomes(&BootQuery { encryption: Encryption::Host, ..small("") }), (32768, 8, Normal));
    assert_eq!(becomes(&query("iommu=off", "6.12")).0, 0);
    assert_eq!(becomes(&query("iommu=off swiotlb=force", "6.12")).0, 32768);
    assert_eq!(becomes(&query("iommu=noagp,soft", "6.12")).0, 32768);
    let edge = BootQuery { ram: 4 * GIB, ..query("", "6.12") };
    assert!(becomes(&edge).0 > 0 && explain(&edge).assumptions.iter().any(|a| a.contains("above 4 GiB")));
    let dom0 = |release| BootQuery { machine: Machine::XenDom0, ..query("", release) };
    assert!(
        says(&dom0("5.15.16"), "from a multiple of 256 KiB on") && says(&dom0("5.19"), "from a multiple of 4 KiB on")
    );
    assert!(explain(&query("", "6.1")).assumptions[0].contains("6.1: this stable branch changed"));
    assert!(!explain(&query("", "6.12")).assumptions.iter().any(|a| a.contains("stable branch")));
    for (machine, release, pool) in [
        (Machine::XenDom0, "6.1.192", true),
        (Machine::XenDomU, "6.1.192", false),
        (Machine::XenDomU, "6.12", true),
        (Machine::Arm64, "6.12", true),
    ] {
        let asked = BootQuery { machine, ram: GIB, ..query("", release) };
        assert_eq!(!explain(&asked).pools.is_empty(), pool, "{machine} {release}");
    }
}

/// SPEC 2.5, and 2.3's limit of areas.
#[test]
fn memory_that_is_short() {
    let short = |release, mib: u64| BootQuery { low_mem: Some(mib << 20), ..query("", release) };
    assert_eq!(becomes(&short("5.10.7", 63)), (0, 0, Normal));
    assert!(warned(&short("5.10.7", 63), WarningKind::NoPool).contains("panics"));
    assert!(warned(&short("6.0.1", 63), WarningKind::NoPool).contains("fail"));
    for release in ["6.1.192", "6.2.1", "6.5", "6.6.17", "6.12"] {
        assert_eq!(becomes(&short(release, 63)), (16384, 8, Normal), "{release}");
        assert_eq!(becomes(&short(release, 0)), (0, 0, Normal), "{release}");
    }
    let tiny = BootQuery { low_mem: Some(512 << 10), ..query("", "6.12") };
    assert_eq!(becomes(&tiny).0, 0, "512 slots are the last that are tried");
    let dmesg = explain(&short("6.12", 63)).dmesg;
    assert!(dmesg[1].ends_with("adjusted 32768 -> 16384 slabs") && dmesg[2].ends_with("(32MB)"));
    // 1 MiB is 512 slots: segments for four of the eight areas.
    for (release, areas) in
        [("6.2.1", 8), ("6.3.8", 8), ("6.4", 8), ("6.1.192", 8), ("6.5", 8), ("6.6.17", 4), ("6.12", 4)]
    {
        assert_eq!(becomes(&short(release, 1)), (512, areas, Normal), "{release}");
    }
    assert!(says(&short("6.5", 1), "computed, but not used") && !says(&short("6.4", 1), "computed"));
    assert!(warned(&short("6.4", 1), WarningKind::Areas).contains("8 areas of 64 slots"));
    assert_eq!(explain(&short("6.4", 1)).pools[0].area_slots(), 64);
    // 384 slots for 8 areas: 3 areas, one of which no CPU begins with.
    let odd = query("swiotlb=,8 swiotlb=384", "6.12");
    assert!(warned(&odd, WarningKind::Areas).contains("3 areas are not a power of two"));
    let tail = BootQuery { cpus: 1, ..query("swiotlb=,16 swiotlb=2176", "6.4") };
    assert_eq!(explain(&tail).pools[0].unreachable(), 0);
    let tail = query("swiotlb=,256 swiotlb=33024", "6.4");
    assert_eq!((explain(&tail).pools[0].area_slots(), explain(&tail).pools[0].unreachable()), (129, 0));
    let tail = query("swiotlb=,256 swiotlb=33152", "6.4");
    assert_eq!(explain(&tail).pools[0].unreachable(), 128);
    assert!(warned(&tail, WarningKind::Unreachable).starts_with("128 slots"));
    // Nothing of 4 GiB lies below 4 GiB on any PC.
    assert_eq!(becomes(&query("swiotlb=2097152", "6.12")).0, 1_048_576);
    assert!(
        warned(&query("swiotlb=2097152", "6.12"), WarningKind::Shrunk).contains("of 4 GiB asked for there are 2 GiB")
    );
}

/// SPEC 2.5: late set-up is by page blocks.
#[test]
fn late_pools_come_in_page_blocks() {
    let late = |line, release, mib: u64| BootQuery { late: true, low_mem: Some(mib << 20), ..query(line, release) };
    assert_eq!(becomes(&late("", "6.12", 64)), (2048, 8, Normal), "no block is above 4 MiB");
    assert!(explain(&late("", "6.12", 64)).dmesg.iter().any(|m| m.ends_with("only able to allocate 4 MB")));
    assert_eq!(becomes(&late("swiotlb=1152", "5.10.7", 64)).0, 2048);
    assert_eq!(becomes(&late("", "5.10.7", 1)).0, 512);
    assert_eq!(becomes(&late("", "5.10.7", 0)).0, 0);
    for (release, areas) in [("6.4", 8), ("6.1.192", 4), ("6.5", 4), ("6.12", 4)] {
        assert_eq!(becomes(&late("", release, 1)), (512, areas, Normal), "{release}: limited late from 6.5 on");
    }
    let xen = BootQuery { machine: Machine::XenDomU, ..late("swiotlb=65536,1048576", "rfc64", 64) };
    assert_eq!(explain(&xen).pools.iter().map(|p| p.nslabs).collect::<Vec<_>>(), [2048, 2048]);
    assert_eq!(becomes(&BootQuery { machine: Machine::XenDomU, ..late("", "6.1.192", 64) }), (2048, 8, Normal));
}

#[test]
fn what_is_not_understood_is_said() {
    let tail = |line, release| warned(&query(line, release), WarningKind::IgnoredTail);
    assert!(tail("swiotlb=64M", "6.12").contains("`M` is passed over"));
    assert!(
        tail("swiotlb=64M,force", "6.12")
            .contains("`force` is lost with it, because the word must be all that is left")
    );
    assert!(tail("swiotlb=force,65536", "6.12").contains("must come last"));
    assert!(tail("swiotlb=65536,2", "5.19").contains("5.19 knows no second number"));
    assert_eq!(tail("swiotlb=65536,2,force", "6.12"), "");
    let advice = |line, release| {
        let told = explain(&query(line, release)).advice;
        told.iter().map(|a| (a.meant.clone(), a.write.clone(), a.becomes.clone())).next()
    };
    let of = |meant: &str, write: &str, becomes: &str| Some((meant.to_owned(), write.to_owned(), becomes.to_owned()));
    assert_eq!(advice("swiotlb=64M,force", "6.12"), of("64 MiB", "swiotlb=32768,force", "32,768 slots, 64 MiB"));
    assert_eq!(advice("swiotlb=1G,2,force", "6.12"), of("1 GiB", "swiotlb=524288,2,force", "524,288 slots, 1 GiB"));
    assert_eq!(advice("swiotlb=96m", "6.12"), of("96 MiB", "swiotlb=49152", "65,536 slots, 128 MiB"));
    assert_eq!(advice("swiotlb=96m", "5.19"), of("96 MiB", "swiotlb=49152", "49,152 slots, 96 MiB"));
    assert_eq!(advice("swiotlb=65536", "6.12"), None);
    assert!(warned(&query("swiotlb=1024,3", "6.12"), WarningKind::AreasRounded).starts_with("3 areas become 4"));
    assert!(warned(&query("swiotlb=1 swiotlb=2", "6.12"), WarningKind::Repeated).contains("more than once"));
    let costly = BootQuery { ram: 4 * GIB, ..query("swiotlb=524288", "6.12") };
    assert!(warned(&costly, WarningKind::RamCost).contains("25 % of RAM"));
    let promise = |release, machine| warned(&BootQuery { machine, ..query("", release) }, WarningKind::Promise);
    assert_eq!(promise("6.12", Machine::XenDom0), "");
    assert!(promise("5.18", Machine::X86).contains("NVMe"));
    assert!(promise("6.4", Machine::X86).contains("upper half of a page"));
    assert!(promise("6.5", Machine::XenDom0).contains("Xen's operations promise nothing"));
    let told = explain(&query("swiotlb=force", "5.15.16"));
    assert_eq!((told.max_mapping, told.max_segment), (262_144, Some(1)));
}

fn releases() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "5.10.7", "5.10.198", "5.11", "5.12.9", "5.14-rc5", "5.15.16", "5.15.148", "5.18.12", "5.19", "6.0.1",
        "6.1.192", "6.2.1", "6.4", "6.5", "6.6.17", "6.6.87", "6.8", "6.9", "6.12", "7.2.13", "rfc64",
    ])
}

fn value() -> impl Strategy<Value = String> {
    let number = || {
        prop_oneof![
            Just(String::new()),
            (0u64..1 << 20).prop_map(|n| n.to_string()),
            (0u64..9).prop_map(|n| n.to_string())
        ]
    };
    let word = prop::sample::select(vec!["", "", "force", "noforce", "forced", "M"]);
    (number(), prop::sample::select(vec!["", ","]), number(), prop::sample::select(vec!["", ","]), word)
        .prop_map(|(n, a, m, b, word)| format!("{n}{a}{m}{b}{word}"))
}

proptest! {
    /// What a policy makes of a boot parameter is what is explained, where memory is plenty.
    #[test]
    fn a_policy_agrees(value in value(), release in releases(), cpus in 1u32..300) {
        let base = Base { pool: Geometry { start: 1 << 20, nslabs: 4096, areas: 1 }, cpus: Some(cpus), force: false };
        let low_mem = Some(u64::MAX);
        let asked = BootQuery { cpus, low_mem, ram: 1 << 50, ..query(&format!("iommu=soft swiotlb={value}"), release) };
        let told = explain(&asked);
        let policy = Policy::parse(&format!("{release}:swiotlb={value}")).unwrap();
        // A model's pool has limits of its own.
        if let Ok(setup) = policy.resolve(&base) && told.pools.iter().all(|p| p.areas <= 1 << 16) {
            prop_assert_eq!(setup.force, told.force);
            let made: Vec<_> = setup.pools.iter().filter(|p| p.nslabs > 0).map(|p| (p.nslabs, p.areas)).collect();
            prop_assert_eq!(made, told.pools.iter().map(|p| (p.nslabs, p.areas)).collect::<Vec<_>>());
        }
    }

    /// Whatever memory there is: whole segments (but for noforce), areas as their era has them, steps that end in the
    /// pool, and the pool written out as a parameter makes itself again.
    #[test]
    fn the_answer_is_sound(
        value in value(), release in releases(), cpus in 1u32..2000, ram in 1u64 << 20..1 << 40,
        low_mem in prop::option::of(0u64..4 << 30), encryption in prop::sample::select(Encryption::ALL.to_vec()),
        machine in prop::sample::select(Machine::ALL.to_vec()), late in any::<bool>(),
    ) {
        let line = format!("swiotlb={value}");
        let asked = BootQuery { cpus, ram, low_mem, encryption, machine, late, ..query(&line, release) };
        let told = explain(&asked);
        prop_assert!(told.steps.iter().all(|s| s.bytes == s.nslabs * 2048 && s.rule.starts_with("SPEC ")));
        let Some(pool) = told.pools.iter().find(|p| !p.high) else { return Ok(()) };
        if machine != Machine::XenDom0 && machine != Machine::XenDomU && !pool.high && told.pools.len() == 1 {
            let last = told.steps.iter().rev().find(|s| s.rule != "SPEC 9").unwrap();
            prop_assert_eq!((last.nslabs, last.areas.unwrap_or(1)), (pool.nslabs, pool.areas));
        }
        if let Some(low) = low_mem && machine != Machine::XenDom0 && machine != Machine::XenDomU {
            prop_assert!(pool.bytes() <= low.max(4096));
        }
        let kernel = asked.kernel;
        if kernel.grammar() == Grammar::Areas {
            prop_assert_eq!(pool.nslabs % 128, 0);
            prop_assert!(pool.areas.is_power_of_two() || pool.area_slots() == 128);
            if kernel.at_least(6, 6) {
                prop_assert!(pool.area_slots() >= 128);
            }
            if pool.nslabs.is_power_of_two() && pool.area_slots() >= 128 && pool.areas.is_power_of_two() {
                let again = format!("iommu=soft swiotlb={},{}", pool.nslabs, pool.areas);
                let again = explain(&BootQuery { low_mem: Some(u64::MAX), ..query(&again, release) });
                prop_assert_eq!(&again.pools, &vec![*pool]);
                prop_assert_eq!(again.warned(WarningKind::SizeRounded).count(), 0);
            }
        }
    }

    #[test]
    fn any_text_is_answered(line in ".{0,60}", release in releases(), machine in prop::sample::select(Machine::ALL.to_vec())) {
        let _ = explain(&BootQuery { machine, ..query(&line, release) });
        let _ = explain(&BootQuery { machine, ..query(&format!("swiotlb={line}"), release) });
    }
}

#[test]
fn numbers_without_end_are_answered() {
    for &machine in Machine::ALL {
        for line in ["swiotlb=99999999999999999999,99999999999999999999", "99999999999999999999M,force"] {
            for release in ["5.10.7", "rfc64", "6.12"] {
                let late = release == "5.10.7";
                let asked = BootQuery { machine, late, ram: 1 << 60, cpus: u32::MAX, ..query(line, release) };
                let told = explain(&asked);
                assert!(told.pools.iter().all(|p| p.nslabs > 0 && p.nslabs < 1 << 53), "{machine} {line} {release}");
            }
        }
    }
}
