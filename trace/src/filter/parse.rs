//! From text to tree, by recursive descent:
//!
//! ```text
//! or      = and { ("||" | "or") and }
//! and     = not { ("&&" | "and") not }
//! not     = ("!" | "not") not | "(" or ")" | test
//! test    = FIELD [ COMPARISON literal | ["!"] "~" literal | ["not"] "in" "(" literal { "," literal } ")" ]
//! ```
//!
//! What a literal is depends on its field, so there is no separate pass that makes tokens.

use std::ops::Range;

use super::error::{FilterError, Problem, example, wanted};
use super::literal::{Literal, is_unit};
use super::{Check, Comparison, Expr, Test};
use crate::field::{Field, Type, Unit};

/// Parentheses and negations within each other; more would take the stack without helping anybody.
const DEEPEST: usize = 64;

/// Reads a filter over a table with these fields.
pub(super) fn expr(text: &str, fields: &'static [Field]) -> Result<Expr, FilterError> {
    let mut parser = Parser { text, at: 0, depth: 0, fields };
    parser.all().map_err(|(at, problem)| FilterError { text: text.to_owned(), at, problem })
}

type Parsed<T> = Result<T, (Range<usize>, Problem)>;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    fields: &'static [Field],
}

impl<'a> Parser<'a> {
    fn all(&mut self) -> Parsed<Expr> {
        self.blanks();
        if self.rest().is_empty() {
            return Err((0..0, Problem::Empty));
        }
        let expr = self.or()?;
        if self.rest().is_empty() { Ok(expr) } else { self.expected("`&&`, `||` or the end") }
    }

    fn or(&mut self) -> Parsed<Expr> {
        let mut exprs = vec![self.and()?];
        while self.symbol("||") || self.word("or") {
            exprs.push(self.and()?);
        }
        Ok(one_or(exprs, Expr::Or))
    }

    fn and(&mut self) -> Parsed<Expr> {
        let mut exprs = vec![self.not()?];
        while self.symbol("&&") || self.word("and") {
            exprs.push(self.not()?);
        }
        Ok(one_or(exprs, Expr::And))
    }

