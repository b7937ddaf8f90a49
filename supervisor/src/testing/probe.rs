//! Probes: actors that record every message of one type and answer as they are told.
//!
//! Invariant: a message counts as received before its answer is made, so whoever got an answer finds the message.

use std::fmt;
use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message, MessageResult, Recipient};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The handle of a probe; a clone is the same probe. Stands in for whoever receives `M`.
pub struct Probe<M: Message>
where
    M: Message + Clone + Send + Unpin + 'static,
    M::Result: Send + 'static,
{
    addr: Addr<ProbeActor<M>>,
    shared: Arc<Shared<M>>,
}

type Answer<M> = Box<dyn FnMut(&M) -> <M as Message>::Result + Send>;

struct Shared<M: Message> {
    received: Mutex<Vec<M>>,
    more: Notify,
    answer: Mutex<Answer<M>>,
}

/// The actor behind a [`Probe`].
pub struct ProbeActor<M: Message> {
    shared: Arc<Shared<M>>,
}

impl<M> Probe<M>
where
    M: Message + Clone + Send + Unpin + 'static,
    M::Result: Send + 'static,
{
    /// Starts a probe in the current arbiter that answers with what `answer` returns.
    pub fn start(answer: impl FnMut(&M) -> M::Result + Send + 'static) -> Probe<M> {
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            more: Notify::new(),
            answer: Mutex::new(Box::new(answer)),
        });
        let actor = ProbeActor {
            shared: Arc::clone(&shared),
        };
        Probe {
            addr: actor.start(),
            shared,
        }
    }

    /// From now on it answers so.
    pub fn answer_with(&self, answer: impl FnMut(&M) -> M::Result + Send + 'static) {
        *self.shared.answer.lock() = Box::new(answer);
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> Addr<ProbeActor<M>> {
        self.addr.clone()
    }

    /// Itself as the recipient of `M`, to be put into the links of an actor under test.
    #[must_use]
    pub fn recipient(&self) -> Recipient<M> {
        self.addr.clone().recipient()
    }

    /// All messages so far, in order.
    #[must_use]
    pub fn received(&self) -> Vec<M> {
        self.shared.received.lock().clone()
    }

    /// Waits until at least `count` messages came, and returns all. Put a timeout around it, or let the world's limit
    /// strike.
    pub async fn await_received(&self, count: usize) -> Vec<M> {
        loop {
            let more = self.shared.more.notified();
            let mut more = std::pin::pin!(more);
            // Before looking, so that the last one cannot come in between unheard.
            more.as_mut().enable();
            let received = self.received();
            if received.len() >= count {
                return received;
            }
            more.await;
        }
    }
}

impl<M> Clone for Probe<M>
where
    M: Message + Clone + Send + Unpin + 'static,
    M::Result: Send + 'static,
{
    fn clone(&self) -> Probe<M> {
        Probe {
            addr: self.addr.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<M> fmt::Debug for Probe<M>
where
    M: Message + Clone + Send + Unpin + 'static,
    M::Result: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("received", &self.shared.received.lock().len())
            .finish_non_exhaustive()
    }
}

impl<M: Message> fmt::Debug for ProbeActor<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeActor")
    }
}

impl<M: Message + Unpin + 'static> Actor for ProbeActor<M> {
    type Context = Context<Self>;
}

impl<M> Handler<M> for ProbeActor<M>
where
    M: Message + Clone + Unpin + 'static,
{
    type Result = MessageResult<M>;

    fn handle(&mut self, message: M, _: &mut Context<Self>) -> MessageResult<M> {
        self.shared.received.lock().push(message.clone());
        self.shared.more.notify_waiters();
        let answer = (self.shared.answer.lock())(&message);
        MessageResult(answer)
    }
}
