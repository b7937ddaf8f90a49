//! Planted bugs are found by some seed, of a bounded number. Without them nothing is found: see `many_seeds.rs`.

use crate::engine::Plant;
use crate::scenario;

/// Of so many seeds one must find it.
const SEEDS: u64 = 40;

fn assert_found(plant: Plant, by: &str) {
    for seed in 0..SEEDS {
        let report = scenario::run(seed, plant).expect("a run that ends");
        if let Some(finding) = report.findings.first() {
            println!("{plant:?} is found by seed {seed}: {finding}");
            assert!(finding.contains(by), "{finding}");
            return;
        }
    }
    panic!("{plant:?} was found by none of {SEEDS} seeds");
}

#[test]
fn an_answer_before_the_sync_is_found() {
    assert_found(Plant::AnswersBeforeTheSync, "acknowledged");
}

#[test]
fn a_commit_without_sync_is_found() {
    assert_found(Plant::CommitsWithoutSync, "acknowledged");
}

#[test]
fn a_wake_taken_too_late_is_found() {
    assert_found(Plant::TakesTheWakeTooLate, "Unanswered");
}
