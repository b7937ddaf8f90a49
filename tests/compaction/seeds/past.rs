//! A vbucket with a past: documents, prepares of every fate, and collections that began and ended, written through the
//! store's own `commit`, as a bucket with collections and durable writes would have.
//!
//! Invariant: every kind of pass of a compaction finds something to do in it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use piggin::messages::compactor::CompactOptions;
use piggin::storage::{
    Batch, Cas, CollectionId, CommitDurability, CreateOptions, Datatype, DeleteSource, Document,
    DocumentKey, DroppedCollection, DurabilityLevel, Expiry, Item, KvStore, LogStore, ManifestUid,
    MemoryToken, OpenOptions, Operation, Outcome, Predecessor, RevSeqno, ScopeId, Seqno,
    SeqnoRange, SystemEvent, VbucketId, VbucketIdentity, VbucketPosition, VbucketStateRecord,
    VbucketUuid, Watermarks,
};
use piggin::{BucketConfig, CompactionConfig, CompactionPolicy};
use supervisor::testing::{Random, World};

use crate::RETENTION;

/// The one vbucket.
pub(crate) const VBUCKET: VbucketId = VbucketId::FIRST;
/// The collections that were dropped.
pub(crate) const DROPPED: [CollectionId; 2] = [CollectionId(8), CollectionId(9)];
pub(crate) const PLAIN: CompactOptions = CompactOptions {
    drop_deletes: false,
    purge_before_s: None,
};

/// What a bucket without any compaction of its own is opened with.
pub(crate) fn config(world: &World) -> BucketConfig {
    BucketConfig {
        compaction: CompactionConfig {
            policy: CompactionPolicy::NEVER,
            ..CompactionConfig::default()
        },
        // The store is written without a bucket.
        eviction: None,
        ..world.config()
    }
}

fn options(entropy: u64) -> OpenOptions {
    OpenOptions {
        is_stepped: true,
        ..OpenOptions::new(entropy)
    }
}

/// The store on the world's disk, while no bucket is open there.
pub(crate) fn opened(world: &World) -> LogStore {
    let entropy = world.random("entropy of the test").next_u64();
    LogStore::open(world.disk(), options(entropy)).expect("the store")
}

/// What is told of the past.
pub(crate) struct Past {
    /// Its prepares that were neither committed nor aborted, by collection.
    pub(crate) incomplete: BTreeMap<CollectionId, (DocumentKey, Seqno)>,
}

struct Writer {
    items: Vec<Arc<Item>>,
    watermarks: Watermarks,
}

impl Writer {
    fn write(&mut self, operation: Operation, key: DocumentKey, value: &[u8]) -> Seqno {
        let seqno = self.watermarks.high_seqno.next();
        self.watermarks.high_seqno = seqno;
        self.watermarks.max_visible_seqno = seqno;
        self.items.push(Arc::new(Item {
            seqno,
            operation,
            predecessor: Predecessor::Unknown,
            document: Document {
                key,
                value: value.to_vec().into(),
                datatype: Datatype::RAW,
                flags: 0,
                expiry: Expiry(0),
                cas: Cas(seqno.0),
                rev_seqno: RevSeqno(1),
            },
            token: MemoryToken::default(),
        }));
        seqno
    }

    fn document(&mut self, collection: CollectionId, name: &str) {
        self.write(Operation::Mutation, key(collection, name), name.as_bytes());
    }

    fn event(&mut self, event: &SystemEvent) -> Seqno {
        let key = event.key().expect("a short key");
        self.write(event.operation(), key, &event.value())
    }

    fn begin(&mut self, uid: u64, collection: CollectionId) -> Seqno {
        self.event(&SystemEvent::CollectionBegin {
            uid: ManifestUid(uid),
            scope: ScopeId::DEFAULT,
            collection,
            name: format!("c{}", collection.0),
            max_ttl_s: 0,
        })
    }

    fn end(&mut self, uid: u64, collection: CollectionId, start: Seqno) {
        self.event(&SystemEvent::CollectionEnd {
            uid: ManifestUid(uid),
            scope: ScopeId::DEFAULT,
            collection,
            start,
        });
    }

    fn prepare(&mut self, key: DocumentKey) -> Seqno {
        let prepare = Operation::Prepare {
            level: DurabilityLevel::Majority,
            is_deletion: false,
        };
        let seqno = self.write(prepare, key, b"prepared");
        self.watermarks.prepared_seqno = seqno;
        seqno
    }

    /// A prepare that was committed, and one that was aborted.
    fn completed(&mut self, collection: CollectionId) {
        let committed = key(collection, "committed");
        let prepare_seqno = self.prepare(committed.clone());
        self.write(
            Operation::CommitMutation { prepare_seqno },
            committed,
            b"prepared",
        );
        let aborted = key(collection, "aborted");
        let prepare_seqno = self.prepare(aborted.clone());
        let abort = Operation::Abort {
            prepare_seqno,
            deleted_at: 1,
        };
        self.write(abort, aborted, b"");
        self.watermarks.completed_seqno = prepare_seqno;
    }
}

pub(crate) fn key(collection: CollectionId, name: &str) -> DocumentKey {
    DocumentKey::new(collection, name.as_bytes()).expect("a short name")
}

