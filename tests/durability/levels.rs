//! What each level waits for, and what is seen of a write before it is committed.

use std::time::Duration;

use piggin::messages::OperationError;
use piggin::storage::DurabilityLevel;

use crate::common::{LEVELS, Three, answer, begin, chain, created, read, replicate, run, settled};

#[test]
fn every_level_commits_where_all_nodes_run() {
    run(1, async |worlds| {
        let three = Three::created(&worlds).await;
        let active = three.active();
        for level in LEVELS {
            for round in 0..20 {
                let (key, value) = (format!("key {round}"), format!("{level:?} {round}"));
                let written = answer(begin(active, &key, &value, level)).await;
                let written = written.expect("a commit");
                let found = active.get(&key).await.expect("the document");
                assert_eq!(found.value, value);
                assert_eq!(found.meta.cas, written.cas);
                assert_eq!(found.meta.seqno, written.token.seqno, "the commit's");
            }
        }
        settled(active).await;
        let counts = active.statistics().durability.counts;
        assert_eq!(
            (counts.accepted, counts.committed, counts.aborted),
            (60, 60, 0)
        );
        for follows in &three.follows {
            crate::common::caught_up(follows).await;
        }
        for bucket in &three.buckets[1..] {
            settled(bucket).await;
        }
    });
}

#[test]
fn a_write_waits_until_a_majority_holds_it() {
    run(2, async |worlds| {
        let [here, there, _] = &worlds;
        let (active, copy) = (created(here, "a").await, created(there, "b").await);
        active.set("k", "old").await.expect("a write");
        chain(&active, ["a", "b"]);
        let asked = begin(&active, "k", "new", DurabilityLevel::Majority);
        here.sleep(Duration::from_secs(5)).await;
        assert!(!asked.is_finished(), "nobody else holds it");
        assert_eq!(read(&active, "k").await.as_deref(), Some("old"));
        let replication = replicate(&active, &copy);
        answer(asked).await.expect("a commit");
        assert_eq!(read(&active, "k").await.as_deref(), Some("new"));
        drop(replication);
    });
}

#[test]
fn the_active_one_alone_is_a_majority_of_one() {
    run(3, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a"]);
        for level in LEVELS {
            answer(begin(&active, "k", "v", level)).await.expect("it");
        }
        settled(&active).await;
    });
}

#[test]
fn every_verb_but_touch_can_be_durable() {
    run(4, async |worlds| {
        let three = Three::created(&worlds).await;
        let active = three.active();
        let level = DurabilityLevel::Majority;
        active.add("k", "1").durability(level).await.expect("add");
        let again = active.add("k", "2").durability(level).await;
        assert_eq!(again, Err(OperationError::KeyExists));
        let set = active.set("k", "3").durability(level).await.expect("set");
        let replaced = active
            .replace("k", "4")
            .cas(set.cas)
            .durability(level)
            .await;
        replaced.expect("replace");
        let old = active
            .replace("k", "5")
            .cas(set.cas)
            .durability(level)
            .await;
        assert!(
            matches!(old, Err(OperationError::CasMismatch { .. })),
            "{old:?}"
        );
        let touched = active.touch("k", 100).durability(level).await;
        assert_eq!(touched, Err(OperationError::DurabilityNotSupported));
        assert_eq!(read(active, "k").await.as_deref(), Some("4"));
        active.delete("k").durability(level).await.expect("delete");
        assert_eq!(read(active, "k").await, None);
        let missing = active.delete("k").durability(level).await;
        assert_eq!(missing, Err(OperationError::KeyNotFound));
    });
}

#[test]
fn the_buckets_least_level_is_asked_of_every_write() {
    run(5, async |worlds| {
        let config = piggin::BucketConfig {
            durability_level_min: Some(DurabilityLevel::Majority),
            ..crate::common::config(&worlds[0], "a")
        };
        let active = worlds[0].create(config).await.expect("a bucket");
        let refused = active.set("k", "v").await;
        assert!(
            matches!(refused, Err(OperationError::TemporaryFailure(_))),
            "{refused:?}"
        );
        chain(&active, ["a", "b"]);
        let asked = {
            let active = active.clone();
            actix::spawn(async move { active.set("k", "v").await })
        };
        worlds[0].sleep(Duration::from_secs(5)).await;
        assert!(!asked.is_finished(), "it waits for a majority");
        let other = created(&worlds[1], "b").await;
        let replication = replicate(&active, &other);
        answer(asked).await.expect("a commit");
        // A touch cannot be durable, and needs nobody.
        active.touch("k", 100).await.expect("a touch");
        drop(replication);
    });
}
