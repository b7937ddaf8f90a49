//! Replication: vbuckets of a bucket that follow the active ones of another, in the same program.
//!
//! Invariant: what a replica vbucket follows is said in one place of its own bucket and ends with the [`Replication`] that
//! said it; nothing of it is in the way of a read or a write. A bucket that others follow is held by their handle, never
//! by the bucket that follows, so that two buckets may follow each other.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use actors::environment::Environment;
use actors::rollback::Rollbacks;
use actors::stream::OpenStreamInto;
use actors::stream::consumer::{
    ConsumerConfig, FollowFigures, Following, Follows, Opening, Source,
};
use actors::vbucket::DirtyVbuckets;
use messages::replication::{ReplicaState, ReplicaStatus};
use messages::stream::StreamOptions;
use messages::vbucket::SetVbucketState;
use messages::{ChildName, OperationError};
use storage::{VbucketId, VbucketState};

use crate::bucket::Bucket;
use crate::restart::OutOfService;
use crate::running::Running;
use crate::take_over::ToGiveBack;
use crate::vbucket_table::Table;

/// The part of a bucket's quota that may be under way to all its replicas: the field's, and never so little of one that
/// it would stand still between two batches.
const WINDOW_DIVISOR: u64 = 20;
const WINDOW_MIN: u64 = 16 << 10;

/// What a running bucket follows others with.
#[derive(Debug)]
pub(crate) struct Replicating {
    follows: Arc<Follows>,
    rollbacks: Rollbacks,
    /// By actor thread.
    edges: Vec<Arc<DirtyVbuckets>>,
    /// Vbuckets others were to take over.
    pub(crate) to_give_back: ToGiveBack,
}

impl Replicating {
    pub(crate) fn new(table: &Table, follows: Arc<Follows>, rollbacks: Rollbacks) -> Replicating {
        // A bucket has at most 1,024 vbuckets.
        let vbuckets = u16::try_from(table.slots.len()).unwrap_or(u16::MAX);
        let edge = |_| Arc::new(DirtyVbuckets::new(vbuckets));
        Replicating {
            follows,
            rollbacks,
            edges: (0..table.threads()).map(edge).collect(),
            to_give_back: ToGiveBack::default(),
        }
    }

    /// What the consumer of each thread works with.
    pub(crate) fn links(&self, table: &Table, environment: &Environment) -> Vec<ConsumerConfig> {
        let link = |(thread, edge): (usize, &Arc<DirtyVbuckets>)| {
            let slots = table.slots.iter();
            let of_thread = slots.filter(|slot| table.thread_of(slot.id()) == thread);
            ConsumerConfig {
                vbuckets: of_thread.map(Arc::clone).collect(),
                edge: Arc::clone(edge),
                follows: Arc::clone(&self.follows),
                rollbacks: self.rollbacks.clone(),
                environment: environment.clone(),
            }
        };
        self.edges.iter().enumerate().map(link).collect()
    }

    pub(crate) fn figures(&self) -> FollowFigures {
        self.follows.figures()
    }

    /// A child is made anew: if it is the one that rolls back, there is somebody again.
    pub(crate) fn bring_back(&self, child: &ChildName) {
        if child.as_str() == ROLLBACK {
            self.rollbacks.bring_back();
        }
    }

    /// Nothing is rolled back any more.
    pub(crate) fn stop(&self) {
        self.rollbacks.stop();
    }

    /// How consumers are told that something changed, by actor thread.
    pub(crate) fn edges(&self) -> &[Arc<DirtyVbuckets>] {
        &self.edges
    }

    fn edge(&self, table: &Table, vbucket: VbucketId) -> Option<&Arc<DirtyVbuckets>> {
        self.edges.get(table.thread_of(vbucket))
    }
}

