//! The shell: an actix actor with one guard through which all code of its core runs.
//!
//! Lives: made (factory) -> up -> ended (panic, gave up, reset, done) -> paused for as long as the guardian says ->
//! made. While it is paused nothing of the mailbox is taken; a shell that stays down or has stopped answers every
//! message with the fault, until its last address is gone. Orders of the guardian are looked at with every entry, and
//! an order wakes the shell, also when it is idle or paused.

mod waiting;
mod reply;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, ArbiterHandle, AsyncContext, Context};
use futures_util::task::AtomicWaker;

use messages::{ChildName, Generation};

use super::answer::{FaultCause, ShellFault};
use super::context::{ShellContext, Wishes};
use super::contract::{Core, Stopping};
use super::jobs::Jobs;
use crate::executor::WakeWorker;
use crate::guardian::{Entry, ExitCause, Guardian, Verdict};
use crate::hooks::Hooks;
use crate::panics::{Payload, panic_text, quietly};
use crate::tether::{DeathWatch, Tether};

use waiting::{Frozen, Pause, Pump};

pub use reply::Replied;

/// What a shell needs to know.
#[derive(Clone, Debug)]
pub struct ShellConfig {
    /// The child's name in its guardian's tree.
    pub name: ChildName,
    /// Who decides.
    pub guardian: Arc<dyn Guardian>,
    /// Messages the mailbox takes before `try_send` says it is full.
    pub mailbox: usize,
    /// A test harness that sees its messages.
    pub hooks: Hooks,
}

impl ShellConfig {
    /// Where the work is a message at a time, a short mailbox says early that it is too much.
    pub const MAILBOX: usize = 64;

    /// A child of that name.
    #[must_use]
    pub fn new(name: ChildName, guardian: Arc<dyn Guardian>) -> ShellConfig {
        ShellConfig {
            name,
            guardian,
            mailbox: ShellConfig::MAILBOX,
            hooks: Hooks::none(),
        }
    }

    /// The same, with another mailbox.
    #[must_use]
    pub fn mailbox(self, messages: usize) -> ShellConfig {
        ShellConfig {
            mailbox: messages,
            ..self
        }
    }

    /// The same, watched by a test harness.
    #[must_use]
    pub fn hooks(self, hooks: &Hooks) -> ShellConfig {
        let hooks = hooks.clone();
        ShellConfig { hooks, ..self }
    }
}

/// Starts an actor on that arbiter. `make` is called there for each generation. The child lives until its guardian
/// tells it to stop, also when nobody holds its address.
pub fn start<C: Core>(
    arbiter: &ArbiterHandle,
    config: ShellConfig,
    make: impl FnMut(Generation) -> C + Send + 'static,
) -> Addr<Shell<C>> {
    let ShellConfig {
        name,
        guardian,
        mailbox,
        hooks,
    } = config;
    let tether = guardian.tether(&name);
    // Made here, not there: an arbiter that has ended drops the closure, and so tells of it.
    let death_watch = DeathWatch::new(Arc::clone(&tether));
    Shell::start_in_arbiter(arbiter, move |ctx| {
        ctx.set_mailbox_capacity(mailbox);
        Shell {
            tether,
            guardian,
            hooks,
            make: Some(Box::new(make)),
            core: None,
            jobs: Jobs::new(),
            phase: Phase::Paused,
            generation: Generation::default(),
            seen_version: 0,
            seen_resets: 0,
            row: Row::default(),
            frozen_answer: None,
            stashed: None,
            waker: Arc::new(AtomicWaker::new()),
            death_watch,
        }
    })
}

/// An actor around a replaceable [`Core`]; see the module.
pub struct Shell<C: Core> {
    tether: Arc<Tether>,
    guardian: Arc<dyn Guardian>,
    hooks: Hooks,
    /// There until it stops for good.
    make: Option<Box<dyn FnMut(Generation) -> C>>,
    core: Option<C>,
    jobs: Jobs<C>,
    phase: Phase,
    generation: Generation,
    seen_version: u64,
    seen_resets: u64,
    row: Row,
    frozen_answer: Option<Box<dyn FnOnce()>>,
    stashed: Option<Stashed<C>>,
    waker: Arc<AtomicWaker>,
    death_watch: DeathWatch,
}

