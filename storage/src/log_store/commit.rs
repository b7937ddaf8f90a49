//! The commit: batches of many vbuckets become one write, one sync, and then visible.
//!
//! Invariant: nothing of a batch is visible before all of it is as durable as was asked; a batch that is answered
//! with an error is not visible, and the caller still has it. The steps are those a crash can fall between: written,
//! synced, applied.

use std::sync::Arc;

use crate::admission;
use crate::collections::DroppedCollection;
use crate::error::StorageError;
use crate::kv_store::{Batch, CommitDurability};
use crate::log_store::codec;
use crate::log_store::log::frame::{LogPosition, Touched};
use crate::log_store::log::payload;
use crate::log_store::record::OVERHEAD_MAX;
use crate::log_store::shard::{Shard, Slot, Writer, WriterGuard};
use crate::log_store::version::Version;
use crate::outcome::{Job, Outcome};
use crate::vbucket::VbucketStateRecord;

/// Commits a group of batches of one shard, in steps.
#[derive(Debug)]
pub(crate) struct CommitJob<'g> {
    shard: Arc<Shard>,
    group: Group<'g>,
    durability: CommitDurability,
    results: Vec<Result<(), StorageError>>,
    state: Committing,
}

/// The batches: lent by a caller that waits, or shared with one that keeps the job.
#[derive(Debug)]
pub(crate) enum Group<'g> {
    Lent(&'g [Batch]),
    Shared(Arc<[Batch]>),
}

impl std::ops::Deref for Group<'_> {
    type Target = [Batch];

    fn deref(&self) -> &[Batch] {
        match self {
            Group::Lent(batches) => batches,
            Group::Shared(batches) => batches,
        }
    }
}

#[derive(Debug)]
enum Committing {
    Begin,
    /// In the log file, not known durable.
    Written(Written),
    /// As durable as asked, not visible yet.
    Durable(Written),
    Done,
}

#[derive(Debug)]
struct Written {
    writer: WriterGuard,
    /// The last frame before the group.
    before: u64,
    /// A place in the log at or before the group's first frame.
    place: LogPosition,
    admitted: Vec<Admitted>,
}

/// A batch on its way: which of the group, where it goes, and the state record it leaves.
#[derive(Debug)]
struct Admitted {
    index: usize,
    version: Arc<Version>,
    state: VbucketStateRecord,
    /// Lives of collections that end with it.
    dropped: Vec<DroppedCollection>,
    bytes: u64,
}

impl<'g> CommitJob<'g> {
    pub(crate) fn new(
        shard: Arc<Shard>,
        group: Group<'g>,
        durability: CommitDurability,
    ) -> CommitJob<'g> {
        CommitJob {
            shard,
            group,
            durability,
            results: Vec::new(),
            state: Committing::Begin,
        }
    }

    fn begin(&mut self) -> Committing {
        let Some(mut writer) = self.shard.writer() else {
            return Committing::Begin;
        };
        let shard = &self.shard;
        if let Err(closed) = writer.check_open() {
            let refusal = |batch: &Batch| match shard.version(batch.vbucket) {
                Err(down @ StorageError::VbucketDown { .. }) => Err(down),
                Ok(_) | Err(_) => Err(closed.clone()),
            };
            self.results = self.group.iter().map(refusal).collect();
            return Committing::Done;
        }
        self.results = admission::admit_group(&self.group, |vbucket| shard.standing(vbucket));
        let admitted = self.admitted();
        let before = writer.log.last_sequence();
        let place = LogPosition {
            file: writer.log.current_file(),
            sequence: before.saturating_add(1),
        };
        let abandoned = writer.log.abandoned_files;
        let written = self
            .push_frames(&mut writer, &admitted)
            .and_then(|()| writer.log.write().map_err(StorageError::from));
        writer.needs_manifest |= writer.log.abandoned_files != abandoned;
        match written {
            Ok(()) => Committing::Written(Written {
                writer,
                before,
                place,
                admitted,
            }),
            Err(error) => {
                self.give_up(
                    Written {
                        writer,
                        before,
                        place,
                        admitted,
                    },
                    &error,
                );
                Committing::Done
            }
        }
    }

    fn admitted(&mut self) -> Vec<Admitted> {
        let mut admitted = Vec::with_capacity(self.group.len());
        for (index, (batch, result)) in self.group.iter().zip(&mut self.results).enumerate() {
            if result.is_err() {
                continue;
            }
            match self.shard.version(batch.vbucket) {
                Ok(version) => admitted.extend(Admitted::new(index, version, batch)),
                Err(error) => *result = Err(error),
            }
        }
        admitted
    }

    /// Whole batches into frames of about the size allowed.
    fn push_frames(&self, writer: &mut Writer, admitted: &[Admitted]) -> Result<(), StorageError> {
        let bytes_max = (self.shard.options.frame_bytes_max as u64).min(Batch::BYTES_MAX);
        let mut rest = admitted;
        while !rest.is_empty() {
            let mut bytes = 0u64;
            let fit = rest.iter().take_while(|next| {
                bytes = bytes.saturating_add(next.bytes);
                bytes <= bytes_max
            });
            let (run, tail) = rest.split_at(fit.count().max(1));
            self.push_frame(writer, run)?;
            rest = tail;
        }
        Ok(())
    }

    fn push_frame(&self, writer: &mut Writer, run: &[Admitted]) -> Result<(), StorageError> {
        let mut touched = Touched::default();
        let mut records = Vec::with_capacity(run.len());
        for one in run {
            let Some(batch) = self.group.get(one.index) else {
                continue;
            };
            let identity = batch.identity.as_ref().map(codec::encode);
            let identity = identity.transpose().map_err(|error| {
                StorageError::Setting(format!("vbucket identity beyond its limit: {error}"))
            })?;
            touched.insert(batch.vbucket);
            records.push((batch, &one.state.watermarks, identity));
        }
        writer.log.push_frame(touched, |out| {
            for (batch, watermarks, identity) in &records {
                payload::put_batch(out, batch, watermarks, identity.as_deref());
            }
        });
        Ok(())
    }

    fn sync(&mut self, mut written: Written) -> Committing {
        let writer = &mut written.writer;
        let must_sync = self.durability == CommitDurability::Synced
            || writer.log.pending_bytes() > self.shard.options.unsynced_bytes_max;
        if must_sync {
            if let Err(error) = writer.sync() {
                self.give_up(written, &error);
                return Committing::Done;
            }
            self.shard.note_synced(&written.writer);
        }
        Committing::Durable(written)
    }

    fn apply(&self, written: Written) {
        for one in written.admitted {
            let Some(batch) = self.group.get(one.index) else {
                continue;
            };
            let mut version = one.version;
            if !one.dropped.is_empty() {
                // First the drop, then the seqno at which it takes effect.
                version = Arc::new(version.with_dropped(&one.dropped));
                self.shard
                    .publish(batch.vbucket, Slot::Up(Arc::clone(&version)));
            }
            let Some(layer) = version.active() else {
                continue;
            };
            let state = one.state.clone();
            let bytes = layer.append(&batch.items, one.state, written.place);
            self.shard.note_unsealed(bytes);
            if layer.is_long() {
                // No seal takes a layer without items, so it must not grow for ever.
                let next = Arc::new(version.with_new_layer(state));
                self.shard.publish(batch.vbucket, Slot::Up(next));
            }
        }
    }

    fn give_up(&mut self, mut written: Written, error: &StorageError) {
        written.writer.log.forget_after(written.before);
        for one in written.admitted {
            if let Some(result) = self.results.get_mut(one.index) {
                *result = Err(error.clone());
            }
        }
    }
}