/// Children were taken out of service: what they did for replicas nobody does.
pub(crate) fn out_of_service(
    table: &Table,
    follows: &Follows,
    rollbacks: &Rollbacks,
    what: &OutOfService,
) {
    let is_down = |name: &ChildName| what.is_whole_tree || what.children.contains(name);
    follows.take_down(|vbucket| is_down(&consumer_child(table.thread_of(vbucket))));
    if is_down(&ChildName::new(ROLLBACK)) {
        rollbacks.take_down(&what.why);
    }
}

/// The name in the tree of who takes replicas back.
pub(crate) const ROLLBACK: &str = "rollback";

/// The name of a thread's consumer in the tree.
pub(crate) fn consumer_child(number: usize) -> ChildName {
    ChildName::new(format!("consumer-{number}"))
}

/// A bucket as those see it that follow it.
struct SourceBucket(Weak<Running>);

impl Source for SourceBucket {
    fn open(&self, open: OpenStreamInto) -> Opening {
        let vbucket = open.request.vbucket;
        // A sender of its own: one that found a full mailbox once may wait for ever.
        let address = self.0.upgrade().and_then(|running| {
            let producing = running.streaming.producer(&running.table, vbucket)?;
            Some(producing.address.clone())
        });
        Box::pin(async move {
            let closed = || Err(OperationError::Closed.into());
            match address {
                Some(address) => address.send(open).await.unwrap_or_else(|_| closed()),
                None => closed(),
            }
        })
    }

    fn nudge(&self, vbucket: VbucketId) {
        if let Some(running) = self.0.upgrade()
            && let Some(producing) = running.streaming.producer(&running.table, vbucket)
        {
            producing.edge.mark(vbucket);
        }
    }

    fn is_over(&self) -> bool {
        self.0.upgrade().is_none_or(|running| {
            running.stop.is_over() || running.table.is_given_up.load(Ordering::Acquire)
        })
    }
}

impl fmt::Debug for SourceBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceBucket")
    }
}

/// Why vbuckets of a bucket do not follow those of another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicateError {
    /// A bucket cannot follow itself.
    #[error("a bucket cannot be replicated to itself; name another")]
    SameBucket,
    /// Both would count as one node where durable writes are counted.
    #[error(
        "both buckets are called {name} in replication chains; give one of them another node_name"
    )]
    SameNode {
        /// The name.
        name: String,
    },
    /// Keys would lie in other vbuckets there.
    #[error(
        "the source has {source_vbuckets} vbuckets, the target {target_vbuckets}; they must have as many"
    )]
    OtherShape {
        /// Of the bucket that is followed.
        source_vbuckets: u16,
        /// Of the one that follows.
        target_vbuckets: u16,
    },
    /// A vbucket is not active at the source, or cannot follow at the target; nothing has changed.
    #[error("vbucket {vbucket}: {error}")]
    Vbucket {
        /// Which.
        vbucket: VbucketId,
        /// Why.
        error: OperationError,
    },
    /// A vbucket could not be made a replica when others of those named had been. None follows anything because of this
    /// call.
    #[error(
        "vbucket {vbucket}: {error}; {} are replicas now and follow nothing: replicate again, or make them active",
        listed(.replicas)
    )]
    InPart {
        /// Which.
        vbucket: VbucketId,
        /// Why.
        error: OperationError,
        /// Those that are replicas because of this call.
        replicas: Vec<VbucketId>,
    },
}

