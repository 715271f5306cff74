//! Other orders: events are written down in the order of the ring buffer, which is not always that in which they happened.
//! What happened is an allocation's lock, or a release's; its record comes later, or in a release's case earlier, and other CPUs,
//! interrupts and tasks come between.

use std::collections::{HashMap, VecDeque};

use super::event::{SlotEvent, What};
use super::{Applied, Checker, Undo, remember};

/// Events behind that are looked at for another order. Far, because an interrupt that gives back a few hundred buffers
/// can come between an allocation's lock and its record.
const AHEAD: usize = 1024;
/// The same of each task's next event: a task that is preempted there is away while others do thousands of things.
const FAR_AHEAD: usize = 8192;
/// Events of one lane that are tried together.
const DEPTH: usize = 48;

/// With those whose records came late where they say that they belong; the others stay in the order they are written down in.
pub(crate) fn placed(events: impl Iterator<Item = SlotEvent>) -> Vec<SlotEvent> {
    let mut latest_ns = 0;
    let with_place = events.map(|event| {
        latest_ns = latest_ns.max(event.time_ns);
        ((event.since_ns.unwrap_or(latest_ns), event.since_ns.is_none()), event)
    });
    let mut events: Vec<_> = with_place.collect();
    events.sort_by_key(|(place, _)| *place);
    events.into_iter().map(|(_, event)| event).collect()
}

impl Checker {
    /// Whether the event is as predicted when releases written down before it had not happened yet: one of them, or
    /// the last few of one lane.
    pub(super) fn explained_by_release(&mut self, event: &SlotEvent, recent: &VecDeque<Applied>) -> bool {
        let freed: Vec<_> = recent.iter().rev().filter(|a| matches!(a.undo, Undo::Freed { .. })).collect();
        if freed.iter().any(|a| self.with_undone(&[a.undo], event)) {
            return true;
        }
        lanes(event, freed.iter().map(|a| &a.event)).into_iter().any(|lane| {
            let of_lane = freed.iter().filter(|a| lane_of(event, &a.event) == lane);
            let undos: Vec<_> = of_lane.map(|a| a.undo).take(DEPTH).collect();
            (2..=undos.len()).any(|n| self.with_undone(&undos[..n], event))
        })
    }

    /// Whether the event is as predicted some steps back, and those steps are still as predicted after it. If so, that
    /// is how they are applied.
    pub(super) fn explained_before(&mut self, event: &SlotEvent, recent: &mut VecDeque<Applied>) -> bool {
        let mut undone: Vec<SlotEvent> = Vec::new();
        let mut explained = false;
        while let Some(last) = recent.pop_back() {
            self.undo(last.undo);
            undone.push(last.event);
            if !(self.could_apply(event) && self.predicts(event)) {
                continue;
            }
            let steps = std::iter::once(event).chain(undone.iter().rev());
            if let Some(applied) = self.try_steps(steps) {
                applied.into_iter().for_each(|a| remember(recent, a));
                explained = true;
                undone.clear();
                break;
            }
        }
        // As it was.
        for event in undone.iter().rev() {
            if let Some(undo) = self.try_apply(event) {
                recent.push_back(Applied { event: *event, undo });
            }
        }
        explained
    }

