//! Operations that were begun, and what their answers wait for: nothing, the store, the disk, a majority.
//!
//! Invariant: what could be done without the store is done when these are made. They are made by `knowing`, and waited for by
//! both doors.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::join_all;

use crate::vbucket::{Acknowledged, LookedUp, VbucketCore};
use messages::vbucket::{Mutated, Write};
use messages::{Durability, OperationError};

/// An operation that was begun: it is answered, or waits for the store.
#[derive(Debug)]
#[must_use = "what waits for the store is done only when it is waited for"]
pub enum Begun<R> {
    /// It is answered.
    Done(Result<R, OperationError>),
    /// The store was asked, or is to be asked behind others.
    Asked(Asked<R>),
}

/// The answer of an operation that waits for the store.
#[must_use = "what waits for the store is done only when it is waited for"]
pub struct Asked<R>(Pin<Box<dyn Future<Output = Result<R, OperationError>> + Send>>);

/// A write that was begun.
#[derive(Debug)]
#[must_use = "nothing is known of a write that is not waited for"]
pub enum Writing {
    /// It was done, or refused.
    Begun(Acknowledged),
    /// It waits for the store.
    Asked(Asked<Mutated>),
}

/// What the answer of a write waits for.
#[derive(Clone, Copy, Debug)]
pub enum Answered {
    /// What the write asks for, or the bucket of all.
    AsAsked,
    /// At least this.
    Durably(Durability),
}

impl<R> Asked<R> {
    pub(super) fn of(
        future: impl Future<Output = Result<R, OperationError>> + Send + 'static,
    ) -> Asked<R> {
        Asked(Box::pin(future))
    }
}

impl<R> Future for Asked<R> {
    type Output = Result<R, OperationError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl<R> fmt::Debug for Asked<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

impl<R> Begun<R> {
    /// The answers of them all, in their order.
    pub async fn all_done(all: Vec<Begun<R>>) -> Vec<Result<R, OperationError>> {
        let mut answers = Vec::with_capacity(all.len());
        for begun in all {
            answers.push(begun.done().await);
        }
        answers
    }

    /// The answer.
    pub async fn done(self) -> Result<R, OperationError> {
        match self {
            Begun::Done(answer) => answer,
            Begun::Asked(asked) => asked.await,
        }
    }
}

impl Writing {
    /// The answer.
    pub async fn done(self) -> Result<Mutated, OperationError> {
        match self {
            Writing::Begun(begun) => begun.await,
            Writing::Asked(asked) => asked.await,
        }
    }

    /// The answers of them all, in their order. Those that wait for the store do so at the same time.
    pub async fn all_done(all: Vec<Writing>) -> Vec<Result<Mutated, OperationError>> {
        if all
            .iter()
            .any(|writing| matches!(writing, Writing::Asked(_)))
        {
            return join_all(all.into_iter().map(Writing::done)).await;
        }
        let mut answers = Vec::with_capacity(all.len());
        for writing in all {
            answers.push(writing.done().await);
        }
        answers
    }
}

impl Answered {
    /// Does the write, if what must be known for it is in memory or looked up.
    pub(crate) fn begin(
        self,
        core: &VbucketCore,
        write: Write,
        looked_up: Option<&LookedUp>,
    ) -> Acknowledged {
        let looked_up = looked_up.cloned();
        match self {
            Answered::AsAsked => core.write_knowing(write, looked_up),
            Answered::Durably(durability) => {
                core.write_durably_as_asked(write, durability, looked_up)
            }
        }
    }
}
