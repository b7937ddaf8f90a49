//! What a flusher is told.

use actix::Message;
use storage::VbucketId;

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
