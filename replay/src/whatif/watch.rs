//! Single mappings of a replay, for those who ask what became of each, or of one in particular.

use super::{Asked, Replay};
use crate::closely::{Answer, Holder, Moment, PoolMoment};
use crate::load::Load;
use crate::machine::{Machine, Mapped, Refused};
use crate::outcome::{Options, Outcome};
use crate::restricted::POOL;
use crate::step::{Map, Step};
use crate::tie::UNTIED;
use std::ops::ControlFlow;

/// What is kept of single mappings.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The number of the mapping being asked for.
    number: u64,
    /// One a mapping, in order; empty when only one mapping is looked at.
    answers: Vec<Answer>,
    /// The mapping to look at.
    focus: Option<u64>,
    /// The mappings that may hold slots, by number among those alive: device, time, number in the load.
    owners: Vec<Option<(u32, u64, Option<u64>)>>,
    moment: Option<Moment>,
}

impl Watch {
    /// Goes on to the next mapping; what was not asked for is noted as such.
    pub fn pass(&mut self) {
        self.number += 1;
        if self.focus.is_none() && (self.answers.len() as u64) < self.number {
            self.answers.push(Answer::NotAsked);
        }
    }

    /// Notes a mapping held since before the recording.
    pub fn held(&mut self, step: &Step, device: u32) {
        if let Some(owner) = self.owners.get_mut(step.id as usize) {
            *owner = Some((device, step.time_ns, None));
        }
    }
}

/// Replays a load, and says what became of each of [`Load::maps`], in order. A request that is tried again has the answer
/// of its first try. Costs 16 bytes a mapping beside what [`super::replay`] costs.
#[must_use]
pub fn answers(load: &Load, machine: &mut Machine, options: &Options) -> (Outcome, Vec<Answer>) {
    let mut replay = Replay::new(load, machine, options);
    replay.watch = Some(Box::default());
    let _ = replay.run(|_| ControlFlow::Continue(()));
    let answers = replay.watch.take().map(|watch| watch.answers).unwrap_or_default();
    (replay.finish(), answers)
}

/// Replays a load up to the mapping with that number among [`Load::maps`], and looks at it closely. Nothing when there are
/// not so many, or when it is not asked for because an element of its scatterlist before it is refused.
#[must_use]
pub fn moment(load: &Load, machine: &mut Machine, options: &Options, number: u64) -> Option<Moment> {
    let step = load.step_of(number)?;
    let mut replay = Replay::new(load, machine, options);
    replay.until = step + 1;
    replay.watch = Some(Box::new(Watch { focus: Some(number), owners: vec![None; load.alive], ..Watch::default() }));
    let _ = replay.run(|_| ControlFlow::Continue(()));
    replay.watch.take()?.moment
}

impl Replay<'_> {
    /// Looks at the pools before a mapping is asked for.
    pub(super) fn before(&mut self, step: &Step, device: u32, map: &Map, asked: Asked) {
        let Some(watch) = &self.watch else { return };
        if asked != Asked::First || watch.focus != Some(watch.number) {
            return;
        }
        let alive = self.states.iter().zip(&watch.owners);
        let tied = alive.filter_map(|(state, owner)| {
            let (bounced, (device, since_ns, number)) = (state.as_ref()?, (*owner)?);
            // What was there before the recording is so since nobody knows when.
            let since_ns = number.map(|_| since_ns);
            Some(Holder { device: Some(device), since_ns, number, size: bounced.size, taken: bounced.taken })
        });
        let untied = self.due.bounces().map(|bounce| Holder {
            device: Some(bounce.device),
            since_ns: None,
            number: None,
            size: bounce.size,
            taken: bounce.taken,
        });
        let limits = self.limits[device as usize];
        let allocator = self.machine.allocator();
        let moment = Moment {
            time_ns: step.time_ns,
            device,
            request: map.request(step),
            limits,
            pools: allocator.pools().iter().map(PoolMoment::of).collect(),
            pool: if self.restricted[device as usize] { POOL } else { allocator.pool_for(&limits) },
            holders: tied.chain(untied).collect(),
            answer: Answer::NotAsked,
            refusal: None,
        };
        if let Some(watch) = &mut self.watch {
            watch.moment = Some(moment);
        }
    }

    /// Notes what became of a mapping.
    pub(super) fn after(
        &mut self,
        step: &Step,
        device: u32,
        map: &Map,
        asked: Asked,
        answer: &Result<Mapped, Refused>,
    ) {
        let Some(watch) = &mut self.watch else { return };
        let number = watch.number;
        if watch.focus.is_none() {
            if asked == Asked::First {
                watch.answers.push(Answer::of(answer));
            }
            return;
        }
        if step.id != UNTIED
            && answer.is_ok()
            && let Some(owner) = watch.owners.get_mut(step.id as usize)
        {
            *owner = Some((device, step.time_ns, (asked == Asked::First).then_some(number)));
        }
        if asked != Asked::First || watch.focus != Some(number) {
            return;
        }
        let refusal = answer.as_ref().err().map(|refused| {
            let (request, limits) = (map.request(step), &self.limits[device as usize]);
            if self.restricted[device as usize] {
                self.machine.explain_restricted(&request, limits, refused)
            } else {
                self.machine.explain(&request, limits, refused)
            }
        });
        if let Some(moment) = &mut watch.moment {
            moment.answer = Answer::of(answer);
            moment.refusal = refusal;
        }
    }
}
