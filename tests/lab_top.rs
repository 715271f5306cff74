//! `top` on a live dom0 under load, a trace written beside it.

use std::path::Path;

use replay::moment::{Around, Moment};
use serde_json::Value as Json;
use trace::Trace;
use xtask::lab::{Guest, Kernel, Load};

const SWIOSCOPE: &str = env!("CARGO_BIN_EXE_swioscope");

/// Every report's counters are those of as many events of the trace.
#[test]
fn the_counters_are_those_of_the_trace_beside_it() {
    let lab_load = Path::new(SWIOSCOPE).with_file_name("lab-load");
    assert!(lab_load.exists(), "{} is missing: run `cargo xtask test`", lab_load.display());
    // The disk is slow, so that a load of many threads holds slots and leaves the tool its CPU.
    let load = Load::Nvme { queues: 2 };
    let guest = Guest::new(Kernel::V6_12).xen(true).swiotlb("1024,1,force").load(load).disk_iops(200);
    let job = "lab-load --device /dev/load/nvme --threads 16 --min 4k --max 200k --ops 100000 >/dev/null & load=$!; \
               swioscope top --format jsonl --interval 1s --count 5 -o /out/t.swio >/out/top.jsonl; status=$?; \
               kill $load; wait $load; exit $status";
    let outcome = guest.file(SWIOSCOPE, "/bin/swioscope").file(lab_load, "/bin/lab-load").run(&[job]).unwrap();
    assert_eq!(outcome.status, 0, "{}\nconsole: {}", outcome.output, outcome.console.display());

    let trace = Trace::open(outcome.out_dir.join("t.swio")).unwrap();
    let mut moment = Moment::new(Around::new(trace.meta(), trace.p2m(), trace.devices()), trace.snapshot());
    let mut events = trace.events().map(Result::unwrap);
    let text = std::fs::read_to_string(outcome.out_dir.join("top.jsonl")).unwrap();
    let reports: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 5);
    for report in &reports {
        let told = |field: &str| report["now"][field].as_u64().unwrap();
        while moment.totals().events < told("events") {
            moment.apply(&events.next().expect("the trace has what was told"));
        }
        let now = moment.now();
        let counted = [now.maps, now.bounces, now.failures, now.bytes_copied, now.used_slots, now.peak_slots, now.lost];
        let fields = ["maps", "bounces", "failures", "bytes_copied", "used_slots", "peak_slots", "lost"];
        assert_eq!(fields.map(told), counted, "{fields:?} at {} events", now.events);
        assert_eq!(report["devices"][0]["maps"], moment.device_rows()[0].maps);
    }
    let last = &reports[4]["now"];
    assert!(last["maps"].as_u64().unwrap() > 1_000 && last["used_slots"].as_u64().unwrap() > 0, "{last}");
    assert_eq!(reports[4]["devices"][0]["reason"], "forced");
    // Nothing stands at the ends that lacks what belongs to it.
    let losses = &trace.meta().losses;
    assert!(losses.by_cpu.iter().all(|cpu| cpu.seen == cpu.stored + cpu.filtered + cpu.lost), "{losses:?}");
}
