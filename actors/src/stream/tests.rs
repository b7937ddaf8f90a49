//! The machine of one stream, step by step: what it wants, what it says, how it ends.

mod dropped;
mod field;
mod in_part;
mod history;
mod prepares;

use std::sync::Arc;

use messages::stream::{SnapshotFlags, StreamEndReason, StreamEvent, StreamFilter};
use storage::{
    Cas, CollectionId, Document, DocumentKey, Item, ManifestUid, Operation, ScopeId, Seqno,
    SnapshotKind, SnapshotRange, SystemEvent, VbucketId, VbucketStateRecord, VbucketUuid,
    Watermarks,
};

use super::admit::Admitted;
use super::filter::{Filter, OpenCollection};
use super::state::StreamState;
use super::want::{BackfillEnd, BackfillRange, Counted, Read, Skipped, Want};
use crate::vbucket::checkpoint::{
    CheckpointLimits, CheckpointLog, CursorId, CursorKind, CursorName, Registered, ReplicaSnapshot,
    TakeLimits,
};

const FRUIT: CollectionId = CollectionId(8);

fn item_of(collection: CollectionId, seqno: u64, key: &str) -> Arc<Item> {
    let key = DocumentKey::new(collection, key.as_bytes()).expect("a key");
    Arc::new(Item::mutation(
        Seqno(seqno),
        Document::new(key, "v", Cas(1)),
    ))
}

fn item(seqno: u64) -> Arc<Item> {
    item_of(CollectionId::DEFAULT, seqno, &format!("key-{seqno}"))
}

fn prepare(seqno: u64) -> Arc<Item> {
    let mut item = item(seqno);
    Arc::make_mut(&mut item).operation = Operation::Prepare {
        level: storage::DurabilityLevel::Majority,
        is_deletion: false,
    };
    item
}

fn admitted(start: u64, end: u64) -> Admitted {
    Admitted {
        vbucket: VbucketId::FIRST,
        consumer: "test".into(),
        stream_number: 0,
        start: Seqno(start),
        end: Seqno(end),
        snapshot: SnapshotRange {
            start: Seqno(start),
            end: Seqno(start),
        },
        filter: Filter::of(&StreamFilter::All, &[], &[].into()).expect("a filter"),
        nothing_below: Seqno(start),
        is_disk_only: false,
        purged: None,
        node: None,
        disk_up_to: None,
        has_history: false,
    }
}

fn of_fruit(start: u64, end: u64) -> Admitted {
    let open = [OpenCollection {
        id: FRUIT,
        scope: ScopeId::DEFAULT,
        start: Seqno::ZERO,
        high: Seqno(100),
    }];
    let wanted = StreamFilter::Collections(vec![FRUIT]);
    Admitted {
        filter: Filter::of(&wanted, &open, &[].into()).expect("a filter"),
        ..admitted(start, end)
    }
}

fn at(high: u64) -> Watermarks {
    Watermarks::at(Seqno(high), 0)
}

/// A log behind `last`, and a cursor of a stream in it.
fn log(last: u64) -> CheckpointLog {
    CheckpointLog::new(Seqno(last), CheckpointLimits::default())
}

fn register(log: &mut CheckpointLog, held: Seqno) -> Registered {
    let kind = CursorKind::Stream { droppable: true };
    log.register(CursorName::new("test"), held, kind)
        .expect("a cursor")
}

fn queue(log: &mut CheckpointLog, item: Arc<Item>) {
    log.queue(item, None).map(|_| ()).expect("queued");
}

fn registered(backfill_needed: bool, next: u64) -> Registered {
    let mut some = log(0);
    let cursor = register(&mut some, Seqno::ZERO).cursor;
    Registered {
        cursor,
        backfill_needed,
        next: Seqno(next),
    }
}

fn take(state: &mut StreamState, log: &mut CheckpointLog, cursor: CursorId, items_max: usize) {
    let limits = TakeLimits {
        items_max,
        ..TakeLimits::NONE
    };
    let taken = log.take(cursor, limits).expect("a cursor");
    state.taken(taken);
}

