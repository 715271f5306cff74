//! Rows of the field registry as aligned lines of text, for the screen and for `--print` alike.
//!
//! Names, units and formatting come from [`trace::field`]; nothing is said twice.

use ratatui::text::{Line, Span};
use trace::field::{Field, Record, Type, Unit, Value};

use crate::text;
use crate::theme::Theme;

/// Cells between two columns.
const GAP: usize = 2;
/// The flexible column is not made narrower than this; further columns are left out instead.
const NARROWEST: usize = 12;

/// What happens to text that does not fit the flexible column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// It is cut, and the cut marked.
    Cut,
    /// It goes on below.
    Fold,
}

/// A table before its width is known.
#[derive(Debug)]
pub(crate) struct Columns {
    columns: Vec<Column>,
    rows: usize,
    flexible: Option<(usize, Overflow)>,
}

#[derive(Debug)]
struct Column {
    head: String,
    right: bool,
    cells: Vec<Span<'static>>,
}

impl Column {
    fn width(&self) -> usize {
        self.cells.iter().map(Span::width).chain([Span::raw(&self.head).width()]).max().unwrap_or(0)
    }
}

/// A table laid out.
#[derive(Debug, Default)]
pub(crate) struct Laid {
    /// The line of column heads.
    pub(crate) head: Line<'static>,
    /// The lines of each row; one a row unless text is folded.
    pub(crate) rows: Vec<Vec<Line<'static>>>,
    /// Heads of the columns there was no room for.
    pub(crate) left_out: Vec<String>,
}

impl Laid {
    /// Head, rows, and a word on what was left out.
    pub(crate) fn lines(self, theme: &Theme) -> Vec<Line<'static>> {
        let note = (!self.left_out.is_empty())
            .then(|| Line::styled(format!("no room for: {}", self.left_out.join(", ")), theme.dim));
        std::iter::once(self.head).chain(self.rows.into_iter().flatten()).chain(note).collect()
    }
}

/// How a field is called above its column. People see a time with its unit, so the name need not end in it.
pub(crate) fn head(field: &Field) -> String {
    let name = match field.unit {
        Unit::Time | Unit::Duration => field.name.trim_end_matches("_ns"),
        _ => field.name,
    };
    name.replace('_', " ")
}

/// A value as the registry writes it.
pub(crate) fn show(field: &Field, value: &Value<'_>) -> String {
    field.show(value).to_string()
}

/// Absent or zero: nothing to see.
pub(crate) fn is_nothing(value: &Value<'_>) -> bool {
    matches!(value, Value::Null | Value::U64(0))
}

impl Columns {
    /// A table of `rows` rows and no columns yet.
    pub(crate) fn new(rows: usize) -> Self {
        Self { columns: Vec::new(), rows, flexible: None }
    }

    /// The registered columns of `records` in which anything can be seen.
    pub(crate) fn of<R: Record>(records: &[R]) -> Self {
        let mut table = Self::new(records.len());
        for (index, field) in R::FIELDS.iter().enumerate() {
            if records.iter().any(|record| !is_nothing(&record.value(index))) {
                table.push(head(field), field.ty != Type::Text, |row| {
                    Span::raw(records.get(row).map_or_else(String::new, |record| show(field, &record.value(index))))
                });
            }
        }
        table
    }

    /// Adds the registered column of that name, right-aligned unless it is text. A name nobody has registered adds none.
    pub(crate) fn push_field<R: Record>(&mut self, name: &str, records: &[R]) {
        if let Some((index, field)) = R::FIELDS.iter().enumerate().find(|(_, field)| field.name == name) {
            self.push(head(field), field.ty != Type::Text, |row| {
                Span::raw(records.get(row).map_or_else(String::new, |record| show(field, &record.value(index))))
            });
        }
    }

    /// Adds a column; `cell` gives the content of each row.
    pub(crate) fn push(&mut self, head: String, right: bool, cell: impl Fn(usize) -> Span<'static>) {
        self.columns.push(Column { head, right, cells: (0..self.rows).map(cell).collect() });
    }

    /// Makes the last column the one that gives way when room is short.
    pub(crate) fn flex_last(&mut self, overflow: Overflow) {
        self.flexible = self.columns.len().checked_sub(1).map(|last| (last, overflow));
    }

    /// Cells it takes when nothing gives way.
    fn width(&self) -> usize {
        self.columns.iter().map(Column::width).sum::<usize>() + GAP * self.columns.len().saturating_sub(1)
    }

