//! The field registry: a field's name, type, unit and doc are said once and feed every output.
//!
//! A [`crate::record!`] declares a struct whose fields carry a [`Unit`]; the Parquet schema, CSV heads, JSON keys, table
//! columns and their formatting all come from the resulting [`Record`] implementation.

use std::borrow::Cow;
use std::fmt;

/// What a number means, and so how it is written for people. The stored value is always the plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds since the recording began.
    Time,
    /// A span of time in nanoseconds.
    Duration,
    /// Bytes.
    Bytes,
    /// 2 KiB slots of a bounce pool.
    Slots,
    /// How many times something happened.
    Count,
    /// An address, in the address space the field's doc names.
    Address,
    /// A bit mask (DMA mask, boundary mask, attributes).
    Mask,
    /// A 4 KiB frame number.
    Frame,
    /// A position: CPU, slot, element of a scatterlist.
    Index,
    /// A key into another table.
    Id,
    /// A share between 0 and 1.
    Ratio,
    /// A name or a word from a fixed set.
    Text,
    /// Yes or no.
    Flag,
}

impl Unit {
    /// The unit as it stands in the `unit` metadata of a stored column.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Time => "ns since start",
            Self::Duration => "ns",
            Self::Bytes => "bytes",
            Self::Slots => "2 KiB slots",
            Self::Count => "count",
            Self::Address => "address",
            Self::Mask => "bit mask",
            Self::Frame => "4 KiB frame",
            Self::Index => "index",
            Self::Id => "key",
            Self::Ratio => "ratio",
            Self::Text => "text",
            Self::Flag => "flag",
        }
    }
}

/// How a field is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Double precision.
    F64,
    /// Boolean.
    Bool,
    /// UTF-8 text; dictionary-encoded in Parquet.
    Text,
}

impl Type {
    /// The type in the words of docs/trace-format.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::U64 => "uint64",
            Self::U32 => "uint32",
            Self::F64 => "double",
            Self::Bool => "boolean",
            Self::Text => "string",
        }
    }
}

/// One field of a [`Record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name, the same in every output.
    pub name: &'static str,
    /// How it is stored.
    pub ty: Type,
    /// Whether it can be absent.
    pub nullable: bool,
    /// What it measures.
    pub unit: Unit,
    /// What it means, in a sentence or two.
    pub doc: &'static str,
    /// The words it can have when its text is from a fixed set; empty otherwise.
    pub words: &'static [&'static str],
}

/// A field's value, detached from its Rust type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Absent.
    Null,
    /// Any unsigned integer.
    U64(u64),
    /// A real number.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(Cow<'a, str>),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::U64(v) => v.fmt(f),
            Self::F64(v) => v.fmt(f),
            Self::Bool(v) => v.fmt(f),
            Self::Text(v) => write!(f, "`{v}`"),
        }
    }
}

/// A value that does not fit the field it was read for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {found} is not {wanted}")]
pub struct Mismatch {
    /// The field's name.
    pub field: &'static str,
    /// What was found.
    pub found: String,
    /// What would have been right.
    pub wanted: String,
}

/// A Rust type that can be the type of a field.
pub trait FieldValue: Sized {
    /// How it is stored.
    const TYPE: Type;
    /// Whether it can be absent.
    const NULLABLE: bool = false;
    /// Every word it can be, for text from a fixed set.
    const WORDS: &'static [&'static str] = &[];
    /// What a value has to be, for error messages.
    fn wanted() -> String {
        format!("of type {}", Self::TYPE.name())
    }
    /// The plain value.
    fn to_value(&self) -> Value<'_>;
    /// The reverse of [`FieldValue::to_value`]; `None` when the value does not fit.
    fn from_value(value: &Value<'_>) -> Option<Self>;
}

/// A row of one of the trace's or the analysis's tables. Implemented by [`crate::record!`].
pub trait Record: Sized {
    /// The table's columns, in order.
    const FIELDS: &'static [Field];
    /// The value of column `index` of [`Record::FIELDS`]; [`Value::Null`] beyond the last.
    fn value(&self, index: usize) -> Value<'_>;
    /// Builds a row from its values, asked for by column index.
    ///
    /// # Errors
    /// When a value does not fit its column.
    fn from_values<'a>(get: impl FnMut(usize) -> Value<'a>) -> Result<Self, Mismatch>;
}

