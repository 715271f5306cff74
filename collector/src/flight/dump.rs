//! A window as a trace of its own, whose time begins with it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use trace::{Device, Event, Meta, P2mRun, StackFrame, Task, TraceError, Writer, field};

use super::retention;
use super::window::Window;
use crate::kernel::clock;

/// Everything a dump is made of.
pub(crate) struct Dump {
    pub(crate) window: Window,
    pub(crate) meta: Meta,
    pub(crate) devices: Vec<Device>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) frames: Vec<StackFrame>,
    pub(crate) p2m: Option<Vec<P2mRun>>,
}

impl Dump {
    /// Writes the next dump of the flight recorder at `base`; returns its path.
    pub(crate) fn write(self, base: &Path) -> Result<PathBuf, TraceError> {
        let Self { window, mut meta, devices, tasks, frames, p2m } = self;
        // Events stand in the order of the ring buffer and their times never go back.
        let first_ns = if window.moved() { window.events().next().map_or(0, |event| event.time_ns) } else { 0 };
        let (mut last_ns, mut lost) = (first_ns, 0);
        for event in window.events() {
            last_ns = event.time_ns;
            lost += event.count.unwrap_or(0);
        }
        let all: Vec<_> = meta.losses.by_cause().collect();
        // What was lost to a full ring buffer has events in its place, the rest was read once in a while.
        meta.losses.ring_full = lost;
        window.lost_before().take_from(&mut meta.losses);
        let earlier = all.into_iter().zip(meta.losses.by_cause()).filter(|((_, all), (_, here))| all > here);
        let notes: Vec<_> = earlier.map(|((what, all), (_, here))| since_the_beginning(what, all, here)).collect();
        meta.losses.notes.extend(notes);
        meta.clock.monotonic_ns += first_ns;
        meta.clock.realtime_ns += first_ns;
        meta.clock.duration_ns = last_ns - first_ns;
        let before = window.before();
        if window.moved() {
            // An earlier snapshot that could not be taken is as unknown as before.
            meta.snapshot_ns = meta.snapshot_ns.map(|_| 0);
            before.begin(&mut meta);
        }
        let number = retention::next_number(base);
        // Named after now, which is when it was triggered: two dumps may begin with the same event.
        let path = retention::name(base, number, clock(libc::CLOCK_REALTIME) / 1_000_000_000);
        let mut writer = Writer::create(&path, meta.clone())?;
        let written = fill(&mut writer, &window, first_ns, &meta, devices, tasks, frames, p2m);
        match written {
            Ok(()) => writer.close(meta).map(|()| path),
            Err(why) => {
                // What was not written whole is still in memory, but half a dump helps nobody.
                writer.abort();
                Err(why)
            }
        }
    }
}

/// Losses of which only some belong to a dump.
fn since_the_beginning(what: &str, all: u64, here: u64) -> String {
    format!(
        "{what}: {} since the flight recorder began, {} of them counted here; earlier ones can show in what was held at the beginning",
        field::count(all),
        field::count(here)
    )
}

