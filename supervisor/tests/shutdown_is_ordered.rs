//! A shutdown stops the children in the reverse of the order they start, each with its deadline, and says what came of
//! it; whoever backs off, is out of service or was never started holds up nobody.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, Message};
use parking_lot::Mutex;
use tokio::time::Instant;

use actors::shell::{Core, On, Reply, Shell, ShellContext, ShellFault, Stopping};
use messages::{ChildName, FailureKind, NextStep};
use piggin_supervisor::guardian::StopOutcome;
use piggin_supervisor::restart::ChildState;
use piggin_supervisor::tree::{Backoff, Child, Group, Tree};
use support::{World, millis, run};

#[derive(Clone, Copy, Debug)]
enum Manner {
    AtOnce,
    After(Duration),
    Never,
    Panics,
}

struct Stopper {
    name: &'static str,
    manner: Manner,
    stopped: Arc<Mutex<Vec<&'static str>>>,
}

impl Core for Stopper {
    fn stopping(&mut self, ctx: &mut ShellContext<'_, Stopper>) -> Stopping {
        match self.manner {
            Manner::AtOnce => {
                self.stopped.lock().push(self.name);
                Stopping::Done
            }
            Manner::After(time) => {
                ctx.later(time, |core, ctx| {
                    core.stopped.lock().push(core.name);
                    ctx.stop();
                });
                Stopping::NotYet
            }
            Manner::Never => Stopping::NotYet,
            Manner::Panics => panic!("planted"),
        }
    }
}

#[derive(Message)]
#[rtype(result = "Answered")]
struct Panic;

type Answered = Result<(), ShellFault>;

impl On<Panic> for Stopper {
    fn on(&mut self, _: Panic, _: &mut ShellContext<'_, Stopper>) -> Reply<Stopper, Answered> {
        panic!("planted");
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn tree() -> Tree {
    let child = |name| Child::new(name).stop_deadline(3 * SECOND);
    let slow_to_return = Backoff {
        first: 3600 * SECOND,
        most: 3600 * SECOND,
    };
    Tree::new(Group::new("root"))
        .child(child("first"))
        .child(child("slow"))
        .child(child("never"))
        .child(child("panics"))
        .child(child("backing-off").backoff(slow_to_return))
        .child(child("not-started"))
        .child(child("last"))
}

type Stopped = Arc<Mutex<Vec<&'static str>>>;

fn start(
    world: &World,
    stopped: &Stopped,
    name: &'static str,
    manner: Manner,
) -> Addr<Shell<Stopper>> {
    let stopped = Arc::clone(stopped);
    let make = move |_| Stopper {
        name,
        manner,
        stopped: Arc::clone(&stopped),
    };
    let (here, child) = (Arbiter::current(), ChildName::new(name));
    let started = world.supervisor.start(&here, &child, make);
    started.expect("a child of the tree")
}

#[test]
fn children_stop_in_reverse_order_each_with_its_deadline() {
    run(async {
        let (world, stopped) = (World::new(tree()), Stopped::default());
        start(&world, &stopped, "first", Manner::AtOnce);
        start(&world, &stopped, "slow", Manner::After(2 * SECOND));
        let never = start(&world, &stopped, "never", Manner::Never);
        start(&world, &stopped, "panics", Manner::Panics);
        let backs_off = start(&world, &stopped, "backing-off", Manner::AtOnce);
        start(&world, &stopped, "last", Manner::AtOnce);
        assert!(backs_off.send(Panic).await.expect("it works").is_err());
        millis(1).await;

        let begin = Instant::now();
        let report = world.supervisor.shutdown().await;
        assert_eq!(begin.elapsed(), 5 * SECOND, "2 for the slow one, 3 in vain");
        let outcomes = report.children.iter();
        let outcomes: Vec<_> = outcomes.map(|(name, how)| (name.as_str(), *how)).collect();
        let expected = [
            ("last", StopOutcome::Stopped),
            ("not-started", StopOutcome::NotStarted),
            ("backing-off", StopOutcome::Stopped),
            ("panics", StopOutcome::Stopped),
            ("never", StopOutcome::DeadlineMissed(3 * SECOND)),
            ("slow", StopOutcome::Stopped),
            ("first", StopOutcome::Stopped),
        ];
        assert_eq!(outcomes, expected);
        assert!(!report.is_clean());
        assert_eq!(*stopped.lock(), ["last", "slow", "first"]);

        let failures = world.failures();
        assert_eq!(failures.len(), 2, "one before, one while stopping");
        assert_eq!(failures[1].kind, FailureKind::ChildPanicked);
        assert_eq!(failures[1].next, NextStep::Nothing);
        assert_eq!(world.supervisor.children()[2].state, ChildState::Stopping);
        let first = ChildName::new("first");
        assert!(world.supervisor.restart(&first).is_err(), "too late");
        assert!(world.supervisor.add(Child::new("new")).is_err(), "too late");

        let answer = never.send(Panic).await.expect("its shell is there");
        assert!(answer.is_err());
        assert_eq!(world.supervisor.children()[2].state, ChildState::Stopped);
        assert_eq!(world.failures()[2].next, NextStep::Nothing);
    });
}

#[test]
fn whoever_has_ended_before_holds_up_nobody() {
    run(async {
        let (world, stopped) = (World::new(tree()), Stopped::default());
        let first = start(&world, &stopped, "first", Manner::AtOnce);
        for _ in 0..3 {
            assert!(first.send(Panic).await.expect("it works").is_err());
        }
        assert_eq!(
            world.supervisor.children()[0].state,
            ChildState::OutOfService
        );
        let begin = Instant::now();
        let report = world.supervisor.shutdown().await;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert!(
            world.supervisor.shutdown().await.is_clean(),
            "twice is once"
        );
    });
}
