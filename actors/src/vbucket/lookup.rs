//! What a vbucket must be told of its store: versions that left memory, and whether its collections may be scanned.
//!
//! Invariant: a write is judged on what the store was found to hold only while nothing left memory that it may not have held
//! then; a read, if nothing had when it looked into memory: then that was the newest version at some moment of the read.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::core::{Inner, VbucketCore};
use super::kept::{Held, Kept};
use super::status::Sight;
use crate::sync::atomic::Ordering;
use messages::{Busy, OperationError};
use storage::{
    CollectionId, DocumentKey, Item, KeyRange, KvStore, Namespace, RevSeqno, RollbackEpoch, Seqno,
    Snapshot, StorageError, VbucketId, VbucketUuid,
};

/// What of a key that is not in memory somebody must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nothing.
    Nothing,
    /// Whether there is a document, and which.
    Document,
    /// The same, or its tombstone.
    Tombstone,
}

/// Keys of which a write of a batch could not be done, because what is there must be looked up: none behind it is done before
/// it. All of them are answered [`Busy::NotInMemory`].
#[derive(Debug, Default)]
pub(super) struct PutOff(BTreeSet<DocumentKey>);

impl PutOff {
    pub(super) fn has(&self, key: &DocumentKey) -> bool {
        !self.0.is_empty() && self.0.contains(key)
    }

    pub(super) fn note(&mut self, key: DocumentKey) {
        self.0.insert(key);
    }
}

/// What the store holds of a key.
#[derive(Clone, Debug)]
pub struct LookedUp {
    /// Everything up to here was looked at.
    pub up_to: Seqno,
    /// Of this past of the store.
    pub epoch: RollbackEpoch,
    /// The newest version, a tombstone too.
    pub newest: Option<Arc<Item>>,
}

impl LookedUp {
    /// Reads what a store holds of a key; nobody pays for it yet.
    pub fn in_store(
        store: &dyn KvStore,
        vbucket: VbucketId,
        key: &DocumentKey,
    ) -> Result<LookedUp, StorageError> {
        let snapshot = store.snapshot(vbucket)?;
        let newest = snapshot.get(Namespace::Committed, key)?;
        Ok(LookedUp::new(&*snapshot, newest))
    }

    /// The same where the disk may not be waited for.
    pub fn in_store_at_once(
        store: &dyn KvStore,
        vbucket: VbucketId,
        key: &DocumentKey,
    ) -> Result<LookedUp, StorageError> {
        let snapshot = store.snapshot(vbucket)?;
        let newest = snapshot.get_at_once(Namespace::Committed, key)?;
        Ok(LookedUp::new(&*snapshot, newest))
    }

    fn new(snapshot: &dyn Snapshot, newest: Option<Item>) -> LookedUp {
        LookedUp {
            up_to: snapshot.high_seqno(),
            epoch: snapshot.epoch(),
            newest: newest.map(Arc::new),
        }
    }
}

impl VbucketCore {
    /// Whether a client may read all of a collection; where its life began, which is `started` if it is asked again.
    pub fn admit_scan(
        &self,
        collection: CollectionId,
        started: Option<Seqno>,
    ) -> Result<Seqno, OperationError> {
        self.admit_read()?;
        let start = self.admit_collection_in_force(collection)?.start;
        if started.is_some_and(|started| started != start) {
            let manifest_uid = self.collections.read().manifest().uid;
            return Err(OperationError::UnknownCollection { manifest_uid });
        }
        Ok(start)
    }

    /// Whether the store may be read for a client in the place of memory: not where a durable write may have been committed
    /// elsewhere, for what it replaced is not to be seen any more. To be asked before anything else, as any read asks it: of
    /// what is over by then the outcome has its seqno.
    pub fn admit_scan_of(
        &self,
        collection: CollectionId,
        keys: &KeyRange,
    ) -> Result<(), OperationError> {
        let sight = self.admit_read()?;
        let start = self.admit_collection_in_force(collection)?.start;
        if sight == Sight::Partial && self.prepares.is_unloaded() {
            return Err(OperationError::TemporaryFailure(Busy::WarmingUp));
        }
        if self.prepares.hides_any(keys, start) {
            return Err(OperationError::SyncWriteReCommitInProgress);
        }
        Ok(())
    }

    /// Whether a change that was made on this branch of history is part of it still.
    #[must_use]
    pub fn has_change(&self, branch: VbucketUuid, seqno: Seqno) -> bool {
        let identity = self.identity();
        let entries = identity.failover_table.entries();
        let Some(place) = entries.iter().position(|entry| entry.uuid == branch) else {
            return false;
        };
        // A branch ends where the next one begins.
        let next = place.checked_sub(1).and_then(|newer| entries.get(newer));
        next.is_none_or(|next| seqno <= next.seqno)
    }

