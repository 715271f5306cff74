use proptest::prelude::*;

use super::*;
use crate::{Device, Direction, Op, StackFrame, Task};

const PAGE: &str = include_str!("../../../docs/filters.md");

fn event() -> Event {
    let mut event = Event::new(Op::Map, 2_500_000, 1, 42, 0);
    event.orig_addr = Some(0x7f00_0000);
    event.size = Some(65_536);
    event.direction = Some(Direction::ToDevice);
    event.latency_ns = Some(1_500);
    event.stack = Some(3);
    event
}

fn names() -> Names {
    let device = |id, name: &str, driver: &str| Device {
        id,
        name: name.to_owned(),
        driver: Some(driver.to_owned()),
        dma_mask: None,
        coherent_dma_mask: 0,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: None,
        min_align_mask: 0,
        ..Device::new(0, "")
    };
    let devices = [device(0, "0000:00:04.0", "nvme"), device(1, "0000:00:1f.2", "ahci")];
    let tasks = [Task { tid: 42, since_ns: 0, pid: 42, comm: "fio".to_owned() }];
    let frame = |frame, symbol: &str| StackFrame {
        stack: 3,
        frame,
        address: 0xffff_ffff_8100_0000,
        symbol: Some(symbol.to_owned()),
        offset: Some(16),
    };
    Names::new(&devices, &tasks, &[frame(0, "dma_map_page_attrs"), frame(1, "nvme_queue_rq")])
}

fn matches(text: &str) -> bool {
    let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{error}"));
    filter.resolved(&names()).matches(&event())
}

fn error(text: &str) -> String {
    Filter::<Event>::parse(text).unwrap_err().to_string()
}

/// The examples of the page are judged against [`event`]; the page says which match it.
#[test]
fn the_page_for_people_says_what_the_code_does() {
    let mut judged = 0;
    for line in PAGE.lines() {
        let Some(row) = line.strip_prefix("| `") else { continue };
        let Some((text, rest)) = row.split_once("` |") else { continue };
        let text = text.replace("\\|", "|");
        let wanted = match rest.trim().split(' ').next() {
            Some("yes") => true,
            Some("no") => false,
            _ => continue,
        };
        assert_eq!(matches(&text), wanted, "{text}");
        judged += 1;
    }
    assert!(judged >= 20, "the page has lost its examples: {judged} were found");
}

#[test]
fn the_pages_error_is_the_real_one() {
    let text = "sise >= 64k && op == map";
    for line in error(text).lines() {
        assert!(PAGE.contains(&format!("    {line}\n")), "docs/filters.md should have:\n    {line}");
    }
}

#[test]
fn values_that_are_not_there_compare_false() {
    for text in ["tlb_addr > 0", "tlb_addr == 0", "tlb_addr != 0", "tlb_addr in (0, 1)", "first_slot < 100"] {
        assert!(!matches(text), "{text}");
    }
    assert!(matches("!(tlb_addr >= 0)"), "which tells whether a value is there");
}

#[test]
fn units_are_those_of_the_field() {
    for (text, value) in [
        ("size == 65536", 65_536),
        ("size == 65,536", 65_536),
        ("size == 65_536", 65_536),
        ("size == 64k", 65_536),
        ("size == 64 KiB", 65_536),
        ("size == 1.5 MiB", 1_572_864),
        ("size == 0x10000", 65_536),
        ("time_ns == 10us", 10_000),
        ("time_ns == 1.5 µs", 1_500),
        ("time_ns == 2s", 2_000_000_000),
        ("time_ns == 2min", 120_000_000_000),
        ("orig_addr == 4GiB", 1 << 32),
        ("attrs == 0x20", 32),
        ("cpu == 3", 3),
    ] {
        let Expr::Test(Test { check: Check::Compare(_, literal), .. }) = Filter::<Event>::parse(text).unwrap().expr
        else {
            panic!("{text}")
        };
        assert_eq!(literal, Literal::Number(value), "{text}");
    }
}

