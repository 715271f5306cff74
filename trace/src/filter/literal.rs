//! Literals: what a field is compared with, written as the registry writes values or as people type them.

use std::borrow::Cow;
use std::fmt;

use crate::field::{Field, Type, Unit};

/// A value in a filter, in the field's own type.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// A whole number: bytes, nanoseconds, an address, a count, a key.
    Number(u64),
    /// A real number; a share between 0 and 1 for ratios.
    Real(f64),
    /// Yes or no.
    Flag(bool),
    /// Text, or a name that stands for keys.
    Text(String),
}

/// Words that stand behind a number, for a kind of unit, and what one of them is worth.
const BINARY: &[(&str, u64)] = &[
    ("b", 1),
    ("k", 1 << 10),
    ("kb", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mb", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gb", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tb", 1 << 40),
    ("tib", 1 << 40),
    ("p", 1 << 50),
    ("pb", 1 << 50),
    ("pib", 1 << 50),
    ("e", 1 << 60),
    ("eb", 1 << 60),
    ("eib", 1 << 60),
];
const TIMES: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Whether a word can stand behind a number, after a blank (`1.5 KiB`).
pub(super) fn is_unit(word: &str) -> bool {
    word == "%" || worth(BINARY, word).or_else(|| worth(TIMES, word)).is_some()
}

fn worth(units: &[(&str, u64)], word: &str) -> Option<u64> {
    let word = word.to_lowercase();
    units.iter().find(|(unit, _)| *unit == word).map(|(_, worth)| *worth)
}

impl Literal {
    /// Reads what was written for a field; quoted text is never a number. `None` when the field cannot have such a value.
    pub(super) fn read(field: &Field, text: &str, quoted: bool) -> Option<Self> {
        let name = || Some(Self::Text(text.to_owned()));
        match field.ty {
            Type::Text if field.words.is_empty() || field.words.contains(&text) => name(),
            Type::Text => None,
            Type::Bool => match text {
                "yes" | "true" => Some(Self::Flag(true)),
                "no" | "false" => Some(Self::Flag(false)),
                _ => None,
            },
            Type::F64 => real(field.unit, text).map(Self::Real),
            Type::U64 | Type::U32 if quoted => (field.unit == Unit::Id).then(name)?,
            Type::U64 | Type::U32 => match whole(field.unit, text) {
                Some(number) => Some(Self::Number(number)),
                None if field.unit == Unit::Id && !text.is_empty() => name(),
                None => None,
            },
        }
    }

    /// Writes it so that it reads as the same value of a field of this unit.
    #[must_use]
    pub fn show(&self, unit: Unit) -> impl fmt::Display {
        match self {
            Self::Number(n) => match unit {
                Unit::Address | Unit::Mask | Unit::Frame => format!("{n:#x}"),
                Unit::Bytes => largest(*n, &[("MiB", 1 << 20), ("KiB", 1 << 10)]),
                Unit::Time | Unit::Duration => largest(*n, &[("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)]),
                _ => n.to_string(),
            },
            Self::Real(v) => format!("{v:?}"),
            Self::Flag(v) => if *v { "yes" } else { "no" }.to_owned(),
            Self::Text(text) => quoted(text).into_owned(),
        }
    }
}

/// `n` in the largest unit that divides it.
fn largest(n: u64, units: &[(&str, u64)]) -> String {
    let fits = units.iter().find(|(_, worth)| n > 0 && n.is_multiple_of(*worth));
    fits.map_or_else(|| n.to_string(), |(unit, worth)| format!("{}{unit}", n / worth))
}

/// Text as it has to be written: bare where it can be, else in quotes.
pub(super) fn quoted(text: &str) -> Cow<'_, str> {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '*' | '?' | '-' | '/');
    // A bare number for a key would be read as the key.
    if text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*') && text.chars().all(bare) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Splits a number from the word behind it.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',' | '_'))).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// A number without its separators: `1,234`, `1_234`, `1234`. Commas stand before every three digits or not at all.
fn digits(text: &str) -> Option<String> {
    if text.contains(',') {
        let whole = text.split('.').next().unwrap_or(text);
        let mut groups = whole.split(',');
        let first = groups.next().unwrap_or_default();
        if first.is_empty() || first.len() > 3 || groups.any(|group| group.len() != 3) {
            return None;
        }
    }
    let plain: String = text.chars().filter(|c| !matches!(c, ',' | '_')).collect();
    (plain.starts_with(|c: char| c.is_ascii_digit()) && plain.ends_with(|c: char| c.is_ascii_digit())).then_some(plain)
}

fn whole(unit: Unit, text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let hex = hex.replace('_', "");
        return (!hex.starts_with('+')).then(|| u64::from_str_radix(&hex, 16).ok()).flatten();
    }
    let (number, word) = split(text);
    let number = digits(number)?;
    let times = match (unit, word) {
        (_, "") => 1,
        (Unit::Bytes | Unit::Address | Unit::Mask, word) => worth(BINARY, word)?,
        (Unit::Time | Unit::Duration, word) => worth(TIMES, word)?,
        _ => return None,
    };
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(times);
    }
    // With a fraction the value is rounded to the unit that is stored: 1.1 KiB is 1,126 bytes.
    let value = number.parse::<f64>().ok()? * times as f64;
    (times > 1 && value < u64::MAX as f64).then(|| value.round() as u64)
}

fn real(unit: Unit, text: &str) -> Option<f64> {
    let (number, word) = split(text);
    let value = digits(number)?.parse::<f64>().ok()?;
    match (unit, word) {
        (_, "") => Some(value),
        (Unit::Ratio, "%") => Some(value / 100.0),
        // `1e-7`, as Rust writes it.
        _ => text.parse::<f64>().ok().filter(|value| value.is_finite()),
    }
}
