//! Which vbuckets of a bucket are to follow which source: said by the bucket's embedder, read by its consumers.
//!
//! Invariant: a vbucket follows one source at most, the one that was said last; what is said here outlives every
//! consumer, so that one that is made anew goes on from the vbucket's own state.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::stream::OpenStreamInto;
use crate::vbucket::DirtyVbuckets;
use messages::replication::{ReplicaEnd, ReplicaState, ReplicaStatus};
use messages::stream::{StreamOpened, StreamRequestError};
use storage::VbucketId;

/// The answer of a source, when it comes.
pub type Opening = Pin<Box<dyn Future<Output = Result<StreamOpened, StreamRequestError>> + Send>>;

/// A bucket that vbuckets of another follow.
pub trait Source: Debug + Send + Sync {
    /// Asks its producer for a stream.
    fn open(&self, open: OpenStreamInto) -> Opening;
    /// Has its producer look at the streams of this vbucket: something was acknowledged, or nobody takes anything any
    /// more.
    fn nudge(&self, vbucket: VbucketId);
    /// Whether it is closed for good.
    fn is_over(&self) -> bool;
}

/// A vbucket that follows a source.
#[derive(Debug)]
pub struct Following {
    pub(super) vbucket: VbucketId,
    pub(super) source: Arc<dyn Source>,
    /// As whom it asks.
    pub(super) consumer: Arc<str>,
    /// What its bucket is called in replication chains.
    pub(super) node: Arc<str>,
    /// Bytes under way at most.
    pub(super) window: u64,
    status: Mutex<ReplicaStatus>,
    changed: Notify,
}

impl Following {
    /// One that follows `source` as the `consumer` of a node, with so many bytes under way at most.
    #[must_use]
    pub fn new(
        vbucket: VbucketId,
        source: Arc<dyn Source>,
        (consumer, node): (Arc<str>, Arc<str>),
        window: u64,
    ) -> Arc<Following> {
        Arc::new(Following {
            vbucket,
            source,
            consumer,
            node,
            window,
            status: Mutex::new(ReplicaStatus::new(vbucket)),
            changed: Notify::new(),
        })
    }

    /// Which vbucket.
    #[must_use]
    pub fn vbucket(&self) -> VbucketId {
        self.vbucket
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        self.status.lock().clone()
    }

    /// Comes to an end once its status says what `is_met` asks for, or that it is over.
    pub async fn wait_for(&self, is_met: impl Fn(&ReplicaStatus) -> bool) -> ReplicaStatus {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let status = self.status();
            if is_met(&status) || matches!(status.state, ReplicaState::Over(_)) {
                return status;
            }
            changed.await;
        }
    }

    /// It stands so now. Where it is over it stays over.
    pub(super) fn publish(&self, status: ReplicaStatus) {
        {
            let mut known = self.status.lock();
            if matches!(known.state, ReplicaState::Over(_)) || *known == status {
                return;
            }
            *known = status;
        }
        self.changed.notify_waiters();
    }

    fn is_over(&self) -> bool {
        matches!(self.status.lock().state, ReplicaState::Over(_))
    }

    fn end(&self, end: ReplicaEnd) {
        self.publish(ReplicaStatus {
            state: ReplicaState::Over(end),
            unacknowledged_bytes: 0,
            ..self.status()
        });
    }
}

/// All that vbuckets of a bucket follow.
#[derive(Debug, Default)]
pub struct Follows(Mutex<BTreeMap<VbucketId, Arc<Following>>>);

/// What replication into a bucket comes to at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FollowFigures {
    /// Vbuckets that follow a source.
    pub vbuckets: u64,
    /// Bytes their sources got no room back for.
    pub unacknowledged_bytes: u64,
}

impl Follows {
    /// From now on a vbucket follows this; what it followed before is superseded. `edge` is that of its consumer.
    pub fn begin(&self, following: Arc<Following>, edge: &DirtyVbuckets) {
        let vbucket = following.vbucket;
        let before = self.0.lock().insert(vbucket, following);
        if let Some(before) = before {
            before.end(ReplicaEnd::Superseded);
        }
        edge.mark(vbucket);
    }

    /// The vbucket follows this no longer; whether it still did.
    pub fn stop(&self, following: &Arc<Following>, edge: &DirtyVbuckets) -> bool {
        let vbucket = following.vbucket;
        let is_it = {
            let mut follows = self.0.lock();
            let is_it = follows
                .get(&vbucket)
                .is_some_and(|one| Arc::ptr_eq(one, following));
            if is_it {
                follows.remove(&vbucket);
            }
            is_it
        };
        following.end(ReplicaEnd::Stopped);
        edge.mark(vbucket);
        is_it
    }

    /// Nobody feeds these vbuckets any more.
    pub fn take_down(&self, is_concerned: impl Fn(VbucketId) -> bool) {
        let follows: Vec<_> = self.0.lock().values().cloned().collect();
        for following in follows {
            if is_concerned(following.vbucket) {
                following.end(ReplicaEnd::OutOfService);
            }
        }
    }

    /// What a vbucket follows.
    #[must_use]
    pub fn of(&self, vbucket: VbucketId) -> Option<Arc<Following>> {
        self.0.lock().get(&vbucket).cloned()
    }

    /// The vbuckets that follow something.
    #[must_use]
    pub fn vbuckets(&self) -> Vec<VbucketId> {
        self.0.lock().keys().copied().collect()
    }

    /// What there is.
    #[must_use]
    pub fn figures(&self) -> FollowFigures {
        let follows: Vec<_> = self.0.lock().values().cloned().collect();
        let mut figures = FollowFigures::default();
        for following in follows.iter().filter(|following| !following.is_over()) {
            let bytes = following.status.lock().unacknowledged_bytes;
            figures.vbuckets = figures.vbuckets.saturating_add(1);
            figures.unacknowledged_bytes = figures.unacknowledged_bytes.saturating_add(bytes);
        }
        figures
    }
}
