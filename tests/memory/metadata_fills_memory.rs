//! Where values leave memory alone and the rest of all documents is more than the quota, writes are refused; what is there is read,
//! deletions make room, and a bucket that is opened with too little memory loads to its end and serves reads.

use std::time::Duration;

use piggin::messages::{Busy, OperationError};
use piggin::storage::Eviction;
use piggin::{Bucket, BucketConfig};
use supervisor::testing::World;

const QUOTA: u64 = 8 << 20;
const FULL: OperationError = OperationError::TemporaryFailure(Busy::Memory);
/// So many refusals in a row are as many as for ever.
const REFUSALS_MAX: u32 = 200;

fn config(world: &World, quota: u64) -> BucketConfig {
    BucketConfig {
        eviction: Some(Eviction::Values),
        vbuckets: Some(2),
        memory_quota_bytes: quota,
        ..world.config()
    }
}

fn value(number: u64) -> String {
    format!("the value {number}")
}

/// Writes it, if there comes to be room for it.
async fn write(world: &World, bucket: &Bucket, number: u64) -> Result<(), OperationError> {
    for _ in 0..REFUSALS_MAX {
        match bucket.set(format!("{number}"), value(number)).await {
            Err(FULL) => world.sleep(Duration::from_millis(20)).await,
            answer => return answer.map(drop),
        }
    }
    Err(FULL)
}

/// Writes until there is no room; how many it wrote.
async fn fill(world: &World, bucket: &Bucket) -> u64 {
    for number in 0.. {
        match write(world, bucket, number).await {
            Ok(()) => {}
            Err(FULL) => return number,
            Err(error) => panic!("{error}"),
        }
    }
    0
}

async fn assert_read(bucket: &Bucket, documents: std::ops::Range<u64>) {
    for number in documents {
        let found = bucket.get(format!("{number}")).await;
        assert_eq!(found.expect("it").value, value(number));
    }
}

#[test]
fn writes_are_refused_reads_are_not() {
    World::run(1, |world| async move {
        let bucket = world.create(config(&world, QUOTA)).await;
        let bucket = bucket.expect("a bucket");
        let written = fill(&world, &bucket).await;
        let memory = bucket.memory();
        assert!(memory.evicted > written / 2, "{memory:?}");
        assert!(memory.bytes <= QUOTA + QUOTA / 8, "{memory:?}");
        assert_read(&bucket, 0..written).await;
        let rest = written / 2;
        for number in rest..written {
            bucket
                .delete(format!("{number}"))
                .await
                .expect("a deletion");
            world.sleep(Duration::from_millis(20)).await;
        }
        write(&world, &bucket, written)
            .await
            .expect("there is room");
        bucket.flush().await.expect("a flush");
        bucket.shutdown().await.expect("an end");

        let bucket = world.open(config(&world, QUOTA / 8)).await;
        let bucket = bucket.expect("the bucket");
        let statistics = bucket.statistics();
        assert_eq!(statistics.documents, rest + 1);
        assert!(statistics.memory.bytes > QUOTA / 8, "{statistics:?}");
        assert_read(&bucket, 0..rest).await;
        assert_eq!(bucket.memory().restored, 0, "there is no room");
        assert_eq!(write(&world, &bucket, 0).await, Err(FULL));
        bucket.shutdown().await.expect("an end");

        let bucket = world.open(config(&world, QUOTA)).await;
        let bucket = bucket.expect("the bucket");
        write(&world, &bucket, 0).await.expect("there is room");
        assert_read(&bucket, 0..rest).await;
        bucket.shutdown().await.expect("an end");
    })
    .expect("a run that ends");
}
