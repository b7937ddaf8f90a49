//! The log store: shards behind the store trait, and their opening and closing.
//!
//! Invariant: a directory belongs to one open store at a time; every call goes to the one shard its vbucket was dealt
//! to at creation (rule R5). The store has no thread of its own: background work is done by whoever calls
//! [`LogStore::maintain`].

mod kv_store;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crate::compaction::CompactionRequest;
use crate::disk::{Disk, DiskLock};
use crate::error::StorageError;
use crate::kv_store::{Batch, CommitDurability, RolledBack};
use crate::log_store::checkpoint::CheckpointJob;
use crate::log_store::commit::{CommitJob, Group};
use crate::log_store::compaction::{CompactionJob, MergeJob};
use crate::log_store::identity::Identity;
use crate::log_store::log::writer::mix;
use crate::log_store::maintenance::{self, MaintenanceJob, MaintenanceKind};
use crate::log_store::names::LOCK;
use crate::log_store::options::{CreateOptions, OpenOptions};
use crate::log_store::recovery;
use crate::log_store::rollback::RollbackJob;
use crate::log_store::seal::SealJob;
use crate::log_store::shard::{Shard, Slot};
use crate::log_store::version::Version;
use crate::outcome::{AbortReason, Job, Outcome};
use crate::retention::Retention;
use crate::seqno::Seqno;
use crate::vbucket::VbucketId;

/// A durable store of vbuckets in one directory. Clones are handles to the same store.
#[derive(Clone, Debug)]
pub struct LogStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: u64,
    shape: CreateOptions,
    retention: Option<Retention>,
    shards: Vec<Arc<Shard>>,
    disk: Arc<dyn Disk>,
    /// Whose turn it is to be maintained.
    next_shard: AtomicU16,
    _lock: Box<dyn DiskLock>,
}

/// One answer for every batch of a group, in order.
type CommitResults = Vec<Result<(), StorageError>>;

/// What a call of [`LogStore::maintain`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintained {
    /// There was nothing to do.
    Nothing,
    /// A piece of work was done; there may be more.
    Worked,
}

/// Space of the whole store on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// How many log files there are.
    pub log_files: usize,
    /// Bytes of the container files, punched holes included.
    pub container_bytes: u64,
    /// Bytes of the segments that are part of a vbucket.
    pub live_extent_bytes: u64,
    /// Key and value bytes that are in no segment yet, and what their batches take in memory.
    pub unsealed_bytes: u64,
    /// Log files abandoned after a failed write or sync since the store was opened.
    pub log_files_abandoned: u64,
    /// Log files made on the commit path since the store was opened, because none was prepared.
    pub log_files_made_inline: u64,
}

impl LogStore {
    /// Makes an empty directory a store, and opens it.
    pub fn create(
        disk: Arc<dyn Disk>,
        shape: CreateOptions,
        options: OpenOptions,
    ) -> Result<LogStore, StorageError> {
        LogStore::create_with_history(disk, shape, None, options)
    }

    /// As [`LogStore::create`], of a store that keeps so much of its past.
    pub fn create_with_history(
        disk: Arc<dyn Disk>,
        shape: CreateOptions,
        retention: Option<Retention>,
        options: OpenOptions,
    ) -> Result<LogStore, StorageError> {
        LogStore::make(disk, shape, retention, options, Identity::create)
    }

    /// As [`LogStore::create_with_history`], of a store that is not there for anybody else until it is revealed: cut off
    /// before that, the directory is refused as one that holds other files.
    pub fn create_hidden(
        disk: Arc<dyn Disk>,
        shape: CreateOptions,
        retention: Option<Retention>,
        options: OpenOptions,
    ) -> Result<LogStore, StorageError> {
        LogStore::make(disk, shape, retention, options, Identity::write)
    }

    /// Closes a store that was made hidden, and makes it one to be opened.
    pub fn reveal(self) -> Result<(), StorageError> {
        let disk = Arc::clone(&self.inner.disk);
        self.close()?;
        Identity::reveal(&*disk)
    }

