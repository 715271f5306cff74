//! A kernel by its release, finer than a generation: the same slot search was shipped with several ways to set a pool
//! up and to copy.
//!
//! A *fact* is something a kernel does from a mainline release on, and in stable branches from a patch on. Stable
//! patches are those of the first release sampled that has it; between that and the last sampled without, nobody knows
//! (SPEC 15.3, G1).

use std::fmt;

use crate::rules::{Generation, Grammar};

/// A kernel release such as 6.12 or 5.15.148, or the February 2021 RFC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelVersion {
    /// The RFC with a second pool, on 5.11-rc6 (SPEC 9).
    Rfc64,
    /// A release.
    Release {
        /// 6 of 6.1.192.
        major: u32,
        /// 1 of 6.1.192.
        minor: u32,
        /// 192 of 6.1.192. A branch without a patch means its newest.
        patch: Option<u32>,
    },
}

/// A text that is no kernel release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a kernel release such as 6.12 or 5.15.148, nor rfc64")]
pub struct NoKernel {
    /// What was given.
    pub text: String,
}

impl std::str::FromStr for KernelVersion {
    type Err = NoKernel;

    fn from_str(text: &str) -> Result<Self, NoKernel> {
        Self::parse(text).ok_or_else(|| NoKernel { text: text.to_owned() })
    }
}

/// What some kernels do and others do not; [`FACTS`] says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is described where it is dated, in FACTS")]
pub enum Fact {
    GuestSize,
    PresetSize,
    KeepsForAlignment,
    ForceByPool,
    XenGeneric,
    Areas,
    SmallerOnFailure,
    AreaLimit,
    AreaLimitEarly,
    KmallocSize,
    NoSegmentQuery,
    XenLimits,
    RangeMapLimits,
}

/// When a fact became one.
#[derive(Clone, Copy, Debug)]
pub struct Dated {
    /// The fact.
    pub fact: Fact,
    /// First mainline release.
    pub since: (u32, u32),
    /// Stable branches that have it too, with the patch it is taken to have come with.
    pub stable: &'static [(u32, u32, u32)],
    /// Section of SPEC.
    pub spec: &'static str,
    /// What it is.
    pub doc: &'static str,
}

/// Patch from which 6.1.y is taken for what 6.1.192 is (docs/spec-notes.md).
pub(crate) const LATE_6_1: u32 = 100;

/// Every fact, oldest first.
#[rustfmt::skip]
pub static FACTS: &[Dated] = &[
    dated(Fact::GuestSize,         (5, 11), &[],                           "2.4",  "an encrypted guest that was given no size takes 6 % of its memory"),
    dated(Fact::PresetSize,        (5, 13), &[],                           "2.2",  "the size is preset, so 0 stays 0, and `noforce` only switches off"),
    dated(Fact::ForceByPool,       (5, 19), &[],                           "2.4",  "an encrypted guest forces its pool, not a global mode"),
    dated(Fact::XenGeneric,        (5, 19), &[],                           "10.4", "Xen PV's pool is the generic one with a hook, from memory anywhere"),
    dated(Fact::KeepsForAlignment, (5, 19), &[(5, 10, 198), (5, 15, 100)], "6.4",  "the largest mapping leaves room for the offset kept in front"),
    dated(Fact::Areas,             (6, 0),  &[],                           "2.3",  "a pool is divided into areas, and its size rounded for them"),
    dated(Fact::SmallerOnFailure,  (6, 2),  &[(6, 1, LATE_6_1)],           "2.5",  "a pool that cannot be had is tried at half the size; without any, mappings fail instead of a panic"),
    dated(Fact::NoSegmentQuery,    (6, 3),  &[],                           "6.4",  "drivers can no longer ask for the largest segment"),
    dated(Fact::AreaLimit,         (6, 5),  &[(6, 1, LATE_6_1)],           "2.3",  "a pool too small for its areas gets fewer, when set up late"),
    dated(Fact::KmallocSize,       (6, 5),  &[],                           "2.4",  "arm64 may need the pool for small buffers only, and then takes a thousandth of memory"),
    dated(Fact::AreaLimitEarly,    (6, 6),  &[],                           "2.3",  "the same when set up early"),
    dated(Fact::XenLimits,         (6, 6),  &[(5, 15, 148), (6, 1, LATE_6_1)], "10.6", "Xen tells block layers the largest mapping"),
    dated(Fact::RangeMapLimits,    (6, 7),  &[],                           "6.4",  "a device whose range map leaves RAM out counts as limited"),
];

const fn dated(
    fact: Fact,
    since: (u32, u32),
    stable: &'static [(u32, u32, u32)],
    spec: &'static str,
    doc: &'static str,
) -> Dated {
    Dated { fact, since, stable, spec, doc }
}

