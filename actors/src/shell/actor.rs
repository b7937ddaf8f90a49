//! The shell: an actix actor with one guard through which all code of its core runs.
//!
//! Lives: made (factory) -> up -> ended (panic, gave up, reset, done) -> paused for as long as the guardian says ->
//! made. While it is paused nothing of the mailbox is taken; a shell that stays down or has stopped answers every
//! message with the fault, until its last address is gone. Orders of the guardian are looked at with every entry, and
//! an order wakes the shell, also when it is idle or paused.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, ActorFuture, Addr, ArbiterHandle, AsyncContext, Context, Handler, Message};
use futures_util::task::AtomicWaker;
use tokio::time::Sleep;

use messages::{ChildName, Generation};

use super::answer::{Answer, FaultCause, ShellFault};
use super::context::{ShellContext, Wishes};
use super::contract::{Core, Later, On, Reply, Stopping};
use super::jobs::Jobs;
use crate::executor::WakeWorker;
use crate::guardian::{Entry, ExitCause, Guardian, Verdict};
use crate::hooks::{Delivery, Hooks};
use crate::panics::{Payload, panic_text, planted, quietly};
use crate::tether::{DeathWatch, Tether};

/// Ended futures and timers handled in one go, so that a mailbox beside them is served, too.
const JOBS_A_SLICE: usize = 64;

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
            actix.wait(Frozen(Box::pin(tokio::time::sleep(how_long))));
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
        actix.wait(Pause { delay, sleep: None });
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

/// Looks for orders, and moves what is under way; there from the first to the last moment of the shell.
struct Pump;

