//! A read that may not wait for the disk is answered as any other read, or says that it would have to wait; and it never does.
#![cfg(test)]

mod support;
mod temporary_directory;

use piggin_storage::disk::{Disk, DiskErrorKind, FileSystemDisk, OpenMode, SimulatedDisk, Verb};
use piggin_storage::log_store::BlockCompression;
use piggin_storage::{KvStore, Namespace, OpenOptions, Seqno, Snapshot, StorageError};
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
                    assert_eq!(error, StorageError::WouldWait, "{name}");
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
            answer.as_ref().err() == Some(&StorageError::WouldWait)
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
fn what_takes_its_time_is_left_to_who_has_it() {
    for compression in [BlockCompression::None, BlockCompression::Lz4] {
        let disk = SimulatedDisk::new();
        disk.set_in_memory(1);
        let options = OpenOptions {
            compression,
            ..small_options(1)
        };
        let (_store, shared) = create_on(&disk, options);
        let mut writer = Writer::create(&shared, 0);
        let large = "v".repeat(80 << 10);
        let assert_only_the_small_one = |snapshot: &dyn Snapshot| {
            let read = |name| snapshot.get_at_once(Namespace::Committed, &key(name));
            assert_eq!(read("large").unwrap_err(), StorageError::WouldWait);
            assert_eq!(read("small").unwrap().unwrap().seqno, Seqno(2));
            let large = snapshot.get(Namespace::Committed, &key("large"));
            assert_eq!(large.unwrap().unwrap().document.value.len(), 80 << 10);
        };
        writer.write(vec![mutation(1, "large", &large)]);
        writer.write(vec![mutation(2, "small", "v")]);
        // In no segment yet, then in one, where the large one is small if it is compressed.
        assert_only_the_small_one(writer.snapshot().as_ref());
        writer.seal(Seqno::ZERO);
        assert_only_the_small_one(writer.snapshot().as_ref());
    }
}

#[test]
fn nobody_indexes_a_thousand_items_in_passing() {
    let (_store, shared) = create_on(&SimulatedDisk::new(), small_options(1));
    let mut writer = Writer::create(&shared, 0);
    writer.write(
        (1..=1000)
            .map(|seqno| mutation(seqno, &format!("k{seqno}"), "v"))
            .collect(),
    );
    let snapshot = writer.snapshot();
    let read = || snapshot.get_at_once(Namespace::Committed, &key("k1"));
    assert_eq!(read().unwrap_err(), StorageError::WouldWait);
    // Somebody who had the time did.
    let known = snapshot.get(Namespace::Committed, &key("k999"));
    assert_eq!(known.unwrap().unwrap().seqno, Seqno(999));
    assert_eq!(read().unwrap().unwrap().seqno, Seqno(1));
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
        assert!(matches!(error, StorageError::Disk(_)), "{error}");
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

/// What the system says it has in memory is what is read; what it has not, or the file has not, is left alone.
#[test]
fn on_a_file_system_they_are_right() {
    let directory = TemporaryDirectory::new();
    let disk = FileSystemDisk::new(directory.path()).unwrap();
    let file = disk.open("file", OpenMode::CreateNew).unwrap();
    let bytes: Vec<u8> = (0..=250).cycle().take(100_000).collect();
    file.write_at(&bytes, 0).unwrap();
    let would_wait = |length: usize, offset: u64| {
        let answer = file.read_at_once(&mut vec![0; length], offset);
        answer.is_err_and(|error| error.kind == DiskErrorKind::WouldWait)
    };
    assert!(would_wait(2, 99_999), "it ends between");
    assert!(would_wait(1, 100_000), "it ended before");
    let mut is_told = 0;
    for (offset, length) in [(0, 1), (4095, 2), (1000, 64 << 10), (99_999, 1)] {
        let mut buffer = vec![0; length];
        match file.read_at_once(&mut buffer, offset as u64) {
            Ok(()) => {
                assert_eq!(buffer, bytes[offset..offset + length]);
                is_told += 1;
            }
            Err(error) => assert_eq!(error.kind, DiskErrorKind::WouldWait),
        }
    }
    assert!(is_told > 0 || !can_tell(directory.path()));
}

/// Whether this system and its file system can tell what they have in memory; what was just written they have.
#[expect(
    clippy::disallowed_methods,
    reason = "the system is asked, not the disk that is tested"
)]
#[cfg(target_os = "linux")]
fn can_tell(directory: &std::path::Path) -> bool {
    let file = std::fs::File::open(directory.join("file")).unwrap();
    let mut byte = [0];
    let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
    let read = rustix::io::preadv2(&file, &mut buffers, 0, rustix::io::ReadWriteFlags::NOWAIT);
    read == Ok(1)
}

#[cfg(not(target_os = "linux"))]
fn can_tell(_: &std::path::Path) -> bool {
    false
}
