//! A document that is not in memory and cannot be read is never answered as absent: whoever asked is told, so is the failure
//! bus, and one counter moves.

use piggin::messages::{Busy, FailureCause, FailureId, FailureKind, NextStep, OperationError};
use piggin::storage::Advice;
use piggin::storage::disk::SimulatedDisk;
use piggin::{Bucket, BucketConfig};
use supervisor::testing::{Fault, Harness};

use crate::common::{config_of, each, evict};
use crate::support::{Result, block_on};

#[test]
fn whoever_asked_is_told_and_it_is_told_once() -> Result {
    each(|eviction| {
        let harness = Harness::new();
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(BucketConfig {
            hooks: harness.hooks(),
            ..config_of(&disk, eviction)
        }))?;
        block_on(bucket.set("a", "value"))?;
        evict(&bucket);
        for number in 1..=3 {
            assert!(harness.inject(Fault::FetchAt(1)).is_ok());
            let refused = match number {
                1 => block_on(bucket.get("a")).map(drop),
                2 => block_on(bucket.append("a", "x")).map(drop),
                _ => block_on(bucket.get_many(["a"])).remove(0).map(drop),
            };
            assert_eq!(
                refused,
                Err(OperationError::TemporaryFailure(Busy::NotInMemory))
            );
            assert_eq!(refused.unwrap_err().advice(), Advice::RetryLater);
            let told = bucket.failures(FailureId(0)).failures;
            assert_eq!(told.len(), number);
            let failure = told.last().ok_or("no failure")?;
            assert_eq!(
                (failure.kind, failure.next),
                (FailureKind::Fetch, NextStep::Nothing)
            );
            assert_eq!(failure.vbucket, Some(bucket.vbucket_of(b"a")));
            assert!(matches!(failure.cause, FailureCause::Injected(_)));
            let counted = bucket.statistics().failures;
            assert_eq!(
                counted.get(FailureKind::Fetch.counter()),
                Some(&(number as u64))
            );
        }
        assert_eq!(block_on(bucket.get("a"))?.value, "value");
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}
