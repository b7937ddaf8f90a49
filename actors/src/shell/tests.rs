//! What the shell promises by itself, with a guardian that only notes what it is told. Time is tokio's, paused.

mod ends;
mod watched;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use actix::{Arbiter, Message, System};
use futures_util::future::{join, join3};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use messages::status::{DownCause, OperationError};
use messages::{ChildName, Generation};
use storage::VbucketId;

use super::{
    Core, FaultCause, On, Reply, Shell, ShellConfig, ShellContext, ShellFault, Stopping, start,
};
use crate::guardian::{Entry, ExitCause, Guardian, Verdict};
use crate::hooks::{Delivery, Hook, Hooks, Passing};
use crate::tether::Tether;

const BACKOFF: Duration = Duration::from_millis(100);

/// Restarts after [`BACKOFF`], or not at all once it is told so.
#[derive(Debug)]
struct Notes {
    tether: Arc<Tether>,
    told: Mutex<Vec<String>>,
    stays_down: Mutex<bool>,
}

impl Notes {
    fn new(vbucket: Option<VbucketId>) -> Arc<Notes> {
        Arc::new(Notes {
            tether: Arc::new(Tether::new(ChildName::new("it")).for_vbucket(vbucket)),
            told: Mutex::default(),
            stays_down: Mutex::new(false),
        })
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock())
    }
}

impl Guardian for Notes {
    fn child_down(&self, _: &ChildName, generation: Generation, cause: ExitCause) -> Verdict {
        let what = match cause {
            ExitCause::PanickedIn {
                entry: Entry::Message(_),
                in_a_row,
                ..
            } => format!("message x{in_a_row}"),
            ExitCause::PanickedIn { entry, .. } => entry.to_string(),
            ExitCause::Panicked(_)
            | ExitCause::Stalled(_)
            | ExitCause::GaveUp(_)
            | ExitCause::Finished => format!("{cause:?}"),
        };
        self.told.lock().push(format!("{}: {what}", generation.0));
        if *self.stays_down.lock() {
            Verdict::StayDown
        } else {
            Verdict::RestartAfter(BACKOFF)
        }
    }

    fn child_up(&self, _: &ChildName, generation: Generation) {
        self.told.lock().push(format!("{}: up", generation.0));
    }

    fn child_stopped(&self, _: &ChildName, generation: Generation) {
        self.told.lock().push(format!("{}: stopped", generation.0));
    }

    fn tether(&self, _: &ChildName) -> Arc<Tether> {
        Arc::clone(&self.tether)
    }
}

/// Does what the message says.
struct Doer {
    generation: Generation,
    ticks: Arc<Mutex<Vec<Generation>>>,
    stopping: Stopping,
}

#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Generation, ShellFault>")]
enum Do {
    Answer,
    AnswerLater,
    NeverAnswer,
    Panic,
    PanicInAnswer,
    PanicInTimer,
    PanicInFuture,
    PanicInDrop,
    Tick,
    GiveUp,
    Finish,
    Freeze,
}

#[derive(Message)]
#[rtype(result = "Vec<Result<(), OperationError>>")]
struct Many(usize);

#[derive(Message)]
#[rtype(result = "()")]
struct Nothing;

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("planted in a drop");
    }
}

impl Core for Doer {
    fn stopping(&mut self, ctx: &mut ShellContext<'_, Doer>) -> Stopping {
        ctx.later(Duration::from_secs(1), |_, ctx| ctx.stop());
        self.stopping
    }
}

impl On<Do> for Doer {
    fn on(
        &mut self,
        what: Do,
        ctx: &mut ShellContext<'_, Doer>,
    ) -> Reply<Doer, Result<Generation, ShellFault>> {
        let now = ctx.generation();
        let second = Duration::from_secs(1);
        match what {
            Do::Answer => {}
            Do::AnswerLater => {
                return Reply::then(sleep(second), |core: &mut Doer, (), _| Ok(core.generation));
            }
            Do::NeverAnswer => return Reply::later(pending()),
            Do::Panic => panic!("planted"),
            Do::PanicInAnswer => {
                return Reply::later(async { panic!("planted") });
            }
            Do::PanicInTimer => drop(ctx.later(second, |_, _| panic!("planted"))),
            Do::PanicInFuture => drop(ctx.spawn(async { panic!("planted") }, |_, (), _| {})),
            Do::PanicInDrop => {
                let bomb = PanicsInDrop;
                ctx.spawn(
                    async move {
                        let _bomb = bomb;
                        pending::<()>().await;
                    },
                    |_, (), _| {},
                );
            }
            Do::Tick => {
                ctx.every(second, |core, ctx| {
                    assert_eq!(core.generation, ctx.generation(), "a stale timer ticked");
                    core.ticks.lock().push(core.generation);
                });
            }
            Do::GiveUp => ctx.give_up("no more"),
            Do::Finish => ctx.stop(),
            Do::Freeze => ctx.freeze(Duration::from_secs(9)),
        }
        Reply::Now(Ok(now))
    }
}

impl On<Many> for Doer {
    fn on(
        &mut self,
        _: Many,
        _: &mut ShellContext<'_, Doer>,
    ) -> Reply<Doer, Vec<Result<(), OperationError>>> {
        panic!("planted");
    }

    fn parts(message: &Many) -> usize {
        message.0
    }
}

impl On<Nothing> for Doer {
    fn on(&mut self, _: Nothing, _: &mut ShellContext<'_, Doer>) -> Reply<Doer, ()> {
        panic!("planted");
    }
}

