//! How many slots and areas are asked for: what is given, what is worked out, and the rounding (SPEC 2.2 to 2.4, 9).

use trace::field::{bytes as size, count};
use trace::pool::SEGMENT_SLOTS;

use super::{Encryption, Machine, WarningKind, Work, bytes};
use crate::kernel::Fact;
use crate::param::{BootParam, DEFAULT_SLABS, Force, round_areas, round_for_areas, round_to_segments};
use crate::rules::Grammar;

impl Work<'_> {
    /// One `swiotlb=`, with what the earlier ones left (SPEC 2.2, 9).
    pub(super) fn read(&mut self, value: &str) {
        let (param, tail) = BootParam::parse_with_tail(value, self.grammar);
        if let Some(n) = param.nslabs {
            self.n = round_to_segments(n);
            self.given = true;
            let mut what = format!("{} is a number of slots of 2 KiB: {}", count(n), size(bytes(n)));
            if self.n != n {
                what += &format!("; whole segments of {SEGMENT_SLOTS} slots make it {}", count(self.n));
            }
            if n == 0 && self.is_default() {
                what += "; 0 means not given";
            }
            self.step("SPEC 2.2", what);
        }
        match (param.second, self.grammar) {
            (Some(given), Grammar::Areas) => self.set_areas_given(given),
            (Some(given), _) => {
                let n = round_to_segments(given);
                self.high = Some(n);
                let what = format!("a second pool, for devices that reach all 64 bits: {} slots", count(n));
                self.step("SPEC 9", if given == 0 { format!("{what}, which means not given") } else { what });
            }
            (None, _) => {}
        }
        match param.force {
            // Without a word, what an earlier one said stays.
            Force::Normal => {}
            Force::Always => {
                self.force = Force::Always;
                self.step("SPEC 2.2", "force: every mapping bounces");
            }
            Force::Never => {
                self.force = Force::Never;
                self.set_noforce();
            }
        }
        self.tail(tail);
    }

    fn set_areas_given(&mut self, given: u64) {
        let areas = round_areas(u32::try_from(given).unwrap_or(u32::MAX));
        if u64::from(areas) != given {
            let text = format!("{} areas become {}: a power of two, at least 1", count(given), count(areas.into()));
            self.warn(WarningKind::AreasRounded, text);
        }
        self.set_areas(areas, format!("{} areas, as given", count(areas.into())));
    }

    /// Sets the areas and rounds the size for them, there and then (SPEC 2.3).
    fn set_areas(&mut self, areas: u32, what: String) {
        self.areas = Some(areas);
        self.step("SPEC 2.3", what);
        self.log(format_args!("area num {areas}."));
        self.round_for_areas();
    }

    fn round_for_areas(&mut self) {
        let Some(areas) = self.areas else { return };
        let (was, least) = (self.n, u64::from(SEGMENT_SLOTS) * u64::from(areas));
        self.n = round_for_areas(was, areas);
        if self.n == was {
            return;
        }
        let what = if was < least {
            let (was, areas, n) = (count(was), count(areas.into()), count(self.n));
            format!("an area has at least {SEGMENT_SLOTS} slots: {was} become {areas} × {SEGMENT_SLOTS} = {n}")
        } else {
            format!("with areas a size is a power of two: {} slots become {}", count(was), count(self.n))
        };
        self.step("SPEC 2.3", what);
        let mb = bytes(self.n) >> 20;
        self.log(format_args!("SWIOTLB bounce buffer size roundup to {mb}MB"));
    }

    fn set_noforce(&mut self) {
        if self.grammar == Grammar::Preset || self.grammar == Grammar::Areas {
            self.step("SPEC 2.2", "noforce: bouncing is switched off");
            return;
        }
        self.n = 1;
        self.high = self.high.map(|_| 1);
        self.step("SPEC 2.2", "noforce: nothing bounces, and the pool shrinks to one slot, whatever size was given");
        let text = "noforce takes the place of the size: the pool has one slot, and devices that do not reach their \
                    buffers fail";
        self.warn(WarningKind::Noforce, text);
    }

    /// Memory encryption decides what bounces (SPEC 2.4).
    pub(super) fn encrypt(&mut self) {
        if self.query.encryption != Encryption::Guest {
            return;
        }
        let by_pool = self.kernel.has(Fact::ForceByPool);
        if self.force == Force::Never {
            let text = if by_pool {
                "an encrypted guest needs the pool that noforce switches off: no device that does DMA works"
            } else {
                "an encrypted guest forces bouncing over the noforce given"
            };
            self.warn(WarningKind::Noforce, text);
            if by_pool {
                return;
            }
        }
        self.force = Force::Always;
        self.step("SPEC 2.4", "an encrypted guest: devices do not see its memory, so every mapping bounces");
    }

    /// Sizes the kernel works out itself, if nobody gave one (SPEC 2.4).
    pub(super) fn adjust(&mut self) {
        let ram = self.query.ram;
        let (wanted, why) = match (self.query.encryption, self.query.machine) {
            (Encryption::Guest, _) if self.kernel.has(Fact::GuestSize) => {
                let six = u64::try_from(u128::from(ram) * 6 / 100).unwrap_or(u64::MAX);
                let why = format!("6 % of {}, between 64 MiB and 1 GiB", size(ram));
                (six.clamp(64 << 20, 1 << 30), format!("an encrypted guest takes {why}"))
            }
            (_, Machine::Arm64Kmalloc) if self.kernel.has(Fact::KmallocSize) => {
                let why = format!("a pool for small buffers only takes a 1024th of {}", size(ram));
                (ram.div_ceil(1024).min(bytes(DEFAULT_SLABS)), why)
            }
            _ => return,
        };
        if !self.is_default() {
            self.step("SPEC 2.4", format!("{why}, but not where a size was given: it stays as it is"));
            if bytes(self.n) < wanted {
                let text = format!("{} is less than the {} the kernel would have chosen", self.size(), size(wanted));
                self.warn(WarningKind::BelowChosen, text);
            }
            return;
        }
        if self.given && self.n > 0 {
            let text = format!("{} slots given cannot be told from the default: the kernel chooses", count(self.n));
            self.warn(WarningKind::SizeRounded, text);
        }
        self.n = round_to_segments(wanted.div_ceil(trace::pool::SLOT_BYTES));
        self.step("SPEC 2.4", format!("{why}: {} slots", count(self.n)));
        self.log(format_args!("SWIOTLB bounce buffer size adjusted to {}MB", wanted >> 20));
        self.round_for_areas();
    }

    /// The default size where none was given, and areas where none were (SPEC 2.2, 2.3).
    pub(super) fn settle_areas(&mut self) {
        if self.n == 0 && self.is_default() {
            self.n = DEFAULT_SLABS;
            self.step("SPEC 2.1", format!("no size: the default, {} slots, {}", count(self.n), self.size()));
        } else if self.n == DEFAULT_SLABS && !self.given {
            self.step("SPEC 2.1", format!("{} slots, {}, is the default size", count(self.n), self.size()));
        }
        if self.high == Some(0) {
            self.high = Some(DEFAULT_SLABS);
            let what = format!("no size for the second pool: the default, {} slots", count(DEFAULT_SLABS));
            self.step("SPEC 9", what);
        }
        if self.grammar == Grammar::Areas && self.areas.is_none() {
            let cpus = self.query.cpus.max(1);
            let areas = round_areas(cpus);
            let more = if areas == cpus { "" } else { ", the next power of two" };
            self.set_areas(areas, format!("{cpus} CPUs that can exist make {areas} areas{more}"));
        }
    }

    fn size(&self) -> String {
        size(bytes(self.n))
    }
}
