//! What the threads of a recording share: the order to stop, the counters, and the loss accounts.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, OnceLock, PoisonError};

use aya::maps::{MapData, PerCpuArray};
use probe::wire::CpuLoss;
use trace::event::NO_DEVICE;
use trace::meta::{CpuCount, Losses};
use trace::{Event, Meta, Op, field};

use super::around::Around;
use crate::attach;
use crate::decode::{Faults, Told};

/// A [`CpuLoss`] as aya can read it.
pub(crate) const LOSS_WORDS: usize = size_of::<CpuLoss>() / 8;

/// Clocks this far apart are worth a note. Below it two CPUs took their time stamps in one order and their places in the
/// ring buffer in the other.
const SKEW_NS: u64 = 10_000;

pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    /// What comes later than this, on the kernel's clock, is no part of the recording.
    pub(crate) end_ns: AtomicU64,
    /// Somebody asks for a dump.
    pub(crate) dump: AtomicBool,
    pub(crate) events: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) losses: PerCpuArray<MapData, [u64; LOSS_WORDS]>,
    pub(crate) programs: Vec<OwnedFd>,
    /// The end of the kprobe pair.
    pub(crate) pair: Option<OwnedFd>,
    /// What was skipped before all was attached, and had been when the first was about to be detached: a copy that runs
    /// while its program does not yet, or no longer, tells of what nobody skipped.
    pub(crate) began: Began,
    pub(crate) ended: OnceLock<Skips>,
    /// Events in the sums by CPU, which the kernel does not count once more.
    pub(crate) summed: Mutex<Vec<u64>>,
}

/// Hits of probes that the kernel skipped, those of them that copies told of, and calls of which a pair of kprobes saw one end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Skips {
    skipped: u64,
    recovered: u64,
    unpaired: u64,
    /// Hits skipped at the end of such a pair, as far as the kernel counts them (6.7 and newer).
    pair: u64,
}

impl Skips {
    /// As counted now.
    fn now(losses: &[CpuLoss], programs: &[OwnedFd], pair: Option<&OwnedFd>) -> Self {
        let sum = |of: fn(&CpuLoss) -> u64| losses.iter().map(of).sum();
        let (recovered, unpaired) = (sum(|loss| loss.recovered), sum(|loss| loss.unpaired));
        let pair = pair.map_or(0, |pair| attach::recursion_misses(std::slice::from_ref(pair)));
        Self { skipped: attach::recursion_misses(programs), recovered, unpaired, pair }
    }

    /// Those between an earlier moment and this one: missed and not told of, and told of without having been skipped.
    fn since(self, began: Self) -> (u64, u64) {
        let skipped = self.skipped.saturating_sub(began.skipped);
        let recovered = self.recovered.saturating_sub(began.recovered);
        // Each misses some that the other counts, and most are counted by both.
        let pair = self.unpaired.saturating_sub(began.unpaired).max(self.pair.saturating_sub(began.pair));
        (skipped.saturating_sub(recovered) + pair, recovered.saturating_sub(skipped))
    }
}

/// The kernel's counters when the recording began, which is after programs began to count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Began {
    skips: Skips,
    losses: Vec<CpuLoss>,
}

impl Began {
    /// As counted now.
    pub(crate) fn now(
        losses: &PerCpuArray<MapData, [u64; LOSS_WORDS]>,
        programs: &[OwnedFd],
        pair: Option<&OwnedFd>,
    ) -> Self {
        let losses = by_cpu_now(losses);
        Self { skips: Skips::now(&losses, programs, pair), losses }
    }

    /// Records lost before, by CPU.
    pub(crate) fn lost(&self) -> impl Iterator<Item = u64> {
        self.losses.iter().map(|loss| loss.lost)
    }
}

/// What was lost since, of which the kernel has told `reported`.
fn since(now: &CpuLoss, began: &CpuLoss) -> CpuLoss {
    let lost = now.lost.saturating_sub(began.lost);
    CpuLoss {
        lost,
        reported: now.reported.saturating_sub(began.lost),
        seen: now.seen.saturating_sub(began.lost + began.filtered),
        filtered: now.filtered.saturating_sub(began.filtered),
        stacks_missed: now.stacks_missed.saturating_sub(began.stacks_missed),
        ..*now
    }
}

/// The kernel's counters, CPU by CPU; none when they cannot be read.
fn by_cpu_now(losses: &PerCpuArray<MapData, [u64; LOSS_WORDS]>) -> Vec<CpuLoss> {
    let cast = |words: &[u64; LOSS_WORDS]| bytemuck::cast(*words);
    losses.get(&0, 0).map(|cpus| cpus.iter().map(cast).collect()).unwrap_or_default()
}

