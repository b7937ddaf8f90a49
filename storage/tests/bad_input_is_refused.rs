//! What cannot be is refused with an error that says what to do, and harms nothing that is stored.
//!
//! One test for each promise: directories that are no store, settings and batches beyond the limits, disks that can
//! only be read, and files that vanish underneath an open or a closed store.
#![cfg(test)]

mod support;
mod temporary_directory;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use piggin_storage::disk::{Disk, DiskErrorKind, OpenMode, SimulatedDisk};
use piggin_storage::{
    Advice, CollectionId, CommitDurability, CreateOptions, Document, DocumentKey, FileSystemDisk,
    Item, KeyError, KvStore, LogStore, Namespace, Outcome, Refusal, Seqno, StorageError,
};

use support::log_store::small_options;
use support::{Image, Writer, key, mutation, new_state, vbucket};

const SHAPE: CreateOptions = CreateOptions::of(4, 2);

fn create(disk: &SimulatedDisk) -> LogStore {
    LogStore::create(Arc::new(disk.clone()), SHAPE, small_options(1)).unwrap()
}

fn open(disk: &SimulatedDisk) -> Result<LogStore, StorageError> {
    LogStore::open(Arc::new(disk.clone()), small_options(2))
}

fn maintain(store: &LogStore) {
    let outcome = store.maintain();
    assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
}

/// A store with sealed and unsealed items in every vbucket, and what they are.
fn filled(disk: &SimulatedDisk) -> (LogStore, BTreeMap<u16, Image>) {
    let store = create(disk);
    let shared: Arc<dyn KvStore> = Arc::new(store.clone());
    let mut images = BTreeMap::new();
    for number in 0..4 {
        let mut writer = Writer::create(&shared, number);
        writer.write(vec![mutation(1, "a", "1"), mutation(2, "b", "2")]);
        writer.seal(Seqno::ZERO);
        writer.write(vec![mutation(3, "c", "3")]);
        images.insert(number, writer.image());
    }
    (store, images)
}

fn assert_holds(store: &LogStore, images: &BTreeMap<u16, Image>) {
    for (number, image) in images {
        let snapshot = store.snapshot(vbucket(*number)).unwrap();
        assert_eq!(Image::of(snapshot.as_ref()), *image);
    }
}

#[test]
fn a_path_that_is_no_directory() {
    let directory = temporary_directory::TemporaryDirectory::new();
    let path = directory.path().join("file");
    let file = FileSystemDisk::new(directory.path()).unwrap();
    drop(file.open("file", OpenMode::CreateNew).unwrap());
    let refused = FileSystemDisk::new(&path)
        .map(|_| ())
        .map_err(StorageError::from);
    let Err(error) = refused else {
        panic!("a file was taken for a directory")
    };
    assert!(
        matches!(&error, StorageError::Disk(error) if error.kind == DiskErrorKind::NotADirectory)
    );
    assert_eq!(error.advice(), Advice::FixRequest);
}

#[test]
fn a_directory_of_another_program() {
    let files = BTreeMap::from([("notes.txt".to_owned(), b"mine".to_vec())]);
    let disk = SimulatedDisk::from_files(files.clone());
    let foreign = StorageError::ForeignDirectory("notes.txt".to_owned());
    assert_eq!(open(&disk).err(), Some(foreign.clone()));
    assert_eq!(disk.files(), files);
    let created = LogStore::create(Arc::new(disk.clone()), SHAPE, small_options(1));
    assert_eq!(created.err(), Some(foreign.clone()));
    assert_eq!(foreign.advice(), Advice::FixRequest);
    let left = disk.files();
    assert_eq!(left.get("notes.txt").map(Vec::as_slice), Some(&b"mine"[..]));
}

