//! A bucket that one handle shut down answers `Closed` at every other, whatever is asked.

use piggin::messages::OperationError;
use piggin::messages::vbucket::DescribeVbucket;
use piggin::storage::Advice;
use piggin::{Bucket, BucketConfig, BucketError};

use crate::support::{Result, TempDirectory, block_on, made_small, vbucket};

#[test]
fn the_other_handle_answers_closed() -> Result {
    let directory = TempDirectory::new();
    let bucket = block_on(Bucket::create(made_small(BucketConfig::at(
        directory.path(),
    ))))?;
    let other = bucket.clone();
    block_on(bucket.set("key", "1"))?;
    assert!(!other.is_closed());
    block_on(bucket.shutdown())?;

    assert!(other.is_closed());
    let closed = OperationError::Closed;
    assert_eq!(block_on(other.get("key")), Err(closed.clone()));
    assert_eq!(block_on(other.get_meta("key")), Err(closed.clone()));
    assert_eq!(block_on(other.exists("key")), Err(closed.clone()));
    assert_eq!(block_on(other.get_many(["key"])), [Err(closed.clone())]);
    assert_eq!(block_on(other.set("key", "2")), Err(closed.clone()));
    assert_eq!(
        block_on(other.set("key", "2").persisted()),
        Err(closed.clone())
    );
    assert_eq!(block_on(other.delete("key")), Err(closed.clone()));
    assert_eq!(block_on(other.flush()), Err(closed.clone()));
    assert_eq!(closed.advice(), Advice::Reopen);
    assert!(closed.to_string().contains("open it again"), "{closed}");
    // Figures can be read still.
    assert_eq!(other.statistics().documents, 1);
    let actor = other.vbucket(vbucket(0)).unwrap();
    let answer = actix::System::new().block_on(actor.send(DescribeVbucket));
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.is_err()));
    let again = block_on(other.shutdown());
    assert_eq!(again, Err(BucketError::Closed));
    Ok(())
}
