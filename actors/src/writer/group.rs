//! Which requests become one group.
//!
//! Invariant: requests leave in the order they came; a group holds at most one batch per vbucket and ends before a
//! barrier, which waits until the group is answered.

use std::collections::{BTreeSet, VecDeque};

use crossbeam_channel::Receiver;

use crate::writer::{BarrierRequest, CommitRequest, Request};
use storage::Batch;

/// How much becomes one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Bytes of the batches, roughly; the batch that reaches it is the last.
    pub bytes_max: u64,
    /// Batches.
    pub batches_max: usize,
}

impl Default for GroupLimits {
    fn default() -> Self {
        // A frame of the log is closed at 1 MiB; the count bounds what a panic would lose sight of.
        GroupLimits {
            bytes_max: 1 << 20,
            batches_max: 1024,
        }
    }
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    Group(Vec<CommitRequest>),
    Barrier(BarrierRequest),
    Nothing,
}

/// Takes requests from the channel, with the one that did not fit into the last group.
#[derive(Debug)]
pub(super) struct Intake {
    receiver: Receiver<Request>,
    /// Taken out of the channel, not part of a group yet.
    pub(super) held: VecDeque<Request>,
}

impl Intake {
    pub(super) fn new(receiver: Receiver<Request>) -> Intake {
        let held = VecDeque::new();
        Intake { receiver, held }
    }

    fn pop(&mut self) -> Option<Request> {
        let held = self.held.pop_front();
        held.or_else(|| self.receiver.try_recv().ok())
    }

    pub(super) fn next(&mut self, limits: GroupLimits) -> Next {
        let mut group = Vec::new();
        let mut vbuckets = BTreeSet::new();
        let mut bytes = 0u64;
        while group.len() < limits.batches_max.max(1) && bytes < limits.bytes_max.max(1) {
            match self.pop() {
                None => break,
                Some(Request::Barrier(barrier)) if group.is_empty() => {
                    return Next::Barrier(barrier);
                }
                Some(Request::Commit(request)) if vbuckets.insert(request.batch.vbucket) => {
                    bytes = bytes.saturating_add(bytes_of(&request.batch));
                    group.push(*request);
                }
                Some(other) => {
                    self.held.push_front(other);
                    break;
                }
            }
        }
        if group.is_empty() {
            Next::Nothing
        } else {
            Next::Group(group)
        }
    }
}

/// What a batch takes in the log, roughly: keys, values, and about as much as a record costs beside them.
pub(super) fn bytes_of(batch: &Batch) -> u64 {
    const OVERHEAD: u64 = 64;
    let items = batch.items.iter();
    items.fold(OVERHEAD, |sum, item| {
        sum.saturating_add(item.user_bytes())
            .saturating_add(OVERHEAD)
    })
}

#[cfg(test)]
mod tests;
