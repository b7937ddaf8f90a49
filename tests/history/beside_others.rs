//! What came from another node has no past within its snapshots, what a clock or a compaction let go has no time, and a
//! bucket that was shut down has no past at all: each is refused or left out, never guessed.

use std::time::Duration;

use tokio::time::sleep;

use piggin::messages::compactor::CompactOptions;
use piggin::messages::stream::{StreamEndReason, StreamEvent};
use piggin::messages::vbucket::SetVbucketState;
use piggin::storage::{
    Advice, CollectionId, DocumentKey, DurabilityLevel, Retention, Topology, VbucketState,
};
use piggin::{
    Bucket, BucketConfig, ChangesOptions, ChangesToken, Location, Past, PastError, Until,
};
use supervisor::testing::World;

const WINDOW: Duration = Duration::from_secs(3600);

async fn made(world: &World) -> Bucket {
    let config = BucketConfig {
        vbuckets: Some(1),
        actor_threads: Some(1),
        history: Some(Retention::of_seconds(3600)),
        ..world.config()
    };
    world.create(config).await.unwrap()
}

async fn wrote(bucket: &Bucket, key: &str, value: &str) -> ChangesToken {
    bucket.set(key, value.to_owned()).await.unwrap();
    bucket.token().await.unwrap()
}

fn value(past: &Past, key: &str) -> Option<Vec<u8>> {
    past.get(key).unwrap().map(|found| found.value.to_vec())
}

