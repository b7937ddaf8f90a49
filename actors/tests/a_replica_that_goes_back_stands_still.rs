//! From the moment a replica is to go back until its memory followed its store, nothing gets from one to the other, nobody
//! reads it as a source, and its state stays; what came whole without an item at its end counts as whole.
#![cfg(test)]

mod support;

use std::sync::Arc;

use messages::vbucket::SetVbucketState;
use messages::{Busy, OperationError};
use piggin_actors::vbucket::checkpoint::ReplicaSnapshot;
use piggin_actors::vbucket::{StreamEpoch, VbucketCore};
use storage::{
    Cas, Document, FailoverTable, Incarnation, Item, RollbackEpoch, Seqno, SnapshotKind,
    SnapshotRange, VbucketPosition, VbucketState, VbucketUuid,
};
use support::{Bench, Setup, become_state, in_state, key};

const BUSY: OperationError = OperationError::TemporaryFailure(Busy::RollingBack);

fn item(seqno: u64) -> Arc<Item> {
    let document = Document::new(key(&format!("key {seqno}")), "replicated", Cas(seqno));
    Arc::new(Item::mutation(Seqno(seqno), document))
}

/// A replica with these items of a snapshot that goes on to `end`.
fn replica(items: u64, end: u64) -> (Bench, StreamEpoch) {
    let bench = in_state(VbucketState::Replica);
    let epoch = bench.core.begin_stream().unwrap();
    let snapshot = ReplicaSnapshot::memory(Seqno(0), Seqno(end));
    bench.core.apply_marker(epoch, &snapshot, true).unwrap();
    for seqno in 1..=items {
        bench.core.apply_item(epoch, item(seqno)).unwrap();
    }
    (bench, epoch)
}

fn range(start: u64, end: u64) -> SnapshotRange {
    SnapshotRange {
        start: Seqno(start),
        end: Seqno(end),
    }
}

fn taken(core: &VbucketCore) -> Option<Seqno> {
    let take = core.take_for_flush(3, usize::MAX)?;
    Some(take.watermarks.high_seqno)
}

#[test]
fn nothing_gets_to_the_disk_and_nothing_is_said_of_it() {
    let (Bench { core, .. }, epoch) = replica(9, 9);
    assert_eq!(taken(&core), Some(Seqno(3)));
    core.begin_rollback().unwrap();
    assert_eq!(core.begin_rollback(), Err(BUSY));
    assert_eq!((taken(&core), core.has_unflushed()), (None, false));
    assert_eq!(
        core.apply_item(epoch, item(10)),
        Err(OperationError::StaleStream)
    );
    assert_eq!(core.begin_stream(), Err(BUSY));
    assert_eq!(core.stream_view().err(), Some(BUSY));
    // What is on its way gets there first.
    assert!(!core.withdraw());
    core.note_persisted(Seqno(3));
    assert_eq!(core.persisted_seqno(), Seqno(3));
    assert!(core.withdraw());
    // The store may hold less than it had said.
    assert_eq!(core.persisted_seqno(), Seqno::ZERO);
    core.note_persisted(Seqno(3));
    core.resync(Seqno(1));
    assert_eq!((core.persisted_seqno(), core.down()), (Seqno::ZERO, None));
    assert_eq!(taken(&core), None);
    let mut record = core.state_record();
    record.watermarks.high_seqno = Seqno(2);
    record.watermarks.snapshot = range(0, 9);
    core.reset(&record);
    assert!(!core.is_rolling_back());
    assert_eq!(core.persisted_seqno(), Seqno(2));
    // It comes back as one that has a part of a snapshot.
    core.warm_done();
    let resume = core.resume_stream().unwrap();
    assert_eq!((resume.high, resume.snapshot), (Seqno(2), range(0, 9)));
}

/// Rule R2: what the store said before it went back is of another past.
#[test]
fn a_word_of_the_store_from_before_the_rollback_counts_no_more() {
    let (Bench { core, .. }, _) = replica(9, 9);
    let before = |epoch| VbucketPosition {
        incarnation: Incarnation(1),
        epoch: RollbackEpoch(epoch),
        high_seqno: Seqno(9),
    };
    assert_eq!(taken(&core), Some(Seqno(3)));
    core.note_persisted(Seqno(3));
    core.begin_rollback().unwrap();
    assert!(core.withdraw());
    let mut record = core.state_record();
    record.watermarks.high_seqno = Seqno(2);
    core.note_epoch(RollbackEpoch(1));
    core.reset(&record);
    assert!(core.is_of_past(RollbackEpoch(0)));
    assert!(!core.resync_at(&before(0)));
    assert_eq!((core.persisted_seqno(), core.down()), (Seqno(2), None));
    let now = VbucketPosition {
        high_seqno: Seqno(2),
        ..before(1)
    };
    assert!(core.resync_at(&now));
    assert_eq!((core.persisted_seqno(), core.down()), (Seqno(2), None));
}

