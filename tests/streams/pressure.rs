//! When memory is short, streams that stand still give back what only they keep, before clients are refused for long; they
//! read from disk what they have not read, and nothing is lost.

use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::stream::{SnapshotFlags, StreamEvent};
use piggin::messages::{Busy, OperationError};
use piggin::storage::{Eviction, OpenOptions};
use piggin::{Bucket, BucketConfig, Changes, ChangesOptions};
use supervisor::testing::World;

use crate::common::{Mirror, assert_at_base, config, key, run};

const QUOTA: u64 = 4 << 20;
const VALUE: usize = 4 << 10;
/// Half of the quota.
const DOCUMENTS: usize = 480;
/// So many refusals in a row are as many as for ever.
const REFUSALS_MAX: u32 = 500;

fn small(world: &World) -> BucketConfig {
    let config = config(world);
    BucketConfig {
        memory_quota_bytes: QUOTA,
        store: OpenOptions {
            log_file_bytes_min: 256 << 10,
            log_file_bytes_max: 1 << 20,
            unsealed_bytes: 4 << 20,
            ..config.store
        },
        ..config
    }
}

/// Writes a document, waiting for memory as a client does; how often it was refused.
async fn write(world: &World, bucket: &Bucket, number: usize, fill: u8) -> u32 {
    for refused in 0..REFUSALS_MAX {
        match bucket.set(key(number), vec![fill; VALUE]).await {
            Ok(_) => return refused,
            Err(OperationError::TemporaryFailure(Busy::Memory)) => {
                world.sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no memory for document {number}, whoever waits");
}

/// A consumer of each vbucket's changes that takes one and then stands still.
async fn standing(bucket: &Bucket, mirror: &mut Mirror) -> Changes {
    let options = ChangesOptions {
        buffer_bytes: 0,
        ..ChangesOptions::default()
    };
    let mut changes = bucket.changes(options).await.expect("changes");
    mirror.take(changes.next().await.expect("a change"));
    changes
}

#[test]
fn clients_are_served_beside_streams_that_stand_still() {
    run(1, async |world| {
        let bucket = world.create(small(&world)).await.expect("a bucket");
        for number in 0..DOCUMENTS {
            write(&world, &bucket, number, b'a').await;
        }
        let mut mirror = Mirror::default();
        let mut changes = standing(&bucket, &mut mirror).await;
        for (round, fill) in (b'b'..b'k').enumerate() {
            for number in 0..DOCUMENTS {
                let refused = write(&world, &bucket, number, fill).await;
                assert!(refused < 100, "round {round}: {refused} refusals");
            }
        }
        // What it missed is read from disk, and what was begun comes to its end.
        let mut last = 0;
        while last < DOCUMENTS {
            let change = changes.next().await.expect("a change");
            mirror.take(change);
            let newest = mirror.all_documents();
            last = newest.values().filter(|value| value[0] == b'j').count();
        }
        drop(changes);
        assert!(bucket.statistics().stream_cursors_dropped > 0);
        assert_at_base(&world, &bucket).await;
        bucket.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn a_bucket_full_of_what_is_needed_sends_nobody_to_the_disk() {
    run(2, async |world| {
        let config = BucketConfig {
            // Of one whose documents leave memory it would never be full.
            eviction: Some(Eviction::None),
            ..small(&world)
        };
        let bucket = world.create(config).await.expect("a bucket");
        let options = ChangesOptions::default();
        let mut changes = bucket.changes(options).await.expect("changes");
        let mut mirror = Mirror::default();
        let mut number = 0;
        // Up to the quota, by documents alone. Who follows them has his place in memory, and keeps it.
        loop {
            let is_written = bucket.set(key(number), vec![b'a'; VALUE]).await.is_ok();
            let time = Duration::from_millis(if is_written { 1 } else { 10_000 });
            while let Ok(change) = timeout(time, changes.next()).await {
                let change = change.expect("a change");
                if let StreamEvent::SnapshotMarker(marker) = &change.event {
                    assert!(!marker.flags.has(SnapshotFlags::DISK), "document {number}");
                }
                mirror.take(change);
            }
            if !is_written {
                break;
            }
            number += 1;
        }
        assert!(number > DOCUMENTS);
        assert_eq!(mirror.all_documents().len(), number);
        assert_eq!(bucket.statistics().stream_cursors_dropped, 0);
        drop(changes);
        assert_at_base(&world, &bucket).await;
    });
}
