//! A background job that the disk fails leaves the store as it was: what is read, what is counted, and which files
//! there are; the next try succeeds.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::{SimulatedDisk, Verb};
use piggin_storage::{Job, KvStore, LogStore, Outcome, Seqno, StorageError};
use support::log_store::{create_on, failing, image, names, open_on, small_options};
use support::{Writer, mutation, vbucket};

/// Two segments and an unsealed item.
fn filled(disk: &SimulatedDisk) -> (LogStore, Writer) {
    let (store, shared) = create_on(disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    for seqno in 1..=4 {
        writer.write(vec![
            mutation(seqno * 2 - 1, "a", "value"),
            mutation(seqno * 2, &format!("k{seqno}"), "value"),
        ]);
        if seqno < 4 {
            writer.seal(Seqno::ZERO);
        }
    }
    (store, writer)
}

type Make = fn(&LogStore) -> Box<dyn Job<Output = (), Failure = StorageError>>;

fn seal(store: &LogStore) -> Box<dyn Job<Output = (), Failure = StorageError>> {
    Box::new(store.seal_job(vbucket(0), Seqno::ZERO).unwrap())
}

fn merge(store: &LogStore) -> Box<dyn Job<Output = (), Failure = StorageError>> {
    Box::new(store.merge_job(vbucket(0), Seqno::ZERO).unwrap())
}

/// How many containers there are when all that can be given back was.
fn containers_after(store: &LogStore, disk: &SimulatedDisk) -> usize {
    for _ in 0..20 {
        store.sync().unwrap();
        let outcome = store.maintain();
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
    }
    store.checkpoint().unwrap();
    for _ in 0..20 {
        let outcome = store.maintain();
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
    }
    names(disk, "container").len()
}

/// MB-44102: a compaction whose last step failed left half of its figures in place. MB-62939: what a failed
/// compaction had written was found by the next one, and taken for its own.
#[test]
fn whichever_call_fails() {
    for make in [seal as Make, merge] {
        let disk = SimulatedDisk::new();
        let (store, _writer) = filled(&disk);
        assert_eq!(make(&store).run(), Outcome::Complete(()));
        let sound = containers_after(&store, &disk);
        let mut struck = 0;
        for n in 1.. {
            let disk = SimulatedDisk::new();
            let (store, writer) = filled(&disk);
            let expected = image(&store, 0);
            let figures = store.file_statistics(vbucket(0)).unwrap();
            disk.inject(failing(Verb::Read, "container").nth(n));
            disk.inject(failing(Verb::Write, "").nth(n));
            disk.inject(failing(Verb::Sync, "").nth(n));
            disk.inject(failing(Verb::SyncDirectory, "").nth(n));
            disk.inject(failing(Verb::Open, "").nth(n));
            // The log goes on in another file when one fails; so that it cannot:
            disk.inject(failing(Verb::Rename, "log-new").lasting());
            let mut job = make(&store);
            let ended = job.run();
            disk.clear_faults();
            assert_eq!(image(&store, 0), expected, "call {n}");
            if ended == Outcome::Complete(()) {
                break;
            }
            struck += 1;
            assert!(
                matches!(ended, Outcome::Failed(StorageError::Disk(_))),
                "{ended:?}"
            );
            let after = store.file_statistics(vbucket(0)).unwrap();
            assert_eq!(after, figures, "call {n}");
            assert_eq!(make(&store).run(), Outcome::Complete(()), "call {n}");
            assert_eq!(image(&store, 0), expected, "call {n}");
            assert_eq!(containers_after(&store, &disk), sound, "call {n}");
            assert_eq!(store.verify().faults, []);
            drop((writer, job, store));
            assert_eq!(image(&open_on(&disk, 2), 0), expected, "call {n}");
        }
        assert!(struck > 1, "calls were struck");
    }
}

/// MB-62939: files that an interrupted job left, even whole and newer-looking ones, never count.
#[test]
fn leftover_files_never_count() {
    let disk = SimulatedDisk::new();
    let (store, writer) = filled(&disk);
    store.checkpoint().unwrap();
    let expected = image(&store, 0);
    drop((writer, store));
    let mut files = disk.files();
    let copy = |files: &std::collections::BTreeMap<String, Vec<u8>>, prefix: &str| {
        let (_, bytes) = files
            .iter()
            .find(|(name, _)| name.starts_with(prefix))
            .unwrap();
        bytes.clone()
    };
    let container = copy(&files, "container.00");
    let manifest = copy(&files, "manifest.00");
    let log = copy(&files, "log.00");
    files.insert("container.00.0000000099".into(), container);
    files.insert("manifest-new.00.0000000099".into(), manifest);
    files.insert("log-new.00.0000000099".into(), log);
    let disk = SimulatedDisk::from_files(files);
    let store = open_on(&disk, 2);
    assert_eq!(image(&store, 0), expected);
    for left in ["container.00.0000000099", "manifest-new", "log-new"] {
        assert_eq!(names(&disk, left), [""; 0]);
    }
    assert_eq!(store.verify().faults, []);
}

/// MB-29522: the state of the moment gone back to could not be read, and the rollback was committed all the same.
#[test]
fn rollback_that_cannot_read_its_moment() {
    let mut struck = 0;
    for n in 1.. {
        let disk = SimulatedDisk::new();
        let (store, writer) = filled(&disk);
        drop((writer, store));
        let store = open_on(&disk, 2);
        let shared: Arc<dyn KvStore> = Arc::new(store.clone());
        let expected = image(&store, 0);
        disk.inject(failing(Verb::Read, "container").nth(n));
        let ended = shared.rollback(vbucket(0), Seqno(3));
        let has_struck = disk.faults_waiting() == 0;
        disk.clear_faults();
        if !has_struck {
            assert!(matches!(ended, Outcome::Complete(_)), "{ended:?}");
            break;
        }
        struck += 1;
        assert!(
            matches!(ended, Outcome::Failed(StorageError::Disk(_))),
            "{ended:?}"
        );
        assert_eq!(image(&store, 0), expected, "read {n}");
        drop((shared, store));
        let store = open_on(&disk, 3);
        assert_eq!(image(&store, 0), expected, "read {n}");
        let again = store.rollback(vbucket(0), Seqno(3));
        assert!(matches!(again, Outcome::Complete(_)), "{again:?}");
        assert_eq!(image(&store, 0).state.watermarks.high_seqno, Seqno(3));
    }
    assert!(struck > 1, "reads were struck");
}
