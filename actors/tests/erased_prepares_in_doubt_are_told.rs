//! A publish whose sync fails may be durable all the same: once the store was opened anew, whoever tracks prepares is told
//! of those that are gone, once, and of those that are not when the next run has erased them. So is the vbucket, and of
//! how far it is purged. A publish that was aborted leaves nothing to tell.
#![cfg(test)]

mod disk_side;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use parking_lot::Mutex;

use messages::compactor::{Compact, CompactError, CompactOptions, PreparesErased};
use messages::{ChildName, Generation};
use piggin_actors::backoff::Backoff;
use piggin_actors::compactor::{
    Compactable, CompactionPolicy, CompactionTable, CompactionWorker, Compactor, CompactorConfig,
    CompactorLimits, Expiring,
};
use piggin_actors::executor::Worker;
use piggin_actors::store_handle::{Reopening, StoreHandle};
use piggin_actors::vbucket::LookedUp;
use storage::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk, SyncFailure, Verb};
use storage::{
    AbortReason, Batch, Cas, CollectionId, CommitDurability, CompactionStage, DeleteSource,
    Document, DocumentKey, DurabilityLevel, ErasedPrepare, ExpiredDocument, Item, KvStore,
    LogStore, ManifestUid, Operation, Outcome, ScopeId, Seqno, StorageError, SystemEvent,
    VbucketId,
};

use disk_side::{Ground, rig};

const VBUCKET: VbucketId = VbucketId::FIRST;
/// Where the tombstone is.
const TOMBSTONE: Seqno = Seqno(4);

/// Any vbucket: what it was told to forget, and how far it was said to be purged.
#[derive(Debug, Default)]
struct Any(Mutex<Vec<ErasedPrepare>>, Mutex<Vec<Seqno>>);

impl Compactable for Any {
    fn expire(&self, _: &ExpiredDocument, _: Option<&LookedUp>) -> Expiring {
        Expiring::Left
    }

    fn purged(&self, seqno: Seqno) {
        self.1.lock().push(seqno);
    }

    fn forget_erased(&self, erased: &PreparesErased) {
        self.0.lock().extend_from_slice(&erased.prepares);
    }
}

#[derive(Debug)]
struct Table(Arc<Any>);

impl CompactionTable for Table {
    fn vbuckets(&self) -> u16 {
        1
    }

    fn vbucket(&self, _: VbucketId) -> Result<Arc<dyn Compactable>, CompactError> {
        Ok(Arc::<Any>::clone(&self.0))
    }
}

/// A prepare that was not completed, in a collection that was dropped, and a tombstone in another.
fn leave_a_prepare(store: &LogStore) -> ErasedPrepare {
    let collection = CollectionId(8);
    let begin = SystemEvent::CollectionBegin {
        uid: ManifestUid(1),
        scope: ScopeId::DEFAULT,
        collection,
        name: "c".to_owned(),
        max_ttl_s: 0,
    };
    let end = SystemEvent::CollectionEnd {
        uid: ManifestUid(2),
        scope: ScopeId::DEFAULT,
        collection,
        start: Seqno(1),
    };
    let key = DocumentKey::new(collection, b"k").unwrap();
    let prepare = Operation::Prepare {
        level: DurabilityLevel::Majority,
        is_deletion: false,
    };
    let other = |key: &[u8]| DocumentKey::new(CollectionId::DEFAULT, key).unwrap();
    let deletion = Operation::Deletion {
        deleted_at: 1,
        source: DeleteSource::Explicit,
    };
    let items = [
        (begin.operation(), begin.key().unwrap(), begin.value()),
        (prepare, key.clone(), Bytes::from_static(b"v")),
        (end.operation(), end.key().unwrap(), end.value()),
        (deletion, other(b"d"), Bytes::new()),
        (Operation::Mutation, other(b"l"), Bytes::new()),
    ];
    let items = (1..).zip(items).map(|(seqno, (operation, key, value))| {
        let mut item = Item::mutation(Seqno(seqno), Document::new(key, value, Cas(seqno)));
        item.operation = operation;
        Arc::new(item)
    });
    let position = store.vbuckets().swap_remove(0).position.unwrap();
    let mut batch = Batch::of_documents(VBUCKET, &position, items.collect(), 1);
    batch.watermarks.prepared_seqno = Seqno(2);
    let written = store.commit(&[batch], CommitDurability::Synced);
    assert_eq!(written, [Ok(())]);
    let seqno = Seqno(2);
    ErasedPrepare { key, seqno }
}

/// Whoever tracks prepares.
#[derive(Default)]
struct Monitor(Vec<ErasedPrepare>);

impl Actor for Monitor {
    type Context = Context<Self>;
}

impl Handler<PreparesErased> for Monitor {
    type Result = ();

    fn handle(&mut self, message: PreparesErased, _: &mut Context<Self>) {
        assert_eq!(message.vbucket, VBUCKET);
        self.0.extend(message.prepares);
    }
}

/// Says what it was told since it was asked last.
struct Say;

impl Message for Say {
    type Result = Vec<ErasedPrepare>;
}

impl Handler<Say> for Monitor {
    type Result = MessageResult<Say>;

    fn handle(&mut self, _: Say, _: &mut Context<Self>) -> MessageResult<Say> {
        MessageResult(std::mem::take(&mut self.0))
    }
}

const ALL: CompactOptions = CompactOptions {
    drop_deletes: true,
    purge_before_s: None,
};

struct Bench {
    disk: SimulatedDisk,
    store: StoreHandle,
    compactor: Compactor,
    worker: CompactionWorker,
    monitor: Addr<Monitor>,
    vbucket: Arc<Any>,
    left: ErasedPrepare,
}

