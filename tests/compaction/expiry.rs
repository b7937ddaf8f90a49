//! What a compaction finds to be expired is deleted by its vbucket, as one whose time is up, and by nobody else.

use std::time::Duration;

use piggin::messages::failure::CompactionStage;
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{CompactOptions, FailureId, OperationError};
use piggin::storage::{VbucketId, VbucketState};
use piggin::{Bucket, BucketConfig, CompactionConfig, CompactionPolicy};
use supervisor::testing::{Clock, HoldPoint, World};

fn run(scenario: impl AsyncFnOnce(World) + Send) {
    World::run(9, |world| scenario(world)).expect("a run that ends");
}

async fn filled(world: &World) -> Bucket {
    let config = BucketConfig {
        vbuckets: Some(1),
        compaction: CompactionConfig {
            policy: CompactionPolicy::NEVER,
            ..CompactionConfig::default()
        },
        ..world.config()
    };
    let bucket = world.create(config).await.expect("a bucket");
    for number in 0..10 {
        let key = format!("key {number}");
        let expiry = if number < 4 { 100 } else { 0 };
        bucket.set(key, "1").expiry(expiry).await.expect("a write");
    }
    bucket.flush().await.expect("a flush");
    bucket
}

async fn compact(bucket: &Bucket) {
    let options = CompactOptions::default();
    let compacted = bucket.compact(VbucketId::FIRST, options).await;
    compacted.expect("a compaction");
    bucket.flush().await.expect("a flush");
}

#[test]
fn documents_whose_time_is_up_are_deleted() {
    run(async |world| {
        let bucket = filled(&world).await;
        compact(&bucket).await;
        assert_eq!(bucket.statistics().documents, 10, "their time is not up");
        world.sleep(Duration::from_secs(200)).await;
        // One was written again since the compaction will have read it.
        bucket.set("key 0", "2").await.expect("a write");
        assert_eq!(bucket.statistics().documents, 10, "nobody looked");
        compact(&bucket).await;
        let statistics = bucket.statistics();
        assert_eq!(
            (statistics.documents, statistics.compaction.expired),
            (7, 3)
        );
        let meta = bucket.get_meta("key 1").await;
        assert!(meta.is_err() || meta.is_ok_and(|meta| meta.is_deleted));
        assert_eq!(bucket.get("key 0").await.expect("it").value, "2");
        compact(&bucket).await;
        assert_eq!(bucket.statistics().compaction.expired, 3, "once");
        assert_eq!(bucket.failures(FailureId(0)).failures, []);
        bucket.shutdown().await.expect("an orderly end");
    });
}

/// A compaction that has read the vbucket, and not told yet what it found.
async fn held(world: &World, bucket: &Bucket, meanwhile: impl Future) {
    let hold = world.hold(HoldPoint {
        vbucket: VbucketId::FIRST,
        stage: CompactionStage::Merge,
    });
    let asked = bucket.clone();
    let compaction = actix::spawn(async move { compact(&asked).await });
    hold.reached().await;
    meanwhile.await;
    hold.release();
    compaction.await.expect("no panic");
}

#[test]
fn only_the_version_that_was_found_is_deleted() {
    run(async |world| {
        let bucket = filled(&world).await;
        world.sleep(Duration::from_secs(200)).await;
        let meanwhile = async {
            bucket.set("key 0", "2").await.expect("a write");
            // Its time is up as well, but nobody found that.
            let now = world.clock().since_epoch().as_secs();
            let past = u32::try_from(now - 10).expect("a time");
            let again = bucket.set("key 1", "2").expiry(past);
            again.await.expect("a write");
            // To whoever asks it is gone already.
            let gone = bucket.delete("key 2").await;
            assert_eq!(gone, Err(OperationError::KeyNotFound));
        };
        held(&world, &bucket, meanwhile).await;
        assert_eq!(bucket.statistics().compaction.expired, 1, "the last one");
        assert_eq!(bucket.get("key 0").await.expect("it").value, "2");
        let documents = bucket.statistics().documents;
        assert_eq!(documents, 8, "all but the last two");
        compact(&bucket).await;
        let statistics = bucket.statistics();
        let figures = (statistics.documents, statistics.compaction.expired);
        assert_eq!(figures, (7, 2), "found by now");
        assert_eq!(bucket.failures(FailureId(0)).failures, []);
        bucket.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn what_became_a_replica_meanwhile_deletes_nothing() {
    run(async |world| {
        let bucket = filled(&world).await;
        world.sleep(Duration::from_secs(200)).await;
        let meanwhile = async {
            let vbucket = bucket.vbucket(VbucketId::FIRST).expect("it");
            let replica = vbucket.send(SetVbucketState {
                state: VbucketState::Replica,
                topology: None,
                is_takeover: false,
            });
            replica.await.expect("it lives").expect("a change");
        };
        held(&world, &bucket, meanwhile).await;
        let statistics = bucket.statistics();
        let figures = (statistics.documents, statistics.compaction.expired);
        assert_eq!(figures, (10, 0));
        bucket.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn a_replica_deletes_nothing_of_its_own() {
    run(async |world| {
        let bucket = filled(&world).await;
        world.sleep(Duration::from_secs(200)).await;
        let vbucket = bucket.vbucket(VbucketId::FIRST).expect("it");
        let become_it = |state| SetVbucketState {
            state,
            topology: None,
            is_takeover: false,
        };
        let replica = vbucket.send(become_it(VbucketState::Replica)).await;
        let before = replica.expect("it lives").expect("a change");
        compact(&bucket).await;
        assert_eq!(bucket.statistics().compaction.expired, 0);
        let after = &bucket.statistics().vbuckets[0];
        assert_eq!(after.high_seqno, before.high_seqno);
        let active = vbucket.send(become_it(VbucketState::Active)).await;
        active.expect("it lives").expect("a change");
        compact(&bucket).await;
        assert_eq!(bucket.statistics().compaction.expired, 4);
        let gone = bucket.get("key 0").await;
        assert_eq!(gone, Err(OperationError::KeyNotFound));
    });
}
