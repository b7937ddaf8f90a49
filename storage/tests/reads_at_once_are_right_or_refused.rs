//! A read that may not wait for the disk is answered as any other read, or says that it would have to wait; and it never does.
#![cfg(test)]

mod support;
mod temporary_directory;

use std::sync::Arc;

use piggin_storage::disk::{FileSystemDisk, SimulatedDisk, Verb};
use piggin_storage::log_store::BlockCompression;
use piggin_storage::{
    CreateOptions, KvStore, LogStore, Namespace, OpenOptions, Seqno, Snapshot, StorageError,
};
use support::log_store::{create_on, failing, names, open_on, small_options};
use support::{Writer, deletion, key, mutation, on_every_store, prepare, vbucket};
use temporary_directory::TemporaryDirectory;

/// Keys that are there, were deleted, are prepared, or never were.
fn keys() -> Vec<String> {
    (1..=60).map(|number| format!("k{number}")).collect()
}

/// Two segments with several pages and blocks, and items in no segment.
fn fill(writer: &mut Writer) {
    let value = "v".repeat(600);
    for round in 0..3 {
        let seqnos = round * 15 + 1..=round * 15 + 15;
        let item = |seqno| {
            let name = format!("k{}", seqno % 40 + 1);
            match seqno % 5 {
                0 => deletion(seqno, &name),
                1 => prepare(seqno, &name, &value),
                _ => mutation(seqno, &name, &value),
            }
        };
        writer.write(seqnos.map(item).collect());
        if round < 2 {
            writer.seal(Seqno::ZERO);
        }
    }
}

/// How many were answered, and how many would have had to wait. Each answer is the right one.
fn read_all(snapshot: &dyn Snapshot) -> (u32, u32) {
    let (mut answered, mut would_wait) = (0, 0);
    for namespace in [Namespace::Committed, Namespace::Prepared] {
        for name in keys() {
            let key = key(&name);
            match snapshot.get_at_once(namespace, &key) {
                Ok(item) => {
                    assert_eq!(Ok(item), snapshot.get(namespace, &key), "{name}");
                    answered += 1;
                }
                Err(error) => {
                    assert!(error.would_wait(), "{name}: {error}");
                    would_wait += 1;
                }
            }
        }
    }
    (answered, would_wait)
}

#[test]
fn on_every_store_they_are_right() {
    on_every_store(|mut writer| {
        fill(&mut writer);
        let (answered, _) = read_all(writer.snapshot().as_ref());
        assert!(answered > 0);
    });
}

#[test]
fn the_disk_is_left_alone_where_it_would_have_to_be_waited_for() {
    for compression in [BlockCompression::None, BlockCompression::Lz4] {
        let disk = SimulatedDisk::new();
        let options = OpenOptions {
            compression,
            ..small_options(1)
        };
        let (store, shared) = create_on(&disk, options);
        fill(&mut Writer::create(&shared, 0));
        drop((shared, store));
        // Opened anew, so that no index page is in memory.
        let store = open_on(&disk, 2);
        let snapshot = store.snapshot(vbucket(0)).unwrap();
        let before = disk.calls_of(Verb::Read);
        let all: Vec<_> = keys()
            .iter()
            .map(|name| snapshot.get_at_once(Namespace::Committed, &key(name)))
            .collect();
        assert_eq!(disk.calls_of(Verb::Read), before);
        let would_wait = |answer: &&Result<_, StorageError>| {
            answer.as_ref().is_err_and(StorageError::would_wait)
        };
        let waits = all.iter().filter(would_wait).count();
        let absent = all.iter().filter(|answer| **answer == Ok(None)).count();
        assert!(waits >= 15 && absent >= 15, "{waits}, {absent}");
        // What is in no segment is in memory.
        assert!(all.iter().any(|answer| matches!(answer, Ok(Some(_)))));
        // The whole disk is in memory, then a part of it.
        disk.set_in_memory(1);
        assert_eq!(read_all(snapshot.as_ref()), (120, 0));
        assert!(disk.calls_of(Verb::Read) > before);
        disk.set_in_memory(3);
        let (answered, would_wait) = read_all(snapshot.as_ref());
        assert!(
            answered >= 40 && would_wait >= 10,
            "{answered}, {would_wait}"
        );
    }
}

#[test]
fn a_large_one_is_left_to_who_may_take_his_time() {
    let disk = SimulatedDisk::new();
    disk.set_in_memory(1);
    let (_store, shared) = create_on(&disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    let value = "v".repeat(80 << 10);
    writer.write(vec![
        mutation(1, "large", &value),
        mutation(2, "small", "v"),
    ]);
    writer.seal(Seqno::ZERO);
    let snapshot = writer.snapshot();
    let read = |name| snapshot.get_at_once(Namespace::Committed, &key(name));
    assert!(read("large").unwrap_err().would_wait());
    assert_eq!(read("small").unwrap().unwrap().seqno, Seqno(2));
    let large = snapshot.get(Namespace::Committed, &key("large"));
    assert_eq!(large.unwrap().unwrap().document.value.len(), 80 << 10);
}

#[test]
fn a_failure_and_damage_are_told_as_what_they_are() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create_on(&disk, small_options(1));
    fill(&mut Writer::create(&shared, 0));
    drop((shared, store));
    disk.set_in_memory(1);
    let mut failed = 0;
    for n in 1..=2 {
        let store = open_on(&disk, n + 1);
        let snapshot = store.snapshot(vbucket(0)).unwrap();
        disk.inject(failing(Verb::Read, "container").nth(n));
        let read = snapshot.get_at_once(Namespace::Committed, &key("k10"));
        failed += u32::from(disk.faults_waiting() == 0);
        let error = read.unwrap_err();
        assert!(!error.would_wait(), "{error}");
        disk.clear_faults();
    }
    assert_eq!(failed, 2, "a page, and a record");
    let mut found = 0;
    for name in names(&disk, "container") {
        for offset in (4096..disk.files()[&name].len() as u64).step_by(97) {
            let store = open_on(&disk, 4);
            let snapshot = store.snapshot(vbucket(0)).unwrap();
            let right: Vec<_> = keys()
                .iter()
                .map(|name| snapshot.get(Namespace::Committed, &key(name)))
                .collect();
            drop((snapshot, store));
            let store = open_on(&disk, 5);
            disk.flip_bit(&name, offset, 3).unwrap();
            let snapshot = store.snapshot(vbucket(0)).unwrap();
            for (name, right) in keys().iter().zip(right) {
                match snapshot.get_at_once(Namespace::Committed, &key(name)) {
                    Err(StorageError::Corruption { .. }) => found += 1,
                    answer => assert_eq!(answer, right, "{name}"),
                }
            }
            disk.flip_bit(&name, offset, 3).unwrap();
        }
    }
    assert!(found > 0);
}

#[test]
fn on_a_file_system_they_are_right() {
    let directory = TemporaryDirectory::new();
    let disk = Arc::new(FileSystemDisk::new(directory.path()).unwrap());
    let shape = CreateOptions::of(4, 1);
    let store = LogStore::create(disk, shape, small_options(1)).unwrap();
    let shared: Arc<dyn KvStore> = Arc::new(store.clone());
    let mut writer = Writer::create(&shared, 0);
    fill(&mut writer);
    let (answered, would_wait) = read_all(writer.snapshot().as_ref());
    // What is in segments may be in the system's memory, or not.
    assert!(answered >= 20, "{answered}, {would_wait}");
}
