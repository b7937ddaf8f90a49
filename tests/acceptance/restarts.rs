//! Every child the bucket names can be restarted by that name, which is no failure, and nothing is lost by it.

use std::sync::Arc;

use piggin::messages::ChildName;
use piggin::messages::vbucket::DescribeVbucket;
use piggin::storage::Advice;
use piggin::storage::disk::SimulatedDisk;
use piggin::supervisor::restart::{ChildState, ChildStatus};
use piggin::{Bucket, BucketConfig};

use crate::support::{
    Result, assert_filled, block_on, fill, kinds, made_small, small, until, value_of, vbucket,
};

#[test]
fn by_every_name() -> Result {
    let disk = SimulatedDisk::new();
    let config = || small(BucketConfig::on(Arc::new(disk.clone())));
    let bucket = block_on(Bucket::create(made_small(config())))?;
    let keys = fill(&bucket, 2);
    for before in bucket.children() {
        bucket.restart(&before.name)?;
        until(|| {
            let now = bucket
                .children()
                .into_iter()
                .find(|one| one.name == before.name);
            let now = now.unwrap();
            // Work that is done is not done again.
            let is_done = now.state == ChildState::Finished;
            is_done || now.state == ChildState::Up && now.generation > before.generation
        });
        for key in &keys {
            block_on(bucket.set(key, value_of(key)).persisted())?;
        }
        for id in 0..bucket.vbucket_count() {
            block_on(bucket.vbucket(vbucket(id)).unwrap().send(DescribeVbucket))??;
        }
    }
    assert_eq!(kinds(&bucket), []);
    let report = block_on(bucket.shutdown())?;
    assert!(report.is_clean(), "{report}");
    let bucket = block_on(Bucket::open(config()))?;
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// Whoever looks at a bucket that was just opened sees who works and who is done, not who is about to begin.
#[test]
fn everybody_has_begun_when_a_bucket_was_opened() -> Result {
    let disk = SimulatedDisk::new();
    let config = || small(BucketConfig::on(Arc::new(disk.clone())));
    let mut bucket = block_on(Bucket::create(made_small(config())))?;
    for _ in 0..10 {
        for child in bucket.children() {
            let has_begun = matches!(child.state, ChildState::Up | ChildState::Finished);
            assert!(has_begun, "{child:?}");
        }
        let is_done = |child: &ChildStatus| child.state == ChildState::Finished;
        until(|| bucket.children().iter().any(is_done));
        for child in bucket.children().iter().filter(|one| is_done(one)) {
            assert_eq!(child.name.as_str(), "warmup-0");
        }
        let report = block_on(bucket.shutdown())?;
        assert!(report.is_clean(), "{report}");
        bucket = block_on(Bucket::open(config()))?;
    }
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn by_a_name_nobody_has() -> Result {
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(Arc::new(
        SimulatedDisk::new(),
    )))))?;
    let error = bucket.restart(&ChildName::new("nobody")).unwrap_err();
    assert_eq!(error.advice(), Advice::FixRequest);
    assert!(error.to_string().contains("nobody"), "{error}");
    block_on(bucket.shutdown())?;
    Ok(())
}
