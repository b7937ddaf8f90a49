//! What a flusher is told.

use std::time::Duration;

use actix::Message;
use storage::{Seqno, VbucketId};

use crate::status::OperationError;

/// Something changed: look at the shared state. At most one is under way per edge, so none is lost in a full
/// mailbox (rule R18). Sent by whoever marked a vbucket dirty, and by the writer when a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Wake;

/// Stop handing batches to the writer. Answered once nothing is under way any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), OperationError>")]
pub struct PauseFlushing;

/// Go on after [`PauseFlushing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), OperationError>")]
pub struct ResumeFlushing;

/// Answered once everything that was in the checkpoint log of this vbucket (or, without one, of every vbucket of
/// the shard) is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<(), OperationError>")]
pub struct FlushNow {
    /// Only this one.
    pub vbucket: Option<VbucketId>,
}

/// Write everything there is, then do nothing any more. Sent by the supervisor at shutdown, when no vbucket takes
/// writes any longer; answered when all is on disk, or with what is not when the time is up (rule R22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<FlushReport, OperationError>")]
pub struct StopFlushing {
    /// How long it may take.
    pub within: Duration,
}

/// What a stopped flusher leaves in memory only; empty when all is on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// By vbucket.
    pub unpersisted: Vec<Unpersisted>,
}

/// A vbucket with changes that are in memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpersisted {
    /// Which.
    pub vbucket: VbucketId,
    /// Up to here it is on disk.
    pub persisted: Seqno,
    /// Up to here it was acknowledged. Equal when only the vbucket's state is not on disk, or that is not known.
    pub high: Seqno,
}
