//! What a pair of map and unmap that bounces costs in a guest, bare and recorded, by mode and by back-end.
//!
//! The lab's module makes the pairs and times them; a guest does all recordings of a kernel, so that ratios are of one run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value as Json;

use crate::lab::{Guest, Kernel, Load};
use crate::package;

/// What defines the functions the job is made of.
const FUNCTIONS: &str = include_str!("pairs.sh");
/// What is mapped, as it is called and as the module is asked for it. Copying is what an emulator is slowest at: of 4 KiB it is
/// most of a bare pair, of 64 bytes next to nothing.
const SIZES: [(&str, &str); 2] = [("4 KiB", "4k"), ("64 bytes", "64")];
/// Pairs of a timing, and how often a recording is compared with none.
const PAIRS: u64 = 6400;
const ROUNDS: u64 = 3;
/// Pairs of a batch: emulated and recorded they take a third of a millisecond, less than lies between two ticks of a guest's
/// clock (4 ms) or two of the recorder's looks at its ring (2 ms).
const BATCH: u64 = 16;
/// Enough for eighteen recorders that each take a minute to start; on an idle machine a guest takes a quarter of it.
const LIMIT: Duration = Duration::from_secs(1800);

/// The recordings, by what they are called and how they are asked for.
const RECORDINGS: [(&str, &str); 6] = [
    ("full", "--mode full"),
    ("full-tp_btf", "--mode full --backend tp_btf"),
    ("full-fentry", "--mode full --backend fentry"),
    ("full-kprobe", "--mode full --backend kprobe"),
    ("bounces", "--mode bounces"),
    ("aggregate", "--mode aggregate"),
];
/// The events of a pair, as `meta.json` names them.
const EVENTS: [&str; 5] = ["map", "unmap", "slot_alloc", "slot_free", "bounce"];
/// What the processor is called where every instruction is emulated.
const EMULATED: &str = "TCG";

/// Times the pairs in a guest of a kernel and prints the table.
///
/// # Errors
/// Something does not build, the guest fails, or what it left cannot be understood.
#[allow(clippy::print_stdout, reason = "the table is what is asked for")]
pub(super) fn measure(kernel: Kernel) -> Result<()> {
    println!("== pairs of map and unmap, bare and recorded, in turns: ns a pair in the quickest {BATCH} of {PAIRS}");
    let outcome = Guest::new(kernel)
        .swiotlb(super::pool(kernel))
        .load(Load::Edu)
        .file(package::program()?, "/bin/swioscope")
        .timeout(LIMIT)
        .echo(true)
        .run(&[job()])?;
    let log = outcome.console.display();
    ensure!(outcome.status == 0, "timing pairs on {kernel} ended with {}; its console: {log}", outcome.status);
    print!("{}", read(&outcome.out_dir)?);
    Ok(())
}

/// Everything in turns: a machine that is slowed down for a while slows all of them.
fn job() -> String {
    let sizes = SIZES.map(|(_, size)| size).join(" ");
    let mut job = format!("COMMAND='time n={PAIRS} batch={BATCH} cpu=0'\nSIZES='{sizes}'\n{FUNCTIONS}\n");
    for round in 1..=ROUNDS {
        for (name, options) in RECORDINGS {
            job.push_str(&format!("twin {name} {round} {options}\n"));
        }
    }
    job
}

/// The same pairs without a recorder and with one: nanoseconds of a pair in the quickest batch.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Twin {
    bare: u64,
    recorded: u64,
}

/// A recording's twins, one for each of [`SIZES`], and what it says of itself.
#[derive(Debug, PartialEq)]
struct Round {
    twins: Vec<Twin>,
    account: Account,
}

/// What a recording says of itself.
#[derive(Debug, Default, PartialEq)]
struct Account {
    seen: u64,
    stored: u64,
    lost: u64,
    backends: BTreeMap<String, String>,
}

