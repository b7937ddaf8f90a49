//! A publish that does not come back may have erased prepares all the same. Whichever of its calls on the disk fails, or
//! panics: each prepare is told, or in the store when it is opened anew, or was at stake and is found gone there; and the
//! next run tells of those that are left. So whoever tracks prepares through it waits for none in vain (MB-50060).
#![cfg(test)]

mod support;
#[expect(
    dead_code,
    reason = "only the model of a vbucket is used, not its runs"
)]
mod model;
mod beside;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use beside::Beside;
use piggin_storage::disk::{
    Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, Fault, OpenMode, SimulatedDisk,
    SyncFailure, Verb,
};
use piggin_storage::{
    CompactionJob, CompactionRequest, CompactionStage, ErasedPrepare, Job, KvStore, LogStore,
    Outcome, Seqno,
};
use support::log_store::{open_on, small_options};
use support::vbucket;

/// Panics at a call, before it or behind it.
#[derive(Clone, Debug)]
struct Panicking<D> {
    inner: D,
    /// Calls left; negative is never.
    left: Arc<AtomicI64>,
    is_behind: bool,
}

impl<D> Panicking<D> {
    fn with<F>(&self, inner: F) -> Panicking<F> {
        Panicking {
            inner,
            left: Arc::clone(&self.left),
            is_behind: self.is_behind,
        }
    }

    fn call<T>(&self, call: impl FnOnce(&D) -> T) -> T {
        let is_struck = self.left.fetch_sub(1, Ordering::SeqCst) == 1;
        assert!(!is_struck || self.is_behind, "asked to panic");
        let done = call(&self.inner);
        assert!(!is_struck, "asked to panic");
        done
    }
}

impl Disk for Panicking<SimulatedDisk> {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        let file = self.call(|disk| disk.open(name, mode))?;
        Ok(Arc::new(self.with(file)))
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.call(|disk| disk.rename(from, to))
    }
    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.call(|disk| disk.remove(name))
    }
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.call(Disk::list)
    }
    fn sync_directory(&self) -> Result<(), DiskError> {
        self.call(Disk::sync_directory)
    }
    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, DiskError> {
        self.inner.lock(name)
    }
}

impl DiskFile for Panicking<Arc<dyn DiskFile>> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.call(|file| file.read_at(buffer, offset))
    }
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.call(|file| file.read_at_once(buffer, offset))
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.call(|file| file.write_at(data, offset))
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.call(|file| file.sync())
    }
    fn length(&self) -> Result<u64, DiskError> {
        self.call(|file| file.length())
    }
    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.call(|file| file.truncate(length))
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.call(|file| file.zero(offset, length))
    }
    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.call(|file| file.punch(offset, length))
    }
}

fn all() -> CompactionRequest {
    CompactionRequest {
        drop_deletes: true,
        ..CompactionRequest::default()
    }
}

/// What a publish came to.
struct Published {
    /// What it said that it erased; nothing where it did not come back.
    told: Vec<ErasedPrepare>,
    has_come_back: bool,
    has_struck: bool,
}

/// How often what happened.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    came_back: u32,
    /// It did not come back: the prepares are there, or gone.
    still_there: u32,
    gone: u32,
}

