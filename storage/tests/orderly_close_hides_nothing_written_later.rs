//! What is written after an orderly close is there after a crash, though the mark of that close is still on the disk.
//!
//! MB-45756: the mark of a clean shutdown was written before the last flush, and a crash after it looked clean.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{CommitDurability, KvStore, LogStore, StorageError};
use support::log_store::{create_on, image, open_on, small_options};
use support::{Writer, mutation, vbucket};

fn closed() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let (store, shared) = create_on(&disk, small_options(1));
    Writer::create(&shared, 0).write(vec![mutation(1, "a", "one")]);
    drop(shared);
    store.close().unwrap();
    disk.crash_losing_everything_unsynced()
}

fn writer_of(store: &LogStore) -> Writer {
    let snapshot = store.snapshot(vbucket(0)).unwrap();
    Writer {
        store: Arc::new(store.clone()),
        vbucket: vbucket(0),
        incarnation: snapshot.incarnation(),
        epoch: snapshot.epoch(),
        watermarks: snapshot.state().watermarks,
    }
}

#[test]
fn synced_batches_outlive_any_crash_after_it() {
    let disk = closed();
    for round in 0..4 {
        let store = open_on(&disk, round + 2);
        let mut writer = writer_of(&store);
        let seqno = writer.watermarks.high_seqno.0 + 1;
        writer.write(vec![mutation(seqno, "b", "synced")]);
        let mut moments = vec![image(&store, 0)];
        for next in 1..=3 {
            let batch = writer.batch(vec![mutation(seqno + next, "c", &"b".repeat(900))]);
            let answers = store.commit(std::slice::from_ref(&batch), CommitDurability::Buffered);
            assert_eq!(answers, [Ok(())]);
            writer.watermarks = batch.watermarks;
            moments.push(image(&store, 0));
        }
        for seed in 0..60 {
            let crashed = disk.crash(seed);
            let left = open_on(&crashed, seed + 100);
            let found = image(&left, 0);
            assert!(moments.contains(&found), "seed {seed}");
            // What is written next, of the same length, is not followed by what was cut.
            let mut next = writer_of(&left);
            let seqno = next.watermarks.high_seqno.0 + 1;
            next.write(vec![mutation(seqno, "d", &"d".repeat(900))]);
            let after = image(&left, 0);
            drop((next, left));
            let again = open_on(&crashed, seed + 200);
            assert_eq!(image(&again, 0), after, "seed {seed}");
        }
        drop((writer, store));
    }
}

#[test]
fn nothing_is_taken_once_it_began() {
    let disk = closed();
    let store = open_on(&disk, 2);
    let mut writer = writer_of(&store);
    writer.write(vec![mutation(2, "b", "two")]);
    let expected = image(&store, 0);
    store.clone().close().unwrap();
    let batch = writer.batch(vec![mutation(3, "c", "late")]);
    assert_eq!(writer.try_commit(&batch), Err(StorageError::Closed));
    assert_eq!(store.delete_vbucket(vbucket(0)), Err(StorageError::Closed));
    drop((writer, store));
    assert_eq!(image(&open_on(&disk, 3), 0), expected);
}
