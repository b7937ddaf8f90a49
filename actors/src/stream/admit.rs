//! The checks of a request for a stream, in the order of the field: the first that fails is the one answer.
//!
//! Pure. Invariant: what is admitted starts inside the vbucket's history, and nothing was changed for what is not.

use std::collections::BTreeSet;
use std::sync::Arc;

use messages::OperationError;
use messages::stream::{StreamFilter, StreamFlags, StreamRequest, StreamRequestError};
use storage::{FailoverTable, ScopeId, Seqno, SnapshotRange, VbucketId, VbucketState, VbucketUuid};

use super::filter::{Filter, OpenCollection};
use super::rollback::{Purged, RollbackQuestion, rollback_to};
use crate::durability::NodeName;

/// Longest name of a consumer in bytes.
const CONSUMER_NAME_MAX: usize = 200;
/// Longest name of a node in bytes.
const NODE_NAME_MAX: usize = 200;

/// A vbucket as a request for a stream finds it, all of one moment.
#[derive(Clone, Debug)]
pub struct VbucketView {
    /// Which.
    pub vbucket: VbucketId,
    /// What it may do.
    pub state: VbucketState,
    /// Its newest item.
    pub high: Seqno,
    /// Its newest item on disk.
    pub persisted: Seqno,
    /// Highest tombstone purged.
    pub purge_seqno: Seqno,
    /// End of the snapshot its newest item belongs to.
    pub snapshot_end: Seqno,
    /// Whether it is in the middle of its own first snapshot.
    pub is_receiving_initial: bool,
    /// The branches of its history.
    pub failover_table: FailoverTable,
    /// The collections it has.
    pub collections: Vec<OpenCollection>,
    /// The scopes it has, also those without a collection.
    pub scopes: BTreeSet<ScopeId>,
    /// Whether every version is kept.
    pub keeps_history: bool,
}

/// A stream that may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The vbucket.
    pub vbucket: VbucketId,
    /// Whose stream.
    pub consumer: Arc<str>,
    /// Its number.
    pub stream_number: u16,
    /// Everything up to here the consumer has.
    pub start: Seqno,
    /// The stream ends with the snapshot that holds this.
    pub end: Seqno,
    /// The snapshot the start lies in.
    pub snapshot: SnapshotRange,
    /// What is streamed.
    pub filter: Filter,
    /// Nothing that is streamed lies at or below this, though the consumer has nothing.
    pub nothing_below: Seqno,
    /// Whether memory is never read.
    pub is_disk_only: bool,
    /// What a backfill looks at again. `None`: that tombstones are gone does not count.
    pub purged: Option<Purged>,
    /// The node that says what it holds of prepares, if the consumer is one.
    pub node: Option<NodeName>,
    /// The disk is read at least up to here, whatever lies in memory.
    pub disk_up_to: Option<Seqno>,
    /// Every version is told.
    pub has_history: bool,
}

/// Checks a request. `is_open`: whether there is such a stream that is not dead. What can be said of its words alone was
/// said by [`check_words`], before anybody looked for the vbucket.
pub fn admit(
    request: &StreamRequest,
    view: &VbucketView,
    is_open: bool,
) -> Result<Admitted, StreamRequestError> {
    let flags = request.flags;
    check_state(flags, view)?;
    let has_history = request.options.history;
    if has_history && !view.keeps_history {
        let vbucket = view.vbucket;
        return Err(StreamRequestError::NoHistory { vbucket });
    }
    let (mut start, mut snapshot) = (request.start, request.snapshot);
    let mut vbucket_uuid = request.vbucket_uuid;
    if flags.has(StreamFlags::FROM_LATEST) {
        (start, snapshot) = (
            view.high,
            SnapshotRange {
                start: view.high,
                end: view.high,
            },
        );
        if vbucket_uuid == VbucketUuid(0) {
            let newest = view.failover_table.entries().first();
            vbucket_uuid = newest.map_or(vbucket_uuid, |entry| entry.uuid);
        }
    }
    if start > request.end {
        let end = request.end;
        return Err(StreamRequestError::StartAboveEnd { start, end });
    }
    if start < snapshot.start || start > snapshot.end {
        return Err(StreamRequestError::OutsideSnapshot { start, snapshot });
    }
    let sync = request.options.sync_replication.as_ref();
    let filter =
        Filter::of(&request.filter, &view.collections, &view.scopes)?.synchronous(sync.is_some());
    if is_open {
        return Err(StreamRequestError::StreamExists {
            consumer: Arc::clone(&request.consumer),
            stream_number: request.stream_number,
        });
    }
    let wanted = filter.among(&view.collections);
    let collections_high = wanted
        .as_ref()
        .and_then(|wanted| wanted.iter().map(|one| one.high).max());
    let purged = Purged {
        here: view.purge_seqno,
        at_consumer: request.options.purge_seqno,
        collections_high,
    };
    let ignores = flags.has(StreamFlags::IGNORE_PURGED_TOMBSTONES);
    let question = RollbackQuestion {
        start,
        snapshot,
        vbucket_uuid,
        is_strict: flags.has(StreamFlags::STRICT_VB_UUID),
        failover_table: &view.failover_table,
        high: view.high,
        purged: if ignores { Purged::default() } else { purged },
    };
    if let Some(seqno) = rollback_to(&question) {
        return Err(StreamRequestError::Rollback { seqno });
    }
    let end = end_of(request, view, collections_high, start)?;
    if start == snapshot.start && snapshot.end > view.high {
        // It has nothing of that snapshot, so it need not come.
        snapshot.end = snapshot.start;
    }
    if view.is_receiving_initial {
        return Err(StreamRequestError::ReceivingInitialSnapshot);
    }
    let is_in_disk = sync.is_some_and(|one| one.is_in_disk_snapshot) && start < snapshot.end;
    let lowest = wanted.and_then(|wanted| wanted.iter().map(|one| one.start).min());
    let has_nothing = start == Seqno::ZERO;
    let before = |first: Seqno| Seqno(first.0.saturating_sub(1));
    Ok(Admitted {
        vbucket: view.vbucket,
        consumer: Arc::clone(&request.consumer),
        stream_number: request.stream_number,
        start,
        end,
        snapshot,
        filter,
        nothing_below: lowest.filter(|_| has_nothing).map_or(start, before),
        is_disk_only: flags.has(StreamFlags::DISK_ONLY),
        purged: (!ignores).then_some(purged),
        node: sync.map(|one| NodeName::new(&one.node)),
        disk_up_to: is_in_disk.then_some(snapshot.end),
        has_history,
    })
}

