//! One vbucket's truth: what it is, its documents, and the order in which they changed.
//!
//! Invariant: the checkpoint log and the map say the same whenever the lock is free and the vbucket is not suspect
//! (rule R16). A change is noted, appended to the log, which is the moment it happened, then put in the map; a panic in
//! between leaves the note, and [`VbucketCore::reconcile`] repairs that one key from the log. The core belongs to the
//! bucket: actors and callers come and go, it stays.

use std::sync::Arc;

use tokio::sync::Notify;

use super::checkpoint::{CheckpointLimits, CheckpointLog};
use super::dirty::DirtyVbuckets;
use super::document_map::{DocumentMap, MapFigures};
use super::durability::{Durable, has_prepares};
use super::fault::{ChangeStep, Faults};
use super::flush::Flushed;
use super::hand_over::Holds;
use super::invariants::Invariants;
use super::kept::Kept;
use super::lock::Locked;
use super::locks::Locks;
use super::manifest::{BucketManifest, Erasing, OpenCollections};
use super::prepares::Prepares;
use super::producing::{Producing, Watched};
use super::replica::StreamEpoch;
use super::rollback::Rollback;
use super::snapshots::Snapshots;
use super::state::queue_identity;
use super::status::Status;
use super::tombstones::Tombstones;
use super::traffic::{Traffic, TrafficFigures};
use super::waiters::{PersistPlace, Persisted, Waiters};
use crate::environment::Environment;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use messages::{DownCause, OperationError};
use storage::{
    Eviction, HybridLogicalClock, Incarnation, Item, ManifestUid, MemoryAccount, RollbackEpoch,
    Seqno, VbucketId, VbucketIdentity, VbucketPosition, VbucketState, VbucketStateRecord,
    VbucketUuid, Watermarks,
};

/// Told of a vbucket that became suspect, on the thread that panicked: somebody must call
/// [`VbucketCore::reconcile`]. Must not panic itself, nor block.
pub type OnSuspect = Arc<dyn Fn(VbucketId) + Send + Sync>;

/// What a core is made of.
pub struct VbucketConfig {
    /// Which vbucket.
    pub id: VbucketId,
    /// What the store says it is.
    pub state: VbucketStateRecord,
    /// Where the store says it stands.
    pub position: VbucketPosition,
    /// Time and randomness.
    pub environment: Environment,
    /// Who pays for its items.
    pub memory: Arc<MemoryAccount>,
    /// How its flusher learns of changes.
    pub dirty: Arc<DirtyVbuckets>,
    /// When checkpoints end.
    pub checkpoints: CheckpointLimits,
    /// Told when a panic left it suspect.
    pub on_suspect: OnSuspect,
}

impl std::fmt::Debug for VbucketConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VbucketConfig")
            .field("id", &self.id)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// One vbucket, shared by both doors, its flusher, and its streams.
pub struct VbucketCore {
    pub(super) id: VbucketId,
    pub(super) environment: Environment,
    pub(super) memory: Arc<MemoryAccount>,
    pub(super) map: DocumentMap,
    pub(super) prepares: Prepares,
    pub(super) locks: Locks,
    /// The highest version that left memory; only the store knows what it said.
    pub(super) forgotten_up_to: AtomicU64,
    pub(super) forgotten_revision: AtomicU64,
    pub(super) traffic: Traffic,
    /// What may be left out when it is loaded.
    pub(super) eviction: Eviction,
    pub(super) incarnation: Incarnation,
    pub(super) cas: HybridLogicalClock,
    pub(super) waiters: Waiters,
    pub(super) down: RwLock<Option<DownCause>>,
    pub(super) faults: Faults,
    /// Changed under the lock only.
    pub(super) collections: RwLock<OpenCollections>,
    /// The bucket's, which it follows while it is active.
    pub(super) manifest: Arc<BucketManifest>,
    pub(super) erasing: Erasing,
    /// How far the default collection has come; not among the others, whose table has a lock.
    pub(super) default_high: AtomicU64,
    /// Changed under the lock only; both doors look at it first.
    status: AtomicU8,
    high_seqno: AtomicU64,
    persisted_seqno: AtomicU64,
    dirty: Arc<DirtyVbuckets>,
    /// The level every write waits for at least, as its byte; zero for none.
    pub(super) durability_level_min: AtomicU8,
    pub(super) durability_edge: RwLock<Option<Arc<DirtyVbuckets>>>,
    on_suspect: OnSuspect,
    pub(super) watched: Watched,
    pub(super) invariants: Invariants,
    /// Writes are held because it is handed over, not because it is loaded.
    pub(super) is_handing_over: AtomicBool,
    /// Something reached the disk, a hold ended, or it went out of service.
    pub(super) changed: Notify,
    inner: Mutex<Inner>,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) identity: Arc<VbucketIdentity>,
    /// The newest branch of its history; part of the identity, at hand for every answer.
    pub(super) uuid: VbucketUuid,
    pub(super) log: CheckpointLog,
    pub(super) flushed: Flushed,
    pub(super) snapshots: Snapshots,
    /// The change under way. Its key lies in the log, if it got that far.
    pub(super) in_flight: Option<Seqno>,
    pub(super) stream: StreamEpoch,
    pub(super) tombstones: Tombstones,
    pub(super) durable: Durable,
    pub(super) producing: Producing,
    /// The rollback under way.
    pub(super) rollback: Option<Rollback>,
    pub(super) holds: Holds,
    /// What the store says of an older one is of a past that was given up.
    pub(super) least_epoch: RollbackEpoch,
}

