//! What a vbucket must be told of its store: versions that left memory, and whether its collections may be scanned.
//!
//! Invariant: what the store was found to hold counts only while nothing left memory that it may not have held then.

use super::core::{Inner, VbucketCore};
use super::status::Sight;
use crate::sync::atomic::Ordering;
use messages::{Busy, OperationError};
use storage::{CollectionId, Item, KeyRange, RollbackEpoch, Seqno, VbucketUuid};

/// What the store holds of a key.
#[derive(Clone, Debug)]
pub struct LookedUp {
    /// Everything up to here was looked at.
    pub up_to: Seqno,
    /// Of this past of the store.
    pub epoch: RollbackEpoch,
    /// The newest version, a tombstone too; its value is not told.
    pub newest: Option<Item>,
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

    /// A tombstone is on disk and not, or no longer, in memory.
    pub(super) fn note_forgotten(&self, tombstone: &Item) {
        let revision = tombstone.document.rev_seqno.0;
        self.forgotten_revision
            .fetch_max(revision, Ordering::AcqRel);
        self.forgotten_up_to
            .fetch_max(tombstone.seqno.0, Ordering::AcqRel);
    }

    /// The highest revision of a tombstone that is not in memory: a document that is made where there is none goes on behind
    /// it, so that no cluster takes it for older than a deletion it follows.
    pub(super) fn forgotten_revision(&self) -> u64 {
        self.forgotten_revision.load(Ordering::Acquire)
    }

    /// What there is of a key that is not in memory: nothing, or a tombstone. Not known if nobody looked, or the store may hold
    /// more since.
    pub(super) fn forgotten<'l>(
        &self,
        inner: &Inner,
        looked_up: Option<&'l LookedUp>,
    ) -> Result<Option<&'l Item>, OperationError> {
        if self.map.is_complete() {
            return Ok(None);
        }
        let is_still_true = |looked_up: &&LookedUp| {
            let forgotten_up_to = self.forgotten_up_to.load(Ordering::Acquire);
            looked_up.epoch >= inner.least_epoch && forgotten_up_to <= looked_up.up_to.0
        };
        match looked_up.filter(is_still_true) {
            Some(looked_up) => Ok(looked_up.newest.as_ref()),
            None => Err(OperationError::TemporaryFailure(Busy::NotInMemory)),
        }
    }
}