fn said(state: &mut StreamState) -> Vec<String> {
    let (events, bytes) = state.take_output(u64::MAX);
    let counted: u64 = events.iter().map(super::flow_bytes).sum();
    assert_eq!(bytes, counted);
    events.iter().map(shown).collect()
}

fn shown(event: &StreamEvent) -> String {
    match event {
        StreamEvent::SnapshotMarker(marker) => {
            let source = if marker.flags.has(SnapshotFlags::DISK) {
                "disk"
            } else {
                "memory"
            };
            let begins = marker.flags.has(SnapshotFlags::CHECKPOINT);
            let plus = if begins { "+" } else { "" };
            format!("{source}{plus} {}-{}", marker.start, marker.end)
        }
        StreamEvent::Mutation(item) => format!("set {}", item.seqno),
        StreamEvent::Deletion(item) => format!("delete {}", item.seqno),
        StreamEvent::Expiration(item) => format!("expire {}", item.seqno),
        StreamEvent::Prepare(item) => format!("prepare {}", item.seqno),
        StreamEvent::Commit(item) => format!("commit {}", item.seqno),
        StreamEvent::Abort(item) => format!("abort {}", item.seqno),
        StreamEvent::SystemEvent(event) => format!("event {}", event.seqno),
        StreamEvent::SeqnoAdvanced(seqno) => format!("advanced {seqno}"),
        StreamEvent::StreamEnd(reason) => reason.name().to_owned(),
    }
}

/// Its backfill read these, and passed over others.
fn backfilled(
    state: &mut StreamState,
    items: impl IntoIterator<Item = Arc<Item>>,
    up_to: Seqno,
    skipped: Skipped,
) {
    let mut read = Read {
        up_to,
        skipped,
        ..Read::default()
    };
    let everything = Filter::of(&StreamFilter::All, &[], &[].into()).expect("a filter");
    let everything = everything.synchronous(true);
    for item in items {
        read.last = item.seqno;
        read.events
            .extend(everything.event_of(item).map(Counted::from));
    }
    state.backfilled(read);
}

/// Until its backfill reads a snapshot that ends at `high`.
fn opened(admitted: Admitted, high: u64) -> StreamState {
    let mut state = StreamState::new(admitted);
    state.registered(registered(true, high + 1));
    assert!(matches!(state.want(), Want::Backfill(_)));
    state.scheduled();
    assert_eq!(state.want(), Want::Backfilled);
    state.opened(&at(high), Some(registered(false, high + 1)));
    state
}

#[test]
fn a_backfill_goes_over_into_memory_without_gap_or_duplicate() {
    let mut state = StreamState::new(admitted(0, u64::MAX));
    let mut log = log(3);
    assert_eq!(state.want(), Want::Register { held: Seqno::ZERO });
    let registered = register(&mut log, Seqno::ZERO);
    assert!(registered.backfill_needed);
    state.registered(registered);
    let range = BackfillRange {
        first: Seqno(1),
        last: Seqno(3),
    };
    assert_eq!(state.want(), Want::Backfill(range));
    state.scheduled();
    // Written meanwhile, and on disk before the snapshot is opened.
    queue(&mut log, item(4));
    let registered = register(&mut log, Seqno(4));
    state.opened(&at(4), Some(registered));
    backfilled(&mut state, [item(1), item(3)], Seqno(3), Skipped::default());
    backfilled(&mut state, [item(4)], Seqno(4), Skipped::default());
    queue(&mut log, item(5));
    state.backfill_ended(BackfillEnd::Complete(Seqno(4)));
    assert_eq!(said(&mut state), ["disk+ 0-4", "set 1", "set 3", "set 4"]);
    assert_eq!(state.want(), Want::Log);
    take(&mut state, &mut log, registered.cursor, 10);
    assert_eq!(said(&mut state), ["memory+ 5-5", "set 5"]);
    queue(&mut log, item(6));
    take(&mut state, &mut log, registered.cursor, 10);
    assert_eq!(said(&mut state), ["memory 6-6", "set 6"]);
    assert_eq!(state.last_read(), Seqno(6));
}