#[test]
fn a_store_of_another_format_version() {
    let disk = SimulatedDisk::new();
    create(&disk).close().unwrap();
    let mut files = disk.files();
    let identity = files.get_mut("piggin.store").unwrap();
    identity[8] = 77;
    let length = identity.len();
    let crc = crc32c_of(&identity[..length - 4]);
    identity[length - 4..].copy_from_slice(&crc);
    let error = open(&SimulatedDisk::from_files(files)).err().unwrap();
    assert!(
        matches!(error, StorageError::FormatVersion { found: 77, .. }),
        "{error:?}"
    );
    assert_eq!(error.advice(), Advice::FixRequest);
}

/// The checksum of the files, bit by bit, so that the test shares no code with the store.
fn crc32c_of(bytes: &[u8]) -> [u8; 4] {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let mask = 0u32.wrapping_sub(crc & 1);
            crc = (crc >> 1) ^ (0x82f6_3b78 & mask);
        }
    }
    (!crc).to_le_bytes()
}

#[test]
fn no_store_where_one_is_opened_and_a_store_where_one_is_created() {
    let disk = SimulatedDisk::new();
    assert_eq!(open(&disk).err(), Some(StorageError::NoStore));
    assert_eq!(disk.files().len(), 0);
    let (store, images) = filled(&disk);
    store.close().unwrap();
    let again = LogStore::create(Arc::new(disk.clone()), SHAPE, small_options(3));
    assert_eq!(again.err(), Some(StorageError::StoreExists));
    assert_holds(&open(&disk).unwrap(), &images);
    assert_eq!(StorageError::NoStore.advice(), Advice::FixRequest);
    assert_eq!(StorageError::StoreExists.advice(), Advice::FixRequest);
}

#[test]
fn a_directory_that_is_open_already() {
    let disk = SimulatedDisk::new();
    let (store, images) = filled(&disk);
    let error = open(&disk).err().unwrap();
    assert!(matches!(&error, StorageError::Disk(error) if error.kind == DiskErrorKind::Locked));
    assert_eq!(error.advice(), Advice::RetryLater);
    assert_holds(&store, &images);
    drop(store);
    assert_holds(&open(&disk).unwrap(), &images);
}

#[test]
fn shapes_beyond_the_limits() {
    for (vbuckets, log_shards) in [(0, 1), (3, 1), (2048, 1), (16, 0), (16, 9), (4, 5)] {
        let disk = SimulatedDisk::new();
        let shape = CreateOptions::of(vbuckets, log_shards);
        let error = LogStore::create(Arc::new(disk.clone()), shape, small_options(1)).err();
        let error = error.unwrap();
        assert!(matches!(error, StorageError::Setting(_)), "{error:?}");
        assert_eq!(error.advice(), Advice::FixRequest);
        assert_eq!(disk.files().len(), 0);
    }
}

#[test]
fn keys_beyond_the_limits() {
    let of = |length: usize| DocumentKey::new(CollectionId::DEFAULT, &vec![b'k'; length]);
    assert_eq!(of(0), Err(KeyError::Empty));
    assert!(of(249).is_ok());
    assert_eq!(of(250), Err(KeyError::TooLong { length: 251 }));
    assert_eq!(
        StorageError::from(KeyError::Empty).advice(),
        Advice::FixRequest
    );
}

#[test]
fn a_value_beyond_the_limit() {
    let disk = SimulatedDisk::new();
    let (store, images) = filled(&disk);
    let mut item = Item::clone(&mutation(4, "d", ""));
    item.document.value = Bytes::from(vec![0; Document::VALUE_LENGTH_MAX + 1]);
    let refusal = Refusal::ValueTooLarge {
        seqno: Seqno(4),
        length: Document::VALUE_LENGTH_MAX + 1,
    };
    refused(&store, &images, item, refusal, Advice::FixRequest);
}

