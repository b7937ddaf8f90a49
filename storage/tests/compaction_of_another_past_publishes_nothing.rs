//! A rollback, a deletion and a new life arriving at any step of a compaction end it as aborted: nobody waits for it,
//! nothing of it is to be seen, and what comes after is whole. Dropped collections stay listed, or go with the past
//! they belong to.
#![cfg(test)]

mod support;
#[expect(
    dead_code,
    reason = "only the model of a vbucket is used, not its runs"
)]
mod model;
mod beside;

use std::sync::Arc;

use beside::{Beside, begin_of, end_of, of};
use piggin_storage::{AbortReason, CompactionJob, CompactionRequest, Job, KvStore, Outcome, Seqno};
use support::log_store::{image, names, open_on};
use support::{Writer, mutation, vbucket};

fn all() -> CompactionRequest {
    CompactionRequest {
        drop_deletes: true,
        ..CompactionRequest::default()
    }
}

/// A compaction after so many steps; `None` when it has fewer.
fn compacting(steps: usize) -> Option<(Beside, CompactionJob)> {
    let beside = Beside::filled();
    let mut job = beside.store.compaction_job(vbucket(0), all()).unwrap();
    for _ in 0..steps {
        if job.step() != Outcome::Yielded {
            return None;
        }
    }
    Some((beside, job))
}

fn assert_no_leftover(beside: &Beside, containers: usize) {
    beside.store.checkpoint().unwrap();
    for _ in 0..40 {
        let outcome = beside.store.maintain();
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
    }
    let left = names(&beside.disk, "container");
    assert!(left.len() <= containers, "{left:?}");
    assert_eq!(beside.store.verify().faults, []);
}

/// MB-68561, MB-50331: a rollback and a compaction of one vbucket waited for each other.
#[test]
fn mb_68561_a_rollback_at_every_step() {
    for steps in 1.. {
        let Some((mut beside, mut job)) = compacting(steps) else {
            assert!(steps > 10, "the compaction has steps");
            return;
        };
        let listed = beside.dropped();
        // Back to before the second drop.
        let to = listed[1].end.0 - 1;
        beside.writer.rollback(to);
        let expected = image(&beside.store, 0);
        let ended = job.run();
        assert_eq!(ended, Outcome::Aborted(AbortReason::RolledBack), "{steps}");
        drop(job);
        assert_eq!(image(&beside.store, 0), expected);
        assert_eq!(beside.dropped(), listed[..1]);
        assert_no_leftover(&beside, 12);
        let store = open_on(&beside.disk.crash_losing_everything_unsynced(), 9);
        assert_eq!(image(&store, 0), expected);
        let snapshot = store.snapshot(vbucket(0)).unwrap();
        assert_eq!(snapshot.dropped_collections(), listed[..1]);
        // The next one erases what is still dropped.
        let ended = store.compact(vbucket(0), &all());
        let Outcome::Complete(told) = ended else {
            panic!("{ended:?}");
        };
        assert_eq!(told.erased, listed[..1]);
        assert_eq!(store.verify().faults, []);
    }
}

/// MB-50888: a compaction kept the vbucket it worked on alive, and the deletion waited for it in vain.
#[test]
fn mb_50888_a_deletion_and_a_new_life_at_every_step() {
    for steps in 1.. {
        let Some((beside, mut job)) = compacting(steps) else {
            assert!(steps > 10, "the compaction has steps");
            return;
        };
        beside.store.delete_vbucket(vbucket(0)).unwrap();
        let shared: Arc<dyn KvStore> = Arc::new(beside.store.clone());
        let mut anew = Writer::create(&shared, 0);
        anew.write(vec![
            begin_of(1, 8),
            of(8, mutation(2, "a", "new life")),
            end_of(3, 8, 1),
            begin_of(4, 8),
            of(8, mutation(5, "a", "second life")),
        ]);
        let expected = image(&beside.store, 0);
        let ended = job.run();
        assert_eq!(ended, Outcome::Aborted(AbortReason::Deleted), "{steps}");
        drop(job);
        assert_eq!(image(&beside.store, 0), expected);
        assert_eq!(anew.snapshot().dropped_collections().len(), 1);
        assert_no_leftover(&beside, 0);
        let store = open_on(&beside.disk.crash_losing_everything_unsynced(), 9);
        assert_eq!(image(&store, 0), expected);
    }
}

/// A compaction that is dropped at any step leaves nothing behind, and another may begin at once.
#[test]
fn given_up_at_every_step() {
    for steps in 1.. {
        let Some((mut beside, job)) = compacting(steps) else {
            assert!(steps > 10, "the compaction has steps");
            return;
        };
        drop(job);
        beside.check();
        beside.compact_with(&all(), |_, _| {});
        beside.check_disk();
        assert_no_leftover(&beside, 3);
    }
}

/// Only one compaction of a vbucket is at work; compactions of others are not held up, nor is copying out.
#[test]
fn compactions_of_one_log_shard_run_together() {
    let mut beside = Beside::filled();
    let shared: Arc<dyn KvStore> = Arc::new(beside.store.clone());
    let mut other = Writer::create(&shared, 1);
    for seqno in 1..=6 {
        other.write(vec![mutation(seqno, &format!("k{}", seqno % 2), "value")]);
        other.seal(Seqno::ZERO);
    }
    let expected = image(&beside.store, 1);
    let mut first = beside.store.compaction_job(vbucket(0), all()).unwrap();
    let mut second = beside.store.compaction_job(vbucket(1), all()).unwrap();
    let mut third = beside.store.compaction_job(vbucket(0), all()).unwrap();
    let request = all();
    assert_eq!(beside.step(&mut first, &request), Outcome::Yielded);
    assert_eq!(third.step(), Outcome::Aborted(AbortReason::Superseded));
    let mut ended = 0;
    while ended < 2 {
        ended = 0;
        match beside.step(&mut first, &request) {
            Outcome::Yielded => beside.check(),
            Outcome::Complete(told) => {
                if told.bytes_before > 0 {
                    beside.published(told);
                }
                ended += 1;
            }
            other @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{other:?}"),
        }
        match second.step() {
            Outcome::Yielded => {}
            Outcome::Complete(_) => ended += 1,
            other @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{other:?}"),
        }
        assert_eq!(image(&beside.store, 1), expected);
    }
    beside.check_disk();
}
