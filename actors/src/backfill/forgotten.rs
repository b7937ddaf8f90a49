//! Operations that ask for what left a vbucket's memory: the tombstone of a key is looked up, and the operation made again.
//!
//! Invariant: what was looked up is judged under the vbucket's lock; while it may have changed it is looked up again, and each
//! time something newer was written, so that it comes to an end. Called by both doors.

use std::future::Future;
use std::sync::Arc;

use super::manager::Backfills;
use crate::vbucket::{LookedUp, VbucketCore};
use messages::scan::ScanError;
use messages::vbucket::{Meta, Mutated, Write, WriteBatch};
use messages::{Busy, DownCause, FailureCause, OperationError};
use storage::{Advice, DocumentKey};

const NOT_IN_MEMORY: OperationError = OperationError::TemporaryFailure(Busy::NotInMemory);

impl Backfills {
    /// Writes, and answers as the write asks.
    pub async fn write(
        &self,
        core: &Arc<VbucketCore>,
        write: Write,
    ) -> Result<Mutated, OperationError> {
        let mut looked_up = None;
        loop {
            let answer = core.write_knowing(write.clone(), looked_up).await;
            if answer != Err(NOT_IN_MEMORY) {
                return answer;
            }
            looked_up = Some(self.forgotten(core, write.key()).await?);
        }
    }

    /// Writes all of them at once, but for those that ask for what is not in memory: they follow. Answered in order.
    pub fn write_batch(
        &self,
        core: &Arc<VbucketCore>,
        batch: WriteBatch,
    ) -> impl Future<Output = Vec<Result<Mutated, OperationError>>> + Send + use<> {
        let keep = |write: &Write| write.brings_meta().then(|| write.clone());
        let kept: Vec<_> = batch.writes.iter().map(keep).collect();
        let begun = core.write_batch_acknowledged(batch);
        let (all, core) = (self.clone(), Arc::clone(core));
        async move {
            let mut answers = Vec::with_capacity(begun.len());
            for (acknowledged, kept) in begun.into_iter().zip(kept) {
                let answer = acknowledged.await;
                answers.push(match kept.filter(|_| answer == Err(NOT_IN_MEMORY)) {
                    Some(write) => all.write(&core, write).await,
                    None => answer,
                });
            }
            answers
        }
    }

    /// Reads metadata; shows every tombstone there is.
    pub async fn get_meta(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
    ) -> Result<Meta, OperationError> {
        let answer = core.get_meta(key);
        if answer != Err(OperationError::KeyNotFound) || !core.has_forgotten() {
            return answer;
        }
        let start = core.admit_scan(key.collection(), None)?;
        let looked_up = self.forgotten(core, key).await?;
        // It may have been written meanwhile.
        match core.get_meta(key) {
            Err(OperationError::KeyNotFound) => {}
            answer => return answer,
        }
        let tombstone = looked_up.newest;
        let tombstone =
            tombstone.filter(|item| item.operation.is_tombstone() && item.seqno >= start);
        tombstone
            .map(|item| Meta::of(&item))
            .ok_or(OperationError::KeyNotFound)
    }

    async fn forgotten(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
    ) -> Result<LookedUp, OperationError> {
        self.look_up(core, key).await.map_err(|error| {
            if let ScanError::Operation(error) = error {
                return error;
            }
            if let ScanError::Unread { vbucket, cause } = error
                && let FailureCause::Storage(cause) = cause
                && !matches!(cause.advice(), Advice::RetryLater | Advice::Reopen)
            {
                let cause = DownCause::Storage(Arc::new(cause));
                return OperationError::VbucketDown { vbucket, cause };
            }
            NOT_IN_MEMORY
        })
    }
}
