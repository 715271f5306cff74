//! Whether a pool is made at all, and how much of it can be had (SPEC 2.3 to 2.5, 9).

use trace::field::{bytes as size, count};
use trace::pool::SLOT_BYTES;

use super::{BootPool, CommandLine, Encryption, Machine, Step, WarningKind, Work, bytes, xen};
use crate::kernel::Fact;
use crate::param::{Force, round_to_segments};
use crate::rules::Grammar;

/// Below this many slots the kernel does not go: 1 MiB (SPEC 2.1).
pub(super) const MIN_SLABS: u64 = 512;
/// The largest block of pages the kernel can give out late: 2^10 pages (SPEC 5).
const MAX_ORDER: u32 = 10;
const PAGE: u64 = 4096;
const SLABS_PER_PAGE: u64 = PAGE / SLOT_BYTES;
/// What a PC with more memory than this keeps below 4 GiB for devices; so much of its RAM lies below, the rest above.
const BELOW_HOLE: u64 = 3 << 30;

impl Work<'_> {
    /// Whether a pool is made (SPEC 2.2, 2.4, 10.4).
    pub(super) fn is_made(&mut self, words: &CommandLine<'_>) -> bool {
        let switched_off = self.force == Force::Never && matches!(self.grammar, Grammar::Preset | Grammar::Areas);
        // Areas given earlier have done their rounding: nothing lifts a 0 that comes behind them.
        let zero = self.n == 0 && (self.grammar == Grammar::Preset || self.areas.is_some());
        if switched_off || zero {
            let why = if switched_off { "noforce" } else { "a size of 0" };
            self.n = 0;
            self.step("SPEC 2.2", format!("{why}: no pool is made"));
            return false;
        }
        let (made, why) = match self.query.machine {
            Machine::X86 => self.is_made_on_x86(words),
            Machine::XenDom0 => (true, "Xen's first domain always has a pool".to_owned()),
            Machine::XenDomU if self.force == Force::Always || words.iommu_soft => {
                (true, "a PV domain that was told to has a pool".to_owned())
            }
            Machine::XenDomU if self.kernel.at_least(6, 12) => {
                (true, "a PV domain that may have PCI devices has a pool".to_owned())
            }
            Machine::XenDomU if self.query.late => (true, "the PCI frontend asks for a pool".to_owned()),
            Machine::XenDomU => {
                (false, "a PV domain has no pool unless told to (iommu=soft, swiotlb=force)".to_owned())
            }
            Machine::Arm64 | Machine::Arm64Kmalloc => {
                self.assume("SPEC does not say when 64-bit ARM makes a pool; it is taken to");
                (true, "taken to be made on this architecture".to_owned())
            }
        };
        if !made {
            self.n = 0;
        }
        self.step(if self.is_xen() { "SPEC 10.4" } else { "SPEC 2.4" }, why);
        made
    }

    fn is_made_on_x86(&mut self, words: &CommandLine<'_>) -> (bool, String) {
        let ram = self.query.ram;
        let above = ram > BELOW_HOLE;
        let ram = size(ram);
        if self.query.encryption == Encryption::Guest {
            return (true, "an encrypted guest needs a pool: it is made".to_owned());
        }
        if self.query.encryption == Encryption::Host {
            return (true, "memory encryption of the host: the pool is made".to_owned());
        }
        if self.force == Force::Always {
            return (true, "force: the pool is made, whatever the memory".to_owned());
        }
        if words.iommu_soft {
            return (true, "iommu=soft: the pool is made, whatever the memory".to_owned());
        }
        if self.query.late {
            return (true, "a driver asks for the pool".to_owned());
        }
        if words.iommu_off {
            return (false, "iommu=off: no pool is made".to_owned());
        }
        if (BELOW_HOLE + 1..=1 << 32).contains(&self.query.ram) {
            self.assume("of more than 3 GiB of RAM some is taken to lie above 4 GiB, as on most PCs");
        }
        if above {
            (true, format!("{ram} of RAM reach above 4 GiB, where some devices do not: the pool is made"))
        } else {
            if !words.swiotlb.is_empty() {
                let text =
                    "swiotlb= has no effect on this machine; with iommu=soft, or force at its end, a pool is made";
                self.warn(WarningKind::NoPool, text);
            }
            (false, format!("{ram} of RAM lie below 4 GiB, where all devices reach: no pool is made"))
        }
    }

    pub(super) fn is_xen(&self) -> bool {
        matches!(self.query.machine, Machine::XenDom0 | Machine::XenDomU)
    }

    /// Gets the memory, or as much as there is, and divides it.
    pub(super) fn obtain(&mut self) {
        let had = match () {
            () if self.is_xen() => self.obtain_from_xen(),
            () if self.query.late => self.obtain_late(),
            () => self.obtain_early(),
        };
        if had {
            self.limit_areas();
            self.out.pools.insert(0, BootPool { nslabs: self.n, areas: self.areas.unwrap_or(1), high: false });
        } else {
            self.n = 0;
            self.step("SPEC 2.5", "there is no pool");
        }
        if self.grammar == Grammar::TwoPools && !self.is_xen() {
            self.obtain_high();
        }
    }

    /// Memory for the pool that can be had early, in bytes, and where it must lie.
    fn available(&mut self) -> (u64, &'static str) {
        let arm = matches!(self.query.machine, Machine::Arm64 | Machine::Arm64Kmalloc);
        let place = if arm { "below the low limit" } else { "below 4 GiB" };
        let ram = self.query.ram;
        let most = self.query.low_mem.unwrap_or(if arm { ram } else { ram.min(BELOW_HOLE) });
        if self.query.low_mem.is_none() {
            let most = size(most);
            self.assume(format!("up to {most} side by side {place} are taken to be had early in boot (--low-mem)"));
        }
        (most, place)
    }

    /// One block of memory blocks, or half, or half of that (SPEC 2.5).
    fn obtain_early(&mut self) -> bool {
        let (most, place) = self.available();
        let asked = self.n;
        let halves = self.kernel.has(Fact::SmallerOnFailure);
        while bytes(self.n) > most {
            if !halves || self.n <= MIN_SLABS {
                let what = format!("{} side by side {place} cannot be had", size(bytes(self.n)));
                let then = if halves { "no smaller pool is tried" } else { "this kernel gives up" };
                self.step("SPEC 2.5", format!("{what}: {then}"));
                match self.grammar {
                    Grammar::TwoPools => self.log("Cannot allocate buffer Low Mem"),
                    _ if !halves => self.log("No low mem"),
                    _ => {}
                }
                return false;
            }
            self.n = round_to_segments(self.n >> 1);
        }
        if self.n == asked {
            let what = format!("{}, side by side {place}, are taken from RAM for good", size(bytes(self.n)));
            self.step("SPEC 2.5", what);
        } else {
            self.shrunk(asked, format!("at most {} can be had side by side {place}", size(most)));
            let n = self.n;
            self.log(format_args!("SWIOTLB bounce buffer size adjusted {asked} -> {n} slabs"));
        }
        true
    }

    /// Says that a pool was halved from `asked` to what it has now.
    fn shrunk(&mut self, asked: u64, why: String) {
        let (from, to) = (size(bytes(asked)), size(bytes(self.n)));
        self.step("SPEC 2.5", format!("{why}: halved from {} to {} slots", count(asked), count(self.n)));
        self.warn(WarningKind::Shrunk, format!("of {from} asked for there are {to}: {why}"));
    }

    /// Pages from the page allocator, which has no block above 4 MiB (SPEC 2.5).
    fn obtain_late(&mut self) -> bool {
        let most = self.query.low_mem.unwrap_or(u64::MAX).min(PAGE << MAX_ORDER);
        let asked = self.n;
        let (wanted, had) = late_block(asked, most);
        self.n = wanted;
        if wanted != asked {
            let what = format!("pages come in powers of two: {} slots become {}", count(asked), count(wanted));
            self.step("SPEC 2.5", what);
        }
        let Some(had) = had else {
            self.step("SPEC 2.5", format!("a block of pages has at most {}: none is large enough", size(most)));
            return false;
        };
        self.n = had;
        if had != wanted {
            self.shrunk(wanted, format!("late in boot a block of pages has at most {}", size(most)));
            self.log(format_args!("only able to allocate {} MB", bytes(had) >> 20));
        }
        true
    }

    fn obtain_from_xen(&mut self) -> bool {
        self.assume("Xen is taken to have free what the guest has, and 4 GiB more, without holes from address 0");
        // Of more the pools' rounding would tell nothing new, and each extent costs time.
        let frames = ((1 << 32) + self.query.ram.min(1 << 36)) >> 12;
        let alignment = xen::Era::of_kernel(self.kernel).alignment;
        if self.query.late {
            if !self.obtain_late() {
                return false;
            }
            let most = self.query.low_mem.unwrap_or(u64::MAX).min(PAGE << MAX_ORDER);
            self.high = self.high.and_then(|n| late_block(n, most).1);
        } else {
            let what = format!("guest memory from anywhere, from a multiple of {} on", size(alignment));
            self.step("SPEC 10.4", what);
        }
        let mut wanted = vec![self.n];
        wanted.extend(self.high);
        let made = xen::set_up(self.kernel, &wanted, self.query.late, &mut xen::FreeMemory::new([(0, frames)]));
        for step in made.steps {
            let areas = self.areas.filter(|_| step.pool == 0);
            if step.pool == 0 {
                self.n = step.nslabs;
            }
            let (nslabs, bytes) = (step.nslabs, bytes(step.nslabs));
            self.out.steps.push(Step { what: step.what, rule: "SPEC 10.4", nslabs, areas, bytes });
        }
        if let Some(high) = made.pools.get(1) {
            self.out.pools.push(BootPool { nslabs: high.nslabs, areas: 1, high: true });
        }
        match made.failure {
            None => return true,
            Some(xen::Failure::Panic) => self.warn(WarningKind::NoPool, "Xen's set-up panics the kernel"),
            Some(xen::Failure::Error) => self.warn(WarningKind::NoPool, "the driver that asked for the pool is told"),
            Some(xen::Failure::Silent) => {}
        }
        false
    }

    /// The RFC's second pool, from memory anywhere (SPEC 9).
    fn obtain_high(&mut self) {
        let Some(n) = self.high else { return };
        if self.query.late {
            self.step("SPEC 9", "nobody sets the second pool up late");
            return;
        }
        if bytes(n) > self.query.ram {
            self.step("SPEC 9", format!("{} for the second pool cannot be had", size(bytes(n))));
            self.log("Cannot allocate buffer High Mem");
            self.warn(
                WarningKind::NoPool,
                "there is no second pool: the first 64-bit device to bounce panics the kernel",
            );
            return;
        }
        self.step("SPEC 9", format!("{} for the second pool, from memory anywhere", size(bytes(n))));
        self.out.pools.push(BootPool { nslabs: n, areas: 1, high: true });
    }

    /// A pool too small for its areas gets fewer, on some kernels (SPEC 2.3).
    fn limit_areas(&mut self) {
        let Some(areas) = self.areas else { return };
        let segments = u32::try_from(self.n / 128).unwrap_or(u32::MAX);
        if segments >= areas {
            return;
        }
        let fact = if self.query.late { Fact::AreaLimit } else { Fact::AreaLimitEarly };
        let n = count(self.n);
        if self.kernel.has(fact) {
            self.areas = Some(segments.max(1));
            let segments = count(segments.into());
            self.step("SPEC 2.3", format!("{n} slots have segments for {segments} areas, not for {areas}"));
        } else {
            let computed = if self.kernel.has(Fact::AreaLimit) { "; the limit is computed, but not used" } else { "" };
            self.step(
                "SPEC 2.3",
                format!("the {areas} areas stay, although {n} slots have no segment for each{computed}"),
            );
        }
    }
}

/// Slots of the block of pages that holds `n`, and of the largest block no larger that can be had (SPEC 2.5).
fn late_block(n: u64, most: u64) -> (u64, Option<u64>) {
    let mut order = bytes(n).div_ceil(PAGE).checked_next_power_of_two().map_or(52, u64::trailing_zeros).min(52);
    let wanted = SLABS_PER_PAGE << order;
    while bytes(SLABS_PER_PAGE << order) > most {
        if SLABS_PER_PAGE << order <= MIN_SLABS {
            return (wanted, None);
        }
        order -= 1;
    }
    (wanted, Some(SLABS_PER_PAGE << order))
}
