//! The allocator's generations, side by side: one row a policy, one column a rule.
//!
//! Everything in which one generation differs from another is a field of [`Generation`]; the code that acts on a rule
//! matches on it by name. To see how `v6_3` differs from `v6_10`, read two rows of [`GENERATIONS`].

/// How the free slots are walked (SPEC 3.1–3.6, where the letters come from).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Every `stride`-th slot from the rounded-up cursor, once round; a slot's address plays no part (SPEC 3.1).
    A,
    /// From the rounded-up cursor; slots whose address does not match are passed one by one, matching but busy ones by
    /// `stride`; ends only when it stands on its first slot again, which may never happen (SPEC 3.2, 3.4).
    B,
    /// As [`Search::B`], with the bits of the allocation mask taken out of the match (SPEC 3.3).
    BSplit,
    /// From the bare cursor; both masks and the page bits are compared with the buffer; counted, so it ends (SPEC 3.5).
    C,
    /// As [`Search::C`], but the allocation mask's bits must be zero instead of like the buffer's (SPEC 3.6).
    D,
}

/// What of the caller's alignment mask reaches the stride of searches A and B (SPEC 3.2); C and D have their own use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlignMask {
    /// The function has no such argument, or does not look at it.
    Ignored,
    /// It is part of the search.
    Used,
}

/// How many bytes the search is asked for (SPEC 1, last column, and 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeRule {
    /// What the caller allocates; the offset is not preserved.
    Alloc,
    /// What the caller allocates (already rounded to its granule) plus the offset kept in front.
    AllocPlusOffset,
    /// Mapping plus offset, rounded up together to the granule.
    PaddedTogether,
}

/// The `swiotlb=` grammar (SPEC 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// `[N][,]word`; 0 means unset; `noforce` shrinks the pool to one slot.
    Globals,
    /// `[N][,]word`; 0 stays 0; `noforce` only disables.
    Preset,
    /// `[N][,][A][,]word`: slots and areas.
    Areas,
    /// `[N_lo][,][N_hi][,]word`: two pools (SPEC 9).
    TwoPools,
}

/// How the pools are gone through when there are several (SPEC 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolWalk {
    /// All areas of the newest pool, then all of the next.
    PoolFirst,
    /// The CPU's area of every pool, newest first, then the next area of every pool.
    AreaFirst,
}

/// What `CONFIG_SWIOTLB_DYNAMIC` does in a generation that has it (SPEC 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// SPEC 3.8.
    pub walk: PoolWalk,
    /// A request above a segment is refused before anything is tried; else it wakes the worker and gets pages in
    /// vain (SPEC 3.8).
    pub refuses_oversize: bool,
    /// Whether there is a counter of transient slots, `io_tlb_transient_nslabs` (SPEC 6.7).
    pub counts_transient: bool,
}

/// How coherent memory is taken from a restricted pool (SPEC 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coherent {
    /// Without an alignment: a buffer may begin in the middle of a page.
    Unaligned,
    /// Aligned to its own size, rounded up to 2^k pages. (From 6.9 on what is not page aligned all the same is refused;
    /// this search finds no such thing.)
    ByOrder,
}

/// One generation of the allocator.
#[derive(Debug, PartialEq, Eq)]
pub struct Generation {
    /// The policy's name.
    pub id: &'static str,
    /// Kernels it stands for.
    pub kernels: &'static str,
    /// What sets it apart, in a phrase.
    pub doc: &'static str,
    /// SPEC 3.1–3.6.
    pub search: Search,
    /// Whether the device's min_align_mask is obeyed at all (SPEC 3, `ma`).
    pub min_align: bool,
    /// Whether a buffer at physical address 0 escapes the address match (SPEC 3.2, 3.5, 3.6).
    pub zero_orig_escapes: bool,
    /// SPEC 3.2.
    pub align_mask: AlignMask,
    /// SPEC 1 and 3.
    pub size: SizeRule,
    /// Whether an allocation may begin with padding slots (SPEC 3.6).
    pub pads: bool,
    /// Whether the pool is divided among CPUs (SPEC 2.3, 3.8).
    pub areas: bool,
    /// SPEC 2.2.
    pub grammar: Grammar,
    /// Whether the kernel keeps a high water mark itself (6.4+, SPEC 6.7). Its mark has seen slots that were taken and
    /// given back within one call; a mark read off `io_tlb_used` between calls has not.
    pub keeps_high_water: bool,
    /// Pools that come and go (6.6+, SPEC 5), for kernels built with them.
    pub dynamic: Option<Dynamic>,
    /// Pools of a device's own (5.15+, SPEC 2.7).
    pub restricted: Option<Coherent>,
}

const POOLS: Option<Dynamic> =
    Some(Dynamic { walk: PoolWalk::PoolFirst, refuses_oversize: false, counts_transient: false });
const AREAS: Option<Dynamic> =
    Some(Dynamic { walk: PoolWalk::AreaFirst, refuses_oversize: true, counts_transient: false });
const COUNTS: Option<Dynamic> =
    Some(Dynamic { walk: PoolWalk::AreaFirst, refuses_oversize: true, counts_transient: true });
const OPEN: Option<Coherent> = Some(Coherent::Unaligned);
const ORDER: Option<Coherent> = Some(Coherent::ByOrder);