/// Makes the text out of what the job left.
fn read(out: &Path) -> Result<String> {
    let facts = facts(&text(&out.join("guest"))?)?;
    let fact = |name: &str| facts.get(name).map_or("?", String::as_str);
    let mut said = format!(
        "Linux {}, {}, clock {}, bpf_jit_enable {}; to the device, all of it bounced\n",
        fact("release"),
        fact("processor"),
        fact("clock"),
        fact("jit")
    );
    if fact("processor").contains(EMULATED) {
        said.push_str(
            "Every instruction is emulated: the ratios mean something, the nanoseconds only beside each other.\n",
        );
    }
    let mut times = vec![["recording", "size", "bare, ns", "recorded, ns", "added, ns", "ratio"].map(str::to_owned)];
    let mut accounts = vec![["recording", "events stored", "lost", "what was taken"].map(str::to_owned)];
    let mut others = Vec::new();
    let mut before: Vec<(&str, BTreeMap<String, String>)> = Vec::new();
    for (name, _) in RECORDINGS {
        let skipped = out.join(format!("{name}.skipped"));
        if skipped.exists() {
            others.push(format!("{name} was skipped: {}", text(&skipped)?.trim()));
            continue;
        }
        let mut rounds = Vec::new();
        for round in 1..=ROUNDS {
            let name = format!("{name}-{round}");
            if out.join(format!("{name}.json")).exists() {
                rounds.push(read_round(out, &name)?);
            } else {
                others.push(format!("{name} failed: {}", text(&out.join(format!("{name}.said")))?.trim()));
            }
        }
        let Some(first) = rounds.first() else { continue };
        let of_first = &first.account.backends;
        for (at, (size, _)) in SIZES.iter().enumerate() {
            let twins: Vec<_> = rounds.iter().map(|round| round.twins[at]).collect();
            times.push(time_row(name, size, &twins));
        }
        let taken = match before.iter().find(|(_, backends)| backends == of_first) {
            Some((other, _)) => format!("as {other}"),
            None => backends(of_first),
        };
        accounts.push(account_row(name, &rounds, taken));
        if rounds.iter().any(|round| round.account.backends != *of_first) {
            others.push(format!("{name} took other back-ends in another round: its figures are of different things"));
        }
        before.push((name, of_first.clone()));
    }
    said.push_str(&format!("\n{}\n{}", table(&times), table(&accounts)));
    for line in others {
        said.push_str(&format!("\n{line}\n"));
    }
    Ok(said)
}

/// Reads what one recording and its twin left.
fn read_round(out: &Path, name: &str) -> Result<Round> {
    let account = account(&text(&out.join(format!("{name}.json")))?).with_context(|| format!("{name}.json"))?;
    let time = |what: &str, size: &str| least(&text(&out.join(format!("{name}.{what}-{size}")))?);
    let twin = |(_, size)| Ok(Twin { bare: time("bare", size)?, recorded: time("recorded", size)? });
    Ok(Round { twins: SIZES.map(twin).into_iter().collect::<Result<_>>()?, account })
}

/// Medians of the rounds and how far these lie apart. Within a round the quickest batch counts, for what disturbs it is not
/// the recording's; where the kernel puts programs and code differs from round to round, and is.
fn time_row(name: &str, size: &str, twins: &[Twin]) -> [String; 6] {
    let rounds = |of: fn(&Twin) -> f64| {
        let mut rounds: Vec<_> = twins.iter().map(of).collect();
        rounds.sort_by(f64::total_cmp);
        (rounds[rounds.len() / 2], rounds[0], rounds[rounds.len() - 1])
    };
    let whole = |number: f64| thousands(number.round() as i64);
    let (added, low, high) = rounds(|twin| twin.recorded as f64 - twin.bare as f64);
    let added = format!("{} ({} to {})", whole(added), whole(low), whole(high));
    let (ratio, low, high) = rounds(|twin| twin.recorded as f64 / twin.bare as f64);
    let ratio = format!("{ratio:.2} ({low:.2} to {high:.2})");
    let (bare, recorded) = (rounds(|twin| twin.bare as f64).0, rounds(|twin| twin.recorded as f64).0);
    [name.to_owned(), size.to_owned(), whole(bare), whole(recorded), added, ratio]
}

