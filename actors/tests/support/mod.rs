//! A vbucket's core alone, with a clock that is set by hand; shared by the tests of its promises.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its own part of this"
)]

pub(crate) mod durable;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use messages::vbucket::{Delete, Set, SetVbucketState, WriteOptions};
use messages::{FailureId, OperationError};
use piggin_actors::environment::{Clock, Environment, FailureReport, Random, ReportFailure};
use piggin_actors::executor::{Executor, StartError, WakeWorker, WorkerSpec};
use piggin_actors::hooks::Hooks;
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use piggin_actors::vbucket::{
    BucketManifest, DirtyVbuckets, FlushTake, VbucketConfig, VbucketCore,
};
use storage::{
    Batch, CollectionId, CommitDurability, DocumentKey, Eviction, Incarnation, KvStore,
    MemoryAccount, MemoryPool, RollbackEpoch, Seqno, VbucketId, VbucketPosition, VbucketState,
    VbucketStateRecord, VbucketUuid,
};

/// When the clock begins, in seconds since the Unix epoch.
pub(crate) const START_SECONDS: u64 = 1_700_000_000;

/// A clock that goes when told.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap();
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn seconds(&self) -> u32 {
        u32::try_from(self.since_epoch().as_secs()).unwrap()
    }
}

impl Clock for TestClock {
    fn since_epoch(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.since_epoch()
    }
}

#[derive(Debug)]
struct Counting(AtomicU64);

impl Random for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Nobody;

impl ReportFailure for Nobody {
    fn report(&self, report: FailureReport) -> FailureId {
        panic!("a core alone reports nothing: {report:?}");
    }
}

impl Executor for Nobody {
    fn start(&self, spec: WorkerSpec) -> Result<WakeWorker, StartError> {
        Err(StartError {
            name: spec.name,
            what: "a core alone has no workers".into(),
        })
    }
}

/// How to build a core for a test.
pub(crate) struct Setup {
    pub(crate) record: VbucketStateRecord,
    pub(crate) position: VbucketPosition,
    pub(crate) quota_bytes: u64,
    pub(crate) checkpoints: CheckpointLimits,
    pub(crate) eviction: Eviction,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            record: VbucketStateRecord::new(VbucketUuid(0xa11ce)),
            position: VbucketPosition {
                incarnation: Incarnation(1),
                epoch: RollbackEpoch(0),
                high_seqno: Seqno::ZERO,
            },
            quota_bytes: 1 << 30,
            checkpoints: CheckpointLimits::default(),
            eviction: Eviction::None,
        }
    }
}

/// A core and what it was given.
pub(crate) struct Bench {
    pub(crate) core: Arc<VbucketCore>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) memory: Arc<MemoryAccount>,
    pub(crate) dirty: Arc<DirtyVbuckets>,
    pub(crate) suspects: Arc<AtomicU64>,
    pub(crate) environment: Environment,
    /// What it follows.
    pub(crate) manifest: Arc<BucketManifest>,
}

pub(crate) fn id() -> VbucketId {
    VbucketId::new(3).unwrap()
}

impl Setup {
    /// A core that is still warming.
    pub(crate) fn warming(self) -> Bench {
        let clock = Arc::new(TestClock(AtomicU64::new(START_SECONDS * 1_000_000_000)));
        let memory = Arc::new(MemoryAccount::new(Arc::new(MemoryPool::new(
            self.quota_bytes,
        ))));
        let dirty = Arc::new(DirtyVbuckets::new(8));
        let suspects = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&suspects);
        let manifest = Arc::new(BucketManifest::default());
        let environment = Environment {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            random: Arc::new(Counting(AtomicU64::new(1))),
            failures: Arc::new(Nobody),
            executor: Arc::new(Nobody),
            hooks: Hooks::none(),
        };
        let core = VbucketCore::new(VbucketConfig {
            id: id(),
            state: self.record,
            position: self.position,
            environment: environment.clone(),
            memory: Arc::clone(&memory),
            dirty: Arc::clone(&dirty),
            checkpoints: self.checkpoints,
            on_suspect: Arc::new(move |_| {
                told.fetch_add(1, Ordering::Relaxed);
            }),
        })
        .of_bucket(Arc::clone(&manifest))
        .evicting(self.eviction);
        Bench {
            core: Arc::new(core),
            clock,
            memory,
            dirty,
            suspects,
            environment,
            manifest,
        }
    }

    /// A core that serves.
    pub(crate) fn warm(self) -> Bench {
        let bench = self.warming();
        bench.core.warm_done();
        bench
    }
}

/// The same of a bucket that has this leave memory.
pub(crate) fn active_evicting(eviction: Eviction) -> Bench {
    Setup {
        eviction,
        ..Setup::default()
    }
    .warm()
}

/// An active vbucket with nothing in it.
pub(crate) fn active() -> Bench {
    Setup::default().warm()
}

pub(crate) fn in_state(state: VbucketState) -> Bench {
    let bench = active();
    become_state(&bench.core, state);
    bench
}

pub(crate) fn become_state(core: &VbucketCore, state: VbucketState) {
    core.set_state(SetVbucketState {
        state,
        topology: None,
        is_takeover: false,
    })
    .unwrap();
}

pub(crate) fn key(name: &str) -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).unwrap()
}

pub(crate) fn set(name: &str, value: &str) -> Set {
    Set {
        key: key(name),
        value: Bytes::copy_from_slice(value.as_bytes()),
        options: WriteOptions::default(),
    }
}

pub(crate) fn delete(name: &str) -> Delete {
    Delete {
        key: key(name),
        cas: None,
        acknowledge: messages::vbucket::Acknowledge::InMemory,
    }
}

pub(crate) fn value(core: &VbucketCore, name: &str) -> Result<String, OperationError> {
    let found = core.get(&key(name))?;
    Ok(String::from_utf8(found.value.to_vec()).unwrap())
}

/// The batch a flusher makes of what it took.
pub(crate) fn batch(take: FlushTake, position: &VbucketPosition) -> Batch {
    Batch {
        vbucket: id(),
        incarnation: position.incarnation,
        epoch: position.epoch,
        items: take.items,
        watermarks: take.watermarks,
        identity: take.identity,
    }
}

pub(crate) fn position(store: &dyn KvStore) -> VbucketPosition {
    let mut all = store.vbuckets().into_iter();
    let status = all.find(|status| status.vbucket == id()).unwrap();
    status.position.unwrap()
}

/// Flushes everything into a store, in batches of so many items.
pub(crate) fn flush_all(core: &VbucketCore, store: &dyn KvStore, items_max: usize) {
    while let Some(take) = core.take_for_flush(items_max, usize::MAX) {
        let high = take.watermarks.high_seqno;
        let group = [batch(take, &position(store))];
        for committed in store.commit(&group, CommitDurability::Synced) {
            committed.unwrap();
        }
        core.note_persisted(high);
    }
}
