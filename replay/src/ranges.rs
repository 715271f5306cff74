//! Where a device's bus sees memory elsewhere than the CPU (SPEC 3, 6.1: `phys_to_dma`, `dma_range_map`).
//!
//! A bus without ranges sees memory where the CPU does. One with ranges sees what lies in them, moved as a whole, and
//! nothing else: an address in none of them has no bus address (`DMA_MAPPING_ERROR`). Only where a buffer begins is
//! looked up, as in the kernel; that it ends in another range, or in none, is not asked (SPEC 6.1).

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use trace::Device;

/// The most ranges of a device that are taken; a recording has no more.
const MOST: usize = 16;

/// A part of memory and where a bus sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    cpu: u64,
    bus: u64,
    /// From the first byte to the last.
    length: u64,
}

/// A device's ranges, in the order of its table.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Map(Vec<Range>);

/// All maps met. A handful differ in all traces there are, so they are kept for good: a device's limits stay one word
/// longer and can be copied.
static MAPS: Mutex<BTreeSet<&'static Map>> = Mutex::new(BTreeSet::new());

/// Where a device's bus sees memory; equal ones are the same word.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ranges(Option<&'static Map>);

impl Ranges {
    /// Where the CPU does.
    pub const NONE: Self = Self(None);

    /// Those of a device, as recorded; nothing when its text cannot be read. Where the trace does not say, the bus is taken
    /// to see memory where the CPU does.
    #[must_use]
    pub fn of(device: &Device) -> Option<Self> {
        device.dma_ranges.as_deref().map_or(Some(Self::NONE), Self::parse)
    }

    /// Reads `CPU=BUS+BYTES` in hexadecimal with `0x`, set apart by spaces; nothing when that is not what the text is, a
    /// range is empty or goes beyond 64 bits, or there are more than 16.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut ranges = Vec::new();
        for word in text.split_ascii_whitespace() {
            if ranges.len() == MOST {
                return None;
            }
            ranges.push(range(word)?);
        }
        if ranges.is_empty() {
            return Some(Self::NONE);
        }
        let map = Map(ranges);
        let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        let known = maps.get(&map).copied().unwrap_or_else(|| {
            let map: &'static Map = Box::leak(Box::new(map));
            maps.insert(map);
            map
        });
        Some(Self(Some(known)))
    }

    /// Whether the bus sees memory where the CPU does.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Where the bus sees a physical address; nothing when it does not see it. Of ranges that overlap the first counts.
    #[must_use]
    #[inline(always)]
    pub fn to_bus(&self, phys: u64) -> Option<u64> {
        match self.0 {
            None => Some(phys),
            Some(map) => map.moved(phys, |range| (range.cpu, range.bus)),
        }
    }

    /// The physical address the bus sees at an address; nothing when it sees none there.
    #[must_use]
    #[inline(always)]
    pub fn to_cpu(&self, bus: u64) -> Option<u64> {
        match self.0 {
            None => Some(bus),
            Some(map) => map.moved(bus, |range| (range.bus, range.cpu)),
        }
    }

    /// Whether the bus sees all memory from one physical address to another, both included (SPEC 6.4, "RAM fully covered").
    #[must_use]
    pub fn cover(&self, first: u64, last: u64) -> bool {
        let Some(Map(ranges)) = self.0 else { return true };
        let mut next = first;
        // Each round goes on behind a range, so none is met twice.
        while next <= last {
            let end = ranges.iter().filter(|range| next.wrapping_sub(range.cpu) <= range.length);
            match end.map(|range| range.cpu + range.length).max() {
                Some(end) if end >= last => return true,
                Some(end) => next = end + 1,
                None => return false,
            }
        }
        true
    }
}

impl PartialEq for Ranges {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.0.map(std::ptr::from_ref) == other.0.map(std::ptr::from_ref)
    }
}

impl Eq for Ranges {}

impl Hash for Ranges {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.map(std::ptr::from_ref).hash(state);
    }
}

impl Map {
    /// An address of one side of the ranges on the other.
    #[cold]
    fn moved(&self, address: u64, ends: impl Fn(&Range) -> (u64, u64)) -> Option<u64> {
        self.0.iter().find_map(|range| {
            let (from, to) = ends(range);
            let into = address.checked_sub(from)?;
            (into <= range.length).then(|| to + into)
        })
    }
}

