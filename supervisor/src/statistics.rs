//! Figures of a bucket, as a typed struct.

use std::collections::BTreeMap;

use actors::compactor::CompactionFigures;
use messages::vbucket::VbucketDescription;
use storage::{CollectionId, Eviction, Seqno, VbucketId};

use crate::durability::DurabilityFigures;
use crate::restart::ChildStatus;

/// Figures of a bucket at one moment (each figure for itself; the whole is not one snapshot).
#[derive(Clone, Debug)]
pub struct BucketStatistics {
    /// Live documents. Where some left memory: those on disk, and so much of a moment ago as the disk lags behind.
    pub documents: u64,
    /// What of it is in memory.
    pub memory: MemoryStatistics,
    /// Bytes of the store's files.
    pub disk_bytes: u64,
    /// Bytes of them that newest versions need.
    pub live_bytes: u64,
    /// Changes that are not on disk yet, those of which a newer one took the place included.
    pub unpersisted_items: u64,
    /// What compactions did since the bucket was opened, and how many there are now.
    pub compaction: CompactionFigures,
    /// Documents in memory that were found to be expired since the bucket was opened, and were deleted for it.
    pub expired_by_sweep: u64,
    /// Streams' backfills, those that wait their turn included.
    pub backfills: u64,
    /// Bytes read for streams and not sent yet.
    pub backfill_buffer_bytes: u64,
    /// Places of streams in memory that were given up since the bucket was opened: they read from disk what they had not read.
    pub stream_cursors_dropped: u64,
    /// Vbuckets that follow those of another bucket.
    pub replicas: u64,
    /// Bytes their sources sent, for which they got no room back yet.
    pub replication_unacknowledged_bytes: u64,
    /// Durable writes under way.
    pub durability: DurabilityFigures,
    /// How many failures of each kind there were; kinds without one are left out.
    pub failures: BTreeMap<&'static str, u64>,
    /// The children, in the order of the tree.
    pub children: Vec<ChildStatus>,
    /// The vbuckets, in order.
    pub vbuckets: Vec<VbucketDescription>,
}

/// Figures of a bucket's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStatistics {
    /// Bytes of items.
    pub bytes: u64,
    /// The quota they are held against.
    pub quota_bytes: u64,
    /// What leaves it when it is short.
    pub eviction: Eviction,
    /// Live documents in it, with their values.
    pub resident_documents: u64,
    /// Documents, or values, that left it since the bucket was opened.
    pub evicted: u64,
    /// Times the disk was asked for a document, or a value, that was not in it.
    pub fetched: u64,
    /// Those of them that cost no trip to a reader, because what was wanted was in the system's cache, or known to be absent.
    pub fetched_at_once: u64,
    /// Documents, or values, that came back with that.
    pub restored: u64,
    /// How often the pager went round all vbuckets to find what may leave.
    pub pager_rounds: u64,
}

/// Figures of one collection, summed over the vbuckets that are in service: what is on disk, and so much of a moment ago as
/// the disk lags behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionStatistics {
    /// Its number.
    pub id: CollectionId,
    /// Name of its scope.
    pub scope: String,
    /// Its name.
    pub name: String,
    /// Longest life of its documents in seconds; zero for no limit.
    pub max_ttl_s: u32,
    /// Live documents on disk.
    pub documents: u64,
    /// Bytes of their keys and values.
    pub document_bytes: u64,
    /// Highest seqno in memory, by vbucket.
    pub high_seqnos: BTreeMap<VbucketId, Seqno>,
}

impl BucketStatistics {
    /// Hands the figures to the recorder of the `metrics` crate that the caller installed, under the names of
    /// `docs/statistics.md`. Counters of failures are not among them: they move when a failure happens.
    pub fn publish(&self) {
        use crate::metric_names as names;
        let down = self.vbuckets.iter().filter(|one| one.down.is_some());
        let restarts = self.children.iter().map(|child| child.restarts);
        let gauges = [
            (names::CURR_ITEMS, self.documents),
            (names::RESIDENT_ITEMS, self.memory.resident_documents),
            (names::MEM_USED_BYTES, self.memory.bytes),
            (names::MAX_SIZE, self.memory.quota_bytes),
            (names::DB_FILE_SIZE_BYTES, self.disk_bytes),
            (names::DB_DATA_SIZE_BYTES, self.live_bytes),
            (names::DISKQUEUE_ITEMS, self.unpersisted_items),
            (names::PENDING_COMPACTIONS, self.compaction.pending),
            (names::BACKFILLS, self.backfills),
            (names::BACKFILL_BUFFER_BYTES, self.backfill_buffer_bytes),
            (names::REPLICAS, self.replicas),
            (
                names::REPLICATION_UNACKNOWLEDGED_BYTES,
                self.replication_unacknowledged_bytes,
            ),
            (names::SYNC_WRITE_ACCEPTED, self.durability.counts.accepted),
            (
                names::SYNC_WRITE_COMMITTED,
                self.durability.counts.committed,
            ),
            (names::SYNC_WRITE_ABORTED, self.durability.counts.aborted),
            (names::DURABLE_WRITES, self.durability.prepares),
            (names::DURABLE_WRITES_WAITING, self.durability.waiting),
            (
                names::DURABLE_WRITES_MAYBE_VISIBLE,
                self.durability.maybe_visible,
            ),
            (names::VBUCKETS_DOWN, down.count() as u64),
            (names::CHILD_RESTARTS, restarts.fold(0, u64::saturating_add)),
        ];
        for (name, value) in gauges {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a gauge is a float; figures above 2^53 are not"
            )]
            metrics::gauge!(name).set(value as f64);
        }
        let counters = [
            (names::COMPACTION_ABORTED, self.compaction.aborted),
            (
                names::COMPACTION_TOMBSTONES_PURGED,
                self.compaction.tombstones_purged,
            ),
            (
                names::COMPACTION_PREPARES_PURGED,
                self.compaction.prepares_purged,
            ),
            (
                names::COMPACTION_COLLECTION_ITEMS_PURGED,
                self.compaction.collection_items_purged,
            ),
            (names::EXPIRED_COMPACTOR, self.compaction.expired),
            (names::EXPIRED_PAGER, self.expired_by_sweep),
            (names::STREAM_CURSORS_DROPPED, self.stream_cursors_dropped),
            (names::EVICTED, self.memory.evicted),
            (names::BG_FETCHED, self.memory.fetched),
            (names::FETCHED_AT_ONCE, self.memory.fetched_at_once),
            (names::RESTORED, self.memory.restored),
            (names::PAGER_ROUNDS, self.memory.pager_rounds),
        ];
        for (name, value) in counters {
            metrics::counter!(name).absolute(value);
        }
    }
}
