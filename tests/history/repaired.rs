//! A vbucket that was set aside by a repair knows nothing of the time before: it never seems to have been empty then.

use std::sync::Arc;
use std::time::Duration;

use piggin::messages::compactor::CompactOptions;
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{CollectionId, DocumentKey, Retention, VbucketId};
use piggin::{
    Bucket, BucketConfig, Change, KeepsSalvage, Location, Past, PastError, RepairOptions,
    RepairReport, repair,
};

use crate::support::{Result, block_on, key_in, made_small, small};

/// Nothing of it is wanted here.
struct Forgets;

impl KeepsSalvage for Forgets {
    fn keep(&mut self, _: Change) -> std::io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &RepairReport) -> std::io::Result<()> {
        Ok(())
    }
}

/// As of a time that is hardly over.
fn as_of(bucket: &Bucket, time_ms: u64) -> std::result::Result<Past, PastError> {
    loop {
        match block_on(bucket.as_of(Duration::from_millis(time_ms))) {
            Err(PastError::NotYet { .. }) => {}
            found => return found,
        }
    }
}

/// When the newest version of a document was committed.
fn committed_at(bucket: &Bucket, key: &str) -> u64 {
    let key = DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).unwrap();
    let versions = block_on(bucket.versions(&key, 1)).unwrap();
    versions[0].committed_at_ms.unwrap()
}

fn assert_nothing_known(bucket: &Bucket, time_ms: u64, what: &str) {
    match as_of(bucket, time_ms) {
        Err(PastError::BeforeWindow { from_ms, .. }) => assert!(from_ms > time_ms, "{what}"),
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn history_begins_anew_with_a_repair() -> Result {
    let disk = SimulatedDisk::new();
    let at = || Location::Disk(Arc::new(disk.clone()));
    let config = || small(BucketConfig::on(Arc::new(disk.clone())));
    let bucket = block_on(Bucket::create(BucketConfig {
        history: Some(Retention::of_seconds(3600)),
        ..made_small(config())
    }))?;
    let keys: Vec<(VbucketId, String)> = bucket
        .vbuckets()
        .map(|id| (id, key_in(&bucket, id, 1)))
        .collect();
    for (_, key) in &keys {
        block_on(bucket.set(key, "before").persisted())?;
    }
    let known: Vec<u64> = keys
        .iter()
        .map(|(_, key)| committed_at(&bucket, key))
        .collect();
    let last = known.iter().max().copied().unwrap_or_default();
    let whole = as_of(&bucket, last)?;
    for (_, key) in &keys {
        assert!(whole.get(key)?.is_some());
    }
    drop(whole);
    block_on(bucket.shutdown())?;
    let files = disk.files();
    let name = files.keys().find(|name| name.starts_with("container"));
    disk.flip_bit(name.unwrap(), 4096 + 60, 1)?;
    let report = repair(at(), RepairOptions::default(), &mut Forgets)?;
    assert_eq!(report.set_aside.len(), 1);
    let aside = report.set_aside[0].vbucket;
    let bucket = block_on(Bucket::open(config()))?;
    assert_nothing_known(&bucket, last, "as it was opened");
    for (_, key) in &keys {
        block_on(bucket.set(key, "behind").persisted())?;
    }
    assert_nothing_known(&bucket, last, "with writes");
    block_on(bucket.compact_all(CompactOptions::default()));
    assert_nothing_known(&bucket, last, "compacted");
    block_on(bucket.shutdown())?;
    let bucket = block_on(Bucket::open(config()))?;
    assert_nothing_known(&bucket, last, "opened anew");
    // What came behind it is known.
    let (_, key) = keys.iter().find(|(id, _)| *id == aside).unwrap();
    let now = as_of(&bucket, committed_at(&bucket, key))?;
    assert_eq!(now.get(key)?.unwrap().value, "behind".as_bytes());
    drop(now);
    block_on(bucket.shutdown())?;
    Ok(())
}
