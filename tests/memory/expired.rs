//! A document whose time is up while it is not in memory is found by a compaction and deleted, as one that is; what was written
//! over it since stays.

use std::time::Duration;

use piggin::BucketConfig;
use piggin::messages::OperationError;
use piggin::messages::compactor::CompactOptions;
use piggin::storage::{Eviction, MemoryMarks, VbucketId};
use supervisor::testing::World;

use crate::common::LEAVING;

const DOCUMENTS: u64 = 60;

#[test]
fn what_left_memory_expires() {
    LEAVING.into_iter().for_each(check);
}

fn check(eviction: Eviction) {
    World::run(1, |world| async move {
        let config = BucketConfig {
            eviction: Some(eviction),
            vbuckets: Some(1),
            memory_marks: MemoryMarks::ALL_LEAVES,
            memory_quota_bytes: 1 << 20,
            ..world.config()
        };
        let bucket = world.create(config).await.expect("a bucket");
        for number in 0..DOCUMENTS {
            let write = bucket.set(format!("{number}"), vec![b'v'; 300]).expiry(100);
            write.await.expect("a write");
        }
        bucket.flush().await.expect("a flush");
        world.sleep(Duration::from_secs(200)).await;
        assert_eq!(bucket.memory().resident_documents, 0);
        assert_eq!(bucket.statistics().documents, DOCUMENTS, "nobody looked");
        bucket.set("0", "anew").await.expect("a write");
        let compacted = bucket.compact(VbucketId::FIRST, CompactOptions::default());
        compacted.await.expect("a compaction");
        bucket.flush().await.expect("a flush");
        let statistics = bucket.statistics();
        assert_eq!(statistics.compaction.expired, DOCUMENTS - 1);
        assert_eq!(statistics.documents, 1);
        assert_eq!(bucket.get("0").await.expect("it").value, "anew");
        assert_eq!(bucket.get("1").await, Err(OperationError::KeyNotFound));
        bucket.shutdown().await.expect("an end");
    })
    .expect("a run that ends");
}
