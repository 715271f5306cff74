//! The allocator exactly as SPEC 3 and 4 tell it, slot by slot, with the kernel's own `list[]`: no cleverness, no
//! code shared with the crate but the table of rules and the types of the request. The fast model is compared with it.

use replay::rules::{AlignMask, Generation, Search, SizeRule};
use replay::{Geometry, Limits, Request};

const PAGE: u64 = 4096;

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Taken { tlb_addr: u64, first: u64, n: u64 },
    Failed,
    Livelock,
}

#[derive(Clone, Debug)]
pub struct Reference {
    rules: &'static Generation,
    pub pool: Geometry,
    /// Slots of a segment: 128 but in what-ifs.
    segment: u64,
    pub list: Vec<u32>,
    /// All ones where nothing is copied from or to: free slots, and pads.
    pub orig_addr: Vec<u64>,
    alloc_size: Vec<u64>,
    pad_slots: Vec<u32>,
    pub used: Vec<u64>,
    pub index: Vec<u64>,
}

fn nr(bytes: u64) -> u64 {
    bytes.div_ceil(2048)
}

/// The bitwise form of SPEC 2.1.
fn align(x: u64, a: u64) -> u64 {
    (x + a - 1) & !(a - 1)
}

/// The offset kept in front, and the bytes the search is asked for.
fn asize(rules: &Generation, request: &Request, limits: &Limits) -> (u64, u64) {
    let Request { orig_addr: orig, size, align_mask: am, .. } = *request;
    let ma = if rules.min_align { limits.min_align_mask } else { 0 };
    let alloc = if am == 0 { size } else { align(size, am + 1) };
    let off = if rules.pads { orig & ma & (am | 2047) } else { orig & ma & 2047 };
    let asize = match rules.size {
        SizeRule::Alloc => alloc,
        SizeRule::AllocPlusOffset => alloc + off,
        SizeRule::PaddedTogether => align(size + off, am + 1),
    };
    (off, asize)
}

/// Slots a request takes, offset and padding included.
pub fn slots(rules: &Generation, request: &Request, limits: &Limits) -> u64 {
    nr(asize(rules, request, limits).1)
}

impl Reference {
    pub fn new(rules: &'static Generation, pool: Geometry) -> Self {
        Self::cut(rules, pool, 128)
    }

    /// With segments of so many slots.
    pub fn cut(rules: &'static Generation, pool: Geometry, segment: u64) -> Self {
        let n = pool.nslabs as usize;
        let areas = pool.areas as usize;
        Self {
            rules,
            pool,
            segment,
            list: (0..pool.nslabs).map(|i| (segment - i % segment).min(pool.nslabs - i) as u32).collect(),
            orig_addr: vec![u64::MAX; n],
            alloc_size: vec![0; n],
            pad_slots: vec![0; n],
            used: vec![0; areas],
            index: vec![0; areas],
        }
    }

    pub fn map(&mut self, request: &Request, limits: &Limits) -> Answer {
        let areas = self.pool.areas as usize;
        let first = request.cpu as usize & (areas - 1);
        for area in (0..areas).map(|k| (first + k) % areas) {
            match self.search(area, request, limits) {
                Answer::Failed => {}
                answer => return answer,
            }
        }
        Answer::Failed
    }

    pub fn search(&mut self, area: usize, request: &Request, limits: &Limits) -> Answer {
        self.search_for(area, request, limits, asize(self.rules, request, limits))
    }

    /// `swiotlb_alloc()` of SPEC 2.7: no buffer to be like, and the alignment does not make it longer.
    pub fn coherent(&mut self, size: u64, align_mask: u64, limits: &Limits) -> Answer {
        self.search_for(0, &Request { orig_addr: 0, size, align_mask, cpu: 0 }, limits, (0, size))
    }

