//! What the writers answer a flusher: a list both share, and one nudge.
//!
//! Invariant: bounded by construction, since it holds at most one answer per vbucket (a flusher has one batch of a
//! vbucket under way at a time, and a newer answer makes an older one stale) and one per log shard. The fact is in
//! the list before the nudge is given, and at most one nudge is outstanding (rule R18), so a full mailbox delays and
//! never loses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use messages::{FailureCause, Generation};
use storage::{Batch, Refusal, Seqno, StorageError, VbucketId, VbucketPosition};

/// Names a request of a flusher, for the answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// Which life of the flusher.
    pub generation: Generation,
    /// Which request of that life.
    pub number: u64,
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub enum Committed {
    /// It is on disk, and the vbucket was told.
    Persisted {
        /// Highest seqno on disk.
        seqno: Seqno,
    },
    /// The commit failed, or was put off after one that failed: whether the batch is on disk shows when it is sent
    /// again, which makes sense from `retry_at` (monotonic) on.
    Failed {
        /// The batch, as it was sent.
        batch: Box<Batch>,
        /// Why.
        cause: FailureCause,
        /// When to send it again.
        retry_at: Duration,
    },
    /// The store did not take it, and never will.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Where the vbucket stands.
        position: Result<VbucketPosition, StorageError>,
    },
    /// The vbucket is not served by the store.
    Unserved {
        /// Why.
        cause: StorageError,
    },
    /// The writer crashed with it in hand: nobody knows.
    Lost,
}

/// Where vbuckets stand in the store, behind everything that was sent to the writer before the question.
#[derive(Clone, Debug)]
pub enum Placed {
    /// Their positions.
    At(Vec<(VbucketId, Result<VbucketPosition, StorageError>)>),
    /// There is no store now; ask again from then on (monotonic).
    Later(Duration),
    /// The writer crashed with the question in hand.
    Lost,
}

/// Answers not read yet.
#[derive(Debug, Default)]
pub struct Answered {
    /// Of batches, by vbucket.
    pub batches: BTreeMap<VbucketId, (Ticket, Committed)>,
    /// Of barriers, by log shard.
    pub barriers: BTreeMap<u16, (Ticket, Placed)>,
}

/// Sends the flusher a wake-up; whether it was taken. Cheap, from any thread, never blocks.
type Nudge = Arc<dyn Fn() -> bool + Send + Sync>;

/// The shared end of a flusher: outlives each life of it.
#[derive(Default)]
pub struct FlusherEdge {
    answered: Mutex<Answered>,
    nudge: Mutex<Option<Nudge>>,
    is_nudged: AtomicBool,
}

impl FlusherEdge {
    /// An edge nobody reads yet.
    #[must_use]
    pub fn new() -> Arc<FlusherEdge> {
        Arc::new(FlusherEdge::default())
    }

    /// Says how the flusher is woken, and wakes it: something may be there already. `nudge` says whether the wake-up
    /// was taken.
    pub fn connect(&self, nudge: impl Fn() -> bool + Send + Sync + 'static) {
        *self.nudge.lock() = Some(Arc::new(nudge));
        self.is_nudged.store(false, Ordering::SeqCst);
        self.nudge();
    }

    /// Makes the flusher look at the shared state, unless it is about to anyway.
    pub fn nudge(&self) {
        if self.is_nudged.swap(true, Ordering::SeqCst) {
            return;
        }
        let nudge = self.nudge.lock().clone();
        if !nudge.is_some_and(|nudge| nudge()) {
            // Full: every message that waits there makes the flusher look. Gone or not there yet: its successor
            // looks when it begins.
            self.is_nudged.store(false, Ordering::SeqCst);
        }
    }

    /// To be called before looking at the shared state: what comes later nudges again.
    pub fn begin_look(&self) {
        self.is_nudged.store(false, Ordering::SeqCst);
    }

    /// Takes the answers there are.
    #[must_use]
    pub fn take(&self) -> Answered {
        std::mem::take(&mut *self.answered.lock())
    }

    pub(crate) fn answer_batch(&self, vbucket: VbucketId, ticket: Ticket, committed: Committed) {
        let mut answered = self.answered.lock();
        answered.batches.insert(vbucket, (ticket, committed));
    }

    pub(crate) fn answer_barrier(&self, log_shard: u16, ticket: Ticket, placed: Placed) {
        let mut answered = self.answered.lock();
        answered.barriers.insert(log_shard, (ticket, placed));
    }
}

impl std::fmt::Debug for FlusherEdge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlusherEdge")
            .field("is_nudged", &self.is_nudged)
            .finish_non_exhaustive()
    }
}
