//! A compaction whose worker panics is settled, wherever that was: whoever waits is told, and the next worker goes on.
//! One that always panics is told to be left alone, once. What it erased before the panic is told all the same.
#![cfg(test)]

mod disk_side;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use parking_lot::Mutex;

use messages::compactor::{Compact, CompactError, CompactOptions, PreparesErased};
use messages::{ChildName, FailureKind, Generation};
use piggin_actors::backoff::Backoff;
use piggin_actors::compactor::{
    Compactable, CompactionPolicy, CompactionTable, CompactionWorker, Compactor, CompactorConfig,
    CompactorLimits, Expiring,
};
use piggin_actors::executor::Worker;
use piggin_actors::store_handle::StoreHandle;
use piggin_actors::vbucket::LookedUp;
use storage::disk::{Disk, SimulatedDisk};
use storage::{
    Batch, Cas, CollectionId, CommitDurability, DeleteSource, Document, DocumentKey,
    DurabilityLevel, ErasedPrepare, ExpiredDocument, Item, KvStore, LogStore, ManifestUid,
    Operation, Outcome, ScopeId, Seqno, SystemEvent, VbucketId, VbucketPosition,
};

use disk_side::{Ground, rig};

/// A vbucket that notes what it is told.
#[derive(Debug, Default)]
struct Noting(Mutex<Vec<Seqno>>, AtomicBool, Mutex<Vec<PreparesErased>>);

impl Compactable for Noting {
    fn expire(&self, _: &ExpiredDocument, _: Option<&LookedUp>) -> Expiring {
        Expiring::Left
    }

    fn purged(&self, seqno: Seqno) {
        assert!(!self.1.swap(false, Ordering::SeqCst), "asked to panic");
        self.0.lock().push(seqno);
    }

    fn forget_erased(&self, erased: &PreparesErased) {
        self.2.lock().push(erased.clone());
    }
}

/// A table that panics when it is asked by a worker.
#[derive(Debug, Default)]
struct Table {
    panics: AtomicBool,
    vbucket: Arc<Noting>,
}

impl CompactionTable for Table {
    fn vbuckets(&self) -> u16 {
        1
    }

    fn vbucket(&self, _: VbucketId) -> Result<Arc<dyn Compactable>, CompactError> {
        assert!(!self.panics.load(Ordering::SeqCst), "asked to panic");
        Ok(Arc::<Noting>::clone(&self.vbucket))
    }
}

const VBUCKET: VbucketId = VbucketId::FIRST;

fn request() -> Compact {
    Compact {
        vbucket: VBUCKET,
        options: CompactOptions::default(),
    }
}

