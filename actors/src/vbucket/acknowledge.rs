//! Writes that are answered as they ask: in memory, or on disk. What both doors call for a client.
//!
//! Invariant: the write is done when the call returns; the future only waits for its answer, so dropping it takes back
//! nothing and half-applies nothing. A place to wait is taken before the write, so that a full queue refuses it whole.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::core::VbucketCore;
use super::waiters::{PersistPlace, Persisted};
use messages::OperationError;
use messages::vbucket::{Acknowledge, Mutated, Write, WriteBatch};

/// The answer of a write, as late as it asked for. An error of the wait (the vbucket went out of service, the bucket was
/// closed) means the write is in memory and may not be on disk.
#[derive(Debug)]
#[must_use = "nothing is known of a write that is not waited for"]
pub struct Acknowledged(Stage);

#[derive(Debug)]
enum Stage {
    Now(Result<Mutated, OperationError>),
    OnDisk(Mutated, Persisted),
}

impl Future for Acknowledged {
    type Output = Result<Mutated, OperationError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Stage::Now(answer) => Poll::Ready(answer.clone()),
            Stage::OnDisk(mutated, persisted) => {
                let mutated = *mutated;
                let answer = Pin::new(persisted).poll(context);
                answer.map(|answer| answer.map(|()| mutated))
            }
        }
    }
}

impl Acknowledged {
    /// Whether the answer is known already.
    #[must_use]
    pub fn is_known(&self) -> bool {
        matches!(self.0, Stage::Now(_))
    }

    /// The answer, if it is known already; else the future again.
    pub fn now(self) -> Result<Result<Mutated, OperationError>, Acknowledged> {
        match self.0 {
            Stage::Now(answer) => Ok(answer),
            stage @ Stage::OnDisk(..) => Err(Acknowledged(stage)),
        }
    }

    fn of(answer: Result<Mutated, OperationError>, place: Option<PersistPlace>) -> Acknowledged {
        Acknowledged(match (answer, place) {
            (Ok(mutated), Some(place)) => {
                Stage::OnDisk(mutated, place.wait_for(mutated.token.seqno))
            }
            (answer, _) => Stage::Now(answer),
        })
    }
}

impl VbucketCore {
    /// Writes at once, and answers as the write asks.
    pub fn write_acknowledged(&self, write: Write) -> Acknowledged {
        match self.place_for(&write) {
            Ok(place) => Acknowledged::of(self.write(write), place),
            Err(error) => Acknowledged(Stage::Now(Err(error))),
        }
    }

    /// Writes all of them at once under one lock, each for itself, and answers each as it asks, in order.
    pub fn write_batch_acknowledged(&self, batch: WriteBatch) -> Vec<Acknowledged> {
        let mut refused_or_placed = Vec::with_capacity(batch.writes.len());
        let mut writes = Vec::with_capacity(batch.writes.len());
        for write in batch.writes {
            let place = self.place_for(&write);
            if place.is_ok() {
                writes.push(write);
            }
            refused_or_placed.push(place);
        }
        let mut answers = self.write_batch(WriteBatch { writes }).into_iter();
        let mut acknowledge = |place: Result<Option<PersistPlace>, OperationError>| match place {
            // There is an answer for each write that was made.
            Ok(place) => answers.next().map(|answer| Acknowledged::of(answer, place)),
            Err(error) => Some(Acknowledged(Stage::Now(Err(error)))),
        };
        refused_or_placed
            .into_iter()
            .filter_map(&mut acknowledge)
            .collect()
    }

    fn place_for(&self, write: &Write) -> Result<Option<PersistPlace>, OperationError> {
        let acknowledge = match write {
            Write::Set(set) => set.options.acknowledge,
            Write::Add(add) => add.options.acknowledge,
            Write::Replace(replace) => replace.options.acknowledge,
            Write::Delete(delete) => delete.acknowledge,
            Write::Touch(touch) => touch.acknowledge,
        };
        match acknowledge {
            Acknowledge::InMemory => Ok(None),
            Acknowledge::Persisted => {
                // What the vbucket does not serve is not told that it waits for too much.
                self.admit_write()?;
                self.reserve_wait().map(Some)
            }
        }
    }
}
