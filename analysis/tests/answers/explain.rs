//! Stories of refusals and bounces.

use std::sync::atomic::AtomicBool;

use analysis::explain::{ExplainOptions, Explainer, Story, story};
use replay::Policy;
use trace::{Op, Task, Trace};

use crate::build::{Build, Built, SECOND, held};
use crate::{HIGH, sample};

fn tell(trace: &Trace, event: u64) -> Story {
    story(trace, event, &ExplainOptions::default(), &AtomicBool::new(false)).unwrap()
}

fn options(policy: &str) -> ExplainOptions {
    ExplainOptions { policy: Some(Policy::parse(policy).unwrap()), ..ExplainOptions::default() }
}

/// The number of the first event of a kind.
fn first(trace: &Trace, op: Op) -> u64 {
    trace.events().position(|event| event.unwrap().op == op).unwrap() as u64
}

/// A 32-bit network card that lost 480 of 512 slots to its rings, and a disk that then finds no room.
fn full() -> Built {
    let mut b = Build::new("6.12.1", 512);
    let card = b.device("0000:00:04.0", "e1000e", 0xffff_ffff);
    let disk = b.device("0000:00:05.0", "ahci", 0xffff_ffff);
    b.stack(&["swiotlb_map", "dma_map_page_attrs", "e1000_alloc_rx_buffers", "e1000_configure"]);
    for i in 0..240 {
        b.map(card, HIGH + i * 4096, 4096);
    }
    b.wait(3 * SECOND);
    b.stack(&["swiotlb_map", "dma_map_sgtable", "ahci_qc_prep", "ata_qc_issue"]);
    assert!(b.try_map(disk, HIGH, 128 << 10).is_none());
    b.finish()
}

#[test]
fn a_full_pool_and_who_fills_it() {
    let built = full();
    let failures = Explainer::new(&built.trace, &ExplainOptions::default()).failures(10).unwrap();
    assert_eq!((failures.total, failures.rows.len()), (1, 1), "the mapping and its slots are one refusal");
    assert_eq!(failures.causes, [("pool_full".to_owned(), 1)]);
    let row = &failures.rows[0];
    assert_eq!((row.event, row.device_name.as_str(), row.size), (480, "0000:00:05.0", Some(128 << 10)));
    let story = tell(&built.trace, row.event);
    assert!(story.refused && !story.never && !story.replayed);
    let pool = story.pool.as_ref().unwrap();
    assert_eq!((pool.slots, pool.used, pool.free, pool.largest_run), (512, 480, 32, 32));
    let holder = &story.holders[0];
    assert_eq!((holder.device.as_str(), holder.slots, holder.mappings), ("0000:00:04.0", 480, 240));
    assert_eq!(holder.mapped_in.as_deref(), Some("e1000_alloc_rx_buffers+0x1"));
    assert!(holder.oldest_ns.unwrap() > 3 * SECOND);
    assert!(story.stack.iter().any(|call| call.starts_with("ahci_qc_prep")));
    let size = story.tried.iter().find(|row| row.kind == "size" && row.served).unwrap();
    assert_eq!(size.pool_slots, 1024);
    insta::assert_snapshot!(story.text());
}

#[test]
fn the_slots_and_the_mapping_tell_the_same_story() {
    let built = full();
    let by_slots = tell(&built.trace, first(&built.trace, Op::SlotFailed));
    let by_map = tell(&built.trace, first(&built.trace, Op::MapFailed));
    assert_eq!(Story { event: by_slots.event, time_ns: by_slots.time_ns, ..by_map }, by_slots);
}

