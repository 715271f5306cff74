//! What rows a list shows: a condition in the filter language, or a plain word that is searched for in all columns.

use trace::filter::Names;
use trace::{Filter, Record};

/// A condition on the rows of a list, and the text it was written as.
#[derive(Clone, Debug)]
pub(crate) struct ListFilter<R> {
    text: String,
    condition: Condition<R>,
}

#[derive(Clone, Debug)]
enum Condition<R> {
    /// In the filter language.
    Filter(Filter<R>),
    /// In any column, as it is shown, whatever its case.
    Word(String),
}

impl<R: Record> ListFilter<R> {
    /// Reads a condition; nothing for an empty one. What has none of the language's signs is a word to search for.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn parse(text: &str, names: &Names) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let condition =
            if text.contains(['=', '<', '>', '~', '!', '(']) || text.contains(" is ") || text.contains(" in ") {
                let filter = Filter::<R>::parse(text).map_err(|error| error.to_string())?;
                Condition::Filter(filter.resolved(names))
            } else {
                Condition::Word(text.to_lowercase())
            };
        Ok(Some(Self { text: text.to_owned(), condition }))
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether a row fits.
    pub(crate) fn fits(&self, row: &R) -> bool {
        match &self.condition {
            Condition::Filter(filter) => filter.matches(row),
            Condition::Word(word) => R::FIELDS
                .iter()
                .enumerate()
                .any(|(index, field)| field.show(&row.value(index)).to_string().to_lowercase().contains(word)),
        }
    }
}
