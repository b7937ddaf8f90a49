//! One seed is one run: in one process, on different threads, in another process. And a run that is not is noticed.

use std::process::Command;

use crate::plants::Plant;
use crate::scenario::{self, Report};

/// Names the seed to the test that is run in another process.
const SEED_VARIABLE: &str = "PIGGIN_SEED";

fn report(seed: u64) -> Report {
    scenario::run(seed, Plant::Nothing).expect("a run that ends")
}

#[test]
fn same_seed_gives_the_same_trace() {
    for seed in [1, 2] {
        let first = report(seed);
        assert!(first.events > 1000, "{} events", first.events);
        let again = report(seed);
        if first != again {
            let pairs = first.newest.iter().zip(&again.newest);
            let differ = pairs.into_iter().find(|(one, other)| one != other);
            panic!("seed {seed}: the runs differ first at {differ:?}");
        }
        let threads = std::thread::scope(|scope| {
            let runs = [0; 3].map(|_| scope.spawn(move || report(seed)));
            runs.map(|run| run.join().unwrap().hash)
        });
        assert_eq!(threads, [first.hash; 3]);
        assert_eq!(hash_in_another_process(seed), first.hash);
        assert_ne!(report(seed + 100).hash, first.hash);
    }
}

fn hash_in_another_process(seed: u64) -> u64 {
    let this = std::env::current_exe().expect("the test binary");
    let output = Command::new(this)
        .args(["--exact", "determinism::one_seed_alone", "--nocapture"])
        .env(SEED_VARIABLE, seed.to_string())
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    let hash = text.lines().find_map(|line| line.split("hash ").nth(1));
    let hash = hash.unwrap_or_else(|| panic!("no hash told: {output:?}"));
    u64::from_str_radix(hash.trim(), 16).expect("a number")
}

/// Runs the seed in the variable `PIGGIN_SEED` and tells its hash; with `PIGGIN_TRACE` set, all that happened. To look
/// at a seed that failed, and for the test above.
#[test]
fn one_seed_alone() {
    let seed = std::env::var(SEED_VARIABLE).ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let report = report(seed);
    if std::env::var_os("PIGGIN_TRACE").is_some() {
        report.newest.iter().for_each(|event| println!("{event}"));
    }
    println!(
        "seed {seed}: {} events, hash {:016x}",
        report.events, report.hash
    );
    assert_eq!(report.findings, [""; 0]);
}

#[test]
fn a_run_in_random_order_is_noticed() {
    let run = || scenario::run(1, Plant::StartsInRandomOrder).expect("a run that ends");
    let first = run();
    assert!(
        (0..5).any(|_| run().hash != first.hash),
        "random order left no trace"
    );
}
