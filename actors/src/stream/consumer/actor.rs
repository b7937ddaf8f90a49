//! The consumer as an actor: whatever arrives, a look follows.
//!
//! Invariant: what one look leaves over is done by the next, for which the edge wakes it again; a timer is armed for
//! whatever is to be done at a time, and an answer that comes late finds its request or nobody.

use std::time::Duration;

use messages::stream::LookAtStreams;

use super::live::Asked;
use super::streams::{Consumer, ConsumerConfig};
use crate::shell::{Core, On, Reply, ShellContext};
use crate::vbucket::{WakeFlusher, WakeSent};

/// One life of a consumer, as its shell sees it.
#[derive(Debug)]
pub struct ConsumerCore {
    consumer: Consumer,
    config: ConsumerConfig,
    /// When the timer goes off that is armed.
    armed: Option<Duration>,
}

impl ConsumerCore {
    /// A new life: it finds its streams by itself.
    #[must_use]
    pub fn new(config: ConsumerConfig) -> ConsumerCore {
        ConsumerCore {
            consumer: Consumer::new(config.clone()),
            config,
            armed: None,
        }
    }

    fn look(&mut self, ctx: &mut ShellContext<'_, ConsumerCore>) {
        let around = self.consumer.look();
        for asked in around.asked {
            let Asked {
                vbucket,
                attempt,
                opening,
            } = asked;
            ctx.spawn(opening, move |core, answer, ctx| {
                core.consumer.answered(vbucket, attempt, answer);
                core.look(ctx);
            });
        }
        if let Some(at) = around.next
            && self.armed.is_none_or(|armed| at < armed)
        {
            self.armed = Some(at);
            let wait = at.saturating_sub(self.config.environment.clock.monotonic());
            ctx.later(wait, |core, ctx| {
                core.armed = None;
                core.look(ctx);
            });
        }
    }
}

impl Core for ConsumerCore {
    fn started(&mut self, ctx: &mut ShellContext<'_, Self>) {
        let recipient = ctx.recipient::<LookAtStreams>();
        let send = move || match recipient.try_send(LookAtStreams) {
            Ok(()) => WakeSent::Delivered,
            Err(actix::prelude::SendError::Full(_)) => WakeSent::Full,
            Err(actix::prelude::SendError::Closed(_)) => WakeSent::Nobody,
        };
        self.config.edge.set_waker(WakeFlusher::new(send));
        self.look(ctx);
    }
}

impl On<LookAtStreams> for ConsumerCore {
    fn on(&mut self, _: LookAtStreams, ctx: &mut ShellContext<'_, Self>) -> Reply<Self, ()> {
        self.look(ctx);
        Reply::Now(())
    }
}