fn compactor(
    ground: &Ground,
    table: &Arc<Table>,
    fill: impl FnOnce(&LogStore),
) -> (Compactor, StoreHandle) {
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    let store = rig::create(&disk);
    fill(&store);
    let store = rig::handle(&disk, store);
    let compactor = Compactor::new(CompactorConfig {
        workers: ChildName::new("compaction"),
        store: store.clone(),
        environment: ground.environment(),
        table: Arc::<Table>::clone(table),
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
    (compactor, store)
}

fn worker(compactor: &Compactor, generation: u64) -> CompactionWorker {
    let name = ChildName::new("compaction-0");
    CompactionWorker::new(compactor.clone(), name, Generation(generation))
}

#[test]
fn a_run_that_is_taken_and_not_yet_in_hand_is_settled() {
    let ground = Ground::new(7);
    let table = Arc::new(Table::default());
    let (compactor, _) = compactor(&ground, &table, |_| ());
    for generation in 0..4 {
        let mut answer = compactor.compact(request());
        let mut panicking = worker(&compactor, generation);
        table.panics.store(true, Ordering::SeqCst);
        let step = catch_unwind(AssertUnwindSafe(|| panicking.step()));
        assert!(step.is_err(), "{step:?}");
        drop(panicking);
        table.panics.store(false, Ordering::SeqCst);
        let told = answer.try_recv().expect("an answer");
        assert!(
            matches!(told, Err(CompactError::Crashed { .. })),
            "{told:?}"
        );
    }
    let told = ground.told.take();
    let [told] = &told[..] else {
        panic!("not told once: {told:?}");
    };
    assert_eq!(told.kind, FailureKind::Escalated);
    let mut answer = compactor.compact(request());
    let mut worker = worker(&compactor, 9);
    let compacted = (0..100).find_map(|_| {
        let _ = worker.step();
        answer.try_recv().ok()
    });
    compacted.expect("an answer").expect("a compaction");
    assert_eq!(table.vbucket.0.lock().len(), 1, "told how far it is purged");
}

fn position(store: &LogStore) -> VbucketPosition {
    let status = store.vbuckets().swap_remove(0);
    status.position.unwrap()
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
    let position = position(store);
    let mut batch = Batch::of_documents(VBUCKET, &position, items.collect(), 1);
    batch.watermarks.prepared_seqno = Seqno(2);
    let written = store.commit(&[batch], CommitDurability::Synced);
    assert_eq!(written, [Ok(())]);
    let seqno = Seqno(2);
    ErasedPrepare { key, seqno }
}

/// A deletion that goes, and a document behind it.
fn leave_a_tombstone(store: &LogStore) {
    let deletion = Operation::Deletion {
        deleted_at: 1,
        source: DeleteSource::Explicit,
    };
    let items = [
        ("k", Operation::Mutation),
        ("k", deletion),
        ("l", Operation::Mutation),
    ];
    let items = (1..).zip(items).map(|(seqno, (key, operation))| {
        let key = DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).unwrap();
        let mut item = Item::mutation(Seqno(seqno), Document::new(key, "", Cas(seqno)));
        item.operation = operation;
        Arc::new(item)
    });
    let batch = Batch::of_documents(VBUCKET, &position(store), items.collect(), 1);
    let written = store.commit(&[batch], CommitDurability::Synced);
    assert_eq!(written, [Ok(())]);
}

#[test]
fn up_to_where_it_is_purged_is_told_though_its_worker_panicked_then() {
    let ground = Ground::new(9);
    let table = Arc::new(Table::default());
    let (compactor, store) = compactor(&ground, &table, leave_a_tombstone);
    let options = CompactOptions {
        drop_deletes: true,
        ..CompactOptions::default()
    };
    let mut answer = compactor.compact(Compact {
        vbucket: VBUCKET,
        options,
    });
    let mut panicking = worker(&compactor, 0);
    table.vbucket.1.store(true, Ordering::SeqCst);
    let panicked = (0..100).any(|_| {
        let step = catch_unwind(AssertUnwindSafe(|| panicking.step()));
        step.is_err()
    });
    assert!(panicked, "behind the publish");
    drop(panicking);
    answer.try_recv().expect("an answer").expect_err("a crash");
    assert_eq!(*table.vbucket.0.lock(), [], "it panicked");
    let lease = store.lease().expect("the store");
    let purged = lease.store().state(VBUCKET).expect("its state");
    assert_eq!(purged.watermarks.purge_seqno, Seqno(2));
    drop(lease);
    let mut next = worker(&compactor, 1);
    for _ in 0..10 {
        let _ = next.step();
    }
    assert_eq!(*table.vbucket.0.lock(), [Seqno(2)], "once");
}

/// Whoever tracks prepares.
#[derive(Default)]
struct Monitor(Vec<PreparesErased>);

impl Actor for Monitor {
    type Context = Context<Self>;
}

impl Handler<PreparesErased> for Monitor {
    type Result = ();

    fn handle(&mut self, message: PreparesErased, _: &mut Context<Self>) {
        self.0.push(message);
    }
}

/// Says what it was told, in the order it was.
struct Say;

impl Message for Say {
    type Result = Vec<PreparesErased>;
}

impl Handler<Say> for Monitor {
    type Result = MessageResult<Say>;

    fn handle(&mut self, _: Say, _: &mut Context<Self>) -> MessageResult<Say> {
        MessageResult(std::mem::take(&mut self.0))
    }
}

#[test]
fn what_was_erased_is_told_though_its_worker_panicked_before_it_was() {
    System::new().block_on(async {
        let ground = Ground::new(8);
        let table = Arc::new(Table::default());
        let mut erased = None;
        let (compactor, store) = compactor(&ground, &table, |store| {
            erased = Some(leave_a_prepare(store));
        });
        let monitor = Monitor::default().start();
        compactor.tell_erased_prepares(monitor.clone().recipient());
        let mut answer = compactor.compact(request());
        let mut panicking = worker(&compactor, 0);
        table.vbucket.1.store(true, Ordering::SeqCst);
        let panicked = (0..100).any(|_| {
            let step = catch_unwind(AssertUnwindSafe(|| panicking.step()));
            step.is_err()
        });
        assert!(panicked, "behind the publish");
        drop(panicking);
        let told = answer.try_recv().expect("an answer");
        assert!(
            matches!(told, Err(CompactError::Crashed { .. })),
            "{told:?}"
        );
        let told = monitor.send(Say).await.expect("it lives");
        assert_eq!(told, [], "nobody was there to tell it");
        // Meanwhile the vbucket gets another past, in which there may be another prepare of that key and seqno.
        let lease = store.lease().expect("the store");
        let then = position(lease.store());
        let rolled_back = lease.store().rollback(VBUCKET, Seqno(0));
        assert!(matches!(rolled_back, Outcome::Complete(_)));
        assert!(position(lease.store()).epoch > then.epoch);
        drop(lease);
        let _ = worker(&compactor, 1).step();
        let told = monitor.send(Say).await.expect("it lives");
        let expected = PreparesErased {
            vbucket: VBUCKET,
            incarnation: then.incarnation,
            epoch: then.epoch,
            prepares: erased.into_iter().collect(),
        };
        assert_eq!(told, [expected]);
        let _ = worker(&compactor, 2).step();
        let told = monitor.send(Say).await.expect("it lives");
        assert_eq!(told, [], "once");
    });
}
