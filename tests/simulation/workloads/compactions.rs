//! An operator who has one vbucket after the other compacted, beside the clients and beside what the bucket compacts by
//! itself.
//!
//! Invariant: he asks for the next one only after the last was answered, and every answer is one that he may get.

use std::time::Duration;

use tokio::task::JoinHandle;

use piggin::Bucket;
use piggin::messages::{CompactError, CompactOptions};
use piggin::storage::VbucketId;
use supervisor::testing::World;

/// Longer than any compaction takes: virtual time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts an operator; at the end he says what he was answered that he may not be.
pub(crate) fn start(world: &World, bucket: &Bucket, times: u64) -> JoinHandle<Vec<String>> {
    let (world, bucket) = (world.clone(), bucket.clone());
    tokio::task::spawn_local(async move {
        let random = world.random("operator");
        let mut findings = Vec::new();
        for _ in 0..times {
            world
                .sleep(Duration::from_millis(random.between(0..=40)))
                .await;
            let number = u16::try_from(random.below(u64::from(bucket.vbucket_count())));
            let vbucket = number.ok().and_then(VbucketId::new).expect("a vbucket");
            let options = CompactOptions {
                drop_deletes: random.chance(300),
                purge_before_s: None,
            };
            if random.chance(50) {
                let given_up = bucket.cancel_compactions(Some(vbucket)) as u64;
                world.trace().event("cancelled", "operator", &[given_up]);
            }
            let answer = bucket.compact(vbucket, options);
            let Ok(answer) = tokio::time::timeout(PATIENCE, answer).await else {
                findings.push(format!("the compaction of {vbucket} is not answered"));
                return findings;
            };
            world
                .trace()
                .event("compacted", "operator", &[u64::from(answer.is_ok())]);
            if let Err(
                error @ (CompactError::UnknownVbucket(_)
                | CompactError::VbucketDead(_)
                | CompactError::Down { .. }),
            ) = answer
            {
                findings.push(format!("the compaction of {vbucket}: {error}"));
            }
        }
        findings
    })
}