fn listed(vbuckets: &[VbucketId]) -> String {
    let names: Vec<String> = vbuckets.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Vbuckets of one bucket that follow those of another, for as long as this is held. It keeps both buckets open, unless
/// they are shut down. The vbuckets stay replicas when it is dropped; nothing is applied to them any more.
#[must_use = "dropped, it stops"]
#[derive(Debug)]
pub struct Replication {
    source: Bucket,
    target: Bucket,
    followed: Vec<Arc<Following>>,
}

impl Replication {
    /// How each vbucket stands, in order.
    #[must_use]
    pub fn status(&self) -> Vec<ReplicaStatus> {
        self.followed.iter().map(|one| one.status()).collect()
    }

    /// Comes to an end once every vbucket has in memory what its source has at the call; the status of the first that is
    /// over before.
    pub async fn caught_up(&self) -> Result<(), ReplicaStatus> {
        let table = &self.source.running().table;
        let wanted: Vec<_> = self
            .followed
            .iter()
            .map(|one| table.core(one.vbucket()).map(|core| core.high_seqno()))
            .collect();
        for (one, wanted) in self.followed.iter().zip(wanted) {
            let has_it = |status: &ReplicaStatus| {
                let is_following =
                    matches!(status.state, ReplicaState::Following | ReplicaState::Held);
                is_following && wanted.as_ref().is_ok_and(|high| status.received >= *high)
            };
            let status = one.wait_for(has_it).await;
            if !has_it(&status) {
                return Err(status);
            }
        }
        Ok(())
    }

    /// Of a replication of one vbucket: its status, once that is as asked, or it is over.
    pub(crate) async fn wait_for_one(
        &self,
        is_met: impl Fn(&ReplicaStatus) -> bool,
    ) -> ReplicaStatus {
        match self.followed.first() {
            Some(following) => following.wait_for(is_met).await,
            None => std::future::pending().await,
        }
    }

    /// Stops it. When this returns nothing more is applied.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        let running = self.target.running();
        for one in &self.followed {
            let Some(edge) = running.replicating.edge(&running.table, one.vbucket()) else {
                continue;
            };
            let was_followed = running.replicating.follows.stop(one, edge);
            if was_followed && let Ok(core) = running.table.core(one.vbucket()) {
                // Its consumer may be in the middle of a batch. A vbucket that is no replica has no stream to end.
                drop(core.begin_stream());
            }
        }
    }
}

impl Bucket {
    /// Makes these vbuckets of `to` replicas that follow the active ones of this bucket, from where they stand: what they
    /// hold that is not of this bucket's history is given up. They follow, over crashes of children on both sides, until
    /// the [`Replication`] is dropped. They take part in durable writes by the name of their bucket ([`Bucket::node_name`]).
    ///
    /// ```
    /// # use piggin_supervisor::{Bucket, ReplicateError};
    /// # async fn replicated(bucket: &Bucket, copy: &Bucket) -> Result<(), Box<dyn std::error::Error>> {
    /// let replication = bucket.replicate(bucket.vbuckets(), copy)?;
    /// bucket.set("greeting", "hello").await?;
    /// replication.caught_up().await.map_err(|status| format!("{status:?}"))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn replicate(
        &self,
        vbuckets: impl IntoIterator<Item = VbucketId>,
        to: &Bucket,
    ) -> Result<Replication, ReplicateError> {
        let (source, target) = (self.running(), to.running());
        if std::ptr::eq(source, target) {
            return Err(ReplicateError::SameBucket);
        }
        if source.node_name == target.node_name {
            let name = source.node_name.to_string();
            return Err(ReplicateError::SameNode { name });
        }
        let (source_vbuckets, target_vbuckets) = (self.vbucket_count(), to.vbucket_count());
        if source_vbuckets != target_vbuckets {
            return Err(ReplicateError::OtherShape {
                source_vbuckets,
                target_vbuckets,
            });
        }
        let vbuckets: BTreeSet<VbucketId> = vbuckets.into_iter().collect();
        for vbucket in &vbuckets {
            let checked = check(source, target, *vbucket);
            checked.map_err(|error| refused(*vbucket, error))?;
        }
        let of_source = source.table.manifest.current();
        let admitted = target.table.manifest.admit_source(&vbuckets, &of_source);
        if let (Err(error), Some(first)) = (admitted, vbuckets.first()) {
            return Err(refused(*first, error));
        }
        let consumer: Arc<str> = source.streaming.name("replication").into();
        let node = &target.node_name;
        let from: Arc<dyn Source> = Arc::new(SourceBucket(Arc::downgrade(&self.shared())));
        let mut replication = Replication {
            source: self.clone(),
            target: to.clone(),
            followed: Vec::with_capacity(vbuckets.len()),
        };
        make_all(&vbuckets, |vbucket| make_replica(target, vbucket))?;
        for vbucket in vbuckets {
            let asker = (Arc::clone(&consumer), Arc::clone(node));
            let following = Following::new(vbucket, Arc::clone(&from), asker, window(target));
            if let Some(edge) = target.replicating.edge(&target.table, vbucket) {
                let follows = &target.replicating.follows;
                follows.begin(Arc::clone(&following), edge);
            }
            replication.followed.push(following);
        }
        Ok(replication)
    }
}

