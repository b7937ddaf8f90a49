//! Changes of what the vbucket is.
//!
//! | from | to active | to replica, pending | to dead |
//! |---|---|---|---|
//! | active | nothing | its own changes end | its own changes end, no stream may write |
//! | replica, pending | **promotion**: new branch of history (but for a takeover), new checkpoint, no stream may write | nothing | no stream may write |
//! | dead | promotion | nothing | nothing |
//!
//! Invariant: the identity changes first, in one assignment; everything else follows from it and is put right by
//! [`VbucketCore::reconcile`] after a panic. Every change is queued for the disk behind what was written before it.

use std::sync::Arc;

use super::core::{Inner, VbucketCore, newest_branch};
use super::fault::ChangeStep;
use super::flush::Flushed;
use super::lock::Locked;
use super::manifest::OpenCollections;
use super::producing::ends_streams;
use super::snapshots::Snapshots;
use super::status::Status;
use crate::durability::{Chains, TopologyError};
use crate::sync::atomic::Ordering;
use messages::vbucket::{SetVbucketState, VbucketDescription};
use messages::{Busy, OperationError};
use storage::{
    ManifestUid, Seqno, SystemEvent, Topology, VbucketIdentity, VbucketState, VbucketStateRecord,
    VbucketUuid, Watermarks,
};

impl VbucketCore {
    /// Makes the vbucket active, replica, pending or dead. A topology nobody can have is refused before anything changes.
    pub fn set_state(
        &self,
        request: SetVbucketState,
    ) -> Result<VbucketDescription, OperationError> {
        if let Some(topology) = &request.topology {
            check_topology(topology)?;
        }
        let mut locked = self.lock();
        self.admit_engine()?;
        self.change_state(&mut locked, request)
    }

    /// The same with the lock held, where the engine is served.
    pub(super) fn change_state(
        &self,
        locked: &mut Locked<'_>,
        request: SetVbucketState,
    ) -> Result<VbucketDescription, OperationError> {
        let before = locked.identity.state;
        if locked.rollback.is_some() && request.state != before {
            return Err(OperationError::TemporaryFailure(Busy::RollingBack));
        }
        let is_promotion = request.state == VbucketState::Active && before != request.state;
        let mut identity = locked.identity.as_ref().clone();
        identity.state = request.state;
        if let Some(topology) = request.topology {
            identity.topology = topology;
        } else if is_promotion || (before == VbucketState::Active && request.state != before) {
            // Who held what in another role says nothing in this one.
            identity.topology = Topology::default();
        }
        let high = locked.log.last_seqno();
        if is_promotion && !request.is_takeover {
            let whole = locked.snapshots.newest_whole(high);
            let uuid = self.new_branch(&identity);
            identity.failover_table.create_entry(uuid, whole);
        }
        let must_others_follow = is_promotion && self.lead()?;
        let is_changed = *locked.identity != identity;
        if is_changed {
            self.become_this(locked, identity);
        }
        if is_promotion {
            let over = self.over(locked);
            locked.log.open_own(over);
            locked.snapshots.begin_own(high);
        }
        if before == VbucketState::Active && !is_promotion && request.state != before {
            locked.snapshots.end_own(high);
        }
        if !may_go_on(before, request.state) {
            locked.stream.bump();
        }
        if is_promotion && let Err(error) = self.follow(locked) {
            // Whoever reconciles it goes on with the promotion, and queues it then.
            locked.suspect();
            return Err(error);
        }
        if is_changed {
            // Last: a promotion is on disk with the manifest it brings, or not at all.
            queue_identity(locked);
        }
        self.drop_tombstones(locked);
        if must_others_follow {
            // Whoever repairs brings all vbuckets to the bucket's manifest.
            self.tell_suspect();
        }
        Ok(self.described(locked))
    }

    /// Sets the topology of an active vbucket, and never makes one active.
    pub fn set_topology(&self, topology: &Topology) -> Result<(), OperationError> {
        check_topology(topology)?;
        let mut locked = self.lock();
        self.admit_engine()?;
        let (vbucket, state) = (self.id, locked.identity.state);
        if state != VbucketState::Active {
            return Err(OperationError::NotMyVbucket { vbucket, state });
        }
        let mut identity = locked.identity.as_ref().clone();
        identity.topology = topology.clone();
        self.adopt(&mut locked, identity);
        Ok(())
    }

    /// Says how the vbucket stands. The store's counts are for whoever has the store to add.
    #[must_use]
    pub fn describe(&self) -> VbucketDescription {
        self.described(&self.lock())
    }

    /// What it is and how far it has come, as of memory.
    #[must_use]
    pub fn state_record(&self) -> VbucketStateRecord {
        let locked = self.lock();
        let high_seqno = locked.log.last_seqno();
        VbucketStateRecord {
            identity: Arc::clone(&locked.identity),
            watermarks: Watermarks {
                high_seqno,
                snapshot: locked.snapshots.newest(high_seqno),
                ..*locked.flushed.persisted()
            },
        }
    }