#[test]
fn larger_than_a_segment_is_never_served() {
    let mut b = Build::new("6.12.1", 32_768).forced();
    let gpu = b.device("0000:03:00.0", "amdgpu", 0xffff_ffff);
    assert!(b.try_map(gpu, HIGH, 2 << 20).is_none());
    let built = b.finish();
    let story = tell(&built.trace, 0);
    assert!(story.refused && story.never);
    assert_eq!(story.rules.last().unwrap().word, "too_large");
    assert!(story.tried.iter().all(|row| row.kind != "size"), "no size is tried in vain");
    let segment = story.tried.iter().find(|row| row.kind == "segment" && row.served).unwrap();
    assert_eq!(segment.policy, "v6_10:kernel=6.12.1,segment=1024");
    insta::assert_snapshot!(story.text());
}

#[test]
fn without_a_pool_what_cannot_be_reached_is_refused() {
    let mut b = Build::new("6.12.1", 0);
    let card = b.device("0000:00:04.0", "e1000e", 0xffff_ffff);
    assert!(b.try_map(card, HIGH, 4096).is_none());
    let built = b.finish();
    let story = tell(&built.trace, 0);
    assert_eq!(story.rules.last().map(|rule| rule.word.as_str()), Some("not_addressable"));
    assert!(story.never && story.pool.is_none(), "{}", story.text());
}

#[test]
fn served_mappings_have_stories_too() {
    let mut b = Build::new("6.12.1", 512);
    let card = b.device("0000:00:04.0", "e1000e", 0xffff_ffff);
    b.map(card, 0x5000, 4096);
    b.map(card, HIGH, 4096);
    let built = b.finish();
    let direct = tell(&built.trace, 0);
    assert_eq!((direct.refused, direct.rules[0].word.as_str(), &direct.pool), (false, "direct", &None));
    let bounced = tell(&built.trace, 2);
    assert_eq!((bounced.refused, bounced.rules[0].word.as_str()), (false, "mask"));
    assert!(bounced.arithmetic[0].contains("0x200000fff") && bounced.arithmetic[0].contains("0xffffffff"));
    assert!(bounced.arithmetic.iter().any(|line| line.contains("where the kernel put it too")), "{bounced:#?}");
}

#[test]
fn what_was_held_before_and_what_was_lost_is_said() {
    let mut b = Build::new("6.12.1", 128).forced();
    let disk = b.device("0000:00:05.0", "ahci", 0xffff_ffff);
    b.snapshot = held(0, 100, 0x7000_0000);
    b.meta.losses.ring_full = 7;
    b.lost(7);
    let mut event = trace::Event::new(Op::SlotFailed, b.now + 1, 0, 42, disk);
    (event.orig_addr, event.size, event.used) = (Some(HIGH), Some(64 << 10), Some(107));
    b.events.push(event);
    let built = b.finish();
    let story = tell(&built.trace, 1);
    let counted = "the kernel itself counted 107 of 128 slots in use; by the events it was 100";
    assert!(story.arithmetic.iter().any(|line| line == counted), "{story:#?}");
    assert_eq!((story.holders[0].device.as_str(), story.holders[0].slots), ("before the recording", 100));
    let text = story.text();
    assert!(text.contains("7 events were lost while recording"), "{text}");
    assert!(text.contains("the mapping is not in the trace"), "{text}");
}

#[test]
fn questions_without_an_answer_say_so() {
    let mut b = Build::new("6.12.1", 512);
    let card = b.device("0000:00:04.0", "e1000e", 0xffff_ffff);
    let made = b.map(card, 0x5000, 4096);
    b.unmap(made);
    let built = b.finish();
    let error = |event| {
        let answer = story(&built.trace, event, &ExplainOptions::default(), &AtomicBool::new(false));
        answer.unwrap_err().to_string()
    };
    assert!(error(1).starts_with("event 1 is unmap: a story is told of map, map_failed, slot_alloc and slot_failed"));
    assert_eq!(error(2), "the trace has no event 2: its events are numbered from 0 to 1");
    let empty = Build::new("6.12.1", 512).finish();
    let explainer = ExplainOptions::default();
    let explainer = Explainer::new(&empty.trace, &explainer);
    assert_eq!((explainer.failures(9).unwrap().total, explainer.first_bounce().unwrap()), (0, None));
    assert!(explainer.story(0, &AtomicBool::new(false)).unwrap_err().to_string().contains("it holds no events"));
}

