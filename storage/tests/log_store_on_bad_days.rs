//! The log store when something goes wrong beside it: a sync fails, the disk is full, one vbucket is damaged, a job is
//! dropped. What failed stays failed, what is sound goes on, and nothing is piled up.
//!
//! Each test is one day that once ended badly.
#![cfg(test)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use piggin_storage::disk::{DiskErrorKind, Fault, SimulatedDisk, SyncFailure, Verb};
use piggin_storage::log_store::Maintained;
use piggin_storage::{
    CommitDurability, CreateOptions, Item, Job, KvStore, LogStore, OpenOptions, Outcome, Seqno,
    StorageError,
};
use support::log_store::small_options;
use support::{Image, Writer, mutation, vbucket};

fn create(disk: &SimulatedDisk, options: OpenOptions) -> (LogStore, Arc<dyn KvStore>) {
    let shape = CreateOptions::of(4, 1);
    let store = LogStore::create(Arc::new(disk.clone()), shape, options).unwrap();
    (store.clone(), Arc::new(store))
}

fn open(disk: &SimulatedDisk, entropy: u64) -> LogStore {
    LogStore::open(Arc::new(disk.clone()), small_options(entropy)).unwrap()
}

fn image(store: &LogStore, number: u16) -> Image {
    Image::of(store.snapshot(vbucket(number)).unwrap().as_ref())
}

fn large(seqno: u64, name: &str, bytes: usize) -> Arc<Item> {
    let mut item = Item::clone(&mutation(seqno, name, ""));
    item.document.value = Bytes::from(vec![7; bytes]);
    Arc::new(item)
}

fn names(disk: &SimulatedDisk, prefix: &str) -> Vec<String> {
    let names = disk.files().into_keys();
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn failed(verb: Verb, files: &str) -> Fault {
    let kind = DiskErrorKind::Other("a bad day".into());
    Fault::failed_call(kind).on(verb).of_files(files)
}

/// Calls `maintain` until there is nothing to do; how often it failed.
fn maintain(store: &LogStore, calls: usize) -> usize {
    let mut failures = 0;
    for _ in 0..calls {
        match store.maintain() {
            Outcome::Complete(Maintained::Nothing) => return failures,
            Outcome::Complete(Maintained::Worked) => {}
            Outcome::Failed(_) => failures += 1,
            aborted @ (Outcome::Yielded | Outcome::Aborted(_)) => panic!("{aborted:?}"),
        }
    }
    failures
}

#[test]
fn log_files_are_given_back_after_seals() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    for seqno in 1..=800 {
        writer.write(vec![large(seqno, &format!("k{}", seqno % 7), 2000)]);
        assert_eq!(maintain(&store, 1000), 0);
    }
    let statistics = store.statistics();
    assert!(statistics.log_files <= 6, "{statistics:?}");
}

#[test]
fn commit_that_failed_does_not_return_after_a_checkpoint_or_an_orderly_close() {
    for closes in [true, false] {
        let disk = SimulatedDisk::new();
        let (store, shared) = create(&disk, small_options(1));
        let mut writer = Writer::create(&shared, 0);
        writer.write(vec![mutation(1, "a", "one")]);
        writer.seal(Seqno::ZERO);
        store.sync().unwrap();
        disk.inject(failed(Verb::Sync, "log").lasting());
        let batch = writer.batch(vec![mutation(2, "b", "two")]);
        writer.try_commit(&batch).unwrap_err();
        disk.clear_faults();
        let before = image(&store, 0);
        drop((writer, shared));
        let left = if closes {
            store.close().unwrap();
            disk
        } else {
            store.checkpoint().unwrap();
            disk.crash_keeping_everything()
        };
        assert_eq!(image(&open(&left, 2), 0), before, "closed: {closes}");
    }
}

