//! Any document is found while there is one, though none is in memory, and though the disk still has some that were deleted.

use std::time::Duration;

use piggin::BucketConfig;
use piggin::storage::MemoryMarks;
use supervisor::testing::World;

use crate::common::LEAVING;

#[test]
fn what_was_just_deleted_is_not_picked_in_its_place() {
    for (seed, eviction) in (0..8).flat_map(|seed| LEAVING.map(|eviction| (seed, eviction))) {
        World::run(seed, |world| async move {
            let config = BucketConfig {
                eviction: Some(eviction),
                vbuckets: Some(1),
                memory_marks: MemoryMarks::ALL_LEAVES,
                memory_quota_bytes: 1 << 20,
                ..world.config()
            };
            let bucket = world.create(config).await.expect("a bucket");
            for name in ["a", "b", "c"] {
                bucket.set(name, name).await.expect("a write");
            }
            bucket.flush().await.expect("a flush");
            world.sleep(Duration::from_secs(200)).await;
            assert_eq!(bucket.memory().resident_documents, 0);
            // In memory alone.
            bucket.delete("a").await.expect("a deletion");
            bucket.delete("c").await.expect("a deletion");
            let picked = bucket.get_random().await.expect("a document");
            assert_eq!(picked.key.key(), b"b");
            assert_eq!(picked.found.value, "b");
            bucket.shutdown().await.expect("an end");
        })
        .expect("a run that ends");
    }
}