#[test]
fn an_unknown_device_and_kernel_do_not_hinder_a_story() {
    let mut b = Build::new("6.12.1", 128).forced();
    let disk = b.device("0000:00:05.0", "ahci", 0xffff_ffff);
    assert!(b.try_map(disk, HIGH, 300 << 10).is_none());
    b.devices.clear();
    b.meta.host.release = "who knows".to_owned();
    let built = b.finish();
    let story = tell(&built.trace, 0);
    assert!(story.refused && story.asked.starts_with("a device the trace does not describe"), "{}", story.text());
}

#[test]
fn a_replays_refusals_are_told_from_the_replay() {
    let trace = sample();
    let options = options("v6_10:nslabs=2048");
    let explainer = Explainer::new(&trace, &options);
    let failures = explainer.failures(1000).unwrap();
    // docs/lab and the plan have the same number.
    assert_eq!((failures.total, failures.rows.len()), (52, 52));
    let row = &failures.rows[0];
    let story = explainer.story(row.event, &AtomicBool::new(false)).unwrap();
    assert!(story.replayed && story.refused);
    assert_eq!(story.rules.last().unwrap().word, row.cause);
    assert!(story.arithmetic.last().unwrap().ends_with(&row.explanation));
    let used: u64 = story.holders.iter().map(|holder| holder.slots).sum();
    assert_eq!(used, story.pool.as_ref().unwrap().used, "every slot in use has a holder");
    let size = story.tried.iter().find(|row| row.kind == "size" && row.served).unwrap();
    assert_eq!(size.pool_slots, 4096);
    assert_eq!(story.facts.predicted, Some((25_115, 25_115)));
}

#[test]
fn a_full_area_is_told_area_by_area() {
    // Two CPUs, two areas of 256 slots: CPU 0's is full, CPU 1's broken up so that no whole segment is left.
    let mut b = Build::new("6.12.1", 512).forced().cpus(2);
    let disk = b.device("0000:00:05.0", "ahci", 0xffff_ffff);
    for i in 0..2 {
        b.map(disk, HIGH + (i << 18), 256 << 10);
    }
    b.cpu = 1;
    for i in 0..4 {
        b.map(disk, HIGH + (i << 18), 100 << 10);
    }
    b.cpu = 0;
    assert!(b.try_map(disk, HIGH, 100 << 10).is_none());
    let built = b.finish();
    let failed = first(&built.trace, Op::SlotFailed);
    let story = tell(&built.trace, failed);
    assert_eq!(story.rules.last().unwrap().word, "area_full", "{}", story.text());
    let areas = &story.pool.as_ref().unwrap().areas;
    let told: Vec<_> = areas.iter().map(|area| (area.area, area.free, area.cause.as_deref())).collect();
    assert_eq!(told, [(0, 0, Some("area_full")), (1, 56, Some("fragmented"))]);
    let undivided = story.tried.iter().find(|row| row.kind == "areas" && row.areas == 1).unwrap();
    assert!(!undivided.served, "{undivided:?}");
}

#[test]
fn a_tasks_name_is_that_of_the_time() {
    let mut b = Build::new("6.12.1", 512);
    let card = b.device("0000:00:04.0", "e1000e", 0xffff_ffff);
    b.map(card, HIGH, 4096);
    let built = b.finish();
    // The builder makes no tasks: the thread's number stands for its name.
    assert_eq!(tell(&built.trace, 1).task.as_deref(), Some("thread 100"));
    let _: Option<Task> = built.trace.tasks().first().cloned();
}

#[test]
fn ctrl_c_leaves_the_story_without_what_was_not_tried() {
    let built = full();
    let story = story(&built.trace, 480, &ExplainOptions::default(), &AtomicBool::new(true)).unwrap();
    assert!(story.refused && story.tried.is_empty());
    assert!(story.notes.iter().any(|note| note.starts_with("stopped")), "{story:#?}");
}
