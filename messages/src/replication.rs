//! Replication: how the stream stands that feeds a replica vbucket, and what ended or broke it. Said by the consumers of
//! the bucket that has the replica, read through `Replication`.
//!
//! Invariant: a stream that broke says why until the next one gives something; one that is over never goes on.

use storage::{Seqno, SnapshotRange, StorageError, VbucketId, VbucketState};

use crate::failure::FailureCause;
use crate::status::OperationError;
use crate::stream::{StreamEndReason, StreamRequestError};

/// How a replica vbucket stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Which.
    pub vbucket: VbucketId,
    /// What its stream does.
    pub state: ReplicaState,
    /// Everything of its source up to here is in its memory.
    pub received: Seqno,
    /// End of the last snapshot that came whole: what a promotion would keep.
    pub received_whole: Seqno,
    /// Bytes its source sent, for which it got no room back yet.
    pub unacknowledged_bytes: u64,
    /// How often a stream was opened.
    pub streams: u64,
    /// How often it was rolled back.
    pub rollbacks: u64,
    /// What broke last; forgotten when a stream gave something since.
    pub last_error: Option<ReplicaError>,
}

impl ReplicaStatus {
    /// Of a stream that has yet to begin.
    #[must_use]
    pub fn new(vbucket: VbucketId) -> ReplicaStatus {
        ReplicaStatus {
            vbucket,
            state: ReplicaState::Waiting,
            received: Seqno::ZERO,
            received_whole: Seqno::ZERO,
            unacknowledged_bytes: 0,
            streams: 0,
            rollbacks: 0,
            last_error: None,
        }
    }
}

/// What the stream of a replica vbucket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It asks again in a while.
    Waiting,
    /// It has asked its source.
    Asking,
    /// It applies what comes.
    Following,
    /// The bucket's memory is used up: it gives its source no room until there is some again.
    Held,
    /// The vbucket is being taken back to where its history parts from its source's.
    RollingBack,
    /// It does nothing any more.
    Over(ReplicaEnd),
}

/// Why the stream of a replica vbucket is over for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaEnd {
    /// Whoever began it stopped it.
    #[error("it was stopped")]
    Stopped,
    /// Another replication feeds the vbucket.
    #[error("another replication feeds the vbucket")]
    Superseded,
    /// The vbucket is no replica any more.
    #[error("the vbucket is {0:?} now, which no stream may write to")]
    NotReplica(VbucketState),
    /// The consumer that fed it was taken out of service: it panicked again and again.
    #[error("its consumer is out of service; restart that, then replicate anew")]
    OutOfService,
    /// The bucket it came from is closed.
    #[error("the source is closed; open it again and replicate from it anew")]
    SourceClosed,
    /// The bucket it went to is closed.
    #[error("the bucket is closed")]
    TargetClosed,
}

/// Why a stream of a replica vbucket broke; it asks again by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// The source refused it.
    #[error("the source refused the stream: {0}")]
    Refused(StreamRequestError),
    /// The source ended it.
    #[error("the source ended the stream: {}", .0.name())]
    Ended(StreamEndReason),
    /// The source sent what cannot be.
    #[error("the source broke the rules of a stream: {0}")]
    Fault(#[from] StreamFault),
    /// The vbucket took nothing.
    #[error("the replica took it not: {0}")]
    Vbucket(#[from] OperationError),
    /// The vbucket was to be rolled back, and could not be.
    #[error("the rollback failed: {0}")]
    Rollback(FailureCause),
}

/// What a source may not send. Nothing of it is applied, and the stream is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamFault {
    /// An item at or below the last one.
    #[error("seqno {seqno} came behind {last}")]
    GoesBack {
        /// What came.
        seqno: Seqno,
        /// The last there was.
        last: Seqno,
    },
    /// An item before any snapshot, or behind the end of the last.
    #[error("seqno {seqno} came outside of any snapshot")]
    NoSnapshot {
        /// What came.
        seqno: Seqno,
    },
    /// An item that lies not in the snapshot under way.
    #[error(
        "seqno {seqno} lies outside of the snapshot {} to {}",
        snapshot.start, snapshot.end
    )]
    OutsideSnapshot {
        /// What came.
        seqno: Seqno,
        /// The snapshot.
        snapshot: SnapshotRange,
    },
    /// A snapshot that ends before it begins.
    #[error("the snapshot {} to {} ends before it begins", .0.start, .0.end)]
    Inverted(SnapshotRange),
    /// A snapshot that begins in one that came before, or below what was asked for.
    #[error("the snapshot {} to {} overlaps what came up to {last}", snapshot.start, snapshot.end)]
    Overlaps {
        /// The snapshot.
        snapshot: SnapshotRange,
        /// Up to here there was something before.
        last: Seqno,
    },
    /// Another snapshot while the end of one is missing.
    #[error("a snapshot began at {start}, but the one before has yet to come to its end {end}")]
    CutShort {
        /// Where the new one begins.
        start: Seqno,
        /// End of the one before.
        end: Seqno,
    },
    /// A disk snapshot that does not say which prepares are completed, or one of whose seqnos lies above its end.
    #[error("the snapshot that ends at {end} says what cannot be of its prepares or tombstones")]
    BadWatermarks {
        /// Its end.
        end: Seqno,
    },
    /// A system event that says nothing a vbucket can store.
    #[error("the system event {seqno} cannot be read")]
    BadEvent {
        /// Its seqno.
        seqno: Seqno,
    },
    /// A failover log that none can be.
    #[error("the failover log is empty, too long, out of order, or names uuid zero")]
    BadFailoverLog,
    /// A rollback that does not go back.
    #[error("it was told to roll back to {to}, but has only {high}")]
    RollbackAhead {
        /// To where.
        to: Seqno,
        /// What it has.
        high: Seqno,
    },
}

/// What a rollback of a vbucket came to.
#[must_use = "a vbucket that was not rolled back must not go on"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RollbackEnd {
    /// Disk and memory are what they were at that seqno; zero for nothing.
    Complete(Seqno),
    /// The bucket is being closed: nothing was done, or it is finished when it is opened again.
    Aborted,
    /// The vbucket is out of service; why was told on the failure bus.
    Failed(FailureCause),
}

impl From<StorageError> for RollbackEnd {
    fn from(cause: StorageError) -> RollbackEnd {
        RollbackEnd::Failed(cause.into())
    }
}
