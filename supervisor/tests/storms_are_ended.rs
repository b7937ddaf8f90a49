//! Restarts that do not help come to an end: intensity is honoured, the next level takes over, and the embedder is told
//! what went out of service. So does a kind of message that panics its child again and again.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, Message};
use parking_lot::Mutex;

use actors::shell::{Core, FaultCause, On, Reply, Shell, ShellContext};
use messages::status::{DownCause, OperationError};
use messages::{ChildName, FailureCause, FailureKind, Generation, NextStep};
use piggin_supervisor::restart::ChildState;
use piggin_supervisor::tree::{Child, Excess, Group, Intensity, Kind, Strategy, Tree};
use storage::VbucketId;
use support::{World, millis, run};

/// Does as it is told, and notes its births.
struct Doer;

type Births = Arc<Mutex<Vec<(String, u64)>>>;

#[derive(Clone, Copy, Message)]
#[rtype(result = "Result<u64, OperationError>")]
enum Do {
    Answer,
    Finish,
}

#[derive(Clone, Copy, Message)]
#[rtype(result = "Result<u64, OperationError>")]
struct Panic;

#[derive(Clone, Copy, Message)]
#[rtype(result = "Result<u64, OperationError>")]
struct TimerPanic;

impl Core for Doer {}

type Answered = Result<u64, OperationError>;

impl On<Do> for Doer {
    fn on(&mut self, what: Do, ctx: &mut ShellContext<'_, Doer>) -> Reply<Doer, Answered> {
        if matches!(what, Do::Finish) {
            ctx.stop();
        }
        Reply::Now(Ok(ctx.generation().0))
    }
}

impl On<Panic> for Doer {
    fn on(&mut self, _: Panic, _: &mut ShellContext<'_, Doer>) -> Reply<Doer, Answered> {
        panic!("planted");
    }
}

impl On<TimerPanic> for Doer {
    fn on(&mut self, _: TimerPanic, ctx: &mut ShellContext<'_, Doer>) -> Reply<Doer, Answered> {
        ctx.later(Duration::ZERO, |_, _| panic!("planted"));
        Reply::Now(Ok(0))
    }
}

fn start(world: &World, births: &Births, name: &'static str) -> Addr<Shell<Doer>> {
    let births = Arc::clone(births);
    let make = move |Generation(generation)| {
        births.lock().push((name.to_owned(), generation));
        Doer
    };
    let (here, child) = (Arbiter::current(), ChildName::new(name));
    let started = world.supervisor.start(&here, &child, make);
    started.expect("a child of the tree")
}

async fn ask(doer: &Addr<Shell<Doer>>, what: Do) -> Answered {
    doer.send(what).await.expect("the address works")
}

fn state(world: &World, name: &str) -> ChildState {
    let mut all = world.supervisor.children().into_iter();
    let found = all.find(|one| one.name.as_str() == name);
    found.expect("a child of the tree").state
}

fn three() -> Intensity {
    Intensity {
        restarts: 3,
        window: Duration::from_secs(60),
    }
}

fn kinds(world: &World) -> Vec<(String, FailureKind, NextStep)> {
    let failures = world.failures().into_iter();
    let kinds = failures.map(|one| (one.child.to_string(), one.kind, one.next));
    kinds.collect()
}

