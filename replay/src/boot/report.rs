//! What is said beside the steps: kernel messages, warnings, what to write instead (SPEC 2.8, 6.4).

use trace::field::{bytes as size, count};
use trace::pool::{SEGMENT_SLOTS, SLOT_BYTES};

use super::{BootPool, CommandLine, Encryption, Work, bytes};
use crate::kernel::{Fact, KernelVersion};
use crate::largest;
use crate::param::{BootParam, Force, round_areas, round_for_areas, round_to_segments};
use crate::rules::{Generation, Grammar, Search};

trace::words! {
    /// What a warning is about.
    pub enum WarningKind {
        /// Something behind the numbers is passed over by the kernel.
        IgnoredTail = "ignored-tail",
        /// `swiotlb=` more than once.
        Repeated = "repeated",
        /// What `noforce` does besides.
        Noforce = "noforce",
        /// Another number of areas than was given.
        AreasRounded = "areas-rounded",
        /// More slots than were given.
        SizeRounded = "size-rounded",
        /// Less than the kernel would have chosen itself.
        BelowChosen = "below-chosen",
        /// Less than was asked for, because memory is short.
        Shrunk = "shrunk",
        /// No pool, and what comes of that.
        NoPool = "no-pool",
        /// Areas that no CPU begins with, or smaller than a segment.
        Areas = "areas",
        /// Slots behind the last area.
        Unreachable = "unreachable",
        /// Mappings that are promised, or not spoken of, and refused whatever the pool.
        Promise = "promise",
        /// Much of the memory.
        RamCost = "ram-cost",
    }
}

/// Something a user may not expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// In a sentence.
    pub text: String,
}

/// What to write for something that may have been meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What may have been meant.
    pub meant: String,
    /// What to write then.
    pub write: String,
    /// What it becomes on this machine, short of memory aside.
    pub becomes: String,
}