impl Shared {
    /// Takes note of what was skipped while everything was attached.
    pub(crate) fn end(&self) {
        // Only the first end counts.
        let _ = self.ended.set(self.skips());
    }

    fn skips(&self) -> Skips {
        Skips::now(&by_cpu_now(&self.losses), &self.programs, self.pair.as_ref())
    }

    /// The kernel's counters, CPU by CPU, without what was lost before the beginning.
    pub(crate) fn lost(&self) -> Vec<CpuLoss> {
        let mut all = by_cpu_now(&self.losses);
        all.iter_mut().zip(&self.began.losses).for_each(|(now, began)| *now = since(now, began));
        // A thread that died while it held them leaves them as they were.
        let summed = self.summed.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter_mut().zip(summed.iter()).for_each(|(cpu, summed)| cpu.seen += summed);
        all
    }

    /// The losses up to now, those of p2m left out.
    pub(crate) fn losses(&self, faults: &Faults, mut notes: Vec<String>) -> Losses {
        let Faults {
            undecoded,
            sg_truncated,
            changed_devices,
            late,
            latest_ns,
            tasks_forgotten,
            other_pools,
            unlooked,
            without_sums,
        } = faults;
        if *latest_ns >= SKEW_NS {
            notes.push(format!(
                "{} records came behind one with a later time, by {} at most, and were given that time: the CPUs' clocks disagree, or an interrupt came between a time stamp and its place in the ring buffer",
                field::count(*late),
                field::duration(*latest_ns)
            ));
        }
        if *tasks_forgotten > 0 {
            notes.push(format!(
                "the names of the first {} threads were given up for later ones",
                field::count(*tasks_forgotten)
            ));
        }
        if *other_pools > 0 {
            notes.push(format!(
                "{} slot allocations lie in none of the pools there were at the start: in one the kernel added (CONFIG_SWIOTLB_DYNAMIC), in one of their own (transient) or in a device's (restricted). They stand in the trace by address alone, and verify does not judge them",
                field::count(*other_pools)
            ));
        }
        if *unlooked > 0 {
            notes.push(format!(
                "{} looks at the pool came to nothing: debugfs could no longer be read",
                field::count(*unlooked)
            ));
        }
        if !without_sums.is_empty() {
            notes.push(no_place(without_sums.values()));
        }
        for device in changed_devices {
            notes.push(format!("{device} changed its limits while in use: it has a second row"));
        }
        let counters = self.lost();
        let ended = self.ended.get().copied().unwrap_or_else(|| self.skips());
        let (missed, twice) = ended.since(self.began.skips);
        if twice > 0 {
            notes.push(told_twice(twice));
        }
        Losses {
            ring_full: counters.iter().map(|l| l.lost).sum(),
            probe_missed: missed,
            undecoded: *undecoded,
            sg_truncated: *sg_truncated,
            p2m_changed: 0,
            stacks_missed: counters.iter().map(|l| l.stacks_missed).sum(),
            by_cpu: Vec::new(),
            notes,
        }
    }

    /// The metadata with the losses up to now.
    pub(crate) fn meta(&self, start: &Meta, around: &Around) -> Meta {
        let notes = [start.losses.notes.as_slice(), around.notes.as_slice()].concat();
        Meta { losses: self.losses(&around.faults, notes), ..start.clone() }
    }
}

/// More hits were told of by copies of programs than the kernel skipped: it ran a copy before its program.
fn told_twice(events: u64) -> String {
    format!(
        "{} events may stand here twice: copies of the probe's programs told of more than the kernel skipped",
        field::count(events)
    )
}

/// Devices that have no sums.
fn no_place<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    const SHOWN: usize = 5;
    let (count, names) = (names.len(), names.take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", "));
    let more = if count > SHOWN { ", …" } else { "" };
    format!(
        "{} devices have no sums, because all places for them were taken when they came ({names}{more}): their events are among the records lost, and nothing else is known of them. Record those with --mode full and --device",
        field::count(count as u64)
    )
}

/// The account of each CPU that saw anything.
pub(crate) fn by_cpu(kernel: &[CpuLoss], told: impl Iterator<Item = Told>) -> Vec<CpuCount> {
    let told = told.chain(std::iter::repeat(Told::default()));
    let counts = (0..).zip(kernel).zip(told).map(|((cpu, kernel), told)| CpuCount {
        cpu,
        seen: kernel.seen.saturating_sub(told.outside),
        stored: told.stored,
        filtered: kernel.filtered + told.filtered,
        lost: kernel.lost,
    });
    counts.filter(|c| c.seen > 0 || c.stored > 0).collect()
}

