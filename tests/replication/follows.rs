//! A replica gets what its source has, from disk and from memory, follows it, and goes on where it was.

use piggin::messages::replication::{ReplicaEnd, ReplicaState};
use piggin::storage::VbucketId;

use crate::common::{
    assert_same, caught_up, config, copied, created, key, opened, replicate, run, write,
};

#[test]
fn a_replica_gets_everything_and_follows() {
    run(1, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        write(&source, 0..50, "before").await;
        let replication = replicate(&source, &target);
        caught_up(&replication).await;
        assert_same(&source, &target);
        for round in 0..20 {
            write(&source, round..round + 30, &format!("round {round}")).await;
            source.delete(key(round)).await.expect("a deletion");
            caught_up(&replication).await;
            assert_same(&source, &target);
        }
        for status in replication.status() {
            assert_eq!(status.state, ReplicaState::Following);
            assert_eq!((status.streams, status.rollbacks), (1, 0), "{status:?}");
            assert_eq!(status.received, status.received_whole);
            assert_eq!(status.last_error, None);
        }
        assert_eq!(target.statistics().replicas, 4);
    });
}

#[test]
fn what_is_only_on_disk_comes_too() {
    run(2, async |here, there| {
        let source = created(&here).await;
        for round in 0..5 {
            write(&source, 0..80, &format!("round {round}")).await;
            source.flush().await.expect("a flush");
        }
        source.shutdown().await.expect("an end");
        let (source, target) = (opened(&here).await, created(&there).await);
        let replication = replicate(&source, &target);
        write(&source, 60..120, "meanwhile").await;
        caught_up(&replication).await;
        assert_same(&source, &target);
    });
}

#[test]
fn a_replica_goes_on_where_it_was_when_its_bucket_is_opened_again() {
    run(3, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        write(&source, 0..60, "first").await;
        drop(copied(&source, &target).await);
        target.shutdown().await.expect("an end");
        write(&source, 40..90, "while it was away").await;
        let target = opened(&there).await;
        for status in copied(&source, &target).await {
            assert_eq!(status.rollbacks, 0, "{status:?}");
        }
        assert_same(&source, &target);
        // And what it has is on disk, too.
        target.shutdown().await.expect("an end");
        assert_same(&source, &opened(&there).await);
    });
}

#[test]
fn a_replica_whose_machine_lost_power_gets_what_it_lost() {
    run(4, async |here, there| {
        let (source, mut target) = (created(&here).await, created(&there).await);
        for round in 0..6 {
            write(&source, round * 10..round * 10 + 40, &format!("{round}")).await;
            drop(copied(&source, &target).await);
            if round % 2 == 0 {
                there.cut_power();
            } else {
                there.kill();
            }
            target = opened(&there).await;
        }
        for status in copied(&source, &target).await {
            assert_eq!(status.rollbacks, 0, "{status:?}");
        }
        assert_same(&source, &target);
    });
}

#[test]
fn a_closed_source_is_the_end_of_it() {
    run(5, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        write(&source, 0..20, "all").await;
        let replication = replicate(&source, &target);
        caught_up(&replication).await;
        let before = crate::common::contents(&source);
        source.shutdown().await.expect("an end");
        let over = replication.caught_up().await;
        let status = over.expect_err("it is over");
        assert_eq!(status.state, ReplicaState::Over(ReplicaEnd::SourceClosed));
        assert_eq!(crate::common::contents(&target), before);
        drop(replication);
        // Opened again, it is followed again.
        let source = opened(&here).await;
        write(&source, 10..30, "again").await;
        drop(copied(&source, &target).await);
        assert_same(&source, &target);
    });
}

#[test]
fn what_was_stopped_applies_nothing_more() {
    run(6, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        let replication = replicate(&source, &target);
        write(&source, 0..20, "all").await;
        caught_up(&replication).await;
        replication.stop();
        let before = crate::common::contents(&target);
        write(&source, 0..20, "more").await;
        here.sleep(std::time::Duration::from_secs(60)).await;
        assert_eq!(crate::common::contents(&target), before);
        assert_eq!(target.statistics().replicas, 0);
        // Its source keeps nothing for it.
        for vbucket in source.vbuckets() {
            let core = source.vbucket_core(vbucket).expect("it");
            assert_eq!(core.cursors(), 1, "{vbucket}: beside the flusher's");
        }
    });
}

#[test]
fn two_buckets_may_follow_each_other() {
    run(7, async |here, there| {
        let (left, right) = (created(&here).await, created(&there).await);
        let halves: Vec<VbucketId> = left.vbuckets().collect();
        let (mine, yours) = halves.split_at(2);
        let to_right = left.replicate(mine.to_vec(), &right).expect("it follows");
        let to_left = right.replicate(yours.to_vec(), &left).expect("it follows");
        for number in 0..100 {
            let key = key(number);
            let bucket = if mine.contains(&left.vbucket_of(key.as_bytes())) {
                &left
            } else {
                &right
            };
            bucket.set(key, "value").await.expect("a write");
        }
        caught_up(&to_right).await;
        caught_up(&to_left).await;
        assert_same(&left, &right);
    });
}

/// MB-39127, MB-60468: what is sent is acknowledged once, so that it never stands still.
#[test]
fn mb_60468_a_small_window_is_enough() {
    run(8, async |here, there| {
        let small = |world: &supervisor::testing::World| piggin::BucketConfig {
            // A window of the least there is.
            memory_quota_bytes: 4 << 20,
            ..config(world)
        };
        let source = here.create(small(&here)).await.expect("a bucket");
        let target = there.create(small(&there)).await.expect("a bucket");
        let replication = replicate(&source, &target);
        for round in 0..40 {
            for number in 0..20 {
                let value = vec![b'v'; 3000];
                let written = source.set(key(number), value).await;
                written.expect("a write");
            }
            source.flush().await.expect("a flush");
            if round % 10 == 0 {
                caught_up(&replication).await;
            }
        }
        caught_up(&replication).await;
        assert_same(&source, &target);
        for status in replication.status() {
            assert_eq!(status.streams, 1, "{status:?}");
        }
    });
}