impl Admitted {
    fn new(index: usize, version: Arc<Version>, batch: &Batch) -> Option<Admitted> {
        let before = version.state()?;
        let watermarks = admission::merged_watermarks(&before.watermarks, &batch.watermarks);
        let identity = batch.identity.clone().unwrap_or(before.identity);
        let overhead = (batch.items.len() as u64).saturating_mul(OVERHEAD_MAX as u64);
        let mut user_bytes = 0u64;
        let mut dropped = Vec::new();
        for item in &batch.items {
            user_bytes = user_bytes.saturating_add(item.user_bytes());
            dropped.extend(DroppedCollection::ended_by(item));
        }
        Some(Admitted {
            index,
            version,
            state: VbucketStateRecord {
                identity,
                watermarks,
            },
            dropped,
            bytes: user_bytes.saturating_add(overhead),
        })
    }
}

/// A job dropped between its steps: what is not durable yet is given up, what is durable is applied.
impl Drop for CommitJob<'_> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, Committing::Done) {
            Committing::Written(mut written) => written.writer.log.forget_after(written.before),
            Committing::Durable(written) => self.apply(written),
            Committing::Begin | Committing::Done => {}
        }
    }
}

impl Job for CommitJob<'_> {
    type Output = Vec<Result<(), StorageError>>;
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<Self::Output> {
        self.state = match std::mem::replace(&mut self.state, Committing::Done) {
            Committing::Begin => self.begin(),
            Committing::Written(written) => self.sync(written),
            Committing::Durable(written) => {
                self.apply(written);
                Committing::Done
            }
            Committing::Done => Committing::Done,
        };
        match self.state {
            Committing::Done => Outcome::Complete(std::mem::take(&mut self.results)),
            Committing::Begin | Committing::Written(_) | Committing::Durable(_) => Outcome::Yielded,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::SimulatedDisk;
    use crate::kv_store::KvStore;
    use crate::log_store::fuzzing::stores;
    use crate::log_store::options::CreateOptions;
    use crate::log_store::store::LogStore;

    use super::*;

    #[test]
    fn states_without_items_take_bounded_memory() {
        let disk = Arc::new(SimulatedDisk::new());
        let shape = CreateOptions::of(1, 1);
        let store = LogStore::create(disk, shape, stores::options(1)).unwrap();
        let vbucket = crate::VbucketId::new(0).unwrap();
        store.create_vbucket(vbucket, &stores::new_state()).unwrap();
        for _ in 0..500 {
            stores::write(&store, vbucket, &[]).unwrap();
        }
        let version = store.shards()[0].version(vbucket).unwrap();
        let layers = version.views();
        let batches = layers.iter().map(|view| view.batches().count());
        assert!(batches.sum::<usize>() <= 64);
    }
}
