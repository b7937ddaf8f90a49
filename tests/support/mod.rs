//! What the tests of the whole share: a place for a bucket, a disk that can be watched, held up and made to panic, and
//! a listener for failures.
//!
//! Invariant: nothing here waits for time; every wait is for an event that a test causes.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]

mod disk;
pub(crate) mod evicting;
mod listener;

use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use piggin::messages::vbucket::Found;
use piggin::messages::{FailureId, FailureKind, OperationError};
use piggin::storage::VbucketId;
use piggin::{Bucket, BucketConfig};

pub(crate) use disk::TestDisk;
pub(crate) use listener::Listener;

/// What a test ends with.
pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Waits on this thread, which no runtime owns.
pub(crate) fn block_on<F: IntoFuture>(future: F) -> F::Output {
    futures_executor::block_on(future.into_future())
}

/// A directory of its own, gone with the test.
#[derive(Debug)]
pub(crate) struct TempDirectory(PathBuf);

impl TempDirectory {
    pub(crate) fn new() -> TempDirectory {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("piggin-acceptance-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Left over from a process of the same id.
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir(&path).unwrap();
        TempDirectory(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDirectory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The smallest bucket that has more than one of what there may be more than one of.
pub(crate) fn small(config: BucketConfig) -> BucketConfig {
    BucketConfig {
        actor_threads: Some(1),
        warmup_threads: 1,
        reader_threads: 1,
        // A test says when it wants to see figures.
        metrics_every: None,
        ..config
    }
}

/// As [`small`], for a bucket that is to be made.
pub(crate) fn made_small(config: BucketConfig) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(4),
        ..small(config)
    }
}

/// A key that lies in this vbucket; another for each number.
pub(crate) fn key_in(bucket: &Bucket, vbucket: VbucketId, number: usize) -> String {
    let keys = (0..).map(|try_number: u64| format!("key-{number}-{try_number}"));
    let mut fitting = keys.filter(|key| bucket.vbucket_of(key.as_bytes()) == vbucket);
    fitting.next().unwrap()
}

pub(crate) fn vbucket(number: u16) -> VbucketId {
    VbucketId::new(number).unwrap()
}

/// Writes documents in every vbucket and waits until they are on disk; the keys.
pub(crate) fn fill(bucket: &Bucket, each: usize) -> Vec<String> {
    let ids = (0..bucket.vbucket_count()).map(vbucket);
    let keys: Vec<String> = ids
        .flat_map(|id| (0..each).map(move |number| (id, number)))
        .map(|(id, number)| key_in(bucket, id, number))
        .collect();
    for key in &keys {
        block_on(bucket.set(key, value_of(key))).unwrap();
    }
    block_on(bucket.flush()).unwrap();
    keys
}

/// The value [`fill`] writes.
pub(crate) fn value_of(key: &str) -> String {
    format!("value of {key}")
}

/// Whether a read found what [`fill`] wrote.
pub(crate) fn assert_filled(bucket: &Bucket, keys: &[String]) {
    for key in keys {
        let found: std::result::Result<Found, OperationError> = block_on(bucket.get(key));
        assert_eq!(found.unwrap().value, value_of(key), "{key}");
    }
}

/// The kinds of all failures told so far.
pub(crate) fn kinds(bucket: &Bucket) -> Vec<FailureKind> {
    let history = bucket.failures(FailureId(0));
    assert_eq!(history.forgotten, None);
    history.failures.iter().map(|one| one.kind).collect()
}

/// Lets others work until it is so; for what has no event of its own.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}
