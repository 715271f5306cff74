//! One file a part of the screen, top to bottom.

pub(crate) mod curve;
pub(crate) mod detail;
pub(crate) mod header;
pub(crate) mod occupancy;
pub(crate) mod policies;
pub(crate) mod section;
pub(crate) mod verdict;