#[test]
fn a_vbucket_that_fails_too_often_goes_out_of_service_alone() {
    run(async {
        let vbucket = VbucketId::new(7).expect("an id");
        let family = Group::new("family-7")
            .strategy(Strategy::OneForAll)
            .intensity(three())
            .excess(Excess::OutOfService);
        let tree = Tree::new(Group::new("bucket"))
            .group(family)
            .child(Child::new("vbucket-7").under("family-7").vbucket(vbucket))
            .child(Child::new("monitor-7").under("family-7").vbucket(vbucket))
            .child(Child::new("other"));
        let (world, births) = (World::new(tree), Births::default());
        let doer = start(&world, &births, "vbucket-7");
        let monitor = start(&world, &births, "monitor-7");
        let other = start(&world, &births, "other");
        for generation in 1..=4 {
            assert_eq!(ask(&doer, Do::Answer).await, Ok(generation));
            assert_eq!(ask(&monitor, Do::Answer).await, Ok(generation));
            doer.send(TimerPanic)
                .await
                .expect("it works")
                .expect("it answers");
            millis(1_000).await;
        }
        let down = Err(OperationError::VbucketDown {
            vbucket,
            cause: DownCause::Escalated("panicked: in a timer: planted".to_owned()),
        });
        assert_eq!(ask(&doer, Do::Answer).await, down);
        assert_eq!(ask(&monitor, Do::Answer).await, down);
        assert_eq!(ask(&other, Do::Answer).await, Ok(1), "the rest goes on");
        assert_eq!(state(&world, "vbucket-7"), ChildState::OutOfService);

        let (panicked, escalated) = (FailureKind::ChildPanicked, FailureKind::Escalated);
        let mut expected = vec![("vbucket-7".to_owned(), panicked, NextStep::Restarted); 3];
        expected.push(("vbucket-7".to_owned(), panicked, NextStep::OutOfService));
        expected.push(("family-7".to_owned(), escalated, NextStep::OutOfService));
        assert_eq!(kinds(&world), expected);
        assert_eq!(world.counters(), [("child_panics", 4), ("escalations", 1)]);
        assert_eq!(world.logged.0.lock().len(), 5);
        {
            let told = world.out_of_service.lock();
            assert_eq!(told.len(), 1);
            assert_eq!(told[0].scope.as_str(), "family-7");
            assert_eq!(told[0].vbuckets, [vbucket]);
            assert_eq!(told[0].children.len(), 2);
            assert!(!told[0].is_whole_tree);
        }
        world
            .supervisor
            .restart(&ChildName::new("vbucket-7"))
            .expect("it is there");
        assert_eq!(ask(&doer, Do::Answer).await, Ok(5), "somebody repaired it");
        assert_eq!(ask(&monitor, Do::Answer).await, Ok(5));
        assert_eq!(world.failures().len(), 5);
    });
}

#[test]
fn a_group_that_has_too_much_is_restarted_as_a_whole_by_its_parent_until_that_has_too_much() {
    run(async {
        let two = Intensity {
            restarts: 1,
            window: Duration::from_secs(60),
        };
        let tree = Tree::new(Group::new("bucket").intensity(two))
            .group(Group::new("shard").intensity(two))
            .child(Child::new("first").under("shard"))
            .child(Child::new("second").under("shard"))
            .child(Child::new("other"));
        let (world, births) = (World::new(tree), Births::default());
        let first = start(&world, &births, "first");
        let second = start(&world, &births, "second");
        let other = start(&world, &births, "other");
        let fail = async || {
            first
                .send(TimerPanic)
                .await
                .expect("it works")
                .expect("it answers");
            millis(1_000).await;
        };
        fail().await;
        assert_eq!(ask(&second, Do::Answer).await, Ok(1), "one for one");
        fail().await;
        assert_eq!(
            ask(&second, Do::Answer).await,
            Ok(2),
            "the group as a whole"
        );
        assert_eq!(ask(&first, Do::Answer).await, Ok(3));
        assert_eq!(ask(&other, Do::Answer).await, Ok(1));
        fail().await;
        assert_eq!(
            ask(&second, Do::Answer).await,
            Ok(2),
            "its count began anew"
        );
        fail().await;
        for (doer, name) in [(&first, "first"), (&second, "second"), (&other, "other")] {
            let answer = ask(doer, Do::Answer).await;
            assert!(
                matches!(answer, Err(OperationError::ActorDown { .. })),
                "{name}: {answer:?}"
            );
        }
        assert_eq!(world.counters(), [("child_panics", 4), ("escalations", 3)]);
        let told = world.out_of_service.lock();
        assert_eq!(told.len(), 1);
        assert!(told[0].is_whole_tree);
    });
}

#[test]
fn restarts_that_lie_further_apart_than_the_window_go_on_for_ever() {
    run(async {
        let tree = Tree::new(Group::new("bucket").intensity(three())).child(Child::new("it"));
        let (world, births) = (World::new(tree), Births::default());
        let doer = start(&world, &births, "it");
        for generation in 1..20 {
            assert_eq!(ask(&doer, Do::Answer).await, Ok(generation));
            doer.send(TimerPanic)
                .await
                .expect("it works")
                .expect("it answers");
            millis(21_000).await;
        }
        assert_eq!(world.counters(), [("child_panics", 19)]);
        let history = world.bus.since(messages::FailureId(0));
        assert_eq!(history.failures.len(), 16, "bounded");
        assert_eq!(
            history.forgotten.map(|(from, to)| (from.0, to.0)),
            Some((1, 3))
        );
    });
}

