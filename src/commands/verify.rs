//! `swioscope verify`: is the slot the model chose the slot the kernel chose?

use std::io;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use replay::{
    Base, DecisionExample, Decisions, Foreseen, Generation, Machine, Miss, Platform, PlatformKind, Policy, PolicyError,
    Reason, Start, Verdict, WrongDecision,
};
use trace::{Event, Meta, Trace};

use super::Usage;
use crate::cli::{Format, VerifyArgs};
use crate::output;

trace::record! {
    /// How well a policy predicts the recorded kernel's slot choices.
    pub struct VerifyRow {
        /// The policy predicted with.
        policy: String => Text,
        /// Slot allocations and refusals judged.
        total: u64 => Count,
        /// Predicted exactly, in the order recorded.
        exact: u64 => Count,
        /// Predicted exactly once a neighbour is taken in the other order: return order is not lock order (SPEC 8).
        after_swap: u64 => Count,
        /// Share predicted exactly, swaps included.
        share: f64 => Ratio,
        /// Releases missing in the trace, repaired where their slots were taken again.
        missed_frees: u64 => Count,
        /// Releases of slots nothing was known to hold.
        unknown_frees: u64 => Count,
        /// Slot events older than the snapshot of the pool, which has them already.
        before_snapshot: u64 => Count,
        /// Slot events outside all pools known, not judged.
        other_pools: u64 => Count,
        /// Slot events without what it takes to judge them.
        incomplete: u64 => Count,
    }
}

trace::record! {
    /// A wrong prediction.
    pub struct MissRow {
        /// What kind of miss.
        kind: String => Text,
        /// Misses of this kind.
        count: u64 => Count,
        /// When the first was.
        time_ns: Option<u64> => Time,
        /// CPU of the first.
        cpu: Option<u32> => Index,
        /// Buffer of the first.
        orig_addr: Option<u64> => Address,
        /// Its size.
        size: Option<u64> => Bytes,
        /// Where the policy would have put it.
        predicted: Option<u64> => Address,
        /// Where the kernel put it.
        recorded: Option<u64> => Address,
    }
}

trace::record! {
    /// How well the recorded platform's rules predict which mappings bounced.
    pub struct DecisionsRow {
        /// Mappings judged: whether they bounced, and if not, at which address.
        total: u64 => Count,
        /// Predicted exactly.
        exact: u64 => Count,
        /// Share predicted exactly.
        share: f64 => Ratio,
        /// Exact ones that did not bounce.
        direct: u64 => Count,
        /// Exact ones that bounced.
        bounced: u64 => Count,
        /// Why those bounced, as reason=count.
        reasons: String => Text,
        /// Exact ones that were refused.
        refused: u64 => Count,
        /// Mappings without what it takes to judge them.
        unjudged: u64 => Count,
    }
}

trace::record! {
    /// A mapping whose decision was predicted wrongly.
    pub struct WrongDecisionRow {
        /// What the kernel did that the rules do not.
        kernel: String => Text,
        /// Decisions wrong in this way.
        count: u64 => Count,
        /// When it was.
        time_ns: u64 => Time,
        /// Device.
        device: String => Text,
        /// Its buffer.
        orig_addr: u64 => Address,
        /// Its size.
        size: u64 => Bytes,
        /// What the rules make of it.
        foreseen: String => Text,
        /// The address its device was given; none when it was refused.
        dma_addr: Option<u64> => Address,
    }
}

pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let trace = Trace::open(&args.trace)?;
    let meta = trace.meta();
    if meta.pools.is_empty() {
        let path = args.trace.display();
        match &meta.pool_unknown {
            Some(why) => bail!(
                "{path} does not know its machine's bounce pool: {why}\nWhere slots lie in it cannot be told; record again as root, where the kernel has BTF"
            ),
            None => bail!("{path} has no bounce pool, so no slot was ever chosen"),
        }
    }
    let tried = generations(args, &trace)?;
    let events = trace.events().collect::<Result<Vec<Event>, _>>()?;
    let start = Start::new(meta, trace.snapshot());
    let verdicts = tried.iter().map(|rules| (*rules, replay::verify(&events, trace.devices(), &start, rules)));
    // Of those that do equally well the first, which is the likeliest.
    let best = verdicts.reduce(|best, next| if next.1.share() > best.1.share() { next } else { best });
    let (rules, verdict) = best.context("no policy was given")?;
    if let Some(partial) = meta.capture.partial().filter(|_| verdict.total == 0) {
        bail!("{} holds no slot allocation that can be judged: it was {partial}", args.trace.display());
    }
    if verdict.total == 0 {
        bail!(
            "{} holds no slot allocation that can be judged ({} outside the pool, {} incomplete, {} older than the snapshot); record while something bounces",
            args.trace.display(),
            verdict.other_pools,
            verdict.incomplete,
            verdict.before_snapshot
        );
    }

    let machine = recorded_machine(&trace, rules)?;
    let decisions = replay::decisions(&events, trace.devices(), &meta.pools, &machine);
    let row = row(rules, &verdict);
    let misses = misses(&verdict);
    match args.format {
        Format::Csv => output::write_csv(&[row], io::stdout())?,
        Format::Json => {
            let mut json = output::json_row(&row);
            json["misses"] = output::json_rows(&misses);
            json["decisions"] = output::json_row(&decisions_row(&decisions));
            json["decisions"]["wrong"] = output::json_rows(&wrong_decisions(&decisions, &trace));
            json["snapshot_exact"] = meta.snapshot_exact.into();
            output::print_json(&json)?;
        }
        Format::Table => {
            print(&row, &misses, &verdict, &trace)?;
            print_decisions(&decisions, &trace)?;
        }
    }
    let enough = args.at_least.is_none_or(|least| verdict.share() * 100.0 >= least);
    Ok(if enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Those the kernel can follow by its types, the one its version speaks for first; or the one that was asked for.
fn generations(args: &VerifyArgs, trace: &Trace) -> anyhow::Result<Vec<&'static Generation>> {
    if let Some(policy) = &args.policy {
        if policy.text().contains(':') {
            return Err(Usage(format!(
                "verify takes the pool from the trace: give `--policy {}` without parameters",
                policy.rules().id
            ))
            .into());
        }
        return Ok(vec![policy.rules()]);
    }
    let meta = trace.meta();
    let (first, _) = Generation::of_recorded(meta)
        .with_context(|| format!("no policy is known for kernel {:?}; give one with --policy", meta.host.release))?;
    let others = meta.allocator.as_ref().map(replay::detect::candidates).unwrap_or_default();
    Ok(std::iter::once(first).chain(others.into_iter().filter(|other| other.id != first.id)).collect())
}

/// The recorded kernel's rules on the recorded platform and pool.
fn recorded_machine(trace: &Trace, rules: &Generation) -> Result<Machine, PolicyError> {
    let meta = trace.meta();
    let release = meta.host.kernel_version();
    // The release settles more than the generation does, but a policy of another name may not know it.
    let policy = Policy::parse(&format!("{}:kernel={release}", rules.id)).or_else(|_| Policy::parse(rules.id))?;
    let cpus = Some(meta.host.possible_cpus);
    let base = meta.pool().map_or_else(|| Base::without_pool(cpus), |pool| Base::of_pool(pool, cpus));
    let setup = policy.resolve(&base)?;
    Ok(Machine::new(&setup, Platform::recorded(PlatformKind::of_recorded(meta).into(), trace.p2m())))
}

fn row(rules: &Generation, verdict: &Verdict) -> VerifyRow {
    VerifyRow {
        policy: rules.id.to_owned(),
        total: verdict.total,
        exact: verdict.exact,
        after_swap: verdict.after_swap,
        share: verdict.share(),
        missed_frees: verdict.missed_frees,
        unknown_frees: verdict.unknown_frees,
        before_snapshot: verdict.before_snapshot,
        other_pools: verdict.other_pools,
        incomplete: verdict.incomplete,
    }
}

/// One row a kind of miss that occurred, with its first example.
fn misses(verdict: &Verdict) -> Vec<MissRow> {
    Miss::ALL
        .iter()
        .zip(verdict.misses)
        .filter(|&(_, count)| count > 0)
        .map(|(&kind, count)| {
            let first = verdict.examples.iter().find(|example| example.miss == kind);
            MissRow {
                kind: kind.name().to_owned(),
                count,
                time_ns: first.map(|e| e.time_ns),
                cpu: first.map(|e| e.cpu),
                orig_addr: first.map(|e| e.orig_addr),
                size: first.map(|e| e.size),
                predicted: first.and_then(|e| e.predicted),
                recorded: first.and_then(|e| e.recorded),
            }
        })
        .collect()
}

fn decisions_row(decisions: &Decisions) -> DecisionsRow {
    let reasons = Reason::ALL.iter().zip(decisions.bounced).filter(|&(_, count)| count > 0);
    let reasons: Vec<_> = reasons.map(|(reason, count)| format!("{}={count}", reason.name())).collect();
    DecisionsRow {
        total: decisions.total,
        exact: decisions.exact,
        share: decisions.share(),
        direct: decisions.direct,
        bounced: decisions.bounced.iter().sum(),
        reasons: reasons.join(" "),
        refused: decisions.refused,
        unjudged: decisions.unjudged,
    }
}