    fn search_for(&mut self, area: usize, request: &Request, limits: &Limits, bytes: (u64, u64)) -> Answer {
        let Request { orig_addr: orig, align_mask: am, .. } = *request;
        let rules = self.rules;
        let ma = if rules.min_align { limits.min_align_mask } else { 0 };
        let (off, asize) = bytes;
        let (pad, lo) = (off >> 11, off & 2047);
        let n = nr(asize);
        let bd = limits.boundary;
        let tbl = self.pool.start & bd;
        let shift = nr(tbl);
        let maxs = if bd == u64::MAX { 1 << 53 } else { nr(bd + 1) };
        let len = self.pool.nslabs / u64::from(self.pool.areas);
        let base = area as u64 * len;
        if n > len.wrapping_sub(self.used[area]) {
            return Answer::Failed;
        }
        let wrap = |i: u64| if i >= len { 0 } else { i };
        let span = |i: u64| ((shift + base + i) & (maxs - 1)) + n > maxs;
        let long = |list: &[u32], i: u64| u64::from(list[(base + i) as usize]) >= n;
        let t = |i: u64| tbl + (base + i) * 2048;
        let compare = !rules.zero_orig_escapes || orig != 0;
        let found = match rules.search {
            Search::A => {
                let stride = if asize >= PAGE { 2 } else { 1 };
                let w = wrap(align(self.index[area], stride));
                let mut i = w;
                'search: loop {
                    while span(i) {
                        i = wrap(i + stride);
                        if i == w {
                            break 'search None;
                        }
                    }
                    if long(&self.list, i) {
                        break Some(i);
                    }
                    i = wrap(i + stride);
                    if i == w {
                        break None;
                    }
                }
            }
            Search::B | Search::BSplit => {
                let am = if rules.align_mask == AlignMask::Used { am } else { 0 };
                let im = if rules.search == Search::BSplit { ma & !(am | 2047) } else { ma & !2047 };
                let mut stride = (im >> 11) + 1;
                if asize >= PAGE {
                    stride = stride.max(stride << 1);
                }
                if rules.align_mask == AlignMask::Used {
                    stride = stride.max((am >> 11) + 1);
                }
                let w = wrap(align(self.index[area], stride));
                let mut i = w;
                let mut steps = 0;
                loop {
                    if compare && t(i) & im != orig & im {
                        i = wrap(i + 1);
                    } else {
                        if !span(i) && long(&self.list, i) {
                            break Some(i);
                        }
                        i = wrap(i + stride);
                    }
                    if i == w {
                        break None;
                    }
                    steps += 1;
                    if steps > 4 * (len + stride) {
                        return Answer::Livelock;
                    }
                }
            }
            Search::C | Search::D => {
                let (a, im, stride) = if rules.search == Search::C {
                    let mut im = ma | am;
                    if asize >= PAGE {
                        im |= PAGE - 1;
                    }
                    im &= !2047;
                    (0, im, (im >> 11) + 1)
                } else {
                    let mut a = am;
                    if a == 0 && ma == 0 && asize >= PAGE {
                        a = PAGE - 1;
                    }
                    a |= 2047;
                    let im = ma & !a;
                    (a, im, (a.max(im) >> 11) + 1)
                };
                let mut i = self.index[area];
                let mut checked = 0;
                loop {
                    if checked >= len {
                        break None;
                    }
                    if t(i) & a != 0 || (compare && t(i) & im != orig & im) {
                        i = wrap(i + 1);
                        checked += 1;
                        continue;
                    }
                    if !span(i) && long(&self.list, i) {
                        break Some(i);
                    }
                    i = wrap(i + stride);
                    checked += stride;
                }
            }
        };
        let Some(i) = found else { return Answer::Failed };
        let s = base + i;
        for k in 0..n {
            self.list[(s + k) as usize] = 0;
            self.alloc_size[(s + k) as usize] = asize.wrapping_sub((off & 2047) + k * 2048);
        }
        self.back_fill(s, 0);
        self.index[area] = wrap(i + n);
        self.used[area] += n;
        self.pad_slots[(s + pad) as usize] = pad as u32;
        for k in 0..n - pad {
            self.orig_addr[(s + pad + k) as usize] = orig + k * 2048;
        }
        Answer::Taken { tlb_addr: self.pool.start + (s + pad) * 2048 + lo, first: s, n }
    }

    /// Counts up from `count` over the free slots below `s`, to the start of its segment.
    fn back_fill(&mut self, s: u64, mut count: u32) {
        let mut k = s;
        while k > 0 && (k - 1) % self.segment != self.segment - 1 && self.list[k as usize - 1] != 0 {
            k -= 1;
            count += 1;
            self.list[k as usize] = count;
        }
    }

    pub fn unmap(&mut self, tlb_addr: u64, limits: &Limits) {
        let ma = if self.rules.min_align { limits.min_align_mask } else { 0 };
        let lo = tlb_addr & ma & 2047;
        let mut i = (tlb_addr - lo - self.pool.start) >> 11;
        i -= u64::from(self.pad_slots[i as usize]);
        let n = nr(self.alloc_size[i as usize] + lo);
        let next = i + n;
        let mut count =
            if next < align(i + 1, self.segment) && next < self.pool.nslabs { self.list[next as usize] } else { 0 };
        for k in (i..next).rev() {
            count += 1;
            self.list[k as usize] = count;
            self.orig_addr[k as usize] = u64::MAX;
            self.alloc_size[k as usize] = 0;
            self.pad_slots[k as usize] = 0;
        }
        self.back_fill(i, count);
        let len = self.pool.nslabs / u64::from(self.pool.areas);
        self.used[(i / len) as usize] -= n;
    }
}
