//! Sentences: what was asked, the rules with their sections of the specification, the arithmetic.

use replay::{Cause, Moment, Reason, Refusal};
use trace::field::{bytes, count};
use trace::pool::SLOT_BYTES;
use trace::{Device, Event};

use super::RuleText;

/// What was asked for.
pub(super) fn asked(event: &Event, device: Option<&Device>) -> String {
    let name = match device {
        Some(Device { name, driver: Some(driver), .. }) => format!("{name} ({driver})"),
        Some(Device { name, .. }) => name.clone(),
        None => "a device the trace does not describe".to_owned(),
    };
    let size = event
        .size
        .map_or_else(|| "a buffer of unknown size".to_owned(), |size| format!("{} to be mapped", exact(size)));
    let at = event.orig_addr.map_or_else(String::new, |at| format!(" at {at:#x}"));
    let direction = event.direction.map_or_else(String::new, |way| format!(", {}", way.name().replace('_', " ")));
    let element = event.sg_index.map_or_else(String::new, |i| format!(", element {i} of a scatterlist"));
    format!("{name} asked for {size}{at}{direction}{element}, on CPU {}", event.cpu)
}

/// Bytes for people, and exactly where that differs.
pub(super) fn exact(n: u64) -> String {
    let short = bytes(n);
    if n < 1024 || short == format!("{} KiB", n / 1024) && n.is_multiple_of(1024) {
        return short;
    }
    format!("{short} ({} bytes)", count(n))
}

/// Why it bounces, or would have.
pub(super) fn reason(reason: Reason) -> RuleText {
    let (sentence, section) = match reason {
        Reason::Mask => ("its device does not reach the buffer, so the data is copied to one it does reach", "6.1"),
        Reason::Straddle => (
            "the buffer's machine frames do not follow one another, and the device would run into memory that is not the buffer's",
            "10.1",
        ),
        Reason::Foreign => (
            "some of the buffer's frames are another domain's, and they do not follow one another or cannot be flushed",
            "10.1",
        ),
        Reason::Alignment => ("the buffer is not aligned as its device or the IOMMU needs it", "6.1"),
        Reason::Forced => ("everything bounces on this machine (swiotlb=force, or memory encryption)", "6.1"),
        Reason::Untrusted => {
            ("the device is not trusted, and the buffer shares its first or last page with other data", "6.1")
        }
        Reason::Kmalloc => ("the buffer is small enough to share a cache line with other data", "6.1"),
    };
    RuleText { word: reason.name().to_owned(), sentence: sentence.to_owned(), section: section.to_owned() }
}

/// Nothing bounces it.
pub(super) fn direct() -> RuleText {
    RuleText {
        word: "direct".to_owned(),
        sentence: "the device reaches the whole buffer and nothing else asks for a copy, so it uses the buffer itself"
            .to_owned(),
        section: "6.1".to_owned(),
    }
}

/// Why it was refused.
pub(super) fn cause(cause: Cause) -> RuleText {
    let (sentence, section) = match cause {
        Cause::Empty => ("a mapping of no bytes is a driver's mistake", "7"),
        Cause::NoPool => ("it has to bounce, and there is no pool to bounce through", "6.1, 7"),
        Cause::NotAddressable => ("its device does not reach the buffer, and no copy may stand in for it", "6.1, 7"),
        Cause::Forbidden => ("it would have to be copied, and something about the mapping forbids that", "6.1, 7"),
        Cause::TooLarge => ("one mapping gets slots of one segment only, and a segment has 128 (256 KiB)", "2.1, 7"),
        Cause::TooLargeWithOffset => (
            "the data would fit a segment, but the low bits of its address are kept, and with that offset it does not",
            "3, 6.4, 7",
        ),
        Cause::PoolFull => ("no area has as many free slots as it takes", "3, 7"),
        Cause::AreaFull => {
            ("the CPU's own area has not that many free slots, and the others fail for another reason", "3.8, 7")
        }
        Cause::Livelock => {
            ("nothing fits, and this kernel's search would go round for ever with its lock held", "3.4, 7")
        }
        Cause::BoundaryImpossible => ("it is longer than the device's distance of two segment boundaries", "3, 7"),
        Cause::Boundary => ("every free run that is long enough crosses a segment boundary of the device", "3, 7"),
        Cause::AlignmentImpossible => {
            ("no slot begins at an address the device's masks allow, not even in an empty pool", "3.5, 3.6, 7")
        }
        Cause::Alignment => {
            ("free runs are long enough, but none begins at an address the device's masks allow", "3.5, 3.6, 7")
        }
        Cause::Stride => ("a free run would do, but this kernel's search steps over it", "3.1, 3.2, 7"),
        Cause::Fragmented => {
            ("there are free slots enough, but not so many side by side in one segment", "2.6, 3.7, 7")
        }
        Cause::PoolAboveMask => ("slots were found, but the pool lies beyond what the device reaches", "6.2, 7"),
        Cause::GrowPending => (
            "no pool had room, one of its own would have begun at a wrong address, and the worker's came too late",
            "5, 7",
        ),
        Cause::TransientRefused => {
            ("no pool had room, and there were no pages within the device's reach for one of its own", "5, 7")
        }
    };
    RuleText { word: cause.name().to_owned(), sentence: sentence.to_owned(), section: section.to_owned() }
}

