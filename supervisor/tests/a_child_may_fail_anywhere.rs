//! Wherever a child panics or stalls: whoever asked gets a typed answer, what was queued behind is served, no
//! acknowledged work is lost, the address still works, and there is exactly one failure, one counter moved by one,
//! one notice and one event of the log. Every place times every harm.
#![cfg(test)]

mod support;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Addr, Arbiter, Message};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use actors::executor::{Executor, Step, WorkerSpec};
use actors::shell::{Core, FaultCause, On, Reply, Shell, ShellContext, ShellFault};
use messages::{
    ChildName, Failure, FailureCause, FailureKind, FailureNotice, Generation, NextStep,
};
use piggin_supervisor::restart::ChildState;
use piggin_supervisor::tree::{Child, Group, Tree};
use support::{StepBy, TaskExecutor, World, millis, run};

const STALL: Duration = Duration::from_millis(8_500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Message,
    Answer,
    Timer,
    Future,
    Factory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Panic,
    Stall,
}

/// Survives every generation, as a vbucket's truth does.
#[derive(Default)]
struct Shared {
    kept: AtomicU64,
    factory: Mutex<Option<Harm>>,
}

struct Keeper(Arc<Shared>);

type Answered = Result<u64, ShellFault>;

#[derive(Message)]
#[rtype(result = "Answered")]
struct Keep;

#[derive(Message)]
#[rtype(result = "Answered")]
struct Wait;

#[derive(Message)]
#[rtype(result = "Answered")]
struct Plant(Place, Harm);

fn harm(harm: Harm, ctx: &mut ShellContext<'_, Keeper>) {
    match harm {
        Harm::Panic => panic!("planted"),
        Harm::Stall => ctx.freeze(STALL),
    }
}

impl Core for Keeper {
    fn started(&mut self, ctx: &mut ShellContext<'_, Keeper>) {
        let planted = self.0.factory.lock().take();
        if let Some(planted) = planted {
            harm(planted, ctx);
        }
    }
}

impl On<Keep> for Keeper {
    fn on(&mut self, _: Keep, ctx: &mut ShellContext<'_, Keeper>) -> Reply<Keeper, Answered> {
        self.0.kept.fetch_add(1, Ordering::Relaxed);
        Reply::Now(Ok(ctx.generation().0))
    }
}

impl On<Wait> for Keeper {
    fn on(&mut self, _: Wait, _: &mut ShellContext<'_, Keeper>) -> Reply<Keeper, Answered> {
        Reply::later(pending())
    }
}

impl On<Plant> for Keeper {
    fn on(
        &mut self,
        Plant(place, planted): Plant,
        ctx: &mut ShellContext<'_, Keeper>,
    ) -> Reply<Keeper, Answered> {
        let soon = Duration::from_millis(5);
        match place {
            Place::Message => harm(planted, ctx),
            Place::Timer => drop(ctx.later(soon, move |_, ctx| harm(planted, ctx))),
            Place::Future if planted == Harm::Panic => {
                ctx.spawn(async { panic!("planted") }, |_, (), _| {});
            }
            Place::Future => drop(ctx.spawn(async {}, move |_, (), ctx| harm(planted, ctx))),
            Place::Answer => {
                return Reply::then(tokio::time::sleep(soon), move |_, (), ctx| {
                    harm(planted, ctx);
                    Ok(ctx.generation().0)
                });
            }
            Place::Factory => *self.0.factory.lock() = Some(planted),
        }
        Reply::Now(Ok(ctx.generation().0))
    }
}

async fn ask<M>(keeper: &Addr<Shell<Keeper>>, message: M) -> Result<u64, FaultCause>
where
    Keeper: On<M>,
    M: Message<Result = Answered> + Send + 'static,
{
    let answer = keeper.send(message).await.expect("the address works");
    answer.map_err(|fault| fault.cause)
}

fn crashed() -> FaultCause {
    FaultCause::Crashed("planted".to_owned())
}

/// What is the same for every cell: one failure of this kind, told in every way once.
fn assert_told_once(world: &World, generation: u64, harm: Harm, cell: &str) {
    let (kind, counter) = match harm {
        Harm::Panic => (FailureKind::ChildPanicked, "child_panics"),
        Harm::Stall => (FailureKind::ChildStalled, "child_stalls"),
    };
    let failures = world.failures();
    assert_eq!(failures.len(), 1, "{cell}: {failures:?}");
    let Failure {
        id,
        child,
        generation: told_generation,
        kind: told_kind,
        cause,
        next,
        ..
    } = &failures[0];
    assert_eq!((id.0, child.as_str()), (1, "it"), "{cell}");
    assert_eq!(told_generation.0, generation, "{cell}");
    assert_eq!((*told_kind, *next), (kind, NextStep::Restarted), "{cell}");
    match (harm, cause) {
        (Harm::Panic, FailureCause::Panic(text)) => assert!(text.contains("planted"), "{text}"),
        (Harm::Stall, FailureCause::Stalled { for_ms }) => {
            assert!((5_000..6_000).contains(for_ms), "{for_ms}");
        }
        (_, other) => panic!("{cell}: {other:?}"),
    }
    assert_eq!(world.counters(), [(counter, 1)], "{cell}");
    assert_eq!(*world.logged.0.lock(), [counter], "{cell}");
    let notice = FailureNotice::Failed(failures[0].clone());
    assert_eq!(*world.told.0.lock(), [notice], "{cell}");
    assert!(world.out_of_service.lock().is_empty(), "{cell}");
}