    /// Whether the store may hold a tombstone of a key that is not in memory.
    #[must_use]
    pub fn has_forgotten(&self) -> bool {
        !self.map.is_complete()
    }

    /// Whether the store may hold a live document that is not in memory.
    #[must_use]
    pub fn lacks_documents(&self) -> bool {
        self.map.lacks_documents()
    }

    /// A version is on disk and not, or no longer, in memory. To be said before it is gone.
    pub(super) fn note_forgotten(&self, seqno: Seqno, revision: RevSeqno) {
        self.forgotten_revision
            .fetch_max(revision.0, Ordering::AcqRel);
        self.forgotten_up_to.fetch_max(seqno.0, Ordering::AcqRel);
    }

    /// The highest revision of what is not in memory: a document that is made where there is none goes on behind it, so that
    /// no cluster takes it for older than what it follows.
    pub(super) fn forgotten_revision(&self) -> u64 {
        self.forgotten_revision.load(Ordering::Acquire)
    }

    /// Up to here versions left memory. What a read did not find in memory the store holds in a snapshot up to here.
    #[must_use]
    pub fn forgotten_up_to(&self) -> Seqno {
        Seqno(self.forgotten_up_to.load(Ordering::Acquire))
    }

    /// Whether what the store holds of a key that is not in memory must be known.
    pub(super) fn must_ask(&self, asks: Asks) -> bool {
        match asks {
            Asks::Nothing => false,
            Asks::Document => self.map.lacks_documents(),
            Asks::Tombstone => !self.map.is_complete(),
        }
    }

    /// What there is of a key that is not in memory, for a change of it: nothing, or what left memory. Not known if nobody
    /// looked, or the store may hold more since.
    pub(super) fn looked_up(
        &self,
        inner: &Inner,
        looked_up: Option<&LookedUp>,
    ) -> Result<Option<Arc<Item>>, OperationError> {
        match looked_up.filter(|looked_up| self.is_still_true(inner, looked_up)) {
            Some(looked_up) => Ok(looked_up.newest.clone()),
            None => Err(NOT_IN_MEMORY),
        }
    }

    /// The same for a read: of the moment it looked.
    pub(super) fn read_of_store(
        &self,
        looked_up: Option<&LookedUp>,
    ) -> Result<Option<Arc<Item>>, OperationError> {
        match looked_up {
            Some(looked_up) if !self.is_of_past(looked_up.epoch) => Ok(looked_up.newest.clone()),
            Some(_) | None => Err(NOT_IN_MEMORY),
        }
    }

    /// All of a version that is in memory: of a stub, what was looked up, if that is the same one. The rest of it has to be
    /// looked up otherwise. Needs the lock to be held.
    pub(super) fn whole<'a>(
        inner: &Inner,
        kept: &'a Kept,
        looked_up: Option<&'a LookedUp>,
    ) -> Result<&'a Arc<Item>, OperationError> {
        let stub = match kept.held() {
            Held::Whole(item) => return Ok(item),
            Held::Stub(stub) => stub,
        };
        let looked_up = looked_up.filter(|looked_up| looked_up.epoch >= inner.least_epoch);
        let newest = looked_up.and_then(|looked_up| looked_up.newest.as_ref());
        newest
            .filter(|newest| stub.is_of(newest))
            .ok_or(NOT_IN_MEMORY)
    }

    /// The version of a key of which the value alone is not in memory, if there is one that can be seen.
    #[must_use]
    pub fn stub_seqno(&self, key: &DocumentKey) -> Option<Seqno> {
        let opened = self.admit_key(key).ok()?;
        let place = self.map.place(key.as_encoded());
        let seqno_of = |held: Held<'_>| match held {
            Held::Stub(_) => Some(held.seqno()).filter(|seqno| *seqno >= opened.start),
            Held::Whole(_) => None,
        };
        self.map.read(place, key.as_encoded(), seqno_of).flatten()
    }

    /// Whether nothing of a key that is not in memory now can be newer than what was looked up.
    pub(super) fn is_still_true(&self, inner: &Inner, looked_up: &LookedUp) -> bool {
        looked_up.epoch >= inner.least_epoch && self.forgotten_up_to() <= looked_up.up_to
    }

    /// What was read, as a part of this vbucket's memory.
    #[must_use]
    pub fn pay_for(&self, mut looked_up: LookedUp) -> LookedUp {
        looked_up.newest = looked_up.newest.map(|mut item| {
            // It may be a part of something larger, which nobody pays for.
            let value = Bytes::copy_from_slice(&item.document.value);
            Arc::make_mut(&mut item).document.value = value;
            self.charged(item)
        });
        looked_up
    }
}

/// Nothing was done, because what the store holds must be looked up first.
pub(crate) const NOT_IN_MEMORY: OperationError =
    OperationError::TemporaryFailure(Busy::NotInMemory);