#[test]
fn a_backfill_that_is_not_complete_never_looks_so() {
    let ends = [
        (BackfillEnd::Failed, StreamEndReason::BackfillFail),
        (BackfillEnd::Aborted, StreamEndReason::StateChanged),
        (BackfillEnd::Purged, StreamEndReason::Rollback),
        (BackfillEnd::Slow, StreamEndReason::Slow),
        (BackfillEnd::Panicked, StreamEndReason::Disconnected),
        // Complete, but not to the end that was told.
        (
            BackfillEnd::Complete(Seqno(8)),
            StreamEndReason::BackfillFail,
        ),
    ];
    for (end, reason) in ends {
        let mut state = opened(admitted(0, u64::MAX), 9);
        backfilled(&mut state, [item(1)], Seqno(1), Skipped::default());
        state.backfill_ended(end);
        assert!(state.is_dead());
        assert_eq!(said(&mut state), [reason.name()], "{end:?}");
        assert_eq!(state.want(), Want::Nothing);
        // Whatever comes after that is not said.
        state.end(StreamEndReason::Ok);
        state.backfill_ended(BackfillEnd::Complete(Seqno(9)));
        assert!(said(&mut state).is_empty());
    }
}

#[test]
fn an_end_is_reached_with_the_snapshot_that_holds_it() {
    let mut state = opened(admitted(0, 5), 9);
    backfilled(
        &mut state,
        [item(1), item(7), item(9)],
        Seqno(9),
        Skipped::default(),
    );
    state.backfill_ended(BackfillEnd::Complete(Seqno(9)));
    assert_eq!(
        said(&mut state),
        ["disk+ 0-9", "set 1", "set 7", "set 9", "ok"]
    );
    let mut state = StreamState::new(admitted(9, 9));
    assert_eq!(said(&mut state), ["ok"]);
    let mut log = log(0);
    let mut state = StreamState::new(admitted(0, 2));
    let registered = register(&mut log, Seqno::ZERO);
    state.registered(registered);
    for seqno in 1..=3 {
        queue(&mut log, item(seqno));
    }
    // In pieces: what was told is told to its end.
    take(&mut state, &mut log, registered.cursor, 2);
    assert_eq!(said(&mut state), ["memory+ 0-3", "set 1", "set 2"]);
    take(&mut state, &mut log, registered.cursor, 2);
    assert_eq!(said(&mut state), ["set 3", "ok"]);
}

#[test]
fn the_disk_alone_needs_no_cursor_and_ends() {
    let wanted = Admitted {
        is_disk_only: true,
        ..admitted(0, 5)
    };
    let mut state = StreamState::new(wanted);
    assert!(matches!(state.want(), Want::Backfill(range) if range.last == Seqno(5)));
    state.scheduled();
    state.opened(&at(6), None);
    backfilled(&mut state, [item(6)], Seqno(6), Skipped::default());
    state.backfill_ended(BackfillEnd::Complete(Seqno(6)));
    assert_eq!(said(&mut state), ["disk+ 0-6", "set 6", "ok"]);
}

#[test]
fn every_end_that_was_told_is_delivered_once() {
    // The newest item is a prepare: nobody else delivers the end.
    let mut state = opened(admitted(0, u64::MAX), 3);
    let invisible = Skipped {
        items: 1,
        has_invisible: true,
    };
    backfilled(&mut state, [item(2)], Seqno(3), invisible);
    state.backfill_ended(BackfillEnd::Complete(Seqno(3)));
    assert_eq!(said(&mut state), ["disk+ 0-3", "set 2", "advanced 3"]);
    // Of all that is passed over nothing is said.
    let mut state = opened(of_fruit(0, u64::MAX), 3);
    let others = Skipped {
        items: 3,
        has_invisible: false,
    };
    backfilled(&mut state, [], Seqno(3), others);
    state.backfill_ended(BackfillEnd::Complete(Seqno(3)));
    assert!(said(&mut state).is_empty());
    assert_eq!(state.last_read(), Seqno(3));
    // But a consumer in the middle of a snapshot waits for its end.
    let wanted = Admitted {
        snapshot: SnapshotRange {
            start: Seqno(1),
            end: Seqno(3),
        },
        ..of_fruit(2, u64::MAX)
    };
    let mut state = opened(wanted, 4);
    backfilled(&mut state, [], Seqno(4), others);
    state.backfill_ended(BackfillEnd::Complete(Seqno(4)));
    assert_eq!(said(&mut state), ["disk+ 1-4", "advanced 4"]);
}

