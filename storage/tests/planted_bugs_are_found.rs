//! Each bug that can be planted is seen by what the other tests look at; without one, nothing is.
//!
//! One test, because a bug is planted for the whole process. Run with the feature `planted`.
#![cfg(test)]

mod support;
mod model;
mod beside;

use std::panic::{AssertUnwindSafe, catch_unwind};

use beside::{Beside, LIVES, of};
use piggin_storage::disk::{DiskError, DiskErrorKind, Verb};
use piggin_storage::planted::{Bug, plant};
use piggin_storage::{
    Compacted, CompactionFailure, CompactionRequest, CompactionStage, Job, KvStore, Namespace,
    Outcome, StorageError,
};
use support::{mutation, prepare};

/// Of the suite of random operations, as many as find what is planted for it.
const MODEL_SEEDS: u64 = 30;
const MODEL_STEPS: u64 = 300;

/// What a test could see.
#[derive(Debug, PartialEq)]
struct Seen {
    /// A commit beside a compaction had to wait.
    a_commit_waited: bool,
    /// What was committed beside it is not there.
    lost_what_was_committed: bool,
    /// A run whose pass over the prepares failed was called complete.
    called_a_failure_complete: bool,
    /// One of two stores, whatever they were asked, was not what the model says.
    differs_from_the_model: bool,
}

const NOTHING: Seen = Seen {
    a_commit_waited: false,
    lost_what_was_committed: false,
    called_a_failure_complete: false,
    differs_from_the_model: false,
};

/// Compacts beside commits.
fn beside_commits() -> (bool, bool) {
    let mut beside = Beside::filled();
    let vbucket = beside.writer.vbucket;
    let request = CompactionRequest::default();
    let mut job = beside.store.compaction_job(vbucket, request).unwrap();
    let (mut waited, mut number) = (false, 0);
    let mut written = Vec::new();
    while job.step() == Outcome::Yielded {
        let seqno = beside.next();
        number += 1;
        let name = format!("beside {number}");
        let item = of(LIVES, mutation(seqno, &name, "value"));
        let key = item.document.key.clone();
        if beside.try_write(vec![item]) {
            written.push(key);
        } else {
            waited = true;
            break;
        }
    }
    if waited {
        return (true, false);
    }
    let is_lost = |key| {
        let found = beside.store.get(vbucket, Namespace::Committed, key);
        found.unwrap().is_none()
    };
    (false, written.iter().any(is_lost))
}

/// Compacts with a failing pass over the prepares.
fn with_a_failed_pass() -> Outcome<Compacted, CompactionFailure> {
    let mut beside = Beside::filled();
    let seqno = beside.next();
    beside.write(vec![of(LIVES, prepare(seqno, "another", "value"))]);
    let vbucket = beside.writer.vbucket;
    let request = CompactionRequest::default();
    let mut job = beside.store.compaction_job(vbucket, request).unwrap();
    loop {
        if job.progress().stage == CompactionStage::Prepare {
            job.fail_next_step(StorageError::Disk(DiskError {
                kind: DiskErrorKind::Other("input/output error".into()),
                verb: Verb::Read,
                file: "container".into(),
            }));
        }
        let ended = job.step();
        if ended != Outcome::Yielded {
            return ended;
        }
    }
}

/// What the suite of random operations finds.
fn differs_from_the_model() -> bool {
    let factories = support::factories();
    let runs = (0..MODEL_SEEDS).flat_map(|seed| factories.iter().map(move |of| (seed, of)));
    let mut differs = runs.map(|(seed, factory)| {
        let run = AssertUnwindSafe(|| model::run(seed, MODEL_STEPS, factory.as_ref()));
        catch_unwind(run).is_err()
    });
    differs.any(|differs| differs)
}

fn seen_with(bug: Bug) -> Seen {
    plant(bug);
    let (a_commit_waited, lost_what_was_committed) = beside_commits();
    let ended = with_a_failed_pass();
    let differs_from_the_model = match bug {
        Bug::Nothing | Bug::PurgeForgetsHighs => differs_from_the_model(),
        Bug::MergeHoldsCommits | Bug::PublishReplacesAll | Bug::FailedPreparePassIsComplete => {
            false
        }
    };
    plant(Bug::Nothing);
    Seen {
        a_commit_waited,
        lost_what_was_committed,
        called_a_failure_complete: matches!(ended, Outcome::Complete(_)),
        differs_from_the_model,
    }
}

#[test]
fn each_is_seen_as_what_it_is() {
    assert_eq!(seen_with(Bug::Nothing), NOTHING);
    let waited = Seen {
        a_commit_waited: true,
        ..NOTHING
    };
    assert_eq!(seen_with(Bug::MergeHoldsCommits), waited);
    let lost = Seen {
        lost_what_was_committed: true,
        ..NOTHING
    };
    assert_eq!(seen_with(Bug::PublishReplacesAll), lost);
    let called = Seen {
        called_a_failure_complete: true,
        ..NOTHING
    };
    assert_eq!(seen_with(Bug::FailedPreparePassIsComplete), called);
    let differs = Seen {
        differs_from_the_model: true,
        ..NOTHING
    };
    assert_eq!(seen_with(Bug::PurgeForgetsHighs), differs);
}
