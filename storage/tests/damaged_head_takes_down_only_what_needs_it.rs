//! Damage to the head of a file takes down the vbuckets that need the file, by name, and nothing else.
//!
//! MB-38031, MB-64902: a head that could not be read was taken for an empty one, or skipped for an older one. Here no
//! vbucket ever looks emptier than it is; what the damage does not concern serves; no file that a repair may need is
//! touched, and after the repair everything is there.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use piggin_storage::disk::{DiskErrorKind, Fault, SimulatedDisk, Verb};
use piggin_storage::log_store::Maintained;
use piggin_storage::{
    Advice, CommitDurability, CreateOptions, Item, KvStore, LogStore, Outcome, Seqno, StorageError,
};
use support::log_store::small_options;
use support::{Image, Writer, mutation, new_state, vbucket};

/// Bytes of the header of a log file that say something.
const LOG_HEADER: u64 = 56;
/// Bytes of a manifest before its head.
const MANIFEST_PREFIX: u64 = 32;

fn create(disk: &SimulatedDisk, log_shards: u16) -> (LogStore, Arc<dyn KvStore>) {
    let shape = CreateOptions::of(4, log_shards);
    let store = LogStore::create(Arc::new(disk.clone()), shape, small_options(1)).unwrap();
    (store.clone(), Arc::new(store))
}

fn open(disk: &SimulatedDisk, entropy: u64) -> LogStore {
    LogStore::open(Arc::new(disk.clone()), small_options(entropy)).unwrap()
}

fn image(store: &LogStore, number: u16) -> Image {
    Image::of(store.snapshot(vbucket(number)).unwrap().as_ref())
}

