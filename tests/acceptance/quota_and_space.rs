//! A full quota and a full disk refuse writes by name, whole, and heal; reads go on and nothing is lost.

use std::sync::Arc;

use piggin::messages::{Busy, FailureKind, OperationError};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{Advice, Eviction};
use piggin::{Bucket, BucketConfig};

use crate::support::evicting::resident;
use crate::support::{
    Listener, Result, TempDirectory, assert_filled, block_on, fill, made_small, small, until,
    value_of,
};

const OUT_OF_MEMORY: OperationError = OperationError::TemporaryFailure(Busy::Memory);
const DISK_FULL: OperationError = OperationError::TemporaryFailure(Busy::DiskFull);

#[test]
fn a_full_quota_refuses_writes_and_takes_deletions() -> Result {
    let directory = TempDirectory::new();
    let mut config = made_small(BucketConfig::at(directory.path()));
    config.eviction = Some(Eviction::None);
    config.memory_quota_bytes = 1 << 20;
    let bucket = block_on(Bucket::create(config))?;
    let mut written = Vec::new();
    let refused = loop {
        let key = format!("key-{}", written.len());
        match block_on(bucket.set(&key, vec![b'v'; 4096])) {
            Ok(_) => written.push(key),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, OUT_OF_MEMORY);
    assert_eq!(refused.advice(), Advice::RetryLater);
    assert!(refused.to_string().contains("quota"), "{refused}");
    assert!(written.len() > 100, "{}", written.len());
    for key in &written {
        assert_eq!(block_on(bucket.get(key))?.value.len(), 4096);
    }
    // A client may still delete, and what that frees can be written again.
    let (deleted, kept) = written.split_at(written.len() / 2);
    for key in deleted {
        block_on(bucket.delete(key).persisted())?;
    }
    let mut again = Vec::new();
    for number in 0..deleted.len() / 2 {
        let key = format!("again-{number}");
        write_once_there_is_room(&bucket, &key, 4096);
        again.push(key);
    }
    block_on(bucket.shutdown())?;

    let mut config = small(BucketConfig::at(directory.path()));
    config.memory_quota_bytes = 1 << 20;
    let bucket = block_on(Bucket::open(config))?;
    block_on(bucket.set("again", vec![b'v'; 4096]).persisted())?;
    for key in kept.iter().chain(&again) {
        assert_eq!(block_on(bucket.get(key))?.value.len(), 4096);
    }
    for key in deleted {
        assert_eq!(block_on(bucket.get(key)), Err(OperationError::KeyNotFound));
    }
    block_on(bucket.shutdown())?;
    Ok(())
}

/// Waits for the store to seal, which is all that is missing.
fn write_once_there_is_room(bucket: &Bucket, key: &str, length: usize) {
    until(|| match block_on(bucket.set(key, vec![b'v'; length])) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error, OUT_OF_MEMORY);
            false
        }
    });
}

/// Of small documents, whose tombstones cost nearly as much as they did.
#[test]
fn a_bucket_whose_documents_were_all_deleted_is_as_good_as_new() -> Result {
    let mut config = made_small(BucketConfig::on(Arc::new(SimulatedDisk::new())));
    config.memory_quota_bytes = 1 << 20;
    config.eviction = Some(Eviction::None);
    let bucket = block_on(Bucket::create(config))?;
    let fill = |round: usize| {
        let mut written = Vec::new();
        loop {
            let key = format!("{round}-{}", written.len());
            match block_on(bucket.set(&key, "a few bytes")) {
                Ok(_) => written.push(key),
                Err(error) => {
                    assert_eq!(error, OUT_OF_MEMORY);
                    return written;
                }
            }
        }
    };
    let first = fill(0);
    for key in &first {
        // A deletion may go above the quota, but not for ever.
        until(|| match block_on(bucket.delete(key)) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, OUT_OF_MEMORY);
                false
            }
        });
    }
    let most = first.len() / 2;
    for number in 0..most {
        write_once_there_is_room(&bucket, &format!("1-{number}"), 11);
    }
    assert_eq!(bucket.statistics().documents, most as u64);
    let report = block_on(bucket.shutdown())?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}

#[test]
fn a_full_disk_refuses_writes_and_heals() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(resident(made_small(BucketConfig::on(
        Arc::new(disk.clone()),
    )))))?;
    let keys = fill(&bucket, 2);
    let mut failures = Listener::to(&bucket);
    disk.set_space_limit(Some(disk.space_used()));
    // Writes are taken in memory until the disk was found full.
    let mut in_memory = Vec::new();
    let refused = loop {
        let key = format!("full-{}", in_memory.len());
        match block_on(bucket.set(&key, value_of(&key))) {
            Ok(_) => in_memory.push(key),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, DISK_FULL);
    assert_eq!(refused.advice(), Advice::RetryLater);
    assert_filled(&bucket, &keys);
    assert_filled(&bucket, &in_memory);
    assert_eq!(failures.next().kind, FailureKind::Flush);

    disk.set_space_limit(None);
    until(|| match block_on(bucket.set("healed", "yes").persisted()) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error, DISK_FULL);
            false
        }
    });
    block_on(bucket.flush())?;
    block_on(bucket.shutdown())?;

    let bucket = block_on(Bucket::open(small(BucketConfig::on(Arc::new(disk)))))?;
    assert_filled(&bucket, &keys);
    assert_filled(&bucket, &in_memory);
    block_on(bucket.shutdown())?;
    Ok(())
}
