//! The plain merge, as maintenance does it: a compaction that leaves out what is superseded, and nothing else.
//!
//! Invariant: whoever reads finds the same before and after.

use std::sync::Arc;

use crate::compaction::CompactionRequest;
use crate::error::StorageError;
use crate::log_store::shard::Shard;
use crate::outcome::{Job, Outcome};
use crate::seqno::Seqno;
use crate::vbucket::VbucketId;

use super::CompactionJob;

/// Merges one vbucket's segments.
#[derive(Debug)]
pub(crate) struct MergeJob(CompactionJob);

impl MergeJob {
    pub(crate) fn new(shard: Arc<Shard>, vbucket: VbucketId, history_floor: Seqno) -> MergeJob {
        let request = CompactionRequest {
            history_floor,
            ..CompactionRequest::default()
        };
        let mut job = CompactionJob::new(shard, vbucket, request);
        job.purges = false;
        MergeJob(job)
    }
}

impl Job for MergeJob {
    type Output = ();
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<()> {
        let outcome = self.0.step().map(|_| ());
        outcome.map_failure(|failure| failure.cause)
    }
}
