//! What cannot be done is refused before anything is written; what was accepted is answered once, whatever happens.

use std::time::Duration;

use piggin::actors::environment::Clock;
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{Busy, OperationError};
use piggin::storage::{DurabilityLevel, Seqno, Topology, VbucketId, VbucketState};
use piggin::{Bucket, BucketConfig, BucketError, ReplicateError};

use crate::common::{
    PATIENCE, answer, begin, chain, created, promote, read, replicate, run, settled,
};

const LEVEL: DurabilityLevel = DurabilityLevel::Majority;

fn high(bucket: &Bucket) -> Seqno {
    let vbucket = bucket.vbucket_of(b"k");
    let core = bucket.vbucket_core(vbucket).expect("a vbucket");
    core.high_seqno()
}

async fn refused(bucket: &Bucket) -> OperationError {
    let before = high(bucket);
    let written = bucket.set("k", "v").durability(LEVEL).await;
    assert_eq!(high(bucket), before, "nothing was written");
    written.expect_err("a refusal")
}

#[test]
fn what_cannot_be_committed_is_refused_whole() {
    run(1, async |worlds| {
        let active = created(&worlds[0], "a").await;
        let no_topology = OperationError::TemporaryFailure(Busy::NoTopology);
        assert_eq!(refused(&active).await, no_topology);
        let places = |chain: &[Option<&str>]| Topology {
            chains: vec![chain.iter().map(|node| node.map(str::to_owned)).collect()],
        };
        let set = |topology: Topology| {
            let set = active.set_topology(active.vbuckets(), &topology);
            set.expect("a topology");
        };
        set(places(&[Some("a"), None]));
        assert_eq!(refused(&active).await, OperationError::DurabilityImpossible);
        set(Topology::of_chain(["a", "b", "c", "d"]));
        let too_many = refused(&active).await;
        assert_eq!(too_many, OperationError::DurabilityImpossible);
        chain(&active, ["a"]);
        for timeout in [Duration::ZERO, Duration::from_millis(65_535)] {
            let before = high(&active);
            let write = active.set("k", "v").durability(LEVEL);
            let written = write.durability_timeout(timeout).await;
            assert_eq!(written, Err(OperationError::DurabilityInvalidLevel));
            assert_eq!(high(&active), before);
        }
        for timeout in [1, 65_534] {
            let write = active.set("k", "v").durability(LEVEL);
            let written = write.durability_timeout(Duration::from_millis(timeout));
            written.await.expect("within the range");
        }
    });
}

#[test]
fn a_vbucket_that_is_not_active_refuses() {
    run(2, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a"]);
        let vbucket = active.vbucket_of(b"k");
        let states = [
            VbucketState::Replica,
            VbucketState::Pending,
            VbucketState::Dead,
        ];
        for state in states {
            let core = active.vbucket_core(vbucket).expect("a vbucket");
            let change = SetVbucketState {
                state,
                topology: None,
                is_takeover: false,
            };
            core.set_state(change).expect("another state");
            let error = refused(&active).await;
            match state {
                VbucketState::Pending => {
                    let pending = OperationError::TemporaryFailure(Busy::Pending);
                    assert_eq!(error, pending);
                }
                VbucketState::Replica | VbucketState::Dead | VbucketState::Active => {
                    assert_eq!(error, OperationError::NotMyVbucket { vbucket, state });
                }
            }
        }
        let shut = active.clone();
        active.shutdown().await.expect("an end");
        let late = shut.set("k", "v").durability(LEVEL).await;
        assert_eq!(late, Err(OperationError::Closed));
    });
}

#[test]
fn a_topology_nobody_can_have_changes_nothing() {
    run(3, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a"]);
        let of = |chains: &[&[Option<&str>]]| {
            let chain = |chain: &&[Option<&str>]| {
                chain.iter().map(|node| node.map(str::to_owned)).collect()
            };
            Topology {
                chains: chains.iter().map(chain).collect(),
            }
        };
        let a = Some("a");
        let bad = [
            of(&[&[]]),
            of(&[&[None, a]]),
            of(&[&[a, Some("b"), a]]),
            of(&[&[a], &[a], &[a]]),
            of(&[&[a, Some("b"), Some("c"), Some("d"), Some("e")]]),
            of(&[&[a], &[None]]),
            of(&[&[a, Some("")]]),
            // Another's: this bucket is no replica of its own vbuckets.
            of(&[&[Some("b"), a]]),
        ];
        for topology in bad {
            let set = active.set_topology(active.vbuckets(), &topology);
            assert!(
                matches!(set, Err(OperationError::InvalidTopology(_))),
                "{topology:?}: {set:?}"
            );
        }
        let unknown = VbucketId::new(4).expect("a number");
        let one = Topology::of_chain(["a"]);
        let set = active.set_topology([VbucketId::FIRST, unknown], &one);
        assert_eq!(set, Err(OperationError::UnknownVbucket(unknown)));
        // The chain of before is in force.
        active.set("k", "v").durability(LEVEL).await.expect("it");
    });
}