/// A message that was taken from the mailbox and is served later.
type Stashed<C> = Box<dyn FnOnce(&mut Shell<C>, &mut Context<Shell<C>>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The core serves.
    Up,
    /// No core; the mailbox is paused.
    Paused,
    /// The core winds down.
    Stopping,
    /// No core; messages are answered with this.
    Down(FaultCause),
    /// The same, for good.
    Stopped,
}

/// Panics in a row caused by one kind of message.
#[derive(Debug, Default)]
struct Row {
    kind: &'static str,
    panics: u32,
}

impl Row {
    fn panicked(&mut self, entry: Entry) -> u32 {
        let Entry::Message(kind) = entry else {
            return 0;
        };
        if self.kind != kind {
            *self = Row { kind, panics: 0 };
        }
        self.panics = self.panics.saturating_add(1);
        self.panics
    }

    fn served(&mut self, entry: Entry) {
        if self.panics > 0 && entry == Entry::Message(self.kind) {
            self.panics = 0;
        }
    }
}

impl<C: Core> fmt::Debug for Shell<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shell")
            .field("child", self.tether.child())
            .field("generation", &self.generation)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl<C: Core> Actor for Shell<C> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let waker = Arc::clone(&self.waker);
        self.tether.set_wake(WakeWorker::new(move || waker.wake()));
        ctx.spawn(Pump);
        self.pause(None, ctx);
    }
}

