//! A compaction leaves the disk to the flushers: it syncs what it writes in pieces, is as fast as the bucket's budget allows,
//! and shows how far it is.

use std::time::Duration;

use piggin::messages::failure::CompactionStage;
use piggin::messages::{CompactOptions, FailureId};
use piggin::storage::disk::Verb;
use piggin::storage::{CompactionRequest, VbucketId};
use piggin::{Bucket, BucketConfig, CompactionConfig, CompactionPolicy};
use supervisor::testing::{Clock, HoldPoint, Random, World};

const VALUE_BYTES: usize = 64 << 10;

fn run(scenario: impl AsyncFnOnce(World) + Send) {
    World::run(13, |world| scenario(world)).expect("a run that ends");
}

/// One vbucket with so many values, of bytes that cannot be packed.
async fn filled(world: &World, values: usize, bytes_per_second: u64) -> Bucket {
    let config = BucketConfig {
        vbuckets: Some(1),
        compaction: CompactionConfig {
            policy: CompactionPolicy::NEVER,
            bytes_per_second,
            ..CompactionConfig::default()
        },
        ..world.config()
    };
    let bucket = world.create(config).await.expect("a bucket");
    let random = world.random("values");
    for number in 0..values {
        let words = (0..VALUE_BYTES / 8).map(|_| random.next_u64().to_le_bytes());
        let value: Vec<u8> = words.flatten().collect();
        let written = bucket.set(format!("key {number}"), value).persisted();
        written.await.expect("a write");
    }
    bucket
}

#[test]
fn what_is_written_is_synced_in_pieces() {
    run(async |world| {
        let pieces = 5;
        let values = usize::try_from(CompactionRequest::SYNC_BYTES).expect("a size") / VALUE_BYTES;
        let bucket = filled(&world, pieces * values, 0).await;
        let at = |stage| {
            let vbucket = VbucketId::FIRST;
            world.hold(HoldPoint { vbucket, stage })
        };
        let (before, after) = (at(CompactionStage::Merge), at(CompactionStage::Publish));
        let asked = bucket.clone();
        let options = CompactOptions::default();
        let compaction =
            actix::spawn(async move { asked.compact(VbucketId::FIRST, options).await });
        before.reached().await;
        let syncs = || world.simulated_disk().calls_of(Verb::Sync);
        let began = syncs();
        before.release();
        after.reached().await;
        let syncs = syncs() - began;
        assert!(syncs >= pieces as u64, "{syncs} syncs");
        after.release();
        let compacted = compaction.await.expect("no panic");
        compacted.expect("a compaction");
        bucket.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn it_is_as_fast_as_the_budget_allows_and_says_how_far_it_is() {
    run(async |world| {
        let (values, bytes_per_second) = (32, 1_000_000);
        let bucket = filled(&world, values, bytes_per_second).await;
        let asked = bucket.clone();
        let options = CompactOptions::default();
        let began = world.clock().monotonic();
        let compaction =
            actix::spawn(async move { asked.compact(VbucketId::FIRST, options).await });
        let mut seen = Vec::new();
        while !compaction.is_finished() {
            world.sleep(Duration::from_millis(100)).await;
            let running = bucket.compactions().into_iter();
            let running = running.filter_map(|status| status.running);
            seen.extend(running.map(|run| (run.bytes_read, run.bytes_written, run.bytes_total)));
        }
        let took = world.clock().monotonic().saturating_sub(began);
        compaction.await.expect("no panic").expect("a compaction");
        // Read once and written once.
        let bytes = 2 * (values * VALUE_BYTES) as u64;
        let expected = Duration::from_secs(bytes / bytes_per_second);
        assert!(took + Duration::from_secs(1) >= expected, "{took:?}");
        assert!(took <= expected * 2, "{took:?}");
        let reading = seen
            .iter()
            .filter(|(read, _, total)| *read > 0 && read < total);
        assert!(reading.count() > 5, "{seen:?}");
        assert!(seen.is_sorted(), "it never goes back: {seen:?}");
        assert_eq!(bucket.failures(FailureId(0)).failures, []);
        bucket.shutdown().await.expect("an orderly end");
    });
}
