//! Replicas: they take their source's events, and bring what those say to the bucket's manifest when they become active, in
//! memory and on disk in one step.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::super::super::ChangeStep;
use super::super::super::checkpoint::ReplicaSnapshot;
use super::super::support::{Bench, batch, become_state, flush_all, id, in_state, position};
use super::{
    announce, begin_of, create, document_item, end_of, event_item, get, new_store, reopened,
};
use messages::collections::CollectionEntry;
use messages::vbucket::SetVbucketState;
use messages::{Busy, ManifestChange, OperationError};
use storage::{
    CollectionId, CommitDurability, Item, KvStore, ManifestUid, MemoryStore, Outcome, ScopeId,
    Seqno, SystemEvent, VbucketId, VbucketState,
};

/// A replica with manifest 2, told by its source: two collections, and a document in one; the snapshot goes on to `end`.
fn told_replica(end: u64) -> Bench {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    let epoch = core.begin_stream().unwrap();
    let snapshot = ReplicaSnapshot::memory(Seqno(0), Seqno(end));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    for (uid, name) in [(1, "a"), (2, "b")] {
        let number = u32::try_from(uid + 7).unwrap();
        let event = event_item(uid, &begin_of(uid, number, name));
        core.apply_item(epoch, event).unwrap();
    }
    core.apply_item(epoch, document_item(3, 8, "k")).unwrap();
    bench
}

/// Another vbucket of the bucket is active, and the bucket has gone on since manifest 2: it has a collection `c`, and those
/// of [`told_replica`] no more.
fn gone_on(bench: &Bench) {
    bench.manifest.note_state(other(), VbucketState::Active);
    announce(bench, create("_default", "x"));
    announce(
        bench,
        ManifestChange::DropCollection {
            scope: "_default".to_owned(),
            collection: "x".to_owned(),
        },
    );
    announce(bench, create("_default", "c"));
}

fn other() -> VbucketId {
    VbucketId::new(id().get() + 1).unwrap()
}

const PROMOTE: SetVbucketState = SetVbucketState {
    state: VbucketState::Active,
    topology: None,
    is_takeover: false,
};

#[test]
fn a_replica_brings_what_its_source_told_it_when_it_becomes_active() {
    for is_alone in [false, true] {
        let bench = told_replica(3);
        let told = bench.core.collections_manifest();
        assert_eq!(told.uid, ManifestUid(2));
        if is_alone {
            // Of a vbucket that is active no more.
            announce(&bench, create("_default", "c"));
        } else {
            bench.manifest.note_state(other(), VbucketState::Active);
        }
        become_state(&bench.core, VbucketState::Active);
        assert_eq!(bench.manifest.current(), told);
        assert_eq!(bench.core.collections_manifest(), told);
        assert_eq!(bench.core.high_seqno(), Seqno(3), "nothing is to follow");
        let told_to = u64::from(!is_alone);
        assert_eq!(bench.suspects.load(Ordering::Relaxed), told_to);
        assert_eq!(get(&bench.core, 8, "k"), Ok(()));
        let next = announce(&bench, create("_default", "d"));
        assert_eq!(next.collection("_default", "d"), Some(CollectionId(10)));
    }
}

