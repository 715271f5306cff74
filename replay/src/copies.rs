//! What a kernel copies, and from where (SPEC 6.3): eras of their own, finer than the allocator's generations.
//!
//! The kernel remembers for slot k of a mapping the address `orig + 2048·k`, although the data begins `lo` bytes into
//! the first slot. A sync somewhere inside a mapping therefore needs a displacement, and the eras differ in how they
//! compute it, from not at all to right.

use trace::Direction;
use trace::pool::SLOT_BYTES;

use crate::kernel::KernelVersion;
use crate::rules::Generation;

/// When a map copies the buffer into the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapCopy {
    /// When the device will read it and the driver did not ask to skip it.
    ByDirection,
    /// Always, so that a device writing less than it was given leaks nothing.
    Always,
}

/// Where a sync finds the data that belongs to its place in the bounce buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncOffset {
    /// At the slot's address plus the place in the slot: right while data begins at a slot's start, as it does there.
    WithoutMask,
    /// At the slot's address plus the place in the slot less `lo`, wherever that is.
    Right,
    /// At the slot's address: a sync that begins elsewhere copies from, or to, the wrong bytes.
    Ignored,
    /// As [`SyncOffset::Right`], but a place before `lo` is taken for a mistake and nothing is copied.
    RefusesNegative,
}

/// What happens to a sync longer than what is left of its mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncLength {
    /// It is done.
    Unchecked,
    /// It is cut at what was recorded for the slot.
    Cut,
}

/// How one era copies. [`COPY_ERAS`] has them all.
#[derive(Debug, PartialEq, Eq)]
pub struct Copies {
    /// The release it was sampled in; its name.
    pub era: &'static str,
    /// Kernels it stands for.
    pub kernels: &'static str,
    /// At a map.
    pub map: MapCopy,
    /// At a sync: from where.
    pub offset: SyncOffset,
    /// At a sync: how much.
    pub length: SyncLength,
    /// How often an unmap copies the data back, where it does.
    pub at_unmap: u64,
}

/// Every era, oldest first (SPEC 6.3's table).
#[rustfmt::skip]
pub static COPY_ERAS: &[Copies] = {
    use MapCopy::{Always, ByDirection};
    use SyncLength::{Cut, Unchecked};
    use SyncOffset::{Ignored, RefusesNegative, Right, WithoutMask};
    &[
        era("5.10.7",   "up to 5.11, early 5.10.y",   ByDirection, WithoutMask,     Unchecked, 2),
        era("5.10.89",  "5.10.y",                     ByDirection, Right,           Unchecked, 2),
        era("5.10.198", "late 5.10.y",                Always,      Right,           Unchecked, 1),
        era("5.12.9",   "5.12 and 5.13",              ByDirection, Ignored,         Cut,       2),
        era("5.14-rc5", "5.14",                       ByDirection, Right,           Cut,       2),
        era("5.15.16",  "early 5.15.y, 5.16, 5.17",   ByDirection, RefusesNegative, Cut,       2),
        era("5.15.100", "late 5.15.y, 5.18 to 6.8",   Always,      RefusesNegative, Cut,       1),
        era("6.9",      "6.9 to 7.2",                 Always,      Right,           Cut,       1),
    ]
};

const fn era(
    era: &'static str,
    kernels: &'static str,
    map: MapCopy,
    offset: SyncOffset,
    length: SyncLength,
    at_unmap: u64,
) -> Copies {
    Copies { era, kernels, map, offset, length, at_unmap }
}

/// A part of a mapping that is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where the part begins in the mapping, in bytes.
    pub offset: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Bytes of the mapping.
    pub mapping: u64,
    /// Where the data begins in its first slot: the offset kept in front, below 2048.
    pub lo: u64,
}

/// What a sync that copies at all came to, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Copied, rightly or not.
    pub copied: u64,
    /// Of those, between places that do not belong together.
    pub wrong_source: u64,
    /// Inside the mapping and asked for, but not copied.
    pub dropped: u64,
}

