//! Every limit of a bucket, its default and its reason.
//!
//! Invariant: what decides where data lies (`vbuckets`, `log_shards`), `history` and `eviction` are stored at creation; giving another
//! value when opening is an error that names both. Everything else may differ from opening to opening.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actors::compactor::CompactionPolicy;
use actors::durability::{Chains, Requirements};
use actors::hooks::Hooks;
use storage::disk::Disk;
use storage::{DurabilityLevel, Eviction, MemoryMarks, MemoryPool, OpenOptions, Retention};

use crate::bucket_error::BucketError;

/// Where a bucket lies.
#[derive(Clone, Debug)]
pub enum Location {
    /// A directory of the file system, made at creation if it is missing.
    Directory(PathBuf),
    /// A disk handed in: a simulated one, or one of the embedder's own.
    Disk(Arc<dyn Disk>),
}

impl<P: Into<PathBuf>> From<P> for Location {
    fn from(path: P) -> Location {
        Location::Directory(path.into())
    }
}

/// How a bucket is made and opened.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    /// Where it lies.
    pub location: Location,
    /// Number of vbuckets: a power of two, 1 to 1,024. `None` takes what is stored, at creation 128.
    pub vbuckets: Option<u16>,
    /// Number of logs, each with its own sync, 1 to 8. `None` takes what is stored, at creation 1: one sync for all
    /// vbuckets is what makes small commits cheap.
    pub log_shards: Option<u16>,
    /// How much of its past the bucket keeps. Like the two before it is stored at creation; `None` takes what is stored,
    /// at creation nothing. With it [`Bucket::as_of`](crate::Bucket::as_of) reads what was, and every version of a
    /// document reaches the disk.
    pub history: Option<Retention>,
    /// What leaves memory when it is short: stored at creation, too; `None` takes what is stored, at creation whole documents.
    pub eviction: Option<Eviction>,
    /// Threads for vbucket and flusher actors; more than 8 count as 8. `None` takes the number of cores.
    pub actor_threads: Option<usize>,
    /// Threads that load vbuckets at opening.
    pub warmup_threads: u16,
    /// Threads that read from disk for streams.
    pub reader_threads: u16,
    /// Whether opening waits until every document is in memory. If not, a vbucket serves writes once its own documents
    /// are, and until then reads of those that are; everything else is answered with a temporary failure.
    pub waits_for_warmup: bool,
    /// Bytes of documents in memory, above which a client's write is answered with a temporary failure.
    pub memory_quota_bytes: u64,
    /// From which part of the quota on documents leave memory, and down to which.
    pub memory_marks: MemoryMarks,
    /// How often documents in memory are looked through for those whose time is up, which are deleted: at least every second,
    /// at most every 30 days; zero is never. Those that are not in memory, and all with never, are deleted when they are read,
    /// or by compaction.
    pub expiry_sweep_every: Duration,
    /// Messages a vbucket's mailbox holds before a sender must wait: enough to keep the actor busy, few enough
    /// that a waiting client notices.
    pub mailbox_messages_max: usize,
    /// Writers that may wait for the disk at one vbucket, above which one more is answered with a temporary failure.
    pub persistence_waiters_max: usize,
    /// How long an orderly shutdown may take before it is given up and reported.
    pub stop_deadline: Duration,
    /// Failures kept to be read back.
    pub failure_history_max: usize,
    /// A child that gives no sign of life for so long is treated as failed.
    pub stall_limit: Duration,
    /// How segments are rewritten in the background.
    pub compaction: CompactionConfig,
    /// What the bucket is called in replication chains: 1 to 200 bytes. `None`: a name drawn when it was created, which
    /// [`Bucket::node_name`](crate::Bucket::node_name) says.
    pub node_name: Option<String>,
    /// Every write waits for at least this, also one that asks for nothing; touches aside. `None`: a write waits for what
    /// it asks for.
    pub durability_level_min: Option<DurabilityLevel>,
    /// Replicas a chain may have for durable writes to be possible, at most 3.
    pub replicas_max: usize,
    /// Whether a chain that has too few nodes for a majority is content with its active one. A write that is committed so
    /// is lost with that node.
    pub durability_fallback: bool,
    /// How often the figures are handed to the recorder of the `metrics` crate, for whoever installed one. With `None`
    /// only by [`Bucket::publish_metrics`](crate::Bucket::publish_metrics).
    pub metrics_every: Option<Duration>,
    /// Sizes and thresholds of the store's files. Three fields are the bucket's own, whatever they say here: each opening
    /// draws another `entropy`, `is_stepped` is true in a simulated world and nowhere else, and instead of `segments_max`
    /// the policy of `compaction` says what is merged when.
    pub store: OpenOptions,
    /// A test harness that the bucket, on its own threads and in real time, asks for faults and shows what passes.
    #[cfg(any(test, feature = "testing"))]
    pub hooks: Hooks,
}

/// How a bucket rewrites segments in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionConfig {
    /// Threads that compact, and so the most compactions that run at once; [`Bucket::set_compaction_limit`] makes it
    /// fewer. Two, so that a big vbucket does not keep the small ones waiting.
    ///
    /// [`Bucket::set_compaction_limit`]: crate::Bucket::set_compaction_limit
    pub threads: u16,
    /// Bytes that all of them together read and write in a second, so that the flushers have the disk when they need
    /// it; zero is no limit.
    pub bytes_per_second: u64,
    /// So long a tombstone is kept, for whoever follows the bucket and was away.
    pub purge_age: Duration,
    /// What is compacted without being asked for.
    pub policy: CompactionPolicy,
    /// Requests that may wait for an answer, above which one more is answered with a temporary failure.
    pub waiters_max: usize,
}

