//! Where the memory of new pools comes from: a stand-in for the kernel's page allocator (SPEC 5).
//!
//! Which pages a kernel gets cannot be computed from a trace; it only has to be the same every time. [`Buddy`] is what
//! the event scripts describe: naturally aligned blocks, the lowest free address first. [`Zones`] is a machine with
//! plenty of memory, for recorded loads.

use std::collections::BTreeSet;
use std::fmt;

/// The largest block a kernel gives out: 2^10 pages, 4 MiB (SPEC 5).
pub const MAX_ORDER: u32 = 10;

const PAGE_SHIFT: u32 = 12;
/// The order up to which free blocks are kept as one; more than any memory.
const TOP: u32 = 40;

/// Which pages are asked for, by how far they may lie up in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// Below 16 MiB.
    Dma,
    /// Below 4 GiB.
    Dma32,
    /// Anywhere.
    Normal,
}

impl Zone {
    /// Last address a device of the old DMA controller reaches.
    const DMA_LIMIT: u64 = (1 << 24) - 1;

    /// The zone to ask first for pages at or below `limit` (SPEC 5, "zone choice").
    #[must_use]
    pub fn below(limit: u64) -> Self {
        if limit <= Self::DMA_LIMIT {
            Self::Dma
        } else if limit <= u64::from(u32::MAX) {
            Self::Dma32
        } else {
            Self::Normal
        }
    }

    /// The zone to ask when the pages of this one lay too high.
    #[must_use]
    pub fn lower(self) -> Option<Self> {
        match self {
            Self::Normal => Some(Self::Dma32),
            Self::Dma32 => Some(Self::Dma),
            Self::Dma => None,
        }
    }
}

/// Gives out and takes back blocks of 2^order pages.
pub trait PageSource: fmt::Debug + Send + Sync {
    /// A block's address, aligned to its size; nothing when there is none. It may lie above what the zone promises, as
    /// where a machine has no such zone: who asks looks.
    fn take(&mut self, order: u32, zone: Zone) -> Option<u64>;

    /// Takes a block back that [`PageSource::take`] gave.
    fn give(&mut self, addr: u64, order: u32);

    /// A copy, for machines that are copied.
    fn boxed(&self) -> Box<dyn PageSource>;
}

impl Clone for Box<dyn PageSource> {
    fn clone(&self) -> Self {
        self.boxed()
    }
}

/// Regions of memory, given out from the lowest address up. A block costs a few steps of a tree.
#[derive(Clone, Debug)]
pub struct Buddy {
    /// Free blocks by order, by page number. Two halves of a larger block are never both here.
    free: Vec<BTreeSet<u64>>,
}

impl Default for Buddy {
    fn default() -> Self {
        Self { free: vec![BTreeSet::new(); TOP as usize + 1] }
    }
}

impl Buddy {
    /// Adds the whole pages of a region; regions must not overlap.
    pub fn add(&mut self, base: u64, bytes: u64) {
        let mut page = base.div_ceil(1 << PAGE_SHIFT);
        let end = base.saturating_add(bytes) >> PAGE_SHIFT;
        while page < end {
            let aligned = if page == 0 { TOP } else { page.trailing_zeros().min(TOP) };
            let order = aligned.min((end - page).ilog2());
            self.give(page << PAGE_SHIFT, order);
            page += 1 << order;
        }
    }
}

impl PageSource for Buddy {
    fn take(&mut self, order: u32, _: Zone) -> Option<u64> {
        // Every free block of that size is part of one kept here, and the first part of it lies lowest.
        let kept = (order..=TOP).filter_map(|k| self.free.get(k as usize)?.first().map(|&page| (page, k)));
        let (page, mut k) = kept.min()?;
        self.free[k as usize].remove(&page);
        while k > order {
            k -= 1;
            self.free[k as usize].insert(page + (1 << k));
        }
        Some(page << PAGE_SHIFT)
    }

