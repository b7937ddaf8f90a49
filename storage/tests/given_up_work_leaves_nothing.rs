//! Background work that is dropped or fails leaves no file for good, and what cannot be done keeps nothing else from
//! being done.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::{SimulatedDisk, Verb};
use piggin_storage::log_store::Maintained;
use piggin_storage::{
    CommitDurability, CreateOptions, Job, KvStore, LogStore, OpenOptions, Outcome, Seqno,
    StorageError,
};
use support::log_store::{create_on, failing, image, names, small_options};
use support::{Writer, mutation, vbucket};

/// Calls `maintain` until there is nothing to do; how often it failed.
fn maintain(store: &LogStore, calls: usize) -> usize {
    let mut failures = 0;
    for _ in 0..calls {
        match store.maintain() {
            Outcome::Complete(Maintained::Nothing) => return failures,
            Outcome::Complete(Maintained::Worked) => {}
            Outcome::Failed(_) => failures += 1,
            ended @ (Outcome::Yielded | Outcome::Aborted(_)) => panic!("{ended:?}"),
        }
    }
    failures
}

/// Segments to merge, containers to copy out, and items to seal.
fn filled(disk: &SimulatedDisk) -> (LogStore, Vec<Writer>) {
    let options = OpenOptions {
        container_bytes_min: 1,
        unsealed_bytes: 1,
        segments_max: 1,
        history_floor: Seqno::MAX,
        ..small_options(1)
    };
    let (store, shared) = create_on(disk, options);
    let mut writers = Vec::from([0, 1, 2].map(|number| Writer::create(&shared, number)));
    for round in 1..=4 {
        for writer in &mut writers {
            let bytes = if writer.vbucket == vbucket(0) {
                100
            } else {
                9000
            };
            writer.write(vec![mutation(round, "a", &"v".repeat(bytes))]);
        }
        if round < 4 {
            assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
        }
    }
    store.sync().unwrap();
    (store, writers)
}

/// What is on the disk when all work is done.
fn settled(store: &LogStore, disk: &SimulatedDisk) -> (usize, usize) {
    for _ in 0..3 {
        assert_eq!(maintain(store, 200), 0);
        store.checkpoint().unwrap();
    }
    assert_eq!(maintain(store, 200), 0);
    let logs = names(disk, "log").len();
    (names(disk, "container").len(), logs)
}

#[test]
fn jobs_dropped_at_any_step() {
    let disk = SimulatedDisk::new();
    let (store, _writers) = filled(&disk);
    let sound = settled(&store, &disk);
    let mut dropped = 0;
    for steps in 1..40 {
        let disk = SimulatedDisk::new();
        let (store, _writers) = filled(&disk);
        let expected: Vec<_> = (0..3).map(|number| image(&store, number)).collect();
        let mut jobs: Vec<Box<dyn Job<Output = (), Failure = StorageError>>> = vec![
            Box::new(store.merge_job(vbucket(1), Seqno::ZERO).unwrap()),
            Box::new(store.seal_job(vbucket(2), Seqno::ZERO).unwrap()),
        ];
        for _ in 0..30 {
            let Some(job) = store.maintenance_job(0) else {
                break;
            };
            jobs.push(Box::new(job));
            for mut job in jobs.drain(..) {
                let ended = (0..steps).any(|_| job.step() != Outcome::Yielded);
                dropped += usize::from(!ended);
            }
            // The same work again, to its end, so that the next is another.
            maintain(&store, 1);
        }
        let (containers, logs) = settled(&store, &disk);
        assert!(
            containers <= sound.0,
            "{steps} steps: {:?}",
            names(&disk, "")
        );
        assert!(logs <= sound.1 + 1, "{steps} steps: {:?}", names(&disk, ""));
        let after: Vec<_> = (0..3).map(|number| image(&store, number)).collect();
        assert_eq!(after, expected);
        assert_eq!(store.verify().faults, []);
    }
    assert!(dropped > 30, "{dropped} jobs were dropped");
}

