//! The log store as a [`KvStore`]: each call goes to the shard of its vbucket.
//!
//! Invariant: nothing is answered before it is as durable as the trait says; what grows with a vbucket is done without
//! the writer's lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::admission::check_identity;
use crate::compaction::{Compacted, CompactionFailure, CompactionRequest, CompactionStage};
use crate::error::StorageError;
use crate::kv_store::{
    Batch, CommitDurability, FileStatistics, KvStore, RolledBack, Snapshot, VbucketStatus,
};
use crate::log_store::commit::{CommitJob, Group};
use crate::log_store::log::payload::{Edit, Place};
use crate::log_store::segment::Patience;
use crate::log_store::shard::{Shard, Slot};
use crate::log_store::snapshot::LogSnapshot;
use crate::log_store::version::Version;
use crate::outcome::{Job, Outcome};
use crate::seqno::Seqno;
use crate::vbucket::{Incarnation, RollbackEpoch, VbucketId, VbucketStateRecord};

use super::LogStore;

impl KvStore for LogStore {
    fn create_vbucket(
        &self,
        vbucket: VbucketId,
        state: &VbucketStateRecord,
    ) -> Result<Incarnation, StorageError> {
        let shard = self.shard(vbucket)?;
        check_identity(&state.identity)
            .map_err(|refusal| StorageError::Refused { vbucket, refusal })?;
        let mut writer = shard.writer().ok_or(StorageError::Closed)?;
        writer.check_open()?;
        if !matches!(shard.read_slot(vbucket), Slot::Absent) {
            return Err(StorageError::VbucketExists(vbucket));
        }
        let incarnation = Incarnation(shard.next_incarnation.fetch_add(1, Ordering::Relaxed));
        let place = Place {
            vbucket,
            incarnation,
            epoch: RollbackEpoch(0),
        };
        let edit = Edit::Create {
            place,
            identity: Arc::clone(&state.identity),
            watermarks: state.watermarks,
        };
        writer.write_edits_synced(&[edit])?;
        shard.note_synced(&writer);
        shard.publish(
            vbucket,
            Slot::Up(Arc::new(Version::empty(place, state.clone()))),
        );
        Ok(incarnation)
    }

    fn delete_vbucket(&self, vbucket: VbucketId) -> Result<(), StorageError> {
        let shard = self.shard(vbucket)?;
        let mut writer = shard.writer().ok_or(StorageError::Closed)?;
        let (place, segments) = match shard.read_slot(vbucket) {
            Slot::Absent => return Err(StorageError::UnknownVbucket(vbucket)),
            Slot::Up(version) => (version.place, version.segments.clone()),
            Slot::Down(_) => {
                let (incarnation, epoch) = (Incarnation(0), RollbackEpoch(0));
                (
                    Place {
                        vbucket,
                        incarnation,
                        epoch,
                    },
                    Vec::new(),
                )
            }
        };
        let sequence = writer.write_edits_synced(&[Edit::Delete { place }])?;
        shard.note_synced(&writer);
        shard.publish(vbucket, Slot::Absent);
        shard.retire(segments.iter().map(|view| view.segment.meta()), sequence);
        // The log files it pinned can go after the next manifest.
        shard.checkpoint_due.tell();
        Ok(())
    }

    fn vbuckets(&self) -> Vec<VbucketStatus> {
        let mut all = Vec::new();
        for shard in &self.inner.shards {
            for vbucket in shard.vbuckets() {
                if !matches!(shard.read_slot(vbucket), Slot::Absent) {
                    all.push(VbucketStatus {
                        vbucket,
                        position: shard.position(vbucket),
                    });
                }
            }
        }
        all.sort_by_key(|status| status.vbucket);
        all
    }

