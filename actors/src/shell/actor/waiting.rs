//! What a shell waits for: orders and ended futures while it serves, the next life while it has none.
//!
//! Invariant: whatever a shell waits for, an order of its guardian wakes it; only a core that stands still, or is held up by a
//! harness, is deaf, as one that blocks its thread would be.

use std::future::Future;
use std::pin::Pin;
use std::task::{self, Poll, ready};
use std::time::Duration;

use actix::{ActorFuture, AsyncContext, Context};
use tokio::time::Sleep;

use super::{Phase, Shell, Stashed};
use crate::panics::quietly;
use crate::shell::contract::Core;

/// Ended futures and timers handled in one go, so that a mailbox beside them is served, too.
const JOBS_A_SLICE: usize = 64;

/// Looks for orders, and moves what is under way; there from the first to the last moment of the shell.
pub(super) struct Pump;

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
pub(super) struct Pause {
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
    pub(super) fn new(delay: Option<Duration>) -> Pause {
        Pause { delay, sleep: None }
    }

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

/// A core that stands still: see [`freeze`](crate::shell::ShellContext::freeze).
pub(super) struct Frozen(Pin<Box<Sleep>>);

impl Frozen {
    pub(super) fn new(how_long: Duration) -> Frozen {
        Frozen(Box::pin(tokio::time::sleep(how_long)))
    }
}

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
pub(super) struct HeldUp<C: Core> {
    sleep: Pin<Box<Sleep>>,
    serve: Option<Stashed<C>>,
}

impl<C: Core> HeldUp<C> {
    pub(super) fn new(how_long: Duration, serve: Stashed<C>) -> HeldUp<C> {
        HeldUp {
            sleep: Box::pin(tokio::time::sleep(how_long)),
            serve: Some(serve),
        }
    }
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