impl Bench {
    fn new(ground: &Ground) -> Bench {
        let disk = SimulatedDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = rig::create(&shared);
        let left = leave_a_prepare(&store);
        let store = rig::handle(&shared, store);
        let vbucket = Arc::new(Any::default());
        let compactor = Compactor::new(CompactorConfig {
            workers: ChildName::new("compaction"),
            store: store.clone(),
            environment: ground.environment(),
            table: Arc::new(Table(Arc::clone(&vbucket))),
            limits: CompactorLimits {
                running_max: 1,
                waiters_max: 9,
                backoff: Backoff::DISK,
            },
            policy: CompactionPolicy::NEVER,
            purge_age: Duration::from_secs(9),
            bytes_per_second: 0,
            history_floor: Seqno::MAX,
        });
        let monitor = Monitor::default().start();
        compactor.tell_erased_prepares(monitor.clone().recipient());
        let name = ChildName::new("compaction-0");
        let worker = CompactionWorker::new(compactor.clone(), name, Generation(1));
        Bench {
            disk,
            store,
            compactor,
            worker,
            monitor,
            vbucket,
            left,
        }
    }

    /// Compacts; how that was answered.
    fn compact(&mut self) -> Result<(), CompactError> {
        let mut answer = self.compactor.compact(Compact {
            vbucket: VBUCKET,
            options: ALL,
        });
        let answered = (0..100).find_map(|_| {
            let _ = self.worker.step();
            answer.try_recv().ok()
        });
        answered.expect("an answer").map(|_| ())
    }

    fn reopen(&mut self) {
        self.store
            .recall(self.store.generation(), StorageError::Closed);
        let reopened = self.store.reopen();
        assert!(matches!(reopened, Reopening::Reopened(_)), "{reopened:?}");
    }

    /// How far the vbucket was said to be purged since that was asked last.
    fn purged(&self) -> Vec<Seqno> {
        std::mem::take(&mut *self.vbucket.1.lock())
    }

    /// What the monitor was told, which is what the vbucket was.
    async fn told(&self) -> Vec<ErasedPrepare> {
        let told = self.monitor.send(Say).await.expect("it lives");
        let forgot = std::mem::take(&mut *self.vbucket.0.lock());
        assert_eq!(forgot, told);
        told
    }
}

/// A run whose publish fails at every sync of the log, in that way; then the store is opened anew.
async fn fails_and_reopens(bench: &mut Bench, fault: Fault) {
    bench.disk.inject(fault.of_files("log").lasting());
    let failed = bench.compact();
    assert!(
        matches!(
            failed,
            Err(CompactError::Failed {
                stage: CompactionStage::Publish,
                published: None,
                ..
            })
        ),
        "{failed:?}"
    );
    bench.disk.clear_faults();
    let _ = bench.worker.step();
    assert_eq!(bench.told().await, [], "it may be there still");
    assert_eq!(bench.purged(), []);
    bench.reopen();
    let _ = bench.worker.step();
}

#[test]
fn what_is_gone_is_told_when_the_store_is_open_again() {
    System::new().block_on(async {
        let ground = Ground::new(8);
        let mut bench = Bench::new(&ground);
        let kind = DiskErrorKind::Other("input/output error".to_owned());
        let fault = Fault::failed_call(kind).on(Verb::Sync);
        fails_and_reopens(&mut bench, fault).await;
        assert_eq!(bench.told().await, [bench.left.clone()]);
        assert_eq!(bench.purged(), [TOMBSTONE]);
        bench.compact().expect("a compaction");
        assert_eq!(bench.purged(), [TOMBSTONE], "as every run tells it");
        bench.reopen();
        let _ = bench.worker.step();
        assert_eq!(bench.told().await, [], "once");
        assert_eq!(bench.purged(), [], "once");
    });
}

#[test]
fn what_is_there_is_told_when_it_is_erased() {
    System::new().block_on(async {
        let ground = Ground::new(9);
        let mut bench = Bench::new(&ground);
        let fault = Fault::failed_sync(SyncFailure::DropsPages);
        fails_and_reopens(&mut bench, fault).await;
        assert_eq!(bench.told().await, [], "it is there");
        assert_eq!(bench.purged(), [Seqno::ZERO]);
        bench.compact().expect("a compaction");
        assert_eq!(bench.told().await, [bench.left.clone()]);
        assert_eq!(bench.purged(), [TOMBSTONE]);
        bench.reopen();
        let _ = bench.worker.step();
        assert_eq!(bench.told().await, [], "once");
    });
}

#[test]
fn an_aborted_publish_leaves_nothing_in_doubt() {
    System::new().block_on(async {
        let ground = Ground::new(10);
        let mut bench = Bench::new(&ground);
        let mut answer = bench.compactor.compact(Compact {
            vbucket: VBUCKET,
            options: ALL,
        });
        let stage = |bench: &Bench| {
            let status = bench.compactor.statuses().pop();
            status.and_then(|one| one.running).map(|run| run.stage)
        };
        let is_there = (0..100).any(|_| {
            let _ = bench.worker.step();
            stage(&bench) == Some(CompactionStage::Publish)
        });
        assert!(is_there, "{:?}", stage(&bench));
        let lease = bench.store.lease().expect("the store");
        let rolled_back = lease.store().rollback(VBUCKET, TOMBSTONE);
        assert!(matches!(rolled_back, Outcome::Complete(_)));
        drop(lease);
        let _ = bench.worker.step();
        let aborted = answer.try_recv().expect("an answer");
        let rolled_back = AbortReason::RolledBack;
        assert_eq!(aborted.map(|_| ()), Err(CompactError::Aborted(rolled_back)));
        bench.reopen();
        let _ = bench.worker.step();
        assert_eq!(bench.told().await, []);
        assert_eq!(bench.purged(), [], "nobody asked how far it is");
    });
}
