//! A real load, then overwritten in part and a collection dropped: written down as of the instant between, it is exactly
//! the documents of that instant, as a copy taken then has them, also with a compaction in between.

use std::collections::BTreeMap;

use piggin::messages::compactor::CompactOptions;
use piggin::storage::{DocumentKey, Retention};
use piggin::{Bucket, BucketConfig, ChangesToken, Location, Past};

use crate::support::{Result, TempDirectory, block_on, made_small, small};

const AIRPORTS: &str = include_str!("../../examples/data/airports.csv");
const EVERYTHING: CompactOptions = CompactOptions {
    drop_deletes: true,
    purge_before_s: None,
};

/// Value, flags, CAS.
type Copy = BTreeMap<DocumentKey, (Vec<u8>, u32, u64)>;

/// The lines of the file, by the airport's code.
fn airports() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = AIRPORTS.lines().skip(1);
    lines.filter_map(|line| Some((line.split(',').next()?.trim_matches('"'), line)))
}

/// Those of some countries are in a collection of their own.
fn is_far(line: &str) -> bool {
    line.contains("\"AU\"") || line.contains("\"NZ\"")
}

fn load(bucket: &Bucket) -> Result {
    block_on(bucket.create_collection("_default", "far"))?;
    let far = bucket.collection("_default", "far")?;
    for (code, line) in airports() {
        if is_far(line) {
            block_on(far.set(code, line).flags(7))?;
        } else {
            block_on(bucket.set(code, line))?;
        }
    }
    Ok(())
}

/// What a reader reads.
fn copy_of(bucket: &Bucket) -> Result<Copy> {
    let mut copy = Copy::new();
    let collections = [
        bucket.collection("_default", "_default").ok(),
        bucket.collection("_default", "far").ok(),
    ];
    for collection in collections.into_iter().flatten() {
        for (code, _) in airports() {
            if let Ok(found) = block_on(collection.get(code)) {
                let document = (found.value.to_vec(), found.meta.flags, found.meta.cas.0);
                copy.insert(collection.key(code)?, document);
            }
        }
    }
    Ok(copy)
}

/// Overwrites, deletes, drops.
fn go_on(bucket: &Bucket) -> Result {
    for (number, (code, line)) in airports().enumerate() {
        if is_far(line) {
            continue;
        }
        match number % 10 {
            0 => drop(block_on(bucket.delete(code))?),
            1..4 => drop(block_on(bucket.set(code, format!("{line} once more")))?),
            _ => {}
        }
    }
    block_on(bucket.drop_collection("_default", "far"))?;
    block_on(bucket.set("new", "since"))?;
    block_on(bucket.flush())?;
    Ok(())
}

fn as_of(bucket: &Bucket, token: &ChangesToken) -> Result<Past> {
    Ok(block_on(bucket.as_of(token.clone()))?)
}

fn assert_restored(past: &Past, copy: &Copy) -> Result {
    let directory = TempDirectory::new();
    let path = directory.path().join("restored");
    let restored = past.restore_into(&Location::Directory(path.clone()))?;
    assert_eq!(restored.documents, copy.len() as u64);
    let bucket = block_on(Bucket::open(small(BucketConfig::at(&path))))?;
    assert_eq!(&copy_of(&bucket)?, copy);
    assert_eq!(bucket.statistics().documents, copy.len() as u64);
    // It is a bucket like any other, with a history that begins here.
    block_on(bucket.set("new", "here").persisted())?;
    let token = block_on(bucket.token())?;
    block_on(bucket.set("new", "and again"))?;
    let here = as_of(&bucket, &token)?;
    assert_eq!(
        here.get("new")?.map(|found| found.value),
        Some("here".into())
    );
    assert_eq!(here.documents().count(), copy.len() + 1);
    drop(here);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn history_of_a_real_load_is_restored_as_it_was() -> Result {
    let directory = TempDirectory::new();
    let config = BucketConfig {
        history: Some(Retention::of_seconds(24 * 3600)),
        ..made_small(BucketConfig::at(directory.path()))
    };
    let bucket = block_on(Bucket::create(config))?;
    load(&bucket)?;
    let copy = copy_of(&bucket)?;
    assert!(copy.len() > 25_000, "{}", copy.len());
    let token = block_on(bucket.token())?;
    go_on(&bucket)?;
    assert_ne!(copy_of(&bucket)?, copy);
    let past = as_of(&bucket, &token)?;
    assert_restored(&past, &copy)?;
    // Whatever may go goes; what is history may not. The past that was found before it is still that.
    let compacted = block_on(bucket.compact_all(EVERYTHING));
    assert_eq!(compacted.failed().count(), 0);
    assert_eq!(compacted.total().collection_items_purged, 0);
    assert_restored(&past, &copy)?;
    assert_restored(&as_of(&bucket, &token)?, &copy)?;
    drop(past);
    block_on(bucket.shutdown())?;
    let bucket = block_on(Bucket::open(small(BucketConfig::at(directory.path()))))?;
    assert_restored(&as_of(&bucket, &token)?, &copy)?;
    block_on(bucket.shutdown())?;
    Ok(())
}
