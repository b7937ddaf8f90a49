//! A publish whose sync fails may be durable all the same: once the store was opened anew, whoever tracks prepares is told
//! of those that are gone, once, and of those that are not when the next run has erased them. So is the vbucket.
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
use storage::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk, SyncFailure, Verb};
use storage::{
    Batch, Cas, CollectionId, CommitDurability, CompactionStage, Document, DocumentKey,
    DurabilityLevel, ErasedPrepare, ExpiredDocument, Item, KvStore, LogStore, ManifestUid,
    Operation, ScopeId, Seqno, StorageError, SystemEvent, VbucketId,
};

use disk_side::{Ground, rig};

const VBUCKET: VbucketId = VbucketId::FIRST;

/// Any vbucket: what it was told to forget.
#[derive(Clone, Debug, Default)]
struct Any(Arc<Mutex<Vec<ErasedPrepare>>>);

impl Any {
    /// What it was told since it was asked last.
    fn forgot(&self) -> Vec<ErasedPrepare> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Compactable for Any {
    fn expire(&self, _: &ExpiredDocument) -> Expiring {
        Expiring::Left
    }

    fn purged(&self, _: Seqno) {}

    fn forget_erased(&self, erased: &PreparesErased) {
        self.0.lock().extend_from_slice(&erased.prepares);
    }
}

impl CompactionTable for Any {
    fn vbuckets(&self) -> u16 {
        1
    }

    fn vbucket(&self, _: VbucketId) -> Result<Arc<dyn Compactable>, CompactError> {
        Ok(Arc::new(self.clone()))
    }
}

/// A prepare that was not completed, in a collection that was dropped.
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
    let items = [
        (begin.operation(), begin.key().unwrap(), begin.value()),
        (prepare, key.clone(), Bytes::from_static(b"v")),
        (end.operation(), end.key().unwrap(), end.value()),
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

struct Bench {
    disk: SimulatedDisk,
    store: StoreHandle,
    compactor: Compactor,
    worker: CompactionWorker,
    monitor: Addr<Monitor>,
    vbucket: Any,
    left: ErasedPrepare,
}

impl Bench {
    fn new(ground: &Ground) -> Bench {
        let disk = SimulatedDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = rig::create(&shared);
        let left = leave_a_prepare(&store);
        let store = rig::handle(&shared, store);
        let vbucket = Any::default();
        let compactor = Compactor::new(CompactorConfig {
            workers: ChildName::new("compaction"),
            store: store.clone(),
            environment: ground.environment(),
            table: Arc::new(vbucket.clone()),
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
            options: CompactOptions::default(),
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

    /// What the monitor was told, which is what the vbucket was.
    async fn told(&self) -> Vec<ErasedPrepare> {
        let told = self.monitor.send(Say).await.expect("it lives");
        assert_eq!(self.vbucket.forgot(), told);
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
        bench.compact().expect("a compaction");
        bench.reopen();
        let _ = bench.worker.step();
        assert_eq!(bench.told().await, [], "once");
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
        bench.compact().expect("a compaction");
        assert_eq!(bench.told().await, [bench.left.clone()]);
        bench.reopen();
        let _ = bench.worker.step();
        assert_eq!(bench.told().await, [], "once");
    });
}
