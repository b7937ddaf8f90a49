//! Bugs planted in the store are found by exactly the seed tests that are there to find them.
//!
//! Each bug is planted in a process of its own, this very program, which runs the seed tests with it. Needs the feature
//! `planted`: `cargo test --features planted --test planted`.
#![cfg(test)]

#[path = "../durability/seeds.rs"]
mod durability_seeds;
#[path = "../compaction/seeds/mod.rs"]
mod seeds;

use std::collections::BTreeSet;
use std::process::Command;

use piggin::storage::Retention;
use piggin::storage::planted::{self, Bug};

const VARIABLE: &str = "PIGGIN_PLANTED";

const BUGS: [(&str, Bug); 3] = [
    ("holds-the-commit-path", Bug::MergeHoldsCommits),
    ("replaces-the-version", Bug::PublishReplacesAll),
    (
        "ignores-a-failed-prepare-pass",
        Bug::FailedPreparePassIsComplete,
    ),
];

/// Plants the bug this process was started with, if it was.
fn plant() {
    let Ok(wanted) = std::env::var(VARIABLE) else {
        return;
    };
    let bug = BUGS.iter().find(|(name, _)| *name == wanted);
    planted::plant(bug.expect("one of them").1);
}

/// No history.
const RETENTION: Option<Retention> = None;

/// The seed tests that fail with this bug, and how many there are.
fn failing(bug: Option<&str>) -> (BTreeSet<String>, usize) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["seeds::", "--test-threads", "1"]);
    if let Some(bug) = bug {
        command.env(VARIABLE, bug);
    }
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let results = text.lines().filter_map(|line| {
        let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
        Some((name.rsplit("::").next()?.to_owned(), result))
    });
    let results: Vec<_> = results.collect();
    let failed = results.iter().filter(|(_, result)| *result == "FAILED");
    let failed: BTreeSet<String> = failed.map(|(name, _)| name.clone()).collect();
    assert_eq!(failed.is_empty(), output.status.success(), "{text}");
    (failed, results.len())
}

fn assert_found(bug: &str, by: &[&str]) {
    let (failed, _) = failing(Some(bug));
    let expected: BTreeSet<String> = by.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(failed, expected, "{bug}");
}

#[test]
fn without_a_bug_nothing_fails() {
    let (failed, tests) = failing(None);
    assert_eq!(failed, BTreeSet::new());
    assert!(tests >= 3, "{tests} seed tests");
}

#[test]
fn a_merge_that_holds_the_commit_path_is_found() {
    assert_found(
        "holds-the-commit-path",
        &[
            "mb_38428_a_flush_waits_for_no_step_of_a_compaction",
            "mb_38428_what_is_flushed_during_a_compaction_is_there_after_it",
        ],
    );
}

#[test]
fn a_publish_that_replaces_the_version_is_found() {
    assert_found(
        "replaces-the-version",
        &[
            "mb_38428_what_is_flushed_during_a_compaction_is_there_after_it",
            // With the rest of the version its drop list comes back, and what was erased is listed for ever.
            "mb_50060_a_failed_prepare_pass_publishes_nothing",
            "mb_50060_end_to_end",
            "a_failed_collection_pass_keeps_that_collection_and_publishes_the_rest",
            "a_failed_publish_publishes_nothing",
            "a_failed_system_event_pass_publishes_nothing",
        ],
    );
}

#[test]
fn a_failed_prepare_pass_that_counts_as_complete_is_found() {
    assert_found(
        "ignores-a-failed-prepare-pass",
        &[
            "mb_50060_a_failed_prepare_pass_publishes_nothing",
            "mb_50060_end_to_end",
        ],
    );
}
