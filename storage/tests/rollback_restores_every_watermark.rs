//! After a rollback every watermark is what it was at that seqno, and so are the counts and the failover table.
//!
//! MB-41985: a rollback left the high prepared and completed seqnos of the future behind, and the durability
//! monitor acknowledged prepares that were gone.
#![cfg(test)]

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{
    KvStore, MemoryStore, Outcome, RollbackEpoch, RolledBack, Seqno, SnapshotKind, SnapshotRange,
    StorageError, VbucketIdentity, VbucketUuid, Watermarks,
};

use crate::support::log_store::{create_on, open_on, small_options};
use crate::support::{
    Writer, abort_of, commit_of, identity, mutation, on_every_store, prepare, read_all,
};

mod support;

fn assert_rollback_restores(writer: &mut Writer, to: u64, then: &support::Image) {
    let epoch = writer.epoch;
    writer.rollback(to);
    let now = writer.image();
    assert_eq!(writer.epoch, RollbackEpoch(epoch.0 + 1));
    assert_eq!(now.state, then.state);
    assert_eq!(now.by_seqno, then.by_seqno);
    assert_eq!(now.by_key, then.by_key);
    assert_eq!(now.counts, then.counts);
}

#[test]
fn at_the_end_of_a_batch() {
    on_every_store(|mut writer| {
        let mut moments = vec![(0, writer.image())];
        let batches = [
            vec![mutation(1, "a", "one"), prepare(2, "b", "one")],
            vec![commit_of(2, 3, "b", "one"), prepare(4, "a", "two")],
            vec![abort_of(4, 5, "a")],
            vec![prepare(6, "c", "three"), mutation(7, "a", "three")],
        ];
        for (batch, time) in batches.into_iter().zip(100..) {
            writer.watermarks.commit_time_ms = time;
            writer.watermarks.high_prepared_seqno = writer.watermarks.prepared_seqno;
            writer.watermarks.snapshot.start = writer.watermarks.high_seqno;
            writer.write(batch);
            moments.push((writer.watermarks.high_seqno.0, writer.image()));
        }
        for (to, then) in moments.iter().rev() {
            assert_rollback_restores(&mut writer, *to, then);
        }
    });
}

#[test]
fn in_the_middle_of_a_batch() {
    on_every_store(|mut writer| {
        writer.watermarks.commit_time_ms = 5;
        writer.write(vec![prepare(1, "a", "one"), mutation(2, "b", "one")]);
        writer.watermarks = Watermarks {
            snapshot_kind: SnapshotKind::Disk,
            snapshot: SnapshotRange {
                start: Seqno(2),
                end: Seqno(20),
            },
            commit_time_ms: 6,
            ..writer.watermarks
        };
        writer.write(vec![
            commit_of(1, 10, "a", "one"),
            prepare(12, "b", "two"),
            mutation(14, "c", "two"),
            prepare(16, "c", "two"),
        ]);
        writer.rollback(13);
        let expected = Watermarks {
            high_seqno: Seqno(13),
            max_visible_seqno: Seqno(10),
            prepared_seqno: Seqno(12),
            completed_seqno: Seqno(1),
            high_prepared_seqno: Seqno(0),
            purge_seqno: Seqno(0),
            // Of the snapshot that was cut nothing is whole.
            snapshot: SnapshotRange {
                start: Seqno(2),
                end: Seqno(16),
            },
            snapshot_kind: SnapshotKind::Disk,
            // That of the batch it is in the middle of.
            commit_time_ms: 6,
        };
        assert_eq!(writer.stored_watermarks(), expected);
        assert_eq!(writer.image().seqnos(), [1, 2, 10, 12]);
    });
}

#[test]
fn branches_above_are_forgotten() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(1, "a", "one")]);
        writer.write(vec![mutation(5, "a", "two")]);
        let mut branched = VbucketIdentity::clone(&identity(1));
        branched
            .failover_table
            .create_entry(VbucketUuid(2), Seqno(3));
        branched
            .failover_table
            .create_entry(VbucketUuid(3), Seqno(5));
        let mut batch = writer.batch(vec![]);
        batch.identity = Some(Arc::new(branched));
        writer.try_commit(&batch).unwrap();
        writer.rollback(4);
        let state = writer.store.state(writer.vbucket).unwrap();
        let entries = state.identity.failover_table.entries();
        let uuids: Vec<u64> = entries.iter().map(|entry| entry.uuid.0).collect();
        assert_eq!(uuids, [2, 1]);
    });
}

