//! Whoever asks for a compaction is answered exactly once, whatever happens on the way.

use std::time::Duration;

use actix::Addr;
use futures_util::future::join_all;
use piggin::messages::compactor::{
    CancelCompaction, Compact, CompactionStatuses, SetCompactionLimit,
};
use piggin::messages::failure::CompactionStage;
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{ChildName, CompactError, CompactOptions, FailureId, FailureKind};
use piggin::storage::{AbortReason, VbucketId, VbucketState};
use piggin::{Bucket, BucketConfig, CompactionConfig, CompactionPolicy};
use supervisor::testing::{Fault, HoldPoint, World};

const OPTIONS: CompactOptions = CompactOptions {
    drop_deletes: false,
    purge_before_s: None,
};

fn run(seed: u64, scenario: impl AsyncFnOnce(World) + Send) {
    World::run(seed, |world| scenario(world)).expect("a run that ends");
}

fn id(number: u16) -> VbucketId {
    VbucketId::new(number).expect("a number of a vbucket")
}

fn config(world: &World, threads: u16) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(8),
        compaction: CompactionConfig {
            threads,
            policy: CompactionPolicy::NEVER,
            ..CompactionConfig::default()
        },
        ..world.config()
    }
}

/// A bucket with documents in every vbucket.
async fn filled(world: &World, threads: u16) -> Bucket {
    let bucket = world.create(config(world, threads)).await.expect("a bucket");
    for number in 0..80 {
        let key = format!("key {number}");
        bucket.set(key, "value").await.expect("a write");
    }
    bucket.flush().await.expect("a flush");
    bucket
}

fn hold(world: &World, vbucket: u16, stage: CompactionStage) -> supervisor::testing::Hold {
    let vbucket = id(vbucket);
    world.hold(HoldPoint { vbucket, stage })
}

fn ask(bucket: &Bucket, vbucket: u16) -> actix::clock::JoinHandleOf {
    let bucket = bucket.clone();
    actix::spawn(async move { bucket.compact(id(vbucket), OPTIONS).await })
}

#[test]
fn mb_50941_all_are_compacted_and_never_more_at_once_than_the_limit() {
    run(1, async |world| {
        for limit in [1, 2, 3] {
            let bucket = filled_or_opened(&world, 3).await;
            assert_eq!(bucket.set_compaction_limit(limit), limit);
            let watched = bucket.clone();
            let most = actix::spawn(async move {
                let mut most = 0;
                loop {
                    let running = watched.statistics().compaction.running;
                    most = most.max(running);
                    if watched.statistics().compaction.completed == 8 {
                        return most;
                    }
                    tokio::task::yield_now().await;
                }
            });
            let report = bucket.compact_all(OPTIONS).await;
            assert_eq!((report.vbuckets.len(), report.failed().count()), (8, 0));
            assert_eq!(most.await.expect("no panic"), limit as u64);
            assert_eq!(bucket.compactions(), []);
            bucket.shutdown().await.expect("an orderly end");
        }
    });
}