/// What all rounds together stored and lost.
fn account_row(name: &str, rounds: &[Round], taken: String) -> [String; 4] {
    let sum = |of: fn(&Account) -> u64| rounds.iter().map(|round| of(&round.account)).sum::<u64>();
    let count = |number: u64| thousands(i64::try_from(number).unwrap_or(i64::MAX));
    let (seen, stored) = (sum(|account| account.seen), sum(|account| account.stored));
    let pairs = PAIRS * (SIZES.len() * rounds.len()) as u64;
    let a_pair = |events: u64| format!("{:.2} a pair", events as f64 / pairs as f64);
    let stored = match stored {
        0 if seen > 0 => format!("{} in sums ({})", count(seen), a_pair(seen)),
        _ => format!("{} ({})", count(stored), a_pair(stored)),
    };
    [name.to_owned(), stored, count(sum(|account| account.lost)), taken]
}

/// Which back-end delivers each event of a pair. A forced family is taken for events that have any of it only, and a kernel
/// may have none of it for an event: what was asked for does not say it.
fn backends(taken: &BTreeMap<String, String>) -> String {
    let (named, missing): (Vec<&str>, Vec<&str>) = EVENTS.into_iter().partition(|&event| taken.contains_key(event));
    let mut words: Vec<_> = named.into_iter().map(|event| format!("{event} by {}", taken[event])).collect();
    if !missing.is_empty() {
        words.push(format!("not recorded: {}", missing.join(", ")));
    }
    words.join("; ")
}

/// Columns side by side, in the form the lab's pages have tables in.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    // Nothing stands behind the last.
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| if column + 1 < COLUMNS { width(column) } else { 0 });
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("| {cell:<width$} "));
        text.push_str(&format!("{}|\n", cells.collect::<String>()));
        if number == 0 {
            text.push_str(&format!("{}|\n", "|---".repeat(COLUMNS)));
        }
    }
    text
}

fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Lines of a name and what it stands for.
fn facts(text: &str) -> Result<BTreeMap<String, String>> {
    let pair = |line: &str| {
        let (name, rest) = line.split_once(' ').with_context(|| format!("a line without a value: {line}"))?;
        Ok((name.to_owned(), rest.to_owned()))
    };
    text.lines().map(pair).collect()
}

/// What the module's `stats` say a pair of the quickest batch took.
fn least(stats: &str) -> Result<u64> {
    let facts = facts(stats)?;
    let number = |name: &str| -> Result<u64> {
        let text =
            facts.get(name).with_context(|| format!("the module's stats have no {name}: is it an older one?"))?;
        text.parse().with_context(|| format!("{name} {text}"))
    };
    let refused = number("maps_failed")?;
    ensure!(refused == 0, "{refused} mappings were refused: the pool is too small for these pairs");
    let least = number("least_ns_per_pair")?;
    ensure!(least > 0, "no whole batch was timed: ask for more pairs than one batch has");
    Ok(least)
}

