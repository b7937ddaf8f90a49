//! The figures of a bucket reach the recorder of the program under the names of `docs/statistics.md`.

use std::sync::Arc;
use std::time::Duration;

use piggin::messages::CompactOptions;
use piggin::storage::disk::SimulatedDisk;
use piggin::supervisor::metric_names as names;
use piggin::{Bucket, BucketConfig};

use crate::capture::Turn;
use crate::support::evicting::resident;
use crate::support::{Result, TestDisk, block_on, fill, key_in, made_small, until, vbucket};

#[test]
fn gauges_are_the_figures() -> Result {
    let turn = Turn::take();
    let disk = TestDisk::new(SimulatedDisk::new());
    let config = resident(made_small(BucketConfig::on(Arc::new(disk.clone()))));
    let bucket = block_on(Bucket::create(config))?;
    let keys = fill(&bucket, 5);
    disk.hold_syncs_of("writer-0");
    for number in 0..3 {
        block_on(bucket.set(key_in(&bucket, vbucket(0), 50 + number), "waits"))?;
    }
    // Whoever looks at the figures is not held up by the disk.
    disk.wait_for_held_sync();
    let figures = bucket.statistics();
    assert_eq!(figures.documents, keys.len() as u64 + 3);
    assert_eq!(figures.unpersisted_items, 3);
    assert!(figures.memory.bytes > 0 && figures.memory.bytes < figures.memory.quota_bytes);
    assert!(figures.live_bytes > 0 && figures.live_bytes <= figures.disk_bytes);
    bucket.publish_metrics();
    let expected = [
        (names::CURR_ITEMS, figures.documents),
        (names::MEM_USED_BYTES, figures.memory.bytes),
        (names::MAX_SIZE, figures.memory.quota_bytes),
        (names::DB_FILE_SIZE_BYTES, figures.disk_bytes),
        (names::DISKQUEUE_ITEMS, 3),
        (names::PENDING_COMPACTIONS, 0),
        (names::VBUCKETS_DOWN, 0),
        (names::CHILD_RESTARTS, 0),
        (names::SYNC_WRITE_ACCEPTED, 0),
        (names::SYNC_WRITE_COMMITTED, 0),
        (names::SYNC_WRITE_ABORTED, 0),
        (names::DURABLE_WRITES, 0),
        (names::DURABLE_WRITES_WAITING, 0),
        (names::DURABLE_WRITES_MAYBE_VISIBLE, 0),
        (names::BACKFILLS, 0),
        (names::BACKFILL_BUFFER_BYTES, 0),
    ];
    #[expect(
        clippy::cast_precision_loss,
        reason = "the figures of a test are small"
    )]
    for (name, value) in expected {
        assert_eq!(turn.figure(name), Some(value as f64), "{name}");
    }
    assert!(
        turn.figure(names::DB_DATA_SIZE_BYTES)
            .is_some_and(|bytes| bytes > 0.0)
    );
    disk.let_go();
    block_on(bucket.flush())?;
    block_on(bucket.delete(&keys[0]).persisted())?;
    let options = CompactOptions {
        drop_deletes: true,
        purge_before_s: None,
    };
    // So that the tombstone is not the newest of its collection.
    let id = bucket.vbucket_of(keys[0].as_bytes());
    block_on(bucket.set(key_in(&bucket, id, 60), "newer").persisted())?;
    assert_eq!(block_on(bucket.compact_all(options)).failed().count(), 0);
    bucket.publish_metrics();
    let purged = turn.figure(names::COMPACTION_TOMBSTONES_PURGED);
    assert_eq!(purged, Some(1.0));
    assert_eq!(turn.figure(names::COMPACTION_ABORTED), Some(0.0));
    assert_eq!(bucket.statistics().unpersisted_items, 0);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// Nobody asks for them: a bucket publishes its figures by itself.
#[test]
fn gauges_move_by_themselves() -> Result {
    let turn = Turn::take();
    let mut config = made_small(BucketConfig::on(Arc::new(SimulatedDisk::new())));
    config.metrics_every = Some(Duration::from_millis(1));
    let bucket = block_on(Bucket::create(config))?;
    for each in 1..3 {
        let documents = u16::try_from(fill(&bucket, each).len())?;
        until(|| turn.figure(names::CURR_ITEMS) == Some(f64::from(documents)));
    }
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn every_name_is_in_the_manual() {
    let manual = include_str!("../../docs/statistics.md");
    for name in [
        names::CURR_ITEMS,
        names::MEM_USED_BYTES,
        names::MAX_SIZE,
        names::DB_FILE_SIZE_BYTES,
        names::DB_DATA_SIZE_BYTES,
        names::DISKQUEUE_ITEMS,
        names::PENDING_COMPACTIONS,
        names::VBUCKETS_DOWN,
        names::CHILD_RESTARTS,
        names::BACKFILLS,
        names::BACKFILL_BUFFER_BYTES,
        names::FAILURES,
        names::ITEM_COMMIT_FAILED,
        names::COMPACTION_FAILED,
        names::COMPACTION_ABORTED,
        names::COMPACTION_TOMBSTONES_PURGED,
        names::COMPACTION_PREPARES_PURGED,
        names::COMPACTION_COLLECTION_ITEMS_PURGED,
        names::EXPIRED_COMPACTOR,
        names::EXPIRED_PAGER,
        names::STREAM_CURSORS_DROPPED,
        names::DATA_WRITE_FAILED,
        names::DATA_READ_FAILED,
    ] {
        assert!(manual.contains(&format!("`{name}")), "{name}");
    }
}