#[test]
fn commit_job_dropped_between_its_steps_leaves_all_or_nothing() {
    for steps in 1..=2 {
        let disk = SimulatedDisk::new();
        let (store, shared) = create(&disk, small_options(1));
        let mut writer = Writer::create(&shared, 0);
        writer.write(vec![mutation(1, "a", "one")]);
        let group = [writer.batch(vec![mutation(2, "b", "dropped")])];
        let mut job = store
            .commit_job(0, &group, CommitDurability::Synced)
            .unwrap();
        for _ in 0..steps {
            assert!(matches!(job.step(), Outcome::Yielded));
        }
        drop(job);
        let high = writer.stored_watermarks().high_seqno.0;
        writer.watermarks = writer.stored_watermarks();
        writer.write(vec![mutation(high + 1, "c", "next")]);
        let before = image(&store, 0);
        drop((writer, shared, store));
        let store = open(&disk, 2);
        assert_eq!(image(&store, 0), before, "dropped after {steps} steps");
        assert_eq!(store.seal(vbucket(0), Seqno::ZERO), Outcome::Complete(()));
    }
}

#[test]
fn recovery_makes_durable_what_a_failed_sync_left_in_memory_only() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    writer.write(vec![mutation(1, "a", "one")]);
    disk.inject(Fault::failed_sync(SyncFailure::KeepsPages).of_files("log"));
    disk.inject(failed(Verb::Open, "log-new").lasting());
    let batch = writer.batch(vec![mutation(2, "b", "two")]);
    writer.try_commit(&batch).unwrap_err();
    disk.clear_faults();
    drop((writer, shared, store));
    let store = open(&disk, 2);
    let before = image(&store, 0);
    drop(store);
    let left = disk.crash_losing_everything_unsynced();
    assert_eq!(image(&open(&left, 3), 0), before);
}

#[test]
fn damage_of_one_vbucket_does_not_keep_the_others_from_being_sealed() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, small_options(1));
    let mut writers = [Writer::create(&shared, 0), Writer::create(&shared, 1)];
    for writer in &mut writers {
        writer.write(vec![mutation(1, "a", "one")]);
    }
    assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
    // The first extent of the container is that of vbucket 0.
    let container = names(&disk, "container").remove(0);
    let damage = failed(Verb::Read, &container).touching(4096..8192);
    disk.inject(damage.lasting());
    for writer in &mut writers {
        writer.write(vec![mutation(2, "a", "two")]);
    }
    assert!(matches!(store.seal_all(Seqno::ZERO), Outcome::Failed(_)));
    let unsealed = |number| {
        store
            .file_statistics(vbucket(number))
            .unwrap()
            .unsealed_bytes
    };
    assert!(unsealed(0) > 0);
    assert_eq!(unsealed(1), 0);
}

#[test]
fn damage_of_one_vbucket_does_not_keep_the_others_from_being_merged() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, small_options(1));
    let mut writers = [Writer::create(&shared, 0), Writer::create(&shared, 1)];
    for round in 1..=4 {
        for (writer, seqno) in writers.iter_mut().zip([round, round]) {
            writer.write(vec![mutation(seqno, &format!("k{seqno}"), "value")]);
            writer.seal(Seqno::ZERO);
        }
    }
    writers[0].write(vec![mutation(5, "k5", "value")]);
    writers[0].seal(Seqno::ZERO);
    let first = names(&disk, "container").remove(0);
    disk.inject(failed(Verb::Read, &first).lasting());
    assert!(maintain(&store, 50) > 0);
    let segments = |number| store.file_statistics(vbucket(number)).unwrap().segments;
    assert_eq!((segments(0), segments(1)), (5, 1));
}

#[test]
fn vbucket_deleted_meanwhile_does_not_fail_the_seal_of_the_others() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, small_options(1));
    let mut writers = [Writer::create(&shared, 0), Writer::create(&shared, 1)];
    for writer in &mut writers {
        writer.write(vec![large(1, "a", 4000)]);
    }
    // The next log file first, then the seal.
    let mut preparing = store.maintenance_job(0).unwrap();
    assert_eq!(preparing.run(), Outcome::Complete(()));
    let mut sealing = store.maintenance_job(0).unwrap();
    store.delete_vbucket(vbucket(0)).unwrap();
    assert_eq!(sealing.run(), Outcome::Complete(()));
    assert_eq!(store.file_statistics(vbucket(1)).unwrap().segments, 1);
}