/// Reads a trace's `meta.json`.
fn account(meta: &str) -> Result<Account> {
    let meta: Json = serde_json::from_str(meta).context("not what a recorder writes")?;
    let losses = &meta["losses"];
    let number = |of: &Json, name: &str| of[name].as_u64().with_context(|| format!("it has no number {name}"));
    let mut account = Account::default();
    for cpu in losses["by_cpu"].as_array().context("it does not count by CPU")? {
        account.seen += number(cpu, "seen")?;
        account.stored += number(cpu, "stored")?;
    }
    for cause in ["ring_full", "probe_missed", "undecoded"] {
        account.lost += number(losses, cause)?;
    }
    let backends = meta["capture"]["backends"].as_object().context("it does not say by which back-ends")?;
    let named = |(event, name): (&String, &Json)| Some((event.clone(), name.as_str()?.to_owned()));
    account.backends = backends.iter().filter_map(named).collect();
    Ok(account)
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("the guest left no {}; its output says why", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = r#"{"capture": {"mode": "full", "backends": {"map": "fexit a", "sync": "fexit b"}}, "losses":
        {"ring_full": 1, "probe_missed": 2, "undecoded": 0, "by_cpu":
         [{"cpu": 0, "seen": 70, "stored": 60}, {"cpu": 1, "seen": 7, "stored": 6}]}}"#;

    fn stats(least: u64, refused: u64) -> String {
        format!("maps 10\nmaps_failed {refused}\nns_per_pair 900\nleast_ns_per_pair {least}\n")
    }

    #[test]
    fn the_modules_stats_are_read_and_doubted() {
        assert_eq!(least(&stats(700, 0)).unwrap(), 700);
        assert!(least(&stats(700, 3)).unwrap_err().to_string().contains("3 mappings were refused"));
        assert!(least(&stats(0, 0)).unwrap_err().to_string().contains("no whole batch"));
        assert!(least("maps_failed 0\n").unwrap_err().to_string().contains("no least_ns_per_pair"));
    }

    #[test]
    fn a_trace_accounts_for_its_events() {
        let account = account(META).unwrap();
        assert_eq!((account.seen, account.stored, account.lost), (77, 66, 3));
        assert_eq!(backends(&account.backends), "map by fexit a; not recorded: unmap, slot_alloc, slot_free, bounce");
        assert!(super::account("{}").is_err() && super::account("").is_err());
    }

    #[test]
    fn a_row_has_the_medians_of_its_rounds() {
        let row_of = |twins: &[(u64, u64)]| {
            let twins: Vec<_> = twins.iter().map(|&(bare, recorded)| Twin { bare, recorded }).collect();
            time_row("full", "4 KiB", &twins).join(" ")
        };
        assert_eq!(
            row_of(&[(1000, 5000), (1100, 4400), (1010, 4747)]),
            "full 4 KiB 1,010 4,747 3,737 (3,300 to 4,000) 4.70 (4.00 to 5.00)"
        );
        assert_eq!(row_of(&[(2000, 900)]), "full 4 KiB 2,000 900 -1,100 (-1,100 to -1,100) 0.45 (0.45 to 0.45)");
    }

    #[test]
    fn rounds_are_accounted_for_together() {
        let round = |seen, stored, lost| {
            let account = Account { seen, stored, lost, ..Account::default() };
            Round { twins: Vec::new(), account }
        };
        let row_of = |rounds: &[Round]| account_row("full", rounds, "this".to_owned()).join(" ");
        let events = 5 * PAIRS * SIZES.len() as u64;
        assert_eq!(
            row_of(&[round(events, events, 0), round(events, events - 1, 1)]),
            "full 127,999 (5.00 a pair) 1 this"
        );
        assert_eq!(row_of(&[round(events, 0, 0)]), "full 64,000 in sums (5.00 a pair) 0 this");
    }

    #[test]
    fn what_a_guest_left_becomes_tables() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("guest", "release 6.1.0\nprocessor QEMU TCG CPU version 2.5+\nclock hpet\njit 1\n");
        write("full-tp_btf.skipped", "no tracepoints\n");
        for (name, _) in RECORDINGS.iter().filter(|(name, _)| *name != "full-tp_btf") {
            for round in 1..=ROUNDS {
                for (at, (_, size)) in SIZES.iter().enumerate() {
                    write(&format!("{name}-{round}.bare-{size}"), &stats(1000 + at as u64, 0));
                    write(&format!("{name}-{round}.recorded-{size}"), &stats(3000, 0));
                }
                write(&format!("{name}-{round}.json"), META);
            }
        }
        fs::remove_file(dir.path().join("bounces-2.json")).unwrap();
        write("bounces-2.said", "error: no room\n");
        let text = read(dir.path()).unwrap();
        assert!(text.starts_with("Linux 6.1.0, QEMU TCG CPU version 2.5+, clock hpet, bpf_jit_enable 1;"), "{text}");
        assert!(text.contains("is emulated") && text.contains("full-tp_btf was skipped: no tracepoints\n"), "{text}");
        assert!(text.contains("bounces-2 failed: error: no room\n"), "{text}");
        let lines = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((lines("| as full"), lines("| 1,000 "), lines("| 1,001 ")), (4, 5, 5), "{text}");
    }

    #[test]
    fn every_recording_is_in_every_round() {
        let job = job();
        assert_eq!(
            job.lines().filter(|line| line.starts_with("twin ")).count() as u64,
            ROUNDS * RECORDINGS.len() as u64
        );
        assert!(job.contains("\ntwin full-kprobe 3 --mode full --backend kprobe\n"));
    }
}