/// The examples of wrong decisions, a few of each kind.
fn wrong_decisions(decisions: &Decisions, trace: &Trace) -> Vec<WrongDecisionRow> {
    let row = |example: &DecisionExample| WrongDecisionRow {
        kernel: example.wrong.name().to_owned(),
        count: decisions.wrong[example.wrong as usize],
        time_ns: example.time_ns,
        device: trace.devices().iter().find(|d| d.id == example.device).map(|d| d.name.clone()).unwrap_or_default(),
        orig_addr: example.orig_addr,
        size: example.size,
        foreseen: match example.foreseen {
            Foreseen::Direct(at) => format!("direct at {at:#x}"),
            Foreseen::Bounced(reason) => format!("bounced: {}", reason.name()),
            Foreseen::Refused => "refused".to_owned(),
        },
        dma_addr: example.dma_addr,
    };
    let of_kind = |wrong: &WrongDecision| {
        let wrong = *wrong;
        decisions.examples.iter().filter(move |example| example.wrong == wrong).map(row)
    };
    WrongDecision::ALL.iter().flat_map(of_kind).collect()
}

fn print_decisions(decisions: &Decisions, trace: &Trace) -> anyhow::Result<()> {
    // Kernels whose mappings cannot be recorded have no decisions to judge.
    if decisions.total == 0 {
        return Ok(());
    }
    let stdout = &mut io::stdout();
    let count = trace::field::count;
    let row = decisions_row(decisions);
    output::line(
        stdout,
        format_args!(
            "{} of {} mappings bounced or not as the platform's rules say ({:.3} %)",
            count(row.exact),
            count(row.total),
            row.share * 100.0
        ),
    )?;
    output::line(stdout, output::table(&[row], |_| false))?;
    let wrong = wrong_decisions(decisions, trace);
    if !wrong.is_empty() {
        output::line(stdout, output::table(&wrong, |_| false))?;
    }
    Ok(())
}

fn print(row: &VerifyRow, misses: &[MissRow], verdict: &Verdict, trace: &Trace) -> anyhow::Result<()> {
    let stdout = &mut io::stdout();
    let count = trace::field::count;
    output::line(
        stdout,
        format_args!(
            "{} of {} slot choices of {} are the ones {} predicts ({:.3} %)",
            count(row.exact + row.after_swap),
            count(row.total),
            trace.meta().host.release,
            row.policy,
            row.share * 100.0
        ),
    )?;
    output::line(stdout, output::table(std::slice::from_ref(row), |field| field.name == "policy"))?;
    if !misses.is_empty() {
        output::line(stdout, output::table(misses, |_| false))?;
    }
    let meta = trace.meta();
    if let Some(partial) = meta.capture.partial() {
        output::line(stdout, format_args!("note: {partial}"))?;
    }
    if verdict.without_snapshot {
        output::line(stdout, "note: the trace has no snapshot of the pool, which was taken to be empty at the start")?;
    } else if !meta.snapshot_exact {
        output::line(stdout, "note: the pool was in use while its snapshot was read, so its first choices may be off")?;
    }
    if verdict.snapshot_mismatches > 0 {
        let n = count(verdict.snapshot_mismatches);
        output::line(
            stdout,
            format_args!("note: areas whose slots in the snapshot do not add up to the kernel's count: {n}"),
        )?;
    }
    if let Some(how) = how_found(&row.policy, meta) {
        output::line(stdout, format_args!("note: kernel {}: {how}", meta.host.kernel_version()))?;
    }
    for (what, n) in meta.losses.by_cause().filter(|&(_, n)| n > 0) {
        output::line(stdout, format_args!("note: {what}: {}", count(n)))?;
    }
    Ok(())
}

/// How the policy was found, when there is something to say.
fn how_found(policy: &str, meta: &Meta) -> Option<String> {
    let (first, caveat) = Generation::of_recorded(meta)?;
    let left: Vec<_> = meta.allocator.as_ref().map(replay::detect::candidates)?.iter().map(|rules| rules.id).collect();
    match left.as_slice() {
        [] | [_] => Some(caveat).filter(|caveat| !caveat.is_empty()),
        _ if first.id == policy => Some(format!("its types leave {}; its choices fit {policy} best", left.join(", "))),
        _ => Some(format!(
            "its version speaks for {}, its types leave {}, its choices are those of {policy}",
            first.id,
            left.join(", ")
        )),
    }
}
