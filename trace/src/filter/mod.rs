//! The filter language: `op == map && size >= 64k && device ~ "nvme*"`, over the rows of any table.
//!
//! Fields go by their registry names and literals by their field's unit, so whatever table a screen or a command shows can
//! be filtered the same way. docs/filters.md is the page for people; its examples are this module's tests.
//!
//! | module | what lives there |
//! |---|---|
//! | this one | [`Filter`], its tree [`Expr`], and whether a row matches |
//! | [`parse`] | from text to tree |
//! | [`literal`] | [`Literal`]: numbers with units, words and text, read and written |
//! | [`names`] | [`Names`]: the names behind the keys `device`, `tid` and `stack` |
//! | [`error`] | [`FilterError`], which points at the place |

pub mod error;
pub mod literal;
pub mod names;
pub mod parse;

use std::fmt;
use std::marker::PhantomData;

pub use error::{FilterError, Problem};
pub use literal::Literal;
pub use names::Names;

use crate::Event;
use crate::field::{Field, Record, Value};

/// A parsed filter over the rows of `R`.
///
/// ```
/// use trace::{Event, Filter, Op};
/// let filter: Filter = Filter::parse("op == map && size > 4k").unwrap();
/// let mut event = Event::new(Op::Map, 0, 0, 0, 0);
/// assert!(!filter.matches(&event), "a value that is not there compares false");
/// event.size = Some(8192);
/// assert!(filter.matches(&event));
/// ```
pub struct Filter<R = Event> {
    expr: Expr,
    rows: PhantomData<fn(&R)>,
}

// By hand, because rows need not be Clone, Debug or PartialEq for their filters to be.
impl<R> Clone for Filter<R> {
    fn clone(&self) -> Self {
        Self { expr: self.expr.clone(), rows: PhantomData }
    }
}

impl<R> PartialEq for Filter<R> {
    fn eq(&self, other: &Self) -> bool {
        self.expr == other.expr
    }
}

impl<R> fmt::Debug for Filter<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.expr).finish()
    }
}

/// A filter's tree.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// All of them.
    And(Vec<Expr>),
    /// Any of them.
    Or(Vec<Expr>),
    /// The opposite.
    Not(Box<Expr>),
    /// A look at one field.
    Test(Test),
}

/// A look at one field of a row. A value that is not there fails every test.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// The field.
    pub field: &'static Field,
    /// Its place among [`Record::FIELDS`].
    pub index: usize,
    /// What is asked of it.
    pub check: Check,
    /// The keys that stand for the names asked for; `None` where the field is no key or [`Filter::resolve`] was not called.
    pub keys: Option<Vec<u64>>,
}

/// What is asked of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// A flag that is set.
    Set,
    /// A comparison with one literal.
    Compare(Comparison, Literal),
    /// Text that fits a pattern.
    Like(glob::Pattern),
    /// One of several literals.
    In(Vec<Literal>),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

impl Comparison {
    /// As it is written.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        }
    }

    fn holds<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Unequal => a != b,
            Self::Less => a < b,
            Self::AtMost => a <= b,
            Self::Greater => a > b,
            Self::AtLeast => a >= b,
        }
    }
}

impl<R: Record> Filter<R> {
    /// Reads a filter over the rows of `R`.
    ///
    /// # Errors
    /// When the text is none: [`FilterError`] points at the place and names what is known.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parse::expr(text, R::FIELDS).map(|expr| Self { expr, rows: PhantomData })
    }

    /// Whether a row passes. Costs a look at each field named, without allocating.
    #[must_use]
    pub fn matches(&self, row: &R) -> bool {
        self.expr.matches(&|index| row.value(index))
    }
}

impl<R> Filter<R> {
    /// Looks up the keys behind names, so that `device ~ "nvme*"` matches events, which have the device's key only. A filter
    /// that was never resolved knows no names. May be called again when more names are known.
    pub fn resolve(&mut self, names: &Names) {
        self.expr.resolve(names);
    }

    /// [`Filter::resolve`] in passing.
    #[must_use]
    pub fn resolved(mut self, names: &Names) -> Self {
        self.resolve(names);
        self
    }

    /// The tree, for whoever runs it elsewhere (polars).
    #[must_use]
    pub fn expr(&self) -> &Expr {
        &self.expr
    }
}

