//! The machine of a replica's stream, step by step: what it asks, what it lets through, what follows from how it ends.

use std::sync::Arc;
use std::time::Duration;

use messages::OperationError;
use messages::replication::{ReplicaEnd, ReplicaError, RollbackEnd, StreamFault};
use messages::stream::{
    SnapshotFlags, SnapshotMarker, StreamEndReason, StreamEvent, StreamFlags, StreamId,
    StreamOpened, StreamRequest, StreamRequestError,
};
use storage::{
    Cas, CollectionId, Document, DocumentKey, FailoverEntry, Item, Seqno, SnapshotKind,
    SnapshotRange, VbucketId, VbucketState, VbucketUuid,
};

use super::state::{Answered, Apply, Moment, PassiveState, Want};
use crate::vbucket::{Resume, StreamEpoch};

const NOW: Moment = Moment {
    now: Duration::from_secs(1),
    random: 0,
};

fn range(start: u64, end: u64) -> SnapshotRange {
    SnapshotRange {
        start: Seqno(start),
        end: Seqno(end),
    }
}

/// A replica with everything up to `high`, of these branches, newest first.
fn having(high: u64, snapshot: SnapshotRange, branches: &[(u64, u64)]) -> Resume {
    let entry = |(uuid, seqno): &(u64, u64)| FailoverEntry {
        uuid: VbucketUuid(*uuid),
        seqno: Seqno(*seqno),
    };
    Resume {
        epoch: StreamEpoch::default(),
        high: Seqno(high),
        snapshot,
        branches: branches.iter().map(entry).collect(),
        purge_seqno: Seqno(0),
        is_in_disk_snapshot: false,
    }
}

fn whole(high: u64) -> Resume {
    having(high, range(high, high), &[(7, 0)])
}

fn stream() -> PassiveState {
    PassiveState::new(VbucketId::FIRST, "test".into(), "here".into(), 1000)
}

fn opened() -> StreamOpened {
    StreamOpened {
        stream: StreamId(1),
        failover_log: vec![FailoverEntry {
            uuid: VbucketUuid(7),
            seqno: Seqno(0),
        }],
        start: Seqno(0),
        end: Seqno::MAX,
    }
}

/// A stream that reads, of a replica that stands so.
fn reading(resume: Resume) -> PassiveState {
    let mut state = stream();
    drop(state.ask(resume));
    assert!(matches!(
        state.answered(Ok(opened()), NOW),
        Answered::Adopt(_)
    ));
    state.adopted();
    assert_eq!(state.want(), Want::Events);
    state
}

fn marker(start: u64, end: u64, flags: SnapshotFlags) -> StreamEvent {
    StreamEvent::SnapshotMarker(Box::new(SnapshotMarker {
        start: Seqno(start),
        end: Seqno(end),
        flags,
        max_visible_seqno: None,
        high_completed_seqno: flags.has(SnapshotFlags::DISK).then_some(Seqno(0)),
        high_prepared_seqno: None,
        purge_seqno: None,
    }))
}

fn memory(start: u64, end: u64) -> StreamEvent {
    marker(start, end, SnapshotFlags::MEMORY)
}

fn item(seqno: u64) -> StreamEvent {
    let key = DocumentKey::new(CollectionId::DEFAULT, b"key").expect("a key");
    let document = Document::new(key, "v", Cas(1));
    StreamEvent::Mutation(Arc::new(Item::mutation(Seqno(seqno), document)))
}

/// Lets an event through and does what it asks for.
fn give(state: &mut PassiveState, event: StreamEvent) -> Result<Apply, StreamFault> {
    let at = event.seqno();
    let apply = state.take(event)?;
    if let Apply::Snapshot { snapshot, .. } = &apply {
        state.begun(SnapshotRange {
            start: snapshot.start,
            end: snapshot.end,
        });
    }
    if let Some(at) = at {
        state.applied(at);
    }
    Ok(apply)
}

#[test]
fn a_replica_that_has_nothing_asks_for_everything() {
    let mut state = stream();
    assert_eq!(state.want(), Want::Ask(Duration::ZERO));
    let asked = state.ask(having(0, range(0, 0), &[(9, 0)]));
    let expected = StreamRequest {
        flags: StreamFlags::ACTIVE_VB_ONLY,
        options: asked.options.clone(),
        ..StreamRequest::new(VbucketId::FIRST, "test")
    };
    assert_eq!(asked, expected);
    assert_eq!(asked.options.buffer_bytes, Some(1000));
    assert_eq!(state.want(), Want::Answer);
}

/// MB-64246: what is asked for on coming back always passes the checks of a request.
#[test]
fn mb_64246_a_replica_asks_from_where_it_stands() {
    let mut state = stream();
    let asked = state.ask(having(55, range(50, 60), &[(8, 40), (7, 0)]));
    assert_eq!((asked.start, asked.snapshot), (Seqno(55), range(50, 60)));
    assert_eq!(asked.vbucket_uuid, VbucketUuid(8));
    assert_eq!(
        (state.received(), state.received_whole()),
        (Seqno(55), Seqno(50))
    );
    let asked = stream().ask(whole(60));
    assert_eq!((asked.start, asked.snapshot), (Seqno(60), range(60, 60)));
}