/// Gaps that no later record told of.
pub(crate) fn unreported(lost: &[CpuLoss], base_ns: u64) -> Vec<Event> {
    let gaps = (0..).zip(lost).filter(|(_, l)| l.lost > l.reported);
    gaps.map(|(cpu, l)| Event {
        count: Some(l.lost - l.reported),
        since_ns: Some(l.since_ns.saturating_sub(base_ns)),
        ..Event::new(Op::Lost, l.last_ns.saturating_sub(base_ns), cpu, 0, NO_DEVICE)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_seen_is_accounted_for() {
        let kernel = [
            CpuLoss { seen: 17, filtered: 2, lost: 3, ..CpuLoss::default() },
            CpuLoss::default(),
            CpuLoss { seen: 1, ..CpuLoss::default() },
        ];
        let told =
            [Told { stored: 4, filtered: 1, outside: 7 }, Told::default(), Told { stored: 1, ..Told::default() }];
        let counts = by_cpu(&kernel, told.into_iter());
        assert_eq!(counts.iter().map(|c| c.cpu).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(counts[0], CpuCount { cpu: 0, seen: 10, stored: 4, filtered: 3, lost: 3 });
        assert!(counts.iter().all(|c| c.seen == c.stored + c.filtered + c.lost));
    }

    /// Copies alone saw 7,451 events while programs were attached one after the other.
    #[test]
    fn what_copies_told_of_before_all_was_attached_makes_good_for_nothing_later() {
        let skips = |skipped, recovered, unpaired| Skips { skipped, recovered, unpaired, pair: 0 };
        let began = skips(3, 7_451, 1);
        assert_eq!(skips(13, 7_453, 1).since(began), (8, 0));
        assert_eq!(skips(13, 7_461, 1).since(began), (0, 0));
        assert_eq!(skips(3, 7_453, 1).since(began), (0, 2));
        // What a pair of kprobes saw one end of is missed, whatever copies tell.
        assert_eq!(skips(3, 7_453, 5).since(began), (4, 2));
        assert_eq!(Skips { pair: 9, ..skips(3, 7_451, 5) }.since(began), (9, 0));
    }

    #[test]
    fn what_was_lost_before_the_beginning_is_not_lost_from_the_recording() {
        let began = CpuLoss { lost: 100, reported: 80, seen: 300, stacks_missed: 2, ..CpuLoss::default() };
        let now = CpuLoss { lost: 107, reported: 104, seen: 400, stacks_missed: 3, last_ns: 9, ..CpuLoss::default() };
        let CpuLoss { lost, reported, seen, stacks_missed, last_ns, .. } = since(&now, &began);
        assert_eq!((lost, reported, seen, stacks_missed, last_ns), (7, 4, 300, 1, 9));
        assert_eq!(unreported(&[since(&now, &began)], 0)[0].count, Some(3));
        // Nothing more: what the kernel had still to tell of then is none of it.
        let told = CpuLoss { lost: 100, reported: 100, ..began };
        assert_eq!((since(&told, &began).lost, unreported(&[since(&told, &began)], 0).len()), (0, 0));
        assert_eq!(unreported(&[since(&began, &began)], 0).len(), 0);
    }

    #[test]
    fn a_gap_at_the_end_is_told_too() {
        let lost = CpuLoss { lost: 5, reported: 2, since_ns: 1_100, last_ns: 1_300, ..CpuLoss::default() };
        let gaps = unreported(&[CpuLoss::default(), lost], 1_000);
        assert_eq!((gaps.len(), gaps[0].cpu, gaps[0].count), (1, 1, Some(3)));
        assert_eq!((gaps[0].since_ns, gaps[0].time_ns), (Some(100), 300));
    }

    #[test]
    fn devices_without_sums_are_named_and_counted() {
        let names: Vec<_> = (0..7).map(|n| format!("0000:00:0{n}.0")).collect();
        let note = no_place(names.iter());
        assert!(note.starts_with("7 devices have no sums") && note.contains("(0000:00:00.0, "), "{note}");
        assert!(note.contains("0000:00:04.0, …)") && !note.contains("0000:00:05.0"), "{note}");
        assert!(no_place(names[..5].iter()).contains("0000:00:04.0)"));
    }
}
