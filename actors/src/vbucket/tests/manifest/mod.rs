//! A vbucket has the old manifest or the new one, whatever happens on the way: a panic at any step, a batch of one item,
//! a promotion; and what it stores says which.

mod lives;
mod prepares;
mod replica;

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::super::checkpoint::CheckpointLimits;
use super::super::{ChangeStep, VbucketCore, changed};
use super::support::{
    Bench, Setup, active, batch, become_state, flush_all, id, in_state, position, set,
};
use messages::vbucket::{Set, WriteOptions};
use messages::{Busy, CollectionsManifest, ManifestChange, OperationError};
use storage::{
    Cas, CollectionId, CommitDurability, Document, DocumentKey, Item, KeyRange, KvStore,
    ManifestUid, MemoryStore, Namespace, Operation, Outcome, Predecessor, ScopeId, Seqno,
    SystemEvent, VbucketId, VbucketPosition, VbucketState,
};

fn create_scope(scope: &str) -> ManifestChange {
    let scope = scope.to_owned();
    ManifestChange::CreateScope { scope }
}

fn create(scope: &str, collection: &str) -> ManifestChange {
    ManifestChange::CreateCollection {
        scope: scope.to_owned(),
        collection: collection.to_owned(),
        max_ttl_s: 0,
    }
}

fn drop_scope(scope: &str) -> ManifestChange {
    let scope = scope.to_owned();
    ManifestChange::DropScope { scope }
}

/// The bucket's next manifest, which nobody follows yet.
fn announce(bench: &Bench, change: ManifestChange) -> Arc<CollectionsManifest> {
    let next = changed(&bench.manifest.current(), &change.into()).unwrap();
    let next = Arc::new(next);
    bench.manifest.set(Arc::clone(&next));
    next
}

fn follow(bench: &Bench, change: ManifestChange) -> Arc<CollectionsManifest> {
    let next = announce(bench, change);
    bench.core.follow_manifest().unwrap();
    next
}

/// A scope with three collections.
fn with_a_scope() -> Bench {
    let bench = active();
    follow(&bench, create_scope("s"));
    for name in ["a", "b", "c"] {
        follow(&bench, create("s", name));
    }
    bench
}

fn new_store() -> MemoryStore {
    let store = MemoryStore::new(8);
    store
        .create_vbucket(id(), &Setup::default().record)
        .unwrap();
    store
}

fn events(store: &MemoryStore) -> Vec<(Seqno, SystemEvent)> {
    let snapshot = store.snapshot(id()).unwrap();
    let mut scan = snapshot.scan_by_key(KeyRange::all(Namespace::SystemEvent));
    let mut events = Vec::new();
    let outcome = scan.step(usize::MAX, &mut |view| {
        let event = SystemEvent::read(view.operation, view.key, view.value).unwrap();
        events.push((view.seqno, event));
        ControlFlow::Continue(())
    });
    assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
    events
}

/// The vbucket as it is found when the store is opened.
fn reopened(store: &MemoryStore) -> Bench {
    let setup = Setup {
        record: store.state(id()).unwrap(),
        position: position(store),
        ..Setup::default()
    };
    let bench = setup.warming();
    bench.core.warm_collections(events(store));
    bench
}

fn event_item(seqno: u64, event: &SystemEvent) -> Arc<Item> {
    let document = Document::new(event.key().unwrap(), event.value(), Cas(seqno << 20));
    let mut item = Item::mutation(Seqno(seqno), document);
    item.operation = event.operation();
    Arc::new(item)
}

fn begin_of(uid: u64, collection: u32, name: &str) -> SystemEvent {
    SystemEvent::CollectionBegin {
        uid: ManifestUid(uid),
        scope: ScopeId::DEFAULT,
        collection: CollectionId(collection),
        name: name.to_owned(),
        max_ttl_s: 9,
    }
}

fn end_of(uid: u64, collection: u32, start: u64) -> SystemEvent {
    SystemEvent::CollectionEnd {
        uid: ManifestUid(uid),
        scope: ScopeId::DEFAULT,
        collection: CollectionId(collection),
        start: Seqno(start),
    }
}

fn document_item(seqno: u64, collection: u32, name: &str) -> Arc<Item> {
    let key = DocumentKey::new(CollectionId(collection), name.as_bytes()).unwrap();
    let document = Document::new(key, "replicated", Cas(seqno << 20));
    Arc::new(Item::mutation(Seqno(seqno), document))
}

