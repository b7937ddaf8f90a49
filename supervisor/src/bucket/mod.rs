//! The bucket, as an embedder holds it.
//!
//! Invariant: every operation is a plain function on the shared vbucket core, done on the caller's thread; so a handle
//! works on any thread and any runtime, and a future dropped anywhere leaves the operation done or not begun. The
//! engine's own thread is stopped by [`Bucket::shutdown`], or when the last handle is dropped.

mod requests;
mod collection;
mod manifest;
mod streams;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Addr, Handler, Message, Recipient};

use actors::backfill::{Turns, Writing};
use actors::compactor::CompactorCore;
use actors::shell::Shell;
#[cfg(any(test, feature = "testing"))]
use actors::store_handle::StoreHandle;
use actors::vbucket::VbucketActor;
#[cfg(any(test, feature = "testing"))]
use actors::vbucket::VbucketCore;
use actors::warmup::{WarmupEnd, WarmupProgress};
use messages::vbucket::{
    Mutated, MutationToken, ObserveVbucket, ObservedVbucket, Write, WriteBatch,
};
use messages::{ChildName, FailureId, FailureNotice, OperationError};
use storage::{CollectionId, DocumentKey, VbucketId};

use crate::bucket_config::BucketConfig;
use crate::bucket_error::BucketError;
use crate::durability;
use crate::engine;
use crate::failure_bus::History;
use crate::opening::Opening;
use crate::restart::ChildStatus;
use crate::running::{Held, Running};
use crate::shutdown::ShutdownReport;
use crate::statistics::{BucketStatistics, MemoryStatistics};
use crate::vbucket_map;
pub use collection::Collection;
pub use requests::{WriteFuture, WriteRequest};

/// The address of a vbucket's actor; stays valid when the actor is restarted.
pub type VbucketAddr = Addr<Shell<VbucketActor>>;

/// The address of the bucket's compactor; stays valid when the actor is restarted.
pub type CompactorAddr = Addr<Shell<CompactorCore>>;

/// A durable document store, partitioned into vbuckets. Clones are handles to the same bucket.
///
/// Documents of the default collection are read and written by the verbs of [`Collection`], such as [`Collection::get`] and
/// [`Collection::set`], which a bucket has as its own: `bucket.get("key")`.
///
/// A write is acknowledged in memory: it then survives the panic of any actor, not the death of the process. Add
/// [`WriteRequest::persisted`] and it is acknowledged once it is on disk.
#[derive(Clone, Debug)]
pub struct Bucket {
    default: Collection,
}

/// A bucket has the verbs of its default collection, its number and its keys: `bucket.get("key")` is
/// `bucket.collection("_default", "_default")?.get("key")`. As a path a verb is `Collection::get`, not `Bucket::get`.
impl Deref for Bucket {
    type Target = Collection;

    fn deref(&self) -> &Collection {
        &self.default
    }
}

impl Bucket {
    /// Makes a bucket and opens it. The place must not hold one already.
    pub async fn create(config: BucketConfig) -> Result<Bucket, BucketError> {
        engine::launch(config, Opening::Create).await
    }

    /// Opens a bucket, whatever state it was left in, and waits until its documents are in memory (or not, see
    /// [`BucketConfig::waits_for_warmup`]).
    pub async fn open(config: BucketConfig) -> Result<Bucket, BucketError> {
        engine::launch(config, Opening::Existing).await
    }

    /// Opens a bucket, or makes one where none is.
    pub async fn open_or_create(config: BucketConfig) -> Result<Bucket, BucketError> {
        engine::launch(config, Opening::CreateIfMissing).await
    }

    pub(crate) fn of(running: Arc<Running>) -> Bucket {
        let held = Arc::new(Held(running));
        Bucket {
            default: Collection::new(held, CollectionId::DEFAULT),
        }
    }

    /// A collection of this bucket.
    pub(crate) fn collection_of(&self, id: CollectionId) -> Collection {
        Collection::new(Arc::clone(self.held()), id)
    }

    /// Many writes, each for itself (no atomicity over the batch), with one lock per vbucket; answered in order.
    pub async fn write_batch(&self, writes: Vec<Write>) -> Vec<Result<Mutated, OperationError>> {
        self.begin_batch(writes, None).await
    }