#[allow(clippy::too_many_arguments, reason = "the second half of write, split so that its errors can be caught")]
fn fill(
    writer: &mut Writer,
    window: &Window,
    first_ns: u64,
    meta: &Meta,
    devices: Vec<Device>,
    tasks: Vec<Task>,
    frames: Vec<StackFrame>,
    p2m: Option<Vec<P2mRun>>,
) -> Result<(), TraceError> {
    let (mut threads, mut stacks) = (HashSet::new(), HashSet::new());
    for event in window.events() {
        threads.insert(event.tid);
        stacks.extend(event.stack);
        writer.push(&Event {
            time_ns: event.time_ns - first_ns.min(event.time_ns),
            since_ns: event.since_ns.map(|since| since.saturating_sub(first_ns)),
            ..event
        })?;
    }
    writer.set_devices(devices);
    let tasks = tasks.into_iter().filter(|task| threads.contains(&task.tid));
    writer.set_tasks(tasks.map(|t| Task { since_ns: t.since_ns.saturating_sub(first_ns), ..t }).collect());
    let frames: Vec<_> = frames.into_iter().filter(|frame| stacks.contains(&frame.stack)).collect();
    if !frames.is_empty() {
        writer.set_stacks(frames);
    }
    if let Some(runs) = p2m {
        writer.set_p2m(runs);
    }
    if meta.snapshot_ns.is_some() {
        writer.set_snapshot(window.before().snapshot());
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::super::window::Tally;
    use super::*;
    use trace::Trace;
    use trace::held::samples::{alloc, free, meta};
    use trace::meta::Losses;

    #[test]
    fn a_dump_is_a_trace_that_begins_with_its_window() {
        let folder = tempfile::tempdir().unwrap();
        let meta = meta(512, 1);
        let mut window = Window::new(2048, &meta, &[]);
        window.push(&alloc(1_000, 500, 2));
        for time in 1..200 {
            window.push(&alloc(1_000 + time * 10, time as u32, 1));
            window.push(&free(1_005 + time * 10, time as u32));
        }
        let first_ns = window.events().next().unwrap().time_ns;
        let task = |tid, since_ns| Task { tid, since_ns, pid: 1, comm: "x".to_owned() };
        let tasks = vec![task(1, 900), task(2, 900)];
        let dump = Dump { window, meta, devices: Vec::new(), tasks, frames: Vec::new(), p2m: None };
        let path = dump.write(&folder.path().join("f.swio")).unwrap();
        let trace = Trace::open(path).unwrap();
        assert_eq!((trace.meta().clock.monotonic_ns, trace.meta().snapshot_ns), (first_ns, Some(0)));
        assert!(trace.meta().closed && trace.meta().snapshot_exact);
        assert_eq!(trace.events().next().unwrap().unwrap().time_ns, 0);
        let used: u64 = trace.meta().pools[0].areas.iter().map(|area| area.used).sum();
        assert_eq!(trace.snapshot().len() as u64, used);
        assert!(trace.snapshot().iter().any(|slot| slot.slot == 500));
        assert_eq!(trace.tasks(), [task(1, 0)]);
    }

    #[test]
    fn a_dump_counts_the_losses_of_its_window_and_tells_of_earlier_ones() {
        let folder = tempfile::tempdir().unwrap();
        let losses =
            Losses { probe_missed: 1_005, undecoded: 3, sg_truncated: 2, stacks_missed: 1, ..Losses::default() };
        let begun = meta(512, 1);
        let mut window = Window::new(2048, &begun, &[]);
        window.push(&alloc(1_000, 500, 2));
        // All of one cause, some of another and none of the others were lost by then.
        window.mark(1_001, Tally { probe_missed: 1_000, undecoded: 3, ..Tally::default() });
        let dump = |window: &Window| {
            let meta = Meta { losses: losses.clone(), ..begun.clone() };
            let window = window.clone();
            let dump = Dump { window, meta, devices: Vec::new(), tasks: Vec::new(), frames: Vec::new(), p2m: None };
            Trace::open(dump.write(&folder.path().join("f.swio")).unwrap()).unwrap().meta().losses.clone()
        };
        assert_eq!(dump(&window), losses, "a window that holds everything has lost everything");
        for time in 1..200 {
            window.push(&alloc(1_000 + time * 10, time as u32, 1));
            window.push(&free(1_005 + time * 10, time as u32));
        }
        let here = dump(&window);
        assert_eq!((here.probe_missed, here.undecoded, here.sg_truncated, here.stacks_missed), (5, 0, 2, 1));
        assert_eq!(here.notes.len(), 2);
        assert!(
            here.notes[0].starts_with("probe hits the kernel skipped: 1,005 since the flight recorder began, 5 of")
        );
        assert!(
            here.notes[1].starts_with("records that could not be understood: 3 since the flight recorder began, 0")
        );
    }
}