impl Expr {
    fn matches<'a>(&self, get: &impl Fn(usize) -> Value<'a>) -> bool {
        match self {
            Self::And(all) => all.iter().all(|expr| expr.matches(get)),
            Self::Or(any) => any.iter().any(|expr| expr.matches(get)),
            Self::Not(expr) => !expr.matches(get),
            Self::Test(test) => test.passes(&get(test.index)),
        }
    }

    fn resolve(&mut self, names: &Names) {
        match self {
            Self::And(exprs) | Self::Or(exprs) => exprs.iter_mut().for_each(|expr| expr.resolve(names)),
            Self::Not(expr) => expr.resolve(names),
            Self::Test(test) => test.keys = test.check.keys(test.field, names),
        }
    }
}

impl Test {
    fn passes(&self, value: &Value<'_>) -> bool {
        if let Some(keys) = &self.keys {
            let Value::U64(key) = value else { return false };
            let unequal = matches!(self.check, Check::Compare(Comparison::Unequal, _));
            return keys.contains(key) != unequal;
        }
        match (&self.check, value) {
            (_, Value::Null) => false,
            (Check::Set, value) => *value == Value::Bool(true),
            (Check::Compare(how, literal), value) => compare(*how, value, literal),
            (Check::Like(pattern), Value::Text(text)) => pattern.matches(text),
            (Check::Like(_), _) => false,
            (Check::In(any), value) => any.iter().any(|literal| compare(Comparison::Equal, value, literal)),
        }
    }
}

impl Check {
    /// The keys of the rows whose names are asked for; `None` for checks that ask for no name.
    fn keys(&self, field: &Field, names: &Names) -> Option<Vec<u64>> {
        let text = |literal: &Literal| matches!(literal, Literal::Text(_));
        // `device in (0, nvme)`: keys stand beside names.
        let fits = |key: u64, name: &str, literal: &Literal| match literal {
            Literal::Text(wanted) => wanted == name,
            Literal::Number(wanted) => *wanted == key,
            _ => false,
        };
        let wanted: &dyn Fn(u64, &str) -> bool = match self {
            Self::Like(pattern) => &|_, name| pattern.matches(name),
            Self::Compare(_, literal) if text(literal) => &|key, name| fits(key, name, literal),
            Self::In(any) if any.iter().any(text) => &|key, name| any.iter().any(|literal| fits(key, name, literal)),
            _ => return None,
        };
        let mut keys = names.keys(field.name, wanted)?;
        if let Self::In(any) = self {
            keys.extend(any.iter().filter_map(|literal| match literal {
                Literal::Number(key) => Some(*key),
                _ => None,
            }));
        }
        keys.sort_unstable();
        keys.dedup();
        Some(keys)
    }
}

fn compare(how: Comparison, value: &Value<'_>, literal: &Literal) -> bool {
    match (value, literal) {
        (Value::U64(v), Literal::Number(wanted)) => how.holds(v, wanted),
        (Value::F64(v), Literal::Real(wanted)) => how.holds(v, wanted),
        (Value::Bool(v), Literal::Flag(wanted)) => how.holds(v, wanted),
        (Value::Text(v), Literal::Text(wanted)) => how.holds(&v.as_ref(), &wanted.as_str()),
        _ => false,
    }
}

impl<R> fmt::Display for Filter<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

/// Writes text that parses to the same tree.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = |f: &mut fmt::Formatter<'_>, expr: &Expr| match expr {
            Self::And(_) | Self::Or(_) => write!(f, "({expr})"),
            _ => expr.fmt(f),
        };
        let (exprs, between) = match self {
            Self::Test(test) => return test.fmt(f),
            Self::Not(expr) => {
                f.write_str("!")?;
                return match &**expr {
                    // `!op == map` reads as if only `op` were turned round.
                    Self::Test(Test { check: Check::Set, .. }) | Self::Not(_) => expr.fmt(f),
                    _ => write!(f, "({expr})"),
                };
            }
            Self::And(exprs) => (exprs, " && "),
            Self::Or(exprs) => (exprs, " || "),
        };
        for (i, expr) in exprs.iter().enumerate() {
            if i > 0 {
                f.write_str(between)?;
            }
            inner(f, expr)?;
        }
        Ok(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.field.unit;
        f.write_str(self.field.name)?;
        match &self.check {
            Check::Set => Ok(()),
            Check::Compare(how, literal) => write!(f, " {} {}", how.symbol(), literal.show(unit)),
            Check::Like(pattern) => write!(f, " ~ {}", literal::quoted(pattern.as_str())),
            Check::In(any) => {
                let any: Vec<_> = any.iter().map(|literal| literal.show(unit).to_string()).collect();
                write!(f, " in ({})", any.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests;