    /// The same, but begun when this returns; behind others of the same keys in this order.
    pub(crate) fn begin_batch(
        &self,
        writes: Vec<Write>,
        order: Option<&Arc<Turns>>,
    ) -> impl Future<Output = Vec<Result<Mutated, OperationError>>> + Send + use<> {
        let groups = groups_of(writes, |key| self.vbucket_of(key.key()));
        let running = self.running();
        let mut answers = Vec::new();
        let (mut places, mut begun) = (Vec::new(), Vec::new());
        let readers = running.streaming.readers().for_many();
        for (vbucket, (places_of_group, writes)) in groups {
            match running.table.core(vbucket) {
                Ok(core) => {
                    begun.extend(readers.write_batch(core, WriteBatch { writes }, order));
                    places.extend(places_of_group);
                }
                Err(error) => {
                    let refused = |place| (place, Err(error.clone()));
                    answers.extend(places_of_group.into_iter().map(refused));
                }
            }
        }
        async move {
            answers.extend(places.into_iter().zip(Writing::all_done(begun).await));
            answers.sort_by_key(|(place, _)| *place);
            answers.into_iter().map(|(_, answer)| answer).collect()
        }
    }

    /// Answers once everything written so far is on disk, or cannot get there: the first error of a vbucket, after all
    /// others have come to their end.
    pub async fn flush(&self) -> Result<(), OperationError> {
        let cores = self.running().table.cores();
        let waits: Vec<_> = cores
            .map(|(_, core)| core.wait_persisted(core.high_seqno()))
            .collect();
        let mut first = Ok(());
        for wait in waits {
            let flushed = match wait {
                Ok(wait) => wait.await,
                Err(error) => Err(error),
            };
            first = first.and(flushed);
        }
        first
    }

    /// How far a change is: on disk, on other nodes, and whether it is still part of its vbucket's history
    /// ([`ObservedVbucket::has`]). The token's seqno may be of any change of that branch.
    pub fn observe_change(&self, token: MutationToken) -> Result<ObservedVbucket, OperationError> {
        let vbucket_uuid = token.vbucket_uuid;
        let core = self.running().table.core(token.vbucket)?;
        core.observe_vbucket(&ObserveVbucket { vbucket_uuid })
    }

    /// The vbucket a client's key lies in.
    #[must_use]
    pub fn vbucket_of(&self, key: &[u8]) -> VbucketId {
        vbucket_map::vbucket_of(key, self.vbucket_count())
    }

    /// How many vbuckets the bucket has.
    #[must_use]
    pub fn vbucket_count(&self) -> u16 {
        self.running().table.count()
    }

    /// All of them, in order.
    pub fn vbuckets(&self) -> impl Iterator<Item = VbucketId> + use<> {
        (0..self.vbucket_count()).filter_map(VbucketId::new)
    }

    /// The address of a vbucket's actor. It takes every message of [`messages::vbucket`].
    #[must_use]
    pub fn vbucket(&self, vbucket: VbucketId) -> Option<VbucketAddr> {
        self.running().addresses.get(vbucket.index()).cloned()
    }

    /// The address of a vbucket's actor, for one kind of message.
    #[must_use]
    pub fn recipient<M>(&self, vbucket: VbucketId) -> Option<Recipient<M>>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        Shell<VbucketActor>: Handler<M>,
    {
        self.vbucket(vbucket).map(Addr::recipient)
    }

    /// How far the loading of the bucket is.
    #[must_use]
    pub fn warmup(&self) -> WarmupProgress {
        self.running().warmup.progress()
    }

    /// Waits until the bucket is loaded: how that ended. Needed only where opening did not wait.
    pub async fn warm(&self) -> Result<WarmupEnd, OperationError> {
        let ended = self.running().warmup.wait();
        ended.await.unwrap_or(Err(OperationError::Closed))
    }

    /// How the bucket's children stand, in the order of the tree.
    #[must_use]
    pub fn children(&self) -> Vec<ChildStatus> {
        self.running().tree.children()
    }

