//! The writer of a log shard: the one that turns batches into commits.
//!
//! Batches come through a bounded channel; whatever is there becomes one group, one write and one sync, so what
//! arrives during one sync shares the next (no timer). Answers go to shared lists, never to a mailbox's space.
//! Invariant: every request is answered exactly once, also when the writer panics ([`Committed::Lost`]); a vbucket
//! has at most one batch in a group.
//!
//! [`Committed::Lost`]: crate::flusher::answers::Committed::Lost

mod group;
mod worker;

use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::backoff::Backoff;
use crate::environment::Environment;
use crate::executor::{StartError, WakeWorker, Worker, WorkerSpec};
use crate::flusher::answers::{Committed, FlusherEdge, Placed, Ticket};
use crate::flusher::flushable::Flushable;
use crate::guardian::Guardian;
use crate::maintenance::MemoryUse;
use crate::store_handle::StoreHandle;
use messages::{ChildName, Generation};
use storage::{Batch, VbucketId};

pub use self::group::GroupLimits;
pub use self::worker::WriterWorker;

/// A batch for the disk.
#[derive(Debug)]
pub struct CommitRequest {
    /// Which request of which life of the flusher.
    pub ticket: Ticket,
    /// What to write.
    pub batch: Batch,
    /// The vbucket, told at once when it is on disk.
    pub vbucket: Arc<dyn Flushable>,
    /// Where the answer goes.
    pub reply: Arc<FlusherEdge>,
}

impl CommitRequest {
    /// Answers it. For whoever stands in for a writer; what is on disk is told to the vbucket before.
    pub fn answer(self, committed: Committed) {
        let vbucket = self.batch.vbucket;
        self.reply.answer_batch(vbucket, self.ticket, committed);
        self.reply.nudge();
    }
}

/// Where do these vbuckets stand, behind everything sent before (rule R19)?
#[derive(Debug)]
pub struct BarrierRequest {
    /// Which request of which life of the flusher.
    pub ticket: Ticket,
    /// Which vbuckets.
    pub vbuckets: Vec<VbucketId>,
    /// Where the answer goes.
    pub reply: Arc<FlusherEdge>,
}

impl BarrierRequest {
    /// Answers it. For whoever stands in for the writer of that log.
    pub fn answer(self, log_shard: u16, placed: Placed) {
        self.reply.answer_barrier(log_shard, self.ticket, placed);
        self.reply.nudge();
    }
}

/// What a writer is asked.
#[derive(Debug)]
pub enum Request {
    /// Write.
    Commit(Box<CommitRequest>),
    /// Say where vbuckets stand.
    Barrier(BarrierRequest),
}

/// What a writer works with.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// Its name in the tree.
    pub name: ChildName,
    /// The log it writes.
    pub log_shard: u16,
    /// The store.
    pub store: StoreHandle,
    /// Time, randomness, failures.
    pub environment: Environment,
    /// How much becomes one group.
    pub limits: GroupLimits,
    /// How long to wait after a commit that failed.
    pub backoff: Backoff,
    /// Woken after commits: there may be something to maintain.
    pub maintenance: Option<WakeWorker>,
    /// While it is short, maintenance is woken after every commit: only what is committed can be sealed.
    pub memory: Arc<dyn MemoryUse>,
}

/// The channel of a writer; outlives each life of it.
#[derive(Clone, Debug)]
pub struct WriterQueue {
    sender: Sender<Request>,
    receiver: Receiver<Request>,
}

impl WriterQueue {
    /// A channel for a log shard of so many vbuckets, fed by so many flushers: room for the one batch each vbucket
    /// may have under way, and a barrier of each flusher, twice, because a life of a flusher that ended may have
    /// left its own. So it is full only after two restarts within one sync.
    #[must_use]
    pub fn new(vbuckets: usize, flushers: usize) -> WriterQueue {
        let capacity = vbuckets.saturating_add(flushers).saturating_mul(2).max(2);
        let (sender, receiver) = bounded(capacity);
        WriterQueue { sender, receiver }
    }

    /// The next request. For whoever stands in for the writer.
    #[must_use]
    pub fn take(&self) -> Option<Request> {
        self.receiver.try_recv().ok()
    }
}

/// A writer, as a flusher sees it.
#[derive(Clone)]
pub struct WriterLink {
    sender: Sender<Request>,
    wake: WakeWorker,
}

impl WriterLink {
    /// The sending end of `queue`, whose worker `wake` wakes.
    #[must_use]
    pub fn new(queue: &WriterQueue, wake: WakeWorker) -> WriterLink {
        let sender = queue.sender.clone();
        WriterLink { sender, wake }
    }

    /// Hands a request over, or gives it back when there is no room. Never blocks.
    pub fn submit(&self, request: Request) -> Result<(), Request> {
        match self.sender.try_send(request) {
            Ok(()) => {
                self.wake.wake();
                Ok(())
            }
            Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) => Err(request),
        }
    }
}

impl fmt::Debug for WriterLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterLink")
            .field("waiting", &self.sender.len())
            .finish_non_exhaustive()
    }
}

/// Starts a writer, and has it woken when the store is free to be reopened.
pub fn start(
    config: WriterConfig,
    queue: &WriterQueue,
    guardian: Arc<dyn Guardian>,
) -> Result<WriterLink, StartError> {
    let executor = Arc::clone(&config.environment.executor);
    let store = config.store.clone();
    let name = config.name.clone();
    let of = queue.clone();
    let make = move |generation: Generation| -> Box<dyn Worker> {
        Box::new(WriterWorker::new(config.clone(), &of, generation))
    };
    let wake = executor.start(WorkerSpec {
        name,
        make: Box::new(make),
        guardian,
    })?;
    store.watch(wake.clone());
    Ok(WriterLink::new(queue, wake))
}