fn refused(vbucket: VbucketId, error: OperationError) -> ReplicateError {
    ReplicateError::Vbucket { vbucket, error }
}

/// Makes all of them replicas, and says which are where it comes to an end before.
fn make_all(
    vbuckets: &BTreeSet<VbucketId>,
    mut make: impl FnMut(VbucketId) -> Result<bool, OperationError>,
) -> Result<(), ReplicateError> {
    let mut replicas = Vec::new();
    for vbucket in vbuckets.iter().copied() {
        match make(vbucket) {
            Ok(true) => replicas.push(vbucket),
            Ok(false) => {}
            Err(error) if replicas.is_empty() => return Err(refused(vbucket, error)),
            Err(error) => {
                return Err(ReplicateError::InPart {
                    vbucket,
                    error,
                    replicas,
                });
            }
        }
    }
    Ok(())
}

/// Whether a vbucket can be followed there and can follow here.
fn check(source: &Running, target: &Running, vbucket: VbucketId) -> Result<(), OperationError> {
    let followed = source.table.core(vbucket)?;
    let state = followed.state();
    if state != VbucketState::Active {
        return Err(OperationError::NotMyVbucket { vbucket, state });
    }
    target.table.core(vbucket)?.admit_replication()
}

/// Whether it is one because of this.
fn make_replica(target: &Running, vbucket: VbucketId) -> Result<bool, OperationError> {
    let replica = SetVbucketState {
        state: VbucketState::Replica,
        topology: None,
        is_takeover: false,
    };
    let core = target.table.core(vbucket)?;
    let was_replica = core.state() == VbucketState::Replica;
    core.set_state(replica)?;
    Ok(!was_replica)
}

/// Bytes that may be under way to one replica vbucket.
fn window(target: &Running) -> u64 {
    let vbuckets = u64::try_from(target.table.slots.len()).unwrap_or(u64::MAX);
    let all = target.memory.quota_bytes() / WINDOW_DIVISOR;
    let share = all.checked_div(vbuckets).unwrap_or(0);
    share.clamp(WINDOW_MIN, StreamOptions::BUFFER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_in_part_says_which_are_replicas() {
        let ids: Vec<VbucketId> = (0..4).filter_map(VbucketId::new).collect();
        let all: BTreeSet<VbucketId> = ids.iter().copied().collect();
        let closed_at = |last: VbucketId| {
            make_all(&all, |vbucket| match vbucket {
                _ if vbucket == last => Err(OperationError::Closed),
                // One that was a replica before.
                _ => Ok(vbucket != ids[1]),
            })
        };
        let error = OperationError::Closed;
        assert_eq!(closed_at(ids[0]), Err(refused(ids[0], error.clone())));
        let in_part = closed_at(ids[3]);
        let replicas = vec![ids[0], ids[2]];
        let vbucket = ids[3];
        let expected = ReplicateError::InPart {
            vbucket,
            error,
            replicas,
        };
        assert_eq!(in_part, Err(expected));
        let text = in_part.expect_err("in part").to_string();
        assert!(text.contains("0, 2 are replicas now"), "{text}");
        assert_eq!(make_all(&all, |_| Ok(true)), Ok(()));
    }
}
