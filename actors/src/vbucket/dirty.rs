//! Which vbuckets of a shard have something for their flusher: shared state with one wake-up under way at most
//! (rule R18).
//!
//! Invariant: after [`DirtyVbuckets::mark`] the vbucket is in the queue, or was taken from it by a flusher that has not
//! looked at the vbucket yet; and while the queue is not empty, a wake-up is under way, or could not be delivered and is
//! tried again with the next mark. The flusher first takes back the wake-up ([`DirtyVbuckets::clear_wake`]), then takes
//! ids, and looks at each vbucket after it took its id.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sync::RwLock;
use crate::sync::atomic::{AtomicBool, Ordering};
use storage::VbucketId;

/// What became of a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeSent {
    /// The flusher will get it.
    Delivered,
    /// Its mailbox has no room: it is awake, and looks at the queue with whatever it does next.
    Full,
    /// There is no flusher at present; a new one looks at the queue when it starts.
    Nobody,
}

/// Sends the flusher a `Wake`; cheap, from any thread, never blocks. Made where the flusher's address is known.
#[derive(Clone)]
pub struct WakeFlusher(Arc<dyn Fn() -> WakeSent + Send + Sync>);

impl WakeFlusher {
    /// A waker that calls `send`.
    pub fn new(send: impl Fn() -> WakeSent + Send + Sync + 'static) -> WakeFlusher {
        WakeFlusher(Arc::new(send))
    }
}

impl std::fmt::Debug for WakeFlusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WakeFlusher")
    }
}

/// The edge between the vbuckets of a shard and its flusher.
#[derive(Debug)]
pub struct DirtyVbuckets {
    /// By vbucket number: whether it is in the queue.
    queued: Box<[AtomicBool]>,
    /// Holds each vbucket once at most, so it is never full.
    enqueue: Sender<VbucketId>,
    dequeue: Receiver<VbucketId>,
    is_wake_under_way: AtomicBool,
    is_flusher_busy: AtomicBool,
    waker: RwLock<Option<WakeFlusher>>,
}

impl DirtyVbuckets {
    /// An empty queue for vbuckets numbered below `vbuckets`.
    #[must_use]
    pub fn new(vbuckets: u16) -> DirtyVbuckets {
        let (enqueue, dequeue) = bounded(usize::from(vbuckets));
        DirtyVbuckets {
            queued: (0..vbuckets).map(|_| AtomicBool::new(false)).collect(),
            enqueue,
            dequeue,
            is_wake_under_way: AtomicBool::new(false),
            is_flusher_busy: AtomicBool::new(false),
            waker: RwLock::new(None),
        }
    }

    /// From now on this is how the flusher is woken; at once, when something waits for it.
    pub fn set_waker(&self, waker: WakeFlusher) {
        *self.waker.write() = Some(waker);
        self.clear_wake();
        if !self.dequeue.is_empty() {
            self.wake();
        }
    }

    /// Something of this vbucket is to be flushed. Called after the change itself.
    pub fn mark(&self, vbucket: VbucketId) {
        self.put(vbucket);
        self.wake();
    }

    /// As [`DirtyVbuckets::mark`], for a change nobody waits for: while a commit is under way, its answer makes the flusher
    /// look soon enough. Saves the caller a wake-up, and makes fewer and larger commits.
    pub fn mark_for_next_look(&self, vbucket: VbucketId) {
        self.put(vbucket);
        if !self.is_flusher_busy.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Whether a commit is under way, whose answer makes the flusher look. Taken back before the flusher takes ids, so
    /// that what was put before is seen by that look, and what comes later wakes it.
    pub fn set_flusher_busy(&self, is_busy: bool) {
        self.is_flusher_busy.store(is_busy, Ordering::SeqCst);
    }

    fn put(&self, vbucket: VbucketId) {
        let Some(queued) = self.queued.get(vbucket.index()) else {
            tracing::error!(%vbucket, "marked dirty in a shard that does not have it");
            return;
        };
        // Reads and writes: a flusher that takes the flag back sees what was changed before this.
        if !queued.swap(true, Ordering::AcqRel) && self.enqueue.try_send(vbucket).is_err() {
            tracing::error!(%vbucket, "the queue of dirty vbuckets overflowed");
        }
    }

    fn wake(&self) {
        if self.is_wake_under_way.load(Ordering::SeqCst)
            || self.is_wake_under_way.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let waker = self.waker.read().clone();
        let sent = waker.map_or(WakeSent::Nobody, |waker| (waker.0)());
        if sent != WakeSent::Delivered {
            self.clear_wake();
        }
    }

    /// The wake-up arrived: the next mark sends another. Called by the flusher before it takes ids.
    pub fn clear_wake(&self) {
        self.is_wake_under_way.store(false, Ordering::SeqCst);
    }

    /// The next vbucket to look at; it is out of the queue, and a mark from now on puts it back.
    #[must_use]
    pub fn take(&self) -> Option<VbucketId> {
        let vbucket = self.dequeue.try_recv().ok()?;
        if let Some(queued) = self.queued.get(vbucket.index()) {
            queued.swap(false, Ordering::AcqRel);
        }
        Some(vbucket)
    }

    /// Wakes the reader for what it left in the queue, unless a wake-up is under way.
    pub fn wake_for_rest(&self) {
        if !self.is_empty() {
            self.wake();
        }
    }

    /// Whether a vbucket is in the queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dequeue.is_empty()
    }
}

#[cfg(test)]
mod tests;