fn names(disk: &SimulatedDisk, prefix: &str) -> Vec<String> {
    let names = disk.files().into_keys();
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// The files of shard 0.
fn files(disk: &SimulatedDisk) -> BTreeMap<String, Vec<u8>> {
    let files = disk.files().into_iter();
    files.filter(|(name, _)| name.contains(".00.")).collect()
}

fn large(seqno: u64, name: &str, bytes: usize) -> Arc<Item> {
    let mut item = Item::clone(&mutation(seqno, name, ""));
    item.document.value = Bytes::from(vec![7; bytes]);
    Arc::new(item)
}

/// Sealed, checkpointed and unsealed items in the four vbuckets of two shards, and what each vbucket is.
fn filled(disk: &SimulatedDisk, closes: bool) -> BTreeMap<u16, Image> {
    let (store, shared) = create(disk, 2);
    let mut writers = [0, 1, 2, 3].map(|number| Writer::create(&shared, number));
    for writer in &mut writers {
        writer.write(vec![mutation(1, "a", "1")]);
        writer.seal(Seqno::ZERO);
    }
    store.checkpoint().unwrap();
    for writer in &mut writers {
        writer.write(vec![mutation(2, "b", "2")]);
    }
    let images = (0..4).map(|number| (number, image(&store, number)));
    let images = images.collect();
    drop((writers, shared));
    if closes {
        store.close().unwrap();
    }
    images
}

/// The vbuckets are down, and say that `file` is why.
fn assert_down(store: &LogStore, numbers: &[u16], file: &str) {
    let down = store.vbuckets().into_iter();
    let down: Vec<u16> = down
        .filter(|status| status.position.is_err())
        .map(|status| status.vbucket.get())
        .collect();
    assert_eq!(down, numbers);
    for number in numbers {
        let error = store.snapshot(vbucket(*number)).unwrap_err();
        assert_eq!(error.advice(), Advice::Repair, "{error}");
        let StorageError::VbucketDown { cause, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(
            matches!(&**cause, StorageError::Corruption { file: named, .. } if named == file),
            "{cause}"
        );
    }
}

fn assert_found_by_verify(store: &LogStore, file: &str) {
    let faults = store.verify().faults;
    assert!(faults.iter().any(|fault| fault.file == file), "{faults:?}");
}

fn work(store: &LogStore) {
    for _ in 0..100 {
        match store.maintain() {
            Outcome::Complete(Maintained::Nothing) => return,
            Outcome::Complete(Maintained::Worked) => {}
            ended @ (Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                panic!("{ended:?}")
            }
        }
    }
    panic!("maintenance does not come to an end");
}

/// Writes an item to each of these vbuckets.
fn go_on(store: &LogStore, numbers: &[u16]) {
    for number in numbers {
        let snapshot = store.snapshot(vbucket(*number)).unwrap();
        let writer = Writer {
            store: Arc::new(store.clone()),
            vbucket: vbucket(*number),
            incarnation: snapshot.incarnation(),
            epoch: snapshot.epoch(),
            watermarks: snapshot.state().watermarks,
        };
        let seqno = snapshot.high_seqno().0 + 1;
        let batch = writer.batch(vec![mutation(seqno, "z", "on")]);
        writer.try_commit(&batch).unwrap();
    }
}

#[test]
fn log_header_in_every_byte() {
    for offset in 0..LOG_HEADER {
        let disk = SimulatedDisk::new();
        let images = filled(&disk, false);
        let log = names(&disk, "log.00").pop().unwrap();
        disk.flip_bit(&log, offset, 3).unwrap();
        let before = files(&disk);
        let store = open(&disk, 2);
        assert_down(&store, &[0, 2], &log);
        assert_found_by_verify(&store, &log);
        for number in [1, 3] {
            assert_eq!(image(&store, number), images[&number], "offset {offset}");
        }
        go_on(&store, &[1, 3]);
        work(&store);
        store.checkpoint().unwrap();
        work(&store);
        drop(store);
        let after = files(&disk);
        for (name, bytes) in before {
            let is_checkpoint = name.starts_with("manifest");
            assert!(is_checkpoint || after.get(&name) == Some(&bytes), "{name}");
        }
        let store = open(&disk, 3);
        assert_down(&store, &[0, 2], &log);
        drop(store);
        disk.flip_bit(&log, offset, 3).unwrap();
        let store = open(&disk, 4);
        for number in [0, 2] {
            assert_eq!(image(&store, number), images[&number], "offset {offset}");
        }
        assert_eq!(store.verify().faults, []);
    }
}

#[test]
fn vbucket_down_by_a_log_header_is_deleted_and_made_anew() {
    let disk = SimulatedDisk::new();
    filled(&disk, false);
    let log = names(&disk, "log.00").pop().unwrap();
    disk.flip_bit(&log, 30, 0).unwrap();
    let store = open(&disk, 2);
    for number in [0, 2] {
        store.delete_vbucket(vbucket(number)).unwrap();
        store.create_vbucket(vbucket(number), &new_state()).unwrap();
    }
    go_on(&store, &[0, 2]);
    let before = [image(&store, 0), image(&store, 2)];
    drop(store);
    for entropy in 3..6 {
        let store = open(&disk, entropy);
        assert_eq!([image(&store, 0), image(&store, 2)], before);
        store.checkpoint().unwrap();
        work(&store);
    }
    assert!(!names(&disk, "log.00").contains(&log));
    assert_eq!(open(&disk, 6).verify().faults, []);
}

#[test]
fn log_header_of_a_store_closed_in_order_concerns_nobody() {
    let disk = SimulatedDisk::new();
    let images = filled(&disk, true);
    let log = names(&disk, "log.00").pop().unwrap();
    disk.flip_bit(&log, 50, 0).unwrap();
    let store = open(&disk, 2);
    for (number, expected) in &images {
        assert_eq!(image(&store, *number), *expected);
    }
    assert_found_by_verify(&store, &log);
    go_on(&store, &[0, 1, 2, 3]);
    let before: Vec<Image> = (0..4).map(|number| image(&store, number)).collect();
    drop(store);
    let store = open(&disk, 3);
    let after: Vec<Image> = (0..4).map(|number| image(&store, number)).collect();
    assert_eq!(after, before);
    store.close().unwrap();
    let after: Vec<Image> = {
        let store = open(&disk, 4);
        (0..4).map(|number| image(&store, number)).collect()
    };
    assert_eq!(after, before);
}

#[test]
fn log_header_of_an_older_file_concerns_who_needs_that_file() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, 1);
    let mut pinning = Writer::create(&shared, 0);
    let mut other = Writer::create(&shared, 1);
    pinning.write(vec![mutation(1, "a", "only in the first file")]);
    for seqno in 1..=3 {
        other.write(vec![large(seqno, "a", 30_000)]);
    }
    other.seal(Seqno::ZERO);
    store.checkpoint().unwrap();
    other.write(vec![mutation(4, "b", "in the second file")]);
    let expected = [image(&store, 0), image(&store, 1)];
    drop((pinning, other, shared, store));
    let logs = names(&disk, "log.00");
    assert!(logs.len() >= 2, "{logs:?}");
    disk.flip_bit(&logs[0], 10, 1).unwrap();
    let store = open(&disk, 2);
    assert_down(&store, &[0], &logs[0]);
    assert_eq!(image(&store, 1), expected[1]);
    assert_found_by_verify(&store, &logs[0]);
    store.checkpoint().unwrap();
    work(&store);
    drop(store);
    disk.flip_bit(&logs[0], 10, 1).unwrap();
    let store = open(&disk, 3);
    assert_eq!([image(&store, 0), image(&store, 1)], expected);
}

