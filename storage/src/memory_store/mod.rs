//! The store in memory: the second implementation of [`KvStore`], for tests, caches and as the measure of the
//! first. Nothing survives the process.
//!
//! Invariant: a call either changes a vbucket as a whole or not at all, under one lock; a snapshot is taken under
//! the same lock and shares a history that from then on only changes above the snapshot's high seqno.

mod history;
mod vbucket;
mod compaction;
mod snapshot;
mod scan;

use std::collections::BTreeMap;

use parking_lot::RwLock;

use self::vbucket::Vbucket;
use crate::admission::{Standing, admit_group, check_identity};
use crate::compaction::{Compacted, CompactionFailure, CompactionRequest, CompactionStage};
use crate::error::StorageError;
use crate::kv_store::{
    Batch, CommitDurability, FileStatistics, KvStore, RolledBack, Snapshot, VbucketStatus,
};
use crate::outcome::Outcome;
use crate::seqno::Seqno;
use crate::vbucket::{Incarnation, VbucketId, VbucketStateRecord};

/// A [`KvStore`] that keeps everything in memory.
#[derive(Debug)]
pub struct MemoryStore {
    vbuckets_max: u16,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    vbuckets: BTreeMap<VbucketId, Vbucket>,
    newest_incarnation: Incarnation,
}

impl MemoryStore {
    /// An empty store for the vbuckets below `vbuckets`.
    #[must_use]
    pub fn new(vbuckets: u16) -> MemoryStore {
        MemoryStore {
            vbuckets_max: vbuckets,
            inner: RwLock::default(),
        }
    }
}

impl Inner {
    fn get(&self, vbucket: VbucketId) -> Result<&Vbucket, StorageError> {
        self.vbuckets
            .get(&vbucket)
            .ok_or(StorageError::UnknownVbucket(vbucket))
    }

    fn get_mut(&mut self, vbucket: VbucketId) -> Result<&mut Vbucket, StorageError> {
        self.vbuckets
            .get_mut(&vbucket)
            .ok_or(StorageError::UnknownVbucket(vbucket))
    }

    fn standing(&self, vbucket: VbucketId) -> Result<Standing, StorageError> {
        Ok(self.get(vbucket)?.standing())
    }
}

impl KvStore for MemoryStore {
    fn create_vbucket(
        &self,
        vbucket: VbucketId,
        state: &VbucketStateRecord,
    ) -> Result<Incarnation, StorageError> {
        if vbucket.get() >= self.vbuckets_max {
            return Err(StorageError::UnknownVbucket(vbucket));
        }
        check_identity(&state.identity)
            .map_err(|refusal| StorageError::Refused { vbucket, refusal })?;
        let mut inner = self.inner.write();
        if inner.vbuckets.contains_key(&vbucket) {
            return Err(StorageError::VbucketExists(vbucket));
        }
        let incarnation = Incarnation(inner.newest_incarnation.0.saturating_add(1));
        inner.newest_incarnation = incarnation;
        inner
            .vbuckets
            .insert(vbucket, Vbucket::new(incarnation, state.clone()));
        Ok(incarnation)
    }

    fn delete_vbucket(&self, vbucket: VbucketId) -> Result<(), StorageError> {
        let deleted = self.inner.write().vbuckets.remove(&vbucket);
        deleted
            .map(drop)
            .ok_or(StorageError::UnknownVbucket(vbucket))
    }

    fn vbuckets(&self) -> Vec<VbucketStatus> {
        let inner = self.inner.read();
        let status = |(vbucket, held): (&VbucketId, &Vbucket)| VbucketStatus {
            vbucket: *vbucket,
            position: Ok(held.position()),
        };
        inner.vbuckets.iter().map(status).collect()
    }

    fn commit(
        &self,
        group: &[Batch],
        _durability: CommitDurability,
    ) -> Vec<Result<(), StorageError>> {
        let mut inner = self.inner.write();
        let mut verdicts = admit_group(group, |vbucket| inner.standing(vbucket));
        for (verdict, batch) in verdicts.iter_mut().zip(group) {
            if verdict.is_ok() {
                *verdict = inner.get_mut(batch.vbucket).map(|held| held.apply(batch));
            }
        }
        verdicts
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn snapshot(&self, vbucket: VbucketId) -> Result<Box<dyn Snapshot>, StorageError> {
        Ok(Box::new(self.inner.read().get(vbucket)?.snapshot(vbucket)))
    }

    fn rollback(&self, vbucket: VbucketId, to: Seqno) -> Outcome<RolledBack> {
        match self.inner.write().get_mut(vbucket) {
            Ok(held) => match held.rollback(vbucket, to) {
                Ok(rolled_back) => Outcome::Complete(rolled_back),
                Err(cause) => Outcome::Failed(cause),
            },
            Err(cause) => Outcome::Failed(cause),
        }
    }

    fn seal(&self, vbucket: VbucketId, history_floor: Seqno) -> Outcome<()> {
        match self.inner.write().get_mut(vbucket) {
            Ok(held) => {
                held.seal(history_floor);
                Outcome::Complete(())
            }
            Err(cause) => Outcome::Failed(cause),
        }
    }

    fn compact(
        &self,
        vbucket: VbucketId,
        request: &CompactionRequest,
    ) -> Outcome<Compacted, CompactionFailure> {
        match self.inner.write().get_mut(vbucket) {
            Ok(held) => Outcome::Complete(held.compact(request)),
            Err(cause) => Outcome::Failed(CompactionFailure::at(CompactionStage::Start, cause)),
        }
    }

    fn file_statistics(&self, vbucket: VbucketId) -> Result<FileStatistics, StorageError> {
        Ok(FileStatistics {
            unsealed_bytes: self.inner.read().get(vbucket)?.bytes_held(),
            ..FileStatistics::default()
        })
    }
}