    /// Lays the table out in `width` cells. Columns at the right are left out, and named, when all else fails.
    pub(crate) fn lay_out(mut self, width: usize, theme: &Theme) -> Laid {
        let mut left_out = Vec::new();
        while self.width_giving_way(NARROWEST) > width {
            let flexible = self.flexible.map(|(column, _)| column);
            let Some(last) = (1..self.columns.len()).rev().find(|column| Some(*column) != flexible) else { break };
            left_out.insert(0, self.columns.remove(last).head);
            self.flexible = self.flexible.map(|(column, how)| (column - usize::from(last < column), how));
        }
        let excess = self.width().saturating_sub(width);
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, column)| column.width().saturating_sub(if self.is_flexible(i) { excess } else { 0 }))
            .collect();
        let cells = |content: &dyn Fn(&Column) -> Span<'static>| {
            let mut line = Line::default();
            for (i, column) in self.columns.iter().enumerate() {
                if i > 0 {
                    line.push_span(" ".repeat(GAP));
                }
                let Span { content, style } = content(column);
                let content = text::cut(&content, widths[i]);
                let pad = " ".repeat(widths[i].saturating_sub(Span::raw(content.as_str()).width()));
                let content = if column.right { pad + &content } else { content + &pad };
                line.push_span(Span::styled(content, style));
            }
            line
        };
        let rows = (0..self.rows).map(|row| {
            let Some((folding, Overflow::Fold)) = self.flexible else {
                return vec![cells(&|column| column.cells[row].clone())];
            };
            let folded = &self.columns[folding].cells[row];
            let pieces = text::fold(&folded.content, widths[folding], 0, folded.style);
            let line = |(i, piece): (usize, Line<'static>)| {
                cells(&|column| {
                    if std::ptr::eq(column, &self.columns[folding]) {
                        Span::styled(piece.to_string(), folded.style)
                    } else if i == 0 {
                        column.cells[row].clone()
                    } else {
                        Span::raw("")
                    }
                })
            };
            pieces.into_iter().enumerate().map(line).collect()
        });
        Laid { head: cells(&|column| Span::styled(column.head.clone(), theme.dim)), rows: rows.collect(), left_out }
    }

    fn is_flexible(&self, column: usize) -> bool {
        self.flexible.is_some_and(|(flexible, _)| flexible == column)
    }

    /// Cells it takes when the flexible column gives way until it has `kept` cells.
    pub(crate) fn width_giving_way(&self, kept: usize) -> usize {
        let given = self.flexible.map_or(0, |(column, _)| self.columns[column].width().saturating_sub(kept));
        self.width() - given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    trace::record! {
        /// A row with something to fold.
        pub struct Row {
            /// Who.
            name: String => Text,
            /// How many.
            maps: u64 => Count,
            /// Always zero here.
            lost: u64 => Count,
            /// Why.
            why: String => Text,
        }
    }

    fn laid(width: usize, overflow: Overflow) -> Laid {
        let row = |name: &str, maps, why: &str| Row { name: name.into(), maps, lost: 0, why: why.into() };
        let mut table = Columns::of(&[row("nvme", 24_900, "enough free slots, but no run"), row("e1000e", 7, "full")]);
        table.flex_last(overflow);
        table.lay_out(width, &Theme::PLAIN)
    }

    fn text(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(|line| line.to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn columns_are_aligned_and_those_with_nothing_to_see_are_left_out() {
        let lines = laid(80, Overflow::Cut).lines(&Theme::PLAIN);
        assert_eq!(
            text(&lines),
            [
                "name      maps  why", //
                "nvme    24,900  enough free slots, but no run",
                "e1000e       7  full"
            ]
        );
    }

    #[test]
    fn the_flexible_column_gives_way() {
        let cut = laid(32, Overflow::Cut).lines(&Theme::PLAIN);
        assert_eq!(text(&cut)[1], "nvme    24,900  enough free slo…");
        let folded = laid(32, Overflow::Fold).lines(&Theme::PLAIN);
        assert_eq!(text(&folded)[1..3], ["nvme    24,900  enough free", "                slots, but no"]);
    }

    #[test]
    fn what_has_no_room_is_named() {
        let laid = laid(24, Overflow::Cut);
        assert_eq!(laid.left_out, ["maps"]);
        assert_eq!(text(&laid.lines(&Theme::PLAIN))[1], "nvme    enough free slo…");
    }
}