#[test]
fn log_header_of_a_file_never_used_concerns_nobody() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, 1);
    let mut writer = Writer::create(&shared, 0);
    writer.write(vec![large(1, "a", 30_000)]);
    work(&store);
    let logs = names(&disk, "log.00");
    assert_eq!(logs.len(), 2, "one is prepared");
    let expected = image(&store, 0);
    drop((writer, shared, store));
    disk.flip_bit(&logs[1], 10, 1).unwrap();
    let store = open(&disk, 2);
    assert_eq!(image(&store, 0), expected);
    assert_found_by_verify(&store, &logs[1]);
    go_on(&store, &[0]);
    let expected = image(&store, 0);
    drop(store);
    assert_eq!(image(&open(&disk, 3), 0), expected);
}

#[test]
fn log_that_cannot_be_read_for_now_is_back_at_the_next_opening() {
    let disk = SimulatedDisk::new();
    let images = filled(&disk, false);
    let kind = DiskErrorKind::Other("input/output error".into());
    for prefix in ["log.00", "manifest.00"] {
        let fault = Fault::failed_call(kind.clone()).on(Verb::Read);
        disk.inject(fault.of_files(prefix).lasting());
        let store = open(&disk, 2);
        for number in [0, 2] {
            let error = store.snapshot(vbucket(number)).unwrap_err();
            assert!(matches!(error, StorageError::VbucketDown { .. }));
            assert_eq!(error.advice(), Advice::Reopen, "{error}");
        }
        for number in [1, 3] {
            assert_eq!(image(&store, number), images[&number]);
        }
        drop(store);
        disk.clear_faults();
    }
    let store = open(&disk, 3);
    for (number, expected) in &images {
        assert_eq!(image(&store, *number), *expected);
    }
}

#[test]
fn manifest_in_every_byte_of_its_prefix_and_head() {
    for offset in 0..MANIFEST_PREFIX + 30 {
        let disk = SimulatedDisk::new();
        let images = filled(&disk, false);
        let manifest = names(&disk, "manifest.00").pop().unwrap();
        disk.flip_bit(&manifest, offset, 5).unwrap();
        let before = files(&disk);
        let store = open(&disk, 2);
        assert_down(&store, &[0, 2], &manifest);
        assert_found_by_verify(&store, &manifest);
        for number in [1, 3] {
            assert_eq!(image(&store, number), images[&number], "offset {offset}");
        }
        go_on(&store, &[1, 3]);
        work(&store);
        let is_refused = |error| matches!(error, StorageError::ShardDown { shard: 0, .. });
        assert!(is_refused(store.checkpoint().unwrap_err()));
        assert!(is_refused(store.delete_vbucket(vbucket(0)).unwrap_err()));
        let created = store.create_vbucket(vbucket(2), &new_state());
        assert!(is_refused(created.unwrap_err()));
        let batch = piggin_storage::Batch {
            vbucket: vbucket(0),
            incarnation: images[&0].position.0,
            epoch: images[&0].position.1,
            items: Vec::new(),
            watermarks: images[&0].state.watermarks,
            identity: None,
        };
        let refused = store.commit(&[batch], CommitDurability::Synced).remove(0);
        assert!(matches!(refused, Err(StorageError::VbucketDown { .. })));
        assert_eq!(store.seal_all(Seqno::MAX), Outcome::Complete(()));
        store.close().unwrap();
        assert_eq!(files(&disk), before, "offset {offset}");
        disk.flip_bit(&manifest, offset, 5).unwrap();
        let store = open(&disk, 3);
        for number in [0, 2] {
            assert_eq!(image(&store, number), images[&number], "offset {offset}");
        }
    }
}
