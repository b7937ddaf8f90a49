//! A commit that the disk fails changes nothing, and the same batch succeeds when it is tried again.
//!
//! What was not answered with success is not counted, not read, and not carried along by the next commit.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::{Fault, SimulatedDisk, SyncFailure, Verb};
use piggin_storage::{Batch, CommitDurability, LogStore, StorageError, VbucketIdentity};
use support::log_store::{create_on, failing, image, open_on, small_options};
use support::{Writer, deletion, identity, mutation, vbucket};

/// Everything a commit asks of the disk fails from now on, so that no other file helps.
fn faults() -> [Vec<Fault>; 3] {
    [
        vec![failing(Verb::Write, "log").lasting()],
        vec![failing(Verb::Sync, "log").lasting()],
        vec![
            Fault::failed_sync(SyncFailure::KeepsPages).of_files("log"),
            failing(Verb::Open, "log-new").lasting(),
        ],
    ]
}

/// A vbucket of two documents, and a batch that inserts, overwrites, deletes and changes the state.
fn store_and_batch(disk: &SimulatedDisk) -> (LogStore, Writer, Batch) {
    let (store, shared) = create_on(disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    writer.write(vec![mutation(1, "a", "one"), mutation(2, "b", "one")]);
    let items = vec![
        mutation(3, "a", "two"),
        deletion(4, "b"),
        mutation(5, "c", "two"),
    ];
    let mut batch = writer.batch(items);
    batch.identity = Some(identity(0xb0b));
    (store, writer, batch)
}

fn fail(disk: &SimulatedDisk, faults: Vec<Fault>, writer: &Writer, batch: &Batch) {
    for fault in faults {
        disk.inject(fault);
    }
    let error = writer.try_commit(batch).unwrap_err();
    assert!(matches!(error, StorageError::Disk(_)), "{error:?}");
    disk.clear_faults();
}

/// MB-38845, MB-36771: some errors of a commit went the way of success: figures moved, the cached state was replaced,
/// and a deletion left memory before it was on disk.
#[test]
fn nothing_of_it_is_read_or_counted() {
    for faults in faults() {
        let disk = SimulatedDisk::new();
        let (store, writer, batch) = store_and_batch(&disk);
        let before = (image(&store, 0), store.statistics().unsealed_bytes);
        fail(&disk, faults, &writer, &batch);
        let after = (image(&store, 0), store.statistics().unsealed_bytes);
        assert_eq!(after, before);
    }
}

/// MB-37546: a batch that failed was tried again without the state it carried. MB-42224: after a failed sync the
/// second try found its own inserts on the disk, and counted them as updates.
#[test]
fn tried_again_it_is_there_once_with_its_state() {
    for faults in faults() {
        let disk = SimulatedDisk::new();
        let (store, writer, batch) = store_and_batch(&disk);
        for _ in 0..3 {
            fail(&disk, faults.clone(), &writer, &batch);
        }
        writer.try_commit(&batch).unwrap();
        let expected = image(&store, 0);
        assert_eq!(expected.seqnos(), [3, 4, 5]);
        assert_eq!(expected.state.identity, identity(0xb0b));
        let total = expected.counts.total();
        assert_eq!((total.documents, total.tombstones), (2, 1));
        for left in [
            disk.crash_keeping_everything(),
            disk.crash_losing_everything_unsynced(),
        ] {
            assert_eq!(image(&open_on(&left, 2), 0), expected);
        }
    }
}

/// MB-41747: what a failed commit had changed in a cached handle was made durable by the next one.
#[test]
fn the_next_commit_holds_its_own_batch_only() {
    for faults in faults() {
        let disk = SimulatedDisk::new();
        let (store, mut writer, batch) = store_and_batch(&disk);
        fail(&disk, faults, &writer, &batch);
        writer.write(vec![mutation(3, "d", "other")]);
        let expected = image(&store, 0);
        assert_eq!(expected.seqnos(), [1, 2, 3]);
        for left in [
            disk.crash_keeping_everything(),
            disk.crash_losing_everything_unsynced(),
        ] {
            assert_eq!(image(&open_on(&left, 2), 0), expected);
        }
    }
}

/// MB-64317, MB-44140, MB-29816: a state that could not be written was passed over, and its documents were stored
/// without it. Here the batch is refused whole, and the others of its group are not.
#[test]
fn a_state_that_cannot_be_written_refuses_its_batch() {
    support::on_every_store(|mut writer| {
        writer.write(vec![mutation(1, "a", "one")]);
        let other = Writer::create(&writer.store, 2);
        let before = writer.image();
        let mut batch = writer.batch(vec![mutation(2, "b", "two")]);
        let mut large = VbucketIdentity::clone(&identity(2));
        let name = "n".repeat(VbucketIdentity::TOPOLOGY_BYTES_MAX + 1);
        large.topology.chains = vec![vec![Some(name)]];
        batch.identity = Some(Arc::new(large.clone()));
        let group = [batch, other.batch(vec![mutation(1, "a", "other")])];
        let answers = writer.store.commit(&group, CommitDurability::Synced);
        let refused = matches!(answers[0], Err(StorageError::Refused { .. }));
        assert!(refused, "{:?}", answers[0]);
        assert_eq!(answers[1], Ok(()));
        assert_eq!(writer.image(), before);
        assert_eq!(other.image().seqnos(), [1]);
        let mut state = support::new_state();
        state.identity = Arc::new(large);
        let created = writer.store.create_vbucket(vbucket(3), &state);
        assert!(matches!(created, Err(StorageError::Refused { .. })));
    });
}
