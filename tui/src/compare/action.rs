//! What can be asked of the comparison.

use crate::compare::state::Page;

/// Something the user asked for. The only way the [`State`](crate::compare::state::State) changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Select the policy above.
    Previous,
    /// Select the policy below.
    Next,
    /// Select the first policy.
    First,
    /// Select the last policy.
    Last,
    /// Turn to the page before.
    PreviousPage,
    /// Turn to the page after.
    NextPage,
    /// Turn to this page.
    #[cfg_attr(not(test), allow(dead_code, reason = "pages are turned one by one; tests go straight to one"))]
    Show(Page),
    /// Move the page's text up.
    ScrollDown,
    /// Move the page's text down.
    ScrollUp,
    /// One vertical scale for all curves, or each its own.
    ToggleScale,
    /// Give the page the room of the curves and the verdict, or take it back.
    Enlarge,
}
