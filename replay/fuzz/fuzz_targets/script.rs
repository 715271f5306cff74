//! Arbitrary text as a script: read or refused, answered by one generation or another, never a panic.
#![no_main]

use replay::{GENERATIONS, Policy, Script};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if !is_small(text) {
        return;
    }
    let policy = Policy::parse(GENERATIONS[text.len() % GENERATIONS.len()].id);
    if let (Ok(script), Ok(policy)) = (Script::parse(text), policy) {
        let _ = script.answers(&policy, &mut String::new());
    }
});

/// Whether the pools asked for are such as can be made thousands of times a second. The largest that can be asked for
/// takes gigabytes, as it should.
fn is_small(text: &str) -> bool {
    let small = |number: &str, most: u64| number.trim().parse::<u64>().is_ok_and(|n| n <= most);
    let mut pools = text.lines().filter_map(|line| line.trim().strip_prefix("pool,"));
    pools.all(|pool| match pool.split(',').collect::<Vec<_>>()[..] {
        [_, nslabs, areas] => small(nslabs, 4096) && small(areas, 16),
        _ => true,
    })
}
