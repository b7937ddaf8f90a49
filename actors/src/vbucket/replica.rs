//! What a stream from the active vbucket writes here (rule R17).
//!
//! Invariant: every operation carries the epoch of the stream it came by, checked with the state under the lock;
//! whatever ends a stream's right to write begins a new epoch: another stream, promotion, rollback. Replicated items are
//! charged, never refused for memory (rule R15).

use std::sync::Arc;

use super::announced::Announced;
use super::checkpoint::ReplicaSnapshot;
use super::core::{Inner, VbucketCore};
use super::lock::Locked;
use super::memory;
use super::replicated::last_tracked;
use messages::{Busy, OperationError};
use storage::{
    CollectionId, FailoverEntry, FailoverTable, Item, Namespace, ScopeId, Seqno, SnapshotKind,
    SnapshotRange, SystemEvent, VbucketState,
};

/// Which stream may write; a new one ends the right of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamEpoch(u64);

impl StreamEpoch {
    pub(super) fn bump(&mut self) -> StreamEpoch {
        self.0 = self.0.saturating_add(1);
        *self
    }
}

/// Where a replica stands when it asks for a stream: what its source is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The right to write that begins here.
    pub epoch: StreamEpoch,
    /// Its newest item.
    pub high: Seqno,
    /// The snapshot that lies in; both ends equal to it where all is whole.
    pub snapshot: SnapshotRange,
    /// The branches of its history, newest first.
    pub branches: Vec<FailoverEntry>,
    /// Highest tombstone it lacks itself.
    pub purge_seqno: Seqno,
    /// It stands in the middle of a snapshot from its source's disk, and lacks what that leaves out until its end.
    pub is_in_disk_snapshot: bool,
}

impl VbucketCore {
    /// A stream from the active vbucket begins, or comes back: only it may write from now on.
    pub fn begin_stream(&self) -> Result<StreamEpoch, OperationError> {
        self.resume_stream().map(|resume| resume.epoch)
    }

    /// The same, with where the vbucket stands at that moment.
    pub fn resume_stream(&self) -> Result<Resume, OperationError> {
        let mut locked = self.lock();
        self.admit_engine()?;
        self.admit_source(&locked)?;
        if locked.rollback.is_some() {
            return Err(OperationError::TemporaryFailure(Busy::RollingBack));
        }
        // What comes may end what is not loaded yet.
        if self.prepares.is_unloaded() {
            return Err(OperationError::TemporaryFailure(Busy::WarmingUp));
        }
        let epoch = locked.stream.bump();
        locked.durable.announced.begin_stream();
        let high = locked.log.last_seqno();
        let (snapshot, kind) = locked.snapshots.range_at(high, high, high);
        Ok(Resume {
            epoch,
            high,
            snapshot,
            branches: locked.identity.failover_table.clone().into(),
            purge_seqno: locked.flushed.purged_for_source(high, snapshot),
            is_in_disk_snapshot: kind == SnapshotKind::Disk && snapshot.end > high,
        })
    }

    /// Whether it could be made a replica now.
    pub fn admit_replication(&self) -> Result<(), OperationError> {
        let locked = self.lock();
        self.admit_engine()?;
        if locked.rollback.is_some() && locked.identity.state != VbucketState::Replica {
            return Err(OperationError::TemporaryFailure(Busy::RollingBack));
        }
        Ok(())
    }

    /// The right of a stream to write ends, if it still has it.
    pub fn end_stream(&self, epoch: StreamEpoch) {
        let mut locked = self.lock();
        if locked.stream == epoch {
            locked.stream.bump();
        }
    }

    /// Takes over the source's failover table, which came with the answer to the stream's request.
    pub fn apply_failover_table(
        &self,
        epoch: StreamEpoch,
        table: FailoverTable,
    ) -> Result<(), OperationError> {
        let mut locked = self.lock_for_stream(epoch)?;
        let mut identity = locked.identity.as_ref().clone();
        identity.failover_table = table;
        self.adopt(&mut locked, identity);
        Ok(())
    }

    /// A snapshot begins, or, when `begins_checkpoint` is not set, the one under way may go on as one.
    pub fn apply_marker(
        &self,
        epoch: StreamEpoch,
        snapshot: &ReplicaSnapshot,
        begins_checkpoint: bool,
    ) -> Result<(), OperationError> {
        let end = Announced::end_of(snapshot).map_err(|error| bad_replication(&error))?;
        let mut locked = self.lock_for_stream(epoch)?;
        let applied = if begins_checkpoint {
            locked.log.begin_snapshot(snapshot)
        } else {
            locked.log.extend_snapshot(snapshot).map(drop)
        };
        applied.map_err(|error| bad_replication(&error))?;
        let high = locked.log.last_seqno();
        locked
            .snapshots
            .begin_source(high, snapshot.end, snapshot.kind);
        let newest = last_tracked(&locked.durable.monitor);
        locked.durable.announced.begin(end, newest);
        if let (SnapshotKind::Disk, Some(purged)) = (snapshot.kind, snapshot.purge_seqno) {
            locked.flushed.note_source_purged(purged);
        }
        self.drop_tombstones(&mut locked);
        Ok(())
    }

