//! What was refused: one finding a class, with the arithmetic of the first of each kind and who held the pool.

use trace::field::{bytes, count, duration};
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

use super::super::Report;
use super::super::rows::{FailureRow, HolderRow};
use super::{Class, Finding, Severity, them};

/// Why refused, as the end of a sentence.
pub fn why(cause: &str) -> &'static str {
    match cause {
        "too_large" => "they are larger than a segment of 256 KiB",
        "too_large_with_offset" => "their offset makes them larger than a segment of 256 KiB",
        "alignment_impossible" => "no slot has the alignment they need",
        "boundary_impossible" => "they are longer than their device's segment boundary allows",
        "pool_full" => "the pool was full",
        "grow_pending" | "transient_refused" => "the pool was full and could not grow in time",
        "area_full" => "their CPU's area was full",
        "fragmented" => "the pool was fragmented",
        "boundary" => "every free run crossed the device's segment boundary",
        "alignment" => "no free run began at an address the masks allow",
        "stride" => "the kernel's search steps over the slots that were free",
        "never_ending_search" => "the kernel's search never ends",
        "pool_above_mask" => "the device does not reach the pool",
        "not_addressable" => "the device does not reach the buffer and bouncing is not possible",
        "forbidden" => "a copy was forbidden",
        "no_pool" => "there is no pool",
        "empty" => "they ask for nothing",
        _ => "of something the trace does not tell",
    }
}

/// One finding a class of refusal.
pub fn refusals(report: &Report, findings: &mut Vec<Finding>) {
    let mut classes: Vec<Class> = Vec::new();
    for row in &report.failures {
        let class = Class::of_cause(&row.cause);
        if !classes.contains(&class) {
            classes.push(class);
        }
    }
    for class in classes {
        let rows: Vec<&FailureRow> =
            report.failures.iter().filter(|row| Class::of_cause(&row.cause) == class).collect();
        findings.push(refusal(report, class, &rows));
    }
}

fn refusal(report: &Report, class: Class, rows: &[&FailureRow]) -> Finding {
    let n: u64 = rows.iter().map(|row| row.failures).sum();
    let largest = rows.iter().map(|row| row.largest).max().unwrap_or(0);
    let pool = format!(
        "{} slots ({})",
        count(report.summary.pool_slots),
        bytes(report.summary.pool_slots.saturating_mul(SLOT_BYTES))
    );
    let name = &report.path;
    let requests = if n == 1 { "1 request".to_owned() } else { format!("{} requests", count(n)) };
    let (was, is) = if n == 1 { ("was", "is") } else { ("were", "are") };
    let title = match class {
        Class::Big => format!(
            "Too big for any pool: {requests} {was} up to {} = {} slots, and one mapping can have {SEGMENT_SLOTS} ({}).",
            bytes(largest),
            count(largest.div_ceil(SLOT_BYTES)),
            bytes(u64::from(SEGMENT_SLOTS) * SLOT_BYTES)
        ),
        Class::BigOff => format!(
            "Too big with their offset or alignment: {requests} of up to {} {is} within 256 KiB, and still no empty pool serves {}.",
            bytes(largest),
            them(n)
        ),
        Class::Full => {
            format!("Full: for {requests} of up to {} there were not slots enough in a pool of {pool}.", bytes(largest))
        }
        Class::Frag => format!(
            "Fragmented: {requests} of up to {} {was} refused although slots enough were free, because none stood together as needed.",
            bytes(largest)
        ),
        Class::Area => format!(
            "Area full: {requests} of up to {} {was} refused because the CPU's own area was full and the others had no run.",
            bytes(largest)
        ),
        Class::Mask => {
            format!("Out of reach: {requests} {was} refused because a device does not reach the memory it was to use.")
        }
        Class::Size => format!("No pool: {requests} had to bounce and there is no bounce pool."),
        Class::Spin => format!(
            "The kernel hangs: for {requests} its search for slots never ends, with the lock held and interrupts off."
        ),
        _ => format!("{requests} {was} refused, and the trace does not tell why."),
    };
    let mut finding = Finding::new(class, Severity::Problem, title);
    for row in rows.iter().take(3) {
        finding.evidence.push(one_refusal(row));
    }
    if matches!(class, Class::Full | Class::Frag | Class::Area) {
        finding.evidence.extend(held_then(report));
    }
    let kernel = &report.trace.kernel;
    let promised = report.reach.iter().filter(|row| rows.iter().any(|failed| failed.device == row.device));
    let promised = promised.map(|row| row.largest_promised).filter(|&n| n > 0).min();
    match class {
        Class::Big => {
            let segment = largest.div_ceil(SLOT_BYTES).next_power_of_two();
            finding = finding
                .with("Raising swiotlb= changes nothing: the limit is of one mapping, not of the pool. The kernel's log says \"swiotlb buffer is full\" all the same.")
                .next(match promised {
                    Some(most) => format!(
                        "the driver must map at most {} at once (what dma_max_mapping_size() promises here): report it there",
                        bytes(most)
                    ),
                    None => "the driver must map in smaller pieces: report it there".to_owned(),
                })
                .next(format!(
                    "what a longer segment would do: swioscope replay {name} --policy {}:segment={segment}",
                    report.fidelity.policy.as_deref().unwrap_or("v6_10")
                ));
        }
        Class::BigOff => {
            finding = finding
                .with("Raising swiotlb= changes nothing: an empty pool refuses them too.")
                .next(match promised.filter(|&most| most < u64::from(SEGMENT_SLOTS) * SLOT_BYTES) {
                    Some(most) => format!(
                        "the driver must map at most {} at once (what dma_max_mapping_size() promises here): report it there",
                        bytes(most)
                    ),
                    None => "a kernel whose dma_max_mapping_size() leaves room for the offset: 5.19 and newer, late 5.10.y and 5.15.y".to_owned(),
                });
        }
        Class::Full | Class::Frag | Class::Area => {
            finding = finding.next(format!(
                "the size that would do, and what to write for it: swioscope plan {name} --kernel {kernel}"
            ));
            if class == Class::Area {
                finding = finding.next(format!(
                    "fewer areas, such as swiotlb={},1 on 6.0 and newer: swioscope plan {name} --areas 1",
                    report.summary.pool_slots
                ));
            }
            if class == Class::Frag {
                finding = finding.next(format!(
                    "other allocators on the same load: swioscope replay {name} --policy legacy --policy v6_10"
                ));
            }
        }
        Class::Mask => {
            finding = finding.next("a pool lower in memory (swiotlb= without a special placement), the device's full DMA mask in its driver, or an IOMMU");
        }
        Class::Size => {
            finding = finding.next("swiotlb=force or swiotlb=SLOTS on the command line makes one; what a number becomes: swioscope param swiotlb=32768");
        }
        Class::Spin => {
            finding = finding.next("a kernel with a search that is counted: 6.3 or newer");
        }
        _ => {
            finding = finding.next("record whole and with stacks: swioscope record --stacks -o load.swio -- COMMAND");
        }
    }
    finding
}

