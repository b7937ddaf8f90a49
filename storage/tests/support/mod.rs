//! Helpers of the store's tests: the stores to run on, builders for items and batches, and reading it all back.
//!
//! Invariant: nothing here decides what is right; a helper only shortens what a test says. Every test runs on all
//! [`factories`], so that a promise holds for every store or for none.
#![allow(dead_code, reason = "each test file uses only a part of these")]

pub(crate) mod log_store;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use piggin_storage::{
    Batch, Cas, CollectionId, CommitDurability, Datatype, DeleteSource, Document, DocumentKey,
    DurabilityLevel, Expiry, FailoverTable, Incarnation, Item, ItemView, KeyRange, KvStore,
    MemoryStore, MemoryToken, Namespace, Operation, Outcome, Predecessor, RevSeqno, RollbackEpoch,
    RolledBack, Scan, ScanEnd, Seqno, SeqnoRange, Snapshot, StorageError, Topology, VbucketCounts,
    VbucketId, VbucketIdentity, VbucketState, VbucketStateRecord, VbucketUuid, Watermarks,
};

/// Makes stores of one kind.
pub(crate) trait StoreFactory {
    /// An empty store for the vbuckets below `vbuckets`.
    fn create(&self, vbuckets: u16) -> Arc<dyn KvStore>;
    /// Closes the store, which nothing else uses any more, and opens what it left behind.
    fn reopen(&self, store: Arc<dyn KvStore>) -> Arc<dyn KvStore>;
    /// How long its stores keep what was superseded, whatever they are asked.
    fn window_ms(&self) -> Option<u64> {
        None
    }
}

/// Stores in memory; reopening one is the same store.
pub(crate) struct InMemory;

impl StoreFactory for InMemory {
    fn create(&self, vbuckets: u16) -> Arc<dyn KvStore> {
        Arc::new(MemoryStore::new(vbuckets))
    }

    fn reopen(&self, store: Arc<dyn KvStore>) -> Arc<dyn KvStore> {
        store
    }
}

/// Every kind of store the tests run on. A new kind is one line here.
pub(crate) fn factories() -> Vec<Box<dyn StoreFactory>> {
    vec![
        Box::new(InMemory),
        Box::new(log_store::OnLog::default()),
        Box::new(log_store::OnLog::closed_in_order()),
        Box::new(log_store::OnLog::maintained()),
    ]
}

/// Those, and one that keeps what others let go.
pub(crate) fn factories_and_one_with_history() -> Vec<Box<dyn StoreFactory>> {
    let mut factories = factories();
    factories.push(Box::new(log_store::OnLog::keeping_history()));
    factories
}

/// Runs a test on a new vbucket of every kind of store.
pub(crate) fn on_every_store(test: impl Fn(Writer)) {
    for factory in factories() {
        test(Writer::create(&factory.create(4), 0));
    }
}

pub(crate) fn vbucket(number: u16) -> VbucketId {
    VbucketId::new(number).unwrap()
}

pub(crate) fn key(name: &str) -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).unwrap()
}

pub(crate) fn identity(uuid: u64) -> Arc<VbucketIdentity> {
    Arc::new(VbucketIdentity {
        state: VbucketState::Active,
        failover_table: FailoverTable::new(VbucketUuid(uuid)),
        topology: Topology::default(),
        manifest_uid: 0,
    })
}

pub(crate) fn new_state() -> VbucketStateRecord {
    VbucketStateRecord {
        identity: identity(0xa11ce),
        watermarks: Watermarks::default(),
    }
}

pub(crate) fn item(seqno: u64, operation: Operation, name: &str, value: &str) -> Arc<Item> {
    Arc::new(Item {
        seqno: Seqno(seqno),
        operation,
        predecessor: Predecessor::Unknown,
        document: Document {
            key: key(name),
            value: Bytes::copy_from_slice(value.as_bytes()),
            datatype: Datatype::RAW,
            flags: 7,
            expiry: Expiry(0),
            cas: Cas(seqno << 16),
            rev_seqno: RevSeqno(1),
        },
        token: MemoryToken::default(),
    })
}

pub(crate) fn mutation(seqno: u64, name: &str, value: &str) -> Arc<Item> {
    item(seqno, Operation::Mutation, name, value)
}

