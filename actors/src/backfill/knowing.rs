//! Operations that ask for what left a vbucket's memory: the document is read from the store, and the operation made again with
//! what was found. What both doors call for a client.
//!
//! Invariant: what was looked up is judged by the vbucket; while it may have changed it is looked up again, and each time
//! something newer was written, so that it comes to an end. What cannot be read is answered with the cause, never as absent.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::fetches::Answer;
use super::manager::Backfills;
use crate::vbucket::{Acknowledged, LookedUp, VbucketCore};
use messages::scan::{ScanConsistency, ScanError, ScanRange, ScanRequest};
use messages::vbucket::{
    Found, GetAndLock, GetAndTouch, GetRandom, Meta, Mutated, Observe, Observed, Picked, Unlock,
    Write, WriteBatch,
};
use messages::{Busy, DownCause, Durability, FailureCause, OperationError};
use storage::{Advice, DocumentKey, Seqno};

const NOT_IN_MEMORY: OperationError = OperationError::TemporaryFailure(Busy::NotInMemory);

/// Keys of which one is picked where memory has no document of a collection.
const PICKED_OF: u64 = 64;

/// A read that was begun: its document is in memory, or being read.
#[derive(Debug)]
#[must_use = "nothing is known of a read that is not waited for"]
pub enum Getting {
    /// It is answered.
    Done(Result<Found, OperationError>),
    /// The store was asked.
    Asked(Box<Asked>),
}

/// A document the store was asked for.
#[derive(Debug)]
pub struct Asked {
    all: Backfills,
    core: Arc<VbucketCore>,
    key: DocumentKey,
    line: oneshot::Receiver<Answer>,
    /// Up to here the store must have been read.
    least: Seqno,
}

impl Asked {
    async fn looked_up(self) -> Result<LookedUp, OperationError> {
        let least = self.least;
        let looked_up = match self.line.await {
            Ok(answer) => answer.map_err(refused)?.take().ok_or(NOT_IN_MEMORY)?,
            // Whoever had it in hand panicked.
            Err(_) => return Err(NOT_IN_MEMORY),
        };
        // It was opened anew, and has less than it had said: the vbucket is about to go out of service.
        if looked_up.up_to < least {
            return Err(NOT_IN_MEMORY);
        }
        if self.core.restore(&looked_up) {
            self.all.shared().note_restored(&self.core);
        }
        Ok(looked_up)
    }
}

impl Getting {
    /// The answer.
    pub async fn found(self) -> Result<Found, OperationError> {
        let asked = match self {
            Getting::Done(answer) => return answer,
            Getting::Asked(asked) => asked,
        };
        let (all, core, key) = (
            asked.all.clone(),
            Arc::clone(&asked.core),
            asked.key.clone(),
        );
        let looked_up = asked.looked_up().await?;
        match core.get_knowing(&key, Some(&looked_up)) {
            Err(NOT_IN_MEMORY) => all.get(&core, &key).await,
            answer => answer,
        }
    }
}

impl Backfills {
    /// Reads a document.
    pub async fn get(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
    ) -> Result<Found, OperationError> {
        let get = |looked_up: Option<&LookedUp>| core.get_knowing(key, looked_up);
        self.knowing(core, key, get).await
    }

    /// The same, for whoever reads several: the store is asked when this returns.
    pub fn begin_get(&self, core: &Arc<VbucketCore>, key: &DocumentKey) -> Getting {
        match core.get(key) {
            Err(NOT_IN_MEMORY) => match self.ask(core, key) {
                Ok(asked) => Getting::Asked(Box::new(asked)),
                Err(error) => Getting::Done(Err(error)),
            },
            answer => Getting::Done(answer),
        }
    }

    /// Whether there is such a document.
    pub async fn exists(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
    ) -> Result<bool, OperationError> {
        let exists = |looked_up: Option<&LookedUp>| core.exists_knowing(key, looked_up);
        self.knowing(core, key, exists).await
    }

    /// Reads metadata; shows every tombstone there is.
    pub async fn get_meta(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
    ) -> Result<Meta, OperationError> {
        let mut looked_up = None;
        loop {
            let answer = core.get_meta_knowing(key, looked_up.as_ref());
            let must_look = match &answer {
                Err(OperationError::KeyNotFound) => looked_up.is_none() && core.has_forgotten(),
                answer => *answer == Err(NOT_IN_MEMORY),
            };
            if !must_look {
                return answer;
            }
            looked_up = Some(self.look_up(core, key).await?);
        }
    }

    /// How far the newest version of a document is.
    pub async fn observe(
        &self,
        core: &Arc<VbucketCore>,
        request: &Observe,
    ) -> Result<Observed, OperationError> {
        let observe = |looked_up: Option<&LookedUp>| core.observe_knowing(request, looked_up);
        self.knowing(core, &request.key, observe).await
    }