fn one_refusal(row: &FailureRow) -> String {
    let reason = match row.reason.as_deref() {
        Some(reason) => format!(" It had to bounce: {}.", because(reason)),
        None => String::new(),
    };
    let from = row.stack.as_ref().map_or_else(String::new, |stack| format!(" Asked for by {stack}."));
    format!(
        "{}: {} × {}; the first, at {}: {}.{reason}{from}",
        who(&row.device, row.driver.as_deref()),
        count(row.failures),
        row.cause.replace('_', " "),
        duration(row.first_ns),
        row.explanation
    )
}

/// Why a mapping had to bounce, in words.
#[must_use]
pub fn because(reason: &str) -> &'static str {
    match reason {
        "mask" => "the device does not reach the buffer",
        "straddle" => "the buffer's machine frames do not follow one another",
        "alignment" => "the buffer is not aligned as it must be",
        "foreign" => "part of the buffer is another domain's memory",
        "forced" => "everything bounces here (swiotlb=force, or encrypted memory)",
        "untrusted" => "the device is not trusted",
        "kmalloc" => "it is a small kmalloc buffer",
        _ => "for a reason the rules do not know",
    }
}

pub fn who(device: &str, driver: Option<&str>) -> String {
    driver.map_or_else(|| device.to_owned(), |driver| format!("{device} ({driver})"))
}

/// Who had the pool when it first refused.
fn held_then(report: &Report) -> Option<String> {
    let then: Vec<&HolderRow> = report.holders.iter().filter(|row| row.at == "first_refusal").collect();
    let (slots, standing) = then.iter().fold((0, 0), |sum, row| (sum.0 + row.slots, sum.1 + row.standing_slots));
    let first = then.first()?;
    let stand = if standing * 2 > slots {
        format!(
            "{} of them stand: taken in the first half of the recording or before it, and not given back",
            count(standing)
        )
    } else {
        format!("{} of them stand, the rest comes and goes", count(standing))
    };
    let place = first.stack.as_ref().map_or_else(String::new, |stack| format!(" from {stack}"));
    Some(format!(
        "At the first refusal {} slots were held; {}. {} held most, {}{place}.",
        count(slots),
        stand,
        who(&first.device, first.driver.as_deref()),
        count(first.slots)
    ))
}
