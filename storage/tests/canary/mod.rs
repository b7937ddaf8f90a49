//! Stores with one planted fault each, which the model must find.
//!
//! Invariant: a faulty store does everything else as the good one does, so what is found is the fault.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use piggin_storage::{
    Batch, CommitDurability, Compacted, CompactionFailure, CompactionRequest, FileStatistics,
    Incarnation, KvStore, MemoryStore, Outcome, RolledBack, Seqno, Snapshot, StorageError,
    VbucketId, VbucketStateRecord, VbucketStatus,
};

use crate::model;
use crate::support::StoreFactory;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// None, to show that the others are what is found.
    Nothing,
    /// The first item of a batch of several is lost.
    LosesAnItem,
    /// Identities are not stored.
    ForgetsIdentities,
    /// Batches of an earlier life or epoch are stored.
    TakesStaleBatches,
    /// Seal drops versions that rollback may still ask for.
    SealsTooDeep,
    /// Rollback goes one seqno too far, and says it did not.
    RollsBackTooFar,
}

pub(crate) const FAULTS: [Fault; 5] = [
    Fault::LosesAnItem,
    Fault::ForgetsIdentities,
    Fault::TakesStaleBatches,
    Fault::SealsTooDeep,
    Fault::RollsBackTooFar,
];

impl Fault {
    /// Whether one of `seeds` shows this fault.
    pub(crate) fn is_found(self, seeds: std::ops::Range<u64>, steps: u64) -> bool {
        let fails = |seed| {
            let run = AssertUnwindSafe(|| model::run(seed, steps, &self));
            catch_unwind(run).is_err()
        };
        seeds.into_iter().any(fails)
    }
}

impl StoreFactory for Fault {
    fn create(&self, vbuckets: u16) -> Arc<dyn KvStore> {
        Arc::new(FaultyStore {
            fault: *self,
            good: MemoryStore::new(vbuckets),
        })
    }

    fn reopen(&self, store: Arc<dyn KvStore>) -> Arc<dyn KvStore> {
        store
    }
}

#[derive(Debug)]
struct FaultyStore {
    fault: Fault,
    good: MemoryStore,
}

impl FaultyStore {
    fn spoiled(&self, batch: &Batch) -> Batch {
        let mut batch = batch.clone();
        match self.fault {
            Fault::LosesAnItem if batch.items.len() > 1 => {
                batch.items.remove(0);
            }
            Fault::ForgetsIdentities => batch.identity = None,
            Fault::TakesStaleBatches => {
                if let Ok(snapshot) = self.good.snapshot(batch.vbucket) {
                    batch.incarnation = snapshot.incarnation();
                    batch.epoch = snapshot.epoch();
                }
            }
            Fault::Nothing | Fault::LosesAnItem | Fault::SealsTooDeep | Fault::RollsBackTooFar => {}
        }
        batch
    }
}

impl KvStore for FaultyStore {
    fn create_vbucket(
        &self,
        vbucket: VbucketId,
        state: &VbucketStateRecord,
    ) -> Result<Incarnation, StorageError> {
        self.good.create_vbucket(vbucket, state)
    }

    fn delete_vbucket(&self, vbucket: VbucketId) -> Result<(), StorageError> {
        self.good.delete_vbucket(vbucket)
    }

    fn vbuckets(&self) -> Vec<VbucketStatus> {
        self.good.vbuckets()
    }

    fn commit(
        &self,
        group: &[Batch],
        durability: CommitDurability,
    ) -> Vec<Result<(), StorageError>> {
        let group: Vec<Batch> = group.iter().map(|batch| self.spoiled(batch)).collect();
        self.good.commit(&group, durability)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.good.sync()
    }

    fn snapshot(&self, vbucket: VbucketId) -> Result<Box<dyn Snapshot>, StorageError> {
        self.good.snapshot(vbucket)
    }

    fn rollback(&self, vbucket: VbucketId, to: Seqno) -> Outcome<RolledBack> {
        let snapshot = self.good.snapshot(vbucket);
        let is_back = snapshot.is_ok_and(|snapshot| to < snapshot.high_seqno());
        if self.fault != Fault::RollsBackTooFar || !is_back {
            return self.good.rollback(vbucket, to);
        }
        let further = Seqno(to.0.saturating_sub(1));
        self.good.rollback(vbucket, further).map(|done| match done {
            RolledBack::To { epoch, .. } => RolledBack::To { seqno: to, epoch },
            RolledBack::ToZero { epoch } => RolledBack::ToZero { epoch },
        })
    }

    fn seal(&self, vbucket: VbucketId, history_floor: Seqno) -> Outcome<()> {
        let floor = match self.fault {
            Fault::SealsTooDeep => Seqno::MAX,
            Fault::Nothing
            | Fault::LosesAnItem
            | Fault::ForgetsIdentities
            | Fault::TakesStaleBatches
            | Fault::RollsBackTooFar => history_floor,
        };
        self.good.seal(vbucket, floor)
    }

    fn compact(
        &self,
        vbucket: VbucketId,
        request: &CompactionRequest,
    ) -> Outcome<Compacted, CompactionFailure> {
        self.good.compact(vbucket, request)
    }

    fn file_statistics(&self, vbucket: VbucketId) -> Result<FileStatistics, StorageError> {
        self.good.file_statistics(vbucket)
    }
}
