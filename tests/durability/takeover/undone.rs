//! A takeover that does not come to its end: who is active then, whatever fails, and whoever goes away or speaks by hand.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use piggin::actors::environment::Clock;
use piggin::actors::vbucket::{ChangeStep, VbucketCore};
use piggin::messages::ChildName;
use piggin::storage::VbucketState;
use piggin::{Bucket, TakeOverError, WhyNot};
use supervisor::testing::{Fault, World};

use super::{
    TookOver, VBUCKET, become_replica, by_hand, fill_disk, key_of, leave_suspect, state, take_over,
};
use crate::common::{created, opened, run};

/// Two nodes of which the first is active, on a disk that takes nothing any more.
async fn full(worlds: &[World]) -> [Bucket; 2] {
    let (a, b) = (
        created(&worlds[0], "a").await,
        created(&worlds[1], "b").await,
    );
    become_replica(&b).await;
    a.set(key_of(&a, 0), "v")
        .persisted()
        .await
        .expect("a write");
    fill_disk(&worlds[0]);
    [a, b]
}

/// The same, with a takeover by the second that waits for the first's disk to say that it is dead.
async fn at_bury(worlds: &[World]) -> ([Bucket; 2], JoinHandle<TookOver>) {
    let [a, b] = full(worlds).await;
    let under_way = actix::spawn({
        let (a, b) = (a.clone(), b.clone());
        async move { take_over(&a, &b).await }
    });
    while state(&a) != VbucketState::Dead {
        sleep(Duration::from_millis(1)).await;
    }
    ([a, b], under_way)
}

/// Goes on with a takeover until it waits for that.
async fn go_on(source: &Bucket, mut taking: Pin<&mut impl Future<Output = TookOver>>) {
    while state(source) != VbucketState::Dead {
        assert_eq!(taking.as_mut().now_or_never(), None);
        sleep(Duration::from_millis(1)).await;
    }
}

/// A batch that only says what the vbucket is leaves the store where it stands: that shows nothing.
#[test]
fn a_source_is_buried_by_its_disk_and_not_by_where_that_stands() {
    run(5, async |worlds| {
        let ([_a, b], under_way) = at_bury(&worlds).await;
        let child = ChildName::new("flusher-0".to_owned());
        worlds[0].inject(Fault::PanicIn { child, nth: 1 });
        worlds[0].sleep(Duration::from_secs(9)).await;
        assert!(!worlds[0].faults_struck().is_empty(), "it panicked");
        assert_eq!(
            state(&b),
            VbucketState::Pending,
            "its source's disk says otherwise"
        );
        worlds[0].cut_power();
        worlds[1].cut_power();
        drop(under_way);
        let (a, b) = (opened(&worlds[0], "a").await, opened(&worlds[1], "b").await);
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Active, VbucketState::Pending)
        );
    });
}

/// A disk that takes nothing leaves nobody without an active vbucket for longer than writes may be held.
#[test]
fn a_source_that_cannot_be_buried_takes_writes_again() {
    run(6, async |worlds| {
        let ([a, b], under_way) = at_bury(&worlds).await;
        let took = under_way.await.expect("no panic");
        assert!(
            matches!(&took, Err(TakeOverError::Stays { why, .. }) if matches!(**why, WhyNot::TooSlow)),
            "{took:?}"
        );
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Active, VbucketState::Replica)
        );
        worlds[0].clear_faults();
        worlds[0].sleep(Duration::from_secs(60)).await;
        a.set(key_of(&a, 0), "w")
            .persisted()
            .await
            .expect("a write");
        take_over(&a, &b).await.expect("a takeover");
    });
}

/// The time for which writes may be held is over.
fn lapse(world: &World, core: &VbucketCore) {
    let late = world.clock().monotonic() + Duration::from_secs(60);
    assert!(!core.do_durability(late, 1).has_more);
}

