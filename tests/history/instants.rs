//! As of an instant a bucket is exactly what a reader read then, whatever was written, dropped and compacted since, for as
//! long as the window goes and not longer.

use std::collections::BTreeMap;
use std::time::Duration;

use piggin::messages::compactor::CompactOptions;
use piggin::storage::{CollectionId, DocumentKey, Retention};
use piggin::{Bucket, BucketConfig, CompactionConfig, CompactionPolicy, Past, PastError};
use supervisor::testing::{Clock, World};

const WINDOW_S: u32 = 3600;
const KEYS: usize = 12;
/// From one instant to the next; and a compaction takes less than this.
const BETWEEN: Duration = Duration::from_secs(60);
const LITTLE: Duration = Duration::from_secs(10);
const EVERYTHING: CompactOptions = CompactOptions {
    drop_deletes: true,
    purge_before_s: None,
};

/// Everything a reader can read, by collection and key.
type Copy = BTreeMap<DocumentKey, (String, u64)>;

/// A copy, taken at an instant.
struct Taken {
    time: Duration,
    token: piggin::ChangesToken,
    copy: Copy,
}

fn config(world: &World, policy: CompactionPolicy) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(4),
        history: Some(Retention::of_seconds(WINDOW_S)),
        compaction: CompactionConfig {
            policy,
            ..CompactionConfig::default()
        },
        ..world.config()
    }
}

fn run(scenario: impl AsyncFn(World, CompactionPolicy) + Send + Sync) {
    for policy in [CompactionPolicy::NEVER, CompactionPolicy::default()] {
        let ended = World::run(1900, |world| scenario(world, policy));
        ended.expect("a run that ends");
    }
}

async fn copy_of(bucket: &Bucket, names: &[&str]) -> Copy {
    let mut copy = Copy::new();
    for name in names {
        let Ok(collection) = bucket.collection("_default", name) else {
            continue;
        };
        for number in 0..KEYS {
            let key = format!("key {number}");
            if let Ok(found) = collection.get(&key).await {
                let value = String::from_utf8(found.value.to_vec()).expect("text");
                let key = collection.key(&key).expect("a key");
                copy.insert(key, (value, found.meta.cas.0));
            }
        }
    }
    copy
}

fn copy_as_of(past: &Past) -> Copy {
    let documents = past
        .documents()
        .map(|document| document.expect("a document"));
    let read = documents.map(|document| {
        let value = String::from_utf8(document.value.to_vec()).expect("text");
        (document.key, (value, document.cas.0))
    });
    read.collect()
}

/// Takes a copy; then the clock goes on, so that the instant has passed.
async fn take(world: &World, bucket: &Bucket) -> Taken {
    let token = bucket.token().await.expect("a token");
    let of_now = Taken {
        time: world.clock().since_epoch(),
        token,
        copy: copy_of(bucket, &["_default", "fruit"]).await,
    };
    world.sleep(BETWEEN).await;
    of_now
}

/// Until a little before that time.
async fn until(world: &World, time: Duration) {
    let now = world.clock().since_epoch();
    let left = time.saturating_sub(LITTLE).saturating_sub(now);
    world.sleep(left).await;
}

async fn assert_as_of(bucket: &Bucket, taken: &[Taken]) {
    for (number, one) in taken.iter().enumerate() {
        for past in [
            bucket.as_of(one.time).await.expect("a past"),
            bucket.as_of(one.token.clone()).await.expect("a past"),
        ] {
            assert_eq!(copy_as_of(&past), one.copy, "instant {number}");
            for (key, (value, _)) in &one.copy {
                let found = past.get_key(key).expect("it").expect("there");
                assert_eq!(found.value, value.as_bytes());
            }
            assert_eq!(past.get("never").expect("nothing"), None);
        }
    }
}

