//! What a core is handed with every entry: its own address, its generation, timers, futures, and ways to end.
//!
//! Invariant: whatever is started here belongs to the generation that started it and is dropped with it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use actix::{Addr, AsyncContext, Context, Message, Recipient};
use futures_util::future::{AbortHandle, Abortable};

use super::actor::Shell;
use super::answer::Answer;
use super::contract::{Core, Later, On, afterwards};
use super::jobs::Jobs;
use crate::guardian::Entry;
use crate::tether::Tether;

/// What a core asked of its shell in one entry.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) stop: bool,
    pub(super) give_up: Option<String>,
    pub(super) freeze: Option<Duration>,
}

/// Handed to a core with every entry.
pub struct ShellContext<'a, C: Core> {
    pub(super) jobs: &'a mut Jobs<C>,
    pub(super) actix: &'a mut Context<Shell<C>>,
    pub(super) tether: &'a Tether,
    pub(super) wishes: Wishes,
}

impl<C: Core> ShellContext<'_, C> {
    /// Which life this is; it goes into every message the core sends, so that what an earlier life sent can be told.
    #[must_use]
    pub fn generation(&self) -> messages::Generation {
        self.tether.generation()
    }

    /// The child's name.
    #[must_use]
    pub fn child(&self) -> &messages::ChildName {
        self.tether.child()
    }

    /// The actor's own address. It outlives the core.
    #[must_use]
    pub fn address(&self) -> Addr<Shell<C>> {
        self.actix.address()
    }

    /// The actor's own address for one kind of message.
    #[must_use]
    pub fn recipient<M>(&self) -> Recipient<M>
    where
        C: On<M>,
        M: Message + Send + 'static,
        M::Result: Answer + Send,
    {
        self.address().recipient()
    }

    /// Does this after so much time.
    pub fn later(
        &mut self,
        after: Duration,
        then: impl FnOnce(&mut C, &mut ShellContext<'_, C>) + 'static,
    ) -> Task {
        let sleep = tokio::time::sleep(after);
        self.run(Entry::Timer, sleep, |core, (), ctx| then(core, ctx))
    }

    /// Does this again and again, so much time after the last one.
    pub fn every(
        &mut self,
        period: Duration,
        tick: impl FnMut(&mut C, &mut ShellContext<'_, C>) + 'static,
    ) -> Task {
        let task = Task::default();
        self.arm(period, Box::new(tick), task.clone());
        task
    }

    /// Runs a future, then this with what came of it.
    pub fn spawn<T: 'static>(
        &mut self,
        future: impl Future<Output = T> + 'static,
        then: impl FnOnce(&mut C, T, &mut ShellContext<'_, C>) + 'static,
    ) -> Task {
        self.run(Entry::Future, future, then)
    }

    /// The core's work is done: it ends when this entry returns. What the guardian says of a child whose work is
    /// done depends on its kind; a child that was told to stop has stopped.
    pub fn stop(&mut self) {
        self.wishes.stop = true;
    }

    /// The core cannot go on: it ends when this entry returns, as if it had panicked, but the entry's own answer is
    /// given.
    pub fn give_up(&mut self, why: impl Into<String>) {
        self.wishes.give_up = Some(why.into());
    }

    /// Stands still for so long when this entry returns, as if the entry took that long: nothing is served, no sign
    /// of life is given, and the entry's answer comes at the end. This is how a simulation on one thread makes a
    /// child stall.
    pub fn freeze(&mut self, how_long: Duration) {
        self.wishes.freeze = Some(how_long);
    }

    fn run<T: 'static>(
        &mut self,
        entry: Entry,
        future: impl Future<Output = T> + 'static,
        then: impl FnOnce(&mut C, T, &mut ShellContext<'_, C>) + 'static,
    ) -> Task {
        let task = Task::default();
        let future = task.abortable(future);
        self.push(
            entry,
            afterwards(future, |core, out, ctx| {
                if let Some(out) = out {
                    then(core, out, ctx);
                }
            }),
        );
        task
    }

    fn arm(&mut self, period: Duration, mut tick: Tick<C>, task: Task) {
        let sleep = task.abortable(tokio::time::sleep(period));
        self.push(
            Entry::Timer,
            afterwards(sleep, move |core, out, ctx| {
                if out.is_some() {
                    tick(core, ctx);
                    if !task.is_cancelled() {
                        ctx.arm(period, tick, task);
                    }
                }
            }),
        );
    }

    fn push(&mut self, entry: Entry, future: Later<C, ()>) {
        self.jobs.push(entry, future, None);
    }
}

type Tick<C> = Box<dyn FnMut(&mut C, &mut ShellContext<'_, C>)>;

impl<C: Core> fmt::Debug for ShellContext<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShellContext")
            .field("child", self.child())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// A timer or a future of a core. Dropping this handle changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Task(Rc<TaskState>);

#[derive(Debug, Default)]
struct TaskState {
    is_cancelled: Cell<bool>,
    abort: RefCell<Option<AbortHandle>>,
}

impl Task {
    /// Drops it; what was to be done then is not done. Nothing happens if it was done already.
    pub fn cancel(&self) {
        self.0.is_cancelled.set(true);
        if let Some(abort) = self.0.abort.borrow().as_ref() {
            abort.abort();
        }
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.get()
    }

    fn abortable<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        let (abort, registration) = AbortHandle::new_pair();
        self.0.abort.replace(Some(abort));
        let task = self.clone();
        async move {
            let out = Abortable::new(future, registration).await.ok();
            out.filter(|_| !task.is_cancelled())
        }
    }
}
