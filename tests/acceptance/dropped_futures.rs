//! Every public future may be dropped at any poll: what it asked for is done whole or not at all, nobody hangs, and no
//! place among those who wait is lost.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ::actors::vbucket::WAITERS_MAX;
use piggin::messages::vbucket::{Acknowledge, Set, Write, WriteOptions};
use piggin::messages::{Busy, OperationError};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{CollectionId, DocumentKey};
use piggin::{Bucket, BucketConfig, BucketError};

use crate::support::{Result, TestDisk, block_on, key_in, made_small, small, vbucket};

const POLLS_MAX: usize = 3;

/// Polls so often, then drops it. Whether it was ready.
fn poll_and_drop(future: impl Future, polls: usize) -> bool {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    (0..polls).any(|_| future.as_mut().poll(&mut context).is_ready())
}

fn bucket() -> Result<(TestDisk, Bucket)> {
    let disk = TestDisk::new(SimulatedDisk::new());
    let config = made_small(BucketConfig::on(Arc::new(disk.clone())));
    Ok((disk, block_on(Bucket::create(config))?))
}

fn persisted_set(key: &str, value: &'static str) -> Write {
    Write::Set(Set {
        key: DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).unwrap(),
        value: value.into(),
        options: WriteOptions {
            acknowledge: Acknowledge::Persisted,
            ..WriteOptions::default()
        },
    })
}

#[test]
fn a_write_is_done_or_not_begun() -> Result {
    let (disk, bucket) = bucket()?;
    let key = key_in(&bucket, vbucket(0), 0);
    disk.hold_syncs_of("writer-0");
    // Far more often than there are places to wait.
    for polls in (0..=POLLS_MAX).cycle().take(40) {
        block_on(bucket.set(&key, "before"))?;
        let is_ready = poll_and_drop(bucket.set(&key, "after").persisted().into_future(), polls);
        assert!(!is_ready, "no sync was let through");
        let expected = if polls == 0 { "before" } else { "after" };
        assert_eq!(block_on(bucket.get(&key))?.value, expected);
    }
    disk.let_go();
    block_on(bucket.set(&key, "last").persisted())?;
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn those_who_went_away_take_no_place() -> Result {
    let (disk, bucket) = bucket()?;
    let key = key_in(&bucket, vbucket(0), 0);
    let core = bucket.vbucket_core(vbucket(0)).unwrap();
    disk.hold_syncs_of("writer-0");
    let write = || Box::pin(bucket.set(&key, "waits").persisted().into_future());
    for _ in 0..WAITERS_MAX {
        assert!(!poll_and_drop(write(), 1));
    }
    assert_eq!(core.waiting(), 0);
    let mut waiting: Vec<_> = (0..WAITERS_MAX).map(|_| write()).collect();
    let mut context = Context::from_waker(Waker::noop());
    for one in &mut waiting {
        assert!(one.as_mut().poll(&mut context).is_pending());
    }
    // One more is refused whole.
    let before = block_on(bucket.get(&key))?.meta;
    let refused = block_on(bucket.set(&key, "one more").persisted());
    let busy = OperationError::TemporaryFailure(Busy::Queue);
    assert_eq!(refused, Err(busy));
    assert_eq!(block_on(bucket.get(&key))?.meta, before);
    drop(waiting);
    disk.let_go();
    block_on(bucket.set(&key, "one more").persisted())?;
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_batch_is_done_or_not_begun() -> Result {
    let (disk, bucket) = bucket()?;
    let keys: Vec<String> = (0..4).map(|id| key_in(&bucket, vbucket(id), 0)).collect();
    disk.hold_syncs_of("writer-0");
    for polls in (0..=POLLS_MAX).cycle().take(40) {
        for key in &keys {
            block_on(bucket.set(key, "before"))?;
        }
        let writes = keys.iter().map(|key| persisted_set(key, "after")).collect();
        assert!(!poll_and_drop(bucket.write_batch(writes), polls));
        let expected = if polls == 0 { "before" } else { "after" };
        for key in &keys {
            assert_eq!(block_on(bucket.get(key))?.value, expected);
        }
    }
    disk.let_go();
    let writes = keys.iter().map(|key| persisted_set(key, "last")).collect();
    assert!(
        block_on(bucket.write_batch(writes))
            .iter()
            .all(std::result::Result::is_ok)
    );
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_flush_that_nobody_waits_for_takes_no_place() -> Result {
    let (disk, bucket) = bucket()?;
    let key = key_in(&bucket, vbucket(0), 0);
    disk.hold_syncs_of("writer-0");
    block_on(bucket.set(&key, "1"))?;
    for polls in (0..=POLLS_MAX).cycle().take(40) {
        assert!(!poll_and_drop(bucket.flush(), polls));
    }
    disk.let_go();
    block_on(bucket.flush())?;
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_shutdown_that_nobody_waits_for_goes_on() -> Result {
    for polls in 0..=POLLS_MAX {
        let (disk, bucket) = bucket()?;
        let other = bucket.clone();
        let key = key_in(&bucket, vbucket(0), 0);
        block_on(bucket.set(&key, "1"))?;
        let is_ready = poll_and_drop(bucket.shutdown(), polls);
        if polls == 0 {
            // Not begun: the other handle serves.
            assert!(!is_ready);
            block_on(other.set(&key, "1").persisted())?;
            block_on(other.shutdown())?;
        } else {
            // Its end is told to whoever asks, too, unless it was over before.
            match block_on(other.shutdown()) {
                Ok(report) => assert!(report.is_clean(), "{report}"),
                Err(error) => assert_eq!(error, BucketError::Closed),
            }
        }
        disk.wait_until_free();
        let again = small(BucketConfig::on(Arc::new(disk.clone())));
        let bucket = block_on(Bucket::open(again))?;
        assert_eq!(block_on(bucket.get(&key))?.value, "1");
        block_on(bucket.shutdown())?;
    }
    Ok(())
}

#[test]
fn an_opening_that_nobody_waits_for_leaves_the_directory_free() -> Result {
    let (disk, bucket) = bucket()?;
    let key = key_in(&bucket, vbucket(0), 0);
    block_on(bucket.set(&key, "1"))?;
    block_on(bucket.shutdown())?;
    for polls in 0..=POLLS_MAX {
        disk.wait_until_free();
        let config = small(BucketConfig::on(Arc::new(disk.clone())));
        let locks = disk.locks_ever();
        let mut opening = Box::pin(Bucket::open(config));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            if let Poll::Ready(opened) = opening.as_mut().poll(&mut context) {
                drop(opened?);
                opening = Box::pin(Bucket::open(small(BucketConfig::on(Arc::new(
                    disk.clone(),
                )))));
                break;
            }
        }
        drop(opening);
        if polls > 0 {
            // It is on its way: the next one finds the directory free when
            // this one had it and gave it back.
            disk.wait_for_locks(locks);
        }
    }
    disk.wait_until_free();
    let bucket = block_on(Bucket::open(small(BucketConfig::on(Arc::new(
        disk.clone(),
    )))))?;
    assert_eq!(block_on(bucket.get(&key))?.value, "1");
    block_on(bucket.shutdown())?;
    Ok(())
}
