//! What a map and its unmap cost, policy by policy, beside the literal model of the tests in the same run.
//!
//! `cargo bench -p replay`, or with words to choose cases by. Only ratios and orders of magnitude mean
//! something on a machine that does other things too; each case is timed several times and the spread is shown.

#![allow(missing_docs, reason = "a bench")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and may panic")]

mod load;

/// The model of the tests, slot by slot with the kernel's own `list[]`.
#[path = "../../tests/reference/mod.rs"]
#[allow(dead_code, reason = "shared with tests, which use more of it")]
mod literal;

use std::time::Instant;

use literal::{Answer, Reference};
use load::{Event, Load};
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
            let pool = *script.machine(&policy).unwrap().allocator().pools()[0].geometry();
            let literal = literal_ns(&load, policy.rules(), pool, pairs.min(LITERAL_PAIRS));
            println!(
                "{label}  {:7.1} ns ({:.1}..{:.1})  literal {literal:8.0} ns, {:6.1} ×  refused {:.2} %",
                ns(reps / 2),
                ns(0),
                ns(reps - 1),
                literal / ns(reps / 2),
                100.0 * runs[0].refused as f64 / runs[0].maps as f64
            );
        }
    }
}

/// Pairs the literal model is timed on: it takes up to tens of microseconds each.
const LITERAL_PAIRS: usize = 20_000;

/// What a pair costs the literal model, on the beginning of the same load.
fn literal_ns(load: &Load, rules: &'static replay::Generation, pool: Geometry, pairs: usize) -> f64 {
    let mut model = Reference::new(rules, pool);
    let mut mapped: Vec<Option<u64>> = Vec::new();
    let mut play = |event: &Event| match event {
        Event::Mark => {}
        Event::Map { id, request } => {
            let answer = model.map(request, &load.device);
            mapped.resize(mapped.len().max(id + 1), None);
            mapped[*id] = if let Answer::Taken { tlb_addr, .. } = answer { Some(tlb_addr) } else { None };
        }
        Event::Unmap { id } => {
            mapped[*id].take().into_iter().for_each(|tlb_addr| model.unmap(tlb_addr, &load.device));
        }
    };
    let mark = load.events.iter().position(|event| matches!(event, Event::Mark)).unwrap_or(0);
    let (fills, timed) = load.events.split_at(mark);
    fills.iter().for_each(&mut play);
    let timed = &timed[..timed.len().min(2 * pairs)];
    let begin = Instant::now();
    timed.iter().for_each(play);
    begin.elapsed().as_nanos() as f64 * 2.0 / timed.len() as f64
}
