//! What was, of documents that are not in memory: as of a moment, written down, version by version, all as if they were.

use std::sync::Arc;

use piggin::messages::compactor::CompactOptions;
use piggin::storage::Retention;
use piggin::storage::disk::SimulatedDisk;
use piggin::{Bucket, BucketConfig, Location, Moment};

use crate::common::{config, evict, seal};
use crate::support::{Result, block_on};

const DOCUMENTS: u64 = 50;

fn with_history(disk: &SimulatedDisk) -> BucketConfig {
    BucketConfig {
        history: Some(Retention::of_seconds(3600)),
        ..config(disk)
    }
}

fn key(number: u64) -> String {
    format!("{number}")
}

#[test]
fn the_past_of_what_left_memory_is_read_and_restored() -> Result {
    let (disk, to) = (SimulatedDisk::new(), SimulatedDisk::new());
    let bucket = block_on(Bucket::create(with_history(&disk)))?;
    for number in 0..DOCUMENTS {
        block_on(bucket.set(key(number), "first"))?;
    }
    evict(&bucket);
    let then = block_on(bucket.token())?;
    for number in 0..DOCUMENTS {
        match number % 3 {
            0 => drop(block_on(bucket.set(key(number), "second"))?),
            1 => drop(block_on(bucket.delete(key(number)))?),
            _ => drop(block_on(bucket.append(key(number), " and more"))?),
        }
    }
    evict(&bucket);
    for vbucket in bucket.vbuckets() {
        block_on(bucket.compact(vbucket, CompactOptions::default()))?;
    }
    evict(&bucket);
    let past = block_on(bucket.as_of(Moment::Token(then)))?;
    let collection = bucket.collection("_default", "_default")?;
    for number in 0..DOCUMENTS {
        let found = past.get(key(number))?.ok_or("it was there")?;
        assert_eq!(found.value, "first");
        let now = block_on(bucket.get(key(number)));
        match number % 3 {
            0 => assert_eq!(now?.value, "second"),
            1 => assert!(now.is_err()),
            _ => assert_eq!(now?.value, "first and more"),
        }
        let versions = block_on(bucket.versions(&collection.key(key(number))?, 10))?;
        assert_eq!(versions.len(), 2, "{versions:?}");
    }
    let restored = past.restore_into(&Location::Disk(Arc::new(to.clone())))?;
    assert_eq!(restored.documents, DOCUMENTS);
    drop(past);
    seal(&bucket);
    block_on(bucket.shutdown())?;
    let copy = block_on(Bucket::open(config(&to)))?;
    evict(&copy);
    for number in 0..DOCUMENTS {
        assert_eq!(block_on(copy.get(key(number)))?.value, "first");
    }
    assert_eq!(copy.statistics().documents, DOCUMENTS);
    Ok(block_on(copy.shutdown()).map(drop)?)
}