impl VbucketCore {
    /// A core for what the store holds; it is warming until [`VbucketCore::warm_done`].
    #[must_use]
    pub fn new(config: VbucketConfig) -> VbucketCore {
        let VbucketStateRecord {
            identity,
            watermarks,
        } = config.state;
        let high = config.position.high_seqno;
        let stored = Watermarks {
            high_seqno: high,
            ..watermarks
        };
        let inner = Inner {
            uuid: newest_branch(&identity),
            log: CheckpointLog::new(high, config.checkpoints),
            snapshots: Snapshots::stored(&stored, identity.state == VbucketState::Active),
            flushed: Flushed::stored(stored, Some(Arc::clone(&identity))),
            durable: Durable::stored(&identity, &stored),
            in_flight: None,
            stream: StreamEpoch::default(),
            tombstones: Tombstones::default(),
            producing: Producing::default(),
            rollback: None,
            holds: Holds::default(),
            least_epoch: config.position.epoch,
            identity,
        };
        let uid = ManifestUid(inner.identity.manifest_uid);
        VbucketCore {
            id: config.id,
            map: DocumentMap::new(),
            prepares: Prepares::new(has_prepares(&stored)),
            locks: Locks::default(),
            forgotten_up_to: AtomicU64::new(0),
            forgotten_revision: AtomicU64::new(0),
            traffic: Traffic::default(),
            eviction: Eviction::None,
            incarnation: config.position.incarnation,
            cas: HybridLogicalClock::default(),
            waiters: Waiters::new(high),
            down: RwLock::new(None),
            faults: Faults::default(),
            collections: RwLock::new(OpenCollections::of_events(uid, [])),
            manifest: Arc::default(),
            erasing: Erasing::default(),
            default_high: AtomicU64::new(0),
            status: AtomicU8::new(Status::of(inner.identity.state).with(Status::WARMING).0),
            high_seqno: AtomicU64::new(high.0),
            persisted_seqno: AtomicU64::new(high.0),
            environment: config.environment,
            memory: config.memory,
            dirty: config.dirty,
            durability_level_min: AtomicU8::new(0),
            durability_edge: RwLock::new(None),
            on_suspect: config.on_suspect,
            watched: Watched::default(),
            invariants: Invariants::default(),
            is_handing_over: AtomicBool::new(false),
            changed: Notify::new(),
            inner: Mutex::new(inner),
        }
    }

    /// This core as one of a bucket that has this leave memory. Without it, it is of one that loads everything.
    #[must_use]
    pub fn evicting(mut self, eviction: Eviction) -> VbucketCore {
        self.eviction = eviction;
        self
    }

    /// How many documents left its memory and came back.
    #[must_use]
    pub fn traffic(&self) -> TrafficFigures {
        self.traffic.figures()
    }

    /// Which vbucket it is.
    #[must_use]
    pub const fn id(&self) -> VbucketId {
        self.id
    }

    /// What it is, and the branches of its history.
    #[must_use]
    pub fn identity(&self) -> Arc<VbucketIdentity> {
        Arc::clone(&self.lock().identity)
    }

    /// Highest seqno in memory.
    #[must_use]
    pub fn high_seqno(&self) -> Seqno {
        Seqno(self.high_seqno.load(Ordering::Acquire))
    }