impl Copies {
    /// The era a kernel copies as (SPEC 6.3). Cost: a few comparisons.
    #[must_use]
    pub fn of_kernel(kernel: KernelVersion) -> &'static Self {
        let late = |major, minor, patch| kernel.in_stable(major, minor, patch);
        let era = match kernel.branch() {
            (5, 10) if late(5, 10, 198) => 2,
            (5, 10) if late(5, 10, 89) => 1,
            (..5, _) | (5, ..=11) => 0,
            (5, 12 | 13) => 3,
            (5, 14) => 4,
            (5, 15) if late(5, 15, 100) => 6,
            (5, 15..=17) => 5,
            (5, 18..) | (6, ..=8) => 6,
            _ => 7,
        };
        &COPY_ERAS[era]
    }

    /// The era of the kernel a generation's answers were checked against, else of the newest it stands for.
    #[must_use]
    pub fn of_generation(rules: &Generation) -> &'static Self {
        Self::of_kernel(KernelVersion::of_generation(rules))
    }

    /// The era of that name, else that of the kernel release.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let named = COPY_ERAS.iter().find(|e| e.era == name);
        named.or_else(|| KernelVersion::parse(name).map(Self::of_kernel))
    }

    /// Whether a map copies the buffer into the slots. `skips_sync` is the driver's `DMA_ATTR_SKIP_CPU_SYNC`.
    #[must_use]
    pub fn copies_at_map(&self, direction: Direction, skips_sync: bool) -> bool {
        let to_device = matches!(direction, Direction::ToDevice | Direction::Bidirectional);
        self.map == MapCopy::Always || (to_device && !skips_sync)
    }

    /// What becomes of a sync of `part` in a direction that copies.
    ///
    /// Sums wrap where the kernel's do, which unsigned arithmetic undoes again: a mapping's last slot can begin behind
    /// its end (SPEC 3.7).
    #[must_use]
    pub fn sync(&self, part: &Part) -> Synced {
        let &Part { offset, size, mapping, lo } = part;
        let place = lo.wrapping_add(offset);
        let slot_start = place - place % SLOT_BYTES;
        // SPEC 6.3, `d`.
        let displacement = match self.offset {
            SyncOffset::WithoutMask => place % SLOT_BYTES,
            SyncOffset::Ignored => 0,
            SyncOffset::RefusesNegative | SyncOffset::Right => (place % SLOT_BYTES).wrapping_sub(lo),
        };
        let wanted = size.min(mapping.saturating_sub(offset));
        if self.offset == SyncOffset::RefusesNegative && (place % SLOT_BYTES < lo || offset > mapping) {
            return Synced { dropped: wanted, ..Synced::default() };
        }
        let room = mapping.wrapping_sub(slot_start).wrapping_sub(displacement);
        let copied = if self.length == SyncLength::Cut { size.min(room) } else { size };
        let right = slot_start.wrapping_add(displacement) == offset;
        Synced { copied, wrong_source: if right { 0 } else { copied }, dropped: wanted.saturating_sub(copied) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn copies(name: &str) -> &'static Copies {
        Copies::by_name(name).unwrap()
    }

    fn synced(name: &str, offset: u64, size: u64, mapping: u64, lo: u64) -> (u64, u64, u64) {
        let Synced { copied, wrong_source, dropped } = copies(name).sync(&Part { offset, size, mapping, lo });
        (copied, wrong_source, dropped)
    }

    #[test]
    fn every_sampled_version_has_its_line() {
        for (release, era) in [
            ("5.10.7", "5.10.7"),
            ("5.11", "5.10.7"),
            ("rfc64", "5.10.7"),
            ("5.10.89", "5.10.89"),
            ("5.10.198", "5.10.198"),
            ("5.10.223", "5.10.198"),
            ("5.10", "5.10.198"),
            ("5.12.9", "5.12.9"),
            ("5.14-rc5", "5.14-rc5"),
            ("5.15.16", "5.15.16"),
            ("5.17-rc5", "5.15.16"),
            ("5.15.100", "5.15.100"),
            ("5.15.148", "5.15.100"),
            ("5.18.12", "5.15.100"),
            ("6.0.1", "5.15.100"),
            ("6.6.87", "5.15.100"),
            ("6.8.1", "5.15.100"),
            ("6.9", "6.9"),
            ("6.12.117", "6.9"),
            ("7.2.13", "6.9"),
        ] {
            assert_eq!(copies(release).era, era, "{release}");
        }
        assert!(Copies::by_name("lately").is_none());
    }

    #[test]
    fn a_map_copies_by_direction_or_always() {
        use Direction::{Bidirectional, FromDevice, ToDevice};
        for era in COPY_ERAS {
            let always = ["5.10.198", "5.15.100", "6.9"].contains(&era.era);
            assert!(era.copies_at_map(ToDevice, false) && era.copies_at_map(Bidirectional, false), "{}", era.era);
            assert_eq!(era.copies_at_map(FromDevice, false), always, "{}", era.era);
            assert_eq!(era.copies_at_map(ToDevice, true), always, "{}", era.era);
            assert_eq!(era.at_unmap, if always { 1 } else { 2 }, "{}: two copies before the same fix", era.era);
        }
    }

    /// A mapping of 4096 bytes at ...a00 of a device with min_align_mask 0xfff: it begins 0x200 bytes into its slot.
    /// A sync 0x700 bytes in stands 0x100 bytes into the second slot, before that slot's `lo`.
    #[test]
    fn a_sync_before_the_offset_of_a_later_slot() {
        let at = |name| synced(name, 0x700, 0x400, 4096, 0x200);
        assert_eq!(at("5.10.89"), (0x400, 0, 0));
        assert_eq!(at("5.10.198"), (0x400, 0, 0));
        assert_eq!(at("5.12.9"), (0x400, 0x400, 0), "copied from 0x800 instead of 0x700");
        assert_eq!(at("5.14-rc5"), (0x400, 0, 0));
        assert_eq!(at("5.15.16"), (0, 0, 0x400));
        assert_eq!(at("5.15.100"), (0, 0, 0x400));
        assert_eq!(at("6.6.87"), (0, 0, 0x400));
        assert_eq!(at("6.9"), (0x400, 0, 0));
    }

    #[test]
    fn a_sync_inside_a_slot() {
        for name in ["5.10.7", "5.10.89", "5.10.198", "5.14-rc5", "5.15.16", "5.15.100", "6.9"] {
            assert_eq!(synced(name, 0x100, 0x80, 4096, 0), (0x80, 0, 0), "{name}");
        }
        assert_eq!(synced("5.12.9", 0x100, 0x80, 4096, 0), (0x80, 0x80, 0), "from the slot's start");
        assert_eq!(synced("5.12.9", 0x800, 0x80, 4096, 0), (0x80, 0, 0), "a slot's start is right");
        assert_eq!(synced("5.12.9", 0, 4096, 4096, 0x200), (4096, 0, 0), "and so is the mapping's");
        assert_eq!(synced("5.10.7", 0x100, 0x80, 4096, 0x200), (0x80, 0x80, 0), "did it obey masks, it would be wrong");
    }

    #[test]
    fn a_sync_too_long() {
        for name in ["5.10.7", "5.10.89", "5.10.198"] {
            assert_eq!(synced(name, 3072, 4096, 4096, 0), (4096, 0, 0), "{name}: runs over the mapping's end");
        }
        for name in ["5.14-rc5", "5.15.16", "5.15.100", "6.9"] {
            assert_eq!(synced(name, 3072, 4096, 4096, 0), (1024, 0, 0), "{name}: cut");
        }
        assert_eq!(synced("5.12.9", 3072, 4096, 4096, 0), (2048, 2048, 0), "cut at the slot's record");
        // 0x600 bytes in, at the second slot's start: the record there says 2048 bytes, of 2560 there are.
        assert_eq!(synced("5.12.9", 0x600, 2560, 4096, 0x200), (2048, 2048, 512));
    }

    proptest! {
        /// From 6.9 on, and in 5.14, any part inside a mapping is copied whole and rightly; what is dropped in between
        /// is exactly what begins before a later slot's offset.
        #[test]
        fn parts_are_right_dropped_or_wrong(mapping in 1u64..300_000, lo in 0u64..2048, at in 0.0..1.0f64, size in 1u64..300_000) {
            let offset = (mapping as f64 * at) as u64;
            let size = size.min(mapping - offset);
            let whole = Synced { copied: size, ..Synced::default() };
            let part = Part { offset, size, mapping, lo };
            for name in ["5.10.198", "5.14-rc5", "6.9"] {
                prop_assert_eq!(copies(name).sync(&part), whole);
            }
            let early = (lo + offset) % 2048 < lo;
            let mid = copies("5.15.100").sync(&part);
            prop_assert_eq!(mid, if early { Synced { dropped: size, ..Synced::default() } } else { whole });
            let ignored = copies("5.12.9").sync(&part);
            prop_assert_eq!(ignored.wrong_source == 0, (lo + offset) % 2048 == lo);
            prop_assert_eq!(ignored.copied + ignored.dropped, size);
        }
    }
}