/// Runs to the publish, then lets `publish` do that, opens the store anew and asks it; for n from one on, until nothing
/// strikes any more.
fn at_every_call(
    is_behind: bool,
    publish: impl Fn(u64, &SimulatedDisk, &AtomicI64, &mut CompactionJob) -> Published,
) -> Seen {
    let mut seen = Seen::default();
    for n in 1.. {
        let Beside { disk, store, .. } = Beside::filled();
        drop(store);
        let left = Arc::new(AtomicI64::new(-1));
        let hooked = Panicking {
            inner: disk.clone(),
            left: Arc::clone(&left),
            is_behind,
        };
        let store = LogStore::open(Arc::new(hooked), small_options(50)).unwrap();
        let mut job = store.compaction_job(vbucket(0), all()).unwrap();
        while job.progress().stage != CompactionStage::Publish {
            assert_eq!(job.prepares_at_stake(), []);
            assert_eq!(job.step(), Outcome::Yielded);
        }
        let at_stake = job.prepares_at_stake().to_vec();
        assert_eq!(at_stake.len(), 2, "one of each collection");
        let published = publish(n, &disk, &left, &mut job);
        left.store(-1, Ordering::SeqCst);
        disk.clear_faults();
        drop((job, store));
        let store = open_on(&disk, 60);
        let snapshot = store.snapshot(vbucket(0)).unwrap();
        let is_gone = |one: &&ErasedPrepare| one.is_gone_from(snapshot.as_ref()).unwrap();
        let gone: Vec<_> = at_stake.iter().filter(is_gone).cloned().collect();
        assert!(
            gone.is_empty() || gone == at_stake,
            "{n}: one publish, all of it or nothing"
        );
        assert_eq!(
            snapshot.dropped_collections().is_empty(),
            !gone.is_empty(),
            "{n}: off the list and gone are one"
        );
        if published.has_come_back {
            assert_eq!((&published.told, &gone), (&at_stake, &at_stake), "{n}");
            seen.came_back += 1;
        } else if gone.is_empty() {
            seen.still_there += 1;
        } else {
            seen.gone += 1;
        }
        let Outcome::Complete(next) = store.compact(vbucket(0), &all()) else {
            panic!("{n}: the next run");
        };
        let told = published.told.iter().chain(&gone);
        let told = told.chain(&next.prepares_erased);
        let told: BTreeSet<Seqno> = told.map(|one| one.seqno).collect();
        let wanted: BTreeSet<Seqno> = at_stake.iter().map(|one| one.seqno).collect();
        assert_eq!(told, wanted, "{n}: nobody waits in vain");
        assert_eq!(store.verify().faults, [], "{n}");
        if !published.has_struck {
            println!("{n} calls: {seen:?}");
            return seen;
        }
    }
    seen
}

fn published_by_steps(job: &mut CompactionJob) -> Option<Vec<ErasedPrepare>> {
    loop {
        match job.step() {
            Outcome::Yielded => {}
            Outcome::Complete(told) => return Some(told.prepares_erased),
            Outcome::Failed(failure) => {
                assert_eq!(failure.published, None);
                return None;
            }
            ended @ Outcome::Aborted(_) => panic!("{ended:?}"),
        }
    }
}

/// `fault` strikes calls of `verb`, or of any.
fn failing_with(fault: &Fault, verb: Option<Verb>) -> Seen {
    at_every_call(false, |n, disk, _, job| {
        disk.inject(fault.clone().nth(n));
        let calls = || verb.map_or_else(|| disk.calls(), |verb| disk.calls_of(verb));
        let before = calls();
        let told = published_by_steps(job);
        Published {
            has_come_back: told.is_some(),
            told: told.unwrap_or_default(),
            has_struck: calls() - before >= n,
        }
    })
}

fn other() -> DiskErrorKind {
    DiskErrorKind::Other("input/output error".to_owned())
}

#[test]
fn when_calls_fail_from_one_on() {
    let seen = failing_with(&Fault::failed_call(other()).lasting(), None);
    assert!(seen.still_there > 0 && seen.came_back > 0, "{seen:?}");
}

#[test]
fn when_syncs_fail_from_one_on() {
    let syncs = Some(Verb::Sync);
    let waiting = Fault::failed_call(other()).on(Verb::Sync).lasting();
    let seen = failing_with(&waiting, syncs);
    assert!(seen.gone > 0, "durable without having said so: {seen:?}");
    for failure in [SyncFailure::KeepsPages, SyncFailure::DropsPages] {
        failing_with(&Fault::failed_sync(failure).lasting(), syncs);
    }
}

#[test]
fn when_one_call_fails() {
    let seen = failing_with(&Fault::failed_call(other()), None);
    assert!(seen.came_back > 0, "{seen:?}");
}

#[test]
fn when_a_call_panics() {
    for is_behind in [false, true] {
        let seen = at_every_call(is_behind, |n, _, left, job| {
            left.store(i64::try_from(n).unwrap(), Ordering::SeqCst);
            let told = catch_unwind(AssertUnwindSafe(|| published_by_steps(job)));
            Published {
                has_come_back: matches!(told, Ok(Some(_))),
                has_struck: told.is_err(),
                told: told.ok().flatten().unwrap_or_default(),
            }
        });
        assert!(seen.gone > 0 && seen.came_back > 0, "{seen:?}");
    }
}
