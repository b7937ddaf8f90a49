//! Lives of a collection: one has nothing of another, and documents of those that ended count for nobody from that moment on,
//! long before memory is rid of them.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::super::super::checkpoint::ReplicaSnapshot;
use super::super::super::{ChangeStep, VbucketCore};
use super::super::support::{active, become_state, flush_all, id, in_state, set};
use super::{
    announce, begin_of, create, document_item, drop_scope, end_of, event_item, follow, get,
    new_store, reopened, with_a_scope, write,
};
use messages::OperationError;
use messages::vbucket::{Delete, WriteOptions};
use storage::{
    CollectionId, DocumentKey, Item, KvStore, Namespace, Operation, Outcome, Predecessor, Seqno,
    VbucketState,
};

/// The same number twice: what is written in the first life is not there in the second.
#[test]
fn a_life_has_nothing_of_the_one_before() {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    let epoch = core.begin_stream().unwrap();
    let feed = |seqno: u64, item: Arc<Item>| {
        let snapshot = ReplicaSnapshot::memory(Seqno(seqno), Seqno(seqno));
        core.apply_marker(epoch, &snapshot, true).unwrap();
        core.apply_item(epoch, item).unwrap();
    };
    feed(1, event_item(1, &begin_of(1, 8, "a")));
    feed(2, document_item(2, 8, "k"));
    feed(3, event_item(3, &end_of(2, 8, 1)));
    feed(4, event_item(4, &begin_of(3, 8, "a")));
    bench.manifest.set(core.collections_manifest());
    let store = new_store();
    flush_all(core, &store, 10);
    become_state(core, VbucketState::Active);
    let check = |core: &VbucketCore| {
        assert_eq!(get(core, 8, "k"), Err(OperationError::KeyNotFound));
        let key = DocumentKey::new(CollectionId(8), b"k").unwrap();
        let replace = messages::vbucket::Replace {
            key: key.clone(),
            value: Bytes::from_static(b"v"),
            options: WriteOptions::default(),
        };
        assert_eq!(core.replace(replace), Err(OperationError::KeyNotFound));
        write(core, 8, "k").unwrap();
        assert_eq!(get(core, 8, "k"), Ok(()));
        while core.erase_ended() == Outcome::Yielded {}
        assert_eq!(get(core, 8, "k"), Ok(()), "of this life");
        assert_eq!(core.figures().documents, 1);
    };
    check(core);
    // The same when it is loaded: the store still has the document of the first life.
    let found = reopened(&store);
    let snapshot = store.snapshot(id()).unwrap();
    let mut scan = snapshot.scan_by_seqno(storage::SeqnoRange::ALL);
    let outcome = scan.step(usize::MAX, &mut |view| {
        if view.namespace() == Namespace::Committed {
            let item = view.to_item(Bytes::copy_from_slice(view.value)).unwrap();
            assert!(!found.core.warm_insert(Arc::new(item)));
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(outcome, Outcome::Complete(_)));
    found.core.warm_done();
    found.manifest.set(found.core.collections_manifest());
    become_state(&found.core, VbucketState::Active);
    check(&found.core);
    // The store is told that it has to look for what the new version takes the place of.
    let take = found.core.take_for_flush(100, usize::MAX).unwrap();
    let written = take
        .items
        .iter()
        .find(|item| item.operation == Operation::Mutation);
    assert_eq!(written.unwrap().predecessor, Predecessor::Unknown);
}

#[test]
fn what_is_loaded_while_its_collection_ends_is_erased_when_all_is_loaded() {
    let bench = active();
    let store = new_store();
    follow(&bench, create("_default", "c"));
    for number in 0..10 {
        write(&bench.core, 8, &format!("k{number}")).unwrap();
    }
    become_state(&bench.core, VbucketState::Replica);
    flush_all(&bench.core, &store, 100);
    let found = reopened(&store);
    let warm = |number: u64| {
        found
            .core
            .warm_insert(document_item(number + 2, 8, &format!("k{number}")))
    };
    assert!((0..5).all(warm));
    // An active one follows its bucket when all is loaded; the stream of a replica goes on meanwhile.
    let epoch = found.core.begin_stream().unwrap();
    let snapshot = ReplicaSnapshot::memory(Seqno(12), Seqno(12));
    found.core.apply_marker(epoch, &snapshot, true).unwrap();
    let end = event_item(12, &end_of(2, 8, 1));
    found.core.apply_item(epoch, end).unwrap();
    while found.core.erase_ended() == Outcome::Yielded {}
    assert!(!(5..10).any(warm));
    found.core.warm_done();
    assert!(found.core.has_ended(), "somebody may have been loading one");
    while found.core.erase_ended() == Outcome::Yielded {}
    assert_eq!(found.core.figures().documents, 0);
}

/// What a client is told of how many there are, and how many memory still holds.
fn documents(core: &VbucketCore) -> (u64, u64) {
    (core.describe().documents, core.figures().documents)
}

/// Documents in each collection of a scope, one of them deleted again, and three of the default collection.
fn filled(core: &VbucketCore) {
    for collection in 9..12 {
        for number in 0..5 {
            write(core, collection, &format!("k{number}")).unwrap();
        }
        let key = DocumentKey::new(CollectionId(collection), b"k0").unwrap();
        let deletion = Delete {
            key,
            cas: None,
            acknowledge: messages::vbucket::Acknowledge::InMemory,
        };
        core.delete(deletion).unwrap();
        // Overwritten, and there once.
        write(core, collection, "k1").unwrap();
    }
    for name in ["x", "y", "z"] {
        core.set(set(name, "v")).unwrap();
    }
}

#[test]
fn what_ended_is_not_counted_from_that_moment_on() {
    let steps = [
        None,
        Some(ChangeStep::Noted),
        Some(ChangeStep::Appended),
        Some(ChangeStep::Mapped),
        Some(ChangeStep::Cleared),
    ];
    for step in steps {
        let bench = with_a_scope();
        let core = &bench.core;
        filled(core);
        assert_eq!(documents(core), (15, 15));
        announce(&bench, drop_scope("s"));
        match step {
            None => drop(core.follow_manifest().unwrap()),
            Some(step) => {
                core.panic_at(step);
                let panicked = catch_unwind(AssertUnwindSafe(|| core.follow_manifest()));
                assert!(panicked.is_err(), "{step:?}");
                core.reconcile();
            }
        }
        assert_eq!(documents(core), (3, 15), "{step:?}");
        // Between two slices, too.
        core.set(set("new", "v")).unwrap();
        while core.erase_ended() == Outcome::Yielded {
            assert_eq!(core.describe().documents, 4, "{step:?}");
        }
        assert_eq!(documents(core), (4, 4), "{step:?}");
    }
}

/// What a vbucket loads that the bucket dropped while this one was not told of it.
#[test]
fn what_ends_when_it_is_loaded_is_not_counted() {
    let bench = with_a_scope();
    filled(&bench.core);
    let store = new_store();
    flush_all(&bench.core, &store, 100);
    let found = reopened(&store);
    found.manifest.set(bench.core.collections_manifest());
    announce(&found, drop_scope("s"));
    let snapshot = store.snapshot(id()).unwrap();
    let mut scan = snapshot.scan_by_seqno(storage::SeqnoRange::ALL);
    let outcome = scan.step(usize::MAX, &mut |view| {
        if view.namespace() == Namespace::Committed {
            let item = view.to_item(Bytes::copy_from_slice(view.value)).unwrap();
            found.core.warm_insert(Arc::new(item));
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(outcome, Outcome::Complete(_)));
    found.core.warm_done();
    assert_eq!(found.core.describe().documents, 3);
    while found.core.erase_ended() == Outcome::Yielded {}
    assert_eq!(documents(&found.core), (3, 3));
}

/// A source that dropped a collection and made it anew under its number sends the newest of both events only.
#[test]
fn a_life_that_begins_over_one_still_open_ends_that_one() {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    let epoch = core.begin_stream().unwrap();
    let feed = |seqno: u64, item: Arc<Item>| {
        let snapshot = ReplicaSnapshot::memory(Seqno(seqno), Seqno(seqno));
        core.apply_marker(epoch, &snapshot, true).unwrap();
        core.apply_item(epoch, item).unwrap();
    };
    feed(1, event_item(1, &begin_of(1, 8, "a")));
    feed(2, document_item(2, 8, "k"));
    feed(3, document_item(3, 8, "l"));
    assert_eq!(documents(core), (2, 2));
    assert!(!core.has_ended());
    feed(5, event_item(5, &begin_of(3, 8, "a")));
    assert_eq!(documents(core), (0, 2));
    assert!(core.has_ended(), "somebody has to erase them");
    feed(6, document_item(6, 8, "l"));
    assert_eq!(documents(core), (1, 2));
    while core.erase_ended() == Outcome::Yielded {}
    assert_eq!(documents(core), (1, 1));
}

/// Whoever asks for a document of a collection finds the bucket's manifest in force, also where this vbucket was not told of
/// it yet: through every door, and without the disk.
#[test]
fn a_vbucket_that_was_not_told_yet_answers_as_all_others_do() {
    let bench = active();
    let core = &bench.core;
    core.set(set("k", "v")).unwrap();
    announce(&bench, create("_default", "c"));
    assert_eq!(get(core, 8, "k"), Err(OperationError::KeyNotFound));
    announce(&bench, create("_default", "d"));
    write(core, 9, "k").unwrap();
    let manifest = follow(&bench, create("_default", "e"));
    write(core, 10, "k").unwrap();
    let change = messages::ManifestChange::DropCollection {
        scope: "_default".to_owned(),
        collection: "d".to_owned(),
    };
    announce(&bench, change);
    assert_eq!(documents(core), (2, 3), "before it followed");
    let manifest_uid = storage::ManifestUid(manifest.uid.0 + 1);
    let unknown = || Err(OperationError::UnknownCollection { manifest_uid });
    assert_eq!(write(core, 9, "k"), unknown());
    assert_eq!(get(core, 9, "k"), unknown());
    assert_eq!(core.collections_manifest(), bench.manifest.current());
    assert_eq!(documents(core), (2, 3));
}