#[test]
fn the_same_holds_in_memory() {
    let mut log = log(0);
    let mut state = StreamState::new(admitted(0, u64::MAX));
    let registered = register(&mut log, Seqno::ZERO);
    state.registered(registered);
    queue(&mut log, item(1));
    queue(&mut log, prepare(2));
    take(&mut state, &mut log, registered.cursor, 10);
    assert_eq!(said(&mut state), ["memory+ 0-2", "set 1", "advanced 2"]);
    // Of others' items nothing is said, and the checkpoint flag is for the first marker that is.
    let mut state = StreamState::new(of_fruit(2, u64::MAX));
    let registered = register(&mut log, Seqno(2));
    state.registered(registered);
    queue(&mut log, item(3));
    take(&mut state, &mut log, registered.cursor, 10);
    assert!(said(&mut state).is_empty());
    queue(&mut log, item_of(FRUIT, 4, "a"));
    queue(&mut log, item(5));
    take(&mut state, &mut log, registered.cursor, 10);
    assert_eq!(said(&mut state), ["memory+ 2-5", "set 4", "advanced 5"]);
}

#[test]
fn a_long_run_of_others_items_is_told_now_and_then() {
    let mut state = opened(of_fruit(0, u64::MAX), 30_000);
    let others = Skipped {
        items: 6_000,
        has_invisible: false,
    };
    for up_to in [6_000, 12_000, 18_000, 24_000] {
        backfilled(&mut state, [], Seqno(up_to), others);
    }
    assert_eq!(
        said(&mut state),
        ["disk+ 0-30000", "advanced 12000", "advanced 24000"]
    );
    backfilled(&mut state, [], Seqno(30_000), others);
    state.backfill_ended(BackfillEnd::Complete(Seqno(30_000)));
    assert_eq!(said(&mut state), ["advanced 30000"]);
}

#[test]
fn of_the_seqno_of_an_item_nothing_more_is_told() {
    let mut state = opened(of_fruit(0, u64::MAX), 30_000);
    let others = Skipped {
        items: 10_999,
        has_invisible: false,
    };
    let item = item_of(FRUIT, 11_000, "a");
    backfilled(&mut state, [item], Seqno(11_000), others);
    assert_eq!(said(&mut state), ["disk+ 0-30000", "set 11000"]);
}

#[test]
fn the_last_collection_ends_it() {
    let event = SystemEvent::CollectionEnd {
        uid: ManifestUid(3),
        scope: ScopeId::DEFAULT,
        collection: FRUIT,
        start: Seqno(1),
    };
    let document = Document::new(event.key().expect("a key"), event.value(), Cas(1));
    let mut dropped = Item::mutation(Seqno(3), document);
    dropped.operation = event.operation();
    let mut state = opened(of_fruit(0, u64::MAX), 9);
    let items = [
        item_of(FRUIT, 2, "a"),
        Arc::new(dropped),
        item_of(FRUIT, 4, "b"),
    ];
    backfilled(&mut state, items, Seqno(4), Skipped::default());
    assert_eq!(
        said(&mut state),
        ["disk+ 0-9", "set 2", "event 3", "filter_empty"]
    );
}

#[test]
fn output_is_cut_to_what_may_be_sent() {
    let mut state = opened(admitted(0, 2), 2);
    backfilled(&mut state, [item(1), item(2)], Seqno(2), Skipped::default());
    state.backfill_ended(BackfillEnd::Complete(Seqno(2)));
    assert!(state.take_output(0).0.is_empty());
    assert_eq!(state.take_output(1).0.len(), 1);
    assert_eq!(state.take_output(1).0.len(), 1);
    // The end needs no room of its own.
    assert_eq!(state.take_output(1).0.len(), 2);
    assert!(!state.has_output());
}