#[test]
fn a_snapshot_is_applied_in_order_and_is_whole_at_its_end() {
    let mut state = reading(whole(3));
    let flags = SnapshotFlags::MEMORY.with(SnapshotFlags::CHECKPOINT);
    let begun = give(&mut state, marker(3, 6, flags)).expect("a snapshot");
    let Apply::Snapshot {
        snapshot,
        begins_checkpoint: true,
    } = begun
    else {
        panic!("{begun:?}")
    };
    assert_eq!(snapshot.kind, SnapshotKind::Memory);
    assert!(matches!(give(&mut state, item(4)), Ok(Apply::Item(_))));
    assert_eq!(state.received_whole(), Seqno(3));
    assert!(matches!(give(&mut state, item(6)), Ok(Apply::Item(_))));
    assert_eq!(
        (state.received(), state.received_whole()),
        (Seqno(6), Seqno(6))
    );
    let next = give(&mut state, memory(7, 9)).expect("the next");
    assert!(matches!(
        next,
        Apply::Snapshot {
            begins_checkpoint: false,
            ..
        }
    ));
    // Its end is told without an item there.
    assert_eq!(
        give(&mut state, StreamEvent::SeqnoAdvanced(Seqno(8))),
        Ok(Apply::Nothing)
    );
    assert_eq!(
        give(&mut state, StreamEvent::SeqnoAdvanced(Seqno(9))),
        Ok(Apply::SnapshotEnd)
    );
    assert_eq!(state.received_whole(), Seqno(9));
}

#[test]
fn what_does_not_fit_is_named_and_not_let_through() {
    let mut state = reading(having(55, range(50, 60), &[(7, 0)]));
    let fault = |state: &mut PassiveState, event| give(state, event).expect_err("a fault");
    let seqno = Seqno(56);
    assert_eq!(
        fault(&mut state, item(56)),
        StreamFault::NoSnapshot { seqno }
    );
    let snapshot = range(49, 60);
    let last = Seqno(50);
    assert_eq!(
        fault(&mut state, memory(49, 60)),
        StreamFault::Overlaps { snapshot, last }
    );
    assert_eq!(
        fault(&mut state, memory(60, 58)),
        StreamFault::Inverted(range(60, 58))
    );
    let (snapshot, last) = (range(50, 55), Seqno(55));
    assert_eq!(
        fault(&mut state, memory(50, 55)),
        StreamFault::Overlaps { snapshot, last }
    );
    let disk = StreamEvent::SnapshotMarker(Box::new(SnapshotMarker {
        start: Seqno(50),
        end: Seqno(60),
        flags: SnapshotFlags::DISK,
        max_visible_seqno: None,
        high_completed_seqno: None,
        high_prepared_seqno: None,
        purge_seqno: None,
    }));
    let end = Seqno(60);
    assert_eq!(fault(&mut state, disk), StreamFault::BadWatermarks { end });
    assert!(give(&mut state, memory(50, 60)).is_ok());
    let (seqno, last) = (Seqno(55), Seqno(55));
    assert_eq!(
        fault(&mut state, item(55)),
        StreamFault::GoesBack { seqno, last }
    );
    let (seqno, snapshot) = (Seqno(61), range(50, 60));
    assert_eq!(
        fault(&mut state, item(61)),
        StreamFault::OutsideSnapshot { seqno, snapshot }
    );
    // Of another one while this has not come to its end.
    let (start, end) = (Seqno(61), Seqno(60));
    assert_eq!(
        fault(&mut state, memory(61, 70)),
        StreamFault::CutShort { start, end }
    );
    assert!(give(&mut state, item(60)).is_ok());
    let seqno = Seqno(61);
    assert_eq!(
        fault(&mut state, item(61)),
        StreamFault::NoSnapshot { seqno }
    );
    let (snapshot, last) = (range(60, 70), Seqno(60));
    assert_eq!(
        fault(&mut state, memory(60, 70)),
        StreamFault::Overlaps { snapshot, last }
    );
    assert_eq!(state.received(), Seqno(60));
}

#[test]
fn a_stream_that_breaks_is_asked_for_again_later_and_later() {
    let mut state = stream();
    let mut waits = Vec::new();
    for _ in 0..30 {
        state.ended(StreamEndReason::Disconnected, NOW);
        let Want::Ask(at) = state.want() else {
            panic!("{:?}", state.want())
        };
        waits.push(at.saturating_sub(NOW.now));
    }
    assert!(waits.is_sorted());
    assert!(waits[0] <= Duration::from_millis(10));
    let longest = Duration::from_secs(10);
    assert!(waits[29] >= longest / 2 && waits[29] <= longest);
    assert_eq!(
        state.last_error(),
        Some(&ReplicaError::Ended(StreamEndReason::Disconnected))
    );
    // Something came: the next one is asked for soon.
    let mut state = reading_after(state);
    assert!(give(&mut state, memory(1, 2)).is_ok());
    assert!(give(&mut state, item(1)).is_ok());
    assert_eq!(state.last_error(), None);
    state.ended(StreamEndReason::StateChanged, NOW);
    let soon = NOW.now + Duration::from_millis(10);
    assert!(matches!(state.want(), Want::Ask(at) if at <= soon));
}