    /// The snapshot under way came to its end without an item there: the newest item completes it.
    pub fn apply_snapshot_end(&self, epoch: StreamEpoch) -> Result<(), OperationError> {
        let mut locked = self.lock_for_stream(epoch)?;
        locked.log.end_snapshot();
        locked.note_snapshot_end();
        self.drop_tombstones(&mut locked);
        Ok(())
    }

    /// A document, a tombstone, a prepare, how one ended, or a system event, with the source's seqno, CAS and revision.
    pub fn apply_item(&self, epoch: StreamEpoch, item: Arc<Item>) -> Result<(), OperationError> {
        if item.namespace() == Namespace::SystemEvent {
            return self.apply_event(epoch, item);
        }
        // Before the lock: the source's own item may be shared, and is copied then.
        let item = self.charged(item);
        let seqno = item.seqno;
        let place = self.map.place(item.document.key.as_encoded());
        let mut locked = self.lock_for_stream(epoch)?;
        let told = self.fits_prepares(&locked, &item)?;
        let key = &item.document.key;
        let older = if item.namespace() == Namespace::Prepared {
            self.prepares.newest(key)
        } else {
            self.map
                .read(place, key.as_encoded(), |older| older.meta().seqno)
        };
        self.commit_replica(&mut locked, place, item, older)
            .map_err(|error| bad_replication(&error))?;
        self.tell_passive(&mut locked, told)?;
        locked.note_received(seqno);
        Ok(())
    }

    /// A scope or collection begins or ends; the vbucket names the manifest of the event from then on.
    fn apply_event(&self, epoch: StreamEpoch, item: Arc<Item>) -> Result<(), OperationError> {
        let event = SystemEvent::of(&item).map_err(|error| bad_replication(&error))?;
        check_event(&event)?;
        let item = self.charged(item);
        let seqno = item.seqno;
        let place = self.map.place(item.document.key.as_encoded());
        let mut locked = self.lock_for_stream(epoch)?;
        let older = self.collections.read().replaced_by(&event);
        self.commit_replica(&mut locked, place, item, older)
            .map_err(|error| bad_replication(&error))?;
        self.name_manifest(&mut locked);
        locked.note_received(seqno);
        Ok(())
    }

    /// The item as one of this vbucket's own memory.
    pub(super) fn charged(&self, mut item: Arc<Item>) -> Arc<Item> {
        let token = self.memory.charge(memory::charged_bytes(&item));
        Arc::make_mut(&mut item).token = token;
        item
    }

    fn lock_for_stream(&self, epoch: StreamEpoch) -> Result<Locked<'_>, OperationError> {
        let locked = self.lock();
        self.admit_engine()?;
        if locked.stream != epoch {
            return Err(OperationError::StaleStream);
        }
        self.admit_source(&locked)?;
        Ok(locked)
    }

    /// A pending vbucket still gets the rest of a takeover.
    pub(super) fn admit_source(&self, inner: &Inner) -> Result<(), OperationError> {
        match inner.identity.state {
            VbucketState::Replica | VbucketState::Pending => Ok(()),
            state @ (VbucketState::Active | VbucketState::Dead) => {
                Err(OperationError::NotMyVbucket {
                    vbucket: self.id,
                    state,
                })
            }
        }
    }
}

/// The default scope and collection are always there.
fn check_event(event: &SystemEvent) -> Result<(), OperationError> {
    let is_default = match event {
        SystemEvent::CollectionBegin { collection, .. }
        | SystemEvent::CollectionEnd { collection, .. } => *collection == CollectionId::DEFAULT,
        SystemEvent::ScopeBegin { scope, .. } | SystemEvent::ScopeEnd { scope, .. } => {
            *scope == ScopeId::DEFAULT
        }
    };
    if is_default {
        let why = format!("{event:?}: the default scope and collection neither begin nor end");
        return Err(bad_replication(&why));
    }
    Ok(())
}

pub(super) fn bad_replication(why: &impl ToString) -> OperationError {
    OperationError::BadReplication(why.to_string())
}