#[test]
fn log_file_that_could_not_be_used_again() {
    // A file that is used again is renamed from its name in use.
    for (verb, files) in [
        (Verb::Rename, "log.00"),
        (Verb::SyncDirectory, "."),
        (Verb::Write, "log-new"),
        (Verb::Sync, "log-new"),
    ] {
        let disk = SimulatedDisk::new();
        let options = OpenOptions {
            log_file_bytes_max: 64 << 10,
            ..small_options(1)
        };
        let (store, shared) = create_on(&disk, options);
        let mut writer = Writer::create(&shared, 0);
        let mut failures = 0;
        for seqno in 1..=300 {
            writer.write(vec![mutation(seqno, "a", &"v".repeat(3000))]);
            if seqno % 3 != 0 {
                disk.inject(failing(verb, files));
            }
            // One piece at a time, so that obsolete files are there when one is wanted.
            failures += maintain(&store, 1);
            disk.clear_faults();
        }
        assert!(failures > 0, "{verb:?}");
        maintain(&store, 100);
        let known = store.statistics().log_files;
        let files = names(&disk, "log");
        assert!(files.len() <= known + 1, "{verb:?}: {known} of {files:?}");
    }
}

#[test]
fn container_that_cannot_be_read_does_not_keep_the_others_from_being_copied_out() {
    let disk = SimulatedDisk::new();
    let options = OpenOptions {
        container_bytes_min: 1,
        segments_max: 100,
        ..small_options(1)
    };
    let (store, shared) = create_on(&disk, options);
    let mut writers = [0, 1].map(|number| Writer::create(&shared, number));
    for round in 1..=4 {
        writers[0].write(vec![mutation(round, &format!("k{round}"), "small")]);
        writers[1].write(vec![mutation(round, "a", &"v".repeat(30_000))]);
        assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
    }
    // What is left of each container is the small segment.
    store.delete_vbucket(vbucket(1)).unwrap();
    let containers = names(&disk, "container");
    for damaged in &containers[..2] {
        disk.inject(failing(Verb::Read, damaged).lasting());
    }
    assert!(maintain(&store, 60) > 0);
    store.sync().unwrap();
    maintain(&store, 60);
    let left = names(&disk, "container");
    let stay: Vec<bool> = containers.iter().map(|name| left.contains(name)).collect();
    assert_eq!(stay, [true, true, false, false], "{left:?}");
}

#[test]
fn shard_whose_work_fails_does_not_keep_the_others_from_theirs() {
    let disk = SimulatedDisk::new();
    let shape = CreateOptions::of(4, 2);
    let store = LogStore::create(Arc::new(disk.clone()), shape, small_options(1)).unwrap();
    let shared: Arc<dyn KvStore> = Arc::new(store.clone());
    let mut writers = [0, 1].map(|number| Writer::create(&shared, number));
    for round in 1..=4 {
        for writer in &mut writers {
            writer.write(vec![mutation(round, &format!("k{round}"), "value")]);
        }
        assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
    }
    disk.inject(failing(Verb::Read, "container.00").lasting());
    assert!(maintain(&store, 40) > 0);
    let segments = |number| store.file_statistics(vbucket(number)).unwrap().segments;
    assert_eq!((segments(0), segments(1)), (4, 1));
}

#[test]
fn states_on_top_of_an_item_are_sealed_with_it() {
    let disk = SimulatedDisk::new();
    let options = OpenOptions {
        log_file_bytes_min: 1 << 20,
        log_file_bytes_max: 1 << 20,
        unsealed_bytes: 16 << 10,
        ..small_options(1)
    };
    let (store, shared) = create_on(&disk, options);
    let mut writer = Writer::create(&shared, 0);
    writer.write(vec![mutation(1, "a", "value")]);
    for time in 1..=500 {
        writer.watermarks.commit_time_ms = time;
        let batch = writer.batch(Vec::new());
        let answers = store.commit(std::slice::from_ref(&batch), CommitDurability::Buffered);
        assert_eq!(answers, [Ok(())]);
    }
    assert_eq!(maintain(&store, 20), 0);
    assert_eq!(store.statistics().unsealed_bytes, 0);
    assert_eq!(store.file_statistics(vbucket(0)).unwrap().segments, 1);
}
