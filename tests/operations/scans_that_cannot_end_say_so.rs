//! A scan that does not read everything ends with why, never as if it had; and what it holds is given back.

use std::sync::Arc;
use std::time::Duration;

use ::actors::hooks::{FaultPoint, Hook, Hooks};
use parking_lot::Mutex;
use piggin::messages::failure::ScanPurpose;
use piggin::messages::vbucket::{MutationToken, SetVbucketState};
use piggin::messages::{FailureCause, OperationError, ScanError, ScanRange};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{Seqno, VbucketState, VbucketUuid};
use piggin::{Bucket, BucketConfig, Scan};

use crate::support::{Result, TestDisk, block_on, fill, key_in, made_small, vbucket};

fn scanned(mut scan: Scan) -> (usize, std::result::Result<(), ScanError>) {
    let mut found = 0;
    loop {
        match block_on(scan.next()) {
            Ok(Some(_)) => found += 1,
            Ok(None) => return (found, Ok(())),
            Err(error) => {
                assert_eq!(block_on(scan.next()).unwrap(), None, "there is no more");
                return (found, Err(error));
            }
        }
    }
}

/// Fails at this step of the scans of clients.
#[derive(Debug)]
struct At(Mutex<u64>);

impl Hook for At {
    fn fault(&self, point: FaultPoint) -> Option<FailureCause> {
        let purpose = ScanPurpose::Client;
        let mut left = self.0.lock();
        if point != (FaultPoint::Scan { purpose }) || *left == 0 {
            return None;
        }
        *left -= 1;
        (*left == 0).then(|| FailureCause::Injected("broken".to_owned()))
    }
}

/// MB-47790: whichever step fails, the scan does.
#[test]
fn a_step_that_fails_fails_the_scan() -> Result {
    for step in 1..=8 {
        let disk = Arc::new(SimulatedDisk::new());
        let plan = Arc::new(At(Mutex::new(step)));
        let mut config = made_small(BucketConfig::on(disk));
        config.hooks = Hooks::new(Arc::clone(&plan) as _);
        let bucket = block_on(Bucket::create(config))?;
        let keys = fill(&bucket, 600);
        let (found, ended) = scanned(bucket.scan(ScanRange::all()).open()?);
        if *plan.0.lock() > 0 {
            assert_eq!(
                (found, ended),
                (keys.len(), Ok(())),
                "there are {step} steps"
            );
            assert!(step > 4, "each vbucket has one");
        } else {
            let is_told = matches!(ended, Err(ScanError::Unread { .. }));
            assert!(is_told && found < keys.len(), "{step}: {ended:?}");
        }
        block_on(bucket.shutdown())?;
    }
    Ok(())
}

/// The first step of a client's scan panics its reader.
#[derive(Debug)]
struct Panics;

impl Hook for Panics {
    fn fault(&self, point: FaultPoint) -> Option<FailureCause> {
        let purpose = ScanPurpose::Client;
        assert!(point != (FaultPoint::Scan { purpose }), "injected");
        None
    }
}

