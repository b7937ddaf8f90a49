//! The last handle stops the engine. That is no orderly end: the next opening begins a new branch of history in every
//! vbucket. After an orderly end it does not.

use std::sync::Arc;

use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{FileSystemDisk, VbucketUuid};
use piggin::{Bucket, BucketConfig};

use crate::support::{
    Result, TempDirectory, TestDisk, assert_filled, block_on, fill, made_small, small,
};

fn branches(bucket: &Bucket) -> Vec<VbucketUuid> {
    let vbuckets = bucket.statistics().vbuckets;
    vbuckets.iter().map(|one| one.vbucket_uuid).collect()
}

fn check(disk: &TestDisk) -> Result {
    let config = || small(BucketConfig::on(Arc::new(disk.clone())));
    let bucket = block_on(Bucket::create(made_small(config())))?;
    let keys = fill(&bucket, 3);
    let created = branches(&bucket);

    // One of two handles goes: nothing ends.
    drop(bucket.clone());
    block_on(
        bucket
            .set(&keys[0], crate::support::value_of(&keys[0]))
            .persisted(),
    )?;
    block_on(bucket.shutdown())?;

    let bucket = block_on(Bucket::open(config()))?;
    assert_eq!(branches(&bucket), created, "an orderly end");
    assert_filled(&bucket, &keys);
    let closed = bucket.closed();
    drop(bucket);
    block_on(closed);

    let bucket = block_on(Bucket::open(config()))?;
    let branched = branches(&bucket);
    for (old, new) in created.iter().zip(&branched) {
        assert_ne!(old, new, "the last handle was dropped");
    }
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;

    let bucket = block_on(Bucket::open(config()))?;
    assert_eq!(branches(&bucket), branched, "an orderly end again");
    block_on(bucket.shutdown())?;
    Ok(())
}

/// Whoever waited for the end, of whatever kind, finds the directory free, every time.
#[test]
fn the_end_can_be_waited_for() -> Result {
    let disk = SimulatedDisk::new();
    let config = || small(BucketConfig::on(Arc::new(disk.clone())));
    let mut bucket = block_on(Bucket::create(made_small(config())))?;
    for turn in 0..20 {
        let (closed, ended_twice) = (bucket.closed(), bucket.closed());
        if turn % 3 == 0 {
            block_on(bucket.shutdown())?;
        } else {
            drop(bucket);
        }
        block_on(closed);
        bucket = block_on(Bucket::open(config()))?;
        block_on(ended_twice);
    }
    let other = bucket.clone();
    block_on(bucket.shutdown())?;
    // Of what has ended there is nothing to wait for.
    block_on(other.closed());
    Ok(())
}

#[test]
fn on_the_file_system() -> Result {
    let directory = TempDirectory::new();
    check(&TestDisk::new(FileSystemDisk::new(directory.path())?))
}

#[test]
fn on_a_simulated_disk() -> Result {
    check(&TestDisk::new(SimulatedDisk::new()))
}