/// Writes, overwrites, deletes, drops; copies in between.
async fn live(world: &World, bucket: &Bucket) -> Vec<Taken> {
    let mut taken = vec![take(world, bucket).await];
    bucket
        .create_collection("_default", "fruit")
        .await
        .expect("one");
    let fruit = bucket.collection("_default", "fruit").expect("it");
    for round in 0..4 {
        for number in 0..KEYS {
            let key = format!("key {number}");
            let value = format!("{round} of {number}");
            bucket.set(&key, value.clone()).await.expect("a write");
            fruit.set(&key, value).await.expect("a write");
            if (number + round) % 5 == 0 {
                bucket.delete(&key).await.expect("a deletion");
            }
        }
        taken.push(take(world, bucket).await);
        let compacted = bucket.compact_all(EVERYTHING).await;
        assert_eq!(compacted.failed().count(), 0);
    }
    bucket
        .drop_collection("_default", "fruit")
        .await
        .expect("a drop");
    taken.push(take(world, bucket).await);
    // One of the same name is another one.
    bucket
        .create_collection("_default", "fruit")
        .await
        .expect("one");
    let fruit = bucket.collection("_default", "fruit").expect("it");
    fruit.set("key 1", "another").await.expect("a write");
    taken.push(take(world, bucket).await);
    taken
}

#[test]
fn history_is_read_as_it_was_also_after_compaction_and_a_crash() {
    run(async |world, policy| {
        let bucket = world
            .create(config(&world, policy))
            .await
            .expect("a bucket");
        let taken = live(&world, &bucket).await;
        assert_as_of(&bucket, &taken).await;
        bucket.compact_all(EVERYTHING).await;
        assert_as_of(&bucket, &taken).await;
        world.kill();
        let mut opened = config(&world, policy);
        opened.history = None;
        let bucket = world.open(opened).await.expect("the bucket");
        assert_as_of(&bucket, &taken).await;
        let then = bucket.as_of(taken[4].time).await.expect("a past");
        let id = then.collection("_default", "fruit").expect("it was there");
        let key = DocumentKey::new(id, b"key 1").expect("a key");
        assert!(then.get_key(&key).expect("it").is_some());
        let dropped = bucket.as_of(taken[5].time).await.expect("a past");
        assert!(matches!(
            dropped.collection("_default", "fruit"),
            Err(PastError::UnknownCollection { .. })
        ));
        assert_ne!(id, CollectionId::DEFAULT);
        bucket.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn history_goes_when_its_window_has_passed() {
    run(async |world, policy| {
        let bucket = world
            .create(config(&world, policy))
            .await
            .expect("a bucket");
        let taken = live(&world, &bucket).await;
        let of_the_last = taken.last().expect("one").time;
        let kept = Duration::from_secs(u64::from(WINDOW_S));
        // Just inside, of the first: all of it is there, whoever compacts.
        until(&world, taken[0].time + kept).await;
        bucket.compact_all(EVERYTHING).await;
        assert_as_of(&bucket, &taken).await;
        // Then outside, of all but the last.
        until(&world, of_the_last + kept).await;
        let done = bucket.compact_all(EVERYTHING).await;
        let total = done.total();
        if policy == CompactionPolicy::NEVER {
            assert!(total.collection_items_purged >= KEYS as u64, "{total:?}");
            assert!(total.tombstones_purged > 0, "{total:?}");
        }
        assert_as_of(&bucket, &taken[taken.len() - 1..]).await;
        for one in &taken[..taken.len() - 1] {
            let refused = bucket.as_of(one.time).await;
            assert!(
                matches!(refused, Err(PastError::BeforeWindow { .. })),
                "{refused:?}"
            );
        }
        let refused = bucket.as_of(taken[2].token.clone()).await;
        assert!(refused.is_err(), "what it needs is gone");
        bucket.shutdown().await.expect("an orderly end");
    });
}

/// What nobody asks for goes all the same: the engine looks again when what it left may be history no more.
#[test]
fn history_that_was_outlived_is_compacted_unasked() {
    World::run(1901, async |world| {
        let config = config(&world, CompactionPolicy::default());
        let bucket = world.create(config).await.expect("a bucket");
        bucket
            .create_collection("_default", "fruit")
            .await
            .expect("one");
        let fruit = bucket.collection("_default", "fruit").expect("it");
        for number in 0..KEYS {
            let key = format!("key {number}");
            fruit.set(&key, "1").persisted().await.expect("a write");
        }
        bucket
            .drop_collection("_default", "fruit")
            .await
            .expect("a drop");
        world
            .sleep(Duration::from_secs(u64::from(WINDOW_S) / 2))
            .await;
        let erased = || bucket.statistics().compaction.collection_items_purged;
        assert_eq!(erased(), 0, "it is history");
        world.sleep(Duration::from_secs(u64::from(WINDOW_S))).await;
        assert_eq!(erased(), KEYS as u64);
        bucket.shutdown().await.expect("an orderly end");
    })
    .expect("a run that ends");
}