#[test]
fn a_seqno_that_goes_backwards() {
    let disk = SimulatedDisk::new();
    let (store, images) = filled(&disk);
    let refusal = Refusal::SeqnoNotAbovePersisted {
        given: Seqno(2),
        persisted: Seqno(3),
    };
    let item = Item::clone(&mutation(2, "d", ""));
    refused(&store, &images, item, refusal, Advice::Resynchronize);
}

fn refused(
    store: &LogStore,
    images: &BTreeMap<u16, Image>,
    item: Item,
    refusal: Refusal,
    advice: Advice,
) {
    let mut writer = writer_of(store, images, 1);
    writer.watermarks.high_seqno = item.seqno;
    let batch = writer.batch_with(vec![Arc::new(item)], writer.watermarks);
    let expected = StorageError::Refused {
        vbucket: vbucket(1),
        refusal,
    };
    assert_eq!(writer.try_commit(&batch), Err(expected.clone()));
    assert_eq!(expected.advice(), advice);
    assert_holds(store, images);
}

fn writer_of(store: &LogStore, images: &BTreeMap<u16, Image>, number: u16) -> Writer {
    let (incarnation, epoch) = images[&number].position;
    Writer {
        store: Arc::new(store.clone()),
        vbucket: vbucket(number),
        incarnation,
        epoch,
        watermarks: images[&number].state.watermarks,
    }
}

#[test]
fn a_vbucket_that_is_not_there() {
    let disk = SimulatedDisk::new();
    let (store, images) = filled(&disk);
    store.delete_vbucket(vbucket(2)).unwrap();
    for number in [2, 4, 1023] {
        let unknown = StorageError::UnknownVbucket(vbucket(number));
        let found = store.get(vbucket(number), Namespace::Committed, &key("a"));
        assert_eq!(found, Err(unknown.clone()));
        assert_eq!(store.snapshot(vbucket(number)).err(), Some(unknown.clone()));
        assert_eq!(store.delete_vbucket(vbucket(number)), Err(unknown.clone()));
        let mut batch = writer_of(&store, &images, 2).batch(vec![mutation(4, "d", "4")]);
        batch.vbucket = vbucket(number);
        let results = store.commit(&[batch], CommitDurability::Synced);
        assert_eq!(results, [Err(unknown.clone())]);
        assert_eq!(unknown.advice(), Advice::FixRequest);
    }
    let exists = StorageError::VbucketExists(vbucket(1));
    assert_eq!(store.create_vbucket(vbucket(1), &new_state()), Err(exists));
    let others = images
        .into_iter()
        .filter(|(number, _)| *number != 2)
        .collect();
    assert_holds(&store, &others);
}

#[test]
fn a_disk_that_can_only_be_read() {
    let disk = SimulatedDisk::new();
    let (store, images) = filled(&disk);
    disk.set_read_only(true);
    let writer = writer_of(&store, &images, 0);
    let batch = writer.batch(vec![mutation(4, "d", "4")]);
    let error = writer.try_commit(&batch).unwrap_err();
    assert!(matches!(&error, StorageError::Disk(error) if error.kind == DiskErrorKind::ReadOnly));
    assert_eq!(error.advice(), Advice::FixRequest);
    assert_holds(&store, &images);
    disk.set_read_only(false);
    assert_eq!(writer.try_commit(&batch), Ok(()));
    drop(writer);
    drop(store);
    disk.set_read_only(true);
    let error = open(&disk).err().unwrap();
    assert!(matches!(&error, StorageError::Disk(error) if error.kind == DiskErrorKind::ReadOnly));
    disk.set_read_only(false);
    let store = open(&disk).unwrap();
    assert_eq!(
        store.state(vbucket(0)).unwrap().watermarks.high_seqno,
        Seqno(4)
    );
}