/// What a panic left half changed takes no role until it is repaired, and then it does.
#[test]
fn a_source_that_is_suspect_is_given_back_once_it_is_repaired() {
    run(10, async |worlds| {
        let [a, b] = full(&worlds).await;
        let mut taking = Box::pin(take_over(&a, &b));
        go_on(&a, taking.as_mut()).await;
        let core = a.vbucket_core(VBUCKET).expect("it");
        lapse(&worlds[0], &core);
        leave_suspect(&core);
        assert_eq!(taking.as_mut().now_or_never(), None, "it is tried again");
        assert_eq!(state(&a), VbucketState::Dead);
        let took = taking.await;
        assert!(matches!(took, Err(TakeOverError::Stays { .. })), "{took:?}");
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Active, VbucketState::Replica)
        );
    });
    // And where nobody waits for it any more.
    run(11, async |worlds| {
        let [a, b] = full(&worlds).await;
        let mut taking = Box::pin(take_over(&a, &b));
        go_on(&a, taking.as_mut()).await;
        let core = a.vbucket_core(VBUCKET).expect("it");
        leave_suspect(&core);
        drop(taking);
        assert_eq!(state(&a), VbucketState::Dead);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Active, VbucketState::Replica)
        );
        worlds[0].clear_faults();
        worlds[0].sleep(Duration::from_secs(60)).await;
        a.set(key_of(&a, 0), "w").await.expect("a write");
    });
}

/// What it became it is: a panic right behind that is repaired, and nobody is told otherwise.
#[test]
fn a_source_that_panics_when_it_is_given_back_stays() {
    run(12, async |worlds| {
        let [a, b] = full(&worlds).await;
        let mut taking = Box::pin(take_over(&a, &b));
        go_on(&a, taking.as_mut()).await;
        let core = a.vbucket_core(VBUCKET).expect("it");
        lapse(&worlds[0], &core);
        core.panic_at(ChangeStep::Identified);
        let took = taking.as_mut().now_or_never().expect("its end");
        assert!(core.is_suspect() && !core.disarm(), "it panicked");
        assert!(matches!(took, Err(TakeOverError::Stays { .. })), "{took:?}");
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Active, VbucketState::Replica)
        );
    });
}

/// Whoever makes one of the two active meanwhile has the last word.
#[test]
fn what_is_made_active_by_hand_meanwhile_is_the_only_one() {
    run(7, async |worlds| {
        let ([a, b], under_way) = at_bury(&worlds).await;
        by_hand(&a, VbucketState::Active);
        worlds[0].clear_faults();
        let took = under_way.await.expect("no panic");
        assert!(matches!(took, Err(TakeOverError::Stays { .. })), "{took:?}");
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Active, VbucketState::Replica)
        );
    });
    run(8, async |worlds| {
        let ([a, b], under_way) = at_bury(&worlds).await;
        by_hand(&b, VbucketState::Active);
        let took = under_way.await.expect("no panic");
        assert!(
            matches!(took, Err(TakeOverError::Unconfirmed { .. })),
            "{took:?}"
        );
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Dead, VbucketState::Active)
        );
    });
}

/// The one that is slower is told that it has nothing to take.
#[test]
fn of_two_that_take_the_same_one_has_it() {
    run(9, async |worlds| {
        let [a, b, c] = [
            created(&worlds[0], "a").await,
            created(&worlds[1], "b").await,
            created(&worlds[2], "c").await,
        ];
        a.set(key_of(&a, 0), "v").await.expect("a write");
        let (at_b, at_c) = futures_util::future::join(take_over(&a, &b), take_over(&a, &c)).await;
        assert!(at_b.is_ok() != at_c.is_ok(), "{at_b:?}, {at_c:?}");
        let active = [&a, &b, &c].map(|one| state(one) == VbucketState::Active);
        assert_eq!(active, [false, at_b.is_ok(), at_c.is_ok()]);
    });
}