    /// Highest seqno known to be on disk.
    #[must_use]
    pub fn persisted_seqno(&self) -> Seqno {
        Seqno(self.persisted_seqno.load(Ordering::Acquire))
    }

    /// What it may do.
    #[must_use]
    pub fn state(&self) -> VbucketState {
        self.status().state()
    }

    /// What is in its map.
    #[must_use]
    pub fn figures(&self) -> MapFigures {
        self.map.figures()
    }

    /// Bytes of its items in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.held_bytes()
    }

    /// Bytes of them that are no key's newest version nor a prepare that goes on: the store has not sealed them, or the
    /// checkpoint log keeps them.
    #[must_use]
    pub fn spare_bytes(&self) -> u64 {
        let held = self.memory.held_bytes();
        let needed = self.map.figures().bytes;
        held.saturating_sub(needed.saturating_add(self.prepares.bytes()))
    }

    /// Bytes its checkpoint log keeps alive. Part of what the memory account holds, never added to it.
    #[must_use]
    pub fn checkpoint_bytes(&self) -> u64 {
        self.lock().log.figures().bytes as u64
    }

    /// Whether a panic left a change half done; until [`VbucketCore::reconcile`], every request is answered `Crashed`.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.status().has(Status::SUSPECT)
    }

    /// Whether its documents are being loaded.
    #[must_use]
    pub fn is_warming(&self) -> bool {
        self.status().has(Status::WARMING)
    }

    /// One slice of the newest versions that are whole in memory, tombstones too, counted from zero; `None` behind the last.
    /// For work that goes over all of them in bounded steps.
    #[must_use]
    pub fn slice(&self, number: usize) -> Option<Vec<Arc<Item>>> {
        let kept = self.map.slice(number)?;
        Some(kept.into_iter().filter_map(Kept::into_whole).collect())
    }

    /// Takes a place among those who wait for the disk, before the write that is to be waited for.
    pub fn reserve_wait(&self) -> Result<PersistPlace, OperationError> {
        self.waiters.reserve()
    }

    /// Waits until everything up to `seqno` is on disk.
    pub fn wait_persisted(&self, seqno: Seqno) -> Result<Persisted, OperationError> {
        Ok(self.waiters.reserve()?.wait_for(seqno))
    }

    /// How many wait for the disk.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// No further writes and state changes: they are answered `Closed` (rule R22). Reads go on, and what was accepted
    /// goes to disk. When this returns no write is under way any more. Durable writes are not decided any more: whoever
    /// waits is told that the outcome is not known, and they are where they are when the vbucket is loaded again (MB-46272).
    pub fn close_gate(&self) {
        let mut locked = self.lock();
        self.raise(Status::CLOSED);
        locked.answer_all();
    }

    /// Whoever still waits for the disk is answered `Closed`: nothing will be written any more.
    pub fn close(&self) {
        self.close_gate();
        self.waiters.end(&OperationError::Closed);
        self.changed.notify_waiters();
    }

    /// Takes the vbucket out of service: it answers everything with the cause, and nothing of it is flushed.
    pub fn take_down(&self, cause: DownCause) {
        let error = OperationError::VbucketDown {
            vbucket: self.id,
            cause: cause.clone(),
        };
        {
            let mut locked = self.lock();
            *self.down.write() = Some(cause);
            self.raise(Status::DOWN);
            locked.answer_all();
        }
        self.waiters.end(&error);
        self.changed.notify_waiters();
        self.mark_streams();
    }

    /// Puts it back into service as it was.
    pub fn bring_up(&self) {
        {
            let _locked = self.lock();
            self.lower(Status::DOWN);
            *self.down.write() = None;
            if !self.status().has(Status::CLOSED) {
                self.waiters.resume();
            }
        }
        self.mark_dirty();
        self.mark_durability();
    }

    /// While set, clients' writes are answered with a temporary failure; reads go on.
    pub fn set_disk_full(&self, is_full: bool) {
        let _locked = self.lock();
        if is_full {
            self.raise(Status::DISK_FULL);
        } else {
            self.lower(Status::DISK_FULL);
        }
    }

    /// While set, clients' writes are answered as those of a vbucket that is warming; reads go on. For the warmup alone.
    pub fn hold_writes(&self, is_held: bool) {
        let mut locked = self.lock();
        if is_held {
            self.raise(Status::HELD);
        } else {
            self.lower(Status::HELD);
            self.follow_when_writable(&mut locked);
            locked.note_decided();
        }
    }

    /// Why it is out of service, if it is.
    #[must_use]
    pub fn down(&self) -> Option<DownCause> {
        self.down.read().clone()
    }

    /// Repairs what a panic left half done: the change noted is put in the map if it is in the log, which is where it
    /// happened or did not. Everything else was never touched. Harmless when nothing is wrong.
    pub fn reconcile(&self) {
        {
            let mut locked = self.lock();
            self.reached(ChangeStep::Repairing);
            if let Some(seqno) = locked.in_flight {
                if let Some(item) = locked.log.newest_item(seqno).map(Arc::clone) {
                    let place = self.map.place(item.document.key.as_encoded());
                    self.enter(&mut locked, place, &item);
                    self.note_unfinished(&mut locked, &item);
                }
                locked.in_flight = None;
            }
            self.publish_high(&locked);
            // A promotion is done before what comes behind it: events are its own changes, of the branch it began.
            self.follow_identity(&mut locked);
            self.follow_when_writable(&mut locked);
            self.name_manifest(&mut locked);
            locked.note_last_received();
            // Whatever the monitor was told or not.
            self.rebuild_monitor(&mut locked);
            // A replica's stream ended with this, and who reads it learns of that nowhere else.
            locked.note_decided();
            // Behind the events: a promotion is on disk with the manifest it brings, or not at all.
            queue_identity(&mut locked);
            self.lower(Status::SUSPECT);
        }
        self.changed.notify_waiters();
        self.mark_dirty();
    }

    /// Does what a change of identity brings with it, whether it was done already or not.
    fn follow_identity(&self, inner: &mut Inner) {
        let state = inner.identity.state;
        inner.uuid = newest_branch(&inner.identity);
        let high = inner.log.last_seqno();
        match state {
            VbucketState::Active => {
                // Until the next own write the open checkpoint would be one whose source never ends it.
                if inner.log.is_open_of_source() {
                    let over = self.over(inner);
                    inner.log.open_own(over);
                }
                inner.snapshots.begin_own(high);
            }
            VbucketState::Replica | VbucketState::Pending | VbucketState::Dead => {
                inner.snapshots.end_own(high);
            }
        }
        inner.stream.bump();
        self.manifest.note_state(self.id, state);
        self.set_status(self.status().in_state(state));
    }

    /// Tells the flusher, and those who stream, to look here.
    pub(super) fn mark_dirty(&self) {
        self.mark_streams();
        if self.waiters.is_awaited() {
            self.dirty.mark(self.id);
        } else {
            self.dirty.mark_for_next_look(self.id);
        }
    }

    pub(super) fn status(&self) -> Status {
        Status(self.status.load(Ordering::Acquire))
    }

    /// Needs the lock to be held.
    pub(super) fn set_status(&self, status: Status) {
        self.status.store(status.0, Ordering::Release);
    }

    pub(super) fn raise(&self, flag: u8) {
        self.status.fetch_or(flag, Ordering::AcqRel);
    }

    pub(super) fn lower(&self, flag: u8) {
        self.status.fetch_and(!flag, Ordering::AcqRel);
    }

    pub(super) fn set_persisted(&self, seqno: Seqno) {
        self.persisted_seqno.store(seqno.0, Ordering::Release);
    }

    pub(super) fn publish_high(&self, inner: &Inner) {
        let high = inner.log.last_seqno();
        self.high_seqno.store(high.0, Ordering::Release);
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked::new(self, self.inner.lock())
    }

    pub(super) fn tell_suspect(&self) {
        (self.on_suspect)(self.id);
    }

    #[inline]
    pub(super) fn reached(&self, point: ChangeStep) {
        self.faults.reached(point);
    }
}

pub(super) fn newest_branch(identity: &VbucketIdentity) -> VbucketUuid {
    // A failover table is never empty.
    let newest = identity.failover_table.entries().first();
    newest.map_or(VbucketUuid(0), |entry| entry.uuid)
}

impl std::fmt::Debug for VbucketCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VbucketCore")
            .field("id", &self.id)
            .field("status", &self.status())
            .field("high_seqno", &self.high_seqno())
            .field("persisted_seqno", &self.persisted_seqno())
            .field("map", &self.map)
            .finish_non_exhaustive()
    }
}
