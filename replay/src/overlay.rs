//! Loads laid over one another: one load several times over, or the loads of several machines on one.
//!
//! Done with tied loads and not with events: the parts' bounce buffers and DMA addresses may be the same, and are then
//! different mappings all the same.

use crate::lifetimes::Lifetimes;
use crate::load::{Load, LoadDevice, LoadNotes, Recorded};
use crate::step::{Class, Step, What};
use crate::tie::UNTIED;

impl Load {
    /// Several loads as one, each begun so many nanoseconds after the first could. Devices stay apart, by name too: those
    /// of the second part and later are called `NAME#2`, … What the parts' kernels did is added up.
    ///
    /// Costs one pass over all steps; memory as if all had been recorded together.
    #[must_use]
    pub fn overlay(parts: &[(&Load, u64)]) -> Load {
        let mut out = Load {
            steps: Vec::with_capacity(parts.iter().map(|(load, _)| load.steps.len()).sum()),
            classes: Vec::new(),
            alive: 0,
            lifetimes: Lifetimes::default(),
            devices: Vec::new(),
            notes: LoadNotes::default(),
            recorded: Recorded::default(),
            first_ns: 0,
            last_ns: 0,
        };
        let mut queues = Vec::new();
        for (number, (load, later)) in (1..).zip(parts) {
            queues.push(Queue {
                steps: load.steps.iter().as_slice(),
                // Every part begins at the same time, then as much later as was said.
                earlier: load.first_ns,
                later: *later,
                id: out.alive as u32,
                class: out.classes.len() as u32,
                classes: &load.classes,
            });
            let device = out.devices.len() as u32;
            out.classes.extend(load.classes.iter().map(|class| Class { device: class.device + device, ..*class }));
            out.lifetimes.take_in(&load.lifetimes, device);
            out.devices.extend(load.devices.iter().map(|of| named(of, number)));
            out.alive += load.alive;
            out.notes.add(&load.notes);
            out.recorded.maps += load.recorded.maps;
            out.recorded.bounces += load.recorded.bounces;
            out.recorded.failures += load.recorded.failures;
            out.last_ns = out.last_ns.max((load.last_ns - load.first_ns).saturating_add(*later));
        }
        // Few parts: the earliest is found by looking at each.
        while let Some(next) = queues.iter_mut().filter(|q| !q.steps.is_empty()).min_by_key(|q| q.time()) {
            next.unit(&mut out.steps);
        }
        if out.notes.held > 0 {
            out.steps.sort_by_key(|step| !matches!(out.classes[step.class as usize].what, What::Map(map) if map.held));
        }
        out
    }
}

/// What is left of a part.
struct Queue<'a> {
    steps: &'a [Step],
    earlier: u64,
    later: u64,
    /// What the part's mappings and classes are numbered from.
    id: u32,
    class: u32,
    classes: &'a [Class],
}

impl Queue<'_> {
    fn moved(&self, time_ns: u64) -> u64 {
        time_ns.saturating_sub(self.earlier).saturating_add(self.later)
    }

    fn time(&self) -> u64 {
        self.steps.first().map_or(u64::MAX, |step| self.moved(step.time_ns))
    }

    /// Moves the next step on, and what must stand behind it: a scatterlist is one request. Unmaps that were missed may
    /// stand inside one.
    fn unit(&mut self, to: &mut Vec<Step>) {
        let mut in_list = false;
        while let Some((step, rest)) = self.steps.split_first() {
            self.steps = rest;
            let mut time_ns = self.moved(step.time_ns);
            if let What::Map(map) = self.classes[step.class as usize].what {
                in_list = map.more;
                if map.held {
                    time_ns = 0;
                }
            }
            let id = if step.id == UNTIED { UNTIED } else { step.id + self.id };
            to.push(Step { time_ns, id, class: step.class + self.class, ..*step });
            if !in_list {
                return;
            }
        }
    }
}

fn named(device: &LoadDevice, number: u32) -> LoadDevice {
    let name = if number == 1 { device.name.clone() } else { format!("{}#{number}", device.name) };
    LoadDevice { name, ..device.clone() }
}

#[cfg(test)]
mod tests {
    use trace::{Device, Event, Op};

    use super::*;
    use crate::{Base, Geometry, Machine, Options, Platform, PlatformKind, PlatformSpec, Policy, Surroundings, replay};

    const DEVICE: &str = "0000:00:04.0";

    /// A list of two elements, both undone later, then a single buffer nobody undoes; from 1,000 ns on.
    fn load() -> Load {
        let at = |op, time_ns, orig_addr: u64, sg_index| Event {
            orig_addr: (op != Op::Unmap).then_some(orig_addr),
            dma_addr: Some(orig_addr),
            size: Some(4096),
            sg_index,
            ..Event::new(op, time_ns, 0, 0, 0)
        };
        let events = [
            at(Op::Map, 1_000, 0x1000, Some(0)),
            at(Op::Map, 1_000, 0x3000, Some(1)),
            at(Op::Unmap, 2_000, 0x1000, Some(0)),
            at(Op::Unmap, 2_000, 0x3000, Some(1)),
            at(Op::Map, 3_000, 0x5000, None),
        ];
        let device = Device {
            id: 0,
            name: DEVICE.to_owned(),
            driver: None,
            dma_mask: Some(u64::from(u32::MAX)),
            coherent_dma_mask: u64::MAX,
            bus_dma_limit: 0,
            seg_boundary_mask: None,
            max_segment_size: None,
            min_align_mask: 0,
            ..Device::new(0, "")
        };
        Load::collect(&events, &[device], &Surroundings::default())
    }

    fn outcome(load: &Load, slots: u64) -> crate::Outcome {
        let base = Base { pool: Geometry { start: 0x1000_0000, nslabs: slots, areas: 1 }, cpus: Some(1), force: true };
        let setup = Policy::parse("v6_10").unwrap().resolve(&base).unwrap();
        let mut machine = Machine::new(&setup, Platform::recorded(PlatformSpec::new(PlatformKind::Native), &[]));
        replay(load, &mut machine, &Options::default())
    }

    #[test]
    fn once_is_the_load_itself_from_time_0_on() {
        let (load, once) = (load(), Load::overlay(&[(&load(), 0)]));
        assert_eq!(once.devices(), load.devices());
        assert_eq!((once.len(), once.span_ns()), (load.len(), (0, 2_000)));
        let (a, b) = (outcome(&load, 128), outcome(&once, 128));
        assert_eq!((a.requests, a.peak_slots, a.final_slots), (b.requests, b.peak_slots, b.final_slots));
    }

    #[test]
    fn twice_takes_twice_the_slots_where_they_meet() {
        let load = load();
        for (later, peak) in [(0, 8), (500, 8), (1_500, 6), (10_000, 6)] {
            let twice = Load::overlay(&[(&load, 0), (&load, later)]);
            let outcome = outcome(&twice, 128);
            assert_eq!((outcome.requests, outcome.maps, outcome.total_failures()), (4, 6, 0), "{later}");
            assert_eq!((outcome.peak_slots[0], outcome.final_slots[0]), (peak, 4), "{later}");
            assert_eq!(twice.recorded().maps, 6);
            let names: Vec<_> = twice.devices().iter().map(|device| device.name.as_str()).collect();
            assert_eq!(names, [DEVICE, "0000:00:04.0#2"]);
        }
    }

    #[test]
    fn nothing_over_nothing_is_nothing() {
        assert!(Load::overlay(&[]).is_empty());
        let empty = Load::collect(&[], &[], &Surroundings::default());
        assert!(Load::overlay(&[(&empty, 5), (&empty, 0)]).is_empty());
    }
}