async fn actor_cell(place: Place, planted: Harm) {
    let cell = format!("{place:?} x {planted:?}");
    let world = World::new(Tree::new(Group::new("root")).child(Child::new("it")));
    let shared = Arc::new(Shared::default());
    let kept = Arc::clone(&shared);
    let it = ChildName::new("it");
    let keeper = world
        .supervisor
        .start(&Arbiter::current(), &it, move |_| Keeper(Arc::clone(&kept)))
        .expect("a child of the tree");
    let recipient = keeper.clone().recipient::<Keep>();
    assert_eq!(ask(&keeper, Keep).await, Ok(1), "{cell}");

    let waits = actix::spawn({
        let keeper = keeper.clone();
        async move { ask(&keeper, Wait).await }
    });
    let asked = actix::spawn({
        let keeper = keeper.clone();
        async move { ask(&keeper, Plant(place, planted)).await }
    });
    // A message is harmed at once, the others soon after; what is sent then is queued behind.
    millis(1).await;
    if place == Place::Factory {
        world.supervisor.restart(&it).expect("a child of the tree");
    }
    millis(9).await;
    let queued = ask(&keeper, Keep).await;

    let asked = asked.await.expect("no panic");
    let expected = match (place, planted) {
        (Place::Message | Place::Answer, Harm::Panic) => Err(crashed()),
        _ => Ok(1),
    };
    assert_eq!(asked, expected, "{cell}: who asked for it");
    let waited = waits.await.expect("no panic");
    let expected = match (place, planted) {
        (Place::Factory, _) | (_, Harm::Stall) => FaultCause::Reset,
        (_, Harm::Panic) => crashed(),
    };
    assert_eq!(waited, Err(expected), "{cell}: who waited");
    let failed = if place == Place::Factory { 2 } else { 1 };
    assert_eq!(queued, Ok(failed + 1), "{cell}: what was queued");
    let again = recipient.send(Keep).await.expect("the recipient works");
    assert_eq!(again, Ok(failed + 1), "{cell}");
    assert_eq!(
        shared.kept.load(Ordering::Relaxed),
        3,
        "{cell}: acknowledged"
    );

    millis(20_000).await;
    assert_told_once(&world, failed, planted, &cell);
    let status = world.supervisor.children().remove(0);
    assert_eq!(status.state, ChildState::Up, "{cell}");
    assert_eq!(status.generation, Generation(failed + 1), "{cell}");
    assert_eq!(status.restarts, failed, "{cell}");
    assert!(status.last_failure.is_some(), "{cell}");
    assert!(world.supervisor.shutdown().await.is_clean(), "{cell}");
}

#[test]
fn an_actor_may_fail_anywhere() {
    for place in [
        Place::Message,
        Place::Answer,
        Place::Timer,
        Place::Future,
        Place::Factory,
    ] {
        for planted in [Harm::Panic, Harm::Stall] {
            run(actor_cell(place, planted));
        }
    }
}

/// A job for the worker: what it shall do, and who waits.
type Job = (Option<Harm>, oneshot::Sender<u64>);

async fn worker_cell(in_factory: bool, planted: Harm) {
    let cell = format!("worker x {planted:?}, factory: {in_factory}");
    let world = World::new(Tree::new(Group::new("root")).child(Child::new("it")));
    let executor = TaskExecutor::default();
    let jobs = Arc::<Mutex<VecDeque<Job>>>::default();
    let factory = Arc::<Mutex<Option<Harm>>>::default();
    let takes = Arc::clone(&executor.next_step_takes);
    let (queue, trap) = (Arc::clone(&jobs), Arc::clone(&factory));
    let wake = executor
        .start(WorkerSpec {
            name: ChildName::new("it"),
            guardian: Arc::clone(&world.supervisor) as _,
            make: Box::new(move |generation| {
                let harm = |harm| match harm {
                    Harm::Panic => panic!("planted"),
                    Harm::Stall => STALL,
                };
                if let Some(planted) = trap.lock().take() {
                    *takes.lock() = harm(planted);
                }
                let (queue, takes) = (Arc::clone(&queue), Arc::clone(&takes));
                Box::new(StepBy(move || {
                    let Some((planted, answer)) = queue.lock().pop_front() else {
                        return Step::Idle;
                    };
                    if let Some(planted) = planted {
                        *takes.lock() = harm(planted);
                    }
                    answer.send(generation.0).expect("somebody waits");
                    Step::Again
                }))
            }),
        })
        .expect("it starts");
    let ask = |planted| {
        let (answer, answered) = oneshot::channel();
        jobs.lock().push_back((planted, answer));
        wake.wake();
        answered
    };
    assert_eq!(ask(None).await, Ok(1), "{cell}");
    let failed = if in_factory {
        *factory.lock() = Some(planted);
        let it = ChildName::new("it");
        world.supervisor.restart(&it).expect("a child of the tree");
        2
    } else {
        let (harmed, queued) = (ask(Some(planted)), ask(None));
        // A worker's caller waits on shared state; it sees its job dropped.
        assert_eq!(harmed.await.is_err(), planted == Harm::Panic, "{cell}");
        assert_eq!(queued.await, Ok(2), "{cell}");
        1
    };
    millis(20_000).await;
    assert_eq!(ask(None).await, Ok(failed + 1), "{cell}");
    assert_told_once(&world, failed, planted, &cell);
    assert!(world.supervisor.shutdown().await.is_clean(), "{cell}");
}

#[test]
fn a_worker_may_fail_anywhere() {
    for in_factory in [false, true] {
        for planted in [Harm::Panic, Harm::Stall] {
            run(worker_cell(in_factory, planted));
        }
    }
}
