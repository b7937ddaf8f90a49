//! A bucket's figures are told in a file to whoever does not have it open, for as long as somebody wants that and the bucket is
//! open; the telling keeps no bucket open and is in nobody's way.

use std::sync::Arc;
use std::time::Duration;

use piggin::storage::StorageError;
use piggin::storage::disk::SimulatedDisk;
use piggin::{Bucket, BucketConfig, Figures, Location};

use crate::support::{Result, block_on, fill, made_small, small, until};

const OFTEN: Duration = Duration::from_millis(1);

fn at(disk: &SimulatedDisk) -> Location {
    Location::Disk(Arc::new(disk.clone()))
}

fn read(disk: &SimulatedDisk) -> Option<Figures> {
    Figures::read(at(disk)).unwrap()
}

#[test]
fn figures_of_a_bucket_in_use_are_read_without_opening_it() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(Arc::new(
        disk.clone(),
    )))))?;
    assert_eq!(read(&disk), None, "nobody asked for them");
    let told = bucket.tell_figures(at(&disk), OFTEN)?;
    let first = read(&disk).ok_or("told at once")?;
    assert_eq!(first.value("documents"), 0);
    fill(&bucket, 5);
    // Of what was written before it is told.
    until(|| read(&disk).is_some_and(|now| now.value("persisted") == 20));
    let now = read(&disk).ok_or("told")?;
    assert_eq!(now.value("documents"), 20);
    assert_eq!((now.value("written"), now.value("unpersisted")), (20, 0));
    assert!(now.number > first.number && now.time_ms >= first.time_ms);
    assert_eq!(now.every_ms, 1);
    told.end();
    assert_eq!(read(&disk), None, "it went with who told it");
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn figures_end_with_their_bucket() -> Result {
    let disk = SimulatedDisk::new();
    let config = BucketConfig::on(Arc::new(disk.clone()));
    let bucket = block_on(Bucket::create(made_small(config)))?;
    let told = bucket.tell_figures(at(&disk), OFTEN)?;
    // The telling is no handle: the bucket ends.
    block_on(bucket.shutdown())?;
    until(|| read(&disk).is_none());
    told.end();
    let bucket = block_on(Bucket::open(small(BucketConfig::on(Arc::new(
        disk.clone(),
    )))))?;
    let told = bucket.tell_figures(at(&disk), Duration::from_secs(3600))?;
    // What a process that was killed left is in nobody's way, and written over.
    let left = disk.crash_keeping_everything();
    drop(told);
    block_on(bucket.shutdown())?;
    let config = small(BucketConfig::on(Arc::new(left.clone())));
    let bucket = block_on(Bucket::open(config))?;
    assert!(read(&left).is_some());
    let told = bucket.tell_figures(at(&left), OFTEN)?;
    until(|| read(&left).is_some_and(|now| now.every_ms == 1 && now.number > 2));
    told.end();
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn figures_of_nowhere_are_refused() -> Result {
    let disk = SimulatedDisk::new();
    let config = BucketConfig::on(Arc::new(disk.clone()));
    let bucket = block_on(Bucket::create(made_small(config)))?;
    let nowhere = Location::from("/no/such/directory");
    let refused = bucket.tell_figures(nowhere.clone(), OFTEN).map(drop);
    assert_eq!(refused, Err(StorageError::NoStore));
    assert_eq!(Figures::read(nowhere), Err(StorageError::NoStore));
    block_on(bucket.shutdown())?;
    Ok(())
}
