//! A change of a manifest of many names is made in slices, between which others work: it is in force for all of them at once
//! all the same, and whoever asked for it may go away or panic between any two.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::actors::vbucket::ChangeStep;
use piggin::messages::{Busy, ManifestError, OperationError};
use piggin::storage::ManifestUid;
use piggin::storage::disk::SimulatedDisk;
use piggin::{Bucket, BucketConfig, Collection};

use crate::support::evicting::resident;
use crate::support::{Result, block_on, key_in, small, until, vbucket};

const VBUCKETS: u16 = 32;
/// So many that a slice is a part of the vbuckets.
const NAMES: usize = 300;
/// The uid of the change behind them.
const NEXT: ManifestUid = ManifestUid(NAMES as u64 + 2);

fn config(disk: &SimulatedDisk) -> BucketConfig {
    // Counts of what left memory are those of the disk, which hears of a drop later.
    resident(BucketConfig {
        vbuckets: Some(VBUCKETS),
        ..small(BucketConfig::on(Arc::new(disk.clone())))
    })
}

/// A scope with many collections, one of which has a document in every vbucket.
fn crowded(disk: &SimulatedDisk) -> Result<(Bucket, Collection)> {
    let bucket = block_on(Bucket::create(config(disk)))?;
    block_on(bucket.create_scope("s"))?;
    for number in 0..NAMES {
        block_on(bucket.create_collection("s", format!("c{number}")))?;
    }
    let collection = bucket.collection("s", "c7")?;
    for key in keys(&bucket) {
        block_on(collection.set(key, "v"))?;
    }
    block_on(bucket.flush())?;
    Ok((bucket, collection))
}

/// One in each vbucket.
fn keys(bucket: &Bucket) -> Vec<String> {
    let ids = (0..VBUCKETS).map(vbucket);
    ids.map(|id| key_in(bucket, id, 1)).collect()
}

fn polled<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// How many vbuckets have followed it.
fn followed(bucket: &Bucket) -> usize {
    let cores = (0..VBUCKETS).filter_map(|id| bucket.vbucket_core(vbucket(id)));
    let uids = cores.map(|core| (core.collections_manifest().uid, core.is_suspect()));
    uids.filter(|(uid, is_suspect)| *uid >= NEXT && !is_suspect)
        .count()
}

fn assert_gone(bucket: &Bucket, collection: &Collection, manifest_uid: ManifestUid) {
    let unknown = OperationError::UnknownCollection { manifest_uid };
    for key in keys(bucket) {
        let found = block_on(collection.get(&key)).unwrap_err();
        assert_eq!(found, unknown);
        let written = block_on(collection.set(&key, "again")).unwrap_err();
        assert_eq!(written, unknown);
    }
}

