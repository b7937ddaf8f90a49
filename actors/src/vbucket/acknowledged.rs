//! Writes as both doors do them: applied at once, answered when their acknowledgement says.
//!
//! Invariant: a place among those who wait for the disk is taken before the write is applied, so a write that is refused
//! for want of one was not applied.

use messages::OperationError;
use messages::vbucket::{Acknowledge, Mutated, Write, WriteBatch};

use super::core::VbucketCore;
use super::waiters::{PersistPlace, Persisted};

/// A write that was applied, and its way to the disk if somebody waits for that.
#[derive(Debug)]
#[must_use = "whoever asked waits for the disk"]
pub struct Begun {
    /// The answer, once nothing is left to wait for.
    pub mutated: Mutated,
    /// Done when the write is on disk; `None` when memory is enough.
    pub persisted: Option<Persisted>,
}

impl Begun {
    /// Waits for what is left.
    pub async fn finished(self) -> Result<Mutated, OperationError> {
        if let Some(persisted) = self.persisted {
            persisted.await?;
        }
        Ok(self.mutated)
    }
}

impl VbucketCore {
    /// Applies a write and begins its wait.
    pub fn begin_write(&self, write: Write) -> Result<Begun, OperationError> {
        let place = self.place_for(write.acknowledge())?;
        let mutated = self.write(write)?;
        Ok(begun(mutated, place))
    }

    /// Applies many writes under one lock and begins their waits, in order.
    pub fn begin_batch(&self, batch: WriteBatch) -> Vec<Result<Begun, OperationError>> {
        let mut answers = Vec::with_capacity(batch.writes.len());
        let mut admitted = Vec::with_capacity(batch.writes.len());
        for write in batch.writes {
            match self.place_for(write.acknowledge()) {
                Ok(place) => {
                    admitted.push(write);
                    answers.push(Ok(place));
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        let mut done = self
            .write_batch(WriteBatch { writes: admitted })
            .into_iter();
        let mut settle = |place: Result<Option<PersistPlace>, OperationError>| {
            let place = place?;
            // One answer for each write that was admitted.
            let mutated = done.next().unwrap_or(Err(OperationError::Closed))?;
            Ok(begun(mutated, place))
        };
        answers.into_iter().map(&mut settle).collect()
    }

    fn place_for(&self, acknowledge: Acknowledge) -> Result<Option<PersistPlace>, OperationError> {
        match acknowledge {
            Acknowledge::InMemory => Ok(None),
            Acknowledge::Persisted => self.reserve_wait().map(Some),
        }
    }
}

fn begun(mutated: Mutated, place: Option<PersistPlace>) -> Begun {
    let persisted = place.map(|place| place.wait_for(mutated.token.seqno));
    Begun { mutated, persisted }
}