#[test]
fn and_binds_closer_than_or_and_not_closest() {
    let text = |text| Filter::<Event>::parse(text).unwrap().to_string();
    assert_eq!(text("op==map||cpu<2&&!cpu=1"), "op == map || (cpu < 2 && !(cpu == 1))");
    assert_eq!(text("not op in(map,unmap)and cpu not in (1)"), "!(op in (map, unmap)) && !(cpu in (1))");
    assert_eq!(text("(op == map or op == unmap) and size > 1,024"), "(op == map || op == unmap) && size > 1KiB");
    assert_eq!(text("device !~ nvme* or stack ~ \"a\\\"b\""), r#"!(device ~ nvme*) || stack ~ "a\"b""#);
}

#[test]
fn names_stand_for_keys() {
    assert!(matches("device == 0") && !matches("device == 1"));
    assert!(matches("device in (1, nvme)") && !matches("device in (1, ahci)"));
    assert!(!matches("device != nvme") && matches("device != ahci"));
    let unresolved = Filter::parse("device == nvme").unwrap();
    assert!(!unresolved.matches(&event()), "names that nobody knows match nothing");
}

#[test]
fn flags_stand_alone() {
    let device = |untrusted| Device {
        id: 0,
        name: String::new(),
        driver: None,
        dma_mask: None,
        coherent_dma_mask: 0,
        bus_dma_limit: 0,
        seg_boundary_mask: None,
        max_segment_size: None,
        min_align_mask: 0,
        untrusted,
        ..Device::new(0, "")
    };
    let filter = Filter::<Device>::parse("untrusted").unwrap();
    assert!(filter.matches(&device(Some(true))));
    assert!(!filter.matches(&device(Some(false))) && !filter.matches(&device(None)));
    let filter = Filter::<Device>::parse("untrusted == no").unwrap();
    assert!(filter.matches(&device(Some(false))) && !filter.matches(&device(None)));
}

#[test]
fn errors_point_at_the_place() {
    let all: Vec<_> = [
        "",
        "sise > 4k",
        "size > 10us",
        "size > ",
        "op == mapped",
        "op < map",
        "size ~ 4*",
        "size",
        "op == map size > 1",
        "(op == map",
        "op in map",
        "op in (map",
        "op in (map, )",
        "device ~ \"nvme",
        "device ~ \"[\"",
        "µ == 1",
        "size > 99999999999999999999",
        "size == 1,2",
        "device not nvme",
        "&& op == map",
    ]
    .iter()
    .map(|text| error(text))
    .collect();
    insta::assert_snapshot!(all.join("\n\n"));
}

#[test]
fn nesting_has_an_end() {
    assert!(error(&"(".repeat(100_000)).starts_with("nested too deeply"));
    assert!(error(&"!".repeat(100_000)).starts_with("nested too deeply"));
    assert!(Filter::<Event>::parse(&format!("{}cpu == 1{}", "(".repeat(50), ")".repeat(50))).is_ok());
}

/// A field with a literal it can have, as text.
fn a_test() -> impl Strategy<Value = String> {
    let how = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let order = how.clone();
    let equal = prop::sample::select(vec!["==", "!=", "~", "!~"]);
    let number =
        prop_oneof![any::<u64>().prop_map(|n| n.to_string()), (0u64..5000).prop_map(|n| format!("{}", n * 1024))];
    let names =
        "[ -~]{1,12}".prop_filter_map("glob", |text| glob::Pattern::new(&text).is_ok().then(|| format!("{:?}", text)));
    let words = prop::sample::select(Op::ALL.to_vec());
    prop_oneof![
        (prop::sample::select(vec!["size", "time_ns", "cpu", "tlb_addr", "device", "count"]), how, number.clone())
            .prop_map(|(field, how, n)| format!("{field} {how} {n}")),
        (prop::sample::select(vec!["device", "tid", "stack"]), equal, names)
            .prop_map(|(field, how, name)| format!("{field} {how} {name}")),
        prop::collection::vec(words, 1..4)
            .prop_map(|words| format!("op in ({})", words.iter().map(|w| w.name()).collect::<Vec<_>>().join(","))),
        (order, 0u32..100_000, prop::sample::select(vec!["k", "MiB", " GiB", ""]))
            .prop_map(|(how, n, unit)| format!("size {how} {n}{unit}")),
    ]
}

fn a_filter() -> impl Strategy<Value = String> {
    a_test().prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|all| format!("({})", all.join(" && "))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|all| format!("({})", all.join(" or "))),
            inner.prop_map(|expr| format!("not ({expr})")),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same(text in a_filter()) {
        let filter = Filter::<Event>::parse(&text).unwrap();
        let printed = filter.to_string();
        prop_assert_eq!(&Filter::parse(&printed).unwrap(), &filter, "{}", printed);
    }

    #[test]
    fn any_text_is_a_filter_or_an_error(text in "\\PC{0,40}") {
        if let Err(error) = Filter::<Event>::parse(&text) {
            prop_assert!(text.get(error.at.clone()).is_some(), "{:?}", error);
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn almost_filters_never_panic(text in "[a-z _()!&|=<>~\",.0-9µ%]{0,60}") {
        let _ = Filter::<Event>::parse(&format!("size > 1 {text}"));
        let _ = Filter::<Event>::parse(&format!("size {text}"));
        let _ = Filter::<Device>::parse(&format!("name == {text}"));
    }
}
