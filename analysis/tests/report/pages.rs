//! The report as JSON and as a page, whole.

use analysis::Report;
use analysis::report::html;

use crate::build::{Build, Built, MILLI};
use crate::report;

/// A bit of everything: a disk that bounces, a request too big, a pool that is full.
fn mixed() -> Built {
    let mut b = Build::new("6.12.1", 512).cpus(2);
    b.meta.host.name = "dom0".to_owned();
    b.meta.host.cmdline = "quiet swiotlb=512".to_owned();
    let (disk, card) = (b.device("0000:00:03.0", "ahci", 0xffff_ffff), b.device("0000:00:04.0", "nvme", u64::MAX));
    b.stack(&["swiotlb_map", "dma_map_sgtable", "ata_qc_issue", "scsi_queue_rq"]);
    b.latency = Some(1_500);
    for i in 0..40u64 {
        b.cpu = (i % 2) as u32;
        let bounced = b.map(disk, (1 << 33) + (i << 16), 16_384);
        let direct = b.map(card, (1 << 33) + (i << 16), 65_536);
        b.wait(MILLI);
        b.sync(bounced);
        b.unmap(bounced);
        b.unmap(direct);
    }
    assert!(b.try_map(disk, 1 << 33, 1 << 20).is_none());
    for i in 0..4 {
        b.map(disk, (1 << 33) + (i << 18), 256 << 10);
    }
    assert!(b.try_map(disk, 1 << 33, 65_536).is_none());
    b.finish()
}

fn without_path(built: &Built, text: &str) -> String {
    text.replace(&built.trace.path().display().to_string(), "case.swio").replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

#[test]
fn as_json() {
    let built = mixed();
    let json = serde_json::to_string_pretty(&report(&built)).unwrap();
    insta::assert_snapshot!(without_path(&built, &json));
}

#[test]
fn as_a_page() {
    let built = mixed();
    let page = html::page(&report(&built)).unwrap();
    assert!(
        !page.contains("<script") && !page.contains("src=") && !page.contains("http://") || page.contains("www.w3.org")
    );
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("://"), "it loads nothing");
    // The plots have tests of their own.
    let mut words = String::new();
    for (i, part) in page.split("<svg ").enumerate() {
        let after = if i == 0 { part } else { part.split_once("</svg>").map_or("", |(_, after)| after) };
        words += if i == 0 { "" } else { "[plot]" };
        words += after;
    }
    let (_, body) = words.split_once("<body>").unwrap();
    insta::assert_snapshot!(without_path(&built, &body.replace("><", ">\n<")));
}

/// docs/schema/report.json is what scripts are written against. `UPDATE_SCHEMA=1` writes it.
#[test]
fn the_published_schema_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/report.json");
    let now = format!("{:#}\n", Report::schema());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let published = std::fs::read_to_string(path).unwrap();
    assert_eq!(published, now, "run this test with UPDATE_SCHEMA=1, and look at the difference: VERSION is a promise");
}

/// Every key of a report is in the schema, and every key the schema asks for is in the report.
#[test]
fn a_report_is_as_its_schema_says() {
    let schema = Report::schema();
    let json = serde_json::to_value(report(&mixed())).unwrap();
    check(&json, &schema, &schema, "report");
}

fn check(value: &serde_json::Value, schema: &serde_json::Value, root: &serde_json::Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        return check(value, &root["$defs"][name], root, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let inner = any.iter().find(|one| one["type"] != "null").unwrap();
        return if value.is_null() { () } else { check(value, inner, root, at) };
    }
    let is = |name: &str| match &schema["type"] {
        serde_json::Value::String(one) => one == name,
        serde_json::Value::Array(any) => any.iter().any(|one| one == name),
        _ => schema["enum"].is_array() || schema["oneOf"].is_array(),
    };
    match value {
        serde_json::Value::Null => assert!(is("null"), "{at} is null"),
        serde_json::Value::Bool(_) => assert!(is("boolean"), "{at}"),
        serde_json::Value::Number(_) => assert!(is("integer") || is("number"), "{at}"),
        serde_json::Value::String(_) => assert!(is("string"), "{at}"),
        serde_json::Value::Array(all) => {
            assert!(is("array"), "{at}");
            all.iter().for_each(|one| check(one, &schema["items"], root, at));
        }
        serde_json::Value::Object(keys) => {
            for (key, value) in keys {
                let property = &schema["properties"][key];
                assert!(property.is_object(), "{at}.{key} is not in the schema");
                check(value, property, root, &format!("{at}.{key}"));
            }
            for key in schema["required"].as_array().into_iter().flatten().filter_map(|key| key.as_str()) {
                assert!(keys.contains_key(key), "{at}.{key} is missing");
            }
        }
    }
}
