//! Conditions on an answer's numbers, for scripts: `--fail-on 'failures>0'`.

use std::fmt;
use std::str::FromStr;

use trace::field::{Record, Type, Value};
use trace::{Field, Unit};

/// A condition: a field of the answer, a comparison, a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    field: String,
    is: Is,
    than: f64,
    text: String,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    More,
    AtLeast,
    Less,
    AtMost,
    Equal,
    Other,
}

/// Longest first, so that none hides another.
const SIGNS: [(&str, Is); 7] = [
    (">=", Is::AtLeast),
    ("<=", Is::AtMost),
    ("==", Is::Equal),
    ("!=", Is::Other),
    (">", Is::More),
    ("<", Is::Less),
    ("=", Is::Equal),
];

/// A condition that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// No comparison in it.
    #[error("`{text}` is no condition: write a field, a comparison (> >= < <= = !=) and a number, such as failures>0")]
    NoComparison {
        /// What was given.
        text: String,
    },
    /// No number behind it.
    #[error("`{number}` in `{text}` is not a number: write 10, 2.5, 5%, 64K, 10M or 2G")]
    NoNumber {
        /// What was given.
        text: String,
        /// What should be a number.
        number: String,
    },
    /// The answer has no such field.
    #[error("there is no field `{field}` to compare; there are: {known}")]
    NoField {
        /// The field asked for.
        field: String,
        /// Those there are.
        known: String,
    },
}

impl FromStr for Gate {
    type Err = GateError;

    fn from_str(text: &str) -> Result<Self, GateError> {
        let none = || GateError::NoComparison { text: text.to_owned() };
        let at = text.find(['>', '<', '=', '!']).ok_or_else(none)?;
        let (field, rest) = text.split_at(at);
        let (sign, is) = SIGNS.into_iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(none)?;
        let (field, number) = (field.trim(), rest[sign.len()..].trim());
        if field.is_empty() {
            return Err(none());
        }
        let than = read_number(number)
            .ok_or_else(|| GateError::NoNumber { text: text.to_owned(), number: number.to_owned() })?;
        Ok(Self { field: field.to_owned(), is, than, text: text.trim().to_owned() })
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `10`, `2.5`, `5%` as 0.05, `64K` as 65,536.
fn read_number(text: &str) -> Option<f64> {
    let (digits, times) = match text.char_indices().next_back()? {
        (at, '%') => (&text[..at], 0.01),
        (at, 'K' | 'k') => (&text[..at], 1024.0),
        (at, 'M') => (&text[..at], 1024.0 * 1024.0),
        (at, 'G') => (&text[..at], 1024.0 * 1024.0 * 1024.0),
        _ => (text, 1.0),
    };
    let number: f64 = digits.trim().parse().ok()?;
    number.is_finite().then_some(number * times)
}

impl Gate {
    /// Whether the condition holds for a row, and with which value; nothing when it does not, or the field is absent: what
    /// is not known fails nobody.
    ///
    /// # Errors
    /// When the row has no such field, or none that is a number.
    pub fn holds<R: Record>(&self, row: &R) -> Result<Option<String>, GateError> {
        let at = self.position::<R>()?;
        let value = row.value(at);
        let number = match value {
            Value::U64(n) => n as f64,
            Value::F64(x) => x,
            Value::Bool(yes) => f64::from(u8::from(yes)),
            Value::Null | Value::Text(_) => return Ok(None),
        };
        let holds = match self.is {
            Is::More => number > self.than,
            Is::AtLeast => number >= self.than,
            Is::Less => number < self.than,
            Is::AtMost => number <= self.than,
            Is::Equal => number == self.than,
            Is::Other => number != self.than,
        };
        Ok(holds.then(|| R::FIELDS[at].show(&value).to_string()))
    }

    /// Checks that rows of a kind have the field.
    ///
    /// # Errors
    /// When they have not.
    pub fn check<R: Record>(&self) -> Result<(), GateError> {
        self.position::<R>().map(|_| ())
    }

    fn position<R: Record>(&self) -> Result<usize, GateError> {
        let numeric = |field: &Field| field.ty != Type::Text && field.unit != Unit::Text;
        R::FIELDS.iter().position(|field| field.name == self.field && numeric(field)).ok_or_else(|| {
            let known = R::FIELDS.iter().filter(|field| numeric(field)).map(|field| field.name).collect::<Vec<_>>();
            GateError::NoField { field: self.field.clone(), known: known.join(", ") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::rows::SummaryRow;

    fn holds(text: &str, row: &SummaryRow) -> bool {
        text.parse::<Gate>().unwrap().holds(row).unwrap().is_some()
    }

    #[test]
    fn conditions_compare_counts_shares_and_sizes() {
        let row = SummaryRow { failures: 3, bounce_share: Some(0.25), bytes_copied: 1 << 20, ..SummaryRow::default() };
        for yes in [
            "failures>0",
            " failures >= 3 ",
            "failures=3",
            "failures!=0",
            "bounce_share>=25%",
            "bytes_copied<=1M",
            "lost<1",
        ] {
            assert!(holds(yes, &row), "{yes}");
        }
        for no in ["failures>3", "failures<3", "bounce_share>0.25", "bytes_copied>1024K"] {
            assert!(!holds(no, &row), "{no}");
        }
        assert!(!holds("peak_share<2", &row), "what is absent is not compared");
    }

    #[test]
    fn what_is_no_condition_says_why() {
        for (text, part) in [
            ("failures", "is no condition"),
            (">0", "is no condition"),
            ("failures>", "is not a number"),
            ("failures>many", "is not a number"),
            ("failures>NaN", "is not a number"),
            ("failures>inf", "is not a number"),
            ("failures!1", "is no condition"),
        ] {
            let error = text.parse::<Gate>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = "faults>0".parse::<Gate>().unwrap().check::<SummaryRow>().unwrap_err().to_string();
        assert!(error.contains("`faults`") && error.contains("failures, failures_any_size"), "{error}");
    }
}