/// Causes that lie in the request or the platform: no pool of any size serves it.
pub(super) fn is_never(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Empty
            | Cause::NotAddressable
            | Cause::Forbidden
            | Cause::TooLarge
            | Cause::TooLargeWithOffset
            | Cause::BoundaryImpossible
            | Cause::AlignmentImpossible
    )
}

/// How full the pool was by the kernel's own count, beside what the events come to.
pub(super) fn counted(kernel: u64, events: u64, slots: u64) -> String {
    let so = format!("the kernel itself counted {} of {} slots in use", count(kernel), count(slots));
    if kernel == events { so } else { format!("{so}; by the events it was {}", count(events)) }
}

/// The arithmetic of a refusal, a line a step.
pub(super) fn refusal(told: &Refusal) -> Vec<String> {
    let mut out = slots_needed(told.size, told.offset, told.slots);
    let most = told.segment_slots;
    if told.slots > most {
        out.push(format!(
            "{} > {}: a segment has {} slots ({}), and no mapping has more than one segment",
            count(told.slots),
            count(most),
            count(most),
            bytes(most * SLOT_BYTES)
        ));
    } else if told.nslabs > 0 {
        let run = u64::from(told.largest_run);
        out.push(match told.free_runs {
            0 => format!("none of {} slots is free", count(told.nslabs)),
            1 => format!("{} of {} slots are free, in one run", count(told.free), count(told.nslabs)),
            runs => format!(
                "{} of {} slots are free, in {} runs, the longest of {}",
                count(told.free),
                count(told.nslabs),
                count(runs),
                count(run)
            ),
        });
        if told.slots > run {
            out.push(format!("{} > {}: no free run is long enough", count(told.slots), count(run)));
        }
    }
    out.push(format!("{}: {told}", told.cause.name().replace('_', " ")));
    out
}

/// How many slots it takes.
pub(super) fn slots_needed(size: u64, offset: u64, slots: u64) -> Vec<String> {
    if size == 0 {
        return Vec::new();
    }
    let whole = if offset == 0 {
        exact(size)
    } else {
        format!("{} + {} kept in front so that its low address bits stay", exact(size), exact(offset))
    };
    vec![format!(
        "{whole} takes {} of {}",
        if slots == 1 { "1 slot".to_owned() } else { format!("{} slots", count(slots)) },
        bytes(SLOT_BYTES)
    )]
}

/// Why the device's reach makes it bounce, in numbers.
pub(super) fn reach(moment: &Moment) -> Option<String> {
    let (request, limits, reach) = (moment.request, moment.limits, moment.limits.reach);
    let behind = request.size.checked_sub(1)?;
    let last = request.orig_addr.checked_add(behind)?;
    let Some(first) = limits.ranges.to_bus(request.orig_addr) else {
        return Some(format!("it begins at {:#x}, where the device's bus sees nothing", request.orig_addr));
    };
    // As the kernel reckons: from where the bus sees its beginning.
    let seen = first.checked_add(behind)?;
    let there = if seen == last { String::new() } else { format!(" ({seen:#x} on its bus)") };
    (seen > reach).then(|| format!("its last byte is at {last:#x}{there}, above the {reach:#x} the device reaches"))
}