    fn commit(
        &self,
        group: &[Batch],
        durability: CommitDurability,
    ) -> Vec<Result<(), StorageError>> {
        if let [shard] = self.inner.shards.as_slice()
            && group
                .iter()
                .all(|batch| batch.vbucket.get() < self.inner.shape.vbuckets)
        {
            return run_commit(shard, group, durability);
        }
        let mut results: Vec<Result<(), StorageError>> = group
            .iter()
            .map(|batch| Err(StorageError::UnknownVbucket(batch.vbucket)))
            .collect();
        for (number, shard) in self.inner.shards.iter().enumerate() {
            let mine = |batch: &Batch| {
                usize::from(self.shard_of(batch.vbucket)) == number
                    && batch.vbucket.get() < self.inner.shape.vbuckets
            };
            let part: Vec<Batch> = group.iter().filter(|batch| mine(batch)).cloned().collect();
            if part.is_empty() {
                continue;
            }
            let mut answers = run_commit(shard, &part, durability).into_iter();
            for (batch, result) in group.iter().zip(&mut results) {
                if mine(batch)
                    && let Some(answer) = answers.next()
                {
                    *result = answer;
                }
            }
        }
        results
    }

    fn sync(&self) -> Result<(), StorageError> {
        for shard in &self.inner.shards {
            let mut writer = shard.writer().ok_or(StorageError::Closed)?;
            writer.sync()?;
            shard.note_synced(&writer);
        }
        Ok(())
    }

    fn snapshot(&self, vbucket: VbucketId) -> Result<Box<dyn Snapshot>, StorageError> {
        let version = self.shard(vbucket)?.version(vbucket)?;
        let snapshot = LogSnapshot::of(version).ok_or(StorageError::Closed)?;
        Ok(Box::new(snapshot))
    }

    fn get(
        &self,
        vbucket: VbucketId,
        namespace: crate::document::Namespace,
        key: &crate::document::DocumentKey,
    ) -> Result<Option<crate::document::Item>, StorageError> {
        let version = self.shard(vbucket)?.version(vbucket)?;
        let key = key.as_encoded();
        version.get(&version.views(), namespace, key, Patience::Waits)
    }

    fn rollback(&self, vbucket: VbucketId, to: Seqno) -> Outcome<RolledBack> {
        match self.rollback_job(vbucket, to) {
            Ok(mut job) => job.run(),
            Err(error) => Outcome::Failed(error),
        }
    }

    fn seal(&self, vbucket: VbucketId, history_floor: Seqno) -> Outcome<()> {
        match self.seal_job(vbucket, history_floor) {
            Ok(mut job) => job.run(),
            Err(error) => Outcome::Failed(error),
        }
    }

    fn compact(
        &self,
        vbucket: VbucketId,
        request: &CompactionRequest,
    ) -> Outcome<Compacted, CompactionFailure> {
        match self.compaction_job(vbucket, request.clone()) {
            Ok(mut job) => job.run(),
            Err(cause) => Outcome::Failed(CompactionFailure::at(CompactionStage::Start, cause)),
        }
    }

    fn file_statistics(&self, vbucket: VbucketId) -> Result<FileStatistics, StorageError> {
        let version = self.shard(vbucket)?.version(vbucket)?;
        let mut statistics = FileStatistics {
            unsealed_bytes: version.unsealed_bytes(),
            segments: version.segments.len(),
            ..FileStatistics::default()
        };
        for view in &version.segments {
            let meta = view.segment.meta();
            statistics.total_bytes = statistics.total_bytes.saturating_add(meta.length);
            // Indexes count with the records they belong to.
            let live_data = meta.data_bytes.saturating_sub(view.dead_bytes);
            let share = u128::from(meta.length).saturating_mul(u128::from(live_data));
            let live = share.checked_div(u128::from(meta.data_bytes)).unwrap_or(0);
            let live = u64::try_from(live).unwrap_or(meta.length);
            statistics.live_bytes = statistics.live_bytes.saturating_add(live);
        }
        Ok(statistics)
    }
}

fn run_commit(
    shard: &Arc<Shard>,
    group: &[Batch],
    durability: CommitDurability,
) -> Vec<Result<(), StorageError>> {
    match CommitJob::new(Arc::clone(shard), Group::Lent(group), durability).run() {
        Outcome::Complete(results) => results,
        Outcome::Failed(error) => group.iter().map(|_| Err(error.clone())).collect(),
        Outcome::Yielded | Outcome::Aborted(_) => {
            group.iter().map(|_| Err(StorageError::Closed)).collect()
        }
    }
}
