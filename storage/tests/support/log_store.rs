//! Log stores on a simulated disk, for the tests that run on every store: left behind by a crash of the process,
//! closed in order, or with background work after every commit.
//!
//! Invariant: sizes are so small that every structure of the log store is exercised by a few items.

use std::sync::{Arc, Mutex};

use piggin_storage::disk::{DiskErrorKind, Fault, SimulatedDisk, Verb};
use piggin_storage::log_store::Maintained;
use piggin_storage::{
    Batch, CommitDurability, Compacted, CompactionFailure, CompactionRequest, CreateOptions,
    FileStatistics, Incarnation, KvStore, LogStore, OpenOptions, Outcome, Retention, RolledBack,
    Seqno, Snapshot, StorageError, VbucketId, VbucketStateRecord, VbucketStatus,
};

use super::{Image, StoreFactory, vbucket};

/// Options under which everything happens early.
pub(crate) fn small_options(entropy: u64) -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 64 << 10,
        log_file_bytes_max: 128 << 10,
        frame_bytes_max: 2 << 10,
        unsealed_bytes: 4 << 10,
        segments_max: 2,
        published_at_once: 2,
        container_bytes_min: 8 << 10,
        block_bytes: 4 << 10,
        history_floor: Seqno::ZERO,
        ..OpenOptions::new(entropy)
    }
}

/// A new store for four vbuckets, by both its names.
pub(crate) fn create_on(
    disk: &SimulatedDisk,
    options: OpenOptions,
) -> (LogStore, Arc<dyn KvStore>) {
    let shape = CreateOptions::of(4, 1);
    let store = LogStore::create(Arc::new(disk.clone()), shape, options).unwrap();
    (store.clone(), Arc::new(store))
}

/// What is on the disk, opened.
pub(crate) fn open_on(disk: &SimulatedDisk, entropy: u64) -> LogStore {
    LogStore::open(Arc::new(disk.clone()), small_options(entropy)).unwrap()
}

/// Everything vbucket `number` answers.
pub(crate) fn image(store: &LogStore, number: u16) -> Image {
    Image::of(store.snapshot(vbucket(number)).unwrap().as_ref())
}

/// The files whose names begin so.
pub(crate) fn names(disk: &SimulatedDisk, prefix: &str) -> Vec<String> {
    let names = disk.files().into_keys();
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// A call that fails with nothing done.
pub(crate) fn failing(verb: Verb, files: &str) -> Fault {
    let kind = DiskErrorKind::Other("input/output error".into());
    Fault::failed_call(kind).on(verb).of_files(files)
}

/// A log store in two log shards.
#[derive(Default)]
pub(crate) struct OnLog {
    closes: bool,
    maintains: bool,
    retention: Option<Retention>,
    open: Mutex<Option<Opened>>,
}

struct Opened {
    disk: SimulatedDisk,
    store: LogStore,
    times: u64,
}

impl OnLog {
    pub(crate) fn closed_in_order() -> OnLog {
        OnLog {
            closes: true,
            ..OnLog::default()
        }
    }

    pub(crate) fn maintained() -> OnLog {
        OnLog {
            maintains: true,
            ..OnLog::default()
        }
    }

    /// Maintained, and everything of the last second is history.
    pub(crate) fn keeping_history() -> OnLog {
        OnLog {
            retention: Some(Retention::of_seconds(1)),
            ..OnLog::maintained()
        }
    }

    fn handle(&self, store: LogStore) -> Arc<dyn KvStore> {
        if self.maintains {
            Arc::new(WithMaintenance(store))
        } else {
            Arc::new(store)
        }
    }
}

impl StoreFactory for OnLog {
    fn window_ms(&self) -> Option<u64> {
        self.retention
            .map(|retention| u64::from(retention.window_s) * 1000)
    }

    fn create(&self, vbuckets: u16) -> Arc<dyn KvStore> {
        let disk = SimulatedDisk::new();
        let shape = CreateOptions::of(vbuckets, 2.min(vbuckets));
        let (on, options) = (Arc::new(disk.clone()), small_options(1));
        let store = LogStore::create_with_history(on, shape, self.retention, options).unwrap();
        *self.open.lock().unwrap() = Some(Opened {
            disk,
            store: store.clone(),
            times: 1,
        });
        self.handle(store)
    }

    fn reopen(&self, store: Arc<dyn KvStore>) -> Arc<dyn KvStore> {
        let Opened {
            disk,
            store: last,
            times,
        } = self.open.lock().unwrap().take().unwrap();
        drop(store);
        if self.closes {
            last.close().unwrap();
        } else {
            drop(last);
        }
        let times = times + 1;
        let store = LogStore::open(Arc::new(disk.clone()), small_options(times)).unwrap();
        *self.open.lock().unwrap() = Some(Opened {
            disk,
            store: store.clone(),
            times,
        });
        self.handle(store)
    }
}

/// A log store that does all its background work after every call that made some, and merges what it seals.
#[derive(Debug)]
struct WithMaintenance(LogStore);

impl WithMaintenance {
    fn maintain(&self) {
        for _ in 0..1000 {
            match self.0.maintain() {
                Outcome::Complete(Maintained::Nothing) => return,
                Outcome::Complete(Maintained::Worked) => {}
                other @ (Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                    panic!("maintenance: {other:?}")
                }
            }
        }
        panic!(
            "maintenance does not come to an end: {:?}",
            self.0.statistics()
        );
    }
}

impl KvStore for WithMaintenance {
    fn create_vbucket(
        &self,
        vbucket: VbucketId,
        state: &VbucketStateRecord,
    ) -> Result<Incarnation, StorageError> {
        self.0.create_vbucket(vbucket, state)
    }

    fn delete_vbucket(&self, vbucket: VbucketId) -> Result<(), StorageError> {
        let result = self.0.delete_vbucket(vbucket);
        self.maintain();
        result
    }

    fn vbuckets(&self) -> Vec<VbucketStatus> {
        self.0.vbuckets()
    }

    fn commit(
        &self,
        group: &[Batch],
        durability: CommitDurability,
    ) -> Vec<Result<(), StorageError>> {
        let results = self.0.commit(group, durability);
        self.maintain();
        results
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.0.sync()
    }

    fn snapshot(&self, vbucket: VbucketId) -> Result<Box<dyn Snapshot>, StorageError> {
        self.0.snapshot(vbucket)
    }

    fn rollback(&self, vbucket: VbucketId, to: Seqno) -> Outcome<RolledBack> {
        let outcome = self.0.rollback(vbucket, to);
        self.maintain();
        outcome
    }

    fn seal(&self, vbucket: VbucketId, history_floor: Seqno) -> Outcome<()> {
        let outcome = self.0.seal(vbucket, history_floor);
        if !matches!(outcome, Outcome::Complete(())) {
            return outcome;
        }
        let merged = self.0.merge(vbucket, history_floor);
        self.maintain();
        merged
    }

    fn compact(
        &self,
        vbucket: VbucketId,
        request: &CompactionRequest,
    ) -> Outcome<Compacted, CompactionFailure> {
        self.0.compact(vbucket, request)
    }

    fn file_statistics(&self, vbucket: VbucketId) -> Result<FileStatistics, StorageError> {
        self.0.file_statistics(vbucket)
    }
}