#[test]
fn a_reader_that_panics_ends_the_scan_in_its_hands() -> Result {
    let mut config = made_small(BucketConfig::on(Arc::new(SimulatedDisk::new())));
    config.hooks = Hooks::new(Arc::new(Panics));
    let bucket = block_on(Bucket::create(config))?;
    fill(&bucket, 2);
    let (_, ended) = scanned(bucket.scan(ScanRange::all()).open()?);
    assert_eq!(ended, Err(ScanError::Crashed));
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_collection_that_is_dropped_meanwhile_ends_its_scan() -> Result {
    let disk = Arc::new(SimulatedDisk::new());
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(disk))))?;
    block_on(bucket.create_collection("_default", "c"))?;
    let collection = bucket.collection("_default", "c")?;
    for number in 0..4000 {
        block_on(collection.set(format!("key {number}"), vec![b'v'; 2000]))?;
    }
    let mut scan = collection.scan(ScanRange::all()).open()?;
    assert!(block_on(scan.next())?.is_some());
    block_on(bucket.drop_collection("_default", "c"))?;
    // Also where another one has its name.
    block_on(bucket.create_collection("_default", "c"))?;
    let (found, ended) = scanned(scan);
    let is_told = matches!(
        ended,
        Err(ScanError::Operation(
            OperationError::UnknownCollection { .. }
        ))
    );
    assert!(is_told && found < 4000, "{ended:?}");
    let opened = collection.scan(ScanRange::all()).open();
    assert!(matches!(
        opened.err(),
        Some(ScanError::Operation(
            OperationError::UnknownCollection { .. }
        ))
    ));
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_vbucket_that_is_no_longer_active_ends_it() -> Result {
    let disk = Arc::new(SimulatedDisk::new());
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(disk))))?;
    // More than is read of a vbucket at once.
    for number in 0..4000 {
        block_on(bucket.set(format!("key {number}"), vec![b'v'; 2000]))?;
    }
    let mut scan = bucket.scan(ScanRange::all()).open()?;
    assert!(block_on(scan.next())?.is_some());
    let core = bucket.vbucket_core(vbucket(2)).unwrap();
    core.set_state(SetVbucketState {
        state: VbucketState::Replica,
        topology: None,
        is_takeover: false,
    })?;
    let (_, ended) = scanned(scan);
    let (vbucket, state) = (vbucket(2), VbucketState::Replica);
    let expected = OperationError::NotMyVbucket { vbucket, state };
    assert_eq!(ended, Err(ScanError::Operation(expected)));
    assert!(bucket.scan(ScanRange::all()).open().is_err());
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn what_must_be_seen_is_waited_for_and_no_longer_than_asked() -> Result {
    let disk = TestDisk::new(SimulatedDisk::new());
    let config = BucketConfig::on(Arc::new(disk.clone()));
    let bucket = block_on(Bucket::create(made_small(config)))?;
    let key = key_in(&bucket, vbucket(1), 0);
    disk.hold_syncs_of("writer-0");
    let written = block_on(bucket.set(&key, "v"))?;
    let late = bucket.scan(ScanRange::all()).at_least([written.token]);
    let late = late.within(Duration::from_millis(1)).open()?;
    let expected = ScanError::NotOnDisk {
        vbucket: vbucket(1),
        seqno: written.token.seqno,
    };
    assert_eq!(scanned(late), (0, Err(expected)));
    // Without it, there is what is on disk.
    assert_eq!(
        scanned(bucket.scan(ScanRange::all()).on_disk().open()?),
        (0, Ok(()))
    );
    let patient = bucket.scan(ScanRange::all()).open()?;
    disk.let_go();
    assert_eq!(scanned(patient), (1, Ok(())));
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn what_is_of_another_history_is_not_waited_for() -> Result {
    let disk = Arc::new(SimulatedDisk::new());
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(disk))))?;
    let written = block_on(bucket.set("a", "v"))?.token;
    let of_another = MutationToken {
        vbucket_uuid: VbucketUuid(written.vbucket_uuid.0 ^ 1),
        seqno: Seqno(1),
        ..written
    };
    let refused = bucket.scan(ScanRange::all()).at_least([of_another]).open();
    let vbucket = written.vbucket;
    assert_eq!(refused.err(), Some(ScanError::OtherHistory { vbucket }));
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn whoever_drops_it_gives_its_snapshots_back() -> Result {
    let disk = Arc::new(SimulatedDisk::new());
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(disk))))?;
    // More than is read of a vbucket at once.
    for number in 0..4000 {
        block_on(bucket.set(format!("key {number}"), vec![b'v'; 2000]))?;
    }
    let store = bucket.store_handle();
    let mut scan = bucket.scan(ScanRange::all()).open()?;
    assert!(block_on(scan.next())?.is_some());
    let leases = || format!("{store:?}");
    assert!(!leases().contains("leases: 0"), "{}", leases());
    drop(scan);
    crate::support::until(|| leases().contains("leases: 0"));
    // Nor does one that is held keep the bucket from being shut down.
    let mut held = bucket.scan(ScanRange::all()).open()?;
    assert!(block_on(held.next())?.is_some());
    block_on(bucket.shutdown())?;
    let closed = ScanError::Operation(OperationError::Closed);
    assert_eq!(scanned(held).1, Err(closed));
    Ok(())
}
