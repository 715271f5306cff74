//! What rows a list shows.

use trace::field::Record;

/// A condition on rows, and the text it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    text: String,
}

impl Filter {
    /// Reads a condition; nothing for an empty one.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        Ok((!text.is_empty()).then(|| Self { text: text.to_lowercase() }))
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether a row fits.
    pub(crate) fn fits<R: Record>(&self, row: &R) -> bool {
        let shown = |(index, field): (usize, &trace::Field)| field.show(&row.value(index)).to_string().to_lowercase();
        R::FIELDS.iter().enumerate().map(shown).any(|text| text.contains(&self.text))
    }
}

/// The rows that fit, all of them without a condition.
pub(crate) fn filtered<R: Record>(rows: Vec<R>, filter: Option<&Filter>) -> Vec<R> {
    match filter {
        Some(filter) => rows.into_iter().filter(|row| filter.fits(row)).collect(),
        None => rows,
    }
}