#[test]
fn to_the_high_seqno_only_the_epoch_moves() {
    on_every_store(|mut writer| {
        writer.watermarks.snapshot.end = Seqno(9);
        writer.write(vec![mutation(1, "a", "one"), mutation(4, "b", "one")]);
        let then = writer.image();
        assert_rollback_restores(&mut writer, 4, &then);
    });
}

#[test]
fn above_the_high_seqno_it_fails_and_nothing_moves() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(4, "a", "one")]);
        let before = writer.image();
        let outcome = writer.store.rollback(writer.vbucket, Seqno(5));
        let cause = StorageError::RollbackAbove {
            vbucket: writer.vbucket,
            to: Seqno(5),
            high_seqno: Seqno(4),
        };
        assert_eq!(outcome, Outcome::Failed(cause));
        assert_eq!(writer.image(), before);
    });
}

#[test]
fn where_it_is_no_longer_known_nothing_is_left() {
    on_every_store(|mut writer| {
        writer.watermarks.purge_seqno = Seqno(1);
        writer.write(vec![mutation(1, "a", "one"), mutation(2, "b", "one")]);
        writer.write(vec![mutation(6, "a", "two")]);
        writer.seal(Seqno(6));
        match writer.store.rollback(writer.vbucket, Seqno(5)) {
            Outcome::Complete(RolledBack::ToZero { epoch }) => {
                assert_eq!(epoch, RollbackEpoch(1));
                let image = writer.image();
                assert_eq!(image.seqnos(), [0; 0]);
                assert_eq!(image.state.watermarks, Watermarks::default());
                assert!(image.counts.collections.is_empty());
            }
            // A store that kept the version may restore it.
            Outcome::Complete(RolledBack::To { .. }) => {
                assert_eq!(writer.image().seqnos(), [1, 2]);
            }
            other @ (Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                panic!("{other:?}")
            }
        }
    });
}

#[test]
fn a_floor_below_the_killer_keeps_the_version() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(1, "a", "one"), mutation(6, "a", "two")]);
        writer.seal(Seqno(5));
        writer.rollback(5);
        let (items, _) = read_all(
            writer
                .snapshot()
                .scan_by_seqno(piggin_storage::SeqnoRange::ALL),
        );
        assert_eq!(items[0].document.value, "one");
    });
}

/// The moment a rollback went back to is known as the end of a batch is, though nothing was written just below it: also when a
/// manifest was made of it, something was written on top, and the store was opened again.
#[test]
fn where_nothing_lies_below_it_the_moment_is_known_ever_after() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create_on(&disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    let nothing: Arc<dyn KvStore> = Arc::new(MemoryStore::new(0));
    writer.watermarks.commit_time_ms = 100;
    writer.write(vec![mutation(1, "a", "one"), mutation(2, "b", "one")]);
    writer.seal(Seqno::ZERO);
    writer.watermarks.commit_time_ms = 200;
    writer.write(vec![mutation(7, "c", "one")]);
    writer.rollback(5);
    let then = writer.stored_watermarks();
    assert_eq!(then.high_seqno, Seqno(5));
    // Opened again it is one of several moments that are known of the time before the next item.
    writer.store = nothing;
    drop((store, shared));
    let store = open_on(&disk, 2);
    writer.store = Arc::new(store.clone());
    // And the log knows nothing of it any more.
    let mut other = Writer::create(&writer.store, 1);
    let value = "v".repeat(1000);
    for seqno in 1..200 {
        other.write(vec![mutation(seqno, &format!("k{seqno}"), &value)]);
    }
    other.seal(Seqno::ZERO);
    assert!(store.statistics().log_files > 1);
    store.checkpoint().unwrap();
    assert_eq!(store.statistics().log_files, 1);
    writer.watermarks.commit_time_ms = 300;
    writer.watermarks.snapshot = SnapshotRange {
        start: Seqno(5),
        end: Seqno(30),
    };
    writer.write(vec![mutation(9, "c", "two")]);
    for entropy in 3..5 {
        let snapshot = store.snapshot(writer.vbucket).unwrap();
        assert_eq!(snapshot.as_of(Seqno(5)).unwrap().state().watermarks, then);
        let again = open_on(&disk.crash_keeping_everything(), entropy);
        let snapshot = again.snapshot(writer.vbucket).unwrap();
        assert_eq!(snapshot.as_of(Seqno(5)).unwrap().state().watermarks, then);
        // With the item that came on top in a segment.
        writer.seal(Seqno::ZERO);
    }
}