/// Where the frames of a log file begin.
fn frames(bytes: &[u8]) -> Vec<u64> {
    let places = (0..bytes.len() as u64).step_by(64);
    let begins = |at: &u64| {
        let at = usize::try_from(*at).unwrap();
        bytes.get(at..at + 4) == Some(b"PGFR")
    };
    places.filter(begins).collect()
}

#[test]
fn vbucket_whose_creation_is_damaged_is_down_and_its_files_stay() {
    for writes in [0, 1, 2] {
        let disk = SimulatedDisk::new();
        let (store, shared) = create(&disk, small_options(1));
        let mut healthy = Writer::create(&shared, 0);
        let mut damaged = Writer::create(&shared, 1);
        for seqno in 1..=writes {
            damaged.write(vec![mutation(seqno, "a", "value")]);
            damaged.seal(Seqno::ZERO);
        }
        healthy.write(vec![mutation(1, "a", "value")]);
        healthy.write(vec![mutation(2, "a", "value")]);
        drop((healthy, damaged, shared, store));
        let (name, bytes) = disk
            .files()
            .into_iter()
            .find(|(name, _)| name.starts_with("log."))
            .unwrap();
        disk.flip_bit(&name, frames(&bytes)[1] + 70, 0).unwrap();
        let containers = names(&disk, "container");
        let store = open(&disk, 2);
        assert_eq!(image(&store, 0).seqnos(), [2]);
        let down = store.snapshot(vbucket(1)).unwrap_err();
        assert!(
            matches!(down, StorageError::VbucketDown { .. }),
            "{writes} writes: {down:?}"
        );
        assert_eq!(names(&disk, "container"), containers);
        store.delete_vbucket(vbucket(1)).unwrap();
        drop(store);
        assert_eq!(open(&disk, 3).vbuckets().len(), 1);
    }
}

/// What was not readable may be so again: a manifest written meanwhile does not stand for it.
#[test]
fn vbucket_whose_creation_could_not_be_read_for_a_while_returns() {
    for writes in [0, 1, 2] {
        let disk = SimulatedDisk::new();
        let (store, shared) = create(&disk, small_options(1));
        let mut healthy = Writer::create(&shared, 0);
        let mut damaged = Writer::create(&shared, 1);
        for seqno in 1..=writes {
            damaged.write(vec![mutation(seqno, "a", "value")]);
            damaged.seal(Seqno::ZERO);
        }
        healthy.write(vec![mutation(1, "a", "value")]);
        let expected = image(&store, 1);
        drop((healthy, damaged, shared, store));
        let mut logs = disk.files().into_iter();
        let (name, bytes) = logs.find(|(name, _)| name.starts_with("log.")).unwrap();
        let creation = frames(&bytes)[1] + 70;
        disk.flip_bit(&name, creation, 0).unwrap();
        let store = open(&disk, 2);
        store.snapshot(vbucket(1)).unwrap_err();
        store.checkpoint().unwrap();
        drop(store);
        disk.flip_bit(&name, creation, 0).unwrap();
        let store = open(&disk, 3);
        assert_eq!(image(&store, 1), expected, "{writes} writes");
        assert_eq!(store.verify().faults, []);
    }
}

/// Of two lives the second counts, whichever of them could not be read for a while; and while one cannot, the vbucket
/// is down and never looks as if it had not been.
#[test]
fn vbucket_of_which_a_life_could_not_be_read_for_a_while_returns_as_the_last() {
    for left in [None, Some(0), Some(1)] {
        let disk = SimulatedDisk::new();
        let (store, shared) = create(&disk, small_options(1));
        let mut healthy = Writer::create(&shared, 0);
        let mut first = Writer::create(&shared, 1);
        first.write(vec![mutation(1, "a", "of the first life")]);
        shared.delete_vbucket(vbucket(1)).unwrap();
        let mut second = Writer::create(&shared, 1);
        second.write(vec![mutation(1, "b", "of the second life")]);
        healthy.write(vec![mutation(1, "a", "value")]);
        let expected = image(&store, 1);
        drop((healthy, first, second, shared, store));
        let mut logs = disk.files().into_iter();
        let (name, bytes) = logs.find(|(name, _)| name.starts_with("log.")).unwrap();
        let places = frames(&bytes);
        // Behind the other's creation: creation, batch, deletion, creation.
        let creations = [places[1] + 70, places[4] + 70];
        for creation in creations {
            disk.flip_bit(&name, creation, 0).unwrap();
        }
        let store = open(&disk, 2);
        store.snapshot(vbucket(1)).unwrap_err();
        store.checkpoint().unwrap();
        drop(store);
        let mended = (0..2).filter(|life| Some(*life) != left);
        for life in mended {
            disk.flip_bit(&name, creations[life], 0).unwrap();
        }
        let store = open(&disk, 3);
        if left == Some(1) {
            let error = store.snapshot(vbucket(1)).unwrap_err();
            assert!(matches!(error, StorageError::VbucketDown { .. }), "{error}");
        } else {
            assert_eq!(image(&store, 1), expected, "{left:?} is left");
        }
    }
}