macro_rules! unsigned {
    ($($t:ty => $tag:ident),*) => {$(
        impl FieldValue for $t {
            const TYPE: Type = Type::$tag;
            fn to_value(&self) -> Value<'_> { Value::U64(u64::from(*self)) }
            fn from_value(value: &Value<'_>) -> Option<Self> {
                match value { Value::U64(v) => <$t>::try_from(*v).ok(), _ => None }
            }
        }
    )*};
}
unsigned!(u64 => U64, u32 => U32);

impl FieldValue for bool {
    const TYPE: Type = Type::Bool;
    fn to_value(&self) -> Value<'_> {
        Value::Bool(*self)
    }
    fn from_value(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Bool(v) => Some(*v),
            _ => None,
        }
    }
}

impl FieldValue for f64 {
    const TYPE: Type = Type::F64;
    fn to_value(&self) -> Value<'_> {
        Value::F64(*self)
    }
    fn from_value(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::F64(v) => Some(*v),
            _ => None,
        }
    }
}

impl FieldValue for String {
    const TYPE: Type = Type::Text;
    fn to_value(&self) -> Value<'_> {
        Value::Text(Cow::Borrowed(self))
    }
    fn from_value(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Text(v) => Some(v.clone().into_owned()),
            _ => None,
        }
    }
}

impl<T: FieldValue> FieldValue for Option<T> {
    const TYPE: Type = T::TYPE;
    const NULLABLE: bool = true;
    const WORDS: &'static [&'static str] = T::WORDS;
    fn wanted() -> String {
        T::wanted()
    }
    fn to_value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, T::to_value)
    }
    fn from_value(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            v => T::from_value(v).map(Some),
        }
    }
}

/// Declares a fixed set of words that can be a field's value, stored as text.
#[macro_export]
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $word:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $( $(#[$vmeta])* $variant ),* }

        impl $name {
            /// Every word, in order.
            pub const ALL: &'static [Self] = &[ $( Self::$variant ),* ];
            /// The word as it is written in every output.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $( Self::$variant => $word ),* } }
            /// The word's meaning from its text.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> { match name { $( $word => Some(Self::$variant), )* _ => None } }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result { f.pad(self.name()) }
        }

        impl $crate::field::FieldValue for $name {
            const TYPE: $crate::field::Type = $crate::field::Type::Text;
            const WORDS: &'static [&'static str] = &[ $( $word ),* ];
            fn wanted() -> String {
                format!("one of {}", Self::WORDS.join(", "))
            }
            fn to_value(&self) -> $crate::field::Value<'_> {
                $crate::field::Value::Text(::std::borrow::Cow::Borrowed(self.name()))
            }
            fn from_value(value: &$crate::field::Value<'_>) -> Option<Self> {
                match value { $crate::field::Value::Text(v) => Self::from_name(v), _ => None }
            }
        }
    };
}

/// Declares a table: a struct with public fields, each with its doc and, after `=>`, its [`Unit`].
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $( $(#[doc = $doc:literal])+ $field:ident : $ty:ty => $unit:ident ),* $(,)? }) => {
        $(#[$meta])*
        pub struct $name { $( $(#[doc = $doc])+ pub $field: $ty ),* }

        impl $crate::field::Record for $name {
            const FIELDS: &'static [$crate::field::Field] = &[ $( $crate::field::Field {
                name: stringify!($field),
                ty: <$ty as $crate::field::FieldValue>::TYPE,
                nullable: <$ty as $crate::field::FieldValue>::NULLABLE,
                unit: $crate::field::Unit::$unit,
                doc: concat!($($doc),+).trim_ascii(),
                words: <$ty as $crate::field::FieldValue>::WORDS,
            } ),* ];

            fn value(&self, index: usize) -> $crate::field::Value<'_> {
                let getters: &[fn(&Self) -> $crate::field::Value<'_>] =
                    &[ $( |row| $crate::field::FieldValue::to_value(&row.$field) ),* ];
                getters.get(index).map_or($crate::field::Value::Null, |get| get(self))
            }

            fn from_values<'a>(
                mut get: impl FnMut(usize) -> $crate::field::Value<'a>,
            ) -> Result<Self, $crate::field::Mismatch> {
                let mut columns = Self::FIELDS.iter().enumerate();
                $( let $field: $ty = $crate::field::next_column(&mut columns, &mut get)?; )*
                Ok(Self { $( $field ),* })
            }
        }
    };
}

