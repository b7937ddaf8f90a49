//! What is made of a document whose value is not in memory is made of that value: so it is on disk, and so streams tell it, from
//! memory and from disk.

use std::collections::BTreeMap;
use std::time::Duration;

use piggin::messages::stream::StreamEvent;
use piggin::storage::{Eviction, MemoryMarks};
use piggin::{Bucket, BucketConfig, ChangesOptions, Until};
use supervisor::testing::World;

use crate::common::LEAVING;

const DOCUMENTS: u64 = 40;

fn config(world: &World, eviction: Eviction) -> BucketConfig {
    BucketConfig {
        eviction: Some(eviction),
        vbuckets: Some(2),
        memory_marks: MemoryMarks::ALL_LEAVES,
        memory_quota_bytes: 1 << 20,
        ..world.config()
    }
}

async fn told(bucket: &Bucket) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let options = ChangesOptions {
        until: Until::Now,
        ..ChangesOptions::default()
    };
    let mut changes = bucket.changes(options).await.expect("changes");
    let mut told = BTreeMap::new();
    while let Some(change) = changes.next().await {
        if let StreamEvent::Mutation(item) = change.event {
            let document = &item.document;
            told.insert(document.key.key().to_vec(), document.value.to_vec());
        }
    }
    told
}

/// Everything leaves.
async fn leave(world: &World, bucket: &Bucket) {
    bucket.flush().await.expect("a flush");
    world.sleep(Duration::from_secs(200)).await;
    assert_eq!(bucket.memory().resident_documents, 0);
}

async fn change(bucket: &Bucket, number: u64) -> String {
    let key = format!("{number}");
    match number % 5 {
        0 => drop(bucket.touch(&key, 1_000_000).await.expect("a touch")),
        1 => {
            let found = bucket.get_and_touch(&key, 1_000_000).await.expect("it");
            assert_eq!(found.value, number.to_string());
        }
        2 => {
            bucket.append(&key, "0").await.expect("an append");
            return format!("{number}0");
        }
        3 => {
            bucket.prepend(&key, "1").await.expect("a prepend");
            return format!("1{number}");
        }
        _ => {
            let counted = bucket.increment(&key, 5).await.expect("a number");
            assert_eq!(counted.counter, Some(number + 5));
            return (number + 5).to_string();
        }
    }
    key
}

pub(crate) fn run(eviction: Eviction, plant: fn()) {
    World::run(1, |world| async move {
        plant();
        let bucket = world.create(config(&world, eviction)).await;
        let bucket = bucket.expect("a bucket");
        let mut values = BTreeMap::new();
        for number in 0..DOCUMENTS {
            let text = number.to_string();
            bucket.set(&text, text.clone()).await.expect("a write");
        }
        leave(&world, &bucket).await;
        for number in 0..DOCUMENTS {
            let value = change(&bucket, number).await;
            values.insert(number.to_string().into_bytes(), value.into_bytes());
        }
        assert_eq!(told(&bucket).await, values);
        leave(&world, &bucket).await;
        assert_eq!(told(&bucket).await, values);
        bucket.shutdown().await.expect("an end");
        let bucket = world.open(config(&world, eviction)).await;
        let bucket = bucket.expect("the bucket");
        assert_eq!(told(&bucket).await, values);
        bucket.shutdown().await.expect("an end");
    })
    .expect("a run that ends");
}

#[test]
fn streams_and_the_disk_have_it_whole() {
    for eviction in LEAVING {
        run(eviction, || {});
    }
}
