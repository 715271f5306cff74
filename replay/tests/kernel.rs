//! Every answer real kernels gave to the event scripts of tests/vectors/kernel, byte for byte below the header line,
//! and the header's geometry. The files are data made by running kernel code; their README is beside them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Read;
use std::path::{Path, PathBuf};

use replay::{Policy, Script};

/// Kernel sets and the policies that must answer as they did.
const SETS: &[(&str, &[&str])] = &[
    ("5.10.7", &["legacy", "rfc64"]),
    ("5.10.198", &["v5_12"]),
    ("5.15.100", &["v5_16"]),
    ("6.1.192", &["v6_1y"]),
    ("6.6.87", &["v6_6y"]),
    ("6.8.0", &["v6_3", "v6_6", "v6_8"]),
    ("6.12.117", &["v6_10"]),
];

/// The same for kernels built with pools that come and go.
const DYNAMIC: &[(&str, &[&str])] = &[
    ("6.6.87-dyn", &["v6_6y+dynamic"]),
    ("6.8.0-dyn", &["v6_8+dynamic"]),
    ("6.12.117-dyn", &["v6_10+dynamic", "6.12.117+dynamic:worker=1s"]),
];

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/kernel")
}

fn read(path: &Path) -> String {
    let mut text = String::new();
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text
}

/// The names of a folder's event scripts.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".events.csv.gz").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn answers(script: &str, policy: &str) -> String {
    let mut out = String::new();
    Script::parse(script).unwrap().answers(&Policy::parse(policy).unwrap(), &mut out).unwrap();
    out
}

/// Panics with the first line that differs.
fn compare(what: &str, ours: &str, kernel: &str) {
    let (mut ours, mut kernel) = (ours.lines(), kernel.lines());
    let head = |line: &str| line.split_once(" base=").map(|(_, geometry)| geometry.to_owned());
    assert_eq!(ours.next().and_then(head), kernel.next().and_then(head), "{what}: the pool's geometry");
    for (number, (o, k)) in ours.by_ref().zip(kernel.by_ref()).enumerate() {
        assert_eq!(o, k, "{what}: line {}: ours, then the kernel's", number + 2);
    }
    assert_eq!((ours.next(), kernel.next()), (None, None), "{what}: one is longer");
}

#[test]
fn plain_sets() {
    let names = names(&vectors().join("events"));
    assert_eq!(names.len(), 16);
    for (kernel, policies) in SETS {
        for name in &names {
            let script = read(&vectors().join(format!("events/{name}.events.csv.gz")));
            let expected = read(&vectors().join(format!("{kernel}/{name}.answers.csv.gz")));
            for policy in *policies {
                compare(&format!("{policy} on {name}"), &answers(&script, policy), &expected);
            }
        }
    }
}

#[test]
fn dynamic_sets() {
    let names = names(&vectors().join("events-dyn"));
    assert_eq!(names.len(), 3);
    for (kernel, policies) in DYNAMIC {
        for name in &names {
            let script = read(&vectors().join(format!("events-dyn/{name}.events.csv.gz")));
            let expected = read(&vectors().join(format!("{kernel}/{name}.answers.csv.gz")));
            for policy in *policies {
                compare(&format!("{policy} on {name}"), &answers(&script, policy), &expected);
            }
        }
    }
}

#[test]
fn xen_pv_sets() {
    let folder = vectors().join("xen-x86");
    let names = names(&folder);
    assert_eq!(names.len(), 3);
    for name in &names {
        let script = read(&folder.join(format!("{name}.events.csv.gz")));
        let expected = read(&folder.join(format!("{name}.answers.csv.gz")));
        compare(&format!("v6_1y on {name}"), &answers(&script, "v6_1y"), &expected);
    }
}

#[test]
fn xen_arm_sets() {
    let folder = vectors().join("xen-arm");
    let names = names(&folder);
    assert_eq!(names.len(), 2);
    for name in &names {
        let script = read(&folder.join(format!("{name}.events.csv.gz")));
        let expected = read(&folder.join(format!("{name}.answers.csv.gz")));
        compare(&format!("v6_1y on {name}"), &answers(&script, "v6_1y"), &expected);
    }
}

/// Which requests go through the pool, and the bus addresses of those that do not, are the same whatever the allocator.
#[test]
fn xen_decisions_do_not_depend_on_the_allocator() {
    let decisions = |answers: &str| -> Vec<String> {
        let maps = answers.lines().filter(|l| l.starts_with("xmap"));
        maps.map(|l| {
            let mut fields = l.split(',');
            let id = fields.nth(1).unwrap();
            match (fields.next().unwrap(), fields.next().unwrap()) {
                ("DIRECT", bus) => format!("{id} {bus}"),
                _ => format!("{id} through the pool"),
            }
        })
        .collect()
    };
    for folder in ["xen-x86", "xen-arm"].map(|set| vectors().join(set)) {
        for name in names(&folder) {
            let script = read(&folder.join(format!("{name}.events.csv.gz")));
            let expected = decisions(&read(&folder.join(format!("{name}.answers.csv.gz"))));
            for policy in ["legacy", "rfc64", "v6_10"] {
                assert_eq!(decisions(&answers(&script, policy)), expected, "{policy} on {name}");
            }
        }
    }
}