#[test]
fn settings_no_bucket_can_have_are_refused() {
    run(4, async |worlds| {
        let usual = || crate::common::config(&worlds[0], "a");
        let bad = [
            BucketConfig {
                node_name: Some(String::new()),
                ..usual()
            },
            BucketConfig {
                node_name: Some("n".repeat(201)),
                ..usual()
            },
            BucketConfig {
                replicas_max: 4,
                ..usual()
            },
        ];
        for config in bad {
            let made = worlds[0].create(config).await;
            assert!(matches!(made, Err(BucketError::Setting { .. })), "{made:?}");
        }
        let drawn = BucketConfig {
            node_name: None,
            ..usual()
        };
        let bucket = worlds[0].create(drawn.clone()).await.expect("a bucket");
        let name = bucket.node_name().to_owned();
        assert!(!name.is_empty());
        bucket.shutdown().await.expect("an end");
        let bucket = worlds[0].open(drawn).await.expect("the bucket");
        assert_eq!(bucket.node_name(), name, "it stays");
        // Two of one name would be counted as one.
        let namesake = created(&worlds[1], &name).await;
        let refused = bucket.replicate(bucket.vbuckets(), &namesake);
        let error = refused.expect_err("a refusal");
        assert_eq!(error, ReplicateError::SameNode { name });
    });
}

#[test]
fn one_whose_time_is_up_is_given_up_and_forgotten() {
    run(5, async |worlds| {
        let active = created(&worlds[0], "a").await;
        active.set("k", "old").await.expect("a write");
        chain(&active, ["a", "b"]);
        let clock = worlds[0].clock();
        let before = clock.monotonic();
        let write = active.set("k", "new").durability(LEVEL);
        let written = write.durability_timeout(Duration::from_secs(2)).await;
        assert_eq!(written, Err(OperationError::SyncWriteAmbiguous));
        let took = clock.monotonic().saturating_sub(before);
        assert!(took >= Duration::from_secs(2), "{took:?}");
        assert!(took < Duration::from_millis(2100), "{took:?}");
        settled(&active).await;
        let counts = active.statistics().durability.counts;
        assert_eq!((counts.committed, counts.aborted), (0, 1));
        assert_eq!(read(&active, "k").await.as_deref(), Some("old"));
        active.set("k", "plain").await.expect("the key is free");
    });
}

#[test]
fn a_key_with_a_write_under_way_takes_no_other() {
    run(6, async |worlds| {
        let active = created(&worlds[0], "a").await;
        active.set("k", "old").await.expect("a write");
        chain(&active, ["a", "b"]);
        let asked = begin(&active, "k", "new", LEVEL);
        worlds[0].sleep(Duration::from_millis(1)).await;
        let in_progress = Err(OperationError::SyncWriteInProgress);
        assert_eq!(active.set("k", "other").await, in_progress);
        assert_eq!(
            active.set("k", "other").durability(LEVEL).await,
            in_progress
        );
        assert_eq!(active.add("k", "other").await, in_progress);
        assert_eq!(active.delete("k").await, in_progress);
        assert_eq!(active.touch("k", 9).await, in_progress);
        assert!(!asked.is_finished());
        chain(&active, ["a"]);
        answer(asked)
            .await
            .expect("a commit by the one that is left");
    });
}

/// MB-36372, MB-36563: whoever waits when the vbucket ceases to be active is told that nothing is known.
#[test]
fn whoever_waits_when_the_role_ends_is_answered() {
    run(7, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a", "b"]);
        let asked: Vec<_> = (0..20)
            .map(|number| begin(&active, &crate::common::key(number), "v", LEVEL))
            .collect();
        worlds[0].sleep(Duration::from_millis(1)).await;
        for vbucket in active.vbuckets() {
            let core = active.vbucket_core(vbucket).expect("a vbucket");
            let replica = SetVbucketState {
                state: VbucketState::Replica,
                topology: None,
                is_takeover: false,
            };
            core.set_state(replica).expect("a replica");
        }
        for asked in asked {
            let answered = answer(asked).await;
            assert_eq!(answered, Err(OperationError::SyncWriteAmbiguous));
        }
        // They go on: the next active commits them, and until then nobody reads them.
        for vbucket in active.vbuckets() {
            promote(&active, vbucket, Topology::default()).await;
        }
        let hidden = active.get(crate::common::key(0)).await;
        assert_eq!(hidden, Err(OperationError::SyncWriteReCommitInProgress));
        chain(&active, ["a"]);
        for number in 0..20 {
            let value = read(&active, &crate::common::key(number)).await;
            assert_eq!(value.as_deref(), Some("v"));
        }
        settled(&active).await;
    });
}

/// MB-46272: a shutdown answers whoever waits, and the writes go on with the next opening.
#[test]
fn whoever_waits_at_the_end_is_answered() {
    run(8, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a", "b"]);
        let asked: Vec<_> = (0..20)
            .map(|number| begin(&active, &crate::common::key(number), "v", LEVEL))
            .collect();
        worlds[0].sleep(Duration::from_millis(1)).await;
        let ended = tokio::time::timeout(PATIENCE, active.shutdown()).await;
        ended.expect("it ends").expect("in order");
        for asked in asked {
            let answered = answer(asked).await;
            assert_eq!(answered, Err(OperationError::SyncWriteAmbiguous));
        }
        let active = crate::common::opened(&worlds[0], "a").await;
        let hidden = active.get(crate::common::key(3)).await;
        assert_eq!(hidden, Err(OperationError::SyncWriteReCommitInProgress));
        let other = created(&worlds[1], "b").await;
        let replication = replicate(&active, &other);
        for number in 0..20 {
            let value = read(&active, &crate::common::key(number)).await;
            assert_eq!(value.as_deref(), Some("v"));
        }
        settled(&active).await;
        drop(replication);
    });
}
