//! A vbucket goes from one bucket to another with all it has, or stays where it is.

use std::time::Duration;

use tokio::time::sleep;

use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{Busy, OperationError};
use piggin::storage::{DurabilityLevel, Topology, VbucketId, VbucketState};
use piggin::{ReplicateError, TakeOverError};

use super::{VBUCKET, alone, key_of, state, take_over};
use crate::common::{
    LEVELS, Three, answer, begin, caught_up, chain, created, key, opened, read, replicate, run,
    run_either, settled,
};

#[test]
fn a_vbucket_goes_with_all_it_has() {
    run_either(1, async |worlds| {
        let (a, b) = (
            created(&worlds[0], "a").await,
            created(&worlds[1], "b").await,
        );
        let written = key_of(&a, 0);
        a.set(&written, "v").await.expect("a write");
        let before = a.vbucket_core(VBUCKET).expect("it").identity();
        // Nobody else holds it, so it is not decided here.
        chain(&a, ["a", "nobody"]);
        let durable = key_of(&a, 1);
        let asked = begin(&a, &durable, "durable", DurabilityLevel::Majority);
        sleep(Duration::from_millis(1)).await;
        let taken = take_over(&a, &b).await.expect("a takeover");
        assert_eq!((taken.vbucket, taken.high.0), (VBUCKET, 2));
        assert_eq!(answer(asked).await, Err(OperationError::SyncWriteAmbiguous));
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Dead, VbucketState::Active)
        );
        let after = b.vbucket_core(VBUCKET).expect("it").identity();
        assert_eq!(
            after.failover_table, before.failover_table,
            "the same history"
        );
        assert_eq!(read(&b, &written).await.as_deref(), Some("v"));
        // It is decided here, once.
        assert_eq!(read(&b, &durable).await.as_deref(), Some("durable"));
        settled(&b).await;
        let (here, there) = (
            a.statistics().durability.counts,
            b.statistics().durability.counts,
        );
        assert_eq!((here.committed, here.aborted), (0, 0));
        assert_eq!((there.committed, there.aborted), (1, 0));
        let late = a.set(&written, "late").await;
        assert!(
            matches!(late, Err(OperationError::NotMyVbucket { .. })),
            "{late:?}"
        );
        // And back, through the disks of both.
        let back = take_over(&b, &a).await.expect("a takeover");
        assert!(back.high > taken.high);
        b.shutdown().await.expect("an end");
        worlds[0].cut_power();
        let a = opened(&worlds[0], "a").await;
        assert_eq!(state(&a), VbucketState::Active);
        assert_eq!(read(&a, &durable).await.as_deref(), Some("durable"));
    });
}

#[test]
fn what_cannot_be_taken_over_stays() {
    run(2, async |worlds| {
        let (a, b) = (
            created(&worlds[0], "a").await,
            created(&worlds[1], "b").await,
        );
        let refused = a.take_over(&a, VBUCKET, &alone(&a)).await;
        assert_eq!(refused, Err(ReplicateError::SameBucket.into()));
        let other = b.take_over(&a, VBUCKET, &alone(&a)).await;
        assert!(
            matches!(
                &other,
                Err(TakeOverError::Refused(ReplicateError::Vbucket {
                    error: OperationError::InvalidTopology(_),
                    ..
                }))
            ),
            "{other:?}"
        );
        let unknown = VbucketId::new(9).expect("a number");
        let nowhere = b.take_over(&a, unknown, &alone(&b)).await;
        assert!(
            matches!(nowhere, Err(TakeOverError::Refused(_))),
            "{nowhere:?}"
        );
        assert_eq!(state(&a), VbucketState::Active);
        a.set(key_of(&a, 0), "v").await.expect("a write");
        let dead = SetVbucketState {
            state: VbucketState::Dead,
            topology: None,
            is_takeover: false,
        };
        let core = a.vbucket_core(VBUCKET).expect("it");
        core.set_state(dead).expect("dead");
        let dead = take_over(&a, &b).await;
        assert!(matches!(dead, Err(TakeOverError::Refused(_))), "{dead:?}");
    });
}

/// A hold that nobody lets go of ends by itself, and a vbucket leaves its role under no other.
#[test]
fn writes_are_not_held_for_good() {
    run(3, async |worlds| {
        let a = created(&worlds[0], "a").await;
        chain(&a, ["a", "b"]);
        let core = a.vbucket_core(VBUCKET).expect("it");
        let hold = core.hold_for(Duration::from_secs(3)).expect("a hold");
        let document = key_of(&a, 0);
        let busy = Err(OperationError::TemporaryFailure(Busy::HandingOver));
        assert_eq!(a.set(&document, "v").await, busy);
        assert_eq!(a.set(&document, "v").durability(LEVELS[0]).await, busy);
        assert_eq!(read(&a, &document).await, None, "reads go on");
        assert_eq!(
            core.hold_for(Duration::from_secs(9)).map(drop),
            busy.map(drop)
        );
        worlds[0].sleep(Duration::from_secs(4)).await;
        a.set(&document, "v").await.expect("a write");
        let late = core.leave(hold);
        assert!(
            matches!(late, Err(OperationError::NotMyVbucket { .. })),
            "{late:?}"
        );
        let next = core.hold_for(Duration::from_secs(3)).expect("another hold");
        // That of before is no longer anybody's to let go of.
        core.let_go_of(hold);
        assert!(core.is_held(next));
        core.let_go_of(next);
        a.set(&document, "w").await.expect("a write");
    });
}

/// The chain of three moves with its active node, and goes on.
#[test]
fn its_replicas_follow_it() {
    run(4, async |worlds| {
        let three = Three::created(&worlds).await;
        let level = DurabilityLevel::PersistToMajority;
        for number in 0..50 {
            let write = three.active().set(key(number), "old");
            write.durability(level).await.expect("a commit");
        }
        let Three { buckets, follows } = three;
        drop(follows);
        let [a, b, c] = &buckets;
        for vbucket in a.vbuckets() {
            let topology = Topology::of_chain(["b", "c", "a"]);
            let taken = b.take_over(a, vbucket, &topology).await;
            taken.expect("a takeover");
        }
        let follows = [replicate(b, c), replicate(b, a)];
        for number in 0..50 {
            assert_eq!(read(b, &key(number)).await.as_deref(), Some("old"));
            let write = b.set(key(number), "new").durability(level);
            write.await.expect("a commit");
        }
        for follows in &follows {
            caught_up(follows).await;
            let rollbacks = follows
                .status()
                .iter()
                .map(|one| one.rollbacks)
                .sum::<u64>();
            assert_eq!(rollbacks, 0, "the same history");
        }
    });
}