/// Reads the next column of a record; the engine of [`crate::record!`].
#[doc(hidden)]
pub fn next_column<'a, 'f, T: FieldValue>(
    columns: &mut impl Iterator<Item = (usize, &'f Field)>,
    get: &mut impl FnMut(usize) -> Value<'a>,
) -> Result<T, Mismatch> {
    let (name, value) = columns.next().map_or(("", Value::Null), |(index, field)| (field.name, get(index)));
    T::from_value(&value).ok_or_else(|| Mismatch { field: name, found: value.to_string(), wanted: T::wanted() })
}

impl Field {
    /// Writes a value of this field for people: addresses in hex, bytes in IEC units, counts with separators.
    #[must_use]
    pub fn show<'a>(&self, value: &'a Value<'a>) -> Shown<'a> {
        self.unit.show(value)
    }
}

impl Unit {
    /// [`Field::show`] for a value that has a unit and no field.
    #[must_use]
    pub fn show<'a>(self, value: &'a Value<'a>) -> Shown<'a> {
        Shown { unit: self, value }
    }
}

/// A value in the dress of its unit; see [`Field::show`].
#[derive(Debug)]
pub struct Shown<'a> {
    unit: Unit,
    value: &'a Value<'a>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (self.value, self.unit) {
            (Value::Null, _) => "–".to_owned(),
            (Value::Bool(v), _) => if *v { "yes" } else { "no" }.to_owned(),
            (Value::Text(v), _) => v.clone().into_owned(),
            (Value::F64(v), Unit::Ratio) => format!("{:.2} %", v * 100.0),
            (Value::F64(v), _) => format!("{v:.2}"),
            (Value::U64(v), Unit::Address | Unit::Mask | Unit::Frame) => format!("{v:#x}"),
            (Value::U64(v), Unit::Bytes) => bytes(*v),
            (Value::U64(v), Unit::Time | Unit::Duration) => duration(*v),
            (Value::U64(v), Unit::Count | Unit::Slots) => count(*v),
            (Value::U64(v), _) => v.to_string(),
        };
        f.pad(&text)
    }
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Bytes in the largest IEC unit that keeps a number above one: `1536` as `1.5 KiB`.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    // Exact enough for people; the stored value stays the integer.
    let mut v = n as f64 / 1024.0;
    let mut unit = 0;
    while v >= 1024.0 && unit + 1 < UNITS.len() {
        v /= 1024.0;
        unit += 1;
    }
    if v.fract() < 0.05 { format!("{v:.0} {}", UNITS[unit]) } else { format!("{v:.1} {}", UNITS[unit]) }
}

/// Nanoseconds in a fitting unit: `1500` as `1.5 µs`.
#[must_use]
pub fn duration(ns: u64) -> String {
    let v = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", v / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", v / 1e6),
        _ => format!("{:.2} s", v / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::record! {
        /// A row with one of everything.
        #[derive(Debug, PartialEq)]
        pub struct Row {
            /// Where.
            addr: u64 => Address,
            /// How much,
            /// over two lines.
            size: Option<u32> => Bytes,
            /// Who.
            name: String => Text,
        }
    }

    #[test]
    fn a_record_names_its_fields_once_and_survives_a_round_trip() {
        let row = Row { addr: 0x1000, size: None, name: "nvme0".into() };
        assert_eq!(Row::FIELDS.iter().map(|f| f.name).collect::<Vec<_>>(), ["addr", "size", "name"]);
        assert_eq!(Row::FIELDS[1].doc, "How much, over two lines.");
        assert!(Row::FIELDS[1].nullable && !Row::FIELDS[0].nullable);
        assert_eq!(Row::from_values(|i| row.value(i)).unwrap(), row);
        let wrong = Row::from_values(|_| Value::Bool(true)).unwrap_err();
        assert_eq!(wrong.field, "addr");
    }

    #[test]
    fn values_are_dressed_by_unit() {
        let show = |i: usize, v: Value<'static>| Row::FIELDS[i].show(&v).to_string();
        assert_eq!(show(0, Value::U64(0xfff)), "0xfff");
        assert_eq!(show(1, Value::U64(1536)), "1.5 KiB");
        assert_eq!(show(1, Value::Null), "–");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(262_144), "256 KiB");
        assert_eq!(duration(1_500), "1.5 µs");
    }
}