impl Work<'_> {
    /// Warns of what a value ends in that the kernel does not understand (SPEC 2.2).
    pub(super) fn tail(&mut self, tail: &str) {
        if tail.is_empty() {
            return;
        }
        let mut text = format!("`{tail}` is passed over without a word");
        if unit(tail).is_some() {
            text += ": a size is a number of slots, without K, M or G";
        }
        if let Some(word) = ["noforce", "force"].iter().find(|word| tail.contains(**word)) {
            let leads = tail.strip_prefix(word).is_some_and(|behind| behind.starts_with(','));
            let must = if leads { "come last" } else { "be all that is left" };
            text += &format!("; `{word}` is lost with it, because the word must {must}");
        } else if !matches!(self.grammar, Grammar::Areas | Grammar::TwoPools)
            && tail.starts_with(|c: char| c.is_ascii_digit())
        {
            text += &format!(": {} knows no second number", self.kernel);
        }
        self.warn(WarningKind::IgnoredTail, text);
    }

    /// Everything that is said when the steps are done.
    pub(super) fn report(&mut self, words: &CommandLine<'_>) {
        self.out.force = self.force;
        if words.swiotlb.len() > 1 {
            let text = "swiotlb= stands more than once: each adds to what the one before left";
            self.warn(WarningKind::Repeated, text);
        }
        for pool in self.out.pools.clone() {
            self.report_pool(&pool);
        }
        let first = words.swiotlb.last().map(|value| BootParam::parse_with_tail(value, self.grammar));
        if let Some((param, tail)) = first {
            self.report_rounding(&param);
            self.advise(&param, tail);
        }
        if self.out.pools.is_empty() && self.out.warned(WarningKind::NoPool).next().is_none() {
            self.report_no_pool();
        }
        self.report_promise();
    }

    fn report_pool(&mut self, pool: &BootPool) {
        let mb = pool.bytes() >> 20;
        let name = match (self.grammar, pool.high) {
            (Grammar::TwoPools, true) => "High Mem ",
            (Grammar::TwoPools, false) => "Low Mem ",
            _ => "",
        };
        self.log(format_args!("{name}mapped [mem START-END] ({mb}MB)"));
        let (areas, slots) = (count(pool.areas.into()), count(pool.area_slots()));
        let (had, cost) = (pool.bytes(), self.query.ram);
        if pool.unreachable() > 0 {
            let text = format!("{} slots behind the last of {areas} areas are never used", count(pool.unreachable()));
            self.warn(WarningKind::Unreachable, text);
        }
        if pool.areas > 1 && pool.area_slots() < u64::from(SEGMENT_SLOTS) {
            let text = format!("{areas} areas of {slots} slots are smaller than a segment: they run into one another");
            self.warn(WarningKind::Areas, text);
        }
        if !pool.areas.is_power_of_two() {
            let text = format!("{areas} areas are not a power of two: no CPU begins with some of them");
            self.warn(WarningKind::Areas, text);
        }
        if had >= cost / 8 {
            let share = (u128::from(had) * 100).checked_div(cost.into()).unwrap_or(100);
            let text = format!("the pool takes {}, {share} % of RAM, and never gives it back", size(had));
            self.warn(WarningKind::RamCost, text);
        } else if had >= 512 << 20 && !pool.high && self.query.low_mem.is_none() {
            let text = format!("{} side by side in low memory are not always to be had", size(had));
            self.warn(WarningKind::RamCost, text);
        }
    }

    /// The pool against the number that was given.
    fn report_rounding(&mut self, param: &BootParam) {
        let (Some(given), Some(pool)) = (param.nslabs, self.out.pools.iter().find(|p| !p.high)) else { return };
        if given == 0 || pool.nslabs <= given {
            return;
        }
        let (given_size, got) = (size(bytes(given)), size(pool.bytes()));
        let text =
            format!("{} slots ({given_size}) were given and {} ({got}) are made", count(given), count(pool.nslabs));
        self.warn(WarningKind::SizeRounded, text);
    }

    /// What drivers are told of the largest mapping (SPEC 6.4, 10.6).
    fn report_promise(&mut self) {
        let low = self.out.pools.iter().find(|p| !p.high).map_or(0, BootPool::bytes);
        self.out.max_segment = largest::max_segment(self.kernel, low, self.force, self.is_xen());
        if self.out.pools.is_empty() {
            return;
        }
        let rules = match self.kernel {
            KernelVersion::Rfc64 => None,
            release => Generation::of_release(&release.to_string()).map(|(rules, _)| rules),
        };
        if rules.is_some_and(|rules| rules.min_align) && !self.kernel.has(Fact::KeepsForAlignment) {
            let text = "256 KiB are promised to every device; those that keep an offset (NVMe: up to 4 KiB) are refused \
                        what then needs more";
            self.warn(WarningKind::Promise, text);
        }
        if rules.is_some_and(|rules| rules.search == Search::C) {
            let text = "256 KiB are promised, but refused for a buffer that begins in the upper half of a page";
            self.warn(WarningKind::Promise, text);
        }
        if self.is_xen() && !self.kernel.has(Fact::XenLimits) {
            let text = "Xen's operations promise nothing: requests above 256 KiB come, and are refused";
            self.warn(WarningKind::Promise, text);
        }
    }

    fn report_no_pool(&mut self) {
        // SPEC 6.1, 6.2: who finds that there is no pool, and what then.
        let panics = !self.kernel.has(Fact::SmallerOnFailure)
            && match self.force {
                Force::Always => true,
                Force::Normal => !self.kernel.has(Fact::ForceByPool),
                Force::Never => false,
            };
        let text = match panics {
            true => "without a pool the first mapping that has to bounce panics this kernel",
            false => "without a pool mappings of buffers a device does not reach fail",
        };
        self.warn(WarningKind::NoPool, text);
    }

    /// What to write if the number was meant as bytes.
    fn advise(&mut self, param: &BootParam, tail: &str) {
        let Some(n) = param.nslabs.filter(|&n| n > 0) else { return };
        let (shift, behind) = match unit(tail) {
            Some(shift) => (shift, &tail[1..]),
            // A pool of so few slots hardly makes sense, but one of so many MiB does.
            None if n <= 2048 => (20, ""),
            None => return,
        };
        let Some(meant) = n.checked_mul(1 << shift) else { return };
        let slots = round_to_segments(meant.div_ceil(SLOT_BYTES));
        let mut areas = param.second.filter(|_| self.grammar == Grammar::Areas);
        let mut write = format!("swiotlb={slots}");
        let mut word = param.force;
        if unit(tail).is_some() {
            // What stood behind the unit, read as it was meant.
            let rest = BootParam::parse(&format!("{slots}{behind}"), self.grammar);
            (areas, word) = (rest.second, rest.force);
        }
        if let Some(areas) = areas {
            write += &format!(",{areas}");
        }
        if word != Force::Normal {
            write += &format!(",{word}");
        }
        let becomes = match self.grammar {
            Grammar::Areas => {
                let given = areas.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                round_for_areas(slots, round_areas(given.unwrap_or(self.query.cpus)))
            }
            _ => slots,
        };
        let becomes = format!("{} slots, {}", count(becomes), size(bytes(becomes)));
        let unit = ["KiB", "MiB", "GiB"][shift as usize / 10 - 1];
        self.out.advice.push(Advice { meant: format!("{} {unit}", count(n)), write, becomes });
        if self.query.encryption == Encryption::Guest && self.kernel.has(Fact::GuestSize) {
            let meant = "the size the kernel chooses for an encrypted guest".to_owned();
            let becomes = "6 % of memory, between 64 MiB and 1 GiB".to_owned();
            self.out.advice.push(Advice { meant, write: "no swiotlb=".to_owned(), becomes });
        }
    }
}

/// The binary unit a tail begins with, as a shift.
fn unit(tail: &str) -> Option<u32> {
    match tail.as_bytes().first()?.to_ascii_lowercase() {
        b'k' => Some(10),
        b'm' => Some(20),
        b'g' => Some(30),
        _ => None,
    }
}
