//! Whatever befalls a vbucket while its newest segments are merged, at whichever step: a rollback, a deletion and a new
//! life end the merge, and nothing of it is to be seen; drops and second lives stay listed, for it erases nothing; a snapshot
//! that was taken before reads what it read; one that is given up leaves nothing behind.
#![cfg(test)]

mod support;
#[expect(
    dead_code,
    reason = "only the model of a vbucket is used, not its runs"
)]
mod model;
mod beside;

use std::sync::Arc;

use beside::{Beside, LIVES, begin_of, of};
use piggin_storage::{
    AbortReason, CollectionId, CompactionJob, CompactionRequest, DroppedCollection, Job, KvStore,
    Outcome, Seqno,
};
use support::log_store::{image, names, open_on};
use support::{Image, Writer, mutation, vbucket};

/// Fewer than this, and the test has not seen the merge.
const STEPS_MIN: usize = 5;

fn newest() -> CompactionRequest {
    CompactionRequest {
        newest_only: true,
        ..CompactionRequest::default()
    }
}

fn all() -> CompactionRequest {
    CompactionRequest {
        drop_deletes: true,
        ..CompactionRequest::default()
    }
}

/// A merge after so many steps; `None` when it has fewer.
fn merging(steps: usize) -> Option<(Beside, CompactionJob)> {
    let beside = Beside::filled();
    let mut job = beside.store.compaction_job(vbucket(0), newest()).unwrap();
    for _ in 0..steps {
        if job.step() != Outcome::Yielded {
            assert!(steps > STEPS_MIN, "the merge has steps");
            return None;
        }
    }
    Some((beside, job))
}

#[test]
fn mb_68561_a_rollback() {
    for steps in 1.. {
        let Some((mut beside, mut job)) = merging(steps) else {
            return;
        };
        let listed = beside.dropped();
        // Back to before the second drop.
        beside.writer.rollback(listed[1].end.0 - 1);
        let expected = image(&beside.store, 0);
        let ended = job.run();
        assert_eq!(ended, Outcome::Aborted(AbortReason::RolledBack), "{steps}");
        drop(job);
        assert_eq!(image(&beside.store, 0), expected);
        assert_eq!(beside.dropped(), listed[..1]);
        let store = open_on(&beside.disk.crash_losing_everything_unsynced(), 9);
        assert_eq!(image(&store, 0), expected);
        assert_eq!(store.verify().faults, []);
    }
}

#[test]
fn mb_50888_a_deletion_and_a_new_life() {
    for steps in 1.. {
        let Some((beside, mut job)) = merging(steps) else {
            return;
        };
        beside.store.delete_vbucket(vbucket(0)).unwrap();
        let shared: Arc<dyn KvStore> = Arc::new(beside.store.clone());
        let mut anew = Writer::create(&shared, 0);
        anew.write(vec![mutation(1, "a", "new life")]);
        let expected = image(&beside.store, 0);
        let ended = job.run();
        assert_eq!(ended, Outcome::Aborted(AbortReason::Deleted), "{steps}");
        drop(job);
        assert_eq!(image(&beside.store, 0), expected);
        let store = open_on(&beside.disk.crash_losing_everything_unsynced(), 9);
        assert_eq!(image(&store, 0), expected);
        assert_eq!(store.verify().faults, []);
    }
}

#[test]
fn given_up() {
    for steps in 1.. {
        let Some((mut beside, job)) = merging(steps) else {
            return;
        };
        drop(job);
        beside.check();
        beside.compact_with(&newest(), |_, _| {});
        beside.compact_with(&all(), |_, _| {});
        beside.check_disk();
        beside.store.checkpoint().unwrap();
        for _ in 0..40 {
            let outcome = beside.store.maintain();
            assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
        }
        let left = names(&beside.disk, "container");
        assert!(left.len() <= 3, "{left:?}");
    }
}

/// MB-42652, MB-44590, MB-49472: what was listed stays, and so does what is dropped meanwhile, and made anew.
#[test]
fn a_drop_and_a_second_life() {
    for at in 0.. {
        let mut beside = Beside::filled();
        let mut listed = beside.dropped();
        let mut number = 0;
        beside.compact_with(&newest(), |beside, stage| {
            if number == at {
                let end = beside.next();
                beside.drop_collection(LIVES, 21);
                listed.push(DroppedCollection {
                    collection: CollectionId(LIVES),
                    start: Seqno(21),
                    end: Seqno(end),
                });
                beside.write(vec![begin_of(end + 1, LIVES)]);
                beside.write(vec![of(LIVES, mutation(end + 2, "a", "second life"))]);
                beside.seal_at(stage);
            }
            number += 1;
        });
        if number <= at {
            assert!(at > STEPS_MIN, "the merge has steps");
            return;
        }
        assert_eq!(beside.dropped(), listed, "at {at}");
        beside.check_disk();
        beside.compact_with(&all(), |_, _| {});
        assert_eq!(beside.dropped(), []);
        beside.check_disk();
    }
}

#[test]
fn a_snapshot_of_every_step_reads_what_it_read() {
    let mut beside = Beside::filled();
    let mut taken = Vec::new();
    beside.compact_with(&newest(), |beside, stage| {
        let seqno = beside.next();
        beside.write(vec![of(LIVES, mutation(seqno, "a", "beside"))]);
        beside.seal_at(stage);
        let snapshot = beside.store.snapshot(vbucket(0)).unwrap();
        let then = Image::of(snapshot.as_ref());
        taken.push((snapshot, then));
    });
    assert!(taken.len() > STEPS_MIN, "{}", taken.len());
    beside.compact_with(&all(), |_, _| {});
    beside.store.checkpoint().unwrap();
    for _ in 0..40 {
        let outcome = beside.store.maintain();
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
    }
    for (number, (snapshot, then)) in taken.iter().enumerate() {
        assert_eq!(Image::of(snapshot.as_ref()), *then, "taken at {number}");
    }
}
