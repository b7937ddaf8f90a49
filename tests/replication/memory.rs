//! A replica is never refused for memory: where that is used up its source gets no room back, and what is under way is
//! bounded.

use std::time::Duration;

use piggin::messages::replication::ReplicaState;
use piggin::storage::{Eviction, VbucketId};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::World;

use crate::common::{assert_same, caught_up, config, contents_of, created, run};
use crate::support::evicting::resident;

const QUOTA: u64 = 2 << 20;
/// What one stream may have under way, and one event more.
const WINDOW: u64 = QUOTA / 20 / 4 + 8192;

/// Keys of that vbucket.
fn keys_of(bucket: &Bucket, vbucket: VbucketId) -> impl Iterator<Item = String> + '_ {
    (0..)
        .map(|number| format!("document {number}"))
        .filter(move |key| bucket.vbucket_of(key.as_bytes()) == vbucket)
}

async fn target(there: &World) -> Bucket {
    let config = BucketConfig {
        memory_quota_bytes: QUOTA,
        // Else there would be no end of it.
        eviction: Some(Eviction::None),
        ..config(there)
    };
    there.create(config).await.expect("a bucket")
}

#[test]
fn memory_that_is_used_up_holds_the_source_and_loses_nothing() {
    run(1, async |here, there| {
        // Of what comes from disk a stream gives up whom it waits for too long.
        let source = here.create(resident(config(&here))).await;
        let source = source.expect("a bucket");
        let target = target(&there).await;
        let (followed, own) = (VbucketId::FIRST, VbucketId::new(1).expect("it"));
        // The bucket's clients have nearly all of its memory.
        let mut filled = Vec::new();
        for key in keys_of(&target, own) {
            if target.set(&key, vec![b'f'; 4000]).await.is_err() {
                break;
            }
            filled.push(key);
            target.flush().await.expect("a flush");
        }
        for key in keys_of(&source, followed).take(150) {
            source.set(key, vec![b'v'; 4000]).await.expect("a write");
        }
        let replication = source.replicate([followed], &target).expect("it follows");
        there.sleep(Duration::from_secs(60)).await;
        let status = replication.status().remove(0);
        assert_eq!(status.state, ReplicaState::Held, "{status:?}");
        assert!(status.unacknowledged_bytes > 0);
        assert!(status.unacknowledged_bytes <= WINDOW, "{status:?}");
        let statistics = target.statistics();
        let (held, at_most) = (statistics.memory.bytes, QUOTA + (64 << 10));
        assert!(held <= at_most, "{held} of {QUOTA}");
        assert_eq!(
            statistics.replication_unacknowledged_bytes,
            status.unacknowledged_bytes
        );
        assert!(contents_of(&target, followed).len() < 150);
        // Some is given back: it goes on by itself.
        for key in filled {
            target.delete(key).await.expect("a deletion");
            target.flush().await.expect("a flush");
        }
        caught_up(&replication).await;
        assert_eq!(
            contents_of(&target, followed),
            contents_of(&source, followed)
        );
        let status = replication.status().remove(0);
        assert_eq!((status.streams, status.last_error), (1, None));
    });
}

#[test]
fn a_replica_that_stands_still_costs_its_source_a_bounded_amount() {
    run(2, async |here, there| {
        let (source, target) = (created(&here).await, target(&there).await);
        let (followed, own) = (VbucketId::FIRST, VbucketId::new(1).expect("it"));
        for key in keys_of(&target, own) {
            if target.set(&key, vec![b'f'; 4000]).await.is_err() {
                break;
            }
            target.flush().await.expect("a flush");
        }
        let keys: Vec<String> = keys_of(&source, followed).take(300).collect();
        let replication = source.replicate([followed], &target).expect("it follows");
        let mut most = 0;
        for round in 0..40 {
            for key in &keys {
                let value = format!("{round}").repeat(1000);
                source.set(key, value).await.expect("a write");
            }
            source.flush().await.expect("a flush");
            here.sleep(Duration::from_secs(2)).await;
            most = most.max(source.statistics().memory.bytes);
        }
        // One version of each, what the checkpoints keep, and a window.
        assert!(most < 12 << 20, "{most}");
        let status = replication.status().remove(0);
        assert!(status.unacknowledged_bytes <= WINDOW, "{status:?}");
    });
}

#[test]
fn nothing_is_kept_of_a_stream_that_is_gone() {
    run(3, async |here, there| {
        let created = async |world: &World| world.create(resident(config(world))).await;
        let source = created(&here).await.expect("a bucket");
        let target = created(&there).await.expect("a bucket");
        for number in 0..100 {
            let key = crate::common::key(number);
            source.set(key, vec![b'v'; 2000]).await.expect("a write");
        }
        for _ in 0..5 {
            let replication = crate::common::replicate(&source, &target);
            here.sleep(Duration::from_millis(3)).await;
            drop(replication);
        }
        let replication = crate::common::replicate(&source, &target);
        caught_up(&replication).await;
        assert_same(&source, &target);
        drop(replication);
        source.flush().await.expect("a flush");
        target.flush().await.expect("a flush");
        here.sleep(Duration::from_secs(20)).await;
        let (mine, theirs) = (source.statistics(), target.statistics());
        assert_eq!(mine.memory.bytes, theirs.memory.bytes);
        assert_eq!(mine.backfills, 0);
    });
}
