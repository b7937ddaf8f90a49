//! What is not in memory, and can be read without waiting for the disk, is read by whoever asks: no reader is asked, nothing is
//! waited for. What cannot goes the long way, with the same answers and the same failures.

use futures_util::FutureExt;

use actors::vbucket::LookedUp;
use piggin::messages::{Busy, FailureCause, FailureId, FailureKind, OperationError};
use piggin::storage::disk::{DiskErrorKind, Fault as DiskFault, SimulatedDisk, Verb};
use piggin::storage::{CollectionId, DocumentKey, Eviction};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::{Fault, Harness};

use crate::common::{config_of, core, each, evict};
use crate::support::{Result, block_on};

/// Answered when it is first polled.
fn at_once<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("an answer at once")
}

#[test]
fn reads_and_changes_are_answered_when_they_are_first_polled() -> Result {
    each(|eviction| {
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(config_of(&disk, eviction)))?;
        for name in ["a", "b", "c", "d", "e", "f", "g"] {
            block_on(bucket.set(name, "value"))?;
        }
        evict(&bucket);
        disk.set_in_memory(1);
        assert_eq!(at_once(bucket.get("a").into_future())?.value, "value");
        assert!(at_once(bucket.exists("b"))?);
        at_once(bucket.append("c", "+").into_future())?;
        assert_eq!(at_once(bucket.get("c").into_future())?.value, "value+");
        at_once(bucket.replace("d", "x").into_future())?;
        at_once(bucket.touch("e", 60).into_future())?;
        let missing = Err(OperationError::KeyNotFound);
        assert_eq!(at_once(bucket.get("z").into_future()).map(drop), missing);
        let exists = Err(OperationError::KeyExists);
        assert_eq!(
            at_once(bucket.add("f", "x").into_future()).map(drop),
            exists
        );
        let many = at_once(bucket.get_many(["g", "a", "z"]));
        let found: Vec<_> = many.iter().map(std::result::Result::is_ok).collect();
        assert_eq!(found, [true, true, false]);
        let figures = bucket.memory();
        assert!(figures.fetched_at_once > 0);
        assert_eq!(figures.fetched_at_once, figures.fetched, "{figures:?}");
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn what_would_have_to_be_waited_for_is_read_by_a_reader() -> Result {
    each(|eviction| {
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(config_of(&disk, eviction)))?;
        block_on(bucket.set("a", "value"))?;
        block_on(bucket.set("large", vec![7; 80 << 10]))?;
        evict(&bucket);
        assert_eq!(block_on(bucket.get("a"))?.value, "value");
        // It is there, but too large to be read in passing.
        disk.set_in_memory(1);
        assert_eq!(block_on(bucket.get("large"))?.value.len(), 80 << 10);
        let figures = bucket.memory();
        assert_eq!((figures.fetched, figures.fetched_at_once), (2, 0));
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn a_read_that_fails_is_told_as_a_readers() -> Result {
    each(|eviction| {
        let harness = Harness::new();
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(BucketConfig {
            hooks: harness.hooks(),
            ..config_of(&disk, eviction)
        }))?;
        block_on(bucket.set("a", "value"))?;
        evict(&bucket);
        disk.set_in_memory(1);
        let refused = Err(OperationError::TemporaryFailure(Busy::NotInMemory));
        let told = || bucket.failures(FailureId(0)).failures;
        // What a test wants to fail does.
        assert!(harness.inject(Fault::FetchAt(1)).is_ok());
        assert_eq!(block_on(bucket.get("a")).map(drop), refused);
        assert!(matches!(told()[0].cause, FailureCause::Injected(_)));
        // So does what the disk fails, twice: for who asks, and for the reader.
        let broken = || DiskFault::failed_call(DiskErrorKind::Other("broken".into()));
        disk.inject(broken().on(Verb::Read).of_files("container").nth(1));
        disk.inject(broken().on(Verb::Read).of_files("container").nth(2));
        assert_eq!(block_on(bucket.get("a")).map(drop), refused);
        assert_eq!(disk.faults_waiting(), 0);
        let told = told();
        assert_eq!(told.len(), 2);
        assert_eq!(told[1].kind, FailureKind::Fetch);
        assert!(matches!(told[1].cause, FailureCause::Storage(_)));
        // One that is over when the reader reads is none.
        disk.inject(broken().on(Verb::Read).of_files("container").nth(1));
        assert_eq!(block_on(bucket.get("a"))?.value, "value");
        assert_eq!(disk.faults_waiting(), 0);
        assert_eq!(bucket.failures(FailureId(0)).failures.len(), 2);
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

/// It is of the same past, and as new, as what a reader finds.
#[test]
fn both_ways_find_the_same() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(config_of(&disk, Eviction::Documents)))?;
    block_on(bucket.set("a", "value"))?;
    block_on(bucket.delete("a"))?;
    block_on(bucket.set("b", "value"))?;
    evict(&bucket);
    disk.set_in_memory(1);
    let lease = bucket.store_handle().lease()?;
    for name in ["a", "b", "c"] {
        let key = DocumentKey::new(CollectionId::DEFAULT, name.as_bytes())?;
        let vbucket = core(&bucket, bucket.vbucket_of(name.as_bytes())).id();
        let waited = LookedUp::in_store(lease.store(), vbucket, &key)?;
        let at_once = LookedUp::in_store_at_once(lease.store(), vbucket, &key)?;
        assert_eq!((at_once.up_to, at_once.epoch), (waited.up_to, waited.epoch));
        assert_eq!(at_once.newest, waited.newest);
    }
    drop(lease);
    Ok(block_on(bucket.shutdown()).map(drop)?)
}
