//! The flusher's actor: messages, wake-ups and its timer become looks.
//!
//! Invariant: a look is a bounded slice; what is left is done with the next message the actor sends itself, so that the
//! shard's other actors get their turns, and at most one timer is under way.

use std::time::Duration;

use actix::Recipient;
use messages::OperationError;
use messages::flusher::{FlushNow, FlushReport, PauseFlushing, ResumeFlushing, StopFlushing, Wake};

use crate::flusher::core::{Flusher, WhenDone};
use crate::shell::{Core, On, Reply, ShellContext, Task};
use crate::vbucket::{WakeFlusher, WakeSent};

/// The inside of a flusher's actor.
#[derive(Debug)]
pub struct FlusherActor {
    flusher: Flusher,
    timer: Option<Task>,
}

impl FlusherActor {
    /// The actor around one life of a flusher.
    #[must_use]
    pub fn new(flusher: Flusher) -> FlusherActor {
        FlusherActor {
            flusher,
            timer: None,
        }
    }

    fn look(&mut self, ctx: &mut ShellContext<'_, Self>) {
        let left = self.flusher.look();
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
        let wait = if left.is_more {
            Some(Duration::ZERO)
        } else {
            left.at.map(|at| self.flusher.until(at))
        };
        self.timer = wait.map(|wait| ctx.later(wait, Self::look));
    }

    /// Looks after what was asked, because it may have changed what there is to do.
    fn when_done(
        &mut self,
        answer: WhenDone,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), OperationError>> {
        self.look(ctx);
        Reply::later(async move { answer.await.unwrap_or(Err(OperationError::Closed)) })
    }
}

impl Core for FlusherActor {
    /// A new life knows nothing of what was put there before it: it looks at once.
    fn started(&mut self, ctx: &mut ShellContext<'_, Self>) {
        self.look(ctx);
    }
}

impl On<Wake> for FlusherActor {
    fn on(&mut self, _: Wake, ctx: &mut ShellContext<'_, Self>) -> Reply<Self, ()> {
        self.look(ctx);
        Reply::Now(())
    }
}

impl On<PauseFlushing> for FlusherActor {
    fn on(
        &mut self,
        _: PauseFlushing,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), OperationError>> {
        let answer = self.flusher.pause();
        self.when_done(answer, ctx)
    }
}

impl On<ResumeFlushing> for FlusherActor {
    fn on(
        &mut self,
        _: ResumeFlushing,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), OperationError>> {
        let answer = self.flusher.resume();
        self.when_done(answer, ctx)
    }
}

impl On<FlushNow> for FlusherActor {
    fn on(
        &mut self,
        flush: FlushNow,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), OperationError>> {
        let answer = self.flusher.flush_now(flush.vbucket);
        self.when_done(answer, ctx)
    }
}

impl On<StopFlushing> for FlusherActor {
    fn on(
        &mut self,
        stop: StopFlushing,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<FlushReport, OperationError>> {
        let report = self.flusher.stop(stop.within);
        self.look(ctx);
        Reply::later(async move { report.await.map_err(|_| OperationError::Closed) })
    }
}

/// How the vbuckets of a shard wake the flusher behind this address.
#[must_use]
pub fn wakes(flusher: Recipient<Wake>) -> WakeFlusher {
    WakeFlusher::new(move || match flusher.try_send(Wake) {
        Ok(()) => WakeSent::Delivered,
        Err(actix::dev::SendError::Full(_)) => WakeSent::Full,
        Err(actix::dev::SendError::Closed(_)) => WakeSent::Nobody,
    })
}