#[test]
fn a_number_that_is_another_collection_in_the_bucket_is_refused() {
    let bench = told_replica(3);
    bench.manifest.note_state(other(), VbucketState::Active);
    let before = announce(&bench, create("_default", "c"));
    let refused = bench.core.set_state(PROMOTE);
    let Err(OperationError::ManifestClash { vbucket, clash }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((vbucket, clash.number), (id(), 8));
    assert_eq!(bench.core.state(), VbucketState::Replica);
    assert_eq!(bench.manifest.current(), before);
    // Once nobody has it any more it can.
    bench.manifest.note_state(other(), VbucketState::Replica);
    become_state(&bench.core, VbucketState::Active);
    assert_eq!(get(&bench.core, 8, "k"), Ok(()));
}

#[test]
fn what_an_active_one_has_of_two_histories_is_on_disk_with_its_state() {
    let bench = told_replica(3);
    bench.manifest.note_state(other(), VbucketState::Active);
    // As many changes, the last of them another.
    let mut parted = bench.core.collections_manifest().as_ref().clone();
    let entry = parted.collections.remove(&CollectionId(9)).unwrap();
    let name = "other".to_owned();
    let entry = CollectionEntry { name, ..entry };
    parted.collections.insert(CollectionId(10), entry);
    bench.manifest.set(Arc::new(parted));
    become_state(&bench.core, VbucketState::Active);
    let store = new_store();
    let found = batches(&bench, &store, 2);
    let active = |one: &&(VbucketState, u64, usize)| one.0 == VbucketState::Active;
    let promoted = (VbucketState::Active, 3, 4);
    assert_eq!(found.last(), Some(&promoted));
    assert!(
        found.iter().filter(active).all(|one| *one == promoted),
        "{found:?}"
    );
}

#[test]
fn an_interrupted_promotion_that_is_reconciled_follows_the_bucket() {
    // Its source's snapshot came whole, or was on its way.
    for end in [3, 9] {
        let bench = told_replica(end);
        gone_on(&bench);
        bench.core.panic_at(ChangeStep::Identified);
        let promote = || become_state(&bench.core, VbucketState::Active);
        assert!(catch_unwind(AssertUnwindSafe(promote)).is_err());
        bench.core.reconcile();
        assert_eq!(
            bench.core.collections_manifest(),
            bench.manifest.current(),
            "followed as the active one it was made"
        );
        let events = bench.core.high_seqno();
        assert!(events > Seqno(3));
        // The events are changes of its own, whole up to the newest one, and no part of what its source began.
        let snapshot = bench.core.state_record().watermarks.snapshot;
        assert_eq!((snapshot.start, snapshot.end), (events, events), "{end}");
    }
}

/// Flushes batch by batch; what is found of the vbucket behind each, as if the power went then: its state, and the uid and
/// number of collections of its manifest.
fn batches(
    bench: &Bench,
    store: &MemoryStore,
    items_max: usize,
) -> Vec<(VbucketState, u64, usize)> {
    let mut found = Vec::new();
    while let Some(take) = bench.core.take_for_flush(items_max, usize::MAX) {
        let high = take.watermarks.high_seqno;
        let group = [batch(take, &position(store))];
        for committed in store.commit(&group, CommitDurability::Synced) {
            committed.unwrap();
        }
        bench.core.note_persisted(high);
        let state = store.state(id()).unwrap().identity.state;
        let manifest = reopened(store).core.collections_manifest();
        found.push((state, manifest.uid.0, manifest.collections.len()));
    }
    found
}

/// A bucket is opened with what the active vbucket of the highest uid has: one that was just promoted must not be that one
/// with what its source told it.
#[test]
fn a_promotion_is_on_disk_with_the_manifest_it_brings_or_not_at_all() {
    let interruptions = [
        None,
        Some(ChangeStep::Identified),
        Some(ChangeStep::Appended),
        Some(ChangeStep::Cleared),
    ];
    for items_max in 1..6 {
        for step in interruptions {
            let bench = told_replica(3);
            let store = new_store();
            let first = bench.core.take_for_flush(1, usize::MAX).unwrap();
            let high = first.watermarks.high_seqno;
            let group = [batch(first, &position(&store))];
            for committed in store.commit(&group, CommitDurability::Synced) {
                committed.unwrap();
            }
            bench.core.note_persisted(high);
            assert_eq!(high, Seqno(2), "the document is on its way");
            gone_on(&bench);
            if let Some(step) = step {
                bench.core.panic_at(step);
                let promote = || become_state(&bench.core, VbucketState::Active);
                assert!(catch_unwind(AssertUnwindSafe(promote)).is_err());
                bench.core.reconcile();
            } else {
                become_state(&bench.core, VbucketState::Active);
            }
            let found = batches(&bench, &store, items_max);
            // One collection, beside the default one, with a uid above all.
            let promoted = (VbucketState::Active, 3, 2);
            let told = (VbucketState::Replica, 2, 3);
            let is_either = |one: &&(VbucketState, u64, usize)| **one != promoted && **one != told;
            assert_eq!(found.iter().find(is_either), None, "{items_max} {step:?}");
            assert_eq!(found.last(), Some(&promoted), "{items_max} {step:?}");
        }
    }
}

/// Until its warmup has opened it for writes it cannot follow; what it was told must not be on disk as an active one's.
#[test]
fn a_replica_that_knows_more_is_not_made_active_before_it_can_follow() {
    let bench = told_replica(3);
    let store = new_store();
    flush_all(&bench.core, &store, 10);
    let found = reopened(&store);
    let busy = OperationError::TemporaryFailure(Busy::WarmingUp);
    let refused = found.core.set_state(PROMOTE);
    assert_eq!(refused, Err(busy));
    assert_eq!(found.core.state(), VbucketState::Replica);
    found.core.warm_done();
    found.core.set_state(PROMOTE).unwrap();
    let manifest = found.core.collections_manifest();
    assert_eq!(
        (manifest.uid, manifest.collections.len()),
        (ManifestUid(2), 3)
    );
}

#[test]
fn a_replica_takes_its_source_s_events() {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    let epoch = core.begin_stream().unwrap();
    let snapshot = ReplicaSnapshot::memory(Seqno(0), Seqno(4));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    let event = event_item(1, &begin_of(1, 8, "a"));
    core.apply_item(epoch, Arc::clone(&event)).unwrap();
    assert_eq!(event.token.bytes(), 0, "the source's item is its own");
    core.apply_item(epoch, document_item(2, 8, "k")).unwrap();
    core.apply_item(epoch, event_item(4, &begin_of(2, 9, "b")))
        .unwrap();
    let manifest = core.collections_manifest();
    assert_eq!(manifest.uid, ManifestUid(2));
    assert_eq!(manifest.collection("_default", "b"), Some(CollectionId(9)));
    let snapshot = ReplicaSnapshot::memory(Seqno(5), Seqno(5));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, event_item(5, &end_of(3, 8, 1)))
        .unwrap();
    let store = new_store();
    flush_all(core, &store, 1);
    let found = reopened(&store).core.collections_manifest();
    assert_eq!(found, core.collections_manifest());
    assert_eq!(found.uid, ManifestUid(3));
    bench.manifest.set(found);
    become_state(core, VbucketState::Active);
    assert_eq!(core.high_seqno(), Seqno(5), "nothing was left to follow");
    let manifest_uid = ManifestUid(3);
    let unknown = Err(OperationError::UnknownCollection { manifest_uid });
    assert_eq!(get(core, 8, "k"), unknown);
    assert_eq!(get(core, 9, "k"), Err(OperationError::KeyNotFound));
    while core.erase_ended() == Outcome::Yielded {}
    assert_eq!(core.figures().documents, 0);
}

