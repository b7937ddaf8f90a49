//! Every child the bucket names can be restarted by that name, which is no failure, and nothing is lost by it.

use std::sync::Arc;

use piggin::messages::ChildName;
use piggin::messages::vbucket::DescribeVbucket;
use piggin::storage::Advice;
use piggin::storage::disk::SimulatedDisk;
use piggin::supervisor::restart::ChildState;
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
            // Work that is done, or ends just now, is not done again.
            let is_done = matches!(now.state, ChildState::Finished | ChildState::Stopped);
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
