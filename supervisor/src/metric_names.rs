//! The names of the figures handed to the `metrics` crate: those of the field where it has one.
//!
//! Invariant: one name, one meaning, and `docs/statistics.md` lists them all; the recorder belongs to the embedder.

use messages::FailureKind;

/// Live documents.
pub const CURR_ITEMS: &str = "kv_curr_items";
/// Those of them that are in memory.
pub const RESIDENT_ITEMS: &str = "piggin_resident_documents";
/// Bytes of items in memory.
pub const MEM_USED_BYTES: &str = "kv_mem_used_bytes";
/// The quota they are held against.
pub const MAX_SIZE: &str = "kv_ep_max_size";
/// Bytes of the store's files.
pub const DB_FILE_SIZE_BYTES: &str = "kv_ep_db_file_size_bytes";
/// Bytes of them that newest versions need.
pub const DB_DATA_SIZE_BYTES: &str = "kv_ep_db_data_size_bytes";
/// Changes that are not on disk yet.
pub const DISKQUEUE_ITEMS: &str = "kv_ep_diskqueue_items";
/// Compactions that wait or run.
pub const PENDING_COMPACTIONS: &str = "kv_ep_pending_compactions";
/// Vbuckets that are out of service.
pub const VBUCKETS_DOWN: &str = "piggin_vbuckets_down";
/// Backfills of streams, those that wait their turn included.
pub const BACKFILLS: &str = "piggin_backfills";
/// Bytes read for streams and not sent yet.
pub const BACKFILL_BUFFER_BYTES: &str = "piggin_backfill_buffer_bytes";
/// Vbuckets that follow those of another bucket.
pub const REPLICAS: &str = "piggin_replicas";
/// Bytes sent to them, for which their sources got no room back yet.
pub const REPLICATION_UNACKNOWLEDGED_BYTES: &str = "piggin_replication_unacknowledged_bytes";
/// Durable writes accepted from clients.
pub const SYNC_WRITE_ACCEPTED: &str = "kv_vb_sync_write_accepted_count";
/// Durable writes committed.
pub const SYNC_WRITE_COMMITTED: &str = "kv_vb_sync_write_committed_count";
/// Durable writes given up.
pub const SYNC_WRITE_ABORTED: &str = "kv_vb_sync_write_aborted_count";
/// Durable writes that are not over, those of replicas included.
pub const DURABLE_WRITES: &str = "piggin_durable_writes";
/// Clients that wait for one.
pub const DURABLE_WRITES_WAITING: &str = "piggin_durable_writes_waiting";
/// Durable writes that may have been committed elsewhere: their documents cannot be read.
pub const DURABLE_WRITES_MAYBE_VISIBLE: &str = "piggin_durable_writes_maybe_visible";
/// Restarts of all children.
pub const CHILD_RESTARTS: &str = "piggin_child_restarts";

/// Compactions that were aborted: rolled back, deleted, cancelled, shut down. Never part of a failure figure.
pub const COMPACTION_ABORTED: &str = "kv_ep_compaction_aborted";
/// Tombstones that compactions let go.
pub const COMPACTION_TOMBSTONES_PURGED: &str = "kv_ep_compaction_tombstones_purged";
/// Prepares that compactions let go.
pub const COMPACTION_PREPARES_PURGED: &str = "kv_ep_compaction_prepares_purged";
/// Items of dropped collections that compactions erased.
pub const COMPACTION_COLLECTION_ITEMS_PURGED: &str = "kv_ep_compaction_collection_items_purged";
/// Documents that compactions found to be expired, and that were deleted for it.
pub const EXPIRED_COMPACTOR: &str = "kv_ep_expired_compactor";
/// Documents in memory that a sweep found to be expired, and that were deleted for it.
pub const EXPIRED_PAGER: &str = "kv_ep_expired_pager";
/// Places of streams in memory that were given up; they read from disk what they had not read.
pub const STREAM_CURSORS_DROPPED: &str = "piggin_stream_cursors_dropped";

/// Documents that left memory.
pub const EVICTED: &str = "kv_ep_num_value_ejects";
/// Times the disk was asked for a document that was not in memory.
pub const BG_FETCHED: &str = "kv_ep_bg_fetched";
/// Those of them that did not have to wait for the disk.
pub const FETCHED_AT_ONCE: &str = "piggin_fetched_at_once";
/// Documents that came back to memory with that.
pub const RESTORED: &str = "piggin_documents_restored";
/// How often the pager went round all vbuckets.
pub const PAGER_ROUNDS: &str = "kv_ep_num_pager_runs";

/// Every failure, by the label `counter` (see [`FailureKind::counter`]).
pub const FAILURES: &str = "piggin_failures";
/// Flushes that failed.
pub const ITEM_COMMIT_FAILED: &str = "kv_ep_item_commit_failed";
/// Compactions that failed.
pub const COMPACTION_FAILED: &str = "kv_ep_compaction_failed";
/// Both of these: what the field's cluster managers fail over by.
pub const DATA_WRITE_FAILED: &str = "kv_ep_data_write_failed";
/// Reads of the disk that failed.
pub const DATA_READ_FAILED: &str = "kv_ep_data_read_failed";

/// Counts a failure where it happened.
pub(crate) fn count(kind: FailureKind) {
    metrics::counter!(FAILURES, "counter" => kind.counter()).increment(1);
    for name in derived(kind) {
        metrics::counter!(*name).increment(1);
    }
}

/// The figures of the field that a failure of this kind moves.
fn derived(kind: FailureKind) -> &'static [&'static str] {
    match kind {
        FailureKind::Flush => &[ITEM_COMMIT_FAILED, DATA_WRITE_FAILED],
        FailureKind::Compaction { .. } => &[COMPACTION_FAILED, DATA_WRITE_FAILED],
        FailureKind::Scan { .. } | FailureKind::Fetch => &[DATA_READ_FAILED],
        FailureKind::Seal
        | FailureKind::Warmup { .. }
        | FailureKind::Rollback
        | FailureKind::ChildPanicked
        | FailureKind::ChildStalled
        | FailureKind::Escalated
        | FailureKind::Invariant => &[],
    }
}