impl KernelVersion {
    /// Reads a release: two or three numbers and anything behind them, or `rfc64`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "rfc64" {
            return Some(Self::Rfc64);
        }
        let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = digits.split('.').map(str::parse::<u32>);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        Some(Self::Release { major, minor, patch: parts.next().and_then(Result::ok) })
    }

    /// The kernel a generation's answers were checked against, else the newest it stands for.
    #[must_use]
    pub fn of_generation(rules: &Generation) -> Self {
        let release = |major, minor, patch| Self::Release { major, minor, patch };
        match rules.id {
            "rfc64" => Self::Rfc64,
            "legacy" => release(5, 10, Some(7)),
            "v5_12" => release(5, 10, Some(198)),
            "v5_15" => release(5, 15, Some(16)),
            "v5_16" => release(5, 15, Some(100)),
            "v6_0" => release(6, 2, None),
            "v6_1y" => release(6, 1, Some(192)),
            "v6_3" => release(6, 5, None),
            "v6_6" => release(6, 7, None),
            "v6_6y" => release(6, 6, Some(87)),
            "v6_8" => release(6, 8, None),
            "v6_9" => release(6, 9, None),
            _ => release(7, 2, None),
        }
    }

    /// How it reads `swiotlb=` (SPEC 2.2).
    #[must_use]
    pub fn grammar(self) -> Grammar {
        match self {
            Self::Rfc64 => Grammar::TwoPools,
            _ if self.has(Fact::Areas) => Grammar::Areas,
            _ if self.has(Fact::PresetSize) => Grammar::Preset,
            _ => Grammar::Globals,
        }
    }

    /// The release's branch; the RFC's is the one it was made on.
    #[must_use]
    pub fn branch(self) -> (u32, u32) {
        match self {
            Self::Rfc64 => (5, 11),
            Self::Release { major, minor, .. } => (major, minor),
        }
    }

    /// Whether it is at or past a mainline release, stable branches counted by their branch.
    #[must_use]
    pub fn at_least(self, major: u32, minor: u32) -> bool {
        self.branch() >= (major, minor)
    }

    /// Whether it is a release of that stable branch at or past that patch.
    #[must_use]
    pub fn in_stable(self, major: u32, minor: u32, from: u32) -> bool {
        matches!(self, Self::Release { major: m, minor: n, patch }
            if (m, n) == (major, minor) && patch.is_none_or(|p| p >= from))
    }

    /// What must be said about its facts: some come from a neighbour that was sampled (SPEC 0, 15.3).
    #[must_use]
    pub fn caveat(self) -> Option<&'static str> {
        let branch = self.branch();
        let changed = |d: &Dated| d.stable.iter().any(|&(major, minor, _)| (major, minor) == branch);
        match branch {
            (..5, _) | (5, ..=9) => Some("kernels before 5.10 were not sampled; taken as 5.10"),
            (5, 13) => Some("not sampled; taken as 5.14"),
            (7, 3..) | (8.., _) => Some("newer than the newest kernel sampled, 7.2"),
            _ if FACTS.iter().any(changed) => Some(
                "this stable branch changed on its way, at patches nobody knows exactly; without one its newest is meant",
            ),
            _ => None,
        }
    }

    /// Whether it does what the fact says.
    #[must_use]
    pub fn has(self, fact: Fact) -> bool {
        let holds = |d: &Dated| {
            self.branch() >= d.since
                || d.stable.iter().any(|&(major, minor, patch)| self.in_stable(major, minor, patch))
        };
        FACTS.iter().find(|d| d.fact == fact).is_some_and(holds)
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rfc64 => f.pad("rfc64"),
            Self::Release { major, minor, patch: None } => write!(f, "{major}.{minor}"),
            Self::Release { major, minor, patch: Some(patch) } => write!(f, "{major}.{minor}.{patch}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::GENERATIONS;

    fn kernel(text: &str) -> KernelVersion {
        KernelVersion::parse(text).unwrap()
    }

    #[test]
    fn releases_are_read_and_written() {
        for (text, shown) in
            [("6.12", "6.12"), ("6.12.117+deb12-amd64", "6.12.117"), ("5.14-rc5", "5.14"), ("rfc64", "rfc64")]
        {
            assert_eq!(kernel(text).to_string(), shown);
        }
        let error = "six".parse::<KernelVersion>().unwrap_err().to_string();
        assert_eq!(error, "`six` is not a kernel release such as 6.12 or 5.15.148, nor rfc64");
        assert_eq!(KernelVersion::parse("6"), None);
        assert_eq!(KernelVersion::parse(""), None);
    }

    #[test]
    fn facts_are_told_by_branch_and_patch() {
        let has = |text, fact| kernel(text).has(fact);
        assert!(!has("6.1.16", Fact::SmallerOnFailure) && has("6.1.192", Fact::SmallerOnFailure));
        assert!(
            !has("6.0.1", Fact::SmallerOnFailure)
                && has("6.1", Fact::SmallerOnFailure)
                && has("6.2.1", Fact::SmallerOnFailure)
        );
        assert!(!has("6.4", Fact::AreaLimit) && !has("6.2", Fact::AreaLimit) && has("6.1.192", Fact::AreaLimit));
        assert!(!has("5.10.223", Fact::GuestSize) && has("5.11", Fact::GuestSize) && has("rfc64", Fact::GuestSize));
    }

    #[test]
    fn every_fact_is_dated_once_and_in_order() {
        assert!(FACTS.is_sorted_by_key(|d| d.since));
        for (i, dated) in FACTS.iter().enumerate() {
            assert!(FACTS[..i].iter().all(|d| d.fact != dated.fact));
        }
    }

    #[test]
    fn a_generations_kernel_is_of_that_generation() {
        for rules in GENERATIONS.iter().filter(|g| g.id != "rfc64") {
            let release = KernelVersion::of_generation(rules).to_string();
            assert_eq!(Generation::of_release(&release).unwrap().0.id, rules.id);
            assert_eq!(KernelVersion::of_generation(rules).grammar(), rules.grammar);
        }
    }
}