/// One range out of its text.
fn range(text: &str) -> Option<Range> {
    let (cpu, rest) = text.split_once('=')?;
    let (bus, bytes) = rest.split_once('+')?;
    let hex = |text: &str| {
        let digits = text.strip_prefix("0x")?;
        // What reads numbers would take a sign as well.
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, 16).ok())?
    };
    let (cpu, bus, length) = (hex(cpu)?, hex(bus)?, hex(bytes)?.checked_sub(1)?);
    let fits = cpu.checked_add(length).and(bus.checked_add(length)).is_some();
    fits.then_some(Range { cpu, bus, length })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As on a Raspberry Pi: the first GiB, seen from 3 GiB on.
    const PI: &str = "0x0=0xc0000000+0x40000000";

    fn ranges(text: &str) -> Ranges {
        Ranges::parse(text).unwrap()
    }

    #[test]
    fn what_lies_in_a_range_is_moved_with_it() {
        let pi = ranges(PI);
        assert_eq!((pi.to_bus(0), pi.to_bus(0x3000_0000)), (Some(0xc000_0000), Some(0xf000_0000)));
        assert_eq!((pi.to_bus(0x3fff_ffff), pi.to_bus(0x4000_0000)), (Some(0xffff_ffff), None));
        assert_eq!(
            (pi.to_cpu(0xf000_0000), pi.to_cpu(0x3000_0000), pi.to_cpu(0x1_0000_0000)),
            (Some(0x3000_0000), None, None)
        );
        let two = ranges("0x0=0xc0000000+0x40000000 0x100000000=0x0+0x10");
        assert_eq!((two.to_bus(0x1_0000_000f), two.to_bus(0x1_0000_0010)), (Some(15), None));
        assert_eq!((two.to_cpu(15), two.to_cpu(0xc000_0000)), (Some(0x1_0000_000f), Some(0)));
        let last = ranges("0xfffffffffffff000=0x0+0x1000");
        assert_eq!((last.to_bus(u64::MAX), last.to_bus(0)), (Some(0xfff), None));
        // The first of two that hold it.
        assert_eq!(ranges("0x0=0x1000+0x10 0x0=0x2000+0x20").to_bus(8), Some(0x1008));
    }

    #[test]
    fn without_ranges_nothing_moves() {
        assert_eq!((ranges(""), ranges("  ")), (Ranges::NONE, Ranges::NONE));
        assert_eq!((Ranges::NONE.to_bus(5), Ranges::NONE.to_cpu(u64::MAX)), (Some(5), Some(u64::MAX)));
        let device = |text: Option<&str>| Device { dma_ranges: text.map(str::to_owned), ..Device::new(0, "") };
        assert_eq!(Ranges::of(&device(None)), Some(Ranges::NONE));
        assert_eq!((Ranges::of(&device(Some(PI))), Ranges::of(&device(Some("?")))), (Some(ranges(PI)), None));
        assert_ne!(ranges(PI), ranges("0x0=0xc0000000+0x40000001"));
    }

    #[test]
    fn what_covers_memory() {
        let pi = ranges(PI);
        assert!(pi.cover(0, 0x3fff_ffff) && !pi.cover(0, 0x4000_0000) && Ranges::NONE.cover(0, u64::MAX));
        let two = ranges("0x1000=0x0+0x1000 0x0=0x5000+0x1000");
        assert!(two.cover(0, 0x1fff) && !two.cover(0, 0x2000) && two.cover(0x800, 0x1800));
        assert!(!ranges("0x0=0x0+0x1000 0x2000=0x2000+0x1000").cover(0, 0x2fff));
        assert!(ranges("0xfffffffffffff000=0x0+0x1000").cover(u64::MAX - 1, u64::MAX));
    }

    #[test]
    fn garbage_is_not_read() {
        let many = format!("{PI} ").repeat(MOST + 1);
        for text in [
            "x",
            "0x0",
            "0x0=0x0",
            "0x0=0x0+0x0",
            "0=0+1000",
            "0x0=0x0+0x",
            "0x+0=0x0+0x10",
            "0x0=0x0+-0x10",
            "0x0=0x0+0x10000000000000000",
            "0xffffffffffffffff=0x0+0x2",
            "0x0=0xffffffffffffffff+0x2",
            "0x0=0xc0000000+0x40000000,",
            "0x0=0xc0000000+0x40000000 ä",
            &many,
        ] {
            assert_eq!(Ranges::parse(text), None, "{text}");
        }
        assert!(Ranges::parse(&format!("{PI} ").repeat(MOST)).is_some());
    }

    proptest! {
        /// Ranges that share nothing on the bus: what is seen is found again, and what is not seen is in none.
        #[test]
        fn back_is_where_it_came_from(
            parts in prop::collection::vec((0u64..1 << 40, 1u64..1 << 30, 0u64..1 << 20), 1..6), address: u64, pick: usize,
        ) {
            let mut bus = 0;
            let mut words = Vec::new();
            for &(cpu, bytes, gap) in &parts {
                words.push(format!("{cpu:#x}={:#x}+{bytes:#x}", bus + gap));
                bus += gap + bytes;
            }
            let ranges = ranges(&words.join(" "));
            let (cpu, bytes, _) = parts[pick % parts.len()];
            let inside = cpu + address % bytes;
            for phys in [inside, address, address >> 24] {
                let seen = ranges.to_bus(phys);
                let held = parts.iter().any(|&(cpu, bytes, _)| (cpu..cpu + bytes).contains(&phys));
                prop_assert_eq!(seen.is_some(), held);
                if let Some(seen) = seen {
                    prop_assert_eq!(ranges.to_cpu(seen), Some(phys));
                }
            }
        }

        #[test]
        fn no_text_is_too_much(text in "[0-9a-fx=+ ]{0,40}|.{0,40}") {
            let _ = Ranges::parse(&text);
        }
    }
}