async fn take_over(bucket: &Bucket) {
    let request = SetVbucketState {
        state: VbucketState::Active,
        topology: None,
        is_takeover: false,
    };
    for vbucket in bucket.vbuckets() {
        let core = bucket.vbucket_core(vbucket).unwrap();
        while let Err(error) = core.set_state(request.clone()) {
            assert_eq!(error.advice(), Advice::RetryLater, "{error}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Only its newest versions, from disk, are what another gets.
async fn without_memory(world: &World, bucket: Bucket) -> Bucket {
    bucket.shutdown().await.unwrap();
    world.open(world.config()).await.unwrap()
}

#[test]
fn a_moment_within_what_another_node_sent_is_refused() {
    World::run(7, async |here| {
        let there = here.beside("target");
        let (source, target) = (made(&here).await, made(&there).await);
        let early = wrote(&source, "k", "early").await;
        wrote(&source, "other", "one").await;
        let end = wrote(&source, "k", "late").await;
        let source = without_memory(&here, source).await;
        assert_eq!(
            value(&source.as_of(early.clone()).await.unwrap(), "k"),
            Some(b"early".to_vec())
        );
        let replication = source.replicate(source.vbuckets(), &target).unwrap();
        replication.caught_up().await.unwrap();
        drop(replication);
        source.shutdown().await.unwrap();
        take_over(&target).await;
        target.flush().await.unwrap();
        assert_known_from_its_end(&target, &early, &end).await;
        // Its own writes are history as ever, also in one batch.
        let mine = wrote(&target, "k", "mine").await;
        for round in 0..50 {
            target.set("k", round.to_string()).await.unwrap();
        }
        let target = without_memory(&there, target).await;
        wrote(&target, "k", "again").await;
        assert_known_from_its_end(&target, &early, &end).await;
        let past = target.as_of(mine).await.unwrap();
        assert_eq!(value(&past, "k"), Some(b"mine".to_vec()));
        drop(past);
        target.shutdown().await.unwrap();
    })
    .unwrap();
}

async fn assert_known_from_its_end(target: &Bucket, early: &ChangesToken, end: &ChangesToken) {
    let refused = target.as_of(early.clone()).await;
    assert!(
        matches!(refused, Err(PastError::NotWhole { .. })),
        "{refused:?}"
    );
    let past = target.as_of(end.clone()).await.unwrap();
    assert_eq!(value(&past, "k"), Some(b"late".to_vec()));
    assert_eq!(value(&past, "other"), Some(b"one".to_vec()));
}

#[test]
fn a_version_older_than_the_history_has_no_time() {
    World::run(8, async |here| {
        let bucket = made(&here).await;
        let key = |name: &str| DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).unwrap();
        wrote(&bucket, "old", "once").await;
        wrote(&bucket, "new", "one").await;
        wrote(&bucket, "new", "two").await;
        sleep(WINDOW * 10).await;
        wrote(&bucket, "new", "three").await;
        let compacted = bucket.compact_all(CompactOptions::default()).await;
        assert_eq!(compacted.failed().count(), 0);
        let told = bucket.versions(&key("old"), 10).await.unwrap();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].committed_at_ms, None);
        let told = bucket.versions(&key("new"), 10).await.unwrap();
        assert!(told[0].committed_at_ms.is_some());
        bucket.shutdown().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_past_of_a_bucket_that_was_shut_down_is_outlived() {
    World::run(9, async |here| {
        let there = here.beside("target");
        let bucket = made(&here).await;
        let token = wrote(&bucket, "k", "one").await;
        wrote(&bucket, "k", "two").await;
        let past = bucket.as_of(token).await.unwrap();
        assert_eq!(value(&past, "k"), Some(b"one".to_vec()));
        bucket.shutdown().await.unwrap();
        assert_eq!(past.get("k"), Err(PastError::Outlived));
        let read: Vec<_> = past.documents().collect();
        assert_eq!(read, [Err(PastError::Outlived)]);
        let restored = past.restore_into(&Location::Disk(there.disk()));
        assert_eq!(restored, Err(PastError::Outlived));
    })
    .unwrap();
}

/// What came from another node's disk came as its newest versions; changes with history are what there is, and its own.
#[test]
fn changes_with_history_of_one_that_took_over_are_what_it_has() {
    World::run(10, async |here| {
        let there = here.beside("target");
        let (source, target) = (made(&here).await, made(&there).await);
        wrote(&source, "k", "early").await;
        wrote(&source, "other", "one").await;
        wrote(&source, "k", "late").await;
        let source = without_memory(&here, source).await;
        let replication = source.replicate(source.vbuckets(), &target).unwrap();
        replication.caught_up().await.unwrap();
        // Of a replica, in memory and on disk; then of the active one.
        assert_eq!(told(&target).await, ["one", "late"]);
        target.flush().await.unwrap();
        drop(replication);
        source.shutdown().await.unwrap();
        let target = without_memory(&there, target).await;
        assert_eq!(told(&target).await, ["one", "late"]);
        take_over(&target).await;
        wrote(&target, "k", "mine").await;
        wrote(&target, "k", "again").await;
        assert_eq!(told(&target).await, ["one", "late", "mine", "again"]);
        let target = without_memory(&there, target).await;
        assert_eq!(told(&target).await, ["one", "late", "mine", "again"]);
        target.shutdown().await.unwrap();
    })
    .unwrap();
}

/// The values of all versions that changes with history tell, up to now.
async fn told(bucket: &Bucket) -> Vec<String> {
    let options = ChangesOptions {
        until: Until::Now,
        history: true,
        ..ChangesOptions::default()
    };
    let mut changes = bucket.changes(options).await.unwrap();
    let mut values = Vec::new();
    while let Some(change) = changes.next().await {
        match &change.event {
            StreamEvent::Mutation(item) => {
                values.push(String::from_utf8(item.document.value.to_vec()).unwrap());
            }
            StreamEvent::StreamEnd(reason) => assert_eq!(*reason, StreamEndReason::Ok),
            event @ (StreamEvent::Prepare(_) | StreamEvent::Commit(_) | StreamEvent::Abort(_)) => {
                panic!("{event:?} is for replicas");
            }
            StreamEvent::SnapshotMarker(_)
            | StreamEvent::Deletion(_)
            | StreamEvent::Expiration(_)
            | StreamEvent::SystemEvent(_)
            | StreamEvent::SeqnoAdvanced(_) => {}
        }
    }
    values
}

/// A durable write that is committed, and one that is not.
async fn wrote_durably(bucket: &Bucket, key: &str, value: &str) {
    let chained = |names: &[&str]| {
        let topology = Topology::of_chain(names.iter().copied());
        bucket.set_topology(bucket.vbuckets(), &topology).unwrap();
    };
    let level = DurabilityLevel::Majority;
    // Nobody else is there to acknowledge it.
    chained(&["a", "b"]);
    let given_up = bucket.set(key, "given up").durability(level).await;
    assert!(given_up.is_err(), "{given_up:?}");
    chained(&["a"]);
    bucket
        .set(key, value.to_owned())
        .durability(level)
        .await
        .unwrap();
}

#[test]
fn changes_with_history_are_what_was_committed() {
    World::run(11, async |world| {
        let config = BucketConfig {
            node_name: Some("a".to_owned()),
            vbuckets: Some(1),
            actor_threads: Some(1),
            history: Some(Retention::of_seconds(3600)),
            ..world.config()
        };
        let bucket = world.create(config.clone()).await.unwrap();
        wrote_durably(&bucket, "k", "one").await;
        wrote_durably(&bucket, "k", "two").await;
        wrote(&bucket, "other", "plain").await;
        wrote_durably(&bucket, "last", "three").await;
        let before = ["one", "two", "plain", "three"];
        assert_eq!(told(&bucket).await, before);
        // That was before the history: what is newest of it is told, and every version since.
        sleep(WINDOW + Duration::from_secs(60)).await;
        let done = bucket.compact_all(CompactOptions::default()).await;
        assert_eq!(done.failed().count(), 0);
        wrote_durably(&bucket, "k", "four").await;
        wrote_durably(&bucket, "k", "five").await;
        wrote(&bucket, "other", "six").await;
        let since = ["two", "plain", "three", "four", "five", "six"];
        assert_eq!(told(&bucket).await, since);
        bucket.shutdown().await.unwrap();
        let bucket = world.open(config).await.unwrap();
        assert_eq!(told(&bucket).await, since);
        let done = bucket.compact_all(CompactOptions::default()).await;
        assert_eq!(done.failed().count(), 0);
        assert_eq!(told(&bucket).await, since);
        bucket.shutdown().await.unwrap();
    })
    .unwrap();
}