impl<C: Core> Shell<C> {
    /// Runs code of the core. This is the one guard; the factory and the polls of futures, which have no core at
    /// hand, have their own catch and end in `panicked` as well.
    fn enter<R>(
        &mut self,
        entry: Entry,
        actix: &mut Context<Self>,
        run: impl FnOnce(&mut C, &mut ShellContext<'_, C>) -> R,
    ) -> Result<R, ShellFault> {
        self.look(actix);
        let Some(core) = self.core.as_mut() else {
            quietly(|| drop(run));
            return Err(self.fault());
        };
        let mut ctx = ShellContext {
            jobs: &mut self.jobs,
            actix,
            tether: &self.tether,
            wishes: Wishes::default(),
        };
        self.tether.enter();
        let outcome = catch_unwind(AssertUnwindSafe(|| run(core, &mut ctx)));
        let wishes = ctx.wishes;
        match outcome {
            Ok(out) => {
                self.heed(wishes, actix);
                Ok(out)
            }
            Err(payload) => {
                self.tether.leave();
                Err(self.panicked(entry, payload, actix))
            }
        }
    }

    /// Does what the core asked for.
    fn heed(&mut self, wishes: Wishes, actix: &mut Context<Self>) {
        if let Some(how_long) = wishes.freeze {
            actix.wait(Frozen::new(how_long));
        } else {
            self.tether.leave();
        }
        if let Some(why) = wishes.give_up {
            let cause = FaultCause::Crashed(why.clone());
            self.ended(ExitCause::GaveUp(why), cause, actix);
        } else if wishes.stop {
            if self.phase == Phase::Stopping {
                self.stop_for_good();
            } else {
                self.ended(ExitCause::Finished, FaultCause::Stopped, actix);
            }
        }
    }

    /// Looks for new orders.
    fn look(&mut self, actix: &mut Context<Self>) {
        let version = self.tether.version();
        if version == self.seen_version || matches!(self.phase, Phase::Paused | Phase::Stopped) {
            return;
        }
        self.seen_version = version;
        let orders = self.tether.orders();
        if let Some(why) = &orders.stands_down {
            self.stand_down(why);
        }
        if orders.must_stop {
            self.begin_stop(actix);
        } else if orders.stands_down.is_none() && orders.resets != self.seen_resets {
            self.discard(FaultCause::Reset);
            self.pause(None, actix);
        }
    }

    fn begin_stop(&mut self, actix: &mut Context<Self>) {
        match self.phase {
            Phase::Stopping | Phase::Stopped => {}
            Phase::Paused | Phase::Down(_) => self.stop_for_good(),
            Phase::Up => {
                self.phase = Phase::Stopping;
                let answer = self.enter(Entry::Stop, actix, Core::stopping);
                if answer == Ok(Stopping::Done) && self.phase == Phase::Stopping {
                    self.stop_for_good();
                }
            }
        }
    }

    fn stop_for_good(&mut self) {
        self.discard(FaultCause::Stopped);
        // What the factory holds, such as the store, goes with the child, not with its last address.
        let make = self.make.take();
        quietly(|| drop(make));
        self.phase = Phase::Stopped;
        self.death_watch.disarm();
        let (guardian, tether) = (&self.guardian, &self.tether);
        quietly(|| guardian.child_stopped(tether.child(), self.generation));
    }

    fn stand_down(&mut self, why: &str) {
        let cause = FaultCause::OutOfService(why.to_owned());
        self.discard(cause.clone());
        self.phase = Phase::Down(cause);
        self.death_watch.disarm();
    }

    /// A panic somewhere in this life. The fault is what whoever asked is answered.
    fn panicked(
        &mut self,
        entry: Entry,
        payload: Payload,
        actix: &mut Context<Self>,
    ) -> ShellFault {
        let text = panic_text(payload);
        let cause = ExitCause::PanickedIn {
            entry,
            in_a_row: self.row.panicked(entry),
            text: text.clone(),
        };
        self.ended(cause, FaultCause::Crashed(text), actix)
    }

    /// This life is over: everything of it is dropped, and the guardian says what becomes of the child.
    fn ended(
        &mut self,
        exit: ExitCause,
        cause: FaultCause,
        actix: &mut Context<Self>,
    ) -> ShellFault {
        let fault = self.discard(cause);
        let is_finished = exit == ExitCause::Finished;
        let (guardian, tether) = (&self.guardian, &self.tether);
        let verdict = catch_unwind(AssertUnwindSafe(|| {
            guardian.child_down(tether.child(), self.generation, exit)
        }));
        match verdict {
            Ok(Verdict::RestartAfter(delay)) => self.pause(Some(delay), actix),
            Ok(Verdict::StayDown) | Err(_) => {
                let orders = self.tether.orders();
                if orders.must_stop {
                    self.stop_for_good();
                } else if is_finished {
                    self.phase = Phase::Down(FaultCause::Stopped);
                    self.death_watch.disarm();
                } else {
                    let why = orders
                        .stands_down
                        .unwrap_or_else(|| fault.to_string().into());
                    self.stand_down(&why);
                }
            }
        }
        fault
    }

    /// Drops the core and all it had under way, and tells whoever waits for it why.
    fn discard(&mut self, cause: FaultCause) -> ShellFault {
        let fault = self.fault_of(cause);
        let core = self.core.take();
        quietly(|| drop(core));
        self.jobs.clear(&fault);
        fault
    }

    /// Pauses the mailbox, then makes the core.
    fn pause(&mut self, delay: Option<Duration>, actix: &mut Context<Self>) {
        self.phase = Phase::Paused;
        // A new reset counts from here; one seen already must not end this pause early.
        self.seen_resets = self.tether.orders().resets;
        actix.wait(Pause::new(delay));
    }

    fn make_core(&mut self, actix: &mut Context<Self>) {
        let Some(make) = self.make.as_mut() else {
            return;
        };
        self.generation = self.tether.next_generation();
        self.death_watch.arm();
        self.tether.enter();
        let outcome = catch_unwind(AssertUnwindSafe(|| make(self.generation)));
        self.tether.leave();
        match outcome {
            Err(payload) => {
                self.panicked(Entry::Factory, payload, actix);
            }
            Ok(core) => {
                self.core = Some(core);
                self.phase = Phase::Up;
                let started = self.enter(Entry::Factory, actix, Core::started);
                if started.is_ok() && self.core.is_some() {
                    let (guardian, tether) = (&self.guardian, &self.tether);
                    quietly(|| guardian.child_up(tether.child(), self.generation));
                }
            }
        }
    }

    /// Why a message finds no core.
    fn fault(&self) -> ShellFault {
        self.fault_of(match &self.phase {
            Phase::Down(cause) => cause.clone(),
            Phase::Stopped | Phase::Stopping => FaultCause::Stopped,
            Phase::Up | Phase::Paused => FaultCause::Reset,
        })
    }

    fn fault_of(&self, cause: FaultCause) -> ShellFault {
        ShellFault {
            child: self.tether.child().clone(),
            generation: self.generation,
            vbucket: self.tether.vbucket(),
            cause,
        }
    }
}

impl<C: Core> Drop for Shell<C> {
    fn drop(&mut self) {
        self.discard(FaultCause::Stopped);
    }
}
