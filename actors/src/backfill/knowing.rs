//! Operations that ask for what left a vbucket's memory: the document is read from the store, and the operation made again with
//! what was found. What both doors call for a client.
//!
//! Invariant: what was looked up is judged by the vbucket; while it may have changed it is looked up again, and each time
//! something newer was written, so that it comes to an end. What cannot be read is answered with the cause, never as absent.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::begun::{Answered, Asked, Begun, Writing};
use super::fetches::Answer;
use super::manager::{Backfills, Hurry, Told};
use super::turns::{Turn, Turns};
use crate::vbucket::{LookedUp, NOT_IN_MEMORY, VbucketCore};
use messages::scan::{ScanConsistency, ScanError, ScanRange, ScanRequest};
use messages::vbucket::{
    Found, GetAndLock, GetAndTouch, GetRandom, Meta, Observe, Observed, Picked, Unlock, Write,
    WriteBatch,
};
use messages::{DownCause, FailureCause, OperationError};
use storage::{Advice, CollectionId, DocumentKey, Seqno};

/// How often a document that was picked may be gone when it is read.
const PICKS: u32 = 8;

/// Keys of which one is picked where memory has no document of a collection.
const PICKED_OF: u64 = 64;

/// A document the store was asked for.
#[derive(Debug)]
struct Line {
    of: oneshot::Receiver<Answer>,
    least: Least,
}

/// What a store that was not opened anew must have.
#[derive(Clone, Copy, Debug)]
struct Least {
    /// Up to here it must have been read.
    up_to: Seqno,
    /// This version of the document, or a newer one.
    stub: Option<Seqno>,
}

/// What became of asking the store.
#[derive(Debug)]
enum Asking {
    /// It said this.
    Told(LookedUp),
    /// A reader was asked.
    Waits(Line),
}

impl Backfills {
    /// Reads a document.
    pub fn get(&self, core: &Arc<VbucketCore>, key: &DocumentKey) -> Begun<Found> {
        let of = key.clone();
        self.reading(core, key, move |core, looked_up| {
            core.get_knowing(&of, looked_up)
        })
    }

    /// Whether there is such a document.
    pub fn exists(&self, core: &Arc<VbucketCore>, key: &DocumentKey) -> Begun<bool> {
        let of = key.clone();
        self.reading(core, key, move |core, looked_up| {
            core.exists_knowing(&of, looked_up)
        })
    }

    /// Reads metadata; shows every tombstone there is.
    pub fn get_meta(&self, core: &Arc<VbucketCore>, key: &DocumentKey) -> Begun<Meta> {
        let of = key.clone();
        self.reading(core, key, move |core, looked_up| {
            match core.get_meta_knowing(&of, looked_up) {
                // Its tombstone may have left memory.
                Err(OperationError::KeyNotFound) if looked_up.is_none() && core.has_forgotten() => {
                    Err(NOT_IN_MEMORY)
                }
                answer => answer,
            }
        })
    }

    /// How far the newest version of a document is.
    pub fn observe(&self, core: &Arc<VbucketCore>, request: Observe) -> Begun<Observed> {
        let key = request.key.clone();
        self.reading(core, &key, move |core, looked_up| {
            core.observe_knowing(&request, looked_up)
        })
    }

    /// Reads any live document of a collection.
    pub async fn get_random(
        &self,
        core: &Arc<VbucketCore>,
        request: &GetRandom,
    ) -> Result<Picked, OperationError> {
        let mut picked = core.get_random(request);
        for _ in 0..PICKS {
            if picked != Err(NOT_IN_MEMORY) {
                break;
            }
            // One whose value is not in memory, or was the last that was.
            picked = match core.pick(request) {
                Ok(key) => match self.get(core, &key).done().await {
                    // It is gone by now.
                    Err(OperationError::KeyNotFound) => continue,
                    found => return Ok(Picked { key, found: found? }),
                },
                Err(error) => Err(error),
            };
        }
        if picked != Err(OperationError::KeyNotFound) || !core.lacks_documents() {
            return picked;
        }
        // None of it is in memory: one of the first there are on disk, and still are.
        let mut range = ScanRange::all();
        loop {
            let mut keys = self.some_keys(core, request.collection, range).await?;
            let last = keys.last().ok_or(OperationError::KeyNotFound)?;
            range = ScanRange {
                start: Bound::Excluded(last.key().to_vec()),
                ..ScanRange::all()
            };
            let first = core.random().checked_rem(keys.len() as u64).unwrap_or(0);
            keys.rotate_left(usize::try_from(first).unwrap_or(0));
            for key in keys {
                match self.get(core, &key).done().await {
                    Err(OperationError::KeyNotFound) => {}
                    found => return Ok(Picked { key, found: found? }),
                }
            }
        }
    }

    /// The first keys of a range that are on disk.
    async fn some_keys(
        &self,
        core: &Arc<VbucketCore>,
        collection: CollectionId,
        range: ScanRange,
    ) -> Result<Vec<DocumentKey>, OperationError> {
        let request = ScanRequest {
            with_values: false,
            limit: Some(PICKED_OF),
            consistency: ScanConsistency::OnDisk,
            ..ScanRequest::of(collection, range)
        };
        let mut scan = self.scan(core, &request).map_err(refused)?;
        let mut keys = Vec::new();
        while let Some(scanned) = scan.next().await.map_err(refused)? {
            keys.push(scanned.key);
        }
        Ok(keys)
    }