#[test]
fn its_state_stays_and_only_a_replica_goes_back() {
    let (Bench { core, .. }, _) = replica(4, 9);
    core.begin_rollback().unwrap();
    let state = |state| SetVbucketState {
        state,
        topology: None,
        is_takeover: false,
    };
    assert_eq!(
        core.set_state(state(VbucketState::Active)).err(),
        Some(BUSY)
    );
    assert!(core.set_state(state(VbucketState::Replica)).is_ok());
    let Bench { core, .. } = in_state(VbucketState::Active);
    assert!(matches!(
        core.begin_rollback(),
        Err(OperationError::NotMyVbucket { .. })
    ));
    // What is being loaded is of the past that would be given up.
    let Bench { core, .. } = Setup::default().warming();
    become_state(&core, VbucketState::Replica);
    let warming = OperationError::TemporaryFailure(Busy::WarmingUp);
    assert_eq!(core.begin_rollback(), Err(warming));
}

#[test]
fn a_snapshot_may_come_whole_without_an_item_at_its_end() {
    let (Bench { core, .. }, epoch) = replica(4, 9);
    let resume = |core: &VbucketCore| core.resume_stream().unwrap().snapshot;
    core.apply_snapshot_end(epoch).unwrap();
    assert!(
        core.apply_item(epoch, item(5)).is_err(),
        "the next snapshot is not announced"
    );
    let next = ReplicaSnapshot::memory(Seqno(10), Seqno(12));
    core.apply_marker(epoch, &next, false).unwrap();
    core.apply_item(epoch, item(11)).unwrap();
    let take = core.take_for_flush(9, usize::MAX).unwrap();
    assert_eq!(take.watermarks.snapshot, range(4, 12));
    assert_eq!(resume(&core), range(4, 12));
    become_state(&core, VbucketState::Active);
    let identity = core.identity();
    assert_eq!(identity.failover_table.entries()[0].seqno, Seqno(4));
}

/// It is no vbucket any more that is in the middle of its first snapshot: others may follow it.
#[test]
fn a_first_snapshot_ends_without_an_item_there_too() {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    let epoch = core.begin_stream().unwrap();
    let disk = ReplicaSnapshot::disk(Seqno(0), Seqno(9), Seqno(0));
    core.apply_marker(epoch, &disk, true).unwrap();
    core.apply_item(epoch, item(4)).unwrap();
    assert!(core.stream_view().unwrap().0.is_receiving_initial);
    core.apply_snapshot_end(epoch).unwrap();
    assert!(!core.stream_view().unwrap().0.is_receiving_initial);
}

#[test]
fn a_replica_lacks_the_tombstones_its_source_had_purged() {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    let epoch = core.begin_stream().unwrap();
    core.apply_failover_table(epoch, FailoverTable::new(VbucketUuid(7)))
        .unwrap();
    let disk = ReplicaSnapshot {
        purge_seqno: Some(Seqno(6)),
        ..ReplicaSnapshot::disk(Seqno(0), Seqno(9), Seqno(0))
    };
    assert_eq!(disk.kind, SnapshotKind::Disk);
    core.apply_marker(epoch, &disk, true).unwrap();
    core.apply_item(epoch, item(4)).unwrap();
    assert_eq!(
        core.describe().purge_seqno,
        Seqno(4),
        "as far as it has come"
    );
    // In its middle the source is told what all of it lacks, so that it need not begin anew.
    assert_eq!(core.resume_stream().unwrap().purge_seqno, Seqno(6));
    let epoch = core.begin_stream().unwrap();
    core.apply_marker(epoch, &disk, true).unwrap();
    core.apply_item(epoch, item(9)).unwrap();
    assert_eq!(core.describe().purge_seqno, Seqno(6));
    // A batch ends where a checkpoint from disk does, and says no more than it holds.
    for purged in [Seqno(4), Seqno(6)] {
        let take = core.take_for_flush(9, usize::MAX).unwrap();
        assert_eq!(take.watermarks.purge_seqno, purged);
    }
}

#[test]
fn the_right_to_write_ends_with_its_stream() {
    let (Bench { core, .. }, first) = replica(4, 9);
    let second = core.begin_stream().unwrap();
    core.end_stream(first);
    let snapshot = ReplicaSnapshot::memory(Seqno(5), Seqno(9));
    core.apply_marker(second, &snapshot, true).unwrap();
    core.end_stream(second);
    assert_eq!(
        core.apply_item(second, item(5)),
        Err(OperationError::StaleStream)
    );
}
