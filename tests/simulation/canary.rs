//! Planted bugs are found by some seed, of a bounded number. Without them nothing is found: see `many_seeds.rs`.

use crate::plants::Plant;
use crate::scenario;

/// Of so many seeds one must find it.
const SEEDS: u64 = 40;

/// Some seed has a finding that says so.
fn assert_found(plant: Plant, by: &str) {
    for seed in 0..SEEDS {
        let report = scenario::run(seed, plant).expect("a run that ends");
        if let Some(finding) = report.findings.iter().find(|one| one.contains(by)) {
            println!("{plant:?} is found by seed {seed}: {finding}");
            return;
        }
    }
    panic!("{plant:?} was found by none of {SEEDS} seeds");
}

#[test]
fn a_note_before_the_sync_is_found() {
    assert_found(Plant::NotesBeforeTheSync, "acknowledged as persisted");
}

#[test]
fn a_commit_without_sync_is_found() {
    assert_found(Plant::NeverSyncs, "acknowledged as persisted");
}

#[test]
fn a_lost_wake_is_found() {
    assert_found(Plant::LosesWakes, "not stopped");
}

#[test]
fn a_document_that_is_lost_in_memory_is_found() {
    assert_found(Plant::LosesADocument, "acknowledged");
}
