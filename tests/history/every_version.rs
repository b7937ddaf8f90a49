//! With a history every version of a document reaches the disk and is told, also those written one behind the other in
//! the same moment; without one, the newest.

use std::sync::Arc;

use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{CollectionId, DocumentKey, KvStore, Namespace, Operation, Retention};
use piggin::{Bucket, BucketConfig, PastError, Version};

use crate::support::{Result, block_on, made_small};

const ROUNDS: u64 = 100;

fn config(history: Option<Retention>) -> BucketConfig {
    BucketConfig {
        history,
        ..made_small(BucketConfig::on(Arc::new(SimulatedDisk::new())))
    }
}

fn key(name: &str) -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).unwrap()
}

#[test]
fn history_has_every_version_and_when_it_was_written() -> Result {
    let bucket = block_on(Bucket::create(config(Some(Retention::of_seconds(3600)))))?;
    for round in 0..ROUNDS {
        block_on(bucket.set("a", round.to_string()))?;
        block_on(bucket.set("b", "again"))?;
    }
    block_on(bucket.delete("a"))?;
    let versions = block_on(bucket.versions(&key("a"), 1000))?;
    let (tombstone, written) = versions.split_first().unwrap();
    assert!(matches!(
        tombstone.item.operation,
        Operation::Deletion { .. }
    ));
    assert_eq!(tombstone.superseded_by, None);
    let values: Vec<String> = written
        .iter()
        .map(|one| String::from_utf8_lossy(&one.item.document.value).into_owned())
        .collect();
    let expected: Vec<String> = (0..ROUNDS).rev().map(|round| round.to_string()).collect();
    assert_eq!(values, expected);
    let follow = |pair: &[Version]| {
        pair[1].superseded_by == Some(pair[0].item.seqno)
            && pair[1].item.seqno < pair[0].item.seqno
            && pair[1].committed_at_ms <= pair[0].committed_at_ms
    };
    assert!(versions.windows(2).all(follow));
    assert_eq!(block_on(bucket.versions(&key("a"), 7))?, versions[..7]);
    assert_eq!(block_on(bucket.versions(&key("c"), 100))?, []);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn without_history_the_newest_is_what_there_is() -> Result {
    let bucket = block_on(Bucket::create(config(None)))?;
    for round in 0..ROUNDS {
        block_on(bucket.set("a", round.to_string()))?;
    }
    block_on(bucket.flush())?;
    let refused = block_on(bucket.versions(&key("a"), 100));
    assert_eq!(refused, Err(PastError::NoHistory));
    let handle = bucket.store_handle();
    let lease = handle.lease()?;
    let snapshot = lease.store().snapshot(bucket.vbucket_of(b"a"))?;
    let stored = snapshot.versions(Namespace::Committed, &key("a"), usize::MAX)?;
    assert!(stored.len() < usize::try_from(ROUNDS)?, "{}", stored.len());
    drop((snapshot, lease));
    block_on(bucket.shutdown())?;
    Ok(())
}