fn set_in(collection: u32, name: &str) -> Set {
    Set {
        key: DocumentKey::new(CollectionId(collection), name.as_bytes()).unwrap(),
        value: Bytes::from_static(b"v"),
        options: WriteOptions::default(),
    }
}

fn write(core: &VbucketCore, collection: u32, name: &str) -> Result<(), OperationError> {
    core.set(set_in(collection, name)).map(drop)
}

fn get(core: &VbucketCore, collection: u32, name: &str) -> Result<(), OperationError> {
    let key = DocumentKey::new(CollectionId(collection), name.as_bytes()).unwrap();
    core.get(&key).map(drop)
}

#[test]
fn a_panic_at_any_step_is_repaired_to_the_new_manifest() {
    let steps = [
        ChangeStep::Noted,
        ChangeStep::Appended,
        ChangeStep::Mapped,
        ChangeStep::Cleared,
        ChangeStep::Identified,
    ];
    for step in steps {
        let bench = with_a_scope();
        let store = new_store();
        flush_all(&bench.core, &store, 100);
        let target = announce(&bench, drop_scope("s"));
        bench.core.panic_at(step);
        let panicked = catch_unwind(AssertUnwindSafe(|| bench.core.follow_manifest()));
        assert!(panicked.is_err(), "{step:?}");
        assert!(bench.core.is_suspect());
        let vbucket = id();
        assert_eq!(
            bench.core.follow_manifest(),
            Err(OperationError::Crashed { vbucket })
        );
        // What is suspect is not flushed, so nothing of it is on disk.
        assert!(bench.core.take_for_flush(100, usize::MAX).is_none());
        bench.core.reconcile();
        assert_eq!(bench.core.collections_manifest(), target, "{step:?}");
        assert_eq!(
            bench.core.high_seqno(),
            Seqno(8),
            "{step:?}: each event once"
        );
        flush_all(&bench.core, &store, 100);
        let found = reopened(&store);
        assert_eq!(found.core.collections_manifest(), target, "{step:?}");
    }
}

#[test]
fn a_panic_of_a_write_lets_no_manifest_be_missed() {
    let bench = active();
    bench.core.panic_at(ChangeStep::Appended);
    let panicked = catch_unwind(AssertUnwindSafe(|| bench.core.set(set("k", "v"))));
    assert!(panicked.is_err());
    let target = announce(&bench, create("_default", "c"));
    bench.core.reconcile();
    assert_eq!(bench.core.collections_manifest(), target);
}

#[test]
fn events_and_uid_go_to_disk_as_one_whatever_the_limits() {
    for items_max in 1..=7 {
        let bench = with_a_scope();
        let store = new_store();
        let mut seen = Vec::new();
        bench.core.set(set("before", "v")).unwrap();
        follow(&bench, drop_scope("s"));
        bench.core.set(set("behind", "v")).unwrap();
        while let Some(take) = bench.core.take_for_flush(items_max, 1) {
            let high = take.watermarks.high_seqno;
            let group = [batch(take, &position(&store))];
            for committed in store.commit(&group, CommitDurability::Synced) {
                committed.unwrap();
            }
            bench.core.note_persisted(high);
            // The power may go now.
            let found = reopened(&store).core.collections_manifest();
            assert_eq!(
                found.uid.0,
                store.state(id()).unwrap().identity.manifest_uid
            );
            seen.push((found.uid.0, found.collections.len()));
        }
        assert!(seen.contains(&(4, 4)), "{seen:?}");
        assert_eq!(seen.last(), Some(&(5, 1)), "{seen:?}");
        for (uid, collections) in seen {
            assert_eq!(collections, if uid == 5 { 1 } else { 4 }, "uid {uid}");
        }
    }
}

#[test]
fn the_end_of_a_collection_reaches_the_store_though_it_began_a_moment_ago() {
    let bench = active();
    let manifest = follow(&bench, create("_default", "c"));
    let collection = manifest.collection("_default", "c").unwrap();
    let change = ManifestChange::DropCollection {
        scope: "_default".to_owned(),
        collection: "c".to_owned(),
    };
    follow(&bench, change);
    let mut operations = Vec::new();
    while let Some(take) = bench.core.take_for_flush(1, usize::MAX) {
        for item in &take.items {
            let event = SystemEvent::of(item).unwrap();
            operations.push((item.seqno.0, item.operation, item.predecessor, event));
        }
        bench.core.note_persisted(take.watermarks.high_seqno);
    }
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
    let expected = [
        (1, Operation::SystemEventBegin, Predecessor::Unknown, begin),
        (2, Operation::SystemEventEnd, Predecessor::At(Seqno(1)), end),
    ];
    assert_eq!(operations, expected);
}

