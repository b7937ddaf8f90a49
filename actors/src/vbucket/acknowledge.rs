//! Writes that are answered as they ask, and as the bucket asks of all: in memory, on disk, or once a majority holds them.
//! What both doors call for a client.
//!
//! Invariant: the write is done when the call returns; the future only waits for its answer, so dropping it takes back
//! nothing and half-applies nothing. A place to wait is taken before the write, so that a full queue refuses it whole.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::core::VbucketCore;
use super::durable::DurableWait;
use super::lookup::{LookedUp, NOT_IN_MEMORY, PutOff};
use super::waiters::{PersistPlace, Persisted};
use crate::sync::atomic::Ordering;
use messages::vbucket::{Acknowledge, Mutated, Write, WriteBatch};
use messages::{Durability, OperationError};
use storage::DurabilityLevel;

/// The answer of a write, as late as it asked for. An error of the wait (the vbucket went out of service, the bucket was
/// closed) means the write is in memory and may not be on disk.
#[derive(Debug)]
#[must_use = "nothing is known of a write that is not waited for"]
pub struct Acknowledged(Stage);

#[derive(Debug)]
enum Stage {
    Now(Result<Mutated, OperationError>),
    OnDisk(Mutated, Persisted),
    Durable(DurableWait),
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
            Stage::Durable(waits) => Pin::new(waits).poll(context),
        }
    }
}

impl Acknowledged {
    /// Whether the answer is known already.
    #[must_use]
    pub fn is_known(&self) -> bool {
        matches!(self.0, Stage::Now(_))
    }

    /// Whether nothing was done, because what the store holds must be looked up first.
    #[must_use]
    pub fn is_not_in_memory(&self) -> bool {
        matches!(&self.0, Stage::Now(Err(NOT_IN_MEMORY)))
    }

    /// The answer, if it is known already; else the future again.
    pub fn now(self) -> Result<Result<Mutated, OperationError>, Acknowledged> {
        match self.0 {
            Stage::Now(answer) => Ok(answer),
            stage @ (Stage::OnDisk(..) | Stage::Durable(_)) => Err(Acknowledged(stage)),
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
    /// From now on every write waits for this at least, but for those that cannot be durable.
    pub fn set_durability_level_min(&self, level: Option<DurabilityLevel>) {
        let byte = level.map_or(0, |level| level as u8);
        self.durability_level_min.store(byte, Ordering::Release);
    }

    fn durability_level_min(&self) -> Option<DurabilityLevel> {
        DurabilityLevel::from_byte(self.durability_level_min.load(Ordering::Acquire))
    }

    /// What a write that asks for nothing is made to wait for.
    #[must_use]
    pub fn level_wanted(&self, write: &Write) -> Option<DurabilityLevel> {
        let level = self.durability_level_min();
        level.filter(|_| write.can_be_durable())
    }

    /// Writes durably: as strongly as this asks, and the write, and the bucket of all.
    pub fn write_durably_acknowledged(&self, write: Write, durability: Durability) -> Acknowledged {
        self.write_durably_as_asked(write, durability, None)
    }

    /// The same, with what the store holds of the key, if somebody looked.
    pub fn write_durably_as_asked(
        &self,
        write: Write,
        durability: Durability,
        looked_up: Option<LookedUp>,
    ) -> Acknowledged {
        let asked = Some(durability.level);
        let on_disk = match write.acknowledge() {
            Acknowledge::InMemory => None,
            Acknowledge::Persisted => Some(DurabilityLevel::MajorityAndPersistOnActive),
        };
        let strongest = asked.max(on_disk).max(self.durability_level_min());
        let durability = Durability {
            level: strongest.unwrap_or(durability.level),
            ..durability
        };
        Acknowledged(
            match self.write_durably_knowing(write, durability, looked_up) {
                Ok(waits) => Stage::Durable(waits),
                Err(error) => Stage::Now(Err(error)),
            },
        )
    }

    /// Writes at once, and answers as the write asks.
    pub fn write_acknowledged(&self, write: Write) -> Acknowledged {
        self.write_knowing(write, None)
    }

    /// The same, with what the store holds of the key, if somebody looked: for writes that were answered
    /// [`Busy::NotInMemory`](messages::Busy::NotInMemory).
    pub fn write_knowing(&self, write: Write, looked_up: Option<LookedUp>) -> Acknowledged {
        if let Some(level) = self.level_wanted(&write) {
            return self.write_durably_as_asked(write, Durability::of(level), looked_up);
        }
        match self.place_for(&write) {
            Ok(place) => {
                let changed = self.change(write, looked_up);
                Acknowledged::of(changed.map(|changed| changed.mutated), place)
            }
            Err(error) => Acknowledged(Stage::Now(Err(error))),
        }
    }

    /// Writes all of them at once under one lock, each for itself, and answers each as it asks, in order.
    pub fn write_batch_acknowledged(&self, batch: WriteBatch) -> Vec<Acknowledged> {
        if self.durability_level_min().is_some() {
            let mut put_off = PutOff::default();
            let mut write_one = |write: Write| {
                if put_off.has(write.key()) {
                    return Acknowledged(Stage::Now(Err(NOT_IN_MEMORY)));
                }
                let asking = (!write.is_blind()).then(|| write.key().clone());
                let begun = self.write_acknowledged(write);
                if begun.is_not_in_memory()
                    && let Some(key) = asking
                {
                    put_off.note(key);
                }
                begun
            };
            return batch.writes.into_iter().map(&mut write_one).collect();
        }
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
        match write.acknowledge() {
            Acknowledge::InMemory => Ok(None),
            Acknowledge::Persisted => {
                // What the vbucket does not serve is not told that it waits for too much.
                self.admit_write()?;
                self.reserve_wait().map(Some)
            }
        }
    }
}
