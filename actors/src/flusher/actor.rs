//! The flusher as an actor: each message is a call of [`Flusher`], and after each the shared state is looked at.
//!
//! Invariant: whatever arrives, a look follows; what one look leaves over is done by the next, which the flusher
//! sends itself, behind the messages that wait already. One timer at most is armed, for the next time that matters.

use std::time::Duration;

use crate::flusher::core::{Flusher, FlusherConfig, WhenDone};
use crate::flusher::stage::Stage;
use crate::shell::{Core, On, Reply, ShellContext, Stopping, Task};
use crate::vbucket::{DirtyVbuckets, WakeFlusher, WakeSent};
use messages::flusher::{FlushNow, FlushReport, PauseFlushing, ResumeFlushing, StopFlushing, Wake};
use messages::{Generation, OperationError};

/// How long a flusher that is told to end, and was not told to stop flushing before, goes on writing: the tree's
/// deadline comes first.
const LAST_WORDS: Duration = Duration::from_secs(3600);

/// One life of a flusher, as its shell sees it.
#[derive(Debug)]
pub struct FlusherCore {
    flusher: Flusher,
    config: FlusherConfig,
    timer: Option<(Duration, Task)>,
    is_ending: bool,
}

impl FlusherCore {
    /// A new life.
    #[must_use]
    pub fn new(config: FlusherConfig, generation: Generation) -> FlusherCore {
        FlusherCore {
            flusher: Flusher::new(config.clone(), generation),
            config,
            timer: None,
            is_ending: false,
        }
    }

    fn look(&mut self, ctx: &mut ShellContext<'_, FlusherCore>) {
        let left = self.flusher.look();
        if self.is_ending && self.flusher.stage() == Stage::Stopped {
            return ctx.stop();
        }
        if left.is_more {
            // Behind the messages that wait already. With no room in the mailbox each of those looks.
            self.config.edge.nudge();
        }
        let is_armed = self.timer.as_ref().map(|(at, _)| *at) == left.at;
        if is_armed {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            timer.cancel();
        }
        if let Some(at) = left.at {
            let after = at.saturating_sub(self.config.environment.clock.monotonic());
            // Timers have a grain of a millisecond; an early one would only arm another.
            let after = after.saturating_add(Duration::from_millis(1));
            let timer = ctx.later(after, |core, ctx| {
                core.timer = None;
                core.look(ctx);
            });
            self.timer = Some((at, timer));
        }
    }

    fn when(
        &mut self,
        done: WhenDone,
        ctx: &mut ShellContext<'_, FlusherCore>,
    ) -> Reply<FlusherCore, Result<(), OperationError>> {
        self.look(ctx);
        Reply::later(async move { done.await.unwrap_or(Err(OperationError::Closed)) })
    }
}

impl Core for FlusherCore {
    fn started(&mut self, ctx: &mut ShellContext<'_, Self>) {
        let recipient = ctx.recipient::<Wake>();
        self.config
            .edge
            .connect(move || recipient.try_send(Wake).is_ok());
        self.look(ctx);
    }

    fn stopping(&mut self, ctx: &mut ShellContext<'_, Self>) -> Stopping {
        if self.flusher.stage() == Stage::Stopped {
            return Stopping::Done;
        }
        self.is_ending = true;
        drop(self.flusher.stop(LAST_WORDS));
        self.look(ctx);
        Stopping::NotYet
    }
}

impl On<Wake> for FlusherCore {
    fn on(&mut self, _: Wake, ctx: &mut ShellContext<'_, Self>) -> Reply<Self, ()> {
        self.look(ctx);
        Reply::Now(())
    }
}

impl On<PauseFlushing> for FlusherCore {
    fn on(
        &mut self,
        _: PauseFlushing,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), OperationError>> {
        let paused = self.flusher.pause();
        self.when(paused, ctx)
    }
}

impl On<ResumeFlushing> for FlusherCore {
    fn on(
        &mut self,
        _: ResumeFlushing,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), OperationError>> {
        let resumed = self.flusher.resume();
        self.when(resumed, ctx)
    }
}

impl On<FlushNow> for FlusherCore {
    fn on(
        &mut self,
        wanted: FlushNow,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), OperationError>> {
        let flushed = self.flusher.flush_now(wanted.vbucket);
        self.when(flushed, ctx)
    }
}

impl On<StopFlushing> for FlusherCore {
    fn on(
        &mut self,
        order: StopFlushing,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<FlushReport, OperationError>> {
        let stopped = self.flusher.stop(order.within);
        self.look(ctx);
        Reply::later(async move { stopped.await.map_err(|_| OperationError::Closed) })
    }
}

/// Has the vbuckets of `dirty` wake the flusher behind `recipient`. Done once, when it was started: the address stays.
pub fn wake_with(dirty: &DirtyVbuckets, recipient: actix::Recipient<Wake>) {
    let send = move || match recipient.try_send(Wake) {
        Ok(()) => WakeSent::Delivered,
        Err(actix::prelude::SendError::Full(_)) => WakeSent::Full,
        Err(actix::prelude::SendError::Closed(_)) => WakeSent::Nobody,
    };
    dirty.set_waker(WakeFlusher::new(send));
}
