//! A bucket in a world: what its handles are told when it is ended, what is left of it, and that it can be seen and made
//! to fail like any other.
#![cfg(test)]

use std::time::Duration;

use piggin::messages::vbucket::{Get, Set, WriteOptions};
use piggin::messages::{ChildName, FailureId, FailureKind, OperationError};
use piggin::storage::{CollectionId, DocumentKey};
use piggin::{Bucket, BucketConfig, BucketError};
use supervisor::testing::{Clock, Fault, MessageLog, MessagesOf, World};

fn small(world: &World) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(4),
        ..world.config()
    }
}

async fn created(world: &World) -> Bucket {
    world.create(small(world)).await.expect("a bucket")
}

async fn opened(world: &World) -> Bucket {
    world.open(small(world)).await.expect("the bucket")
}

fn run(scenario: impl AsyncFnOnce(World) + Send) {
    World::run(7, |world| scenario(world)).expect("a run that ends");
}

#[test]
fn whoever_holds_a_bucket_that_was_killed_is_told() {
    run(async |world| {
        let bucket = created(&world).await;
        bucket.set("kept", "1").persisted().await.expect("a write");
        world.inject(Fault::Stall {
            child: ChildName::new("writer-0"),
            time: Duration::from_secs(3),
        });
        let (waits, stops) = (bucket.clone(), bucket.clone());
        let waits = actix::spawn(async move { waits.set("lost", "2").persisted().await });
        world.sleep(Duration::from_millis(100)).await;
        let stops = actix::spawn(stops.shutdown());
        world.sleep(Duration::from_millis(100)).await;
        assert!(!waits.is_finished() && !stops.is_finished());
        world.kill();
        let answer = waits.await.expect("no panic");
        assert_eq!(answer, Err(OperationError::Closed));
        let answer = stops.await.expect("no panic");
        assert!(
            matches!(answer, Err(BucketError::Shutdown(_))),
            "{answer:?}"
        );
        assert!(bucket.is_closed());
        assert!(bucket.get("kept").await.is_err());
        assert!(bucket.set("other", "3").await.is_err());
        let vbucket = bucket.vbucket(bucket.vbucket_of(b"kept")).expect("it");
        let key = DocumentKey::new(CollectionId::DEFAULT, b"kept").expect("a key");
        let get = Get { key };
        assert!(vbucket.send(get).await.expect("an answer").is_err());

        let bucket = opened(&world).await;
        assert_eq!(bucket.get("kept").await.expect("it").value, "1");
        let lost = bucket.get("lost").await;
        assert_eq!(lost, Err(OperationError::KeyNotFound));
        bucket.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn a_kill_keeps_what_was_written_and_a_power_cut_what_was_synced() {
    run(async |world| {
        let bucket = created(&world).await;
        for number in 0..20 {
            let key = format!("key {number}");
            bucket.set(key, "1").persisted().await.expect("a write");
        }
        world.kill();
        let bucket = opened(&world).await;
        assert_eq!(bucket.statistics().documents, 20);
        world.cut_power();
        let bucket = opened(&world).await;
        assert_eq!(bucket.statistics().documents, 20);
    });
}

#[test]
fn a_bucket_that_is_killed_while_it_is_opened_answers() {
    run(async |world| {
        created(&world).await.shutdown().await.expect("an end");
        let here = world.clone();
        let opening = actix::spawn(async move { here.open(small(&here)).await });
        world.sleep(Duration::from_millis(1)).await;
        world.kill();
        let answer = opening.await.expect("no panic");
        assert!(
            matches!(answer, Err(BucketError::Engine { .. })),
            "{answer:?}"
        );
        opened(&world).await.shutdown().await.expect("an end");
    });
}

#[test]
fn a_dropped_bucket_leaves_the_disk_to_the_next() {
    run(async |world| {
        let bucket = created(&world).await;
        bucket.set("key", "1").persisted().await.expect("a write");
        let second = world.open(small(&world)).await;
        assert!(matches!(second, Err(BucketError::Storage(_))), "{second:?}");
        drop(bucket);
        world.sleep(Duration::from_secs(60)).await;
        let bucket = opened(&world).await;
        assert_eq!(bucket.get("key").await.expect("it").value, "1");
    });
}

#[test]
fn messages_are_seen_in_order_and_may_panic_and_stall() {
    run(async |world| {
        let bucket = created(&world).await;
        let (log, sets) = (MessageLog::default(), MessagesOf::<Set>::default());
        world.tap(log.clone());
        world.tap(sets.clone());
        world.inject(Fault::panic_on::<Set>(2));
        let name = "a key";
        let vbucket = bucket.vbucket_of(name.as_bytes());
        let address = bucket.vbucket(vbucket).expect("it");
        let set = |value: &'static str| Set {
            key: DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).expect("a key"),
            value: value.into(),
            options: WriteOptions::default(),
        };
        for (value, is_ok) in [("1", true), ("2", false), ("3", true)] {
            let answer = address.send(set(value)).await.expect("an answer");
            assert_eq!(answer.is_ok(), is_ok, "{answer:?}");
        }
        let values: Vec<_> = sets.all().into_iter().map(|(_, set)| set.value).collect();
        assert_eq!(values, ["1", "2", "3"]);
        let child = ChildName::new(format!("vbucket-{vbucket}"));
        let of_it = log.all().into_iter().filter(|one| one.child == child);
        let lives: Vec<u64> = of_it.map(|one| one.generation.0).collect();
        assert_eq!(lives, [1, 1, 2]);

        let time = Duration::from_secs(7);
        world.inject(Fault::Stall { child, time });
        let due = world.clock().monotonic().saturating_add(time);
        address
            .send(set("4"))
            .await
            .expect("an answer")
            .expect("a write");
        assert!(world.clock().monotonic() >= due);
        assert_eq!(bucket.get(name).await.expect("it").value, "4");
        let failures = bucket.failures(FailureId(0)).failures;
        let kinds: Vec<FailureKind> = failures.iter().map(|failure| failure.kind).collect();
        assert_eq!(
            kinds,
            [FailureKind::ChildPanicked, FailureKind::ChildStalled]
        );
        assert_eq!(world.faults_struck().len(), 2);
        assert_eq!(world.faults_waiting(), 0);
    });
}
