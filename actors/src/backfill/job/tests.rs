//! What a step hands over, what a backfill that is lost says, and which tombstones it would miss.

use messages::stream::{StreamEvent, StreamFilter};
use storage::{
    Batch, Cas, CollectionId, CommitDurability, Document, DocumentKey, Item, ItemView, ManifestUid,
    MemoryStore, Operation, ScopeId, SystemEvent, VbucketId, VbucketStateRecord, VbucketUuid,
};

use super::*;
use crate::stream::OpenCollection;
use crate::vbucket::tests::support::active;

const NEW: CollectionId = CollectionId(9);

fn request() -> BackfillRequest {
    let scope = StreamFilter::Scope(ScopeId::DEFAULT);
    BackfillRequest {
        core: active().core,
        consumer: "test".into(),
        range: BackfillRange {
            first: Seqno(1),
            last: Seqno(9),
        },
        start: Seqno::ZERO,
        nothing_below: Seqno::ZERO,
        purged: None,
        filter: Filter::of(&scope, &[], &[ScopeId::DEFAULT].into()).expect("a filter"),
        has_history: false,
        pipe: Arc::new(Pipe::new(|| {})),
    }
}

fn begin() -> Item {
    let event = SystemEvent::CollectionBegin {
        uid: ManifestUid(3),
        scope: ScopeId::DEFAULT,
        collection: NEW,
        name: "new".to_owned(),
        max_ttl_s: 0,
    };
    let document = Document::new(event.key().expect("a key"), event.value(), Cas(1));
    let mut item = Item::mutation(Seqno(1), document);
    item.operation = event.operation();
    item
}

fn item(seqno: u64, collection: CollectionId) -> Item {
    let key = DocumentKey::new(collection, b"k").expect("a key");
    Item::mutation(Seqno(seqno), Document::new(key, "v", Cas(1)))
}

/// A snapshot with documents at these seqnos.
fn snapshot_with(items: &[(u64, CollectionId)]) -> Box<dyn Snapshot> {
    let (id, store) = (VbucketId::FIRST, MemoryStore::new(1));
    let state = VbucketStateRecord::new(VbucketUuid(7));
    store.create_vbucket(id, &state).expect("a vbucket");
    let position = store.vbuckets()[0].position.clone().expect("it is up");
    let items = items.iter();
    let items = items.map(|(seqno, collection)| Arc::new(item(*seqno, *collection)));
    let batch = Batch::of_documents(id, &position, items.collect(), 0);
    let committed = store.commit(&[batch], CommitDurability::Synced);
    assert_eq!(committed, [Ok(())]);
    store.snapshot(id).expect("a snapshot")
}

/// MB-63159: a stream that had all of its collection when it was asked for, and since then may have missed a deletion.
#[test]
fn what_a_collection_got_since_the_request_counts() {
    let open = [OpenCollection {
        id: NEW,
        scope: ScopeId::DEFAULT,
        start: Seqno(1),
        high: Seqno(40),
    }];
    let wanted = StreamFilter::Collections(vec![NEW]);
    let backfill = |first: u64, purged: Option<Purged>| {
        Backfill::new(BackfillRequest {
            range: BackfillRange {
                first: Seqno(first),
                last: Seqno(60),
            },
            start: Seqno(40),
            nothing_below: Seqno(40),
            filter: Filter::of(&wanted, &open, &[].into()).expect("a filter"),
            purged,
            ..request()
        })
    };
    let asked = Some(Purged {
        here: Seqno(41),
        at_consumer: Seqno::ZERO,
        collections_high: Some(Seqno(40)),
    });
    let other = CollectionId::DEFAULT;
    let quiet = snapshot_with(&[(40, NEW), (60, other)]);
    let busy = snapshot_with(&[(40, NEW), (50, NEW), (60, other)]);
    let misses = |backfill: Backfill, snapshot: &dyn Snapshot| {
        let misses = backfill.misses_tombstones(snapshot, Seqno(55));
        misses.expect("counts")
    };
    assert!(!misses(backfill(49, asked), &*quiet), "it has all of it");
    assert!(misses(backfill(49, asked), &*busy));
    assert!(!misses(backfill(56, asked), &*busy), "above what is purged");
    assert!(!misses(backfill(49, None), &*busy), "it does not count");
    // A snapshot may be behind what memory had at the request.
    let behind = snapshot_with(&[(30, NEW), (60, other)]);
    let newer = asked.map(|asked| Purged {
        collections_high: Some(Seqno(50)),
        ..asked
    });
    assert!(misses(backfill(49, newer), &*behind));
}

