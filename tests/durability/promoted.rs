//! What a promoted node has besides documents that were set: what it inherited in memory alone, deletions, collections that
//! began and ended.

use std::time::Duration;

use piggin::BucketConfig;
use piggin::messages::{ChildName, OperationError};
use piggin::storage::{DurabilityLevel, Seqno, Topology};
use supervisor::testing::Fault;

use crate::common::{
    Three, begin, caught_up, chain, created, key, promote, read, replicate, run, settled,
};
use crate::failover::fail_over;

/// The third has nothing, and the promoted one nothing on its disk: what it inherited comes to the third from memory, and is
/// committed by both.
#[test]
fn a_third_follows_from_memory() {
    run(1, async |worlds| {
        let a = created(&worlds[0], "a").await;
        let config = BucketConfig {
            stall_limit: Duration::from_secs(24 * 3600),
            ..crate::common::config(&worlds[1], "b")
        };
        let b = worlds[1].create(config).await.expect("a bucket");
        let c = created(&worlds[2], "c").await;
        for number in 0..2 {
            worlds[1].inject(Fault::Stall {
                child: ChildName::new(format!("flusher-{number}")),
                time: Duration::from_secs(12 * 3600),
            });
        }
        let follows = replicate(&a, &b);
        // Nobody else holds them, so they stay undecided.
        chain(&a, ["a", "b", "nobody"]);
        for number in 0..20 {
            let write = a.set(key(number), "committed");
            write
                .durability(DurabilityLevel::Majority)
                .await
                .expect("a commit");
        }
        chain(&a, ["a", "nobody"]);
        let asked: Vec<_> = (10..30)
            .map(|number| begin(&a, &key(number), "inherited", DurabilityLevel::Majority))
            .collect();
        worlds[0].sleep(Duration::from_millis(1)).await;
        caught_up(&follows).await;
        worlds[0].cut_power();
        for asked in asked {
            let ended = asked.await.expect("no panic");
            assert!(ended.is_err(), "nobody else held it");
        }
        drop(follows);
        for vbucket in b.vbuckets() {
            promote(&b, vbucket, Topology::of_chain(["b", "c"])).await;
        }
        let hidden = b.get(key(20)).await;
        assert_eq!(hidden, Err(OperationError::SyncWriteReCommitInProgress));
        let follows = replicate(&b, &c);
        for number in 0..30 {
            let value = if number < 10 {
                "committed"
            } else {
                "inherited"
            };
            assert_eq!(read(&b, &key(number)).await.as_deref(), Some(value));
        }
        settled(&b).await;
        caught_up(&follows).await;
        settled(&c).await;
        for vbucket in b.vbuckets() {
            let core = b.vbucket_core(vbucket).expect("it");
            assert_eq!(core.persisted_seqno(), Seqno::ZERO, "from memory");
            let (here, there) = (core.high_seqno(), c.vbucket_core(vbucket).expect("it"));
            assert_eq!(there.high_seqno(), here);
        }
    });
}

/// Durable deletions, and collections that began and ended, are what they were behind a failover.
#[test]
fn deletions_and_collections_come_along() {
    for seed in 0..10 {
        run(seed, async |worlds| {
            let three = Three::created(&worlds).await;
            let active = three.active();
            let level = DurabilityLevel::PersistToMajority;
            for name in ["kept", "dropped"] {
                active
                    .create_collection("_default", name)
                    .await
                    .expect("a collection");
            }
            let kept = active.collection("_default", "kept").expect("it");
            let dropped = active.collection("_default", "dropped").expect("it");
            for number in 0..30 {
                kept.set(key(number), "v")
                    .durability(level)
                    .await
                    .expect("it");
                active
                    .set(key(number), "v")
                    .durability(level)
                    .await
                    .expect("it");
                dropped
                    .set(key(number), "v")
                    .durability(level)
                    .await
                    .expect("it");
            }
            for number in 0..10 {
                kept.delete(key(number))
                    .durability(level)
                    .await
                    .expect("it");
                active
                    .delete(key(number))
                    .durability(level)
                    .await
                    .expect("it");
            }
            // These are under way when their collection ends, and when the node is lost.
            chain(active, ["a", "nobody", "no one"]);
            let late: Vec<_> = (30..40)
                .map(|number| {
                    let dropped = dropped.clone();
                    actix::spawn(
                        async move { dropped.set(key(number), "late").durability(level).await },
                    )
                })
                .collect();
            worlds[0].sleep(Duration::from_millis(5)).await;
            active
                .drop_collection("_default", "dropped")
                .await
                .expect("a drop");
            for follows in &three.follows {
                caught_up(follows).await;
            }
            let Three { buckets, follows } = three;
            let [a, b, c] = buckets;
            worlds[0].cut_power();
            for late in late {
                assert!(late.await.expect("no panic").is_err());
            }
            drop((a, follows));
            let left = [b, c];
            let leaders = fail_over(&left).await;
            let mut follows = Vec::new();
            for (vbucket, leader) in &leaders {
                let (next, other) = (&left[*leader], &left[1 - leader]);
                follows.push(next.replicate([*vbucket], other).expect("it follows"));
            }
            for number in 0..40 {
                let name = key(number);
                let leader = &left[leaders[&left[0].vbucket_of(name.as_bytes())]];
                let is_there = (10..30).contains(&number);
                let value = read(leader, &name).await;
                assert_eq!(value.as_deref(), is_there.then_some("v"), "{name}");
                let kept = leader.collection("_default", "kept").expect("it");
                assert_eq!(kept.get(&name).await.is_ok(), is_there, "{name}");
                assert!(leader.collection("_default", "dropped").is_err());
            }
            for bucket in &left {
                settled(bucket).await;
            }
        });
    }
}

/// MB-43176, MB-72478: what was prepared in a collection that was dropped is not committed into the next of its name, over a
/// restart neither; whoever waits is told.
#[test]
fn mb_43176_a_prepare_of_a_dropped_collection_is_not_committed_into_the_next() {
    for is_reopened in [false, true] {
        run(43176, async |worlds| {
            let mut active = created(&worlds[0], "a").await;
            let level = DurabilityLevel::MajorityAndPersistOnActive;
            active
                .create_collection("_default", "c")
                .await
                .expect("a collection");
            chain(&active, ["a", "nobody"]);
            let old = active.collection("_default", "c").expect("it");
            let asked = {
                let old = old.clone();
                actix::spawn(async move { old.set("k", "of the old one").durability(level).await })
            };
            worlds[0].sleep(Duration::from_millis(5)).await;
            active.flush().await.expect("a flush");
            active
                .drop_collection("_default", "c")
                .await
                .expect("a drop");
            active
                .create_collection("_default", "c")
                .await
                .expect("another");
            drop(old);
            if is_reopened {
                active.shutdown().await.expect("an end");
                let answered = asked.await.expect("no panic");
                assert_eq!(answered, Err(OperationError::SyncWriteAmbiguous));
                active = crate::common::opened(&worlds[0], "a").await;
                chain(&active, ["a"]);
            } else {
                chain(&active, ["a"]);
                let answered = asked.await.expect("no panic");
                let is_told = matches!(answered, Err(OperationError::UnknownCollection { .. }));
                assert!(is_told, "{answered:?}");
            }
            settled(&active).await;
            let new = active.collection("_default", "c").expect("it");
            assert_eq!(
                new.get("k").await.map(drop),
                Err(OperationError::KeyNotFound)
            );
            new.add("k", "of the new one")
                .durability(level)
                .await
                .expect("a commit");
            let found = new.get("k").await.expect("the document");
            assert_eq!(found.value, "of the new one");
        });
    }
}