    fn give(&mut self, addr: u64, order: u32) {
        let (mut page, mut k) = (addr >> PAGE_SHIFT, order.min(TOP));
        while k < TOP && self.free[k as usize].remove(&(page ^ (1 << k))) {
            page &= !(1 << k);
            k += 1;
        }
        self.free[k as usize].insert(page);
    }

    fn boxed(&self) -> Box<dyn PageSource> {
        Box::new(self.clone())
    }
}

/// An imaginary machine with memory to spare in every zone: nothing below 1 MiB, then up to 1 TiB.
#[derive(Clone, Debug)]
pub struct Zones {
    dma: Buddy,
    dma32: Buddy,
    normal: Buddy,
}

impl Zones {
    /// All of it but the pages of `taken`, sorted by address: the pools there are from the start.
    #[must_use]
    pub fn around(taken: &[(u64, u64)]) -> Self {
        let zone = |from: u64, to: u64| {
            let mut buddy = Buddy::default();
            let mut at = from;
            for &(start, end) in taken.iter().filter(|&&(start, end)| start < to && end > from) {
                buddy.add(at, start.saturating_sub(at));
                at = at.max(end);
            }
            buddy.add(at, to.saturating_sub(at));
            buddy
        };
        Self { dma: zone(1 << 20, 1 << 24), dma32: zone(1 << 24, 1 << 32), normal: zone(1 << 32, 1 << 40) }
    }
}

impl PageSource for Zones {
    fn take(&mut self, order: u32, zone: Zone) -> Option<u64> {
        // A zone that has nothing left falls back on those below, as the kernel's do.
        let zones = [&mut self.normal, &mut self.dma32, &mut self.dma];
        zones.into_iter().skip(Zone::Normal as usize - zone as usize).find_map(|buddy| buddy.take(order, zone))
    }

    fn give(&mut self, addr: u64, order: u32) {
        match Zone::below(addr) {
            Zone::Dma => self.dma.give(addr, order),
            Zone::Dma32 => self.dma32.give(addr, order),
            Zone::Normal => self.normal.give(addr, order),
        }
    }

    fn boxed(&self) -> Box<dyn PageSource> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_lowest_aligned_block_that_is_free(
            base in 0u64..40,
            pages in 1u64..80,
            steps in prop::collection::vec((any::<bool>(), 0u32..5, any::<usize>()), 1..60),
        ) {
            let mut buddy = Buddy::default();
            buddy.add(base << 12, pages << 12);
            let mut free: Vec<bool> = (0..256).map(|p| (base..base + pages).contains(&p)).collect();
            let mut out = Vec::new();
            for (take, order, which) in steps {
                if take {
                    let size = 1 << order;
                    let lowest = (0..256).step_by(size).find(|&p| free[p..p + size].iter().all(|&f| f));
                    prop_assert_eq!(buddy.take(order, Zone::Normal), lowest.map(|p| (p as u64) << 12));
                    if let Some(p) = lowest {
                        free[p..p + size].fill(false);
                        out.push((p, order));
                    }
                } else if !out.is_empty() {
                    let (p, order) = out.swap_remove(which % out.len());
                    free[p..p + (1 << order)].fill(true);
                    buddy.give((p as u64) << 12, order);
                }
            }
        }
    }

    #[test]
    fn zones_keep_out_of_pools_and_within_reach() {
        let mut zones = Zones::around(&[(1 << 24, (1 << 24) + (64 << 20)), (0xffff_0000, 0x1_0001_0000)]);
        assert_eq!(zones.take(10, Zone::below(0xffff_ffff)), Some((1 << 24) + (64 << 20)));
        assert_eq!(zones.take(4, Zone::below(u64::MAX)), Some(0x1_0001_0000));
        let low = zones.take(0, Zone::below((1 << 24) - 1));
        assert_eq!(low, Some(1 << 20));
        zones.give(1 << 20, 0);
        assert_eq!(zones.take(0, Zone::Dma), low);
        // 15 MiB hold three whole blocks of 4 MiB and nothing below helps out.
        assert_eq!((0..5).filter(|_| zones.take(10, Zone::Dma).is_some()).count(), 3);
    }
}