#[test]
fn a_file_that_is_removed_underneath_a_closed_store() {
    let base = SimulatedDisk::new();
    let (store, images) = filled(&base);
    store.checkpoint().unwrap();
    drop(store);
    let names: Vec<String> = base.list().unwrap();
    for name in names.iter().filter(|name| *name != "piggin.lock") {
        let disk = SimulatedDisk::from_files(base.files());
        disk.remove_underneath(name).unwrap();
        let store = match open(&disk) {
            Ok(store) => store,
            Err(error) => {
                let advices = [Advice::FixRequest, Advice::Repair, Advice::Reopen];
                assert!(advices.contains(&error.advice()), "{name}: {error}");
                continue;
            }
        };
        // What cannot be served is down by name, and everything else is exactly there.
        for status in store.vbuckets() {
            let number = status.vbucket.get();
            match status.position {
                Ok(_) => {
                    let snapshot = store.snapshot(status.vbucket).unwrap();
                    assert_eq!(
                        Image::of(snapshot.as_ref()),
                        images[&number],
                        "without {name}"
                    );
                }
                Err(error) => {
                    assert!(
                        matches!(error, StorageError::VbucketDown { .. }),
                        "{error:?}"
                    );
                }
            }
        }
        assert_eq!(store.vbuckets().len(), 4, "without {name}");
    }
}

#[test]
fn a_file_that_is_removed_underneath_an_open_store() {
    let base = SimulatedDisk::new();
    drop(filled(&base));
    let names: Vec<String> = base.list().unwrap();
    for name in &names {
        let disk = SimulatedDisk::from_files(base.files());
        let store = open(&disk).unwrap();
        let images: BTreeMap<u16, Image> = (0..4)
            .map(|number| {
                (
                    number,
                    Image::of(store.snapshot(vbucket(number)).unwrap().as_ref()),
                )
            })
            .collect();
        if disk.remove_underneath(name).is_err() {
            // The opening itself removed it.
            continue;
        }
        // Open handles go on; what is asked must be answered rightly or with an error.
        for number in 0..4 {
            let writer = writer_of(&store, &images, number);
            let batch = writer.batch(vec![mutation(4, "d", "4")]);
            let answer = writer.try_commit(&batch);
            assert!(
                matches!(answer, Ok(()) | Err(StorageError::Disk(_))),
                "{answer:?}"
            );
            let snapshot = store.snapshot(vbucket(number)).unwrap();
            for (name, seqno) in [("a", 1), ("b", 2), ("c", 3)] {
                let found = snapshot.get(Namespace::Committed, &key(name));
                assert!(found.is_err() || found.unwrap().unwrap().seqno == Seqno(seqno));
            }
        }
    }
}

#[test]
fn a_manifest_that_is_removed_after_the_log_before_it_was_given_back() {
    let disk = SimulatedDisk::new();
    let (store, images) = filled(&disk);
    let mut writer = writer_of(&store, &images, 0);
    let value = "v".repeat(10_000);
    for seqno in 4..60 {
        writer.write(vec![mutation(seqno, "d", &value)]);
        maintain(&store);
    }
    for _ in 0..100 {
        maintain(&store);
    }
    drop(writer);
    store.close().unwrap();
    let names = disk.list().unwrap();
    let manifest = names
        .iter()
        .find(|name| name.starts_with("manifest.00"))
        .unwrap();
    disk.remove_underneath(manifest).unwrap();
    match open(&disk) {
        Ok(store) => {
            let there: Vec<u16> = store
                .vbuckets()
                .iter()
                .map(|one| one.vbucket.get())
                .collect();
            assert_eq!(there, [0, 1, 2, 3], "vbuckets vanished in silence");
            for status in store.vbuckets() {
                let is_down = status.position.is_err();
                assert_eq!(is_down, status.vbucket.get() % 2 == 0, "{status:?}");
            }
        }
        Err(error) => assert_eq!(error.advice(), Advice::Repair, "{error}"),
    }
    let containers = disk.list().unwrap();
    let containers = containers
        .iter()
        .filter(|name| name.starts_with("container.00"));
    assert!(containers.count() > 0, "what may be needed was removed");
}
