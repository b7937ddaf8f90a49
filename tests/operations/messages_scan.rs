//! A vbucket's actor scans by messages what a call scans, a page at a time.

use std::sync::Arc;

use piggin::messages::scan::{CloseScan, OpenScan, ReadScan, ScanRequest};
use piggin::messages::{ScanError, ScanRange};
use piggin::storage::CollectionId;
use piggin::storage::disk::SimulatedDisk;
use piggin::{Bucket, BucketConfig};

use crate::support::{Result, block_on, fill, made_small, vbucket};

#[test]
fn pages_are_the_scan() -> Result {
    let disk = Arc::new(SimulatedDisk::new());
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(disk))))?;
    let mut keys = fill(&bucket, 2500);
    keys.retain(|key| bucket.vbucket_of(key.as_bytes()) == vbucket(1));
    keys.sort();
    let actor = bucket.vbucket(vbucket(1)).unwrap();
    let request = ScanRequest::of(CollectionId::DEFAULT, ScanRange::all());
    let open = || block_on(actor.send(OpenScan(request.clone()))).unwrap();
    let scan = open()?;
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let page = block_on(actor.send(ReadScan { scan }))??;
        pages += 1;
        found.extend(page.documents);
        if page.is_complete {
            break;
        }
    }
    let names = found.iter().map(|one| one.key.key().to_vec());
    let names: Vec<_> = names.map(|name| String::from_utf8(name).unwrap()).collect();
    assert_eq!(names, keys);
    assert_eq!(pages, 3);
    let over = block_on(actor.send(ReadScan { scan }))?;
    assert_eq!(over, Err(ScanError::NoScan));
    let closed = open()?;
    assert!(closed > scan);
    block_on(actor.send(CloseScan { scan: closed }))?;
    let over = block_on(actor.send(ReadScan { scan: closed }))?;
    assert_eq!(over, Err(ScanError::NoScan));
    block_on(bucket.shutdown())?;
    Ok(())
}

/// What one scan read ahead is its own, whoever opens another one.
#[test]
fn two_scans_leave_each_other_alone() -> Result {
    let disk = Arc::new(SimulatedDisk::new());
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(disk))))?;
    fill(&bucket, 1500);
    let actor = bucket.vbucket(vbucket(1)).unwrap();
    let request = ScanRequest::of(CollectionId::DEFAULT, ScanRange::all());
    let open = || block_on(actor.send(OpenScan(request.clone()))).unwrap();
    let read = |scan| block_on(actor.send(ReadScan { scan })).unwrap();
    let first = open()?;
    assert!(!read(first)?.is_complete);
    let second = open()?;
    let rest = read(first)?;
    assert_eq!((rest.documents.len(), rest.is_complete), (500, true));
    assert_eq!(read(second)?.documents.len(), 1000);
    block_on(bucket.shutdown())?;
    Ok(())
}
