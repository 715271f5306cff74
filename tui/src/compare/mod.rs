//! The comparison of policies: what the Compare screen shows, and the same as plain text.
//!
//! | module | what lives there |
//! |---|---|
//! | `state`, `action` | what is shown, and what can be asked of it; no drawing |
//! | `screen` | who gets how many lines |
//! | `widgets` | one file a part of the screen |
//! | `pages` | one file a page of details |
//! | `report` | the plain text |

pub(crate) mod action;
#[cfg(test)]
mod fixture;
mod pages;
pub(crate) mod report;
pub(crate) mod screen;
pub(crate) mod state;
#[cfg(test)]
mod tests;
pub(crate) mod widgets;
