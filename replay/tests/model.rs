//! The vectors of variants no kernel set exists for: address, cursors, use and a hash over the whole `list[]` after
//! every step (SPEC 14, end).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::path::Path;

use replay::{Allocator, Cause, Generation, Geometry, Limits, Request};
use serde_json::Value;

/// Files and the policies that must say the same.
const SETS: &[(&str, &[&str])] = &[
    ("sw-5.10-legacy", &["legacy", "rfc64"]),
    ("sw-5.12", &["v5_12"]),
    ("sw-5.15", &["v5_15"]),
    ("sw-5.16", &["v5_16"]),
    ("sw-6.0", &["v6_0"]),
    ("sw-6.1y", &["v6_1y"]),
    ("sw-6.3", &["v6_3"]),
    ("sw-6.8", &["v6_6", "v6_8"]),
    ("sw-6.9", &["v6_6y", "v6_9"]),
    ("sw-6.10", &["v6_10"]),
];

fn hash(lists: impl Iterator<Item = u32>) -> String {
    let fold = |h: u64, v| (h ^ u64::from(v)).wrapping_mul(1_099_511_628_211);
    format!("{:x}", lists.fold(1_469_598_103_934_665_603, fold))
}

fn limits(step: &Value) -> Limits {
    let boundary = step["boundary"].as_u64().unwrap_or(u64::MAX);
    Limits { reach: u64::MAX, min_align_mask: step["min_align"].as_u64().unwrap(), boundary, ..Limits::NONE }
}

fn play(file: &str, id: &str) -> usize {
    let rules = Generation::by_id(id).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/model/{file}.jsonl.gz"));
    let text = BufReader::new(flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()));
    let mut allocator = None;
    let mut steps = 0;
    for (number, line) in text.lines().enumerate() {
        let step: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let number_of = |name: &str| step[name].as_u64().unwrap();
        if let Some(init) = step.get("init") {
            let number = |name: &str| init[name].as_u64().unwrap();
            let (start, nslabs, areas) = (number("start"), number("nslabs"), number("nareas") as u32);
            allocator = Some(Allocator::new(rules, &[Geometry { start, nslabs, areas }]));
            continue;
        }
        let allocator = allocator.as_mut().unwrap();
        let limits = limits(&step);
        let at = format!("{id} on {file}, line {}", number + 1);
        if step["op"] == "map" {
            let (orig_addr, size) = (number_of("phys"), number_of("size"));
            let request =
                Request { orig_addr, size, align_mask: number_of("align_mask"), cpu: number_of("cpu") as u32 };
            let answer = match allocator.map(&request, &limits) {
                Ok(taken) => Value::from(taken.tlb_addr),
                Err(Cause::Livelock) => Value::from("livelock"),
                Err(_) => Value::Null,
            };
            assert_eq!(answer, step["result"], "{at}");
            if answer == "livelock" {
                continue;
            }
        } else {
            assert!(allocator.unmap(number_of("tlb"), &limits).is_some(), "{at}");
        }
        let pool = &allocator.pools()[0];
        let numbers =
            |name: &str| -> Vec<u64> { step[name].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect() };
        assert_eq!(pool.areas().iter().map(|a| a.used).collect::<Vec<_>>(), numbers("used"), "{at}");
        assert_eq!(pool.areas().iter().map(|a| a.index).collect::<Vec<_>>(), numbers("index"), "{at}");
        assert_eq!(Value::from(hash(pool.list())), step["list_fnv"], "{at}");
        steps += 1;
    }
    steps
}

#[test]
fn every_variant() {
    for (file, ids) in SETS {
        for id in *ids {
            assert!(play(file, id) > 1000, "{file} is too short to mean anything");
        }
    }
}
