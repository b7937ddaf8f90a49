//! From what a vbucket has to what the writer gets: limits, fair turns, and the batch itself.
//!
//! Invariant: a vbucket waits at most once in the turns; one that has more goes to the end, behind every other that
//! has something, so none starves (MB-37294).

use std::collections::{BTreeSet, VecDeque};

use crate::flusher::flushable::FlushTake;
use storage::{Batch, Incarnation, RollbackEpoch, VbucketId};

/// How much is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushLimits {
    /// Items of one batch.
    pub items_max: usize,
    /// Bytes of one batch, as the vbucket counts them; a single item may exceed it.
    pub bytes_max: usize,
    /// Batches taken in one slice of the actor's time.
    pub batches_per_slice: usize,
}

impl Default for FlushLimits {
    fn default() -> Self {
        // A batch fills about a frame of the log; a slice holds up the shard's other actors for well under a
        // millisecond.
        FlushLimits {
            items_max: 4096,
            bytes_max: 1 << 20,
            batches_per_slice: 16,
        }
    }
}

/// Who comes next.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: VecDeque<VbucketId>,
    queued: BTreeSet<VbucketId>,
}

impl Turns {
    pub(super) fn push(&mut self, vbucket: VbucketId) {
        if self.queued.insert(vbucket) {
            self.queue.push_back(vbucket);
        }
    }

    pub(super) fn pop(&mut self) -> Option<VbucketId> {
        let next = self.queue.pop_front()?;
        self.queued.remove(&next);
        Some(next)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Which life and epoch of a vbucket a batch is for (rule R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) incarnation: Incarnation,
    pub(super) epoch: RollbackEpoch,
}

pub(super) fn batch_of(vbucket: VbucketId, place: Place, take: FlushTake) -> Batch {
    Batch {
        vbucket,
        incarnation: place.incarnation,
        epoch: place.epoch,
        items: take.items,
        watermarks: take.watermarks,
        identity: take.identity,
    }
}