    fn not(&mut self) -> Parsed<Expr> {
        let start = self.at;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err((start..self.at, Problem::TooDeep));
        }
        let expr = if self.symbol("!") || self.word("not") {
            Expr::Not(Box::new(self.not()?))
        } else if self.symbol("(") {
            let expr = self.or()?;
            if !self.symbol(")") {
                return self.expected("`)`");
            }
            expr
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn test(&mut self) -> Parsed<Expr> {
        let at = self.peek_word();
        let name = &self.text[at.clone()];
        if name.is_empty() {
            return self.expected("a field");
        }
        let Some((index, field)) = self.fields.iter().enumerate().find(|(_, field)| field.name == name) else {
            let known = self.fields.iter().map(|field| field.name).collect();
            return Err((at, Problem::UnknownField { name: name.to_owned(), known }));
        };
        self.go_to(at.end);
        let test = |check| Expr::Test(Test { field, index, check, keys: None });
        let not = |expr| Expr::Not(Box::new(expr));
        let before = self.at;
        if self.symbol("!~") {
            return Ok(not(test(self.pattern(field, before)?)));
        }
        if self.symbol("~") {
            return Ok(test(self.pattern(field, before)?));
        }
        if self.word("in") {
            return Ok(test(self.list(field)?));
        }
        if self.word("not") {
            return if self.word("in") { Ok(not(test(self.list(field)?))) } else { self.expected("`in`") };
        }
        let Some(how) = self.comparison() else {
            if field.ty == Type::Bool {
                return Ok(test(Check::Set));
            }
            return Err((at, Problem::NoFlag { field: field.name, example: example(field) }));
        };
        let ordered = !matches!(how, Comparison::Equal | Comparison::Unequal);
        let place = before..self.end_of(before);
        let literal = self.literal(field, false)?;
        if ordered && matches!(literal, Literal::Text(_) | Literal::Flag(_)) {
            return Err((place, Problem::NoOrder { field: field.name }));
        }
        Ok(test(Check::Compare(how, literal)))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        // The longer first: `<=` begins as `<`. A single `=` is what SQL has.
        [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ]
        .into_iter()
        .find_map(|(symbol, how)| self.symbol(symbol).then_some(how))
    }

    fn pattern(&mut self, field: &'static Field, symbol: usize) -> Parsed<Check> {
        if field.ty != Type::Text && field.unit != Unit::Id {
            return Err((symbol..self.end_of(symbol), Problem::NoText { field: field.name }));
        }
        let (at, text, _) = self.piece(false)?;
        glob::Pattern::new(&text).map(Check::Like).map_err(|error| (at, Problem::BadPattern { reason: error.msg }))
    }

    fn list(&mut self, field: &'static Field) -> Parsed<Check> {
        if !self.symbol("(") {
            return self.expected("a list such as `(map, unmap)`");
        }
        let mut any = vec![self.literal(field, true)?];
        while self.symbol(",") {
            any.push(self.literal(field, true)?);
        }
        if self.symbol(")") { Ok(Check::In(any)) } else { self.expected("`,` or `)`") }
    }

    fn literal(&mut self, field: &'static Field, in_list: bool) -> Parsed<Literal> {
        let (at, text, quoted) = self.piece(in_list)?;
        Literal::read(field, &text, quoted)
            .ok_or_else(|| (at, Problem::BadValue { field: field.name, value: text, wanted: wanted(field) }))
    }

    /// A literal's text, whether it stood in quotes, and where. Outside of lists a comma between digits belongs to the
    /// number; a unit may follow a number after a blank, as the registry writes it.
    fn piece(&mut self, in_list: bool) -> Parsed<(Range<usize>, String, bool)> {
        let start = self.at;
        if self.rest().starts_with('"') {
            return self.quoted().map(|text| (start..self.end_of(start), text, true));
        }
        let text = self.text;
        let digit = |c: char| c.is_ascii_digit();
        let next_is_digit = |at: usize| text[at + 1..].starts_with(digit);
        let ends = |at: usize, c: char| match c {
            ',' => in_list || at == start || !next_is_digit(at),
            c => c.is_whitespace() || matches!(c, '(' | ')' | '&' | '|' | '"'),
        };
        let end = self.rest().char_indices().find(|&(i, c)| ends(start + i, c)).map_or(text.len(), |(i, _)| start + i);
        if end == start {
            return self.expected("a value");
        }
        self.go_to(end);
        let mut end = end;
        if text[start..end].starts_with(digit) && text[start..end].ends_with(digit) {
            let unit = self.rest().split(|c: char| !(c.is_alphabetic() || c == '%')).next().unwrap_or_default();
            if is_unit(unit) {
                end = self.at + unit.len();
                self.go_to(end);
            }
        }
        Ok((start..end, text[start..end].to_owned(), false))
    }

    fn quoted(&mut self) -> Parsed<String> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.go_to(start + i + 1);
                    return Ok(text);
                }
                '\\' => text.extend(chars.next().map(|(_, c)| c)),
                c => text.push(c),
            }
        }
        Err((start..self.text.len(), Problem::OpenQuote))
    }

    /// The word ahead, without taking it.
    fn peek_word(&self) -> Range<usize> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = self.rest().find(|c| !word(c)).unwrap_or(self.rest().len());
        self.at..self.at + length
    }

    /// Takes a keyword if it is ahead.
    fn word(&mut self, word: &str) -> bool {
        let at = self.peek_word();
        let there = self.text[at.clone()].eq_ignore_ascii_case(word);
        if there {
            self.go_to(at.end);
        }
        there
    }

    /// Takes a symbol if it is ahead.
    fn symbol(&mut self, symbol: &str) -> bool {
        let there = self.rest().starts_with(symbol);
        if there {
            self.go_to(self.at + symbol.len());
        }
        there
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn go_to(&mut self, at: usize) {
        self.at = at;
        self.blanks();
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Where what began at `start` ends, blanks behind it not counted.
    fn end_of(&self, start: usize) -> usize {
        start + self.text[start..self.at].trim_end().len()
    }

    fn expected<T>(&self, wanted: &'static str) -> Parsed<T> {
        let length = self.rest().chars().next().map_or(0, char::len_utf8);
        Err((self.at..self.at + length, Problem::Expected { wanted }))
    }
}

fn one_or(mut exprs: Vec<Expr>, many: impl Fn(Vec<Expr>) -> Expr) -> Expr {
    if exprs.len() == 1 { exprs.remove(0) } else { many(exprs) }
}