    /// Applies events if each is as predicted in its turn; else none.
    fn try_steps<'a>(&mut self, steps: impl Iterator<Item = &'a SlotEvent>) -> Option<Vec<Applied>> {
        let mut applied: Vec<Applied> = Vec::new();
        for event in steps {
            if self.predicts(event) {
                match (self.try_apply(event), event.what) {
                    (Some(undo), _) => applied.push(Applied { event: *event, undo }),
                    (None, What::Failed(..) | What::Alone(..)) => {}
                    (None, _) => return self.take_back(applied),
                }
            } else {
                return self.take_back(applied);
            }
        }
        Some(applied)
    }

    fn take_back<T>(&mut self, applied: Vec<Applied>) -> Option<T> {
        applied.into_iter().rev().for_each(|a| self.undo(a.undo));
        None
    }

    /// Whether the event is as predicted with some releases taken back; the state is as before afterwards.
    fn with_undone(&mut self, undone: &[Undo], event: &SlotEvent) -> bool {
        let mut back = Vec::new();
        for undo in undone {
            if let &Undo::Freed { pool, run, pad } = undo
                && self.is_free(pool, &run)
            {
                self.take_again(pool, run, pad);
                back.push((pool, run));
            }
        }
        let predicts = !back.is_empty() && self.predicts(event);
        back.into_iter().for_each(|(pool, run)| self.pools[pool].pool.release(run));
        predicts
    }

    /// Whether the event is as predicted when events of one other lane, each as predicted in its turn, had come first.
    /// If so, they are applied.
    pub(super) fn explained_by_later(
        &mut self,
        events: &[SlotEvent],
        at: usize,
        done: &mut [bool],
        recent: &mut VecDeque<Applied>,
    ) -> bool {
        let event = &events[at];
        let window: Vec<_> = (at + 1..events.len()).filter(|&i| !done[i]).take(AHEAD).collect();
        for lane in lanes(event, window.iter().map(|&i| &events[i])) {
            let of_lane: Vec<_> = window.iter().copied().filter(|&i| lane_of(event, &events[i]) == lane).collect();
            // An interrupt between the lock and the record puts its own releases before the allocation it interrupted.
            let allocations = of_lane.iter().copied().filter(|&i| matches!(events[i].what, What::Alloc(..)));
            let allocations: Vec<_> = allocations.take(DEPTH).collect();
            let in_order = &of_lane[..of_lane.len().min(DEPTH)];
            for ahead in [in_order, &allocations] {
                let Some(applied) = self.try_ahead(event, events, ahead) else { continue };
                for &i in &ahead[..applied.len()] {
                    done[i] = true;
                    let judged = !matches!(events[i].what, What::Free(_) | What::Added(_));
                    self.verdict.total += u64::from(judged);
                    self.verdict.exact += u64::from(judged);
                }
                applied.into_iter().for_each(|a| remember(recent, a));
                return true;
            }
        }
        false
    }

    /// Applies events one by one until the event before them is as predicted; takes them back when that is never so.
    fn try_ahead(&mut self, event: &SlotEvent, events: &[SlotEvent], ahead: &[usize]) -> Option<Vec<Applied>> {
        let mut applied: Vec<Applied> = Vec::new();
        for &i in ahead {
            let other = events[i];
            if !self.predicts(&other) {
                break;
            }
            let Some(undo) = self.try_apply(&other) else { break };
            applied.push(Applied { event: other, undo });
            if self.could_apply(event) && self.predicts(event) {
                return Some(applied);
            }
        }
        self.take_back(applied)
    }

    /// Whether the event is as predicted when tasks had come before it that took their slots and were preempted before the
    /// record: whoever's next event is as predicted, one after the other. If so, they are applied.
    pub(super) fn explained_by_waiting(
        &mut self,
        events: &[SlotEvent],
        at: usize,
        done: &mut [bool],
        waiting: &mut Waiting,
        recent: &mut VecDeque<Applied>,
    ) -> bool {
        let event = &events[at];
        let mut heads = waiting.heads(event, events, at, done);
        let mut applied: Vec<(usize, Applied)> = Vec::new();
        while applied.len() < DEPTH {
            let fits = |this: &mut Self, i: usize| {
                let other = events[i];
                // It may have gone to another CPU meanwhile.
                let undo = if this.predicts(&other) || other.cpu != event.cpu && this.predicts_on(&other, event.cpu) {
                    this.try_apply(&other)
                } else {
                    None
                };
                undo.map(|undo| Applied { event: other, undo })
            };
            let Some((lane, next)) = heads.iter().enumerate().find_map(|(lane, queue)| {
                let &i = queue.first()?;
                Some((lane, (i, fits(self, i)?)))
            }) else {
                break;
            };
            heads[lane].remove(0);
            applied.push(next);
            if self.could_apply(event) && self.predicts(event) {
                for (i, applied) in applied {
                    done[i] = true;
                    self.verdict.total += 1;
                    self.verdict.exact += 1;
                    remember(recent, applied);
                }
                return true;
            }
        }
        self.take_back::<()>(applied.into_iter().map(|(_, applied)| applied).collect()).is_some()
    }
}

/// Each task's events on each CPU, to find the next one.
pub(super) struct Waiting(HashMap<(u32, u32), VecDeque<usize>>);

impl Waiting {
    pub(super) fn new(events: &[SlotEvent]) -> Self {
        let mut lanes: HashMap<_, VecDeque<_>> = HashMap::new();
        for (i, event) in events.iter().enumerate() {
            lanes.entry((event.cpu, event.tid)).or_default().push_back(i);
        }
        Self(lanes)
    }

    /// The allocations that come next in each task but the event's own.
    fn heads(&mut self, event: &SlotEvent, events: &[SlotEvent], at: usize, done: &[bool]) -> Vec<Vec<usize>> {
        let others = self.0.iter_mut().filter(|(lane, _)| **lane != (event.cpu, event.tid));
        let next = others.map(|(_, queue)| {
            while queue.front().is_some_and(|&i| i <= at || done[i]) {
                queue.pop_front();
            }
            let near = queue.iter().copied().take_while(|&i| i - at < FAR_AHEAD);
            // Releases between are those of interrupts.
            near.filter(|&i| !done[i] && matches!(events[i].what, What::Alloc(..))).take(DEPTH).collect()
        });
        let mut heads: Vec<Vec<usize>> = next.filter(|queue: &Vec<_>| !queue.is_empty()).collect();
        // Not in the order of a hash, which differs from run to run.
        heads.sort_unstable();
        heads
    }
}

/// A sequence of events in the order written down: a CPU's, or a task's on the event's own CPU.
type Lane = (u32, Option<u32>);

fn lane_of(event: &SlotEvent, other: &SlotEvent) -> Lane {
    (other.cpu, (other.cpu == event.cpu).then_some(other.tid))
}

/// The lanes of some events.
fn lanes<'a>(event: &SlotEvent, others: impl Iterator<Item = &'a SlotEvent>) -> Vec<Lane> {
    let mut lanes: Vec<_> = others.map(|o| lane_of(event, o)).collect();
    lanes.sort_unstable();
    lanes.dedup();
    lanes
}