#[test]
fn a_panic_while_a_replica_takes_an_event_is_repaired() {
    for step in [
        ChangeStep::Noted,
        ChangeStep::Appended,
        ChangeStep::Mapped,
        ChangeStep::Cleared,
        ChangeStep::Identified,
    ] {
        let bench = in_state(VbucketState::Replica);
        let core = &bench.core;
        let epoch = core.begin_stream().unwrap();
        let snapshot = ReplicaSnapshot::memory(Seqno(0), Seqno(4));
        core.apply_marker(epoch, &snapshot, true).unwrap();
        core.panic_at(step);
        let event = event_item(1, &begin_of(1, 8, "a"));
        let panicked = catch_unwind(AssertUnwindSafe(|| core.apply_item(epoch, event)));
        assert!(panicked.is_err());
        core.reconcile();
        let happened = core.high_seqno() == Seqno(1);
        assert_eq!(happened, step != ChangeStep::Noted, "{step:?}");
        let manifest = core.collections_manifest();
        assert_eq!(manifest.uid.0, u64::from(happened), "{step:?}");
        let record = core.state_record();
        assert_eq!(record.identity.manifest_uid, manifest.uid.0, "{step:?}");
        let store = new_store();
        flush_all(core, &store, 10);
        assert_eq!(reopened(&store).core.collections_manifest(), manifest);
    }
}

#[test]
fn a_replica_refuses_events_that_say_nothing() {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    let epoch = core.begin_stream().unwrap();
    let snapshot = ReplicaSnapshot::memory(Seqno(0), Seqno(9));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    let mut unreadable = Item::clone(&event_item(1, &begin_of(1, 8, "a")));
    unreadable.document.value = Bytes::new();
    let scope_end = SystemEvent::ScopeEnd {
        uid: ManifestUid(1),
        scope: ScopeId::DEFAULT,
    };
    let bad = [
        Arc::new(unreadable),
        event_item(1, &end_of(1, 0, 0)),
        event_item(1, &begin_of(1, 0, "_default")),
        event_item(1, &scope_end),
    ];
    for item in bad {
        let refused = core.apply_item(epoch, item);
        assert!(matches!(refused, Err(OperationError::BadReplication(_))));
    }
    assert_eq!(core.high_seqno(), Seqno(0));
}