/// What is wrong with a request whatever it is asked of.
pub fn check_words(request: &StreamRequest) -> Result<(), StreamRequestError> {
    let unknown = request.flags.0 & !StreamFlags::KNOWN.0;
    if unknown != 0 {
        return Err(StreamRequestError::UnknownFlags { unknown });
    }
    let length = request.consumer.len();
    if length == 0 || length > CONSUMER_NAME_MAX {
        return Err(StreamRequestError::ConsumerName { length });
    }
    if let Some(sync) = &request.options.sync_replication {
        let length = sync.node.len();
        if length == 0 || length > NODE_NAME_MAX {
            return Err(StreamRequestError::NodeName { length });
        }
        let is_whole = request.filter == StreamFilter::All;
        if !is_whole || request.flags.has(StreamFlags::FROM_LATEST) {
            return Err(StreamRequestError::PartialReplica);
        }
    }
    let is_of_scope = matches!(request.filter, StreamFilter::Scope(_));
    let is_of_replica = request.options.sync_replication.is_some();
    if request.options.history && (is_of_scope || is_of_replica) {
        return Err(StreamRequestError::HistoryOfScope);
    }
    Ok(())
}

fn check_state(flags: StreamFlags, view: &VbucketView) -> Result<(), StreamRequestError> {
    let serves = match view.state {
        VbucketState::Active => true,
        VbucketState::Replica => !flags.has(StreamFlags::ACTIVE_VB_ONLY),
        VbucketState::Pending | VbucketState::Dead => false,
    };
    if serves {
        return Ok(());
    }
    let (vbucket, state) = (view.vbucket, view.state);
    Err(OperationError::NotMyVbucket { vbucket, state }.into())
}

