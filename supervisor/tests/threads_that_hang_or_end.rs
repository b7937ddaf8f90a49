//! Real threads: a handler that blocks its arbiter is found from outside, and an arbiter that ends under its actors is
//! told. The time the supervisor reads is moved by hand; nothing here waits for a clock.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use actix::{Arbiter, Message, System};
use parking_lot::Mutex;

use actors::environment::Clock;
use actors::hooks::Hooks;
use actors::shell::{Core, On, Reply, ShellContext, ShellFault};
use messages::{ChildName, FailureCause, FailureId, FailureKind};
use piggin_supervisor::failure_bus::FailureBus;
use piggin_supervisor::guardian::{Supervisor, SupervisorParts};
use piggin_supervisor::restart::ChildState;
use piggin_supervisor::tree::{Child, Group, Tree};
use support::Counting;

#[derive(Debug, Default)]
struct ByHand(AtomicU64);

impl Clock for ByHand {
    fn since_epoch(&self) -> Duration {
        self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

struct Blocker;

impl Core for Blocker {}

/// Blocks the thread until the test lets it go; says when it has begun.
#[derive(Message)]
#[rtype(result = "Result<u64, ShellFault>")]
struct Block(mpsc::Sender<()>, mpsc::Receiver<()>);

#[derive(Message)]
#[rtype(result = "Result<u64, ShellFault>")]
struct Ask;

impl On<Block> for Blocker {
    fn on(
        &mut self,
        Block(begun, go): Block,
        ctx: &mut ShellContext<'_, Blocker>,
    ) -> Reply<Blocker, Result<u64, ShellFault>> {
        begun.send(()).expect("the test waits");
        go.recv().expect("the test lets it go");
        Reply::Now(Ok(ctx.generation().0))
    }
}

impl On<Ask> for Blocker {
    fn on(
        &mut self,
        _: Ask,
        ctx: &mut ShellContext<'_, Blocker>,
    ) -> Reply<Blocker, Result<u64, ShellFault>> {
        Reply::Now(Ok(ctx.generation().0))
    }
}

struct Setting {
    supervisor: Arc<Supervisor>,
    clock: Arc<ByHand>,
    bus: Arc<FailureBus>,
    out_of_service: Arc<Mutex<u32>>,
}

fn setting() -> Setting {
    let clock = Arc::new(ByHand::default());
    let bus = Arc::new(FailureBus::new(Arc::clone(&clock) as _, 8));
    let out_of_service = Arc::<Mutex<u32>>::default();
    let noted = Arc::clone(&out_of_service);
    let parts = SupervisorParts {
        clock: Arc::clone(&clock) as _,
        random: Arc::new(Counting::default()),
        failures: Arc::clone(&bus) as _,
        hooks: Hooks::none(),
        on_out_of_service: Box::new(move |_| *noted.lock() += 1),
    };
    let tree = Tree::new(Group::new("root"))
        .child(Child::new("it"))
        .child(Child::new("neighbour"));
    let supervisor = Supervisor::new(tree, parts).expect("a tree");
    Setting {
        supervisor,
        clock,
        bus,
        out_of_service,
    }
}

#[test]
fn a_blocked_thread_is_found_and_only_the_culprit_is_blamed() {
    System::new().block_on(async {
        let it = setting();
        let arbiter = Arbiter::new();
        let start = |name| {
            let child = ChildName::new(name);
            let started = it.supervisor.start(&arbiter.handle(), &child, |_| Blocker);
            started.expect("a child of the tree")
        };
        let (blocker, neighbour) = (start("it"), start("neighbour"));
        assert_eq!(neighbour.send(Ask).await.expect("it works"), Ok(1));
        let (begun, has_begun) = mpsc::channel();
        let (go, lets_go) = mpsc::channel();
        let asked = blocker.send(Block(begun, lets_go));
        let asked = actix::spawn(asked);
        let queued = actix::spawn(neighbour.send(Ask));
        tokio::task::yield_now().await;
        has_begun.recv().expect("it blocks");
        for second in 0..=5 {
            it.clock.0.store(second, Ordering::Relaxed);
            assert!(it.bus.since(FailureId(0)).failures.is_empty());
            it.supervisor.look();
        }
        let failures = it.bus.since(FailureId(0)).failures;
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0].kind, FailureKind::ChildStalled);
        assert_eq!(failures[0].cause, FailureCause::Stalled { for_ms: 5_000 });
        assert_eq!(failures[0].child.as_str(), "it");
        assert_eq!(it.supervisor.children()[0].state, ChildState::Stalled);

        go.send(()).expect("it waits");
        let answer = asked.await.expect("no panic").expect("it works");
        assert_eq!(answer, Ok(1), "late, but its own");
        assert_eq!(queued.await.expect("no panic").expect("it works"), Ok(1));
        assert_eq!(
            blocker.send(Ask).await.expect("it works"),
            Ok(2),
            "made anew"
        );
        assert_eq!(it.bus.since(FailureId(0)).failures.len(), 1);
        assert!(it.supervisor.shutdown().await.is_clean());
        arbiter.stop();
        arbiter.join().expect("it ends");
    });
}

#[test]
fn an_arbiter_that_ends_under_its_actors_is_told() {
    System::new().block_on(async {
        let it = setting();
        let arbiter = Arbiter::new();
        let child = ChildName::new("it");
        let started = it.supervisor.start(&arbiter.handle(), &child, |_| Blocker);
        let blocker = started.expect("a child of the tree");
        assert_eq!(blocker.send(Ask).await.expect("it works"), Ok(1));
        arbiter.stop();
        arbiter.join().expect("it ends");
        for _ in 0..2 {
            it.supervisor.look();
        }
        let failures = it.bus.since(FailureId(0)).failures;
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0].kind, FailureKind::Escalated);
        assert_eq!(failures[0].cause, FailureCause::Lost);
        assert_eq!(*it.out_of_service.lock(), 1);
        assert_eq!(it.supervisor.children()[0].state, ChildState::Lost);
        assert!(blocker.send(Ask).await.is_err());
    });
}
