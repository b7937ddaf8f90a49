//! The producer as an actor: each message is a call of [`Producer`], and after each the shared state is looked at.
//!
//! Invariant: whatever arrives, a look follows; what one look leaves over is done by the next, for which the edge wakes
//! it again, behind the messages that wait already. Two timers at most are armed: for consumers without room, and for those
//! that may have died in silence.

use std::time::Duration;

use actix::Message;

use messages::OperationError;
use messages::stream::{
    AcknowledgePrepared, BufferAcknowledge, CloseStream, GetFailoverLog, LookAtStreams, OpenStream,
    StreamError, StreamOpened, StreamRequest, StreamRequestError,
};
use storage::FailoverEntry;

use super::producer::{Producer, ProducerConfig};
use super::sink::StreamSink;
use super::window::Acknowledged;
use crate::shell::{Core, On, Reply, ShellContext, ShellFault};
use crate::vbucket::{WakeFlusher, WakeSent};

/// When a consumer without room is offered again what waits for it.
const OFFER_AGAIN: Duration = Duration::from_millis(5);

/// How often streams of which nothing is to be told are asked whether their consumers live.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// Open a stream into a sink of the caller's own, which acknowledges what it is done with by shared state.
#[derive(Message)]
#[rtype(result = "Result<StreamOpened, StreamRequestError>")]
pub struct OpenStreamInto {
    /// What is asked for.
    pub request: StreamRequest,
    /// Who gets the events.
    pub sink: Box<dyn StreamSink>,
    /// What it is done with; behind it the vbucket's stream edge is to be marked.
    pub acknowledged: Acknowledged,
}

impl std::fmt::Debug for OpenStreamInto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let request = &self.request;
        f.debug_tuple("OpenStreamInto").field(request).finish()
    }
}

/// One life of a producer, as its shell sees it.
#[derive(Debug)]
pub struct ProducerCore {
    producer: Producer,
    config: ProducerConfig,
    is_timer_armed: bool,
    is_probe_armed: bool,
}

impl ProducerCore {
    /// A new life, without streams.
    #[must_use]
    pub fn new(config: ProducerConfig) -> ProducerCore {
        ProducerCore {
            producer: Producer::new(config.clone()),
            config,
            is_timer_armed: false,
            is_probe_armed: false,
        }
    }

    fn look(&mut self, ctx: &mut ShellContext<'_, ProducerCore>) {
        let is_full = self.producer.look();
        if is_full && !self.is_timer_armed {
            self.is_timer_armed = true;
            ctx.later(OFFER_AGAIN, |core, ctx| {
                core.is_timer_armed = false;
                core.producer.offer_again();
                core.look(ctx);
            });
        }
        if !self.producer.is_empty() && !self.is_probe_armed {
            self.is_probe_armed = true;
            ctx.later(PROBE_EVERY, |core, ctx| {
                core.is_probe_armed = false;
                core.producer.probe();
                core.look(ctx);
            });
        }
    }
}

impl Core for ProducerCore {
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

impl On<LookAtStreams> for ProducerCore {
    fn on(&mut self, _: LookAtStreams, ctx: &mut ShellContext<'_, Self>) -> Reply<Self, ()> {
        self.look(ctx);
        Reply::Now(())
    }
}

impl On<OpenStream> for ProducerCore {
    fn on(
        &mut self,
        open: OpenStream,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<StreamOpened, StreamRequestError>> {
        self.look(ctx);
        let sink = Box::new(open.to);
        let opened = self
            .producer
            .open(&open.request, sink, Acknowledged::default());
        Reply::Now(opened)
    }
}

impl On<OpenStreamInto> for ProducerCore {
    fn on(
        &mut self,
        open: OpenStreamInto,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<StreamOpened, StreamRequestError>> {
        self.look(ctx);
        let opened = self
            .producer
            .open(&open.request, open.sink, open.acknowledged);
        Reply::Now(opened)
    }
}

impl On<CloseStream> for ProducerCore {
    fn on(
        &mut self,
        close: CloseStream,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), StreamError>> {
        let closed = self.producer.close(close.vbucket, close.stream);
        self.look(ctx);
        Reply::Now(closed)
    }
}

impl On<BufferAcknowledge> for ProducerCore {
    fn on(
        &mut self,
        done: BufferAcknowledge,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), StreamError>> {
        let answer = self
            .producer
            .acknowledge(done.vbucket, done.stream, done.bytes);
        self.look(ctx);
        Reply::Now(answer)
    }
}

impl On<AcknowledgePrepared> for ProducerCore {
    fn on(
        &mut self,
        done: AcknowledgePrepared,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<(), StreamError>> {
        let answer = self
            .producer
            .acknowledge_prepared(done.vbucket, done.stream, done.seqno);
        self.look(ctx);
        Reply::Now(answer)
    }
}

impl On<GetFailoverLog> for ProducerCore {
    fn on(
        &mut self,
        get: GetFailoverLog,
        ctx: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Vec<FailoverEntry>, StreamRequestError>> {
        self.look(ctx);
        Reply::Now(self.producer.failover_log(get.vbucket))
    }
}

impl From<ShellFault> for StreamRequestError {
    fn from(fault: ShellFault) -> StreamRequestError {
        OperationError::from(fault).into()
    }
}

impl From<ShellFault> for StreamError {
    fn from(fault: ShellFault) -> StreamError {
        OperationError::from(fault).into()
    }
}