impl<C: Core> ActorFuture<Shell<C>> for Pump {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        shell: &mut Shell<C>,
        actix: &mut Context<Shell<C>>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        shell.waker.register(task.waker());
        shell.look(actix);
        for _ in 0..JOBS_A_SLICE {
            if shell.phase == Phase::Stopped {
                return Poll::Ready(());
            }
            if shell.core.is_none() || actix.waiting() {
                return Poll::Pending;
            }
            shell.tether.enter();
            let ended = shell.jobs.poll(task);
            shell.tether.leave();
            let Poll::Ready(Some(ended)) = ended else {
                return Poll::Pending;
            };
            let outcome = match ended.outcome {
                Ok(then) => shell.enter(ended.entry, actix, then),
                Err(payload) => Err(shell.panicked(ended.entry, payload, actix)),
            };
            match (outcome, ended.on_fault) {
                (Ok(()), _) => shell.row.served(ended.entry),
                (Err(fault), Some(on_fault)) => quietly(|| on_fault(&fault)),
                (Err(_), None) => {}
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// No message is taken until the core is made. Wakes on every order.
struct Pause {
    delay: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<C: Core> ActorFuture<Shell<C>> for Pause {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        shell: &mut Shell<C>,
        actix: &mut Context<Shell<C>>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        ready!(self.poll_end(shell, actix, task));
        if shell.phase != Phase::Paused
            && let Some(serve) = shell.stashed.take()
        {
            serve(shell, actix);
        }
        Poll::Ready(())
    }
}

impl Pause {
    fn poll_end<C: Core>(
        &mut self,
        shell: &mut Shell<C>,
        actix: &mut Context<Shell<C>>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        shell.waker.register(task.waker());
        shell.seen_version = shell.tether.version();
        let orders = shell.tether.orders();
        if orders.must_stop {
            shell.stop_for_good();
            return Poll::Ready(());
        }
        if let Some(why) = orders.stands_down {
            shell.stand_down(&why);
            return Poll::Ready(());
        }
        if orders.resets != shell.seen_resets {
            shell.seen_resets = orders.resets;
            (self.delay, self.sleep) = (None, None);
        }
        if let Some(delay) = self.delay.take() {
            self.sleep = Some(Box::pin(tokio::time::sleep(delay)));
        }
        if let Some(sleep) = self.sleep.as_mut() {
            ready!(sleep.as_mut().poll(task));
            self.sleep = None;
        }
        if orders.is_held {
            return Poll::Pending;
        }
        shell.make_core(actix);
        Poll::Ready(())
    }
}

/// A core that stands still: see [`ShellContext::freeze`].
struct Frozen(Pin<Box<Sleep>>);

impl<C: Core> ActorFuture<Shell<C>> for Frozen {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        shell: &mut Shell<C>,
        _actix: &mut Context<Shell<C>>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        ready!(self.0.as_mut().poll(task));
        shell.tether.leave();
        if let Some(answer) = shell.frozen_answer.take() {
            quietly(answer);
        }
        Poll::Ready(())
    }
}

/// A message that a harness holds up, and with it all behind it.
struct HeldUp<C: Core> {
    sleep: Pin<Box<Sleep>>,
    serve: Option<Stashed<C>>,
}

impl<C: Core> ActorFuture<Shell<C>> for HeldUp<C> {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        shell: &mut Shell<C>,
        actix: &mut Context<Shell<C>>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        ready!(self.sleep.as_mut().poll(task));
        shell.tether.leave();
        shell.look(actix);
        match self.serve.take() {
            // A new life was ordered meanwhile; it is that life's first message.
            serve @ Some(_) if shell.phase == Phase::Paused => shell.stashed = serve,
            Some(serve) => serve(shell, actix),
            None => {}
        }
        Poll::Ready(())
    }
}

type Slot<R> = Rc<RefCell<Option<OneshotSender<R>>>>;

fn send<R>(slot: &Slot<R>, answer: R) {
    let sender = slot.borrow_mut().take();
    if let Some(sender) = sender {
        // Nobody waits any more: that is the caller's right.
        drop(sender.send(answer));
    }
}

impl<C, M> Handler<M> for Shell<C>
where
    C: On<M>,
    M: Message + 'static,
    M::Result: Answer,
{
    type Result = Replied<C, M::Result>;

    fn handle(&mut self, message: M, actix: &mut Context<Self>) -> Self::Result {
        self.look(actix);
        if self.phase != Phase::Paused {
            return self.deliver(message, actix);
        }
        // Taken from the mailbox just when an order came to begin a new life: it is that life's first message.
        let slot = Slot::default();
        let kept = Rc::clone(&slot);
        self.stashed = Some(Box::new(move |shell, actix| {
            shell.deliver(message, actix).pass_on(&kept);
        }));
        Replied::later(slot)
    }
}

impl<C: Core> Shell<C> {
    /// Lets a harness have its say, if there is one and the message finds a core.
    fn deliver<M>(&mut self, message: M, actix: &mut Context<Self>) -> Replied<C, M::Result>
    where
        C: On<M>,
        M: Message + 'static,
        M::Result: Answer,
    {
        if self.core.is_none() {
            return self.serve(message, None, actix);
        }
        let child = self.tether.child();
        match self.hooks.message(child, self.generation, &message) {
            Delivery::Handle => self.serve(message, None, actix),
            Delivery::Panic(text) => self.serve(message, Some(text), actix),
            Delivery::After(time) => {
                let slot = Slot::default();
                let kept = Rc::clone(&slot);
                let serve: Stashed<C> = Box::new(move |shell, actix| {
                    shell.serve(message, None, actix).pass_on(&kept);
                });
                // At work on it from now on, as if its handling took so long.
                self.tether.enter();
                actix.wait(HeldUp {
                    sleep: Box::pin(tokio::time::sleep(time)),
                    serve: Some(serve),
                });
                Replied::later(slot)
            }
        }
    }