    /// Gives a document another expiry, and reads it.
    pub fn get_and_touch(
        &self,
        core: &Arc<VbucketCore>,
        request: GetAndTouch,
        order: Option<&Arc<Turns>>,
    ) -> Begun<Found> {
        let key = request.key.clone();
        self.changing(core, &key, order, move |core, looked_up| {
            core.get_and_touch_knowing(&request, looked_up.cloned())
        })
    }

    /// Reads a document and locks it.
    pub fn get_and_lock(
        &self,
        core: &Arc<VbucketCore>,
        request: GetAndLock,
        order: Option<&Arc<Turns>>,
    ) -> Begun<Found> {
        let key = request.key.clone();
        self.changing(core, &key, order, move |core, looked_up| {
            core.get_and_lock_knowing(&request, looked_up)
        })
    }

    /// Takes a lock back.
    pub fn unlock(
        &self,
        core: &Arc<VbucketCore>,
        request: Unlock,
        order: Option<&Arc<Turns>>,
    ) -> Begun<()> {
        let key = request.key.clone();
        self.changing(core, &key, order, move |core, looked_up| {
            core.unlock_knowing(&request, looked_up)
        })
    }

    /// Writes; if what is there must be known first, when that was looked up.
    pub fn write(
        &self,
        core: &Arc<VbucketCore>,
        write: Write,
        answered: Answered,
        order: Option<&Arc<Turns>>,
    ) -> Writing {
        if order.is_some_and(|order| order.has(write.key())) {
            return self.written(core, write, answered, order, IsTried::Not);
        }
        if write.is_blind() {
            return Writing::Begun(answered.begin(core, write, None));
        }
        let begun = answered.begin(core, write.clone(), None);
        if !begun.is_not_in_memory() {
            return Writing::Begun(begun);
        }
        self.written(core, write, answered, order, IsTried::InVain)
    }

    /// Writes all of them at once, but for those that must know what is not in memory, and those behind them of the same
    /// keys: they follow, in their order.
    pub fn write_batch(
        &self,
        core: &Arc<VbucketCore>,
        batch: WriteBatch,
        order: Option<&Arc<Turns>>,
    ) -> Vec<Writing> {
        let is_behind = |write: &Write| order.is_some_and(|order| order.has(write.key()));
        let is_any_behind = batch.writes.iter().any(is_behind);
        if !is_any_behind && batch.writes.iter().all(Write::is_blind) {
            let begun = core.write_batch_acknowledged(batch);
            return begun.into_iter().map(Writing::Begun).collect();
        }
        let all = batch.writes.clone();
        let are_behind: Vec<bool> = all.iter().map(is_behind).collect();
        let now = batch.writes.into_iter().zip(&are_behind);
        let now = now.filter(|(_, is_behind)| !**is_behind);
        let writes = now.map(|(write, _)| write).collect();
        let mut begun = core
            .write_batch_acknowledged(WriteBatch { writes })
            .into_iter();
        let own = Arc::default();
        let order = Some(order.unwrap_or(&own));
        let mut follow = |(write, is_behind): (Write, bool)| {
            let begun = if is_behind { None } else { begun.next() };
            match begun {
                Some(begun) if !begun.is_not_in_memory() => Writing::Begun(begun),
                // Not tried yet, or put off behind another one.
                _ if is_behind || write.is_blind() => {
                    self.written(core, write, Answered::AsAsked, order, IsTried::Not)
                }
                _ => self.written(core, write, Answered::AsAsked, order, IsTried::InVain),
            }
        };
        all.into_iter().zip(are_behind).map(&mut follow).collect()
    }

    fn written(
        &self,
        core: &Arc<VbucketCore>,
        write: Write,
        answered: Answered,
        order: Option<&Arc<Turns>>,
        is_tried: IsTried,
    ) -> Writing {
        let (key, bytes) = (write.key().clone(), write.value_bytes());
        let once = move |core: &VbucketCore, looked_up: Option<&LookedUp>| {
            let begun = answered.begin(core, write.clone(), looked_up);
            if begun.is_not_in_memory() {
                Err(NOT_IN_MEMORY)
            } else {
                Ok(begun)
            }
        };
        match self.in_turn(core, &key, (order, is_tried, bytes), once) {
            Begun::Done(Ok(begun)) => Writing::Begun(begun),
            Begun::Done(Err(error)) => Writing::Asked(Asked::of(async { Err(error) })),
            Begun::Asked(asked) => Writing::Asked(Asked::of(async { asked.await?.await })),
        }
    }

