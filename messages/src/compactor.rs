//! What the compactor is asked and what it tells: the rewriting of a vbucket's segments, beside its flusher.
//!
//! Answers: every [`Compact`] is answered exactly once. [`CompactError::Aborted`] means that nobody failed and that
//! nothing was published; [`CompactError::Failed`] says at which stage, and what was published all the same.

use std::sync::Arc;

use actix::Message;
use storage::{
    AbortReason, Compacted, CompactionStage, ErasedPrepare, Incarnation, RollbackEpoch, VbucketId,
};

use crate::failure::FailureCause;
use crate::lifecycle::ChildName;
use crate::status::{Busy, DownCause};

/// What a compaction does besides leaving out what is superseded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactOptions {
    /// Every tombstone goes that no rule of the store keeps, whatever its age.
    pub drop_deletes: bool,
    /// Tombstones deleted before this go, in seconds since the Unix epoch; `None`: those older than the bucket's
    /// purge age.
    pub purge_before_s: Option<u32>,
}

/// Rewrite the segments of a vbucket now. Sent by an operator; requests for one vbucket that wait are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Compacted, CompactError>")]
pub struct Compact {
    /// Which.
    pub vbucket: VbucketId,
    /// How.
    pub options: CompactOptions,
}

/// Say which compactions there are, those that wait included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<Vec<CompactionStatus>, CompactError>")]
pub struct CompactionStatuses;

/// Let at most so many compactions run at once. Answered with the limit in force: at least one, at most as many as
/// there are workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<usize, CompactError>")]
pub struct SetCompactionLimit {
    /// How many.
    pub running_max: usize,
}

/// Give up the compaction of a vbucket, or of all: what waits at once, what runs at its next step. Whoever asked for
/// one is answered with [`AbortReason::Cancelled`]. Answered with how many compactions that were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<usize, CompactError>")]
pub struct CancelCompaction {
    /// Only of this one.
    pub vbucket: Option<VbucketId>,
}

/// A compaction erased prepares that were not completed, of collections that were dropped; that is on disk. Sent to
/// whoever tracks prepares. May come twice: forgetting a prepare that is forgotten changes nothing. Where nobody knows
/// whether a publish took effect (its sync failed, or it panicked), it comes once the store was opened anew within the
/// same process and the prepares are gone; a process that starts reads from disk which there are, and is told nothing.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct PreparesErased {
    /// Whose.
    pub vbucket: VbucketId,
    /// Of which life of it,
    pub incarnation: Incarnation,
    /// and which rollback epoch. It may come late: under the same key and seqno another past may have another prepare,
    /// and whoever tracks that one compares before he forgets anything.
    pub epoch: RollbackEpoch,
    /// Which.
    pub prepares: Vec<ErasedPrepare>,
}

/// A compaction, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionStatus {
    /// Of which vbucket.
    pub vbucket: VbucketId,
    /// How far it is; `None` while it waits.
    pub running: Option<CompactionRun>,
    /// How many wait for its answer; none if the engine itself wants it.
    pub waiters: usize,
    /// How often it failed in a row.
    pub failures: u32,
}

/// How far a compaction is that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionRun {
    /// What its next step works on.
    pub stage: CompactionStage,
    /// Bytes read so far,
    pub bytes_read: u64,
    /// of so many.
    pub bytes_total: u64,
    /// Bytes written so far.
    pub bytes_written: u64,
}

/// Why a compaction was not completed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// Nobody's fault; nothing was published.
    #[error("the compaction was aborted: {0}")]
    Aborted(AbortReason),
    /// It failed.
    #[error("the compaction failed at its stage {stage}: {cause}")]
    Failed {
        /// Where.
        stage: CompactionStage,
        /// Why.
        cause: FailureCause,
        /// What was published all the same: the passes over other collections.
        published: Option<Box<Compacted>>,
    },
    /// The bucket has no such vbucket.
    #[error("vbucket {0} does not exist in this bucket")]
    UnknownVbucket(VbucketId),
    /// The vbucket was taken out of service; it is left as it is.
    #[error("vbucket {vbucket} is out of service: {cause}")]
    VbucketDown {
        /// Which.
        vbucket: VbucketId,
        /// Why.
        cause: DownCause,
    },
    /// The vbucket is dead: it waits to be deleted, not to be tidied.
    #[error("vbucket {0} is dead and is not compacted; delete it, or give it another state")]
    VbucketDead(VbucketId),
    /// Nothing was accepted; the same request may succeed later.
    #[error("temporary failure: {0}; try again later")]
    TemporaryFailure(Busy),
    /// The compactor, or the worker that had it in hand, panicked. Whether anything was published is not known;
    /// nothing can be lost by asking again.
    #[error("{child} crashed while the request was under way; ask again")]
    Crashed {
        /// Who.
        child: ChildName,
    },
    /// The compactor was taken out of service.
    #[error("{child} is out of service: {cause}; open the bucket again")]
    Down {
        /// Who.
        child: ChildName,
        /// Why.
        cause: Arc<str>,
    },
    /// The bucket was shut down.
    #[error("the bucket is shut down; open it again")]
    Closed,
}