impl Default for CompactionConfig {
    fn default() -> CompactionConfig {
        CompactionConfig {
            threads: 2,
            bytes_per_second: 300_000_000,
            purge_age: Duration::from_secs(3 * 24 * 3600),
            policy: CompactionPolicy::default(),
            waiters_max: 4096,
        }
    }
}

/// A test run with `PIGGIN_EVICT` set has everything leave memory that can, all the time.
#[cfg(any(test, feature = "testing"))]
fn marks() -> MemoryMarks {
    if std::env::var_os("PIGGIN_EVICT").is_some() {
        MemoryMarks::ALL_LEAVES
    } else {
        MemoryMarks::default()
    }
}

#[cfg(not(any(test, feature = "testing")))]
fn marks() -> MemoryMarks {
    MemoryMarks::default()
}

impl BucketConfig {
    /// A bucket in a directory of the file system.
    pub fn at(directory: impl Into<PathBuf>) -> BucketConfig {
        BucketConfig::new(Location::Directory(directory.into()))
    }

    /// A bucket on a disk handed in.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>) -> BucketConfig {
        BucketConfig::new(Location::Disk(disk))
    }

    /// Least memory quota in bytes: below it hardly a document fits.
    pub const MEMORY_QUOTA_BYTES_MIN: u64 = 1 << 20;

    /// How often documents may be looked through for those whose time is up: they expire in whole seconds.
    pub const EXPIRY_SWEEP_EVERY: RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);

    /// Longest name of a node in bytes.
    pub const NODE_NAME_BYTES_MAX: usize = 200;

    /// Most replicas a chain has.
    pub const REPLICAS_MAX: usize = Chains::PLACES_MAX - 1;

    /// Who pays for the documents of the bucket.
    pub(crate) fn memory_pool(&self) -> Arc<MemoryPool> {
        Arc::new(MemoryPool::new(self.memory_quota_bytes).marked(self.memory_marks))
    }

    /// Refuses what no bucket can work with. What is stored at creation is checked by the store.
    pub(crate) fn check(&self) -> Result<(), BucketError> {
        let refuse = |what: String, limits| Err(BucketError::Setting { what, limits });
        if self.memory_quota_bytes < Self::MEMORY_QUOTA_BYTES_MIN {
            let what = format!("memory_quota_bytes = {}", self.memory_quota_bytes);
            return refuse(what, "at least 1 MiB");
        }
        let MemoryMarks {
            high_percent,
            low_percent,
        } = self.memory_marks;
        if high_percent > 100 || low_percent > high_percent {
            let what = format!("memory_marks of {low_percent} and {high_percent} %");
            return refuse(what, "at most 100 %, the low mark not above the high one");
        }
        let (every, range) = (self.expiry_sweep_every, Self::EXPIRY_SWEEP_EVERY);
        if !every.is_zero() && !range.contains(&every) {
            let what = format!("expiry_sweep_every = {every:?}");
            return refuse(what, "1 s to 30 days, or zero for never");
        }
        if self.mailbox_messages_max == 0 {
            return refuse("mailbox_messages_max = 0".to_owned(), "at least 1");
        }
        if self.stall_limit.is_zero() {
            return refuse("stall_limit = 0".to_owned(), "more than nothing");
        }
        let length = self.node_name.as_ref().map_or(1, String::len);
        if length == 0 || length > Self::NODE_NAME_BYTES_MAX {
            let what = format!("a node_name of {length} bytes");
            return refuse(what, "1 to 200 bytes, or none");
        }
        if self.replicas_max > Self::REPLICAS_MAX {
            return refuse(format!("replicas_max = {}", self.replicas_max), "at most 3");
        }
        if self.metrics_every.is_some_and(|every| every.is_zero()) {
            return refuse("metrics_every = 0".to_owned(), "more than nothing, or none");
        }
        Ok(())
    }

    fn new(location: Location) -> BucketConfig {
        BucketConfig {
            location,
            vbuckets: None,
            log_shards: None,
            history: None,
            eviction: None,
            actor_threads: None,
            warmup_threads: 2,
            reader_threads: 2,
            waits_for_warmup: true,
            memory_quota_bytes: 1 << 30,
            memory_marks: marks(),
            expiry_sweep_every: Duration::from_secs(600),
            mailbox_messages_max: 1024,
            persistence_waiters_max: actors::vbucket::WAITERS_MAX,
            stop_deadline: Duration::from_secs(30),
            failure_history_max: 1024,
            stall_limit: Duration::from_secs(5),
            compaction: CompactionConfig::default(),
            node_name: None,
            durability_level_min: None,
            replicas_max: Requirements::default().replicas_max,
            durability_fallback: false,
            metrics_every: Some(Duration::from_secs(10)),
            store: OpenOptions::new(0),
            #[cfg(any(test, feature = "testing"))]
            hooks: Hooks::none(),
        }
    }

    /// The test harness of the bucket, if it has one.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn hooks(&self) -> Hooks {
        self.hooks.clone()
    }

    /// There is none without the feature.
    #[cfg(not(any(test, feature = "testing")))]
    #[expect(clippy::unused_self, reason = "with the feature there is one")]
    pub(crate) fn hooks(&self) -> Hooks {
        Hooks::none()
    }
}