#[test]
fn checkpoint_that_fails_leaves_no_file_behind() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, small_options(1));
    Writer::create(&shared, 0);
    for fault in [
        failed(Verb::Write, "manifest-new"),
        failed(Verb::Sync, "manifest-new"),
    ] {
        disk.inject(fault);
        store.checkpoint().unwrap_err();
        assert_eq!(names(&disk, "manifest-new"), [""; 0]);
    }
    store.checkpoint().unwrap();
}

#[test]
fn work_that_cannot_be_done_does_not_keep_maintenance_from_the_rest() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    for seqno in 1..=30 {
        writer.write(vec![large(seqno, "a", 1500)]);
    }
    disk.inject(
        Fault::failed_call(DiskErrorKind::Full)
            .on(Verb::Open)
            .of_files("log-new")
            .lasting(),
    );
    assert!(maintain(&store, 50) > 0);
    assert_eq!(store.statistics().unsealed_bytes, 0);
}

#[test]
fn two_checkpoints_at_once_both_succeed() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, small_options(1));
    Writer::create(&shared, 0);
    let mut first = store.checkpoint_job(0).unwrap();
    assert!(matches!(first.step(), Outcome::Yielded));
    let begun = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            begun.wait();
            store.checkpoint()
        });
        begun.wait();
        for _ in 0..1000 {
            std::thread::yield_now();
        }
        assert_eq!(first.run(), Outcome::Complete(()));
        second.join().unwrap().unwrap();
    });
}

/// Flips the last byte of the last segment in a container.
fn damage_end(disk: &SimulatedDisk, container: &str) {
    let length = disk.files().remove(container).unwrap().len() as u64;
    disk.flip_bit(container, length - 1, 0).unwrap();
}

#[test]
fn maintenance_ends_after_a_damaged_vbucket_was_deleted() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create(&disk, small_options(1));
    let mut writers = [0, 1, 2].map(|number| Writer::create(&shared, number));
    for (writer, bytes) in writers.iter_mut().zip([100, 100, 60_000]) {
        writer.write(vec![large(1, "a", bytes)]);
    }
    assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
    writers[0].write(vec![mutation(2, "b", "value")]);
    writers[0].seal(Seqno::ZERO);
    damage_end(&disk, &names(&disk, "container")[1]);
    drop((writers, shared, store));
    let store = open(&disk, 2);
    store.snapshot(vbucket(0)).unwrap_err();
    store.delete_vbucket(vbucket(0)).unwrap();
    store.delete_vbucket(vbucket(2)).unwrap();
    maintain(&store, 100);
    assert_eq!(store.maintain(), Outcome::Complete(Maintained::Nothing));
    assert_eq!(image(&store, 1).seqnos(), [1]);
}

#[test]
fn sizes_without_a_limit_are_possible() {
    let options = OpenOptions {
        log_file_bytes_max: u64::MAX,
        frame_bytes_max: usize::MAX,
        unsynced_bytes_max: usize::MAX,
        unsealed_bytes: u64::MAX,
        segments_max: usize::MAX,
        container_bytes_min: u64::MAX,
        block_bytes: usize::MAX,
        index_cache_bytes: usize::MAX,
        ..small_options(1)
    };
    let (_store, shared) = create(&SimulatedDisk::new(), options);
    Writer::create(&shared, 0).write(vec![mutation(1, "a", "value")]);
}
