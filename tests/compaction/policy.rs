//! A bucket compacts itself: what was overwritten again and again does not pile up, and what failed is tried again.

use std::time::Duration;

use piggin::messages::failure::CompactionStage;
use piggin::messages::{FailureId, FailureKind, NextStep};
use piggin::storage::OpenOptions;
use piggin::{Bucket, BucketConfig, CompactionConfig, CompactionPolicy, SizeTier};
use supervisor::testing::{Fault, World};

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
