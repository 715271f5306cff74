//! SQL and filters.

use analysis::query::{self, TABLES};
use serde_json::json;

use crate::build::Build;
use crate::{HIGH, sample};

#[test]
fn sql_counts_what_the_trace_has() {
    let trace = sample();
    let sql = "SELECT d.driver, count(*) AS n FROM events e JOIN devices d ON e.device = d.id WHERE e.op = 'map' \
               GROUP BY d.driver ORDER BY n DESC";
    let grid = query::query(&trace, sql, None).unwrap();
    assert_eq!(grid.rows, [vec![json!("ata_piix"), json!(12_973)], vec![json!("nvme"), json!(12_142)]]);
}

#[test]
fn a_filter_and_sql_find_the_same_events() {
    let trace = sample();
    for (filter, condition) in [
        ("op == map && size >= 64k", "op = 'map' AND size >= 65536"),
        (
            "device == nvme and not op in (map, unmap)",
            "device = (SELECT id FROM devices WHERE driver = 'nvme') AND op NOT IN ('map', 'unmap')",
        ),
        ("time_ns < 2s && sg_index > 3", "time_ns < 2000000000 AND sg_index > 3"),
        ("tlb_addr >= 0 || direction == to_device", "tlb_addr IS NOT NULL OR direction = 'to_device'"),
    ] {
        let by_filter = query::query(&trace, filter, Some(0)).unwrap();
        // polars takes no subquery for a value: the key is looked up first.
        let key = trace.devices().iter().find(|d| d.driver.as_deref() == Some("nvme")).unwrap().id;
        let condition = condition.replace("(SELECT id FROM devices WHERE driver = 'nvme')", &key.to_string());
        let by_sql =
            query::query(&trace, &format!("SELECT count(*) AS n FROM events WHERE {condition}"), None).unwrap();
        assert_eq!(Some(by_sql.rows[0][0].as_u64().unwrap()), by_filter.total, "{filter}");
        assert!(by_filter.total > Some(0), "{filter}");
    }
}

#[test]
fn columns_of_a_later_format_are_there_and_empty() {
    // The sample is of format 1.0, which has neither.
    let grid =
        query::query(&sample(), "SELECT count(latency_ns) AS a, count(stack) AS b, count(*) AS c FROM events", None);
    let grid = grid.unwrap();
    assert_eq!(grid.rows[0][..2], [json!(0), json!(0)]);
    assert!(grid.rows[0][2].as_u64() > Some(100_000));
}

#[test]
fn every_table_can_be_asked_in_every_trace() {
    let empty = Build::new("6.12.1", 0).finish();
    for table in TABLES {
        let names: Vec<_> = table.fields.iter().map(|field| field.name).collect();
        // In quotes, for `offset` is a word of SQL too.
        let sql = format!("SELECT \"{}\" FROM {}", names.join("\", \""), table.name);
        for trace in [&empty.trace, &sample()] {
            let grid = query::query(trace, &sql, Some(3)).unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(grid.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), names);
            let units: Vec<_> = grid.columns.iter().map(|column| column.unit).collect();
            assert!(units.iter().all(Option::is_some), "{}: the registry's units", table.name);
        }
    }
}

#[test]
fn refusals_are_a_table() {
    let mut b = Build::new("6.12.1", 128).forced();
    let disk = b.device("0000:00:05.0", "ahci", 0xffff_ffff);
    for _ in 0..3 {
        assert!(b.try_map(disk, HIGH, 300 << 10).is_none());
    }
    let built = b.finish();
    let grid =
        query::query(&built.trace, "SELECT cause, count(*) AS n, max(size) AS size FROM failures GROUP BY cause", None);
    assert_eq!(grid.unwrap().rows, [vec![json!("too_large"), json!(3), json!(307_200)]]);
}

#[test]
fn limits_leave_rows_out_and_say_so() {
    let trace = sample();
    let grid = query::query(&trace, "op == map", Some(10)).unwrap();
    assert_eq!((grid.rows.len(), grid.more, grid.total), (10, true, Some(25_115)));
    let grid = query::query(&trace, "SELECT size FROM events WHERE op = 'map'", Some(10)).unwrap();
    assert_eq!((grid.rows.len(), grid.more), (10, true));
    let grid = query::query(&trace, "SELECT size FROM events WHERE op = 'map' LIMIT 10", Some(10)).unwrap();
    assert_eq!((grid.rows.len(), grid.more), (10, false));
}

#[test]
fn bad_questions_are_errors_in_words() {
    let trace = sample();
    let error = |question: &str| query::query(&trace, question, Some(5)).unwrap_err().to_string();
    let columns = "events: time_ns, cpu, tid, device, op,";
    for (question, says) in [
        ("SELECT siz FROM events", "no column `siz`"),
        ("SELECT * FROM events WHERE", "sql parser error"),
        ("SELECT nope(size) FROM events", "unsupported function 'nope'"),
        ("DELETE FROM events", "a trace is only read"),
        ("DROP TABLE events", "a trace is only read"),
        ("DESCRIBE events", "columns are listed by"),
    ] {
        let error = error(question);
        assert!(error.starts_with(says) && error.contains(columns), "{question}: {error}");
    }
    assert!(error("SELECT * FROM nowhere").contains("tables: events, devices"));
    assert!(error("sise > 4k").starts_with("no field `sise`; did you mean `size`?"));
    assert!(error("").starts_with("an empty filter"));
    // What polars cannot do is an error or an answer, and no panic.
    for odd in [
        "SELECT 1/0 AS a, sqrt(-1) AS b",
        "SELECT *",
        "SELECT (SELECT 1)",
        "SELECT size - 99999999999 FROM events",
        "SELECT CAST(op AS INT) FROM events",
        "SELECT size || op FROM events",
        "SELECT * FROM events e1, events e2",
        "SELECT ARRAY[1,2,3] AS a",
        "SELECT '\u{0}' AS a",
        "SELECT sum(op) FROM events",
        "SELECT substr(op, -99, 99) FROM events",
        "SELECT size FROM events ORDER BY size LIMIT -1",
        "WITH x AS (SELECT op FROM events) SELECT * FROM y",
        "(SELECT op FROM events) UNION (SELECT size FROM events)",
    ] {
        if let Ok(grid) = query::query(&trace, odd, Some(5)) {
            assert!(grid.rows.len() <= 5, "{odd}");
        }
    }
}

#[test]
fn sql_is_told_from_filters() {
    for sql in
        ["select 1", " SELECT op FROM events", "with a as (select 1) select * from a", "(select 1)", "SHOW TABLES"]
    {
        assert!(query::is_sql(sql), "{sql}");
    }
    for filter in ["op == map", "(size > 4k)", "!untrusted", "not op == map", "selected == yes", ""] {
        assert!(!query::is_sql(filter), "{filter}");
    }
}
