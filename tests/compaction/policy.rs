//! A bucket compacts itself: what was overwritten again and again does not pile up, what was dropped is erased, old tombstones
//! go, and what failed is tried again. Whoever asks says himself how old they are to be.

use std::time::Duration;

use piggin::messages::failure::CompactionStage;
use piggin::messages::{CompactOptions, FailureId, FailureKind, NextStep};
use piggin::storage::{DroppedCollection, KvStore, OpenOptions, VbucketId};
use piggin::{Bucket, BucketConfig, CompactionConfig, CompactionPolicy, SizeTier};
use supervisor::testing::{Clock, Fault, HoldPoint, World};

fn run(scenario: impl AsyncFnOnce(World) + Send) {
    World::run(10, |world| scenario(world)).expect("a run that ends");
}

/// So small that a few hundred writes are sealed and compacted.
fn config(world: &World) -> BucketConfig {
    let tier = SizeTier {
        bytes_max: u64::MAX,
        segments_max: 2,
    };
    BucketConfig {
        vbuckets: Some(2),
        compaction: CompactionConfig {
            policy: CompactionPolicy {
                tiers: [tier; 2],
                fragmented_bytes_min: 4 << 10,
                ..CompactionPolicy::default()
            },
            ..CompactionConfig::default()
        },
        store: OpenOptions {
            unsealed_bytes: 16 << 10,
            log_file_bytes_min: 64 << 10,
            log_file_bytes_max: 64 << 10,
            ..OpenOptions::new(1)
        },
        ..world.config()
    }
}

/// Writes the same documents again and again, each time enough of them to be sealed.
async fn overwrite(world: &World, bucket: &Bucket, times: u32) {
    for _ in 0..times {
        for key in 0..60 {
            let write = bucket.set(format!("key {key}"), vec![b'v'; 3000]);
            write.await.expect("a write");
        }
        bucket.flush().await.expect("a flush");
        world.sleep(Duration::from_millis(500)).await;
    }
}

#[test]
fn what_is_overwritten_again_and_again_does_not_pile_up() {
    run(async |world| {
        let bucket = world.create(config(&world)).await.expect("a bucket");
        overwrite(&world, &bucket, 20).await;
        world.sleep(Duration::from_secs(200)).await;
        let statistics = bucket.statistics();
        assert!(statistics.compaction.completed > 3, "{statistics:?}");
        assert!(statistics.live_bytes < 600 << 10, "{statistics:?}");
        // Then there is peace.
        world.sleep(Duration::from_secs(600)).await;
        let after = bucket.statistics().compaction;
        assert_eq!(after, statistics.compaction);
        assert_eq!(bucket.failures(FailureId(0)).failures, []);
        bucket.shutdown().await.expect("an orderly end");
    });
}

