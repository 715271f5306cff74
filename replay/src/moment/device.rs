//! What one device did up to a moment.

use std::collections::{BTreeMap, VecDeque};

use crate::machine::Reason;
use crate::refusal::Cause;

use super::spread::Spread;

/// Width of the parts of a device's window of one second.
const TENTH: u64 = 100_000_000;
/// Stacks told apart for a device; a kernel has some dozens that map.
const STACKS: usize = 1024;

/// What came through one kernel stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackTally {
    /// Mappings made.
    pub maps: u64,
    /// Of them, through the pool.
    pub bounces: u64,
    /// Requests refused.
    pub failures: u64,
    /// Bytes mapped.
    pub bytes: u64,
    /// Slots held now.
    pub slots: u64,
}

/// What happened within the last second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Mappings.
    pub maps: u64,
    /// Through the pool.
    pub bounces: u64,
    /// Bytes copied.
    pub bytes_copied: u64,
    /// Refused.
    pub failures: u64,
}

/// What one device did.
#[derive(Clone, Debug, Default)]
pub struct DeviceTally {
    /// Streaming mappings made; a scatterlist counts once an element.
    pub maps: u64,
    /// Bytes mapped.
    pub bytes_mapped: u64,
    /// Mappings that went through the pool.
    pub bounces: u64,
    /// Of them by reason, in the order of [`Reason::ALL`].
    pub reasons: [u64; Reason::ALL.len()],
    /// Of them, those the rules give no reason for.
    pub without_reason: u64,
    /// Bytes copied to and from bounce buffers.
    pub bytes_copied: u64,
    /// Syncs, for the CPU or for the device.
    pub syncs: u64,
    /// Slots held now.
    pub slots: u64,
    /// Most slots held at once.
    pub peak_slots: u64,
    /// Requests refused.
    pub failures: u64,
    /// Of them by cause, in the order of [`Cause::ALL`].
    pub causes: [u64; Cause::ALL.len()],
    /// How long it took to get bounce slots, copy included, in nanoseconds.
    pub latency: Spread,
    /// Mappings by size: place n counts those of 2^n bytes to below twice that.
    pub sizes: [u64; 32],
    /// Of them, those through the pool.
    pub bounced_sizes: [u64; 32],
    stacks: BTreeMap<u32, StackTally>,
    /// Tenths of the last second: number and what happened.
    window: VecDeque<(u64, Rate)>,
}

/// The place of a size among sizes by power of two.
fn power(size: u64) -> usize {
    (size.max(1).ilog2() as usize).min(31)
}

impl DeviceTally {
    /// Whether nothing is known of the device.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.maps == 0 && self.bounces == 0 && self.failures == 0 && self.slots == 0 && self.syncs == 0
    }

    /// The commonest reason of its bounces.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        let most = Reason::ALL.iter().max_by_key(|&&reason| self.reasons[reason as usize])?;
        (self.reasons[*most as usize] > 0).then_some(*most)
    }

    /// The commonest cause of its failures.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        let most = Cause::ALL.iter().max_by_key(|&&cause| self.causes[cause as usize])?;
        (self.causes[*most as usize] > 0).then_some(*most)
    }

    /// What came through each kernel stack, by the stack's key. Only where stacks were taken.
    #[must_use]
    pub fn stacks(&self) -> &BTreeMap<u32, StackTally> {
        &self.stacks
    }

    /// What happened within the second before `time_ns`.
    #[must_use]
    pub fn rate(&self, time_ns: u64) -> Rate {
        let now = time_ns / TENTH;
        let mut sum = Rate::default();
        for (_, part) in self.window.iter().filter(|(number, _)| number + 10 > now) {
            sum.maps += part.maps;
            sum.bounces += part.bounces;
            sum.bytes_copied = sum.bytes_copied.saturating_add(part.bytes_copied);
            sum.failures += part.failures;
        }
        sum
    }

    fn now(&mut self, time_ns: u64) -> &mut Rate {
        let number = time_ns / TENTH;
        while self.window.front().is_some_and(|(old, _)| old + 10 <= number) {
            self.window.pop_front();
        }
        if self.window.back().is_none_or(|(last, _)| *last != number) {
            self.window.push_back((number, Rate::default()));
        }
        // One was just put there if it was empty.
        let at = self.window.len() - 1;
        &mut self.window[at].1
    }

    /// Where to count for a stack; nothing without one, or when there are too many.
    fn stack(&mut self, stack: Option<u32>) -> Option<&mut StackTally> {
        let stack = stack?;
        if self.stacks.len() >= STACKS && !self.stacks.contains_key(&stack) {
            return None;
        }
        Some(self.stacks.entry(stack).or_default())
    }

    pub(super) fn map(&mut self, time_ns: u64, size: u64, stack: Option<u32>) {
        self.maps += 1;
        self.bytes_mapped = self.bytes_mapped.saturating_add(size);
        self.sizes[power(size)] += 1;
        self.now(time_ns).maps += 1;
        if let Some(stack) = self.stack(stack) {
            stack.maps += 1;
            stack.bytes = stack.bytes.saturating_add(size);
        }
    }

    pub(super) fn bounce(
        &mut self,
        time_ns: u64,
        size: u64,
        reason: Option<Reason>,
        latency_ns: Option<u64>,
        stack: Option<u32>,
    ) {
        self.bounces += 1;
        self.bounced_sizes[power(size)] += 1;
        match reason {
            Some(reason) => self.reasons[reason as usize] += 1,
            None => self.without_reason += 1,
        }
        if let Some(latency) = latency_ns {
            self.latency.add(latency);
        }
        self.now(time_ns).bounces += 1;
        if let Some(stack) = self.stack(stack) {
            stack.bounces += 1;
        }
    }

    pub(super) fn copied(&mut self, time_ns: u64, bytes: u64) {
        self.bytes_copied = self.bytes_copied.saturating_add(bytes);
        let now = self.now(time_ns);
        now.bytes_copied = now.bytes_copied.saturating_add(bytes);
    }

    pub(super) fn hold(&mut self, slots: u32, stack: Option<u32>) {
        self.slots += u64::from(slots);
        self.peak_slots = self.peak_slots.max(self.slots);
        if let Some(stack) = self.stack(stack) {
            stack.slots += u64::from(slots);
        }
    }

    pub(super) fn let_go(&mut self, slots: u32, stack: Option<u32>) {
        self.slots = self.slots.saturating_sub(u64::from(slots));
        if let Some(stack) = self.stack(stack) {
            stack.slots = stack.slots.saturating_sub(u64::from(slots));
        }
    }

    pub(super) fn fail(&mut self, time_ns: u64, cause: Option<Cause>, stack: Option<u32>) {
        self.failures += 1;
        if let Some(cause) = cause {
            self.causes[cause as usize] += 1;
        }
        self.now(time_ns).failures += 1;
        if let Some(stack) = self.stack(stack) {
            stack.failures += 1;
        }
    }
}