fn end_of(
    request: &StreamRequest,
    view: &VbucketView,
    collections_high: Option<Seqno>,
    start: Seqno,
) -> Result<Seqno, StreamRequestError> {
    let mut end = request.end;
    if request.flags.has(StreamFlags::TO_LATEST) {
        end = collections_high.unwrap_or(view.high);
    }
    if request.flags.has(StreamFlags::DISK_ONLY) {
        end = view.persisted.min(end);
    }
    if start > view.high {
        let high = view.high;
        return Err(StreamRequestError::StartAboveHigh { start, high });
    }
    let is_shortened = end != request.end;
    if start > end && !is_shortened {
        return Err(StreamRequestError::StartAboveEnd { start, end });
    }
    // A replica is sent on to the end of what its own source announced.
    if view.state == VbucketState::Replica && view.snapshot_end > end && !is_shortened {
        end = view.snapshot_end;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use messages::stream::{StreamOptions, SyncReplication};
    use storage::CollectionId;

    use super::*;

    const UUID: VbucketUuid = VbucketUuid(7);

    fn view() -> VbucketView {
        VbucketView {
            vbucket: VbucketId::FIRST,
            state: VbucketState::Active,
            high: Seqno(100),
            persisted: Seqno(80),
            purge_seqno: Seqno(30),
            snapshot_end: Seqno(100),
            is_receiving_initial: false,
            failover_table: FailoverTable::new(UUID),
            collections: vec![
                OpenCollection {
                    id: CollectionId::DEFAULT,
                    scope: ScopeId::DEFAULT,
                    start: Seqno::ZERO,
                    high: Seqno(100),
                },
                OpenCollection {
                    id: CollectionId(8),
                    scope: ScopeId(9),
                    start: Seqno(20),
                    high: Seqno(60),
                },
            ],
            scopes: [ScopeId::DEFAULT, ScopeId(9), ScopeId(10)].into(),
            keeps_history: false,
        }
    }

    fn request() -> StreamRequest {
        StreamRequest::new(VbucketId::FIRST, "test")
    }

    fn from(start: u64) -> StreamRequest {
        StreamRequest {
            start: Seqno(start),
            snapshot: SnapshotRange {
                start: Seqno(start),
                end: Seqno(start),
            },
            vbucket_uuid: UUID,
            ..request()
        }
    }

    fn refused(request: &StreamRequest, view: &VbucketView) -> StreamRequestError {
        admit(request, view, false).expect_err("a refusal")
    }

    #[test]
    fn the_first_check_that_fails_answers() {
        // Each row is wrong in everything that is checked after it, too.
        let mut bad = StreamRequest {
            flags: StreamFlags(0x8000).with(StreamFlags::ACTIVE_VB_ONLY),
            consumer: "".into(),
            start: Seqno(500),
            end: Seqno(400),
            snapshot: SnapshotRange {
                start: Seqno(501),
                end: Seqno(502),
            },
            filter: StreamFilter::Collections(vec![CollectionId(77)]),
            ..request()
        };
        let mut vbucket = VbucketView {
            state: VbucketState::Replica,
            is_receiving_initial: true,
            ..view()
        };
        let is_open = true;
        let mut answers = Vec::new();
        let mut ask = |bad: &StreamRequest, vbucket: &VbucketView| {
            let answer = check_words(bad).and_then(|()| admit(bad, vbucket, is_open));
            answers.push(answer.expect_err("a refusal"));
        };
        ask(&bad, &vbucket);
        bad.flags = StreamFlags::ACTIVE_VB_ONLY;
        ask(&bad, &vbucket);
        bad.consumer = "test".into();
        ask(&bad, &vbucket);
        vbucket.state = VbucketState::Active;
        ask(&bad, &vbucket);
        bad.end = Seqno::MAX;
        ask(&bad, &vbucket);
        bad.snapshot.start = Seqno(499);
        ask(&bad, &vbucket);
        bad.filter = StreamFilter::All;
        ask(&bad, &vbucket);
        assert!(matches!(
            answers[0],
            StreamRequestError::UnknownFlags { unknown: 0x8000 }
        ));
        assert!(matches!(
            answers[1],
            StreamRequestError::ConsumerName { length: 0 }
        ));
        assert!(matches!(answers[2], StreamRequestError::Vbucket(_)));
        assert!(matches!(
            answers[3],
            StreamRequestError::StartAboveEnd { .. }
        ));
        assert!(matches!(
            answers[4],
            StreamRequestError::OutsideSnapshot { .. }
        ));
        assert!(matches!(
            answers[5],
            StreamRequestError::UnknownCollection(_)
        ));
        assert!(matches!(
            answers[6],
            StreamRequestError::StreamExists { .. }
        ));
        // Not open, but of an unknown branch; then of a known one, above its end.
        let unknown = refused(&bad, &vbucket);
        assert_eq!(unknown, StreamRequestError::Rollback { seqno: Seqno::ZERO });
        bad.vbucket_uuid = UUID;
        let above = refused(&bad, &vbucket);
        assert_eq!(above, StreamRequestError::Rollback { seqno: Seqno(100) });
        let receiving = refused(&from(50), &vbucket);
        assert_eq!(receiving, StreamRequestError::ReceivingInitialSnapshot);
    }

    #[test]
    fn states_that_do_not_serve_refuse() {
        for state in [VbucketState::Pending, VbucketState::Dead] {
            let answer = refused(&request(), &VbucketView { state, ..view() });
            assert!(
                matches!(answer, StreamRequestError::Vbucket(_)),
                "{answer:?}"
            );
        }
        let replica = VbucketView {
            state: VbucketState::Replica,
            snapshot_end: Seqno(120),
            ..view()
        };
        assert!(admit(&request(), &replica, false).is_ok());
        let ends = StreamRequest {
            end: Seqno(110),
            ..request()
        };
        let admitted = admit(&ends, &replica, false).expect("a stream");
        assert_eq!(admitted.end, Seqno(120));
    }

    #[test]
    fn flags_move_start_and_end() {
        let with = |flags| StreamRequest { flags, ..request() };
        let admitted = |request: &StreamRequest| admit(request, &view(), false).expect("a stream");
        let latest = admitted(&with(StreamFlags::FROM_LATEST));
        assert_eq!((latest.start, latest.end), (Seqno(100), Seqno::MAX));
        let until = admitted(&with(StreamFlags::TO_LATEST));
        assert_eq!((until.start, until.end), (Seqno::ZERO, Seqno(100)));
        let disk = admitted(&with(StreamFlags::DISK_ONLY));
        assert_eq!((disk.end, disk.is_disk_only), (Seqno(80), true));
        // Of one collection: up to its own newest item (MB-53448), from where it began.
        let filtered = StreamRequest {
            filter: StreamFilter::Collections(vec![CollectionId(8)]),
            ..with(StreamFlags::TO_LATEST)
        };
        let filtered = admitted(&filtered);
        assert_eq!(
            (filtered.end, filtered.nothing_below),
            (Seqno(60), Seqno(19))
        );
        // Behind all of it there is nothing to send, which is no mistake.
        let behind = StreamRequest {
            flags: StreamFlags::TO_LATEST,
            filter: StreamFilter::Collections(vec![CollectionId(8)]),
            ..from(90)
        };
        assert_eq!(admitted(&behind).end, Seqno(60));
    }

    #[test]
    fn a_scope_is_streamed_from_where_its_first_collection_began() {
        let of = |scope| StreamRequest {
            filter: StreamFilter::Scope(ScopeId(scope)),
            ..request()
        };
        let admitted = |scope| admit(&of(scope), &view(), false).expect("a stream");
        assert_eq!(admitted(9).nothing_below, Seqno(19));
        // One without collections may get some.
        assert_eq!(admitted(10).nothing_below, Seqno::ZERO);
        let unknown = refused(&of(11), &view());
        assert_eq!(unknown, StreamRequestError::UnknownScope(ScopeId(11)));
    }

    #[test]
    fn purged_tombstones_may_be_ignored() {
        let old = from(20);
        assert_eq!(
            refused(&old, &view()),
            StreamRequestError::Rollback { seqno: Seqno::ZERO }
        );
        let ignoring = StreamRequest {
            flags: StreamFlags::IGNORE_PURGED_TOMBSTONES,
            ..old
        };
        let admitted = admit(&ignoring, &view(), false).expect("a stream");
        assert_eq!(admitted.purged, None);
    }

    #[test]
    fn a_snapshot_the_consumer_has_nothing_of_is_forgotten() {
        let mut ahead = from(100);
        ahead.snapshot.end = Seqno(130);
        let admitted = admit(&ahead, &view(), false).expect("a stream");
        assert_eq!(admitted.snapshot.end, Seqno(100));
    }

    #[test]
    fn who_stands_in_a_snapshot_from_disk_goes_on_from_disk() {
        let ask = |start, is_in_disk_snapshot| {
            let mut request = from(start);
            request.snapshot.end = Seqno(70);
            request.options.sync_replication = Some(SyncReplication {
                node: "b".into(),
                is_in_disk_snapshot,
            });
            admit(&request, &view(), false).expect("a stream")
        };
        assert_eq!(ask(50, true).disk_up_to, Some(Seqno(70)));
        assert_eq!(ask(50, false).disk_up_to, None);
        // At its end it lacks nothing.
        assert_eq!(ask(70, true).disk_up_to, None);
        assert_eq!(ask(50, true).node, Some(NodeName::new("b")));
        let nameless = StreamRequest {
            options: StreamOptions {
                sync_replication: Some(SyncReplication {
                    node: "".into(),
                    is_in_disk_snapshot: false,
                }),
                ..StreamOptions::default()
            },
            ..request()
        };
        let refused = check_words(&nameless);
        assert_eq!(refused, Err(StreamRequestError::NodeName { length: 0 }));
    }

    #[test]
    fn a_replica_is_sent_everything() {
        let asking = |flags, filter| StreamRequest {
            flags,
            filter,
            options: StreamOptions {
                sync_replication: Some(SyncReplication {
                    node: "b".into(),
                    is_in_disk_snapshot: false,
                }),
                ..StreamOptions::default()
            },
            ..request()
        };
        let usual = StreamFlags::ACTIVE_VB_ONLY;
        assert_eq!(check_words(&asking(usual, StreamFilter::All)), Ok(()));
        // What these leave out would count as held with what comes behind it.
        let in_part = [
            asking(usual, StreamFilter::Collections(vec![CollectionId(8)])),
            asking(usual, StreamFilter::Scope(ScopeId::DEFAULT)),
            asking(usual.with(StreamFlags::FROM_LATEST), StreamFilter::All),
        ];
        for request in in_part {
            let refused = check_words(&request);
            assert_eq!(refused, Err(StreamRequestError::PartialReplica));
        }
    }
}