fn reading_after(mut state: PassiveState) -> PassiveState {
    drop(state.ask(whole(0)));
    assert!(matches!(
        state.answered(Ok(opened()), NOW),
        Answered::Adopt(_)
    ));
    state.adopted();
    state
}

#[test]
fn a_rollback_is_done_before_it_is_asked_again() {
    let mut state = stream();
    drop(state.ask(whole(80)));
    let back = |seqno| {
        Err(StreamRequestError::Rollback {
            seqno: Seqno(seqno),
        })
    };
    assert_eq!(state.answered(back(50), NOW), Answered::Noted);
    assert_eq!(state.want(), Want::Rollback(Seqno(50)));
    state.rolled_back(RollbackEnd::Complete(Seqno(50)), NOW);
    assert_eq!(state.want(), Want::Ask(Duration::ZERO));
    assert_eq!(state.rollbacks(), 1);
    // One that does not go back would be asked for for ever.
    drop(state.ask(whole(50)));
    assert_eq!(state.answered(back(50), NOW), Answered::Noted);
    assert!(matches!(state.want(), Want::Ask(at) if at > NOW.now));
    let (to, high) = (Seqno(50), Seqno(50));
    let fault = StreamFault::RollbackAhead { to, high };
    assert_eq!(state.last_error(), Some(&ReplicaError::Fault(fault)));
}

/// MB-50620: another branch is tried only where the newest has no item of its own.
#[test]
fn mb_50620_a_branch_without_items_costs_no_rollback_to_zero() {
    let zero = || Err(StreamRequestError::Rollback { seqno: Seqno(0) });
    let mut state = stream();
    let asked = state.ask(having(80, range(80, 80), &[(9, 80), (8, 80), (7, 0)]));
    assert_eq!(asked.vbucket_uuid, VbucketUuid(9));
    assert_eq!(state.answered(zero(), NOW), Answered::Noted);
    for uuid in [8, 7] {
        assert_eq!(state.want(), Want::Ask(Duration::ZERO));
        let asked = state.ask(having(80, range(80, 80), &[(9, 80), (8, 80), (7, 0)]));
        assert_eq!(asked.vbucket_uuid, VbucketUuid(uuid));
        assert_eq!(state.answered(zero(), NOW), Answered::Noted);
    }
    assert_eq!(state.want(), Want::Rollback(Seqno(0)));
    let mut state = stream();
    drop(state.ask(having(80, range(80, 80), &[(9, 60), (7, 0)])));
    assert_eq!(state.answered(zero(), NOW), Answered::Noted);
    assert_eq!(state.want(), Want::Rollback(Seqno(0)));
}

#[test]
fn what_can_never_help_ends_it() {
    let closed = StreamRequestError::Vbucket(OperationError::Closed);
    let vbucket = VbucketId::FIRST;
    let state = VbucketState::Active;
    let ends = [
        (ReplicaError::Refused(closed), ReplicaEnd::SourceClosed),
        (
            ReplicaError::Vbucket(OperationError::Closed),
            ReplicaEnd::TargetClosed,
        ),
        (
            ReplicaError::Vbucket(OperationError::NotMyVbucket { vbucket, state }),
            ReplicaEnd::NotReplica(state),
        ),
    ];
    for (why, end) in ends {
        let mut state = reading(whole(0));
        state.broke(why, NOW);
        assert_eq!(state.want(), Want::Nothing(end));
        state.stop(ReplicaEnd::Stopped);
        state.ended(StreamEndReason::Ok, NOW);
        assert_eq!(state.want(), Want::Nothing(end), "over is over");
    }
}

#[test]
fn a_failover_log_that_cannot_be_is_refused() {
    let mut state = stream();
    drop(state.ask(whole(0)));
    let empty = StreamOpened {
        failover_log: Vec::new(),
        ..opened()
    };
    assert_eq!(state.answered(Ok(empty), NOW), Answered::Noted);
    let bad = ReplicaError::Fault(StreamFault::BadFailoverLog);
    assert_eq!(state.last_error(), Some(&bad));
    assert!(matches!(state.want(), Want::Ask(_)));
}

#[test]
fn an_answer_nobody_waits_for_changes_nothing() {
    let mut state = reading(whole(0));
    let back = StreamRequestError::Rollback { seqno: Seqno(0) };
    assert_eq!(state.answered(Err(back), NOW), Answered::Noted);
    assert_eq!(state.want(), Want::Events);
}