    /// Does it with what is in memory, or else with what the store holds, which is asked when this returns.
    fn reading<R: Send + 'static>(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        operation: impl Fn(&VbucketCore, Option<&LookedUp>) -> Result<R, OperationError>
        + Send
        + 'static,
    ) -> Begun<R> {
        match operation(core, None) {
            Err(NOT_IN_MEMORY) => self.in_turn(core, key, (None, IsTried::InVain, 0), operation),
            answer => Begun::Done(answer),
        }
    }

    /// The same for what changes something: behind those of its key that came before in this order.
    fn changing<R: Send + 'static>(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        order: Option<&Arc<Turns>>,
        operation: impl Fn(&VbucketCore, Option<&LookedUp>) -> Result<R, OperationError>
        + Send
        + 'static,
    ) -> Begun<R> {
        if order.is_some_and(|order| order.has(key)) {
            return self.in_turn(core, key, (order, IsTried::Not, 0), operation);
        }
        match operation(core, None) {
            Err(NOT_IN_MEMORY) => self.in_turn(core, key, (order, IsTried::InVain, 0), operation),
            answer => Begun::Done(answer),
        }
    }

    /// Does it when its turn has come, with what the store holds if that must be known. So many bytes are kept as long as it
    /// waits.
    fn in_turn<R: Send + 'static>(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        (order, is_tried, bytes): (Option<&Arc<Turns>>, IsTried, u64),
        operation: impl Fn(&VbucketCore, Option<&LookedUp>) -> Result<R, OperationError>
        + Send
        + 'static,
    ) -> Begun<R> {
        let turn = match order.map(|order| order.take(key)).transpose() {
            Ok(turn) => turn,
            Err(error) => return Begun::Done(Err(error)),
        };
        let is_first = turn.as_ref().is_none_or(Turn::is_first);
        // Those who wait for each other do not wait for a missing store one after the other.
        let since = self.shared().now();
        let mut hurry = Hurry::AtOnce;
        let line = match (is_first, is_tried) {
            (true, IsTried::InVain) => match self.ask(core, key, (since, hurry)) {
                Ok(Asking::Told(looked_up)) => match operation(core, Some(&looked_up)) {
                    Err(NOT_IN_MEMORY) => {
                        hurry = Hurry::No;
                        None
                    }
                    answer => return Begun::Done(answer),
                },
                Ok(Asking::Waits(line)) => Some(line),
                Err(error) => return Begun::Done(Err(error)),
            },
            _ => None,
        };
        let waits = match self.shared().waiting_bytes.take(bytes) {
            Ok(waits) => waits,
            Err(error) => return Begun::Done(Err(error)),
        };
        let (all, core, key) = (self.clone(), Arc::clone(core), key.clone());
        Begun::Asked(Asked::of(async move {
            let (mut turn, _waits) = (turn, waits);
            if let Some(turn) = &mut turn {
                turn.come().await;
            }
            let mut looked_up = match line {
                Some(line) => Some(all.looked_up(&core, line).await?),
                None => None,
            };
            loop {
                match operation(&core, looked_up.as_ref()) {
                    Err(NOT_IN_MEMORY) => {
                        looked_up = Some(all.look_up(&core, &key, (since, hurry)).await?);
                        // Whoever asks again and again lets others do something between.
                        hurry = Hurry::No;
                    }
                    answer => return answer,
                }
            }
        }))
    }

    /// What the store holds of a key that is not in memory, tombstones too; a live document is put back there if it can be.
    async fn look_up(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        how: (Duration, Hurry),
    ) -> Result<LookedUp, OperationError> {
        match self.ask(core, key, how)? {
            Asking::Told(looked_up) => Ok(looked_up),
            Asking::Waits(line) => self.looked_up(core, line).await,
        }
    }

    async fn looked_up(
        &self,
        core: &Arc<VbucketCore>,
        line: Line,
    ) -> Result<LookedUp, OperationError> {
        let looked_up = match line.of.await {
            Ok(answer) => answer.map_err(refused)?.take().ok_or(NOT_IN_MEMORY)?,
            // Whoever had it in hand panicked.
            Err(_) => return Err(NOT_IN_MEMORY),
        };
        self.found(core, looked_up, line.least)
    }

    /// What was looked up, if it is from where what left memory went to; put back there if it can be.
    fn found(
        &self,
        core: &VbucketCore,
        looked_up: LookedUp,
        least: Least,
    ) -> Result<LookedUp, OperationError> {
        // It was opened anew, and has less than it had said: the vbucket is about to go out of service.
        let newest = looked_up.newest.as_ref().map(|newest| newest.seqno);
        if looked_up.up_to < least.up_to || newest < least.stub {
            return Err(NOT_IN_MEMORY);
        }
        if core.restore(&looked_up) {
            self.shared().note_restored(core);
        }
        Ok(looked_up)
    }

    /// Asks for whoever waits since then.
    fn ask(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        how: (Duration, Hurry),
    ) -> Result<Asking, OperationError> {
        let least = Least {
            up_to: core.forgotten_up_to(),
            stub: core.stub_seqno(key),
        };
        match self.shared().ask(core, key, how)? {
            Told::Now(looked_up) => self.found(core, looked_up, least).map(Asking::Told),
            Told::Later(of) => Ok(Asking::Waits(Line { of, least })),
        }
    }
}

/// Whether an operation was begun once, and was not done because its document is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsTried {
    InVain,
    Not,
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