/// What was compacted lately is left as it is when the segments behind it are too many; the newest of them become one.
#[test]
fn the_newest_segments_are_merged_alone() {
    run(async |world| {
        let config = BucketConfig {
            vbuckets: Some(1),
            ..config(&world)
        };
        let bucket = world.create(config).await.expect("a bucket");
        let write = async |numbers: std::ops::Range<u32>| {
            for number in numbers {
                let write = bucket.set(format!("key {number}"), vec![b'v'; 3000]);
                write.await.expect("a write");
            }
            bucket.flush().await.expect("a flush");
            world.sleep(Duration::from_millis(500)).await;
        };
        write(0..1000).await;
        let options = CompactOptions::default();
        let whole = bucket.compact(VbucketId::FIRST, options).await;
        let whole = whole.expect("a compaction").bytes_after;
        let hold = world.hold(HoldPoint {
            vbucket: VbucketId::FIRST,
            stage: CompactionStage::Publish,
        });
        for round in 0..6 {
            write(1000 + 60 * round..1060 + 60 * round).await;
        }
        hold.reached().await;
        let [status] = bucket.compactions()[..] else {
            panic!("{:?}", bucket.compactions());
        };
        let run = status.running.expect("a run");
        assert!(run.bytes_total < whole / 2, "{run:?} of {whole}");
        let before = bucket.statistics().compaction.completed;
        hold.release();
        world.sleep(Duration::from_secs(100)).await;
        let compaction = bucket.statistics().compaction;
        assert!(compaction.completed > before, "{compaction:?}");
        let purged = (
            compaction.tombstones_purged,
            compaction.prepares_purged,
            compaction.collection_items_purged,
        );
        assert_eq!(purged, (0, 0, 0));
        let lease = bucket.store_handle().lease().expect("the store");
        let files = lease.store().file_statistics(VbucketId::FIRST);
        let files = files.expect("figures");
        assert_eq!(files.segments, 2, "the old one, and one of all newer ones");
        drop(lease);
        assert_eq!(bucket.statistics().documents, 1360);
        assert_eq!(bucket.failures(FailureId(0)).failures, []);
        bucket.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn what_failed_is_tried_again() {
    run(async |world| {
        let bucket = world.create(config(&world)).await.expect("a bucket");
        let stage = CompactionStage::Merge;
        world.inject(Fault::CompactionPass(stage));
        overwrite(&world, &bucket, 20).await;
        world.sleep(Duration::from_secs(100)).await;
        let failures = bucket.failures(FailureId(0)).failures;
        let [failure] = &failures[..] else {
            panic!("{failures:?}");
        };
        assert_eq!(failure.kind, FailureKind::Compaction { stage });
        assert_eq!(failure.cause, Fault::CompactionPass(stage).cause());
        let NextStep::RetryAt { at_ms } = failure.next else {
            panic!("{failure:?}");
        };
        assert!(at_ms > failure.at_ms);
        let compaction = bucket.statistics().compaction;
        assert_eq!((compaction.failed, compaction.aborted), (1, 0));
        assert!(compaction.completed > 0, "{compaction:?}");
        bucket.shutdown().await.expect("an orderly end");
    });
}

/// What is left to be erased, over all vbuckets.
fn dropped(bucket: &Bucket) -> Vec<DroppedCollection> {
    let lease = bucket.store_handle().lease().expect("the store");
    let ids = (0..bucket.vbucket_count()).filter_map(VbucketId::new);
    let of = |id| lease.store().snapshot(id).expect("a snapshot");
    ids.flat_map(|id| of(id).dropped_collections()).collect()
}

#[test]
fn what_was_dropped_is_erased_without_being_asked_for() {
    run(async |world| {
        let bucket = world.create(config(&world)).await.expect("a bucket");
        for name in ["a", "b"] {
            let created = bucket.create_collection("_default", name).await;
            created.expect("a collection");
            let collection = bucket.collection("_default", name).expect("it");
            for number in 0..20 {
                let written = collection.set(format!("key {number}"), "v").await;
                written.expect("a write");
            }
        }
        bucket.flush().await.expect("a flush");
        bucket.drop_collection("_default", "a").await.expect("it");
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(dropped(&bucket), []);
        let statistics = bucket.statistics();
        let purged = statistics.compaction.collection_items_purged;
        assert_eq!((statistics.documents, purged), (20, 20));
        assert_eq!(bucket.failures(FailureId(0)).failures, []);
        bucket.shutdown().await.expect("an orderly end");
    });
}

/// MB-32361: an erasing that a restart cut off was not gone on with.
#[test]
fn mb_32361_what_was_dropped_before_a_restart_is_erased_after_it() {
    run(async |world| {
        let mut lazy = config(&world);
        lazy.compaction.policy = CompactionPolicy::NEVER;
        let bucket = world.create(lazy).await.expect("a bucket");
        for name in ["a", "b"] {
            let created = bucket.create_collection("_default", name).await;
            created.expect("a collection");
            let collection = bucket.collection("_default", name).expect("it");
            collection.set("k", "v").await.expect("a write");
            let dropped = bucket.drop_collection("_default", name).await;
            dropped.expect("a drop");
        }
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(dropped(&bucket).len(), 4, "two in each vbucket");
        bucket.shutdown().await.expect("an orderly end");
        let bucket = world.open(config(&world)).await.expect("the bucket");
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(dropped(&bucket), []);
        assert_eq!(bucket.failures(FailureId(0)).failures, []);
        bucket.shutdown().await.expect("an orderly end");
    });
}

/// Ten documents are deleted, and one is written behind them: a collection keeps its newest tombstone.
async fn delete(bucket: &Bucket, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let deleted = bucket.delete(format!("key {number}")).await;
        deleted.expect("a deletion");
    }
    bucket.set("last", "v").await.expect("a write");
    bucket.flush().await.expect("a flush");
}

async fn with_documents(world: &World, policy: CompactionPolicy) -> Bucket {
    let config = BucketConfig {
        vbuckets: Some(1),
        compaction: CompactionConfig {
            purge_age: Duration::from_secs(1000),
            policy,
            ..CompactionConfig::default()
        },
        ..config(world)
    };
    let bucket = world.create(config).await.expect("a bucket");
    for number in 0..40 {
        let written = bucket.set(format!("key {number}"), "v").await;
        written.expect("a write");
    }
    bucket
}

#[test]
fn tombstones_go_when_they_are_old() {
    run(async |world| {
        let bucket = with_documents(&world, CompactionPolicy::default()).await;
        delete(&bucket, 0..10).await;
        world.sleep(Duration::from_secs(900)).await;
        assert_eq!(bucket.statistics().compaction.tombstones_purged, 0);
        world.sleep(Duration::from_secs(300)).await;
        assert_eq!(bucket.statistics().compaction.tombstones_purged, 10);
        bucket.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn whoever_asks_says_how_old_they_are_to_be() {
    run(async |world| {
        let bucket = with_documents(&world, CompactionPolicy::NEVER).await;
        let purged = async |options| {
            let compacted = bucket.compact(VbucketId::FIRST, options).await;
            compacted.expect("a compaction").tombstones_purged
        };
        delete(&bucket, 0..10).await;
        world.sleep(Duration::from_secs(100)).await;
        let now = world.clock().since_epoch().as_secs();
        let between = CompactOptions {
            drop_deletes: false,
            purge_before_s: u32::try_from(now).ok(),
        };
        world.sleep(Duration::from_secs(100)).await;
        delete(&bucket, 10..25).await;
        assert_eq!(purged(CompactOptions::default()).await, 0, "all are young");
        assert_eq!(purged(between).await, 10);
        let all = CompactOptions {
            drop_deletes: true,
            purge_before_s: None,
        };
        assert_eq!(purged(all).await, 15);
        assert_eq!(bucket.statistics().documents, 16);
        bucket.shutdown().await.expect("an orderly end");
    });
}
