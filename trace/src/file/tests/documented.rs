//! docs/trace-format.md says what the code does.

use std::collections::BTreeMap;

use super::*;
use crate::field::{Record, Value};
use crate::meta::{CpuCount, FORMAT, Xen};
use crate::{Area, Pool};

const DOC: &str = include_str!("../../../../docs/trace-format.md");

/// Fails with the text that should be there, ready to be pasted.
fn assert_documented(text: &str) {
    assert!(DOC.contains(text), "docs/trace-format.md should have:\n{text}");
}

fn columns<R: Record>() -> String {
    let row = |f: &crate::Field| {
        let absent = if f.nullable { "may be absent" } else { "" };
        format!("| `{}` | {} | {} | {} | {} |\n", f.name, f.ty.name(), f.unit.name(), absent, f.doc)
    };
    "| column | type | unit | | meaning |\n|---|---|---|---|---|\n".to_owned()
        + &R::FIELDS.iter().map(row).collect::<String>()
}

#[test]
fn every_table() {
    assert_documented("### events\n\nOne row a thing");
    assert_documented(&columns::<Event>());
    assert_documented(&format!("### devices\n\n{}", columns::<Device>()));
    assert_documented(&format!("### tasks\n\n{}", columns::<Task>()));
    assert_documented(&columns::<StackFrame>());
    assert_documented(&columns::<crate::sums::Sum>());
    assert_documented(&columns::<crate::sums::Bucket>());
    assert_documented(&columns::<crate::sums::Occupancy>());
    assert_documented(&format!("### snapshot\n\n{}", columns::<SnapshotSlot>()));
    assert_documented(&format!("### p2m\n\n{}", columns::<P2mRun>()));
    let kinds: Vec<_> = P2mKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_documented(&format!("`kind` is one of {}.", kinds.join(", ")));
}

#[test]
fn the_version_and_every_key_of_meta_json() {
    assert_documented(&format!("# The trace format, version {}.{}\n", FORMAT.major, FORMAT.minor));
    fn keys(value: &serde_json::Value, into: &mut Vec<String>) {
        if let Some(object) = value.as_object() {
            for (key, value) in object {
                into.push(key.clone());
                keys(value, into);
            }
        }
        value.as_array().into_iter().flatten().for_each(|value| keys(value, into));
    }
    let mut meta = Meta::new();
    meta.xen = Some(Xen { mode: "pv".into(), version: "4.17".into(), dom0: true });
    let areas = vec![Area { index: 0, used: 0 }];
    meta.pools.push(Pool { start: 0, nslabs: 0, nareas: 1, force_bounce: false, areas, ..Pool::default() });
    meta.losses.by_cpu.push(CpuCount::default());
    let mut found = Vec::new();
    keys(&serde_json::to_value(meta).unwrap(), &mut found);
    assert!(found.len() > 30);
    found.iter().for_each(|key| assert_documented(&format!("`{key}`")));
}

/// The one event of a segment that has one frame of one event, as bytes.
fn encoded(event: &Event) -> Vec<u8> {
    let mut frame = Frame::default();
    frame.push(event);
    frame.finish().to_vec()
}

#[test]
fn the_bytes_of_an_open_segment() {
    let codes = |names: Vec<&str>| {
        let all: Vec<_> = names.iter().enumerate().map(|(code, name)| format!("{code} {name}")).collect();
        all.join(", ")
    };
    Op::ALL.iter().zip(0..).for_each(|(op, code)| assert_documented(&format!("\n| `{op}` | {code} | ")));
    assert_documented(&format!("- direction: {}\n", codes(Direction::ALL.iter().map(|d| d.name()).collect())));

    // Which bit stands for which column is tried out, not taken from the code's list.
    let plain = Event::new(Op::Map, 0, 0, 0, 0);
    let mut bits = BTreeMap::new();
    for (index, field) in Event::FIELDS.iter().enumerate().filter(|(_, f)| f.nullable && f.name != "direction") {
        let event = Event::from_values(|i| if i == index { Value::U64(1) } else { plain.value(i) }).unwrap();
        let bytes = encoded(&event);
        let present = u16::from_le_bytes([bytes[8], bytes[9]]);
        assert_eq!(present.count_ones(), 1);
        bits.insert(present.trailing_zeros(), field.name);
    }
    assert!(bits.keys().copied().eq(0..bits.len() as u32));
    assert_documented(&format!("- present: {}\n", codes(bits.into_values().collect())));

    let mut event = Event::new(Op::Map, 1_000, 2, 77, 0);
    event.orig_addr = Some(0x1234_5000);
    event.size = Some(4096);
    event.direction = Some(Direction::ToDevice);
    let file = [header(0).as_slice(), &encoded(&event)].concat();
    let lines = file.chunks(16).zip(0..).map(|(bytes, line)| {
        let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("    {:02x}: {}\n", line * 16, bytes.join(" "))
    });
    assert_documented(&lines.collect::<String>());
}