pub(crate) fn deletion(seqno: u64, name: &str) -> Arc<Item> {
    let operation = Operation::Deletion {
        deleted_at: 1_700_000_000,
        source: DeleteSource::Explicit,
    };
    item(seqno, operation, name, "")
}

pub(crate) fn prepare(seqno: u64, name: &str, value: &str) -> Arc<Item> {
    let operation = Operation::Prepare {
        level: DurabilityLevel::Majority,
        is_deletion: false,
    };
    item(seqno, operation, name, value)
}

pub(crate) fn commit_of(prepare_seqno: u64, seqno: u64, name: &str, value: &str) -> Arc<Item> {
    let prepare_seqno = Seqno(prepare_seqno);
    item(
        seqno,
        Operation::CommitMutation { prepare_seqno },
        name,
        value,
    )
}

pub(crate) fn abort_of(prepare_seqno: u64, seqno: u64, name: &str) -> Arc<Item> {
    let operation = Operation::Abort {
        prepare_seqno: Seqno(prepare_seqno),
        deleted_at: 1_700_000_000,
    };
    item(seqno, operation, name, "")
}

/// Writes to one vbucket of a store, and remembers where it stands.
pub(crate) struct Writer {
    pub(crate) store: Arc<dyn KvStore>,
    pub(crate) vbucket: VbucketId,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: RollbackEpoch,
    pub(crate) watermarks: Watermarks,
}

impl Writer {
    pub(crate) fn create(store: &Arc<dyn KvStore>, number: u16) -> Writer {
        let incarnation = store.create_vbucket(vbucket(number), &new_state()).unwrap();
        Writer {
            store: Arc::clone(store),
            vbucket: vbucket(number),
            incarnation,
            epoch: RollbackEpoch::default(),
            watermarks: Watermarks::default(),
        }
    }

    /// A batch of these items, with the watermarks they lead to.
    pub(crate) fn batch(&self, items: Vec<Arc<Item>>) -> Batch {
        let mut watermarks = self.watermarks;
        for item in &items {
            advance(&mut watermarks, item);
        }
        self.batch_with(items, watermarks)
    }

    pub(crate) fn batch_with(&self, items: Vec<Arc<Item>>, watermarks: Watermarks) -> Batch {
        Batch {
            vbucket: self.vbucket,
            incarnation: self.incarnation,
            epoch: self.epoch,
            items,
            watermarks,
            identity: None,
        }
    }

    /// Commits a batch that the store must take.
    pub(crate) fn write(&mut self, items: Vec<Arc<Item>>) {
        let batch = self.batch(items);
        self.try_commit(&batch).unwrap();
        self.watermarks = batch.watermarks;
    }

    pub(crate) fn try_commit(&self, batch: &Batch) -> Result<(), StorageError> {
        let group = std::slice::from_ref(batch);
        let mut verdicts = self.store.commit(group, CommitDurability::Synced);
        assert_eq!(verdicts.len(), 1);
        verdicts.remove(0)
    }

    pub(crate) fn snapshot(&self) -> Box<dyn Snapshot> {
        self.store.snapshot(self.vbucket).unwrap()
    }

    pub(crate) fn stored_watermarks(&self) -> Watermarks {
        self.store.state(self.vbucket).unwrap().watermarks
    }

    pub(crate) fn image(&self) -> Image {
        Image::of(self.snapshot().as_ref())
    }

    pub(crate) fn seal(&self, floor: Seqno) {
        loop {
            match self.store.seal(self.vbucket, floor) {
                Outcome::Yielded => {}
                Outcome::Complete(()) => return,
                ended @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{ended:?}"),
            }
        }
    }

    /// Closes the store, of which this must be the only user, and goes on with what it left behind.
    pub(crate) fn reopen(&mut self, factory: &dyn StoreFactory) {
        let nothing: Arc<dyn KvStore> = Arc::new(MemoryStore::new(0));
        self.store = factory.reopen(std::mem::replace(&mut self.store, nothing));
    }

