//! A document in memory whose time is up is deleted by a sweep, as by a read or a compaction: not before its time, not one that
//! was given more of it, never on a replica, and streams are told.

use std::time::Duration;

use actors::compactor::Expiring;
use piggin::messages::stream::StreamEvent;
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{ChildName, FailureId, FailureKind};
use piggin::storage::{DeleteSource, Operation, VbucketId, VbucketState};
use piggin::{Bucket, BucketConfig, ChangesOptions, Until};
use supervisor::testing::{Fault, World};

use crate::support::evicting::resident;

const SECOND: Duration = Duration::from_secs(1);
const LIVES_S: u32 = 100;

fn run(scenario: impl AsyncFnOnce(World) + Send) {
    World::run(1, |world| scenario(world)).expect("a run that ends");
}

async fn created(world: &World, every: Duration) -> Bucket {
    // Of what left memory a sweep sees nothing.
    let config = resident(BucketConfig {
        vbuckets: Some(2),
        expiry_sweep_every: every,
        ..world.config()
    });
    world.create(config).await.expect("a bucket")
}

/// So many documents that a step does not see all of them, half of which live on.
async fn filled(world: &World, every: Duration) -> Bucket {
    let bucket = created(world, every).await;
    for number in 0..DOCUMENTS {
        let expiry = if number % 2 == 0 { LIVES_S } else { 0 };
        let write = bucket.set(key(number), "value").expiry(expiry);
        write.await.expect("a write");
    }
    bucket.flush().await.expect("a flush");
    bucket
}

const DOCUMENTS: u64 = 2000;

fn key(number: u64) -> String {
    format!("{number}")
}

fn figures(bucket: &Bucket) -> (u64, u64) {
    let statistics = bucket.statistics();
    (statistics.documents, statistics.expired_by_sweep)
}

#[test]
fn documents_whose_time_is_up_are_deleted_and_no_others() {
    run(async |world| {
        let bucket = filled(&world, 30 * SECOND).await;
        world.sleep(95 * SECOND).await;
        assert_eq!(figures(&bucket), (DOCUMENTS, 0), "not before their time");
        bucket.touch(key(0), 10_000).await.expect("a touch");
        bucket.set(key(2), "anew").await.expect("a write");
        world.sleep(40 * SECOND).await;
        let expired = DOCUMENTS / 2 - 2;
        assert_eq!(figures(&bucket), (DOCUMENTS - expired, expired));
        for number in 0..DOCUMENTS {
            let is_there = bucket.get(key(number)).await.is_ok();
            assert_eq!(is_there, number < 3 || number % 2 == 1, "{number}");
        }
        // A consumer is told, as of any expiry.
        let options = ChangesOptions {
            until: Until::Now,
            ..ChangesOptions::default()
        };
        let mut changes = bucket.changes(options).await.expect("changes");
        let mut expirations = 0;
        while let Some(change) = changes.next().await {
            if let StreamEvent::Expiration(_) = change.event {
                expirations += 1;
            }
        }
        assert_eq!(expirations, expired);
        bucket.shutdown().await.expect("an end");
        // Nor is it there again after that.
        let bucket = world.open(world.config()).await.expect("the bucket");
        assert_eq!(bucket.statistics().documents, DOCUMENTS - expired);
        bucket.shutdown().await.expect("an end");
    });
}

#[test]
fn with_zero_nobody_looks() {
    run(async |world| {
        let bucket = filled(&world, Duration::ZERO).await;
        world.sleep(6 * 3600 * SECOND).await;
        assert_eq!(figures(&bucket), (DOCUMENTS, 0));
        bucket.shutdown().await.expect("an end");
    });
}

#[test]
fn a_replica_deletes_nothing_by_itself() {
    run(async |world| {
        let bucket = filled(&world, 10 * SECOND).await;
        let core = bucket.vbucket_core(VbucketId::FIRST).expect("it");
        let become_it = |state| {
            core.set_state(SetVbucketState {
                state,
                topology: None,
                is_takeover: false,
            })
            .expect("another state");
        };
        become_it(VbucketState::Replica);
        let before = (core.high_seqno(), core.figures());
        world.sleep(200 * SECOND).await;
        assert_eq!((core.high_seqno(), core.figures()), before);
        assert!(bucket.statistics().expired_by_sweep > 0, "the other one");
        become_it(VbucketState::Active);
        world.sleep(20 * SECOND).await;
        assert_eq!(bucket.statistics().expired_by_sweep, DOCUMENTS / 2);
        bucket.shutdown().await.expect("an end");
    });
}

/// What was found, and touched before it was deleted, stays; what is deleted is an expiry, by the version that was found.
#[test]
fn one_that_was_given_more_time_meanwhile_stays() {
    run(async |world| {
        let bucket = created(&world, Duration::ZERO).await;
        let write = bucket.set("a", "value").expiry(LIVES_S);
        let found = write.await.expect("a write");
        world.sleep(200 * SECOND).await;
        bucket.set("a", "anew").expiry(LIVES_S).await.expect("it");
        let core = bucket.vbucket_core(bucket.vbucket_of(b"a")).expect("it");
        let key = bucket.collection("_default", "_default").expect("it");
        let key = key.key("a").expect("a key");
        let expired = core.expire_found(&key, found.cas, None);
        assert_eq!(expired, Expiring::Left);
        assert_eq!(bucket.get("a").await.expect("it").value, "anew");
        world.sleep(200 * SECOND).await;
        let mut walk = <_>::default();
        while !core.sweep_expired(&mut walk).is_at_end {}
        let newest = (0..).map_while(|slice| core.slice(slice)).flatten().next();
        let operation = newest.map(|item| item.operation);
        assert!(
            matches!(
                operation,
                Some(Operation::Deletion {
                    source: DeleteSource::Expiration,
                    ..
                })
            ),
            "{operation:?}"
        );
        bucket.shutdown().await.expect("an end");
    });
}

#[test]
fn a_panic_in_the_middle_costs_nothing() {
    run(async |world| {
        let bucket = filled(&world, 120 * SECOND).await;
        world.sleep(110 * SECOND).await;
        let child = ChildName::new("maintenance");
        world.inject(Fault::PanicIn { child, nth: 3 });
        world.sleep(60 * SECOND).await;
        assert_eq!(world.faults_waiting(), 0, "it panicked");
        let told = bucket.failures(FailureId(0)).failures;
        let panicked = told.iter().map(|failure| failure.kind);
        assert_eq!(panicked.collect::<Vec<_>>(), [FailureKind::ChildPanicked]);
        assert_eq!(figures(&bucket), (DOCUMENTS / 2, DOCUMENTS / 2));
        bucket.shutdown().await.expect("an end");
    });
}

/// While thousands expire, who writes waits for the disk no longer than else.
#[test]
fn writes_and_flushes_go_on_beside_it() {
    run(async |world| {
        let bucket = filled(&world, 120 * SECOND).await;
        world.sleep(119 * SECOND).await;
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..400 {
            let write = bucket.set(format!("beside {number}"), "value").persisted();
            write.await.expect("a write");
            seen.insert(bucket.statistics().expired_by_sweep);
            world.sleep(Duration::from_millis(5)).await;
        }
        assert!(seen.contains(&0) && seen.contains(&(DOCUMENTS / 2)));
        assert!(seen.len() > 2, "in slices: {seen:?}");
        bucket.shutdown().await.expect("an end");
    });
}
