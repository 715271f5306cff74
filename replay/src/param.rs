//! What a pool size becomes in a kernel: the `swiotlb=` grammar and the roundings (SPEC 2.2, 2.3, 9).

use crate::rules::{Generation, Grammar};
use trace::pool::SEGMENT_SLOTS;

/// Slots of the default pool, 64 MiB.
pub const DEFAULT_SLABS: u64 = 32768;

trace::words! {
    /// Whether mappings bounce that need not.
    pub enum Force {
        /// Only what has a reason.
        Normal = "normal",
        /// Everything.
        Always = "force",
        /// Nothing, not even what the device does not reach.
        Never = "noforce",
    }
}

/// What `swiotlb=` said, before any rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootParam {
    /// Slots of the (low) pool.
    pub nslabs: Option<u64>,
    /// The second number: areas, or slots of `rfc64`'s high pool.
    pub second: Option<u64>,
    /// The last word.
    pub force: Force,
}

impl BootParam {
    /// Reads the value of `swiotlb=` as the kernels of that generation do: what they do not understand they pass
    /// over without a word.
    #[must_use]
    pub fn parse(value: &str, grammar: Grammar) -> Self {
        Self::parse_with_tail(value, grammar).0
    }

    /// The same, and what those kernels pass over.
    pub(crate) fn parse_with_tail(value: &str, grammar: Grammar) -> (Self, &str) {
        let (nslabs, rest) = number(value);
        let mut rest = rest.strip_prefix(',').unwrap_or(rest);
        let mut second = None;
        if matches!(grammar, Grammar::Areas | Grammar::TwoPools) {
            (second, rest) = number(rest);
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        // The word must be all that remains, and `normal` is ours, not the kernel's.
        let force = Force::from_name(rest).filter(|&word| word != Force::Normal);
        let tail = if force.is_some() { "" } else { rest };
        (Self { nslabs, second, force: force.unwrap_or(Force::Normal) }, tail)
    }
}

/// A leading number in the kernel's notation (decimal, 0x, leading 0 for octal) and what follows it.
fn number(text: &str) -> (Option<u64>, &str) {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return (None, text);
    }
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => (hex, 16),
        _ if text.starts_with('0') => (text, 8),
        _ => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    (Some(u64::from_str_radix(&digits[..end], radix).unwrap_or(u64::MAX)), &digits[end..])
}

/// Slots and areas after the kernel's rounding: whole segments before 6.0; from 6.0 on at least a segment an area,
/// and a power of two (SPEC 2.2, 2.3).
#[must_use]
pub fn round(rules: &Generation, nslabs: u64, areas: u32) -> (u64, u32) {
    if rules.grammar != Grammar::Areas {
        return (round_to_segments(nslabs), 1);
    }
    let areas = round_areas(areas);
    (round_for_areas(nslabs, areas), areas)
}

/// As [`round`], then up to whole segments of so many slots in each area: for segments longer than the kernel's.
pub(crate) fn round_cut(rules: &Generation, nslabs: u64, areas: u32, segment_slots: u64) -> (u64, u32) {
    let (nslabs, areas) = round(rules, nslabs, areas);
    let whole = segment_slots.max(u64::from(SEGMENT_SLOTS)).saturating_mul(areas.into());
    (nslabs.checked_next_multiple_of(whole).unwrap_or(u64::MAX), areas)
}

/// A power of two (SPEC 2.2, 2.3).
pub(crate) fn round_areas(areas: u32) -> u32 {
    areas.max(1).checked_next_power_of_two().unwrap_or(1 << 31)
}

/// At least a segment an area, and a power of two (SPEC 2.3).
pub(crate) fn round_for_areas(nslabs: u64, areas: u32) -> u64 {
    let least = u64::from(SEGMENT_SLOTS) * u64::from(areas);
    if nslabs < least { least } else { nslabs.checked_next_power_of_two().unwrap_or(u64::MAX) }
}

/// Whole segments (SPEC 2.2).
pub(crate) fn round_to_segments(nslabs: u64) -> u64 {
    nslabs.checked_next_multiple_of(u64::from(SEGMENT_SLOTS)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(value: &str, grammar: Grammar) -> (Option<u64>, Option<u64>, Force) {
        let BootParam { nslabs, second, force } = BootParam::parse(value, grammar);
        (nslabs, second, force)
    }

    #[test]
    fn the_grammar_of_each_era() {
        use Force::{Always, Never, Normal};
        let areas = |value| param(value, Grammar::Areas);
        assert_eq!(areas("65536,force"), (Some(65536), None, Always));
        assert_eq!(areas(",4"), (None, Some(4), Normal));
        assert_eq!(areas("force"), (None, None, Always));
        assert_eq!(areas("4096,2,force"), (Some(4096), Some(2), Always));
        assert_eq!(areas(",,force"), (None, None, Always));
        assert_eq!(areas("0x1000,010,noforce"), (Some(4096), Some(8), Never));
        assert_eq!(areas("4096,forced"), (Some(4096), None, Normal), "the word is compared whole");
        // Before areas a second number is an unknown tail, and so is the word behind it.
        assert_eq!(param("4096,2,force", Grammar::Globals), (Some(4096), None, Normal));
        assert_eq!(param(",524288,force", Grammar::TwoPools), (None, Some(524_288), Always));
    }

    #[test]
    fn numbers_of_every_kind() {
        assert_eq!(number("0x"), (Some(0), "x"), "0x without a digit is a 0 and a tail");
        assert_eq!(number("0"), (Some(0), ""));
        assert_eq!(number("99999999999999999999"), (Some(u64::MAX), ""));
    }

    #[test]
    fn rounding_to_segments_or_to_areas() {
        let by = |id, n, a| round(Generation::by_id(id).unwrap(), n, a);
        assert_eq!(by("legacy", 1100, 3), (1152, 1));
        assert_eq!(by("v6_10", 1100, 3), (2048, 4));
        assert_eq!(by("v6_10", 128, 8), (1024, 8));
        assert_eq!(by("v6_10", 0, 0), (128, 1));
        assert_eq!(by("v6_10", u64::MAX, u32::MAX).1, 1 << 31);
    }
}
