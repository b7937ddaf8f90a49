//! A store that keeps a history lets nothing go that was ended inside its window, whoever asks for it, and lets go what
//! lies outside when it is asked; the oldest first where the history is too long in bytes.
//!
//! MB-55467: a compaction without the history flag discarded all history. Here no caller has to think of it.
#![cfg(test)]

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{
    CompactionRequest, CreateOptions, KvStore, LogStore, Namespace, OpenOptions, Outcome,
    Retention, Seqno, SeqnoRange, StorageError,
};

use crate::support::log_store::small_options;
use crate::support::{Image, Writer, deletion, key, mutation, read_all};

mod support;

const SHAPE: CreateOptions = CreateOptions::of(2, 1);

fn options() -> OpenOptions {
    OpenOptions {
        history_floor: Seqno::MAX,
        ..small_options(1)
    }
}

fn store(retention: Retention) -> (SimulatedDisk, Writer) {
    let disk = SimulatedDisk::new();
    let on = Arc::new(disk.clone());
    let store = LogStore::create_with_history(on, SHAPE, Some(retention), options()).unwrap();
    let store: Arc<dyn KvStore> = Arc::new(store);
    let writer = Writer::create(&store, 0);
    (disk, writer)
}

/// What a caller says that thinks of no history at all.
fn everything(now_ms: u64) -> CompactionRequest {
    CompactionRequest {
        drop_deletes: true,
        purge_before_s: u32::MAX,
        now_ms,
        ..CompactionRequest::default()
    }
}

fn compact(writer: &Writer, now_ms: u64) {
    writer.seal(Seqno::MAX);
    let ended = writer.store.compact(writer.vbucket, &everything(now_ms));
    assert!(matches!(ended, Outcome::Complete(_)), "{ended:?}");
}

fn write_at(writer: &mut Writer, time_ms: u64, items: Vec<Arc<piggin_storage::Item>>) -> Image {
    writer.watermarks.commit_time_ms = time_ms;
    writer.write(items);
    writer.image()
}

fn at_time(writer: &Writer, time_ms: u64) -> Result<Vec<u64>, StorageError> {
    let snapshot = writer.snapshot();
    let past = snapshot.as_of(snapshot.seqno_at(time_ms)?)?;
    let (items, _) = read_all(past.scan_by_seqno(SeqnoRange::ALL));
    Ok(items.iter().map(|item| item.seqno.0).collect())
}

#[test]
fn what_is_inside_stays_whoever_compacts() {
    let (_, mut writer) = store(Retention::of_seconds(10));
    write_at(
        &mut writer,
        1_000,
        vec![mutation(1, "a", "one"), mutation(2, "b", "one")],
    );
    write_at(&mut writer, 2_000, vec![mutation(3, "a", "two")]);
    write_at(&mut writer, 3_000, vec![deletion(4, "b")]);
    write_at(&mut writer, 4_000, vec![mutation(5, "c", "one")]);
    // At the very end of the window of the first overwrite, and once more: what a run leaves is left by the next.
    for _ in 0..2 {
        compact(&writer, 11_999);
        assert_eq!(
            at_time(&writer, 999),
            Ok(vec![]),
            "before anything was there"
        );
        assert_eq!(at_time(&writer, 1_000), Ok(vec![1, 2]));
        assert_eq!(at_time(&writer, 2_500), Ok(vec![2, 3]));
        assert_eq!(at_time(&writer, 3_000), Ok(vec![3, 4]));
        assert_eq!(at_time(&writer, u64::MAX), Ok(vec![3, 4, 5]));
    }
    // Now the version that was overwritten at 2,000 is out of the window, and the tombstone is not.
    compact(&writer, 12_000);
    let refused = at_time(&writer, 1_500);
    assert!(
        matches!(
            refused,
            Err(StorageError::ForgottenTime { from_ms: 2_000, .. })
        ),
        "{refused:?}"
    );
    assert_eq!(at_time(&writer, 2_000), Ok(vec![2, 3]));
    // Then both are; what is left is what there is.
    compact(&writer, 14_000);
    assert_eq!(at_time(&writer, 4_000), Ok(vec![3, 5]));
    assert!(at_time(&writer, 3_500).is_err());
}

#[test]
fn versions_of_a_key_come_newest_first_with_their_times() {
    let (_, mut writer) = store(Retention::of_seconds(10));
    write_at(
        &mut writer,
        1_000,
        vec![mutation(1, "a", "one"), mutation(2, "a", "two")],
    );
    compact(&writer, 1_000);
    write_at(
        &mut writer,
        2_000,
        vec![mutation(3, "x", "one"), mutation(4, "a", "three")],
    );
    let snapshot = writer.snapshot();
    let versions = snapshot
        .versions(Namespace::Committed, &key("a"), usize::MAX)
        .unwrap();
    let told = versions.iter().map(|item| {
        let at = snapshot.committed_at(item.seqno).unwrap();
        (item.seqno.0, at)
    });
    let told: Vec<(u64, u64)> = told.collect();
    assert_eq!(told, [(4, 2_000), (2, 1_000), (1, 1_000)]);
    assert_eq!(snapshot.history_start(), Seqno(1));
}

