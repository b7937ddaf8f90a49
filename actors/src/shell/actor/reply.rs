//! How a shell answers: at once, when a future ends, when a core that stood still moves again, or with the fault.
//!
//! Invariant: a caller gets one answer. The slot in which its sender lies is emptied by whoever answers first; a sender
//! that is dropped with its slot ends the caller's `send` with a mailbox error.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{AsyncContext, Context, Handler, Message};

use super::waiting::HeldUp;
use super::{Phase, Shell, Stashed};
use crate::guardian::Entry;
use crate::hooks::Delivery;
use crate::panics::{planted, quietly};
use crate::shell::answer::{Answer, ShellFault};
use crate::shell::contract::{Core, Later, On, Reply, Then};

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
                actix.wait(HeldUp::new(time, serve));
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
            let then: Then<C, ()> = Box::new(move |core, ctx| send(&kept, then(core, ctx)));
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
