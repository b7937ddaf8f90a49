//! Operations that ask for what left a vbucket's memory: the document is read from the store, and the operation made again with
//! what was found. What both doors call for a client.
//!
//! Invariant: an operation is tried with what is in memory first, and is done there if it can be; how the rest is come by is
//! `asking`'s.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::asking::{Change, IsTried, refused};
use super::begun::{Answered, Asked, Begun, Writing};
use super::manager::Backfills;
use super::turns::Turns;
use crate::vbucket::{LookedUp, NOT_IN_MEMORY, VbucketCore};
use messages::OperationError;
use messages::scan::{ScanConsistency, ScanRange, ScanRequest};
use messages::vbucket::{
    Found, GetAndLock, GetAndTouch, GetRandom, Meta, Observe, Observed, Picked, Unlock, Write,
    WriteBatch,
};
use storage::{CollectionId, DocumentKey};

/// How often a document that was picked may be gone when it is read.
const PICKS: u32 = 8;

/// Keys of which one is picked where memory has no document of a collection.
const PICKED_OF: u64 = 64;

impl Backfills {
    /// Reads a document.
    pub fn get(&self, core: &Arc<VbucketCore>, key: &DocumentKey) -> Begun<Found> {
        let of = key.clone();
        self.reading(core, key, move |core, looked_up| {
            core.get_knowing(&of, looked_up)
        })
    }

    /// The same of one that was not found in memory.
    pub fn get_evicted(&self, core: &Arc<VbucketCore>, key: &DocumentKey) -> Begun<Found> {
        let of = key.clone();
        self.in_turn(
            core,
            key,
            Change::read(IsTried::InVain),
            move |core, looked_up| core.get_knowing(&of, looked_up),
        )
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
        let mut missing = BTreeSet::new();
        let mut follow = |(write, is_behind): (Write, bool)| {
            let begun = if is_behind { None } else { begun.next() };
            let is_tried = match begun {
                Some(begun) if !begun.is_not_in_memory() => return Writing::Begun(begun),
                // The others are put off behind the first of their key.
                Some(_) if missing.insert(write.key().clone()) => IsTried::InVain,
                Some(_) | None => IsTried::Not,
            };
            self.written(core, write, Answered::AsAsked, order, is_tried)
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
        let change = Change {
            bytes,
            ..Change::of(order, is_tried)
        };
        match self.in_turn(core, &key, change, once) {
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
            Err(NOT_IN_MEMORY) => self.in_turn(core, key, Change::read(IsTried::InVain), operation),
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
            let change = Change::of(order, IsTried::Not);
            return self.in_turn(core, key, change, operation);
        }
        match operation(core, None) {
            Err(NOT_IN_MEMORY) => {
                self.in_turn(core, key, Change::of(order, IsTried::InVain), operation)
            }
            answer => Begun::Done(answer),
        }
    }
}