    /// Reads any live document of a collection.
    pub async fn get_random(
        &self,
        core: &Arc<VbucketCore>,
        request: &GetRandom,
    ) -> Result<Picked, OperationError> {
        let picked = core.get_random(request);
        if picked != Err(OperationError::KeyNotFound) || !core.lacks_documents() {
            return picked;
        }
        // None of it is in memory: one of the first there are.
        let mut scan = self
            .scan(
                core,
                &ScanRequest {
                    with_values: false,
                    limit: Some(PICKED_OF),
                    consistency: ScanConsistency::OnDisk,
                    ..ScanRequest::of(request.collection, ScanRange::all())
                },
            )
            .map_err(refused)?;
        let mut picked = None;
        let mut seen: u64 = 0;
        while let Some(scanned) = scan.next().await.map_err(refused)? {
            seen = seen.saturating_add(1);
            if core.random().is_multiple_of(seen) {
                picked = Some(scanned.key);
            }
        }
        let key = picked.ok_or(OperationError::KeyNotFound)?;
        let found = self.get(core, &key).await?;
        Ok(Picked { key, found })
    }

    /// Gives a document another expiry, and reads it.
    pub async fn get_and_touch(
        &self,
        core: &Arc<VbucketCore>,
        request: &GetAndTouch,
    ) -> Result<Found, OperationError> {
        let touch =
            |looked_up: Option<&LookedUp>| core.get_and_touch_knowing(request, looked_up.cloned());
        self.knowing(core, &request.key, touch).await
    }

    /// Reads a document and locks it.
    pub async fn get_and_lock(
        &self,
        core: &Arc<VbucketCore>,
        request: &GetAndLock,
    ) -> Result<Found, OperationError> {
        let lock = |looked_up: Option<&LookedUp>| core.get_and_lock_knowing(request, looked_up);
        self.knowing(core, &request.key, lock).await
    }

    /// Takes a lock back.
    pub async fn unlock(
        &self,
        core: &Arc<VbucketCore>,
        request: &Unlock,
    ) -> Result<(), OperationError> {
        let unlock = |looked_up: Option<&LookedUp>| core.unlock_knowing(request, looked_up);
        self.knowing(core, &request.key, unlock).await
    }

    /// Writes, and answers as the write asks.
    pub async fn write(
        &self,
        core: &Arc<VbucketCore>,
        write: Write,
    ) -> Result<Mutated, OperationError> {
        let key = write.key().clone();
        let once = |looked_up| core.write_knowing(write.clone(), looked_up);
        self.written(core, &key, once).await
    }

    /// Writes durably: as strongly as this asks, and the write.
    pub async fn write_durably(
        &self,
        core: &Arc<VbucketCore>,
        write: Write,
        durability: Durability,
    ) -> Result<Mutated, OperationError> {
        let key = write.key().clone();
        let once = |looked_up| core.write_durably_as_asked(write.clone(), durability, looked_up);
        self.written(core, &key, once).await
    }

    async fn written(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        write: impl Fn(Option<LookedUp>) -> Acknowledged,
    ) -> Result<Mutated, OperationError> {
        let mut looked_up = None;
        loop {
            let begun = write(looked_up);
            if !begun.is_not_in_memory() {
                return begun.await;
            }
            looked_up = Some(self.look_up(core, key).await?);
        }
    }

    /// Writes all of them at once, but for those that ask for what is not in memory: they follow. Answered in order.
    pub fn write_batch(
        &self,
        core: &Arc<VbucketCore>,
        batch: WriteBatch,
    ) -> impl Future<Output = Vec<Result<Mutated, OperationError>>> + Send + use<> {
        let keep = |write: &Write| (!write.is_blind()).then(|| write.clone());
        let kept: Vec<_> = batch.writes.iter().map(keep).collect();
        let begun = core.write_batch_acknowledged(batch);
        let (all, core) = (self.clone(), Arc::clone(core));
        async move {
            let mut answers = Vec::with_capacity(begun.len());
            for (acknowledged, kept) in begun.into_iter().zip(kept) {
                let is_undone = acknowledged.is_not_in_memory();
                answers.push(match kept.filter(|_| is_undone) {
                    Some(write) => all.write(&core, write).await,
                    None => acknowledged.await,
                });
            }
            answers
        }
    }

    /// Does it with what is in memory, or else with what the store holds.
    async fn knowing<R>(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        operation: impl Fn(Option<&LookedUp>) -> Result<R, OperationError>,
    ) -> Result<R, OperationError> {
        let mut answer = operation(None);
        while matches!(answer, Err(NOT_IN_MEMORY)) {
            let looked_up = self.look_up(core, key).await?;
            answer = operation(Some(&looked_up));
        }
        answer
    }

    /// What the store holds of a key that is not in memory, tombstones too; a live document is put back there if it can be.
    async fn look_up(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
    ) -> Result<LookedUp, OperationError> {
        self.ask(core, key)?.looked_up().await
    }

    fn ask(&self, core: &Arc<VbucketCore>, key: &DocumentKey) -> Result<Asked, OperationError> {
        let least = core.forgotten_up_to();
        let line = self.shared().ask(core, key)?;
        Ok(Asked {
            all: self.clone(),
            core: Arc::clone(core),
            key: key.clone(),
            line,
            least,
        })
    }
}

/// What is answered in the place of what could not be read.
fn refused(error: ScanError) -> OperationError {
    if let ScanError::Operation(error) = error {
        return error;
    }
    if let ScanError::Unread { vbucket, cause } = error
        && let FailureCause::Storage(cause) = cause
        && !matches!(cause.advice(), Advice::RetryLater | Advice::Reopen)
    {
        let cause = DownCause::Storage(Arc::new(cause));
        return OperationError::VbucketDown { vbucket, cause };
    }
    NOT_IN_MEMORY
}