#[test]
fn what_begins_in_a_scope_passes_from_then_on() {
    let mut request = request();
    // Two steps: what the first one read, the second one knows.
    for (items, passed) in [
        (vec![item(1, NEW), begin()], 1),
        (vec![item(3, NEW), item(4, CollectionId(10))], 1),
    ] {
        let mut reading = Reading::new(&mut request, Seqno::ZERO, &[]);
        for item in &items {
            assert!(reading.visit(ItemView::of(item)).is_continue());
        }
        assert_eq!(reading.chunk.read.events.len(), passed);
        assert_eq!(reading.chunk.read.skipped.items, 1);
    }
}

/// MB-44079, MB-49767: the end of a prepare that is over may be purged, so it is told to nobody; one that goes on and every
/// abort are told to replicas, and to nobody else.
#[test]
fn of_prepares_a_replica_is_read_those_that_go_on() {
    let with = |seqno, operation| Item {
        operation,
        ..item(seqno, CollectionId::DEFAULT)
    };
    let level = storage::DurabilityLevel::PersistToMajority;
    let is_deletion = false;
    let prepare = Operation::Prepare { level, is_deletion };
    let prepare_seqno = Seqno(4);
    let abort = Operation::Abort {
        prepare_seqno,
        deleted_at: 1,
    };
    let items = [
        with(4, prepare),
        with(5, abort),
        with(6, prepare),
        with(7, Operation::CommitMutation { prepare_seqno }),
    ];
    let told = |event: &StreamEvent| match event {
        StreamEvent::Prepare(item) | StreamEvent::Abort(item) | StreamEvent::Mutation(item) => {
            (item.seqno.0, item.operation)
        }
        StreamEvent::Deletion(_)
        | StreamEvent::Expiration(_)
        | StreamEvent::Commit(_)
        | StreamEvent::SystemEvent(_)
        | StreamEvent::SnapshotMarker(_)
        | StreamEvent::SeqnoAdvanced(_)
        | StreamEvent::StreamEnd(_) => panic!("{event:?}"),
    };
    let read = |is_replica: bool| {
        let usual = request();
        let all = Filter::of(&StreamFilter::All, &[], &[].into()).expect("a filter");
        let mut request = BackfillRequest {
            filter: all.synchronous(is_replica),
            ..usual
        };
        let mut reading = Reading::new(&mut request, Seqno(4), &[]);
        for item in &items {
            assert!(reading.visit(ItemView::of(item)).is_continue());
        }
        assert!(reading.chunk.read.skipped.has_invisible);
        let passed = reading.chunk.read.events.iter();
        let passed: Vec<_> = passed.map(|one| told(&one.event)).collect();
        passed
    };
    // On disk a commit is the document it left.
    let document = (7, Operation::Mutation);
    assert_eq!(read(true), [(5, abort), (6, prepare), document]);
    assert_eq!(read(false), [document]);
}

#[test]
fn one_that_is_lost_says_so_and_one_that_ended_says_no_more() {
    let request = request();
    let lost = Arc::clone(&request.pipe);
    drop(Backfill::new(request.clone()));
    assert_eq!(lost.broken(), Some(BackfillEnd::Panicked));
    let pipe = Arc::new(Pipe::new(|| {}));
    let request = BackfillRequest {
        pipe: Arc::clone(&pipe),
        ..request
    };
    pipe.end(BackfillEnd::Aborted);
    drop(Backfill::new(request));
    assert_eq!(pipe.broken(), Some(BackfillEnd::Aborted));
}
