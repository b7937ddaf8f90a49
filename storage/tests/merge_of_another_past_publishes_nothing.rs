//! A merge whose vbucket was rolled back or deleted meanwhile ends as aborted, whatever step it is at, and publishes
//! nothing; and nobody waits for it.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{AbortReason, Job, KvStore, LogStore, Outcome, Seqno, StorageError};
use support::log_store::{create_on, image, names, open_on, small_options};
use support::{Writer, mutation, vbucket};

/// Three segments of a vbucket, and a merge of them after so many steps; `None` when it has fewer.
fn merging(
    disk: &SimulatedDisk,
    steps: usize,
) -> Option<(
    LogStore,
    Writer,
    impl Job<Output = (), Failure = StorageError>,
)> {
    let (store, shared) = create_on(disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    for seqno in 1..=6 {
        writer.write(vec![mutation(seqno, &format!("k{}", seqno % 4), "value")]);
        if seqno % 2 == 0 {
            writer.seal(Seqno::ZERO);
        }
    }
    let mut merge = store.merge_job(vbucket(0), Seqno::MAX).unwrap();
    for _ in 0..steps {
        if merge.step() != Outcome::Yielded {
            return None;
        }
    }
    Some((store, writer, merge))
}

/// The merge's container is gone at once or once it is given back.
fn assert_no_leftover(disk: &SimulatedDisk, store: &LogStore, containers: usize) {
    store.checkpoint().unwrap();
    for _ in 0..20 {
        let outcome = store.maintain();
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
    }
    assert!(names(disk, "container").len() <= containers);
    assert_eq!(store.verify().faults, []);
}

/// MB-68561, MB-50331: a rollback and a compaction of one vbucket waited for each other.
#[test]
fn after_a_rollback() {
    for steps in 1.. {
        let disk = SimulatedDisk::new();
        let Some((store, mut writer, mut merge)) = merging(&disk, steps) else {
            assert!(steps > 5, "the merge has steps");
            break;
        };
        writer.rollback(3);
        let expected = image(&store, 0);
        let aborted = Outcome::Aborted(AbortReason::RolledBack);
        assert_eq!(merge.run(), aborted, "after {steps} steps");
        assert_eq!(image(&store, 0), expected);
        drop(merge);
        assert_no_leftover(&disk, &store, 2);
        drop((writer, store));
        assert_eq!(image(&open_on(&disk, 2), 0), expected);
    }
}

/// MB-50888: a compaction kept the vbucket it worked on alive, and the deletion waited for it in vain.
#[test]
fn after_a_deletion_and_a_new_life() {
    for steps in 1.. {
        let disk = SimulatedDisk::new();
        let Some((store, writer, mut merge)) = merging(&disk, steps) else {
            assert!(steps > 5, "the merge has steps");
            break;
        };
        store.delete_vbucket(vbucket(0)).unwrap();
        let shared: Arc<dyn KvStore> = Arc::new(store.clone());
        let mut anew = Writer::create(&shared, 0);
        anew.write(vec![mutation(1, "k1", "new life")]);
        let expected = image(&store, 0);
        let aborted = Outcome::Aborted(AbortReason::Deleted);
        assert_eq!(merge.run(), aborted, "after {steps} steps");
        assert_eq!(image(&store, 0), expected);
        drop(merge);
        assert_no_leftover(&disk, &store, 0);
        drop((writer, anew, shared, store));
        assert_eq!(image(&open_on(&disk, 2), 0), expected);
    }
}
