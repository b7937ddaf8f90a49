//! What a bucket dropped is what its store erases: each life of a collection from its beginning to its end, and nothing of
//! those that are open.

use std::sync::Arc;

use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{
    CollectionId, CompactionRequest, DroppedCollection, KvStore, LogStore, OpenOptions, Outcome,
};
use piggin::{Bucket, BucketConfig, CompactionPolicy};

use crate::support::{
    Result, assert_filled, block_on, fill, key_in, made_small, small, value_of, vbucket,
};

/// Documents of each collection in each vbucket.
const EACH: usize = 5;

fn fill_collection(bucket: &Bucket, name: &str) -> Result<CollectionId> {
    let collection = bucket.collection("_default", name)?;
    for id in (0..4).map(vbucket) {
        for number in 0..EACH {
            let key = key_in(bucket, id, number);
            block_on(collection.set(&key, value_of(&key)))?;
        }
    }
    block_on(bucket.flush())?;
    Ok(collection.id())
}

#[test]
fn every_life_of_a_dropped_collection_is_erased_and_no_other() -> Result {
    let disk = SimulatedDisk::new();
    let config = || small(BucketConfig::on(Arc::new(disk.clone())));
    let mut made = made_small(config());
    // So that there is something left to be looked at.
    made.compaction.policy = CompactionPolicy::NEVER;
    let bucket = block_on(Bucket::create(made))?;
    let keys = fill(&bucket, EACH);
    let mut dropped = Vec::new();
    for name in ["a", "b"] {
        block_on(bucket.create_collection("_default", name))?;
        dropped.push(fill_collection(&bucket, name)?);
    }
    for name in ["a", "b"] {
        block_on(bucket.drop_collection("_default", name))?;
    }
    block_on(bucket.create_collection("_default", "a"))?;
    let open = fill_collection(&bucket, "a")?;
    // One that never reached the disk in between.
    block_on(bucket.create_scope("s"))?;
    block_on(bucket.create_collection("s", "c"))?;
    block_on(bucket.drop_scope("s"))?;
    let manifest = bucket.manifest();
    block_on(bucket.shutdown())?;

    let store = LogStore::open(Arc::new(disk.clone()), OpenOptions::new(1))?;
    for id in (0..4).map(vbucket) {
        let listed = store.snapshot(id)?.dropped_collections();
        let of = |one: &CollectionId| {
            let mut lives = listed.iter().filter(|life| life.collection == *one);
            let DroppedCollection { start, end, .. } = lives.next().unwrap();
            assert!(start < end && lives.next().is_none(), "{listed:?}");
        };
        dropped.iter().for_each(of);
        assert_eq!(listed.len(), 3, "{listed:?}");
        let Outcome::Complete(done) = store.compact(id, &CompactionRequest::default()) else {
            panic!("not compacted");
        };
        assert_eq!(done.collection_items_purged, 2 * EACH as u64);
        assert_eq!(done.erased.len(), 3);
        assert!(store.snapshot(id)?.dropped_collections().is_empty());
        let counts = store.counts(id)?.collections;
        let documents = |id| counts.get(id).map_or(0, |one| one.documents);
        assert!(dropped.iter().all(|id| documents(id) == 0), "{counts:?}");
        assert_eq!(documents(&open), i64::try_from(EACH)?);
    }
    drop(store);

    let bucket = block_on(Bucket::open(config()))?;
    assert_eq!(bucket.manifest(), manifest);
    assert_filled(&bucket, &keys);
    let collection = bucket.collection("_default", "a")?;
    assert_eq!(collection.id(), open);
    for id in (0..4).map(vbucket) {
        for number in 0..EACH {
            let key = key_in(&bucket, id, number);
            assert_eq!(block_on(collection.get(&key))?.value, value_of(&key));
        }
    }
    assert_eq!(bucket.statistics().documents, 8 * EACH as u64);
    block_on(bucket.shutdown())?;
    Ok(())
}