    /// Serves it; `panic` is one that a harness asked for.
    fn serve<M>(
        &mut self,
        message: M,
        panic: Option<String>,
        actix: &mut Context<Self>,
    ) -> Replied<C, M::Result>
    where
        C: On<M>,
        M: Message + 'static,
        M::Result: Answer,
    {
        let entry = Entry::Message(std::any::type_name::<M>());
        let mut parts = 1;
        quietly(|| parts = C::parts(&message));
        let reply = self.enter(entry, actix, move |core, ctx| match panic {
            None => core.on(message, ctx),
            Some(text) => planted(text),
        });
        match reply {
            Err(fault) => Replied::now(fault_answer(&fault, parts)),
            Ok(Reply::Now(answer)) => {
                self.row.served(entry);
                self.reply_now(answer)
            }
            Ok(Reply::Later(future)) => self.reply_later(entry, future, parts),
        }
    }

    fn reply_now<R: 'static>(&mut self, answer: R) -> Replied<C, R> {
        let is_frozen = self.tether.pulse() & 1 == 1;
        if !is_frozen {
            return Replied::now(Some(answer));
        }
        let slot = Slot::default();
        let kept = Rc::clone(&slot);
        self.frozen_answer = Some(Box::new(move || send(&kept, answer)));
        Replied::later(slot)
    }

    fn reply_later<R: Answer>(
        &mut self,
        entry: Entry,
        future: Later<C, R>,
        parts: usize,
    ) -> Replied<C, R> {
        if self.core.is_none() {
            // The core ended its life with this very message.
            quietly(|| drop(future));
            return Replied::now(fault_answer(&self.fault(), parts));
        }
        let slot = Slot::default();
        let (kept, fault_slot) = (Rc::clone(&slot), Rc::clone(&slot));
        let answering = async move {
            let then = future.await;
            let then: super::Then<C, ()> = Box::new(move |core, ctx| send(&kept, then(core, ctx)));
            then
        };
        let on_fault = move |fault: &ShellFault| {
            if let Some(answer) = fault_answer(fault, parts) {
                send(&fault_slot, answer);
            }
        };
        self.jobs
            .push(entry, Box::pin(answering), Some(Box::new(on_fault)));
        Replied::later(slot)
    }
}

fn fault_answer<R: Answer>(fault: &ShellFault, parts: usize) -> Option<R> {
    let mut answer = None;
    quietly(|| answer = R::from_fault(fault, parts));
    answer
}

/// How a shell answers actix.
pub struct Replied<C, R>(ReplyState<R>, PhantomData<fn(C)>);

enum ReplyState<R> {
    Now(Option<R>),
    Later(Slot<R>),
}

impl<C, R> Replied<C, R> {
    fn now(answer: Option<R>) -> Replied<C, R> {
        Replied(ReplyState::Now(answer), PhantomData)
    }

    fn later(slot: Slot<R>) -> Replied<C, R> {
        Replied(ReplyState::Later(slot), PhantomData)
    }

    /// Gives this answer to whoever waits at that slot.
    fn pass_on(self, waiting: &Slot<R>) {
        match self.0 {
            ReplyState::Now(Some(answer)) => send(waiting, answer),
            ReplyState::Now(None) => drop(waiting.take()),
            ReplyState::Later(slot) => drop(slot.replace(waiting.take())),
        }
    }
}

impl<C, R> fmt::Debug for Replied<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            ReplyState::Now(_) => "Now",
            ReplyState::Later(_) => "Later",
        })
    }
}

impl<C: Core, M: Message> MessageResponse<Shell<C>, M> for Replied<C, M::Result> {
    fn handle(self, _: &mut Context<Shell<C>>, sender: Option<OneshotSender<M::Result>>) {
        match (self.0, sender) {
            (ReplyState::Now(Some(answer)), Some(sender)) => drop(sender.send(answer)),
            (ReplyState::Later(slot), Some(sender)) => *slot.borrow_mut() = Some(sender),
            // Nobody waits, or the result has no room for a fault: the caller sees the sender dropped.
            (ReplyState::Now(_) | ReplyState::Later(_), _) => {}
        }
    }
}
