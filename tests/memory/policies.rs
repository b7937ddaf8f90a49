//! What leaves memory is chosen when a bucket is made, kept with it, and not changed by opening it otherwise; a bucket that has
//! nothing leave refuses what is too much.

use piggin::messages::{Busy, OperationError};
use piggin::storage::Eviction;
use piggin::storage::disk::SimulatedDisk;
use piggin::{Bucket, BucketConfig, BucketError};

use crate::common::config;
use crate::support::{Result, block_on};

#[test]
fn it_is_stored_and_another_is_refused() -> Result {
    for stored in Eviction::ALL {
        let disk = SimulatedDisk::new();
        let asks = |eviction| BucketConfig {
            eviction,
            ..config(&disk)
        };
        let bucket = block_on(Bucket::create(asks(Some(stored))))?;
        assert_eq!(bucket.memory().eviction, stored);
        block_on(bucket.shutdown())?;
        for given in Eviction::ALL {
            let opened = block_on(Bucket::open(asks(Some(given))));
            if given == stored {
                block_on(opened?.shutdown())?;
            } else {
                assert_eq!(
                    opened.unwrap_err(),
                    BucketError::OtherEviction { stored, given }
                );
            }
        }
        let bucket = block_on(Bucket::open(asks(None)))?;
        assert_eq!(bucket.memory().eviction, stored);
        block_on(bucket.shutdown())?;
    }
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(config(&disk)))?;
    assert_eq!(
        bucket.memory().eviction,
        Eviction::Documents,
        "if nothing is said"
    );
    Ok(block_on(bucket.shutdown()).map(drop)?)
}

#[test]
fn where_nothing_leaves_writes_are_refused_when_memory_is_full() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(BucketConfig {
        eviction: Some(Eviction::None),
        memory_quota_bytes: 1 << 20,
        ..config(&disk)
    }))?;
    let value = vec![b'v'; 10_000];
    let mut written = 0_u64;
    let refused = loop {
        match block_on(bucket.set(format!("{written}"), value.clone())) {
            Ok(_) => written += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, OperationError::TemporaryFailure(Busy::Memory));
    let figures = bucket.statistics();
    assert_eq!(
        (figures.memory.evicted, figures.memory.resident_documents),
        (0, written)
    );
    Ok(block_on(bucket.shutdown()).map(drop)?)
}
