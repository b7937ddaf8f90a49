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
    let shape = CreateOptions {
        vbuckets: 4,
        log_shards: 1,
    };
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
            other => panic!("{other:?}"),
        }
    }
    failures
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