/// Writes it, in a store of one vbucket on the world's disk.
pub(crate) fn write(world: &World) -> Past {
    let shape = CreateOptions::of(1, 1);
    let made = LogStore::create_with_history(world.disk(), shape, RETENTION, options(1));
    let store = made.expect("a store");
    let state = VbucketStateRecord::new(VbucketUuid(1));
    let incarnation = store.create_vbucket(VBUCKET, &state).expect("a vbucket");
    let position = store.vbuckets()[0].position.clone().expect("it is up");
    assert_eq!(position.incarnation, incarnation);
    let identity = VbucketIdentity {
        manifest_uid: 4,
        ..state.identity.as_ref().clone()
    };
    let mut writer = Writer {
        items: Vec::new(),
        watermarks: Watermarks::at(Seqno::ZERO, 1000),
    };
    let starts = [writer.begin(1, DROPPED[0]), writer.begin(2, DROPPED[1])];
    for name in ["a", "b", "c"] {
        for collection in [CollectionId::DEFAULT, DROPPED[0], DROPPED[1]] {
            writer.document(collection, name);
        }
    }
    for collection in [CollectionId::DEFAULT, DROPPED[0], DROPPED[1]] {
        writer.completed(collection);
    }
    let mut incomplete = BTreeMap::new();
    for collection in DROPPED {
        let key = key(collection, "incomplete");
        let seqno = writer.prepare(key.clone());
        incomplete.insert(collection, (key, seqno));
    }
    commit(&store, &position, &mut writer, Some(identity));
    // In segments of their own, so that the merge has something to merge.
    sealed(&store);
    writer.end(3, DROPPED[0], starts[0]);
    writer.end(4, DROPPED[1], starts[1]);
    writer.document(CollectionId::DEFAULT, "b");
    let gone = Operation::Deletion {
        deleted_at: 1,
        source: DeleteSource::Explicit,
    };
    writer.write(gone, key(CollectionId::DEFAULT, "c"), b"");
    writer.document(CollectionId::DEFAULT, "d");
    commit(&store, &position, &mut writer, None);
    sealed(&store);
    store.close().expect("an orderly end");
    Past { incomplete }
}

fn commit(
    store: &LogStore,
    position: &VbucketPosition,
    writer: &mut Writer,
    identity: Option<VbucketIdentity>,
) {
    let batch = Batch {
        vbucket: VBUCKET,
        incarnation: position.incarnation,
        epoch: position.epoch,
        items: std::mem::take(&mut writer.items),
        watermarks: writer.watermarks,
        identity: identity.map(Arc::new),
    };
    let answers = store.commit(&[batch], CommitDurability::Synced);
    assert_eq!(answers, [Ok(())]);
}

fn sealed(store: &LogStore) {
    assert_eq!(store.seal(VBUCKET, Seqno::MAX), Outcome::Complete(()));
}

/// What the closed bucket's store holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) dropped: Vec<DroppedCollection>,
    /// Newest versions by seqno: operation and key, and the value.
    pub(crate) items: BTreeMap<Seqno, (Operation, DocumentKey, Vec<u8>)>,
}

impl Held {
    /// What is there of a collection, besides the events that it began and ended.
    pub(crate) fn of(&self, collection: CollectionId) -> Vec<(Operation, &DocumentKey)> {
        let items = self.items.values();
        let of_it = items.filter(|(_, key, _)| key.collection() == collection);
        of_it.map(|(operation, key, _)| (*operation, key)).collect()
    }

    /// The value of a document of the default collection.
    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        let wanted = key(CollectionId::DEFAULT, name);
        let mut items = self.items.values();
        let found = items.find(|(operation, key, _)| {
            *key == wanted && !operation.is_tombstone() && !is_prepare(*operation)
        });
        found.map(|(_, _, value)| value.as_slice())
    }
}

pub(crate) fn is_prepare(operation: Operation) -> bool {
    matches!(operation, Operation::Prepare { .. })
}

/// Reads all of it by a scan, checks that its counts are those of the scan, and that the store is sound.
pub(crate) fn held(world: &World) -> Held {
    let store = opened(world);
    let report = store.verify();
    assert_eq!(report.faults, [], "the store is sound");
    let snapshot = store.snapshot(VBUCKET).expect("a snapshot");
    let mut items = BTreeMap::new();
    let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
    let end = loop {
        let outcome = scan.step(1 << 20, &mut |item| {
            let key = DocumentKey::from_encoded(item.key).expect("a key");
            items.insert(item.seqno, (item.operation, key, item.value.to_vec()));
            ControlFlow::Continue(())
        });
        match outcome {
            Outcome::Yielded => {}
            ended @ (Outcome::Complete(_) | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                break ended;
            }
        }
    };
    assert!(matches!(end, Outcome::Complete(_)), "{end:?}");
    let counts = snapshot.counts().expect("counts").total();
    let count = |is_it: &dyn Fn(Operation) -> bool| {
        let of_it = items.values().filter(|(operation, ..)| is_it(*operation));
        i64::try_from(of_it.count()).expect("a small count")
    };
    let is_document = |one| matches!(one, Operation::Mutation | Operation::CommitMutation { .. });
    assert_eq!(counts.documents, count(&is_document));
    assert_eq!(counts.prepares, count(&is_prepare));
    assert_eq!(
        counts.aborts,
        count(&|one| matches!(one, Operation::Abort { .. }))
    );
    Held {
        dropped: snapshot.dropped_collections(),
        items,
    }
}