#[test]
fn a_clock_that_steps_back_moves_no_moment() {
    let (_, mut writer) = store(Retention::of_seconds(10));
    write_at(&mut writer, 5_000, vec![mutation(1, "a", "one")]);
    write_at(&mut writer, 3_000, vec![mutation(2, "a", "two")]);
    write_at(&mut writer, 6_000, vec![mutation(3, "a", "three")]);
    // A state alone is seen by no reader and changes no moment.
    write_at(&mut writer, 9_000, vec![]);
    assert_eq!(at_time(&writer, 4_999), Ok(vec![]));
    assert_eq!(at_time(&writer, 5_000), Ok(vec![2]), "the later of both");
    assert_eq!(at_time(&writer, 6_000), Ok(vec![3]));
    compact(&writer, 0);
    assert_eq!(at_time(&writer, 6_000), Ok(vec![3]));
}

#[test]
fn a_clock_that_ran_ahead_once_lets_nothing_go() {
    let (_, mut writer) = store(Retention::of_seconds(10));
    write_at(&mut writer, 1_000, vec![mutation(1, "a", "one")]);
    write_at(&mut writer, 2_000, vec![mutation(2, "a", "two")]);
    write_at(&mut writer, 900_000, vec![mutation(3, "a", "three")]);
    // The clock is right again, and everything before the jump is inside of the window.
    compact(&writer, 3_000);
    write_at(&mut writer, 3_000, vec![mutation(4, "a", "four")]);
    compact(&writer, 4_000);
    assert_eq!(at_time(&writer, 1_000), Ok(vec![1]));
    assert_eq!(at_time(&writer, 2_000), Ok(vec![2]));
    assert_eq!(at_time(&writer, 900_000), Ok(vec![4]));
}

#[test]
fn the_oldest_go_first_where_it_is_too_long_in_bytes() {
    // Half of it for each vbucket.
    let (_, mut writer) = store(Retention {
        window_s: 1_000,
        bytes: Some(8_000),
    });
    let value = "v".repeat(900);
    for seqno in 1..=20 {
        write_at(&mut writer, seqno * 10, vec![mutation(seqno, "a", &value)]);
    }
    compact(&writer, 200);
    let held = writer
        .snapshot()
        .versions(Namespace::Committed, &key("a"), usize::MAX);
    let held: Vec<u64> = held.unwrap().iter().map(|item| item.seqno.0).collect();
    assert_eq!(
        held,
        [20, 19, 18, 17, 16],
        "four versions of nearly 1,000 bytes"
    );
    assert_eq!(at_time(&writer, 160), Ok(vec![16]));
    assert!(at_time(&writer, 159).is_err());
}

#[test]
fn what_was_chosen_is_stored_with_the_store() {
    let retention = Retention {
        window_s: 10,
        bytes: Some(1 << 20),
    };
    let (disk, mut writer) = store(retention);
    write_at(&mut writer, 1_000, vec![mutation(1, "a", "one")]);
    write_at(&mut writer, 2_000, vec![mutation(2, "a", "two")]);
    drop(writer);
    let opened = LogStore::open(
        Arc::new(disk),
        OpenOptions {
            entropy: 2,
            ..options()
        },
    )
    .unwrap();
    assert_eq!(opened.retention(), Some(retention));
    for wrong in [
        Retention::of_seconds(0),
        Retention {
            window_s: 1,
            bytes: Some(0),
        },
        // Less than a byte for each vbucket.
        Retention {
            window_s: 1,
            bytes: Some(1),
        },
    ] {
        let disk = SimulatedDisk::new();
        let refused =
            LogStore::create_with_history(Arc::new(disk.clone()), SHAPE, Some(wrong), options());
        assert!(matches!(refused, Err(StorageError::Setting(_))));
        assert!(disk.files().is_empty(), "nothing was made");
    }
}

#[test]
fn a_store_without_one_keeps_nothing() {
    let disk = SimulatedDisk::new();
    let store = LogStore::create(Arc::new(disk), SHAPE, options()).unwrap();
    assert_eq!(store.retention(), None);
    let store: Arc<dyn KvStore> = Arc::new(store);
    let mut writer = Writer::create(&store, 0);
    write_at(&mut writer, 1_000, vec![mutation(1, "a", "one")]);
    write_at(&mut writer, 2_000, vec![mutation(2, "a", "two")]);
    compact(&writer, 2_000);
    assert!(at_time(&writer, 1_000).is_err());
}