fn assert_gone_for_good(bucket: Bucket, disk: &SimulatedDisk) -> Result {
    block_on(bucket.shutdown())?;
    let bucket = block_on(Bucket::open(config(disk)))?;
    assert_eq!(bucket.manifest().uid, NEXT);
    assert!(bucket.collection("s", "c7").is_err());
    assert_eq!(bucket.statistics().documents, 0);
    assert_eq!(followed(&bucket), usize::from(VBUCKETS));
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_change_is_in_force_for_all_before_all_were_told() -> Result {
    let disk = SimulatedDisk::new();
    let (bucket, collection) = crowded(&disk)?;
    let mut change = pin!(bucket.drop_scope("s"));
    assert!(polled(change.as_mut()).is_pending());
    let told = followed(&bucket);
    assert!(0 < told && told < usize::from(VBUCKETS), "{told}");
    assert_eq!(bucket.statistics().documents, 0);
    assert_gone(&bucket, &collection, NEXT);
    assert_eq!(block_on(change)?, NEXT);
    assert_gone_for_good(bucket.clone(), &disk)
}

/// A collection that is there for all has begun in every vbucket, whichever of them were told of it yet.
#[test]
fn figures_of_a_new_collection_are_of_all_vbuckets_before_all_were_told() -> Result {
    let disk = SimulatedDisk::new();
    let (bucket, _) = crowded(&disk)?;
    let mut change = pin!(bucket.create_collection("s", "new"));
    assert!(polled(change.as_mut()).is_pending());
    let told = followed(&bucket);
    assert!(0 < told && told < usize::from(VBUCKETS), "{told}");
    let statistics = bucket.collection_statistics()?;
    let new = statistics.iter().find(|one| one.name == "new").unwrap();
    assert_eq!(new.high_seqnos.len(), usize::from(VBUCKETS));
    for (id, high) in &new.high_seqnos {
        let core = bucket.vbucket_core(*id).unwrap();
        assert_eq!(*high, core.high_seqno(), "{id}: the event that began it");
    }
    assert_eq!(block_on(change)?, NEXT);
    block_on(bucket.clone().shutdown())?;
    Ok(())
}

#[test]
fn a_caller_that_goes_away_between_two_slices_leaves_all_with_the_change() -> Result {
    let disk = SimulatedDisk::new();
    let (bucket, collection) = crowded(&disk)?;
    {
        let mut change = pin!(bucket.drop_scope("s"));
        assert!(polled(change.as_mut()).is_pending());
        assert!(followed(&bucket) < usize::from(VBUCKETS));
    }
    until(|| followed(&bucket) == usize::from(VBUCKETS));
    assert_gone(&bucket, &collection, NEXT);
    assert_gone_for_good(bucket.clone(), &disk)
}

#[test]
fn a_caller_that_panics_in_the_last_slice_leaves_all_with_the_change() -> Result {
    for step in [ChangeStep::Noted, ChangeStep::Cleared] {
        let disk = SimulatedDisk::new();
        let (bucket, collection) = crowded(&disk)?;
        let last = bucket.vbucket_core(vbucket(VBUCKETS - 2)).unwrap();
        last.panic_at(step);
        let change = || block_on(bucket.drop_scope("s"));
        assert!(catch_unwind(AssertUnwindSafe(change)).is_err(), "{step:?}");
        until(|| followed(&bucket) == usize::from(VBUCKETS));
        assert_gone(&bucket, &collection, NEXT);
        assert_gone_for_good(bucket.clone(), &disk)?;
    }
    Ok(())
}

/// One who stands still in the middle keeps nobody else waiting.
#[test]
fn another_change_waits_for_none_that_is_under_way() -> Result {
    let disk = SimulatedDisk::new();
    let (bucket, collection) = crowded(&disk)?;
    let mut change = pin!(bucket.drop_scope("s"));
    assert!(polled(change.as_mut()).is_pending());
    let next = ManifestUid(NEXT.0 + 1);
    assert_eq!(block_on(bucket.create_scope("t"))?, next);
    assert_eq!(followed(&bucket), usize::from(VBUCKETS));
    assert_gone(&bucket, &collection, next);
    assert_eq!(block_on(change)?, NEXT);
    block_on(bucket.clone().shutdown())?;
    let bucket = block_on(Bucket::open(config(&disk)))?;
    assert_eq!(bucket.manifest().uid, next);
    assert!(bucket.manifest().scope("t").is_some());
    assert!(bucket.manifest().scope("s").is_none());
    block_on(bucket.shutdown())?;
    Ok(())
}

/// One that is about to be in other hands must not get there without a change that was acknowledged: whoever asked is told
/// that it did not follow, and it does once it stays.
#[test]
fn a_vbucket_that_is_handed_over_meanwhile_has_not_followed() -> Result {
    let disk = SimulatedDisk::new();
    let (bucket, collection) = crowded(&disk)?;
    let last = bucket.vbucket_core(vbucket(VBUCKETS - 1)).unwrap();
    {
        let mut change = pin!(bucket.drop_scope("s"));
        assert!(polled(change.as_mut()).is_pending());
        let hold = last.hold_for(Duration::from_secs(600))?;
        let (uid, cause) = (NEXT, OperationError::TemporaryFailure(Busy::HandingOver));
        assert_eq!(block_on(change), Err(ManifestError::InForce { uid, cause }));
        assert_eq!(followed(&bucket), usize::from(VBUCKETS) - 1);
        last.let_go_of(hold);
    }
    assert_eq!(followed(&bucket), usize::from(VBUCKETS));
    assert_gone(&bucket, &collection, NEXT);
    assert_gone_for_good(bucket.clone(), &disk)
}
