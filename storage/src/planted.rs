//! Bugs planted on purpose, one at a time, to show that the tests find them.
//!
//! Invariant: without [`plant`] a build with this feature does what one without it does. No part of a usual build.

use std::sync::atomic::{AtomicU8, Ordering};

/// A bug of compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// None.
    Nothing,
    /// A compaction keeps all commits of its log shard waiting until it is published (MB-38428).
    MergeHoldsCommits,
    /// The publish replaces the whole version: what was committed meanwhile is gone.
    PublishReplacesAll,
    /// A pass over the prepares that failed counts as one that found nothing (MB-50060).
    FailedPreparePassIsComplete,
    /// A rollback between what was purged and the next item of its collection counts too low a high seqno.
    PurgeForgetsHighs,
}

static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Plants the bug in the place of any other, for the whole process.
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, Ordering::SeqCst);
}

pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.load(Ordering::SeqCst) == bug as u8
}