    /// Takes an empty directory, has its identity written, and opens it.
    fn make(
        disk: Arc<dyn Disk>,
        shape: CreateOptions,
        retention: Option<Retention>,
        options: OpenOptions,
        write: impl FnOnce(&Identity, &dyn Disk) -> Result<(), StorageError>,
    ) -> Result<LogStore, StorageError> {
        shape.check()?;
        retention.map_or(Ok(()), |retention| retention.check(shape.vbuckets))?;
        // Before the lock, which would leave its file in a directory of others.
        Identity::refuse_unless_empty(&*disk)?;
        let lock = disk.lock(LOCK)?;
        let identity = Identity {
            store_id: mix(options.entropy),
            shape,
            retention,
        };
        write(&identity, &*disk)?;
        LogStore::open_locked(disk, lock, identity, options)
    }

    /// Opens the store in this directory, whatever state it was left in.
    pub fn open(disk: Arc<dyn Disk>, options: OpenOptions) -> Result<LogStore, StorageError> {
        // Before the lock, which would leave its file in a directory that is no store.
        Identity::open(&*disk)?;
        let lock = disk.lock(LOCK)?;
        let identity = Identity::open(&*disk)?;
        LogStore::open_locked(disk, lock, identity, options)
    }

    fn open_locked(
        disk: Arc<dyn Disk>,
        lock: Box<dyn DiskLock>,
        identity: Identity,
        options: OpenOptions,
    ) -> Result<LogStore, StorageError> {
        let mut shards = Vec::new();
        let incarnations = Arc::new(AtomicU64::new(1));
        for number in 0..identity.shape.log_shards {
            let shard = recovery::open_shard(&disk, identity, number, options, &incarnations)?;
            shards.push(Arc::new(shard));
        }
        let shape = identity.shape;
        Ok(LogStore {
            inner: Arc::new(Inner {
                id: identity.store_id,
                shape,
                retention: identity.retention,
                shards,
                disk,
                next_shard: AtomicU16::new(0),
                _lock: lock,
            }),
        })
    }

    /// Its number, drawn at creation; no other store has it but a copy of this one's files.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// The store's shape, as decided at creation.
    #[must_use]
    pub fn shape(&self) -> CreateOptions {
        self.inner.shape
    }

    /// How much of its past it keeps, as decided at creation.
    #[must_use]
    pub fn retention(&self) -> Option<Retention> {
        self.inner.retention
    }

    /// The log shard a vbucket was dealt to.
    #[must_use]
    pub fn shard_of(&self, vbucket: VbucketId) -> u16 {
        vbucket.get() % self.inner.shape.log_shards.max(1)
    }

    /// The log shard a vbucket lives in.
    pub(crate) fn shard_with(&self, vbucket: VbucketId) -> Result<&Arc<Shard>, StorageError> {
        self.shard(vbucket)
    }

    fn shard(&self, vbucket: VbucketId) -> Result<&Arc<Shard>, StorageError> {
        let shard = self.inner.shards.get(usize::from(self.shard_of(vbucket)));
        let exists = vbucket.get() < self.inner.shape.vbuckets;
        shard
            .filter(|_| exists)
            .ok_or(StorageError::UnknownVbucket(vbucket))
    }