    /// Begins a new branch of history at the end of the last whole snapshot: what was handed out above it before an
    /// unclean stop may be lost. Called once the store was opened behind that.
    pub fn begin_branch(&self) -> Result<VbucketUuid, OperationError> {
        let mut locked = self.lock();
        self.admit_engine()?;
        let whole = locked.snapshots.newest_whole(locked.log.last_seqno());
        let mut identity = locked.identity.as_ref().clone();
        let uuid = self.new_branch(&identity);
        identity.failover_table.create_entry(uuid, whole);
        self.adopt(&mut locked, identity);
        Ok(uuid)
    }

    /// The store was rolled back to this: everything in memory is forgotten and loaded anew, its collections first
    /// ([`VbucketCore::warm_collections`]); no stream may write, and whoever waits for a seqno above is refused. Nothing of
    /// this vbucket may be under way to the disk.
    pub fn reset(&self, record: &VbucketStateRecord) {
        self.reset_to(record, Vec::new());
    }

    /// The same, with the system events the store went back to.
    pub(crate) fn reset_to(&self, record: &VbucketStateRecord, events: Vec<(Seqno, SystemEvent)>) {
        let high = record.watermarks.high_seqno;
        // What was there is freed behind the lock.
        let (refused, _tombstones, _documents) = {
            let mut locked = self.lock();
            self.raise(Status::WARMING);
            locked.stream.bump();
            locked.in_flight = None;
            locked.log.clear(high);
            locked.producing.note_rolled_back();
            let tombstones = locked.tombstones.clear();
            let mut identity = record.identity.as_ref().clone();
            // What was said of it and not stored yet is no part of its history.
            identity.state = locked.identity.state;
            identity.topology = locked.identity.topology.clone();
            let is_active = identity.state == VbucketState::Active;
            locked.snapshots = Snapshots::stored(&record.watermarks, is_active);
            locked.flushed = Flushed::stored(record.watermarks, None);
            self.set_persisted(high);
            let documents = self.map.clear();
            self.locks.clear();
            self.forgotten_up_to.store(0, Ordering::Release);
            self.traffic.set_away(0);
            let uid = ManifestUid(identity.manifest_uid);
            *self.collections.write() = OpenCollections::of_events(uid, events);
            self.default_high.store(0, Ordering::Relaxed);
            // First: what it was prepared up to is no part of the log from here on.
            self.reset_durability(&mut locked, &record.watermarks);
            self.become_this(&mut locked, identity);
            queue_identity(&mut locked);
            self.publish_high(&locked);
            locked.rollback = None;
            let (vbucket, state) = (self.id, locked.identity.state);
            let taken_back = OperationError::NotMyVbucket { vbucket, state };
            let refused = self.waiters.refuse_above(high, taken_back);
            (refused, tombstones, documents)
        };
        refused.tell();
    }

    /// From now on the vbucket is this.
    pub(super) fn adopt(&self, locked: &mut Locked<'_>, identity: VbucketIdentity) {
        if *locked.identity != identity {
            self.become_this(locked, identity);
            queue_identity(locked);
        }
    }

    /// The same in memory; for the disk it is queued by whoever calls.
    fn become_this(&self, locked: &mut Locked<'_>, identity: VbucketIdentity) {
        locked.note_change();
        if ends_streams(locked.identity.state, identity.state) {
            locked.producing.note_state_changed();
        }
        let state = identity.state;
        locked.uuid = newest_branch(&identity);
        locked.identity = Arc::new(identity);
        self.reached(ChangeStep::Identified);
        // First: what may be committed elsewhere is not read from here on.
        self.follow_role(locked);
        self.manifest.note_state(self.id, state);
        self.set_status(self.status().in_state(state));
    }

    fn described(&self, inner: &Inner) -> VbucketDescription {
        let high_seqno = inner.log.last_seqno();
        VbucketDescription {
            vbucket: self.id,
            state: inner.identity.state,
            vbucket_uuid: inner.uuid,
            high_seqno,
            persisted_seqno: self.persisted_seqno(),
            purge_seqno: inner.flushed.purged_up_to(high_seqno),
            snapshot: inner.snapshots.newest(high_seqno),
            documents: self.documents(),
            lacks_documents: self.lacks_documents(),
            persisted_counts: None,
            down: self.down.read().clone(),
        }
    }

    /// A name for a branch that no branch of this history has.
    fn new_branch(&self, identity: &VbucketIdentity) -> VbucketUuid {
        let entries = identity.failover_table.entries();
        let is_taken = |uuid: u64| uuid == 0 || entries.iter().any(|entry| entry.uuid.0 == uuid);
        let mut uuid = self.environment.random.next_u64();
        while is_taken(uuid) {
            // A table is short: the next free number is near, whatever the source of randomness does.
            uuid = uuid.wrapping_add(1);
        }
        VbucketUuid(uuid)
    }
}

/// Whether a vbucket can have this topology.
pub(super) fn check_topology(topology: &Topology) -> Result<(), OperationError> {
    let invalid = |error: TopologyError| OperationError::InvalidTopology(error.to_string());
    Chains::of(topology).map(drop).map_err(invalid)
}

/// What the vbucket is goes to disk behind what was queued before.
pub(super) fn queue_identity(inner: &mut Inner) {
    inner.log.queue_identity(Arc::clone(&inner.identity));
}

/// Whether a stream that wrote here may go on writing.
fn may_go_on(before: VbucketState, after: VbucketState) -> bool {
    use VbucketState::{Pending, Replica};
    before == after || matches!((before, after), (Replica | Pending, Replica | Pending))
}
