//! A story as text: the one place that writes it.

use std::fmt::Write as _;

use trace::field::{bytes, count, duration};
use trace::pool::SLOT_BYTES;

use super::{HolderRow, PoolState, Story};

/// Rows of a list that are shown; the rest is summed up.
const SHOWN: usize = 8;

pub(super) fn write(story: &Story) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = story_to(story, &mut out);
    out
}

fn story_to(story: &Story, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}", story.headline)?;
    let by =
        if story.replayed { format!("replayed under {}", story.policy) } else { format!("as {} did it", story.policy) };
    writeln!(out, "  event {} at {}, {by}", story.event, duration(story.time_ns))?;
    section(out, "Asked", [story.asked.clone()])?;
    section(out, "By", story.task.clone())?;
    section(
        out,
        "Rule",
        story
            .rules
            .iter()
            .map(|rule| format!("{}: {} (SPEC {})", rule.word.replace('_', " "), rule.sentence, rule.section)),
    )?;
    section(out, "Arithmetic", story.arithmetic.iter().cloned())?;
    if let Some(pool) = &story.pool {
        section(out, "Pool", pool_lines(pool))?;
    }
    section(out, "Held by", holder_lines(&story.holders))?;
    section(out, "What would have let it pass", story.remedies.iter().cloned())?;
    section(out, "Stack", story.stack.iter().cloned())?;
    let notes: Vec<_> = story.facts.caveats.iter().chain(&story.notes).collect();
    for (at, note) in notes.iter().enumerate() {
        // The same weakness may be known to the replays and to the recorded pool, in more words or fewer.
        let said = |other: &&String| other.starts_with(note.as_str());
        let longer = notes.iter().any(|other| said(other) && other.len() > note.len());
        if !longer && !notes[..at].contains(note) {
            writeln!(out, "note: {note}")?;
        }
    }
    if let (Some((total, exact)), false) = (story.facts.predicted, story.tried.is_empty() && !story.replayed) {
        writeln!(
            out,
            "note: the replays rest on a model that predicts {} of {} slot choices of the recorded kernel",
            count(exact),
            count(total)
        )?;
    }
    Ok(())
}

fn section(out: &mut String, head: &str, lines: impl IntoIterator<Item = String>) -> std::fmt::Result {
    for (i, line) in lines.into_iter().enumerate() {
        if i == 0 {
            writeln!(out, "{head}:")?;
        }
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

fn pool_lines(pool: &PoolState) -> Vec<String> {
    let mut lines = vec![format!(
        "{} slots ({}): {} in use, {} free, the longest free run {}",
        count(pool.slots),
        bytes(pool.slots * SLOT_BYTES),
        count(pool.used),
        count(pool.free),
        count(pool.largest_run)
    )];
    if pool.free > 0 {
        let runs = pool.runs.iter().rev().map(|row| {
            let length =
                if row.from == row.to { count(row.from) } else { format!("{}–{}", count(row.from), count(row.to)) };
            format!("{} of {length}", count(row.runs))
        });
        lines.push(format!("free runs by length: {}", runs.collect::<Vec<_>>().join(", ")));
    }
    if pool.areas.len() > 1 {
        let area = |row: &super::AreaStateRow| {
            let cause = row.cause.as_deref().map_or_else(String::new, |cause| format!(": {}", cause.replace('_', " ")));
            format!(
                "area {}: {} in use, {} free, longest run {}{cause}",
                row.area,
                count(row.used),
                count(row.free),
                count(row.largest_run)
            )
        };
        lines.extend(pool.areas.iter().take(SHOWN).map(area));
        if let Some(more) = pool.areas.len().checked_sub(SHOWN).filter(|&n| n > 0) {
            lines.push(format!("and {} areas more", count(more as u64)));
        }
    }
    lines
}

fn holder_lines(holders: &[HolderRow]) -> Vec<String> {
    let line = |row: &HolderRow| {
        let driver = row.driver.as_ref().map_or_else(String::new, |driver| format!(" ({driver})"));
        let n = if row.mappings == 1 { "1 mapping".to_owned() } else { format!("{} mappings", count(row.mappings)) };
        let age = match (row.median_ns, row.oldest_ns) {
            (Some(median), Some(oldest)) if row.mappings > 1 => {
                format!(", held for {} in the middle, {} at most", duration(median), duration(oldest))
            }
            (_, Some(oldest)) => format!(", held for {}", duration(oldest)),
            _ => String::new(),
        };
        let task = row.task.as_ref().map_or_else(String::new, |task| format!(", mostly by {task}"));
        let place = row.mapped_in.as_ref().map_or_else(String::new, |call| format!(", in {call}"));
        format!(
            "{}{driver}: {} slots in {n} ({:.0} % of those in use){age}{task}{place}",
            row.device,
            count(row.slots),
            row.share * 100.0
        )
    };
    let mut lines: Vec<_> = holders.iter().take(SHOWN).map(line).collect();
    if let Some(rest) = holders.get(SHOWN..).filter(|rest| !rest.is_empty()) {
        let slots = rest.iter().map(|row| row.slots).sum();
        lines.push(format!("and {} slots in {} groups more", count(slots), count(rest.len() as u64)));
    }
    lines
}
