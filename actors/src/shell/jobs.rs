//! What one life of a core has under way: answers to come, timers, spawned futures.
//!
//! Invariant: a panic in a poll or a drop of any of them ends here. All belong to one generation: they are dropped
//! with the core, and none can reach the next one. Only those that were woken are polled.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream};

use super::answer::ShellFault;
use super::contract::{Core, Later, Then};
use crate::guardian::Entry;
use crate::panics::{Payload, quietly};

/// Tells whoever waits that there will be no answer.
pub(super) type OnFault = Box<dyn FnOnce(&ShellFault)>;

/// Something under way.
pub(super) struct Job<C: Core> {
    entry: Entry,
    future: Option<Later<C, ()>>,
    on_fault: Option<OnFault>,
}

/// Something that has come to its end.
pub(super) struct Ended<C: Core> {
    pub(super) entry: Entry,
    pub(super) outcome: Result<Then<C, ()>, Payload>,
    pub(super) on_fault: Option<OnFault>,
}

impl<C: Core> Future for Job<C> {
    type Output = Ended<C>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended<C>> {
        let Some(future) = self.future.as_mut() else {
            return Poll::Pending;
        };
        let outcome = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(then)) => Ok(then),
            Err(payload) => Err(payload),
        };
        let future = self.future.take();
        quietly(|| drop(future));
        Poll::Ready(Ended {
            entry: self.entry,
            outcome,
            on_fault: self.on_fault.take(),
        })
    }
}

impl<C: Core> Drop for Job<C> {
    fn drop(&mut self) {
        let (future, on_fault) = (self.future.take(), self.on_fault.take());
        quietly(|| drop(future));
        quietly(|| drop(on_fault));
    }
}

/// All that is under way.
pub(super) struct Jobs<C: Core> {
    under_way: FuturesUnordered<Job<C>>,
}

impl<C: Core> Jobs<C> {
    pub(super) fn new() -> Jobs<C> {
        Jobs {
            under_way: FuturesUnordered::new(),
        }
    }

    pub(super) fn push(&mut self, entry: Entry, future: Later<C, ()>, on_fault: Option<OnFault>) {
        self.under_way.push(Job {
            entry,
            future: Some(future),
            on_fault,
        });
    }

    /// The next one that ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ended<C>>> {
        Pin::new(&mut self.under_way).poll_next(cx)
    }

    /// Drops everything; whoever waits is told of the fault.
    pub(super) fn clear(&mut self, fault: &ShellFault) {
        let mut dropped = std::mem::take(&mut self.under_way);
        for job in &mut dropped {
            if let Some(on_fault) = job.on_fault.take() {
                quietly(|| on_fault(fault));
            }
        }
    }
}
