//! Bounce pools of a device's own (restricted ones, SPEC 2.7), on real kernels, in the lab. No kernel of Debian's has device trees
//! with such pools on this architecture, so the lab's module gives its device one; whoever takes slots from it is the kernel.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;
use trace::{Event, Op, PoolKind, Trace};
use xtask::lab::{Guest, Kernel, Load, MODULE};

const SWIOSCOPE: &str = env!("CARGO_BIN_EXE_swioscope");

/// What the module does after a disk has used the default pool: 2,000 mappings, lists, a refusal for want of slots, leaks.
const JOB: &str = "
set -e
insmod MODULE pool=1024
run=/sys/kernel/debug/swio_lab/run
echo 'leak n=5 size=6k' >$run
swioscope record -q -o /out/t.swio -- sh -ec \"
    lab-load --device /dev/load/nvme --threads 2 --ops 300
    echo 'map n=2000 size=4k spread=30k window=20 sync=1; sg n=20 elements=8 size=20k; exhaust n=400 size=16k; leak n=3 size=10k' >$run\"
cat /sys/kernel/debug/swio_lab/stats >/out/stats
";

/// Leaks of 6 KiB before the recording: three slots each.
const HELD: usize = 15;

fn a_device_with_a_pool_of_its_own(kernel: Kernel) {
    let guest = Guest::new(kernel).swiotlb("8192,1,force").load(Load::Edu).load(Load::Nvme { queues: 1 });
    let outcome = guest
        .file(SWIOSCOPE, "/bin/swioscope")
        .file(Path::new(SWIOSCOPE).with_file_name("lab-load"), "/bin/lab-load")
        .run(&[JOB.replace("MODULE", MODULE)])
        .unwrap();
    assert_eq!(outcome.status, 0, "{}\nconsole: {}", outcome.output, outcome.console.display());
    let path = outcome.out_dir.join("t.swio");
    let trace = Trace::open(&path).unwrap();
    let meta = trace.meta();
    // Found with what is in it, beside the default one.
    let kinds: Vec<_> = meta.pools.iter().map(|pool| (pool.kind, pool.nslabs, pool.force_bounce)).collect();
    assert_eq!(kinds, [(PoolKind::Default, 8192, true), (PoolKind::Own, 1024, true)]);
    let own = &meta.pools[1];
    let device = trace.devices().iter().find(|device| device.pool.as_deref() == Some(own.name.as_str())).unwrap();
    assert_eq!(device.driver.as_deref(), Some("swio_lab"));
    assert!(trace.devices().iter().any(|device| device.pool.as_deref() == Some("default")));
    let held = trace.snapshot().iter().filter(|slot| slot.pool() == 1).count();
    assert_eq!((held, own.areas.iter().map(|area| area.used).sum::<u64>()), (HELD, HELD as u64));

    // What the module did, in its pool alone.
    let events: Vec<Event> = trace.events().collect::<Result<_, _>>().unwrap();
    let stats = fs::read_to_string(outcome.out_dir.join("stats")).unwrap();
    let stats: BTreeMap<&str, u64> =
        stats.lines().filter_map(|line| line.split_once(' ')).map(|(name, n)| (name, n.parse().unwrap())).collect();
    let of = |op: Op| events.iter().filter(move |event| event.op == op && event.device == device.id);
    let before = HELD as u64 / 3;
    assert_eq!(of(Op::SlotAlloc).count() as u64, stats["maps"] - before + stats["sg_elements"]);
    assert_eq!(of(Op::SlotFree).count() as u64, stats["unmaps"] + stats["sg_unmapped_elements"]);
    assert_eq!((of(Op::SlotFailed).count() as u64, stats["maps_failed"]), (1, 1));
    // The count that goes with a refusal is the default pool's, so there is none.
    assert!(of(Op::SlotFailed).all(|event| event.used.is_none()));
    for event in of(Op::SlotAlloc).chain(of(Op::SlotFree)) {
        assert!(event.tlb_addr.is_some_and(|tlb| own.contains(tlb)) && event.first_slot.is_some(), "{event:?}");
    }
    let elsewhere = events.iter().filter(|event| event.op == Op::SlotAlloc && event.device != device.id);
    let elsewhere: Vec<_> = elsewhere.collect();
    assert!(elsewhere.len() > 300 && elsewhere.iter().all(|event| meta.pools[0].contains(event.tlb_addr.unwrap())));
    assert!(!meta.losses.notes.iter().any(|note| note.contains("in none of the pools")), "{:?}", meta.losses.notes);

    // Every choice in both, the refusal too, and why each bounced.
    let verify = Command::new(SWIOSCOPE).args(["verify", "--format", "json"]).arg(&path).output().unwrap();
    let verdict: Json = serde_json::from_slice(&verify.stdout).unwrap();
    assert_eq!((&verdict["share"], &verdict["other_pools"]), (&Json::from(1.0), &Json::from(0)), "{verdict:#}");
    assert_eq!(verdict["decisions"]["share"], Json::from(1.0), "{verdict:#}");
    assert!(verdict["total"].as_u64() > Some(2_000 + elsewhere.len() as u64), "{verdict:#}");
}

#[test]
fn on_6_1() {
    a_device_with_a_pool_of_its_own(Kernel::V6_1);
}

#[test]
fn on_6_12() {
    a_device_with_a_pool_of_its_own(Kernel::V6_12);
}
