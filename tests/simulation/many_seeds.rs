//! The bucket as it is keeps every promise, seed after seed. A seed that once failed is added to `REGRESSIONS`.

use std::collections::BTreeMap;

use crate::plants::Plant;
use crate::scenario;
use crate::workloads::clients::{locks, scans, writes};

/// Run on every run of the test command, and kept after the fix.
const REGRESSIONS: [u64; 0] = [];
/// So many besides, or as many as the variable says.
const SEEDS: u64 = 100;
const SEEDS_VARIABLE: &str = "PIGGIN_SEEDS";
/// What clients do beside plain writes.
const DONE: [&str; 8] = [
    locks::LOCKED,
    locks::REFUSED,
    locks::WRITTEN,
    locks::UNLOCKED,
    scans::DOCUMENT,
    writes::SET,
    writes::DELETED,
    writes::LOST,
];

#[test]
fn no_promise_is_broken() {
    let seeds = std::env::var(SEEDS_VARIABLE).ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let mut events = 0;
    let mut struck = Vec::new();
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in REGRESSIONS.into_iter().chain(0..seeds) {
        let report = scenario::run(seed, Plant::Nothing).expect("a run that ends");
        assert_eq!(report.findings, [""; 0], "seed {seed}");
        events += report.events;
        struck.extend(report.struck);
        for (what, times) in report.done {
            *done.entry(what).or_default() += times;
        }
    }
    // A fault that never strikes proves nothing.
    let children = [
        "vbucket",
        "flusher",
        "writer",
        "maintenance",
        "compaction",
        "warmup",
    ];
    let panics = children.map(|child| format!("PanicIn {{ child: ChildName(\"{child}"));
    let others = ["Stall", "FlushCommit", "CompactionPass"].map(str::to_owned);
    for kind in panics.into_iter().chain(others) {
        let times = struck
            .iter()
            .filter(|fault| fault.starts_with(&kind))
            .count();
        println!("{times} x {kind}");
        assert!(times > 0 || seeds < SEEDS, "never struck: {kind}");
    }
    for what in DONE {
        let times = done.get(what).copied().unwrap_or(0);
        assert!(times > 0 || seeds < SEEDS, "never done: {what}");
    }
    println!("{seeds} seeds, {events} events, {done:?}");
    scenario::LEFT.assert_some();
}
