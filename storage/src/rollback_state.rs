//! What a vbucket's state record says after a rollback: one rule for every store.
//!
//! Invariant: every watermark afterwards is what it was when `to` was the high seqno (MB-41985), as far as the last
//! batch boundary at or below `to` and the items above it tell; only the purge seqno stays, because what was purged
//! does not come back. No snapshot is said to be whole that was not stored as whole. Pure functions, called by every `rollback`.

use std::sync::Arc;

use crate::document::Operation;
use crate::seqno::{Seqno, SnapshotRange};
use crate::vbucket::{VbucketIdentity, VbucketStateRecord, Watermarks};

/// The state record after an exact rollback to `to`, at or below the high seqno of `current`. `boundary` is what
/// the last batch that ended at or below `to` stored, `above` the items held beyond that batch's end up to `to`; they were
/// committed at `since_ms`, with the batch that ended next.
pub(crate) fn state_at(
    current: &VbucketStateRecord,
    boundary: &Watermarks,
    since_ms: Option<u64>,
    above: impl IntoIterator<Item = (Seqno, Operation)>,
    to: Seqno,
) -> VbucketStateRecord {
    if to == current.watermarks.high_seqno {
        return current.clone();
    }
    let mut watermarks = *boundary;
    for (seqno, operation) in above {
        advance(&mut watermarks, seqno, operation);
    }
    watermarks.high_seqno = to;
    watermarks.purge_seqno = boundary.purge_seqno.max(current.watermarks.purge_seqno);
    if to > boundary.high_seqno {
        watermarks.snapshot = snapshot_within(&current.watermarks, boundary);
        watermarks.snapshot_kind = current.watermarks.snapshot_kind;
        watermarks.commit_time_ms = since_ms.unwrap_or(current.watermarks.commit_time_ms);
    }
    VbucketStateRecord {
        identity: pruned(&current.identity, to),
        watermarks,
    }
}

/// The snapshot of a moment between two batches. What a newer version took the place of before it was stored is missing
/// here, and the newer version was taken back: all there is is whole no further than the batch before, and would be again
/// where everything there was is.
fn snapshot_within(current: &Watermarks, boundary: &Watermarks) -> SnapshotRange {
    let SnapshotRange { start, end } = boundary.snapshot;
    let is_whole = end <= boundary.high_seqno;
    SnapshotRange {
        start: if is_whole { boundary.high_seqno } else { start },
        end: current.snapshot.end.max(current.high_seqno),
    }
}

/// The state record after a reset to nothing: the vbucket keeps what it is, but has come nowhere. It knows nothing of the
/// time before.
pub(crate) fn state_at_zero(current: &VbucketStateRecord) -> VbucketStateRecord {
    VbucketStateRecord {
        identity: pruned(&current.identity, Seqno::ZERO),
        watermarks: Watermarks {
            commit_time_ms: current.watermarks.commit_time_ms,
            ..Watermarks::default()
        },
    }
}

/// What the vbucket was after an item, as far as items tell.
pub(crate) fn advance(watermarks: &mut Watermarks, seqno: Seqno, operation: Operation) {
    match operation {
        Operation::Mutation
        | Operation::Deletion { .. }
        | Operation::SystemEventBegin
        | Operation::SystemEventEnd => raise(&mut watermarks.max_visible_seqno, seqno),
        Operation::Prepare { .. } => raise(&mut watermarks.prepared_seqno, seqno),
        Operation::Abort { prepare_seqno, .. } => complete(watermarks, prepare_seqno),
        Operation::CommitMutation { prepare_seqno }
        | Operation::CommitDeletion { prepare_seqno, .. } => {
            raise(&mut watermarks.max_visible_seqno, seqno);
            complete(watermarks, prepare_seqno);
        }
    }
}

fn complete(watermarks: &mut Watermarks, prepare_seqno: Seqno) {
    // A completed prepare was persisted before, though it may be superseded and no longer held.
    raise(&mut watermarks.prepared_seqno, prepare_seqno);
    raise(&mut watermarks.completed_seqno, prepare_seqno);
}

fn raise(watermark: &mut Seqno, to: Seqno) {
    *watermark = to.max(*watermark);
}

fn pruned(identity: &Arc<VbucketIdentity>, to: Seqno) -> Arc<VbucketIdentity> {
    let mut failover_table = identity.failover_table.clone();
    failover_table.prune(to);
    Arc::new(VbucketIdentity {
        failover_table,
        ..VbucketIdentity::clone(identity)
    })
}
