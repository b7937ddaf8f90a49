//! A change of a vbucket's state meanwhile ends the stream's right to write at once; another replication takes the place
//! of the one before.

use piggin::messages::replication::{ReplicaEnd, ReplicaState};
use piggin::storage::VbucketState;

use crate::common::{
    assert_same, become_state, caught_up, copied, created, key, replicate, run, run_either, write,
};

/// MB-59518.
#[test]
fn a_promoted_replica_takes_nothing_more() {
    run(1, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        let replication = replicate(&source, &target);
        write(&source, 0..40, "first").await;
        caught_up(&replication).await;
        write(&source, 20..60, "perhaps").await;
        become_state(&target, VbucketState::Active).await;
        let at_promotion = crate::common::contents(&target);
        write(&source, 0..60, "never").await;
        here.sleep(std::time::Duration::from_secs(30)).await;
        assert_eq!(crate::common::contents(&target), at_promotion);
        for status in replication.status() {
            let end = ReplicaEnd::NotReplica(VbucketState::Active);
            assert_eq!(status.state, ReplicaState::Over(end), "{status:?}");
        }
        write(&target, 0..60, "its own").await;
        assert_eq!(target.get(key(7)).await.expect("it").value, "its own");
    });
}

/// The old source becomes the replica of what was its own: a snapshot that had not come whole is no branch (MB-35003).
#[test]
fn roles_may_be_exchanged() {
    for seed in 0..10 {
        run_either(seed, async |here, there| {
            let (mut one, mut other) = (created(&here).await, created(&there).await);
            for round in 0..6 {
                let replication = replicate(&one, &other);
                write(&one, round * 7..round * 7 + 40, &format!("{round}")).await;
                if seed % 2 == 0 {
                    caught_up(&replication).await;
                } else {
                    here.sleep(std::time::Duration::from_millis(seed)).await;
                }
                become_state(&other, VbucketState::Active).await;
                write(&other, round..round + 20, "after it").await;
                drop(replication);
                std::mem::swap(&mut one, &mut other);
            }
            drop(copied(&one, &other).await);
            assert_same(&one, &other);
        });
    }
}

#[test]
fn another_replication_takes_the_place_of_the_one_before() {
    run(3, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        let first = replicate(&source, &target);
        write(&source, 0..40, "first").await;
        let second = replicate(&source, &target);
        let over = first.caught_up().await.expect_err("it is over");
        assert_eq!(over.state, ReplicaState::Over(ReplicaEnd::Superseded));
        write(&source, 20..60, "second").await;
        drop(first);
        caught_up(&second).await;
        assert_same(&source, &target);
        assert_eq!(target.statistics().replicas, 4);
    });
}

#[test]
fn a_source_that_is_active_no_more_is_asked_until_it_is() {
    run(4, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        let replication = replicate(&source, &target);
        write(&source, 0..40, "first").await;
        caught_up(&replication).await;
        become_state(&source, VbucketState::Pending).await;
        here.sleep(std::time::Duration::from_secs(30)).await;
        for status in replication.status() {
            assert_eq!(status.state, ReplicaState::Waiting, "{status:?}");
            assert!(status.last_error.is_some());
        }
        become_state(&source, VbucketState::Active).await;
        write(&source, 0..40, "second").await;
        caught_up(&replication).await;
        assert_same(&source, &target);
    });
}
