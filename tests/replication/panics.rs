//! A panic of any child on either side costs a replica nothing: nothing is lost, nothing comes twice.

use tokio::time::timeout;

use piggin::messages::replication::{ReplicaEnd, ReplicaState};
use piggin::messages::{ChildName, FailureId, FailureKind};
use supervisor::testing::Fault;

use crate::common::{PATIENCE, assert_same, caught_up, copied, created, replicate, run, write};

#[test]
fn a_consumer_that_panics_goes_on_from_what_the_vbucket_has() {
    for nth in 1..25 {
        run(nth, async |here, there| {
            let (source, target) = (created(&here).await, created(&there).await);
            write(&source, 0..60, "first").await;
            let child = ChildName::new("consumer-0");
            there.inject(Fault::PanicIn { child, nth });
            let replication = replicate(&source, &target);
            write(&source, 30..90, "second").await;
            caught_up(&replication).await;
            assert_same(&source, &target);
            for round in 0..20 {
                write(&source, round..round + 20, "third").await;
                caught_up(&replication).await;
            }
            assert_same(&source, &target);
            let failures = target.failures(FailureId(0)).failures;
            let kinds: Vec<_> = failures.iter().map(|failure| failure.kind).collect();
            assert_eq!(kinds, [FailureKind::ChildPanicked], "{failures:?}");
        });
    }
}

#[test]
fn children_of_both_sides_may_panic() {
    let source_side = [
        "producer-0",
        "producer-1",
        "reader-0",
        "vbucket-1",
        "writer-0",
    ];
    let target_side = [
        "consumer-1",
        "vbucket-0",
        "flusher-0",
        "writer-0",
        "maintenance",
    ];
    for seed in 0..10u64 {
        run(seed, async |here, there| {
            let (source, target) = (created(&here).await, created(&there).await);
            write(&source, 0..60, "first").await;
            source.flush().await.expect("a flush");
            let replication = replicate(&source, &target);
            for (number, child) in source_side.iter().enumerate() {
                let child = ChildName::new(*child);
                here.inject(Fault::PanicIn {
                    child,
                    nth: seed + 1,
                });
                let child = ChildName::new(target_side[number]);
                there.inject(Fault::PanicIn {
                    child,
                    nth: seed + 1,
                });
                write(&source, number * 10..number * 10 + 50, "second").await;
                here.sleep(std::time::Duration::from_millis(200)).await;
            }
            caught_up(&replication).await;
            assert_same(&source, &target);
        });
    }
}

/// A change of the replica that is torn in its middle is repaired, and the stream goes on behind it.
#[test]
fn a_change_that_is_torn_is_repaired() {
    use piggin::actors::vbucket::ChangeStep;
    let steps = [
        ChangeStep::Noted,
        ChangeStep::Appended,
        ChangeStep::Mapped,
        ChangeStep::Cleared,
    ];
    for step in steps {
        run(1, async |here, there| {
            let (source, target) = (created(&here).await, created(&there).await);
            let replication = replicate(&source, &target);
            write(&source, 0..20, "first").await;
            caught_up(&replication).await;
            for vbucket in target.vbuckets() {
                target.vbucket_core(vbucket).expect("it").panic_at(step);
            }
            write(&source, 0..60, "second").await;
            caught_up(&replication).await;
            assert_same(&source, &target);
        });
    }
}

/// What is out of service never looks as if it were at work.
#[test]
fn a_consumer_that_is_given_up_ends_its_streams() {
    run(1, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        let replication = replicate(&source, &target);
        write(&source, 0..20, "first").await;
        caught_up(&replication).await;
        for _ in 0..3 {
            let child = ChildName::new("consumer-0");
            there.inject(Fault::PanicIn { child, nth: 1 });
        }
        let status = loop {
            write(&source, 0..20, "second").await;
            let caught = timeout(PATIENCE, replication.caught_up()).await;
            // A look that was under way may still have taken some.
            if let Err(status) = caught.expect("an answer") {
                break status;
            }
        };
        let end = ReplicaEnd::OutOfService;
        assert_eq!(status.state, ReplicaState::Over(end));
        drop(replication);
        there.clear_faults();
        target
            .restart(&ChildName::new("consumer-0"))
            .expect("a restart");
        drop(copied(&source, &target).await);
        assert_same(&source, &target);
    });
}
