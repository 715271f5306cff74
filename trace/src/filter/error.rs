//! What is wrong with a filter, and where.

use std::fmt;
use std::ops::Range;

use crate::field::Field;

/// Text that is no filter. Written out it has the text, a caret under the place, and what would have been right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// The filter.
    pub text: String,
    /// The bytes of it that are wrong.
    pub at: Range<usize>,
    /// What is wrong with them.
    pub problem: Problem,
}

impl std::error::Error for FilterError {}

/// What can be wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing but blanks.
    #[error("an empty filter; write a field, a comparison and a value, such as `size >= 64k`")]
    Empty,
    /// Something else should stand here.
    #[error("{wanted} should stand here")]
    Expected {
        /// What.
        wanted: &'static str,
    },
    /// No field of this table.
    #[error("no field `{name}`{}\nfields: {}", near(.name, .known), .known.join(", "))]
    UnknownField {
        /// The word found.
        name: String,
        /// The fields there are.
        known: Vec<&'static str>,
    },
    /// A value the field cannot have.
    #[error("`{value}` is no value of `{field}`, which is {wanted}")]
    BadValue {
        /// The field.
        field: &'static str,
        /// What was written.
        value: String,
        /// What would have been right.
        wanted: String,
    },
    /// A comparison that makes no sense for the field.
    #[error("`{field}` has no order; use ==, !=, ~ or in")]
    NoOrder {
        /// The field.
        field: &'static str,
    },
    /// `~` on a number.
    #[error("`{field}` is no text; use ==, !=, <, <=, >, >= or in")]
    NoText {
        /// The field.
        field: &'static str,
    },
    /// A field on its own that is no flag.
    #[error("`{field}` is no flag: compare it, as in `{field} == {example}`")]
    NoFlag {
        /// The field.
        field: &'static str,
        /// A value it can have.
        example: &'static str,
    },
    /// A pattern that is none.
    #[error("not a pattern: {reason}; `*` stands for any characters, `?` for one, `[a-f]` for one of a set")]
    BadPattern {
        /// Why.
        reason: &'static str,
    },
    /// A quote that is never closed.
    #[error("this quote has no end")]
    OpenQuote,
    /// Parentheses or negations beyond reason.
    #[error("nested too deeply")]
    TooDeep,
}

/// A field whose name is a letter or two away.
fn near(name: &str, known: &[&'static str]) -> String {
    let best = known.iter().map(|field| (distance(name, field), field)).min();
    match best {
        Some((far, field)) if far <= 2 && far < name.chars().count() => format!("; did you mean `{field}`?"),
        _ => String::new(),
    }
}

/// Letters to change, add or remove between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A filter is a line; what breaks it is shown as a blank, one character wide as the caret's line has it.
        let line: String = self.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let before = self.text.get(..self.at.start).unwrap_or_default().chars().count();
        let wide = self.text.get(self.at.clone()).unwrap_or_default().chars().count().max(1);
        let problem = self.problem.to_string();
        let (what, rest) = problem.split_once('\n').unwrap_or((&problem, ""));
        write!(f, "{what}\n  {line}\n  {}{}", " ".repeat(before), "^".repeat(wide))?;
        if !rest.is_empty() {
            write!(f, "\n{rest}")?;
        }
        Ok(())
    }
}

/// What a value of this field looks like, for messages.
pub(super) fn wanted(field: &Field) -> String {
    use crate::field::{Type, Unit};
    if !field.words.is_empty() {
        return format!("one of {}", field.words.join(", "));
    }
    match (field.unit, field.ty) {
        (_, Type::Bool) => "yes or no",
        (Unit::Time | Unit::Duration, _) => "a time such as 10us, 1.5ms or 2s (a plain number is nanoseconds)",
        (Unit::Bytes, _) => "a size such as 4096, 64k or 2MiB",
        (Unit::Address | Unit::Mask, _) => "an address such as 0x7f000000 or 4GiB",
        (Unit::Ratio, _) => "a share such as 0.5 or 50%",
        (Unit::Id, _) => "a key or a name",
        (_, Type::F64) => "a number such as 1.5",
        (_, Type::Text) => "text, in quotes where it has blanks",
        _ => "a whole number such as 1,234",
    }
    .to_owned()
}

/// A value of the field, for messages.
pub(super) fn example(field: &Field) -> &'static str {
    use crate::field::Unit;
    match (field.unit, field.words.first()) {
        (_, Some(word)) => word,
        (Unit::Time | Unit::Duration, _) => "10us",
        (Unit::Bytes, _) => "64k",
        (Unit::Address | Unit::Mask, _) => "0x1000",
        (Unit::Ratio, _) => "50%",
        (Unit::Text, _) => "nvme",
        _ => "1",
    }
}
