//! From a moment to a past: what was committed by then is on disk first, then each vbucket is found as it was.
//!
//! Invariant: only a moment that has passed is answered, and behind a flush, so that the same question has the same answer
//! for as long as it has one. A token is taken only by the history it names.

use std::sync::Arc;

use messages::OperationError;
use storage::{
    KvStore, LogStore, Retention, Seqno, Snapshot, SnapshotKind, StorageError, VbucketId,
    VbucketUuid,
};

use super::{Moment, Past, PastError, PastVbucket};
use crate::bucket::Bucket;
use crate::changes::{ChangesToken, Position};

impl Bucket {
    /// What the bucket was at an earlier time or token: of each vbucket what its last commit at or before that moment
    /// left. Only of a bucket that keeps a history ([`BucketConfig::history`](crate::BucketConfig::history)), and as far
    /// as that goes. Reads the disk on the caller's thread.
    pub async fn as_of(&self, moment: impl Into<Moment>) -> Result<Past, PastError> {
        let moment = moment.into();
        let retention = self.history_kept()?;
        let now_ms = self.running().table.now_ms();
        match &moment {
            Moment::TimeMs(time_ms) => check_time(*time_ms, now_ms, retention)?,
            Moment::Token(token) => token.check(self.vbucket_count(), &<_>::default())?,
        }
        // What was committed by now is all of it there, and later commits are of a later time.
        self.flush().await?;
        let lease = self.running().store.lease()?;
        let store = lease.store();
        let mut vbuckets = Vec::new();
        for vbucket in self.vbuckets() {
            self.serves(vbucket)?;
            vbuckets.push(found(store, vbucket, &moment)?);
        }
        Ok(Past {
            held: Arc::clone(self.held()),
            generation: lease.generation(),
            shape: store.shape(),
            retention,
            vbuckets,
        })
    }

    /// How far the bucket is, as a token: what was written so far is on disk, and can be read as of it for as long as the
    /// history goes.
    pub async fn token(&self) -> Result<ChangesToken, OperationError> {
        let mut token = ChangesToken::new(self.vbucket_count(), &<_>::default());
        for vbucket in self.vbuckets() {
            let core = self.running().table.core(vbucket)?;
            let (newest, seqno) = (core.identity(), core.high_seqno());
            let uuid = newest.failover_table.entries().first();
            let uuid = uuid.map_or(0, |branch| branch.uuid.0);
            token.set(vbucket, Position::at(uuid, seqno));
        }
        self.flush().await?;
        Ok(token)
    }

    pub(super) fn history_kept(&self) -> Result<Retention, PastError> {
        let lease = self.running().store.lease()?;
        lease.store().retention().ok_or(PastError::NoHistory)
    }

    /// A vbucket that is out of service never looks empty.
    fn serves(&self, vbucket: VbucketId) -> Result<(), OperationError> {
        let core = self.running().table.core(vbucket)?;
        match core.down() {
            Some(cause) => Err(OperationError::VbucketDown { vbucket, cause }),
            None => Ok(()),
        }
    }
}

fn check_time(time_ms: u64, now_ms: u64, retention: Retention) -> Result<(), PastError> {
    if time_ms >= now_ms {
        return Err(PastError::NotYet { time_ms, now_ms });
    }
    let window_ms = u64::from(retention.window_s).saturating_mul(1000);
    let from_ms = now_ms.saturating_sub(window_ms);
    if time_ms < from_ms {
        return Err(PastError::BeforeWindow { time_ms, from_ms });
    }
    Ok(())
}

fn found(store: &LogStore, vbucket: VbucketId, moment: &Moment) -> Result<PastVbucket, PastError> {
    let now = store.snapshot(vbucket)?;
    let seqno = match moment {
        Moment::TimeMs(time_ms) => now.seqno_at(*time_ms).map_err(before_window)?,
        Moment::Token(token) => {
            let position = token.position(vbucket);
            check_position(&*now, vbucket, &position)?;
            position.seqno
        }
    };
    check_whole(&*now, vbucket, seqno)?;
    let snapshot = now.as_of(seqno)?;
    let time_ms = match moment {
        Moment::TimeMs(time_ms) => *time_ms,
        Moment::Token(_) => snapshot.state().watermarks.commit_time_ms,
    };
    Ok(PastVbucket {
        dropped: snapshot.dropped_collections(),
        time_s: u32::try_from(time_ms / 1000).unwrap_or(u32::MAX),
        snapshot,
    })
}

/// A snapshot of a source holds what is newest at its end, so nothing is known of the moments within; nor is a vbucket
/// whole while one comes.
fn check_whole(now: &dyn Snapshot, vbucket: VbucketId, seqno: Seqno) -> Result<(), PastError> {
    let ends = now.batch_ends(&[seqno])?;
    let Some(end) = ends.first().filter(|_| seqno > Seqno::ZERO) else {
        return Ok(());
    };
    // Of one that is under way its beginning is known, and what lies there is whole.
    let is_under_way = end.snapshot.end > end.high_seqno;
    let is_received = is_under_way || end.snapshot_kind == SnapshotKind::Disk;
    let from = end.snapshot.end.max(end.high_seqno);
    let is_before = is_under_way && seqno <= end.snapshot.start;
    if is_received && seqno < from && !is_before {
        return Err(PastError::NotWhole {
            vbucket,
            seqno,
            from,
        });
    }
    Ok(())
}

fn before_window(error: StorageError) -> PastError {
    if let StorageError::ForgottenTime {
        time_ms, from_ms, ..
    } = error
    {
        return PastError::BeforeWindow { time_ms, from_ms };
    }
    error.into()
}

/// A seqno alone says nothing: it must be of a branch that this vbucket's history has, at or below its end.
fn check_position(
    now: &dyn Snapshot,
    vbucket: VbucketId,
    position: &Position,
) -> Result<(), PastError> {
    if position.seqno == Seqno::ZERO {
        return Ok(());
    }
    let state = now.state();
    let branches = state.identity.failover_table.entries();
    let mut end = state.watermarks.high_seqno;
    for branch in branches {
        if branch.uuid == VbucketUuid(position.vbucket_uuid) {
            break;
        }
        end = branch.seqno;
    }
    let is_known = branches
        .iter()
        .any(|branch| branch.uuid == VbucketUuid(position.vbucket_uuid));
    if is_known && position.seqno <= end {
        Ok(())
    } else {
        Err(PastError::OtherHistory { vbucket })
    }
}