#[test]
fn a_vbucket_that_is_closed_or_out_of_room_takes_no_change() {
    let bench = active();
    announce(&bench, create("_default", "c"));
    bench.core.set_disk_full(true);
    assert!(matches!(
        bench.core.admit_manifest(),
        Err(OperationError::TemporaryFailure(_))
    ));
    bench.core.set_disk_full(false);
    bench.core.admit_manifest().unwrap();
    bench.core.close_gate();
    assert_eq!(bench.core.admit_manifest(), Err(OperationError::Closed));
    assert_eq!(bench.core.follow_manifest(), Err(OperationError::Closed));
    assert_eq!(bench.core.collections_manifest().uid, ManifestUid(0));
    assert_eq!(bench.core.high_seqno(), Seqno(0));
}

#[test]
fn a_vbucket_follows_when_its_warmup_has_opened_it_for_writes() {
    for is_held in [false, true] {
        let bench = Setup::default().warming();
        let core = &bench.core;
        let target = announce(&bench, create("_default", "c"));
        let busy = || OperationError::TemporaryFailure(Busy::WarmingUp);
        let is_refused = || {
            assert_eq!(core.admit_manifest(), Err(busy()));
            assert_eq!(core.follow_manifest(), Ok(None));
            assert_eq!(core.high_seqno(), Seqno(0), "nothing on the old branch");
            assert_eq!(get(core, 8, "k"), Err(busy()), "it may be there");
        };
        is_refused();
        if is_held {
            core.hold_writes(true);
            core.warm_done();
            is_refused();
            core.hold_writes(false);
        } else {
            core.warm_done();
        }
        core.admit_manifest().unwrap();
        assert_eq!(core.collections_manifest(), target);
        assert_eq!(core.high_seqno(), Seqno(1));
        assert_eq!(core.follow_manifest(), Ok(Some(Seqno(1))));
    }
}

#[test]
fn a_vbucket_that_becomes_active_follows_the_bucket() {
    for state in [
        VbucketState::Replica,
        VbucketState::Pending,
        VbucketState::Dead,
    ] {
        let bench = in_state(state);
        let other = VbucketId::new(id().get() + 1).unwrap();
        bench.manifest.note_state(other, VbucketState::Active);
        let target = announce(&bench, create("_default", "c"));
        assert_eq!(bench.core.follow_manifest(), Ok(None));
        assert_eq!(bench.core.collections_manifest().uid, ManifestUid(0));
        become_state(&bench.core, VbucketState::Active);
        assert_eq!(bench.core.collections_manifest(), target, "{state:?}");
        assert_eq!(bench.core.high_seqno(), Seqno(1));
    }
}

#[test]
fn a_rollback_takes_the_default_collection_back() {
    let bench = active();
    let record = bench.core.state_record();
    bench.core.set(set("k", "v")).unwrap();
    let high = || bench.core.collection_high_seqno(CollectionId::DEFAULT);
    assert_eq!(high(), Some(Seqno(1)));
    bench.core.reset(&record);
    assert_eq!(high(), Some(Seqno(0)));
}

#[test]
fn small_checkpoints_change_nothing() {
    let setup = Setup {
        checkpoints: CheckpointLimits {
            bytes_max: 1,
            items_max: 1,
        },
        position: VbucketPosition {
            high_seqno: Seqno::ZERO,
            ..Setup::default().position
        },
        ..Setup::default()
    };
    let bench = setup.warm();
    follow(&bench, create_scope("s"));
    follow(&bench, create("s", "a"));
    follow(&bench, create("s", "b"));
    let target = follow(&bench, drop_scope("s"));
    let store = new_store();
    while let Some(take) = bench.core.take_for_flush(1, 1) {
        let high = take.watermarks.high_seqno;
        let group = [batch(take, &position(&store))];
        for committed in store.commit(&group, CommitDurability::Synced) {
            committed.unwrap();
        }
        bench.core.note_persisted(high);
        let found = reopened(&store).core.collections_manifest();
        let expected = [1, 1, 2, 3, 1][usize::try_from(found.uid.0).unwrap()];
        assert_eq!(found.collections.len(), expected);
    }
    assert_eq!(reopened(&store).core.collections_manifest(), target);
}
