//! A span lies around every background job, and says whose it is.

use std::sync::Arc;

use piggin::messages::CompactOptions;
use piggin::storage::disk::SimulatedDisk;
use piggin::{Bucket, BucketConfig};

use crate::capture::Turn;
use crate::support::{Result, block_on, fill, key_in, made_small, small, vbucket};

#[test]
fn every_background_job_is_a_span() -> Result {
    let turn = Turn::take();
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(made_small(BucketConfig::on(Arc::new(
        disk.clone(),
    )))))?;
    fill(&bucket, 3);
    let key = key_in(&bucket, vbucket(3), 70);
    // Until there was something to maintain.
    while turn.spans("maintenance").is_empty() {
        block_on(bucket.set(&key, vec![b'v'; 200_000]).persisted())?;
    }
    let compacted = block_on(bucket.compact_all(CompactOptions::default()));
    assert_eq!(compacted.failed().count(), 0);
    block_on(bucket.shutdown())?;

    let commits = turn.spans("flush_commit");
    assert!(!commits.is_empty());
    for commit in &commits {
        assert_eq!(commit["log_shard"], "0");
        assert_eq!(commit["generation"], "1");
        assert_ne!(commit["batches"], "0");
    }
    let of_one = commits.iter().filter(|commit| commit["batches"] == "1");
    assert!(of_one.clone().count() > 0);
    assert!(
        of_one.clone().all(|commit| commit.contains_key("vbucket")),
        "{commits:?}"
    );
    for job in turn.spans("maintenance") {
        assert_eq!(job["log_shard"], "0");
        assert_eq!(job["generation"], "1");
        assert!(!job["job"].is_empty());
    }

    let compactions = turn.spans("compaction");
    let mut of: Vec<&str> = compactions
        .iter()
        .map(|job| job["vbucket"].as_str())
        .collect();
    of.sort_unstable();
    of.dedup();
    assert_eq!(of, ["0", "1", "2", "3"]);
    assert!(compactions.iter().all(|job| job["generation"] == "1"));

    let before = turn.spans("warmup_load").len();
    let bucket = block_on(Bucket::open(small(BucketConfig::on(Arc::new(disk)))))?;
    let loads = turn.spans("warmup_load").split_off(before);
    let of: Vec<&str> = loads.iter().map(|load| load["vbucket"].as_str()).collect();
    assert_eq!(of.len(), 4, "{of:?}");
    for id in ["0", "1", "2", "3"] {
        assert!(of.contains(&id), "{of:?}");
    }
    assert!(loads.iter().all(|load| load["generation"] == "1"));
    block_on(bucket.shutdown())?;
    Ok(())
}