    /// Restarts a child, and those that restart with it; a vbucket that its supervisor gave up is in service again. A
    /// child whose work is done is left alone.
    pub fn restart(&self, child: &ChildName) -> Result<(), BucketError> {
        let Running {
            tree,
            table,
            compactor,
            replicating,
            ..
        } = self.running();
        tree.restart(child)?;
        table.bring_back(child);
        compactor.bring_back(child);
        replicating.bring_back(child);
        durability::bring_back(table, child);
        Ok(())
    }

    /// The failures after `after` that are still kept, oldest first.
    #[must_use]
    pub fn failures(&self, after: FailureId) -> History {
        self.running().failures.since(after)
    }

    /// Sends every failure from now on to `subscriber`, until its address is closed.
    pub fn subscribe(&self, subscriber: Recipient<FailureNotice>) {
        self.running().failures.subscribe(subscriber);
    }

    /// Figures of the bucket. Where documents left memory the disk is looked at, to count them; nothing else waits for it.
    #[must_use]
    pub fn statistics(&self) -> BucketStatistics {
        self.running().statistics()
    }

    /// Figures of its memory: cheap, and asks neither vbucket nor disk to wait.
    #[must_use]
    pub fn memory(&self) -> MemoryStatistics {
        self.running().memory_statistics()
    }

    /// Hands the figures to the recorder of the `metrics` crate that the embedder installed, in between the times the
    /// bucket does so itself ([`BucketConfig::metrics_every`]), such as before each scrape. Their names are in
    /// `docs/statistics.md`.
    pub fn publish_metrics(&self) {
        self.running().statistics_of_memory().publish();
    }

    /// Stops the bucket in order: no further writes, everything on disk, children stopped last first, the mark of a
    /// clean shutdown last of all. Other handles answer [`OperationError::Closed`] from now on.
    pub async fn shutdown(self) -> Result<ShutdownReport, BucketError> {
        let report = self
            .running()
            .stop
            .request()
            .await
            .ok_or(BucketError::Closed)?;
        if report.is_clean() {
            Ok(report)
        } else {
            Err(BucketError::Shutdown(report))
        }
    }

    /// Comes to an end once the bucket has ended and its directory can be opened again, however that came: shut down, or
    /// its last handle dropped. Holds no handle itself, so take it before you drop yours. A child that does not stop by
    /// [`BucketConfig::stop_deadline`] is not waited for any longer, and may keep the directory a while.
    ///
    /// ```
    /// # use piggin_supervisor::{Bucket, BucketConfig, BucketError};
    /// # async fn reopened(config: BucketConfig) -> Result<Bucket, BucketError> {
    /// let bucket = Bucket::open(config.clone()).await?;
    /// let closed = bucket.closed();
    /// drop(bucket);
    /// closed.await;
    /// Bucket::open(config).await
    /// # }
    /// ```
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.running().stop.ended()
    }

    /// Whether the bucket serves nothing any more: it was shut down, by whichever handle, or given up by its
    /// supervisor.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let running = self.running();
        running.stop.is_over() || running.table.is_given_up.load(Ordering::Acquire)
    }

    /// A vbucket's truth, to ask it for faults and to look at it.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn vbucket_core(&self, vbucket: VbucketId) -> Option<Arc<VbucketCore>> {
        self.running().table.core(vbucket).ok().cloned()
    }

    /// The bucket's store, for tests that do to a vbucket what only replication does.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn store_handle(&self) -> StoreHandle {
        self.running().store.clone()
    }

    pub(crate) fn shared(&self) -> Arc<Running> {
        Arc::clone(&self.held().0)
    }
}

/// The writes by vbucket, each with its place; writes of one vbucket keep their order.
fn groups_of(
    writes: Vec<Write>,
    vbucket_of: impl Fn(&DocumentKey) -> VbucketId,
) -> BTreeMap<VbucketId, (Vec<usize>, Vec<Write>)> {
    let mut groups: BTreeMap<VbucketId, (Vec<usize>, Vec<Write>)> = BTreeMap::new();
    for (place, write) in writes.into_iter().enumerate() {
        let (places, writes) = groups.entry(vbucket_of(write.key())).or_default();
        places.push(place);
        writes.push(write);
    }
    groups
}
