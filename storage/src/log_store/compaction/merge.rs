//! The plain merge, as maintenance does it: a compaction that leaves out what is superseded, and nothing else.
//!
//! Invariant: whoever reads finds the same before and after. Which segments are merged is a pure function of their
//! lengths; they always reach up to the newest.

use std::sync::Arc;

use crate::compaction::CompactionRequest;
use crate::error::StorageError;
use crate::log_store::shard::Shard;
use crate::log_store::version::SegmentView;
use crate::outcome::{Job, Outcome};
use crate::seqno::Seqno;
use crate::vbucket::VbucketId;

use super::{CompactionJob, Work};

/// An older segment is rewritten with the newer ones when it is at most so many times as long as they are together: so
/// a byte is rewritten about once while its vbucket grows by such a factor, and what is superseded in the oldest segment
/// never grows beyond half of it before it goes.
const TIMES_AS_LONG: u64 = 2;

/// Merges some of one vbucket's segments, or all.
#[derive(Debug)]
pub(crate) struct MergeJob(CompactionJob);

impl MergeJob {
    /// All become one.
    pub(crate) fn of_all(shard: Arc<Shard>, vbucket: VbucketId, history_floor: Seqno) -> MergeJob {
        let request = CompactionRequest {
            history_floor,
            ..CompactionRequest::default()
        };
        let mut job = CompactionJob::new(shard, vbucket, request);
        job.work = Work::MergeAll;
        MergeJob(job)
    }

    /// The newest become one: as many as are worth it.
    pub(crate) fn of_newest(
        shard: Arc<Shard>,
        vbucket: VbucketId,
        history_floor: Seqno,
    ) -> MergeJob {
        let request = CompactionRequest {
            newest_only: true,
            history_floor,
            ..CompactionRequest::default()
        };
        MergeJob(CompactionJob::new(shard, vbucket, request))
    }
}

/// Number of the oldest segment to be merged with all newer ones.
pub(super) fn first_of_newest(segments: &[SegmentView]) -> usize {
    let lengths = segments.iter().map(|view| view.segment.meta().length);
    first_of(&lengths.collect::<Vec<u64>>())
}

fn first_of(lengths: &[u64]) -> usize {
    let mut together = 0u64;
    let mut first = lengths.len();
    for (number, length) in lengths.iter().enumerate().rev() {
        let is_alone = lengths.len().saturating_sub(first) < 2;
        if !is_alone && *length > together.saturating_mul(TIMES_AS_LONG) {
            break;
        }
        together = together.saturating_add(*length);
        first = number;
    }
    first
}

impl Job for MergeJob {
    type Output = ();
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<()> {
        let outcome = self.0.step().map(|_| ());
        outcome.map_failure(|failure| failure.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_small_is_merged_often_and_what_is_large_seldom() {
        assert_eq!(first_of(&[]), 0);
        assert_eq!(first_of(&[7]), 0);
        // At least two, or nothing would come of it.
        assert_eq!(first_of(&[1000, 7]), 0);
        assert_eq!(first_of(&[3000, 1000, 7]), 1);
        assert_eq!(first_of(&[1000, 7, 7, 7, 7]), 1);
        assert_eq!(first_of(&[1000, 100, 30, 7, 7, 7]), 1);
        // All, once the newer ones are half as much as the oldest.
        assert_eq!(first_of(&[1000, 400, 99]), 1);
        assert_eq!(first_of(&[1000, 400, 100]), 0);
    }

    /// A vbucket of a thousand seals, of which nothing is superseded, merged whenever it has more than eight segments.
    #[test]
    fn a_vbucket_that_grows_is_rewritten_a_few_times_and_no_more() {
        let mut segments: Vec<u64> = Vec::new();
        let mut written = 0;
        for _ in 0..1000 {
            segments.extend([1]);
            if segments.len() > 8 {
                let merged = segments.split_off(first_of(&segments));
                written += merged.iter().sum::<u64>();
                segments.push(merged.iter().sum());
            }
        }
        assert!(written < 5 * 1000, "{written} for 1000 sealed");
        assert!(segments.len() <= 8);
    }
}