    /// Rolls back exactly to `to` and takes position there.
    pub(crate) fn rollback(&mut self, to: u64) {
        let outcome = self.store.rollback(self.vbucket, Seqno(to));
        let Outcome::Complete(RolledBack::To { seqno, epoch }) = outcome else {
            panic!("a rollback to {to} ended as {outcome:?}");
        };
        assert_eq!(seqno, Seqno(to));
        self.epoch = epoch;
        self.watermarks = self.stored_watermarks();
    }
}

fn advance(watermarks: &mut Watermarks, item: &Item) {
    watermarks.high_seqno = item.seqno;
    watermarks.snapshot.end = item.seqno;
    if item.namespace() != Namespace::Prepared {
        watermarks.max_visible_seqno = item.seqno;
    }
    match item.operation {
        Operation::Prepare { .. } => watermarks.prepared_seqno = item.seqno,
        Operation::Abort { prepare_seqno, .. }
        | Operation::CommitMutation { prepare_seqno }
        | Operation::CommitDeletion { prepare_seqno, .. } => {
            watermarks.completed_seqno = prepare_seqno;
        }
        Operation::Mutation
        | Operation::Deletion { .. }
        | Operation::SystemEventBegin
        | Operation::SystemEventEnd => {}
    }
}

/// Everything a snapshot answers, to compare two moments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    pub(crate) position: (Incarnation, RollbackEpoch),
    pub(crate) state: VbucketStateRecord,
    pub(crate) by_seqno: Vec<Item>,
    pub(crate) by_key: Vec<Vec<Item>>,
    pub(crate) counts: VbucketCounts,
}

impl Image {
    pub(crate) fn of(snapshot: &dyn Snapshot) -> Image {
        let by_key = |namespace| read_all(snapshot.scan_by_key(KeyRange::all(namespace))).0;
        Image {
            position: (snapshot.incarnation(), snapshot.epoch()),
            state: snapshot.state(),
            by_seqno: read_all(snapshot.scan_by_seqno(SeqnoRange::ALL)).0,
            by_key: Namespace::ALL.into_iter().map(by_key).collect(),
            counts: counts_of(snapshot),
        }
    }

    pub(crate) fn seqnos(&self) -> Vec<u64> {
        self.by_seqno.iter().map(|item| item.seqno.0).collect()
    }
}

/// A snapshot's counts without collections in which there is nothing.
pub(crate) fn counts_of(snapshot: &dyn Snapshot) -> VbucketCounts {
    let mut counts = snapshot.counts().unwrap();
    counts
        .collections
        .retain(|_, figures| *figures != piggin_storage::CollectionCounts::default());
    counts
}

/// Runs a scan, which must complete, to its end.
pub(crate) fn read_all(mut scan: Box<dyn Scan>) -> (Vec<Item>, ScanEnd) {
    let (items, ended) = drain(scan.as_mut(), usize::MAX, usize::MAX);
    let Outcome::Complete(end) = ended else {
        panic!("a scan ended as {ended:?}");
    };
    assert_eq!(end.items, items.len() as u64);
    (items, end)
}

/// Steps a scan to its end, breaking off at the item number `stop_at`; what was visited, and how it ended.
pub(crate) fn drain(
    scan: &mut dyn Scan,
    bytes_max: usize,
    stop_at: usize,
) -> (Vec<Item>, Outcome<ScanEnd>) {
    let mut items = Vec::new();
    let mut idle = 0;
    loop {
        let before = items.len();
        let mut visit = |view: ItemView<'_>| {
            items.push(owned(view));
            if items.len() == stop_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        match scan.step(bytes_max, &mut visit) {
            // A step may find nothing but superseded versions, yet not for ever.
            Outcome::Yielded => {
                idle = if items.len() > before { 0 } else { idle + 1 };
                assert!(idle < 1_000, "the scan makes no progress");
            }
            ended @ (Outcome::Complete(_) | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                return (items, ended);
            }
        }
    }
}

/// An item as read, without the hint of its predecessor: that one a store may learn more about.
pub(crate) fn owned(view: ItemView<'_>) -> Item {
    let item = view.to_item(Bytes::copy_from_slice(view.value)).unwrap();
    without_hint(item)
}

pub(crate) fn without_hint(item: Item) -> Item {
    Item {
        predecessor: Predecessor::Unknown,
        ..item
    }
}
