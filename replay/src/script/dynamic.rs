//! The dynamic sets: scripts in which pools come and go (SPEC 5; vectors' README, "Dynamic sets").
//!
//! A policy without dynamic pools plays such a script as any other: the region is not used, each `work` is answered
//! `work,0`, and the answers have no pool column. A policy with them plays a script without a `region` line as one of a
//! machine without a free page: every request for pages is answered `page+,NONE`.

use std::fmt::{self, Write};

use crate::allocator::{Allocator, Taken};
use crate::growth::Pages;
use crate::machine::Machine;

/// The pages that came and went during the event to be answered next.
pub(super) fn write_pages(machine: &mut Machine, out: &mut impl Write) -> fmt::Result {
    for pages in machine.allocator_mut().drain_pages() {
        match pages {
            Pages::Given { addr, order } => writeln!(out, "page+,{addr:x},{order}")?,
            Pages::None { order } => writeln!(out, "page+,NONE,{order}")?,
            Pages::Back { addr, order } => writeln!(out, "page-,{addr:x},{order}")?,
        }
    }
    Ok(())
}

/// The column that names the pool, where there may be several.
pub(super) fn write_pool(taken: &Taken, allocator: &Allocator, out: &mut impl Write) -> fmt::Result {
    match allocator.pool_at(taken.tlb_addr) {
        Some(pool) if allocator.grows() => write!(out, ",{:x}", pool.geometry().start),
        _ => Ok(()),
    }
}