struct Setting {
    notes: Arc<Notes>,
    address: actix::Addr<Shell<Doer>>,
    ticks: Arc<Mutex<Vec<Generation>>>,
}

impl Setting {
    fn new() -> Setting {
        Setting::with(None, Stopping::Done)
    }

    fn with(vbucket: Option<VbucketId>, stopping: Stopping) -> Setting {
        Setting::watched(vbucket, stopping, &Hooks::none())
    }

    fn watched(vbucket: Option<VbucketId>, stopping: Stopping, hooks: &Hooks) -> Setting {
        let notes = Notes::new(vbucket);
        let config = ShellConfig::new(ChildName::new("it"), Arc::clone(&notes) as _);
        let config = config.hooks(hooks);
        let ticks = Arc::<Mutex<_>>::default();
        let kept = Arc::clone(&ticks);
        let address = start(&Arbiter::current(), config, move |generation| Doer {
            generation,
            ticks: Arc::clone(&kept),
            stopping,
        });
        Setting {
            notes,
            address,
            ticks,
        }
    }

    async fn ask(&self, what: Do) -> Result<u64, FaultCause> {
        let answer = self.address.send(what).await.expect("the address works");
        answer
            .map(|generation| generation.0)
            .map_err(|fault| fault.cause)
    }
}

fn run(test: impl Future<Output = ()>) {
    let system = System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
    });
    system.block_on(test);
}

fn crashed() -> Result<u64, FaultCause> {
    Err(FaultCause::Crashed("planted".to_owned()))
}

#[test]
fn what_was_queued_behind_a_panic_is_served_by_the_next_generation() {
    run(async {
        let it = Setting::new();
        assert_eq!(it.ask(Do::Answer).await, Ok(1));
        let begin = Instant::now();
        let asked = (
            it.ask(Do::Panic),
            it.ask(Do::Answer),
            it.ask(Do::AnswerLater),
        );
        let (panicked, queued, later) = join3(asked.0, asked.1, asked.2).await;
        assert_eq!((panicked, queued, later), (crashed(), Ok(2), Ok(2)));
        assert_eq!(begin.elapsed(), BACKOFF + Duration::from_secs(1));
        assert_eq!(it.notes.told(), ["1: up", "1: message x1", "2: up"]);
    });
}

#[test]
fn a_panic_in_a_future_or_timer_answers_all_who_wait_at_once() {
    run(async {
        for (what, told) in [
            (Do::PanicInFuture, "1: in a future"),
            (Do::PanicInTimer, "1: in a timer"),
        ] {
            let it = Setting::new();
            let (waits, asked) = join(it.ask(Do::NeverAnswer), it.ask(what)).await;
            assert_eq!((waits, asked), (crashed(), Ok(1)), "{what:?}");
            assert_eq!(it.ask(Do::Answer).await, Ok(2), "{what:?}");
            assert_eq!(it.notes.told(), ["1: up", told, "2: up"]);
        }
        let it = Setting::new();
        assert_eq!(it.ask(Do::PanicInAnswer).await, crashed());
        assert_eq!(it.notes.told(), ["1: up", "1: message x1"]);
    });
}

#[test]
fn timers_end_with_their_generation() {
    run(async {
        let it = Setting::new();
        assert_eq!(it.ask(Do::Tick).await, Ok(1));
        sleep(Duration::from_millis(2500)).await;
        assert_eq!(it.ask(Do::Panic).await, crashed());
        sleep(Duration::from_secs(10)).await;
        assert_eq!(it.ask(Do::Answer).await, Ok(2));
        assert_eq!(*it.ticks.lock(), [Generation(1); 2]);
    });
}

#[test]
fn panics_in_a_row_are_counted_until_one_is_served() {
    run(async {
        let it = Setting::new();
        for _ in 0..2 {
            assert_eq!(it.ask(Do::Panic).await, crashed());
        }
        assert_eq!(it.ask(Do::Answer).await, Ok(3));
        assert_eq!(it.ask(Do::Panic).await, crashed());
        let downs: Vec<_> = it
            .notes
            .told()
            .into_iter()
            .filter(|t| !t.ends_with("up"))
            .collect();
        assert_eq!(downs, ["1: message x1", "2: message x2", "3: message x1"]);
    });
}

#[test]
fn a_drop_that_panics_harms_nobody() {
    run(async {
        let it = Setting::new();
        assert_eq!(it.ask(Do::PanicInDrop).await, Ok(1));
        assert_eq!(it.ask(Do::Panic).await, crashed());
        assert_eq!(it.ask(Do::Answer).await, Ok(2));
    });
}

#[test]
fn results_carry_the_fault_as_far_as_they_have_room() {
    run(async {
        let vbucket = VbucketId::new(7).expect("a vbucket id");
        let it = Setting::with(Some(vbucket), Stopping::Done);
        let many = it.address.send(Many(3)).await.expect("an answer");
        assert_eq!(many, vec![Err(OperationError::Crashed { vbucket }); 3]);
        assert!(
            it.address.send(Nothing).await.is_err(),
            "no room: no answer"
        );
        *it.notes.stays_down.lock() = true;
        assert_eq!(it.ask(Do::Panic).await, crashed());
        let many = it.address.send(Many(2)).await.expect("an answer");
        let down = |why: &str| OperationError::VbucketDown {
            vbucket,
            cause: DownCause::Escalated(why.to_owned()),
        };
        assert_eq!(many.len(), 2);
        assert_eq!(
            many.first(),
            Some(&Err(down(
                "it: crashed while the request was under way: planted"
            )))
        );
    });
}
