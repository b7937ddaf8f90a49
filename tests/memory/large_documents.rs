//! A document that is larger than what is left of the quota finds room, though memory is not short before it comes: whoever
//! gives memory back learns that it was refused.

use std::time::Duration;

use piggin::messages::{Busy, OperationError};
use piggin::storage::MemoryMarks;
use piggin::{Bucket, BucketConfig};
use supervisor::testing::World;

use crate::support::small;

const QUOTA: u64 = 1 << 20;
/// So many refusals in a row are as many as for ever.
const REFUSALS_MAX: u32 = 1000;

async fn write(world: &World, bucket: &Bucket, key: &str, value: Vec<u8>) -> u32 {
    for refusals in 0..REFUSALS_MAX {
        match bucket.set(key, value.clone()).await {
            Ok(_) => return refusals,
            Err(OperationError::TemporaryFailure(Busy::Memory)) => {
                world.sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }
    panic!("{key} is refused for ever");
}

/// Fills a bucket up to a part of its quota, and then writes a document that has no room.
async fn fill(world: World, marks: MemoryMarks, percent: u64) {
    let config = BucketConfig {
        vbuckets: Some(2),
        memory_quota_bytes: QUOTA,
        memory_marks: marks,
        ..small(world.config())
    };
    let bucket = world.create(config).await.expect("a bucket");
    for number in 0.. {
        if bucket.statistics().memory.bytes >= QUOTA * percent / 100 {
            break;
        }
        write(&world, &bucket, &format!("{number}"), vec![1; 4 << 10]).await;
    }
    bucket.flush().await.expect("a flush");
    assert_eq!(bucket.memory().evicted, 0, "nothing is short yet");
    let refusals = write(&world, &bucket, "large", vec![2; 300 << 10]).await;
    assert!(refusals > 0, "there was room");
    assert_eq!(
        bucket.get("large").await.expect("it").value.len(),
        300 << 10
    );
    assert_eq!(bucket.get("0").await.expect("it").value.len(), 4 << 10);
    bucket.shutdown().await.expect("an end");
}

#[test]
fn a_large_document_finds_room_below_the_high_mark() {
    World::run(0, |world| fill(world, MemoryMarks::default(), 80)).expect("a run that ends");
}

#[test]
fn marks_as_high_as_the_quota_stop_no_write() {
    let marks = MemoryMarks {
        high_percent: 100,
        low_percent: 100,
    };
    World::run(0, move |world| fill(world, marks, 95)).expect("a run that ends");
}