    /// Commits a group of batches of one shard in steps: written, synced, applied.
    pub fn commit_job<'g>(
        &self,
        shard: u16,
        group: &'g [Batch],
        durability: CommitDurability,
    ) -> Result<impl Job<Output = CommitResults, Failure = StorageError> + use<'g>, StorageError>
    {
        let shard = self.inner.shards.get(usize::from(shard));
        let shard = shard.ok_or_else(|| StorageError::Setting("no such log shard".into()))?;
        let group = Group::Lent(group);
        Ok(CommitJob::new(Arc::clone(shard), group, durability))
    }

    /// As [`LogStore::commit_job`], of batches the caller shares, so that the job can be kept between its steps.
    pub fn shared_commit_job(
        &self,
        shard: u16,
        group: Arc<[Batch]>,
        durability: CommitDurability,
    ) -> Result<impl Job<Output = CommitResults, Failure = StorageError> + Send + use<>, StorageError>
    {
        let shard = self.inner.shards.get(usize::from(shard));
        let shard = shard.ok_or_else(|| StorageError::Setting("no such log shard".into()))?;
        let group = Group::Shared(group);
        Ok(CommitJob::new(Arc::clone(shard), group, durability))
    }

    /// Seals one vbucket in steps.
    pub fn seal_job(
        &self,
        vbucket: VbucketId,
        history_floor: Seqno,
    ) -> Result<impl Job<Output = (), Failure = StorageError> + use<>, StorageError> {
        Ok(SealJob::one(
            Arc::clone(self.shard(vbucket)?),
            vbucket,
            history_floor,
        ))
    }

    /// Merges all segments of one vbucket into one, in steps.
    pub fn merge_job(
        &self,
        vbucket: VbucketId,
        history_floor: Seqno,
    ) -> Result<impl Job<Output = (), Failure = StorageError> + use<>, StorageError> {
        Ok(MergeJob::of_all(
            Arc::clone(self.shard(vbucket)?),
            vbucket,
            history_floor,
        ))
    }

    /// Compacts one vbucket in steps.
    pub fn compaction_job(
        &self,
        vbucket: VbucketId,
        request: CompactionRequest,
    ) -> Result<CompactionJob, StorageError> {
        let shard = Arc::clone(self.shard(vbucket)?);
        Ok(CompactionJob::new(shard, vbucket, request))
    }

    /// Rolls one vbucket back in steps.
    pub fn rollback_job(
        &self,
        vbucket: VbucketId,
        to: Seqno,
    ) -> Result<impl Job<Output = RolledBack, Failure = StorageError> + use<>, StorageError> {
        Ok(RollbackJob::new(
            Arc::clone(self.shard(vbucket)?),
            vbucket,
            to,
        ))
    }

    /// Writes a shard's manifest in steps, after which older log files are no longer needed.
    pub fn checkpoint_job(
        &self,
        shard: u16,
    ) -> Result<impl Job<Output = (), Failure = StorageError> + use<>, StorageError> {
        let shard = self.inner.shards.get(usize::from(shard));
        let shard = shard.ok_or_else(|| StorageError::Setting("no such log shard".into()))?;
        Ok(CheckpointJob::new(Arc::clone(shard), false))
    }

    /// The most urgent background work of a shard in steps, if there is any.
    #[must_use]
    pub fn maintenance_job(
        &self,
        shard: u16,
    ) -> Option<impl Job<Output = (), Failure = StorageError> + Send + use<>> {
        self.maintenance_work(shard).map(|(_, job)| job)
    }

    /// As [`LogStore::maintenance_job`], and says what work it is.
    #[must_use]
    pub fn maintenance_work(
        &self,
        shard: u16,
    ) -> Option<(
        MaintenanceKind,
        impl Job<Output = (), Failure = StorageError> + Send + use<>,
    )> {
        let shard = self.inner.shards.get(usize::from(shard))?;
        let figures = maintenance::figures(shard)?;
        let failed = *shard.failed_work.lock();
        let work = maintenance::decide(&figures, failed)?;
        tracing::debug!(shard = shard.number, ?work, "maintenance");
        Some((work.kind(), MaintenanceJob::new(shard, work)))
    }

    /// Seals all vbuckets of a log shard in steps, whatever maintenance thinks of it, if at least `unsealed_bytes` of
    /// it are in no segment yet: what is unsealed stays in memory, superseded or not. Nothing while another seal is at
    /// work.
    #[must_use]
    pub fn seal_shard_job(
        &self,
        shard: u16,
        unsealed_bytes: u64,
    ) -> Option<impl Job<Output = (), Failure = StorageError> + Send + use<>> {
        let shard = self.inner.shards.get(usize::from(shard))?;
        let unsealed = shard.unsealed_bytes.load(Ordering::Relaxed);
        let floor = shard.options.history_floor;
        let is_wanted = unsealed >= unsealed_bytes.max(1) && !shard.sealing.is_at_work();
        is_wanted.then(|| SealJob::all_unless_at_work(Arc::clone(shard), floor))
    }

    /// Does one piece of background work, if there is any: prepares log files, seals, checkpoints, merges, gives
    /// space back. Call it in a loop from a thread of your own; from two where somebody commits without end, so that one
    /// may merge while the other seals.
    pub fn maintain(&self) -> Outcome<Maintained> {
        let shards = self.inner.shape.log_shards.max(1);
        let begin = self.inner.next_shard.load(Ordering::Relaxed);
        for number in (0..shards).map(|offset| begin.wrapping_add(offset) % shards) {
            let Some(mut job) = self.maintenance_job(number) else {
                continue;
            };
            // One whose work always fails must not keep the others from theirs.
            let next = number.wrapping_add(1) % shards;
            self.inner.next_shard.store(next, Ordering::Relaxed);
            return match job.run() {
                // Somebody else is at it: that is work done.
                Outcome::Aborted(AbortReason::Superseded) => Outcome::Complete(Maintained::Worked),
                ended @ (Outcome::Complete(())
                | Outcome::Yielded
                | Outcome::Aborted(_)
                | Outcome::Failed(_)) => ended.map(|()| Maintained::Worked),
            };
        }
        Outcome::Complete(Maintained::Nothing)
    }

    /// Merges all segments of one vbucket into one, without versions whose killer is at or below `history_floor`.
    pub fn merge(&self, vbucket: VbucketId, history_floor: Seqno) -> Outcome<()> {
        match self.merge_job(vbucket, history_floor) {
            Ok(mut job) => job.run(),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Seals all vbuckets, with one container and one sync per log shard. A shard whose seal does not complete does
    /// not keep the others from it; the first such end is told.
    pub fn seal_all(&self, history_floor: Seqno) -> Outcome<()> {
        let mut first = Outcome::Complete(());
        for shard in &self.inner.shards {
            let ended = SealJob::all(Arc::clone(shard), history_floor).run();
            if matches!(first, Outcome::Complete(())) {
                first = ended;
            }
        }
        first
    }

    /// Seals all vbuckets, and forgets every moment before: for a store that was filled with what another one had come to,
    /// in an order that other one never was in. Durable with the next checkpoint. Nobody else may write meanwhile.
    pub fn seal_as_beginning(&self) -> Result<(), StorageError> {
        finished(self.seal_all(Seqno::MAX))?;
        for shard in &self.inner.shards {
            // Nothing is published while it is held.
            let _writer = shard.writer();
            for vbucket in shard.vbuckets() {
                let Slot::Up(version) = shard.read_slot(vbucket) else {
                    continue;
                };
                let begun = Version {
                    exact_from: version.exact_from.max(version.sealed),
                    ..Version::clone(&version)
                };
                shard.publish(vbucket, Slot::Up(Arc::new(begun)));
            }
        }
        Ok(())
    }

    /// Writes every shard's manifest. One that fails does not keep the others from it; the first error is told.
    pub fn checkpoint(&self) -> Result<(), StorageError> {
        let mut first = Ok(());
        for number in 0..self.inner.shape.log_shards {
            first = first.and(finished(self.checkpoint_job(number)?.run()));
        }
        first
    }

    /// Closes the store in order: seals what is unsealed, so that the next opening need not read the log, and marks
    /// the end. After an error the store is closed too; what was acknowledged is safe, and the next opening
    /// recovers it.
    pub fn close(self) -> Result<(), StorageError> {
        let mut first = Ok(());
        for shard in &self.inner.shards {
            let is_closed = shard.writer().is_some_and(|writer| writer.is_closed);
            if is_closed {
                continue;
            }
            let floor = shard.options.history_floor;
            let sealed = finished(SealJob::all(Arc::clone(shard), floor).run());
            let marked = finished(CheckpointJob::new(Arc::clone(shard), true).run());
            if let Some(mut writer) = shard.writer() {
                writer.is_closed = true;
            }
            first = first.and(sealed).and(marked);
        }
        first
    }

    /// Space of the whole store. Never waits for the disk.
    #[must_use]
    pub fn statistics(&self) -> StoreStatistics {
        let mut sum = StoreStatistics::default();
        for shard in &self.inner.shards {
            let (live, total) = shard.containers.sizes();
            sum.container_bytes = sum.container_bytes.saturating_add(total);
            sum.live_extent_bytes = sum.live_extent_bytes.saturating_add(live);
            let unsealed = shard.unsealed_bytes.load(Ordering::Relaxed);
            sum.unsealed_bytes = sum.unsealed_bytes.saturating_add(unsealed);
            let log = shard.log_figures();
            sum.log_files = sum.log_files.saturating_add(log.files);
            sum.log_bytes = sum.log_bytes.saturating_add(log.bytes);
            sum.log_files_abandoned = sum.log_files_abandoned.saturating_add(log.abandoned);
            sum.log_files_made_inline = sum.log_files_made_inline.saturating_add(log.made_inline);
        }
        sum
    }

    pub(crate) fn shards(&self) -> &[Arc<Shard>] {
        &self.inner.shards
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }
}

/// The result of a job that was run to its end.
fn finished<T>(outcome: Outcome<T>) -> Result<T, StorageError> {
    match outcome {
        Outcome::Complete(value) => Ok(value),
        Outcome::Failed(error) => Err(error),
        Outcome::Yielded | Outcome::Aborted(_) => Err(StorageError::Closed),
    }
}