/// Every policy, oldest first.
#[rustfmt::skip]
pub static GENERATIONS: &[Generation] = {
    use AlignMask::{Ignored, Used};
    use Grammar::{Areas, Globals, Preset, TwoPools};
    use Search::{A, B, BSplit, C, D};
    use SizeRule::{Alloc, AllocPlusOffset as Plus, PaddedTogether as Together};
    &[
        row("legacy", "up to 5.11",                 "one pool, one lock, alignment by slot number",     A,      false, false, Ignored, Alloc,    false, false, Globals,  false, None,   None),
        row("rfc64",  "the February 2021 RFC",      "legacy with a second, 64-bit pool",                A,      false, false, Ignored, Alloc,    false, false, TwoPools, false, None,   None),
        row("v5_12",  "5.12 to 5.14, late 5.10.y",  "min_align_mask; a search that can spin for ever",  B,      true,  false, Ignored, Plus,     false, false, Globals,  false, None,   None),
        row("v5_15",  "early 5.15.y",               "buffers at address 0 escape the match",            B,      true,  true,  Ignored, Plus,     false, false, Preset,   false, None,   OPEN),
        row("v5_16",  "5.16 to 5.19, late 5.15.y",  "the caller's alignment widens the stride",         B,      true,  true,  Used,    Plus,     false, false, Preset,   false, None,   OPEN),
        row("v6_0",   "6.0, 6.2, early 6.1.y",      "areas by CPU",                                     B,      true,  true,  Used,    Plus,     false, true,  Areas,    false, None,   OPEN),
        row("v6_1y",  "late 6.1.y",                 "split masks, on the search that can spin",         BSplit, true,  true,  Used,    Plus,     false, true,  Areas,    false, None,   OPEN),
        row("v6_3",   "6.3 to 6.5",                 "a counted search; page bits follow the buffer",    C,      true,  true,  Used,    Plus,     false, true,  Areas,    true,  None,   OPEN),
        row("v6_6",   "6.6 (early), 6.7",           "v6_3 in pools, which may come and go",             C,      true,  true,  Used,    Plus,     false, true,  Areas,    true,  POOLS,  OPEN),
        row("v6_6y",  "late 6.6.y",                 "split masks and padding slots",                    D,      true,  true,  Used,    Plus,     true,  true,  Areas,    true,  POOLS,  ORDER),
        row("v6_8",   "6.8",                        "v6_6 walking areas before pools",                  C,      true,  true,  Used,    Plus,     false, true,  Areas,    true,  AREAS,  OPEN),
        row("v6_9",   "6.9",                        "split masks and padding slots",                    D,      true,  true,  Used,    Plus,     true,  true,  Areas,    true,  COUNTS, ORDER),
        row("v6_10",  "6.10 to 7.2",                "mapping and offset padded together",               D,      true,  true,  Used,    Together, true,  true,  Areas,    true,  COUNTS, ORDER),
    ]
};

#[allow(clippy::too_many_arguments, reason = "a table row: one argument a column, named in the table's head")]
const fn row(
    id: &'static str,
    kernels: &'static str,
    doc: &'static str,
    search: Search,
    min_align: bool,
    zero_orig_escapes: bool,
    align_mask: AlignMask,
    size: SizeRule,
    pads: bool,
    areas: bool,
    grammar: Grammar,
    keeps_high_water: bool,
    dynamic: Option<Dynamic>,
    restricted: Option<Coherent>,
) -> Generation {
    Generation {
        id,
        kernels,
        doc,
        search,
        min_align,
        zero_orig_escapes,
        align_mask,
        size,
        pads,
        areas,
        grammar,
        keeps_high_water,
        dynamic,
        restricted,
    }
}

impl Generation {
    /// The generation of that name.
    #[must_use]
    pub fn by_id(id: &str) -> Option<&'static Self> {
        GENERATIONS.iter().find(|g| g.id == id)
    }

    /// Whether it can have a second, 64-bit pool.
    #[must_use]
    pub fn has_high_pool(&self) -> bool {
        self.grammar == Grammar::TwoPools
    }

    /// The generation a kernel release stands for, and what must be said about that choice. Stable branches change
    /// generation inside the branch and the exact patch is not known (SPEC 1, "stable trap"), hence the caveat.
    #[must_use]
    pub fn of_release(release: &str) -> Option<(&'static Self, &'static str)> {
        let digits = release.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = digits.split('.').map(str::parse::<u32>);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        let patch = parts.next().and_then(Result::ok);
        let branch = "this stable branch changed generation at an unknown patch; name the policy id to be sure";
        let late = |from| patch.is_none_or(|p| p >= from);
        let (id, caveat) = match (major, minor) {
            (5, 10) => (if late(89) { "v5_12" } else { "legacy" }, branch),
            (..5, _) | (5, ..=11) => ("legacy", "kernels before 5.10 were not sampled"),
            (5, 12..=14) => ("v5_12", "5.13 was not sampled"),
            (5, 15) => (if late(100) { "v5_16" } else { "v5_15" }, branch),
            (5, 16..) => ("v5_16", ""),
            (6, 1) => (if late(100) { "v6_1y" } else { "v6_0" }, branch),
            (6, 0 | 2) => ("v6_0", ""),
            (6, 3..=5) => ("v6_3", ""),
            (6, 6) => (if late(50) { "v6_6y" } else { "v6_6" }, branch),
            (6, 7) => ("v6_6", ""),
            (6, 8) => ("v6_8", ""),
            (6, 9) => ("v6_9", ""),
            (6, 10..) | (7, ..=2) => ("v6_10", ""),
            _ => ("v6_10", "newer than the newest kernel sampled (7.2)"),
        };
        Some((Self::by_id(id)?, caveat))
    }
}
