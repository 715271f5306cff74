//! What a map and its unmap cost, policy by policy, beside the literal model of the tests in the same run.
//!
//! `cargo bench -p swioscope-replay`, or with words to choose cases by. Only ratios and orders of magnitude mean
//! something on a machine that does other things too; each case is timed several times and the spread is shown.

#![allow(missing_docs, reason = "a bench")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and may panic")]

mod load;

use std::time::Instant;

use load::Load;
use replay::{Geometry, Policy, Script};

const POLICIES: [(&str, u64); 6] =
    [("legacy", 0), ("v5_16", 0), ("v6_1y", 0), ("v6_3", 0), ("v6_10", 0), ("v6_10", 0xfff)];

type Make = fn(Geometry, u64, usize) -> Load;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<usize>().ok());
    let (pairs, reps) = (number("PAIRS").unwrap_or(1_000_000), number("REPS").unwrap_or(3));
    let pool = |mib: u64, areas| Geometry { start: 0x4000_0000, nslabs: mib << 9, areas };
    let cases: [(&str, Geometry, Make, usize); 5] = [
        ("light 64 MiB", pool(64, 1), Load::light, pairs),
        ("90 % 64 MiB", pool(64, 1), Load::full, pairs),
        ("90 % 64 MiB", pool(64, 8), Load::full, pairs),
        ("90 % 1 GiB", pool(1024, 1), Load::full, pairs),
        ("90 % 1 GiB", pool(1024, 8), Load::full, pairs),
    ];
    for (name, pool, make, pairs) in cases {
        for (policy, min_align_mask) in POLICIES {
            let label = format!("{name:14} {:2} areas  {policy:7} {min_align_mask:#5x}", pool.areas);
            if !words.iter().all(|w| label.contains(w.as_str())) {
                continue;
            }
            let load = make(pool, min_align_mask, pairs);
            let script = Script::parse(&load.script()).unwrap();
            let policy = Policy::parse(policy).unwrap();
            let mut runs: Vec<_> = (0..reps)
                .map(|_| {
                    let begin = Instant::now();
                    script.time(&policy, || begin.elapsed()).unwrap()
                })
                .collect();
            runs.sort_by_key(|t| t.elapsed);
            let ns = |i: usize| runs[i].ns_per_pair().unwrap();
            println!(
                "{label}  {:7.1} ns ({:.1}..{:.1})  refused {:.2} %",
                ns(reps / 2),
                ns(0),
                ns(reps - 1),
                100.0 * runs[0].refused as f64 / runs[0].maps as f64
            );
        }
    }
}