#[test]
fn a_kind_of_message_that_panics_three_times_in_a_row_is_not_tried_again() {
    run(async {
        let tree = Tree::new(Group::new("bucket"))
            .child(Child::new("it"))
            .child(Child::new("other"));
        let (world, births) = (World::new(tree), Births::default());
        let doer = start(&world, &births, "it");
        let other = start(&world, &births, "other");
        for _ in 0..3 {
            let answer = doer.send(Panic).await.expect("the address works");
            assert!(
                matches!(answer, Err(OperationError::ActorCrashed { .. })),
                "{answer:?}"
            );
        }
        let answer = ask(&doer, Do::Answer).await;
        assert!(
            matches!(answer, Err(OperationError::ActorDown { .. })),
            "{answer:?}"
        );
        assert_eq!(ask(&other, Do::Answer).await, Ok(1));
        assert_eq!(world.counters(), [("child_panics", 3), ("escalations", 1)]);
        let last = world.failures().pop().expect("a failure");
        let FailureCause::PoisonedRequest { request, times, .. } = last.cause else {
            panic!("{last:?}");
        };
        assert!(request.contains("Panic"), "{request}");
        assert_eq!(times, 3);
        assert_eq!(world.out_of_service.lock().len(), 1);
    });
}

#[test]
fn strategies_say_who_restarts_and_in_which_order() {
    for (strategy, again) in [
        (Strategy::OneForOne, vec!["b"]),
        (Strategy::RestForOne, vec!["b", "c"]),
        (Strategy::OneForAll, vec!["a", "b", "c"]),
    ] {
        run(async move {
            let tree = Tree::new(Group::new("root").strategy(strategy))
                .child(Child::new("a"))
                .child(Child::new("b"))
                .child(Child::new("c"));
            let (world, births) = (World::new(tree), Births::default());
            let all = ["a", "b", "c"].map(|name| start(&world, &births, name));
            millis(1).await;
            births.lock().clear();
            all[1]
                .send(TimerPanic)
                .await
                .expect("it works")
                .expect("it answers");
            millis(1_000).await;
            let expected: Vec<_> = again.iter().map(|name| ((*name).to_owned(), 2)).collect();
            assert_eq!(*births.lock(), expected, "{strategy:?}");
            assert_eq!(world.failures().len(), 1);
            let states = world.supervisor.children();
            assert!(
                states.iter().all(|one| one.state == ChildState::Up),
                "{states:?}"
            );
        });
    }
}

#[test]
fn kinds_say_when() {
    run(async {
        let tree = Tree::new(Group::new("root"))
            .child(Child::new("permanent"))
            .child(Child::new("transient").kind(Kind::Transient))
            .child(Child::new("temporary").kind(Kind::Temporary));
        let (world, births) = (World::new(tree), Births::default());
        let permanent = start(&world, &births, "permanent");
        let transient = start(&world, &births, "transient");
        let temporary = start(&world, &births, "temporary");
        for doer in [&permanent, &transient] {
            doer.send(TimerPanic)
                .await
                .expect("it works")
                .expect("it answers");
            millis(1_000).await;
            assert_eq!(ask(doer, Do::Finish).await, Ok(2));
        }
        assert_eq!(ask(&permanent, Do::Answer).await, Ok(3));
        assert_eq!(
            ask(&transient, Do::Answer).await,
            Err(OperationError::Closed)
        );
        assert_eq!(state(&world, "transient"), ChildState::Finished);
        temporary
            .send(TimerPanic)
            .await
            .expect("it works")
            .expect("it answers");
        millis(1_000).await;
        assert!(ask(&temporary, Do::Answer).await.is_err());
        assert_eq!(world.counters(), [("child_panics", 3)]);
        assert_eq!(state(&world, "temporary"), ChildState::OutOfService);
        assert!(world.supervisor.shutdown().await.is_clean());
    });
}

#[test]
fn a_child_without_a_place_in_the_tree_serves_nobody() {
    run(async {
        let world = World::new(Tree::new(Group::new("root")));
        let here = Arbiter::current();
        let stranger = ChildName::new("stranger");
        assert!(world.supervisor.start(&here, &stranger, |_| Doer).is_err());
        let guardian = Arc::clone(&world.supervisor) as _;
        let config = actors::shell::ShellConfig::new(stranger.clone(), guardian);
        let doer = actors::shell::start(&here, config, |_| Doer);
        assert!(matches!(
            ask(&doer, Do::Answer).await,
            Err(OperationError::ActorDown { .. })
        ));
        world
            .supervisor
            .add(Child::new("stranger"))
            .expect("a new name");
        let births = Births::default();
        assert_eq!(
            ask(&start(&world, &births, "stranger"), Do::Answer).await,
            Ok(1)
        );
        assert!(
            world.supervisor.add(Child::new("stranger")).is_err(),
            "twice"
        );
        let fault = FaultCause::OutOfService("x".to_owned()).to_string();
        assert!(fault.contains("out of service"));
    });
}
