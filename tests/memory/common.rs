//! A bucket on real threads of which everything is made to leave memory that can.
//!
//! Invariant: when [`evict`] returns, no live document of the vbucket is whole in memory but those that must stay.

use std::sync::Arc;

use actors::vbucket::{EvictionWalk, VbucketCore};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{Eviction, KvStore, Outcome, Seqno, VbucketId};
use piggin::{Bucket, BucketConfig};

use crate::support::evicting::resident;
use crate::support::{Result, block_on, small};

/// What may leave memory.
pub(crate) const LEAVING: [Eviction; 2] = [Eviction::Documents, Eviction::Values];

/// The same whatever leaves memory.
pub(crate) fn each(test: impl Fn(Eviction) -> Result) -> Result {
    LEAVING.into_iter().try_for_each(|eviction| {
        println!("eviction of {eviction}");
        test(eviction)
    })
}

/// As small as one can be that has more than one vbucket.
pub(crate) fn config(disk: &SimulatedDisk) -> BucketConfig {
    resident(BucketConfig {
        vbuckets: Some(2),
        ..small(BucketConfig::on(Arc::new(disk.clone())))
    })
}

pub(crate) fn config_of(disk: &SimulatedDisk, eviction: Eviction) -> BucketConfig {
    BucketConfig {
        eviction: Some(eviction),
        ..config(disk)
    }
}

pub(crate) fn bucket(eviction: Eviction) -> Bucket {
    block_on(Bucket::create(config_of(&SimulatedDisk::new(), eviction))).unwrap()
}

/// Has everything on disk sealed, so that only memory's own holds are left.
pub(crate) fn seal(bucket: &Bucket) {
    block_on(bucket.flush()).unwrap();
    let lease = bucket.store_handle().lease().unwrap();
    for vbucket in bucket.vbuckets() {
        loop {
            match lease.store().seal(vbucket, Seqno::MAX) {
                Outcome::Complete(()) => break,
                Outcome::Yielded | Outcome::Aborted(_) => std::thread::yield_now(),
                Outcome::Failed(error) => panic!("sealing: {error}"),
            }
        }
    }
}

pub(crate) fn core(bucket: &Bucket, vbucket: VbucketId) -> Arc<VbucketCore> {
    bucket.vbucket_core(vbucket).unwrap()
}

/// A round over a vbucket; documents, or values, that left.
pub(crate) fn round(core: &VbucketCore) -> u64 {
    let (mut walk, mut documents) = (EvictionWalk::default(), 0);
    loop {
        let evicted = core.evict(&mut walk);
        documents += evicted.documents;
        if evicted.is_at_end {
            return documents;
        }
    }
}

/// Has everything leave, but so many.
pub(crate) fn evict_but(bucket: &Bucket, stay: u64) {
    seal(bucket);
    let cores: Vec<_> = bucket.vbuckets().map(|id| core(bucket, id)).collect();
    for core in &cores {
        core.shrink_log();
    }
    let resident = || {
        cores
            .iter()
            .map(|core| core.documents_in_memory())
            .sum::<u64>()
    };
    // A thread that was just answered may hold what it wrote a moment longer.
    while resident() > stay {
        for core in &cores {
            round(core);
        }
        std::thread::yield_now();
    }
    assert_eq!(resident(), stay);
}

/// Has everything leave.
pub(crate) fn evict(bucket: &Bucket) {
    evict_but(bucket, 0);
}
