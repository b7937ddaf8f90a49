//! What is written by whoever writes an actor: the core, and what it does on each message.
//!
//! Invariant: a core holds no address of itself and no timer that could outlive it; both come from the context it is
//! handed, and belong to its generation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use actix::Message;

use super::answer::Answer;
use super::context::ShellContext;

/// The replaceable inside of an actor. Made by the factory given to [`start`](super::start), dropped when it panics.
///
/// What must survive a panic does not belong in a core, but in shared state that the factory hands in.
pub trait Core: Sized + Unpin + 'static {
    /// The first thing in each life: the place to start timers. A panic here counts as one of the factory.
    fn started(&mut self, _ctx: &mut ShellContext<'_, Self>) {}

    /// The child was told to stop. [`Stopping::NotYet`]: messages, timers and futures go on until the core calls
    /// [`ShellContext::stop`], or the deadline of the tree passes.
    fn stopping(&mut self, _ctx: &mut ShellContext<'_, Self>) -> Stopping {
        Stopping::Done
    }
}

/// Whether a core that was told to stop has ended its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// It has.
    Done,
    /// It will call [`ShellContext::stop`] when it has.
    NotYet,
}

/// What a core does on a message. Makes its [`Shell`](super::Shell) an `actix::Handler` of it.
pub trait On<M>: Core
where
    M: Message,
    M::Result: Answer,
{
    /// Handles the message.
    fn on(&mut self, message: M, ctx: &mut ShellContext<'_, Self>) -> Reply<Self, M::Result>;

    /// How many answers the message asks for, where its result is a `Vec` of them: so many faults are answered when
    /// the core crashes.
    #[must_use]
    fn parts(_message: &M) -> usize {
        1
    }
}

/// What is done with the core once a future has come to its end.
pub type Then<C, R> = Box<dyn FnOnce(&mut C, &mut ShellContext<'_, C>) -> R>;

/// An answer that comes later: polled under the guard, dropped with the core's generation.
pub type Later<C, R> = Pin<Box<dyn Future<Output = Then<C, R>>>>;

/// An answer, now or later.
#[must_use]
pub enum Reply<C: Core, R> {
    /// Now.
    Now(R),
    /// Later; made by [`Reply::later`] and [`Reply::then`].
    Later(Later<C, R>),
}

impl<C: Core, R: 'static> Reply<C, R> {
    /// The answer is what this future yields.
    pub fn later(future: impl Future<Output = R> + 'static) -> Reply<C, R> {
        Reply::then(future, |_, answer, _| answer)
    }

    /// The answer is made by `then` of what the future yields, with the core at hand.
    pub fn then<T: 'static>(
        future: impl Future<Output = T> + 'static,
        then: impl FnOnce(&mut C, T, &mut ShellContext<'_, C>) -> R + 'static,
    ) -> Reply<C, R> {
        Reply::Later(afterwards(future, then))
    }
}

/// The future, with what is done afterwards.
pub(super) fn afterwards<C: Core, T: 'static, R: 'static>(
    future: impl Future<Output = T> + 'static,
    then: impl FnOnce(&mut C, T, &mut ShellContext<'_, C>) -> R + 'static,
) -> Later<C, R> {
    Box::pin(async move {
        let out = future.await;
        let then: Then<C, R> = Box::new(move |core, ctx| then(core, out, ctx));
        then
    })
}

impl<C: Core, R> From<R> for Reply<C, R> {
    fn from(answer: R) -> Reply<C, R> {
        Reply::Now(answer)
    }
}

impl<C: Core, R: fmt::Debug> fmt::Debug for Reply<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Now(answer) => f.debug_tuple("Now").field(answer).finish(),
            Reply::Later(_) => f.write_str("Later"),
        }
    }
}
